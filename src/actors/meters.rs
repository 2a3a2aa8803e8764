//! Monotonic counters of one endpoint for `/metrics`: bumped by the request's own thread, read when scraped.

use crate::domain::money::NanoUsd;
use crate::domain::outcome::Outcome;
use crate::domain::usage::Usage;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Upper bounds of the latency buckets, seconds.
pub const BOUNDS_S: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// A cumulative histogram with the buckets of [`BOUNDS_S`].
#[derive(Debug, Default)]
pub struct Buckets {
    counts: [AtomicU64; BOUNDS_S.len() + 1],
    sum_us: AtomicU64,
}

impl Buckets {
    #[allow(clippy::cast_precision_loss)]
    pub fn record(&self, us: u64) {
        let seconds = us as f64 / 1e6;
        let slot = BOUNDS_S.iter().position(|b| seconds <= *b).unwrap_or(BOUNDS_S.len());
        self.counts[slot].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// The sum in seconds, and each bucket's own count; the last one is unbounded.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn read(&self) -> (f64, Vec<u64>) {
        (self.sum_us.load(Relaxed) as f64 / 1e6, self.counts.iter().map(|c| c.load(Relaxed)).collect())
    }
}

#[derive(Debug, Default)]
pub struct Meters {
    attempts: [AtomicU64; Outcome::ALL.len()],
    pub latency: Buckets,
    pub ttft: Buckets,
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    cost_nanousd: AtomicU64,
    pub unpriced: AtomicU64,
    /// Attempts whose upstream reported a usage that cannot be true.
    pub disbelieved: AtomicU64,
    pub transitions: AtomicU64,
    pub restarts: AtomicU64,
    /// Times that a failure domain shut the endpoint.
    pub holds: AtomicU64,
    /// Results that found the inbox full.
    pub lost_settles: AtomicU64,
}

impl Meters {
    pub fn attempt(
        &self,
        outcome: Outcome,
        latency_us: u64,
        ttft_us: Option<u64>,
        usage: &Usage,
        cost: Option<NanoUsd>,
    ) {
        if let Some(counter) = Outcome::ALL.iter().position(|o| *o == outcome).and_then(|i| self.attempts.get(i)) {
            counter.fetch_add(1, Relaxed);
        }
        self.latency.record(latency_us);
        if let Some(us) = ttft_us {
            self.ttft.record(us);
        }
        self.prompt_tokens.fetch_add(usage.prompt(), Relaxed);
        self.completion_tokens.fetch_add(usage.completion(), Relaxed);
        match cost {
            Some(cost) => {
                self.cost_nanousd.fetch_add(u64::try_from(cost.0).unwrap_or(0), Relaxed);
            }
            None => {
                self.unpriced.fetch_add(1, Relaxed);
            }
        }
    }

    /// Attempts by outcome, those that happened.
    pub fn attempts(&self) -> impl Iterator<Item = (Outcome, u64)> + '_ {
        Outcome::ALL.into_iter().zip(&self.attempts).map(|(o, n)| (o, n.load(Relaxed))).filter(|(_, n)| *n > 0)
    }

    /// Prompt and completion tokens.
    #[must_use]
    pub fn tokens(&self) -> (u64, u64) {
        (self.prompt_tokens.load(Relaxed), self.completion_tokens.load(Relaxed))
    }

    #[must_use]
    pub fn cost(&self) -> NanoUsd {
        NanoUsd(i64::try_from(self.cost_nanousd.load(Relaxed)).unwrap_or(i64::MAX))
    }
}
