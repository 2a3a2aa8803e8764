//! All providers of a world, as the way upstream. Each call meets the weather of its moment, and is held against what the engine may do:
//! never to an endpoint whose door is shut, never more at a time than its limit.

use super::Journal;
use super::answer::{Asked, answer};
use super::weather::{Fate, Nature, Weather};
use breakwater::actors::board::EndpointCell;
use breakwater::clock;
use breakwater::dialects::upstream::{CallError, Transport};
use breakwater::domain::gate::Door;
use breakwater::domain::outcome::Outcome;
use breakwater::domain::time::Ts;
use breakwater::engine::gateway::Gateway;
use breakwater::sim::FaultKind;
use bytes::Bytes;
use reqwest::{Response, Url};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// Until a connection that nobody answers is given up, when the endpoint has no shorter time for it.
const CONNECT: Duration = Duration::from_secs(5);

/// A call that an engine made.
#[derive(Clone, Debug)]
pub struct Made {
    pub at: Ts,
    pub provider: usize,
    pub request: String,
}

struct Provider {
    nature: Nature,
    weather: RefCell<Weather>,
    running: Arc<AtomicU32>,
}

/// The providers. Time goes on through all lives of the engine: `started` says where the present life began.
pub struct World {
    providers: Vec<Provider>,
    journal: Journal,
    gateway: RefCell<Option<Arc<Gateway>>>,
    /// Calls by request.
    calls: RefCell<BTreeMap<String, u32>>,
    total: Cell<u64>,
    /// World time at which the present life's clock began, and that clock's reading then.
    life: Cell<(Duration, Ts)>,
    /// When a call met each provider, if that is wanted.
    made: RefCell<Option<Vec<Made>>>,
}

/// A call under way at a provider.
struct Running(Arc<AtomicU32>);

impl Running {
    fn enter(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl World {
    pub fn new(natures: Vec<Nature>, journal: Journal) -> Rc<Self> {
        let provider = |nature: Nature| Provider {
            weather: RefCell::new(Weather::new(&nature, Ts(0))),
            nature,
            running: Arc::default(),
        };
        Rc::new(Self {
            providers: natures.into_iter().map(provider).collect(),
            journal,
            gateway: RefCell::default(),
            calls: RefCell::default(),
            total: Cell::new(0),
            life: Cell::new((Duration::ZERO, Ts(0))),
            made: RefCell::default(),
        })
    }

    /// From now on every call is kept, for [`Self::made`].
    pub fn keep_calls(&self) {
        *self.made.borrow_mut() = Some(Vec::new());
    }

    pub fn made(&self) -> Vec<Made> {
        self.made.borrow().clone().unwrap_or_default()
    }

    /// A life begins, `elapsed` after the world did; to be called on its clock.
    pub fn life_begins(&self, elapsed: Duration) {
        self.life.set((elapsed, clock::now()));
    }

    /// The engine whose doors are watched; `None` at the end of its life.
    pub fn watch(&self, gateway: Option<Arc<Gateway>>) {
        *self.gateway.borrow_mut() = gateway;
    }

    /// Time since the world began, as its weather counts it.
    pub fn now(&self) -> Ts {
        let (elapsed, began) = self.life.get();
        Ts(0).plus(elapsed + clock::now().since(began))
    }

    pub fn is_down(&self, provider: usize) -> bool {
        self.providers[provider].weather.borrow_mut().is_down(self.now())
    }

    pub fn calls_for(&self, request: &str) -> u32 {
        self.calls.borrow().get(request).copied().unwrap_or(0)
    }

    pub fn calls(&self) -> u64 {
        self.total.get()
    }

    pub fn len(&self) -> usize {
        self.providers.len()
    }

    pub fn name(&self, provider: usize) -> &str {
        &self.providers[provider].nature.name
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Calls that no engine has given up or ended.
    pub fn running(&self) -> u32 {
        self.providers.iter().map(|p| p.running.load(Relaxed)).sum()
    }

    fn number(&self, url: &Url) -> usize {
        let host = url.host_str().unwrap_or_default();
        let found = self.providers.iter().position(|p| host.strip_suffix(".example") == Some(&p.nature.name));
        found.unwrap_or_else(|| panic!("no provider at {url}"))
    }

    /// A call arrives: counted, and held against the endpoint's door.
    fn arrives(&self, number: usize, asked: &Asked) {
        let provider = &self.providers[number];
        *self.calls.borrow_mut().entry(asked.request.clone()).or_default() += 1;
        self.total.set(self.total.get() + 1);
        if let Some(made) = &mut *self.made.borrow_mut() {
            made.push(Made { at: self.now(), provider: number, request: asked.request.clone() });
        }
        let Some(gateway) = &*self.gateway.borrow() else { return };
        let name = &provider.nature.name;
        let topology = gateway.board.topology();
        let Some(cell) = topology.cell(name) else {
            return self.journal.violation(format!("{}: called the unknown endpoint {name}", asked.request));
        };
        self.check_door(cell, asked);
    }

    fn check_door(&self, cell: &EndpointCell, asked: &Asked) {
        let (door, in_flight, most) = {
            let hot = cell.hot.lock();
            (hot.gate.door(), hot.gate.in_flight(), hot.config.limits.concurrency)
        };
        // The engine admits and sends in one go: nothing can have moved the door in between.
        if matches!(door, Door::Shut { .. }) {
            self.journal
                .violation(format!("{}: called {} while its breaker was open: {door:?}", asked.request, cell.name));
        }
        if in_flight == 0 || in_flight > most {
            let why = format!("{}: {} calls in flight at {}, of at most {most}", asked.request, in_flight, cell.name);
            self.journal.violation(why);
        }
    }
}

fn failed(outcome: Outcome, message: &str) -> Result<Response, CallError> {
    Err(CallError { outcome, message: message.into() })
}

impl Transport for World {
    fn send(&self, url: &Url, body: Option<Bytes>) -> Pin<Box<dyn Future<Output = Result<Response, CallError>>>> {
        let number = self.number(url);
        let provider = &self.providers[number];
        let Some(body) = body else {
            let down = self.is_down(number);
            return Box::pin(async move {
                if down {
                    return failed(Outcome::ConnectFailed, "connection refused");
                }
                let ok = http::Response::builder().status(200).body("{\"data\":[]}").expect("a valid head");
                Ok(Response::from(ok))
            });
        };
        let asked = Asked::read(&body);
        self.arrives(number, &asked);
        let now = self.now();
        let Fate { fault, latency, roll } = provider.weather.borrow_mut().fate(&provider.nature, now);
        let fault = fault.map(|fault| placed(fault, &asked, roll));
        self.journal.note(&format!(
            "{} {} -> {} {}",
            now.0,
            asked.request,
            provider.nature.name,
            fault.as_ref().map_or("ok", FaultKind::name)
        ));
        let gap = provider.nature.gap;
        let running = Running::enter(&provider.running);
        Box::pin(async move {
            match &fault {
                Some(FaultKind::Refuse) => return failed(Outcome::ConnectFailed, "connection refused"),
                Some(FaultKind::Unreachable) => {
                    tokio::time::sleep(CONNECT).await;
                    return failed(Outcome::ConnectTimeout, "connecting took too long");
                }
                Some(FaultKind::Hang) => {
                    let _running = running;
                    return std::future::pending().await;
                }
                _ => {}
            }
            let slower = match &fault {
                Some(FaultKind::SlowFirstByte { ms }) => Duration::from_millis(*ms),
                _ => Duration::ZERO,
            };
            // A whole answer comes when all of it is made.
            let tokens = u32::try_from(asked.tokens.saturating_sub(asked.from)).unwrap_or(u32::MAX);
            let rest = if asked.stream { Duration::ZERO } else { gap.saturating_mul(tokens) };
            tokio::time::sleep(latency + slower + rest).await;
            if matches!(fault, Some(FaultKind::ResetAfterBody | FaultKind::ResetBeforeHeaders)) {
                return failed(Outcome::ConnectFailed, "connection reset by peer");
            }
            Ok(answer(&asked, fault.as_ref(), gap, running))
        })
    }
}

/// A fault within a stream falls anywhere in the rest of the text, not always at one token.
fn placed(fault: FaultKind, asked: &Asked, roll: f64) -> FaultKind {
    let left = asked.tokens.saturating_sub(asked.from) as f64;
    let at = (left * roll) as u64;
    match fault {
        FaultKind::CutAfter { reset, .. } => FaultKind::CutAfter { events: at, reset },
        FaultKind::EndWithoutDone { events: Some(_) } => FaultKind::EndWithoutDone { events: Some(at) },
        FaultKind::ErrorEvent { body, .. } => FaultKind::ErrorEvent { after: at, body },
        FaultKind::BrokenJsonEvent { .. } => FaultKind::BrokenJsonEvent { after: at },
        FaultKind::SilentAfter { ms, .. } => FaultKind::SilentAfter { events: at, ms },
        other => other,
    }
}
