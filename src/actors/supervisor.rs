//! Restarts actors that died. actix restarts nothing after a panic, so each actor's last field is a death notice: its drop tells this
//! actor, which starts a successor from the state after the last completed handler.
//!
//! - Notices of an older generation are ignored.
//! - Restarts back off: 100 ms, doubling, within a budget of 5 in 60 s; then the endpoint is quarantined: its gate refuses, operators
//!   see it, and a reset starts it again.
//! - The ledger's actor is never quarantined: without it no attempt could be accounted for. It keeps being restarted at the longest
//!   pause.

use crate::actors::board::EndpointCell;
use crate::actors::domains::DomainWatch;
use crate::actors::endpoint::{DeathNotice, EndpointActor, Surroundings};
use crate::actors::events::{Event, Events};
use crate::actors::ledger::{LedgerActor, LedgerHandle};
use crate::actors::messages::{Adopt, Child, Died, Release, StandDown};
use crate::clock;
use crate::domain::gate::Door;
use crate::domain::health::EndpointHealth;
use crate::domain::time::Ts;
use actix::{Actor, ArbiterHandle, AsyncContext, Context, Handler, Message};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const BUDGET: usize = 5;
const BUDGET_WINDOW: Duration = Duration::from_secs(60);

/// The deaths of one child, and what they call for.
#[derive(Debug, Default)]
struct Deaths(VecDeque<Ts>);

impl Deaths {
    /// Notes a death; the pause before the restart, or `None` when the budget is used up.
    fn note(&mut self, now: Ts) -> Option<Duration> {
        self.0.retain(|at| now.since(*at) < BUDGET_WINDOW);
        self.0.push_back(now);
        let earlier = u32::try_from(self.0.len() - 1).unwrap_or(u32::MAX);
        (self.0.len() <= BUDGET).then(|| FIRST_PAUSE * 2_u32.saturating_pow(earlier))
    }
}

pub(super) struct Ward {
    pub(super) cell: Arc<EndpointCell>,
    generation: u64,
    deaths: Deaths,
}

pub struct Supervisor {
    pub(super) wards: HashMap<u32, Ward>,
    pub(super) watch: DomainWatch,
    ledger: LedgerHandle,
    ledger_arbiter: ArbiterHandle,
    ledger_generation: u64,
    ledger_deaths: Deaths,
    pub(super) events: Events,
    standing_down: bool,
}

impl Supervisor {
    /// Watches the ledger's actor, which it starts on `ledger_arbiter`.
    #[must_use]
    pub fn new(ledger: LedgerHandle, ledger_arbiter: ArbiterHandle, events: Events) -> Self {
        Self {
            wards: HashMap::new(),
            watch: DomainWatch::default(),
            ledger,
            ledger_arbiter,
            ledger_generation: 0,
            ledger_deaths: Deaths::default(),
            events,
            standing_down: false,
        }
    }

    fn start_ledger(&mut self, ctx: &mut Context<Self>) {
        self.ledger_generation += 1;
        let (handle, generation) = (self.ledger.clone(), self.ledger_generation);
        let supervisor = Some(ctx.address().recipient());
        let notice = DeathNotice { child: Child::Ledger, generation, supervisor };
        let actor = LedgerActor::start_in_arbiter(&self.ledger_arbiter, move |_| LedgerActor::new(handle, notice));
        self.ledger.connect(actor);
    }

    fn start_endpoint(&mut self, id: u32, ctx: &mut Context<Self>) {
        let Some(ward) = self.wards.get_mut(&id) else { return };
        ward.generation += 1;
        let config = ward.cell.config();
        let health =
            ward.cell.saved().unwrap_or_else(|| EndpointHealth::new(Arc::new(config.breaker.clone()), clock::now()));
        let around = Surroundings {
            ledger: self.ledger.clone(),
            events: self.events.clone(),
            supervisor: ctx.address().downgrade(),
        };
        let actor = EndpointActor::new(Arc::clone(&ward.cell), health, ward.generation, around).start();
        {
            let mut status = ward.cell.status.lock();
            status.generation = ward.generation;
            status.quarantined = false;
        }
        ward.cell.connect(actor);
    }

    fn endpoint_died(&mut self, id: u32, died: Died, ctx: &mut Context<Self>) {
        let Some(ward) = self.wards.get_mut(&id).filter(|w| w.generation == died.generation) else { return };
        ward.cell.disconnect();
        let endpoint = &*ward.cell.name;
        ward.cell.meters.restarts.fetch_add(1, Relaxed);
        let what = match ward.deaths.note(clock::now()) {
            Some(pause) => {
                tracing::error!(
                    endpoint,
                    generation = died.generation,
                    panicking = died.panicking,
                    "actor died, restarting"
                );
                ward.cell.status.lock().restarts += 1;
                ctx.notify_later(Restart(id), pause);
                "restarting"
            }
            None => {
                tracing::error!(endpoint, "actor died too often: quarantined until an operator resets it");
                ward.cell.status.lock().quarantined = true;
                let mut hot = ward.cell.hot.lock();
                // No breaker speaks for this endpoint any more: no epoch of its results counts.
                hot.gate.set_door(Door::Shut { epoch: u64::MAX, until: None, operator: true });
                "quarantined"
            }
        };
        let endpoint = Arc::clone(&ward.cell.name);
        self.events.emit(|| Event::Actor { endpoint, what });
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.start_ledger(ctx);
    }
}

impl Handler<Adopt> for Supervisor {
    type Result = ();
    fn handle(&mut self, Adopt(cell): Adopt, ctx: &mut Self::Context) {
        let id = cell.id;
        // Adopted again after quarantine: a clean slate, but generations go on.
        let generation = self.wards.get(&id).map_or(0, |w| w.generation);
        self.wards.insert(id, Ward { cell, generation, deaths: Deaths::default() });
        self.start_endpoint(id, ctx);
        self.join_domains(id, ctx);
    }
}

impl Handler<Release> for Supervisor {
    type Result = ();
    fn handle(&mut self, Release(id): Release, ctx: &mut Self::Context) {
        self.leave_domains(id, ctx);
        self.wards.remove(&id);
    }
}

impl Handler<StandDown> for Supervisor {
    type Result = ();
    fn handle(&mut self, _: StandDown, _: &mut Self::Context) {
        self.standing_down = true;
    }
}

impl Handler<Died> for Supervisor {
    type Result = ();
    fn handle(&mut self, died: Died, ctx: &mut Self::Context) {
        if self.standing_down {
            return;
        }
        match died.child {
            Child::Endpoint(id) => self.endpoint_died(id, died, ctx),
            Child::Ledger if died.generation == self.ledger_generation => {
                tracing::error!(
                    generation = died.generation,
                    panicking = died.panicking,
                    "ledger actor died, restarting"
                );
                let longest = FIRST_PAUSE * 32;
                let pause = self.ledger_deaths.note(clock::now()).unwrap_or(longest);
                ctx.notify_later(RestartLedger, pause);
            }
            Child::Ledger => {}
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Restart(u32);

impl Handler<Restart> for Supervisor {
    type Result = ();
    fn handle(&mut self, Restart(id): Restart, ctx: &mut Self::Context) {
        self.start_endpoint(id, ctx);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct RestartLedger;

impl Handler<RestartLedger> for Supervisor {
    type Result = ();
    fn handle(&mut self, _: RestartLedger, ctx: &mut Self::Context) {
        self.start_ledger(ctx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_back_off_within_a_budget_that_time_refills() {
        let mut deaths = Deaths::default();
        let pauses: Vec<_> = (0..6).map(|i| deaths.note(Ts(i)).map(|d| d.as_millis())).collect();
        assert_eq!(pauses, [Some(100), Some(200), Some(400), Some(800), Some(1600), None]);
        assert_eq!(deaths.note(Ts(61_000_000)), Some(FIRST_PAUSE));
    }
}
