//! What would have been without resilience, from the rows: only the first choice, or only the cheapest endpoint.
//!
//! - *First choice only*: a request is answered if its first attempt went to the plan's first candidate and succeeded. Where that one
//!   refused (breaker, limits), there would have been no answer. Cost: that of those attempts.
//! - *Cheapest only*: of the endpoints that have attempts and a present price, the one on which the tokens of all answers would have
//!   cost least. Its success is the share of its own attempts that succeeded, its cost that of all answers at its price.

use super::Prices;
use crate::domain::ledger::Entry;
use crate::domain::price::Price;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Endpoints that are compared, in the order of their names.
const COMPARED: usize = 64;

/// One way to serve the same requests. Money in nano-dollars.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// `as_it_was`, `first_choice_only`, `cheapest_only`.
    pub way: String,
    /// The cheapest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Of all requests; `None` of none.
    pub success_percent: Option<f64>,
    pub cost_nanousd: i64,
}

#[derive(Clone, Debug)]
struct Only {
    price: Arc<Price>,
    successes: u64,
    failures: u64,
    /// All answers at its price.
    cost: i64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Ways {
    requests: u64,
    answered: u64,
    spent: i64,
    first_answered: u64,
    first_spent: i64,
    only: BTreeMap<Arc<str>, Only>,
}

impl Ways {
    pub(super) fn new(prices: &Prices) -> Self {
        let mut names: Vec<_> = prices.iter().collect();
        names.sort_unstable_by_key(|(name, _)| Arc::clone(name));
        let only = |price: &Arc<Price>| Only { price: Arc::clone(price), successes: 0, failures: 0, cost: 0 };
        let only = names.into_iter().take(COMPARED).map(|(name, price)| (Arc::clone(name), only(price))).collect();
        Self { only, ..Self::default() }
    }

    /// `judged`: the attempt says something about its endpoint.
    pub(super) fn count(&mut self, e: &Entry, success: bool, judged: bool) {
        let cost = e.cost.map_or(0, |c| c.0);
        self.requests = self.requests.saturating_add(u64::from(e.attempt == 1));
        self.spent = self.spent.saturating_add(cost);
        if e.attempt == 1 && rank(e) == Some(1) {
            self.first_answered = self.first_answered.saturating_add(u64::from(success));
            self.first_spent = self.first_spent.saturating_add(cost);
        }
        if judged && let Some(only) = self.only.get_mut(&e.endpoint) {
            only.successes = only.successes.saturating_add(u64::from(success));
            only.failures = only.failures.saturating_add(u64::from(!success));
        }
        if success {
            self.answered = self.answered.saturating_add(1);
            for only in self.only.values_mut() {
                only.cost = only.cost.saturating_add(only.price.cost(&e.usage).0);
            }
        }
    }

    pub(super) fn report(&self) -> Vec<Way> {
        let way = |way: &str, good: u64, of: u64, cost_nanousd: i64| Way {
            way: way.to_owned(),
            endpoint: None,
            success_percent: percent(good, of),
            cost_nanousd,
        };
        let mut ways = vec![
            way("as_it_was", self.answered, self.requests, self.spent),
            way("first_choice_only", self.first_answered, self.requests, self.first_spent),
        ];
        let asked = self.only.iter().filter(|(_, only)| only.successes + only.failures > 0);
        if let Some((name, only)) = asked.min_by_key(|(_, only)| only.cost) {
            let of = only.successes.saturating_add(only.failures);
            let cheapest = way("cheapest_only", only.successes, of, only.cost);
            ways.push(Way { endpoint: Some(name.to_string()), ..cheapest });
        }
        ways
    }
}

/// `cost_based/2;hedge` is 2.
fn rank(e: &Entry) -> Option<u32> {
    e.decision.split(';').next()?.rsplit_once('/')?.1.parse().ok()
}

/// In percent, to three decimals.
#[allow(clippy::cast_precision_loss)]
fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| (part as f64 * 100_000.0 / whole as f64).round() / 1_000.0)
}
