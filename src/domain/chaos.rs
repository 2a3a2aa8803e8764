//! Faults that an operator injects below an endpoint's breaker, and when one strikes.
//!
//! - An experiment names one endpoint, a share of its attempts and how long it lasts; it never strikes another endpoint, nor
//!   before its start or after its end.
//! - An attempt is struck by at most one experiment. One roll decides: the experiments of an endpoint lie side by side in 0..1, each
//!   as wide as its share, so every share is kept exactly and all of them together are at most 1.
//! - A fault that only a stream can have leaves whole answers alone.
//! - Names and shapes of faults are the simulated providers' where they mean the same.
//!
//! What a fault looks like on the wire is the engine's business, and so is telling anybody.

mod score;

pub use score::{Fate, Quantiles, Score, Scorecard};

use crate::domain::spread::Latency;
use crate::domain::time::Ts;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// No experiment lasts longer.
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Experiments that may run at a time, on all endpoints together.
pub const MOST_RUNNING: usize = 32;

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fault {
    /// An answer with this status; a text as `body` is sent as it is, other JSON as JSON, none: OpenAI's envelope. Nothing goes upstream.
    Status {
        code: u16,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        headers: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        body: Option<Value>,
    },
    /// Connecting is refused. Nothing goes upstream.
    Refuse,
    /// Never answered. Nothing goes upstream.
    Hang,
    /// A 200 that is none. Nothing goes upstream.
    Malformed { what: Malformed },
    /// The real answer's first byte comes this much later.
    SlowFirstByte { ms: u64 },
    /// The real answer's first byte comes later by a time that is drawn for each attempt.
    Latency { latency: Latency },
    /// The real answer comes at this rate at most.
    Trickle {
        #[serde(flatten)]
        pace: Pace,
    },
    /// The real answer's connection ends in the middle of the event after so many content events; a whole answer: in its middle.
    CutAfter { events: u64 },
    /// Streams: an error event after so many content events of the real answer, then the end.
    ErrorEvent {
        after: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        body: Option<Value>,
    },
}

/// The ways in which a 200 can be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Malformed {
    /// A web page.
    Html,
    HalfJson,
    /// No body at all.
    Empty,
    /// An error envelope.
    #[serde(rename = "json_error_200")]
    JsonError200,
}

/// How fast an answer trickles.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// A stream's event counts as a token, four bytes of a whole answer as well.
    TokensPerSecond(f64),
    BytesPerSecond(u64),
}

impl Fault {
    /// The name in JSON, in ledger rows and in metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status { .. } => "status",
            Self::Refuse => "refuse",
            Self::Hang => "hang",
            Self::Malformed { .. } => "malformed",
            Self::SlowFirstByte { .. } => "slow_first_byte",
            Self::Latency { .. } => "latency",
            Self::Trickle { .. } => "trickle",
            Self::CutAfter { .. } => "cut_after",
            Self::ErrorEvent { .. } => "error_event",
        }
    }

    /// Whether an answer of this kind can have it.
    #[must_use]
    pub fn fits(&self, is_stream: bool) -> bool {
        is_stream || !matches!(self, Self::ErrorEvent { .. })
    }
}

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Experiment {
    pub endpoint: Arc<str>,
    /// Of the endpoint's attempts that can have the fault; above 0, at most 1.
    pub share: f64,
    /// At most [`LONGEST`].
    pub period: Duration,
    pub fault: Fault,
}

/// Where and when an experiment strikes.
#[derive(Clone, Copy, Debug)]
pub struct Slot<'a> {
    pub experiment: &'a Experiment,
    /// The endpoint's number in this process: another of the same name is another one.
    pub endpoint: u32,
    pub starts: Ts,
    pub ends: Ts,
}

impl Slot<'_> {
    /// Whether an attempt at `endpoint` at `now` is one that it may strike.
    #[must_use]
    pub fn covers(&self, endpoint: u32, is_stream: bool, now: Ts) -> bool {
        self.endpoint == endpoint && self.starts <= now && now < self.ends && self.experiment.fault.fits(is_stream)
    }
}

/// Which of the experiments, in their order, strikes an attempt at `endpoint` for a `roll` in 0..1.
pub fn strikes<'a>(
    slots: impl IntoIterator<Item = Slot<'a>>,
    endpoint: u32,
    is_stream: bool,
    now: Ts,
    roll: f64,
) -> Option<usize> {
    let mut low = 0.0;
    for (index, slot) in slots.into_iter().enumerate() {
        if slot.endpoint != endpoint {
            continue;
        }
        let high = low + slot.experiment.share;
        if roll >= low && roll < high {
            return slot.covers(endpoint, is_stream, now).then_some(index);
        }
        low = high;
    }
    None
}

/// The share of an endpoint's attempts that experiments with these shares leave free.
#[must_use]
pub fn free_share(taken: impl IntoIterator<Item = f64>) -> f64 {
    // Sums of decimal shares miss their mark by less than this.
    const ROUNDING: f64 = 1e-9;
    let free = 1.0 - taken.into_iter().sum::<f64>();
    if free < ROUNDING { 0.0 } else { free + ROUNDING }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fault(kind: u8) -> Fault {
        match kind {
            0 => Fault::Refuse,
            1 => Fault::ErrorEvent { after: 1, body: None },
            _ => Fault::Status { code: 503, headers: BTreeMap::new(), body: None },
        }
    }

    proptest! {
        #[test]
        fn shares_places_and_times_are_kept(
            asked in proptest::collection::vec((0_u32..4, 1_u32..40, 0_u64..1_000, 1_u64..1_000, 0_u8..3), 1..12),
            endpoint in 0_u32..5, now in 0_u64..2_500, is_stream: bool,
        ) {
            let mut made: Vec<(Experiment, u32, Ts, Ts)> = Vec::new();
            for (at, hundredths, starts, lasts, kind) in asked {
                let share = f64::from(hundredths) / 100.0;
                if share > free_share(made.iter().filter(|m| m.1 == at).map(|m| m.0.share)) {
                    continue;
                }
                let period = Duration::from_micros(lasts);
                let experiment = Experiment { endpoint: at.to_string().into(), share, period, fault: fault(kind) };
                made.push((experiment, at, Ts(starts), Ts(starts).plus(period)));
            }
            let slots = || made.iter().map(|(experiment, endpoint, starts, ends)| Slot { experiment, endpoint: *endpoint, starts: *starts, ends: *ends });
            const ROLLS: u32 = 10_000;
            let mut struck = vec![0_u32; made.len()];
            for n in 0..ROLLS {
                if let Some(hit) = strikes(slots(), endpoint, is_stream, Ts(now), f64::from(n) / f64::from(ROLLS)) {
                    struck[hit] += 1;
                }
            }
            for ((experiment, at, starts, ends), struck) in made.iter().zip(struck) {
                let runs = *starts <= Ts(now) && Ts(now) < *ends;
                let may = *at == endpoint && runs && (is_stream || !matches!(experiment.fault, Fault::ErrorEvent { .. }));
                let expected = if may { experiment.share * f64::from(ROLLS) } else { 0.0 };
                // Even rolls hit an interval as often as it is wide, to one at each end.
                prop_assert!((f64::from(struck) - expected).abs() <= if may { 2.0 } else { 0.0 }, "{struck} of {expected}");
            }
        }
    }

    #[test]
    fn the_free_share_ends_at_nothing() {
        assert!(0.7 <= free_share([0.1, 0.2]));
        assert!(free_share([0.1; 10]) < 0.01);
        assert!(0.01 > free_share([1.0]) && free_share([]) >= 1.0);
    }

    #[test]
    fn faults_are_spelled_as_the_simulator_spells_them() {
        let spelled = |fault: Fault| serde_json::to_value(fault).unwrap();
        assert_eq!(spelled(Fault::Refuse), serde_json::json!({"kind": "refuse"}));
        assert_eq!(
            spelled(Fault::Trickle { pace: Pace::TokensPerSecond(2.5) }),
            serde_json::json!({"kind": "trickle", "tokens_per_second": 2.5})
        );
        let latency = Latency::Lognormal { median_ms: 40.0, p99_ms: 200.0 };
        assert_eq!(
            spelled(Fault::Latency { latency }),
            serde_json::json!({"kind": "latency", "latency": {"dist": "lognormal", "median_ms": 40.0, "p99_ms": 200.0}})
        );
        for what in [Malformed::Html, Malformed::JsonError200] {
            let fault = Fault::Malformed { what };
            assert_eq!(spelled(fault.clone())["kind"], fault.name());
        }
        assert_eq!(spelled(Fault::Malformed { what: Malformed::JsonError200 })["what"], "json_error_200");
    }
}
