//! The failure window: what happened at an endpoint in the last half minute or so.
//!
//! Time is cut into buckets of a thirtieth of the window's length; the newest thirty count. A result falls into the bucket of
//! the moment at which it is recorded, that is of the attempt's end. So a result counts for at least 29 thirtieths of the
//! length and never longer than the length. Failures are counted in halves, because an overload answer (529) is half of one;
//! it is a whole call all the same. A clock that steps back records into the newest bucket.
//!
//! The window only counts; the breaker decides.

use crate::domain::time::{Ts, micros};
use serde::{Deserialize, Serialize};
use std::time::Duration;

const BUCKETS: i64 = 30;

/// One result as the window counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// 0: no failure, 1: half of one, 2: a whole one.
    pub failure_halves: u8,
    /// The first byte came late, or never.
    pub slow: bool,
}

/// What the window holds at a moment. Shares are 0..=1, and 0 without calls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    pub calls: u32,
    pub failure_rate: f64,
    pub slow_rate: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    calls: u32,
    failure_halves: u32,
    slow: u32,
}

/// Thirty buckets of counts that age out by themselves.
#[derive(Clone, Debug)]
pub struct FailureWindow {
    /// Of one bucket, µs, at least 1.
    width: i64,
    /// Number of the newest bucket that was written: its start divided by the width.
    newest: i64,
    /// Bucket `n` lies at `n mod 30`.
    buckets: [Bucket; BUCKETS as usize],
}

/// A window on disk: the buckets that hold something, by age.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowCheckpoint {
    pub buckets: Vec<BucketCheckpoint>,
}

/// One bucket on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketCheckpoint {
    /// From the bucket's start to the moment of the checkpoint, µs.
    pub age_us: u64,
    pub calls: u32,
    pub failure_halves: u32,
    pub slow: u32,
}

impl FailureWindow {
    /// An empty window of `length`.
    #[must_use]
    pub fn new(length: Duration) -> Self {
        let width = (signed(micros(length)) / BUCKETS).max(1);
        Self { width, newest: 0, buckets: [Bucket::default(); BUCKETS as usize] }
    }

    /// Counts one call.
    pub fn record(&mut self, now: Ts, sample: Sample) {
        let number = self.advance(self.number(signed(now.0)));
        let bucket = self.bucket_mut(number);
        bucket.calls = bucket.calls.saturating_add(1);
        bucket.failure_halves = bucket.failure_halves.saturating_add(u32::from(sample.failure_halves.min(2)));
        bucket.slow = bucket.slow.saturating_add(u32::from(sample.slow));
    }

    /// What the newest thirty buckets hold, seen from `now`.
    #[must_use]
    pub fn rates(&self, now: Ts) -> Rates {
        let current = self.number(signed(now.0)).max(self.newest);
        let (mut calls, mut halves, mut slow) = (0_u32, 0_u32, 0_u32);
        for number in (current - BUCKETS + 1)..=self.newest {
            let bucket = self.bucket(number);
            calls = calls.saturating_add(bucket.calls);
            halves = halves.saturating_add(bucket.failure_halves);
            slow = slow.saturating_add(bucket.slow);
        }
        let share = |n: f64| if calls == 0 { 0.0 } else { (n / f64::from(calls)).min(1.0) };
        Rates { calls, failure_rate: share(f64::from(halves) / 2.0), slow_rate: share(f64::from(slow)) }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.buckets = [Bucket::default(); BUCKETS as usize];
    }

    /// The same counts in a window of another length; what is older than that is dropped.
    #[must_use]
    pub fn resized(&self, length: Duration, now: Ts) -> Self {
        Self::restore(length, &self.checkpoint(now), now, Duration::ZERO)
    }

    /// The counts by age.
    #[must_use]
    pub fn checkpoint(&self, now: Ts) -> WindowCheckpoint {
        let now = signed(now.0);
        let current = self.number(now).max(self.newest);
        let buckets = ((current - BUCKETS + 1)..=self.newest)
            .map(|number| (number, self.bucket(number)))
            .filter(|(_, bucket)| bucket.calls > 0)
            .map(|(number, bucket)| BucketCheckpoint {
                age_us: u64::try_from(now.saturating_sub(number.saturating_mul(self.width))).unwrap_or(0),
                calls: bucket.calls,
                failure_halves: bucket.failure_halves,
                slow: bucket.slow,
            })
            .collect();
        WindowCheckpoint { buckets }
    }

    /// The window of a checkpoint that was made `elapsed` before `now`; buckets older than `length` are dropped.
    #[must_use]
    pub fn restore(length: Duration, from: &WindowCheckpoint, now: Ts, elapsed: Duration) -> Self {
        let mut window = Self::new(length);
        let now = signed(now.0);
        let oldest = window.number(now) - BUCKETS + 1;
        window.newest = window.number(now);
        for saved in &from.buckets {
            let age = signed(saved.age_us).saturating_add(signed(micros(elapsed)));
            let number = window.number(now.saturating_sub(age));
            if number < oldest {
                continue;
            }
            let bucket = window.bucket_mut(number);
            bucket.calls = bucket.calls.saturating_add(saved.calls);
            bucket.failure_halves = bucket.failure_halves.saturating_add(saved.failure_halves);
            bucket.slow = bucket.slow.saturating_add(saved.slow);
        }
        window
    }

    /// Signed, because a restored bucket may lie before this process's origin of time.
    fn number(&self, us: i64) -> i64 {
        us.div_euclid(self.width)
    }

    /// Empties the buckets between the newest and `number`; returns the one to write to.
    fn advance(&mut self, number: i64) -> i64 {
        if number <= self.newest {
            return self.newest;
        }
        if number - self.newest >= BUCKETS {
            self.clear();
        } else {
            for passed in self.newest + 1..=number {
                *self.bucket_mut(passed) = Bucket::default();
            }
        }
        self.newest = number;
        number
    }

    fn bucket(&self, number: i64) -> Bucket {
        self.buckets[index(number)]
    }

    fn bucket_mut(&mut self, number: i64) -> &mut Bucket {
        &mut self.buckets[index(number)]
    }
}

fn index(number: i64) -> usize {
    number.rem_euclid(BUCKETS) as usize
}

fn signed(us: u64) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000;
    const FAILURE: Sample = Sample { failure_halves: 2, slow: false };
    const OVERLOAD: Sample = Sample { failure_halves: 1, slow: false };
    const SLOW: Sample = Sample { failure_halves: 0, slow: true };

    fn window() -> FailureWindow {
        FailureWindow::new(Duration::from_secs(30))
    }

    #[test]
    fn an_overload_is_a_whole_call_and_half_a_failure() {
        let mut w = window();
        for sample in [OVERLOAD, OVERLOAD, FAILURE, SLOW] {
            w.record(Ts(SECOND), sample);
        }
        assert_eq!(w.rates(Ts(SECOND)), Rates { calls: 4, failure_rate: 0.5, slow_rate: 0.25 });
    }

    #[test]
    fn samples_leave_the_window_with_their_bucket() {
        let mut w = window();
        w.record(Ts(100 * SECOND), FAILURE);
        assert_eq!(w.rates(Ts(130 * SECOND - 1)).calls, 1);
        assert_eq!(w.rates(Ts(130 * SECOND)), Rates::default());
        w.record(Ts(1000 * SECOND), SLOW);
        assert_eq!(w.rates(Ts(1000 * SECOND)), Rates { calls: 1, failure_rate: 0.0, slow_rate: 1.0 });
    }

    #[test]
    fn a_restored_window_has_aged_by_the_time_between() {
        let mut w = window();
        w.record(Ts(100 * SECOND), FAILURE);
        w.record(Ts(120 * SECOND), SLOW);
        let saved = w.checkpoint(Ts(121 * SECOND));
        let restore =
            |s| FailureWindow::restore(Duration::from_secs(30), &saved, Ts(5 * SECOND), Duration::from_secs(s));
        assert_eq!(restore(0).rates(Ts(5 * SECOND)).calls, 2);
        assert_eq!(restore(10).rates(Ts(5 * SECOND)).slow_rate, 1.0);
        assert_eq!(restore(40).rates(Ts(5 * SECOND)).calls, 0);
    }

    #[test]
    fn another_length_keeps_what_is_young_enough() {
        let mut w = window();
        w.record(Ts(100 * SECOND), FAILURE);
        w.record(Ts(120 * SECOND), SLOW);
        let now = Ts(121 * SECOND);
        assert_eq!(
            w.resized(Duration::from_secs(10), now).rates(now),
            Rates { calls: 1, failure_rate: 0.0, slow_rate: 1.0 }
        );
        assert_eq!(w.resized(Duration::from_secs(300), now).rates(now).calls, 2);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Record(u8, bool),
        Clear,
        Restart(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3 * SECOND).prop_map(Step::Wait),
            1 => (0..70 * SECOND).prop_map(Step::Wait),
            8 => (0..=2_u8, any::<bool>()).prop_map(|(h, s)| Step::Record(h, s)),
            1 => Just(Step::Clear),
        ]
    }

    fn step_or_restart() -> impl Strategy<Value = Step> {
        prop_oneof![20 => step(), 1 => (0..20 * SECOND).prop_map(Step::Restart)]
    }

    /// Rates of plain samples `(age, halves, slow)` that are younger than `limit`.
    fn naive(samples: &[(u64, u8, bool)], now: u64, limit: u64) -> (u32, u32, u32) {
        samples
            .iter()
            .filter(|(at, ..)| now - at < limit)
            .fold((0, 0, 0), |sum, (_, halves, slow)| (sum.0 + 1, sum.1 + u32::from(*halves), sum.2 + u32::from(*slow)))
    }

    proptest! {
        /// With every sample at a bucket's start the window is exactly the list of samples younger than its length.
        #[test]
        fn equals_a_list_of_samples_on_bucket_boundaries(steps in prop::collection::vec(step(), 1..300)) {
            let mut w = window();
            let mut samples = Vec::new();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Wait(us) => now += us / SECOND * SECOND,
                    Step::Record(halves, slow) => {
                        w.record(Ts(now), Sample { failure_halves: halves, slow });
                        samples.push((now, halves, slow));
                    }
                    Step::Clear | Step::Restart(_) => { w.clear(); samples.clear(); }
                }
                let (calls, halves, slow) = naive(&samples, now, 30 * SECOND);
                let rates = w.rates(Ts(now));
                prop_assert_eq!(rates.calls, calls);
                let of = |n: f64| if calls == 0 { 0.0 } else { n / f64::from(calls) };
                prop_assert!((rates.failure_rate - of(f64::from(halves) / 2.0)).abs() < 1e-12);
                prop_assert!((rates.slow_rate - of(f64::from(slow))).abs() < 1e-12);
            }
        }

        /// Wherever samples lie, and over restarts with a new origin of time, the count is between the one of 29 thirtieths
        /// and the one of the whole length (a restart may cost one more bucket on either side).
        #[test]
        fn never_forgets_early_nor_remembers_long(steps in prop::collection::vec(step_or_restart(), 1..300)) {
            let mut w = window();
            let mut samples = Vec::new();
            let (mut now, mut offset, mut slack) = (0_u64, 0_u64, 0_u64);
            for step in steps {
                match step {
                    Step::Wait(us) => now += us,
                    Step::Record(halves, slow) => {
                        w.record(Ts(now - offset), Sample { failure_halves: halves, slow });
                        samples.push((now, halves, slow));
                    }
                    Step::Clear => { w.clear(); samples.clear(); }
                    Step::Restart(us) => {
                        let saved = w.checkpoint(Ts(now - offset));
                        now += us;
                        offset = now;
                        slack += SECOND;
                        w = FailureWindow::restore(Duration::from_secs(30), &saved, Ts(0), Duration::from_micros(us));
                    }
                }
                let calls = w.rates(Ts(now - offset)).calls;
                let least = naive(&samples, now, (29 * SECOND).saturating_sub(slack)).0;
                let most = naive(&samples, now, 30 * SECOND + slack).0;
                prop_assert!(least <= calls && calls <= most, "{least} <= {calls} <= {most}");
            }
        }
    }
}
