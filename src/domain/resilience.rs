//! The account of resilience: which requests a further attempt rescued, and what that cost.
//!
//! A request is *rescued* if its first attempt failed and a later one succeeded: by failover at another endpoint, by a retry at the same.
//! A *hedge won* is a later attempt's success while the first was cancelled. The *premium* of a failover is what the answer cost less
//! what the same tokens would have cost at the endpoint of first choice; it is told only where that endpoint's price is still the one
//! of the first attempt's row, because the ledger keeps prices by version and not by figure. The others are counted, not guessed.
//!
//! Attempts of one request lie near each other in the ledger. Requests whose fate is open are held in a bounded map; those that fall out
//! of it count as not rescued.

use crate::domain::ledger::Entry;
use crate::domain::money::NanoUsd;
use crate::domain::outcome::Outcome;
use crate::domain::price::Price;
use crate::domain::table::Table;
use crate::domain::usage::Usage;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write;
use std::sync::Arc;

/// Requests whose fate may be open at a time.
const MAX_OPEN: usize = 65_536;

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
}

/// What is known of a request so far.
#[derive(Clone, Debug, Default)]
struct Story {
    first: Option<First>,
    won: Option<Won>,
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
}

/// What resilience did and what it cost. Money in nano-dollars.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
        Self { prices, ..Self::default() }
    }

    /// Counts one ledger row.
    pub fn count(&mut self, e: &Entry) {
        let success = &*e.outcome == Outcome::Success.ledger_str();
        let (first, injected) = (e.attempt == 1, e.is_injected());
        self.told.injected_attempts = self.told.injected_attempts.saturating_add(u64::from(injected));
        self.told.requests = self.told.requests.saturating_add(u64::from(first));
        if success && first {
            return;
        }
        if !success {
            self.lose(e);
            if !first {
                return;
            }
        }
        if !self.open.contains_key(&e.request_id) {
            self.order.push_back(Arc::clone(&e.request_id));
        }
        let story = self.open.entry(Arc::clone(&e.request_id)).or_default();
        if first {
            let cancelled = &*e.outcome == Outcome::Cancelled.ledger_str();
            if !cancelled {
                self.told.first_attempt_failed = self.told.first_attempt_failed.saturating_add(1);
                self.told.injected_first_failed = self.told.injected_first_failed.saturating_add(u64::from(injected));
            }
            let (endpoint, price_version) = (Arc::clone(&e.endpoint), Arc::clone(&e.price_version));
            story.first = Some(First { endpoint, price_version, cancelled, injected });
        } else {
            story.won = Some(Won { endpoint: Arc::clone(&e.endpoint), usage: e.usage, cost: e.cost });
        }
        if let Story { first: Some(first), won: Some(won) } = story {
            let (first, won) = (first.clone(), won.clone());
            self.open.remove(&e.request_id);
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
        let counter = match (first.cancelled, first.endpoint == won.endpoint) {
            (true, _) => &mut told.hedges_won,
            (false, true) => &mut told.rescued_by_retry,
            (false, false) => &mut told.rescued_by_failover,
        };
        *counter = counter.saturating_add(1);
        if !first.cancelled {
            told.injected_rescued = told.injected_rescued.saturating_add(u64::from(first.injected));
        }
        if first.cancelled || first.endpoint == won.endpoint {
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
        self.told
    }
}

impl ResilienceReport {
    /// Sentences and a table for people.
    #[must_use]
    pub fn to_table(&self) -> String {
        let usd = |nano: i64| NanoUsd(nano).to_string();
        let rescued = self.rescued_by_failover.saturating_add(self.rescued_by_retry);
        let mut text = format!(
            "{} requests, {} with a first attempt that failed: {rescued} rescued, {} by failover and {} by a retry\n\
             {} answered by a hedge\n",
            self.requests, self.first_attempt_failed, self.rescued_by_failover, self.rescued_by_retry, self.hedges_won
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
        text
    }

    /// Reads back with serde.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// CSV of two columns, one figure a line.
    #[must_use]
    pub fn to_csv(&self) -> String {
        let mut text = "figure,value\n".to_owned();
        for (name, value) in [
            ("requests", self.requests),
            ("first_attempt_failed", self.first_attempt_failed),
            ("rescued_by_failover", self.rescued_by_failover),
            ("rescued_by_retry", self.rescued_by_retry),
            ("hedges_won", self.hedges_won),
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
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::money::PicoUsdPerToken;
    use crate::store::sample;

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
}
