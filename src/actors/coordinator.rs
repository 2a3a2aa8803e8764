//! One Coordinator per HTTP worker, on the worker's own arbiter: it puts a route's candidates in order. It owns the strategies'
//! cursors and draws the rolls; everything else it reads from the board.

use crate::actors::board::Hot;
use crate::actors::messages::{Candidate, Plan, PlanRequest, Removed, RemovedWhy};
use crate::actors::topology::RouteTable;
use crate::domain::gate::Refusal;
use crate::domain::intelligent;
use crate::domain::slo::{self, Chance, Judged, Measured, Wish};
use crate::domain::strategy::{self, CandidateFacts, Cursors, Order, Ranked, StrategyKind};
use crate::domain::usage::Usage;
use actix::{Actor, Context, Handler};
use std::collections::HashMap;
use std::sync::Arc;

/// Routes whose cursors are kept; beyond it all start anew.
const MAX_CURSORS: usize = 16_384;

#[derive(Default)]
pub struct Coordinator {
    /// By route.
    cursors: HashMap<Arc<str>, OfRoute>,
    /// Reused between requests: index into the route's cells, and the refusal that goes with each fact.
    kept: Vec<(usize, Option<Refusal>)>,
    facts: Vec<CandidateFacts>,
    ranked: Vec<Ranked>,
    /// One for each fact, if the request has a wish.
    chances: Vec<Chance>,
}

struct OfRoute {
    /// The list that the cursors count along.
    route: Arc<RouteTable>,
    cursors: Cursors,
}

/// A route's cursors; new ones when its list of endpoints is another.
fn cursors<'a>(all: &'a mut HashMap<Arc<str>, OfRoute>, route: &Arc<RouteTable>) -> &'a mut Cursors {
    let fresh = || OfRoute { route: Arc::clone(route), cursors: Cursors::default() };
    let kept = all.entry(Arc::clone(&route.name)).or_insert_with(fresh);
    if !Arc::ptr_eq(&kept.route, route) {
        let ids = |r: &RouteTable| r.cells.iter().map(|c| c.id).collect::<Vec<_>>();
        let same = ids(&kept.route) == ids(route);
        kept.route = Arc::clone(route);
        if !same {
            kept.cursors = Cursors::default();
        }
    }
    &mut kept.cursors
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
            explored: false,
            floor_missed: false,
            slo: None,
            complexity: None,
            candidates: Vec::new(),
            removed,
            route: request.route,
        };
        let mut order = Order { strategy: asked, min_quality: 0.0, settings: request.config.ranking };
        if let (StrategyKind::Intelligent, Some(judged)) = (asked, request.complexity) {
            let choice = intelligent::decide(&request.config.intelligent, judged.complexity, &request.hints);
            order = choice.order(request.config.ranking);
            plan.rule = Some(choice.rule);
            plan.complexity = Some(judged);
        }
        if self.cursors.len() >= MAX_CURSORS {
            self.cursors.clear();
        }
        let cursor = cursors(&mut self.cursors, &plan.route).of(order.strategy);
        let applied = if request.look_only {
            strategy::rank_with(&order, &self.facts, &mut cursor.clone(), roll, &mut self.ranked)
        } else {
            strategy::rank_with(&order, &self.facts, cursor, roll, &mut self.ranked)
        };
        plan.strategy = applied.strategy;
        plan.explored = applied.explored;
        plan.floor_missed = applied.floor_missed;
        plan.slo = request.wish.map(|wish| self.rank_by_time(wish, order.settings.explore, roll));
        plan.candidates = self
            .ranked
            .iter()
            .filter_map(|ranked| {
                let slot = ranked.index as usize;
                let (index, refusal) = self.kept.get(slot)?;
                let facts = self.facts.get(slot)?;
                let p_in_time = self.chances.get(slot).map(|chance| chance.p);
                Some(Candidate { index: *index, score: ranked.score, facts: *facts, p_in_time, refusal: *refusal })
            })
            .collect();
        if request.no_fallback {
            let others = plan.candidates.drain(1.min(plan.candidates.len())..);
            plan.removed.extend(others.map(|c| Removed { index: c.index, why: RemovedWhy::NoFallback }));
        }
        plan
    }

    /// Puts those first that answer in time.
    fn rank_by_time(&mut self, wish: Wish, explore: f32, roll: f64) -> Judged {
        let Self { facts, ranked, chances, .. } = self;
        let fact = |i: u32| facts.get(i as usize).map_or((false, None), |f| (!f.blocked, f.est_cost));
        slo::order(wish, ranked, |r| r.index, chances, fact, explore, roll)
    }

    /// Fills `kept` and `facts` with the route's candidates that may serve this request, and returns the others.
    fn collect(&mut self, request: &PlanRequest) -> Vec<Removed> {
        self.kept.clear();
        self.facts.clear();
        self.chances.clear();
        let mut removed = Vec::new();
        let tokens = request.prompt_tokens.saturating_add(request.completion_tokens);
        let usage = Usage { input: request.prompt_tokens, output: request.completion_tokens, ..Usage::default() };
        for (index, cell) in request.route.cells.iter().enumerate() {
            let Hot { gate, figures, config } = &*cell.hot.lock();
            let est_cost = config.price.as_ref().map(|p| p.cost(&usage));
            let why = match (request.hints.max_cost, est_cost) {
                (Some(_), None) => Some(RemovedWhy::Unpriced),
                (None, None) if request.hard_budget.is_some() => Some(RemovedWhy::UnpricedUnderBudget),
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
            if let Some(wish) = &request.wish {
                let table = if wish.measured == Measured::FirstToken { &figures.ttft } else { &figures.latency };
                self.chances.push(Chance::of(table, wish));
            }
            let refusal = gate.peek(request.now, tokens, true);
            self.facts.push(CandidateFacts {
                slot: u32::try_from(index).unwrap_or(u32::MAX),
                weight: config.weight,
                quality: config.quality as f32,
                est_cost,
                ewma_ttft_us: figures.ewma_ttft_us.map(|us| us as f32),
                in_flight: gate.in_flight(),
                failure_rate: figures.failure_rate,
                // An average without a time to first token behind it (whole answers only) is history all the same.
                samples: figures.samples.max(u64::from(figures.ewma_ttft_us.is_some())),
                blocked: refusal.is_some(),
            });
            self.kept.push((index, refusal));
        }
        removed
    }
}
