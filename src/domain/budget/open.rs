//! An attempt that is under way at the cost of a hard budget: what is on disk of it before it leaves, so that a killed process
//! cannot forget it. If it is still there at the next start and no row tells how it ended, it is charged what was reserved for it.

use crate::domain::ledger::Entry;
use crate::domain::money::NanoUsd;
use crate::domain::outcome::Outcome;
use crate::domain::time::Wall;
use crate::domain::usage::{Usage, UsageSource};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenAttempt {
    pub at: Wall,
    pub request_id: Arc<str>,
    pub attempt: u16,
    pub endpoint: Arc<str>,
    pub provider: Arc<str>,
    pub model: Arc<str>,
    pub route: Arc<str>,
    pub key_id: Arc<str>,
    pub tags: Arc<[(Box<str>, Box<str>)]>,
    pub stream: bool,
    /// At most.
    pub prompt_tokens: u64,
    /// At most.
    pub completion_tokens: u64,
    /// What was reserved.
    pub ceiling: NanoUsd,
    pub price_version: Arc<str>,
    pub decision: Arc<str>,
}

impl OpenAttempt {
    /// The row of an attempt of which nobody knows how it ended: uncertain, with all that it can have used and cost.
    #[must_use]
    pub fn into_row(self) -> Entry {
        Entry {
            at: self.at,
            request_id: self.request_id,
            attempt: self.attempt,
            endpoint: self.endpoint,
            provider: self.provider,
            model: self.model,
            route: self.route,
            key_id: self.key_id,
            tags: self.tags,
            outcome: Outcome::DeadlineExceeded.ledger_str().into(),
            http_status: 0,
            stream: self.stream,
            latency_us: 0,
            ttft_us: None,
            usage: Usage { input: self.prompt_tokens, output: self.completion_tokens, ..Usage::default() },
            usage_source: UsageSource::Estimated,
            cost: Some(self.ceiling),
            price_version: self.price_version,
            decision: format!("{};orphan", self.decision).into(),
        }
    }

    /// Whether a row tells how this attempt ended.
    #[must_use]
    pub fn is_told_by(&self, entry: &Entry) -> bool {
        entry.attempt == self.attempt && entry.request_id == self.request_id && entry.endpoint == self.endpoint
    }
}
