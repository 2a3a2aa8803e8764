//! The money under budgets: of the configuration's each, of virtual keys' the sums, for keys are made at run time by the thousand.

use super::{Families, whole};
use crate::engine::budgets::KeyBudgets;
use crate::engine::gateway::Gateway;
use prometheus_client::encoding::NoLabelSet;
use prometheus_client::metrics::MetricType;
use std::fmt::Result;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Read once at a scrape's start.
#[derive(Debug, Default)]
pub(super) struct Money {
    /// Name, spent and left, USD.
    pub budgets: Vec<(Arc<str>, f64, f64)>,
    pub keys: KeyBudgets,
    pub overruns: u64,
    pub unsecured: u64,
}

impl Money {
    pub fn of(gateway: &Gateway) -> Self {
        let all = gateway.budgets.configured().into_iter();
        Self {
            budgets: all.map(|(e, f)| (Arc::clone(&e.budget.name), f.spent.usd(), f.left.usd())).collect(),
            keys: gateway.budgets.keys_together(),
            overruns: gateway.budgets.overruns.load(Relaxed),
            unsecured: gateway.budgets.unsecured.load(Relaxed),
        }
    }

    pub fn write(&self, to: &mut Families) -> Result {
        let mut spent =
            to.descriptor("budget_spent_usd", "Spent in the present period, in US dollars", MetricType::Gauge)?;
        for (name, usd, _) in &self.budgets {
            spent.encode_family(&[("budget", &**name)])?.encode_gauge(usd)?;
        }
        let mut left =
            to.descriptor("budget_left_usd", "Neither spent nor reserved, in US dollars", MetricType::Gauge)?;
        for (name, _, usd) in &self.budgets {
            left.encode_family(&[("budget", &**name)])?.encode_gauge(usd)?;
        }
        let KeyBudgets { count, spent, spent_usd, left_usd } = self.keys;
        let mut sum =
            |name: &str, help: &str, usd: f64| to.descriptor(name, help, MetricType::Gauge)?.encode_gauge(&usd);
        sum(
            "key_budgets_spent_usd",
            "Spent under virtual keys' budgets in their present periods, in US dollars",
            spent_usd,
        )?;
        sum("key_budgets_left_usd", "Neither spent nor reserved under virtual keys' budgets, in US dollars", left_usd)?;
        to.one_gauge("key_budgets", "Virtual keys with a budget", whole(count))?;
        to.one_gauge("key_budgets_spent", "Those of which less than a hundredth is left", whole(spent))?;
        let mut overruns = to.counter("budget_overruns", "Attempts that cost more than was reserved for them")?;
        overruns.encode_counter::<NoLabelSet, _, u64>(&self.overruns, None)?;
        let unsecured = "Attempts under hard budgets that left before their reservation was on disk";
        to.one_counter("budget_unsecured", unsecured, self.unsecured)
    }
}
