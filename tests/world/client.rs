//! One request of a virtual client: sent to the engine, read to its end, its text checked.

use super::answer::text;
use super::provider::World;
use breakwater::clock;
use breakwater::domain::ids::RequestId;
use breakwater::engine::access::Caller;
use breakwater::engine::error::Code;
use breakwater::engine::gateway::Worker;
use breakwater::engine::hints::Hints;
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
    pub why: String,
}

pub fn body(request: &Request) -> Bytes {
    let prompt = format!("q {} {}", request.name, request.tokens);
    json!({"model": request.route, "stream": request.stream, "messages": [{"role": "user", "content": prompt}]})
        .to_string()
        .into()
}

/// Asks, and notes the end in the world's journal.
pub async fn ask(world: &World, worker: &Rc<Worker>, caller: Caller, request: &Request) -> Seen {
    let started = clock::now();
    let mut seen = Seen { end: End::Hung, took: Duration::ZERO, first: None, attempts: 0, why: String::new() };
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
            seen.attempts = head.attempts;
            let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
            let content = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
            judge(request, content, true, seen)
        }
        Ok(Served::Whole { status, .. }) => {
            seen.why = format!("passed on with status {status}");
            End::Refused(Code::UpstreamFailed)
        }
        Ok(Served::Stream { head, mut relay }) => {
            seen.attempts = head.attempts;
            let mut reader = Reader::default();
            while let Some(bytes) = relay.next().await {
                reader.take(&bytes);
                if seen.first.is_none() && !reader.text.is_empty() {
                    seen.first = Some(clock::now().since(started));
                }
            }
            reader.judge(request, seen)
        }
    }
}

/// Whether `got` is the text asked for, or its beginning where that is all there is.
fn judge(request: &Request, got: &str, whole: bool, seen: &mut Seen) -> End {
    let want = text(0, request.tokens);
    let right = if whole { got == want } else { want.starts_with(got) };
    if right {
        return if whole { End::Complete } else { End::Cut };
    }
    seen.why = format!("the text is `{got}`, not `{want}`");
    End::Wrong
}

/// Reads a stream as an SDK does.
#[derive(Default)]
pub struct Reader {
    rest: String,
    pub text: String,
    done: bool,
    error: bool,
    finished: bool,
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
        self.finished |= chunk["choices"][0]["finish_reason"].is_string();
    }

    pub fn judge(&self, request: &Request, seen: &mut Seen) -> End {
        let why = match self {
            Self { after_done: true, .. } => "events after the stream's end",
            Self { done: true, error: true, .. } => "an error and then an end as if complete",
            Self { done: true, finished: false, .. } => "an end without a finish reason",
            Self { done: true, .. } => return judge(request, &self.text, true, seen),
            Self { error: true, .. } => return judge(request, &self.text, false, seen),
            _ => "neither an end nor an error",
        };
        seen.why = format!("{why}, after `{}`", self.text);
        End::Wrong
    }
}
