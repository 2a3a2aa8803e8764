//! The newest request records, in blocks in the state database.
//!
//! A record is a whole request's decision as bytes that mean nothing here. A block's key is its commit's time, never earlier than
//! the one before. An id that Breakwater minted carries the request's start: its record is looked for from there on, for an
//! hour's worth of blocks. A caller's own id is looked for in everything that is kept, the newest first. The oldest blocks go
//! when there are too many records or bytes.

use crate::domain::ids::RequestId;
use crate::domain::time::Wall;
use crate::store::Inner;
use crate::store::codec::{self, Cursor, PIECE, put_bytes, put_signed, put_varint};
use crate::store::error::StoreError;
use crate::store::shelf::{Reach, Shelf};
use std::time::Duration;

const VERSION: u8 = 1;
const BLOCK: u8 = b'q';
const KEPT: &[u8] = b"Q";
/// A request that took longer than this is not found by its minted id.
const LONGEST: Duration = Duration::from_secs(3_600);
/// How far clocks may have been set back between minting and ending.
const SLACK_US: i64 = 5_000_000;
const BLOCKS_A_READ: usize = 64;

/// What became of a request, as the engine serialised it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    pub request_id: RequestId,
    /// When the request ended.
    pub at: Wall,
    pub bytes: Vec<u8>,
}

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordLimits {
    pub count: u64,
    pub bytes: u64,
}

impl Default for RecordLimits {
    fn default() -> Self {
        Self { count: 200_000, bytes: 256 << 20 }
    }
}

/// The writing side: where the next block goes and how much there is.
pub(super) struct RecordLog {
    limits: RecordLimits,
    last: (u64, u32),
    count: u64,
    bytes: u64,
}

impl RecordLog {
    pub fn load(state: &Shelf, limits: RecordLimits) -> Result<Self, StoreError> {
        let (last, kept) = state.read(|db| {
            let last = db.scan_prefix([BLOCK]).next_back().transpose()?.map(|(key, _)| key);
            let kept = match db.get(KEPT)? {
                Some(value) => Some(codec::open(db, KEPT, &value)?),
                None => None,
            };
            Ok((last, kept))
        })?;
        let last = last.and_then(|key| place_of(&key)).unwrap_or((0, 0));
        let kept = kept.map(|k| k.known(VERSION, "the records' count")).transpose()?.flatten();
        let (count, bytes) = kept
            .and_then(|k| {
                let mut cursor = Cursor::new(&k);
                Some((cursor.varint()?, cursor.varint()?))
            })
            .unwrap_or((0, 0));
        Ok(Self { limits, last, count, bytes })
    }

    /// Stores the records and drops the oldest ones over the limits.
    pub fn append(&mut self, inner: &Inner, records: &[&RequestRecord]) -> Result<(), StoreError> {
        let Some(latest) = records.iter().map(|r| r.at.0).max() else { return Ok(()) };
        let mut next = (u64::try_from(latest).unwrap_or(0).max(self.last.0), self.last.1);
        let (mut count, mut bytes) = (self.count, self.bytes);
        inner.write_state(Reach::Kernel, |state| {
            let mut batch = sled::Batch::default();
            let mut rest = records;
            while !rest.is_empty() {
                let (block, taken) = encode(rest);
                rest = rest.get(taken..).unwrap_or_default();
                next = after(next);
                count = count.saturating_add(taken as u64);
                bytes = bytes.saturating_add(block.len() as u64);
                codec::put(&mut batch, &key_of(next), VERSION, &block);
            }
            for item in self.oldest_over(state, count, bytes)? {
                codec::remove(&mut batch, &item.key, &item.value);
                count = count.saturating_sub(item.count);
                bytes = bytes.saturating_sub(item.bytes);
            }
            let mut kept = Vec::new();
            put_varint(&mut kept, count);
            put_varint(&mut kept, bytes);
            codec::put(&mut batch, KEPT, VERSION, &kept);
            Ok(batch)
        })?;
        (self.last, self.count, self.bytes) = (next, count, bytes);
        Ok(())
    }

    fn oldest_over(&self, state: &Shelf, mut count: u64, mut bytes: u64) -> Result<Vec<Oldest>, StoreError> {
        if count <= self.limits.count && bytes <= self.limits.bytes {
            return Ok(Vec::new());
        }
        state.read(|db| {
            let mut oldest = Vec::new();
            for item in db.scan_prefix([BLOCK]) {
                if count <= self.limits.count && bytes <= self.limits.bytes {
                    break;
                }
                let (key, value) = item?;
                let payload = codec::open(db, &key, &value)?.payload;
                let held = Cursor::new(&payload).varint().unwrap_or(0);
                let size = payload.len() as u64;
                count = count.saturating_sub(held);
                bytes = bytes.saturating_sub(size);
                oldest.push(Oldest { key, value, count: held, bytes: size });
            }
            Ok(oldest)
        })
    }
}

struct Oldest {
    key: sled::IVec,
    value: sled::IVec,
    count: u64,
    bytes: u64,
}

/// Looks a request's record up; blocks that cannot be read are passed over.
pub(super) fn find(state: &Shelf, id: &RequestId) -> Result<Option<RequestRecord>, StoreError> {
    let (first, last, forward) = match id.minted_at() {
        Some(start) => {
            let from = u64::try_from(start.0.saturating_sub(SLACK_US)).unwrap_or(0);
            let to = u64::try_from(start.plus(LONGEST).0).unwrap_or(0);
            ((from, 0), (to, u32::MAX), true)
        }
        None => ((0, 0), (u64::MAX, u32::MAX), false),
    };
    let (mut low, mut high) = (key_of(first), key_of(last));
    loop {
        let blocks = state.read(|db| {
            let range = db.range(low.clone()..=high.clone());
            let read = |item: sled::Result<(sled::IVec, sled::IVec)>| {
                let (key, value) = item?;
                let opened = codec::open(db, &key, &value)?;
                Ok((key, opened))
            };
            if forward {
                range.take(BLOCKS_A_READ).map(read).collect::<sled::Result<Vec<_>>>()
            } else {
                range.rev().take(BLOCKS_A_READ).map(read).collect()
            }
        })?;
        let full = blocks.len() == BLOCKS_A_READ;
        let edge = blocks.last().map(|(key, _)| key.to_vec());
        for (_, opened) in blocks {
            if opened.intact
                && opened.version == VERSION
                && let Some(found) = search(&opened.payload, id)
            {
                return Ok(Some(found));
            }
        }
        match edge.and_then(|key| place_of(&key)).filter(|_| full) {
            None => return Ok(None),
            Some(place) if forward => low = key_of(after(place)),
            Some((0, 0)) => return Ok(None),
            Some(place) => high = key_of(before(place)),
        }
    }
}

fn after((at, number): (u64, u32)) -> (u64, u32) {
    number.checked_add(1).map_or((at.saturating_add(1), 0), |n| (at, n))
}

fn before((at, number): (u64, u32)) -> (u64, u32) {
    number.checked_sub(1).map_or((at.saturating_sub(1), u32::MAX), |n| (at, n))
}

/// As many records as fit into one block, at least one; how many they are.
fn encode(records: &[&RequestRecord]) -> (Vec<u8>, usize) {
    let size = |r: &RequestRecord| r.bytes.len() + r.request_id.as_str().len() + 16;
    let mut total = 16;
    let mut taken = 0;
    for record in records {
        total += size(record);
        if taken > 0 && total > PIECE {
            break;
        }
        taken += 1;
    }
    let mut out = Vec::with_capacity(total);
    put_varint(&mut out, taken as u64);
    for record in records.iter().take(taken) {
        put_bytes(&mut out, record.request_id.as_str().as_bytes());
        put_signed(&mut out, record.at.0);
        put_bytes(&mut out, &record.bytes);
    }
    (out, taken)
}

fn search(payload: &[u8], id: &RequestId) -> Option<RequestRecord> {
    let mut cursor = Cursor::new(payload);
    let mut found = None;
    for _ in 0..cursor.varint()? {
        let (text, at, bytes) = (cursor.text()?, cursor.signed()?, cursor.bytes()?);
        if text == id.as_str() {
            found = Some(RequestRecord { request_id: id.clone(), at: Wall(at), bytes: bytes.to_vec() });
        }
    }
    found
}

fn key_of((at, number): (u64, u32)) -> Vec<u8> {
    let mut key = Vec::with_capacity(13);
    key.push(BLOCK);
    key.extend_from_slice(&at.to_be_bytes());
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn place_of(key: &[u8]) -> Option<(u64, u32)> {
    let mut cursor = Cursor::new(key.get(1..)?);
    Some((u64::from_be_bytes(cursor.array()?), u32::from_be_bytes(cursor.array()?)))
}
