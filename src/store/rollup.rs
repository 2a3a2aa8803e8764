//! Sums kept beside the rows: hour × endpoint × model × key × route × tags, and for each hour the rows it spans.
//!
//! Rules:
//! - A cell in memory holds the cell's whole value; the stored one is older or equal. Dirty cells are stored together with the
//!   number of the last row counted, in one batch, about every second: after a kill, counting goes on from that row.
//! - An hour has at most [`MAX_CELLS`] cells: tags come from clients. What comes later is counted in cells without tags, and the
//!   hour is marked: sums by tag then read its rows. All other sums stay exact.
//! - An hour's span of row numbers makes reading a time range a matter of those rows only.

use crate::domain::histogram::LogHistogram;
use crate::domain::ledger::{Entry, Row};
use crate::domain::money::NanoUsd;
use crate::domain::sums::Tally;
use crate::domain::usage::Usage;
use crate::store::codec::{self, Cursor, put_bytes, put_signed, put_varint};
use crate::store::error::StoreError;
use crate::store::shelf::Shelf;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub(super) const MAX_CELLS: u32 = 4_096;
/// Cells kept in memory after they were stored.
const MAX_KEPT: usize = 8_192;
const VERSION: u8 = 1;
pub(super) const CELL: u8 = b'r';
pub(super) const HOUR: u8 = b'h';
const APPLIED: &[u8] = b"R";

/// A stored cell: hour and contents.
type Cell = (u32, Dims, Tally);

type Tags = Arc<[(Box<str>, Box<str>)]>;

/// By what a cell's rows agree.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Dims {
    pub endpoint: Arc<str>,
    pub model: Arc<str>,
    pub key_id: Arc<str>,
    pub route: Arc<str>,
    /// `None`: various.
    pub tags: Option<Tags>,
}

impl Dims {
    fn of(e: &Entry) -> Self {
        Self {
            endpoint: Arc::clone(&e.endpoint),
            model: Arc::clone(&e.model),
            key_id: Arc::clone(&e.key_id),
            route: Arc::clone(&e.route),
            tags: Some(Arc::clone(&e.tags)),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        for text in [&self.endpoint, &self.model, &self.key_id, &self.route] {
            put_bytes(out, text.as_bytes());
        }
        let Some(tags) = &self.tags else {
            put_varint(out, 0);
            return;
        };
        put_varint(out, tags.len() as u64 + 1);
        for (key, value) in tags.iter() {
            put_bytes(out, key.as_bytes());
            put_bytes(out, value.as_bytes());
        }
    }

    fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        let mut text = || cursor.text().map(Arc::<str>::from);
        let (endpoint, model, key_id, route) = (text()?, text()?, text()?, text()?);
        let tags = match cursor.length()? {
            0 => None,
            more => {
                let mut tags = Vec::new();
                for _ in 1..more {
                    tags.push((cursor.text()?.into(), cursor.text()?.into()));
                }
                Some(tags.into())
            }
        };
        Some(Self { endpoint, model, key_id, route, tags })
    }
}

/// The rows of an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HourSpan {
    pub first_seq: u64,
    pub last_seq: u64,
    pub cells: u32,
    /// Some rows were counted without their tags.
    pub collapsed: bool,
}

struct Slot<T> {
    value: T,
    dirty: bool,
}

/// The part of the rollups that is in memory.
#[derive(Default)]
pub(super) struct Live {
    /// The last row counted.
    through: u64,
    /// The last row counted in what is stored.
    stored_through: u64,
    cells: HashMap<(u32, Dims), Slot<Tally>>,
    hours: BTreeMap<u32, Slot<HourSpan>>,
}

impl Live {
    /// Starts from what is stored.
    pub fn load(state: &Shelf) -> Result<Self, StoreError> {
        let through = applied_through(state)?;
        Ok(Self { through, stored_through: through, ..Self::default() })
    }

    /// Whether something is not stored yet.
    pub fn is_dirty(&self) -> bool {
        self.through != self.stored_through || self.cells.values().any(|slot| slot.dirty)
    }

    pub fn through(&self) -> u64 {
        self.through
    }

    /// Whether there is so much unsaved that it should be stored now.
    pub fn is_heavy(&self) -> bool {
        self.cells.len() > 2 * MAX_KEPT
    }

    /// Counts a row, once: one that was counted before is passed over.
    pub fn count(&mut self, state: &Shelf, row: &Row) -> Result<(), StoreError> {
        if row.seq <= self.through {
            return Ok(());
        }
        let hour = row.entry.at.hour();
        if let std::collections::btree_map::Entry::Vacant(slot) = self.hours.entry(hour) {
            let value = stored_hour(state, hour)?.unwrap_or(HourSpan {
                first_seq: row.seq,
                last_seq: row.seq,
                cells: 0,
                collapsed: false,
            });
            slot.insert(Slot { value, dirty: false });
        }
        let mut key = (hour, Dims::of(&row.entry));
        if !self.fetch(state, &key)? && self.hours.get(&hour).is_some_and(|h| h.value.cells >= MAX_CELLS) {
            key.1.tags = None;
            self.fetch(state, &key)?;
        }
        let collapsed = key.1.tags.is_none();
        let mut fresh = 0;
        let cell = self.cells.entry(key).or_insert_with(|| {
            fresh = 1;
            Slot { value: Tally::default(), dirty: true }
        });
        cell.value.count(&row.entry);
        cell.dirty = true;
        if let Some(slot) = self.hours.get_mut(&hour) {
            let span = &mut slot.value;
            span.first_seq = span.first_seq.min(row.seq);
            span.last_seq = span.last_seq.max(row.seq);
            span.cells = span.cells.saturating_add(fresh);
            span.collapsed |= collapsed;
            slot.dirty = true;
        }
        self.through = row.seq;
        Ok(())
    }

    /// Brings a stored cell into memory; whether the cell exists.
    fn fetch(&mut self, state: &Shelf, key: &(u32, Dims)) -> Result<bool, StoreError> {
        if self.cells.contains_key(key) {
            return Ok(true);
        }
        let stored_key = cell_key(key.0, &key.1);
        let found = state.read(|db| match db.get(stored_key)? {
            Some(value) => codec::open(db, &stored_key, &value).map(Some),
            None => Ok(None),
        })?;
        let Some(payload) = found.map(|f| f.known(VERSION, "a rollup")).transpose()?.flatten() else {
            return Ok(false);
        };
        let (_, value) = decode_cell(&payload).ok_or_else(damaged_cell)?;
        self.cells.insert(key.clone(), Slot { value, dirty: false });
        Ok(true)
    }

    /// Everything that has changed since it was last stored, for one batch.
    pub fn collect(&self, batch: &mut sled::Batch) {
        let mut payload = Vec::new();
        for ((hour, dims), slot) in self.cells.iter().filter(|(_, slot)| slot.dirty) {
            payload.clear();
            encode_cell(dims, &slot.value, &mut payload);
            codec::put(batch, &cell_key(*hour, dims), VERSION, &payload);
        }
        for (hour, slot) in self.hours.iter().filter(|(_, slot)| slot.dirty) {
            codec::put(batch, &hour_key(*hour), VERSION, &encode_hour(&slot.value));
        }
        put_applied(batch, self.through);
    }

    /// Notes that everything is stored, and lets go of hours that are over.
    pub fn stored(&mut self) {
        self.stored_through = self.through;
        let newest = self.hours.keys().next_back().copied().unwrap_or(0);
        let crowded = self.cells.len() > MAX_KEPT;
        self.cells.retain(|(hour, _), slot| {
            slot.dirty = false;
            !crowded && hour.saturating_add(1) >= newest
        });
        self.hours.retain(|hour, slot| {
            slot.dirty = false;
            hour.saturating_add(1) >= newest
        });
    }

    /// The cells in memory, with the keys under which they would be stored.
    pub fn cells(&self) -> impl Iterator<Item = (u32, &Dims, &Tally)> {
        self.cells.iter().map(|((hour, dims), slot)| (*hour, dims, &slot.value))
    }

    pub fn hours(&self) -> impl Iterator<Item = (u32, HourSpan)> {
        self.hours.iter().map(|(hour, slot)| (*hour, slot.value))
    }

    /// Forgets every hour that reaches past row `last`, here and in the store, so that what is left of it can be counted again.
    /// Returns those hours with the first row of the earliest.
    pub fn unwind(&mut self, state: &Shelf, last: u64) -> Result<(Vec<u32>, u64), StoreError> {
        let reaching: Vec<_> =
            stored_hours(state, 0, u32::MAX)?.into_iter().filter(|(_, s)| s.last_seq > last).collect();
        let first = reaching.iter().map(|(_, span)| span.first_seq).min().unwrap_or(last + 1);
        let mut batch = sled::Batch::default();
        for (hour, _) in &reaching {
            batch.remove(&hour_key(*hour));
            let cells = state.read(|db| db.scan_prefix(cell_prefix(*hour)).collect::<sled::Result<Vec<_>>>())?;
            for (key, value) in cells {
                codec::remove(&mut batch, &key, &value);
            }
        }
        put_applied(&mut batch, last);
        state.commit(batch, crate::store::shelf::Reach::Disk)?;
        *self = Self { through: last, stored_through: last, ..Self::default() };
        Ok((reaching.into_iter().map(|(hour, _)| hour).collect(), first))
    }

    /// Counts a row of an hour that was unwound, although rows after it are counted already.
    pub fn recount(&mut self, state: &Shelf, row: &Row) -> Result<(), StoreError> {
        let through = self.through;
        self.through = 0;
        let counted = self.count(state, row);
        self.through = through;
        counted
    }
}

/// The last row that the stored rollups have counted.
pub(super) fn applied_through(state: &Shelf) -> Result<u64, StoreError> {
    let found = state.read(|db| match db.get(APPLIED)? {
        Some(value) => codec::open(db, APPLIED, &value).map(Some),
        None => Ok(None),
    })?;
    let payload = found.map(|f| f.known(VERSION, "the rollups' mark")).transpose()?.flatten();
    Ok(payload.and_then(|p| Cursor::new(&p).varint()).unwrap_or(0))
}

fn put_applied(batch: &mut sled::Batch, seq: u64) {
    let mut payload = Vec::new();
    put_varint(&mut payload, seq);
    codec::put(batch, APPLIED, VERSION, &payload);
}

/// The stored spans of the hours from `first` to `last`.
pub(super) fn stored_hours(state: &Shelf, first: u32, last: u32) -> Result<Vec<(u32, HourSpan)>, StoreError> {
    let found = state.read(|db| {
        let mut found = Vec::new();
        for item in db.range(hour_key(first)..=hour_key(last)) {
            let (key, value) = item?;
            let hour = key.get(1..5).and_then(|k| k.try_into().ok()).map(u32::from_be_bytes);
            found.push((hour, codec::open(db, &key, &value)?));
        }
        Ok(found)
    })?;
    let mut hours = Vec::new();
    for (hour, opened) in found {
        if let (Some(hour), Some(payload)) = (hour, opened.known(VERSION, "an hour's span")?) {
            hours.push((hour, decode_hour(&payload).ok_or_else(damaged_cell)?));
        }
    }
    Ok(hours)
}

fn stored_hour(state: &Shelf, hour: u32) -> Result<Option<HourSpan>, StoreError> {
    Ok(stored_hours(state, hour, hour)?.first().map(|(_, span)| *span))
}

/// Reads a stored cell; `None` for one of an unknown version.
pub(super) fn stored_cell(db: &sled::Db, key: &[u8], value: &[u8]) -> sled::Result<Result<Option<Cell>, StoreError>> {
    let opened = codec::open(db, key, value)?;
    Ok((|| {
        let Some(payload) = opened.known(VERSION, "a rollup")? else { return Ok(None) };
        let hour = key.get(1..5).and_then(|k| k.try_into().ok()).map(u32::from_be_bytes);
        let (dims, tally) = decode_cell(&payload).ok_or_else(damaged_cell)?;
        Ok(hour.map(|hour| (hour, dims, tally)))
    })())
}

pub(super) fn cell_prefix(hour: u32) -> [u8; 5] {
    let mut key = [CELL; 5];
    key[1..].copy_from_slice(&hour.to_be_bytes());
    key
}

fn hour_key(hour: u32) -> [u8; 5] {
    let mut key = [HOUR; 5];
    key[1..].copy_from_slice(&hour.to_be_bytes());
    key
}

fn cell_key(hour: u32, dims: &Dims) -> [u8; 21] {
    let mut bytes = Vec::with_capacity(96);
    dims.write(&mut bytes);
    let mut key = [0; 21];
    key[..5].copy_from_slice(&cell_prefix(hour));
    key[5..].copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
    key
}

fn damaged_cell() -> StoreError {
    StoreError::Damaged { seq: None, what: "a rollup cannot be read".into() }
}

fn encode_hour(span: &HourSpan) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    for number in [span.first_seq, span.last_seq, u64::from(span.cells), u64::from(span.collapsed)] {
        put_varint(&mut out, number);
    }
    out
}

fn decode_hour(bytes: &[u8]) -> Option<HourSpan> {
    let mut cursor = Cursor::new(bytes);
    let (first_seq, last_seq) = (cursor.varint()?, cursor.varint()?);
    let cells = u32::try_from(cursor.varint()?).ok()?;
    Some(HourSpan { first_seq, last_seq, cells, collapsed: cursor.varint()? != 0 })
}

fn encode_cell(dims: &Dims, t: &Tally, out: &mut Vec<u8>) {
    dims.write(out);
    for number in [t.requests, t.attempts, t.successes, t.failures, t.cancelled, t.unpriced, t.latency_us_sum] {
        put_varint(out, number);
    }
    let u = &t.usage;
    for number in [u.input, u.cached_input, u.cache_write, u.output, u.reasoning] {
        put_varint(out, number);
    }
    put_signed(out, t.cost.0);
    put_varint(out, t.latency.buckets().len() as u64);
    for (bucket, count) in t.latency.buckets() {
        put_varint(out, u64::from(*bucket));
        put_varint(out, *count);
    }
}

fn decode_cell(bytes: &[u8]) -> Option<(Dims, Tally)> {
    let mut cursor = Cursor::new(bytes);
    let dims = Dims::read(&mut cursor)?;
    let mut next = || cursor.varint();
    let mut tally = Tally {
        requests: next()?,
        attempts: next()?,
        successes: next()?,
        failures: next()?,
        cancelled: next()?,
        unpriced: next()?,
        latency_us_sum: next()?,
        ..Tally::default()
    };
    tally.usage =
        Usage { input: next()?, cached_input: next()?, cache_write: next()?, output: next()?, reasoning: next()? };
    tally.cost = NanoUsd(cursor.signed()?);
    let mut buckets = Vec::new();
    for _ in 0..cursor.length()? {
        buckets.push((u16::try_from(cursor.varint()?).ok()?, cursor.varint()?));
    }
    tally.latency = LogHistogram::from_buckets(buckets);
    Some((dims, tally))
}
