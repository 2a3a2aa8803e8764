//! Asking for an attempt's money: what it can cost, a place in the budgets' lines, and the answer's length that fits what is granted.

use super::{Cap, Hard, Held, Hold, OverBudget};
use crate::actors::board::EndpointCell;
use crate::clock;
use crate::config::model::EndpointConfig;
use crate::domain::budget::Mode;
use crate::domain::budget::book::{Answer, BudgetId, Demand, Place};
use crate::domain::budget::ceiling::{affordable, ceiling};
use crate::domain::money::NanoUsd;
use crate::domain::price::Price;
use crate::domain::time::Ts;
use crate::domain::usage::Usage;
use crate::engine::budgets::{Budgets, Entry, tell};
use crate::engine::context::RequestContext;
use crate::engine::record::{Step, ms};
use crate::engine::understand::Understood;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// What an attempt can cost.
struct Size<'a> {
    price: &'a Price,
    prompt_ceiling: u64,
    /// Of each answer.
    longest: u64,
    answers: u64,
    expected: NanoUsd,
}

impl<'a> Size<'a> {
    fn of(understood: &Understood<'_>, price: &'a Price, ceiling_tokens: u64, is_hard: bool) -> Self {
        let usage = Usage { input: understood.prompt_tokens, output: understood.completion_tokens, ..Usage::default() };
        Self {
            price,
            // Reads the request again: not for soft budgets, which only expect.
            prompt_ceiling: if is_hard { understood.prompt_tokens_ceiling() } else { understood.prompt_tokens },
            longest: understood.request.max_tokens.unwrap_or(ceiling_tokens),
            answers: understood.request.n.max(1),
            expected: price.cost(&usage),
        }
    }

    fn most(&self, tokens_each: u64) -> NanoUsd {
        ceiling(self.price, self.prompt_ceiling, tokens_each.saturating_mul(self.answers))
    }

    fn demand(&self, hurried: bool) -> Demand {
        Demand { ceiling: self.most(self.longest), least: self.most(1), expected: self.expected, hurried }
    }

    /// Tokens of each answer that `amount` pays for.
    fn paid_for(&self, amount: NanoUsd) -> u64 {
        let all = affordable(self.price, self.prompt_ceiling, self.longest.saturating_mul(self.answers), amount);
        (all.unwrap_or(0) / self.answers).clamp(1, self.longest)
    }
}

/// A request's place in a budget's line; left when it goes.
struct Standing<'a> {
    budgets: &'a Budgets,
    place: Option<Place>,
    waker: Arc<Notify>,
}

impl Standing<'_> {
    fn ask(&mut self, ids: &[BudgetId], demand: &Demand) -> Answer {
        let mut told = Vec::new();
        let now = clock::wall();
        let answer = self.budgets.book.lock().ask(now, ids, demand, (&mut self.place, &self.waker), &mut told);
        tell(told);
        answer
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        if self.place.is_some() {
            let told = self.budgets.book.lock().leave(&mut self.place);
            tell(told);
        }
    }
}

/// Reserves for an attempt at an endpoint; waits where others' reservations hold what is left.
///
/// # Errors
/// Which budget does not allow it.
pub async fn reserve(
    ctx: &RequestContext,
    understood: &Understood<'_>,
    cell: &EndpointCell,
    deadline: Ts,
) -> Result<Hold, OverBudget> {
    let Some(reserving) = Reserving::of(ctx, understood, cell) else { return Ok(Hold::default()) };
    // Apart, so that requests without a budget need not carry its room along.
    let result = Box::pin(reserving.run(deadline)).await;
    result.inspect_err(|over| reserving.note("refused", over.budget(), None, None, None))
}

/// Reserves for an attempt at an endpoint if that can be had at once.
#[must_use]
pub fn reserve_at_once(ctx: &RequestContext, understood: &Understood<'_>, cell: &EndpointCell) -> Option<Hold> {
    let Some(reserving) = Reserving::of(ctx, understood, cell) else { return Some(Hold::default()) };
    let config = ctx.worker.gateway.config();
    let mut standing = reserving.standing();
    reserving.ask(&mut standing, config.budgets.ceiling_tokens, None, true).ok()?.ok()
}

struct Reserving<'a> {
    ctx: &'a RequestContext,
    understood: &'a Understood<'a>,
    endpoint: Arc<EndpointConfig>,
    entries: Vec<Entry>,
}

impl<'a> Reserving<'a> {
    /// `None`: no budget applies.
    fn of(ctx: &'a RequestContext, understood: &'a Understood<'a>, cell: &EndpointCell) -> Option<Self> {
        let entries = ctx.budgets.as_ref()?.at(&cell.name);
        (!entries.is_empty()).then(|| Self { ctx, understood, endpoint: cell.config(), entries })
    }

    fn standing(&self) -> Standing<'a> {
        let budgets = &self.ctx.worker.gateway.budgets;
        Standing { budgets, place: None, waker: Arc::new(Notify::new()) }
    }

    fn hard(&self) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.budget.terms.mode == Mode::Hard)
    }

    fn name(&self, id: BudgetId) -> Arc<str> {
        let found = self.entries.iter().find(|entry| entry.id == id);
        found.map_or_else(|| "".into(), |entry| Arc::clone(&entry.budget.name))
    }

    async fn run(&self, deadline: Ts) -> Result<Hold, OverBudget> {
        let book = &self.ctx.worker.gateway.budgets.book;
        let config = self.ctx.worker.gateway.config();
        let mut standing = self.standing();
        let began = clock::now();
        let patience = began.plus(config.budgets.wait.min(deadline.since(began) / 2));
        let mut now = began;
        loop {
            let waited_until = (now > began).then_some(now);
            match self.ask(&mut standing, config.budgets.ceiling_tokens, waited_until, now >= patience)? {
                Ok(hold) => return Ok(hold),
                Err(id) => {
                    let at = clock::wall();
                    let period_ends = book.lock().figures(at, id).and_then(|f| f.span.end).map(|end| end.since(at));
                    let left = patience.since(now);
                    // Never less than a millisecond: a period's end is told by another clock.
                    let pause = left.min(period_ends.unwrap_or(left)).max(Duration::from_millis(1));
                    let _ = tokio::time::timeout(pause, standing.waker.notified()).await;
                    let woken = clock::now();
                    self.note("waited", &self.name(id), None, None, Some(woken.since(now)));
                    now = woken;
                }
            }
        }
    }

    /// Asks once: a hold, or the budget at which the request now stands in line.
    fn ask(
        &self,
        standing: &mut Standing<'_>,
        ceiling_tokens: u64,
        waited_until: Option<Ts>,
        hurried: bool,
    ) -> Result<Result<Hold, BudgetId>, OverBudget> {
        let Some(price) = &self.endpoint.price else {
            return match self.hard() {
                Some(entry) => Err(OverBudget::Unpriced { name: Arc::clone(&entry.budget.name) }),
                None => Ok(Ok(Hold::default())),
            };
        };
        let size = Size::of(self.understood, price, ceiling_tokens, self.hard().is_some());
        let ids: Vec<BudgetId> = self.entries.iter().map(|entry| entry.id).collect();
        match standing.ask(&ids, &size.demand(hurried)) {
            Answer::Granted { reserved, amount, exceeded } => {
                let held = Held {
                    gateway: Arc::clone(&self.ctx.worker.gateway),
                    reserved,
                    hard: None,
                    exceeded: !exceeded.is_empty(),
                    waited_until,
                    open: None,
                };
                Ok(Ok(self.granted(held, &size, amount)))
            }
            Answer::Wait(id) => Ok(Err(id)),
            Answer::Spent(id) => Err(self.spent(id)),
            Answer::Held(id) => Err(OverBudget::Held { name: self.name(id) }),
        }
    }

    fn spent(&self, id: BudgetId) -> OverBudget {
        let figures = self.ctx.worker.gateway.budgets.book.lock().figures(clock::wall(), id);
        OverBudget::Spent {
            name: self.name(id),
            end: figures.and_then(|f| f.span.end),
            something_left: figures.is_some_and(|f| f.left > NanoUsd::ZERO),
        }
    }

    /// Fits the answer's length to what was granted, and gives back what it then cannot use.
    fn granted(&self, mut held: Held, size: &Size<'_>, amount: Option<NanoUsd>) -> Hold {
        let (Some(amount), Some(entry)) = (amount, self.hard()) else { return Hold(Some(Box::new(held))) };
        let tokens = if amount < size.most(size.longest) { size.paid_for(amount) } else { size.longest };
        let amount = size.most(tokens).min(amount);
        let told = held.gateway.budgets.book.lock().trim(&mut held.reserved, amount);
        tell(told);
        let lowered = tokens < size.longest;
        let cap = Cap { tokens, lowered };
        held.hard = Some(Hard {
            prompt_tokens: size.prompt_ceiling,
            completion_tokens: tokens.saturating_mul(size.answers),
            amount,
            told: (lowered || self.understood.request.max_tokens.is_none()).then_some(cap),
        });
        let what = if lowered { "lowered" } else { "reserved" };
        self.note(what, &entry.budget.name, Some(amount), Some(tokens), None);
        Hold(Some(Box::new(held)))
    }

    fn note(
        &self,
        what: &'static str,
        budget: &Arc<str>,
        usd: Option<NanoUsd>,
        max_tokens: Option<u64>,
        waited: Option<Duration>,
    ) {
        // A wait is told at its end, as of its begin.
        let at = clock::now().minus(waited.unwrap_or_default());
        self.ctx.note(at, |at_ms| Step::Budget {
            at_ms,
            what: Cow::Borrowed(what),
            budget: Arc::clone(budget),
            endpoint: Arc::clone(&self.endpoint.name),
            usd: usd.map(NanoUsd::usd),
            max_tokens,
            ms: waited.map(ms),
        });
    }
}
