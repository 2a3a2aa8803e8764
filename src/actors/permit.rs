//! A permit: the right to call an endpoint once. However the call ends, in-flight goes down and a result reaches the actor.

use crate::actors::board::EndpointCell;
use crate::clock;
use crate::domain::gate::{Ask, PauseReason, Refusal, Ticket};
use crate::domain::health::Settle;
use crate::domain::money::NanoUsd;
use crate::domain::outcome::{Outcome, Reserved, Verdict};
use crate::domain::queue::Priority;
use crate::domain::time::{Ts, micros};
use crate::domain::usage::Usage;
use std::sync::Arc;
use std::time::Duration;

/// A 503's wish for a pause is granted up to here; beyond it the breaker knows better.
const LONGEST_WISH: Duration = Duration::from_secs(60);

/// What a call came to.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub outcome: Outcome,
    pub ttft_us: Option<u64>,
    pub usage: Usage,
    pub cost: Option<NanoUsd>,
    /// How long a 429 asks for.
    pub retry_after: Option<Duration>,
}

/// Dropped without a report, the call counts as cancelled.
#[derive(Debug)]
pub struct Permit {
    cell: Arc<EndpointCell>,
    ticket: Option<Ticket>,
    started: Ts,
}

impl Permit {
    /// Asks `cell`'s gate, for a request of the usual priority.
    ///
    /// # Errors
    /// The gate's refusal.
    pub fn take(cell: &Arc<EndpointCell>, now: Ts, tokens: u64, ask: Ask) -> Result<Self, Refusal> {
        Self::take_as(cell, now, tokens, ask, Priority::Normal)
    }

    /// Asks `cell`'s gate, behind those who wait unless they are of a lower class.
    ///
    /// # Errors
    /// The gate's refusal.
    pub fn take_as(
        cell: &Arc<EndpointCell>,
        now: Ts,
        tokens: u64,
        ask: Ask,
        priority: Priority,
    ) -> Result<Self, Refusal> {
        let ticket = cell.admit(now, tokens, ask, priority)?;
        Ok(Self::given(cell, ticket, now))
    }

    /// A permit for a ticket of `cell`'s gate.
    pub(super) fn given(cell: &Arc<EndpointCell>, ticket: Ticket, now: Ts) -> Self {
        Self { cell: Arc::clone(cell), ticket: Some(ticket), started: now }
    }

    #[must_use]
    pub fn cell(&self) -> &Arc<EndpointCell> {
        &self.cell
    }

    #[must_use]
    pub fn started(&self) -> Ts {
        self.started
    }

    /// Whether the gate still stands by it. A permit that was handed over may be old by the moment it takes to wake up.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.ticket.as_ref().is_some_and(|ticket| self.cell.hot.lock().gate.honours(ticket))
    }

    /// Reports how the call ended, at `now`.
    pub fn finish(mut self, now: Ts, report: &Report) {
        self.settle(now, report);
    }

    /// The same permit for a call that begins only at `now`.
    #[must_use]
    pub fn starting_at(mut self, now: Ts) -> Self {
        self.started = now;
        self
    }

    /// Gives the permit back: nothing was sent with it.
    pub fn give_back(mut self, now: Ts) {
        if let Some(ticket) = self.ticket.take() {
            self.cell.hot.lock().gate.release_unjudged(now, ticket, Reserved::Refund, None);
            self.cell.serve_line(now);
        }
    }

    fn settle(&mut self, now: Ts, report: &Report) {
        let Some(ticket) = self.ticket.take() else { return };
        let class = report.outcome.class();
        let (epoch, probe, held) = (ticket.epoch, ticket.probe, ticket.held);
        let out = {
            let mut hot = self.cell.hot.lock();
            let out = hot.gate.in_flight();
            let used = (report.usage.total() > 0).then(|| report.usage.total());
            if class.verdict == Verdict::Neutral {
                // A call that was cancelled before anything was used costs nothing.
                let reserved = if used.is_none() && class.reserved == Reserved::Settle {
                    Reserved::Refund
                } else {
                    class.reserved
                };
                hot.gate.release_unjudged(now, ticket, reserved, used);
            } else {
                // A fault after usage was seen (a malformed answer with figures) was paid for.
                let reserved = if used.is_some() { Reserved::Settle } else { class.reserved };
                hot.gate.release(now, ticket, reserved, used);
            }
            if held && class.verdict == Verdict::Success {
                hot.gate.prove();
            }
            match (report.outcome, report.retry_after) {
                (Outcome::RateLimited, retry_after) => {
                    hot.gate.on_rate_limited(now, retry_after);
                }
                (Outcome::QuotaExceeded, _) => {
                    hot.gate.on_quota_exceeded(now);
                }
                (Outcome::Unavailable, Some(pause)) => {
                    hot.gate.pause(now, now.plus(pause.min(LONGEST_WISH)), PauseReason::Unavailable);
                }
                _ => {}
            }
            out
        };
        self.cell.serve_line(now);
        let latency_us = micros(now.since(self.started));
        self.cell.meters.attempt(report.outcome, latency_us, report.ttft_us, &report.usage, report.cost);
        let settle = Settle {
            at: now,
            epoch,
            probe,
            outcome: report.outcome,
            latency_us,
            ttft_us: report.ttft_us,
            cost: report.cost.unwrap_or_default(),
            usage: report.usage,
            out,
        };
        self.cell.settle(settle, probe || held || class.verdict != Verdict::Success);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let report = Report {
            outcome: Outcome::Cancelled,
            ttft_us: None,
            usage: Usage::default(),
            cost: Some(NanoUsd::ZERO),
            retry_after: None,
        };
        self.settle(clock::now(), &report);
    }
}
