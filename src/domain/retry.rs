//! Trying again: the pause before it, and the fleet-wide budget that keeps retries from becoming a storm.
//!
//! Full jitter spreads callers best ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015). The budget is Finagle's idea:
//! extra attempts are a share of recent requests plus a small constant rate, so that a brown-out is ridden out and an outage is not
//! multiplied.

use crate::domain::settings::{RetryBudgetSettings, RetrySettings};
use crate::domain::time::{Ts, micros};
use std::time::Duration;

/// The pause before pass `pass` (1 = the second pass): uniform between nothing and `backoff` × 2ᵖᵃˢˢ⁻¹, at most `max_backoff`.
/// `roll` is in 0..1.
#[must_use]
pub fn backoff(settings: &RetrySettings, pass: u32, roll: f64) -> Duration {
    let doubled = settings.backoff.saturating_mul(1_u32.checked_shl(pass.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(settings.max_backoff).mul_f64(roll.clamp(0.0, 1.0))
}

const SLOTS: usize = 10;

/// Extra attempts allowed across all requests: `ratio` × the requests of the last window + `min_per_second` × the window.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    settings: RetryBudgetSettings,
    slots: [Slot; SLOTS],
    slot_us: u64,
    newest: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    requests: u32,
    spent: u32,
}

impl RetryBudget {
    #[must_use]
    pub fn new(settings: RetryBudgetSettings, now: Ts) -> Self {
        let slot_us = (micros(settings.window) / SLOTS as u64).max(1);
        Self { settings, slots: [Slot::default(); SLOTS], slot_us, newest: now.0 / slot_us }
    }

    /// A request has come in.
    pub fn deposit(&mut self, now: Ts) {
        let slot = self.current(now);
        slot.requests = slot.requests.saturating_add(1);
    }

    /// Takes `cost` for an extra attempt, if that much is left.
    pub fn try_spend(&mut self, now: Ts, cost: u32) -> bool {
        if self.left(now) < f64::from(cost) {
            return false;
        }
        let slot = self.current(now);
        slot.spent = slot.spent.saturating_add(cost);
        true
    }

    /// What is left, in extra attempts.
    pub fn left(&mut self, now: Ts) -> f64 {
        self.current(now);
        let (allowed, spent) = self.allowed_and_spent();
        allowed - spent
    }

    /// Whether more than half of it is left: what hedges need, which mend nothing that is broken.
    pub fn is_over_half(&mut self, now: Ts) -> bool {
        self.current(now);
        let (allowed, spent) = self.allowed_and_spent();
        spent < allowed / 2.0
    }

    fn allowed_and_spent(&self) -> (f64, f64) {
        let (requests, spent) = self
            .slots
            .iter()
            .fold((0.0, 0.0), |(r, s), slot| (r + f64::from(slot.requests), s + f64::from(slot.spent)));
        let floor = self.settings.min_per_second * self.settings.window.as_secs_f64();
        (self.settings.ratio * requests + floor, spent)
    }

    fn current(&mut self, now: Ts) -> &mut Slot {
        let index = now.0 / self.slot_us;
        let steps = index.saturating_sub(self.newest).min(SLOTS as u64);
        for step in 1..=steps {
            self.slots[((self.newest + step) % SLOTS as u64) as usize] = Slot::default();
        }
        // After a gap longer than the window every slot was cleared, wherever the ring now stands.
        self.newest = self.newest.max(index);
        &mut self.slots[(self.newest % SLOTS as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pauses_double_up_to_the_most_and_jitter_fully() {
        let s = RetrySettings { max_attempts: 9, backoff: Duration::from_secs(1), max_backoff: Duration::from_secs(8) };
        let most: Vec<_> = (1..=6).map(|pass| backoff(&s, pass, 1.0).as_secs()).collect();
        assert_eq!(most, [1, 2, 4, 8, 8, 8]);
        assert_eq!(backoff(&s, 3, 0.0), Duration::ZERO);
        assert_eq!(backoff(&s, 80, 0.5), Duration::from_secs(4));
    }

    #[test]
    fn half_of_it_is_left_until_half_is_spent() {
        let mut budget = RetryBudget::new(RetryBudgetSettings::default(), Ts(0));
        for spent in 0..50 {
            assert_eq!(budget.is_over_half(Ts(1)), spent < 25, "{spent} of 50");
            assert!(budget.try_spend(Ts(1), 1));
        }
    }

    proptest! {
        #[test]
        fn the_budget_is_never_overspent(
            events in proptest::collection::vec((0_u64..400_000, any::<bool>(), 1_u32..3), 1..600)
        ) {
            let settings = RetryBudgetSettings::default();
            let mut budget = RetryBudget::new(settings, Ts(7));
            let (mut now, mut log) = (Ts(7), Vec::new());
            for (gap, is_request, cost) in events {
                now = Ts(now.0 + gap);
                if is_request {
                    budget.deposit(now);
                    log.push((now, 1.0, 0.0));
                } else if budget.try_spend(now, cost) {
                    log.push((now, 0.0, f64::from(cost)));
                }
                // Whatever the slots' edges: over the last nine slots' time, spending stays within the whole window's allowance.
                let window = Duration::from_secs(9);
                let spent: f64 = log.iter().filter(|(t, ..)| now.since(*t) < window).map(|(_, _, s)| s).sum();
                let requests: f64 = log.iter().filter(|(t, ..)| now.since(*t) < Duration::from_secs(19)).map(|(_, r, _)| r).sum();
                prop_assert!(spent <= 0.4 * requests + 50.0 + 1e-9);
            }
        }

        #[test]
        fn idle_time_restores_the_floor(spends in 0_u32..100, gap in 10_000_000_u64..100_000_000) {
            let mut budget = RetryBudget::new(RetryBudgetSettings::default(), Ts(0));
            for _ in 0..spends { budget.try_spend(Ts(5), 1); }
            prop_assert!((budget.left(Ts(5 + gap)) - 50.0).abs() < 1e-9);
        }
    }

    proptest! {
        /// Over long histories what may be spent is what a list of all that happened says: requests and costs of the present tenth
        /// of the window and the nine before it.
        #[test]
        fn the_budget_is_the_plain_models(
            ratio in 0.0_f64..1.0,
            per_second in 0.0_f64..4.0,
            moves in prop::collection::vec((0_u64..2_500_000, prop::option::of(1_u32..4)), 1..300),
        ) {
            let window = Duration::from_secs(10);
            let settings = RetryBudgetSettings { ratio, min_per_second: per_second, window };
            let mut budget = RetryBudget::new(settings, Ts(0));
            let (mut now, mut diary) = (0_u64, Vec::<(u64, u32)>::new());
            for (later, cost) in moves {
                now += later;
                let second = now / 1_000_000;
                let recent = || diary.iter().filter(|(at, _)| at + 10 > second);
                let requests = recent().filter(|(_, cost)| *cost == 0).count() as f64;
                let spent: f64 = recent().map(|(_, cost)| f64::from(*cost)).sum();
                let left = ratio * requests + per_second * 10.0 - spent;
                prop_assert!((budget.left(Ts(now)) - left).abs() < 1e-6, "{} for {left}", budget.left(Ts(now)));
                match cost {
                    None => {
                        budget.deposit(Ts(now));
                        diary.push((second, 0));
                    }
                    Some(cost) => {
                        let may = budget.try_spend(Ts(now), cost);
                        prop_assert!(may == (left >= f64::from(cost)) || (left - f64::from(cost)).abs() < 1e-6);
                        if may {
                            diary.push((second, cost));
                        }
                    }
                }
            }
        }
    }
}
