//! Who answers in time: ranking by a deadline, or by a wish for the first token.
//!
//! An endpoint's histogram of the last minutes says which share of its answers came within a time; that share is taken as the
//! probability P that the next one does. [`order`] takes a strategy's ranking and puts
//! 1. the **cheapest** of those whose P reaches the target first, unpriced ones after all priced,
//! 2. then the others that reach it, in the strategy's order,
//! 3. then those that do not, the highest P first,
//! 4. last those whose gate would refuse now, in the strategy's order.
//!
//! - **Little known**: below [`KNOWN_FROM`] samples, P is mixed with a prior: the mean of the known, or [`PRIOR`] where none is.
//!   With the strategies' `explore` share of rankings such an endpoint counts as in time, so that it becomes known.
//! - **A lost cause**: where the time is the caller's deadline, every candidate is well known and none has a P of at least
//!   [`HOPELESS`], the request is better refused than paid for. The `explore` share is sent all the same, so that endpoints that
//!   have become faster are noticed. A wish is never a reason to refuse: a late first token is better than none.
//!
//! A streamed answer is in time with its first token, a whole one with its end: a wish for the first token says nothing about
//! whole answers. What is published of a histogram is a [`QuantileTable`], small enough to be copied under a lock.

use crate::domain::latency::LatencyRecorder;
use crate::domain::money::NanoUsd;
use crate::domain::time::{Ts, micros};
use std::cmp::Ordering;
use std::time::Duration;

/// The quantiles of a table.
const POINTS: [f64; 13] = [0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0];
const P50: usize = 4;
const P95: usize = 7;
const P99: usize = 9;
/// From so many samples on, the histogram alone decides.
pub const KNOWN_FROM: u32 = 20;
/// From so many samples on, an endpoint's slowness is a reason to refuse.
pub const CERTAIN_FROM: u32 = 100;
/// P of an endpoint of which nothing is known, where nothing is known of any.
pub const PRIOR: f32 = 0.5;
/// Below this P for all, a deadline is a lost cause.
pub const HOPELESS: f32 = 0.01;
pub const DEFAULT_TARGET: f32 = 0.95;

/// A histogram's quantiles at [`POINTS`], in µs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuantileTable {
    at_us: [u32; POINTS.len()],
    count: u32,
}

impl QuantileTable {
    #[must_use]
    pub fn of(recorder: &LatencyRecorder, now: Ts) -> Self {
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let aged = recorder.aged(now);
        let Some(found) = aged.quantiles(now, POINTS) else { return Self::default() };
        Self { at_us: found.map(small), count: small(aged.count(now)) }
    }

    /// Values behind it.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The median, the 95th and the 99th percentile, µs; `None` without values.
    #[must_use]
    pub fn usual(&self) -> Option<[u64; 3]> {
        (self.count > 0).then(|| [P50, P95, P99].map(|i| self.at_us[i].into()))
    }

    /// Share of values of at most `us`, linear between the points; 0 without values.
    #[must_use]
    pub fn share_within(&self, us: u64) -> f32 {
        if self.count == 0 {
            return 0.0;
        }
        let us = u32::try_from(us).unwrap_or(u32::MAX);
        let above = self.at_us.partition_point(|at| *at <= us);
        let (Some(below), Some(next)) = (above.checked_sub(1), self.at_us.get(above)) else {
            return if above == 0 { 0.0 } else { 1.0 };
        };
        let from = self.at_us[below];
        let part = f64::from(us - from) / f64::from((next - from).max(1));
        (POINTS[below] + part * (POINTS[above] - POINTS[below])) as f32
    }
}

/// A route's wish: a first token within this time, for this share of the requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slo {
    pub ttft: Duration,
    /// Above 0, up to 1.
    pub target: f32,
}

/// What has to come in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    FirstToken,
    Whole,
}

impl Measured {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FirstToken => "time_to_first_token",
            Self::Whole => "latency",
        }
    }
}

/// The time that one request's candidates are ranked by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wish {
    pub within: Duration,
    pub measured: Measured,
    pub target: f32,
    /// The caller is gone after it.
    pub is_deadline: bool,
}

impl Wish {
    /// The wish of a request; `None` if it has none. The caller's wish for the first token goes before the route's.
    #[must_use]
    pub fn of(stream: bool, deadline: Option<Duration>, ttft: Option<Duration>, route: Option<Slo>) -> Option<Self> {
        let target = route.map_or(DEFAULT_TARGET, |slo| slo.target);
        let measured = if stream { Measured::FirstToken } else { Measured::Whole };
        let ttft = ttft.or(route.map(|slo| slo.ttft)).filter(|_| stream);
        let is_deadline = deadline.is_some_and(|d| ttft.is_none_or(|t| d <= t));
        let within = if is_deadline { deadline } else { ttft };
        within.map(|within| Self { within, measured, target, is_deadline })
    }
}

/// A candidate's chance.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Chance {
    /// P of its histogram alone.
    seen: f32,
    samples: u32,
    /// P as it is ranked by; set by [`order`].
    pub p: f32,
}

impl Chance {
    /// By the table of what is measured.
    #[must_use]
    pub fn of(table: &QuantileTable, wish: &Wish) -> Self {
        Self { seen: table.share_within(micros(wish.within)), samples: table.count(), p: 0.0 }
    }
}

/// How a ranking by time came about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    pub wish: Wish,
    /// Open candidates that reach the target.
    pub in_time: u32,
    /// A little known candidate counted as in time, to get to know it; or a lost cause was sent all the same.
    pub explored: bool,
    pub lost_cause: bool,
}

/// Reorders a strategy's `ranking`, whose items stand for the candidates `of` says. `chances` and `open_and_cost` are asked by
/// candidate; `roll` (0..1) below `explore` explores.
pub fn order<T>(
    wish: Wish,
    ranking: &mut [T],
    of: impl Fn(&T) -> u32,
    chances: &mut [Chance],
    open_and_cost: impl Fn(u32) -> (bool, Option<NanoUsd>),
    explore: f32,
    roll: f64,
) -> Judged {
    let known = chances.iter().filter(|c| c.samples >= KNOWN_FROM);
    let (sum, n) = known.fold((0.0_f32, 0_u16), |(sum, n), c| (sum + c.seen, n.saturating_add(1)));
    let prior = if n == 0 { PRIOR } else { sum / f32::from(n) };
    for chance in chances.iter_mut() {
        let weight = chance.samples.min(KNOWN_FROM) as f32 / KNOWN_FROM as f32;
        chance.p = chance.seen * weight + prior * (1.0 - weight);
    }
    let rolled = roll < f64::from(explore);
    let explores = rolled && n > 0 && usize::from(n) < chances.len();
    let chance = |i: u32| chances.get(i as usize).copied().unwrap_or_default();
    let in_time = |i: u32| chance(i).p >= wish.target || (explores && chance(i).samples < KNOWN_FROM);
    let group = |i: u32| match open_and_cost(i).0 {
        true if in_time(i) => 0_u8,
        true => 1,
        false => 2,
    };
    // Stable: the strategy's order stays where nothing else decides.
    ranking.sort_by(|a, b| {
        let (a, b) = (of(a), of(b));
        let by_chance = || chance(b).p.total_cmp(&chance(a).p);
        group(a).cmp(&group(b)).then_with(|| if group(a) == 1 { by_chance() } else { Ordering::Equal })
    });
    let leaders = ranking.partition_point(|item| group(of(item)) == 0);
    let cheapest = ranking.iter().take(leaders).enumerate().min_by_key(|(place, item)| {
        let cost = open_and_cost(of(item)).1;
        (cost.is_none(), cost, *place)
    });
    if let Some(front) = cheapest.map(|(place, _)| place).and_then(|place| ranking.get_mut(..=place)) {
        front.rotate_right(1);
    }
    let hopeless = |c: &Chance| c.samples >= CERTAIN_FROM && c.p < HOPELESS;
    let lost = wish.is_deadline && !chances.is_empty() && chances.iter().all(hopeless);
    Judged {
        wish,
        in_time: u32::try_from(leaders).unwrap_or(u32::MAX),
        explored: explores || (lost && rolled),
        lost_cause: lost && !rolled,
    }
}

#[cfg(test)]
mod tests;
