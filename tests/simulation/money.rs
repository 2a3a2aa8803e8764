//! Hard budgets in the simulation: which of them a seed draws, and what is promised of them.
//!
//! - What the rows say was spent under a budget in one of its periods is never more than its amount, orphans of kills included.
//! - What `GET /admin/budgets` says was spent is the sum of the rows.
//! - With nothing under way nothing is reserved and nobody waits.
//! - Nobody is told that a budget is spent while it pays for one token at any endpoint.

use crate::world::Journal;
use crate::world::weather::Nature;
use breakwater::clock;
use breakwater::config::model::EndpointConfig;
use breakwater::domain::budget::book::Figures;
use breakwater::domain::budget::ceiling::ceiling;
use breakwater::domain::budget::{Budget, Mode, Scope};
use breakwater::domain::ledger::Entry as Row;
use breakwater::domain::money::NanoUsd;
use breakwater::engine::budgets::Entry;
use breakwater::engine::gateway::Gateway;
use fastrand::Rng;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// US dollars, from what a handful of requests costs to more than all of a short life's.
const AMOUNTS: [&str; 5] = ["0.002", "0.01", "0.04", "0.2", "1"];
/// After a period's end: a request that was refused in the old one may still be on its way out.
const TURN: Duration = Duration::from_secs(120);

/// The budgets of a scenario, as they stand in its configuration.
#[derive(Clone, Debug, Default)]
pub struct Money {
    /// Before everything else.
    pub head: String,
    routes: BTreeMap<String, String>,
    endpoints: BTreeMap<String, String>,
    /// Whether requests have a team.
    pub teams: bool,
    /// Whether there may be a budget at all.
    pub is_any: bool,
}

impl Money {
    /// Draws from dice of its own, so that whatever else a seed stands for stays as it is. Every other seed has budgets.
    pub fn of(seed: u64, natures: &[Nature], routes: &[crate::scenario::Route]) -> Self {
        let mut dice = Rng::with_seed(seed ^ 0xb0d9e7);
        let mut money = Self::default();
        if seed.is_multiple_of(2) {
            return money;
        }
        money.is_any = true;
        let mut some = |share: f64| (dice.f64() < share).then(|| terms(&mut dice));
        for route in routes {
            money.routes.extend(some(0.5).map(|terms| (route.name.clone(), format!(", budget: {{{terms}}}"))));
        }
        for nature in natures {
            money.endpoints.extend(some(0.25).map(|terms| (nature.name.clone(), format!(", budget: {{{terms}}}"))));
        }
        let teams: Vec<_> = ["a", "b"].into_iter().filter_map(|team| Some((team, some(0.5)?))).collect();
        writeln!(money.head, "budget_ceiling_tokens: {}", [50, 300, 4_096][dice.usize(..3)]).unwrap();
        writeln!(money.head, "budget_wait: {}", ["0s", "2s", "10s"][dice.usize(..3)]).unwrap();
        if !teams.is_empty() {
            money.teams = true;
            money.head.push_str("budgets:\n");
        }
        for (team, terms) in teams {
            writeln!(money.head, "  - {{name: team-{team}, tag: team={team}, {terms}}}").unwrap();
        }
        money
    }

    pub fn of_route(&self, name: &str) -> &str {
        self.routes.get(name).map_or("", String::as_str)
    }

    pub fn of_endpoint(&self, name: &str) -> &str {
        self.endpoints.get(name).map_or("", String::as_str)
    }
}

/// Worlds begin at midnight in UTC and last some hours: in the Azores a day ends within them.
fn terms(dice: &mut Rng) -> String {
    let amount = AMOUNTS[dice.usize(..AMOUNTS.len())];
    let period = ["period: total", "period: day", "period: day, timezone: Atlantic/Azores"][dice.usize(..3)];
    format!("amount: {amount}, {period}, mode: hard")
}

/// Those of the configuration and those of keys.
fn all(gateway: &Gateway) -> Vec<(Entry, Figures)> {
    gateway.budgets.configured().into_iter().chain(gateway.budgets.of_keys()).collect()
}

fn covers(budget: &Budget, entry: &Row) -> bool {
    match &budget.scope {
        Scope::Key(id) => *id == entry.key_id,
        Scope::Route(name) => *name == entry.route,
        Scope::Endpoint(name) => *name == entry.endpoint,
        Scope::Tag(name, value) => entry.tags.iter().any(|(n, v)| **n == **name && **v == **value),
    }
}

/// With nothing under way: the budgets' figures against the ledger's rows.
pub fn check(gateway: &Gateway, rows: &[Row], journal: &Journal) {
    let views = gateway.budget_views();
    for (entry, figures) in all(gateway) {
        let budget = &entry.budget;
        let (name, amount) = (&budget.name, budget.terms.amount);
        let mut by_period: BTreeMap<_, NanoUsd> = BTreeMap::new();
        for row in rows.iter().filter(|row| covers(budget, row)) {
            let begins = budget.terms.period.span(&budget.terms.timezone, row.at).start;
            *by_period.entry(begins).or_default() += row.cost.unwrap_or_default();
        }
        journal.note(&format!("budget {name}: {figures:?}, by rows {by_period:?}"));
        if budget.terms.mode == Mode::Hard {
            for (begins, spent) in by_period.iter().filter(|(_, spent)| **spent > amount) {
                journal.violation(format!("budget {name}: {spent} of {amount} spent in the period of {begins:?}"));
            }
        }
        let by_rows = by_period.get(&figures.span.start).copied().unwrap_or_default();
        let shown = views["budgets"].as_array().and_then(|all| all.iter().find(|view| view["name"] == **name));
        let shown = shown.and_then(|view| view["spent_nanousd"].as_i64()).map(NanoUsd);
        if shown != Some(by_rows) {
            journal.violation(format!("budget {name}: said to have spent {shown:?}, by its rows {by_rows:?}"));
        }
        if figures.reserved != NanoUsd::ZERO || figures.waiting > 0 {
            let (reserved, waiting) = (figures.reserved, figures.waiting);
            journal
                .violation(format!("budget {name}: {reserved} reserved and {waiting} waiting, with nothing under way"));
        }
    }
    let (overruns, unsecured) = (gateway.budgets.overruns.load(Relaxed), gateway.budgets.unsecured.load(Relaxed));
    if overruns + unsecured > 0 {
        journal.violation(format!("budgets: {overruns} attempts cost more than was reserved, {unsecured} not secured"));
    }
}

/// A request whose body has so many bytes was refused because of a budget, just now: whether that was right.
pub fn check_refusal(gateway: &Gateway, request: &str, bytes: usize, why: &str, journal: &Journal) {
    let named = why.split('`').nth(1).unwrap_or_default();
    let Some((_, figures)) = all(gateway).into_iter().find(|(e, _)| *e.budget.name == *named) else {
        return journal.violation(format!("{request}: refused by the unknown budget `{named}`: {why}"));
    };
    let is_held = why.contains("reserved by requests under way");
    let turned = figures.span.start.is_some_and(|start| clock::wall().since(start) < TURN);
    if is_held || turned {
        return;
    }
    let endpoints: Vec<Arc<EndpointConfig>> = gateway.board.topology().cells.iter().map(|c| c.config()).collect();
    // No vendor counts more tokens than bytes.
    let one_token = |e: &Arc<EndpointConfig>| e.price.as_ref().map(|price| ceiling(price, bytes as u64, 1));
    let dearest = endpoints.iter().filter_map(one_token).max().unwrap_or_default();
    if figures.left >= dearest {
        journal.violation(format!(
            "{request}: refused although {} are left, and one token costs {dearest}: {why}",
            figures.left
        ));
    }
}
