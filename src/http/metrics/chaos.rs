//! Metrics of injected faults.

use super::{Families, count};
use crate::actors::board::EndpointCell;
use std::fmt::Result;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// By endpoint and kind.
pub type Injected = Vec<(Arc<str>, &'static str, u64)>;

/// Whether chaos runs, and what it struck.
pub(super) fn write(to: &mut Families<'_>, cells: &[Arc<EndpointCell>], injected: &Injected) -> Result {
    let mut running = to.gauge("chaos_experiments", "Experiments that inject faults into the endpoint now")?;
    for cell in cells {
        let labels = [("endpoint", &*cell.name)];
        running.encode_family(&labels)?.encode_gauge(&i64::from(cell.chaos.load(Relaxed)))?;
    }
    let mut hits = to.counter("chaos_injected", "Attempts that an experiment put a fault into, by its kind")?;
    for (endpoint, kind, n) in injected {
        count(&mut hits, &[("endpoint", &**endpoint), ("kind", *kind)], *n)?;
    }
    Ok(())
}
