//! Money held for one attempt: reserved before it leaves, charged when it ends, given back if it never leaves.
//!
//! - Each attempt has a hold of its own, at the price of its own endpoint: a first try, a retry, a hedge and a continuation alike. So
//!   a dear fallback that is never needed holds nothing.
//! - Under a hard budget the upstream is always told a maximum, the one that was reserved for: without it the ceiling is none.
//! - Before an attempt under a hard budget leaves, its hold is on disk (see [`OpenAttempt`]). A store that does not write is waited
//!   for [`SECURE_WAIT`]; then the attempt leaves all the same, and is counted.
//! - Waiting for others' money takes no endpoint's place, lasts `budget_wait` and half of what is left of the deadline at most, and
//!   ends with the period.

mod reserving;

pub use reserving::{reserve, reserve_at_once};

use crate::actors::ledger::StateWrite;
use crate::clock;
use crate::config::model::EndpointConfig;
use crate::dialects::openai::request::MaxTokens;
use crate::domain::budget::book::{BudgetId, Reserved};
use crate::domain::budget::open::OpenAttempt;
use crate::domain::money::NanoUsd;
use crate::domain::time::{Ts, Wall};
use crate::engine::budgets::tell;
use crate::engine::context::RequestContext;
use crate::engine::error::{ApiError, Code};
use crate::engine::gateway::Gateway;
use crate::store::Area;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How long an attempt waits for a store that does not write its hold.
const SECURE_WAIT: Duration = Duration::from_secs(2);

/// Money held for an attempt; nothing where no budget applies.
#[derive(Default)]
#[must_use]
pub struct Hold(Option<Box<Held>>);

struct Held {
    gateway: Arc<Gateway>,
    reserved: Reserved,
    /// Under hard budgets.
    hard: Option<Hard>,
    exceeded: bool,
    waited_until: Option<Ts>,
    /// Its name on disk.
    open: Option<Arc<str>>,
}

#[derive(Clone, Copy)]
struct Hard {
    prompt_tokens: u64,
    completion_tokens: u64,
    amount: NanoUsd,
    /// What the upstream has to be told, unless the request says it already.
    told: Option<Cap>,
}

/// A maximum that Breakwater put into a request, tokens of each answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cap {
    pub tokens: u64,
    /// It is below what the request, or the default, would be.
    pub lowered: bool,
}

/// Why an attempt may not be made.
#[derive(Clone, Debug)]
pub enum OverBudget {
    Spent {
        name: Arc<str>,
        end: Option<Wall>,
        something_left: bool,
    },
    /// Others hold the rest, or the spend is not known.
    Held {
        name: Arc<str>,
    },
    Unpriced {
        name: Arc<str>,
    },
}

impl OverBudget {
    #[must_use]
    pub fn error(&self) -> ApiError {
        let message = match self {
            Self::Spent { name, end, something_left } => {
                let until = end.map_or_else(
                    || "it is not filled again".to_owned(),
                    |end| format!("it is full again at {}", end.to_rfc3339()),
                );
                let state = if *something_left { "does not pay for this request any more" } else { "is spent" };
                format!("the budget `{name}` {state}; {until}")
            }
            Self::Held { name } => {
                format!(
                    "what is left of the budget `{name}` is reserved by requests under way, and none came back in time"
                )
            }
            Self::Unpriced { name } => {
                format!("the budget `{name}` is hard, and no endpoint that could answer has a price")
            }
        };
        ApiError::new(Code::BudgetExceeded, message)
    }

    fn budget(&self) -> &Arc<str> {
        match self {
            Self::Spent { name, .. } | Self::Held { name } | Self::Unpriced { name } => name,
        }
    }
}

impl Hold {
    /// When the wait for it was over, if there was one.
    #[must_use]
    pub fn waited_until(&self) -> Option<Ts> {
        self.0.as_ref().and_then(|held| held.waited_until)
    }

    /// Whether a soft budget is exceeded with this attempt.
    #[must_use]
    pub fn is_exceeded(&self) -> bool {
        self.0.as_ref().is_some_and(|held| held.exceeded)
    }

    /// The maximum that Breakwater puts into the request.
    #[must_use]
    pub fn cap(&self) -> Option<Cap> {
        self.0.as_ref().and_then(|held| held.hard).and_then(|hard| hard.told)
    }

    /// The same for the request's body, in the member that the endpoint's vendor knows.
    #[must_use]
    pub fn max_tokens(&self, endpoint: &EndpointConfig) -> Option<MaxTokens> {
        self.cap().map(|cap| MaxTokens::for_host(cap.tokens, &endpoint.provider.base_url))
    }

    /// The completion tokens that were reserved for, under hard budgets.
    #[must_use]
    pub fn most_completion_tokens(&self) -> Option<u64> {
        self.0.as_ref().and_then(|held| held.hard).map(|hard| hard.completion_tokens)
    }

    /// Puts the hold on disk, if it is one of a hard budget; `describe` is given what can be used and cost at most. Whether that took
    /// time.
    pub async fn secure(&mut self, describe: impl FnOnce(u64, u64, NanoUsd) -> OpenAttempt) -> bool {
        static NAMES: AtomicU64 = AtomicU64::new(0);
        let Some(held) = self.0.as_mut() else { return false };
        let Some(hard) = held.hard else { return false };
        let open = describe(hard.prompt_tokens, hard.completion_tokens, hard.amount);
        let name: Arc<str> = format!("{:x}-{:x}", open.at.0, NAMES.fetch_add(1, Relaxed)).into();
        let Ok(bytes) = serde_json::to_vec(&open) else { return false };
        held.open = Some(Arc::clone(&name));
        let put = StateWrite::Put { area: Area::Open, name, bytes, durable: true };
        if !matches!(tokio::time::timeout(SECURE_WAIT, held.gateway.ledger.write(put)).await, Ok(Ok(()))) {
            held.gateway.budgets.unsecured.fetch_add(1, Relaxed);
            tracing::error!("a request under a hard budget left before that was on disk: the store does not write");
        }
        true
    }

    /// The attempt ended: its row, which says `cost`, is on its way to the ledger.
    pub fn settle(mut self, ctx: &RequestContext, endpoint: &str, at: Wall, cost: NanoUsd) {
        let budgets = &ctx.worker.gateway.budgets;
        let held = self.0.take();
        let began = (ctx.budgets.as_deref(), ctx.budgets_version);
        let entries = budgets.charged(began, (&ctx.caller.key_id(), &ctx.route, &ctx.tags), endpoint);
        if held.is_none() && entries.is_empty() {
            return;
        }
        let ids: Vec<BudgetId> = entries.iter().map(|entry| entry.id).collect();
        let (mut reserved, mut open) = (Reserved::default(), None);
        if let Some(mut held) = held {
            if let Some(hard) = held.hard.filter(|hard| cost > hard.amount) {
                budgets.overruns.fetch_add(1, Relaxed);
                tracing::warn!(endpoint, reserved = %hard.amount, %cost, "an attempt cost more than was reserved for it");
            }
            reserved = std::mem::take(&mut held.reserved);
            open = held.open.take();
        }
        let told = budgets.book.lock().settle(at, reserved, &ids, cost);
        tell(told);
        if let Some(name) = open {
            ctx.worker.gateway.ledger.forget(Area::Open, name);
        }
    }
}

/// Nothing was sent: all of it is given back.
impl Drop for Held {
    fn drop(&mut self) {
        let reserved = std::mem::take(&mut self.reserved);
        if reserved != Reserved::default() {
            let told = self.gateway.budgets.book.lock().settle(clock::wall(), reserved, &[], NanoUsd::ZERO);
            tell(told);
        }
        if let Some(name) = self.open.take() {
            self.gateway.ledger.forget(Area::Open, name);
        }
    }
}
