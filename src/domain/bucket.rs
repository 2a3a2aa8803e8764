//! A token bucket: how much of a per-minute limit is left.
//!
//! - It holds ten seconds' worth of its limit, but at least what one request needs, and starts full.
//! - It refills lazily and exactly: the level is kept in sixtieths of a micro-token, so that every microsecond adds the limit
//!   itself, a whole number.
//! - What is taken in advance must be there, except that a request larger than the whole bucket may take a full one and leave
//!   it in debt: else it would starve for ever. Such a debt is as large as the request, so the rate holds over time.
//! - What is charged afterwards goes into debt too, but never below minus one capacity: a wrong estimate must not shut the
//!   endpoint for minutes.
//! - What the upstream says is left may lower the level, never raise it.
//!
//! It doesn't queue and knows no fairness; a refusal names the moment at which the same request would fit.

use crate::domain::time::Ts;

/// Level units per token: 60 s/min × 10⁶ µs/s.
const TOKEN: i64 = 60_000_000;
/// The limit's microseconds that a full bucket holds.
const BURST_US: i64 = 10_000_000;

/// One limit's bucket; counts are in tokens, or in requests where the limit is on those.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Also the level units that one microsecond adds.
    per_minute: i64,
    minimum: i64,
    capacity: i64,
    level: i64,
    refilled: Ts,
}

impl Bucket {
    /// A full bucket for `per_minute` (at least 1) that holds at least `minimum_capacity`.
    #[must_use]
    pub fn new(per_minute: u64, minimum_capacity: u64, now: Ts) -> Self {
        let mut bucket =
            Self { per_minute: 1, minimum: units(minimum_capacity), capacity: 0, level: i64::MAX, refilled: now };
        bucket.set_rate(per_minute);
        bucket
    }

    /// The limit, per minute.
    #[must_use]
    pub fn per_minute(&self) -> u64 {
        self.per_minute.unsigned_abs()
    }

    /// Whether `n` can be taken now.
    ///
    /// # Errors
    /// The moment at which it can, if nobody else takes anything.
    pub fn check(&self, now: Ts, n: u64) -> Result<(), Ts> {
        let missing = units(n).min(self.capacity).saturating_sub(self.level_at(now));
        if missing <= 0 {
            return Ok(());
        }
        // Counted from the later of both, because refilling never goes back in time.
        let from = now.max(self.refilled);
        let wait = missing.unsigned_abs().div_ceil(self.per_minute.unsigned_abs());
        Err(Ts(from.0.saturating_add(wait)))
    }

    /// Takes `n`, or nothing.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn try_take(&mut self, now: Ts, n: u64) -> Result<(), Ts> {
        self.check(now, n)?;
        self.take(now, n);
        Ok(())
    }

    /// Takes `n` that [`Self::check`] has allowed at the same `now`.
    pub(super) fn take(&mut self, now: Ts, n: u64) {
        self.refill(now);
        self.level = self.level.saturating_sub(units(n));
    }

    /// Returns what was taken and not used.
    pub fn give_back(&mut self, n: u64) {
        self.level = self.level.saturating_add(units(n)).min(self.capacity);
    }

    /// Takes what was used beyond the reservation, at most down to a debt of one capacity.
    pub fn charge(&mut self, now: Ts, n: u64) {
        self.refill(now);
        let floor = self.level.min(-self.capacity);
        self.level = self.level.saturating_sub(units(n)).max(floor);
    }

    /// Whole tokens that are left; negative in debt.
    #[must_use]
    pub fn available(&self, now: Ts) -> i64 {
        self.level_at(now).div_euclid(TOKEN)
    }

    /// Lowers what is left to `n`; does nothing if it is less already.
    pub fn lower_to(&mut self, now: Ts, n: u64) {
        self.refill(now);
        self.level = self.level.min(units(n));
    }

    /// Changes the limit (at least 1); what is left stays, as far as the new capacity holds it.
    pub fn set_rate(&mut self, per_minute: u64) {
        self.per_minute = i64::try_from(per_minute.max(1)).unwrap_or(i64::MAX);
        self.capacity = self.per_minute.saturating_mul(BURST_US).max(self.minimum).max(TOKEN);
        self.level = self.level.min(self.capacity);
    }

    fn refill(&mut self, now: Ts) {
        self.level = self.level_at(now);
        self.refilled = self.refilled.max(now);
    }

    fn level_at(&self, now: Ts) -> i64 {
        let elapsed = i64::try_from(now.0.saturating_sub(self.refilled.0)).unwrap_or(i64::MAX);
        self.level.saturating_add(elapsed.saturating_mul(self.per_minute)).min(self.capacity)
    }
}

fn units(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX).saturating_mul(TOKEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000;
    const T0: Ts = Ts(1_000 * SECOND);

    fn at(seconds: u64) -> Ts {
        Ts(T0.0 + seconds * SECOND)
    }

    #[test]
    fn holds_ten_seconds_of_its_limit() {
        let mut b = Bucket::new(60, 1, T0);
        let taken = (0..100).filter(|_| b.try_take(T0, 1).is_ok()).count();
        assert_eq!(taken, 10);
        assert_eq!(b.try_take(T0, 1), Err(at(1)));
        assert_eq!(b.try_take(at(1), 1), Ok(()));
    }

    #[test]
    fn sixty_a_minute_under_ten_times_the_load_for_three_minutes_grants_190() {
        let mut b = Bucket::new(60, 1, T0);
        let granted = (0..1800).filter(|i| b.try_take(Ts(T0.0 + i * SECOND / 10), 1).is_ok()).count();
        assert!((189..=190).contains(&granted), "{granted}");
    }

    #[test]
    fn a_small_limit_still_admits_one_request() {
        let mut b = Bucket::new(1, 1, T0);
        assert_eq!(b.try_take(T0, 1), Ok(()));
        assert_eq!(b.try_take(T0, 1), Err(at(60)));
        assert_eq!(b.try_take(at(60), 1), Ok(()));
    }

    #[test]
    fn a_request_larger_than_the_bucket_takes_a_full_one_and_pays_for_it() {
        let mut b = Bucket::new(600, 1, T0);
        assert_eq!(b.try_take(T0, 1000), Ok(()));
        assert_eq!(b.available(T0), -900);
        assert_eq!(b.try_take(T0, 1), Err(Ts(T0.0 + 90 * SECOND + SECOND / 10)));
        assert_eq!(b.try_take(at(50), 1000), Err(at(100)));
        assert_eq!(b.try_take(at(100), 1000), Ok(()));
    }

    #[test]
    fn charges_go_into_debt_down_to_one_capacity() {
        let mut b = Bucket::new(600, 1, T0);
        b.charge(T0, 150);
        assert_eq!(b.available(T0), -50);
        b.charge(T0, 1_000_000);
        assert_eq!(b.available(T0), -100);
        let mut deep = Bucket::new(600, 1, T0);
        assert_eq!(deep.try_take(T0, 1000), Ok(()));
        deep.charge(T0, 10);
        assert_eq!(deep.available(T0), -900, "a charge forgives no debt of a reservation");
    }

    #[test]
    fn the_upstream_may_lower_the_level_never_raise_it() {
        let mut b = Bucket::new(600, 1, T0);
        b.lower_to(T0, 30);
        b.lower_to(T0, 70);
        assert_eq!(b.available(T0), 30);
        b.give_back(1000);
        assert_eq!(b.available(T0), 100, "a refund never goes over the capacity");
    }

    #[test]
    fn a_new_rate_clips_the_level() {
        let mut b = Bucket::new(600, 1, T0);
        b.set_rate(60);
        assert_eq!(b.available(T0), 10);
        b.set_rate(600);
        assert_eq!((b.available(T0), b.available(at(3))), (10, 40));
    }

    #[test]
    fn the_largest_numbers_saturate() {
        let mut b = Bucket::new(u64::MAX, u64::MAX, T0);
        assert_eq!(b.try_take(T0, u64::MAX), Ok(()));
        b.charge(Ts(u64::MAX), u64::MAX);
        b.give_back(u64::MAX);
        assert!(b.check(Ts(u64::MAX), 1).is_ok());
    }

    proptest! {
        /// Over any stretch of time no more is granted than the capacity, the refill, and the overdraft of one oversized
        /// request; a refusal's moment is true and the earliest one.
        #[test]
        fn never_grants_more_than_the_rate_and_never_starves(
            rate in 1_u64..100_000,
            asks in prop::collection::vec((0_u64..5 * SECOND, 0_u64..3_000), 1..200),
        ) {
            let mut b = Bucket::new(rate, 1, T0);
            let capacity = (rate as f64 / 6.0).max(1.0);
            let (mut now, mut granted, mut overdraft) = (T0, 0_u64, 0.0_f64);
            for (wait, n) in asks {
                now = Ts(now.0 + wait);
                match b.try_take(now, n) {
                    Ok(()) => { granted += n; overdraft = overdraft.max(n as f64 - capacity); }
                    Err(retry) => {
                        prop_assert!(retry > now);
                        prop_assert!(b.check(Ts(retry.0 - 1), n).is_err());
                        prop_assert!(b.check(retry, n).is_ok());
                    }
                }
                let refill = rate as f64 * (now.0 - T0.0) as f64 / 60e6;
                prop_assert!(granted as f64 <= capacity + refill + overdraft + 1e-6);
            }
        }

        /// Whatever is done to it, the level stays at or under the capacity, and time alone never lowers it.
        #[test]
        fn the_level_stays_in_bounds(ops in prop::collection::vec((0_u8..5, 0_u64..2_000, 0_u64..2 * SECOND), 1..200)) {
            let mut b = Bucket::new(600, 1, T0);
            let mut now = T0;
            for (op, n, wait) in ops {
                let before = b.available(now);
                now = Ts(now.0 + wait);
                prop_assert!(b.available(now) >= before);
                match op {
                    0 => { let _ = b.try_take(now, n); }
                    1 => b.give_back(n),
                    2 => b.charge(now, n),
                    3 => {
                        let before = b.available(now);
                        b.lower_to(now, n);
                        prop_assert!(b.available(now) <= before);
                    }
                    _ => b.set_rate(n.max(1)),
                }
                prop_assert!(b.available(now) <= i64::try_from(b.per_minute() / 6).unwrap().max(1));
            }
        }
    }

    /// One thing that was done to a bucket.
    #[derive(Clone, Copy, Debug)]
    enum Did {
        Took(u64),
        GaveBack(u64),
        Charged(u64),
        Lowered(u64),
    }

    /// What is left by the rules alone: everything that was ever done, gone through from the start, in exact fractions of a token.
    /// Units are 1 / 60,000,000 of a token; a microsecond brings as many of them as the limit is.
    fn plain_level(limit: u64, done: &[(Ts, Did)], now: Ts) -> i128 {
        const UNIT: i128 = 60_000_000;
        let capacity = (i128::from(limit) * 10_000_000).max(UNIT);
        let (mut level, mut seen) = (capacity, T0);
        let grown =
            |level: i128, from: Ts, to: Ts| (level + i128::from(to.0 - from.0) * i128::from(limit)).min(capacity);
        for (at, did) in done {
            let refilled = grown(level, seen, *at);
            level = match did {
                Did::Took(n) => refilled - i128::from(*n) * UNIT,
                Did::GaveBack(n) => (refilled + i128::from(*n) * UNIT).min(capacity),
                Did::Charged(n) => (refilled - i128::from(*n) * UNIT).max((-capacity).min(refilled)),
                Did::Lowered(n) => refilled.min(i128::from(*n) * UNIT),
            };
            seen = *at;
        }
        grown(level, seen, now)
    }

    proptest! {
        /// Over long histories the level, every grant and every refusal with its moment are those of the plain rules.
        #[test]
        fn it_is_the_plain_models(
            limit in 1_u64..5_000,
            asks in prop::collection::vec((0_u64..3 * SECOND, 0_u8..6, 0_u64..1_200), 1..150),
        ) {
            let mut b = Bucket::new(limit, 1, T0);
            let (mut now, mut done) = (T0, Vec::new());
            let needed = |n: u64| (i128::from(n) * 60_000_000).min((i128::from(limit) * 10_000_000).max(60_000_000));
            for (wait, what, n) in asks {
                now = Ts(now.0 + wait);
                match what {
                    0..=2 => {
                        let fits = plain_level(limit, &done, now) >= needed(n);
                        let got = b.try_take(now, n);
                        prop_assert_eq!(got.is_ok(), fits);
                        match got {
                            Ok(()) => done.push((now, Did::Took(n))),
                            Err(at) => {
                                prop_assert!(plain_level(limit, &done, at) >= needed(n), "true");
                                prop_assert!(plain_level(limit, &done, Ts(at.0 - 1)) < needed(n), "and the earliest");
                            }
                        }
                    }
                    3 => {
                        b.give_back(n);
                        done.push((now, Did::GaveBack(n)));
                    }
                    4 => {
                        b.charge(now, n);
                        done.push((now, Did::Charged(n)));
                    }
                    _ => {
                        b.lower_to(now, n);
                        done.push((now, Did::Lowered(n)));
                    }
                }
                prop_assert_eq!(i128::from(b.level_at(now)), plain_level(limit, &done, now));
            }
        }
    }
}
