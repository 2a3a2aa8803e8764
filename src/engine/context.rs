//! What the attempts of one request share; dropped when the request is over, whatever ended it, it leaves the request's record.

use crate::actors::messages::Plan;
use crate::clock;
use crate::domain::chaos::Fate;
use crate::domain::ids::RequestId;
use crate::domain::money::NanoUsd;
use crate::domain::time::{Ts, Wall};
use crate::engine::access::Caller;
use crate::engine::budgets::Applied;
use crate::engine::chaos::{Ended, Struck};
use crate::engine::gateway::{Entered, Worker};
use crate::engine::hints::Tags;
use crate::engine::record::{Kept, Step, ms};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// How sure a cost is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum CostState {
    #[default]
    Measured,
    Estimated,
    Unpriced,
}

impl CostState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Estimated => "estimated",
            Self::Unpriced => "unpriced",
        }
    }
}

pub struct RequestContext {
    pub worker: Rc<Worker>,
    pub id: RequestId,
    /// The name that was asked for.
    pub route: Arc<str>,
    pub caller: Caller,
    pub tags: Tags,
    pub stream: bool,
    pub prompt_tokens: u64,
    pub started: Ts,
    /// What it falls under; `None`: nothing, at any endpoint.
    pub budgets: Option<Box<Applied>>,
    /// Of the tables of budgets when the request came in.
    pub budgets_version: u64,
    /// A soft budget was exceeded when the request came in.
    pub over_soft_budget: bool,
    started_at: Wall,
    plan: RefCell<Option<Arc<Plan>>>,
    steps: RefCell<Vec<Step>>,
    attempts: Cell<u32>,
    cost: Cell<NanoUsd>,
    cost_state: Cell<CostState>,
    outcome: Cell<(&'static str, u16)>,
    endpoint: RefCell<Option<Arc<str>>>,
    /// Why an attempt that is dropped is cancelled.
    why_cancelled: Cell<&'static str>,
    /// What experiments did to it.
    pub struck: RefCell<Option<Box<Struck>>>,
    _entered: Entered,
}

/// The parts that a request brings along.
pub struct Opening {
    pub worker: Rc<Worker>,
    pub id: RequestId,
    pub route: Arc<str>,
    pub caller: Caller,
    pub tags: Tags,
    pub stream: bool,
    pub prompt_tokens: u64,
    pub started: Ts,
    pub budgets: Option<Box<Applied>>,
    pub budgets_version: u64,
    pub over_soft_budget: bool,
    pub entered: Entered,
}

impl RequestContext {
    #[must_use]
    pub fn new(opening: Opening) -> Rc<Self> {
        Rc::new(Self {
            worker: opening.worker,
            id: opening.id,
            route: opening.route,
            caller: opening.caller,
            tags: opening.tags,
            stream: opening.stream,
            prompt_tokens: opening.prompt_tokens,
            started: opening.started,
            budgets: opening.budgets,
            budgets_version: opening.budgets_version,
            over_soft_budget: opening.over_soft_budget,
            started_at: clock::wall(),
            plan: RefCell::default(),
            steps: RefCell::new(Vec::with_capacity(2)),
            attempts: Cell::new(0),
            cost: Cell::default(),
            cost_state: Cell::default(),
            // Until somebody says otherwise: the caller went away. nginx's status for it; only logs and records see it.
            outcome: Cell::new(("cancelled", 499)),
            endpoint: RefCell::default(),
            why_cancelled: Cell::new("the caller went away"),
            struck: RefCell::default(),
            _entered: opening.entered,
        })
    }

    pub fn decided(&self, plan: Arc<Plan>) {
        *self.plan.borrow_mut() = Some(plan);
    }

    /// Notes what happened; `step` is given the milliseconds since the request came in.
    pub fn note(&self, at: Ts, step: impl FnOnce(f64) -> Step) {
        /// A request that waits and is refused for long must not grow without bound.
        const MAX_STEPS: usize = 256;
        let mut steps = self.steps.borrow_mut();
        if steps.len() < MAX_STEPS {
            steps.push(step(ms(at.since(self.started))));
        }
    }

    pub fn attempt_started(&self) -> u32 {
        self.attempts.set(self.attempts.get() + 1);
        self.attempts.get()
    }

    /// The attempt of this number was none after all. The number is free again unless another was given since.
    pub fn attempt_withdrawn(&self, number: u32) {
        if self.attempts.get() == number {
            self.attempts.set(number - 1);
        }
    }

    /// Adds an attempt's cost; `None` is unpriced.
    pub fn charge(&self, cost: Option<NanoUsd>, state: CostState) {
        self.cost.set(self.cost.get() + cost.unwrap_or_default());
        self.cost_state.set(self.cost_state.get().max(state));
    }

    /// Drops an attempt under way, or what holds it; its row and record say why.
    pub fn cancel<T>(&self, running: T, why: &'static str) {
        let usual = self.why_cancelled.replace(why);
        drop(running);
        self.why_cancelled.set(usual);
    }

    #[must_use]
    pub fn why_cancelled(&self) -> &'static str {
        self.why_cancelled.get()
    }

    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts.get()
    }

    #[must_use]
    pub fn cost(&self) -> NanoUsd {
        self.cost.get()
    }

    #[must_use]
    pub fn cost_state(&self) -> CostState {
        self.cost_state.get()
    }

    /// The request has its answer from `endpoint`.
    pub fn answered_by(&self, endpoint: &Arc<str>) {
        *self.endpoint.borrow_mut() = Some(Arc::clone(endpoint));
    }

    /// How the request ended for the caller.
    pub fn ended(&self, outcome: &'static str, status: u16) {
        self.outcome.set((outcome, status));
    }

    /// Tells the experiments that struck this request, or could have, how it ended.
    fn tell_chaos(&self, took: Duration) {
        let chaos = &self.worker.gateway.chaos;
        let struck = self.struck.borrow();
        if struck.is_none() && !chaos.is_running() {
            return;
        }
        let plan = self.plan.borrow();
        chaos.request_ended(&Ended {
            struck: struck.as_deref(),
            fate: match self.outcome.get() {
                (_, 200..=299) => Fate::Answered,
                (_, 499) => Fate::CallerGone,
                _ => Fate::Lost,
            },
            started: self.started,
            took,
            cost: self.cost.get(),
            cost_state: self.cost_state.get(),
            cells: plan.as_ref().map_or(&[], |p| &p.route.cells),
        });
    }

    #[must_use]
    pub fn elapsed(&self) -> Duration {
        clock::now().since(self.started)
    }
}

impl Drop for RequestContext {
    fn drop(&mut self) {
        let duration = self.elapsed();
        self.tell_chaos(duration);
        let gateway = &self.worker.gateway;
        let (outcome, status) = self.outcome.get();
        let class = match status {
            499 => 3,
            500.. => 2,
            400.. => 1,
            _ => 0,
        };
        gateway.counters.answered[class].fetch_add(1, Relaxed);
        let kept = Kept {
            request_id: self.id.clone(),
            started_at: self.started_at,
            model: Arc::clone(&self.route),
            stream: self.stream,
            key_id: self.caller.key_id(),
            outcome,
            status,
            endpoint: self.endpoint.take(),
            duration,
            attempts: self.attempts.get(),
            cost: self.cost.get(),
            cost_state: self.cost_state.get().as_str(),
            prompt_tokens: self.prompt_tokens,
            plan: self.plan.take(),
            steps: self.steps.take(),
        };
        gateway.keep(kept);
    }
}
