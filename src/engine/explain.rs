//! What would be chosen now: the decision without the request.

use crate::actors::coordinator::Coordinator;
use crate::actors::messages::Plan;
use crate::actors::topology::Topology;
use crate::clock;
use crate::config::model::Config;
use crate::engine::access::Caller;
use crate::engine::budgets::{Applied, Budgets};
use crate::engine::error::{ApiError, Code};
use crate::engine::gateway::Worker;
use crate::engine::hints::Hints;
use crate::engine::record::Decision;
use crate::engine::registry::{layered, make_cell};
use crate::engine::serve::spare_exceeded;
use crate::engine::understand::understand;
use crate::store::{Area, Store};
use std::rc::Rc;
use std::sync::Arc;

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
    let plan = understood.look(worker, clock::now(), applied.as_deref(), exceeded).await?;
    Ok(decision(plan, understood.prompt_tokens, &gateway.budgets, applied.as_deref()))
}

/// The decision that a gateway started now would take, from its configuration and what its store remembers. Without a store nobody knows
/// what was spent.
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
        let name: &Arc<crate::config::model::EndpointConfig> = &endpoint;
        let checkpoint = state.as_ref().and_then(|s| s.get(Area::Checkpoint, &name.name).ok().flatten());
        make_cell(id, endpoint, checkpoint.as_deref())
    };
    let budgets = Budgets::default();
    let configured = budgets.replace(config.all_budgets(&endpoints));
    if let Some(store) = store {
        budgets.recall_all(&configured, store).map_err(|e| failed(e.to_string()))?;
    }
    let topology = Topology::new((0..).zip(endpoints).map(cell).collect(), &config.routes);
    let caller = Caller::Operator;
    let understood = understand(&topology, config, &caller, Hints::default(), body)?;
    let tags = understood.hints.tags_over(caller.tags());
    let applied = budgets.applied(&caller.key_id(), &understood.route.name, &tags);
    let exceeded = applied.as_ref().is_some_and(|a| budgets.is_exceeded(a.entries.iter()));
    let request = understood.plan_request(Arc::new(config.clone()), clock::now(), applied.as_deref(), exceeded);
    let plan = Coordinator::default().plan(request, 0.5);
    Ok(decision(plan, understood.prompt_tokens, &budgets, applied.as_deref()))
}

/// A plan as a request would take it, with what is left of the budgets that apply.
fn decision(mut plan: Plan, prompt_tokens: u64, budgets: &Budgets, applied: Option<&Applied>) -> Decision {
    spare_exceeded(budgets, applied, &mut plan);
    let mut decision = Decision::of(&plan, prompt_tokens);
    if let Some(applied) = applied {
        let endpoints = plan.route.cells.iter().map(|cell| &cell.name);
        decision.budgets = budgets.shown(applied, endpoints);
    }
    decision
}
