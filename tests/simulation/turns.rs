//! Who was served before whom, held against what a line promises: a plain reading of one life's calls and requests, in the order of
//! their moments.
//!
//! A request that has made no call yet, some time after it was sent, stands in the lines of all endpoints: every route here has all of
//! them. So while it does, at each endpoint:
//! - **keys take turns**: between two calls of its own key, no other key of its class makes two;
//! - **a class gets one call in ten**: no more than nine of other classes between two of its own; ten, if both others wait as well, since
//!   then they may be due at once;
//! - **a lower class gets no more than that**: between two calls of one, at least nine of others;
//! - **nobody waits longer** than the longest `max_wait` of an endpoint and what waiting for a shut breaker adds, nor beyond its deadline;
//! - **who finds no room to wait is told at once**.
//!
//! Only first calls are waited for in line, so only requests without a call are judged; every call counts as a turn. Under budgets a call may
//! come long after its turn, and nothing is judged here.
//!
//! Where several things happen in one moment, they are taken in the order that speaks for the engine. A client that leaves may take a place
//! with it that it was just given: its key's count, and its class's, begin anew then.

use crate::keys::{Keys, Visit};
use crate::world::Journal;
use crate::world::client::End;
use crate::world::provider::Made;
use breakwater::domain::queue::Priority;
use breakwater::domain::time::Ts;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// `breaker.reopen_wait` by default, and a few grains of the timer.
const REOPENING: Duration = Duration::from_millis(25 + 5);
/// An error is told this much after its moment at most.
const TOLD: Duration = Duration::from_millis(5);
/// Calls of others that a waiting class lets pass.
const PASSES: usize = 9;

/// One call at an endpoint.
struct Call<'a> {
    at: Ts,
    visit: &'a Visit,
    class: Priority,
}

/// What a life showed of lines: how often somebody was called while another waited there.
pub fn check(keys: &Keys, longest: Duration, visits: &[Visit], made: &[Made], end: Ts, journal: &Journal) -> u64 {
    let by_name: HashMap<&str, &Visit> = visits.iter().map(|v| (v.name.as_str(), v)).collect();
    let mut first_calls: HashMap<&str, Ts> = HashMap::new();
    let mut endpoints: BTreeMap<usize, Vec<Call>> = BTreeMap::new();
    for made in made {
        let Some(visit) = by_name.get(made.request.as_str()).copied() else { continue };
        first_calls.entry(&visit.name).or_insert(made.at);
        let call = Call { at: made.at, visit, class: keys.priority(visit.key) };
        endpoints.entry(made.provider).or_default().push(call);
    }
    let gone = |v: &Visit| v.ended.filter(|(_, end)| *end == End::Left).map(|(at, _)| at);
    let mut left: Vec<(Ts, &Visit)> = visits.iter().filter_map(|v| Some((gone(v)?, v))).collect();
    left.sort_by_key(|(at, _)| *at);
    let mut passed = 0;
    for visit in visits {
        let first_call = first_calls.get(visit.name.as_str()).copied();
        let until = first_call.or(visit.ended.map(|(at, _)| at)).map_or(end, |at| at.min(end));
        patience(visit, first_call.is_some(), until, longest, journal);
        if !visit.is_plain || keys.all.is_empty() {
            continue;
        }
        for calls in endpoints.values() {
            let window = Window { keys, visit, from: visit.sent, until, left: &left };
            passed += window.check(calls, journal);
        }
    }
    passed
}

fn patience(visit: &Visit, was_called: bool, until: Ts, longest: Duration, journal: &Journal) {
    let waited = until.since(visit.sent);
    let most = (longest + REOPENING).min(visit.deadline + TOLD);
    if waited > most {
        let what = if was_called { "called" } else { "told" };
        journal.violation(format!("{}: {what} after {waited:?}, of at most {most:?}: {}", visit.name, visit.why));
    }
    if let (true, Some(late)) = (visit.is_crowded_out(), visit.ended_late()) {
        journal.violation(format!("{}: told only after {late:?}: {}", visit.name, visit.why));
    }
}

/// A request's time in line at one endpoint.
struct Window<'a> {
    keys: &'a Keys,
    visit: &'a Visit,
    from: Ts,
    until: Ts,
    left: &'a [(Ts, &'a Visit)],
}

/// What happens at an endpoint in one moment.
#[derive(Default)]
struct Moment {
    own_key: bool,
    /// Calls of other keys of the class.
    rivals: BTreeMap<Option<usize>, usize>,
    /// Calls by class.
    classes: [usize; Priority::ALL.len()],
    left: [usize; Priority::ALL.len()],
}

impl Window<'_> {
    /// Calls within this time, which neither begins nor ends with them.
    fn moments(&self, calls: &[Call]) -> BTreeMap<Ts, Moment> {
        let mut moments: BTreeMap<Ts, Moment> = BTreeMap::new();
        let class = self.keys.priority(self.visit.key);
        let begin = calls.partition_point(|c| c.at <= self.from);
        for call in calls[begin..].iter().take_while(|c| c.at < self.until) {
            let moment = moments.entry(call.at).or_default();
            moment.classes[call.class as usize] += 1;
            if call.visit.key == self.visit.key {
                moment.own_key = true;
            } else if call.class == class {
                *moment.rivals.entry(call.visit.key).or_default() += 1;
            }
        }
        if moments.is_empty() {
            return moments;
        }
        let begin = self.left.partition_point(|(at, _)| *at <= self.from);
        for (at, left) in self.left[begin..].iter().take_while(|(at, _)| *at < self.until) {
            let moment = moments.entry(*at).or_default();
            moment.own_key |= left.key == self.visit.key;
            moment.left[self.keys.priority(left.key) as usize] += 1;
        }
        moments
    }

    fn check(&self, calls: &[Call], journal: &Journal) -> u64 {
        let moments = self.moments(calls);
        self.keys_take_turns(&moments, journal);
        self.class_is_served(&moments, journal);
        let class = self.keys.priority(self.visit.key);
        for lower in Priority::ALL.into_iter().filter(|p| *p > class) {
            self.lower_is_served_least(lower, &moments, journal);
        }
        moments.values().map(|m| m.classes.iter().sum::<usize>() as u64).sum()
    }

    fn keys_take_turns(&self, moments: &BTreeMap<Ts, Moment>, journal: &Journal) {
        let mut since: BTreeMap<Option<usize>, usize> = BTreeMap::new();
        for (at, moment) in moments {
            if moment.own_key {
                since.clear();
                continue;
            }
            for (rival, count) in &moment.rivals {
                let calls = since.entry(*rival).or_default();
                *calls += count;
                if *calls == 2 {
                    journal.violation(format!(
                        "{}: waits since {}, and key {rival:?} of its class had two turns at one endpoint by {} while its own, {:?}, had none",
                        self.visit.name, self.from.0, at.0, self.visit.key
                    ));
                }
            }
        }
    }

    fn class_is_served(&self, moments: &BTreeMap<Ts, Moment>, journal: &Journal) {
        let own = self.keys.priority(self.visit.key) as usize;
        let mut others = [0; Priority::ALL.len()];
        for (at, moment) in moments {
            if moment.classes[own] + moment.left[own] > 0 {
                others = [0; Priority::ALL.len()];
                continue;
            }
            let before: usize = others.iter().sum();
            others.iter_mut().zip(moment.classes).for_each(|(sum, calls)| *sum += calls);
            let both = others.iter().filter(|calls| **calls > 0).count() > 1;
            let (most, now) = (PASSES + usize::from(both), others.iter().sum::<usize>());
            if now > most && before <= most {
                journal.violation(format!(
                    "{}: waits since {}, and {now} calls of other classes passed its own by {}",
                    self.visit.name, self.from.0, at.0
                ));
            }
        }
    }

    fn lower_is_served_least(&self, lower: Priority, moments: &BTreeMap<Ts, Moment>, journal: &Journal) {
        // Calls of others since the last of this class, those of its own moment included.
        let mut others: Option<usize> = None;
        for (at, moment) in moments {
            let (own, all) = (moment.classes[lower as usize], moment.classes.iter().sum::<usize>());
            let rest = all - own + moment.left.iter().sum::<usize>();
            let (have, need) = match others {
                Some(sum) => (sum + rest, own * PASSES),
                // What came before is not known.
                None => (rest, own.saturating_sub(1) * PASSES),
            };
            if have < need {
                journal.violation(format!(
                    "{}: waits since {}, and {own} calls of the lower class {lower:?} at {} came after only {have} of others",
                    self.visit.name, self.from.0, at.0
                ));
            }
            others = if own > 0 { Some(rest) } else { others.map(|_| have) };
        }
    }
}
