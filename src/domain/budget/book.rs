//! The book of budgets: what is spent and reserved under each in its present period, and who waits.
//!
//! Rules:
//! - Of a hard budget, spent and reserved together are never more than the amount, as long as nobody is charged more than was
//!   reserved for him. An attempt is charged what it cost; what was reserved for it becomes free in the same step.
//! - A request that asks for more than is free gets less, if nobody else holds a reservation; as long as others do, it waits for
//!   them: what they don't use comes back. It is refused only when what is left, reserved or not, does not pay for the least
//!   that it can do with.
//! - Who waits stands in line at one budget and holds nothing meanwhile. Lines are kept by age, the age of the first wait, at
//!   whichever budget that was: so of two that need the same two budgets one is first at both, and they cannot keep sending each
//!   other back. Nobody overtakes an older one; the oldest of a line is told when something has changed. Somebody whose patience
//!   is over takes the least it can get, or goes.
//! - When a period ends, what is spent is forgotten and what is reserved stays: it will be charged in the new one. Time that goes
//!   backwards does not bring an old period back.
//! - Soft budgets reserve what is expected and refuse nobody.
//! - A budget whose spend is not known yet (it is being summed up from the ledger) makes hard requests wait.

use crate::domain::budget::period::Span;
use crate::domain::budget::{Mode, Terms};
use crate::domain::histogram::LogHistogram;
use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;
use std::collections::{BTreeMap, HashMap};

/// Requests that may stand in line at one budget.
pub const MAX_LINE: usize = 1_000;
/// So many attempts make a 95th percentile of their cost worth something.
const ENOUGH: u64 = 20;

/// A budget in the book; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BudgetId(u64);

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// What it costs at most.
    pub ceiling: NanoUsd,
    /// What it costs at most when its answer is as short as can be.
    pub least: NanoUsd,
    /// What it will probably cost: for soft budgets without a history.
    pub expected: NanoUsd,
    /// It will not wait.
    pub hurried: bool,
}

/// Money that is reserved, by budget. Given back to the book whatever happens.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Reserved(Vec<Share>);

#[derive(Debug, PartialEq, Eq)]
struct Share {
    budget: BudgetId,
    amount: NanoUsd,
    is_hard: bool,
}

/// A place in a budget's line.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    budget: BudgetId,
    ticket: u64,
}

/// What became of a demand.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Granted {
        reserved: Reserved,
        /// The smallest share under a hard budget; `None` without one.
        amount: Option<NanoUsd>,
        /// Soft budgets that are exceeded with this.
        exceeded: Vec<BudgetId>,
    },
    /// Others hold the rest, or the spend is not known yet: the caller stands in line.
    Wait(BudgetId),
    /// What is left pays for nothing.
    Spent(BudgetId),
    /// Others hold the rest, and the caller cannot wait: it is hurried, or the line is full.
    Held(BudgetId),
}

/// A budget's figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    pub amount: NanoUsd,
    pub mode: Mode,
    pub spent: NanoUsd,
    pub reserved: NanoUsd,
    /// Neither spent nor reserved; never below zero.
    pub left: NanoUsd,
    pub span: Span,
    pub waiting: usize,
    /// Whether `spent` has been summed up yet.
    pub known: bool,
}

struct Account<W> {
    terms: Terms,
    span: Span,
    spent: NanoUsd,
    reserved: NanoUsd,
    known: bool,
    /// By age.
    line: BTreeMap<u64, W>,
    /// Of attempts under a soft budget.
    costs: LogHistogram,
}

impl<W> Account<W> {
    fn roll(&mut self, now: Wall) {
        if self.span.end.is_some_and(|end| now >= end) {
            self.span = self.terms.period.span(&self.terms.timezone, now);
            self.spent = NanoUsd::ZERO;
        }
    }

    /// Neither spent nor reserved.
    fn free(&self) -> NanoUsd {
        self.unspent().saturating_sub(self.reserved)
    }

    fn unspent(&self) -> NanoUsd {
        self.terms.amount.saturating_sub(self.spent)
    }

    fn expects(&self, demand: &Demand) -> NanoUsd {
        let usual = (self.costs.count() >= ENOUGH).then(|| self.costs.quantile(0.95)).flatten();
        let usual = usual.map(|cost| NanoUsd(i64::try_from(cost).unwrap_or(i64::MAX)));
        usual.unwrap_or(demand.expected).min(demand.ceiling)
    }
}

/// All budgets. `W` is told when its holder's turn may have come.
pub struct Book<W> {
    accounts: HashMap<BudgetId, Account<W>>,
    /// The next budget's number, and the next place's.
    next: u64,
}

impl<W> Default for Book<W> {
    fn default() -> Self {
        Self { accounts: HashMap::new(), next: 0 }
    }
}

impl<W: Clone> Book<W> {
    /// Enters a budget, with nothing spent. Unless its spend is `known` to be none, it has to be told.
    pub fn open(&mut self, terms: Terms, now: Wall, known: bool) -> BudgetId {
        let id = BudgetId(self.number());
        let account = Account {
            span: terms.period.span(&terms.timezone, now),
            terms,
            spent: NanoUsd::ZERO,
            reserved: NanoUsd::ZERO,
            known,
            line: BTreeMap::new(),
            costs: LogHistogram::default(),
        };
        self.accounts.insert(id, account);
        id
    }

    /// Takes a budget out. Those in its line are returned, to be told.
    #[must_use]
    pub fn close(&mut self, id: BudgetId) -> Vec<W> {
        let line = self.accounts.remove(&id).map(|account| account.line).unwrap_or_default();
        line.into_values().collect()
    }

    /// Changes amount and mode.
    #[must_use]
    pub fn amend(&mut self, id: BudgetId, amount: NanoUsd, mode: Mode) -> Vec<W> {
        if let Some(account) = self.accounts.get_mut(&id) {
            (account.terms.amount, account.terms.mode) = (amount, mode);
        }
        self.head(id)
    }

    /// Tells what had been spent in the period that began at `start` before the budget was entered.
    #[must_use]
    pub fn recall(&mut self, id: BudgetId, start: Option<Wall>, spent: NanoUsd) -> Vec<W> {
        if let Some(account) = self.accounts.get_mut(&id) {
            account.known = true;
            if account.span.start == start {
                account.spent += spent;
            }
        }
        self.head(id)
    }

    /// Asks for money under all of `budgets`, for all or nothing. `place` is the caller's place in a line and is kept up to date;
    /// `told` are those whose turn may have come by this.
    pub fn ask(
        &mut self,
        now: Wall,
        budgets: &[BudgetId],
        demand: &Demand,
        (place, waker): (&mut Option<Place>, &W),
        told: &mut Vec<W>,
    ) -> Answer {
        let answer = self.judge(now, budgets, demand, place.as_ref());
        match answer {
            Answer::Wait(budget) => {
                if place.as_ref().is_some_and(|place| place.budget == budget) {
                    return answer;
                }
                let ticket = place.as_ref().map_or_else(|| self.number(), |place| place.ticket);
                told.extend(self.leave(place));
                match self.accounts.get_mut(&budget).map(|account| &mut account.line) {
                    Some(line) if line.len() < MAX_LINE => {
                        line.insert(ticket, waker.clone());
                        *place = Some(Place { budget, ticket });
                        answer
                    }
                    _ => Answer::Held(budget),
                }
            }
            Answer::Granted { .. } | Answer::Spent(_) | Answer::Held(_) => {
                told.extend(self.leave(place));
                answer
            }
        }
    }

    fn judge(&mut self, now: Wall, budgets: &[BudgetId], demand: &Demand, place: Option<&Place>) -> Answer {
        for id in budgets {
            if let Some(account) = self.accounts.get_mut(id) {
                account.roll(now);
            }
        }
        let hard = || {
            let account = |id: &BudgetId| self.accounts.get(id).map(|account| (*id, account));
            budgets.iter().filter_map(account).filter(|(_, account)| account.terms.mode == Mode::Hard)
        };
        if let Some((id, _)) = hard().find(|(_, a)| a.known && a.unspent() < demand.least) {
            return Answer::Spent(id);
        }
        let is_first = |account: &Account<W>| {
            let oldest = account.line.first_key_value().map(|(ticket, _)| *ticket);
            oldest.is_none_or(|oldest| place.is_some_and(|place| place.ticket <= oldest))
        };
        // Where nobody holds anything, waiting would bring nothing: what is free there bounds what is wanted.
        let alone = hard().filter(|(_, a)| a.reserved <= NanoUsd::ZERO && is_first(a)).map(|(_, a)| a.free());
        let wanted = alone.fold(demand.ceiling, NanoUsd::min);
        let enough = if demand.hurried { demand.least } else { wanted };
        let short = |a: &Account<W>| {
            !a.known || (a.free() < enough && a.reserved > NanoUsd::ZERO) || (!demand.hurried && !is_first(a))
        };
        if let Some((id, _)) = hard().find(|(_, a)| short(a)) {
            return if demand.hurried { Answer::Held(id) } else { Answer::Wait(id) };
        }
        let amount = hard().map(|(_, a)| a.free()).reduce(NanoUsd::min).map(|free| free.min(demand.ceiling));
        self.grant(budgets, demand, amount)
    }

    fn grant(&mut self, budgets: &[BudgetId], demand: &Demand, amount: Option<NanoUsd>) -> Answer {
        let (mut shares, mut exceeded) = (Vec::with_capacity(budgets.len()), Vec::new());
        for id in budgets {
            let Some(account) = self.accounts.get_mut(id) else { continue };
            let is_hard = account.terms.mode == Mode::Hard;
            let share = if is_hard { amount.unwrap_or(demand.ceiling) } else { account.expects(demand) };
            if !is_hard && account.free() < share {
                exceeded.push(*id);
            }
            account.reserved += share;
            shares.push(Share { budget: *id, amount: share, is_hard });
        }
        Answer::Granted { reserved: Reserved(shares), amount, exceeded }
    }

    /// Leaves the line. Whoever is its head now is returned.
    pub fn leave(&mut self, place: &mut Option<Place>) -> Vec<W> {
        let Some(Place { budget, ticket }) = place.take() else { return Vec::new() };
        if let Some(account) = self.accounts.get_mut(&budget) {
            account.line.remove(&ticket);
        }
        self.head(budget)
    }

    /// Gives back what goes beyond `amount` under hard budgets.
    #[must_use]
    pub fn trim(&mut self, reserved: &mut Reserved, amount: NanoUsd) -> Vec<W> {
        let mut told = Vec::new();
        for share in reserved.0.iter_mut().filter(|share| share.is_hard && share.amount > amount) {
            if let Some(account) = self.accounts.get_mut(&share.budget) {
                account.reserved = account.reserved.saturating_sub(share.amount.saturating_sub(amount));
            }
            share.amount = amount;
            told.extend(self.head(share.budget));
        }
        told
    }

    /// An attempt is over: gives back what was reserved and charges `budgets` what it cost. They are those that hold now, which
    /// need not be those that held when it was reserved.
    #[must_use]
    pub fn settle(&mut self, now: Wall, reserved: Reserved, budgets: &[BudgetId], cost: NanoUsd) -> Vec<W> {
        let mut touched: Vec<BudgetId> = budgets.to_vec();
        for share in reserved.0 {
            if let Some(account) = self.accounts.get_mut(&share.budget) {
                account.reserved = account.reserved.saturating_sub(share.amount);
                touched.push(share.budget);
            }
        }
        for id in budgets {
            let Some(account) = self.accounts.get_mut(id) else { continue };
            account.roll(now);
            account.spent += cost;
            if account.terms.mode == Mode::Soft && cost > NanoUsd::ZERO {
                account.costs.record(cost.0.unsigned_abs());
            }
        }
        touched.sort_unstable();
        touched.dedup();
        touched.into_iter().flat_map(|id| self.head(id)).collect()
    }

    /// Whether a soft budget would be exceeded by a further request of this cost.
    pub fn is_exceeded(&mut self, now: Wall, id: BudgetId, demand: &Demand) -> bool {
        let Some(account) = self.accounts.get_mut(&id) else { return false };
        account.roll(now);
        account.terms.mode == Mode::Soft && account.free() < account.expects(demand)
    }

    /// The figures at `now`.
    pub fn figures(&mut self, now: Wall, id: BudgetId) -> Option<Figures> {
        let account = self.accounts.get_mut(&id)?;
        account.roll(now);
        Some(Figures {
            amount: account.terms.amount,
            mode: account.terms.mode,
            spent: account.spent,
            reserved: account.reserved,
            left: account.free().max(NanoUsd::ZERO),
            span: account.span,
            waiting: account.line.len(),
            known: account.known,
        })
    }

    fn head(&self, id: BudgetId) -> Vec<W> {
        let account = self.accounts.get(&id);
        account.and_then(|account| account.line.first_key_value()).map(|(_, waker)| waker.clone()).into_iter().collect()
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

#[cfg(test)]
mod tests;
