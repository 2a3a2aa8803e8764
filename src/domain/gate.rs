//! The gate of one endpoint: what a request's own thread asks before it sends, and settles with afterwards.
//!
//! A request is admitted when nothing refuses it, asked in this order: the door (what the breaker decided), pauses, requests
//! in flight, requests per minute, tokens per minute. A refusal takes nothing, is no failure, and names the earliest moment at
//! which asking again makes sense, where there is one.
//!
//! - Only the endpoint's actor moves the door; the gate never changes the breaker.
//! - A ramping door lets the share of its step through: 10, 30, 60 % in the thirds of its time, then everything. A `roll` of 0
//!   always passes, for a request that has nowhere else to go.
//! - While probing, a ticket that may probe takes a permit. A result that says nothing about health gives it back; a permit of
//!   an earlier epoch is never given back to a later one. A permit that never comes back is the breaker's business: its
//!   half-open period ends.
//! - A hold shuts an endpoint for the sake of its failure domain: it lets one probe through, and stands until somebody else lifts
//!   it. It counts only while the door itself lets requests in.
//! - A pause's end only moves later, per reason; other reasons stay in force beside it.
//! - Tokens are reserved on admission and settled on release. Debt is possible, see [`Bucket`].
//! - A rate learnt from 429s takes the place of the configured one as long as it is lower, see [`RateLearner`].
//!
//! Plain data without allocation on the request's path; somebody else puts it under a lock. It doesn't queue.

mod answers;
mod checkpoint;

pub use answers::{Ask, Door, GateView, PauseReason, Refusal, RefusalReason, Ticket};
pub use checkpoint::GateCheckpoint;

use crate::domain::bucket::Bucket;
use crate::domain::learn::RateLearner;
use crate::domain::outcome::Reserved;
use crate::domain::settings::LimitSettings;
use crate::domain::time::{Ts, micros};
use std::time::Duration;

/// How long a quota that is used up shuts the endpoint.
pub const QUOTA_PAUSE: Duration = Duration::from_secs(15 * 60);
/// A `Retry-After` beyond this speaks of a quota, not of a rate.
const LONGEST_RATE_PAUSE: Duration = Duration::from_secs(120);
/// The door of a shut breaker is opened by its actor, a moment after its time: asking again earlier is in vain.
const ACTOR_GRACE: Duration = Duration::from_millis(2);

/// One endpoint's admission: door, pauses, buckets, requests in flight.
#[derive(Clone, Debug)]
pub struct Gate {
    door: Door,
    hold: Option<Hold>,
    /// A probe under a hold has succeeded, and nobody has asked yet.
    proved: bool,
    /// The latest of `pauses`, for the quick question.
    paused_until: Ts,
    /// By [`PauseReason`]; a moment that has passed is no pause.
    pauses: [Ts; PauseReason::ALL.len()],
    in_flight: u32,
    /// In force: what is configured, or what the endpoint's actor found that it takes.
    concurrency: u32,
    configured_concurrency: u32,
    /// Holds the learnt limit while there is one.
    rpm: Option<Bucket>,
    tpm: Option<Bucket>,
    configured_rpm: Option<u64>,
    learner: RateLearner,
    /// When the learnt limit is next brought up to date.
    learn_step: Ts,
    serial: u64,
}

/// Shut for the sake of a failure domain.
#[derive(Clone, Copy, Debug)]
struct Hold {
    since: Ts,
    until: Ts,
    probe_left: bool,
}

/// How a request is let in.
struct Pass {
    epoch: u64,
    /// Of a half-open breaker.
    probe: bool,
    /// Of a failure domain that is open.
    held: bool,
}

impl Gate {
    /// An open gate with full buckets; its epoch is the one of a new breaker.
    #[must_use]
    pub fn new(limits: &LimitSettings, now: Ts) -> Self {
        Self {
            door: Door::Open { epoch: 1 },
            hold: None,
            proved: false,
            paused_until: Ts(0),
            pauses: [Ts(0); PauseReason::ALL.len()],
            in_flight: 0,
            concurrency: limits.concurrency,
            configured_concurrency: limits.concurrency,
            rpm: limits.rpm.map(|limit| Bucket::new(limit, 1, now)),
            tpm: limits.tpm.map(|limit| Bucket::new(limit, 1, now)),
            configured_rpm: limits.rpm,
            learner: RateLearner::new(now),
            learn_step: Ts(0),
            serial: 0,
        }
    }

    /// Admits a request that expects to use `tokens`, and counts it in.
    ///
    /// # Errors
    /// What refused it; nothing was taken.
    pub fn admit(&mut self, now: Ts, tokens: u64, ask: Ask) -> Result<Ticket, Refusal> {
        if self.learner.has_learnt() && now >= self.learn_step {
            self.apply_learnt(now);
        }
        let Pass { epoch, probe, held } = self.check(now, tokens, ask)?;
        if let Some(hold) = self.hold.as_mut().filter(|_| held) {
            hold.probe_left = false;
        }
        if let Door::Probing { left, .. } = &mut self.door {
            *left = left.saturating_sub(1);
        }
        if let Some(bucket) = &mut self.rpm {
            bucket.take(now, 1);
        }
        if let Some(bucket) = &mut self.tpm {
            bucket.take(now, tokens);
        }
        self.learner.on_admitted(now);
        self.in_flight = self.in_flight.saturating_add(1);
        self.serial = self.serial.wrapping_add(1);
        Ok(Ticket { epoch, probe, held, tokens, at: now, serial: self.serial })
    }

    /// What would refuse such a request now; a ramping door is taken for open.
    #[must_use]
    pub fn peek(&self, now: Ts, tokens: u64, may_probe: bool) -> Option<Refusal> {
        self.check(now, tokens, Ask { may_probe, roll: 0.0 }).err()
    }

    /// Settles a ticket whose result the breaker counts, success or failure. `actual_tokens` is what was really used;
    /// unknown, the reservation stands.
    pub fn release(&mut self, now: Ts, ticket: Ticket, reserved: Reserved, actual_tokens: Option<u64>) {
        if let Door::Probing { epoch, left, spare } = &mut self.door
            && ticket.probe
            && ticket.epoch == *epoch
            && *spare > 0
        {
            *spare -= 1;
            *left = left.saturating_add(1);
        }
        if reserved == Reserved::Settle {
            self.learner.on_success(ticket.at);
        }
        self.settle(now, &ticket, reserved, actual_tokens);
    }

    /// Settles a ticket whose result says nothing about health: cancelled, never sent, or neutral. Its probe permit is free
    /// again.
    pub fn release_unjudged(&mut self, now: Ts, ticket: Ticket, reserved: Reserved, actual_tokens: Option<u64>) {
        if let Door::Probing { epoch, left, .. } = &mut self.door
            && ticket.probe
            && ticket.epoch == *epoch
        {
            *left = left.saturating_add(1);
        }
        if let Some(hold) = self.hold.as_mut().filter(|hold| ticket.held && ticket.at >= hold.since) {
            hold.probe_left = true;
        }
        self.settle(now, &ticket, reserved, actual_tokens);
    }

    /// Whether a ticket that was given a moment ago, and not used yet, would still be given: the door may have moved since.
    #[must_use]
    pub fn honours(&self, ticket: &Ticket) -> bool {
        let by_door = match self.door {
            Door::Open { .. } | Door::Ramp { .. } => true,
            Door::Probing { epoch, .. } => ticket.epoch == epoch,
            Door::Shut { .. } => false,
        };
        by_door && (ticket.held || ticket.probe || self.hold.is_none())
    }

    /// Shuts the gate for its failure domain until about `until`, with one probe; `None` lifts that. The same period twice changes
    /// nothing.
    pub fn set_hold(&mut self, now: Ts, until: Option<Ts>) {
        if self.hold.map(|hold| hold.until) != until {
            self.hold = until.map(|until| Hold { since: now, until, probe_left: true });
        }
    }

    /// A probe under a hold came back with a success.
    pub fn prove(&mut self) {
        self.proved = self.hold.is_some();
    }

    /// Whether a probe under a hold has succeeded since this was last asked.
    pub fn take_proof(&mut self) -> bool {
        std::mem::take(&mut self.proved)
    }

    /// Refuses everything until `until` at least.
    pub fn pause(&mut self, now: Ts, until: Ts, reason: PauseReason) {
        if until <= now {
            return;
        }
        let slot = &mut self.pauses[reason as usize];
        *slot = until.max(*slot);
        self.paused_until = self.paused_until.max(*slot);
    }

    /// Ends the pauses of one reason.
    pub fn unpause(&mut self, reason: PauseReason) {
        self.pauses[reason as usize] = Ts(0);
        self.paused_until = self.pauses.into_iter().max().unwrap_or_default();
    }

    /// Pauses after a 429 and learns from it. `retry_after` is the upstream's, if it was usable; zero is not. Returns the pause
    /// that is now in force.
    pub fn on_rate_limited(&mut self, now: Ts, retry_after: Option<Duration>) -> (PauseReason, Ts) {
        let asked = retry_after.filter(|d| !d.is_zero());
        if asked.is_some_and(|d| d > LONGEST_RATE_PAUSE) {
            return self.on_quota_exceeded(now);
        }
        let running = self.pauses[PauseReason::RateLimited as usize];
        if now < running {
            // An answer to a request of before the pause: the same event, unless the upstream asks for more time.
            let until = running.max(now.plus(asked.unwrap_or_default()));
            self.learner.on_pause_extended(until);
            self.pause(now, until, PauseReason::RateLimited);
            return (PauseReason::RateLimited, until);
        }
        let until = now.plus(asked.unwrap_or_else(|| self.learner.default_pause()));
        self.learner.on_rate_limited(now, until, self.configured_rpm);
        self.apply_learnt(now);
        self.pause(now, until, PauseReason::RateLimited);
        (PauseReason::RateLimited, until)
    }

    /// Pauses because a quota or spend limit is used up. Returns the pause that is now in force.
    pub fn on_quota_exceeded(&mut self, now: Ts) -> (PauseReason, Ts) {
        self.pause(now, now.plus(QUOTA_PAUSE), PauseReason::Quota);
        (PauseReason::Quota, self.pauses[PauseReason::Quota as usize])
    }

    /// Lowers the buckets to what the upstream says is left (`x-ratelimit-remaining-*`); never raises them.
    pub fn on_remaining(&mut self, now: Ts, requests: Option<u64>, tokens: Option<u64>) {
        if let (Some(bucket), Some(n)) = (&mut self.rpm, requests) {
            bucket.lower_to(now, n);
        }
        if let (Some(bucket), Some(n)) = (&mut self.tpm, tokens) {
            bucket.lower_to(now, n);
        }
    }

    /// Moves the door. The same probing period twice changes nothing, so that permits in use stay counted.
    pub fn set_door(&mut self, door: Door) {
        let same_period = matches!((&self.door, &door),
            (Door::Probing { epoch: old, .. }, Door::Probing { epoch: new, .. }) if old == new);
        if !same_period {
            self.door = door;
        }
    }

    /// Changes the limits at run time; what was used stays used.
    pub fn set_limits(&mut self, limits: &LimitSettings, now: Ts) {
        self.configured_concurrency = limits.concurrency;
        // Below it the actor has the last word, while it has one.
        self.concurrency = if limits.adaptive { self.concurrency.min(limits.concurrency) } else { limits.concurrency };
        self.configured_rpm = limits.rpm;
        change(&mut self.rpm, limits.rpm, now);
        change(&mut self.tpm, limits.tpm, now);
        self.apply_learnt(now);
    }

    /// Moves the limit of calls at once below what is configured; `None`: no further than that.
    pub fn set_concurrency(&mut self, found: Option<u32>) {
        self.concurrency = found.unwrap_or(u32::MAX).min(self.configured_concurrency);
    }

    #[must_use]
    pub fn door(&self) -> Door {
        self.door
    }

    /// The limit of calls at once that is in force.
    #[must_use]
    pub fn concurrency(&self) -> u32 {
        self.concurrency
    }

    /// Tickets that are out.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The gate as people see it.
    #[must_use]
    pub fn view(&self, now: Ts) -> GateView {
        let bucket = |b: &Option<Bucket>| b.as_ref().map(|b| (b.per_minute(), b.available(now)));
        GateView {
            rpm: bucket(&self.rpm),
            tpm: bucket(&self.tpm),
            concurrency: (self.concurrency, self.in_flight),
            configured_concurrency: self.configured_concurrency,
            paused: self.paused(now),
            learnt_rpm: self.learner.limit(now, self.configured_rpm).map(whole),
            held_until: self.hold.map(|hold| hold.until),
        }
    }

    fn check(&self, now: Ts, tokens: u64, ask: Ask) -> Result<Pass, Refusal> {
        let mut pass = self.ask_door(now, ask)?;
        if let Some(hold) = self.hold.filter(|_| !pass.probe) {
            if !(hold.probe_left && ask.may_probe) {
                let retry_at = Some(hold.until.max(now).plus(ACTOR_GRACE));
                return Err(Refusal { reason: RefusalReason::DomainOpen, retry_at });
            }
            pass.held = true;
        }
        if now < self.paused_until
            && let Some((reason, until)) = self.paused(now)
        {
            return Err(Refusal { reason: reason.into(), retry_at: Some(until) });
        }
        if self.in_flight >= self.concurrency {
            return Err(Refusal { reason: RefusalReason::Concurrency, retry_at: None });
        }
        if let Some(bucket) = &self.rpm {
            bucket.check(now, 1).map_err(|at| Refusal { reason: RefusalReason::Rpm, retry_at: Some(at) })?;
        }
        if let Some(bucket) = &self.tpm {
            bucket.check(now, tokens).map_err(|at| Refusal { reason: RefusalReason::Tpm, retry_at: Some(at) })?;
        }
        Ok(pass)
    }

    fn ask_door(&self, now: Ts, ask: Ask) -> Result<Pass, Refusal> {
        let pass = |epoch, probe| Ok(Pass { epoch, probe, held: false });
        match self.door {
            Door::Open { epoch } => pass(epoch, false),
            Door::Ramp { epoch, since, over } => match ramp(now, since, over) {
                Some((share, next)) if ask.roll > 0.0 && ask.roll >= share => {
                    Err(Refusal { reason: RefusalReason::Ramping, retry_at: Some(next) })
                }
                _ => pass(epoch, false),
            },
            Door::Shut { until, operator, .. } => Err(Refusal {
                reason: if operator { RefusalReason::ForcedOpen } else { RefusalReason::BreakerOpen },
                retry_at: until.map(|until| until.max(now).plus(ACTOR_GRACE)),
            }),
            Door::Probing { left: 0, .. } => Err(Refusal { reason: RefusalReason::HalfOpenFull, retry_at: None }),
            Door::Probing { .. } if !ask.may_probe => {
                Err(Refusal { reason: RefusalReason::ProbeNotAllowed, retry_at: None })
            }
            Door::Probing { epoch, .. } => pass(epoch, true),
        }
    }

    fn paused(&self, now: Ts) -> Option<(PauseReason, Ts)> {
        let latest = PauseReason::ALL.into_iter().map(|reason| (reason, self.pauses[reason as usize]));
        latest.filter(|(_, until)| now < *until).max_by_key(|(_, until)| *until)
    }

    fn settle(&mut self, now: Ts, ticket: &Ticket, reserved: Reserved, actual_tokens: Option<u64>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match reserved {
            Reserved::Keep => {}
            Reserved::Refund => {
                if let Some(bucket) = &mut self.rpm {
                    bucket.give_back(1);
                }
                if let Some(bucket) = &mut self.tpm {
                    bucket.give_back(ticket.tokens);
                }
            }
            Reserved::Settle => {
                if let (Some(bucket), Some(actual)) = (&mut self.tpm, actual_tokens) {
                    match actual.checked_sub(ticket.tokens) {
                        Some(more) => bucket.charge(now, more),
                        None => bucket.give_back(ticket.tokens - actual),
                    }
                }
            }
        }
    }

    /// Brings the request bucket to the learnt limit, or back to the configured one when the learnt is outgrown.
    fn apply_learnt(&mut self, now: Ts) {
        const STEP: Duration = Duration::from_secs(1);
        self.learn_step = now.plus(STEP);
        let Some(limit) = self.learner.limit(now, self.configured_rpm) else {
            self.learner.forget();
            return change(&mut self.rpm, self.configured_rpm, now);
        };
        change(&mut self.rpm, Some(whole(limit)), now);
    }
}

/// Gives a bucket another rate, makes it, or drops it.
fn change(bucket: &mut Option<Bucket>, limit: Option<u64>, now: Ts) {
    match (bucket.as_mut(), limit) {
        (Some(bucket), Some(limit)) => bucket.set_rate(limit),
        (None, Some(limit)) => *bucket = Some(Bucket::new(limit, 1, now)),
        (_, None) => *bucket = None,
    }
}

/// Share of requests that a ramp lets through, and when that changes; `None` after its end.
fn ramp(now: Ts, since: Ts, over: Duration) -> Option<(f64, Ts)> {
    let elapsed = micros(now.since(since));
    let over = micros(over);
    if elapsed >= over {
        return None;
    }
    let step = elapsed.saturating_mul(3) / over;
    let next = Ts(since.0.saturating_add((over.saturating_mul(step + 1)).div_ceil(3)));
    let share = match step {
        0 => 0.1,
        1 => 0.3,
        _ => 0.6,
    };
    Some((share, next))
}

fn whole(rpm: f64) -> u64 {
    (rpm as u64).max(1)
}

#[cfg(test)]
mod tests;
