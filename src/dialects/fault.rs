//! Classing what an upstream did wrong. Every fault is classed here, once; only the [`Outcome`] travels on.

use crate::dialects::members::Text;
use crate::domain::outcome::Outcome;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::time::Duration;

/// A 429 that asks for a longer pause than this is a spent quota.
const LONGEST_RATE_PAUSE: Duration = Duration::from_secs(120);

#[derive(Deserialize, Default)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct Detail<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Text<'a>>,
    /// A string at OpenAI, a number at others.
    #[serde(borrow, default)]
    code: Option<&'a RawValue>,
}

/// Classes an answer with an error status.
#[must_use]
pub fn of_status(status: u16, body: &[u8], retry_after: Option<Duration>) -> Outcome {
    match status {
        408 => Outcome::UpstreamTimeout,
        409 => Outcome::Conflict,
        401..=403 if !says(body, &["content_policy", "content_filter"]) => Outcome::AuthFailed,
        404 | 405 => Outcome::ModelNotFound,
        429 => {
            let quota =
                says(body, &["insufficient_quota", "billing", "spend limit", "quota exceeded", "credit balance"]);
            if quota || retry_after.is_some_and(|d| d > LONGEST_RATE_PAUSE) {
                Outcome::QuotaExceeded
            } else {
                Outcome::RateLimited
            }
        }
        503 => Outcome::Unavailable,
        529 => Outcome::Overloaded,
        500.. => Outcome::ServerError,
        400..500 => of_request(body),
        // Redirects are not followed, and nothing else below 400 is an answer to a completion.
        _ => Outcome::Protocol,
    }
}

fn of_request(body: &[u8]) -> Outcome {
    if says(body, &["context_length_exceeded", "maximum context length", "prompt is too long", "context window"]) {
        Outcome::ContextLength
    } else if says(body, &["content_policy", "content_filter", "content management policy"]) {
        Outcome::ContentPolicy
    } else {
        Outcome::InvalidRequest
    }
}

/// Classes an error object that came with a 200, or as a stream's event: by its numeric code if it has one, else by its words.
#[must_use]
pub fn of_error_object(error: &str) -> Outcome {
    let detail: Detail = serde_json::from_str(error).unwrap_or_default();
    let code = detail.code.map_or("", |c| c.get()).trim_matches('"');
    if let Ok(status @ 400..=599) = code.parse::<u16>() {
        return of_status(status, error.as_bytes(), None);
    }
    let says = |words: &[&str]| says(error.as_bytes(), words);
    if says(&["rate_limit", "too many requests"]) {
        Outcome::RateLimited
    } else if says(&["insufficient_quota"]) {
        Outcome::QuotaExceeded
    } else if says(&["overloaded"]) {
        Outcome::Overloaded
    } else if says(&["server_error", "internal_error", "internal server error"]) {
        Outcome::ServerError
    } else if says(&["invalid_request"]) {
        of_request(error.as_bytes())
    } else {
        Outcome::Protocol
    }
}

/// The `error` member of a JSON object, if it has one that is not null.
#[must_use]
pub fn error_member(json: &str) -> Option<&str> {
    let envelope: Envelope = serde_json::from_str(json).ok()?;
    envelope.error.map(RawValue::get).filter(|e| *e != "null")
}

/// What kind of error an upstream's body names, for logs and records: its `type` and `code`. Never its message, in which vendors
/// repeat keys and prompts.
#[must_use]
pub fn kind_of(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..65_536).unwrap_or(body));
    let detail = error_member(&text).and_then(|e| serde_json::from_str::<Detail>(e).ok()).unwrap_or_default();
    let kind = detail.kind.as_ref().map_or("", |k| &k.0);
    let code = detail.code.map_or("", RawValue::get).trim_matches('"');
    let word = |w: &&str| {
        !w.is_empty() && w.len() <= 64 && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    [kind, code].into_iter().filter(word).filter(|w| *w != "null").collect::<Vec<_>>().join(" ")
}

/// Whether the first 8 KiB of `body` contain one of `words`, whatever the case.
fn says(body: &[u8], words: &[&str]) -> bool {
    let head = body.get(..8192).unwrap_or(body).to_ascii_lowercase();
    words.iter().any(|w| head.windows(w.len()).any(|at| at == w.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_classed_by_number_and_words() {
        let class = |status, body: &str| of_status(status, body.as_bytes(), None);
        assert_eq!(class(400, r#"{"error":{"code":"context_length_exceeded"}}"#), Outcome::ContextLength);
        assert_eq!(class(400, r#"{"error":{"code":"content_filter"}}"#), Outcome::ContentPolicy);
        assert_eq!(class(422, "{}"), Outcome::InvalidRequest);
        assert_eq!(class(429, "slow down"), Outcome::RateLimited);
        assert_eq!(class(429, r#"{"error":{"type":"insufficient_quota"}}"#), Outcome::QuotaExceeded);
        assert_eq!(of_status(429, b"", Some(Duration::from_secs(121))), Outcome::QuotaExceeded);
        for (status, outcome) in [
            (401, Outcome::AuthFailed),
            (402, Outcome::AuthFailed),
            (403, Outcome::AuthFailed),
            (404, Outcome::ModelNotFound),
            (405, Outcome::ModelNotFound),
            (408, Outcome::UpstreamTimeout),
            (409, Outcome::Conflict),
            (500, Outcome::ServerError),
            (502, Outcome::ServerError),
            (503, Outcome::Unavailable),
            (504, Outcome::ServerError),
            (529, Outcome::Overloaded),
            (302, Outcome::Protocol),
        ] {
            assert_eq!(class(status, ""), outcome, "{status}");
        }
    }

    #[test]
    fn error_objects_are_classed_by_code_then_words() {
        assert_eq!(of_error_object(r#"{"code":429}"#), Outcome::RateLimited);
        assert_eq!(of_error_object(r#"{"code":"502","message":"x"}"#), Outcome::ServerError);
        assert_eq!(of_error_object(r#"{"type":"overloaded_error"}"#), Outcome::Overloaded);
        assert_eq!(of_error_object(r#"{"type":"server_error"}"#), Outcome::ServerError);
        assert_eq!(of_error_object(r#""odd""#), Outcome::Protocol);
    }

    #[test]
    fn only_the_kind_of_an_error_is_kept() {
        let body =
            br#"{"error":{"type":"invalid_request_error","code":"bad_key","message":"your key sk-1 and prompt"}}"#;
        assert_eq!(kind_of(body), "invalid_request_error bad_key");
        assert_eq!(kind_of(br#"{"error":{"type":"Your key is sk-1","code":429}}"#), "429");
        assert_eq!(kind_of(b"<html>"), "");
    }
}
