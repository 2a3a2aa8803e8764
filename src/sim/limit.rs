//! The simulated provider's own rate limit: a bucket of requests that refills evenly over the minute.
//!
//! It holds ten seconds' worth, at least one. Pure: time is an argument.

use crate::domain::time::{Ts, micros};
use std::time::Duration;

/// Micro-requests: one request is a million.
const ONE: u64 = 1_000_000;

#[derive(Debug)]
pub(super) struct Limiter {
    per_minute: u32,
    capacity: u64,
    level: u64,
    at: Ts,
}

/// What the limiter says to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub limit: u32,
    /// Whole requests left after this one.
    pub remaining: u64,
    /// Until the bucket is full.
    pub reset: Duration,
    /// Until the next request is let in, if this one is not.
    pub refused_for: Option<Duration>,
}

impl Limiter {
    pub(super) fn new(per_minute: u32, now: Ts) -> Self {
        let capacity = (u64::from(per_minute) * ONE / 6).max(ONE);
        Self { per_minute: per_minute.max(1), capacity, level: capacity, at: now }
    }

    /// Takes one request, if there is one.
    pub(super) fn take(&mut self, now: Ts) -> Standing {
        // per_minute requests in 60 s are per_minute / 60 micro-requests in a microsecond.
        let gained = micros(now.since(self.at)).saturating_mul(u64::from(self.per_minute)) / 60;
        if gained > 0 {
            self.level = self.level.saturating_add(gained).min(self.capacity);
            self.at = now;
        }
        let let_in = self.level >= ONE;
        if let_in {
            self.level -= ONE;
        }
        Standing {
            limit: self.per_minute,
            remaining: self.level / ONE,
            reset: self.time_for(self.capacity - self.level),
            refused_for: (!let_in).then(|| self.time_for(ONE - self.level)),
        }
    }

    fn time_for(&self, amount: u64) -> Duration {
        Duration::from_micros((amount.saturating_mul(60)).div_ceil(u64::from(self.per_minute)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_in_what_the_rate_allows_and_says_when_next() {
        let mut limiter = Limiter::new(60, Ts(0));
        let first: Vec<bool> = (0..12).map(|_| limiter.take(Ts(0)).refused_for.is_none()).collect();
        assert_eq!(first.iter().filter(|ok| **ok).count(), 10);
        let refused = limiter.take(Ts(250_000));
        assert_eq!(refused.refused_for, Some(Duration::from_millis(750)));
        assert_eq!(limiter.take(Ts(999_999)).refused_for, Some(Duration::from_micros(1)));
        assert_eq!(limiter.take(Ts(1_000_000)).refused_for, None);
    }

    #[test]
    fn three_minutes_under_pressure_let_in_no_more_than_the_rate() {
        let mut limiter = Limiter::new(60, Ts(0));
        let let_in = (0..1_800).filter(|i| limiter.take(Ts(i * 100_000)).refused_for.is_none()).count();
        assert!((180..=190).contains(&let_in), "{let_in}");
    }
}
