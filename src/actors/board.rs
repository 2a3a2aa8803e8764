//! What is shared of an endpoint between threads: its gate and figures, its inbox, its actor's address, its last saved state.
//!
//! Request threads read and take from the gate and leave results in the inbox; only the endpoint's actor moves the gate's door and
//! publishes figures. While an actor is being restarted its cell stands as it was, and results wait in the inbox for the new one.

use crate::actors::endpoint::EndpointActor;
use crate::actors::line::Line;
use crate::actors::messages::Wake;
use crate::actors::meters::Meters;
use crate::actors::topology::Topology;
use crate::config::model::{EndpointConfig, RouteConfig};
use crate::domain::gate::Gate;
use crate::domain::health::{EndpointHealth, Figures, Settle};
use crate::domain::time::Ts;
use actix::Addr;
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Results that may wait for an actor.
const INBOX: usize = 65_536;
/// Endpoints in one process.
pub const MAX_ENDPOINTS: usize = 4096;

/// What ranking and admission read, under one short lock.
#[derive(Debug)]
pub struct Hot {
    pub gate: Gate,
    pub figures: Figures,
    pub config: Arc<EndpointConfig>,
}

/// How the actor behind a cell fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActorStatus {
    pub generation: u64,
    pub restarts: u32,
    /// Crashed too often: its gate refuses until an operator resets it.
    pub quarantined: bool,
    /// The vendor refused our key; why the endpoint is out.
    pub auth_failed: Option<Arc<str>>,
    /// The failure domain that shuts it.
    pub held_by: Option<Arc<str>>,
}

#[derive(Debug)]
pub struct EndpointCell {
    pub id: u32,
    pub name: Arc<str>,
    pub hot: Mutex<Hot>,
    inbox: Mutex<Vec<Settle>>,
    /// A wake-up is on its way, or the actor looks by itself soon.
    armed: AtomicBool,
    actor: Mutex<Option<Addr<EndpointActor>>>,
    /// The state after the last completed handler: what a restarted actor goes on from.
    saved: Mutex<Option<EndpointHealth>>,
    pub status: Mutex<ActorStatus>,
    pub meters: Meters,
    /// Where requests wait for a place.
    pub line: Line,
    /// How many experiments run on it: what each attempt reads.
    pub chaos: AtomicU32,
}

impl EndpointCell {
    /// A cell whose actor will go on from `health`.
    #[must_use]
    pub fn new(id: u32, config: Arc<EndpointConfig>, gate: Gate, health: EndpointHealth, now: Ts) -> Arc<Self> {
        Arc::new(Self {
            id,
            name: Arc::clone(&config.name),
            hot: Mutex::new(Hot { gate, figures: health.figures(now), config }),
            inbox: Mutex::default(),
            armed: AtomicBool::new(false),
            actor: Mutex::default(),
            saved: Mutex::new(Some(health)),
            status: Mutex::default(),
            meters: Meters::default(),
            line: Line::default(),
            chaos: AtomicU32::new(0),
        })
    }

    #[must_use]
    pub fn config(&self) -> Arc<EndpointConfig> {
        Arc::clone(&self.hot.lock().config)
    }

    pub fn set_config(&self, config: Arc<EndpointConfig>) {
        self.hot.lock().config = config;
    }

    #[must_use]
    pub fn figures(&self) -> Figures {
        self.hot.lock().figures
    }

    /// Leaves a result for the actor. An urgent one wakes it at once; others wait a few milliseconds for company.
    pub fn settle(&self, settle: Settle, urgent: bool) {
        {
            let mut inbox = self.inbox.lock();
            if inbox.len() >= INBOX {
                self.meters.lost_settles.fetch_add(1, Ordering::Relaxed);
                return;
            }
            inbox.push(settle);
        }
        if !self.armed.swap(true, Ordering::AcqRel) || urgent {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(actor) = &*self.actor.lock() {
            actor.do_send(Wake);
        }
    }

    /// Takes the waiting results. When there are none, the next one to come wakes the actor again.
    pub fn take_inbox(&self) -> Vec<Settle> {
        let mut inbox = self.inbox.lock();
        if inbox.is_empty() {
            self.armed.store(false, Ordering::Release);
        }
        std::mem::take(&mut *inbox)
    }

    #[must_use]
    pub fn actor(&self) -> Option<Addr<EndpointActor>> {
        self.actor.lock().clone()
    }

    /// Connects a started actor, and wakes it for what waited meanwhile.
    pub fn connect(&self, actor: Addr<EndpointActor>) {
        *self.actor.lock() = Some(actor);
        self.armed.store(true, Ordering::Release);
        self.wake();
    }

    pub fn disconnect(&self) {
        *self.actor.lock() = None;
    }

    pub fn save(&self, health: EndpointHealth) {
        *self.saved.lock() = Some(health);
    }

    #[must_use]
    pub fn saved(&self) -> Option<EndpointHealth> {
        self.saved.lock().clone()
    }
}

/// All endpoints and routes of the process.
#[derive(Debug, Default)]
pub struct Board {
    topology: RwLock<Arc<Topology>>,
    next_id: AtomicU32,
}

impl Board {
    #[must_use]
    pub fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.read())
    }

    /// Swaps in new tables.
    pub fn set(&self, cells: Vec<Arc<EndpointCell>>, routes: &[Arc<RouteConfig>]) {
        let mut topology = self.topology.write();
        *topology = Arc::new(Topology::after(&topology, cells, routes));
    }

    #[must_use]
    pub fn next_id(&self) -> u32 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}
