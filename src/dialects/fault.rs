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
    #[serde(borrow, default)]
    message: Option<Text<'a>>,
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

/// What an upstream's error body says, for logs of the operator and the caller's `attempts`: short and without line ends.
#[must_use]
pub fn message_of(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..4096).unwrap_or(body));
    let said = error_member(&text).and_then(|e| serde_json::from_str::<Detail>(e).ok()).map(|d| {
        let kind = d.kind.map_or(String::new(), |k| format!("{}: ", k.0));
        format!("{kind}{}", d.message.map_or_else(String::new, |m| m.0.into_owned()))
    });
    said.unwrap_or_default().chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
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
    fn messages_are_short_and_on_one_line() {
        assert_eq!(message_of(br#"{"error":{"type":"t","message":"a\nb"}}"#), "t: a b");
        assert_eq!(message_of(b"<html>"), "");
    }
}
