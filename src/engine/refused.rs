//! Requests that are refused before there is a plan: by their key's limits or models, or because they are not understood, or the gateway is
//! full. Their records say why, as those of all others do.
//!
//! They are kept apart, in memory alone: a caller that is refused ten thousand times a second neither pushes out what became of other
//! requests nor writes to the disk. What is wrong with a request that is not understood is told to its caller only, for it may quote it.

use crate::clock;
use crate::domain::ids::RequestId;
use crate::domain::money::NanoUsd;
use crate::domain::time::Ts;
use crate::engine::access::Caller;
use crate::engine::context::CostState;
use crate::engine::error::{ApiError, Code};
use crate::engine::gateway::Gateway;
use crate::engine::record::{Kept, Step, ms};
use crate::engine::serve::Failure;
use std::sync::Arc;

/// Records kept.
pub const KEPT: usize = 1_000;

/// What is known of a refused request.
pub struct Refused<'a> {
    pub caller: &'a Caller,
    pub started: Ts,
    /// Its caller's own.
    pub id: Option<RequestId>,
    /// Empty as long as it is not known.
    pub model: Arc<str>,
}

impl Gateway {
    /// Keeps why a request was refused, and gives it an id if it has none.
    pub fn refuse(&self, refused: Refused<'_>, error: ApiError) -> Failure {
        let at = clock::wall();
        let request_id = refused.id.unwrap_or_else(|| RequestId::mint(at, fastrand::u128(..)));
        let duration = clock::now().since(refused.started);
        let because = match (error.code, &error.param) {
            (Code::InvalidRequest, Some(param)) => format!("`{param}` is not valid"),
            (Code::InvalidRequest, None) => "the request is not valid".to_owned(),
            _ => error.message.clone(),
        };
        self.refused.put(Kept {
            request_id: request_id.clone(),
            started_at: at.minus(duration),
            model: refused.model,
            stream: false,
            key_id: refused.caller.key_id(),
            outcome: error.code.as_str(),
            status: error.code.status(),
            endpoint: None,
            duration,
            attempts: 0,
            cost: NanoUsd::ZERO,
            cost_state: CostState::default().as_str(),
            prompt_tokens: 0,
            plan: None,
            steps: vec![Step::TurnedAway { at_ms: ms(duration), because }],
        });
        Failure { request_id: Some(request_id), error }
    }
}
