//! Relaying a stream. Its head is held until the first content event, so that a stream that fails before it can still be replaced
//! unseen; after it the text is out, and a failure is told as an error event, never as an end, unless the route has another endpoint
//! go on with the text ([`Resume`]).
//!
//! What becomes of the bytes is [`Flow`]'s; here are the sockets, the clock and the attempt.

mod resume;

use crate::clock;
use crate::dialects::fault;
use crate::dialects::openai::answer::{Chunk, Wrong};
use crate::dialects::openai::flow::{Flow, Watcher};
use crate::dialects::upstream::{CallError, next_chunk};
use crate::domain::outcome::Outcome;
use crate::domain::time::Ts;
use crate::engine::attempt::Attempt;
use crate::engine::context::RequestContext;
use crate::engine::course::Recovery;
use crate::engine::error::{ApiError, Code};
use bytes::Bytes;
use reqwest::Response;
use resume::Resume;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// The head is held for at most this many events and bytes.
const HEAD_EVENTS: usize = 64;
const HEAD_BYTES: usize = 256 << 10;
/// A silent upstream gets its client a comment this often, so that nothing between them gives up.
const PING_EVERY: Duration = Duration::from_secs(15);
const PING: Bytes = Bytes::from_static(b": ping\n\n");
/// Events that came together are joined up to this many bytes.
const JOINED: usize = 64 << 10;
/// An event that takes less than this is no crawl, however fast the endpoint is: packets get lost and are sent again.
const SHORTEST_CRAWL: Duration = Duration::from_secs(1);
/// After the last event: how long to wait for the body's proper end, which lets the connection be used again.
const TAIL_WAIT: Duration = Duration::from_millis(100);

/// A stream that failed before anything of it was passed on.
pub struct HeadFailure {
    pub attempt: Attempt,
    pub outcome: Outcome,
    pub message: String,
}

enum Phase {
    Reading,
    /// The stream broke off; another endpoint is asked to go on with it.
    Recovering(Box<Resume>),
    Tail,
    Ended,
}

pub struct Relay {
    attempt: Option<Attempt>,
    /// `None` once the stream broke off.
    response: Option<Response>,
    flow: Flow,
    phase: Phase,
    /// Who goes on with the text if the stream breaks off; `None`: nobody.
    recovery: Option<Box<Recovery>>,
    /// Bytes were handed over and nobody has come for more yet.
    handed: bool,
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
    /// Whether somebody else is left to ask while nothing has been passed on.
    pub has_others: bool,
}

impl Relay {
    /// Takes a stream whose HTTP head has come, and holds it until its first content.
    ///
    /// # Errors
    /// The attempt back, with what was wrong: nothing has been passed on, another endpoint may try.
    pub async fn open(
        attempt: Attempt,
        response: Response,
        flow: Flow,
        bounds: Bounds,
        head_until: Ts,
    ) -> Result<Self, Box<HeadFailure>> {
        let now = clock::now();
        let stopped = Box::pin(attempt.context().worker.gateway.stopped());
        let mut relay = Self {
            attempt: Some(attempt),
            response: Some(response),
            flow,
            phase: Phase::Reading,
            recovery: None,
            handed: false,
            idle: bounds.idle,
            last_bytes: now,
            last_ping: now,
            alarm: Box::pin(sleep(PING_EVERY.min(bounds.idle).min(bounds.until.since(now)))),
            stopped,
            until: bounds.until,
            is_callers_deadline: bounds.is_callers_deadline,
        };
        match relay.hold_head(head_until, bounds.has_others).await {
            Ok(()) => Ok(relay),
            Err(e) => match relay.attempt.take() {
                Some(attempt) => Err(Box::new(HeadFailure { attempt, outcome: e.outcome, message: e.message })),
                // The attempt is only taken where the stream ends, which holding the head never does.
                None => Ok(relay),
            },
        }
    }

    /// From here on a stream that breaks off is gone on with.
    pub fn recover_by(&mut self, recovery: Recovery) {
        self.recovery = Some(Box::new(recovery));
    }

    async fn hold_head(&mut self, head_until: Ts, has_others: bool) -> Result<(), CallError> {
        let protocol = |message: &str| CallError { outcome: Outcome::Protocol, message: message.into() };
        let late = |message: &str| CallError { outcome: Outcome::FirstByteTimeout, message: message.into() };
        // The event that has begun to come, by its number, and until when it must be there if it is not to be called crawling.
        let mut begun: Option<(usize, Ts)> = None;
        loop {
            let flow = &self.flow;
            if flow.has_content() || flow.events() >= HEAD_EVENTS || flow.ready_bytes() >= HEAD_BYTES {
                return Ok(());
            }
            if flow.has_ended() {
                return Err(protocol("the stream ended without content"));
            }
            if !flow.is_mid_event() {
                begun = None;
            } else if has_others && begun.is_none_or(|(number, _)| number != flow.events()) {
                begun = self.slowest_event().map(|limit| (flow.events(), self.last_bytes.plus(limit)));
            }
            let now = clock::now();
            let crawl = begun.map(|(_, by)| by.since(now));
            let left = head_until.since(now).min(self.idle);
            match tokio::time::timeout(crawl.map_or(left, |crawl| crawl.min(left)), read(&mut self.response)).await {
                Err(_) if crawl.is_some_and(|crawl| crawl <= left) => {
                    return Err(late(
                        "the stream crawls: a token takes ten times as long as in the endpoint's slowest",
                    ));
                }
                Err(_) => return Err(late("no content in time")),
                Ok(Err(e)) => return Err(e),
                Ok(Ok(Some(bytes))) => {
                    self.feed(&bytes).map_err(|e| CallError { outcome: e.outcome, message: e.message })?;
                }
                Ok(Ok(None)) => return Err(protocol("the stream ended before its first content")),
            }
        }
    }

    /// How long an event may be on its way: ten times what the slowest hundredth of the endpoint's streams take for a token. An event
    /// is a token at least, so a stream that needs longer for one has less than a tenth of their rate. The pauses between events say
    /// nothing: a model may think. `None`: too little is known of the endpoint.
    fn slowest_event(&self) -> Option<Duration> {
        let slow = self.attempt.as_ref()?.figures().slow_token_us?;
        Some(Duration::from_micros(slow.saturating_mul(10)).max(SHORTEST_CRAWL))
    }

    /// Takes bytes in, and notes what was seen.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        self.last_bytes = clock::now();
        let Self { flow, attempt, .. } = self;
        flow.push(bytes, &mut Eye(attempt.as_mut()))
    }

    /// The next bytes for the client; `None` at the end. Dropping the relay cancels the upstream.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.handed = false;
        let next = self.find_next().await;
        self.handed = next.is_some();
        next
    }

    async fn find_next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(ready) = self.flow.take_ready() {
                return Some(ready);
            }
            match std::mem::replace(&mut self.phase, Phase::Ended) {
                Phase::Reading => {
                    let Self { flow, attempt, .. } = self;
                    if flow.finish(&mut Eye(attempt.as_mut())) {
                        self.succeed().await;
                        self.phase = Phase::Tail;
                        continue;
                    }
                    self.phase = Phase::Reading;
                    if let Some(ping) = self.pull().await {
                        return Some(ping);
                    }
                }
                Phase::Recovering(resume) => {
                    if let Some(ping) = self.resume(resume).await {
                        return Some(ping);
                    }
                }
                Phase::Tail => {
                    // Only the connection's reuse depends on this.
                    let _ = tokio::time::timeout(TAIL_WAIT, read(&mut self.response)).await;
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
            read = read(&mut self.response) => {
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
        while matches!(self.phase, Phase::Reading) && !self.flow.has_ended() && self.flow.ready_bytes() < JOINED {
            let read = tokio::select! {
                biased;
                read = read(&mut self.response) => read,
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
            Ok(Some(bytes)) => match self.feed(&bytes) {
                Ok(()) => return true,
                Err(e) => self.broke_off(&e.message),
            },
            Ok(None) if self.flow.close() => {}
            Ok(None) => self.broke_off("the upstream's stream was cut"),
            Err(e) => self.broke_off(&e.message),
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
            self.broke_off("the upstream fell silent");
            return None;
        }
        let is_due = now >= self.last_bytes.max(self.last_ping).plus(PING_EVERY);
        if is_due {
            self.last_ping = now;
        }
        let ping_at = self.last_bytes.max(self.last_ping).plus(PING_EVERY);
        self.alarm.set(sleep(ping_at.min(silent_until).since(now)));
        is_due.then_some(PING)
    }

    fn fail(&mut self, outcome: Outcome, message: &str) {
        let Some(attempt) = self.attempt.take() else { return };
        self.tell_failure(attempt.context(), outcome, message);
        // Not awaited even in `strict`: this row tells of a failure, and its caller is told now.
        let _ = attempt.settle(outcome, message, None);
    }

    fn tell_failure(&mut self, ctx: &RequestContext, outcome: Outcome, message: &str) {
        self.phase = Phase::Ended;
        let code = if outcome == Outcome::DeadlineExceeded { Code::DeadlineExceeded } else { Code::UpstreamFailed };
        let error = ApiError::new(code, format!("the answer is incomplete: {message}"));
        self.flow.add(&[b"data: ", &error.to_json(), b"\n\n"]);
        ctx.ended(outcome.as_str(), 502);
    }

    async fn succeed(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            attempt.context().ended("success", 200);
            attempt.settle(Outcome::Success, "", None).durable().await;
        }
    }
}

/// A stream that is given up: the client went away, or stopped reading until its connection was closed.
impl Drop for Relay {
    fn drop(&mut self) {
        let Some(attempt) = self.attempt.take() else { return };
        let ctx = Rc::clone(attempt.context());
        let limit = ctx.worker.gateway.config().server.write_stall;
        // The kernel's time begins when the client's window closes; its own buffer goes on filling after that.
        let is_unread = self.handed && limit.is_some_and(|limit| clock::now().since(self.last_bytes) >= limit / 2);
        ctx.cancel(attempt, if is_unread { "the client stopped reading" } else { ctx.why_cancelled() });
    }
}

async fn read(response: &mut Option<Response>) -> Result<Option<Bytes>, CallError> {
    match response {
        Some(response) => next_chunk(response).await,
        None => Ok(None),
    }
}

/// Notes for the attempt what passes by.
struct Eye<'a>(Option<&'a mut Attempt>);

impl Watcher for Eye<'_> {
    fn saw(&mut self, chunk: &Chunk<'_>) {
        let Some(attempt) = &mut self.0 else { return };
        let seen = &mut attempt.seen;
        seen.report(chunk.usage);
        seen.disbelieved |= chunk.disbelieved;
        chunk.text.each().for_each(|piece| seen.text.feed(piece));
        if chunk.has_content && seen.first_content.is_none() {
            seen.first_content = Some(clock::now());
        }
    }

    /// The comment line that tells cost and endpoint.
    fn comment(&mut self) -> String {
        let Some(attempt) = &self.0 else { return String::new() };
        let ctx = attempt.context();
        let cost = attempt.expected_cost().map_or_else(|| "unpriced".to_owned(), |c| (ctx.cost() + c).to_string());
        format!(": breakwater cost_usd={cost} endpoint={} attempts={}\n", attempt.config.name, ctx.attempts())
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
