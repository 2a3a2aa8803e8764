//! Brief sums of hours: by endpoint, model and route alone, made from an hour's cells once the hour is over.
//!
//! An hour has a cell for each key and tag set that was used in it, thousands where there are many keys; what it came to by endpoint, model
//! and route is a handful. Sums that ask for no key and no tag read those. Rules, the same as for [`days`](crate::store::days):
//! - An hour's brief sums are good while its mark is there, and then equal to its stored cells'. Mark and sums are written in one
//!   batch, and a batch that changes a cell of the hour takes the mark away.
//! - Hours are taken some at a time, so that the ledger's thread never stops for long: an old store gets them in its first minutes.

use crate::domain::sums::Tally;
use crate::store::cell::{self, Dims, Grain};
use crate::store::codec;
use crate::store::error::StoreError;
use crate::store::shelf::Shelf;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

const MARK: u8 = b'b';
const VERSION: u8 = 1;
/// Cells after which no further hour is begun: about a twentieth of a second.
const CELLS_A_ROUND: u64 = 16_384;

/// Takes an hour's brief sums away: its cells are about to change.
pub(super) fn open(batch: &mut sled::Batch, hour: u32) {
    batch.remove(&mark_key(hour));
}

/// Adds the brief sums of the first few of the hours to a batch, and returns which.
pub(super) fn seal(
    state: &Shelf,
    due: impl Iterator<Item = u32>,
    batch: &mut sled::Batch,
) -> Result<Vec<u32>, StoreError> {
    let (mut sealed, mut read) = (Vec::new(), 0);
    for hour in due {
        if read >= CELLS_A_ROUND {
            break;
        }
        let mut sums: HashMap<[String; 3], Tally> = HashMap::new();
        let unknown = cell::each(state, Grain::Hour, (hour, hour), &mut |_, _, view| {
            read += 1;
            let group = [view.endpoint, view.model, view.route].map(str::to_owned);
            view.add_to(sums.entry(group).or_default()).ok_or_else(cell::damaged)
        })?;
        read += unknown + 1;
        // Those of an earlier round, from before the hour changed.
        cell::remove(state, Grain::Brief, hour, batch)?;
        let mut payload = Vec::new();
        for ([endpoint, model, route], tally) in sums {
            let key_id = Arc::from("");
            let dims = Dims { endpoint: endpoint.into(), model: model.into(), key_id, route: route.into(), tags: None };
            payload.clear();
            cell::encode(&dims, &tally, &mut payload);
            codec::put(batch, &Grain::Brief.key(hour, &dims), cell::VERSION, &payload);
        }
        codec::put(batch, &mark_key(hour), VERSION, &[]);
        sealed.push(hour);
    }
    Ok(sealed)
}

/// The hours from `first` to `last` that have brief sums.
pub(super) fn sealed(state: &Shelf, first: u32, last: u32) -> Result<BTreeSet<u32>, StoreError> {
    let found = state.read(|db| {
        let mut found = Vec::new();
        for item in db.range(mark_key(first)..=mark_key(last)) {
            let (key, value) = item?;
            let hour = key.get(1..5).and_then(|k| k.try_into().ok()).map(u32::from_be_bytes);
            found.push((hour, codec::open(db, &key, &value)?));
        }
        Ok(found)
    })?;
    let mut hours = BTreeSet::new();
    for (hour, opened) in found {
        if let (Some(hour), Some(_)) = (hour, opened.known(VERSION, "an hour's mark")?) {
            hours.insert(hour);
        }
    }
    Ok(hours)
}

fn mark_key(hour: u32) -> [u8; 5] {
    let mut key = [MARK; 5];
    key[1..].copy_from_slice(&hour.to_be_bytes());
    key
}
