//! What all requests share, and what each worker thread has of its own.

use crate::actors::board::Board;
use crate::actors::coordinator::Coordinator;
use crate::actors::events::Events;
use crate::actors::ledger::{Item, LedgerHandle};
use crate::actors::supervisor::Supervisor;
use crate::clock;
use crate::config;
use crate::config::model::{Config, EndpointConfig};
use crate::dialects::upstream::{Target, Upstream};
use crate::domain::retry::RetryBudget;
use crate::domain::time::{Ts, Wall};
use crate::engine::access::Access;
use crate::engine::budgets::Budgets;
use crate::engine::chaos::Chaos;
use crate::engine::course::Withheld;
use crate::engine::error::{ApiError, Code};
use crate::engine::exports::Exports;
use crate::engine::place::Waiting;
use crate::engine::record::{self, Kept, Records};
use crate::engine::refused;
use crate::store::{LedgerItem, RequestRecord};
use actix::{Actor, Addr};
use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::time::Duration;
use tokio::sync::Notify;

/// Prepared targets a worker keeps; beyond it all are prepared anew.
const MAX_TARGETS: usize = 8192;
/// How long a refused key is passed over while its provider has others.
const KEY_REST: Duration = Duration::from_secs(300);

/// Shared by the whole process.
pub struct Gateway {
    pub board: Board,
    pub ledger: LedgerHandle,
    pub events: Events,
    pub supervisor: Addr<Supervisor>,
    pub access: Access,
    pub records: Records,
    /// Of requests that were refused before there was a plan.
    pub(super) refused: Records,
    pub budgets: Budgets,
    pub counters: Counters,
    pub chaos: Chaos,
    pub(super) exports: Exports,
    config: RwLock<Arc<Config>>,
    pub retry_budget: Mutex<RetryBudget>,
    in_flight: AtomicU32,
    /// Requests that wait for a place at an endpoint.
    pub waiting: Waiting,
    draining: AtomicBool,
    /// The drain period is over; `stop` tells those that wait.
    stopping: AtomicBool,
    stop: Arc<Notify>,
    config_path: Option<PathBuf>,
    pub started: Ts,
    pub started_at: Wall,
    /// `None` outside tests: operations that only exist to break things.
    pub test_hooks: bool,
}

/// Counters for `/metrics` that belong to no endpoint.
#[derive(Debug, Default)]
pub struct Counters {
    /// Answers by status class: 2xx, 4xx, 5xx, client gone.
    pub answered: [AtomicU64; 4],
    pub failovers: AtomicU64,
    pub refusals: AtomicU64,
    pub retry_budget_spent: AtomicU64,
    pub hedges: AtomicU64,
    pub hedges_won: AtomicU64,
    /// Streams that broke off and were gone on with, and those that were not though their route says so.
    pub recovered: AtomicU64,
    pub not_recovered: AtomicU64,
    /// By [`Withheld`].
    pub hedges_withheld: [AtomicU64; Withheld::ALL.len()],
}

impl Gateway {
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        ledger: LedgerHandle,
        events: Events,
        supervisor: Addr<Supervisor>,
        access: Access,
        config_path: Option<PathBuf>,
        test_hooks: bool,
    ) -> Self {
        let now = clock::now();
        Self {
            board: Board::default(),
            ledger,
            events,
            supervisor,
            access,
            records: Records::keeping(record::KEPT),
            refused: Records::keeping(refused::KEPT),
            budgets: Budgets::default(),
            counters: Counters::default(),
            chaos: Chaos::default(),
            exports: Exports::default(),
            retry_budget: Mutex::new(RetryBudget::new(config.retry_budget, now)),
            config: RwLock::new(config),
            in_flight: AtomicU32::new(0),
            waiting: Waiting::default(),
            draining: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            stop: Arc::new(Notify::new()),
            config_path,
            started: now,
            started_at: clock::wall(),
            test_hooks,
        }
    }

    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read())
    }

    pub fn set_config(&self, config: Arc<Config>) {
        *self.config.write() = config;
    }

    /// Keeps a finished request's record: in memory, and in the store when it is worth that.
    pub fn keep(&self, kept: Kept) {
        if kept.is_remarkable()
            && let Ok(bytes) = serde_json::to_vec(&kept.spell_out())
        {
            let (request_id, at) = (kept.request_id.clone(), clock::wall());
            self.ledger.push(Item::Ledger(LedgerItem::Record(RequestRecord { request_id, at, bytes })));
        }
        self.records.put(kept);
    }

    /// From now on readiness says no.
    pub fn drain(&self) {
        self.draining.store(true, Release);
    }

    /// Ends what still runs: streams with an error event, requests without an answer with an error.
    pub fn stop_running(&self) {
        self.stopping.store(true, Release);
        self.stop.notify_waiters();
    }

    /// Resolves when everything must end, at once if that was said before. To be waited for as long as the request lasts.
    pub fn stopped(&self) -> impl Future<Output = ()> + use<> {
        // In this order: who is told between the two lines is on the list already.
        let told = Arc::clone(&self.stop).notified_owned();
        let stopping = self.stopping.load(Acquire);
        async move {
            if !stopping {
                told.await;
            }
        }
    }

    /// Reads the configuration file again and swaps it in; answers with what changed.
    ///
    /// # Errors
    /// There is no file (demo), it has faults, or the store cannot be read; nothing was changed.
    pub async fn reload(self: &Arc<Self>) -> Result<Value, ApiError> {
        let invalid = |m: String| ApiError::new(Code::InvalidRequest, m);
        let path = self.config_path.as_deref().ok_or_else(|| invalid("the demo has no configuration file".into()))?;
        let config = config::load(path).map_err(|faults| invalid(faults.to_string()))?;
        let changes = config::diff(&self.config(), &config);
        let changed = self.apply_config(Arc::new(config)).map_err(|e| ApiError::new(Code::LedgerUnavailable, e))?;
        self.refresh_budgets().await;
        self.end_chaos_after_reload(&changed).await;
        let listed: Vec<String> = changes.iter().map(ToString::to_string).collect();
        self.audit("reload", &path.display().to_string(), &listed.join("; ")).await?;
        Ok(json!({ "changes": changes }))
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Acquire)
    }

    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Counts a request in, if that makes at most `most` and its cost could be accounted for.
    ///
    /// # Errors
    /// 503, at once.
    pub fn enter(self: &Arc<Self>, most: u32) -> Result<Entered, ApiError> {
        if self.ledger.is_closed() {
            let message = "the ledger cannot be written, and the configuration says to refuse requests then";
            let error = ApiError::new(Code::LedgerUnavailable, message);
            return Err(error.with_retry_after(Some(Duration::from_secs(1))));
        }
        if self.in_flight.fetch_add(1, AcqRel) >= most {
            self.in_flight.fetch_sub(1, AcqRel);
            let message = format!("the gateway already serves {most} requests, its limit");
            let error = ApiError::new(Code::NoEndpointAvailable, message);
            return Err(error.with_retry_after(Some(Duration::from_secs(1))));
        }
        Ok(Entered(Arc::clone(self)))
    }
}

/// A request's place among those in flight; dropped, it is free again.
pub struct Entered(Arc<Gateway>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, AcqRel);
    }
}

/// What one HTTP worker thread has of its own: its coordinator, its HTTP clients and its prepared targets.
pub struct Worker {
    pub gateway: Arc<Gateway>,
    pub coordinator: Addr<Coordinator>,
    pub upstream: Upstream,
    targets: RefCell<HashMap<u32, Prepared>>,
}

struct Prepared {
    config: Arc<EndpointConfig>,
    /// One for each of the provider's keys; one without a key when it has none.
    keys: Vec<KeyTarget>,
}

struct KeyTarget {
    weight: u32,
    target: Rc<Target>,
    /// The vendor refused this key a short time ago: others are used before it.
    refused_until: Ts,
}

impl Worker {
    /// Starts a worker's part; must be called on the worker's own arbiter.
    #[must_use]
    pub fn start(gateway: Arc<Gateway>, upstream: Upstream) -> Rc<Self> {
        let coordinator = Coordinator::default().start();
        Rc::new(Self { gateway, coordinator, upstream, targets: RefCell::default() })
    }

    /// The prepared target of an endpoint; among several keys one by weight, `roll` in 0..1, those that the vendor refused last.
    ///
    /// # Errors
    /// Why none could be prepared.
    pub fn target(&self, id: u32, config: &Arc<EndpointConfig>, now: Ts, roll: f64) -> Result<Rc<Target>, String> {
        let mut targets = self.targets.borrow_mut();
        if targets.len() >= MAX_TARGETS {
            targets.clear();
        }
        let prepared = match targets.entry(id) {
            Entry::Occupied(slot) if Arc::ptr_eq(&slot.get().config, config) => slot.into_mut(),
            slot => {
                let prepared = Prepared { config: Arc::clone(config), keys: prepare(config)? };
                slot.insert_entry(prepared).into_mut()
            }
        };
        let taken = |k: &&KeyTarget| now >= k.refused_until;
        let choose_from = |keys: &mut dyn Iterator<Item = &KeyTarget>| {
            let keys: Vec<_> = keys.collect();
            let total: u32 = keys.iter().map(|k| k.weight).sum();
            let mut at = (f64::from(total) * roll) as u32;
            let chosen = keys.iter().find(|k| {
                let here = at < k.weight;
                at = at.saturating_sub(k.weight);
                here
            });
            chosen.or(keys.last()).map(|k| Rc::clone(&k.target))
        };
        if let [only] = &*prepared.keys {
            return Ok(Rc::clone(&only.target));
        }
        let target = choose_from(&mut prepared.keys.iter().filter(taken));
        target.or_else(|| choose_from(&mut prepared.keys.iter())).ok_or_else(|| "the provider has no target".into())
    }

    /// The vendor refused the key of this target: the provider's other keys are used for a while.
    pub fn key_refused(&self, id: u32, target: &Rc<Target>, now: Ts) {
        if let Some(prepared) = self.targets.borrow_mut().get_mut(&id)
            && let Some(key) = prepared.keys.iter_mut().find(|k| Rc::ptr_eq(&k.target, target))
        {
            key.refused_until = now.plus(KEY_REST);
        }
    }
}

fn prepare(config: &EndpointConfig) -> Result<Vec<KeyTarget>, String> {
    let provider = &config.provider;
    let target = |weight, key: Option<&str>| {
        let target = Target::new(&provider.base_url, key, config.timeouts.connect, provider.allow_private)?;
        Ok(KeyTarget { weight, target: Rc::new(target), refused_until: Ts(0) })
    };
    if provider.keys.is_empty() {
        return Ok(vec![target(1, None)?]);
    }
    provider.keys.iter().map(|k| target(k.weight, Some(k.key.expose()))).collect()
}
