//! What became of requests that had to wait for a place.

use super::Families;
use crate::engine::gateway::Gateway;
use std::fmt::Result;
use std::sync::atomic::Ordering::Relaxed;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waits {
    pub(super) now: u64,
    pub(super) given: u64,
    pub(super) left: u64,
    pub(super) crowded: u64,
}

impl Waits {
    pub(super) fn of(gateway: &Gateway) -> Self {
        let waiting = &gateway.waiting;
        Self {
            now: waiting.count() as u64,
            given: waiting.given.load(Relaxed),
            left: waiting.left.load(Relaxed),
            crowded: waiting.crowded.load(Relaxed),
        }
    }

    pub(super) fn write(&self, to: &mut Families) -> Result {
        to.one_gauge("requests_waiting", "Requests that wait for a place at an endpoint", super::whole(self.now))?;
        to.one_counter("waits_given", "Requests that waited and were given a place", self.given)?;
        to.one_counter("waits_left", "Requests that waited in vain, or whose caller went away", self.left)?;
        to.one_counter("waits_refused", "Requests that found no room to wait", self.crowded)
    }
}
