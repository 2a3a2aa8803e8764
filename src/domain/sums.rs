//! Sums over ledger rows: what is added up, by what it can be grouped, and over which time.
//!
//! A *request* is counted where its first attempt went, so that requests add up over any grouping; an *attempt* is a ledger row.
//! An attempt is a success, cancelled (the caller left, or a hedge lost), or a failure. Latency is that of successful attempts:
//! a refused connection says nothing about how long an answer takes. Money and tokens are integers; a sum over rows equals the
//! sum over any partition of them, to the nano-dollar.

use crate::domain::histogram::LogHistogram;
use crate::domain::ledger::Entry;
use crate::domain::money::NanoUsd;
use crate::domain::outcome::Outcome;
use crate::domain::time::Wall;
use crate::domain::usage::Usage;

/// A span of wall-clock time; an open end is unbounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeRange {
    /// Inclusive.
    pub from: Option<Wall>,
    /// Exclusive.
    pub to: Option<Wall>,
}

impl TimeRange {
    /// All of time.
    pub const ALL: Self = Self { from: None, to: None };

    #[must_use]
    pub fn contains(&self, at: Wall) -> bool {
        self.from.is_none_or(|from| at >= from) && self.to.is_none_or(|to| at < to)
    }
}

/// By what a sum is split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// Not at all: one row for everything.
    Total,
    Endpoint,
    Model,
    Route,
    Key,
    /// The value of one tag; rows without it come under the empty name.
    Tag(String),
    /// UTC days, `2026-11-23`.
    Day,
    /// UTC hours, `2026-11-23T18:00:00Z`.
    Hour,
}

impl GroupBy {
    /// Reads `endpoint`, `model`, `route`, `key`, `tag:K`, `day`, `hour` or `total`.
    ///
    /// # Errors
    /// What is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "total" => Self::Total,
            "endpoint" => Self::Endpoint,
            "model" => Self::Model,
            "route" => Self::Route,
            "key" => Self::Key,
            "day" => Self::Day,
            "hour" => Self::Hour,
            _ => match text.strip_prefix("tag:").filter(|tag| !tag.is_empty()) {
                Some(tag) => Self::Tag(tag.into()),
                None => {
                    return Err(format!(
                        "`{text}` is not one of endpoint, model, route, key, tag:NAME, day, hour, total"
                    ));
                }
            },
        })
    }

    /// The text that [`Self::parse`] reads.
    #[must_use]
    pub fn spelled(&self) -> String {
        match self {
            Self::Tag(name) => format!("tag:{name}"),
            other => other.title().to_owned(),
        }
    }

    /// What the groups are called in a table's head.
    #[must_use]
    pub fn title(&self) -> &str {
        match self {
            Self::Total => "total",
            Self::Endpoint => "endpoint",
            Self::Model => "model",
            Self::Route => "route",
            Self::Key => "key",
            Self::Tag(name) => name,
            Self::Day => "day",
            Self::Hour => "hour",
        }
    }
}

/// Figures of a set of attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Attempts that were their request's first.
    pub requests: u64,
    pub attempts: u64,
    pub successes: u64,
    pub failures: u64,
    /// The caller left, or a hedge lost: neither success nor failure.
    pub cancelled: u64,
    pub usage: Usage,
    /// Of the priced attempts.
    pub cost: NanoUsd,
    /// Attempts without a price, which `cost` leaves out.
    pub unpriced: u64,
    /// Of the successful attempts, µs.
    pub latency_us_sum: u64,
    /// Of the successful attempts, µs.
    pub latency: LogHistogram,
}

impl Tally {
    /// Counts one row.
    pub fn count(&mut self, entry: &Entry) {
        self.requests = self.requests.saturating_add(u64::from(entry.attempt == 1));
        self.attempts = self.attempts.saturating_add(1);
        if &*entry.outcome == Outcome::Success.ledger_str() {
            self.successes = self.successes.saturating_add(1);
            self.latency_us_sum = self.latency_us_sum.saturating_add(entry.latency_us);
            self.latency.record(entry.latency_us);
        } else if &*entry.outcome == Outcome::Cancelled.ledger_str() {
            self.cancelled = self.cancelled.saturating_add(1);
        } else {
            self.failures = self.failures.saturating_add(1);
        }
        self.add_usage(&entry.usage);
        match entry.cost {
            Some(cost) => self.cost += cost,
            None => self.unpriced = self.unpriced.saturating_add(1),
        }
    }

    /// Adds another tally's figures.
    pub fn merge(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.attempts = self.attempts.saturating_add(other.attempts);
        self.successes = self.successes.saturating_add(other.successes);
        self.failures = self.failures.saturating_add(other.failures);
        self.cancelled = self.cancelled.saturating_add(other.cancelled);
        self.add_usage(&other.usage);
        self.cost += other.cost;
        self.unpriced = self.unpriced.saturating_add(other.unpriced);
        self.latency_us_sum = self.latency_us_sum.saturating_add(other.latency_us_sum);
        self.latency.merge(&other.latency);
    }

    /// Successes in percent of successes and failures; `None` without either.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn success_percent(&self) -> Option<f64> {
        let judged = self.successes.saturating_add(self.failures);
        (judged > 0).then(|| self.successes as f64 * 100.0 / judged as f64)
    }

    /// Mean latency of the successful attempts, µs; `None` without any.
    #[must_use]
    pub fn mean_latency_us(&self) -> Option<u64> {
        self.latency_us_sum.checked_div(self.successes)
    }

    fn add_usage(&mut self, other: &Usage) {
        let mine = &mut self.usage;
        for (sum, more) in [
            (&mut mine.input, other.input),
            (&mut mine.cached_input, other.cached_input),
            (&mut mine.cache_write, other.cache_write),
            (&mut mine.output, other.output),
            (&mut mine.reasoning, other.reasoning),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// One group's figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SumRow {
    pub group: String,
    pub tally: Tally,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groupings_are_read_by_name() {
        assert_eq!(GroupBy::parse("tag:team"), Ok(GroupBy::Tag("team".into())));
        assert_eq!(GroupBy::parse("hour"), Ok(GroupBy::Hour));
        assert!(GroupBy::parse("tag:").is_err());
        assert!(GroupBy::parse("colour").is_err());
    }

    #[test]
    fn a_range_holds_its_start_and_not_its_end() {
        let range = TimeRange { from: Some(Wall(10)), to: Some(Wall(20)) };
        assert_eq!([9, 10, 19, 20].map(|at| range.contains(Wall(at))), [false, true, true, false]);
        assert!(TimeRange::ALL.contains(Wall(i64::MIN)));
    }
}
