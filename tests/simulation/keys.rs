//! Virtual keys in the simulation: which a seed draws, and what is promised of their own limits.
//!
//! - Over any span of a life, a key's requests get past its own limit as often as that limit's rate allows, and ten seconds' worth more.
//! - It turns away only what would break that, and at once.
//! - A request is told that there is no room to wait, or none for its key, only if requests under way could take it.

use crate::world::Journal;
use crate::world::client::End;
use breakwater::clock;
use breakwater::domain::budget::Terms;
use breakwater::domain::key::{KeySecret, VirtualKey};
use breakwater::domain::queue::Priority;
use breakwater::domain::time::{Ts, Wall};
use breakwater::engine::access::Caller;
use breakwater::engine::error::Code;
use breakwater::engine::gateway::Gateway;
use breakwater::store::{Area, OpenOptions, Store};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const SECOND_US: i64 = 1_000_000;

/// A key as its seed made it.
#[derive(Clone, Debug)]
pub struct Key {
    pub stored: VirtualKey,
    secret: String,
    /// Of a hundred requests.
    share: u32,
}

/// The keys of a scenario; none: the gateway is open.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    pub all: Vec<Key>,
    /// Requests that may wait at a time.
    pub max_waiting: usize,
}

impl Keys {
    /// Draws from dice of its own, so that whatever else a seed stands for stays as it is. Two of three seeds have keys; those that have
    /// budgets besides (`has_money`) have some on keys too.
    pub fn of(seed: u64, has_money: bool) -> Self {
        let mut dice = Rng::with_seed(seed ^ 0x6e75);
        if seed.is_multiple_of(3) {
            return Self::default();
        }
        let count = dice.usize(3..=6);
        // One priority for two keys at least, the hog and its first rival.
        let of_hog = Priority::ALL[dice.usize(..3)];
        let key = |i: usize| {
            let priority = if i < 2 { of_hog } else { Priority::ALL[dice.usize(..3)] };
            let share = if i == 0 { 60 } else { 40 / (count as u32 - 1) };
            key(&mut dice, i, priority, share, has_money)
        };
        let all = (0..count).map(key).collect();
        Self { all, max_waiting: [6, 40, 1_000][Rng::with_seed(seed ^ 0x10bb).usize(..3)] }
    }

    /// Of `server` in the configuration.
    pub fn settings(&self) -> String {
        if self.all.is_empty() {
            "auth: open".into()
        } else {
            format!("auth: required, max_waiting: {}", self.max_waiting)
        }
    }

    /// Writes the keys into a store, as `breakwater key create` does.
    pub fn store(&self, path: &Path) {
        if self.all.is_empty() {
            return;
        }
        let (store, _) = Store::open(&OpenOptions::at(path, clock::wall())).expect("a new store");
        for Key { stored, .. } in &self.all {
            store.state().put(Area::Key, &stored.id, &stored.to_bytes(), true).expect("a key is stored");
        }
    }

    /// Whose request comes next.
    pub fn pick(&self, dice: &mut Rng) -> Option<usize> {
        let sum: u32 = self.all.iter().map(|k| k.share).sum();
        let mut roll = if sum > 0 { dice.u32(..sum) } else { return None };
        self.all.iter().position(|key| {
            let is_it = roll < key.share;
            roll = roll.saturating_sub(key.share);
            is_it
        })
    }

    /// Who asks, with this key.
    pub fn caller(&self, gateway: &Gateway, key: Option<usize>) -> Caller {
        let secret = key.map(|k| self.all[k].secret.as_str());
        gateway.access.caller(secret).unwrap_or_else(|e| panic!("a key is not taken: {}", e.message))
    }

    /// Of a key by its number; what has no key waits as `normal`.
    pub fn priority(&self, key: Option<usize>) -> Priority {
        key.and_then(|k| self.all.get(k)).map_or(Priority::Normal, |key| key.stored.priority)
    }
}

fn key(dice: &mut Rng, i: usize, priority: Priority, share: u32, has_money: bool) -> Key {
    let (mut id, mut secret) = ([0; 12], [0; 32]);
    dice.fill(&mut id);
    dice.fill(&mut secret);
    let secret = KeySecret::from_random(&secret);
    let rpm = (dice.f64() < 0.4).then(|| [6, 30, 120, 600][dice.usize(..4)]);
    let budget = (dice.f64() < 0.5).then(|| {
        let (amount, period) = (["0.002", "0.02", "0.2"][dice.usize(..3)], ["total", "day"][dice.usize(..2)]);
        let zone = ["UTC", "Atlantic/Azores"][dice.usize(..2)];
        Terms::parse(amount, Some(period), Some(zone), Some("hard")).expect("terms")
    });
    let stored = VirtualKey {
        id: VirtualKey::id_from_random(&id),
        name: format!("k{i}"),
        hash: secret.hash(),
        models: Vec::new(),
        rpm,
        tpm: None,
        priority,
        tags: BTreeMap::new(),
        budget: budget.filter(|_| has_money),
        created_at: Wall(0),
        expires_at: None,
        revoked: false,
    };
    Key { stored, secret: secret.reveal().to_owned(), share }
}

/// The requests of a life, in the order in which they were sent.
#[derive(Debug, Default)]
pub struct Visits {
    pub all: Vec<Visit>,
    /// Under way, by key.
    live: BTreeMap<Option<usize>, usize>,
}

impl Visits {
    /// A request is sent; returns its number.
    pub fn begin(&mut self, visit: Visit) -> usize {
        *self.live.entry(visit.key).or_default() += 1;
        self.all.push(visit);
        self.all.len() - 1
    }

    pub fn end(&mut self, number: usize, at: Ts, end: End, why: &str) {
        let visit = &mut self.all[number];
        if let Some(live) = self.live.get_mut(&visit.key) {
            *live -= 1;
        }
        visit.beside = (self.live.values().sum(), self.live.get(&visit.key).copied().unwrap_or(0));
        visit.ended = Some((at, end));
        visit.why = why.to_owned();
    }
}

/// A request of a life, as its client knows it. Times are the world's.
#[derive(Clone, Debug)]
pub struct Visit {
    pub name: String,
    pub key: Option<usize>,
    pub sent: Ts,
    /// The caller's own deadline, if it named one, or its route's.
    pub deadline: Duration,
    /// It asked for nothing that keeps it from any endpoint.
    pub is_plain: bool,
    pub ended: Option<(Ts, End)>,
    pub why: String,
    /// Other requests under way when it ended: all, and of its own key.
    pub beside: (usize, usize),
}

impl Visit {
    fn is_refused_by(&self, what: &str) -> bool {
        matches!(self.ended, Some((_, End::Refused(_)))) && self.why.contains(what)
    }

    /// Turned away before its key's limit was looked at.
    fn is_not_let_in(&self) -> bool {
        self.is_refused_by("already serves")
    }

    pub fn is_over_own_limit(&self) -> bool {
        matches!(self.ended, Some((_, End::Refused(Code::RateLimitExceeded)))) && self.is_refused_by("this key's limit")
    }

    pub fn is_crowded_out(&self) -> bool {
        self.is_refused_by("wait already")
    }

    /// When it ended, if not in the moment in which it was sent.
    pub fn ended_late(&self) -> Option<Duration> {
        self.ended.map(|(at, _)| at.since(self.sent)).filter(|took| !took.is_zero())
    }
}

/// The keys' own limits, over one life's requests in the order in which they were sent.
pub fn check(keys: &Keys, visits: &[Visit], journal: &Journal) {
    for (number, key) in keys.all.iter().enumerate() {
        let Some(rpm) = key.stored.rpm.and_then(|rpm| i64::try_from(rpm).ok()) else { continue };
        // In millionths of a sixtieth of a request: what a microsecond gives is the limit itself.
        let one = 60 * SECOND_US;
        let burst = (rpm * 10 * SECOND_US).max(one);
        // The largest that (what was taken since some request) - (what that time gave) has been, at the last request that got past.
        let (mut used, mut last) = (0_i64, Ts(0));
        for visit in visits.iter().filter(|v| v.key == Some(number) && !v.is_not_let_in()) {
            let gave = i64::try_from(visit.sent.0 - last.0).unwrap_or(i64::MAX).saturating_mul(rpm);
            let would_be = used.saturating_sub(gave).max(0) + one;
            match (would_be > burst, visit.is_over_own_limit()) {
                (false, true) => journal.violation(format!(
                    "{}: refused by its key's limit of {rpm} a minute, which was not used up",
                    visit.name
                )),
                (true, false) => {
                    journal.violation(format!("{}: got past its key's limit of {rpm} a minute", visit.name));
                }
                _ => {}
            }
            if !visit.is_over_own_limit() {
                (used, last) = (would_be, visit.sent);
            }
        }
    }
    for visit in visits.iter().filter(|v| v.is_not_let_in() || v.is_over_own_limit()) {
        if let Some(late) = visit.ended_late() {
            journal.violation(format!("{}: told only after {late:?}: {}", visit.name, visit.why));
        }
    }
    for visit in visits.iter().filter(|v| v.is_crowded_out()) {
        let (all, own) = visit.beside;
        let by_share = visit.why.contains("of this key wait already");
        let taken = if by_share { all + own } else { all };
        if taken < keys.max_waiting {
            journal.violation(format!(
                "{}: told `{}` with {own} requests of its key and {all} in all under way, where {} may wait",
                visit.name, visit.why, keys.max_waiting
            ));
        }
    }
}
