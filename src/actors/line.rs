//! The line at an endpoint: requests that every one of their candidates refused, until one has a place for them.
//!
//! - A place that comes free is *given* to whoever is next, under the line's lock and the gate's: exactly one request is woken, and
//!   nobody who comes meanwhile can take it. Who is next is [`Queue`]'s to say.
//! - A request stands in the lines of several endpoints at once and takes the first place that it is given; the other lines pass
//!   over it.
//! - Who leaves gives back what it was given in that moment, and the next is looked at.
//! - While somebody waits, newcomers are refused with `queued`, unless their class is above all that wait.
//! - Nobody polls. A place comes free when a call ends, the gate's owner moves it, or a time is reached that the gate has named
//!   (buckets, pauses): whoever is next then watches that time for all behind it.
//!
//! While nobody waits, all this costs a request one relaxed load.

use crate::actors::board::EndpointCell;
use crate::actors::permit::Permit;
use crate::domain::gate::{Ask, Refusal, RefusalReason, Ticket};
use crate::domain::queue::{Place, Priority, Queue, Turn};
use crate::domain::time::Ts;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::sync::Notify;

/// A waiter has nowhere else to go: it may be a probe, and passes a ramp.
const NOWHERE_ELSE: Ask = Ask { may_probe: true, roll: 0.0 };

/// One endpoint's line.
#[derive(Debug, Default)]
pub struct Line {
    /// The queue's length, for the quick question. Written under the queue's lock; whoever lets go of a place has had the gate's
    /// lock after the waiter that it misses had it, and so sees the waiter counted.
    waiting: AtomicUsize,
    queue: Mutex<Queue<InLine>>,
}

#[derive(Debug)]
struct InLine {
    waiter: Arc<Waiter>,
    /// The endpoint's place in the request's plan.
    candidate: usize,
    tokens: u64,
}

/// A request that waits.
#[derive(Debug, Default)]
pub struct Waiter {
    state: Mutex<State>,
    /// There is something new in the state.
    told: Notify,
}

/// A place that came free for a request.
#[derive(Debug)]
pub struct Given {
    /// Whose it is, by its place in the request's plan.
    pub candidate: usize,
    pub permit: Permit,
    turn: Option<Turn>,
}

#[derive(Debug)]
enum State {
    /// With what the gates said of whose lines it is the next, by candidate.
    Waits(Vec<(usize, Refusal)>),
    Given(Given),
    /// It has its place, or has left.
    Gone,
}

impl Default for State {
    fn default() -> Self {
        Self::Waits(Vec::new())
    }
}

impl Waiter {
    /// The place that it was given.
    fn take(&self) -> Option<Given> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, State::Gone) {
            State::Given(given) => Some(given),
            other => {
                *state = other;
                None
            }
        }
    }

    /// When it has to look itself, because the gate opens by time and nobody tells.
    fn alarm(&self) -> Option<Ts> {
        match &*self.state.lock() {
            State::Waits(said) => {
                said.iter().filter(|(_, r)| r.reason.ends_by_time()).filter_map(|(_, r)| r.retry_at).min()
            }
            State::Given(_) | State::Gone => None,
        }
    }

    fn forget_what_was_said(&self) {
        if let State::Waits(said) = &mut *self.state.lock() {
            said.clear();
        }
    }
}

/// A request's places in the lines of its candidates; dropped, it has left them.
pub struct Standing {
    waiter: Arc<Waiter>,
    tokens: u64,
    at: Vec<At>,
}

/// A request's place in one line.
struct At {
    cell: Arc<EndpointCell>,
    place: Place,
    candidate: usize,
}

impl Standing {
    /// Stands in the lines of these endpoints, given by their place in the request's plan. If one has room, it is given at once.
    pub fn enter<'a>(
        cells: impl Iterator<Item = (usize, &'a Arc<EndpointCell>)>,
        key: &Arc<str>,
        priority: Priority,
        tokens: u64,
        now: Ts,
    ) -> Self {
        let waiter = Arc::new(Waiter::default());
        let mut standing = Self { waiter: Arc::clone(&waiter), tokens, at: Vec::new() };
        for (candidate, cell) in cells {
            let mut queue = cell.line.queue.lock();
            let place = queue.enter(key, priority, InLine { waiter: Arc::clone(&waiter), candidate, tokens });
            cell.line.waiting.store(queue.len(), Relaxed);
            drop(queue);
            standing.at.push(At { cell: Arc::clone(cell), place, candidate });
        }
        standing.serve(now);
        standing
    }

    fn serve(&self, now: Ts) {
        self.at.iter().for_each(|at| at.cell.serve_line(now));
    }

    /// The place that came free for this request, if one has.
    #[must_use]
    pub fn given(&self) -> Option<Given> {
        self.waiter.take()
    }

    /// What it was given is worth nothing any more: it stands where it stood, as if nothing had been given.
    pub fn stand_again(&self, given: Given, now: Ts) {
        *self.waiter.state.lock() = State::default();
        for At { cell, place, candidate } in &self.at {
            let turn = given.turn.filter(|_| *candidate == given.candidate);
            let (candidate, tokens) = (*candidate, self.tokens);
            let mut queue = cell.line.queue.lock();
            queue.take_back(place, InLine { waiter: Arc::clone(&self.waiter), candidate, tokens }, turn);
            cell.line.waiting.store(queue.len(), Relaxed);
        }
        given.permit.give_back(now);
        self.serve(now);
    }

    /// When [`Self::look`] is due, if nothing happens before.
    #[must_use]
    pub fn alarm(&self) -> Option<Ts> {
        self.waiter.alarm()
    }

    /// The time that a gate named has come: those who are next are served.
    pub fn look(&self, now: Ts) {
        self.waiter.forget_what_was_said();
        self.serve(now);
    }

    /// Resolves when a place was given, or something about the gates has changed.
    pub async fn told(&self) {
        self.waiter.told.notified().await;
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        // First out of reach of new places, then out of the lines, then what was given in between goes back.
        let last = std::mem::replace(&mut *self.waiter.state.lock(), State::Gone);
        let now = crate::clock::now();
        for At { cell, place, .. } in &self.at {
            let mut queue = cell.line.queue.lock();
            if queue.leave(place).is_some() {
                cell.line.waiting.store(queue.len(), Relaxed);
            }
        }
        if let State::Given(given) = last {
            given.permit.give_back(now);
        }
        // Who was behind it may be next now, and has to hear what the gate says.
        self.serve(now);
    }
}

impl Line {
    /// Requests that stand here.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Requests that a newcomer of this class would come after.
    #[must_use]
    pub fn ahead_of(&self, priority: Priority) -> usize {
        if self.waiting() == 0 { 0 } else { self.queue.lock().ahead_of(priority) }
    }
}

impl EndpointCell {
    /// Asks the gate for a place; whoever waits comes first.
    ///
    /// # Errors
    /// Why it refuses, and from when it may admit.
    pub fn admit(&self, now: Ts, tokens: u64, ask: Ask, priority: Priority) -> Result<Ticket, Refusal> {
        if self.line.waiting() == 0 {
            return self.hot.lock().gate.admit(now, tokens, ask);
        }
        let mut queue = self.line.queue.lock();
        if !queue.may_pass(priority) {
            return Err(Refusal { reason: RefusalReason::Queued, retry_at: None });
        }
        let ticket = self.hot.lock().gate.admit(now, tokens, ask)?;
        queue.passed(priority);
        Ok(ticket)
    }

    /// Gives what places there are to those who are next, and tells the first that gets none why.
    pub fn serve_line(self: &Arc<Self>, now: Ts) {
        if self.line.waiting() == 0 {
            return;
        }
        let mut queue = self.line.queue.lock();
        while let Some((place, next)) = queue.next() {
            let (waiter, candidate, tokens) = (Arc::clone(&next.waiter), next.candidate, next.tokens);
            let mut state = waiter.state.lock();
            let State::Waits(said) = &mut *state else {
                // Served elsewhere and not out of this line yet.
                queue.leave(&place);
                continue;
            };
            match self.hot.lock().gate.admit(now, tokens, NOWHERE_ELSE) {
                Ok(ticket) => {
                    let turn = queue.serve(&place).map(|(_, turn)| turn);
                    *state = State::Given(Given { candidate, permit: Permit::given(self, ticket, now), turn });
                    waiter.told.notify_one();
                }
                Err(refusal) => {
                    let of_this = said.iter_mut().find(|(of, _)| *of == candidate);
                    let is_news = match of_this {
                        Some((_, known)) => std::mem::replace(known, refusal) != refusal,
                        None => {
                            said.push((candidate, refusal));
                            true
                        }
                    };
                    if is_news {
                        waiter.told.notify_one();
                    }
                    break;
                }
            }
        }
        self.line.waiting.store(queue.len(), Relaxed);
    }

    /// The gate shut or opened: all who wait judge anew whether it is worth it.
    pub fn tell_line(&self) {
        if self.line.waiting() > 0 {
            self.line.queue.lock().waiters().for_each(|w| w.waiter.told.notify_one());
        }
    }
}

#[cfg(test)]
mod tests;
