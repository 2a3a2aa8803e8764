//! Sums of hours and days that are over, made once more from their cells and marked as good: what [`hours`](crate::store::hours) and
//! [`days`](crate::store::days) have in common.
//!
//! - Sums are good while their mark is there. Mark and sums are written in one batch, and a batch that changes what they were made from takes
//!   the mark away.
//! - A few are made at a time, so that the ledger's thread never stops for long: an old store gets them in its first minutes.

use crate::domain::sums::Tally;
use crate::store::cell::{self, Dims, Grain};
use crate::store::codec::{self, numbered};
use crate::store::error::StoreError;
use crate::store::shelf::Shelf;
use std::collections::HashMap;

/// A kind of sums.
pub(super) struct Sealing {
    /// What the keys of the marks begin with.
    pub mark: u8,
    pub version: u8,
    /// What is sealed, for errors.
    pub what: &'static str,
    /// Of the sums.
    pub grain: Grain,
    /// Cells read after which no further hour or day is begun.
    pub cells_a_round: u64,
}

/// The sums of one hour or day.
#[derive(Default)]
pub(super) struct Made {
    pub cells: HashMap<Dims, Tally>,
    /// What its mark says.
    pub mark: Vec<u8>,
    /// Cells that were read for it.
    pub read: u64,
}

impl Sealing {
    /// Takes sums away: what they are made from is about to change.
    pub fn open(&self, batch: &mut sled::Batch, number: u32) {
        batch.remove(&numbered(self.mark, number));
    }

    /// Adds the sums of the first few that are due to a batch, and returns which.
    pub fn seal(
        &self,
        state: &Shelf,
        due: impl Iterator<Item = u32>,
        batch: &mut sled::Batch,
        mut make: impl FnMut(u32) -> Result<Made, StoreError>,
    ) -> Result<Vec<u32>, StoreError> {
        let (mut sealed, mut read, mut payload) = (Vec::new(), 0, Vec::new());
        for number in due {
            if read >= self.cells_a_round {
                break;
            }
            let made = make(number)?;
            read += made.read + 1;
            // Those of an earlier round, which may have had other cells.
            cell::remove(state, self.grain, number, batch)?;
            for (dims, tally) in &made.cells {
                payload.clear();
                cell::encode(dims, tally, &mut payload);
                codec::put(batch, &self.grain.key(number, dims), cell::VERSION, &payload);
            }
            codec::put(batch, &numbered(self.mark, number), self.version, &made.mark);
            sealed.push(number);
        }
        Ok(sealed)
    }

    /// The marks from `first` to `last`, with what they say.
    pub fn sealed(&self, state: &Shelf, first: u32, last: u32) -> Result<Vec<(u32, Vec<u8>)>, StoreError> {
        read_numbered(state, (self.mark, self.version, self.what), first, last)
    }
}

/// The values that hours or days have one of, from `first` to `last`: of this tag and version, named so in errors.
pub(super) fn read_numbered(
    state: &Shelf,
    (tag, version, what): (u8, u8, &str),
    first: u32,
    last: u32,
) -> Result<Vec<(u32, Vec<u8>)>, StoreError> {
    let found = state.read(|db| {
        let mut found = Vec::new();
        for item in db.range(numbered(tag, first)..=numbered(tag, last)) {
            let (key, value) = item?;
            let number = key.get(1..5).and_then(|k| k.try_into().ok()).map(u32::from_be_bytes);
            found.push((number, codec::open(db, &key, &value)?));
        }
        Ok(found)
    })?;
    let mut values = Vec::with_capacity(found.len());
    for (number, opened) in found {
        if let (Some(number), Some(payload)) = (number, opened.known(version, what)?) {
            values.push((number, payload));
        }
    }
    Ok(values)
}
