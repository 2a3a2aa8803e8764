//! One request of a virtual client: sent to the engine, read to its end, its text checked.

use super::answer::text;
use super::provider::World;
use breakwater::clock;
use breakwater::domain::ids::RequestId;
use breakwater::engine::access::Caller;
use breakwater::engine::error::Code;
use breakwater::engine::gateway::Worker;
use breakwater::engine::hints::Hints;
use breakwater::engine::hold::Cap;
use breakwater::engine::serve::{self, Served};
use bytes::Bytes;
use serde_json::{Value, json};
use std::rc::Rc;
use std::time::Duration;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Also its id.
    pub name: String,
    pub route: String,
    pub tokens: usize,
    /// The client's own limit.
    pub max_tokens: Option<usize>,
    /// Its route has streams gone on with: each attempt has a maximum of its own, and only the first one's is told beforehand.
    pub recovers: bool,
    pub stream: bool,
    /// The client goes after this long.
    pub leaves_after: Option<Duration>,
    /// By when the engine must have ended it, counted from now.
    pub must_end_by: Duration,
    pub hints: Vec<(&'static str, String)>,
}

/// How it ended for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The whole text.
    Complete,
    /// An error instead of an answer.
    Refused(Code),
    /// A stream that broke off and said so.
    Cut,
    Left,
    /// Not ended when it must have been.
    Hung,
    /// A text that is not the one asked for, or a stream that ended as if complete and was not.
    Wrong,
}

/// What a client saw.
#[derive(Clone, Debug)]
pub struct Seen {
    pub end: End,
    pub took: Duration,
    /// To the first content of a stream.
    pub first: Option<Duration>,
    pub attempts: u32,
    /// A hard budget had the answer's maximum lowered.
    pub lowered: bool,
    pub why: String,
}

pub fn body(request: &Request) -> Bytes {
    let prompt = format!("q {} {}", request.name, request.tokens);
    let mut body =
        json!({"model": request.route, "stream": request.stream, "messages": [{"role": "user", "content": prompt}]});
    if let Some(most) = request.max_tokens {
        body["max_tokens"] = most.into();
    }
    body.to_string().into()
}

/// Asks, and notes the end in the world's journal.
pub async fn ask(world: &World, worker: &Rc<Worker>, caller: Caller, request: &Request) -> Seen {
    let started = clock::now();
    let mut seen =
        Seen { end: End::Hung, took: Duration::ZERO, first: None, attempts: 0, lowered: false, why: String::new() };
    let limit = request.leaves_after.unwrap_or(request.must_end_by).min(request.must_end_by);
    let asked = tokio::time::timeout(limit, asked(worker, caller, request, &mut seen)).await;
    seen.end = match asked {
        Ok(end) => end,
        Err(_) if request.leaves_after == Some(limit) => End::Left,
        Err(_) => End::Hung,
    };
    seen.took = clock::now().since(started);
    let journal = world.journal();
    journal.note(&format!(
        "{} {} {:?} after {} µs, {} attempts",
        world.now().0,
        request.name,
        seen.end,
        seen.took.as_micros(),
        seen.attempts
    ));
    match seen.end {
        End::Hung => journal.violation(format!("{}: not ended after {limit:?}", request.name)),
        End::Wrong => journal.violation(format!("{}: {}", request.name, seen.why)),
        _ => {}
    }
    seen
}

async fn asked(worker: &Rc<Worker>, caller: Caller, request: &Request, seen: &mut Seen) -> End {
    let started = clock::now();
    let mut hints = Hints::default();
    hints.request_id = RequestId::parse(&request.name).ok();
    for (name, value) in &request.hints {
        hints.take_header(&format!("x-breakwater-{name}"), value).expect("a hint");
    }
    let config = worker.gateway.config();
    match serve::chat(worker, &config, caller, hints, body(request), started).await {
        Err(failure) => {
            seen.why = failure.error.message.clone();
            seen.attempts = u32::try_from(failure.error.attempts.len()).unwrap_or(u32::MAX);
            End::Refused(failure.error.code)
        }
        Ok(Served::Whole { head, status: 200, body, .. }) => {
            (seen.attempts, seen.lowered) = (head.attempts, head.max_tokens.is_some_and(|cap| cap.lowered));
            let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
            let choice = &answer["choices"][0];
            let content = choice["message"]["content"].as_str().unwrap_or_default();
            judge(&Told::of(request, head.max_tokens), content, choice["finish_reason"].as_str(), seen)
        }
        Ok(Served::Whole { status, .. }) => {
            seen.why = format!("passed on with status {status}");
            End::Refused(Code::UpstreamFailed)
        }
        Ok(Served::Stream { head, mut relay }) => {
            (seen.attempts, seen.lowered) = (head.attempts, head.max_tokens.is_some_and(|cap| cap.lowered));
            let mut reader = Reader::default();
            while let Some(bytes) = relay.next().await {
                reader.take(&bytes);
                if seen.first.is_none() && !reader.text.is_empty() {
                    seen.first = Some(clock::now().since(started));
                }
            }
            reader.judge(&Told::of(request, head.max_tokens), seen)
        }
    }
}

/// What a client may expect of its answer's text.
pub struct Told {
    wanted: usize,
    /// Tokens at most, by its own word or by that of the answer's head.
    most: usize,
    /// Whether attempts that nothing was told about may have ended the text.
    recovers: bool,
}

impl Told {
    pub fn of(request: &Request, cap: Option<Cap>) -> Self {
        let cap = cap.map_or(usize::MAX, |cap| usize::try_from(cap.tokens).unwrap_or(usize::MAX));
        let most = request.max_tokens.unwrap_or(usize::MAX).min(cap);
        Self { wanted: request.tokens, most, recovers: request.recovers && request.stream }
    }
}

/// Whether `got` is the text asked for, up to where a maximum that the client knows of ends it; `finish` is the answer's own word for
/// its end, none if it broke off.
fn judge(told: &Told, got: &str, finish: Option<&str>, seen: &mut Seen) -> End {
    let (want, most) = (text(0, told.wanted), text(0, told.wanted.min(told.most)));
    let right = match finish {
        Some("length") => got.len() < want.len() && want.starts_with(got) && (told.recovers || got == most),
        Some(_) => got == want && (told.recovers || got == most),
        None => want.starts_with(got),
    };
    if right {
        return if finish.is_some() { End::Complete } else { End::Cut };
    }
    seen.why = format!("the text is `{got}`, ended by {finish:?}, not `{want}` with at most {} tokens", told.most);
    End::Wrong
}

/// Reads a stream as an SDK does.
#[derive(Default)]
pub struct Reader {
    rest: String,
    pub text: String,
    done: bool,
    error: bool,
    finished: Option<String>,
    after_done: bool,
}

impl Reader {
    pub fn take(&mut self, bytes: &[u8]) {
        self.rest.push_str(std::str::from_utf8(bytes).expect("whole characters"));
        while let Some(end) = self.rest.find("\n\n") {
            let event: String = self.rest.drain(..end + 2).collect();
            for data in event.lines().filter_map(|line| line.strip_prefix("data:")) {
                self.event(data.trim());
            }
        }
    }

    fn event(&mut self, data: &str) {
        self.after_done |= self.done || self.error;
        if data == "[DONE]" {
            self.done = true;
            return;
        }
        let chunk: Value = serde_json::from_str(data).unwrap_or_default();
        self.error |= chunk.get("error").is_some();
        self.text.push_str(chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
        if let Some(reason) = chunk["choices"][0]["finish_reason"].as_str() {
            self.finished = Some(reason.to_owned());
        }
    }

    pub fn judge(&self, told: &Told, seen: &mut Seen) -> End {
        let why = match self {
            Self { after_done: true, .. } => "events after the stream's end",
            Self { done: true, error: true, .. } => "an error and then an end as if complete",
            Self { done: true, finished: None, .. } => "an end without a finish reason",
            Self { done: true, finished, .. } => return judge(told, &self.text, finished.as_deref(), seen),
            Self { error: true, .. } => return judge(told, &self.text, None, seen),
            _ => "neither an end nor an error",
        };
        seen.why = format!("{why}, after `{}`", self.text);
        End::Wrong
    }
}
