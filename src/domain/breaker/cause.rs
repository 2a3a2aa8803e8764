//! What the breaker says about itself: its state, why it changed, and the picture for operators.

use crate::domain::time::Ts;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// The breaker's state; closed is healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Closed,
    Open,
    HalfOpen,
    /// Shut by an operator, until reset or a time.
    ForcedOpen,
    /// Records, never refuses.
    Disabled,
}

impl State {
    pub const ALL: [Self; 5] = [Self::Closed, Self::Open, Self::HalfOpen, Self::ForcedOpen, Self::Disabled];

    /// The name in answers, events and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::Disabled => "disabled",
        }
    }
}

/// Why a state was entered, with the numbers that decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Nothing has happened yet.
    Start,
    /// The share of failures (0..=1) among `calls` in the window.
    FailureRate {
        rate: f64,
        calls: u32,
    },
    /// Failures in a row.
    Consecutive {
        n: u32,
    },
    /// The share of slow calls (0..=1) among `calls` in the window.
    SlowRate {
        rate: f64,
        calls: u32,
    },
    OpenPeriodOver,
    ProbesSucceeded {
        n: u32,
    },
    ProbeFailed,
    /// Half-open ran out without enough successes or a failure.
    NoVerdict,
    Operator {
        reason: Arc<str>,
        author: Arc<str>,
    },
    /// A forced-open period reached its end.
    OperatorPeriodOver,
    /// The process or actor ended while half-open: its probes are lost.
    Restarted,
}

impl Cause {
    pub(super) fn operator(reason: &str, author: &str) -> Self {
        Self::Operator { reason: reason.into(), author: author.into() }
    }

    /// The name in events and metrics, without the numbers.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::FailureRate { .. } => "failure_rate",
            Self::Consecutive { .. } => "consecutive_failures",
            Self::SlowRate { .. } => "slow_rate",
            Self::OpenPeriodOver => "open_period_over",
            Self::ProbesSucceeded { .. } => "probes_succeeded",
            Self::ProbeFailed => "probe_failed",
            Self::NoVerdict => "no_verdict",
            Self::Operator { .. } => "operator",
            Self::OperatorPeriodOver => "operator_period_over",
            Self::Restarted => "restarted",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("no trouble seen yet"),
            Self::FailureRate { rate, calls } => write!(f, "{:.0} % of {calls} calls failed", rate * 100.0),
            Self::Consecutive { n } => write!(f, "{n} failures in a row"),
            Self::SlowRate { rate, calls } => write!(f, "{:.0} % of {calls} calls were slow", rate * 100.0),
            Self::OpenPeriodOver => f.write_str("the open period is over, probing"),
            Self::ProbesSucceeded { n: 1 } => f.write_str("a probe succeeded"),
            Self::ProbesSucceeded { n } => write!(f, "{n} probes succeeded"),
            Self::ProbeFailed => f.write_str("a probe failed"),
            Self::NoVerdict => f.write_str("half-open ended without a verdict"),
            Self::Operator { reason, author } => write!(f, "{reason} (by {author})"),
            Self::OperatorPeriodOver => f.write_str("the operator's period is over, probing"),
            Self::Restarted => f.write_str("restarted while half-open"),
        }
    }
}

/// One change of state.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    pub from: State,
    pub to: State,
    /// Of the state that was entered.
    pub epoch: u64,
    pub cause: Cause,
}

/// A breaker as operators see it.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerView {
    pub state: State,
    /// Why it is in this state, in plain words.
    pub reason: String,
    pub since: Ts,
    /// When it next lets somebody in; `None` if it does now, or nobody knows.
    pub retry_at: Option<Ts>,
    /// Weighted share of failures in the window, 0..=1.
    pub failure_rate: f64,
    /// Share of slow calls in the window, 0..=1.
    pub slow_rate: f64,
    /// Calls in the window.
    pub calls: u32,
    pub epoch: u64,
}
