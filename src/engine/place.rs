//! Waiting for a place: every candidate's gate refused.
//!
//! - It is worth waiting while some candidate may admit in time: a full one within its `limits.max_wait`, a shut breaker that
//!   re-opens within its `breaker.reopen_wait`, a half-open one as long as its probes usually take. Never beyond the caller's deadline,
//!   and for no moment that is known to lie beyond it. Counted from when the request first had to wait.
//! - Who waits stands in the candidates' lines (see [`crate::actors::line`]) and is given its place, or told that it is no longer
//!   worth it. The first probe of a breaker that re-opens is given in the same way: as many pass as it admits, the others wait on.
//! - `server.max_waiting` bounds all who wait, and each key's share of them: beyond it the answer is 503 at once.

use crate::actors::line::Standing;
use crate::actors::messages::Plan;
use crate::actors::permit::Permit;
use crate::clock;
use crate::domain::gate::{Refusal, RefusalReason};
use crate::domain::queue::{Full, Lobby};
use crate::domain::time::Ts;
use crate::engine::context::RequestContext;
use crate::engine::record::{Step, ms};
use parking_lot::Mutex;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// In so many lines a request stands at once, those of its best candidates.
const MAX_LINES: usize = 16;

/// All who wait in the process, and what became of those who did.
#[derive(Debug, Default)]
pub struct Waiting {
    lobby: Mutex<Lobby>,
    /// Requests that were given a place.
    pub given: AtomicU64,
    /// Requests that left without one: not in time, or their caller went away.
    pub left: AtomicU64,
    /// Requests that found no room to wait.
    pub crowded: AtomicU64,
}

impl Waiting {
    /// Requests that wait now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lobby.lock().waiting()
    }
}

pub struct Wait<'a> {
    pub ctx: &'a RequestContext,
    pub plan: &'a Plan,
    /// What the request reserves.
    pub tokens: u64,
    pub deadline: Ts,
}

/// Why a request has no place.
#[derive(Debug)]
pub struct NoPlace {
    pub why: Why,
    /// What the candidates' gates say, one each.
    pub refusals: Vec<Refusal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No candidate will admit in time, or none did.
    NotInTime,
    Crowded(Full),
    Deadline,
}

impl Wait<'_> {
    /// Waits until one of the candidates gives a place; says whose.
    ///
    /// # Errors
    /// Why there is none; at once if that is known at once.
    pub async fn for_place(&self, since: Ts) -> Result<(usize, Permit), NoPlace> {
        let waiting = &self.ctx.worker.gateway.waiting;
        let (mut refusals, mut until) = self.judge(since, since);
        if until.is_none() {
            return Err(NoPlace { why: Why::NotInTime, refusals });
        }
        let mut place = match Waits::enter(self.ctx) {
            Ok(place) => place,
            Err(full) => {
                waiting.crowded.fetch_add(1, Relaxed);
                return Err(NoPlace { why: Why::Crowded(full), refusals });
            }
        };
        let (key, priority) = (self.ctx.caller.key_id(), self.ctx.caller.priority());
        let cells = || {
            self.plan.candidates.iter().enumerate().filter_map(|(i, c)| Some((i, self.plan.route.cells.get(c.index)?)))
        };
        let ahead = cells().take(MAX_LINES).map(|(_, cell)| cell.line.ahead_of(priority)).min().unwrap_or(0);
        let standing = Standing::enter(cells().take(MAX_LINES), &key, priority, self.tokens, since);
        let (given, now) = loop {
            let now = clock::now();
            if let Some(given) = standing.given() {
                if given.permit.is_good() {
                    break (Some((given.candidate, given.permit)), now);
                }
                // The breaker has shut since: nothing may be sent any more, and the wait goes on if it is worth it.
                standing.stand_again(given, now);
                (refusals, until) = self.judge(since, now);
            }
            let Some(end) = until.filter(|end| now < *end) else { break (None, now) };
            let wake = standing.alarm().map_or(end, |alarm| alarm.min(end));
            // Never less than a millisecond: the timer's own grain.
            let pause = wake.since(now).max(Duration::from_millis(1));
            if tokio::time::timeout(pause, standing.told()).await.is_err() {
                standing.look(clock::now());
            }
            (refusals, until) = self.judge(since, clock::now());
        };
        let endpoint = given.as_ref().map(|(_, permit)| Arc::clone(&permit.cell().name));
        place.given = given.is_some();
        self.ctx.note(since, |at_ms| Step::Queued {
            at_ms,
            ms: ms(now.since(since)),
            priority: Cow::Borrowed(priority.as_str()),
            ahead,
            endpoint,
        });
        let late = if now >= self.deadline { Why::Deadline } else { Why::NotInTime };
        given.ok_or(NoPlace { why: late, refusals })
    }

    /// What the gates say at `now`, and until when it is worth waiting; `None` if it is not.
    fn judge(&self, since: Ts, now: Ts) -> (Vec<Refusal>, Option<Ts>) {
        let mut refusals = Vec::with_capacity(self.plan.candidates.len());
        let mut until: Option<Ts> = None;
        for cell in self.plan.candidates.iter().filter_map(|c| self.plan.route.cells.get(c.index)) {
            let (refusal, patience) = {
                let hot = cell.hot.lock();
                let refusal = hot.gate.peek(now, self.tokens, true);
                // A place that is free and yet not this request's is for those before it.
                let refusal = refusal.unwrap_or(Refusal { reason: RefusalReason::Queued, retry_at: None });
                let (max_wait, reopen) = (hot.config.limits.max_wait, hot.config.breaker.reopen_wait);
                let verdict = hot.figures.p95_us.map_or(Duration::ZERO, Duration::from_micros).min(max_wait);
                let patience = match refusal.reason {
                    RefusalReason::HalfOpenFull | RefusalReason::ProbeNotAllowed => reopen + verdict,
                    reason if reason.is_breaker() => reopen,
                    _ => max_wait,
                };
                (refusal, patience)
            };
            let end = since.plus(patience).min(self.deadline);
            let in_time = refusal.retry_at.is_none_or(|at| at <= end && at < self.deadline);
            if in_time && now < end {
                until = until.max(Some(end));
            }
            refusals.push(refusal);
        }
        (refusals, until)
    }
}

/// A request's place among all that wait.
struct Waits<'a> {
    ctx: &'a RequestContext,
    given: bool,
}

impl<'a> Waits<'a> {
    fn enter(ctx: &'a RequestContext) -> Result<Self, Full> {
        let gateway = &ctx.worker.gateway;
        let most = gateway.config().server.max_waiting;
        gateway.waiting.lobby.lock().enter(ctx.caller.key().as_ref(), most).map(|()| Self { ctx, given: false })
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let waiting = &self.ctx.worker.gateway.waiting;
        waiting.lobby.lock().leave(self.ctx.caller.key().as_ref());
        let counter = if self.given { &waiting.given } else { &waiting.left };
        counter.fetch_add(1, Relaxed);
    }
}
