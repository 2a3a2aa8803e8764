//! What a simulated provider says: the text `t0 t1 t2 …`, whole or as a stream, sound or with a fault in it.

use breakwater::sim::{FaultKind, Malformed};
use bytes::Bytes;
use futures_util::stream;
use reqwest::{Body, Response};
use serde_json::{Value, json};
use std::io;
use std::time::Duration;

/// What a request asks for, as the provider reads it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The client's name for its request.
    pub request: String,
    pub model: String,
    pub stream: bool,
    /// Length of the answer, as far as `most` lets it be told.
    pub tokens: usize,
    /// The whole answer's length.
    pub wanted: usize,
    /// The token to begin with: 0, or the one after the text that an assistant has said already.
    pub from: usize,
}

/// The text of tokens `from..to`, as it stands in the whole text.
pub fn text(from: usize, to: usize) -> String {
    (from..to).map(word).collect()
}

fn word(i: usize) -> String {
    if i == 0 { "t0".into() } else { format!(" t{i}") }
}

impl Asked {
    /// Reads `q NAME TOKENS` from the first user message, and what was said already from the last assistant's.
    pub fn read(body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).expect("the engine sends JSON");
        let content = |role: &str, last: bool| {
            let all = body["messages"].as_array().expect("messages");
            let mut of_role = all.iter().filter(|m| m["role"] == role).filter_map(|m| m["content"].as_str());
            if last { of_role.next_back() } else { of_role.next() }.unwrap_or_default().to_owned()
        };
        let prompt = content("user", false);
        let mut words = prompt.split(' ').skip(1);
        let request = words.next().expect("a name").to_owned();
        let tokens: usize = words.next().and_then(|n| n.parse().ok()).expect("a length");
        let said = content("assistant", true);
        let last = said.split(' ').next_back().and_then(|w| w.strip_prefix('t')).and_then(|n| n.parse::<usize>().ok());
        let from = last.map_or(0, |n| n + 1);
        let most = ["max_tokens", "max_completion_tokens"].into_iter().find_map(|name| body[name].as_u64());
        let most = most.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        Self {
            request,
            model: body["model"].as_str().unwrap_or_default().to_owned(),
            stream: body["stream"] == true,
            tokens: tokens.min(from.saturating_add(most)),
            wanted: tokens,
            from,
        }
    }

    fn finish_reason(&self) -> &'static str {
        if self.tokens < self.wanted { "length" } else { "stop" }
    }
}

/// A piece of a body, after a wait.
enum Piece {
    Bytes(Duration, Bytes),
    /// The connection breaks.
    Broken,
    /// Nothing more, and no end.
    Silence,
}

/// Held by a body; dropped with it.
pub trait Guard: Send + Sync + 'static {}
impl<T: Send + Sync + 'static> Guard for T {}

fn body(pieces: Vec<Piece>, guard: impl Guard) -> Body {
    let pieces = pieces.into_iter();
    Body::wrap_stream(stream::unfold((pieces, guard), |(mut pieces, guard)| async move {
        match pieces.next()? {
            Piece::Bytes(wait, bytes) => {
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
                Some((Ok(bytes), (pieces, guard)))
            }
            Piece::Broken => {
                let broken = io::Error::new(io::ErrorKind::ConnectionReset, "the connection was reset");
                Some((Err(broken), (Vec::new().into_iter(), guard)))
            }
            Piece::Silence => std::future::pending().await,
        }
    }))
}

fn response(status: u16, headers: &[(&str, &str)], pieces: Vec<Piece>, guard: impl Guard) -> Response {
    let mut head = http::Response::builder().status(status);
    for (name, value) in headers {
        head = head.header(*name, *value);
    }
    Response::from(head.body(body(pieces, guard)).expect("a valid head"))
}

fn at_once(text: impl Into<Bytes>) -> Vec<Piece> {
    vec![Piece::Bytes(Duration::ZERO, text.into())]
}

const JSON: (&str, &str) = ("content-type", "application/json");
const SSE: (&str, &str) = ("content-type", "text/event-stream");

fn error_body(kind: &str, code: &str) -> String {
    json!({"error": {"message": "simulated", "type": kind, "param": null, "code": code}}).to_string()
}

/// The answer that a status stands for.
fn with_status(status: u16, headers: &[(&str, &str)], guard: impl Guard) -> Response {
    let kind = match status {
        429 => ("requests", "rate_limit_exceeded"),
        404 => ("invalid_request_error", "model_not_found"),
        401 => ("invalid_request_error", "invalid_api_key"),
        529 => ("overloaded_error", "overloaded"),
        _ => ("server_error", "simulated"),
    };
    let headers: Vec<_> = headers.iter().copied().chain([JSON]).collect();
    response(status, &headers, at_once(error_body(kind.0, kind.1)), guard)
}

/// The answer to `asked`; the head has been waited for already. `gap` is between tokens.
pub fn answer(asked: &Asked, fault: Option<&FaultKind>, gap: Duration, guard: impl Guard) -> Response {
    match fault {
        Some(FaultKind::Status { code, .. }) => with_status(*code, &[], guard),
        Some(FaultKind::Overloaded529) => with_status(529, &[], guard),
        Some(FaultKind::AuthFailed) => with_status(401, &[], guard),
        Some(FaultKind::Quota) => {
            response(429, &[JSON], at_once(error_body("insufficient_quota", "insufficient_quota")), guard)
        }
        Some(FaultKind::RateLimited { retry_after, retry_after_ms }) => {
            let named = [("retry-after", retry_after), ("retry-after-ms", retry_after_ms)];
            let headers: Vec<_> = named.iter().filter_map(|(n, v)| Some((*n, v.as_deref()?))).collect();
            with_status(429, &headers, guard)
        }
        Some(FaultKind::Malformed { what }) => malformed(*what, asked, guard),
        _ if asked.stream => response(200, &[SSE], stream_of(asked, fault, gap), guard),
        _ => response(200, &[JSON], whole(asked, fault), guard),
    }
}

fn malformed(what: Malformed, asked: &Asked, guard: impl Guard) -> Response {
    let kind = if asked.stream { SSE } else { JSON };
    match what {
        Malformed::Html => response(200, &[("content-type", "text/html")], at_once("<html>busy</html>"), guard),
        Malformed::HalfJson => {
            response(200, &[kind], at_once(if asked.stream { "data: {\"id\n\n" } else { "{\"id" }), guard)
        }
        Malformed::Empty => response(200, &[kind], Vec::new(), guard),
        Malformed::JsonError200 => response(200, &[JSON], at_once(error_body("server_error", "simulated")), guard),
        Malformed::WrongContentType => response(200, &[("content-type", "text/plain")], at_once("hello"), guard),
    }
}

fn usage(asked: &Asked) -> Value {
    let said = asked.tokens.saturating_sub(asked.from);
    json!({"prompt_tokens": 9, "completion_tokens": said, "total_tokens": 9 + said})
}

fn whole(asked: &Asked, fault: Option<&FaultKind>) -> Vec<Piece> {
    let mut body = json!({
        "id": "c", "object": "chat.completion", "created": 0, "model": asked.model,
        "choices": [{"index": 0, "finish_reason": asked.finish_reason(),
            "message": {"role": "assistant", "content": text(asked.from, asked.tokens)}}],
    });
    if !matches!(fault, Some(FaultKind::NoUsage)) {
        body["usage"] = usage(asked);
    }
    let text = body.to_string();
    let half = Bytes::copy_from_slice(&text.as_bytes()[..text.len() / 2]);
    match fault {
        Some(FaultKind::CutAfter { .. }) => vec![Piece::Bytes(Duration::ZERO, half), Piece::Broken],
        Some(FaultKind::EndWithoutDone { .. } | FaultKind::BrokenJsonEvent { .. }) => at_once(half),
        Some(FaultKind::ErrorEvent { .. } | FaultKind::FirstEventError { .. }) => {
            at_once(error_body("server_error", "simulated"))
        }
        Some(FaultKind::SilentAfter { ms: None, .. }) => vec![Piece::Bytes(Duration::ZERO, half), Piece::Silence],
        Some(FaultKind::SilentAfter { ms: Some(ms), .. }) => {
            vec![Piece::Bytes(Duration::from_millis(*ms), text.into())]
        }
        _ => at_once(text),
    }
}

fn event(asked: &Asked, delta: &Value, finish: Option<&str>) -> Bytes {
    let chunk = json!({
        "id": "c", "object": "chat.completion.chunk", "created": 0, "model": asked.model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    });
    format!("data: {chunk}\n\n").into()
}

/// The pieces of a stream, up to where its fault falls.
fn stream_of(asked: &Asked, fault: Option<&FaultKind>, gap: Duration) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut say = |wait, bytes: Bytes| pieces.push(Piece::Bytes(wait, bytes));
    let error = || Bytes::from(format!("data: {}\n\n", error_body("server_error", "simulated")));
    if matches!(fault, Some(FaultKind::FirstEventError { .. })) {
        say(Duration::ZERO, error());
        return pieces;
    }
    say(Duration::ZERO, event(asked, &json!({"role": "assistant", "content": ""}), None));
    for (said, i) in (asked.from..asked.tokens).enumerate() {
        let mut wait = if said == 0 { Duration::ZERO } else { gap };
        let said = said as u64;
        match fault {
            Some(FaultKind::CutAfter { events, .. }) if said == *events => {
                pieces.push(Piece::Broken);
                return pieces;
            }
            Some(FaultKind::EndWithoutDone { events: Some(events) }) if said == *events => return pieces,
            Some(FaultKind::ErrorEvent { after, .. }) if said == *after => {
                pieces.push(Piece::Bytes(Duration::ZERO, error()));
                return pieces;
            }
            Some(FaultKind::BrokenJsonEvent { after }) if said == *after => {
                pieces.push(Piece::Bytes(Duration::ZERO, Bytes::from_static(b"data: {\"id\":\n\n")));
                return pieces;
            }
            Some(FaultKind::SilentAfter { events, ms }) if said == *events => match ms {
                Some(ms) => wait += Duration::from_millis(*ms),
                None => {
                    pieces.push(Piece::Silence);
                    return pieces;
                }
            },
            _ => {}
        }
        pieces.push(Piece::Bytes(wait, event(asked, &json!({"content": word(i)}), None)));
    }
    if matches!(fault, Some(FaultKind::EndWithoutDone { .. })) {
        return pieces;
    }
    pieces.push(Piece::Bytes(Duration::ZERO, event(asked, &json!({}), Some(asked.finish_reason()))));
    if !matches!(fault, Some(FaultKind::NoUsage)) {
        let chunk = json!({
            "id": "c", "object": "chat.completion.chunk", "created": 0, "model": asked.model,
            "choices": [], "usage": usage(asked),
        });
        pieces.push(Piece::Bytes(Duration::ZERO, format!("data: {chunk}\n\n").into()));
    }
    pieces.push(Piece::Bytes(Duration::ZERO, Bytes::from_static(b"data: [DONE]\n\n")));
    pieces
}
