//! Where the ledger ends and what the state database knows of it: the evidence that opening a store judges by.

use crate::domain::time::Wall;
use crate::store::block::{self, BLOCK_VERSION};
use crate::store::checkpoints::Anchor;
use crate::store::codec::{self, Cursor, put_varint};
use crate::store::error::StoreError;
use crate::store::files::Head;
use crate::store::ledger::Tail;
use crate::store::month::{Month, Months};
use crate::store::shelf::Shelf;
use std::collections::BTreeMap;

const GENERATION_KEY: &[u8] = b"!generation";
const VERSION: u8 = 1;
const MONTH: u8 = b'M';
/// Above every block's key, below every piece's.
const PAST_BLOCKS: [u8; 1] = [b'P'];

/// What is at the ledger's end.
pub(super) struct End {
    pub tail: Tail,
    /// Blocks after it that cannot be read.
    pub unreadable: Vec<(Month, u64)>,
}

/// Adds the state database's generation to a batch.
pub(super) fn put_generation(batch: &mut sled::Batch, generation: u64) {
    let mut payload = Vec::new();
    put_varint(&mut payload, generation);
    codec::put(batch, GENERATION_KEY, VERSION, &payload);
}

pub(super) fn generation(state: &Shelf) -> Result<u64, StoreError> {
    Ok(stored_number(state, GENERATION_KEY)?.unwrap_or(0))
}

/// A stored number; of an unknown version: the largest.
pub(super) fn stored_number(state: &Shelf, key: &[u8]) -> Result<Option<u64>, StoreError> {
    let found = state.read(|db| match db.get(key)? {
        Some(value) => codec::open(db, key, &value).map(Some),
        None => Ok(None),
    })?;
    let Some(opened) = found else { return Ok(None) };
    let payload = opened.known(VERSION, "a number of the state")?;
    Ok(payload.and_then(|p| Cursor::new(&p).varint()).or(Some(u64::MAX)))
}

/// The note that a month begins with a row.
pub(super) fn month_begins(month: Month, first_seq: u64) -> sled::Batch {
    let mut batch = sled::Batch::default();
    let mut payload = Vec::new();
    put_varint(&mut payload, first_seq);
    codec::put(&mut batch, &month_key(month), VERSION, &payload);
    batch
}

pub(super) fn month_key(month: Month) -> Vec<u8> {
    let mut key = vec![MONTH];
    key.extend_from_slice(month.to_string().as_bytes());
    key
}

pub(super) fn known_months(state: &Shelf) -> Result<BTreeMap<Month, u64>, StoreError> {
    let found = state.read(|db| {
        let read = |item: sled::Result<(sled::IVec, sled::IVec)>| {
            let (key, value) = item?;
            let opened = codec::open(db, &key, &value)?;
            Ok((key, opened))
        };
        db.scan_prefix([MONTH]).map(read).collect::<sled::Result<Vec<_>>>()
    })?;
    let mut months = BTreeMap::new();
    for (key, opened) in found {
        let month = key.get(1..).and_then(|k| std::str::from_utf8(k).ok()).and_then(Month::parse);
        let begins = opened.known(VERSION, "a month's beginning")?.and_then(|p| Cursor::new(&p).varint());
        if let (Some(month), Some(begins)) = (month, begins) {
            months.insert(month, begins);
        }
    }
    Ok(months)
}

/// The ledger's end; an unreadable block there is damage.
pub(super) fn find_tail(months: &Months, anchor: Option<&Anchor>) -> Result<Tail, StoreError> {
    let end = find_end(months, anchor)?;
    match end.unreadable.first() {
        Some((_, number)) => {
            Err(StoreError::Damaged { seq: Some(*number), what: "the ledger's last block cannot be read".into() })
        }
        None => Ok(end.tail),
    }
}

/// The ledger's end, which is not before the last row that retention has removed.
pub(super) fn find_end(months: &Months, anchor: Option<&Anchor>) -> Result<End, StoreError> {
    let mut unreadable = Vec::new();
    for (month, _) in months.holding(0, u64::MAX).into_iter().rev() {
        let shelf = months.shelf(month)?;
        let mut below = PAST_BLOCKS.to_vec();
        loop {
            let block = shelf.read(|db| match db.get_lt(&below)? {
                Some((key, value)) => {
                    let opened = codec::open(db, &key, &value)?;
                    Ok(Some((key, opened)))
                }
                None => Ok(None),
            })?;
            let Some((key, opened)) = block else { break };
            let number = <[u8; 8]>::try_from(&*key).map_or(0, u64::from_be_bytes);
            let head = block::head(&opened.payload).filter(|_| opened.version == BLOCK_VERSION);
            let Some(head) = head.filter(|head| head.first_seq == number) else {
                unreadable.push((month, number));
                below = key.to_vec();
                continue;
            };
            let last = block::rows(number, &opened.payload).pop().and_then(Result::ok);
            let at = last.map_or(head.latest, |row| row.entry.at);
            let tail = Tail { seq: head.last_seq(), hash: head.last_hash, at, month: Some(month) };
            if anchor.is_some_and(|anchor| tail.seq <= anchor.seq()) {
                break;
            }
            return Ok(End { tail, unreadable });
        }
    }
    let tail = anchor.map_or(Tail::EMPTY, |anchor| Tail {
        seq: anchor.seq(),
        hash: anchor.hash(),
        at: Wall(i64::MIN),
        month: Some(anchor.first_month),
    });
    Ok(End { tail, unreadable })
}

/// Whether the ledger's row at the high-water mark carries its hash. A row that cannot be read is not judged here.
pub(super) fn carries(months: &Months, head: &Head) -> Result<bool, StoreError> {
    let Some((month, _)) = months.holding(head.seq, head.seq).pop() else { return Ok(false) };
    let found = months.shelf(month)?.read(|db| match db.get_lt(head.seq.saturating_add(1).to_be_bytes())? {
        Some((key, value)) => {
            let opened = codec::open(db, &key, &value)?;
            Ok(Some((key, opened)))
        }
        None => Ok(None),
    })?;
    let Some((key, opened)) = found else { return Ok(false) };
    let number = <[u8; 8]>::try_from(&*key).map_or(0, u64::from_be_bytes);
    let rows = block::rows(number, &opened.payload);
    Ok(rows.into_iter().flatten().find(|row| row.seq == head.seq).is_none_or(|row| row.hash == head.hash))
}
