//! Hedging: when a slow request may be sent a second time, and how often that may be.
//!
//! - A hedge is due when an attempt has taken longer than a quantile of the route's recent first bytes, or a fixed time; in either case not
//!   before `floor`. A quantile needs [`MIN_SAMPLES`] answers; before that nothing is ever due.
//! - Streams and whole answers are measured apart: the one until its first content, the other until it is there.
//! - An attempt that its hedge overtook is recorded with the time it had taken by then. That is too short, but beyond the quantile that
//!   the hedge waited for, so the quantile stays where it is.
//! - Extra requests are at most a share of the route's requests of the last minute, so that a slow fleet is not sent twice the load.
//!
//! The method is that of "The Tail at Scale" (Dean and Barroso, CACM 2013): deferring the second request until the 95th percentile bounds
//! the extra load to about 5 %; the share makes that a promise. Fixed memory, no clock; whether breakers, retry budget and candidates allow
//! a hedge is the caller's to ask.

use crate::domain::time::{Ts, micros};
use std::time::Duration;

/// Answers below which a quantile says nothing.
pub const MIN_SAMPLES: u32 = 100;
/// The newest answers that a quantile is taken of.
const KEPT: usize = 1024;
/// A quantile is taken anew after so many answers.
const REFRESH: u32 = 32;
/// The window of the share, in slots of a second.
const SLOTS: usize = 60;
const SLOT_US: u64 = 1_000_000;

/// When a route hedges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HedgeSettings {
    pub after: HedgeAfter,
    /// Never earlier than this.
    pub floor: Duration,
    /// Extra requests per request of the last minute, 0..=1.
    pub max_extra: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeAfter {
    /// A quantile of the route's own first bytes, in percent, 1..=99.
    Percentile(u8),
    Fixed(Duration),
}

impl Default for HedgeSettings {
    fn default() -> Self {
        Self { after: HedgeAfter::Percentile(95), floor: Duration::from_millis(50), max_extra: 0.05 }
    }
}

/// What kind of answer was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Whole,
    Stream,
}

/// When a hedge is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// After the attempt was sent.
    pub after: Duration,
    /// Answers behind it; 0 for a fixed time.
    pub samples: u32,
}

/// The hedging of one route.
#[derive(Clone, Debug)]
pub struct Hedging {
    settings: HedgeSettings,
    whole: FirstBytes,
    stream: FirstBytes,
    share: Share,
}

impl Hedging {
    #[must_use]
    pub fn new(settings: HedgeSettings) -> Self {
        let times = FirstBytes::default;
        Self { settings, whole: times(), stream: times(), share: Share::default() }
    }

    #[must_use]
    pub fn settings(&self) -> HedgeSettings {
        self.settings
    }

    /// An attempt that may be hedged is sent: when its hedge is due. `None`: too little is known yet.
    pub fn sent(&mut self, now: Ts, kind: Kind) -> Option<Due> {
        self.share.current(now).requests += 1;
        let due = match self.settings.after {
            HedgeAfter::Fixed(after) => Due { after, samples: 0 },
            HedgeAfter::Percentile(percent) => {
                let times = self.times(kind);
                Due { after: times.percentile(percent)?, samples: times.count() }
            }
        };
        Some(Due { after: due.after.max(self.settings.floor), ..due })
    }

    /// An attempt, not a hedge, took this long to its first content or answer, or until its hedge overtook it.
    pub fn answered(&mut self, kind: Kind, took: Duration) {
        self.times(kind).record(took);
    }

    /// Takes one extra request, if the share of the last minute allows it.
    pub fn try_extra(&mut self, now: Ts) -> bool {
        self.share.try_take(now, self.settings.max_extra)
    }

    fn times(&mut self, kind: Kind) -> &mut FirstBytes {
        match kind {
            Kind::Whole => &mut self.whole,
            Kind::Stream => &mut self.stream,
        }
    }
}

/// The newest times, in µs, and the percentile that was last taken of them.
#[derive(Clone, Debug, Default)]
struct FirstBytes {
    newest: Vec<u32>,
    next: usize,
    /// Percentile, its value, and how many answers have come since it was taken.
    taken: Option<(u8, u32, u32)>,
}

impl FirstBytes {
    fn count(&self) -> u32 {
        u32::try_from(self.newest.len()).unwrap_or(u32::MAX)
    }

    fn record(&mut self, took: Duration) {
        let us = u32::try_from(micros(took)).unwrap_or(u32::MAX);
        match self.newest.get_mut(self.next) {
            Some(oldest) => *oldest = us,
            None => self.newest.push(us),
        }
        self.next = (self.next + 1) % KEPT;
        if let Some((.., age)) = &mut self.taken {
            *age += 1;
        }
    }

    fn percentile(&mut self, percent: u8) -> Option<Duration> {
        if self.count() < MIN_SAMPLES {
            return None;
        }
        let us = match self.taken {
            Some((of, us, age)) if of == percent && age < REFRESH => us,
            _ => {
                let mut sorted = self.newest.clone();
                let rank = (sorted.len() * usize::from(percent)).div_ceil(100).clamp(1, sorted.len());
                let us = *sorted.select_nth_unstable(rank - 1).1;
                self.taken = Some((percent, us, 0));
                us
            }
        };
        Some(Duration::from_micros(u64::from(us)))
    }
}

/// Requests and extra requests of the last minute.
#[derive(Clone, Debug)]
struct Share {
    slots: [Slot; SLOTS],
    newest: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    requests: u32,
    extra: u32,
}

impl Default for Share {
    fn default() -> Self {
        Self { slots: [Slot::default(); SLOTS], newest: 0 }
    }
}

impl Share {
    fn current(&mut self, now: Ts) -> &mut Slot {
        let index = now.0 / SLOT_US;
        for step in 1..=index.saturating_sub(self.newest).min(SLOTS as u64) {
            self.slots[((self.newest + step) % SLOTS as u64) as usize] = Slot::default();
        }
        // After a gap longer than the window every slot was cleared, wherever the ring now stands.
        self.newest = self.newest.max(index);
        &mut self.slots[(self.newest % SLOTS as u64) as usize]
    }

    fn try_take(&mut self, now: Ts, max_extra: f64) -> bool {
        self.current(now);
        let sum = |of: fn(&Slot) -> u32| self.slots.iter().map(|s| f64::from(of(s))).sum::<f64>();
        let allowed = sum(|s| s.extra) + 1.0 <= max_extra * sum(|s| s.requests);
        self.current(now).extra += u32::from(allowed);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn hedging(after: HedgeAfter) -> Hedging {
        Hedging::new(HedgeSettings { after, ..HedgeSettings::default() })
    }

    #[test]
    fn nothing_is_due_before_a_hundred_answers_of_the_kind() {
        let mut h = hedging(HedgeAfter::Percentile(95));
        for n in 1..=100 {
            assert_eq!(h.sent(Ts(0), Kind::Stream), None);
            h.answered(Kind::Stream, MS * n * 10);
        }
        assert_eq!(h.sent(Ts(0), Kind::Stream), Some(Due { after: MS * 950, samples: 100 }));
        assert_eq!(h.sent(Ts(0), Kind::Whole), None);
    }

    #[test]
    fn the_floor_holds_for_quantiles_and_fixed_times() {
        let mut h = hedging(HedgeAfter::Percentile(95));
        (0..200).for_each(|_| h.answered(Kind::Whole, MS));
        assert_eq!(h.sent(Ts(0), Kind::Whole).unwrap().after, MS * 50);
        let mut fixed = hedging(HedgeAfter::Fixed(MS * 300));
        assert_eq!(fixed.sent(Ts(0), Kind::Whole), Some(Due { after: MS * 300, samples: 0 }));
        assert_eq!(hedging(HedgeAfter::Fixed(MS)).sent(Ts(0), Kind::Whole).unwrap().after, MS * 50);
    }

    #[test]
    fn attempts_that_were_overtaken_do_not_move_the_quantile() {
        let mut h = hedging(HedgeAfter::Percentile(95));
        // 3 % take a second, the others 100 ms; hedged, the slow ones are cut off soon after the hedge was due.
        (0..1000).for_each(|n| h.answered(Kind::Whole, if n % 33 == 0 { MS * 1000 } else { MS * 100 }));
        for n in 0..5000 {
            let due = h.sent(Ts(0), Kind::Whole).unwrap().after;
            assert_eq!(due, MS * 100, "answer {n}");
            h.answered(Kind::Whole, if n % 33 == 0 { due + MS * 60 } else { MS * 100 });
        }
    }

    proptest! {
        #[test]
        fn the_percentile_is_that_of_a_sorted_list(
            times in proptest::collection::vec(0_u32..5_000_000, 100..2500),
            percent in 1_u8..100,
        ) {
            let mut first = FirstBytes::default();
            times.iter().for_each(|us| first.record(Duration::from_micros(u64::from(*us))));
            let mut newest: Vec<u32> = times.iter().rev().take(KEPT).copied().collect();
            newest.sort_unstable();
            let rank = (newest.len() * usize::from(percent)).div_ceil(100).max(1);
            let exact = Duration::from_micros(u64::from(newest[rank - 1]));
            prop_assert_eq!(first.percentile(percent), Some(exact));
            prop_assert!(first.newest.len() <= KEPT && first.newest.capacity() <= 2 * KEPT);
        }

        #[test]
        fn extra_requests_stay_within_their_share_of_the_last_minute(
            events in proptest::collection::vec((0_u64..3_000_000, any::<bool>()), 1..800),
            max_extra in 0.0_f64..=1.0,
        ) {
            let mut h = Hedging::new(HedgeSettings { max_extra, ..HedgeSettings::default() });
            let (mut now, mut log) = (Ts(0), Vec::new());
            for (gap, asks) in events {
                now = Ts(now.0 + gap);
                let slot = now.0 / SLOT_US;
                let in_window = |log: &[(u64, bool)], extra: bool| {
                    log.iter().filter(|(at, e)| *e == extra && at + SLOTS as u64 > slot).count() as f64
                };
                if asks {
                    let allowed = in_window(&log, true) + 1.0 <= max_extra * in_window(&log, false);
                    prop_assert_eq!(h.try_extra(now), allowed);
                    if allowed { log.push((slot, true)); }
                } else {
                    h.sent(now, Kind::Stream);
                    log.push((slot, false));
                }
            }
        }
    }
}
