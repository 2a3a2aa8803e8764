//! The health of one endpoint: all that its actor owns, in one value.
//!
//! [`EndpointHealth::apply`] takes in the end of an attempt, whatever its ticket's epoch:
//! - totals count every attempt; a failure there is what the breaker calls one, so a caller's fault or a cancelled request is
//!   neither success nor failure;
//! - latency is that of successes, and of timeouts, which took at least that long; time to first token that of every attempt
//!   that brought content, and of timeouts;
//! - the ranking's average takes the time to first token; an attempt that sent the caller elsewhere counts as 5 s or what it
//!   took if that is longer, so that a fast error never looks attractive; one that was cut off by a deadline took at least
//!   that long;
//! - a stream that succeeded tells its pace: the time per token after the first;
//! - where `limits.adaptive` is on, the gradient takes times to first content (of a success without one, its end) and timeouts;
//! - the breaker gets the verdict and whether the first byte was slow.
//!
//! It moves no gate and publishes nothing: that is the actor's.

use crate::domain::breaker::{Breaker, BreakerCheckpoint, Transition};
use crate::domain::gate::GateCheckpoint;
use crate::domain::gradient::{Gradient, GradientCheckpoint};
use crate::domain::latency::{EwmaCheckpoint, LatencyCheckpoint, LatencyRecorder, PeakEwma, Summary};
use crate::domain::money::NanoUsd;
use crate::domain::outcome::{Class, Failover, Outcome, Verdict};
use crate::domain::settings::{BreakerSettings, LimitSettings};
use crate::domain::slo::QuantileTable;
use crate::domain::time::{Ts, Wall, micros};
use crate::domain::usage::Usage;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// What an attempt that sent the caller elsewhere counts at least in the ranking's average.
const FAILURE_COUNTS_AS: Duration = Duration::from_secs(5);

/// Streams of fewer tokens say nothing about a pace.
const PACE_TOKENS: u64 = 8;
/// Streams below which the slowest of them say nothing.
const PACE_SAMPLES: u64 = 100;
/// The slowest pace is looked up after so many streams.
const PACE_REFRESH: u32 = 32;

/// The end of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settle {
    /// When it ended.
    pub at: Ts,
    /// Its ticket's.
    pub epoch: u64,
    pub probe: bool,
    pub outcome: Outcome,
    /// From sending to the end, µs.
    pub latency_us: u64,
    /// From sending to the first content, µs.
    pub ttft_us: Option<u64>,
    /// Zero if unpriced or nothing was used.
    pub cost: NanoUsd,
    pub usage: Usage,
    /// Calls out when it ended, itself among them.
    pub out: u32,
}

/// What an endpoint did since it was first registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Attempts.
    pub requests: u64,
    pub successes: u64,
    /// Those that the breaker counts as failures.
    pub failures: u64,
    pub cost: NanoUsd,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

/// What coordinators rank by and boards publish.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Time to first token as the ranking sees it; `None`: unknown.
    pub ewma_ttft_us: Option<f64>,
    /// Of the breaker's window, 0..=1.
    pub failure_rate: f32,
    /// In the breaker's window.
    pub calls: u32,
    /// Times to first token behind the quantiles.
    pub samples: u64,
    pub p50_us: Option<u64>,
    pub p95_us: Option<u64>,
    pub p99_us: Option<u64>,
    /// What the slowest hundredth of its streams take for a token, µs; `None` until there are a hundred.
    pub slow_token_us: Option<u64>,
    /// Times to first token, where somebody has a wish.
    pub ttft: QuantileTable,
    /// Times to the end of an answer.
    pub latency: QuantileTable,
}

/// An endpoint's health on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthCheckpoint {
    /// When it was made.
    pub at: Wall,
    pub breaker: BreakerCheckpoint,
    pub latency: LatencyCheckpoint,
    pub ttft: LatencyCheckpoint,
    /// Time per token of streams.
    #[serde(default)]
    pub pace: LatencyCheckpoint,
    pub ewma: EwmaCheckpoint,
    pub totals: Totals,
    /// While `limits.adaptive` is on.
    #[serde(default)]
    pub gradient: Option<GradientCheckpoint>,
    /// The endpoint's gate, which isn't part of its health; see [`HealthCheckpoint::with_gate`].
    #[serde(default)]
    pub gate: GateCheckpoint,
}

impl HealthCheckpoint {
    /// The same with what the gate wants to keep.
    #[must_use]
    pub fn with_gate(self, gate: GateCheckpoint) -> Self {
        Self { gate, ..self }
    }
}

/// Breaker, histograms, average and totals of one endpoint.
#[derive(Clone, Debug)]
pub struct EndpointHealth {
    breaker: Breaker,
    latency: LatencyRecorder,
    ttft: LatencyRecorder,
    pace: LatencyRecorder,
    /// The slowest pace, and how many streams have ended since it was looked up.
    slow_token: (Option<u64>, u32),
    ewma: PeakEwma,
    totals: Totals,
    /// While `limits.adaptive` is on.
    gradient: Option<Gradient>,
}

impl EndpointHealth {
    /// The health of an endpoint of which nothing is known: closed.
    #[must_use]
    pub fn new(settings: Arc<BreakerSettings>, now: Ts) -> Self {
        Self {
            breaker: Breaker::new(settings, now),
            latency: LatencyRecorder::new(now),
            ttft: LatencyRecorder::new(now),
            pace: LatencyRecorder::new(now),
            slow_token: (None, 0),
            ewma: PeakEwma::default(),
            totals: Totals::default(),
            gradient: None,
        }
    }

    /// Begins or ends finding out how many calls at once the endpoint takes, as its limits say; what was found stays.
    pub fn adapt(&mut self, limits: &LimitSettings) {
        match &mut self.gradient {
            _ if !limits.adaptive => self.gradient = None,
            Some(gradient) => gradient.set_most(limits.concurrency),
            None => self.gradient = Some(Gradient::new(limits.concurrency)),
        }
    }

    /// The calls at once that it takes, if that is to be found out.
    #[must_use]
    pub fn concurrency(&self) -> Option<u32> {
        self.gradient.as_ref().map(Gradient::limit)
    }

    /// Takes in the end of an attempt at `now`; `roll` (0..1) spreads the open period that may follow.
    pub fn apply(&mut self, now: Ts, settle: &Settle, roll: f64) -> Option<Transition> {
        let class = settle.outcome.class();
        self.count(settle, class);
        self.measure(settle, class);
        let first_byte_us = settle.ttft_us.unwrap_or(settle.latency_us);
        let slow = class.slow || first_byte_us > micros(self.breaker.settings().slow_call);
        self.breaker.on_result(now, settle.epoch, settle.probe, class.verdict, slow, roll)
    }

    /// Does what the clock alone decides.
    pub fn on_time(&mut self, now: Ts, roll: f64) -> Option<Transition> {
        self.latency.age(now);
        self.ttft.age(now);
        self.pace.age(now);
        self.breaker.on_time(now, roll)
    }

    #[must_use]
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// For an operator's acts and new settings.
    pub fn breaker_mut(&mut self) -> &mut Breaker {
        &mut self.breaker
    }

    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// From sending to the end, over the last minutes.
    #[must_use]
    pub fn latency(&self) -> &LatencyRecorder {
        &self.latency
    }

    /// Time to first token, over the last minutes.
    #[must_use]
    pub fn ttft(&self) -> &LatencyRecorder {
        &self.ttft
    }

    #[must_use]
    pub fn latency_summary(&self, now: Ts) -> Summary {
        self.latency.summary(now)
    }

    #[must_use]
    pub fn ttft_summary(&self, now: Ts) -> Summary {
        self.ttft.summary(now)
    }

    /// Time to first token as the ranking sees it, µs.
    #[must_use]
    pub fn ewma_ttft_us(&self, now: Ts) -> Option<f64> {
        self.ewma.value(now)
    }

    #[must_use]
    pub fn figures(&self, now: Ts) -> Figures {
        let rates = self.breaker.window().rates(now);
        let ttft = QuantileTable::of(&self.ttft, now);
        let usual = ttft.usual();
        Figures {
            ewma_ttft_us: self.ewma.value(now),
            failure_rate: rates.failure_rate as f32,
            calls: rates.calls,
            samples: ttft.count().into(),
            p50_us: usual.map(|[p50, ..]| p50),
            p95_us: usual.map(|[_, p95, _]| p95),
            p99_us: usual.map(|[.., p99]| p99),
            ttft,
            latency: QuantileTable::of(&self.latency, now),
            slow_token_us: self.slow_token.0,
        }
    }

    /// The state as of `now`, which is `wall` on the wall clock; without a gate.
    #[must_use]
    pub fn checkpoint(&self, now: Ts, wall: Wall) -> HealthCheckpoint {
        HealthCheckpoint {
            at: wall,
            breaker: self.breaker.checkpoint(now, wall),
            latency: self.latency.checkpoint(now),
            ttft: self.ttft.checkpoint(now),
            pace: self.pace.checkpoint(now),
            ewma: self.ewma.checkpoint(now, wall),
            totals: self.totals,
            gradient: self.gradient.as_ref().map(Gradient::checkpoint),
            gate: GateCheckpoint::default(),
        }
    }

    /// The health of a checkpoint.
    #[must_use]
    pub fn restore(settings: Arc<BreakerSettings>, from: &HealthCheckpoint, now: Ts, wall: Wall) -> Self {
        let elapsed = wall.since(from.at);
        let pace = LatencyRecorder::restore(&from.pace, now, elapsed);
        Self {
            breaker: Breaker::restore(settings, &from.breaker, now, wall),
            latency: LatencyRecorder::restore(&from.latency, now, elapsed),
            ttft: LatencyRecorder::restore(&from.ttft, now, elapsed),
            slow_token: (slowest(&pace, now), 0),
            pace,
            ewma: PeakEwma::restore(&from.ewma, now, wall),
            totals: from.totals,
            gradient: from.gradient.as_ref().map(|g| Gradient::restore(g, u32::MAX, now)),
        }
    }

    fn count(&mut self, settle: &Settle, class: Class) {
        let t = &mut self.totals;
        t.requests = t.requests.saturating_add(1);
        t.successes = t.successes.saturating_add(u64::from(settle.outcome.is_success()));
        t.failures = t.failures.saturating_add(u64::from(matches!(class.verdict, Verdict::Failure { .. })));
        t.cost += settle.cost;
        t.prompt_tokens = t.prompt_tokens.saturating_add(settle.usage.prompt());
        t.completion_tokens = t.completion_tokens.saturating_add(settle.usage.completion());
    }

    /// Measured at the attempt's own end, which may lie before `now`: settles come in batches.
    fn measure(&mut self, settle: &Settle, class: Class) {
        let (at, latency) = (settle.at, settle.latency_us);
        let success = settle.outcome.is_success();
        if success || class.slow {
            self.latency.record(at, latency);
        }
        match settle.ttft_us {
            Some(ttft) => self.ttft.record(at, ttft),
            None if class.slow => self.ttft.record(at, latency),
            None => {}
        }
        self.measure_pace(settle);
        if let Some(gradient) = &mut self.gradient {
            let sent = Ts(at.0.saturating_sub(latency));
            if class.slow {
                gradient.on_timeout(sent, at);
            } else if let Some(first) = settle.ttft_us.or(success.then_some(latency)) {
                gradient.on_content(sent, at, first, settle.out);
            }
        }
        let sent_elsewhere = matches!(class.verdict, Verdict::Failure { .. }) || class.failover == Failover::Yes;
        if sent_elsewhere {
            self.ewma.penalize(at, latency.max(micros(FAILURE_COUNTS_AS)));
        } else if let Some(ttft) = settle.ttft_us {
            self.ewma.observe(at, ttft);
        } else if success {
            self.ewma.observe(at, latency);
        } else if matches!(settle.outcome, Outcome::DeadlineExceeded | Outcome::Cancelled)
            && self.ewma.value(at).is_some_and(|v| v < latency as f64)
        {
            // Cut off, overtaken or left by its caller, and nothing had come: it would have taken longer than that.
            self.ewma.penalize(at, latency);
        }
    }
}

impl EndpointHealth {
    fn measure_pace(&mut self, settle: &Settle) {
        let tokens = settle.usage.completion();
        let Some(ttft) = settle.ttft_us.filter(|_| settle.outcome.is_success() && tokens >= PACE_TOKENS) else {
            return;
        };
        self.pace.record(settle.at, settle.latency_us.saturating_sub(ttft) / (tokens - 1));
        self.slow_token.1 += 1;
        if self.slow_token.1 >= PACE_REFRESH {
            self.slow_token = (slowest(&self.pace, settle.at), 0);
        }
    }
}

fn slowest(pace: &LatencyRecorder, now: Ts) -> Option<u64> {
    if pace.count(now) < PACE_SAMPLES { None } else { pace.quantile(now, 0.99) }
}

#[cfg(test)]
mod tests;
