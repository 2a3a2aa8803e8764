//! The signed checkpoints that a store keeps: one per hour with rows, one at each clean stop, and one of the rows that retention removed.
//!
//! Marks of the rows since the last checkpoint are collected as rows are written; those of a process that was killed are lost, their
//! rows stand in the next checkpoint all the same.

use crate::domain::checkpoint::{Checkpoint, Kind, Marks, Statement};
use crate::domain::ledger::GENESIS;
use crate::domain::time::Wall;
use crate::store::codec;
use crate::store::error::StoreError;
use crate::store::month::Month;
use crate::store::shelf::Shelf;
use serde::{Deserialize, Serialize};

const WITNESS: u8 = b'w';
const ANCHOR: &[u8] = b"!anchor";
const VERSION: u8 = 1;
/// Marks in an hour's checkpoint: some 1.5 KB an hour.
const MARKS: usize = 16;

/// Where the ledger begins after retention has removed rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Anchor {
    pub removed: Checkpoint,
    /// The month that the first kept row is in: folders of earlier ones are to go.
    pub first_month: Month,
    /// That month was written anew and may not have its name yet.
    pub rewritten: bool,
}

#[derive(Serialize, Deserialize)]
struct StoredAnchor {
    removed: String,
    first_month: String,
    rewritten: bool,
}

impl Anchor {
    /// The last row that was removed.
    pub fn seq(&self) -> u64 {
        self.removed.statement.seq
    }

    pub fn hash(&self) -> [u8; 32] {
        self.removed.statement.hash
    }

    pub fn put(&self, batch: &mut sled::Batch) {
        let stored = StoredAnchor {
            removed: self.removed.to_json(),
            first_month: self.first_month.to_string(),
            rewritten: self.rewritten,
        };
        codec::put(batch, ANCHOR, VERSION, &serde_json::to_vec(&stored).unwrap_or_default());
    }

    pub fn load(state: &Shelf) -> Result<Option<Self>, StoreError> {
        let found = state.read(|db| match db.get(ANCHOR)? {
            Some(value) => codec::open(db, ANCHOR, &value).map(Some),
            None => Ok(None),
        })?;
        let Some(payload) = found.map(|f| f.known(VERSION, "the removed rows")).transpose()?.flatten() else {
            return Ok(None);
        };
        let damaged = |what: String| StoreError::Damaged { seq: None, what: format!("the removed rows: {what}") };
        let stored: StoredAnchor = serde_json::from_slice(&payload).map_err(|e| damaged(e.to_string()))?;
        Ok(Some(Self {
            removed: Checkpoint::from_json(stored.removed.as_bytes()).map_err(damaged)?,
            first_month: Month::parse(&stored.first_month).ok_or_else(|| damaged("no month".into()))?,
            rewritten: stored.rewritten,
        }))
    }
}

fn key(seq: u64) -> [u8; 9] {
    let mut key = [WITNESS; 9];
    key[1..].copy_from_slice(&seq.to_be_bytes());
    key
}

/// All stored checkpoints by row; one that cannot be read is an error in its place.
pub(super) fn stored(state: &Shelf) -> Result<Vec<Result<Checkpoint, StoreError>>, StoreError> {
    let found = state.read(|db| {
        let read = |item: sled::Result<(sled::IVec, sled::IVec)>| {
            let (key, value) = item?;
            codec::open(db, &key, &value)
        };
        db.scan_prefix([WITNESS]).map(read).collect::<sled::Result<Vec<_>>>()
    })?;
    let damaged = |what: String| StoreError::Damaged { seq: None, what: format!("a checkpoint: {what}") };
    let read = |opened: codec::Opened| match opened.known(VERSION, "a checkpoint") {
        Ok(payload) => payload.map(|p| Checkpoint::from_json(&p).map_err(damaged)),
        Err(error) => Some(Err(error)),
    };
    Ok(found.into_iter().filter_map(read).collect())
}

/// Takes the checkpoints of rows up to `seq` away: there is nothing left that they could be held against.
pub(super) fn forget(state: &Shelf, seq: u64, batch: &mut sled::Batch) -> Result<(), StoreError> {
    let old = state.read(|db| db.range(key(0)..=key(seq)).collect::<sled::Result<Vec<_>>>())?;
    old.iter().for_each(|(key, value)| codec::remove(batch, key, value));
    Ok(())
}

/// Takes the checkpoints of rows after `seq` away: those rows are lost, and other ones will get their numbers.
pub(super) fn forget_after(state: &Shelf, seq: u64, batch: &mut sled::Batch) -> Result<(), StoreError> {
    let lost =
        state.read(|db| db.range(key(seq.saturating_add(1))..=key(u64::MAX)).collect::<sled::Result<Vec<_>>>())?;
    lost.iter().for_each(|(key, value)| codec::remove(batch, key, value));
    Ok(())
}

/// The checkpoint under way.
pub(super) struct Pending {
    /// The last row that a checkpoint stands for, and its hash.
    signed: (u64, [u8; 32]),
    /// In which hour the last checkpoint was made.
    hour: Option<u32>,
    marks: Marks,
}

impl Pending {
    /// Goes on from the last stored checkpoint, or from where the ledger begins.
    pub fn load(state: &Shelf, anchor: Option<&Anchor>) -> Result<Self, StoreError> {
        let last = state.read(|db| match db.scan_prefix([WITNESS]).next_back().transpose()? {
            Some((key, value)) => codec::open(db, &key, &value).map(Some),
            None => Ok(None),
        })?;
        let last = last.and_then(|opened| Checkpoint::from_json(&opened.known(VERSION, "").ok()??).ok());
        let begin = anchor.map_or((0, GENESIS), |anchor| (anchor.seq(), anchor.hash()));
        let signed = last.as_ref().map_or(begin, |c| (c.statement.seq, c.statement.hash)).max(begin);
        Ok(Self { signed, hour: last.map(|c| c.statement.at.hour()), marks: Marks::new(MARKS) })
    }

    /// Notes a row that was written.
    pub fn row(&mut self, seq: u64, hash: [u8; 32]) {
        if seq > self.signed.0 {
            self.marks.push(seq, hash);
        }
    }

    /// What to sign now that the ledger ends at row `seq`; `None`: nothing is due. `closing`: it is, if there are rows at all.
    pub fn due(&self, seq: u64, hash: [u8; 32], now: Wall, closing: bool) -> Option<Statement> {
        let due = closing || self.hour != Some(now.hour());
        (due && seq > self.signed.0).then(|| Statement {
            kind: Kind::Hour,
            at: now,
            first_seq: self.signed.0 + 1,
            prev_hash: self.signed.1,
            seq,
            hash,
            rows: seq - self.signed.0,
            digest: None,
            before: None,
            marks: self.marks.list(),
        })
    }

    /// Notes that a checkpoint is stored.
    pub fn done(&mut self, statement: &Statement) {
        self.signed = (statement.seq, statement.hash);
        self.hour = Some(statement.at.hour());
        self.marks = Marks::new(MARKS);
    }
}

pub(super) fn put(batch: &mut sled::Batch, checkpoint: &Checkpoint) {
    codec::put(batch, &key(checkpoint.statement.seq), VERSION, checkpoint.to_json().as_bytes());
}
