//! One request from its bytes to its answer.

use crate::actors::messages::{Candidate, Plan};
use crate::clock;
use crate::config::model::Config;
use crate::domain::ids::RequestId;
use crate::domain::time::Ts;
use crate::engine::access::Caller;
use crate::engine::budgets::{Applied, Budgets};
use crate::engine::context::{CostState, Opening, RequestContext};
use crate::engine::course::Course;
use crate::engine::error::{ApiError, Code};
use crate::engine::gateway::Worker;
use crate::engine::hints::Hints;
use crate::engine::hold::Cap;
use crate::engine::refused::Refused;
use crate::engine::relay::Relay;
use crate::engine::understand::{Misunderstood, understand};
use bytes::Bytes;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// An answer for the caller.
pub enum Served {
    Whole { head: Head, status: u16, content_type: String, body: Bytes },
    Stream { head: Head, relay: Box<Relay> },
}

/// What the answer's headers say.
#[derive(Clone, Debug)]
pub struct Head {
    pub request_id: RequestId,
    pub endpoint: Arc<str>,
    pub model: Arc<str>,
    pub attempts: u32,
    pub elapsed: Duration,
    pub cost_usd: String,
    pub cost_state: CostState,
    /// Because of a hard budget.
    pub max_tokens: Option<Cap>,
}

/// No answer, and for which request.
pub struct Failure {
    pub request_id: Option<RequestId>,
    pub error: ApiError,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self { request_id: None, error }
    }
}

/// Serves one chat completion.
///
/// # Errors
/// What the caller is told instead.
pub async fn chat(
    worker: &Rc<Worker>,
    config: &Arc<Config>,
    caller: Caller,
    hints: Hints,
    body: Bytes,
    started: Ts,
) -> Result<Served, Failure> {
    let gateway = &worker.gateway;
    let wished = hints.request_id.clone();
    let refuse = |id, model, error| gateway.refuse(Refused { caller: &caller, started, id, model }, error);
    let entered = match gateway.enter(config.server.max_in_flight) {
        Ok(entered) => entered,
        Err(error) => return Err(refuse(wished, "".into(), error)),
    };
    let understood = match understand(&gateway.board.topology(), config, &caller, hints, &body) {
        Ok(understood) => understood,
        Err(Misunderstood { error, model }) => return Err(refuse(wished, model.unwrap_or_default(), error)),
    };
    if let Err(error) = caller.admit(started, understood.prompt_tokens + understood.completion_tokens) {
        return Err(refuse(understood.hints.request_id.clone(), Arc::clone(&understood.route.name), error));
    }
    gateway.retry_budget.lock().deposit(started);
    let id = understood.hints.request_id.clone().unwrap_or_else(|| RequestId::mint(clock::wall(), fastrand::u128(..)));
    let tags = gateway.budgets.firm(understood.hints.tags_over(caller.tags()), caller.tags());
    // In this order: what is newer than the version says is found again at the end.
    let budgets_version = gateway.budgets.version();
    let budgets = gateway.budgets.applied(&caller.key_id(), &understood.route.name, &tags);
    let over_soft_budget = budgets.as_ref().is_some_and(|a| gateway.budgets.is_exceeded(a.entries.iter()));
    let ctx = RequestContext::new(Opening {
        worker: Rc::clone(worker),
        id: id.clone(),
        route: Arc::clone(&understood.route.name),
        tags,
        caller,
        stream: understood.request.stream,
        prompt_tokens: understood.prompt_tokens,
        started,
        budgets,
        budgets_version,
        over_soft_budget,
        entered,
    });
    let plan = match understood.plan(worker, Arc::clone(config), &ctx).await {
        Ok(mut plan) => {
            spare_exceeded(&gateway.budgets, ctx.budgets.as_deref(), &mut plan);
            Arc::new(plan)
        }
        Err(error) => {
            ctx.ended(error.code.as_str(), error.code.status());
            return Err(Failure { request_id: Some(id), error });
        }
    };
    ctx.decided(Arc::clone(&plan));
    let kept = (understood.route.recover && understood.request.stream).then(|| body.clone());
    let course = Course::new(&ctx, &understood, plan, config.server.deadline, kept);
    let result = tokio::select! {
        biased;
        result = course.run() => result,
        () = gateway.stopped() => Err(ApiError::new(Code::NoEndpointAvailable, "the gateway is stopping")
            .with_retry_after(Some(Duration::from_secs(1)))),
    };
    result.map_err(|error| {
        ctx.ended(error.code.as_str(), error.code.status());
        Failure { request_id: Some(id), error }
    })
}

/// Endpoints whose own soft budget is exceeded come after the others.
pub(super) fn spare_exceeded(budgets: &Budgets, applied: Option<&Applied>, plan: &mut Plan) {
    let Some(applied) = applied else { return };
    let Plan { route, candidates, .. } = plan;
    let exceeded =
        |c: &Candidate| route.cells.get(c.index).is_some_and(|cell| budgets.endpoint_is_exceeded(applied, &cell.name));
    candidates.sort_by_cached_key(exceeded);
}
