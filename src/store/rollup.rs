//! Sums kept beside the rows: hour × endpoint × model × key × route × tags, and for each hour the rows it spans.
//!
//! Rules:
//! - A cell in memory holds the cell's whole value; the stored one is older or equal. Dirty cells are stored together with the
//!   number of the last row counted, in one batch, about every second: after a kill, counting goes on from that row.
//! - An hour has at most [`MAX_CELLS`] cells: tags come from clients. What comes later is counted in cells without tags, and the
//!   hour is marked: sums by tag then read its rows. All other sums stay exact.
//! - An hour's span of row numbers makes reading a time range a matter of those rows only.
//! - Hours and days that are over are summed up once more: see [`hours`](crate::store::hours) and [`days`](crate::store::days). A row
//!   that comes for one later takes its sums away again in the same batch.

use crate::domain::ledger::Row;
use crate::domain::sums::Tally;
use crate::store::cell::{self, CellView, Dims, Grain};
use crate::store::codec::{self, Cursor, numbered, put_varint};
use crate::store::days::{self, day_of};
use crate::store::error::StoreError;
use crate::store::hours;
use crate::store::sealing::read_numbered;
use crate::store::shelf::Shelf;
use crate::store::unsealed::Unsealed;
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub(super) const MAX_CELLS: u32 = 4_096;
/// Cells kept in memory after they were stored.
const MAX_KEPT: usize = 8_192;
const VERSION: u8 = 1;
const HOUR: u8 = b'h';
const APPLIED: &[u8] = b"R";

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
    /// The latest hour counted.
    newest: u32,
    open_hours: Unsealed,
    open_days: Unsealed,
}

impl Live {
    /// Starts from what is stored.
    pub fn load(state: &Shelf) -> Result<Self, StoreError> {
        let through = applied_through(state)?;
        let hours = stored_hours(state, 0, u32::MAX)?;
        let newest = hours.last().map_or(0, |(hour, _)| *hour);
        let (good_hours, good_days) = (hours::sealed(state, 0, u32::MAX)?, days::sealed(state, 0, u32::MAX)?);
        let all = || hours.iter().map(|(hour, _)| *hour);
        let open_hours = Unsealed::load(all().filter(|hour| !good_hours.contains(hour)));
        let open_days = Unsealed::load(all().map(day_of).filter(|day| !good_days.contains_key(day)));
        Ok(Self { through, stored_through: through, newest, open_hours, open_days, ..Self::default() })
    }

    /// Hours that are over and whose cells are stored as they are here, the earliest first.
    pub fn due_hours(&self) -> impl Iterator<Item = u32> {
        self.open_hours.due(self.newest)
    }

    /// Days that are over and whose hours are stored as they are here, the earliest first.
    pub fn due_days(&self) -> impl Iterator<Item = u32> {
        self.open_days.due(day_of(self.newest))
    }

    /// Whether something is not stored yet.
    pub fn is_dirty(&self) -> bool {
        self.through != self.stored_through
            || self.due_hours().next().is_some()
            || self.due_days().next().is_some()
            || self.cells.values().any(|slot| slot.dirty)
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
        self.newest = self.newest.max(hour);
        self.open_hours.touch(hour);
        self.open_days.touch(day_of(hour));
        self.through = row.seq;
        Ok(())
    }

    /// Brings a stored cell into memory; whether the cell exists.
    fn fetch(&mut self, state: &Shelf, key: &(u32, Dims)) -> Result<bool, StoreError> {
        if self.cells.contains_key(key) {
            return Ok(true);
        }
        let stored_key = Grain::Hour.key(key.0, &key.1);
        let found = state.read(|db| match db.get(stored_key)? {
            Some(value) => codec::open(db, &stored_key, &value).map(Some),
            None => Ok(None),
        })?;
        let Some(payload) = found.map(|f| f.known(cell::VERSION, "a rollup")).transpose()?.flatten() else {
            return Ok(false);
        };
        let value = CellView::read(&payload).and_then(|view| view.tally()).ok_or_else(cell::damaged)?;
        self.cells.insert(key.clone(), Slot { value, dirty: false });
        Ok(true)
    }

    /// Everything that has changed since it was last stored, for one batch.
    pub fn collect(&self, batch: &mut sled::Batch) {
        let mut payload = Vec::new();
        for ((hour, dims), slot) in self.cells.iter().filter(|(_, slot)| slot.dirty) {
            payload.clear();
            cell::encode(dims, &slot.value, &mut payload);
            codec::put(batch, &Grain::Hour.key(*hour, dims), cell::VERSION, &payload);
        }
        for (hour, slot) in self.hours.iter().filter(|(_, slot)| slot.dirty) {
            codec::put(batch, &numbered(HOUR, *hour), VERSION, &encode_hour(&slot.value));
        }
        self.open_hours.marked().for_each(|hour| hours::open(batch, hour));
        self.open_days.marked().for_each(|day| days::open(batch, day));
        put_applied(batch, self.through);
    }

    /// Notes that everything is stored, with the sums of some hours and days, and lets go of hours that are over.
    pub fn stored(&mut self, sealed_hours: &[u32], sealed_days: &[u32]) {
        self.stored_through = self.through;
        self.open_hours.stored(sealed_hours);
        self.open_days.stored(sealed_days);
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

    /// The cells in memory.
    pub fn cells(&self) -> impl Iterator<Item = (u32, &Dims, &Tally)> {
        self.cells.iter().map(|((hour, dims), slot)| (*hour, dims, &slot.value))
    }

    pub fn hours(&self) -> impl Iterator<Item = (u32, HourSpan)> {
        self.hours.iter().map(|(hour, slot)| (*hour, slot.value))
    }

    /// Forgets every hour that reaches past row `last`, here and in the store, so that what is left of it can be counted again.
    /// Returns those hours with the first row of the earliest. An hour with rows that retention has removed, up to `removed`, stays as it
    /// is: its sums could not be made again, so that they go on counting what is lost.
    pub fn unwind(&mut self, state: &Shelf, last: u64, removed: u64) -> Result<(Vec<u32>, u64), StoreError> {
        let reaching: Vec<_> = stored_hours(state, 0, u32::MAX)?
            .into_iter()
            .filter(|(_, s)| s.last_seq > last && s.first_seq > removed)
            .collect();
        let first = reaching.iter().map(|(_, span)| span.first_seq).min().unwrap_or(last + 1);
        let mut batch = sled::Batch::default();
        for (hour, _) in &reaching {
            batch.remove(&numbered(HOUR, *hour));
            hours::open(&mut batch, *hour);
            cell::remove(state, Grain::Hour, *hour, &mut batch)?;
            cell::remove(state, Grain::Brief, *hour, &mut batch)?;
        }
        let days: BTreeSet<u32> = reaching.iter().map(|(hour, _)| day_of(*hour)).collect();
        for day in days {
            days::open(&mut batch, day);
            cell::remove(state, Grain::Day, day, &mut batch)?;
        }
        put_applied(&mut batch, last);
        state.commit(batch, crate::store::shelf::Reach::Disk)?;
        *self = Self::load(state)?;
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

pub(super) fn put_applied(batch: &mut sled::Batch, seq: u64) {
    let mut payload = Vec::new();
    put_varint(&mut payload, seq);
    codec::put(batch, APPLIED, VERSION, &payload);
}

/// The stored spans of the hours from `first` to `last`.
pub(super) fn stored_hours(state: &Shelf, first: u32, last: u32) -> Result<Vec<(u32, HourSpan)>, StoreError> {
    let spans = read_numbered(state, (HOUR, VERSION, "an hour's span"), first, last)?.into_iter();
    spans.map(|(hour, span)| Ok((hour, decode_hour(&span).ok_or_else(cell::damaged)?))).collect()
}

fn stored_hour(state: &Shelf, hour: u32) -> Result<Option<HourSpan>, StoreError> {
    Ok(stored_hours(state, hour, hour)?.first().map(|(_, span)| *span))
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
