//! The walk down a plan: for each candidate its gate, then an attempt, until success, the deadline or the plan's end.

mod race;
mod recover;

pub use race::Withheld;
pub use recover::Recovery;

use crate::actors::board::EndpointCell;
use crate::actors::events::Event;
use crate::actors::messages::Plan;
use crate::actors::permit::Permit;
use crate::clock;
use crate::dialects::openai::transcript::Transcript;
use crate::domain::gate::{Ask, Refusal, RefusalReason};
use crate::domain::outcome::Outcome;
use crate::domain::plan::{AttemptPlan, Step as PlanStep, Stop};
use crate::domain::queue::Full;
use crate::domain::slo::{Measured, Wish};
use crate::domain::time::Ts;
use crate::engine::attempt::Attempt;
use crate::engine::call::{Call, End, Patience, Telling};
use crate::engine::context::RequestContext;
use crate::engine::error::{ApiError, AttemptNote, Code, of_failures};
use crate::engine::hold::{self, Hold, OverBudget};
use crate::engine::place::{NoPlace, Wait, Why};
use crate::engine::record::{Step, ms};
use crate::engine::serve::Served;
use crate::engine::understand::Understood;
use bytes::Bytes;
use race::{Finished, Runner};
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Below this many calls in the window, a failure rate says nothing yet.
const RATE_MINIMUM_CALLS: u32 = 5;
/// After this long a caller may ask again where nobody knows when a call ends or a probe is judged.
const UNKNOWN_WAIT: Duration = Duration::from_secs(1);

/// The walk down a plan.
pub struct Course<'a> {
    ctx: &'a Rc<RequestContext>,
    understood: &'a Understood<'a>,
    decided: Arc<Plan>,
    plan: AttemptPlan,
    /// Why gates refused in this round, and from when they may admit.
    refusals: Vec<Refusal>,
    failures: Vec<(Arc<str>, Outcome, Duration)>,
    retry_after: Option<Duration>,
    /// Why budgets refused in this round.
    over_budget: Vec<OverBudget>,
    has_hedged: bool,
    /// The caller's body, where the route has broken streams gone on with.
    body: Option<Bytes>,
    /// The text to go on with, when a stream broke off.
    go_on: Option<Rc<Transcript>>,
}

impl<'a> Course<'a> {
    /// `usual_deadline` is for routes without one of their own; `body` is the caller's, kept where a broken stream is gone on with.
    pub fn new(
        ctx: &'a Rc<RequestContext>,
        understood: &'a Understood<'a>,
        decided: Arc<Plan>,
        usual_deadline: Duration,
        body: Option<Bytes>,
    ) -> Self {
        let mut retry = decided.route.retry.clone();
        let most = if understood.hints.no_fallback { Some(1) } else { understood.hints.max_attempts };
        retry.max_attempts = most.map_or(retry.max_attempts, |most| most.min(retry.max_attempts));
        let by_route = decided.route.deadline.unwrap_or(usual_deadline);
        let deadline = ctx.started.plus(understood.hints.deadline.map_or(by_route, |d| d.min(by_route)));
        Self {
            ctx,
            understood,
            plan: AttemptPlan::new(decided.candidates.len(), retry, deadline),
            decided,
            refusals: Vec::new(),
            failures: Vec::new(),
            retry_after: None,
            over_budget: Vec::new(),
            has_hedged: false,
            body,
            go_on: None,
        }
    }

    fn cell(&self, candidate: usize) -> Option<&Arc<EndpointCell>> {
        cell_of(&self.decided, candidate)
    }

    fn same_domain(&self, a: usize, b: usize) -> bool {
        in_one_domain(&self.decided, a, b)
    }

    /// What an attempt reserves.
    fn tokens(&self) -> u64 {
        self.understood.prompt_tokens.saturating_add(self.understood.completion_tokens)
    }

    /// Walks until there is an answer.
    ///
    /// # Errors
    /// What the caller is told instead.
    pub async fn run(mut self) -> Result<Served, ApiError> {
        if self.decided.candidates.is_empty() {
            return Err(self.nobody());
        }
        if let Some(lost) = self.decided.slo.filter(|judged| judged.lost_cause) {
            return Err(self.lost_cause(lost.wish));
        }
        loop {
            let now = clock::now();
            let Self { plan, decided, .. } = &mut self;
            let cell = |i: usize| cell_of(decided, i);
            let failure_rate = |i: usize| cell(i).map_or(1.0, |c| settled_rate(c));
            let same_domain = |a: usize, b: usize| in_one_domain(decided, a, b);
            match plan.next(now, fastrand::f64(), failure_rate, same_domain) {
                PlanStep::Try(index) => {
                    if let Some((served, by)) = self.try_candidate(index, now).await? {
                        return Ok(self.recoverable(served, by));
                    }
                }
                PlanStep::Pause(pause) => self.wait(pause, "backoff before another pass").await,
                PlanStep::Stop(Stop::AllRefused) => {
                    let (index, permit) = self.wait_for_place(now).await?;
                    let (permit, hold) = self.pay_for(permit).await?;
                    if let Some((served, by)) = self.attempt(index, permit, hold).await? {
                        return Ok(self.recoverable(served, by));
                    }
                }
                PlanStep::Stop(Stop::Deadline) => return Err(self.too_late()),
                PlanStep::Stop(Stop::Exhausted) => return Err(self.failed()),
            }
        }
    }

    /// Asks a candidate's gate and, if it admits, makes an attempt; an answer comes with who gave it.
    async fn try_candidate(&mut self, index: usize, now: Ts) -> Result<Option<(Served, usize)>, ApiError> {
        let Some(cell) = self.cell(index).cloned() else {
            self.plan.refused(index);
            return Ok(None);
        };
        let hold = match hold::reserve(self.ctx, self.understood, &cell, self.plan.deadline()).await {
            Ok(hold) => hold,
            Err(over) => {
                self.plan.refused(index);
                self.over_budget.push(over);
                return Ok(None);
            }
        };
        let now = hold.waited_until().unwrap_or(now);
        let tokens = self.tokens();
        let open = |i: usize| self.cell(i).is_some_and(|c| c.hot.lock().gate.peek(now, tokens, false).is_none());
        // A request serves as a probe only while it could still be answered elsewhere, or when nobody else is left at all.
        let has_alternative = self.plan.has_alternative(index, open);
        let may_probe = has_alternative || self.is_last_hope(index) || self.plan.is_spared(index);
        // A recovering endpoint takes a request that has nowhere else to go.
        let roll = if has_alternative { fastrand::f64() } else { 0.0 };
        let priority = self.ctx.caller.priority();
        let permit = match Permit::take_as(&cell, now, tokens, Ask { may_probe, roll }, priority) {
            Ok(permit) => permit,
            Err(refusal) => {
                self.refused(index, &cell, now, refusal);
                return Ok(None);
            }
        };
        self.attempt(index, permit, hold).await
    }

    /// Reserves for a place that was waited for. It is kept meanwhile: whoever holds money never waits for a place.
    async fn pay_for(&self, permit: Permit) -> Result<(Permit, Hold), ApiError> {
        match hold::reserve(self.ctx, self.understood, permit.cell(), self.plan.deadline()).await {
            Ok(hold) => match hold.waited_until() {
                Some(now) => Ok((permit.starting_at(now), hold)),
                None => Ok((permit, hold)),
            },
            Err(over) => {
                permit.give_back(clock::now());
                Err(over.error())
            }
        }
    }

    /// Makes an attempt with a candidate's permit; an answer comes with who gave it.
    async fn attempt(&mut self, index: usize, permit: Permit, hold: Hold) -> Result<Option<(Served, usize)>, ApiError> {
        let (cell, now) = (Arc::clone(permit.cell()), permit.started());
        if let Some((_, last, _)) = self.failures.last()
            && !self.ctx.worker.gateway.retry_budget.lock().try_spend(now, last.class().retry_cost)
        {
            self.ctx.worker.gateway.counters.retry_budget_spent.fetch_add(1, Relaxed);
            self.ctx.note(now, |at_ms| Step::RetryBudgetSpent { at_ms });
            permit.give_back(now);
            return Err(self.failed());
        }
        self.tell_failover(now, &cell);
        let mark = if self.go_on.is_some() { ";recover" } else { "" };
        let runner = self.start(index, permit, hold, mark);
        let finished = match self.hedging() {
            // Apart, so that requests without a hedge need not carry its room along.
            Some(hedging) => Box::pin(self.race(runner, hedging)).await,
            None => runner.run().await,
        };
        match finished.end {
            End::Served(served, settled) => {
                settled.durable().await;
                Ok(Some((served, finished.index)))
            }
            End::Failed(..) | End::Withdrawn => {
                self.note_end(finished);
                Ok(None)
            }
        }
    }

    /// An attempt with a permit for the candidate; `mark` ends its row's decision.
    fn start(&mut self, index: usize, permit: Permit, hold: Hold, mark: &str) -> Runner<'a> {
        self.plan.started();
        let cell = Arc::clone(permit.cell());
        let config = cell.config();
        let decision = format!("{}/{}{mark}", self.decided.strategy.as_str(), index + 1).into();
        let attempt = Attempt::start(self.ctx, permit, config, decision, hold);
        let patience = self.patience(index, &attempt);
        let telling = match &self.go_on {
            Some(transcript) => Telling::GoingOn(Rc::clone(transcript)),
            None if self.body.is_some() => Telling::Kept,
            None => Telling::Passing,
        };
        let call = Call { ctx: self.ctx, understood: self.understood, cell: Arc::clone(&cell), patience, telling };
        Runner { index, cell, started: attempt.started(), call, attempt }
    }

    /// Takes in an attempt that is no answer.
    fn note_end(&mut self, finished: Finished) {
        let Finished { index, cell, started, end } = finished;
        let (outcome, retry_after) = match end {
            End::Served(..) => return,
            End::Withdrawn => return self.withdrawn(index, &cell),
            End::Failed(outcome, retry_after) => (outcome, retry_after),
        };
        self.failures.push((Arc::clone(&cell.name), outcome, clock::now().since(started)));
        self.retry_after = match (self.retry_after, retry_after) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.plan.failed(index, outcome);
    }

    /// As if the gate had refused at once.
    fn withdrawn(&mut self, index: usize, cell: &EndpointCell) {
        let now = clock::now();
        let shut = Refusal { reason: RefusalReason::BreakerOpen, retry_at: None };
        let refusal = cell.hot.lock().gate.peek(now, self.tokens(), false).unwrap_or(shut);
        self.refused(index, cell, now, refusal);
        self.plan.withdrawn(index);
    }

    fn patience(&self, index: usize, attempt: &Attempt) -> Patience {
        let share = self.plan.share(index, attempt.started());
        let configured = attempt.config.timeouts.first_byte;
        let is_last = self.plan.is_last(index);
        Patience {
            first_byte: configured.min(share),
            is_callers: share <= configured && is_last,
            deadline: self.plan.deadline(),
            has_others: !is_last,
        }
    }

    /// Whether a request that others have failed already has only this candidate left: a probe costs it nothing then. One that has
    /// not been sent yet gets its probe in line, see [`Self::wait_for_place`].
    fn is_last_hope(&self, index: usize) -> bool {
        !self.failures.is_empty() && self.plan.is_last(index)
    }

    fn refused(&mut self, index: usize, cell: &EndpointCell, now: Ts, refusal: Refusal) {
        let for_others = matches!(refusal.reason, RefusalReason::Ramping | RefusalReason::ProbeNotAllowed);
        if for_others && !self.plan.is_spared(index) {
            self.plan.spared(index);
        } else {
            self.plan.refused(index);
        }
        self.ctx.worker.gateway.counters.refusals.fetch_add(1, Relaxed);
        self.ctx.note(now, |at_ms| Step::Refused {
            at_ms,
            endpoint: Arc::clone(&cell.name),
            reason: Cow::Borrowed(refusal.reason.as_str()),
            retry_in_ms: refusal.retry_at.map(|at| ms(at.since(now))),
        });
        self.refusals.push(refusal);
    }

    fn tell_failover(&self, now: Ts, to: &EndpointCell) {
        let Some((from, outcome, _)) = self.failures.last() else { return };
        let gateway = &self.ctx.worker.gateway;
        gateway.counters.failovers.fetch_add(1, Relaxed);
        self.ctx.note(now, |at_ms| Step::Failover {
            at_ms,
            from: Arc::clone(from),
            to: Arc::clone(&to.name),
            outcome: Cow::Borrowed(outcome.as_str()),
        });
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

    /// Every gate refused: stands in line for the first place if one may come in time, else gives up truthfully.
    async fn wait_for_place(&mut self, now: Ts) -> Result<(usize, Permit), ApiError> {
        if self.refusals.is_empty() {
            return Err(self.nobody());
        }
        let deadline = self.plan.deadline();
        let wait = Wait { ctx: self.ctx, plan: &self.decided, tokens: self.tokens(), deadline };
        let NoPlace { why, refusals } = match wait.for_place(now).await {
            Ok(place) => {
                self.refusals.clear();
                self.over_budget.clear();
                self.plan.forgive_refusals();
                return Ok(place);
            }
            Err(none) => none,
        };
        self.refusals = refusals;
        Err(match why {
            Why::Deadline => self.too_late(),
            Why::NotInTime => self.nobody(),
            Why::Crowded(full) => {
                let reason = match full {
                    Full::All => "as many requests wait already as may",
                    Full::Share => "as many requests of this key wait already as its share allows",
                };
                let mut error = self.nobody();
                error.code = Code::NoEndpointAvailable;
                error.message = format!("{}; {reason}", error.message);
                error
            }
        })
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
        if let Some(over) = self.over_budget.first() {
            error.message = format!("{}; {}", error.message, over.error().message);
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

    /// Nobody answers in time often enough for a call to be worth its price.
    fn lost_cause(&self, wish: Wish) -> ApiError {
        let candidates = &self.decided.candidates;
        let best = candidates.iter().max_by(|a, b| a.p_in_time.unwrap_or(0.0).total_cmp(&b.p_in_time.unwrap_or(0.0)));
        let mut message = format!(
            "no endpoint's {} is within the deadline of {} ms often enough to be tried",
            wish.measured.as_str().replace('_', " "),
            wish.within.as_millis()
        );
        if let Some((best, cell)) = best.and_then(|b| Some((b, self.decided.route.cells.get(b.index)?))) {
            let figures = cell.figures();
            let table = if wish.measured == Measured::FirstToken { figures.ttft } else { figures.latency };
            let share = best.p_in_time.unwrap_or(0.0) * 100.0;
            let median = table.usual().map_or(0, |[p50, ..]| p50 / 1_000);
            let of = table.count();
            message +=
                &format!("; the best, `{}`, in {share:.1} % of its last {of}, with a median of {median} ms", cell.name);
        }
        ApiError::new(Code::DeadlineExceeded, message)
    }

    /// The error when nobody could even be asked, with the true time from which somebody may be.
    fn nobody(&self) -> ApiError {
        if let (true, Some(over)) = (self.refusals.is_empty(), self.over_budget.first()) {
            return over.error();
        }
        let now = clock::now();
        let soonest = self.refusals.iter().filter_map(|r| r.retry_at).min().map(|at| at.since(now));
        let all =
            |test: fn(RefusalReason) -> bool| !self.refusals.is_empty() && self.refusals.iter().all(|r| test(r.reason));
        let error = if self.decided.candidates.is_empty() {
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
        // A place that depends on others has no time of its own.
        let unknown = || (!self.decided.candidates.is_empty()).then_some(UNKNOWN_WAIT);
        error.with_retry_after(soonest.or_else(unknown))
    }
}

fn cell_of(plan: &Plan, candidate: usize) -> Option<&Arc<EndpointCell>> {
    plan.candidates.get(candidate).and_then(|c| plan.route.cells.get(c.index))
}

/// The failure rate that a second pass judges by: nothing is hopeless after a handful of calls.
fn settled_rate(cell: &EndpointCell) -> f64 {
    let figures = cell.figures();
    if figures.calls < RATE_MINIMUM_CALLS { 0.0 } else { f64::from(figures.failure_rate) }
}

fn in_one_domain(plan: &Plan, a: usize, b: usize) -> bool {
    let (Some(a), Some(b)) = (cell_of(plan, a), cell_of(plan, b)) else { return false };
    let (a, b) = (a.config(), b.config());
    a.domain.iter().any(|d| b.domain.contains(d))
}
