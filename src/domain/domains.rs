//! Failure domains: what endpoints share that can fail for all of them at once, such as a vendor, a region or a gateway in between.
//!
//! - A member is *down* from the moment its breaker opens, or several of its connections in a row fail, until it is seen working.
//! - A domain **opens** when enough of its members went down within a short time of each other: half of them, and at least two. It
//!   is then shut for the rest as well, who would fail next: their gates refuse, but for one probe each.
//! - It stays open for `open_for`; if nobody was seen working by then, it goes on for twice as long, up to `max_open_for`, with a new
//!   probe each.
//! - It **closes** when any member is seen working: a breaker that closes, or a probe of the rest that succeeds. Members that are
//!   down stay shut by their own breakers.
//! - Having been closed for a minute starts the doubling anew.
//!
//! An operator's forced trip is no sign of a failing domain. Nothing here is persisted: after a restart members that are still shut
//! count as down since they were shut, so the domain opens again if it was.
//!
//! It decides; whoever calls moves the gates. `now` is an argument.

use crate::domain::time::Ts;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Closed for this long forgets earlier openings.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// When a domain opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DomainSettings {
    /// Share of the members that must go down together, above 0 and up to 1.
    pub share: f64,
    /// And at least so many.
    pub minimum: u32,
    /// Together means within this time.
    pub within: Duration,
    /// First open period; doubles with each that follows.
    pub open_for: Duration,
    pub max_open_for: Duration,
}

impl Default for DomainSettings {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self { share: 0.5, minimum: 2, within: secs(10), open_for: secs(5), max_open_for: secs(60) }
    }
}

/// A change of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    pub domain: Arc<str>,
    /// Until when it is open; `None`: it closed.
    pub until: Option<Ts>,
    /// An open period that follows another.
    pub renewed: bool,
    /// Members that are down, of how many.
    pub down: usize,
    pub members: usize,
}

#[derive(Debug, Default)]
struct Domain {
    members: BTreeSet<u32>,
    /// Since when they are.
    down: BTreeMap<u32, Ts>,
    open_until: Option<Ts>,
    openings: u32,
    closed_since: Ts,
}

/// All domains, by name.
#[derive(Debug, Default)]
pub struct Domains {
    settings: DomainSettings,
    all: BTreeMap<Arc<str>, Domain>,
}

impl Domains {
    /// Changes the settings; domains that are open stay so until their time.
    pub fn set_settings(&mut self, settings: DomainSettings) {
        self.settings = settings;
    }

    /// A member's domains, whatever they were before. Leaving one that is open may close it.
    pub fn set_member(&mut self, now: Ts, id: u32, domains: &[Arc<str>]) -> Vec<Moved> {
        for name in domains {
            self.all.entry(Arc::clone(name)).or_default().members.insert(id);
        }
        let settings = self.settings;
        let mut moved = Vec::new();
        for (name, domain) in self.all.iter_mut().filter(|(name, _)| !domains.contains(name)) {
            if !domain.members.remove(&id) {
                continue;
            }
            domain.down.remove(&id);
            if domain.open_until.is_some() && domain.down.len() < settings.needed(domain.members.len()) {
                moved.push(domain.close(name, now));
            }
        }
        self.all.retain(|_, domain| !domain.members.is_empty());
        moved
    }

    /// The member went down at `at`.
    pub fn down(&mut self, now: Ts, id: u32, at: Ts) -> Vec<Moved> {
        let settings = self.settings;
        let mut moved = Vec::new();
        for (name, domain) in self.all.iter_mut().filter(|(_, d)| d.members.contains(&id)) {
            domain.down.insert(id, at);
            let together =
                domain.down.values().filter(|t| t.0.abs_diff(at.0) <= crate::domain::time::micros(settings.within));
            if domain.open_until.is_none() && together.count() >= settings.needed(domain.members.len()) {
                moved.push(domain.open(name, now, &settings, false));
            }
        }
        moved
    }

    /// The member was seen working.
    pub fn up(&mut self, now: Ts, id: u32) -> Vec<Moved> {
        let mut moved = Vec::new();
        for (name, domain) in self.all.iter_mut().filter(|(_, d)| d.members.contains(&id)) {
            domain.down.remove(&id);
            if domain.open_until.is_some() {
                moved.push(domain.close(name, now));
            }
        }
        moved
    }

    /// What the member does says nothing about its domains any more: an operator has shut it.
    pub fn forget(&mut self, id: u32) {
        for domain in self.all.values_mut() {
            domain.down.remove(&id);
        }
    }

    /// Does what the clock alone decides; see [`Self::next_wake`].
    pub fn on_time(&mut self, now: Ts) -> Vec<Moved> {
        let settings = self.settings;
        let mut moved = Vec::new();
        for (name, domain) in self.all.iter_mut().filter(|(_, d)| d.open_until.is_some_and(|until| now >= until)) {
            let goes_on = domain.down.len() >= settings.needed(domain.members.len());
            moved.push(if goes_on { domain.open(name, now, &settings, true) } else { domain.close(name, now) });
        }
        moved
    }

    #[must_use]
    pub fn next_wake(&self) -> Option<Ts> {
        self.all.values().filter_map(|domain| domain.open_until).min()
    }

    /// Until when the member is shut for its domains' sake, and the domain that is open longest; `None` for a member that is down
    /// itself, whose own breaker decides.
    #[must_use]
    pub fn hold(&self, id: u32) -> Option<(&Arc<str>, Ts)> {
        let open = self.all.iter().filter(|(_, d)| d.members.contains(&id) && !d.down.contains_key(&id));
        open.filter_map(|(name, d)| d.open_until.map(|until| (name, until))).max_by_key(|(_, until)| *until)
    }
}

impl DomainSettings {
    fn needed(&self, members: usize) -> usize {
        let share = (members as f64 * self.share).ceil() as usize;
        share.max(self.minimum as usize).max(1)
    }
}

impl Domain {
    fn open(&mut self, name: &Arc<str>, now: Ts, settings: &DomainSettings, renewed: bool) -> Moved {
        if !renewed && now.since(self.closed_since) >= FORGET_AFTER {
            self.openings = 0;
        }
        let doubled = settings.open_for.saturating_mul(1_u32.checked_shl(self.openings).unwrap_or(u32::MAX));
        self.openings = self.openings.saturating_add(1);
        self.open_until = Some(now.plus(doubled.min(settings.max_open_for)));
        self.tell(name, renewed)
    }

    fn close(&mut self, name: &Arc<str>, now: Ts) -> Moved {
        self.open_until = None;
        self.closed_since = now;
        // Those who are still down were part of this event: they must not open the domain again beside one that fails alone.
        self.down.values_mut().for_each(|at| *at = Ts(0));
        self.tell(name, false)
    }

    fn tell(&self, name: &Arc<str>, renewed: bool) -> Moved {
        let (down, members) = (self.down.len(), self.members.len());
        Moved { domain: Arc::clone(name), until: self.open_until, renewed, down, members }
    }
}

#[cfg(test)]
mod tests;
