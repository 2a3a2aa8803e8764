//! What a 429 teaches: how long to stay away, and which rate the upstream really allows.
//!
//! - Without a usable `Retry-After` the pause is 1 s, doubled with each further 429, at most 60 s. A success that was asked
//!   for after the last 429 starts it anew.
//! - The rate falls to 0.7 of what it was and comes back along a cubic: quickly at first, flat around the rate that was
//!   refused (reached 30 s after the pause), then ever faster. Reaching the configured limit ends it.
//! - Without a configured limit the rate is the one observed over the last 10 s, provided that it was a request a second:
//!   fewer say nothing about a rate. Having grown to four times what was refused ends it.
//! - 429s that come in while a pause is running answer requests of before it: they teach nothing new. The gate sees to that.
//!
//! It enforces nothing; the gate does.

use crate::domain::time::{Ts, Wall};
use serde::{Deserialize, Serialize};
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);
const BETA: f64 = 0.7;
/// Time from the end of the pause to the rate that was refused.
const PLATEAU_SECONDS: f64 = 30.0;
/// Growth over the refused rate at which an unconfigured limit is forgotten.
const FORGET_AT: f64 = 4.0;
/// Fewest requests in the observed 10 s to learn a rate from.
const ENOUGH: u32 = 10;
const OBSERVED_SECONDS: usize = 10;
const SECOND: u64 = 1_000_000;

/// The rate that was refused, and since when it recovers.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Learnt {
    /// Requests per minute when the last 429 came.
    refused: f64,
    recovers_from: Ts,
}

/// One endpoint's experience with 429.
#[derive(Clone, Debug)]
pub struct RateLearner {
    /// Admissions per second; second `n` lies at `n mod 10`.
    admitted: [u32; OBSERVED_SECONDS],
    newest_second: u64,
    /// 429s since the last success.
    pauses: u32,
    limited_at: Ts,
    learnt: Option<Learnt>,
}

/// A learner on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LearnerCheckpoint {
    pub pauses: u32,
    pub learnt: Option<LearntCheckpoint>,
}

/// A learnt rate on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LearntCheckpoint {
    /// Requests per minute when the last 429 came.
    pub refused_rpm: f64,
    /// When the rate begins, or began, to recover.
    pub recovers_from: Wall,
}

impl RateLearner {
    #[must_use]
    pub fn new(now: Ts) -> Self {
        Self {
            admitted: [0; OBSERVED_SECONDS],
            newest_second: now.0 / SECOND,
            pauses: 0,
            limited_at: Ts(0),
            learnt: None,
        }
    }

    /// Counts an admission for the observed rate.
    pub fn on_admitted(&mut self, now: Ts) {
        let second = now.0 / SECOND;
        if second > self.newest_second {
            self.age(second);
        }
        if let Some(slot) = self.admitted.get_mut(slot(self.newest_second)) {
            *slot = slot.saturating_add(1);
        }
    }

    /// Takes in a success of a request that was admitted at `admitted_at`.
    pub fn on_success(&mut self, admitted_at: Ts) {
        if self.pauses > 0 && admitted_at > self.limited_at {
            self.pauses = 0;
        }
    }

    /// How long to stay away if the upstream doesn't say.
    #[must_use]
    pub fn default_pause(&self) -> Duration {
        FIRST_PAUSE.saturating_mul(1_u32.checked_shl(self.pauses).unwrap_or(u32::MAX)).min(MAX_PAUSE)
    }

    /// Takes in a 429 that ends in a pause until `resume_at`.
    pub fn on_rate_limited(&mut self, now: Ts, resume_at: Ts, configured: Option<u64>) {
        let current = self.limit(now, configured).or(configured.map(|n| n as f64)).or_else(|| self.observed(now));
        if let Some(refused) = current {
            // The lowest useful rate is one request a minute.
            self.learnt = Some(Learnt { refused: refused.max(1.0 / BETA), recovers_from: resume_at });
        }
        self.pauses = self.pauses.saturating_add(1);
        self.limited_at = now;
    }

    /// Moves the recovery's begin, because the pause became longer.
    pub fn on_pause_extended(&mut self, resume_at: Ts) {
        if let Some(learnt) = &mut self.learnt {
            learnt.recovers_from = learnt.recovers_from.max(resume_at);
        }
    }

    /// The learnt limit in requests per minute, under the configured one; `None` when nothing is learnt or it is outgrown.
    #[must_use]
    pub fn limit(&self, now: Ts, configured: Option<u64>) -> Option<f64> {
        let learnt = self.learnt?;
        let x = now.since(learnt.recovers_from).as_secs_f64() / PLATEAU_SECONDS - 1.0;
        let limit = learnt.refused * (1.0 + (1.0 - BETA) * x * x * x);
        let end = configured.map_or(learnt.refused * FORGET_AT, |n| n as f64);
        (limit < end).then_some(limit)
    }

    #[must_use]
    pub fn has_learnt(&self) -> bool {
        self.learnt.is_some()
    }

    /// Drops the learnt rate.
    pub fn forget(&mut self) {
        self.learnt = None;
    }

    #[must_use]
    pub fn checkpoint(&self, now: Ts, wall: Wall) -> LearnerCheckpoint {
        let learnt = self.learnt.map(|learnt| LearntCheckpoint {
            refused_rpm: learnt.refused,
            recovers_from: wall.plus(learnt.recovers_from.since(now)).minus(now.since(learnt.recovers_from)),
        });
        LearnerCheckpoint { pauses: self.pauses, learnt }
    }

    /// The learner of a checkpoint made at `at`; observed rates start from nothing.
    #[must_use]
    pub fn restore(from: &LearnerCheckpoint, at: Wall, now: Ts, wall: Wall) -> Self {
        let learnt = from.learnt.as_ref().filter(|l| l.refused_rpm.is_finite()).map(|saved| {
            let remaining = saved.recovers_from.since(wall).min(saved.recovers_from.since(at));
            let begun = wall.since(saved.recovers_from);
            Learnt { refused: saved.refused_rpm.max(1.0 / BETA), recovers_from: now.plus(remaining).minus(begun) }
        });
        Self { pauses: from.pauses, limited_at: now, learnt, ..Self::new(now) }
    }

    /// Admissions of the last 10 s as requests per minute, if they are enough to mean something.
    fn observed(&self, now: Ts) -> Option<f64> {
        let mut recent = self.clone();
        recent.age((now.0 / SECOND).max(self.newest_second));
        let count = recent.admitted.iter().fold(0_u32, |sum, n| sum.saturating_add(*n));
        (count >= ENOUGH).then(|| f64::from(count) * 60.0 / OBSERVED_SECONDS as f64)
    }

    fn age(&mut self, second: u64) {
        let passed = second.saturating_sub(self.newest_second).min(OBSERVED_SECONDS as u64);
        for n in 1..=passed {
            if let Some(slot) = self.admitted.get_mut(slot(self.newest_second + n)) {
                *slot = 0;
            }
        }
        self.newest_second = second;
    }
}

fn slot(second: u64) -> usize {
    (second % OBSERVED_SECONDS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Ts {
        Ts(seconds * SECOND)
    }

    #[test]
    fn pauses_double_to_a_minute_and_start_anew_after_a_success() {
        let mut learner = RateLearner::new(at(0));
        let mut waits = Vec::new();
        for n in 1..=8 {
            waits.push(learner.default_pause().as_secs());
            learner.on_rate_limited(at(n * 100), at(n * 100 + 1), None);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        learner.on_success(at(800));
        assert_eq!(learner.default_pause().as_secs(), 60, "it was asked for before the last 429 came");
        learner.on_success(at(801));
        assert_eq!(learner.default_pause().as_secs(), 1);
        for n in 0..100 {
            learner.on_rate_limited(at(n), at(n), None);
        }
        assert_eq!(learner.default_pause().as_secs(), 60);
    }

    #[test]
    fn a_configured_limit_falls_and_recovers_along_a_cubic() {
        let mut learner = RateLearner::new(at(0));
        learner.on_rate_limited(at(100), at(107), Some(1000));
        let limit = |s| learner.limit(at(s), Some(1000)).map(f64::round);
        assert_eq!(limit(100), Some(700.0));
        assert_eq!(limit(107), Some(700.0));
        assert_eq!(limit(122), Some(963.0));
        assert_eq!(limit(136), Some(1000.0));
        assert_eq!(limit(137), None, "the configured limit is reached");
    }

    #[test]
    fn a_second_429_starts_from_the_learnt_rate() {
        let mut learner = RateLearner::new(at(0));
        learner.on_rate_limited(at(100), at(101), Some(1000));
        learner.on_rate_limited(at(101), at(102), Some(1000));
        assert_eq!(learner.limit(at(102), Some(1000)).map(f64::round), Some(490.0));
        assert_eq!(learner.limit(at(132), Some(1000)).map(f64::round), Some(700.0));
        assert!(learner.limit(at(152), Some(1000)).is_some());
        assert_eq!(learner.limit(at(182), Some(1000)), None);
    }

    #[test]
    fn without_a_configured_limit_the_observed_rate_counts() {
        let mut learner = RateLearner::new(at(0));
        for n in 0..9 {
            learner.on_admitted(Ts(at(50).0 + n));
        }
        learner.on_rate_limited(at(51), at(52), None);
        assert!(!learner.has_learnt(), "nine requests say nothing about a rate");
        for n in 0..20 {
            learner.on_admitted(Ts(at(60).0 + n * SECOND / 4));
        }
        learner.on_rate_limited(at(66), at(67), None);
        assert_eq!(learner.limit(at(67), None).map(f64::round), Some(84.0));
        assert_eq!(learner.limit(at(97), None).map(f64::round), Some(120.0));
        assert!(learner.limit(at(160), None).is_some());
        assert_eq!(learner.limit(at(163), None), None, "outgrown");
    }

    #[test]
    fn what_was_admitted_over_ten_seconds_ago_is_not_observed() {
        let mut learner = RateLearner::new(at(0));
        for _ in 0..100 {
            learner.on_admitted(at(50));
        }
        assert_eq!(learner.observed(at(59)), Some(600.0));
        assert_eq!(learner.observed(at(60)), None);
    }

    #[test]
    fn a_restart_keeps_the_rate_and_its_recovery() {
        let mut learner = RateLearner::new(at(0));
        learner.on_rate_limited(at(100), at(110), Some(1000));
        let wall = Wall(1_000_000_000_000);
        let saved = learner.checkpoint(at(105), wall);
        let restored = |now, later| RateLearner::restore(&saved, wall, now, later);
        let later = restored(at(1000), wall.plus(Duration::from_secs(15)));
        assert_eq!(later.default_pause(), learner.default_pause());
        assert_eq!(later.limit(at(1000), Some(1000)), learner.limit(at(120), Some(1000)));
        let set_back = restored(at(1000), wall.minus(Duration::from_secs(900)));
        assert_eq!(set_back.limit(at(1015), Some(1000)), learner.limit(at(120), Some(1000)), "5 s remained, not 905");
    }
}
