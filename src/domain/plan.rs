//! The plan of one request: which candidate is asked next, with how much time, and when to stop.
//!
//! - Candidates are walked in rank order; a refusal by a gate moves on at once and costs nothing.
//! - After a failure the next attempt goes to an endpoint that has not failed this request, at once; one outside the failure domain
//!   that just failed comes first.
//! - One whose gate spared it because others were left to ask (it is recovering) is asked again before the pass ends: a request that failed elsewhere never
//!   fails for good while somebody healthy might take it.
//! - When all have been tried, a second pass follows after a pause, only over endpoints whose failure rate is under
//!   [`HOPELESS_RATE`]: random errors are ridden out, a dead fleet is not hammered.
//! - One absolute deadline: while others are left to ask, an attempt may spend half of what is left on its first byte; the last may
//!   spend all of it.

use crate::domain::outcome::{Failover, Outcome};
use crate::domain::retry::backoff;
use crate::domain::settings::RetrySettings;
use crate::domain::time::Ts;
use std::time::Duration;

/// From this failure rate on, an endpoint that has failed this request is not asked again for it.
pub const HOPELESS_RATE: f64 = 0.5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Untried,
    /// Its gate refused in this pass.
    Refused,
    /// Its gate refused because others could be asked instead.
    Spared,
    /// Failed this request in this pass.
    Failed,
    /// Never again for this request.
    Out,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask the candidate with this index.
    Try(usize),
    /// Wait, then ask for the next step again: a new pass has begun.
    Pause(Duration),
    Stop(Stop),
}

/// Why the plan ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Every candidate's gate refused and nothing was sent.
    AllRefused,
    /// Attempts, candidates or the caller's permission are used up.
    Exhausted,
    Deadline,
}

#[derive(Clone, Debug)]
pub struct AttemptPlan {
    standing: Vec<Standing>,
    settings: RetrySettings,
    deadline: Ts,
    attempts: u32,
    pass: u32,
    conflicts: u32,
    may_continue: bool,
    last_failed: Option<usize>,
}

impl AttemptPlan {
    /// A plan over candidates `0..count`, best first.
    #[must_use]
    pub fn new(count: usize, settings: RetrySettings, deadline: Ts) -> Self {
        Self {
            standing: vec![Standing::Untried; count],
            settings,
            deadline,
            attempts: 0,
            pass: 0,
            conflicts: 0,
            may_continue: true,
            last_failed: None,
        }
    }

    /// Attempts made.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    #[must_use]
    pub fn deadline(&self) -> Ts {
        self.deadline
    }

    /// Whether another candidate could still be asked in this pass if `index` fails: only then may a request serve as a probe.
    pub fn has_alternative(&self, index: usize, mut admits: impl FnMut(usize) -> bool) -> bool {
        self.attempts + 1 < self.settings.max_attempts
            && self.standing.iter().enumerate().any(|(i, s)| i != index && *s == Standing::Untried && admits(i))
    }

    /// The next step. `failure_rate` and `same_domain` are asked about candidates; `roll` is in 0..1.
    pub fn next(
        &mut self,
        now: Ts,
        roll: f64,
        failure_rate: impl Fn(usize) -> f64,
        same_domain: impl Fn(usize, usize) -> bool,
    ) -> Step {
        if now >= self.deadline {
            return Step::Stop(Stop::Deadline);
        }
        if !self.may_continue || self.attempts >= self.settings.max_attempts {
            return Step::Stop(Stop::Exhausted);
        }
        let untried = |i: &usize| self.standing[*i] == Standing::Untried;
        let all = 0..self.standing.len();
        let apart = |i: &usize| self.last_failed.is_none_or(|failed| !same_domain(failed, *i));
        if let Some(index) = all.clone().filter(untried).find(apart).or_else(|| all.clone().find(untried)) {
            return Step::Try(index);
        }
        if self.attempts == 0 {
            return Step::Stop(Stop::AllRefused);
        }
        if let Some(index) = all.clone().find(|i| self.is_spared(*i)) {
            return Step::Try(index);
        }
        self.next_pass(now, roll, failure_rate)
    }

    fn next_pass(&mut self, now: Ts, roll: f64, failure_rate: impl Fn(usize) -> f64) -> Step {
        let mut any = false;
        for (i, standing) in self.standing.iter_mut().enumerate() {
            match standing {
                Standing::Failed if failure_rate(i) < HOPELESS_RATE => {
                    *standing = Standing::Untried;
                    any = true;
                }
                Standing::Failed => *standing = Standing::Out,
                // Asked again with the others, but no reason for another pass: its gate says when it opens, and that is not now.
                Standing::Refused | Standing::Spared => *standing = Standing::Untried,
                Standing::Untried | Standing::Out => {}
            }
        }
        if !any {
            return Step::Stop(Stop::Exhausted);
        }
        self.pass += 1;
        self.last_failed = None;
        let pause = backoff(&self.settings, self.pass, roll);
        if now.plus(pause) >= self.deadline {
            return Step::Stop(Stop::Exhausted);
        }
        Step::Pause(pause)
    }

    /// The candidate's gate refused.
    pub fn refused(&mut self, index: usize) {
        if let Some(standing) = self.standing.get_mut(index) {
            *standing = Standing::Refused;
        }
    }

    /// The candidate's gate refused because the request could be answered elsewhere: it is asked again, once, when it can not.
    pub fn spared(&mut self, index: usize) {
        if let Some(standing) = self.standing.get_mut(index) {
            *standing = Standing::Spared;
        }
    }

    /// Whether the candidate was spared in this pass and not asked again yet.
    #[must_use]
    pub fn is_spared(&self, index: usize) -> bool {
        self.standing.get(index) == Some(&Standing::Spared)
    }

    /// An attempt at the candidate is under way: returns its number, from 1.
    pub fn started(&mut self) -> u32 {
        self.attempts += 1;
        self.attempts
    }

    /// The attempt that was under way at the candidate was never sent: its gate has shut meanwhile.
    pub fn withdrawn(&mut self, index: usize) {
        self.attempts = self.attempts.saturating_sub(1);
        self.refused(index);
    }

    /// The attempt at the candidate ended without an answer for the caller.
    pub fn failed(&mut self, index: usize, outcome: Outcome) {
        self.last_failed = Some(index);
        self.may_continue = match outcome.class().failover {
            Failover::Yes => true,
            Failover::No => false,
            Failover::Once => {
                self.conflicts += 1;
                self.conflicts < 2
            }
        };
        // Waiting does not mend a key, a missing model or a pause: another pass over these would only repeat the answer.
        let lasting = matches!(
            outcome,
            Outcome::AuthFailed | Outcome::ModelNotFound | Outcome::QuotaExceeded | Outcome::RateLimited
        );
        if let Some(standing) = self.standing.get_mut(index) {
            *standing = if lasting { Standing::Out } else { Standing::Failed };
        }
    }

    /// Who might answer as well while `first` is still being asked: candidates of other failure domains that have not been asked in this
    /// pass, best first; nobody when the attempts are used up.
    pub fn besides(&self, first: usize, same_domain: impl Fn(usize, usize) -> bool) -> impl Iterator<Item = usize> {
        let may_start = self.attempts < self.settings.max_attempts;
        let standing = self.standing.iter().enumerate().filter(move |_| may_start);
        standing
            .filter(move |(i, standing)| *i != first && **standing == Standing::Untried && !same_domain(first, *i))
            .map(|(i, _)| i)
    }

    /// The stream of the candidate broke off after content; somebody is to go on with it.
    pub fn broke_off(&mut self, index: usize) {
        self.last_failed = Some(index);
        if let Some(standing) = self.standing.get_mut(index) {
            *standing = Standing::Failed;
        }
    }

    /// All candidates refused: forget that, for another round after a wait.
    pub fn forgive_refusals(&mut self) {
        for standing in &mut self.standing {
            if matches!(standing, Standing::Refused | Standing::Spared) {
                *standing = Standing::Untried;
            }
        }
    }

    /// Whether a further attempt is possible if the present one, at `index`, fails.
    #[must_use]
    pub fn is_last(&self, index: usize) -> bool {
        self.attempts >= self.settings.max_attempts
            || !self
                .standing
                .iter()
                .enumerate()
                .any(|(i, s)| i != index && matches!(s, Standing::Untried | Standing::Spared))
    }

    /// How long the attempt at `index` may wait for its first byte.
    #[must_use]
    pub fn share(&self, index: usize, now: Ts) -> Duration {
        let left = self.deadline.since(now);
        if self.is_last(index) { left } else { left / 2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FAR: Ts = Ts(600_000_000);

    fn plan(count: usize) -> AttemptPlan {
        AttemptPlan::new(count, RetrySettings::default(), FAR)
    }

    fn next(plan: &mut AttemptPlan) -> Step {
        plan.next(Ts(0), 0.5, |_| 0.1, |_, _| false)
    }

    #[test]
    fn walks_down_the_ranks_then_pauses_and_starts_again() {
        let mut plan = plan(2);
        for index in [0, 1] {
            assert_eq!(next(&mut plan), Step::Try(index));
            plan.started();
            plan.failed(index, Outcome::ServerError);
        }
        assert_eq!(next(&mut plan), Step::Pause(Duration::from_millis(100)));
        assert_eq!(next(&mut plan), Step::Try(0));
    }

    #[test]
    fn a_dead_fleet_is_not_hammered() {
        let mut plan = plan(1);
        plan.started();
        plan.failed(0, Outcome::ServerError);
        assert_eq!(plan.next(Ts(0), 0.5, |_| 0.5, |_, _| false), Step::Stop(Stop::Exhausted));
    }

    #[test]
    fn who_was_spared_for_others_is_asked_before_giving_up() {
        let mut plan = plan(2);
        plan.spared(0);
        assert_eq!(next(&mut plan), Step::Try(1));
        plan.started();
        plan.failed(1, Outcome::ConnectFailed);
        assert_eq!(next(&mut plan), Step::Try(0));
        assert!(plan.is_spared(0) && !plan.is_spared(1));
        plan.refused(0);
        assert_eq!(plan.next(Ts(0), 0.5, |_| 1.0, |_, _| false), Step::Stop(Stop::Exhausted));
    }

    #[test]
    fn an_attempt_that_was_never_sent_counts_as_refused() {
        let settings = RetrySettings { max_attempts: 1, ..RetrySettings::default() };
        let mut plan = AttemptPlan::new(2, settings, FAR);
        assert_eq!(next(&mut plan), Step::Try(0));
        plan.started();
        plan.withdrawn(0);
        assert_eq!((next(&mut plan), plan.attempts()), (Step::Try(1), 0));
        plan.started();
        plan.withdrawn(1);
        assert_eq!(next(&mut plan), Step::Stop(Stop::AllRefused));
    }

    #[test]
    fn the_failed_domain_comes_last() {
        let mut plan = plan(3);
        plan.started();
        plan.failed(0, Outcome::ServerError);
        assert_eq!(plan.next(Ts(0), 0.5, |_| 0.1, |a, b| a == 0 && b == 1), Step::Try(2));
    }

    #[test]
    fn request_faults_end_the_plan_and_a_conflict_allows_one_more() {
        let mut bad = plan(3);
        bad.started();
        bad.failed(0, Outcome::InvalidRequest);
        assert_eq!(next(&mut bad), Step::Stop(Stop::Exhausted));
        let mut conflict = plan(3);
        conflict.started();
        conflict.failed(0, Outcome::Conflict);
        assert_eq!(next(&mut conflict), Step::Try(1));
        conflict.started();
        conflict.failed(1, Outcome::Conflict);
        assert_eq!(next(&mut conflict), Step::Stop(Stop::Exhausted));
    }

    #[test]
    fn refusals_cost_nothing() {
        let mut plan = plan(2);
        plan.refused(0);
        plan.refused(1);
        assert_eq!(next(&mut plan), Step::Stop(Stop::AllRefused));
        plan.forgive_refusals();
        assert_eq!(next(&mut plan), Step::Try(0));
        assert_eq!(plan.share(0, Ts(0)), Duration::from_secs(300));
        plan.started();
        plan.failed(0, Outcome::ConnectFailed);
        assert_eq!(plan.share(1, Ts(0)), Duration::from_secs(600));
    }

    #[test]
    fn a_hedge_goes_to_another_domain_that_was_not_asked_yet() {
        let mut plan = plan(4);
        plan.started();
        plan.refused(3);
        let besides = |plan: &AttemptPlan| plan.besides(0, |a, b| a + b == 1).collect::<Vec<_>>();
        assert_eq!(besides(&plan), [2], "1 shares the domain of 0, 3 refused");
        for _ in 0..4 {
            plan.started();
        }
        assert_eq!(besides(&plan), [0; 0], "five attempts are under way or over");
    }

    #[test]
    fn after_a_stream_broke_off_the_others_are_asked_and_then_it_again() {
        let mut plan = plan(2);
        plan.started();
        plan.broke_off(0);
        assert_eq!(next(&mut plan), Step::Try(1));
        plan.started();
        plan.broke_off(1);
        assert!(matches!(next(&mut plan), Step::Pause(_)));
        assert_eq!(next(&mut plan), Step::Try(0));
    }

    proptest! {
        #[test]
        fn attempts_stay_within_plan_and_deadline(
            count in 0_usize..6,
            max_attempts in 1_u32..8,
            moves in proptest::collection::vec((0_usize..22, 0.0_f64..1.0, 0_u64..50_000_000), 1..80),
        ) {
            let settings = RetrySettings { max_attempts, ..RetrySettings::default() };
            let mut plan = AttemptPlan::new(count, settings, FAR);
            let mut now = Ts(0);
            let mut asked_in_pass = Vec::new();
            for (what, roll, gap) in moves {
                match plan.next(now, roll, |_| roll, |_, _| roll > 0.5) {
                    Step::Try(i) => {
                        prop_assert!(i < count && now < FAR);
                        prop_assert!(!asked_in_pass.contains(&i), "asked twice in one pass");
                        asked_in_pass.push(i);
                        if let Some(outcome) = Outcome::ALL.get(what) {
                            prop_assert!(plan.started() <= max_attempts);
                            plan.failed(i, *outcome);
                        } else {
                            plan.refused(i);
                        }
                    }
                    Step::Pause(d) => {
                        prop_assert!(now.plus(d) < FAR);
                        asked_in_pass.clear();
                    }
                    Step::Stop(_) => return Ok(()),
                }
                now = Ts(now.0 + gap);
            }
        }
    }
}
