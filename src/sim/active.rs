//! The faults in force: which of them hit a request, and what they make of the port.
//!
//! Of the **manners** (latency, trickle, one byte per packet …) all that hit a request apply together; of the **endings** (a
//! status, a reset, a cut …) the first. An outage stands before the list and hits everything. Pure: time and rolls are
//! arguments.

use super::dice::Latency;
use super::fault::{Fault, On};
use super::kind::{FaultKind, Stage};
use crate::domain::time::Ts;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a request is, as far as faults ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub on: On,
    pub stream: bool,
    pub model: Option<&'a str>,
}

/// How an answer is sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Manner {
    pub latency: Option<Latency>,
    pub slow: Duration,
    pub tokens_per_second: Option<f64>,
    /// Each byte by itself, with a pause of so long.
    pub one_byte: Option<Duration>,
    pub mixed_newlines: bool,
    pub no_usage: bool,
    pub finish: Option<String>,
}

/// What hits one request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Hits {
    pub manner: Manner,
    pub ending: Option<FaultKind>,
    /// All that hit, for the statistics.
    pub names: Vec<&'static str>,
}

/// What the listener is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Port {
    #[default]
    Open,
    /// Closed.
    Refusing,
    /// Bound, but dropping connection attempts.
    Unreachable,
}

/// One fault in force.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Entry {
    #[serde(flatten)]
    fault: Fault,
    /// How often it has hit.
    hits: u64,
    #[serde(skip)]
    until: Option<Ts>,
}

impl Entry {
    fn new(fault: Fault, now: Ts) -> Self {
        let until = fault.for_ms.map(|ms| now.plus(Duration::from_millis(ms)));
        Self { fault, hits: 0, until }
    }

    fn in_force(&self, now: Ts) -> bool {
        self.until.is_none_or(|until| now < until) && self.fault.count.is_none_or(|count| self.hits < count)
    }

    fn hit(&mut self, asked: Asked<'_>, now: Ts, roll: f64) -> bool {
        let fault = &self.fault;
        let meant = (fault.on == On::All || fault.on == asked.on)
            && fault.model.as_deref().is_none_or(|model| asked.model == Some(model))
            && fault.kind.fits(asked.stream);
        let hit = meant && self.in_force(now) && (fault.share >= 1.0 || roll < fault.share);
        self.hits += u64::from(hit);
        hit
    }
}

/// The faults in force.
#[derive(Debug, Default)]
pub(super) struct Active {
    entries: Vec<Entry>,
    /// The fault of an outage under way: before all others, on everything.
    outage: Option<FaultKind>,
}

impl Active {
    pub(super) fn new(faults: Vec<Fault>, now: Ts) -> Self {
        Self { entries: faults.into_iter().map(|fault| Entry::new(fault, now)).collect(), outage: None }
    }

    /// Begins (or, with none, ends) an outage.
    pub(super) fn set_outage(&mut self, kind: Option<FaultKind>) {
        self.outage = kind;
    }

    /// Puts another list in the place of this one; an outage under way goes on.
    pub(super) fn replace(&mut self, faults: Vec<Fault>, now: Ts) {
        self.entries = Self::new(faults, now).entries;
    }

    /// What is still in force.
    pub(super) fn entries(&self, now: Ts) -> Vec<Entry> {
        self.entries.iter().filter(|entry| entry.in_force(now)).cloned().collect()
    }

    /// What the listener is to do now, and when that changes by itself.
    pub(super) fn port(&self, now: Ts) -> (Port, Option<Ts>) {
        if let Some(kind) = self.outage.as_ref().filter(|kind| kind.stage() == Stage::Port) {
            return (port_of(kind), None);
        }
        let entry = self.entries.iter().find(|e| e.fault.kind.stage() == Stage::Port && e.in_force(now));
        match entry {
            None => (Port::Open, None),
            Some(entry) => (port_of(&entry.fault.kind), entry.until),
        }
    }

    /// The fault that acts on a request's head, if one hits. `roll` gives a number in 0..1 for a place in the list.
    pub(super) fn on_head(&mut self, on: On, now: Ts, roll: impl Fn(u64) -> f64) -> Option<FaultKind> {
        if let Some(kind) = self.outage.as_ref().filter(|kind| kind.stage() == Stage::Head) {
            return Some(kind.clone());
        }
        let asked = Asked { on, stream: false, model: None };
        self.entries.iter_mut().zip(0..).find_map(|(entry, i)| {
            let hit = entry.fault.kind.stage() == Stage::Head && entry.hit(asked, now, roll(i));
            hit.then(|| entry.fault.kind.clone())
        })
    }

    /// The faults that hit a whole request. `roll` gives a number in 0..1 for a place in the list.
    pub(super) fn on_request(&mut self, asked: Asked<'_>, now: Ts, roll: impl Fn(u64) -> f64) -> Hits {
        let mut hits = Hits::default();
        let fits = |kind: &&FaultKind| kind.fits(asked.stream) && matches!(kind.stage(), Stage::Manner | Stage::Ending);
        if let Some(kind) = self.outage.as_ref().filter(fits) {
            hits.take(kind);
        }
        for (entry, i) in self.entries.iter_mut().zip(0..) {
            let stage = entry.fault.kind.stage();
            let wanted = stage == Stage::Manner || stage == Stage::Ending && hits.ending.is_none();
            if wanted && entry.hit(asked, now, roll(i)) {
                hits.take(&entry.fault.kind);
            }
        }
        hits
    }
}

/// What a port fault makes of the listener.
fn port_of(kind: &FaultKind) -> Port {
    match kind {
        FaultKind::Refuse => Port::Refusing,
        FaultKind::Unreachable => Port::Unreachable,
        _ => Port::Open,
    }
}

impl Hits {
    /// Adds a fault that hit; an ending that is already there stays.
    fn take(&mut self, kind: &FaultKind) {
        self.names.push(kind.name());
        match kind {
            FaultKind::Latency { latency } => self.manner.latency = Some(latency.clone()),
            FaultKind::SlowFirstByte { ms } => self.manner.slow += Duration::from_millis(*ms),
            FaultKind::Trickle { tokens_per_second } => self.manner.tokens_per_second = Some(*tokens_per_second),
            FaultKind::OneBytePackets { gap_ms } => {
                self.manner.one_byte = Some(Duration::from_millis(gap_ms.unwrap_or(0)));
            }
            FaultKind::MixedNewlines => self.manner.mixed_newlines = true,
            FaultKind::NoUsage => self.manner.no_usage = true,
            FaultKind::Finish { reason } => self.manner.finish = Some(reason.clone()),
            other => {
                self.ending.get_or_insert_with(|| other.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: Asked<'_> = Asked { on: On::Generation, stream: true, model: Some("m") };

    #[test]
    fn all_manners_apply_but_only_the_first_ending() {
        let mut active = Active::new(
            vec![
                FaultKind::OneBytePackets { gap_ms: None }.into(),
                FaultKind::CutAfter { events: 3, reset: false }.into(),
                FaultKind::Hang.into(),
                FaultKind::SlowFirstByte { ms: 5 }.into(),
            ],
            Ts(0),
        );
        let hits = active.on_request(CHAT, Ts(0), |_| 0.0);
        assert!(hits.manner.one_byte == Some(Duration::ZERO) && hits.manner.slow == Duration::from_millis(5));
        assert_eq!(hits.ending, Some(FaultKind::CutAfter { events: 3, reset: false }));
        assert_eq!(hits.names, ["one_byte_packets", "cut_after", "slow_first_byte"]);
    }

    #[test]
    fn count_time_share_and_place_bound_a_fault() {
        let hit = |fault: Fault, asked, now, roll: f64| {
            Active::new(vec![fault], Ts(0)).on_request(asked, now, |_| roll).ending.is_some()
        };
        let hang = || Fault::from(FaultKind::Hang);
        assert!(hit(hang(), CHAT, Ts(0), 0.99));
        assert!(hit(hang().share(0.5), CHAT, Ts(0), 0.49));
        assert!(!hit(hang().share(0.5), CHAT, Ts(0), 0.5));
        assert!(hit(hang().lasting(Duration::from_millis(2)), CHAT, Ts(1_999), 0.0));
        assert!(!hit(hang().lasting(Duration::from_millis(2)), CHAT, Ts(2_000), 0.0));
        assert!(!hit(hang(), Asked { on: On::Health, ..CHAT }, Ts(0), 0.0));
        assert!(hit(hang().on(On::All), Asked { on: On::Health, ..CHAT }, Ts(0), 0.0));
        assert!(!hit(Fault { model: Some("other".into()), ..hang() }, CHAT, Ts(0), 0.0));
        let done = Fault::from(FaultKind::EndWithoutDone { events: None });
        assert!(!hit(done, Asked { stream: false, ..CHAT }, Ts(0), 0.0));

        let mut twice = Active::new(vec![hang().times(2)], Ts(0));
        let hits: Vec<bool> = (0..4).map(|_| twice.on_request(CHAT, Ts(0), |_| 0.0).ending.is_some()).collect();
        assert_eq!(hits, [true, true, false, false]);
        assert!(twice.entries(Ts(0)).is_empty());
    }

    #[test]
    fn the_port_follows_its_fault_and_opens_when_it_is_over() {
        let refuse = Fault::from(FaultKind::Refuse).lasting(Duration::from_millis(10));
        let mut active = Active::new(vec![refuse], Ts(0));
        assert_eq!(active.port(Ts(0)), (Port::Refusing, Some(Ts(10_000))));
        assert_eq!(active.port(Ts(10_000)), (Port::Open, None));
        active.set_outage(Some(FaultKind::Unreachable));
        assert_eq!(active.port(Ts(10_000)), (Port::Unreachable, None));
    }
}
