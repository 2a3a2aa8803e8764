//! The account of resilience: which requests a further attempt rescued, and what that cost.
//!
//! A request is *rescued* if its first attempt failed and a later one succeeded: by failover at another endpoint, by a retry at the same.
//! A stream that broke and was continued elsewhere (its row's decision ends in `;recover`) is *recovered*. A *hedge won* is a later
//! attempt's success while the first was cancelled, or one that was made as a hedge. The *premium* of a failover is what the answer cost less
//! what the same tokens would have cost at the endpoint of first choice; it is told only where that endpoint's price is still the one
//! of the first attempt's row, because the ledger keeps prices by version and not by figure. The others are counted, not guessed.
//!
//! Attempts of one request lie near each other in the ledger. Requests whose fate is open are held in a bounded map; those that fall out
//! of it count as not rescued.

mod outage;
mod without;

use crate::domain::ledger::Entry;
use crate::domain::money::NanoUsd;
use crate::domain::outcome::{Outcome, Verdict};
use crate::domain::price::Price;
use crate::domain::report::push_csv;
use crate::domain::table::{Table, Tabular};
use crate::domain::usage::Usage;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write;
use std::sync::Arc;

pub use outage::Outages;
use outage::{OutageId, OutageLog};
pub use without::Way;
use without::Ways;

/// Requests whose fate may be open at a time.
const MAX_OPEN: usize = 65_536;

/// Outages that one request is remembered with.
const MAX_HIT: usize = 32;

/// Present prices by endpoint.
pub type Prices = HashMap<Arc<str>, Arc<Price>>;

/// Adds ledger rows up, in bounded memory.
#[derive(Clone, Debug, Default)]
pub struct Resilience {
    prices: Prices,
    open: HashMap<Arc<str>, Story>,
    /// Of `open`, the oldest first; may name requests that are gone from it.
    order: VecDeque<Arc<str>>,
    told: ResilienceReport,
    lost: BTreeMap<Arc<str>, Lost>,
    outages: OutageLog,
    ways: Ways,
}

/// What is known of a request so far.
#[derive(Clone, Debug, Default)]
struct Story {
    first: Option<First>,
    won: Option<Won>,
    /// Outages that it ran into.
    hit: Vec<OutageId>,
}

#[derive(Clone, Debug)]
struct First {
    endpoint: Arc<str>,
    price_version: Arc<str>,
    cancelled: bool,
    injected: bool,
}

#[derive(Clone, Debug)]
struct Won {
    endpoint: Arc<str>,
    usage: Usage,
    cost: Option<NanoUsd>,
    hedged: bool,
    recovered: bool,
}

/// What resilience did and what it cost. Money in nano-dollars.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResilienceReport {
    pub requests: u64,
    /// Requests whose first attempt failed.
    pub first_attempt_failed: u64,
    /// Of those: answered by another endpoint.
    pub rescued_by_failover: u64,
    /// Of those: answered by the same endpoint, tried again.
    pub rescued_by_retry: u64,
    /// Attempts that an operator's experiment put a fault into: not the vendor's doing.
    #[serde(default)]
    pub injected_attempts: u64,
    /// Of `first_attempt_failed`: injected.
    #[serde(default)]
    pub injected_first_failed: u64,
    /// Of the rescued ones: the first attempt was injected.
    #[serde(default)]
    pub injected_rescued: u64,
    /// Requests that a later attempt answered while the first was cancelled.
    pub hedges_won: u64,
    /// Streams that broke and were continued on another endpoint to their end.
    #[serde(default)]
    pub recovered: u64,
    /// Attempts that brought no answer, with what they cost, by outcome.
    pub lost: Vec<Lost>,
    /// Sum of their cost.
    pub lost_nanousd: i64,
    /// What rescued answers cost more than at the endpoint of first choice; below zero: they were cheaper.
    pub premium_nanousd: i64,
    /// Rescues by failover whose premium is in the sum.
    pub premium_known: u64,
    /// Rescues by failover whose premium cannot be told: no price, or another one by now.
    pub premium_unknown: u64,
    /// By endpoint, those that had any.
    #[serde(default)]
    pub outages: Vec<Outages>,
    /// As it was, and what would have been.
    #[serde(default)]
    pub ways: Vec<Way>,
}

/// Attempts of one outcome that brought no answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    pub outcome: String,
    pub attempts: u64,
    pub cost_nanousd: i64,
    /// Attempts whose cost is unknown.
    pub unpriced: u64,
}

impl Resilience {
    /// Starts with the present prices of the endpoints.
    #[must_use]
    pub fn new(prices: Prices) -> Self {
        Self { ways: Ways::new(&prices), prices, ..Self::default() }
    }

    /// Counts one ledger row.
    pub fn count(&mut self, e: &Entry) {
        let success = &*e.outcome == Outcome::Success.ledger_str();
        let (first, injected) = (e.attempt == 1, e.is_injected());
        self.told.injected_attempts = self.told.injected_attempts.saturating_add(u64::from(injected));
        self.told.requests = self.told.requests.saturating_add(u64::from(first));
        let failure = !success && is_failure(&e.outcome);
        self.ways.count(e, success, success || failure);
        if success {
            self.outages.succeeded(e);
        } else {
            self.lose(e);
        }
        let hit = failure.then(|| self.outages.failed(e));
        if success && first || !success && !first && hit.is_none() {
            return;
        }
        if !self.open.contains_key(&e.request_id) {
            self.order.push_back(Arc::clone(&e.request_id));
        }
        let story = self.open.entry(Arc::clone(&e.request_id)).or_default();
        if story.hit.len() < MAX_HIT {
            story.hit.extend(hit);
        }
        if first {
            let cancelled = &*e.outcome == Outcome::Cancelled.ledger_str();
            if !cancelled {
                self.told.first_attempt_failed = self.told.first_attempt_failed.saturating_add(1);
                self.told.injected_first_failed = self.told.injected_first_failed.saturating_add(u64::from(injected));
            }
            let (endpoint, price_version) = (Arc::clone(&e.endpoint), Arc::clone(&e.price_version));
            story.first = Some(First { endpoint, price_version, cancelled, injected });
        } else if success {
            let marked = |mark: &str| e.decision.split(';').skip(1).any(|m| m == mark);
            story.won = Some(Won {
                endpoint: Arc::clone(&e.endpoint),
                usage: e.usage,
                cost: e.cost,
                hedged: marked("hedge"),
                recovered: marked("recover"),
            });
        }
        if let Story { first: Some(first), won: Some(won), hit } = story {
            let (first, won, hit) = (first.clone(), won.clone(), std::mem::take(hit));
            self.open.remove(&e.request_id);
            hit.iter().for_each(|outage| self.outages.answered(outage));
            self.conclude(&first, &won);
        }
        while self.order.len() > MAX_OPEN {
            if let Some(oldest) = self.order.pop_front() {
                self.open.remove(&oldest);
            }
        }
    }

    fn lose(&mut self, e: &Entry) {
        let lost = self.lost.entry(Arc::clone(&e.outcome)).or_default();
        lost.attempts = lost.attempts.saturating_add(1);
        match e.cost {
            Some(cost) => lost.cost_nanousd = lost.cost_nanousd.saturating_add(cost.0),
            None => lost.unpriced = lost.unpriced.saturating_add(1),
        }
    }

    fn conclude(&mut self, first: &First, won: &Won) {
        let told = &mut self.told;
        let overtaken = first.cancelled || won.hedged;
        let counter = match (overtaken, first.endpoint == won.endpoint) {
            _ if won.recovered => &mut told.recovered,
            (true, _) => &mut told.hedges_won,
            (false, true) => &mut told.rescued_by_retry,
            (false, false) => &mut told.rescued_by_failover,
        };
        *counter = counter.saturating_add(1);
        if !first.cancelled {
            told.injected_rescued = told.injected_rescued.saturating_add(u64::from(first.injected));
        }
        if overtaken || won.recovered || first.endpoint == won.endpoint {
            return;
        }
        let price = self.prices.get(&first.endpoint).filter(|price| price.version == first.price_version);
        match (won.cost, price) {
            (Some(cost), Some(price)) => {
                let premium = cost.saturating_sub(price.cost(&won.usage));
                told.premium_nanousd = told.premium_nanousd.saturating_add(premium.0);
                told.premium_known = told.premium_known.saturating_add(1);
            }
            _ => told.premium_unknown = told.premium_unknown.saturating_add(1),
        }
    }

    /// Ends the count.
    #[must_use]
    pub fn report(mut self) -> ResilienceReport {
        for (outcome, lost) in self.lost {
            self.told.lost_nanousd = self.told.lost_nanousd.saturating_add(lost.cost_nanousd);
            self.told.lost.push(Lost { outcome: outcome.to_string(), ..lost });
        }
        self.told.outages = self.outages.report();
        self.told.ways = self.ways.report();
        self.told
    }
}

/// Whether a breaker counts it.
fn is_failure(outcome: &str) -> bool {
    let known = Outcome::ALL.into_iter().find(|o| o.ledger_str() == outcome);
    known.is_some_and(|o| matches!(o.class().verdict, Verdict::Failure { .. }))
}

impl ResilienceReport {
    fn push_outages(&self, text: &mut String) {
        if self.outages.is_empty() {
            return;
        }
        let seconds = |us: u64| format!("{}.{:03}", us / 1_000_000, us / 1_000 % 1_000);
        let mut table = Table::new(&["endpoint", "outages", "seconds", "hidden from callers, s"]);
        for o in &self.outages {
            table.row([o.endpoint.clone(), o.outages.to_string(), seconds(o.outage_us), seconds(o.hidden_us)]);
        }
        text.push('\n');
        text.push_str(&table.to_text());
    }

    fn push_ways(&self, text: &mut String) {
        let mut table = Table::new(&["way", "success", "cost usd"]);
        for way in &self.ways {
            let name = way.endpoint.as_ref().map_or(way.way.clone(), |e| format!("{} ({e})", way.way));
            let success = way.success_percent.map_or_else(|| "-".to_owned(), |p| format!("{p:.3} %"));
            table.row([name, success, NanoUsd(way.cost_nanousd).to_string()]);
        }
        text.push('\n');
        text.push_str(&table.to_text());
    }
}

impl Tabular for ResilienceReport {
    /// Sentences and a table for people.
    fn to_table(&self) -> String {
        let usd = |nano: i64| NanoUsd(nano).to_string();
        let rescued = self.rescued_by_failover.saturating_add(self.rescued_by_retry);
        let mut text = format!(
            "{} requests, {} with a first attempt that failed: {rescued} rescued, {} by failover and {} by a retry\n\
             {} answered by a hedge, {} broken streams continued to their end\n",
            self.requests,
            self.first_attempt_failed,
            self.rescued_by_failover,
            self.rescued_by_retry,
            self.hedges_won,
            self.recovered
        );
        if self.injected_attempts > 0 {
            let _ = writeln!(
                text,
                "{} attempts were injected by experiments: {} of the first that failed, {} of the rescued",
                self.injected_attempts, self.injected_first_failed, self.injected_rescued
            );
        }
        let _ = write!(text, "premium paid on failovers: {} USD", usd(self.premium_nanousd));
        if self.premium_unknown > 0 {
            let _ =
                write!(text, " over {} of them; it cannot be told for {}", self.premium_known, self.premium_unknown);
        }
        text.push_str("\n\n");
        let mut table = Table::new(&["lost attempts", "attempts", "unpriced", "cost usd"]);
        for lost in &self.lost {
            table.row([
                lost.outcome.clone(),
                lost.attempts.to_string(),
                lost.unpriced.to_string(),
                usd(lost.cost_nanousd),
            ]);
        }
        let sum = |of: fn(&Lost) -> u64| self.lost.iter().map(of).fold(0, u64::saturating_add).to_string();
        table.total(["total".to_owned(), sum(|l| l.attempts), sum(|l| l.unpriced), usd(self.lost_nanousd)]);
        text.push_str(&table.to_text());
        self.push_outages(&mut text);
        self.push_ways(&mut text);
        text
    }

    /// CSV of two columns, one figure a line.
    fn to_csv(&self) -> String {
        let mut text = "figure,value\n".to_owned();
        for (name, value) in [
            ("requests", self.requests),
            ("first_attempt_failed", self.first_attempt_failed),
            ("rescued_by_failover", self.rescued_by_failover),
            ("rescued_by_retry", self.rescued_by_retry),
            ("hedges_won", self.hedges_won),
            ("recovered", self.recovered),
            ("injected_attempts", self.injected_attempts),
            ("injected_first_failed", self.injected_first_failed),
            ("injected_rescued", self.injected_rescued),
            ("premium_known", self.premium_known),
            ("premium_unknown", self.premium_unknown),
        ] {
            let _ = writeln!(text, "{name},{value}");
        }
        let _ = writeln!(text, "premium_nanousd,{}\nlost_nanousd,{}", self.premium_nanousd, self.lost_nanousd);
        for lost in &self.lost {
            let _ = writeln!(text, "lost_attempts:{},{}", lost.outcome, lost.attempts);
            let _ = writeln!(text, "lost_nanousd:{},{}", lost.outcome, lost.cost_nanousd);
        }
        for o in &self.outages {
            for (name, value) in [("outages", o.outages), ("outage_us", o.outage_us), ("hidden_us", o.hidden_us)] {
                push_csv(&mut text, &format!("{name}:{}", o.endpoint));
                let _ = writeln!(text, ",{value}");
            }
        }
        for way in &self.ways {
            let percent = way.success_percent.map_or(String::new(), |p| p.to_string());
            let _ = writeln!(text, "success_percent:{},{percent}\ncost_nanousd:{0},{}", way.way, way.cost_nanousd);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::money::PicoUsdPerToken;
    use crate::domain::sample;

    fn row(request: &str, attempt: u16, endpoint: &str, outcome: &str, cost: Option<i64>) -> Entry {
        Entry {
            request_id: request.into(),
            attempt,
            endpoint: endpoint.into(),
            outcome: outcome.into(),
            cost: cost.map(NanoUsd),
            price_version: "config:1".into(),
            usage: Usage { input: 100, ..Usage::default() },
            ..sample::nth(0)
        }
    }

    fn cheap() -> Prices {
        let price = Price::flat(PicoUsdPerToken(2_000_000), PicoUsdPerToken(2_000_000), "config:1");
        [("cheap".into(), Arc::new(price))].into()
    }

    #[test]
    fn rescues_losses_and_premiums_are_told_apart() {
        let mut account = Resilience::new(cheap());
        for row in [
            row("plain", 1, "cheap", "success", Some(200_000)),
            row("over", 1, "cheap", "server_error", Some(0)),
            row("over", 2, "dear", "success", Some(900_000)),
            row("again", 1, "cheap", "connect_failed", Some(0)),
            row("again", 2, "cheap", "success", Some(200_000)),
            // A hedge ends before the attempt that it overtook.
            row("hedged", 2, "dear", "success", Some(900_000)),
            row("hedged", 1, "cheap", "cancelled", Some(40_000)),
            row("unpriced", 1, "gone", "uncertain", None),
            row("unpriced", 2, "dear", "success", Some(900_000)),
            row("hopeless", 1, "cheap", "server_error", Some(0)),
            row("hopeless", 2, "dear", "server_error", Some(7)),
        ] {
            account.count(&row);
        }
        let decision = "cost_based/1;chaos=status".into();
        account.count(&Entry { decision, ..row("injected", 1, "cheap", "server_error", Some(0)) });
        account.count(&row("injected", 2, "cheap", "success", Some(200_000)));
        let report = account.report();
        assert_eq!((report.injected_attempts, report.injected_first_failed, report.injected_rescued), (1, 1, 1));
        assert_eq!((report.requests, report.first_attempt_failed), (7, 5));
        assert_eq!((report.rescued_by_failover, report.rescued_by_retry, report.hedges_won), (2, 2, 1));
        assert_eq!((report.premium_nanousd, report.premium_known, report.premium_unknown), (700_000, 1, 1));
        assert_eq!(report.lost_nanousd, 40_007);
        let lost: Vec<_> = report.lost.iter().map(|l| (&*l.outcome, l.attempts, l.unpriced)).collect();
        assert_eq!(lost, [("cancelled", 1, 0), ("connect_failed", 1, 0), ("server_error", 4, 0), ("uncertain", 1, 1)]);
        let read: ResilienceReport = serde_json::from_value(report.to_json()).unwrap();
        assert_eq!(read, report);
        assert!(report.to_table().contains("4 rescued, 2 by failover and 2 by a retry"), "{}", report.to_table());
        assert!(report.to_csv().contains("\nlost_nanousd:cancelled,40000\n"), "{}", report.to_csv());
    }

    #[test]
    fn a_price_of_another_version_makes_no_premium() {
        let mut account = Resilience::new(cheap());
        account.count(&Entry { price_version: "config:0".into(), ..row("r", 1, "cheap", "server_error", Some(0)) });
        account.count(&row("r", 2, "dear", "success", Some(900_000)));
        let report = account.report();
        assert_eq!((report.premium_known, report.premium_unknown, report.premium_nanousd), (0, 1, 0));
    }

    #[test]
    fn open_fates_are_bounded() {
        let mut account = Resilience::default();
        for n in 0..MAX_OPEN + 10 {
            account.count(&row(&n.to_string(), 1, "cheap", "server_error", Some(0)));
        }
        assert_eq!((account.open.len(), account.order.len()), (MAX_OPEN, MAX_OPEN));
        account.count(&row("0", 2, "dear", "success", Some(0)));
        assert_eq!(account.report().rescued_by_failover, 0);
    }

    #[test]
    fn recovered_streams_and_hedges_have_counts_of_their_own() {
        let mut account = Resilience::new(cheap());
        for (request, outcome, mark) in [("a", "partial", ";recover"), ("b", "server_error", ";hedge")] {
            account.count(&row(request, 1, "cheap", outcome, Some(10)));
            let won = row(request, 2, "dear", "success", Some(20));
            account.count(&Entry { decision: format!("priority/2{mark}").into(), ..won });
        }
        let report = account.report();
        assert_eq!((report.recovered, report.hedges_won, report.rescued_by_failover), (1, 1, 0));
        assert_eq!((report.premium_known, report.premium_unknown), (0, 0));
    }

    #[test]
    fn outages_are_hidden_as_far_as_their_requests_were_answered() {
        let mut account = Resilience::new(Prices::new());
        let second = |n: i64| crate::domain::time::Wall(n * 1_000_000);
        let at = |n: i64, e: Entry| Entry { at: second(n), latency_us: 1_000_000, ..e };
        for row in [
            at(1, row("ok", 1, "a", "success", Some(1))),
            // Down from second 10 to 30: one of its two requests was answered elsewhere.
            at(11, row("x", 1, "a", "server_error", Some(0))),
            at(12, row("x", 2, "b", "success", Some(1))),
            at(20, row("y", 1, "a", "server_error", Some(0))),
            at(21, row("y", 2, "b", "server_error", Some(0))),
            at(31, row("back", 1, "a", "success", Some(1))),
            // What is the caller's own fault is no outage.
            at(40, row("bad", 1, "a", "invalid_request", Some(0))),
            at(41, row("left", 1, "a", "cancelled", Some(0))),
        ] {
            account.count(&row);
        }
        let report = account.report();
        let found: Vec<_> =
            report.outages.iter().map(|o| (&*o.endpoint, o.outages, o.outage_us, o.hidden_us)).collect();
        assert_eq!(found, [("a", 1, 20_000_000, 10_000_000), ("b", 1, 1_000_000, 0)]);
        assert!(report.to_table().contains("20.000"), "{}", report.to_table());
        assert!(report.to_csv().contains("\nhidden_us:a,10000000\n"), "{}", report.to_csv());
    }

    #[test]
    fn what_would_have_been_is_told_from_the_rows() {
        let price = |pico| Arc::new(Price::flat(PicoUsdPerToken(pico), PicoUsdPerToken(pico), "config:1"));
        let mut account =
            Resilience::new([("cheap".into(), price(1_000_000)), ("dear".into(), price(5_000_000))].into());
        let decided = |decision: &str, e: Entry| Entry { decision: decision.into(), ..e };
        for row in [
            decided("cost_based/1", row("a", 1, "cheap", "success", Some(100_000))),
            decided("cost_based/1", row("b", 1, "cheap", "server_error", Some(7))),
            decided("cost_based/2", row("b", 2, "dear", "success", Some(500_000))),
            // The first choice refused: alone it would have had no answer.
            decided("cost_based/2", row("c", 1, "dear", "success", Some(500_000))),
        ] {
            account.count(&row);
        }
        let ways = account.report().ways;
        let found: Vec<_> =
            ways.iter().map(|w| (&*w.way, w.endpoint.as_deref(), w.success_percent, w.cost_nanousd)).collect();
        assert_eq!(
            found,
            [
                ("as_it_was", None, Some(100.0), 1_100_007),
                ("first_choice_only", None, Some(33.333), 100_007),
                // Three answers of 100 tokens at 1,000 nano-dollars; half of its own attempts succeeded.
                ("cheapest_only", Some("cheap"), Some(50.0), 300_000),
            ]
        );
    }
}
