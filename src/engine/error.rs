//! What a caller is told when there is no answer.

use crate::domain::outcome::Outcome;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// The machine-readable reason; each has one HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    InvalidRequest,
    InvalidApiKey,
    ModelNotAllowed,
    /// The configuration does not let operators inject faults.
    ChaosNotAllowed,
    ModelNotFound,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    Conflict,
    RequestTooLarge,
    RateLimitExceeded,
    /// A budget is spent: asking again before its period ends is in vain.
    BudgetExceeded,
    /// The vendors' quotas are spent.
    Quota,
    Internal,
    UpstreamFailed,
    /// The vendors refuse our keys: never 401, which would look like the caller's.
    UpstreamAuth,
    UpstreamUnavailable,
    NoEndpointAvailable,
    /// The ledger cannot be written and the configuration says to refuse then.
    LedgerUnavailable,
    DeadlineExceeded,
}

impl Code {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidApiKey => "invalid_api_key",
            Self::ModelNotAllowed => "model_not_allowed",
            Self::ChaosNotAllowed => "chaos_not_allowed",
            Self::ModelNotFound => "model_not_found",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::Conflict => "conflict",
            Self::RequestTooLarge => "request_too_large",
            Self::RateLimitExceeded => "rate_limit_exceeded",
            Self::BudgetExceeded => "budget_exceeded",
            Self::Quota => "quota",
            Self::Internal => "internal_error",
            Self::UpstreamFailed | Self::UpstreamUnavailable => "upstream_failed",
            Self::UpstreamAuth => "upstream_auth",
            Self::NoEndpointAvailable => "no_endpoint_available",
            Self::LedgerUnavailable => "ledger_unavailable",
            Self::DeadlineExceeded => "deadline_exceeded",
        }
    }

    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::InvalidApiKey => 401,
            Self::ModelNotAllowed | Self::ChaosNotAllowed => 403,
            Self::ModelNotFound | Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::Conflict => 409,
            Self::RequestTooLarge => 413,
            Self::RateLimitExceeded | Self::BudgetExceeded | Self::Quota => 429,
            Self::Internal => 500,
            Self::UpstreamFailed | Self::UpstreamAuth => 502,
            Self::UpstreamUnavailable | Self::NoEndpointAvailable | Self::LedgerUnavailable => 503,
            Self::DeadlineExceeded => 504,
        }
    }

    /// OpenAI's `type` for the status.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::InvalidApiKey => "authentication_error",
            Self::ModelNotAllowed | Self::ChaosNotAllowed => "permission_error",
            Self::RateLimitExceeded | Self::BudgetExceeded | Self::Quota => "rate_limit_error",
            _ if self.status() < 500 => "invalid_request_error",
            _ => "upstream_error",
        }
    }
}

/// One failed attempt, as the caller sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttemptNote {
    pub endpoint: Arc<str>,
    pub outcome: &'static str,
    pub ms: u64,
}

/// An error for the caller of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    pub code: Code,
    pub message: String,
    pub param: Option<String>,
    /// When asking again makes sense.
    pub retry_after: Option<Duration>,
    pub attempts: Vec<AttemptNote>,
}

impl ApiError {
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param: None, retry_after: None, attempts: Vec::new() }
    }

    #[must_use]
    pub fn with_param(mut self, param: &str) -> Self {
        self.param = Some(param.into());
        self
    }

    #[must_use]
    pub fn with_retry_after(mut self, after: Option<Duration>) -> Self {
        self.retry_after = after;
        self
    }

    /// The envelope of OpenAI's API.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Envelope<'a> {
            error: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            message: &'a str,
            #[serde(rename = "type")]
            kind: &'a str,
            param: Option<&'a str>,
            code: &'a str,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            attempts: &'a [AttemptNote],
        }
        let error = Inner {
            message: &self.message,
            kind: self.code.kind(),
            param: self.param.as_deref(),
            code: self.code.as_str(),
            attempts: &self.attempts,
        };
        serde_json::to_vec(&Envelope { error }).unwrap_or_default()
    }
}

/// The answer when every attempt failed, by what the attempts came to.
#[must_use]
pub fn of_failures(outcomes: &[Outcome], retry_after: Option<Duration>) -> ApiError {
    let all = |test: fn(&Outcome) -> bool| !outcomes.is_empty() && outcomes.iter().all(test);
    let error =
        if all(|o| matches!(o, Outcome::FirstByteTimeout | Outcome::UpstreamTimeout | Outcome::DeadlineExceeded)) {
            ApiError::new(Code::DeadlineExceeded, "no endpoint answered in time")
        } else if all(|o| *o == Outcome::QuotaExceeded) {
            ApiError::new(Code::Quota, "the quota is spent at every endpoint")
        } else if all(|o| matches!(o, Outcome::RateLimited | Outcome::QuotaExceeded)) {
            ApiError::new(Code::RateLimitExceeded, "every endpoint is at its vendor's rate limit")
        } else if all(|o| *o == Outcome::AuthFailed) {
            ApiError::new(Code::UpstreamAuth, "the vendors refuse the gateway's own keys; tell its operator")
        } else if all(|o| *o == Outcome::ModelNotFound) {
            ApiError::new(Code::ModelNotFound, "no vendor knows the model that the endpoint is configured with")
        } else if all(|o| *o == Outcome::Conflict) {
            ApiError::new(Code::Conflict, "the vendor reports a conflict")
        } else if all(|o| matches!(o, Outcome::Unavailable | Outcome::Overloaded)) {
            ApiError::new(Code::UpstreamUnavailable, "every endpoint is unavailable or overloaded")
        } else {
            ApiError::new(Code::UpstreamFailed, "every attempt failed")
        };
    error.with_retry_after(retry_after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_follows_what_all_attempts_share() {
        let status = |outcomes: &[Outcome]| of_failures(outcomes, None).code.status();
        use Outcome::*;
        assert_eq!(status(&[ServerError, ConnectFailed]), 502);
        assert_eq!(status(&[FirstByteTimeout, UpstreamTimeout]), 504);
        assert_eq!(status(&[FirstByteTimeout, ServerError]), 502);
        assert_eq!(status(&[RateLimited, RateLimited]), 429);
        assert_eq!(status(&[AuthFailed]), 502);
        assert_eq!(status(&[ModelNotFound, ModelNotFound]), 404);
        assert_eq!(status(&[Unavailable, Overloaded]), 503);
    }
}
