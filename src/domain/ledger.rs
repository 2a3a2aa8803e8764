//! A ledger row: one attempt, and its place in the hash chain.
//!
//! The chain is `hash = BLAKE3(prev_hash ‖ canonical bytes)`, the first row's `prev_hash` being zero. The canonical bytes hold
//! every column but the two hashes, so a row read back from any export can be checked without the store.

use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;
use crate::domain::usage::{Usage, UsageSource};
use std::sync::Arc;

/// What one attempt did and cost, before it has a place in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When the attempt ended.
    pub at: Wall,
    pub request_id: Arc<str>,
    /// 1 for the request's first attempt.
    pub attempt: u16,
    pub endpoint: Arc<str>,
    pub provider: Arc<str>,
    /// The upstream's model.
    pub model: Arc<str>,
    /// The name that the client asked for.
    pub route: Arc<str>,
    /// Empty when the gateway is open.
    pub key_id: Arc<str>,
    /// Sorted by key, keys unique.
    pub tags: Arc<[(Box<str>, Box<str>)]>,
    /// One of [`Outcome::ledger_str`](crate::domain::outcome::Outcome::ledger_str).
    pub outcome: Arc<str>,
    /// 0 when the upstream gave no status.
    pub http_status: u16,
    pub stream: bool,
    /// From sending to the end of the answer, µs.
    pub latency_us: u64,
    /// From sending to the first content, µs.
    pub ttft_us: Option<u64>,
    pub usage: Usage,
    pub usage_source: UsageSource,
    /// `None`: tokens were used, or may have been, and the endpoint has no price.
    pub cost: Option<NanoUsd>,
    /// `unpriced` when the endpoint has no price.
    pub price_version: Arc<str>,
    /// Strategy and rank: `cost_based/1`; what else happened to the attempt follows behind semicolons: `cost_based/1;chaos=status`.
    pub decision: Arc<str>,
}

impl Entry {
    /// Whether an operator's experiment put a fault into the attempt.
    #[must_use]
    pub fn is_injected(&self) -> bool {
        self.decision.split(';').skip(1).any(|part| part.starts_with("chaos="))
    }
}

/// An entry with its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// 1 for the ledger's first row; no number is missing.
    pub seq: u64,
    pub entry: Entry,
    pub prev_hash: [u8; 32],
    pub hash: [u8; 32],
}

/// The hash before the first row.
pub const GENESIS: [u8; 32] = [0; 32];

impl Row {
    /// Gives `entry` the place after the row that has `prev_hash`.
    #[must_use]
    pub fn chain(seq: u64, entry: Entry, prev_hash: [u8; 32]) -> Self {
        let hash = chained(&prev_hash, seq, &entry);
        Self { seq, entry, prev_hash, hash }
    }

    /// Whether the hash is the one of the contents.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        chained(&self.prev_hash, self.seq, &self.entry) == self.hash
    }
}

fn chained(prev: &[u8; 32], seq: u64, entry: &Entry) -> [u8; 32] {
    let mut bytes = Vec::with_capacity(320);
    bytes.extend_from_slice(prev);
    bytes.extend_from_slice(&seq.to_le_bytes());
    canonical(entry, &mut bytes);
    *blake3::hash(&bytes).as_bytes()
}

/// Appends the entry's canonical bytes: fixed-width little-endian numbers, texts with a length before them.
fn canonical(e: &Entry, out: &mut Vec<u8>) {
    fn text(out: &mut Vec<u8>, s: &str) {
        out.extend_from_slice(&(s.len() as u64).to_le_bytes());
        out.extend_from_slice(s.as_bytes());
    }
    fn maybe(out: &mut Vec<u8>, n: Option<u64>) {
        out.push(u8::from(n.is_some()));
        out.extend_from_slice(&n.unwrap_or(0).to_le_bytes());
    }
    out.extend_from_slice(&e.at.0.to_le_bytes());
    text(out, &e.request_id);
    out.extend_from_slice(&e.attempt.to_le_bytes());
    for s in [&e.endpoint, &e.provider, &e.model, &e.route, &e.key_id] {
        text(out, s);
    }
    out.extend_from_slice(&(e.tags.len() as u64).to_le_bytes());
    for (key, value) in e.tags.iter() {
        text(out, key);
        text(out, value);
    }
    text(out, &e.outcome);
    out.extend_from_slice(&e.http_status.to_le_bytes());
    out.push(u8::from(e.stream));
    out.extend_from_slice(&e.latency_us.to_le_bytes());
    maybe(out, e.ttft_us);
    let u = &e.usage;
    for n in [u.input, u.cached_input, u.cache_write, u.output, u.reasoning] {
        out.extend_from_slice(&n.to_le_bytes());
    }
    text(out, e.usage_source.as_str());
    maybe(out, e.cost.map(|c| c.0.cast_unsigned()));
    text(out, &e.price_version);
    text(out, &e.decision);
}
