//! Hedging an attempt: when it is slow, one more is sent elsewhere, and the first content wins.
//!
//! - One hedge per request, and only while nothing is wrong: both breakers closed, the retry budget over half, the route's share of extra
//!   requests not used up, a candidate of another failure domain that was not asked yet and whose gate admits. What forbids a hedge that
//!   was due stands in the request's record.
//! - Whoever answers first is the answer; of two at the same moment, the attempt. The other is dropped at once, which closes its upstream's
//!   call and leaves its row as `cancelled`.
//! - An attempt that fails while its hedge runs leaves the request to the hedge; nobody else is asked meanwhile. If both fail, the walk goes
//!   on as after any failure.

use super::Course;
use crate::actors::board::EndpointCell;
use crate::actors::events::Event;
use crate::actors::permit::Permit;
use crate::clock;
use crate::domain::gate::{Ask, Door};
use crate::domain::hedge::{Due, Hedging, Kind};
use crate::domain::time::Ts;
use crate::engine::attempt::Attempt;
use crate::engine::call::{Call, End};
use crate::engine::hold::{self, Hold};
use crate::engine::record::{Step, ms};
use parking_lot::Mutex;
use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Why a hedge that was due was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// The slow endpoint is not well, or every other that could be asked.
    Breaker,
    RetryBudget,
    MaxExtra,
    /// Nobody of another failure domain is left, or admits.
    NoCandidate,
    /// A budget does not pay for one more attempt, or not at once.
    Budget,
}

impl Withheld {
    pub const ALL: [Self; 5] = [Self::Breaker, Self::RetryBudget, Self::MaxExtra, Self::NoCandidate, Self::Budget];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Breaker => "breaker_not_closed",
            Self::RetryBudget => "retry_budget_under_half",
            Self::MaxExtra => "max_extra_reached",
            Self::NoCandidate => "no_candidate",
            Self::Budget => "budget_spent",
        }
    }
}

/// An attempt under way.
pub(super) struct Runner<'a> {
    pub index: usize,
    pub cell: Arc<EndpointCell>,
    pub started: Ts,
    pub call: Call<'a>,
    pub attempt: Attempt,
}

/// An attempt that ended, and which.
pub(super) struct Finished {
    pub index: usize,
    pub cell: Arc<EndpointCell>,
    pub started: Ts,
    pub end: End,
}

impl Runner<'_> {
    pub async fn run(self) -> Finished {
        let Self { index, cell, started, call, attempt } = self;
        let end = call.make(attempt).await;
        Finished { index, cell, started, end }
    }
}

impl<'a> Course<'a> {
    /// The route's hedging, if this request may still use it.
    pub(super) fn hedging(&self) -> Option<Arc<Mutex<Hedging>>> {
        let may = !self.understood.hints.no_hedge && !self.has_hedged;
        self.decided.route.hedge.as_ref().filter(|_| may).cloned()
    }

    /// Makes the attempt, and a hedge when that is due and allowed.
    pub(super) async fn race(&mut self, runner: Runner<'a>, hedging: Arc<Mutex<Hedging>>) -> Finished {
        let Runner { index, cell, started, call, attempt } = runner;
        let kind = if self.understood.request.stream { Kind::Stream } else { Kind::Whole };
        let due = hedging.lock().sent(started, kind);
        let answered = || hedging.lock().answered(kind, clock::now().since(started));
        let mut first = Box::pin(async move { call.make(attempt).await });
        let alone = match due {
            None => Some(first.as_mut().await),
            Some(due) => {
                let wait = started.plus(due.after).since(clock::now());
                tokio::select! {
                    biased;
                    end = &mut first => Some(end),
                    () = tokio::time::sleep(wait) => None,
                }
            }
        };
        let finished = |end| Finished { index, cell: Arc::clone(&cell), started, end };
        let hedge = match (alone, due) {
            (None, Some(due)) => self.hedge(index, &cell, due, &hedging),
            (Some(end), _) => {
                if matches!(end, End::Served(..)) {
                    answered();
                }
                return finished(end);
            }
            (None, None) => None,
        };
        let Some(hedge) = hedge else {
            let end = first.await;
            if matches!(end, End::Served(..)) {
                answered();
            }
            return finished(end);
        };
        let Runner { index: second_index, cell: second_cell, started: second_started, call, attempt } = hedge;
        let mut second = Box::pin(async move { call.make(attempt).await });
        let second_finished = |end| Finished { index: second_index, cell: second_cell, started: second_started, end };
        tokio::select! {
            biased;
            end = &mut first => {
                if matches!(end, End::Served(..)) {
                    answered();
                    self.overtaken(second);
                    return finished(end);
                }
                self.note_end(finished(end));
                second_finished(second.await)
            }
            end = &mut second => {
                if matches!(end, End::Served(..)) {
                    answered();
                    self.ctx.worker.gateway.counters.hedges_won.fetch_add(1, Relaxed);
                    self.overtaken(first);
                    return second_finished(end);
                }
                self.note_end(second_finished(end));
                finished(first.await)
            }
        }
    }

    fn overtaken(&self, loser: Pin<Box<impl Future>>) {
        self.ctx.cancel(loser, "another attempt answered first");
    }

    /// Starts a hedge for the attempt at `first`, unless something speaks against it; that is noted.
    fn hedge(
        &mut self,
        first: usize,
        slow: &Arc<EndpointCell>,
        due: Due,
        hedging: &Mutex<Hedging>,
    ) -> Option<Runner<'a>> {
        let now = clock::now();
        let gateway = &self.ctx.worker.gateway;
        let after_ms = ms(due.after);
        let (index, permit, hold) = match self.place_for_hedge(first, slow, now, hedging) {
            Ok(place) => place,
            Err(why) => {
                gateway.counters.hedges_withheld[why as usize].fetch_add(1, Relaxed);
                self.ctx.note(now, |at_ms| Step::NotHedged { at_ms, after_ms, why: Cow::Borrowed(why.as_str()) });
                return None;
            }
        };
        let cell = Arc::clone(permit.cell());
        gateway.counters.hedges.fetch_add(1, Relaxed);
        self.ctx.note(now, |at_ms| Step::Hedged {
            at_ms,
            slow: Arc::clone(&slow.name),
            endpoint: Arc::clone(&cell.name),
            after_ms,
            samples: due.samples,
        });
        gateway.events.emit(|| Event::Hedge {
            request_id: self.ctx.id.shared(),
            slow: Arc::clone(&slow.name),
            endpoint: Arc::clone(&cell.name),
        });
        self.has_hedged = true;
        Some(self.start(index, permit, hold, ";hedge"))
    }

    /// Everything that a hedge needs, taken.
    fn place_for_hedge(
        &self,
        first: usize,
        slow: &EndpointCell,
        now: Ts,
        hedging: &Mutex<Hedging>,
    ) -> Result<(usize, Permit, Hold), Withheld> {
        if !is_closed(slow) {
            return Err(Withheld::Breaker);
        }
        let besides =
            || self.plan.besides(first, |a, b| self.same_domain(a, b)).filter_map(|i| Some((i, self.cell(i)?)));
        if besides().next().is_none() {
            return Err(Withheld::NoCandidate);
        }
        if !besides().any(|(_, cell)| is_closed(cell)) {
            return Err(Withheld::Breaker);
        }
        let budget = &self.ctx.worker.gateway.retry_budget;
        if !budget.lock().is_over_half(now) {
            return Err(Withheld::RetryBudget);
        }
        let ask = Ask { may_probe: false, roll: 1.0 };
        let mut well = besides().filter(|(_, cell)| is_closed(cell));
        let (tokens, priority) = (self.tokens(), self.ctx.caller.priority());
        let place = well.find_map(|(i, cell)| Some((i, Permit::take_as(cell, now, tokens, ask, priority).ok()?)));
        let (index, permit) = place.ok_or(Withheld::NoCandidate)?;
        let Some(hold) = hold::reserve_at_once(self.ctx, self.understood, permit.cell()) else {
            permit.give_back(now);
            return Err(Withheld::Budget);
        };
        if !hedging.lock().try_extra(now) {
            permit.give_back(now);
            return Err(Withheld::MaxExtra);
        }
        if !budget.lock().try_spend(now, 1) {
            permit.give_back(now);
            return Err(Withheld::RetryBudget);
        }
        Ok((index, permit, hold))
    }
}

fn is_closed(cell: &EndpointCell) -> bool {
    matches!(cell.hot.lock().gate.door(), Door::Open { .. })
}
