//! The whole protocol between actors.

use crate::actors::board::EndpointCell;
use crate::actors::topology::RouteTable;
use crate::config::model::Config;
use crate::domain::breaker::BreakerView;
use crate::domain::complexity::Classified;
use crate::domain::domains::DomainSettings;
use crate::domain::gate::Refusal;
use crate::domain::health::Totals;
use crate::domain::intelligent::RequestHints;
use crate::domain::latency::Summary;
use crate::domain::money::NanoUsd;
use crate::domain::slo::{Judged, Wish};
use crate::domain::strategy::{CandidateFacts, StrategyKind};
use crate::domain::time::Ts;
use actix::Message;
use std::sync::Arc;
use std::time::Duration;

// To an endpoint's actor.

/// Results wait in the cell's inbox.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Wake;

/// An operator's act. `author` is who did it.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub struct Operate {
    pub act: Act,
    pub reason: String,
    pub author: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Forces the breaker open, until reset or for this long.
    Trip(Option<Duration>),
    /// Closes the breaker, clears its window and every pause.
    Reset,
}

/// What a probe of the endpoint found.
#[derive(Message, Clone, Copy, Debug, PartialEq, Eq)]
#[rtype(result = "()")]
pub enum Probed {
    Healthy,
    Failed,
    /// The vendor refused our key.
    KeyRefused,
}

/// The endpoint's configuration changed: read it again from the cell.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Reconfigured;

/// Asks for everything that an operator sees.
#[derive(Message)]
#[rtype(result = "Observed")]
pub struct Observe;

#[derive(Clone, Debug, actix::dev::MessageResponse)]
pub struct Observed {
    pub breaker: BreakerView,
    pub latency: Summary,
    pub ttft: Summary,
    pub totals: Totals,
}

/// Writes a checkpoint now and stops: the endpoint was removed, or the process ends.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Retire;

/// Panics in the handler: how the tests see supervision work. Only sent when test hooks are on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct PanicNow;

/// The store's writer does nothing for so long, as if its disk had stalled. Only sent when test hooks are on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StallNow(pub Duration);

// To the supervisor.

/// A child's last word: sent by its death notice.
#[derive(Message, Clone, Copy, Debug, PartialEq, Eq)]
#[rtype(result = "()")]
pub struct Died {
    pub child: Child,
    pub generation: u64,
    pub panicking: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Child {
    Endpoint(u32),
    Ledger,
}

/// Start an actor for this cell.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Adopt(pub Arc<EndpointCell>);

/// Stop watching an endpoint: it is being removed.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Release(pub u32);

/// What an endpoint's failure domains should know.
#[derive(Message, Clone, Copy, Debug, PartialEq, Eq)]
#[rtype(result = "()")]
pub struct MemberNews {
    pub id: u32,
    pub news: News,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Its breaker opened, or several connections in a row failed, at this time.
    Down(Ts),
    /// It was seen working.
    Up,
    /// An operator has shut it.
    Shut,
}

/// When failure domains open. Each endpoint's domains are read again from its cell.
#[derive(Message, Clone, Copy, Debug, PartialEq)]
#[rtype(result = "()")]
pub struct DomainRules(pub DomainSettings);

/// Stop watching everything: the process ends.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StandDown;

// To a coordinator.

/// Put a route's candidates in order for one request.
#[derive(Message)]
#[rtype(result = "Plan")]
pub struct PlanRequest {
    pub route: Arc<RouteTable>,
    pub now: Ts,
    /// Estimated prompt tokens.
    pub prompt_tokens: u64,
    /// Expected completion tokens.
    pub completion_tokens: u64,
    /// Overrides the route's strategy for this request alone.
    pub strategy: Option<StrategyKind>,
    pub hints: RequestHints,
    /// Only the first candidate may be asked.
    pub no_fallback: bool,
    pub complexity: Option<Classified>,
    /// A hard budget that applies: no candidate may be without a price.
    pub hard_budget: Option<Arc<str>>,
    pub config: Arc<Config>,
    /// The time that its candidates are ranked by.
    pub wish: Option<Wish>,
    /// Nothing will be sent: whose turn it is stays as it is.
    pub look_only: bool,
}

/// The ranked candidates and why they stand so.
#[derive(Clone, Debug, actix::dev::MessageResponse)]
pub struct Plan {
    pub route: Arc<RouteTable>,
    pub strategy: StrategyKind,
    /// The rule of `intelligent` that fired.
    pub rule: Option<&'static str>,
    /// The first candidate leads because nothing is known of it yet.
    pub explored: bool,
    /// No open candidate is as good as the rule wants.
    pub floor_missed: bool,
    /// How the ranking by time came about, if there was a wish.
    pub slo: Option<Judged>,
    pub complexity: Option<Classified>,
    /// Best first.
    pub candidates: Vec<Candidate>,
    pub removed: Vec<Removed>,
}

#[derive(Clone, Debug)]
pub struct Candidate {
    /// Into the route's cells.
    pub index: usize,
    pub score: f32,
    pub facts: CandidateFacts,
    /// Probability that it answers in time, if there was a wish.
    pub p_in_time: Option<f32>,
    /// Its gate would refuse now.
    pub refusal: Option<Refusal>,
}

#[derive(Clone, Debug)]
pub struct Removed {
    pub index: usize,
    pub why: RemovedWhy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovedWhy {
    /// The estimated cost is over the caller's ceiling.
    OverMaxCost { estimate: NanoUsd },
    /// A ceiling was given and the endpoint has no price.
    Unpriced,
    /// A hard budget applies and the endpoint has no price: spend must not pass unseen.
    UnpricedUnderBudget,
    /// The estimated prompt does not fit.
    ContextTooShort { context: u64 },
    /// The caller allows no fallback and another candidate stands first.
    NoFallback,
}

impl std::fmt::Display for RemovedWhy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OverMaxCost { estimate } => write!(f, "over_max_cost: estimated {estimate} USD"),
            Self::Unpriced => f.write_str("unpriced: a cost ceiling was given and the endpoint has no price"),
            Self::UnpricedUnderBudget => {
                f.write_str("unpriced_under_budget: a hard budget applies and the endpoint has no price")
            }
            Self::ContextTooShort { context } => write!(f, "context_too_short: holds {context} tokens"),
            Self::NoFallback => f.write_str("no_fallback: the caller allows only the first candidate"),
        }
    }
}

// To the ledger's actor.

/// Items wait in the queue.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Commit {
    /// Nobody waits for them: more may gather first.
    pub linger: bool,
}
