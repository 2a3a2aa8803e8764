//! Token usage of one attempt, in disjoint classes: no token is counted in two of them.

use serde::{Deserialize, Serialize};

/// Tokens by class. `input` excludes the cached and cache-written ones, `output` excludes reasoning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Usage {
    pub input: u64,
    pub cached_input: u64,
    pub cache_write: u64,
    pub output: u64,
    pub reasoning: u64,
}

impl Usage {
    /// All tokens on the prompt's side.
    #[must_use]
    pub fn prompt(&self) -> u64 {
        self.input.saturating_add(self.cached_input).saturating_add(self.cache_write)
    }

    /// All generated tokens.
    #[must_use]
    pub fn completion(&self) -> u64 {
        self.output.saturating_add(self.reasoning)
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.prompt().saturating_add(self.completion())
    }
}

/// Where a usage comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageSource {
    /// The upstream said so.
    Reported,
    /// Breakwater counted, because the upstream did not report.
    Estimated,
    /// Nothing was used, or nothing is known.
    #[default]
    None,
}

impl UsageSource {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Estimated => "estimated",
            Self::None => "none",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Reported, Self::Estimated, Self::None].into_iter().find(|s| s.as_str() == text)
    }
}
