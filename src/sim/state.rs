//! What the parts of one simulated provider share: profile, faults in force, limiter, counts, and the state of the port.
//!
//! The server thread owns the sockets; everybody else (control requests, the [`super::Handle`]) changes this state, wakes the
//! server and may wait until the port has followed. Locks are held for map and list work only, never over an await.

use super::active::{Active, Asked, Entry, Hits, Port};
use super::dice::{OutageClock, roll};
use super::fault::{Fault, On};
use super::kind::FaultKind;
use super::limit::{Limiter, Standing};
use super::profile::{BadProfile, Profile, check_faults};
use super::stats::{Abort, Counts, Stats};
use crate::clock;
use crate::domain::time::Ts;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, watch};

pub(super) struct Shared {
    pub name: String,
    profile: Mutex<Arc<Profile>>,
    faults: Mutex<Active>,
    limiter: Mutex<Option<Limiter>>,
    outage: Mutex<Option<OutageClock>>,
    counts: Mutex<Counts>,
    pub bytes_out: AtomicU64,
    /// The port as the server has set it; a change ends idle connections.
    pub port: watch::Sender<Port>,
    /// Wakes the server after a change.
    pub changed: Notify,
    /// Called by the server when the port has followed all changes made before.
    waiters: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

impl Shared {
    pub(super) fn new(profile: Profile) -> Self {
        let shared = Self {
            name: profile.name.clone(),
            faults: Mutex::new(Active::default()),
            limiter: Mutex::new(None),
            outage: Mutex::new(None),
            profile: Mutex::new(Arc::new(profile)),
            counts: Mutex::default(),
            bytes_out: AtomicU64::new(0),
            port: watch::Sender::new(Port::Open),
            changed: Notify::new(),
            waiters: Mutex::default(),
        };
        shared.reset();
        shared
    }

    pub(super) fn profile(&self) -> Arc<Profile> {
        self.profile.lock().clone()
    }

    /// Puts another list of faults in place of the present one.
    pub(super) fn set_faults(&self, faults: Vec<Fault>) -> Result<(), BadProfile> {
        check_faults(&faults)?;
        self.faults.lock().replace(faults, clock::now());
        self.changed.notify_one();
        Ok(())
    }

    pub(super) fn faults(&self) -> Vec<Entry> {
        self.faults.lock().entries(clock::now())
    }

    /// Replaces some of the profile's keys; the rate limit and the outages start anew.
    pub(super) fn change_profile(&self, keys: Map<String, Value>) -> Result<(), BadProfile> {
        let new = {
            let mut profile = self.profile.lock();
            *profile = Arc::new(profile.changed(keys)?);
            profile.clone()
        };
        self.start_clocks(&new);
        Ok(())
    }

    /// Back to the profile's faults, a full rate limit, and counts at zero.
    pub(super) fn reset(&self) {
        let profile = self.profile();
        self.faults.lock().replace(profile.faults.clone(), clock::now());
        self.counts.lock().reset();
        self.bytes_out.store(0, Ordering::Relaxed);
        self.start_clocks(&profile);
    }

    fn start_clocks(&self, profile: &Profile) {
        let now = clock::now();
        *self.limiter.lock() = profile.rpm.map(|rpm| Limiter::new(rpm, now));
        *self.outage.lock() =
            profile.outages.as_ref().map(|outages| OutageClock::new(outages.when.clone(), profile.seed, now));
        self.changed.notify_one();
    }

    /// What the listener is to do now, and when that may change by itself. Begins and ends outages on the way.
    pub(super) fn wanted_port(&self, now: Ts) -> (Port, Option<Ts>) {
        let profile = self.profile();
        let (down, outage_change) = self.outage.lock().as_mut().map_or((false, None), |clock| clock.at(now));
        let mut faults = self.faults.lock();
        let fault = profile.outages.as_ref().filter(|_| down).map(|outages| outages.fault.clone());
        faults.set_outage(fault);
        let (port, fault_change) = faults.port(now);
        (port, [outage_change, fault_change].into_iter().flatten().min())
    }

    /// Calls `done` as soon as the port has followed the changes made so far.
    pub(super) fn when_settled(&self, done: impl FnOnce() + Send + 'static) {
        self.waiters.lock().push(Box::new(done));
        self.changed.notify_one();
    }

    /// Those who wait for the port. The server takes them before it looks at the state and calls them when it has followed.
    pub(super) fn take_waiters(&self) -> Vec<Box<dyn FnOnce() + Send>> {
        std::mem::take(&mut *self.waiters.lock())
    }

    /// One request's turn at the rate limit, if there is one.
    pub(super) fn rate(&self) -> Option<Standing> {
        self.limiter.lock().as_mut().map(|limiter| limiter.take(clock::now()))
    }

    pub(super) fn fault_on_head(&self, profile: &Profile, on: On, n: u64) -> Option<FaultKind> {
        let hit = self.faults.lock().on_head(on, clock::now(), |i| roll(profile.seed, n, i))?;
        self.counts.lock().fault(hit.name());
        Some(hit)
    }

    pub(super) fn faults_on_request(&self, profile: &Profile, asked: Asked<'_>, n: u64) -> Hits {
        let hits = self.faults.lock().on_request(asked, clock::now(), |i| roll(profile.seed, n, i));
        if !hits.names.is_empty() {
            let mut counts = self.counts.lock();
            hits.names.iter().for_each(|name| counts.fault(name));
        }
        hits
    }

    pub(super) fn keep(&self, profile: &Profile, n: u64, head: &Bytes, body: &Bytes) {
        self.counts.lock().keep(profile.keep_requests, n, head, body);
    }

    pub(super) fn stats(&self) -> Stats {
        let port = *self.port.borrow();
        self.counts.lock().show(&self.name, port, self.bytes_out.load(Ordering::Relaxed))
    }

    /// Counts a request until the returned ticket is dropped.
    pub(super) fn begin(self: &Arc<Self>, path: &'static str) -> Ticket {
        let (era, n) = self.counts.lock().begin(path);
        Ticket { shared: self.clone(), era, n, outcome: "stopped", last_event: clock::now(), events: 0 }
    }

    /// Counts a connection until the returned guard is dropped.
    pub(super) fn accepted(self: &Arc<Self>) -> Opened {
        self.counts.lock().accepted();
        Opened { shared: self.clone(), counted: true }
    }
}

/// A connection under way.
pub(super) struct Opened {
    shared: Arc<Shared>,
    counted: bool,
}

impl Opened {
    /// It carries control requests: it doesn't count.
    pub(super) fn uncount(&mut self) {
        if std::mem::take(&mut self.counted) {
            self.shared.counts.lock().closed();
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.uncount();
    }
}

/// A request under way; gives its outcome when it is dropped.
pub(super) struct Ticket {
    shared: Arc<Shared>,
    era: u64,
    /// Number of the request, from 0.
    pub n: u64,
    pub outcome: &'static str,
    last_event: Ts,
    events: u64,
}

impl Ticket {
    /// A content event was sent.
    pub(super) fn event(&mut self) {
        self.events += 1;
    }

    /// What was sent so far has left.
    pub(super) fn flushed(&mut self) {
        self.last_event = clock::now();
    }

    /// The client hung up. It is the request's outcome, unless an injected ending is.
    pub(super) fn aborted(&mut self, injected: bool) {
        if !injected {
            self.outcome = "aborted";
        }
        let now = clock::now();
        self.shared.counts.lock().abort(
            self.era,
            Abort {
                n: self.n,
                at_unix_us: clock::wall().0,
                after_last_event_us: crate::domain::time::micros(now.since(self.last_event)),
                events: self.events,
            },
        );
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.shared.counts.lock().end(self.era, self.outcome);
    }
}
