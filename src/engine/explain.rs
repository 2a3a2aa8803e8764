//! What would be chosen now: the decision without the request.

use crate::actors::coordinator::Coordinator;
use crate::actors::topology::Topology;
use crate::clock;
use crate::config::model::Config;
use crate::engine::access::Caller;
use crate::engine::error::{ApiError, Code};
use crate::engine::gateway::Worker;
use crate::engine::hints::Hints;
use crate::engine::record::Decision;
use crate::engine::registry::{layered, make_cell};
use crate::engine::understand::understand;
use crate::store::{Area, Store};
use std::rc::Rc;

/// The decision for a request in a running gateway.
///
/// # Errors
/// What is wrong with the request.
pub async fn running(worker: &Rc<Worker>, caller: &Caller, hints: Hints, body: &[u8]) -> Result<Decision, ApiError> {
    let gateway = &worker.gateway;
    let understood = understand(&gateway.board.topology(), &gateway.config(), caller, hints, body)?;
    let tags = gateway.budgets.firm(understood.hints.tags_over(caller.tags()), caller.tags());
    let applied = gateway.budgets.applied(&caller.key_id(), &understood.route.name, &tags);
    let exceeded = applied.as_ref().is_some_and(|a| gateway.budgets.is_exceeded(a.entries.iter()));
    let hard_budget = applied.as_ref().and_then(|a| a.hard());
    let plan = understood.look(worker, clock::now(), hard_budget, exceeded).await?;
    let mut decision = Decision::of(&plan, understood.prompt_tokens);
    if let Some(applied) = &applied {
        let endpoints = plan.route.cells.iter().map(|cell| &cell.name);
        decision.budgets = gateway.budgets.shown(applied, endpoints);
    }
    Ok(decision)
}

/// The decision that a gateway started now would take, from its configuration and what its store remembers.
///
/// # Errors
/// What is wrong with the request, or that the store cannot be read.
pub fn offline(config: &Config, store: Option<&Store>, body: &[u8]) -> Result<Decision, ApiError> {
    let failed = |e: String| ApiError::new(Code::LedgerUnavailable, e);
    let state = store.map(Store::state);
    let endpoints = match &state {
        Some(state) => layered(config, state).map_err(failed)?,
        None => config.endpoints.clone(),
    };
    let cell = |(id, endpoint)| {
        let name: &std::sync::Arc<crate::config::model::EndpointConfig> = &endpoint;
        let checkpoint = state.as_ref().and_then(|s| s.get(Area::Checkpoint, &name.name).ok().flatten());
        make_cell(id, endpoint, checkpoint.as_deref())
    };
    let topology = Topology::new((0..).zip(endpoints).map(cell).collect(), &config.routes);
    let understood = understand(&topology, config, &Caller::Operator, Hints::default(), body)?;
    let request = understood.plan_request(std::sync::Arc::new(config.clone()), clock::now());
    let plan = Coordinator::default().plan(request, 0.5);
    Ok(Decision::of(&plan, understood.prompt_tokens))
}
