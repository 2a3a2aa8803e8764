//! What an injected fault looks like on the wire. A fault that replaces the answer sends nothing upstream, so it costs nothing; one that
//! spoils an answer makes the real call and changes what comes back.

use crate::clock;
use crate::dialects::openai::answer::Chunk;
use crate::dialects::sse::{Decoder, Event};
use crate::dialects::upstream::{CallError, Target, Upstream, next_chunk};
use crate::domain::chaos::{Fault, Malformed, Pace};
use crate::domain::outcome::Outcome;
use crate::domain::time::Ts;
use bytes::Bytes;
use futures_util::{Stream, stream};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Response};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;

/// Bytes that make about one token.
const BYTES_PER_TOKEN: f64 = 4.0;
/// A whole answer that trickles leaves in this many pieces a second at most.
const PIECES_PER_SECOND: f64 = 20.0;
/// No injected wait is longer; every call has a shorter bound of its own.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);
const PAGE: &str =
    "<!DOCTYPE html><html><head><title>Bad gateway</title></head><body>injected: a web page</body></html>";

/// Makes the call with its fault.
///
/// # Errors
/// Why no head came, truly or by injection.
pub async fn post(
    fault: &Fault,
    upstream: &Upstream,
    target: &Target,
    body: Bytes,
    is_stream: bool,
) -> Result<Response, CallError> {
    let late = match fault {
        Fault::Refuse => {
            return Err(CallError { outcome: Outcome::ConnectFailed, message: "injected: connection refused".into() });
        }
        Fault::Hang => return std::future::pending().await,
        Fault::Status { code, headers, body } => return Ok(status(*code, headers, body.as_ref())),
        Fault::Malformed { what } => return Ok(malformed(*what, is_stream)),
        Fault::SlowFirstByte { ms } => Duration::from_millis(*ms),
        Fault::Latency { latency } => millis(latency.sample_ms([(); 3].map(|()| fastrand::f64()))),
        Fault::Trickle { .. } | Fault::CutAfter { .. } | Fault::ErrorEvent { .. } => Duration::ZERO,
    };
    let response = upstream.post_chat(target, body).await?;
    if !late.is_zero() {
        tokio::time::sleep(late.min(LONGEST_WAIT)).await;
        return Ok(response);
    }
    // An error needs no help.
    if !response.status().is_success() {
        return Ok(response);
    }
    let spoiler = Spoiler { seen: 0, began: None, ended: false, ready: VecDeque::new(), decoder: Decoder::default() };
    let is_events = header(&response, CONTENT_TYPE).is_some_and(|t| t.contains("event-stream"));
    Ok(match fault {
        Fault::CutAfter { events } if is_events => with_body(response, |r| spoiler.events(r, Spoil::Cut(*events))),
        Fault::CutAfter { .. } => with_body(response, cut_in_the_middle),
        Fault::ErrorEvent { after, body } if is_events => {
            let text = body.as_ref().map_or_else(|| error_body("injected error").to_string(), Value::to_string);
            with_body(response, |r| spoiler.events(r, Spoil::Error(*after, text)))
        }
        Fault::Trickle { pace: Pace::TokensPerSecond(rate) } if is_events => {
            with_body(response, |r| spoiler.events(r, Spoil::Pace(*rate)))
        }
        Fault::Trickle { pace: Pace::TokensPerSecond(rate) } => {
            with_body(response, |r| slow_bytes(r, rate * BYTES_PER_TOKEN))
        }
        #[allow(clippy::cast_precision_loss)]
        Fault::Trickle { pace: Pace::BytesPerSecond(rate) } => with_body(response, |r| slow_bytes(r, *rate as f64)),
        _ => response,
    })
}

fn millis(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default().min(LONGEST_WAIT)
}

fn error_body(message: &str) -> Value {
    json!({ "error": { "message": message, "type": "server_error", "param": null, "code": "server_error" } })
}

fn status(code: u16, headers: &BTreeMap<String, String>, body: Option<&Value>) -> Response {
    let (kind, text) = match body {
        None => ("application/json", error_body(&format!("injected {code}")).to_string()),
        Some(Value::String(text)) => ("text/plain", text.clone()),
        Some(json) => ("application/json", json.to_string()),
    };
    let mut all = HeaderMap::new();
    all.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in headers {
        // Both were checked when the experiment was read.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            all.insert(name, value);
        }
    }
    made(code, all, text.into())
}

fn malformed(what: Malformed, is_stream: bool) -> Response {
    let (kind, text) = match what {
        Malformed::Html => ("text/html", PAGE.to_owned()),
        Malformed::HalfJson => ("application/json", r#"{"id":"chatcmpl-"#.to_owned()),
        Malformed::Empty if is_stream => ("text/event-stream", String::new()),
        Malformed::Empty => ("application/json", String::new()),
        Malformed::JsonError200 => ("application/json", error_body("injected error with status 200").to_string()),
    };
    made(200, [(CONTENT_TYPE, HeaderValue::from_static(kind))].into_iter().collect(), text.into())
}

/// A response as the client would have read it.
fn made(code: u16, headers: HeaderMap, body: Body) -> Response {
    let mut response = http::Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = headers;
    response.into()
}

/// The same response with another body, made from the old one.
fn with_body<S>(response: Response, spoil: impl FnOnce(Response) -> S) -> Response
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    let code = response.status().as_u16();
    let mut headers = response.headers().clone();
    headers.remove(CONTENT_LENGTH);
    made(code, headers, Body::wrap_stream(spoil(response)))
}

fn header(response: &Response, name: HeaderName) -> Option<&str> {
    response.headers().get(name).and_then(|v| v.to_str().ok())
}

fn broke(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, message.to_owned())
}

/// The first half of the first piece, then the end of the connection.
fn cut_in_the_middle(response: Response) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold(Some((response, false)), |state| async move {
        let (mut response, began) = state?;
        if began {
            return Some((Err(broke("injected: the connection ended")), None));
        }
        match next_chunk(&mut response).await {
            Ok(Some(piece)) => Some((Ok(piece.slice(..piece.len() / 2)), Some((response, true)))),
            _ => Some((Err(broke("injected: the connection ended")), None)),
        }
    })
}

/// The bytes at so many a second, counted from the first of them: a late piece makes no other late.
fn slow_bytes(response: Response, per_second: f64) -> impl Stream<Item = io::Result<Bytes>> + Send {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let piece = (per_second / PIECES_PER_SECOND).max(1.0) as usize;
    let start = Trickling { response, held: Bytes::new(), began: None, sent: 0 };
    stream::unfold(Some(start), move |state| async move {
        let mut state = state?;
        if state.held.is_empty() {
            state.held = match next_chunk(&mut state.response).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return None,
                Err(e) => return Some((Err(broke(&e.message)), None)),
            };
        }
        let out = state.held.split_to(piece.min(state.held.len()));
        state.sent += out.len();
        let now = clock::now();
        #[allow(clippy::cast_precision_loss)]
        let due = state.began.get_or_insert(now).plus(millis(state.sent as f64 / per_second * 1e3));
        tokio::time::sleep(due.since(now)).await;
        Some((Ok(out), Some(state)))
    })
}

/// A body that trickles.
struct Trickling {
    response: Response,
    held: Bytes,
    began: Option<Ts>,
    sent: usize,
}

/// What happens to a stream's events.
enum Spoil {
    /// The connection ends in the middle of the event after so many content events.
    Cut(u64),
    /// This error event comes after so many content events, then the end.
    Error(u64, String),
    /// Content events leave at so many a second.
    Pace(f64),
}

/// Takes a stream apart and lets its events through one by one.
struct Spoiler {
    /// Content events let through.
    seen: u64,
    began: Option<Ts>,
    ended: bool,
    ready: VecDeque<io::Result<Bytes>>,
    decoder: Decoder,
}

impl Spoiler {
    fn events(self, response: Response, spoil: Spoil) -> impl Stream<Item = io::Result<Bytes>> + Send {
        stream::unfold((self, response, spoil), |(mut spoiler, mut response, spoil)| async move {
            let out = spoiler.next(&mut response, &spoil).await?;
            Some((out, (spoiler, response, spoil)))
        })
    }

    async fn next(&mut self, response: &mut Response, spoil: &Spoil) -> Option<io::Result<Bytes>> {
        loop {
            if let Some(out) = self.ready.pop_front() {
                return Some(out);
            }
            if self.ended {
                return None;
            }
            match self.decoder.next_event() {
                Ok(Some(event)) => {
                    self.let_through(&event, spoil).await;
                    continue;
                }
                Ok(None) => {}
                Err(_) => return self.fail("an event is over 16 MiB"),
            }
            match next_chunk(response).await {
                Ok(Some(bytes)) => self.decoder.push(&bytes),
                Ok(None) => self.ended = true,
                Err(e) => return self.fail(&e.message),
            }
        }
    }

    fn fail(&mut self, message: &str) -> Option<io::Result<Bytes>> {
        self.ended = true;
        Some(Err(broke(message)))
    }

    async fn let_through(&mut self, event: &Event, spoil: &Spoil) {
        let has_content =
            event.data.as_deref().and_then(|data| Chunk::read(data).ok()).is_some_and(|chunk| chunk.has_content);
        // An ending strikes at the latest when the content is at its end.
        let is_over = event.data.as_deref().is_some_and(|data| data.trim_ascii() == b"[DONE]");
        match spoil {
            Spoil::Cut(after) if is_over || (has_content && self.seen >= *after) => {
                self.ready.push_back(Ok(event.raw.slice(..event.raw.len() / 2)));
                self.ready.push_back(Err(broke("injected: the connection ended")));
                self.ended = true;
                return;
            }
            Spoil::Error(after, text) if is_over || (has_content && self.seen >= *after) => {
                self.ready.push_back(Ok(format!("data: {text}\n\n").into()));
                self.ended = true;
                return;
            }
            Spoil::Pace(rate) if has_content => {
                let began = *self.began.get_or_insert_with(clock::now);
                #[allow(clippy::cast_precision_loss)]
                let due = began.plus(millis(self.seen as f64 / rate * 1e3));
                tokio::time::sleep(due.since(clock::now())).await;
            }
            _ => {}
        }
        self.seen += u64::from(has_content);
        self.ready.push_back(Ok(event.raw.clone()));
    }
}
