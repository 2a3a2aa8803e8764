//! One Coordinator per HTTP worker, on the worker's own arbiter: it puts a route's candidates in order. It owns the strategies'
//! cursors and draws the rolls; everything else it reads from the board.

use crate::actors::messages::{Candidate, Plan, PlanRequest, Removed, RemovedWhy};
use crate::domain::gate::{Ask, Refusal};
use crate::domain::intelligent;
use crate::domain::strategy::{self, CandidateFacts, Cursor, Ranked, StrategyKind};
use crate::domain::usage::Usage;
use actix::{Actor, Context, Handler};
use std::collections::HashMap;
use std::sync::Arc;

/// Routes × strategies whose cursors are kept; beyond it all start anew.
const MAX_CURSORS: usize = 65_536;

#[derive(Default)]
pub struct Coordinator {
    cursors: HashMap<(Arc<str>, StrategyKind), Cursor>,
    /// Reused between requests: index into the route's cells, and the refusal that goes with each fact.
    kept: Vec<(usize, Option<Refusal>)>,
    facts: Vec<CandidateFacts>,
    ranked: Vec<Ranked>,
}

impl Actor for Coordinator {
    type Context = Context<Self>;
}

impl Handler<PlanRequest> for Coordinator {
    type Result = Plan;

    fn handle(&mut self, request: PlanRequest, _: &mut Self::Context) -> Plan {
        self.plan(request, fastrand::f64())
    }
}

impl Coordinator {
    /// Ranks the candidates of one request; `roll` is in 0..1.
    pub fn plan(&mut self, request: PlanRequest, roll: f64) -> Plan {
        let removed = self.collect(&request);
        let asked = request.strategy.unwrap_or(request.route.strategy);
        let mut plan = Plan {
            strategy: asked,
            rule: None,
            complexity: None,
            candidates: Vec::new(),
            removed,
            route: request.route,
        };
        let mut floor = 0.0;
        if asked == StrategyKind::Intelligent {
            let complexity = request.complexity.unwrap_or_default();
            let choice = intelligent::decide(&request.intelligent, complexity, &request.hints);
            plan.strategy = choice.strategy;
            plan.rule = Some(choice.rule.to_string());
            plan.complexity = Some(complexity);
            floor = choice.min_quality;
        }
        self.rank(&plan.route.name, plan.strategy, floor, roll);
        plan.candidates = self
            .ranked
            .iter()
            .filter_map(|ranked| {
                let slot = ranked.index as usize;
                let (index, refusal) = self.kept.get(slot)?;
                let facts = self.facts.get(slot)?;
                Some(Candidate { index: *index, score: ranked.score, facts: facts.clone(), refusal: refusal.clone() })
            })
            .collect();
        if request.no_fallback {
            let others = plan.candidates.drain(1.min(plan.candidates.len())..);
            plan.removed.extend(others.map(|c| Removed { index: c.index, why: RemovedWhy::NoFallback }));
        }
        plan
    }

    /// Fills `kept` and `facts` with the route's candidates that may serve this request, and returns the others.
    fn collect(&mut self, request: &PlanRequest) -> Vec<Removed> {
        self.kept.clear();
        self.facts.clear();
        let mut removed = Vec::new();
        let tokens = request.prompt_tokens.saturating_add(request.completion_tokens);
        let usage = Usage { input: request.prompt_tokens, output: request.completion_tokens, ..Usage::default() };
        for (index, cell) in request.route.cells.iter().enumerate() {
            let config = cell.config();
            let est_cost = config.price.as_ref().map(|p| p.cost(&usage));
            let why = match (request.hints.max_cost, est_cost) {
                (Some(_), None) => Some(RemovedWhy::Unpriced),
                (Some(most), Some(estimate)) if estimate > most => Some(RemovedWhy::OverMaxCost { estimate }),
                _ => config
                    .context
                    .filter(|context| request.prompt_tokens > *context)
                    .map(|context| RemovedWhy::ContextTooShort { context }),
            };
            if let Some(why) = why {
                removed.push(Removed { index, why });
                continue;
            }
            let (refusal, figures, in_flight) = {
                let hot = cell.hot.lock();
                (hot.gate.peek(request.now, tokens, Ask { may_probe: true, roll: 0.0 }), hot.figures, hot.gate.in_flight())
            };
            self.facts.push(CandidateFacts {
                weight: config.weight,
                quality: config.quality as f32,
                est_cost,
                ewma_ttft_us: figures.ewma_ttft_us,
                in_flight,
                failure_rate: figures.failure_rate,
                samples: figures.samples,
                blocked: refusal.is_some(),
            });
            self.kept.push((index, refusal));
        }
        removed
    }

    fn rank(&mut self, route: &Arc<str>, kind: StrategyKind, floor: f32, roll: f64) {
        if self.cursors.len() >= MAX_CURSORS {
            self.cursors.clear();
        }
        let cursor = self.cursors.entry((Arc::clone(route), kind)).or_default();
        strategy::rank(kind, &self.facts, cursor, roll, &mut self.ranked);
        strategy::apply_floor(&self.facts, floor, &mut self.ranked);
    }
}
