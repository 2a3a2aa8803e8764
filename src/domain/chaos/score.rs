//! What an experiment did: how many requests it hit, how many of them were lost or rescued all the same, and at what price.
//!
//! - A *request* counts when it finished while the experiment ran and its route has the endpoint; a *hit* is one attempt that was
//!   injected. A request with several hits is one request.
//! - *Rescued*: it was hit, yet its caller got the answer. *Lost*: it was hit, and its caller got an error or half a stream. A caller that
//!   went away is neither.
//! - Requests of the same time and route that no experiment touched are what the rescued ones' durations are held against.
//! - *Extra cost* is what hit requests cost beyond what their answer would have cost at the endpoint that was hit; for lost ones all
//!   they cost. Where a price is unknown it is counted, not guessed.

use crate::domain::histogram::LogHistogram;
use crate::domain::money::NanoUsd;
use crate::domain::table::Table;
use crate::domain::time::micros;
use serde::Serialize;
use std::time::Duration;

/// How a request ended for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Answered,
    Lost,
    CallerGone,
}

/// Adds up, in bounded memory.
#[derive(Clone, Debug, Default)]
pub struct Score {
    requests: u64,
    attempts: u64,
    hits: u64,
    /// Requests with a hit, those under way too.
    struck: u64,
    lost: u64,
    rescued: u64,
    caller_gone: u64,
    untouched: u64,
    rescued_us: LogHistogram,
    untouched_us: LogHistogram,
    extra: NanoUsd,
    extra_unknown: u64,
}

impl Score {
    /// Counts an attempt that could have been struck.
    pub fn attempt(&mut self, is_hit: bool) {
        self.attempts += 1;
        self.hits += u64::from(is_hit);
    }

    /// A request was struck for the first time.
    pub fn request_struck(&mut self) {
        self.struck += 1;
    }

    /// A struck request ended; `extra` is `None` where a price is unknown.
    pub fn struck_ended(&mut self, fate: Fate, took: Duration, extra: Option<NanoUsd>) {
        self.requests += 1;
        match fate {
            Fate::Answered => {
                self.rescued += 1;
                self.rescued_us.record(micros(took));
            }
            Fate::Lost => self.lost += 1,
            Fate::CallerGone => self.caller_gone += 1,
        }
        match extra {
            Some(extra) => self.extra = NanoUsd(self.extra.0.saturating_add(extra.0)),
            None => self.extra_unknown += 1,
        }
    }

    /// A request ended that could have been struck and was not, by this experiment or another.
    pub fn untouched_ended(&mut self, fate: Fate, took: Duration) {
        self.requests += 1;
        self.untouched += 1;
        if fate == Fate::Answered {
            self.untouched_us.record(micros(took));
        }
    }

    /// A request ended that only another experiment struck.
    pub fn other_ended(&mut self) {
        self.requests += 1;
    }

    #[must_use]
    pub fn card(&self) -> Scorecard {
        let judged = self.rescued + self.lost;
        let (rescued, untouched) = (Quantiles::of(&self.rescued_us), Quantiles::of(&self.untouched_us));
        let added = |of: fn(&Quantiles) -> f64| Some(of(rescued.as_ref()?) - of(untouched.as_ref()?));
        #[allow(clippy::cast_precision_loss)]
        Scorecard {
            requests: self.requests,
            attempts: self.attempts,
            hits: self.hits,
            requests_hit: self.struck,
            lost: self.lost,
            rescued: self.rescued,
            caller_gone: self.caller_gone,
            under_way: self.struck.saturating_sub(judged + self.caller_gone),
            untouched: self.untouched,
            rescue_rate: (judged > 0).then(|| self.rescued as f64 / judged as f64),
            added_ms: added(|q| q.p50)
                .zip(added(|q| q.p99))
                .map(|(p50, p99)| Quantiles { p50: round(p50), p99: round(p99) }),
            rescued_ms: rescued,
            untouched_ms: untouched,
            extra_cost_usd: self.extra.usd(),
            extra_cost_nanousd: self.extra.0,
            extra_cost_unknown: self.extra_unknown,
        }
    }
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p99: f64,
}

impl Quantiles {
    #[allow(clippy::cast_precision_loss)]
    fn of(us: &LogHistogram) -> Option<Self> {
        let ms = |q| us.quantile(q).map(|us| us as f64 / 1e3);
        Some(Self { p50: ms(0.5)?, p99: ms(0.99)? })
    }
}

fn round(ms: f64) -> f64 {
    (ms * 1e3).round() / 1e3
}

/// A score at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scorecard {
    /// Requests that ended meanwhile and whose route has the endpoint.
    pub requests: u64,
    /// Attempts at the endpoint that could have the fault.
    pub attempts: u64,
    /// Attempts that had it.
    pub hits: u64,
    pub requests_hit: u64,
    pub lost: u64,
    pub rescued: u64,
    pub caller_gone: u64,
    /// Requests hit that have not ended yet.
    pub under_way: u64,
    /// Requests that no experiment hit.
    pub untouched: u64,
    /// Rescued of those that ended with a caller there; `None` before the first.
    pub rescue_rate: Option<f64>,
    /// Durations of rescued requests, to 3 %.
    pub rescued_ms: Option<Quantiles>,
    /// Durations of untouched answers.
    pub untouched_ms: Option<Quantiles>,
    /// The difference of the two.
    pub added_ms: Option<Quantiles>,
    pub extra_cost_usd: f64,
    pub extra_cost_nanousd: i64,
    /// Requests hit whose extra cost cannot be told.
    pub extra_cost_unknown: u64,
}

impl Scorecard {
    /// One line for logs and the audit log.
    #[must_use]
    pub fn in_words(&self) -> String {
        let rate = self.rescue_rate.map_or_else(|| "-".to_owned(), |r| format!("{:.2} %", r * 100.0));
        let added = self.added_ms.map_or_else(|| "-".to_owned(), |q| format!("{:+.0} / {:+.0} ms", q.p50, q.p99));
        format!(
            "{} requests, {} of {} attempts hit, {} requests hit: {} rescued, {} lost ({rate} rescued), {} under way, added latency p50 / p99 {added}, extra cost {} USD",
            self.requests,
            self.hits,
            self.attempts,
            self.requests_hit,
            self.rescued,
            self.lost,
            self.under_way,
            NanoUsd(self.extra_cost_nanousd)
        )
    }

    /// For people.
    #[must_use]
    pub fn to_table(&self) -> String {
        let mut table = Table::new(&["figure", "value"]);
        let ms = |q: Option<Quantiles>| q.map_or_else(|| "-".into(), |q| format!("{:.1} / {:.1}", q.p50, q.p99));
        let rate = self.rescue_rate.map_or_else(|| "-".into(), |r| format!("{:.2} %", r * 100.0));
        for (name, value) in [
            ("requests", self.requests.to_string()),
            ("attempts", self.attempts.to_string()),
            ("attempts hit", self.hits.to_string()),
            ("requests hit", self.requests_hit.to_string()),
            ("rescued", self.rescued.to_string()),
            ("lost", self.lost.to_string()),
            ("caller gone", self.caller_gone.to_string()),
            ("under way", self.under_way.to_string()),
            ("rescue rate", rate),
            ("untouched", self.untouched.to_string()),
            ("rescued, ms p50 / p99", ms(self.rescued_ms)),
            ("untouched, ms p50 / p99", ms(self.untouched_ms)),
            ("added, ms p50 / p99", ms(self.added_ms)),
            ("extra cost usd", NanoUsd(self.extra_cost_nanousd).to_string()),
            ("extra cost unknown", self.extra_cost_unknown.to_string()),
        ] {
            table.row([name.to_owned(), value]);
        }
        table.to_text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_adds_up() {
        let ms = Duration::from_millis;
        let mut score = Score::default();
        assert_eq!((score.card().rescue_rate, score.card().added_ms), (None, None));
        for hit in [true, true, true, true, false, false] {
            score.attempt(hit);
        }
        for _ in 0..4 {
            score.request_struck();
        }
        score.struck_ended(Fate::Answered, ms(300), Some(NanoUsd(50)));
        score.struck_ended(Fate::Lost, ms(5), Some(NanoUsd(7)));
        score.struck_ended(Fate::CallerGone, ms(5), None);
        score.untouched_ended(Fate::Answered, ms(100));
        score.untouched_ended(Fate::Lost, ms(9_000));
        score.other_ended();
        let card = score.card();
        assert_eq!((card.requests, card.attempts, card.hits, card.requests_hit), (6, 6, 4, 4));
        assert_eq!((card.rescued, card.lost, card.caller_gone, card.under_way, card.untouched), (1, 1, 1, 1, 2));
        assert_eq!(card.rescue_rate, Some(0.5));
        let added = card.added_ms.unwrap();
        assert!((added.p50 - 200.0).abs() < 13.0, "{added:?}");
        assert_eq!((card.extra_cost_nanousd, card.extra_cost_unknown), (57, 1));
        assert!(card.to_table().contains("\nrescue rate"), "{}", card.to_table());
        assert!(card.in_words().starts_with("6 requests, 4 of 6 attempts hit"), "{}", card.in_words());
    }
}
