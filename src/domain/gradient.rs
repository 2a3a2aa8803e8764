//! How many calls an endpoint takes at once before it gets slower, found from its latency: `limits.adaptive`.
//!
//! The limit follows the gradient of Netflix's concurrency-limits (Gradient2, Apache-2.0,
//! <https://github.com/Netflix/concurrency-limits>): the usual latency over the latest one. While the latest is at most [`TOLERANCE`]
//! times the usual, the limit grows by about its square root, room for a short queue; beyond that it is multiplied by what is missing, at
//! least 0.5. Each step goes a fifth of the way.
//!
//! - Latency is the time to the first content. Answers differ by orders of magnitude, so that a window of [`SAMPLES`] of them, at least
//!   [`WINDOW`] long, counts as one figure, their geometric mean; the latest is smoothed over a few windows.
//! - The limit grows only while it is really used: half of it was out in that window.
//! - A timeout multiplies it by [`AFTER_TIMEOUT`], once for all calls that were out then, as TCP does with losses.
//! - What is usual is learnt quickly in windows with few calls out, which cannot be slow because of us, and under load only over a
//!   quarter of an hour ([`DRIFT`]): a queue of our own making must not become the usual, a vendor that got slower for good must. That is
//!   slower than in Gradient2, whose usual latency follows any lasting overload within 600 answers.
//! - It never leaves the range from the floor ([`FLOOR`], or what is configured if that is less) to what is configured, and begins at
//!   [`START`].

use crate::domain::time::{Ts, micros};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Calls at once below which the limit never falls.
pub const FLOOR: u32 = 4;
/// Where an endpoint of which nothing is known begins; Gradient2's default.
pub const START: u32 = 20;
/// The latest latency over the usual one that is still no sign of a queue; Gradient2's default.
const TOLERANCE: f64 = 1.5;
/// Share of the way to the new limit that a step goes; Gradient2's default.
const SMOOTHING: f64 = 0.2;
/// The least that one step aims at, as a share of the limit; Gradient2's.
const LEAST: f64 = 0.5;
/// Weight of a window in the latest latency.
const LATEST: f64 = 0.3;
/// Weight of a window in the usual latency, with few calls out.
const USUAL: f64 = 1.0 / 30.0;
/// Windows whose plain mean is the first usual latency.
const FIRST: u32 = 10;
/// The usual latency is at least so little above the latest, or falls by [`FALL`] a window; Gradient2's.
const TOO_HIGH: f64 = 2.0;
const FALL: f64 = 0.95;
const SAMPLES: u32 = 10;
const WINDOW: Duration = Duration::from_millis(100);
/// Time in which the usual latency goes 63 % of the way to the latest, under load.
const DRIFT: Duration = Duration::from_secs(900);
const AFTER_TIMEOUT: f64 = 0.75;

/// The limit of one endpoint. Latencies are natural logarithms of microseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradient {
    most: u32,
    limit: f64,
    usual: f64,
    latest: f64,
    /// Windows behind `usual`, counted up to [`FIRST`]; 0: neither is known.
    windows: u32,
    open: Open,
    /// The end of the last window, or the first sample ever.
    closed: Ts,
    /// When a timeout last cut the limit.
    cut: Option<Ts>,
}

/// The window that is being filled.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Open {
    since: Ts,
    samples: u32,
    sum: f64,
    /// Most calls out at the end of one.
    out: u32,
}

/// A gradient on disk.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GradientCheckpoint {
    limit: f64,
    usual: f64,
    windows: u32,
}

impl Gradient {
    /// Of an endpoint of which nothing is known; `most` is the configured limit.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self {
            most,
            limit: f64::from(START.min(most)),
            usual: 0.0,
            latest: 0.0,
            windows: 0,
            open: Open::default(),
            closed: Ts(0),
            cut: None,
        }
    }

    /// The limit in force.
    #[must_use]
    pub fn limit(&self) -> u32 {
        (self.limit as u32).clamp(self.floor(), self.most)
    }

    /// Another configured limit.
    pub fn set_most(&mut self, most: u32) {
        self.most = most;
        self.bound();
    }

    /// A call brought its first content after `latency_us`; it ended at `at`, with `out` calls out, itself among them.
    pub fn on_content(&mut self, at: Ts, latency_us: u64, out: u32) {
        let open = &mut self.open;
        if open.samples == 0 {
            open.since = at;
        }
        open.samples += 1;
        open.sum += (latency_us.max(1) as f64).ln();
        open.out = open.out.max(out);
        if open.samples >= SAMPLES && at.since(open.since) >= WINDOW {
            let window = std::mem::take(open);
            self.close(at, window);
        }
    }

    /// A call that was sent at `sent` was given up at `at`: nothing came in time.
    pub fn on_timeout(&mut self, sent: Ts, at: Ts) {
        if self.cut.is_none_or(|cut| sent >= cut) {
            self.cut = Some(at);
            self.limit *= AFTER_TIMEOUT;
            self.bound();
        }
    }

    #[must_use]
    pub fn checkpoint(&self) -> GradientCheckpoint {
        GradientCheckpoint { limit: self.limit, usual: self.usual, windows: self.windows }
    }

    /// The gradient of a checkpoint, under the configured limit of now.
    #[must_use]
    pub fn restore(from: &GradientCheckpoint, most: u32) -> Self {
        let fresh = Self::new(most);
        if !from.limit.is_finite() || !from.usual.is_finite() {
            return fresh;
        }
        let mut restored = Self {
            limit: from.limit,
            usual: from.usual,
            latest: from.usual,
            windows: from.windows.min(FIRST),
            ..fresh
        };
        restored.bound();
        restored
    }

    fn floor(&self) -> u32 {
        FLOOR.min(self.most)
    }

    fn bound(&mut self) {
        self.limit = self.limit.clamp(f64::from(self.floor()), f64::from(self.most));
    }

    fn close(&mut self, at: Ts, window: Open) {
        let mean = window.sum / f64::from(window.samples);
        self.latest = if self.windows == 0 { mean } else { self.latest + LATEST * (mean - self.latest) };
        self.learn(at, mean, window.out <= self.floor());
        let gradient = (TOLERANCE * (self.usual - self.latest).exp()).clamp(LEAST, 1.0);
        let aim = self.limit * gradient + self.limit.sqrt();
        if aim < self.limit || f64::from(window.out) >= self.limit / 2.0 {
            self.limit += SMOOTHING * (aim - self.limit);
            self.bound();
        }
    }

    /// Brings the usual latency up to date; `light`: too few calls were out to make it slow.
    fn learn(&mut self, at: Ts, mean: f64, light: bool) {
        let elapsed = if self.closed == Ts(0) { Duration::ZERO } else { at.since(self.closed) };
        self.closed = at;
        if self.windows < FIRST {
            self.windows += 1;
            self.usual += (mean - self.usual) / f64::from(self.windows);
            return;
        }
        let weight = if light { USUAL } else { 1.0 - (-(micros(elapsed) as f64) / (micros(DRIFT) as f64)).exp() };
        self.usual += weight * (mean - self.usual);
        if self.usual - self.latest > TOO_HIGH.ln() {
            self.usual += FALL.ln();
        }
    }
}

#[cfg(test)]
mod tests;
