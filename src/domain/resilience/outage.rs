//! Outages of endpoints that callers did not notice.
//!
//! An endpoint's *outage* is a run of failed attempts without a success between them: from the first one's start to the next
//! success's start, or to the last failure's end if none follows. The time in which its breaker kept requests away lies within.
//! It is *hidden* as far as the requests that failed there were answered elsewhere: its duration × answered ÷ failed. A single
//! failure is an outage as well, as long as that failure took. Cancelled attempts and the caller's own mistakes say nothing.

use crate::domain::ledger::Entry;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Outages per endpoint whose requests may still be answered; older ones are settled as they stand.
const OPEN: usize = 256;

/// One endpoint's outages. Times in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outages {
    pub endpoint: String,
    pub outages: u64,
    pub outage_us: u64,
    /// Of that: hidden from callers.
    pub hidden_us: u64,
}

#[derive(Clone, Debug, Default)]
struct One {
    from: i64,
    to: i64,
    failed: u64,
    answered: u64,
}

#[derive(Clone, Debug, Default)]
struct Log {
    /// The number of the first outage in `open`.
    first: u64,
    open: VecDeque<One>,
    under_way: bool,
    settled: Outages,
}

/// An outage: endpoint and number.
pub(super) type OutageId = (Arc<str>, u64);

#[derive(Clone, Debug, Default)]
pub(super) struct OutageLog(BTreeMap<Arc<str>, Log>);

impl OutageLog {
    pub(super) fn succeeded(&mut self, e: &Entry) {
        let Some(log) = self.0.get_mut(&e.endpoint).filter(|log| log.under_way) else { return };
        log.under_way = false;
        if let Some(last) = log.open.back_mut() {
            last.to = last.to.max(started(e));
        }
    }

    /// Takes a failure; the outage that it belongs to.
    pub(super) fn failed(&mut self, e: &Entry) -> OutageId {
        let log = self.0.entry(Arc::clone(&e.endpoint)).or_default();
        if !log.under_way {
            log.under_way = true;
            log.open.push_back(One { from: started(e), to: e.at.0, ..One::default() });
            if log.open.len() > OPEN
                && let Some(oldest) = log.open.pop_front()
            {
                settle(&mut log.settled, &oldest);
                log.first += 1;
            }
        }
        if let Some(last) = log.open.back_mut() {
            last.to = last.to.max(e.at.0);
            last.failed += 1;
        }
        (Arc::clone(&e.endpoint), log.first + log.open.len() as u64 - 1)
    }

    /// A request that failed there was answered.
    pub(super) fn answered(&mut self, (endpoint, number): &OutageId) {
        let Some(log) = self.0.get_mut(endpoint) else { return };
        let at = number.checked_sub(log.first).and_then(|at| usize::try_from(at).ok());
        if let Some(outage) = at.and_then(|at| log.open.get_mut(at)) {
            outage.answered += 1;
        }
    }

    pub(super) fn report(self) -> Vec<Outages> {
        let one = |(endpoint, log): (Arc<str>, Log)| {
            let mut all = log.settled;
            log.open.iter().for_each(|outage| settle(&mut all, outage));
            Outages { endpoint: endpoint.to_string(), ..all }
        };
        self.0.into_iter().map(one).collect()
    }
}

fn started(e: &Entry) -> i64 {
    e.at.0.saturating_sub(i64::try_from(e.latency_us).unwrap_or(i64::MAX))
}

fn settle(sum: &mut Outages, one: &One) {
    let lasted = u64::try_from(one.to.saturating_sub(one.from)).unwrap_or(0);
    let hidden = u128::from(lasted) * u128::from(one.answered.min(one.failed)) / u128::from(one.failed.max(1));
    sum.outages += 1;
    sum.outage_us = sum.outage_us.saturating_add(lasted);
    sum.hidden_us = sum.hidden_us.saturating_add(u64::try_from(hidden).unwrap_or(u64::MAX));
}
