//! What hedges and recovered streams add to the process's counters.

use super::{Families, count};
use crate::engine::course::Withheld;
use crate::engine::gateway::Gateway;
use std::fmt::Result;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Read once at a scrape's start.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub hedges: u64,
    pub hedges_won: u64,
    pub recovered: u64,
    pub not_recovered: u64,
    pub withheld: [u64; Withheld::ALL.len()],
}

impl Streams {
    pub fn of(gateway: &Gateway) -> Self {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        let counters = &gateway.counters;
        Self {
            hedges: read(&counters.hedges),
            hedges_won: read(&counters.hedges_won),
            recovered: read(&counters.recovered),
            not_recovered: read(&counters.not_recovered),
            withheld: counters.hedges_withheld.each_ref().map(read),
        }
    }

    pub fn write(&self, to: &mut Families) -> Result {
        to.one_counter("hedges", "Second attempts sent because the first was slow", self.hedges)?;
        to.one_counter("hedges_won", "Hedges that answered before the attempt they were made for", self.hedges_won)?;
        let mut withheld = to.counter("hedges_withheld", "Hedges that were due and not made, by reason")?;
        for (why, n) in Withheld::ALL.iter().zip(self.withheld) {
            count(&mut withheld, &[("reason", why.as_str())], n)?;
        }
        to.one_counter("streams_recovered", "Broken streams that another endpoint went on with", self.recovered)?;
        let not = "Broken streams that nobody went on with, on routes that recover";
        to.one_counter("streams_not_recovered", not, self.not_recovered)
    }
}
