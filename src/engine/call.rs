//! One call to an endpoint: the request goes out, and its answer is classed. What is about the request itself goes back to the caller
//! unchanged; whatever another endpoint may mend comes back as a failure.

use crate::actors::board::EndpointCell;
use crate::clock;
use crate::config::model::EndpointConfig;
use crate::dialects::openai::answer::Answer;
use crate::dialects::openai::flow::Flow;
use crate::dialects::openai::request::MaxTokens;
use crate::dialects::openai::transcript::Transcript;
use crate::dialects::upstream::{self, CallError};
use crate::dialects::{fault, remaining, retry_after};
use crate::domain::outcome::Outcome;
use crate::domain::time::Ts;
use crate::engine::attempt::{Attempt, Settled};
use crate::engine::chaos;
use crate::engine::context::RequestContext;
use crate::engine::hold::Cap;
use crate::engine::relay::{Bounds, Relay, not_a_stream};
use crate::engine::serve::{Head, Served};
use crate::engine::understand::Understood;
use bytes::Bytes;
use reqwest::Response;
use reqwest::header::CONTENT_TYPE;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// An error answer's body may take this long.
const ERROR_BODY_TIME: Duration = Duration::from_secs(5);

/// How long a call is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub first_byte: Duration,
    /// Whether the first byte's bound is the caller's deadline, so that nobody is to blame for missing it.
    pub is_callers: bool,
    /// The request's.
    pub deadline: Ts,
    /// Whether somebody else is left to ask if this call fails.
    pub has_others: bool,
}

/// How an attempt ended.
pub enum End {
    /// The attempt is settled, unless it goes on as a stream; in `strict` durability its row is to be waited for.
    Served(Served, Settled),
    Failed(Outcome, Option<Duration>),
    /// Nothing was sent: the endpoint was shut between its permit and the call.
    Withdrawn,
}

pub struct Call<'a> {
    pub ctx: &'a Rc<RequestContext>,
    pub understood: &'a Understood<'a>,
    pub cell: Arc<EndpointCell>,
    pub patience: Patience,
    pub telling: Telling,
}

/// What becomes of a stream's text.
pub enum Telling {
    /// It passes by.
    Passing,
    /// It is kept, so that another endpoint can go on with it.
    Kept,
    /// It goes on with this one, which broke off.
    GoingOn(Rc<Transcript>),
}

impl Call<'_> {
    /// Makes the call, settles the attempt unless it goes on as a stream, and says how it ended.
    pub async fn make(&self, mut attempt: Attempt) -> End {
        let worker = &self.ctx.worker;
        let config = Arc::clone(&attempt.config);
        let started = attempt.started();
        let target = match worker.target(self.cell.id, &config, started, fastrand::f64()) {
            Ok(target) => target,
            Err(e) => return failed(attempt, Outcome::ConnectFailed, &e, None),
        };
        let late = if self.patience.is_callers { Outcome::DeadlineExceeded } else { Outcome::FirstByteTimeout };
        if !attempt.secure().await {
            return End::Withdrawn;
        }
        let body = Bytes::from(self.body(&config.model, attempt.max_tokens()));
        let first_byte = self.patience.first_byte;
        attempt.given = Some(first_byte);
        let response = match tokio::time::timeout(
            first_byte,
            chaos::post(self.ctx, &self.cell, &mut attempt, &target, body),
        )
        .await
        {
            Err(_) => return failed(attempt, late, "no first byte in time", None),
            Ok(Err(CallError { outcome, message })) => return failed(attempt, outcome, &message, None),
            Ok(Ok(response)) => response,
        };
        attempt.seen.http_status = response.status().as_u16();
        self.heed_remaining(&config, &response);
        if !response.status().is_success() {
            let end = Box::pin(self.error_status(attempt, response)).await;
            if matches!(end, End::Failed(Outcome::AuthFailed, _)) {
                worker.key_refused(self.cell.id, &target, clock::now());
            }
            return end;
        }
        let deadline = self.patience.deadline;
        let total = started.plus(config.timeouts.total);
        let bounds = Bounds {
            idle: config.timeouts.idle,
            until: total.min(deadline),
            is_callers_deadline: deadline <= total,
            has_others: self.patience.has_others,
        };
        if self.understood.request.stream {
            // Apart, so that whole answers, by far the most, need not carry its room along.
            Box::pin(self.stream(attempt, response, bounds, started.plus(first_byte))).await
        } else {
            self.whole(attempt, response, bounds).await
        }
    }

    /// The upstream may know better what is left of its limits. Without a limit here there is nothing to lower, and no look.
    fn heed_remaining(&self, config: &EndpointConfig, response: &Response) {
        if config.limits.rpm.is_some() || config.limits.tpm.is_some() {
            let (requests, tokens) = remaining::read(response.headers());
            if requests.is_some() || tokens.is_some() {
                self.cell.hot.lock().gate.on_remaining(clock::now(), requests, tokens);
            }
        }
    }

    fn body(&self, model: &str, most: Option<MaxTokens>) -> Vec<u8> {
        let request = &self.understood.request;
        match &self.telling {
            Telling::Passing | Telling::Kept => request.upstream_body(model, most),
            Telling::GoingOn(from) => {
                request.continuation_body(model, from.text().unwrap_or_default(), from.pieces(), most)
            }
        }
    }

    fn transcript(&self) -> Option<Box<Transcript>> {
        match &self.telling {
            Telling::Passing => None,
            Telling::Kept => Some(Box::new(match self.understood.request.may_be_continued() {
                Ok(()) => Transcript::default(),
                Err(why) => Transcript::closed(why),
            })),
            Telling::GoingOn(from) => Some(Box::new(Transcript::clone(from))),
        }
    }

    /// A status that is an error: the caller's own fault goes back unchanged, anything else to the next candidate.
    async fn error_status(&self, mut attempt: Attempt, response: Response) -> End {
        attempt.seen.first_byte = Some(clock::now());
        let status = response.status().as_u16();
        let after = retry_after::read(response.headers(), clock::wall());
        let content_type = content_type(&response).unwrap_or("application/json").to_owned();
        let body = tokio::time::timeout(ERROR_BODY_TIME, upstream::read_error(response)).await.unwrap_or_default();
        let outcome = fault::of_status(status, &body, after);
        let message = fault::kind_of(&body);
        if !matches!(outcome, Outcome::InvalidRequest | Outcome::ContextLength | Outcome::ContentPolicy) {
            return failed(attempt, outcome, &message, after);
        }
        self.ctx.ended(outcome.as_str(), status);
        let (config, cap) = (Arc::clone(&attempt.config), attempt.cap());
        let settled = attempt.settle(outcome, &message, None);
        End::Served(Served::Whole { head: self.head(&config, cap), status, content_type, body }, settled)
    }

    async fn whole(&self, mut attempt: Attempt, response: Response, bounds: Bounds) -> End {
        if let Some(kind) = content_type(&response).filter(|t| !t.contains("json")) {
            let message = format!("the answer is `{}`, not JSON", kind.chars().take(80).collect::<String>());
            return failed(attempt, Outcome::Protocol, &message, None);
        }
        let now = clock::now();
        attempt.seen.first_byte = Some(now);
        let left = bounds.until.since(now);
        let body = match tokio::time::timeout(left, upstream::read_answer(response)).await {
            Err(_) if bounds.is_callers_deadline => {
                return failed(attempt, Outcome::DeadlineExceeded, "the answer was not complete in time", None);
            }
            Err(_) => return failed(attempt, Outcome::FirstByteTimeout, "the answer was not complete in time", None),
            Ok(Err(e)) => return failed(attempt, e.outcome, &e.message, None),
            Ok(Ok(body)) => body,
        };
        match Answer::read(&body) {
            Ok(answer) => {
                attempt.seen.report(answer.usage);
                attempt.seen.disbelieved = answer.disbelieved;
                if answer.text_bytes > 0 && attempt.seen.is_silent() {
                    let model = Arc::clone(&attempt.config.model);
                    self.understood.count(&body, &model, &mut attempt.seen);
                }
            }
            Err(wrong) => return failed(attempt, wrong.outcome, &wrong.message, None),
        }
        self.ctx.ended("success", 200);
        let (config, cap) = (Arc::clone(&attempt.config), attempt.cap());
        let settled = attempt.settle(Outcome::Success, "", None);
        let content_type = "application/json".into();
        End::Served(Served::Whole { head: self.head(&config, cap), status: 200, content_type, body }, settled)
    }

    async fn stream(&self, mut attempt: Attempt, response: Response, bounds: Bounds, head_until: Ts) -> End {
        attempt.seen.first_byte = Some(clock::now());
        if content_type(&response).is_some_and(|t| !t.contains("event-stream")) {
            let read = tokio::time::timeout(ERROR_BODY_TIME, upstream::read_error(response)).await;
            let wrong = not_a_stream(&read.unwrap_or_default());
            return failed(attempt, wrong.outcome, &wrong.message, None);
        }
        let (config, cap) = (Arc::clone(&attempt.config), attempt.cap());
        let flow = Flow::new(self.understood.request.wants_usage, self.transcript());
        match Relay::open(attempt, response, flow, bounds, head_until).await {
            Ok(relay) => {
                let head = self.head(&config, cap);
                End::Served(Served::Stream { head, relay: Box::new(relay) }, Settled::nothing())
            }
            Err(head) => failed(head.attempt, head.outcome, &head.message, None),
        }
    }

    /// The headers of an answer. From here to the end of [`Self::make`] nothing may be waited for: of two calls that race, the first to
    /// end is the answer.
    fn head(&self, config: &EndpointConfig, max_tokens: Option<Cap>) -> Head {
        self.ctx.answered_by(&config.name);
        Head {
            request_id: self.ctx.id.clone(),
            endpoint: Arc::clone(&config.name),
            model: Arc::clone(&config.model),
            attempts: self.ctx.attempts(),
            elapsed: self.ctx.elapsed(),
            cost_usd: self.ctx.cost().to_string(),
            cost_state: self.ctx.cost_state(),
            max_tokens,
        }
    }
}

fn failed(attempt: Attempt, outcome: Outcome, message: &str, retry_after: Option<Duration>) -> End {
    let settled = attempt.settle(outcome, message, retry_after);
    // A failed attempt's row is not waited for: the promise is about answers.
    drop(settled);
    End::Failed(outcome, retry_after)
}

fn content_type(response: &Response) -> Option<&str> {
    response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok())
}
