//! How an attempt ended, and what that means: one table decides what the breaker counts, whether the next candidate is
//! tried, what happens to reserved tokens, and what the caller is told. Events are classed once; only the class travels.

use serde::{Deserialize, Serialize};

/// How one attempt at one endpoint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Success,
    /// DNS, refused, TLS, reset before headers.
    ConnectFailed,
    ConnectTimeout,
    /// Connected and sent, no first byte in time: the upstream may have charged.
    FirstByteTimeout,
    /// The upstream's own 408.
    UpstreamTimeout,
    /// 409.
    Conflict,
    /// 429 with a short pause.
    RateLimited,
    /// 429 that speaks of quota or spend, or pauses over 120 s.
    QuotaExceeded,
    /// 401, 402, 403 for our key at the vendor.
    AuthFailed,
    /// 404 for the model, 405.
    ModelNotFound,
    /// 400, 413, 415, 422 and other answers about the request itself.
    InvalidRequest,
    ContextLength,
    ContentPolicy,
    /// 500, 502, 504 and other 5xx.
    ServerError,
    /// 503.
    Unavailable,
    /// 529.
    Overloaded,
    /// A 200 that is none: error body, HTML, malformed or empty JSON, wrong content type, too large.
    Protocol,
    /// A stream that failed after content was delivered: error event, idle timeout, truncation, broken chunk.
    Partial,
    /// The caller's deadline, or the attempt's share of it, ended the attempt.
    DeadlineExceeded,
    /// The caller went away.
    Cancelled,
}

/// What the breaker records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Success,
    /// A failure; `half_weight` counts as half of one (529).
    Failure {
        half_weight: bool,
    },
    /// Says nothing about health.
    Neutral,
}

/// Whether another candidate may be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failover {
    Yes,
    /// At most one more attempt because of this (409).
    Once,
    No,
}

/// What becomes of the tokens that the attempt reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// Replaced by what was really used.
    Settle,
    Refund,
    /// Stays spent: the upstream may have counted it.
    Keep,
}

/// The whole consequence of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    pub verdict: Verdict,
    /// Counts as a slow call whatever it took.
    pub slow: bool,
    pub failover: Failover,
    pub reserved: Reserved,
    /// What another attempt because of this takes from the retry budget.
    pub retry_cost: u32,
}

impl Outcome {
    pub const ALL: [Self; 20] = [
        Self::Success,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::FirstByteTimeout,
        Self::UpstreamTimeout,
        Self::Conflict,
        Self::RateLimited,
        Self::QuotaExceeded,
        Self::AuthFailed,
        Self::ModelNotFound,
        Self::InvalidRequest,
        Self::ContextLength,
        Self::ContentPolicy,
        Self::ServerError,
        Self::Unavailable,
        Self::Overloaded,
        Self::Protocol,
        Self::Partial,
        Self::DeadlineExceeded,
        Self::Cancelled,
    ];

    /// The table of docs/resilience.md.
    #[must_use]
    pub fn class(self) -> Class {
        use Failover::{No, Once, Yes};
        use Reserved::{Keep, Refund, Settle};
        use Verdict::{Neutral, Success};
        const FAILURE: Verdict = Verdict::Failure { half_weight: false };
        let class = |verdict, failover, reserved| Class { verdict, slow: false, failover, reserved, retry_cost: 1 };
        let timeout = Class { slow: true, retry_cost: 2, ..class(FAILURE, Yes, Keep) };
        match self {
            Self::Success => class(Success, No, Settle),
            Self::ConnectFailed | Self::ConnectTimeout | Self::ServerError | Self::Unavailable => {
                class(FAILURE, Yes, Refund)
            }
            Self::FirstByteTimeout | Self::UpstreamTimeout => timeout,
            Self::Conflict => class(Neutral, Once, Refund),
            Self::RateLimited | Self::QuotaExceeded | Self::AuthFailed | Self::ModelNotFound => {
                class(Neutral, Yes, Refund)
            }
            Self::InvalidRequest | Self::ContextLength => class(Success, No, Refund),
            Self::ContentPolicy => class(Success, No, Settle),
            Self::Overloaded => class(Verdict::Failure { half_weight: true }, Yes, Keep),
            // Usage that was seen before the fault is settled by the caller of this table; without it nothing was delivered.
            Self::Protocol => class(FAILURE, Yes, Refund),
            Self::Partial => class(FAILURE, No, Settle),
            Self::DeadlineExceeded => class(Neutral, No, Keep),
            Self::Cancelled => class(Neutral, No, Settle),
        }
    }

    /// The name in attempts, decisions and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::Conflict => "conflict",
            Self::RateLimited => "rate_limited",
            Self::QuotaExceeded => "quota_exceeded",
            Self::AuthFailed => "auth_failed",
            Self::ModelNotFound => "model_not_found",
            Self::InvalidRequest => "invalid_request",
            Self::ContextLength => "context_length",
            Self::ContentPolicy => "content_policy",
            Self::ServerError => "server_error",
            Self::Unavailable => "unavailable",
            Self::Overloaded => "overloaded",
            Self::Protocol => "protocol",
            Self::Partial => "partial",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Cancelled => "cancelled",
        }
    }

    /// The ledger's `outcome`: as [`Self::as_str`], but a timeout after sending is `uncertain`, because the row cannot know
    /// whether the upstream charged.
    #[must_use]
    pub fn ledger_str(self) -> &'static str {
        match self {
            Self::FirstByteTimeout | Self::DeadlineExceeded => "uncertain",
            other => other.as_str(),
        }
    }

    /// Whether the endpoint answered the request, as far as success rates are concerned.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Success
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_stands_once_with_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Outcome::ALL.iter().map(|o| o.as_str()).collect();
        assert_eq!(names.len(), Outcome::ALL.len());
    }

    #[test]
    fn only_health_faults_count_against_the_breaker() {
        let failures: Vec<_> = Outcome::ALL
            .into_iter()
            .filter(|o| matches!(o.class().verdict, Verdict::Failure { .. }))
            .map(Outcome::as_str)
            .collect();
        assert_eq!(
            failures,
            [
                "connect_failed",
                "connect_timeout",
                "first_byte_timeout",
                "upstream_timeout",
                "server_error",
                "unavailable",
                "overloaded",
                "protocol",
                "partial"
            ]
        );
    }
}
