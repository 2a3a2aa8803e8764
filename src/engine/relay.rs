//! Relaying a stream. Its head is held until the first content event, so that a stream that fails before it can still be replaced
//! unseen; after it the text is out, and a failure is told as an error event, never as an end.
//!
//! Events leave with the bytes they came as, when they came; those that came together leave together. Only the usage chunk that
//! Breakwater itself asked for is taken out again, and one comment with the cost goes in where it was.

use crate::clock;
use crate::dialects::fault;
use crate::dialects::openai::answer::Chunk;
use crate::dialects::sse::Decoder;
use crate::dialects::upstream::{CallError, next_chunk};
use crate::domain::outcome::Outcome;
use crate::domain::time::Ts;
use crate::engine::attempt::Attempt;
use crate::engine::error::{ApiError, Code};
use bytes::{Bytes, BytesMut};
use reqwest::Response;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// The head is held for at most this many events and bytes.
const HEAD_EVENTS: usize = 64;
const HEAD_BYTES: usize = 256 << 10;
/// A silent upstream gets its client a comment this often, so that nothing between them gives up.
const PING_EVERY: Duration = Duration::from_secs(15);
/// Events that came together are joined up to this many bytes.
const JOINED: usize = 64 << 10;
/// After the last event: how long to wait for the body's proper end, which lets the connection be used again.
const TAIL_WAIT: Duration = Duration::from_millis(100);

/// A stream that failed before anything of it was passed on.
pub struct HeadFailure {
    pub attempt: Attempt,
    pub outcome: Outcome,
    pub message: String,
}

#[derive(Debug)]
enum Phase {
    Reading,
    /// The upstream's stream has ended properly; its last event waits.
    Done(Bytes),
    Tail,
    Ended,
}

pub struct Relay {
    attempt: Option<Attempt>,
    response: Response,
    decoder: Decoder,
    ready: BytesMut,
    phase: Phase,
    wants_usage: bool,
    events: usize,
    committed: bool,
    /// A choice has ended: an upstream that closes now has said all.
    finished: bool,
    comment_sent: bool,
    idle: Duration,
    last_bytes: Ts,
    last_ping: Ts,
    /// Rings when silence may have lasted too long; bytes that come in between don't move it, so it may ring for nothing.
    alarm: Pin<Box<Sleep>>,
    /// The gateway stops.
    stopped: Pin<Box<dyn Future<Output = ()>>>,
    /// When the attempt must be over, and whether that is the caller's deadline.
    until: Ts,
    is_callers_deadline: bool,
}

/// How an attempt's time is bounded.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub idle: Duration,
    pub until: Ts,
    pub is_callers_deadline: bool,
}

impl Relay {
    /// Takes a stream whose HTTP head has come, and holds it until its first content.
    ///
    /// # Errors
    /// The attempt back, with what was wrong: nothing has been passed on, another endpoint may try.
    pub async fn open(
        attempt: Attempt,
        response: Response,
        wants_usage: bool,
        bounds: Bounds,
        head_until: Ts,
    ) -> Result<Self, Box<HeadFailure>> {
        let now = clock::now();
        let stopped = Box::pin(attempt.context().worker.gateway.stopped());
        let mut relay = Self {
            attempt: Some(attempt),
            response,
            decoder: Decoder::default(),
            ready: BytesMut::new(),
            phase: Phase::Reading,
            wants_usage,
            events: 0,
            committed: false,
            finished: false,
            comment_sent: false,
            idle: bounds.idle,
            last_bytes: now,
            last_ping: now,
            alarm: Box::pin(sleep(PING_EVERY.min(bounds.idle).min(bounds.until.since(now)))),
            stopped,
            until: bounds.until,
            is_callers_deadline: bounds.is_callers_deadline,
        };
        match relay.hold_head(head_until).await {
            Ok(()) => {
                relay.committed = true;
                Ok(relay)
            }
            Err(e) => match relay.attempt.take() {
                Some(attempt) => Err(Box::new(HeadFailure { attempt, outcome: e.outcome, message: e.message })),
                // The attempt is only taken where the stream ends, which holding the head never does.
                None => Ok(relay),
            },
        }
    }

    async fn hold_head(&mut self, head_until: Ts) -> Result<(), CallError> {
        let late = |message: &str| CallError { outcome: Outcome::FirstByteTimeout, message: message.into() };
        loop {
            self.take_events()?;
            let has_content = self.attempt.as_ref().is_some_and(|a| a.seen.first_content.is_some());
            if has_content || self.events >= HEAD_EVENTS || self.ready.len() >= HEAD_BYTES {
                return Ok(());
            }
            if matches!(self.phase, Phase::Done(_)) {
                return Err(CallError {
                    outcome: Outcome::Protocol,
                    message: "the stream ended without content".into(),
                });
            }
            let left = head_until.since(clock::now()).min(self.idle);
            match tokio::time::timeout(left, next_chunk(&mut self.response)).await {
                Err(_) => return Err(late("no content in time")),
                Ok(Err(e)) => return Err(e),
                Ok(Ok(Some(bytes))) => {
                    self.last_bytes = clock::now();
                    self.decoder.push(&bytes);
                }
                Ok(Ok(None)) => {
                    let message = "the stream ended before its first content".into();
                    return Err(CallError { outcome: Outcome::Protocol, message });
                }
            }
        }
    }

    /// Moves whole events from the decoder to `ready`.
    fn take_events(&mut self) -> Result<(), CallError> {
        let too_large = |_| CallError { outcome: Outcome::Protocol, message: "an event is over 16 MiB".into() };
        while let Some(event) = self.decoder.next_event().map_err(too_large)? {
            self.events += 1;
            let Some(data) = &event.data else {
                self.ready.extend_from_slice(&event.raw);
                continue;
            };
            if data.trim_ascii() == b"[DONE]" {
                self.phase = Phase::Done(event.raw);
                return Ok(());
            }
            let chunk = Chunk::read(data).map_err(|e| CallError { outcome: e.outcome, message: e.message })?;
            self.finished |= chunk.finished;
            if let Some(attempt) = &mut self.attempt {
                let seen = &mut attempt.seen;
                seen.report(chunk.usage);
                chunk.text.each().for_each(|piece| seen.text.feed(piece));
                if chunk.has_content && seen.first_content.is_none() {
                    seen.first_content = Some(clock::now());
                }
            }
            if chunk.is_usage_only && chunk.usage.is_some() {
                let comment = self.comment();
                self.ready.extend_from_slice(comment.as_bytes());
                self.ready.extend_from_slice(if self.wants_usage { &event.raw } else { b"\n" });
            } else {
                self.ready.extend_from_slice(&event.raw);
            }
        }
        Ok(())
    }

    /// The comment line that tells cost and endpoint; empty the second time.
    fn comment(&mut self) -> String {
        let Some(attempt) = &self.attempt else { return String::new() };
        if std::mem::replace(&mut self.comment_sent, true) {
            return String::new();
        }
        let ctx = attempt.context();
        let cost = attempt.expected_cost().map_or_else(|| "unpriced".to_owned(), |c| (ctx.cost() + c).to_string());
        format!(": breakwater cost_usd={cost} endpoint={} attempts={}\n", attempt.config.name, ctx.attempts())
    }

    /// The next bytes for the client; `None` at the end. Dropping the relay cancels the upstream.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.ready.is_empty() {
                return Some(self.ready.split().freeze());
            }
            match std::mem::replace(&mut self.phase, Phase::Ended) {
                Phase::Reading => {
                    self.phase = Phase::Reading;
                    if let Some(ping) = self.pull().await {
                        return Some(ping);
                    }
                }
                Phase::Done(last) => {
                    let comment = self.comment();
                    if !comment.is_empty() {
                        self.ready.extend_from_slice(comment.as_bytes());
                        self.ready.extend_from_slice(b"\n");
                    }
                    self.ready.extend_from_slice(&last);
                    self.succeed().await;
                    self.phase = Phase::Tail;
                }
                Phase::Tail => {
                    // Only the connection's reuse depends on this.
                    let _ = tokio::time::timeout(TAIL_WAIT, next_chunk(&mut self.response)).await;
                    return None;
                }
                Phase::Ended => return None,
            }
        }
    }

    /// Waits for the upstream's next bytes; a ping when it is silent.
    async fn pull(&mut self) -> Option<Bytes> {
        tokio::select! {
            biased;
            read = next_chunk(&mut self.response) => {
                if self.take(read) {
                    self.join_what_is_there().await;
                }
                None
            }
            () = self.alarm.as_mut() => self.on_alarm(),
            () = self.stopped.as_mut() => {
                self.fail(Outcome::Cancelled, "the gateway is stopping");
                None
            }
        }
    }

    /// Takes what else has come already. The connection hands over one piece at a time, so it is given its turn after each;
    /// when everybody else has had a turn and nothing came, there is no more.
    async fn join_what_is_there(&mut self) {
        while matches!(self.phase, Phase::Reading) && self.ready.len() < JOINED {
            let read = tokio::select! {
                biased;
                read = next_chunk(&mut self.response) => read,
                () = tokio::task::yield_now() => return,
            };
            if !self.take(read) {
                return;
            }
        }
    }

    /// Takes in a read; whether more may follow.
    fn take(&mut self, read: Result<Option<Bytes>, CallError>) -> bool {
        match read {
            Ok(Some(bytes)) => {
                self.last_bytes = clock::now();
                self.decoder.push(&bytes);
                match self.take_events() {
                    Ok(()) => return true,
                    Err(e) => self.fail(Outcome::Partial, &e.message),
                }
            }
            Ok(None) => self.upstream_closed(),
            Err(e) => self.fail(Outcome::Partial, &e.message),
        }
        false
    }

    /// Silence may have lasted too long, or long enough for a ping.
    fn on_alarm(&mut self) -> Option<Bytes> {
        let now = clock::now();
        let silent_until = self.last_bytes.plus(self.idle).min(self.until);
        if now >= self.until && self.is_callers_deadline {
            self.fail(Outcome::DeadlineExceeded, "the request's deadline passed");
            return None;
        }
        if now >= silent_until {
            self.fail(Outcome::Partial, "the upstream fell silent");
            return None;
        }
        let is_due = now >= self.last_bytes.max(self.last_ping).plus(PING_EVERY);
        if is_due {
            self.last_ping = now;
        }
        let ping_at = self.last_bytes.max(self.last_ping).plus(PING_EVERY);
        self.alarm.set(sleep(ping_at.min(silent_until).since(now)));
        is_due.then(|| Bytes::from_static(b": ping\n\n"))
    }

    fn upstream_closed(&mut self) {
        if self.finished && !self.decoder.is_mid_event() {
            // Said all, but not that it had: clients wait for the marker.
            self.phase = Phase::Done(Bytes::from_static(b"data: [DONE]\n\n"));
        } else {
            self.fail(Outcome::Partial, "the upstream's stream was cut");
        }
    }

    fn fail(&mut self, outcome: Outcome, message: &str) {
        self.phase = Phase::Ended;
        let code = if outcome == Outcome::DeadlineExceeded { Code::DeadlineExceeded } else { Code::UpstreamFailed };
        let error = ApiError::new(code, format!("the answer is incomplete: {message}"));
        self.ready.extend_from_slice(b"data: ");
        self.ready.extend_from_slice(&error.to_json());
        self.ready.extend_from_slice(b"\n\n");
        if let Some(attempt) = self.attempt.take() {
            attempt.context().ended(outcome.as_str(), 502);
            // Not awaited even in `strict`: this row tells of a failure, and its caller is told now.
            let _ = attempt.settle(outcome, message, None);
        }
    }

    async fn succeed(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            attempt.context().ended("success", 200);
            attempt.settle(Outcome::Success, "", None).durable().await;
        }
    }
}

/// What a response that should be a stream and is none says instead.
#[must_use]
pub fn not_a_stream(body: &[u8]) -> CallError {
    let text = String::from_utf8_lossy(body);
    match fault::error_member(&text) {
        Some(error) => CallError { outcome: fault::of_error_object(error), message: fault::kind_of(body) },
        None => CallError { outcome: Outcome::Protocol, message: "the answer is no event stream".into() },
    }
}
