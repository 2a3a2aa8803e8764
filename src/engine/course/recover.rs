//! Going on with a stream that broke off: the rest of its plan, walked with a request to continue the text.
//!
//! It is the same walk: gates, retry budget, attempts and deadline bound it, and each attempt has its row, whose decision ends in
//! `;recover`. Only hedges are left out.

use super::Course;
use crate::actors::messages::Plan;
use crate::dialects::openai::request::ChatRequest;
use crate::dialects::openai::transcript::Transcript;
use crate::domain::outcome::Outcome;
use crate::domain::plan::AttemptPlan;
use crate::engine::context::RequestContext;
use crate::engine::error::{ApiError, Code};
use crate::engine::hints::Hints;
use crate::engine::relay::Relay;
use crate::engine::serve::Served;
use crate::engine::understand::Understood;
use bytes::Bytes;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What is left of a request's plan once it has a stream.
pub struct Recovery {
    ctx: Rc<RequestContext>,
    /// The caller's.
    body: Bytes,
    decided: Arc<Plan>,
    plan: AttemptPlan,
    failures: Vec<(Arc<str>, Outcome, Duration)>,
    /// Who streams.
    index: usize,
    prompt_tokens: u64,
    completion_tokens: u64,
}

impl Course<'_> {
    /// Has a stream gone on with when it breaks off, if the route says so.
    pub(super) fn recoverable(self, mut served: Served, index: usize) -> Served {
        if let Served::Stream { relay, .. } = &mut served
            && let Some(body) = self.body
        {
            relay.recover_by(Recovery {
                ctx: Rc::clone(self.ctx),
                body,
                decided: self.decided,
                plan: self.plan,
                failures: self.failures,
                index,
                prompt_tokens: self.understood.prompt_tokens,
                completion_tokens: self.understood.completion_tokens,
            });
        }
        served
    }
}

impl Recovery {
    /// Finds somebody to go on with the text of `transcript`.
    ///
    /// # Errors
    /// Why there is nobody.
    pub fn go_on(
        self: Box<Self>,
        transcript: Box<Transcript>,
    ) -> Pin<Box<dyn Future<Output = Result<Box<Relay>, ApiError>>>> {
        Box::pin(async move {
            let request = ChatRequest::parse(&self.body)?;
            let route = Arc::clone(&self.decided.route);
            let (prompt_tokens, completion_tokens) = (self.prompt_tokens, self.completion_tokens);
            let hints = Hints::default();
            // A token is a byte at least.
            let added_tokens = ChatRequest::continuation_bytes(transcript.text().map_or(0, str::len));
            let complexity = None;
            let understood =
                Understood { request, hints, route, prompt_tokens, completion_tokens, added_tokens, complexity };
            let mut plan = self.plan;
            plan.broke_off(self.index);
            let mut failures = self.failures;
            let broken = self.decided.candidates.get(self.index).and_then(|c| self.decided.route.cells.get(c.index));
            failures.extend(broken.map(|cell| (Arc::clone(&cell.name), Outcome::Partial, Duration::ZERO)));
            let course = Course {
                ctx: &self.ctx,
                understood: &understood,
                decided: self.decided,
                plan,
                refusals: Vec::new(),
                failures,
                retry_after: None,
                over_budget: Vec::new(),
                has_hedged: true,
                body: Some(self.body.clone()),
                go_on: Some(Rc::from(transcript)),
            };
            match course.run().await? {
                Served::Stream { relay, .. } => Ok(relay),
                Served::Whole { status, .. } => {
                    let message = format!("the request to go on was answered with {status}");
                    Err(ApiError::new(Code::UpstreamFailed, message))
                }
            }
        })
    }
}
