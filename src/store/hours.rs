//! Brief sums of hours: by endpoint, model and route alone, made from an hour's cells once the hour is over.
//!
//! An hour has a cell for each key and tag set that was used in it, thousands where there are many keys; what it came to by endpoint, model
//! and route is a handful. Sums that ask for no key and no tag read those. They are good as long as they are [sealed](crate::store::sealing),
//! and then equal to the hour's stored cells.

use crate::domain::sums::Tally;
use crate::store::cell::{self, Dims, Grain};
use crate::store::error::StoreError;
use crate::store::sealing::{Made, Sealing};
use crate::store::shelf::Shelf;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

const SEALING: Sealing = Sealing {
    mark: b'b',
    // With version 1 the sums stood under another tag, among other things: they are made again.
    version: 2,
    what: "an hour's mark",
    grain: Grain::Brief,
    // About a twentieth of a second.
    cells_a_round: 16_384,
};

/// Takes an hour's brief sums away: its cells are about to change.
pub(super) fn open(batch: &mut sled::Batch, hour: u32) {
    SEALING.open(batch, hour);
}

/// Adds the brief sums of the first few of the hours to a batch, and returns which.
pub(super) fn seal(
    state: &Shelf,
    due: impl Iterator<Item = u32>,
    batch: &mut sled::Batch,
) -> Result<Vec<u32>, StoreError> {
    SEALING.seal(state, due, batch, |hour| {
        let (mut sums, mut read): (HashMap<[String; 3], Tally>, _) = (HashMap::new(), 0);
        read += cell::each(state, Grain::Hour, (hour, hour), &mut |_, _, view| {
            read += 1;
            let group = [view.endpoint, view.model, view.route].map(str::to_owned);
            view.add_to(sums.entry(group).or_default()).ok_or_else(cell::damaged)
        })?;
        let dims = |[endpoint, model, route]: [String; 3]| {
            let key_id = Arc::from("");
            Dims { endpoint: endpoint.into(), model: model.into(), key_id, route: route.into(), tags: None }
        };
        let cells = sums.into_iter().map(|(group, tally)| (dims(group), tally)).collect();
        Ok(Made { cells, mark: Vec::new(), read })
    })
}

/// The hours from `first` to `last` that have brief sums.
pub(super) fn sealed(state: &Shelf, first: u32, last: u32) -> Result<BTreeSet<u32>, StoreError> {
    Ok(SEALING.sealed(state, first, last)?.into_iter().map(|(hour, _)| hour).collect())
}
