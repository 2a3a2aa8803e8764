//! How long an endpoint takes: quantiles over the last minutes, and one figure that reacts at once.
//!
//! [`LatencyRecorder`] keeps five slots of a minute. The newest is being written, the other four are complete; a slot that is
//! older is dropped whole, so a figure speaks of the last four to five minutes. All slots together are one HDR histogram (two
//! significant digits, 1 µs to 1 h, growing with what it is given); the complete ones are kept beside it as short lists, to be
//! taken out of it again. That is one histogram per recorder, not five: a thousand endpoints stay small.
//!
//! [`PeakEwma`] is an average that jumps up to a peak at once and forgets it over ten seconds. It ends at the average of what
//! was really observed, not at zero: an endpoint that nobody asks doesn't become attractive by itself. A failure raises the
//! peak only. After five minutes without an observation there is no figure.

use crate::domain::time::{Ts, Wall, micros};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

const SLOT_US: i64 = 60_000_000;
const SLOTS: i64 = 5;
const MAX_US: u64 = 3_600_000_000;
const DIGITS: u8 = 2;

/// A value in µs, the lowest of its histogram bucket, and how often it was recorded. An hour fits.
type Count = (u32, u32);

/// The quantiles that people read. All zero without samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
    pub count: u64,
}

/// A complete slot, or the part of the running one that a restart brought.
#[derive(Clone, Debug)]
struct Slot {
    number: i64,
    /// By value, each value once. Shared with the checkpoints that were made of it.
    counts: Arc<[Count]>,
}

/// A histogram of the last minutes.
#[derive(Clone, Debug)]
pub struct LatencyRecorder {
    /// All slots together; `None` before the first value.
    all: Option<Histogram<u32>>,
    complete: Vec<Slot>,
    /// The complete slots added up, by value.
    known: Vec<Count>,
    /// Number of the slot that is being written: its start in minutes.
    current: i64,
}

/// A recorder on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyCheckpoint {
    pub slots: Vec<SlotCheckpoint>,
}

/// One slot on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotCheckpoint {
    /// From the slot's start to the moment of the checkpoint, µs.
    pub age_us: u64,
    /// Value in µs and count.
    pub counts: Arc<[(u32, u32)]>,
}

impl LatencyRecorder {
    #[must_use]
    pub fn new(now: Ts) -> Self {
        Self { all: None, complete: Vec::new(), known: Vec::new(), current: number(signed(now.0)) }
    }

    /// Records one latency; what is outside 1 µs to 1 h counts as the bound.
    pub fn record(&mut self, now: Ts, latency_us: u64) {
        self.age(now);
        self.add(latency_us, 1);
    }

    /// Completes and drops slots whose time has come. Reading does the same on a copy, so calling this now and then only
    /// saves work.
    pub fn age(&mut self, now: Ts) {
        let number = number(signed(now.0));
        if number <= self.current {
            return;
        }
        let counts = self.current_counts();
        if !counts.is_empty() {
            self.complete.push(Slot { number: self.current, counts: counts.into() });
        }
        self.current = number;
        let before = self.complete.len();
        self.complete.retain(|slot| slot.number > number - SLOTS);
        if self.complete.len() < before {
            self.rebuild();
        }
        self.add_up();
    }

    #[must_use]
    pub fn summary(&self, now: Ts) -> Summary {
        let aged = self.aged(now);
        let Some(all) = aged.histogram() else { return Summary::default() };
        let mut found = all.value_at_quantiles([0.5, 0.9, 0.99, 0.999]);
        let mut next = || found.next().unwrap_or_default();
        Summary { p50_us: next(), p90_us: next(), p99_us: next(), p999_us: next(), max_us: all.max(), count: all.len() }
    }

    /// Values recorded in the last minutes.
    #[must_use]
    pub fn count(&self, now: Ts) -> u64 {
        self.aged(now).histogram().map_or(0, Histogram::len)
    }

    /// Share of values that are at most `us`; `None` without values.
    #[must_use]
    pub fn probability_within(&self, now: Ts, us: u64) -> Option<f64> {
        self.aged(now).histogram().map(|all| all.quantile_below(us))
    }

    /// The value that a share `q` (0..=1) of the values doesn't exceed, µs; `None` without values.
    #[must_use]
    pub fn quantile(&self, now: Ts, q: f64) -> Option<u64> {
        self.aged(now).histogram().map(|all| all.value_at_quantile(q))
    }

    /// Several quantiles at the price of one; `qs` ascending.
    #[must_use]
    pub fn quantiles<const N: usize>(&self, now: Ts, qs: [f64; N]) -> Option<[u64; N]> {
        let aged = self.aged(now);
        let all = aged.histogram()?;
        let mut found = all.value_at_quantiles(qs);
        Some(std::array::from_fn(|_| found.next().unwrap_or_default()))
    }

    #[must_use]
    pub fn checkpoint(&self, now: Ts) -> LatencyCheckpoint {
        let aged = self.aged(now);
        let now = signed(now.0);
        let saved = |number: i64, counts: Arc<[Count]>| SlotCheckpoint {
            age_us: u64::try_from(now.saturating_sub(number.saturating_mul(SLOT_US))).unwrap_or(0),
            counts,
        };
        let mut slots: Vec<_> = aged.complete.iter().map(|slot| saved(slot.number, Arc::clone(&slot.counts))).collect();
        let current = aged.current_counts();
        if !current.is_empty() {
            slots.push(saved(aged.current, current.into()));
        }
        LatencyCheckpoint { slots }
    }

    /// The recorder of a checkpoint that was made `elapsed` before `now`; slots that are too old are dropped.
    #[must_use]
    pub fn restore(from: &LatencyCheckpoint, now: Ts, elapsed: Duration) -> Self {
        let mut recorder = Self::new(now);
        for saved in &from.slots {
            let age = signed(saved.age_us).saturating_add(signed(micros(elapsed)));
            let number = number(signed(now.0).saturating_sub(age));
            if number > recorder.current - SLOTS {
                let counts = saved.counts.iter().filter_map(|(us, count)| recorder.add((*us).into(), *count)).collect();
                recorder.complete.push(Slot { number, counts });
            }
        }
        recorder.add_up();
        recorder
    }

    /// The recorder as it is at `now`: a copy only if a slot's time has come unnoticed.
    #[must_use]
    pub fn aged(&self, now: Ts) -> Cow<'_, Self> {
        if number(signed(now.0)) <= self.current {
            return Cow::Borrowed(self);
        }
        let mut aged = self.clone();
        aged.age(now);
        Cow::Owned(aged)
    }

    fn histogram(&self) -> Option<&Histogram<u32>> {
        self.all.as_ref().filter(|all| !all.is_empty())
    }

    /// Adds a value; returns what went in, under its bucket's lowest value.
    fn add(&mut self, us: u64, count: u32) -> Option<Count> {
        if self.all.is_none() {
            self.all = Histogram::new(DIGITS).ok();
        }
        let all = self.all.as_mut()?;
        // Beyond that a counter may saturate, and the histogram panics when its counters don't add up to its total.
        if all.len().saturating_add(u64::from(count)) > u64::from(u32::MAX) {
            return None;
        }
        let us = us.clamp(1, MAX_US);
        all.record_n(us, count).ok()?;
        Some((u32::try_from(all.lowest_equivalent(us)).ok()?, count))
    }

    /// Makes the histogram anew from the complete slots.
    fn rebuild(&mut self) {
        self.all = None;
        let slots: Vec<_> = self.complete.iter().map(|slot| Arc::clone(&slot.counts)).collect();
        for (us, count) in slots.iter().flat_map(|counts| counts.iter()) {
            self.add((*us).into(), *count);
        }
    }

    fn add_up(&mut self) {
        self.known.clear();
        self.known.extend(self.complete.iter().flat_map(|slot| slot.counts.iter()));
        self.known.sort_unstable_by_key(|(us, _)| *us);
        self.known.dedup_by(|next, sum| {
            let same = next.0 == sum.0;
            if same {
                sum.1 = sum.1.saturating_add(next.1);
            }
            same
        });
    }

    /// What was recorded since the newest complete slot: everything less the complete slots.
    fn current_counts(&self) -> Vec<Count> {
        let Some(all) = self.histogram() else { return Vec::new() };
        let mut known = self.known.iter().copied().peekable();
        let mut counts = Vec::new();
        for at in all.iter_recorded() {
            let us = u32::try_from(all.lowest_equivalent(at.value_iterated_to())).unwrap_or(u32::MAX);
            let before = known.next_if(|(value, _)| *value == us).map_or(0, |(_, count)| count);
            let count = at.count_at_value().saturating_sub(before);
            if count > 0 {
                counts.push((us, count));
            }
        }
        counts
    }
}

fn number(us: i64) -> i64 {
    us.div_euclid(SLOT_US)
}

fn signed(us: u64) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}

const DECAY_SECONDS: f64 = 10.0;
const STALE: Duration = Duration::from_secs(300);

/// A latency average that rises at once and falls slowly, in µs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PeakEwma {
    /// `None` before the first observation.
    at: Option<Ts>,
    /// The average of real observations; 0 before the first.
    base: f64,
    /// At least `base`.
    peak: f64,
    base_at: Ts,
}

/// A [`PeakEwma`] on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EwmaCheckpoint {
    /// When something was last observed.
    pub at: Option<Wall>,
    pub base_us: f64,
    pub peak_us: f64,
    /// When the average was last moved.
    pub base_at: Wall,
}

impl PeakEwma {
    /// Takes in a real latency.
    pub fn observe(&mut self, now: Ts, us: u64) {
        let us = us as f64;
        let decayed = self.value(now);
        let keep = if self.base > 0.0 && decayed.is_some() { decay(now.since(self.base_at)) } else { 0.0 };
        self.base = self.base * keep + us * (1.0 - keep);
        self.base_at = self.base_at.max(now);
        self.peak = decayed.unwrap_or(0.0).max(us).max(self.base);
        self.at = self.at.max(Some(now));
    }

    /// Takes in that something took at least `us`, or should be avoided as if it had: raises the peak, nothing else.
    pub fn penalize(&mut self, now: Ts, us: u64) {
        let decayed = self.value(now);
        if decayed.is_none() {
            *self = Self::default();
        }
        self.peak = decayed.unwrap_or(0.0).max(us as f64);
        self.at = self.at.max(Some(now));
    }

    /// The figure at `now`, µs; `None` if nothing was observed in the last five minutes.
    #[must_use]
    pub fn value(&self, now: Ts) -> Option<f64> {
        let idle = now.since(self.at?);
        (idle < STALE).then(|| self.base + (self.peak - self.base) * decay(idle))
    }

    #[must_use]
    pub fn checkpoint(&self, now: Ts, wall: Wall) -> EwmaCheckpoint {
        EwmaCheckpoint {
            at: self.at.map(|at| wall.minus(now.since(at))),
            base_us: self.base,
            peak_us: self.peak,
            base_at: wall.minus(now.since(self.base_at)),
        }
    }

    /// The average of a checkpoint; one with impossible numbers counts as none.
    #[must_use]
    pub fn restore(from: &EwmaCheckpoint, now: Ts, wall: Wall) -> Self {
        let sane = from.base_us.is_finite() && from.peak_us.is_finite() && 0.0 <= from.base_us;
        match from.at {
            Some(at) if sane && from.base_us <= from.peak_us => Self {
                at: Some(now.minus(wall.since(at))),
                base: from.base_us,
                peak: from.peak_us,
                base_at: now.minus(wall.since(from.base_at)),
            },
            _ => Self::default(),
        }
    }
}

fn decay(idle: Duration) -> f64 {
    (-idle.as_secs_f64() / DECAY_SECONDS).exp()
}

#[cfg(test)]
mod tests;
