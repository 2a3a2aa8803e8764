//! The simulator's chance and time: rolls, latency distributions and outage schedules.
//!
//! A roll is a pure function of (seed, number of the request, what it is for). So two runs with one seed and the same
//! order of requests are the same run, whatever was injected or changed in between, and no generator is shared.

use crate::domain::time::Ts;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a roll is for; faults use their place in the list.
pub(super) mod salt {
    pub const LATENCY: u64 = 1 << 32;
    pub const LATENCY_TAIL: u64 = 2 << 32;
    pub const OUTAGE: u64 = 3 << 32;
}

/// Longest wait that anything here yields: keeps a careless profile from overflowing timers.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

fn mix(mut x: u64) -> u64 {
    // The finaliser of splitmix64.
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A number in 0..1 that depends on nothing but its arguments.
#[allow(clippy::cast_precision_loss, reason = "53 bits are what an f64 holds")]
pub(super) fn roll(seed: u64, n: u64, salt: u64) -> f64 {
    let bits = mix(mix(mix(seed) ^ n) ^ salt);
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// Milliseconds as a duration; negative, absurd and NaN become 0 or a day.
pub(super) fn millis(ms: f64) -> Duration {
    if ms.is_nan() || ms <= 0.0 {
        return Duration::ZERO;
    }
    Duration::from_secs_f64((ms / 1000.0).min(LONGEST.as_secs_f64()))
}

pub use crate::domain::spread::Latency;

impl Latency {
    /// The time for request `n`.
    #[must_use]
    pub fn sample(&self, seed: u64, n: u64) -> Duration {
        let rolls = [salt::LATENCY, salt::LATENCY + 1, salt::LATENCY_TAIL].map(|salt| roll(seed, n, salt));
        millis(self.sample_ms(rolls))
    }
}

/// When a provider is down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "schedule", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Up and down in turn for exponentially spread times, drawn from the profile's seed.
    Random { up_mean_ms: u64, down_mean_ms: u64 },
    /// Down at these times after the start, in order.
    Windows { windows: Vec<Window> },
}

/// One outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    pub from_ms: u64,
    pub for_ms: u64,
}

/// Walks a schedule forward in time.
#[derive(Debug)]
pub struct OutageClock {
    schedule: Schedule,
    seed: u64,
    /// When the present phase ends; none: never.
    until: Option<Ts>,
    /// Number of the present phase: even ones are up, odd ones down.
    phase: u64,
    start: Ts,
}

impl OutageClock {
    /// From `start`, up at first.
    #[must_use]
    pub fn new(schedule: Schedule, seed: u64, start: Ts) -> Self {
        let mut clock = Self { schedule, seed, until: None, phase: 0, start };
        clock.until = clock.end_of_phase(start);
        clock
    }

    /// Whether the provider is down now, and when that next changes.
    pub fn at(&mut self, now: Ts) -> (bool, Option<Ts>) {
        while let Some(until) = self.until.filter(|until| *until <= now) {
            self.phase += 1;
            self.until = self.end_of_phase(until);
        }
        (self.phase % 2 == 1, self.until)
    }

    fn end_of_phase(&self, begin: Ts) -> Option<Ts> {
        match &self.schedule {
            Schedule::Random { up_mean_ms, down_mean_ms } => {
                let mean = if self.phase.is_multiple_of(2) { *up_mean_ms } else { *down_mean_ms };
                let spread = -(1.0 - roll(self.seed, self.phase, salt::OUTAGE)).ln();
                // At least a millisecond, so that the walk gets on.
                let length = Duration::from_millis(mean).mul_f64(spread).clamp(Duration::from_millis(1), LONGEST);
                Some(begin.plus(length))
            }
            Schedule::Windows { windows } => {
                let window = windows.get(usize::try_from(self.phase / 2).unwrap_or(usize::MAX))?;
                let from = self.start.plus(Duration::from_millis(window.from_ms));
                Some(if self.phase.is_multiple_of(2) { from } else { from.plus(Duration::from_millis(window.for_ms)) })
            }
        }
    }
}

impl Schedule {
    /// What is wrong with the numbers, if anything.
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self::Random { up_mean_ms, down_mean_ms } => {
                if (1..=86_400_000).contains(up_mean_ms) && (1..=86_400_000).contains(down_mean_ms) {
                    Ok(())
                } else {
                    Err("up_mean_ms and down_mean_ms must be between 1 and a day".to_owned())
                }
            }
            Self::Windows { windows } => {
                let mut end = 0;
                for window in windows {
                    if window.from_ms < end {
                        return Err(format!(
                            "windows: the one from {} begins before the last has ended",
                            window.from_ms
                        ));
                    }
                    end = window.from_ms.saturating_add(window.for_ms);
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rolls_are_even_and_repeat() {
        let sum: f64 = (0..10_000).map(|n| roll(7, n, 0)).sum();
        assert!((sum / 10_000.0 - 0.5).abs() < 0.02, "mean {}", sum / 10_000.0);
        assert_eq!(roll(7, 3, 1).to_bits(), roll(7, 3, 1).to_bits());
        assert_ne!(roll(7, 3, 1).to_bits(), roll(8, 3, 1).to_bits());
        assert_ne!(roll(7, 3, 1).to_bits(), roll(7, 4, 1).to_bits());
        assert_ne!(roll(7, 3, 1).to_bits(), roll(7, 3, 2).to_bits());
    }

    fn sorted(latency: &Latency) -> Vec<f64> {
        let mut all: Vec<f64> = (0..20_000).map(|n| latency.sample(1, n).as_secs_f64() * 1000.0).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    #[test]
    fn lognormal_goes_through_its_median_and_p99() {
        let all = sorted(&Latency::Lognormal { median_ms: 40.0, p99_ms: 200.0 });
        assert!((all[10_000] - 40.0).abs() < 2.0, "median {}", all[10_000]);
        assert!((all[19_800] - 200.0).abs() < 30.0, "p99 {}", all[19_800]);
    }

    #[test]
    fn bimodal_slows_its_share_down() {
        let all = sorted(&Latency::Bimodal { of: Box::new(Latency::fixed(10.0)), share: 0.1, factor: 5.0 });
        let slow = all.iter().filter(|ms| **ms > 40.0).count();
        assert!((1_800..2_200).contains(&slow), "{slow} of 20000");
        assert!((all[0] - 10.0).abs() < 1e-6 && (all[19_999] - 50.0).abs() < 1e-6);
    }

    #[test]
    fn uniform_stays_within_its_bounds() {
        let all = sorted(&Latency::Uniform { min_ms: 5.0, max_ms: 15.0 });
        assert!(all[0] >= 5.0 && all[19_999] <= 15.0);
        assert!(all[0] < 5.1 && all[19_999] > 14.9);
    }

    #[test]
    fn windows_come_in_order() {
        let windows = vec![Window { from_ms: 100, for_ms: 50 }, Window { from_ms: 200, for_ms: 10 }];
        let start = Ts(5_000);
        let at = |ms: u64| start.plus(Duration::from_millis(ms));
        let mut clock = OutageClock::new(Schedule::Windows { windows }, 0, start);
        assert_eq!(clock.at(at(0)), (false, Some(at(100))));
        assert_eq!(clock.at(at(120)), (true, Some(at(150))));
        assert_eq!(clock.at(at(150)), (false, Some(at(200))));
        assert_eq!(clock.at(at(205)), (true, Some(at(210))));
        assert_eq!(clock.at(at(9_000)), (false, None));
    }

    #[test]
    fn random_outages_have_about_their_share_and_repeat() {
        let schedule = Schedule::Random { up_mean_ms: 900, down_mean_ms: 100 };
        let walk = |seed| {
            let mut clock = OutageClock::new(schedule.clone(), seed, Ts(0));
            (0..200_000).map(|i| clock.at(Ts(i * 10_000)).0).collect::<Vec<_>>()
        };
        let one = walk(3);
        let down = one.iter().filter(|down| **down).count();
        assert!((17_000..23_000).contains(&down), "{down} of 200000 moments");
        assert!(one == walk(3) && one != walk(4));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Latency::fixed(f64::NAN).check().is_err());
        assert!(Latency::fixed(-1.0).check().is_err());
        assert!(Latency::Uniform { min_ms: 2.0, max_ms: 1.0 }.check().is_err());
        assert!(Latency::Lognormal { median_ms: 0.0, p99_ms: 1.0 }.check().is_err());
        assert!(Schedule::Random { up_mean_ms: 0, down_mean_ms: 1 }.check().is_err());
        let overlapping = vec![Window { from_ms: 0, for_ms: 50 }, Window { from_ms: 20, for_ms: 10 }];
        assert!(Schedule::Windows { windows: overlapping }.check().is_err());
    }
}
