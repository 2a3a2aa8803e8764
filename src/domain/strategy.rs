//! The strategies: how the candidates of a route are put in order.

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
