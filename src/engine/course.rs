//! The walk down a plan: for each candidate its gate, then an attempt, until success, the deadline or the plan's end.

use crate::actors::board::EndpointCell;
use crate::actors::events::Event;
use crate::actors::messages::{Candidate, Plan};
use crate::actors::permit::Permit;
use crate::actors::topology::RouteTable;
use crate::clock;
use crate::config::model::EndpointConfig;
use crate::dialects::openai::answer::Answer;
use crate::dialects::upstream::{self, CallError};
use crate::dialects::{fault, retry_after};
use crate::domain::gate::{Ask, Refusal, RefusalReason};
use crate::domain::outcome::Outcome;
use crate::domain::plan::{AttemptPlan, Step as PlanStep, Stop};
use crate::domain::strategy::StrategyKind;
use crate::domain::time::Ts;
use crate::engine::attempt::{Attempt, Settled};
use crate::engine::context::RequestContext;
use crate::engine::error::{ApiError, AttemptNote, Code, of_failures};
use crate::engine::record::{Step, ms};
use crate::engine::relay::{Bounds, Relay, not_a_stream};
use crate::engine::serve::{Head, Served};
use crate::engine::understand::Understood;
use bytes::Bytes;
use reqwest::Response;
use reqwest::header::CONTENT_TYPE;
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Below this many calls in the window, a failure rate says nothing yet.
const RATE_MINIMUM_CALLS: u32 = 5;
/// A breaker that re-opens this soon is waited for.
const NEAR: Duration = Duration::from_millis(250);
/// Requests that may wait for a full endpoint at once.
const MAX_WAITING: u32 = 1_000;
/// Of so many candidates a waiting request stands in line at once.
const MAX_LINES: usize = 16;
/// An error answer's body may take this long.
const ERROR_BODY_TIME: Duration = Duration::from_secs(5);

/// The walk down a plan.
pub struct Course<'a> {
    ctx: &'a Rc<RequestContext>,
    understood: &'a Understood<'a>,
    candidates: Vec<Candidate>,
    route: Arc<RouteTable>,
    plan: AttemptPlan,
    strategy: StrategyKind,
    /// Why gates refused in this round, and from when they may admit.
    refusals: Vec<Refusal>,
    failures: Vec<(Arc<str>, Outcome, Duration)>,
    retry_after: Option<Duration>,
    started_waiting: Option<Ts>,
}

/// How an attempt ended.
enum End {
    Served(Served),
    Failed(Outcome, Option<Duration>),
}

impl<'a> Course<'a> {
    pub fn new(ctx: &'a Rc<RequestContext>, understood: &'a Understood<'a>, plan: Plan) -> Self {
        let mut retry = plan.route.retry.clone();
        let most = if understood.hints.no_fallback { Some(1) } else { understood.hints.max_attempts };
        retry.max_attempts = most.map_or(retry.max_attempts, |most| most.min(retry.max_attempts));
        let by_route = plan.route.deadline.unwrap_or(ctx.worker.gateway.config().server.deadline);
        let deadline = ctx.started.plus(understood.hints.deadline.map_or(by_route, |d| d.min(by_route)));
        Self {
            ctx,
            understood,
            plan: AttemptPlan::new(plan.candidates.len(), retry, deadline),
            strategy: plan.strategy,
            candidates: plan.candidates,
            route: plan.route,
            refusals: Vec::new(),
            failures: Vec::new(),
            retry_after: None,
            started_waiting: None,
        }
    }

    fn cell(&self, candidate: usize) -> Option<&Arc<EndpointCell>> {
        self.candidates.get(candidate).and_then(|c| self.route.cells.get(c.index))
    }

    /// Walks until there is an answer.
    ///
    /// # Errors
    /// What the caller is told instead.
    pub async fn run(mut self) -> Result<Served, ApiError> {
        if self.candidates.is_empty() {
            return Err(self.nobody());
        }
        loop {
            let now = clock::now();
            let Self { plan, candidates, route, .. } = &mut self;
            let cell = |i: usize| candidates.get(i).and_then(|c| route.cells.get(c.index));
            let failure_rate = |i: usize| cell(i).map_or(1.0, |c| settled_rate(c));
            let same_domain = |a: usize, b: usize| match (cell(a), cell(b)) {
                (Some(a), Some(b)) => shares_domain(a, b),
                _ => false,
            };
            match plan.next(now, fastrand::f64(), failure_rate, same_domain) {
                PlanStep::Try(index) => {
                    if let Some(served) = self.try_candidate(index, now).await? {
                        return Ok(served);
                    }
                }
                PlanStep::Pause(pause) => self.wait(pause, "backoff before another pass").await,
                PlanStep::Stop(Stop::AllRefused) => self.wait_for_place(now).await?,
                PlanStep::Stop(Stop::Deadline) => return Err(self.too_late()),
                PlanStep::Stop(Stop::Exhausted) => return Err(self.failed()),
            }
        }
    }

    /// Asks a candidate's gate and, if it admits, makes an attempt.
    async fn try_candidate(&mut self, index: usize, now: Ts) -> Result<Option<Served>, ApiError> {
        let Some(cell) = self.cell(index).cloned() else {
            self.plan.refused(index);
            return Ok(None);
        };
        let tokens = self.understood.prompt_tokens.saturating_add(self.understood.completion_tokens);
        let open = |i: usize| self.cell(i).is_some_and(|c| c.hot.lock().gate.peek(now, tokens, false).is_none());
        // A request serves as a probe only while it could still be answered elsewhere, or when nobody else is left at all.
        let has_alternative = self.plan.has_alternative(index, open);
        let may_probe = has_alternative || self.started_waiting.is_some() || self.is_only_hope(index);
        // A recovering endpoint takes a request that has nowhere else to go.
        let roll = if has_alternative { fastrand::f64() } else { 0.0 };
        let permit = match Permit::take(&cell, now, tokens, Ask { may_probe, roll }) {
            Ok(permit) => permit,
            Err(refusal) => {
                self.refused(index, &cell, now, refusal);
                return Ok(None);
            }
        };
        if let Some((_, last, _)) = self.failures.last()
            && !self.ctx.worker.gateway.retry_budget.lock().try_spend(now, last.class().retry_cost)
        {
            self.ctx.worker.gateway.counters.retry_budget_spent.fetch_add(1, Relaxed);
            self.ctx.note(now, |at_ms| Step::RetryBudgetSpent { at_ms });
            permit.give_back(now);
            return Err(self.failed());
        }
        self.tell_failover(&cell);
        self.plan.started();
        let config = cell.config();
        let decision = format!("{}/{}", self.strategy.as_str(), index + 1).into();
        let attempt = Attempt::start(self.ctx, permit, config, decision);
        match self.attempt(attempt, index).await {
            End::Served(served) => Ok(Some(served)),
            End::Failed(outcome, retry_after) => {
                self.failures.push((Arc::clone(&cell.name), outcome, clock::now().since(now)));
                self.retry_after = match (self.retry_after, retry_after) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                self.plan.failed(index, outcome);
                Ok(None)
            }
        }
    }

    /// Whether every other candidate is shut, so that this one's probe is all that could help.
    fn is_only_hope(&self, index: usize) -> bool {
        self.refusals.len() + 1 >= self.candidates.len() && index + 1 == self.candidates.len()
    }

    fn refused(&mut self, index: usize, cell: &EndpointCell, now: Ts, refusal: Refusal) {
        self.plan.refused(index);
        self.ctx.worker.gateway.counters.refusals.fetch_add(1, Relaxed);
        self.ctx.note(now, |at_ms| Step::Refused {
            at_ms,
            endpoint: Arc::clone(&cell.name),
            reason: Cow::Borrowed(refusal.reason.as_str()),
            retry_in_ms: refusal.retry_at.map(|at| ms(at.since(now))),
        });
        self.refusals.push(refusal);
    }

    fn tell_failover(&self, to: &EndpointCell) {
        let Some((from, outcome, _)) = self.failures.last() else { return };
        let gateway = &self.ctx.worker.gateway;
        gateway.counters.failovers.fetch_add(1, Relaxed);
        gateway.events.emit(|| Event::Failover {
            request_id: self.ctx.id.shared(),
            from: Arc::clone(from),
            to: Arc::clone(&to.name),
            outcome: outcome.as_str(),
        });
    }

    async fn wait(&self, pause: Duration, why: &'static str) {
        self.ctx.note(clock::now(), |at_ms| Step::Waited { at_ms, ms: ms(pause), why: Cow::Borrowed(why) });
        tokio::time::sleep(pause).await;
    }

    /// Every gate refused: waits for the first that may admit again if that is near, else gives up truthfully.
    async fn wait_for_place(&mut self, now: Ts) -> Result<(), ApiError> {
        let since = *self.started_waiting.get_or_insert(now);
        let max_wait = self.route.cells.iter().map(|c| c.config().limits.max_wait).max().unwrap_or_default();
        let latest = |r: &Refusal| since.plus(if is_breaker(r.reason) { NEAR } else { max_wait });
        // A refusal without a time depends on others: on a call that ends, or a breaker that moves.
        let near = |r: &Refusal| match r.retry_at {
            Some(at) => Some(at).filter(|at| *at <= latest(r)),
            None => Some(latest(r)).filter(|end| now < *end),
        };
        let crowded = self.ctx.worker.gateway.waiting.load(Relaxed) >= MAX_WAITING;
        let until = self.refusals.iter().filter_map(near).min();
        let Some(until) = until.filter(|at| *at < self.plan.deadline() && !crowded) else {
            return Err(self.nobody());
        };
        // Never less than a millisecond: a gate that said "now" is given time to move.
        let pause = until.since(now).max(Duration::from_millis(1));
        {
            let _place = Waiting::enter(self.ctx);
            let cells = (0..self.candidates.len().min(MAX_LINES)).filter_map(|i| self.cell(i));
            let lines: Vec<_> = cells.map(|c| Box::pin(c.room.notified())).collect();
            // Whichever comes first; both mean: ask again.
            let _ = tokio::time::timeout(pause, futures_util::future::select_all(lines)).await;
        }
        let waited = clock::now().since(now);
        self.ctx.note(now, |at_ms| Step::Waited {
            at_ms,
            ms: ms(waited),
            why: Cow::Borrowed("every candidate was full or shut"),
        });
        self.refusals.clear();
        self.plan.forgive_refusals();
        Ok(())
    }

    async fn attempt(&self, mut attempt: Attempt, index: usize) -> End {
        let worker = &self.ctx.worker;
        let config = Arc::clone(&attempt.config);
        let target = match self.cell(index).map(|c| worker.target(c.id, &config, attempt.started(), fastrand::f64())) {
            Some(Ok(target)) => target,
            Some(Err(e)) => return failed(attempt, Outcome::ConnectFailed, &e, None),
            None => return failed(attempt, Outcome::ConnectFailed, "the endpoint is gone", None),
        };
        let started = attempt.started();
        let share = self.plan.share(index, started);
        let first_byte = config.timeouts.first_byte.min(share);
        let is_callers = share <= config.timeouts.first_byte && self.plan.is_last(index);
        let late = if is_callers { Outcome::DeadlineExceeded } else { Outcome::FirstByteTimeout };
        let body = Bytes::from(self.understood.request.upstream_body(&config.model));
        let response = match tokio::time::timeout(first_byte, worker.upstream.post_chat(&target, body)).await {
            Err(_) => return failed(attempt, late, "no first byte in time", None),
            Ok(Err(CallError { outcome, message })) => return failed(attempt, outcome, &message, None),
            Ok(Ok(response)) => response,
        };
        attempt.seen.http_status = response.status().as_u16();
        if !response.status().is_success() {
            let end = self.error_status(attempt, response).await;
            if let (End::Failed(Outcome::AuthFailed, _), Some(cell)) = (&end, self.cell(index)) {
                worker.key_refused(cell.id, &target, clock::now());
            }
            return end;
        }
        let deadline = self.plan.deadline();
        let total = started.plus(config.timeouts.total);
        let bounds =
            Bounds { idle: config.timeouts.idle, until: total.min(deadline), is_callers_deadline: deadline <= total };
        if self.understood.request.stream {
            self.stream(attempt, response, bounds, started.plus(first_byte)).await
        } else {
            self.whole(attempt, response, bounds).await
        }
    }

    /// A status that is an error: the caller's own fault goes back unchanged, anything else to the next candidate.
    async fn error_status(&self, attempt: Attempt, response: Response) -> End {
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
        let config = Arc::clone(&attempt.config);
        let settled = attempt.settle(outcome, &message, None);
        let head = self.head(&config, settled).await;
        End::Served(Served::Whole { head, status, content_type, body })
    }

    async fn whole(&self, mut attempt: Attempt, response: Response, bounds: Bounds) -> End {
        if let Some(kind) = content_type(&response).filter(|t| !t.contains("json")) {
            let message = format!("the answer is `{}`, not JSON", kind.chars().take(80).collect::<String>());
            return failed(attempt, Outcome::Protocol, &message, None);
        }
        let left = bounds.until.since(clock::now());
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
                attempt.seen.usage = answer.usage;
                attempt.seen.text_bytes = answer.text_bytes;
            }
            Err(wrong) => return failed(attempt, wrong.outcome, &wrong.message, None),
        }
        self.ctx.ended("success", 200);
        let config = Arc::clone(&attempt.config);
        let settled = attempt.settle(Outcome::Success, "", None);
        let head = self.head(&config, settled).await;
        End::Served(Served::Whole { head, status: 200, content_type: "application/json".into(), body })
    }

    async fn stream(&self, attempt: Attempt, response: Response, bounds: Bounds, head_until: Ts) -> End {
        if content_type(&response).is_some_and(|t| !t.contains("event-stream")) {
            let read = tokio::time::timeout(ERROR_BODY_TIME, upstream::read_error(response)).await;
            let wrong = not_a_stream(&read.unwrap_or_default());
            return failed(attempt, wrong.outcome, &wrong.message, None);
        }
        let config = Arc::clone(&attempt.config);
        match Relay::open(attempt, response, self.understood.request.wants_usage, bounds, head_until).await {
            Ok(relay) => {
                let head = self.head(&config, Settled::nothing()).await;
                End::Served(Served::Stream { head, relay: Box::new(relay) })
            }
            Err(head) => failed(head.attempt, head.outcome, &head.message, None),
        }
    }

    /// The headers of an answer; in `strict` durability only once its row is on disk.
    async fn head(&self, config: &EndpointConfig, settled: Settled) -> Head {
        settled.durable().await;
        self.ctx.answered_by(&config.name);
        Head {
            request_id: self.ctx.id.clone(),
            endpoint: Arc::clone(&config.name),
            model: Arc::clone(&config.model),
            attempts: self.ctx.attempts(),
            elapsed: self.ctx.elapsed(),
            cost_usd: self.ctx.cost().to_string(),
            cost_state: self.ctx.cost_state(),
        }
    }

    fn notes(&self) -> Vec<AttemptNote> {
        let note = |(endpoint, outcome, took): &(Arc<str>, Outcome, Duration)| AttemptNote {
            endpoint: Arc::clone(endpoint),
            outcome: outcome.as_str(),
            ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        };
        self.failures.iter().map(note).collect()
    }

    /// The error after all attempts failed.
    fn failed(&self) -> ApiError {
        let outcomes: Vec<Outcome> = self.failures.iter().map(|(_, outcome, _)| *outcome).collect();
        let mut error = of_failures(&outcomes, self.retry_after);
        if outcomes.is_empty() {
            return self.nobody();
        }
        error.attempts = self.notes();
        error
    }

    fn too_late(&self) -> ApiError {
        let mut error =
            ApiError::new(Code::DeadlineExceeded, "the request's deadline passed before an endpoint answered");
        error.attempts = self.notes();
        error
    }

    /// The error when nobody could even be asked, with the true time from which somebody may be.
    fn nobody(&self) -> ApiError {
        let now = clock::now();
        let soonest = self.refusals.iter().filter_map(|r| r.retry_at).min().map(|at| at.since(now));
        let all =
            |test: fn(RefusalReason) -> bool| !self.refusals.is_empty() && self.refusals.iter().all(|r| test(r.reason));
        let error = if self.candidates.is_empty() {
            let message = "no endpoint of this model fits the request; POST /v1/explain with it says why";
            ApiError::new(Code::NoEndpointAvailable, message)
        } else if all(|r| r == RefusalReason::Quota) {
            ApiError::new(Code::Quota, "the quota is spent at every endpoint")
        } else if all(|r| matches!(r, RefusalReason::RateLimited | RefusalReason::Quota)) {
            ApiError::new(Code::RateLimitExceeded, "every endpoint is at its vendor's rate limit")
        } else if all(|r| r == RefusalReason::AuthFailed) {
            ApiError::new(Code::UpstreamAuth, "the vendors refuse the gateway's own keys; tell its operator")
        } else {
            let reasons: std::collections::BTreeSet<_> = self.refusals.iter().map(|r| r.reason.as_str()).collect();
            let reasons: Vec<_> = reasons.into_iter().collect();
            let message = format!("no endpoint can take the request now ({})", reasons.join(", "));
            ApiError::new(Code::NoEndpointAvailable, message)
        };
        error.with_retry_after(soonest)
    }
}

fn failed(attempt: Attempt, outcome: Outcome, message: &str, retry_after: Option<Duration>) -> End {
    let settled = attempt.settle(outcome, message, retry_after);
    // A failed attempt's row is not waited for: the promise is about answers.
    drop(settled);
    End::Failed(outcome, retry_after)
}

/// Whether a refusal is the breaker's word; the others are limits, which open by themselves.
fn is_breaker(reason: RefusalReason) -> bool {
    use RefusalReason::{BreakerOpen, ForcedOpen, HalfOpenFull, ProbeNotAllowed, Ramping};
    matches!(reason, BreakerOpen | ForcedOpen | HalfOpenFull | ProbeNotAllowed | Ramping)
}

fn content_type(response: &Response) -> Option<&str> {
    response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok())
}

/// The failure rate that a second pass judges by: nothing is hopeless after a handful of calls.
fn settled_rate(cell: &EndpointCell) -> f64 {
    let figures = cell.figures();
    if figures.calls < RATE_MINIMUM_CALLS { 0.0 } else { f64::from(figures.failure_rate) }
}

fn shares_domain(a: &EndpointCell, b: &EndpointCell) -> bool {
    let (a, b) = (a.config(), b.config());
    a.domain.iter().any(|d| b.domain.contains(d))
}

/// A request's place among those that wait.
struct Waiting<'a>(&'a RequestContext);

impl<'a> Waiting<'a> {
    fn enter(ctx: &'a RequestContext) -> Self {
        ctx.worker.gateway.waiting.fetch_add(1, Relaxed);
        Self(ctx)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.worker.gateway.waiting.fetch_sub(1, Relaxed);
    }
}
