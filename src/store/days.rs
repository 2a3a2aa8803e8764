//! Sums of whole UTC days, made from their hours once the day is over.
//!
//! A sum over months would read every hour's cells; a day has about as many cells as one busy hour. Rules:
//! - A day's sums are good while its mark is there, and then equal to its stored hours'. Mark and sums are written in one batch,
//!   and a batch that changes an hour of the day takes the mark away.
//! - Days are taken a few at a time, so that the ledger's thread never stops for long: an old store gets its days in its first minutes.
//! - A day with too many tag sets is summed up without tags, and says so: sums by tag then read its hours.

use crate::domain::sums::Tally;
use crate::store::cell::{self, Dims, Grain};
use crate::store::codec::{self, Cursor, put_varint};
use crate::store::error::StoreError;
use crate::store::rollup::MAX_CELLS;
use crate::store::shelf::Shelf;
use std::collections::{BTreeMap, HashMap};

const MARK: u8 = b'd';
const VERSION: u8 = 1;
const HOURS: u32 = 24;
/// Cells of hours after which no further day is begun: about a tenth of a second.
const CELLS_A_ROUND: u64 = 32_768;

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
    batch.remove(&mark_key(day));
}

/// Adds the sums of the first few of the days to a batch, and returns which.
pub(super) fn seal(
    state: &Shelf,
    due: impl Iterator<Item = u32>,
    batch: &mut sled::Batch,
) -> Result<Vec<u32>, StoreError> {
    let (mut sealed, mut read) = (Vec::new(), 0);
    for day in due {
        if read >= CELLS_A_ROUND {
            break;
        }
        let mut cells: HashMap<Dims, Tally> = HashMap::new();
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
        // Those of an earlier round, which may have had other tags.
        cell::remove(state, Grain::Day, day, batch)?;
        let mut payload = Vec::new();
        for (dims, tally) in &cells {
            payload.clear();
            cell::encode(dims, tally, &mut payload);
            codec::put(batch, &Grain::Day.key(day, dims), cell::VERSION, &payload);
        }
        payload.clear();
        put_varint(&mut payload, u64::from(collapsed));
        codec::put(batch, &mark_key(day), VERSION, &payload);
        sealed.push(day);
    }
    Ok(sealed)
}

/// The days from `first` to `last` that have sums of their own.
pub(super) fn sealed(state: &Shelf, first: u32, last: u32) -> Result<BTreeMap<u32, Sealed>, StoreError> {
    let found = state.read(|db| {
        let mut found = Vec::new();
        for item in db.range(mark_key(first)..=mark_key(last)) {
            let (key, value) = item?;
            let day = key.get(1..5).and_then(|k| k.try_into().ok()).map(u32::from_be_bytes);
            found.push((day, codec::open(db, &key, &value)?));
        }
        Ok(found)
    })?;
    let mut days = BTreeMap::new();
    for (day, opened) in found {
        let collapsed = opened.known(VERSION, "a day's mark")?.and_then(|p| Cursor::new(&p).varint());
        if let (Some(day), Some(collapsed)) = (day, collapsed) {
            days.insert(day, Sealed { collapsed: collapsed != 0 });
        }
    }
    Ok(days)
}

fn mark_key(day: u32) -> [u8; 5] {
    let mut key = [MARK; 5];
    key[1..].copy_from_slice(&day.to_be_bytes());
    key
}
