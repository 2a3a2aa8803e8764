//! The circuit breaker of one endpoint. Closed is healthy, open is refusing.
//!
//! - **Closed** records results in a window and counts failures in a row (an overload answer counts half). It opens when the
//!   row is long enough; or else when enough calls have failed, or were slow, for their share to mean something.
//! - **Open** lasts `open_for`, doubled with each re-opening, with jitter, up to `max_open_for`. Having been closed for
//!   `forget_after` starts the doubling anew. A deadline only ever moves later, an operator's too; only a reset shortens it.
//! - **Half-open** admits a few probes. Enough successes close, enough failures open again (two of three by default: one bad
//!   answer is no outage, and an endpoint that fails 30 % of its calls would hardly ever come back), and so does the end of
//!   `half_open_for` without either: a probe that never answers is a failed one. A probe whose result says nothing about
//!   health is not counted.
//! - After closing by itself it lets traffic back in steps, over `ramp`. A reset by an operator is trusted at once.
//! - **Forced open** (until reset or a time; then half-open) and **disabled** (records, never refuses) are an operator's.
//! - Every state period has an epoch. A result of an earlier one never moves the state: while closed it isn't counted at all,
//!   otherwise it shows in the window's rates, which then decide nothing and are cleared on closing.
//!
//! The breaker decides; its [`Door`] is what the gate enforces. It neither admits nor reads time.

mod cause;
mod checkpoint;

pub use cause::{BreakerView, Cause, State, Transition};
pub use checkpoint::BreakerCheckpoint;

use crate::domain::gate::Door;
use crate::domain::outcome::Verdict;
use crate::domain::settings::BreakerSettings;
use crate::domain::time::{Ts, micros};
use crate::domain::window::{FailureWindow, Sample};
use std::sync::Arc;
use std::time::Duration;

/// What the state needs to remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// `recovering`: closed by probes, so traffic ramps up.
    Closed {
        recovering: bool,
    },
    Open {
        until: Ts,
    },
    HalfOpen {
        until: Ts,
        successes: u32,
        failures: u32,
    },
    ForcedOpen {
        until: Option<Ts>,
    },
    Disabled,
}

impl Phase {
    fn state(self) -> State {
        match self {
            Self::Closed { .. } => State::Closed,
            Self::Open { .. } => State::Open,
            Self::HalfOpen { .. } => State::HalfOpen,
            Self::ForcedOpen { .. } => State::ForcedOpen,
            Self::Disabled => State::Disabled,
        }
    }
}

/// The state machine, its window, and why it is in the state it is in.
#[derive(Clone, Debug)]
pub struct Breaker {
    settings: Arc<BreakerSettings>,
    window: FailureWindow,
    /// Failures since the last success, in halves.
    streak_halves: u32,
    phase: Phase,
    /// Number of this state period; tickets carry it.
    epoch: u64,
    since: Ts,
    /// Why this state was entered.
    cause: Cause,
    /// Openings since the doubling last started anew.
    openings: u32,
}

impl Breaker {
    /// A closed breaker that knows of nothing.
    #[must_use]
    pub fn new(settings: Arc<BreakerSettings>, now: Ts) -> Self {
        let window = FailureWindow::new(settings.window);
        let phase = Phase::Closed { recovering: false };
        Self { settings, window, streak_halves: 0, phase, epoch: 1, since: now, cause: Cause::Start, openings: 0 }
    }

    /// Takes in one result. `epoch` and `probe` are its ticket's; `roll` (0..1) spreads the open period that may follow.
    pub fn on_result(
        &mut self,
        now: Ts,
        epoch: u64,
        probe: bool,
        verdict: Verdict,
        slow: bool,
        roll: f64,
    ) -> Option<Transition> {
        let failure_halves: u8 = match verdict {
            Verdict::Success => 0,
            Verdict::Failure { half_weight } => 2 - u8::from(half_weight),
            Verdict::Neutral => return None,
        };
        let current = epoch == self.epoch;
        let closed = matches!(self.phase, Phase::Closed { .. });
        if current || !closed {
            self.window.record(now, Sample { failure_halves, slow });
        }
        if !current {
            return None;
        }
        if failure_halves == 0 {
            self.streak_halves = 0;
        } else {
            self.streak_halves = self.streak_halves.saturating_add(u32::from(failure_halves));
        }
        match self.phase {
            Phase::Closed { .. } => self.reason_to_open(now).map(|cause| self.open(now, cause, roll)),
            Phase::HalfOpen { .. } if probe => self.judge_probe(now, failure_halves > 0, roll),
            Phase::Open { .. } | Phase::HalfOpen { .. } | Phase::ForcedOpen { .. } | Phase::Disabled => None,
        }
    }

    /// Does what the clock alone decides, if it is time; see [`Self::next_wake`].
    pub fn on_time(&mut self, now: Ts, roll: f64) -> Option<Transition> {
        match self.phase {
            Phase::Open { until } if now >= until => Some(self.half_open(now, Cause::OpenPeriodOver)),
            Phase::HalfOpen { until, .. } if now >= until => Some(self.open(now, Cause::NoVerdict, roll)),
            Phase::ForcedOpen { until: Some(until) } if now >= until => {
                Some(self.half_open(now, Cause::OperatorPeriodOver))
            }
            _ => None,
        }
    }

    /// When [`Self::on_time`] next has something to do.
    #[must_use]
    pub fn next_wake(&self) -> Option<Ts> {
        match self.phase {
            Phase::Open { until } | Phase::HalfOpen { until, .. } => Some(until),
            Phase::ForcedOpen { until } => until,
            Phase::Closed { .. } | Phase::Disabled => None,
        }
    }

    /// Forces it open, until a reset or until a time; never shorter than it is shut already.
    pub fn trip(&mut self, now: Ts, until: Option<Ts>, reason: &str, author: &str) -> Transition {
        let until = match self.phase {
            Phase::Open { until: shut } | Phase::ForcedOpen { until: Some(shut) } => until.map(|t| t.max(shut)),
            Phase::ForcedOpen { until: None } => None,
            Phase::Closed { .. } | Phase::HalfOpen { .. } | Phase::Disabled => until,
        };
        self.enter(now, Phase::ForcedOpen { until }, Cause::operator(reason, author))
    }

    /// Closes it, whatever it was, and forgets the window and earlier openings.
    pub fn reset(&mut self, now: Ts, reason: &str, author: &str) -> Transition {
        self.openings = 0;
        self.close(now, Phase::Closed { recovering: false }, Cause::operator(reason, author))
    }

    /// Lets it record but never refuse, until a reset or a trip.
    pub fn disable(&mut self, now: Ts, reason: &str, author: &str) -> Transition {
        self.enter(now, Phase::Disabled, Cause::operator(reason, author))
    }

    /// What the gate has to enforce now.
    #[must_use]
    pub fn door(&self, now: Ts) -> Door {
        let epoch = self.epoch;
        match self.phase {
            Phase::Closed { recovering: true } if now < self.since.plus(self.settings.ramp) => {
                Door::Ramp { epoch, since: self.since, over: self.settings.ramp }
            }
            Phase::Closed { .. } | Phase::Disabled => Door::Open { epoch },
            Phase::Open { until } => Door::Shut { epoch, until: Some(until), operator: false },
            Phase::ForcedOpen { until } => Door::Shut { epoch, until, operator: true },
            Phase::HalfOpen { successes, failures, .. } => {
                let left = self.settings.half_open_calls.max(1);
                // As many as a verdict can take.
                let to_close = self.settings.half_open_successes.max(1).saturating_sub(successes);
                let to_open = self.settings.half_open_failures.max(1).saturating_sub(failures);
                let needed = (to_close + to_open).saturating_sub(1);
                Door::Probing { epoch, left, spare: needed.saturating_sub(left) }
            }
        }
    }

    /// The breaker as people see it.
    #[must_use]
    pub fn view(&self, now: Ts) -> BreakerView {
        let rates = self.window.rates(now);
        let retry_at = match self.phase {
            Phase::Open { until } => Some(until),
            Phase::ForcedOpen { until } => until,
            Phase::Closed { .. } | Phase::HalfOpen { .. } | Phase::Disabled => None,
        };
        BreakerView {
            state: self.state(),
            reason: self.cause.to_string(),
            since: self.since,
            retry_at,
            failure_rate: rates.failure_rate,
            slow_rate: rates.slow_rate,
            calls: rates.calls,
            epoch: self.epoch,
        }
    }

    #[must_use]
    pub fn state(&self) -> State {
        self.phase.state()
    }

    /// The number of the running state period.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The window that decides while closed.
    #[must_use]
    pub fn window(&self) -> &FailureWindow {
        &self.window
    }

    #[must_use]
    pub fn settings(&self) -> &Arc<BreakerSettings> {
        &self.settings
    }

    /// Changes the settings at run time. State, deadlines and, as far as the new window reaches, counts stay.
    pub fn set_settings(&mut self, settings: Arc<BreakerSettings>, now: Ts) {
        if settings.window != self.settings.window {
            self.window = self.window.resized(settings.window, now);
        }
        self.settings = settings;
    }

    /// Counts a probe's result; a failure of half weight is one here, or permits could run out before there is a verdict.
    fn judge_probe(&mut self, now: Ts, failed: bool, roll: f64) -> Option<Transition> {
        let Phase::HalfOpen { successes, failures, .. } = &mut self.phase else { return None };
        if failed {
            *failures = failures.saturating_add(1);
        } else {
            *successes = successes.saturating_add(1);
        }
        let (successes, failures) = (*successes, *failures);
        if failures >= self.settings.half_open_failures.max(1) {
            return Some(self.open(now, Cause::ProbeFailed, roll));
        }
        let enough = successes >= self.settings.half_open_successes.max(1);
        enough.then(|| self.close(now, Phase::Closed { recovering: true }, Cause::ProbesSucceeded { n: successes }))
    }

    /// A row of failures wins over the rates, because it says more.
    fn reason_to_open(&self, now: Ts) -> Option<Cause> {
        let s = &self.settings;
        if self.streak_halves >= s.consecutive_failures.max(1).saturating_mul(2) {
            return Some(Cause::Consecutive { n: self.streak_halves / 2 });
        }
        let rates = self.window.rates(now);
        if rates.calls >= s.minimum_calls.max(1) && rates.failure_rate >= s.failure_rate {
            return Some(Cause::FailureRate { rate: rates.failure_rate, calls: rates.calls });
        }
        if rates.calls >= s.slow_minimum_calls.max(1) && rates.slow_rate >= s.slow_rate {
            return Some(Cause::SlowRate { rate: rates.slow_rate, calls: rates.calls });
        }
        None
    }

    fn open(&mut self, now: Ts, cause: Cause, roll: f64) -> Transition {
        let was_closed = matches!(self.phase, Phase::Closed { .. });
        if was_closed && now.since(self.since) >= self.settings.forget_after {
            self.openings = 0;
        }
        let until = now.plus(open_period(&self.settings, self.openings, roll));
        self.openings = self.openings.saturating_add(1);
        self.enter(now, Phase::Open { until }, cause)
    }

    fn half_open(&mut self, now: Ts, cause: Cause) -> Transition {
        let until = now.plus(self.settings.half_open_for);
        self.enter(now, Phase::HalfOpen { until, successes: 0, failures: 0 }, cause)
    }

    fn close(&mut self, now: Ts, phase: Phase, cause: Cause) -> Transition {
        self.window.clear();
        self.streak_halves = 0;
        self.enter(now, phase, cause)
    }

    fn enter(&mut self, now: Ts, phase: Phase, cause: Cause) -> Transition {
        let from = self.state();
        self.phase = phase;
        self.epoch = self.epoch.saturating_add(1);
        self.since = now;
        self.cause = cause.clone();
        Transition { from, to: self.state(), epoch: self.epoch, cause }
    }
}

/// `open_for × 2ⁿ`, spread by the jitter, at most `max_open_for`.
fn open_period(settings: &BreakerSettings, openings: u32, roll: f64) -> Duration {
    let doubled = micros(settings.open_for).saturating_mul(1_u64.checked_shl(openings).unwrap_or(u64::MAX));
    let most = micros(settings.max_open_for);
    let spread = 1.0 + settings.jitter * (2.0 * roll.clamp(0.0, 1.0) - 1.0);
    let spread_out = (doubled.min(most) as f64 * spread.max(0.0)) as u64;
    Duration::from_micros(spread_out.min(most))
}

#[cfg(test)]
mod tests;
