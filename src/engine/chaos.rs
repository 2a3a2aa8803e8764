//! Injected faults: which experiments run, what they strike, and what came of it.
//!
//! An experiment acts where the endpoint's real call would be made, so the breaker, the histograms, limits, retries and the ledger see
//! what the vendor would have done. Which attempt is struck is decided in [`crate::domain::chaos`]; here the roll is drawn and the count
//! is kept. An attempt at an endpoint without an experiment reads one number and goes on.
//!
//! Experiments live in memory alone: a restart ends them. So does the end of their time, an operator, a reload that changes or
//! removes their endpoint or no longer allows chaos, and the endpoint's removal. The last scorecards are kept.

mod inject;
mod operations;

use crate::actors::board::EndpointCell;
use crate::clock;
use crate::dialects::upstream::{CallError, Target};
use crate::domain::chaos::{Experiment, Fate, LONGEST, MOST_RUNNING, Score, Slot, free_share, strikes};
use crate::domain::money::NanoUsd;
use crate::domain::price::Price;
use crate::domain::time::{Ts, Wall};
use crate::domain::usage::Usage;
use crate::engine::attempt::Attempt;
use crate::engine::context::{CostState, RequestContext};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use reqwest::Response;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;

pub use operations::{run, table};

/// Scorecards kept of experiments that have ended.
const KEPT: usize = 100;

/// Why an experiment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    Time,
    Operator,
    EndpointChanged,
    EndpointRemoved,
    NotAllowedAnyMore,
    Stop,
}

impl EndedBy {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Operator => "operator",
            Self::EndpointChanged => "endpoint_changed",
            Self::EndpointRemoved => "endpoint_removed",
            Self::NotAllowedAnyMore => "not_allowed_any_more",
            Self::Stop => "stop",
        }
    }
}

/// One experiment that runs or ran.
#[derive(Debug)]
pub struct Trial {
    pub id: Arc<str>,
    pub experiment: Experiment,
    cell: Arc<EndpointCell>,
    starts: Ts,
    ends: Ts,
    started_at: Wall,
    score: Mutex<Score>,
    /// Set once, by whoever ends it.
    end: OnceLock<(EndedBy, Wall)>,
}

impl Trial {
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.end.get().is_some()
    }

    #[must_use]
    pub fn is_on(&self, cell: &EndpointCell) -> bool {
        self.cell.id == cell.id
    }

    fn slot(&self) -> Slot<'_> {
        Slot { experiment: &self.experiment, endpoint: self.cell.id, starts: self.starts, ends: self.ends }
    }
}

/// All experiments of the process.
#[derive(Debug, Default)]
pub struct Chaos {
    /// How many run: what each request reads at its end.
    running: AtomicU32,
    trials: RwLock<Trials>,
    /// A new one began: the one who ends them looks when.
    began: Notify,
    /// By endpoint and kind, since the start.
    injected: Mutex<BTreeMap<(Arc<str>, &'static str), u64>>,
}

#[derive(Debug, Default)]
struct Trials {
    running: Vec<Arc<Trial>>,
    /// The oldest first.
    ended: VecDeque<Arc<Trial>>,
}

impl Chaos {
    /// Starts an experiment on `cell`.
    ///
    /// # Errors
    /// Why it cannot run beside the others.
    fn start(&self, id: Arc<str>, experiment: Experiment, cell: Arc<EndpointCell>) -> Result<Arc<Trial>, String> {
        let now = clock::now();
        let mut trials = self.trials.write();
        if trials.running.len() >= MOST_RUNNING {
            return Err(format!(
                "{MOST_RUNNING} experiments run already, the most; DELETE one of GET /admin/chaos first"
            ));
        }
        let here = trials.running.iter().filter(|t| t.cell.id == cell.id && now < t.ends);
        let free = free_share(here.map(|t| t.experiment.share));
        if experiment.share > free {
            let name = &experiment.endpoint;
            return Err(format!(
                "the experiments of `{name}` leave a share of {free:.3} free; DELETE one of them, or ask for less"
            ));
        }
        let trial = Arc::new(Trial {
            id,
            starts: now,
            ends: now.plus(experiment.period.min(LONGEST)),
            started_at: clock::wall(),
            experiment,
            score: Mutex::default(),
            end: OnceLock::new(),
            cell,
        });
        trials.running.push(Arc::clone(&trial));
        trial.cell.chaos.fetch_add(1, Relaxed);
        self.running.fetch_add(1, Relaxed);
        drop(trials);
        self.began.notify_one();
        Ok(trial)
    }

    /// Ends the running experiments that `why` gives a reason for; each is ended once.
    fn end(&self, why: impl Fn(&Trial) -> Option<EndedBy>) -> Vec<Arc<Trial>> {
        let mut trials = self.trials.write();
        let Trials { running, ended } = &mut *trials;
        let mut done = Vec::new();
        running.retain(|trial| match why(trial) {
            Some(by) => {
                let _ = trial.end.set((by, clock::wall()));
                trial.cell.chaos.fetch_sub(1, Relaxed);
                self.running.fetch_sub(1, Relaxed);
                done.push(Arc::clone(trial));
                false
            }
            None => true,
        });
        ended.extend(done.iter().cloned());
        let surplus = ended.len().saturating_sub(KEPT);
        ended.drain(..surplus);
        done
    }

    /// Counts an attempt at `cell`, and says which experiment strikes it.
    fn strike(&self, cell: &EndpointCell, is_stream: bool, now: Ts, roll: f64) -> Option<Arc<Trial>> {
        let trials = self.trials.read();
        let hit = strikes(trials.running.iter().map(|t| t.slot()), cell.id, is_stream, now, roll);
        for (index, trial) in trials.running.iter().enumerate() {
            if trial.slot().covers(cell.id, is_stream, now) {
                trial.score.lock().attempt(hit == Some(index));
            }
        }
        let trial = trials.running.get(hit?)?;
        let counted = (Arc::clone(&cell.name), trial.experiment.fault.name());
        *self.injected.lock().entry(counted).or_default() += 1;
        Some(Arc::clone(trial))
    }

    /// How many attempts were injected since the start, by endpoint and kind, for the endpoints that are still there.
    #[must_use]
    pub fn injected(&self, is_there: impl Fn(&str) -> bool) -> Vec<(Arc<str>, &'static str, u64)> {
        let mut injected = self.injected.lock();
        injected.retain(|(endpoint, _), _| is_there(endpoint));
        injected.iter().map(|((endpoint, kind), n)| (Arc::clone(endpoint), *kind, *n)).collect()
    }

    /// The running experiments on an endpoint; empty at the price of one look while there is none.
    #[must_use]
    pub fn on(&self, cell: &EndpointCell) -> Vec<Arc<Trial>> {
        if cell.chaos.load(Relaxed) == 0 {
            return Vec::new();
        }
        self.trials.read().running.iter().filter(|t| t.cell.id == cell.id).cloned().collect()
    }

    /// A request is over: every experiment that struck it or could have done so counts it.
    pub fn request_ended(&self, ended: &Ended<'_>) {
        let struck = ended.struck;
        if let Some(struck) = struck {
            for (trial, price) in &struck.by {
                trial.score.lock().struck_ended(ended.fate, ended.took, struck.extra(ended, price.as_deref()));
            }
        }
        if self.running.load(Relaxed) == 0 {
            return;
        }
        let trials = self.trials.read();
        for trial in trials.running.iter().filter(|t| t.starts <= ended.started && ended.may_go_to(t.cell.id)) {
            match struck {
                Some(struck) if struck.by.iter().any(|(t, _)| Arc::ptr_eq(t, trial)) => {}
                Some(_) => trial.score.lock().other_ended(),
                None => trial.score.lock().untouched_ended(ended.fate, ended.took),
            }
        }
    }

    /// Whether a finished request is to be told of.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running.load(Relaxed) > 0
    }
}

/// What a request's context remembers of experiments that struck it.
#[derive(Debug, Default)]
pub struct Struck {
    /// Each experiment once, with the price of the endpoint where it struck.
    by: Vec<(Arc<Trial>, Option<Arc<Price>>)>,
    /// What the answer used.
    pub won: Option<Usage>,
}

impl Struck {
    /// What the request cost beyond its answer's price at the endpoint that was struck.
    fn extra(&self, ended: &Ended<'_>, price: Option<&Price>) -> Option<NanoUsd> {
        if ended.cost_state == CostState::Unpriced {
            return None;
        }
        match (ended.fate, self.won) {
            (Fate::Answered, Some(won)) => Some(ended.cost.saturating_sub(price?.cost(&won))),
            _ => Some(ended.cost),
        }
    }
}

/// A request that is over.
pub struct Ended<'a> {
    pub struck: Option<&'a Struck>,
    pub fate: Fate,
    pub started: Ts,
    pub took: Duration,
    pub cost: NanoUsd,
    pub cost_state: CostState,
    /// The endpoints of its route.
    pub cells: &'a [Arc<EndpointCell>],
}

impl Ended<'_> {
    fn may_go_to(&self, endpoint: u32) -> bool {
        self.cells.iter().any(|c| c.id == endpoint)
    }
}

/// Posts a chat completion to `cell`'s endpoint, with whatever an experiment makes of it.
///
/// # Errors
/// Why no head came, truly or by injection.
pub async fn post(
    ctx: &RequestContext,
    cell: &EndpointCell,
    attempt: &mut Attempt,
    target: &Target,
    body: Bytes,
) -> Result<Response, CallError> {
    let upstream = &ctx.worker.upstream;
    if cell.chaos.load(Relaxed) == 0 {
        return upstream.post_chat(target, body).await;
    }
    let struck = ctx.worker.gateway.chaos.strike(cell, ctx.stream, clock::now(), fastrand::f64());
    let Some(trial) = struck else { return upstream.post_chat(target, body).await };
    let fault = &trial.experiment.fault;
    attempt.injected = Some(fault.name());
    note_struck(ctx, &trial, attempt);
    Box::pin(inject::post(fault, upstream, target, body, ctx.stream)).await
}

fn note_struck(ctx: &RequestContext, trial: &Arc<Trial>, attempt: &Attempt) {
    let mut struck = ctx.struck.borrow_mut();
    let struck = struck.get_or_insert_default();
    if !struck.by.iter().any(|(t, _)| Arc::ptr_eq(t, trial)) {
        trial.score.lock().request_struck();
        struck.by.push((Arc::clone(trial), attempt.config.price.clone()));
    }
}
