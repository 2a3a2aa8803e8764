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
//! - What is usual is learnt while few calls are out: they cannot be slow because of us. Under load nothing is learnt, since a queue of our
//!   own making must not become the usual. (In Gradient2 any lasting overload does, within 600 answers.) Where there was always load for
//!   [`EVERY`], the limit goes down to the floor until [`WANTED`] answers have been measured, [`MEASURED_FOR`] at most: so a vendor that
//!   got slower for good becomes the usual too. Envoy's gradient controller measures its `minRTT` in the same way.
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
/// Weight of a window with few calls out in the usual latency, and of one for which the limit went down.
const USUAL: f64 = 1.0 / 30.0;
const MEASURED: f64 = 0.5;
/// Windows whose plain mean is the first usual latency.
const FIRST: u32 = 10;
/// The usual latency is at least so little above the latest, or falls by [`FALL`] a window; Gradient2's.
const TOO_HIGH: f64 = 2.0;
const FALL: f64 = 0.95;
const SAMPLES: u32 = 10;
const WINDOW: Duration = Duration::from_millis(100);
/// Load without a pause for so long is reason to measure. A fifth is added at most, lest all endpoints do so at once.
const EVERY: Duration = Duration::from_secs(900);
/// The longest that the limit is down for it.
const MEASURED_FOR: Duration = Duration::from_secs(60);
/// Samples that end it, and that are enough when the time is over.
const WANTED: u32 = 20;
const ENOUGH: u32 = 5;
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
    /// When the usual latency is to be measured if it is not learnt by itself; `None`: as soon as something is known of it.
    due: Option<Ts>,
    measuring: Option<Measuring>,
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

/// The limit is down, so that the usual latency can be measured.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Measuring {
    since: Ts,
    /// When all calls from before were over. What was sent earlier may have stood in a queue.
    drained: Option<Ts>,
    samples: u32,
    sum: f64,
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
            due: None,
            measuring: None,
            cut: None,
        }
    }

    /// The limit in force.
    #[must_use]
    pub fn limit(&self) -> u32 {
        let limit = if self.measuring.is_some() { self.floor() } else { self.limit as u32 };
        limit.clamp(self.floor(), self.most)
    }

    /// Another configured limit.
    pub fn set_most(&mut self, most: u32) {
        self.most = most;
        self.bound();
    }

    /// A call that was sent at `sent` brought its first content after `latency_us`; it ended at `at`, with `out` calls out, itself among
    /// them.
    pub fn on_content(&mut self, sent: Ts, at: Ts, latency_us: u64, out: u32) {
        if self.measuring.is_some() {
            return self.measure(sent, at, latency_us, out);
        }
        let open = &mut self.open;
        if open.samples == 0 {
            open.since = at;
        }
        open.samples += 1;
        open.sum += logarithm(latency_us);
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

    /// The gradient of a checkpoint, at `now` and under the configured limit of now.
    #[must_use]
    pub fn restore(from: &GradientCheckpoint, most: u32, now: Ts) -> Self {
        let fresh = Self::new(most);
        if !from.limit.is_finite() || !from.usual.is_finite() {
            return fresh;
        }
        let mut restored = Self {
            limit: from.limit,
            usual: from.usual,
            latest: from.usual,
            windows: from.windows.min(FIRST),
            due: Some(next_due(now)),
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
        let light = window.out <= self.floor();
        self.learn(mean, light);
        self.look_at_the_clock(at, light);
        let gradient = (TOLERANCE * (self.usual - self.latest).exp()).clamp(LEAST, 1.0);
        let aim = self.limit * gradient + self.limit.sqrt();
        if aim < self.limit || f64::from(window.out) >= self.limit / 2.0 {
            self.limit += SMOOTHING * (aim - self.limit);
            self.bound();
        }
    }

    /// Brings the usual latency up to date; `light`: too few calls were out to make it slow.
    fn learn(&mut self, mean: f64, light: bool) {
        if self.windows < FIRST {
            self.windows += 1;
            self.usual += (mean - self.usual) / f64::from(self.windows);
        } else if light {
            self.usual += USUAL * (mean - self.usual);
        }
        if self.usual - self.latest > TOO_HIGH.ln() {
            self.usual += FALL.ln();
        }
    }

    /// Begins to measure when that is due; a light window, which says as much, puts it off.
    fn look_at_the_clock(&mut self, at: Ts, light: bool) {
        let is_due = self.windows >= FIRST && self.due.is_none_or(|due| at >= due);
        if is_due && !light && self.limit > f64::from(self.floor()) {
            self.measuring = Some(Measuring { since: at, drained: None, samples: 0, sum: 0.0 });
        }
        if is_due || light {
            self.due = Some(next_due(at));
        }
    }

    fn measure(&mut self, sent: Ts, at: Ts, latency_us: u64, out: u32) {
        let floor = self.floor();
        let Some(measuring) = &mut self.measuring else { return };
        if out <= floor {
            let drained = *measuring.drained.get_or_insert(at);
            if sent >= drained {
                measuring.samples += 1;
                measuring.sum += logarithm(latency_us);
            }
        }
        let Measuring { since, samples, sum, .. } = *measuring;
        let is_over = at.since(since) >= MEASURED_FOR;
        if samples >= WANTED || is_over {
            self.measuring = None;
            if samples >= ENOUGH {
                self.usual += MEASURED * (sum / f64::from(samples) - self.usual);
            }
        }
    }
}

fn logarithm(latency_us: u64) -> f64 {
    (latency_us.max(1) as f64).ln()
}

/// The low digits of the time stand for chance.
fn next_due(at: Ts) -> Ts {
    let every = micros(EVERY);
    at.plus(Duration::from_micros(every + at.0 % (every / 5)))
}

#[cfg(test)]
mod tests;
