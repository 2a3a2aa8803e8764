//! The actor of one endpoint: it applies results to the endpoint's health, moves the gate's door when the breaker moves, publishes
//! figures for ranking, and has checkpoints written. Its handlers are synchronous and do no I/O.

use crate::actors::board::{EndpointCell, Hot};
use crate::actors::events::{Event, Events};
use crate::actors::ledger::{Item, LedgerHandle, StateWrite};
use crate::actors::messages::{
    Act, Child, Died, MemberNews, News, Observe, Observed, Operate, PanicNow, Probed, Reconfigured, Retire, Wake,
};
use crate::actors::supervisor::Supervisor;
use crate::clock;
use crate::domain::breaker::{State, Transition};
use crate::domain::gate::PauseReason;
use crate::domain::health::EndpointHealth;
use crate::domain::outcome::{Outcome, Verdict};
use crate::domain::time::Ts;
use crate::store::Area;
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Recipient, SpawnHandle, WeakAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// How long results of successes wait for company.
const GATHER: Duration = Duration::from_millis(5);
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// How long a refused key keeps an endpoint out unless a check finds it working again.
const AUTH_PAUSE: Duration = Duration::from_secs(300);
/// Refusals of our key in a row that take the endpoint out.
const AUTH_FAILURES: u32 = 2;
/// Connections lost in a row that count as a failed endpoint for its domain.
const LOST_CONNECTIONS: u32 = 3;

/// What every endpoint's actor is given.
#[derive(Clone)]
pub struct Surroundings {
    pub ledger: LedgerHandle,
    pub events: Events,
    pub supervisor: WeakAddr<Supervisor>,
}

pub struct EndpointActor {
    cell: Arc<EndpointCell>,
    health: EndpointHealth,
    around: Surroundings,
    changed: bool,
    gathering: bool,
    auth_failures: u32,
    /// Connections that failed in a row.
    lost_connections: u32,
    breaker_timer: Option<(Ts, SpawnHandle)>,
    /// Last field: dropped after everything else, it tells the supervisor however this actor ended.
    _notice: DeathNotice,
}

impl EndpointActor {
    #[must_use]
    pub fn new(cell: Arc<EndpointCell>, health: EndpointHealth, generation: u64, around: Surroundings) -> Self {
        let child = Child::Endpoint(cell.id);
        let notice = DeathNotice { child, generation, supervisor: around.supervisor.clone().upgrade().map(Into::into) };
        Self {
            cell,
            health,
            around,
            changed: false,
            gathering: false,
            auth_failures: 0,
            lost_connections: 0,
            breaker_timer: None,
            _notice: notice,
        }
    }

    fn drain(&mut self, ctx: &mut Context<Self>) {
        self.gathering = false;
        let batch = self.cell.take_inbox();
        if batch.is_empty() {
            return;
        }
        for settle in &batch {
            match settle.outcome {
                Outcome::AuthFailed => self.auth_failures += 1,
                Outcome::ConnectFailed | Outcome::ConnectTimeout => self.connection_lost(settle.at),
                outcome if outcome.class().verdict == Verdict::Success => {
                    self.connected();
                    self.key_works();
                }
                _ => {}
            }
            let moved = self.health.apply(settle.at, settle, fastrand::f64());
            self.tell(moved.as_ref());
        }
        if self.auth_failures >= AUTH_FAILURES {
            self.key_refused();
        }
        self.publish(ctx);
        self.gathering = true;
        ctx.run_later(GATHER, Self::drain);
    }

    fn key_refused(&mut self) {
        let mut status = self.cell.status.lock();
        let now = clock::now();
        self.cell.hot.lock().gate.pause(now, now.plus(AUTH_PAUSE), PauseReason::Auth);
        if status.auth_failed.is_none() {
            let provider = &self.cell.config().provider.name;
            let reason = format!("auth_failed: the vendor refuses the key of provider `{provider}` (401, 402 or 403)");
            tracing::error!(
                endpoint = &*self.cell.name,
                provider = &**provider,
                "auth_failed: the vendor refuses our key"
            );
            status.auth_failed = Some(reason.into());
            self.around.events.emit(|| Event::Key { endpoint: Arc::clone(&self.cell.name), works: false });
        }
    }

    fn key_works(&mut self) {
        self.auth_failures = 0;
        let mut status = self.cell.status.lock();
        if status.auth_failed.take().is_some() {
            self.cell.hot.lock().gate.unpause(PauseReason::Auth);
            tracing::info!(endpoint = &*self.cell.name, "the vendor takes our key again");
            self.around.events.emit(|| Event::Key { endpoint: Arc::clone(&self.cell.name), works: true });
        }
    }

    /// Logs a transition, has it persisted at once, and tells whoever watches.
    fn tell(&mut self, transition: Option<&Transition>) {
        let Some(t) = transition else { return };
        self.cell.meters.transitions.fetch_add(1, Relaxed);
        let (from, to) = (t.from.as_str(), t.to.as_str());
        let cause = t.cause.to_string();
        let endpoint = &*self.cell.name;
        match t.to {
            State::Open | State::ForcedOpen => {
                tracing::warn!(endpoint, from, to, epoch = t.epoch, cause, "breaker moved")
            }
            _ => tracing::info!(endpoint, from, to, epoch = t.epoch, cause, "breaker moved"),
        }
        self.tell_domains(match t.to {
            State::Open if t.from == State::Closed => Some(News::Down(clock::now())),
            State::Closed | State::Disabled => Some(News::Up),
            State::ForcedOpen => Some(News::Shut),
            State::Open | State::HalfOpen => None,
        });
        self.around.events.emit(|| Event::Transition { endpoint: Arc::clone(&self.cell.name), from, to, cause });
        self.checkpoint(true);
    }

    /// A refused or reset connection is a sign that comes long before the breaker's verdict where there is little traffic.
    fn connection_lost(&mut self, at: Ts) {
        self.lost_connections = self.lost_connections.saturating_add(1);
        if self.lost_connections == LOST_CONNECTIONS {
            self.tell_domains(Some(News::Down(at)));
        }
    }

    fn connected(&mut self) {
        if std::mem::take(&mut self.lost_connections) >= LOST_CONNECTIONS {
            self.tell_domains(Some(News::Up));
        }
    }

    fn tell_domains(&self, news: Option<News>) {
        if let (Some(news), Some(supervisor)) = (news, self.around.supervisor.upgrade()) {
            supervisor.do_send(MemberNews { id: self.cell.id, news });
        }
    }

    /// Moves the gate, publishes the figures, saves the state for a successor, and sets the timer of the breaker's next move.
    fn publish(&mut self, ctx: &mut Context<Self>) {
        self.changed = true;
        let now = clock::now();
        self.move_gate(now);
        self.cell.save(self.health.clone());
        let wake = self.health.breaker().next_wake();
        if self.breaker_timer.as_ref().map(|(at, _)| *at) == wake {
            return;
        }
        if let Some((_, handle)) = self.breaker_timer.take() {
            ctx.cancel_future(handle);
        }
        self.breaker_timer = wake.map(|at| (at, ctx.run_later(at.since(now), Self::on_time)));
    }

    fn move_gate(&self, now: Ts) {
        let (door, figures) = (self.health.breaker().door(now), self.health.figures(now));
        let concurrency = self.health.concurrency();
        let (moved, proved) = {
            let Hot { gate, figures: published, .. } = &mut *self.cell.hot.lock();
            let before = gate.door();
            gate.set_door(door);
            gate.set_concurrency(concurrency);
            *published = figures;
            (before != gate.door(), gate.take_proof())
        };
        if proved {
            self.tell_domains(Some(News::Up));
        }
        self.cell.serve_line(now);
        if moved {
            self.cell.tell_line();
        }
    }

    fn on_time(&mut self, ctx: &mut Context<Self>) {
        self.breaker_timer = None;
        let moved = self.health.on_time(clock::now(), fastrand::f64());
        self.tell(moved.as_ref());
        self.publish(ctx);
    }

    fn checkpoint(&mut self, urgent: bool) {
        self.changed = false;
        let (now, wall) = (clock::now(), clock::wall());
        let gate = self.cell.hot.lock().gate.checkpoint(now, wall);
        let checkpoint = self.health.checkpoint(now, wall).with_gate(gate);
        match serde_json::to_vec(&checkpoint) {
            Ok(bytes) => {
                let name = Arc::clone(&self.cell.name);
                self.around.ledger.push(Item::State(StateWrite::Put {
                    area: Area::Checkpoint,
                    name,
                    bytes,
                    durable: urgent,
                }));
            }
            Err(e) => tracing::error!(endpoint = &*self.cell.name, error = %e, "checkpoint not written"),
        };
    }
}

impl Actor for EndpointActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.publish(ctx);
        self.changed = false;
        ctx.run_interval(CHECKPOINT_EVERY, |actor, _| {
            // Windows and histograms age even when nothing comes in: figures must not stand still at their last value.
            actor.move_gate(clock::now());
            if actor.changed {
                actor.checkpoint(false);
            }
        });
    }
}

impl Handler<Wake> for EndpointActor {
    type Result = ();
    fn handle(&mut self, _: Wake, ctx: &mut Self::Context) {
        let timer_runs = self.gathering;
        self.drain(ctx);
        self.gathering |= timer_runs;
    }
}

impl Handler<Operate> for EndpointActor {
    type Result = ();
    fn handle(&mut self, message: Operate, ctx: &mut Self::Context) {
        let now = clock::now();
        let Operate { act, reason, author } = message;
        let transition = match act {
            Act::Trip(period) => self.health.breaker_mut().trip(now, period.map(|d| now.plus(d)), &reason, &author),
            Act::Reset => {
                for reason in PauseReason::ALL {
                    self.cell.hot.lock().gate.unpause(reason);
                }
                self.auth_failures = 0;
                self.cell.status.lock().auth_failed = None;
                self.health.breaker_mut().reset(now, &reason, &author)
            }
        };
        let name = if act == Act::Reset { "reset" } else { "trip" };
        self.around.events.emit(|| Event::Operator {
            endpoint: Arc::clone(&self.cell.name),
            act: name,
            reason,
            author,
        });
        self.tell(Some(&transition));
        self.publish(ctx);
    }
}

impl Handler<Probed> for EndpointActor {
    type Result = ();
    fn handle(&mut self, found: Probed, ctx: &mut Self::Context) {
        let now = clock::now();
        let verdict = match found {
            Probed::Healthy => {
                self.key_works();
                Verdict::Success
            }
            Probed::Failed => Verdict::Failure { half_weight: false },
            Probed::KeyRefused => {
                self.key_refused();
                Verdict::Neutral
            }
        };
        let view = self.health.breaker().view(now);
        let is_probe = view.state == State::HalfOpen;
        // While closed, a healthy list of models says little about completions: only failures count.
        if is_probe || verdict != Verdict::Success {
            let moved = self.health.breaker_mut().on_result(now, view.epoch, is_probe, verdict, false, fastrand::f64());
            self.tell(moved.as_ref());
        }
        self.publish(ctx);
    }
}

impl Handler<Reconfigured> for EndpointActor {
    type Result = ();
    fn handle(&mut self, _: Reconfigured, ctx: &mut Self::Context) {
        let config = self.cell.config();
        self.health.breaker_mut().set_settings(Arc::new(config.breaker.clone()), clock::now());
        self.health.adapt(&config.limits);
        self.publish(ctx);
    }
}

impl Handler<Observe> for EndpointActor {
    type Result = Observed;
    fn handle(&mut self, _: Observe, _: &mut Self::Context) -> Observed {
        observe(&self.health)
    }
}

/// What an operator sees of an endpoint's health.
#[must_use]
pub fn observe(health: &EndpointHealth) -> Observed {
    let now = clock::now();
    Observed {
        breaker: health.breaker().view(now),
        latency: health.latency().summary(now),
        ttft: health.ttft().summary(now),
        totals: health.totals(),
    }
}

impl Handler<Retire> for EndpointActor {
    type Result = ();
    fn handle(&mut self, _: Retire, ctx: &mut Self::Context) {
        let batch = self.cell.take_inbox();
        for settle in &batch {
            self.health.apply(settle.at, settle, fastrand::f64());
        }
        self.checkpoint(true);
        ctx.stop();
    }
}

impl Handler<PanicNow> for EndpointActor {
    type Result = ();
    #[allow(clippy::panic, reason = "the panic is what this message is for")]
    fn handle(&mut self, _: PanicNow, _: &mut Self::Context) {
        panic!("asked to panic by a test hook");
    }
}

/// Tells the supervisor that an actor is gone, whatever ended it: actix tells nobody about a panic.
pub struct DeathNotice {
    pub child: Child,
    pub generation: u64,
    pub supervisor: Option<Recipient<Died>>,
}

impl Drop for DeathNotice {
    fn drop(&mut self) {
        if let Some(supervisor) = &self.supervisor {
            let Self { child, generation, .. } = *self;
            supervisor.do_send(Died { child, generation, panicking: std::thread::panicking() });
        }
    }
}
