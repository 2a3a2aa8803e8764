//! What of a gate outlives a restart: pauses and what was learnt. Tickets, and so the requests in flight, don't; buckets start
//! full. A pause for a refused key isn't kept either: the keys are read anew, and may be better ones.

use super::{Gate, PauseReason};
use crate::domain::learn::{LearnerCheckpoint, RateLearner};
use crate::domain::settings::LimitSettings;
use crate::domain::time::{Ts, Wall};
use serde::{Deserialize, Serialize};

/// A gate on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GateCheckpoint {
    /// When it was made.
    pub at: Wall,
    /// Pauses that were running, with their ends.
    pub pauses: Vec<(PauseReason, Wall)>,
    pub learner: LearnerCheckpoint,
}

impl Gate {
    /// The state as of `now`, which is `wall` on the wall clock.
    #[must_use]
    pub fn checkpoint(&self, now: Ts, wall: Wall) -> GateCheckpoint {
        let pauses = PauseReason::ALL
            .into_iter()
            .filter(|reason| *reason != PauseReason::Auth)
            .map(|reason| (reason, self.pauses[reason as usize]))
            .filter(|(_, until)| now < *until)
            .map(|(reason, until)| (reason, wall.plus(until.since(now))))
            .collect();
        GateCheckpoint { at: wall, pauses, learner: self.learner.checkpoint(now, wall) }
    }

    /// The gate of a checkpoint. What remains of a pause is what the wall clock says, but never more than when it was saved.
    #[must_use]
    pub fn restore(limits: &LimitSettings, from: &GateCheckpoint, now: Ts, wall: Wall) -> Self {
        let mut gate = Self::new(limits, now);
        for (reason, until) in &from.pauses {
            gate.pause(now, now.plus(until.since(wall).min(until.since(from.at))), *reason);
        }
        gate.learner = RateLearner::restore(&from.learner, from.at, now, wall);
        gate.apply_learnt(now);
        gate
    }
}
