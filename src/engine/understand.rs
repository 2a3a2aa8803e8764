//! Understanding a request: parsed, its hints taken, its route found, its size and complexity estimated.

use crate::actors::messages::{Plan, PlanRequest};
use crate::actors::topology::{RouteTable, Topology};
use crate::config::model::Config;
use crate::dialects::openai::answer::Answer;
use crate::dialects::openai::request::{BadRequest, ChatRequest};
use crate::domain::complexity::{self, Classified, PromptScan};
use crate::domain::intelligent::IntelligentSettings;
use crate::domain::slo::Wish;
use crate::domain::strategy::StrategyKind;
use crate::domain::time::Ts;
use crate::domain::tokens::encoding::Encoding;
use crate::engine::access::Caller;
use crate::engine::attempt::Seen;
use crate::engine::budgets::Applied;
use crate::engine::context::RequestContext;
use crate::engine::count;
use crate::engine::error::{ApiError, Code};
use crate::engine::gateway::Worker;
use crate::engine::hints::Hints;
use std::rc::Rc;
use std::sync::Arc;

/// Completion tokens expected of a request that names no maximum: what tpm reserves and costs are estimated with.
const DEFAULT_COMPLETION: u64 = 1024;

impl From<BadRequest> for ApiError {
    fn from(bad: BadRequest) -> Self {
        let error = Self::new(Code::InvalidRequest, bad.message);
        match bad.param {
            Some(param) => error.with_param(&param),
            None => error,
        }
    }
}

/// A parsed request with everything that planning needs.
pub struct Understood<'a> {
    pub request: ChatRequest<'a>,
    pub hints: Hints,
    pub route: Arc<RouteTable>,
    /// Estimated.
    pub prompt_tokens: u64,
    /// Expected at most.
    pub completion_tokens: u64,
    /// What is added to the prompt at most, where a broken stream is gone on with.
    pub added_tokens: u64,
    /// Judged where the strategy asks for it.
    pub complexity: Option<Classified>,
}

/// Why a request cannot be served, and the model that it asks for if that is known.
pub struct Misunderstood {
    pub error: ApiError,
    pub model: Option<Arc<str>>,
}

impl From<ApiError> for Misunderstood {
    fn from(error: ApiError) -> Self {
        Self { error, model: None }
    }
}

impl From<BadRequest> for Misunderstood {
    fn from(bad: BadRequest) -> Self {
        ApiError::from(bad).into()
    }
}

impl From<Misunderstood> for ApiError {
    fn from(misunderstood: Misunderstood) -> Self {
        misunderstood.error
    }
}

/// The route of a model that the caller may ask for.
fn route(topology: &Topology, caller: &Caller, model: &str) -> Result<Arc<RouteTable>, Misunderstood> {
    let shortened = || model.chars().take(80).collect::<String>();
    let named = |error| Misunderstood { error, model: Some(shortened().into()) };
    let Some(route) = topology.route(model) else {
        let message = format!("the model `{}` is not known here; GET /v1/models lists what is", shortened());
        return Err(named(ApiError::new(Code::ModelNotFound, message).with_param("model")));
    };
    caller.may_use(&route.name).map_err(named)?;
    Ok(Arc::clone(route))
}

/// Understands a request body; `hints` are those of its headers.
///
/// # Errors
/// What is wrong with it, or that the caller may not ask for it.
pub fn understand<'a>(
    topology: &Topology,
    config: &Config,
    caller: &Caller,
    mut hints: Hints,
    body: &'a [u8],
) -> Result<Understood<'a>, Misunderstood> {
    let request = ChatRequest::parse(body)?;
    if let Some(raw) = request.hints {
        hints.take_body(raw.get())?;
    }
    let route = route(topology, caller, &request.model)?;
    // A ceiling decides about money: there the prompt is counted, by each vocabulary that may come to count it.
    let prompt_tokens = match hints.routing.max_cost {
        None => estimate(&request),
        Some(_) => {
            let models = route.cells.iter().filter_map(|cell| Encoding::of_model(&cell.config().model));
            models.map(|encoding| counted(&request, encoding)).max().unwrap_or_else(|| estimate(&request))
        }
    };
    let completion_tokens = request.max_tokens.unwrap_or(DEFAULT_COMPLETION).min(1 << 20) * request.n;
    let is_intelligent = hints.strategy.unwrap_or(route.strategy) == StrategyKind::Intelligent;
    let complexity = is_intelligent.then(|| judge(&request, &config.intelligent));
    Ok(Understood { request, hints, route, prompt_tokens, completion_tokens, added_tokens: 0, complexity })
}

/// About as many tokens as the prompt is: its texts by their estimate, 4 more for each message, and by flat rates what is no plain
/// text: tool definitions and calls by their JSON's length, pictures by OpenAI's price of a usual one.
fn estimate(request: &ChatRequest) -> u64 {
    texts(request).map(complexity::estimate_tokens).fold(beside(request), u64::saturating_add)
}

/// The same, but for texts by an exact count where there is one.
fn counted(request: &ChatRequest, encoding: Encoding) -> u64 {
    let one = |text: &str| count::exact(encoding, text).unwrap_or_else(|| complexity::estimate_tokens(text));
    texts(request).map(one).fold(beside(request), u64::saturating_add)
}

fn texts<'a>(request: &'a ChatRequest<'_>) -> impl Iterator<Item = &'a str> {
    request.messages.iter().flat_map(|m| m.texts())
}

fn beside(request: &ChatRequest) -> u64 {
    const A_MESSAGE: u64 = 4;
    const AN_IMAGE: u64 = 765;
    /// Measured: a token of JSON schemas is 3.9 bytes.
    const JSON_BYTES: u64 = 4;
    let messages = A_MESSAGE * request.messages.len() as u64;
    messages + AN_IMAGE * request.images() + request.json_bytes().div_ceil(JSON_BYTES)
}

fn judge(request: &ChatRequest, settings: &IntelligentSettings) -> Classified {
    let mut scan = PromptScan::new(settings);
    for message in &request.messages {
        if message.is_instruction() {
            message.texts().for_each(|text| scan.feed_instructions(text));
            continue;
        }
        if message.is_from_user() {
            scan.turn();
        }
        message.texts().for_each(|text| scan.feed(text));
    }
    complexity::classify(&scan.finish(request.max_tokens), settings)
}

impl Understood<'_> {
    /// Counts a whole answer, and the prompt that it answers, whose upstream reported no usage; an estimate where a text is too long or
    /// its vocabulary not known.
    pub fn count(&self, body: &[u8], model: &str, seen: &mut Seen) {
        let text = Answer::text(body);
        text.each().for_each(|piece| seen.text.feed(piece));
        if let Some(encoding) = Encoding::of_model(model) {
            let pieces: Option<u64> = text.each().map(|piece| count::exact(encoding, piece)).sum();
            seen.counted = (Some(counted(&self.request, encoding)), pieces);
        }
    }

    /// What the prompt is at most, by any vendor's count: what a hard budget reserves. Reads the request again, so it is for
    /// requests that need it only.
    #[must_use]
    pub fn prompt_tokens_ceiling(&self) -> u64 {
        self.request.token_ceiling().max(self.prompt_tokens) + self.added_tokens
    }

    /// What a Coordinator is asked, under the budgets that apply: a hard one takes endpoints without a price out, a soft one that is
    /// exceeded makes it look for the cheapest.
    #[must_use]
    pub fn plan_request(
        &self,
        config: Arc<Config>,
        now: Ts,
        budgets: Option<&Applied>,
        over_soft_budget: bool,
    ) -> PlanRequest {
        PlanRequest {
            route: Arc::clone(&self.route),
            now,
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            strategy: if over_soft_budget { Some(StrategyKind::CostBased) } else { self.hints.strategy },
            hints: self.hints.routing,
            no_fallback: self.hints.no_fallback,
            complexity: self.complexity,
            hard_budget: budgets.and_then(Applied::hard),
            wish: Wish::of(self.request.stream, self.hints.deadline, self.hints.ttft, self.route.slo),
            config,
            look_only: false,
        }
    }

    /// The plan of this worker's Coordinator.
    ///
    /// # Errors
    /// 500 when it is gone.
    pub async fn plan(&self, worker: &Rc<Worker>, config: Arc<Config>, ctx: &RequestContext) -> Result<Plan, ApiError> {
        ask(worker, self.plan_request(config, ctx.started, ctx.budgets.as_deref(), ctx.over_soft_budget)).await
    }

    /// The plan that [`Self::plan`] would give now, without anybody's turn being used up.
    ///
    /// # Errors
    /// 500 when the Coordinator is gone.
    pub async fn look(
        &self,
        worker: &Rc<Worker>,
        now: Ts,
        budgets: Option<&Applied>,
        over_soft_budget: bool,
    ) -> Result<Plan, ApiError> {
        let request = self.plan_request(worker.gateway.config(), now, budgets, over_soft_budget);
        ask(worker, PlanRequest { look_only: true, ..request }).await
    }
}

async fn ask(worker: &Rc<Worker>, request: PlanRequest) -> Result<Plan, ApiError> {
    let down = |_| ApiError::new(Code::Internal, "the coordinator does not answer");
    worker.coordinator.send(request).await.map_err(down)
}
