//! The strategy `intelligent`: complexity, tier, latency sensitivity and cost ceiling pick another strategy and a quality floor.
//!
//! The rules, in order; the first that applies names the row of the tier table:
//! 1. the request names a tier: `premium` or `free`;
//! 2. it names none, but a cost ceiling: `capped`, for a caller who minds the cost;
//! 3. else `default`.
//!
//! The row's cell for the complexity and the latency sensitivity is the choice. By default: `premium` gets the best quality, or
//! the least latency among the good enough when latency-sensitive; `free` and `capped` the cheapest that is good enough;
//! `default` the cheapest that is good enough for simple prompts, a balance for medium, the best quality for complex ones, and
//! the least latency among the good enough when latency-sensitive. Good enough is the complexity's quality floor unless the
//! cell has its own. The rule that fired goes into the decision record as `row.complexity` or `row.complexity.latency_sensitive`.
//!
//! A floor removes nobody: see [`crate::domain::strategy`]. The ceiling itself is not applied here either: a candidate whose
//! estimate exceeds it is no candidate under any strategy.
//!
//! # In config.yaml
//! Every key may be left out and keeps its default then; a list replaces the default list. A cell is a strategy's name or
//! `{strategy, min_quality}`.
//! ```yaml
//! intelligent:
//!   simple_below: 0.18
//!   complex_from: 0.45
//!   weights: {length: 0.30, code: 0.20, terms: 0.25, demands: 0.25, depth: 0.15, output: 0.10}
//!   scale: {length_from: 30, length_full: 4000, markers_full: 3, terms_full: 4, demands_full: 3, depth_full: 10, output_from: 512, output_full: 8192}
//!   terms: ["algorithm*", "数据库"]
//!   demands: ["step by step"]
//!   code_markers: ["```"]
//!   quality: {simple: 0.5, medium: 0.7, complex: 0.85}
//!   tiers:
//!     premium: {simple: best_quality, medium: best_quality, complex: best_quality,
//!               latency_sensitive: {simple: least_latency, medium: least_latency, complex: least_latency}}
//!     free:    {simple: cost_based, medium: cost_based, complex: cost_based}
//!     capped:  {simple: cost_based, medium: cost_based, complex: cost_based}
//!     default: {simple: cost_based, medium: balanced, complex: {strategy: best_quality, min_quality: 0.85},
//!               latency_sensitive: {simple: least_latency, medium: least_latency, complex: least_latency}}
//! ```

mod settings;
#[cfg(test)]
mod tests;

pub use settings::{
    Cell, Cells, FeatureScale, FeatureWeights, IntelligentSettings, QualityFloors, TierRow, TierTable, default_lexicon,
};

use crate::domain::complexity::Complexity;
use crate::domain::money::NanoUsd;
use crate::domain::strategy::{Order, RankSettings, StrategyKind};
use serde::{Deserialize, Serialize};

/// A tier that a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    Free,
    Premium,
}

impl Tier {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Premium => "premium",
        }
    }

    /// Reads `free` or `premium`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Free, Self::Premium].into_iter().find(|t| t.as_str() == text)
    }
}

/// What a request says that `intelligent` listens to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestHints {
    pub tier: Option<Tier>,
    pub latency_sensitive: bool,
    /// The cost ceiling; it picks the row here and removes candidates elsewhere.
    pub max_cost: Option<NanoUsd>,
}

/// What `intelligent` decided for one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Never `intelligent` when the settings are valid.
    pub strategy: StrategyKind,
    /// 0: no floor.
    pub min_quality: f32,
    /// The rule that fired, such as `free.medium` or `premium.complex.latency_sensitive`.
    pub rule: &'static str,
}

impl Choice {
    /// The choice as something to rank by.
    #[must_use]
    pub fn order(&self, settings: RankSettings) -> Order {
        Order { strategy: self.strategy, min_quality: self.min_quality, settings }
    }
}

/// Picks the strategy and the quality floor of one request.
#[must_use]
pub fn decide(settings: &IntelligentSettings, complexity: Complexity, hints: &RequestHints) -> Choice {
    let tiers = &settings.tiers;
    let (row, rules) = match (hints.tier, hints.max_cost) {
        (Some(Tier::Premium), _) => (&tiers.premium, &PREMIUM_RULES),
        (Some(Tier::Free), _) => (&tiers.free, &FREE_RULES),
        (None, Some(_)) => (&tiers.capped, &CAPPED_RULES),
        (None, None) => (&tiers.default, &DEFAULT_RULES),
    };
    let cells = if hints.latency_sensitive { &row.latency_sensitive } else { &row.usual };
    let cell = cells.of(complexity);
    let [usual, latency_sensitive] = match complexity {
        Complexity::Simple => rules[0],
        Complexity::Medium => rules[1],
        Complexity::Complex => rules[2],
    };
    Choice {
        strategy: cell.strategy,
        min_quality: cell.min_quality.unwrap_or_else(|| settings.quality.of(complexity)),
        rule: if hints.latency_sensitive { latency_sensitive } else { usual },
    }
}

macro_rules! rules {
    ($row:literal) => {
        [
            [concat!($row, ".simple"), concat!($row, ".simple.latency_sensitive")],
            [concat!($row, ".medium"), concat!($row, ".medium.latency_sensitive")],
            [concat!($row, ".complex"), concat!($row, ".complex.latency_sensitive")],
        ]
    };
}

type Rules = [[&'static str; 2]; 3];
const PREMIUM_RULES: Rules = rules!("premium");
const FREE_RULES: Rules = rules!("free");
const CAPPED_RULES: Rules = rules!("capped");
const DEFAULT_RULES: Rules = rules!("default");
