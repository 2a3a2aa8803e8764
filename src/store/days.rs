//! Sums of whole UTC days, made from their hours once the day is over.
//!
//! A sum over months would read every hour's cells; a day has about as many cells as one busy hour. Rules:
//! - A day's sums are good as long as they are [sealed](crate::store::sealing), and then equal to its stored hours'.
//! - A day with too many tag sets is summed up without tags, and says so: sums by tag then read its hours.

use crate::domain::sums::Tally;
use crate::store::cell::{self, Dims, Grain};
use crate::store::codec::{Cursor, put_varint};
use crate::store::error::StoreError;
use crate::store::rollup::MAX_CELLS;
use crate::store::sealing::{Made, Sealing};
use crate::store::shelf::Shelf;
use std::collections::{BTreeMap, HashMap};

const HOURS: u32 = 24;
const SEALING: Sealing = Sealing {
    mark: b'd',
    version: 1,
    what: "a day's mark",
    grain: Grain::Day,
    // About a tenth of a second.
    cells_a_round: 32_768,
};

/// What a day's mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sealed {
    /// The sums have no tags, although rows have.
    pub collapsed: bool,
}

/// The UTC day of an hour, both counted from 1970.
pub(super) fn day_of(hour: u32) -> u32 {
    hour / HOURS
}

/// First and last hour of a day.
pub(super) fn hours_of(day: u32) -> (u32, u32) {
    let first = day.saturating_mul(HOURS);
    (first, first.saturating_add(HOURS - 1))
}

/// Takes a day's sums away: its hours are about to change.
pub(super) fn open(batch: &mut sled::Batch, day: u32) {
    SEALING.open(batch, day);
}

/// Adds the sums of the first few of the days to a batch, and returns which.
pub(super) fn seal(
    state: &Shelf,
    due: impl Iterator<Item = u32>,
    batch: &mut sled::Batch,
) -> Result<Vec<u32>, StoreError> {
    SEALING.seal(state, due, batch, |day| {
        let (mut cells, mut read): (HashMap<Dims, Tally>, _) = (HashMap::new(), 0);
        let mut collapsed = false;
        cell::each(state, Grain::Hour, hours_of(day), &mut |_, _, view| {
            read += 1;
            let mut dims = view.dims().ok_or_else(cell::damaged)?;
            if collapsed {
                dims.tags = None;
            }
            // An hour's own cell without tags is a mark of its overflow.
            collapsed |= dims.tags.is_none();
            view.add_to(cells.entry(dims).or_default()).ok_or_else(cell::damaged)?;
            if cells.len() > MAX_CELLS as usize && !collapsed {
                collapsed = true;
                for (mut dims, tally) in std::mem::take(&mut cells) {
                    dims.tags = None;
                    cells.entry(dims).or_default().merge(&tally);
                }
            }
            Ok(())
        })?;
        let mut mark = Vec::new();
        put_varint(&mut mark, u64::from(collapsed));
        Ok(Made { cells, mark, read })
    })
}

/// The days from `first` to `last` that have sums of their own.
pub(super) fn sealed(state: &Shelf, first: u32, last: u32) -> Result<BTreeMap<u32, Sealed>, StoreError> {
    let marks = SEALING.sealed(state, first, last)?.into_iter();
    let collapsed = |mark: &[u8]| Cursor::new(mark).varint().map(|collapsed| collapsed != 0);
    Ok(marks.filter_map(|(day, mark)| Some((day, Sealed { collapsed: collapsed(&mark)? }))).collect())
}
