//! What became of a request: its decision, every refusal, attempt and wait with their numbers. "Why did this take 4.2 s?" has its
//! answer here.

use crate::actors::messages::Plan;
use crate::domain::complexity::Classified;
use crate::domain::ids::RequestId;
use crate::domain::money::NanoUsd;
use crate::domain::slo::Judged;
use crate::domain::time::Wall;
use crate::engine::explanation::TimeSpent;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Records kept in memory; older ones that were worth it are in the store.
pub const KEPT: usize = 10_000;
/// Candidates that a record spells out.
const MAX_CANDIDATES: usize = 32;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestRecord {
    pub request_id: Arc<str>,
    /// RFC 3339.
    pub started_at: String,
    pub model: Arc<str>,
    pub stream: bool,
    /// Who asked; not shown to the caller, who is it.
    #[serde(default)]
    pub key_id: Arc<str>,
    /// What the caller got.
    pub outcome: String,
    pub status: u16,
    /// The endpoint that answered.
    pub endpoint: Option<Arc<str>>,
    pub duration_ms: f64,
    pub attempts: u32,
    pub cost_usd: f64,
    pub cost_state: String,
    pub decision: Decision,
    /// Where the time went. This and the sentences are made when somebody asks.
    #[serde(default)]
    pub time: TimeSpent,
    /// The steps in sentences.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub explanation: String,
    /// In the order in which they ended.
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub strategy: String,
    /// The rule of `intelligent` that chose the strategy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The first candidate leads because nothing is known of it yet.
    #[serde(default)]
    pub explored: bool,
    /// No open candidate is as good as the rule wants.
    #[serde(default)]
    pub floor_missed: bool,
    /// The time that the candidates were ranked by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo: Option<DecisionSlo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complexity: Option<String>,
    /// What the complexity was judged by: points of each feature, their sum first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub complexity_points: Vec<(String, f32)>,
    pub prompt_tokens_estimate: u64,
    /// Best first.
    pub candidates: Vec<DecisionCandidate>,
    pub removed: Vec<DecisionRemoved>,
    /// The budgets that apply, as they stand when an explanation is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<DecisionBudget>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionBudget {
    pub budget: Arc<str>,
    pub mode: String,
    #[serde(default)]
    pub amount_usd: f64,
    /// Neither spent nor reserved; none: what was spent is not known.
    pub left_usd: Option<f64>,
    /// RFC 3339; none: it is never full again.
    pub period_end: Option<String>,
    /// The candidate that it applies to, where not to all of them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub endpoint: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionCandidate {
    pub endpoint: Arc<str>,
    pub rank: usize,
    pub score: f64,
    pub estimated_cost_usd: Option<f64>,
    pub ttft_ms: Option<f64>,
    pub in_flight: u32,
    pub failure_rate: f32,
    pub quality: f32,
    pub weight: u32,
    /// Probability that it answers in time, where that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_in_time: Option<f32>,
    /// Why its gate would have refused when the plan was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

/// A ranking by time, as people see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionSlo {
    pub within_ms: f64,
    /// `time_to_first_token` or `latency`.
    pub measured: Cow<'static, str>,
    /// Probability that is enough.
    pub target: f32,
    pub is_deadline: bool,
    /// Open candidates that reach the target.
    pub in_time: u32,
    /// A little known candidate counted as in time, or a lost cause was tried.
    pub explored: bool,
    /// Refused at once.
    pub lost_cause: bool,
}

impl DecisionSlo {
    fn of(judged: &Judged) -> Self {
        let Judged { wish, in_time, explored, lost_cause } = *judged;
        Self {
            within_ms: ms(wish.within),
            measured: Cow::Borrowed(wish.measured.as_str()),
            target: wish.target,
            is_deadline: wish.is_deadline,
            in_time,
            explored,
            lost_cause,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionRemoved {
    pub endpoint: Arc<str>,
    pub reason: String,
}

/// One thing that happened, `at_ms` after the request came in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    Refused {
        at_ms: f64,
        endpoint: Arc<str>,
        reason: Cow<'static, str>,
        retry_in_ms: Option<f64>,
    },
    Attempt {
        at_ms: f64,
        attempt: u32,
        endpoint: Arc<str>,
        outcome: Cow<'static, str>,
        http_status: u16,
        ms: f64,
        /// How long it was waited for its first byte: its share of the deadline, or the endpoint's own bound.
        #[serde(default)]
        given_ms: Option<f64>,
        /// When the answer's head came; for a stream whose head is held, before its first content.
        #[serde(default)]
        first_byte_ms: Option<f64>,
        ttft_ms: Option<f64>,
        cost_usd: Option<f64>,
        /// The kind of fault that an experiment put into it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        injected: Option<Cow<'static, str>>,
        #[serde(skip_serializing_if = "String::is_empty", default)]
        message: String,
    },
    /// The attempt that follows is at another endpoint, or the same once more, because of this.
    Failover {
        at_ms: f64,
        from: Arc<str>,
        to: Arc<str>,
        outcome: Cow<'static, str>,
    },
    /// A pause before a further pass.
    Waited {
        at_ms: f64,
        ms: f64,
        why: Cow<'static, str>,
    },
    /// What a budget did: `reserved`, `lowered` (the answer's length), `waited` or `refused`.
    Budget {
        at_ms: f64,
        what: Cow<'static, str>,
        budget: Arc<str>,
        endpoint: Arc<str>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        usd: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        max_tokens: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        ms: Option<f64>,
    },
    /// Stood in line for a place at a candidate.
    Queued {
        at_ms: f64,
        ms: f64,
        priority: Cow<'static, str>,
        /// Requests of its class or above that stood in the shortest line when it came.
        ahead: usize,
        /// Who gave it a place; none: nobody did in time.
        endpoint: Option<Arc<str>>,
    },
    /// An attempt was slow: one more was sent elsewhere, and whoever answers first is the answer.
    Hedged {
        at_ms: f64,
        /// Who was slow.
        slow: Arc<str>,
        /// Who was asked as well.
        endpoint: Arc<str>,
        /// How long the attempt was waited for.
        after_ms: f64,
        /// Answers behind that time; 0 when it is configured.
        samples: u32,
    },
    /// An attempt was slow, and something spoke against a hedge.
    NotHedged {
        at_ms: f64,
        after_ms: f64,
        why: Cow<'static, str>,
    },
    /// A stream broke off, and another endpoint went on with its text.
    Recovered {
        at_ms: f64,
        from: Arc<str>,
        endpoint: Arc<str>,
        /// Characters that had been delivered.
        at_chars: usize,
    },
    /// A stream broke off, and nobody could go on with it.
    NotRecovered {
        at_ms: f64,
        why: Cow<'static, str>,
    },
    /// Refused before there was a plan.
    TurnedAway {
        at_ms: f64,
        because: String,
    },
    /// The fleet's retry budget allowed no further attempt.
    RetryBudgetSpent {
        at_ms: f64,
    },
}

impl Decision {
    /// Spells out a plan.
    #[must_use]
    pub fn of(plan: &Plan, prompt_tokens: u64) -> Self {
        let name = |index: usize| plan.route.cells.get(index).map_or_else(|| "".into(), |c| Arc::clone(&c.name));
        let candidates = plan.candidates.iter().take(MAX_CANDIDATES).enumerate().map(|(i, c)| DecisionCandidate {
            endpoint: name(c.index),
            rank: i + 1,
            score: f64::from(c.score),
            estimated_cost_usd: c.facts.est_cost.map(NanoUsd::usd),
            ttft_ms: c.facts.ewma_ttft_us.map(|us| f64::from(us) / 1e3),
            in_flight: c.facts.in_flight,
            failure_rate: c.facts.failure_rate,
            quality: c.facts.quality,
            weight: c.facts.weight,
            p_in_time: c.p_in_time,
            refusal: c.refusal.as_ref().map(|r| r.reason.as_str().to_owned()),
        });
        let removed = plan.removed.iter().take(MAX_CANDIDATES);
        Self {
            strategy: plan.strategy.as_str().to_owned(),
            rule: plan.rule.map(str::to_owned),
            explored: plan.explored,
            complexity: plan.complexity.map(|c| c.complexity.as_str().to_owned()),
            complexity_points: plan.complexity.map(|c| points(&c)).unwrap_or_default(),
            floor_missed: plan.floor_missed,
            slo: plan.slo.as_ref().map(DecisionSlo::of),
            prompt_tokens_estimate: prompt_tokens,
            candidates: candidates.collect(),
            removed: removed.map(|r| DecisionRemoved { endpoint: name(r.index), reason: r.why.to_string() }).collect(),
            budgets: Vec::new(),
        }
    }
}

fn points(judged: &Classified) -> Vec<(String, f32)> {
    let features = judged.contributions.iter().map(|c| (c.feature.to_owned(), c.points));
    std::iter::once(("score".to_owned(), judged.score)).chain(features).collect()
}

/// A finished request as it was kept: spelled out only when somebody asks.
#[derive(Debug)]
pub struct Kept {
    pub request_id: RequestId,
    pub started_at: Wall,
    pub model: Arc<str>,
    pub stream: bool,
    pub key_id: Arc<str>,
    pub outcome: &'static str,
    pub status: u16,
    pub endpoint: Option<Arc<str>>,
    pub duration: Duration,
    pub attempts: u32,
    pub cost: NanoUsd,
    pub cost_state: &'static str,
    pub prompt_tokens: u64,
    pub plan: Option<Arc<Plan>>,
    pub steps: Vec<Step>,
}

impl Kept {
    #[must_use]
    pub fn spell_out(&self) -> RequestRecord {
        RequestRecord {
            request_id: self.request_id.shared(),
            started_at: self.started_at.to_rfc3339(),
            model: Arc::clone(&self.model),
            stream: self.stream,
            key_id: Arc::clone(&self.key_id),
            outcome: self.outcome.to_owned(),
            status: self.status,
            endpoint: self.endpoint.clone(),
            duration_ms: ms(self.duration),
            attempts: self.attempts,
            cost_usd: self.cost.usd(),
            cost_state: self.cost_state.to_owned(),
            decision: self.plan.as_ref().map(|p| Decision::of(p, self.prompt_tokens)).unwrap_or_default(),
            time: TimeSpent::default(),
            explanation: String::new(),
            steps: self.steps.clone(),
        }
    }

    /// Whether the record is worth its place in the store: something else happened than one attempt that answered.
    #[must_use]
    pub fn is_remarkable(&self) -> bool {
        let usual = |step: &Step| matches!(step, Step::Budget { what, .. } if what == "reserved");
        self.outcome != "success" || self.steps.iter().filter(|step| !usual(step)).count() != 1
    }
}

/// Milliseconds with microseconds behind the point.
#[must_use]
pub fn ms(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e6).round() / 1e3
}

/// The newest records, by id.
#[derive(Debug)]
pub struct Records {
    most: usize,
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    order: VecDeque<Arc<str>>,
    by_id: HashMap<Arc<str>, Arc<Kept>>,
}

impl Records {
    /// The newest `most` of them.
    #[must_use]
    pub fn keeping(most: usize) -> Self {
        Self { most, ring: Mutex::default() }
    }

    pub fn put(&self, record: Kept) {
        let id = record.request_id.shared();
        let mut ring = self.ring.lock();
        if ring.by_id.insert(Arc::clone(&id), Arc::new(record)).is_none() {
            ring.order.push_back(id);
        }
        if ring.order.len() > self.most
            && let Some(oldest) = ring.order.pop_front()
        {
            ring.by_id.remove(&oldest);
        }
    }

    #[must_use]
    pub fn get(&self, id: &RequestId) -> Option<Arc<Kept>> {
        self.ring.lock().by_id.get(id.as_str()).cloned()
    }
}
