//! A breaker on disk. Times are wall clock; restoring turns them into remaining time and clamps it, so that neither a long
//! stop nor a clock that was set back can lengthen a deadline.
//!
//! Half-open comes back as open with nothing remaining, because its probes died with the process. The epoch goes on above
//! the stored one: results of before the restart are late results.

use super::{Breaker, Cause, Phase, State};
use crate::domain::settings::BreakerSettings;
use crate::domain::time::{Ts, Wall};
use crate::domain::window::{FailureWindow, WindowCheckpoint};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Everything of a breaker but its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BreakerCheckpoint {
    /// When it was made.
    pub at: Wall,
    pub state: State,
    /// Why it is in this state; an operator's act with reason and author.
    pub cause: Cause,
    pub since: Wall,
    /// The end of an open, half-open or forced-open period.
    pub until: Option<Wall>,
    pub epoch: u64,
    pub openings: u32,
    pub streak_halves: u32,
    /// Whether traffic was ramping up, or had done so, since it closed by itself.
    pub recovering: bool,
    pub window: WindowCheckpoint,
}

impl Breaker {
    /// The state as of `now`, which is `wall` on the wall clock.
    #[must_use]
    pub fn checkpoint(&self, now: Ts, wall: Wall) -> BreakerCheckpoint {
        BreakerCheckpoint {
            at: wall,
            state: self.state(),
            cause: self.cause.clone(),
            since: wall.minus(now.since(self.since)),
            until: self.next_wake().map(|until| wall.plus(until.since(now))),
            epoch: self.epoch,
            openings: self.openings,
            streak_halves: self.streak_halves,
            recovering: matches!(self.phase, Phase::Closed { recovering: true }),
            window: self.window.checkpoint(now),
        }
    }

    /// The breaker of a checkpoint.
    #[must_use]
    pub fn restore(settings: Arc<BreakerSettings>, from: &BreakerCheckpoint, now: Ts, wall: Wall) -> Self {
        let (phase, cause) = match from.state {
            State::Closed => (Phase::Closed { recovering: from.recovering }, from.cause.clone()),
            State::Open => {
                let remaining = from.until.map(|until| until.since(wall)).unwrap_or_default();
                (Phase::Open { until: now.plus(remaining.min(settings.max_open_for)) }, from.cause.clone())
            }
            State::HalfOpen => (Phase::Open { until: now }, Cause::Restarted),
            State::ForcedOpen => {
                let until = from.until.map(|until| now.plus(until.since(wall).min(until.since(from.at))));
                (Phase::ForcedOpen { until }, from.cause.clone())
            }
            State::Disabled => (Phase::Disabled, from.cause.clone()),
        };
        Self {
            window: FailureWindow::restore(settings.window, &from.window, now, wall.since(from.at)),
            settings,
            streak_halves: from.streak_halves,
            phase,
            epoch: from.epoch.saturating_add(1),
            since: now.minus(wall.since(from.since)),
            cause,
            openings: from.openings,
        }
    }
}
