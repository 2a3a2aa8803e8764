//! What is asked of a gate and what it answers. Plain data.

use crate::domain::time::Ts;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the breaker lets through; only the endpoint's actor moves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Open {
        epoch: u64,
    },
    /// Traffic comes back in steps.
    Ramp {
        epoch: u64,
        since: Ts,
        over: Duration,
    },
    Shut {
        epoch: u64,
        until: Option<Ts>,
        /// Shut by an operator.
        operator: bool,
    },
    Probing {
        epoch: u64,
        /// Probes that may start now.
        left: u32,
        /// Permits that come free one by one as earlier probes are judged: more successes are needed than may run at once.
        spare: u32,
    },
}

/// How a request asks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ask {
    /// Whether it may be a half-open endpoint's probe: it has somewhere else to go, or nowhere at all.
    pub may_probe: bool,
    /// 0..1, uniform; 0 always passes a ramp.
    pub roll: f64,
}

/// The right to one attempt. It must come back to the gate that gave it, exactly once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a ticket that is not released counts as in flight for ever"]
pub struct Ticket {
    /// Of the breaker's state period that let it in.
    pub epoch: u64,
    pub probe: bool,
    /// The one probe while its failure domain is open.
    pub held: bool,
    /// Reserved.
    pub tokens: u64,
    /// When it was admitted.
    pub at: Ts,
    /// Number among this gate's tickets.
    pub serial: u64,
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    BreakerOpen,
    /// By an operator.
    ForcedOpen,
    /// All probe permits are out.
    HalfOpenFull,
    /// Half-open, and this request may not be a probe.
    ProbeNotAllowed,
    /// The endpoint's failure domain is open for it.
    DomainOpen,
    /// Recently closed, and not in the share that is let through.
    Ramping,
    /// Paused after a 429.
    RateLimited,
    Quota,
    AuthFailed,
    /// Paused at the wish of a 503.
    Unavailable,
    Rpm,
    Tpm,
    Concurrency,
    /// Others wait for a place here.
    Queued,
}

impl RefusalReason {
    pub const ALL: [Self; 14] = [
        Self::BreakerOpen,
        Self::ForcedOpen,
        Self::HalfOpenFull,
        Self::ProbeNotAllowed,
        Self::DomainOpen,
        Self::Ramping,
        Self::RateLimited,
        Self::Quota,
        Self::AuthFailed,
        Self::Unavailable,
        Self::Rpm,
        Self::Tpm,
        Self::Concurrency,
        Self::Queued,
    ];

    /// The name in decisions and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BreakerOpen => "breaker_open",
            Self::ForcedOpen => "forced_open",
            Self::HalfOpenFull => "half_open_full",
            Self::ProbeNotAllowed => "probe_not_allowed",
            Self::DomainOpen => "domain_open",
            Self::Ramping => "ramping",
            Self::RateLimited => "rate_limited",
            Self::Quota => "quota",
            Self::AuthFailed => "auth_failed",
            Self::Unavailable => "unavailable",
            Self::Rpm => "rpm",
            Self::Tpm => "tpm",
            Self::Concurrency => "concurrency",
            Self::Queued => "queued",
        }
    }

    /// Whether the refusal ends at its `retry_at` by itself; the others end when somebody else does something.
    #[must_use]
    pub fn ends_by_time(self) -> bool {
        use RefusalReason::{AuthFailed, Quota, RateLimited, Rpm, Tpm, Unavailable};
        matches!(self, RateLimited | Quota | AuthFailed | Unavailable | Rpm | Tpm)
    }

    /// Whether it is the breaker's word, or its domain's; the others are limits.
    #[must_use]
    pub fn is_breaker(self) -> bool {
        use RefusalReason::{BreakerOpen, DomainOpen, ForcedOpen, HalfOpenFull, ProbeNotAllowed, Ramping};
        matches!(self, BreakerOpen | DomainOpen | ForcedOpen | HalfOpenFull | ProbeNotAllowed | Ramping)
    }
}

/// A refusal: not a failure, the next candidate is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: RefusalReason,
    /// When asking again makes sense; `None` if it depends on others.
    pub retry_at: Option<Ts>,
}

/// Why an endpoint is left alone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseReason {
    RateLimited,
    Quota,
    Auth,
    Unavailable,
}

impl PauseReason {
    pub const ALL: [Self; 4] = [Self::RateLimited, Self::Quota, Self::Auth, Self::Unavailable];

    /// The name in answers and events; the one of the refusal it leads to.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        RefusalReason::from(self).as_str()
    }
}

impl From<PauseReason> for RefusalReason {
    fn from(reason: PauseReason) -> Self {
        match reason {
            PauseReason::RateLimited => Self::RateLimited,
            PauseReason::Quota => Self::Quota,
            PauseReason::Auth => Self::AuthFailed,
            PauseReason::Unavailable => Self::Unavailable,
        }
    }
}

/// A gate as operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateView {
    /// Limit in force per minute and what is left of its bucket (negative in debt); `None`: unlimited.
    pub rpm: Option<(u64, i64)>,
    pub tpm: Option<(u64, i64)>,
    /// Limit in force and requests in flight.
    pub concurrency: (u32, u32),
    pub configured_concurrency: u32,
    /// The pause that ends last.
    pub paused: Option<(PauseReason, Ts)>,
    /// Shut for its failure domain until about then.
    pub held_until: Option<Ts>,
    /// The limit learnt from 429s, while it is in force.
    pub learnt_rpm: Option<u64>,
}
