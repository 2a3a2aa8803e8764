//! What differs between two configurations, for the answer to a reload. Names and settings are told, secrets are not.

use crate::config::model::{Config, EndpointConfig, ProviderConfig, RouteConfig};
use crate::domain::budget::Budget;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// What a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    Server,
    Store,
    Provider,
    Endpoint,
    Route,
    RetryBudget,
    Domains,
    Intelligent,
    Strategies,
    Budgets,
    Budget,
    Chaos,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    Added,
    Removed,
    Changed,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    pub block: Block,
    /// Empty for blocks that are there once.
    pub name: Arc<str>,
    pub kind: ChangeKind,
    /// The settings that differ, when changed.
    pub fields: Vec<&'static str>,
    /// Whether it has no effect before the gateway is started anew.
    pub needs_restart: bool,
}

/// `endpoint gpt: changed (limits, price)`
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let block = match self.block {
            Block::Server => "server",
            Block::Store => "store",
            Block::Provider => "provider",
            Block::Endpoint => "endpoint",
            Block::Route => "route",
            Block::RetryBudget => "retry_budget",
            Block::Domains => "domains",
            Block::Intelligent => "intelligent",
            Block::Strategies => "strategies",
            Block::Budgets => "budgets",
            Block::Budget => "budget",
            Block::Chaos => "chaos",
        };
        f.write_str(block)?;
        if !self.name.is_empty() {
            write!(f, " {}", self.name)?;
        }
        match self.kind {
            ChangeKind::Added => f.write_str(": added")?,
            ChangeKind::Removed => f.write_str(": removed")?,
            ChangeKind::Changed => write!(f, ": changed ({})", self.fields.join(", "))?,
        }
        if self.needs_restart { f.write_str(", takes effect after a restart") } else { Ok(()) }
    }
}

/// The names of the fields that differ. A field is one place in the code, so none can be compared under another's name.
macro_rules! differing {
    ($old:expr, $new:expr, $($field:ident),+ $(,)?) => {{
        let (old, new) = ($old, $new);
        let mut fields: Vec<&'static str> = Vec::new();
        $(if old.$field != new.$field { fields.push(stringify!($field)); })+
        fields
    }};
}

/// All differences, in the order of the file's blocks; removed names come before the others.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    let (s, t) = (&old.server, &new.server);
    let bound = differing!(s, t, listen, admin_listen, auth, tls, workers, write_stall);
    once(&mut changes, Block::Server, bound, true);
    once(
        &mut changes,
        Block::Server,
        differing!(s, t, body_limit, max_in_flight, max_waiting, drain, deadline, metrics_auth),
        false,
    );
    once(
        &mut changes,
        Block::Store,
        differing!(&old.store, &new.store, path, durability, on_failure, low_space, retention),
        true,
    );
    let retries = differing!(&old.retry_budget, &new.retry_budget, ratio, min_per_second, window);
    once(&mut changes, Block::RetryBudget, retries, false);
    let domains = differing!(&old.domains, &new.domains, share, minimum, within, open_for, max_open_for);
    once(&mut changes, Block::Domains, domains, false);
    let fields = differing!(
        &*old.intelligent,
        &*new.intelligent,
        simple_below,
        complex_from,
        weights,
        scale,
        lexicon,
        quality,
        tiers
    );
    once(&mut changes, Block::Intelligent, fields, false);
    let ranking = differing!(&old.ranking, &new.ranking, explore, balanced);
    once(&mut changes, Block::Strategies, ranking, false);
    let shared = differing!(&old.budgets, &new.budgets, ceiling_tokens, wait);
    once(&mut changes, Block::Budgets, shared, false);
    once(&mut changes, Block::Chaos, differing!(&old.chaos, &new.chaos, allowed), false);
    once(&mut changes, Block::Chaos, differing!(&old.chaos, &new.chaos, experiments), true);
    named(&mut changes, Block::Provider, &old.providers, &new.providers, provider);
    named(&mut changes, Block::Endpoint, &old.endpoints, &new.endpoints, endpoint);
    named(&mut changes, Block::Route, &old.routes, &new.routes, route);
    named(&mut changes, Block::Budget, &old.budgets.list, &new.budgets.list, budget);
    changes
}

fn once(changes: &mut Vec<Change>, block: Block, fields: Vec<&'static str>, needs_restart: bool) {
    if !fields.is_empty() {
        changes.push(Change { block, name: "".into(), kind: ChangeKind::Changed, fields, needs_restart });
    }
}

fn provider(old: &ProviderConfig, new: &ProviderConfig) -> Vec<&'static str> {
    differing!(old, new, dialect, base_url, keys, allow_private)
}

fn endpoint(old: &EndpointConfig, new: &EndpointConfig) -> Vec<&'static str> {
    differing!(
        old, new, provider, model, price, limits, weight, quality, timeouts, breaker, probe, domain, context, budget
    )
}

fn route(old: &RouteConfig, new: &RouteConfig) -> Vec<&'static str> {
    differing!(old, new, strategy, endpoints, retry, deadline, hedge, recover, slo, budget)
}

fn budget(old: &Budget, new: &Budget) -> Vec<&'static str> {
    differing!(old, new, scope, terms)
}

trait Named {
    fn name(&self) -> &Arc<str>;
}

impl Named for ProviderConfig {
    fn name(&self) -> &Arc<str> {
        &self.name
    }
}

impl Named for EndpointConfig {
    fn name(&self) -> &Arc<str> {
        &self.name
    }
}

impl Named for Budget {
    fn name(&self) -> &Arc<str> {
        &self.name
    }
}

impl Named for RouteConfig {
    fn name(&self) -> &Arc<str> {
        &self.name
    }
}

fn named<T: Named>(
    changes: &mut Vec<Change>,
    block: Block,
    old: &[Arc<T>],
    new: &[Arc<T>],
    compare: impl Fn(&T, &T) -> Vec<&'static str>,
) {
    let change =
        |item: &T, kind, fields| Change { block, name: Arc::clone(item.name()), kind, fields, needs_restart: false };
    let find = |list: &[Arc<T>], name: &str| list.iter().find(|item| **item.name() == *name).cloned();
    for gone in old.iter().filter(|item| find(new, item.name()).is_none()) {
        changes.push(change(gone, ChangeKind::Removed, Vec::new()));
    }
    for item in new {
        match find(old, item.name()) {
            None => changes.push(change(item, ChangeKind::Added, Vec::new())),
            Some(before) => {
                let fields = compare(&before, item);
                if !fields.is_empty() {
                    changes.push(change(item, ChangeKind::Changed, fields));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config(text: &str) -> Config {
        crate::config::parse("t.yaml", text, &|_| None, Path::new("")).unwrap()
    }

    #[test]
    fn names_what_differs_and_no_secret() {
        let text = "providers: {p: {base_url: 'https://a.com', api_key: sk-one}}\n\
            endpoints:\n  a: {provider: p, model: m, price: {input: 1, output: 1}}\n  b: {provider: p, model: n}\n\
            routes: {r: {strategy: priority, endpoints: [a]}}\n";
        let old = config(text);
        assert_eq!(diff(&old, &config(text)), []);
        let new = text
            .replace("input: 1", "input: 2")
            .replace("b: {provider: p, model: n}", "c: {provider: p, model: n, weight: 2}")
            .replace("endpoints: [a]", "endpoints: [a, c]")
            + "server: {listen: 127.0.0.1:1, drain: 1s}\nretry_budget: {ratio: 0.1}\n";
        let lines: Vec<String> = diff(&old, &config(&new)).iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "server: changed (listen), takes effect after a restart",
                "server: changed (drain)",
                "retry_budget: changed (ratio)",
                "endpoint b: removed",
                "endpoint a: changed (price)",
                "endpoint c: added",
                "route r: changed (endpoints)",
            ]
        );
        let rotated = diff(&old, &config(&text.replace("sk-one", "sk-two")));
        assert_eq!(
            rotated.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["provider p: changed (keys)", "endpoint a: changed (provider)", "endpoint b: changed (provider)",]
        );
        assert!(!format!("{rotated:?}").contains("sk-"));
    }
}
