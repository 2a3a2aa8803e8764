//! Waiting for a place: every candidate's gate refused, and one of them may admit again soon.

use crate::actors::messages::Plan;
use crate::clock;
use crate::domain::gate::{Refusal, RefusalReason};
use crate::domain::time::Ts;
use crate::engine::context::RequestContext;
use crate::engine::record::{Step, ms};
use std::borrow::Cow;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// A breaker that re-opens this soon is waited for.
const NEAR: Duration = Duration::from_millis(250);
/// Requests that may wait for a full endpoint at once.
const MAX_WAITING: u32 = 1_000;
/// Of so many candidates a waiting request stands in line at once.
const MAX_LINES: usize = 16;

pub struct Wait<'a> {
    pub ctx: &'a RequestContext,
    pub plan: &'a Plan,
    /// One for each candidate.
    pub refusals: &'a [Refusal],
    /// When this request first had to wait.
    pub since: Ts,
}

impl Wait<'_> {
    /// Waits until a candidate may admit again; `false`, at once, if none will in time or too many wait.
    pub async fn for_place(&self, now: Ts, deadline: Ts) -> bool {
        let cells = || self.plan.route.cells.iter();
        let max_wait = cells().map(|c| c.config().limits.max_wait).max().unwrap_or_default();
        let latest = |r: &Refusal| self.since.plus(if is_breaker(r.reason) { NEAR } else { max_wait });
        // A refusal without a time depends on others: on a call that ends, or a breaker that moves.
        let near = |r: &Refusal| match r.retry_at {
            Some(at) => Some(at).filter(|at| *at <= latest(r)),
            None => Some(latest(r)).filter(|end| now < *end),
        };
        let crowded = self.ctx.worker.gateway.waiting.load(Relaxed) >= MAX_WAITING;
        let until = self.refusals.iter().filter_map(near).min();
        let Some(until) = until.filter(|at| *at < deadline && !crowded) else { return false };
        // Never less than a millisecond: a gate that said "now" is given time to move.
        let pause = until.since(now).max(Duration::from_millis(1));
        {
            let _place = Waiting::enter(self.ctx);
            let candidates = self.plan.candidates.iter().take(MAX_LINES);
            let lines: Vec<_> = candidates
                .filter_map(|c| self.plan.route.cells.get(c.index))
                .map(|c| Box::pin(c.room.notified()))
                .collect();
            // Whichever comes first; both mean: ask again.
            let _ = tokio::time::timeout(pause, futures_util::future::select_all(lines)).await;
        }
        let waited = clock::now().since(now);
        self.ctx.note(now, |at_ms| Step::Waited {
            at_ms,
            ms: ms(waited),
            why: Cow::Borrowed("every candidate was full or shut"),
        });
        true
    }
}

/// Whether a refusal is the breaker's word; the others are limits, which open by themselves.
fn is_breaker(reason: RefusalReason) -> bool {
    use RefusalReason::{BreakerOpen, ForcedOpen, HalfOpenFull, ProbeNotAllowed, Ramping};
    matches!(reason, BreakerOpen | ForcedOpen | HalfOpenFull | ProbeNotAllowed | Ramping)
}

/// A request's place among those that wait.
struct Waiting<'a>(&'a RequestContext);

impl<'a> Waiting<'a> {
    fn enter(ctx: &'a RequestContext) -> Self {
        ctx.worker.gateway.waiting.fetch_add(1, Relaxed);
        Self(ctx)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.worker.gateway.waiting.fetch_sub(1, Relaxed);
    }
}
