//! The strategies: how the candidates of a route are put in order, best first.
//!
//! [`rank`] never removes a candidate: failover walks down what it returns. It orders by, in this sequence:
//!
//! 1. **open before blocked**: a candidate that its gate would refuse now comes after all that may take a call;
//! 2. **good enough before not**: with a quality floor (strategy `intelligent`), candidates below it come after those that
//!    reach it, the best of them first; so if none is good enough, the best quality leads;
//! 3. **the strategy's own measure**, below;
//! 4. **latency**, where the measure ties and the strategy looks at latency at all;
//! 5. **turns**: what still ties takes turns, starting behind the candidate that led the last ranking of the same
//!    [`Cursor`]. A cursor starts where its first `roll` says, so the workers of a process don't herd on the first one.
//!
//! | strategy | measure (lower is better) |
//! |---|---|
//! | `round_robin` | none: all take turns, exactly |
//! | `weighted` | smooth weighted round robin: over a full cycle each open candidate leads exactly `weight` times, evenly spread; weight 0 leads only when nobody else is open |
//! | `least_latency` | peak EWMA of the time to first token × (in flight + 1) |
//! | `cost_based` | estimated cost; unpriced behind all priced; ties by latency |
//! | `priority` | the place in the route's list |
//! | `best_quality` | 1 − quality; ties by cost, then latency |
//! | `balanced` | [`BlendWeights`]: a mean of four measures between 0 and 1 |
//! | `intelligent` | picks one of the others ([`crate::domain::intelligent::decide`]); ranked here it is `balanced` |
//!
//! **No history.** An endpoint without samples is neither best nor worst. Where latency counts, it is taken to be as slow as
//! the mean of the others, it doesn't lead while a tried one is its equal by every other measure, and it is *explored*: with
//! a share of [`RankSettings::explore`] (at most 1/n) of the rankings it leads. The first sample ends that, and as a failure
//! is a sample too, a broken newcomer is not explored twice.
//!
//! **Unhealthy but closed.** The breaker, not the strategy, takes an endpoint out. Until then failures count where a strategy
//! weighs: the EWMA holds each failure as at least 5 s, which moves it back in `least_latency` and in all ties by latency,
//! and `balanced` adds the failure rate. `round_robin`, `weighted`, `priority`, and the first measure of `cost_based` and
//! `best_quality` keep their word exactly: their proportions and order change only when a gate blocks.
//!
//! Not here: what removes candidates (hints, context length, a cost ceiling) and what is sent; no ranking changes another
//! strategy's cursor.

mod cursor;
mod measure;
#[cfg(test)]
mod tests;

pub use cursor::{Cursor, Cursors};

use crate::domain::money::NanoUsd;
use measure::Measures;
use serde::{Deserialize, Serialize};

/// The strategies by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StrategyKind {
    RoundRobin,
    Weighted,
    LeastLatency,
    CostBased,
    Priority,
    BestQuality,
    Balanced,
    Intelligent,
}

impl StrategyKind {
    pub const ALL: [Self; 8] = [
        Self::RoundRobin,
        Self::Weighted,
        Self::LeastLatency,
        Self::CostBased,
        Self::Priority,
        Self::BestQuality,
        Self::Balanced,
        Self::Intelligent,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Weighted => "weighted",
            Self::LeastLatency => "least_latency",
            Self::CostBased => "cost_based",
            Self::Priority => "priority",
            Self::BestQuality => "best_quality",
            Self::Balanced => "balanced",
            Self::Intelligent => "intelligent",
        }
    }

    /// Reads a name; `lowest_latency` is an alias of `least_latency`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "lowest_latency" {
            return Some(Self::LeastLatency);
        }
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// What is known of one candidate at the moment of ranking; filled by the Coordinator in the route's listed order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CandidateFacts {
    /// The endpoint's place in the route's list: ascending, each once. Turns go by it, so a request that some endpoints can't
    /// serve (a cost ceiling, a short context) leaves the others' turns as they are.
    pub slot: u32,
    /// Share of turns under `weighted`; 0: only as fallback.
    pub weight: u32,
    /// 0..=1; anything else is clamped, NaN is 0.
    pub quality: f32,
    /// Of this request on this endpoint; `None`: unpriced.
    pub est_cost: Option<NanoUsd>,
    /// Peak EWMA of the time to first token, microseconds; failures count as at least 5 s.
    pub ewma_ttft_us: Option<f32>,
    pub in_flight: u32,
    /// Share of failures in the breaker's window, 0..=1.
    pub failure_rate: f32,
    /// Attempts behind the EWMA; 0: no history, whatever the EWMA says.
    pub samples: u64,
    /// The gate would refuse now: ranked behind all open ones, but still ranked.
    pub blocked: bool,
}

/// One place in a ranking.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Into the facts that were ranked.
    pub index: u32,
    /// The strategy's measure, lower is better: microseconds (`least_latency`), nano-dollars (`cost_based`; infinite when
    /// unpriced), 1 − quality, the blend, the place in the list or in the rotation, or the negated credit of `weighted`.
    pub score: f32,
}

/// How much each measure counts in `balanced`; only the proportions matter.
///
/// All four measures lie between 0 (best) and 1: cost is `1 − cheapest / cost` (unpriced: 1), latency `1 − fastest / latency`
/// (no history: the mean of the others), quality `1 − quality`, and the failure rate itself. The cheapest and the fastest are
/// those among the candidates that may lead. Ratios instead of a range: one very dear candidate doesn't make the rest equal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlendWeights {
    pub cost: f32,
    pub latency: f32,
    pub quality: f32,
    pub failure_rate: f32,
}

impl Default for BlendWeights {
    fn default() -> Self {
        Self { cost: 0.3, latency: 0.2, quality: 0.3, failure_rate: 0.2 }
    }
}

/// The settings of ranking: `strategies: {explore: 0.05, balanced: {cost: 0.3, latency: 0.2, quality: 0.3, failure_rate: 0.2}}`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankSettings {
    /// Share of rankings that each endpoint without history leads where latency counts, 0..=1; at most 1/n of n candidates.
    pub explore: f32,
    /// Finite, not negative, not all zero.
    pub balanced: BlendWeights,
}

impl RankSettings {
    /// What is wrong with the settings: path below `strategies:`, what is wrong and what is allowed.
    #[must_use]
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut check = |fine: bool, path: &str, what: &str| {
            if !fine {
                faults.push((path.to_owned(), what.to_owned()));
            }
        };
        let unit = |x: f32| (0.0..=1.0).contains(&x);
        check(unit(self.explore), "explore", "must be between 0 and 1");
        let w = &self.balanced;
        let weights = [
            ("balanced.cost", w.cost),
            ("balanced.latency", w.latency),
            ("balanced.quality", w.quality),
            ("balanced.failure_rate", w.failure_rate),
        ];
        for (path, weight) in weights {
            check(unit(weight), path, "must be between 0 and 1");
        }
        check(weights.iter().any(|(_, w)| *w != 0.0), "balanced", "at least one weight must be greater than 0");
        faults
    }
}

impl Default for RankSettings {
    fn default() -> Self {
        Self { explore: 0.05, balanced: BlendWeights::default() }
    }
}

/// What to rank by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Order {
    pub strategy: StrategyKind,
    /// Quality below which a candidate comes after all that reach it; 0: no floor.
    pub min_quality: f32,
    pub settings: RankSettings,
}

impl Order {
    /// By one strategy with default settings and no quality floor.
    #[must_use]
    pub fn by(strategy: StrategyKind) -> Self {
        Self { strategy, min_quality: 0.0, settings: RankSettings::default() }
    }
}

/// How a ranking came about, for the decision record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What really ordered: `intelligent` itself is ranked as `balanced`.
    pub strategy: StrategyKind,
    /// The first place goes to an endpoint without history, to get to know it.
    pub explored: bool,
    /// No open candidate reaches the quality floor.
    pub floor_missed: bool,
}

/// Ranks by one strategy with default settings: [`rank_with`] of [`Order::by`].
pub fn rank(
    kind: StrategyKind,
    facts: &[CandidateFacts],
    cursor: &mut Cursor,
    roll: f64,
    out: &mut Vec<Ranked>,
) -> Applied {
    rank_with(&Order::by(kind), facts, cursor, roll, out)
}

/// Puts all candidates into `out`, best first, and moves `cursor` on; allocates only while `out` and `cursor` grow.
///
/// `roll` (0..1) decides whether and whom to explore, and where a new cursor starts.
pub fn rank_with(
    order: &Order,
    facts: &[CandidateFacts],
    cursor: &mut Cursor,
    roll: f64,
    out: &mut Vec<Ranked>,
) -> Applied {
    out.clear();
    let roll = if roll.is_finite() { roll.clamp(0.0, 1.0) } else { 0.0 };
    let measures = Measures::new(order, facts);
    cursor.begin(facts, roll);
    if measures.strategy == StrategyKind::Weighted {
        cursor.add_credit(facts, |f| measures.leads(f));
    }
    cursor.sort(facts, &measures);
    let explored = cursor.explore(facts, &measures, roll);
    cursor.finish(facts, &measures, out);
    Applied { strategy: measures.strategy, explored, floor_missed: measures.floor_missed() }
}
