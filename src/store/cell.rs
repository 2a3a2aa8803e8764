//! A cell of the rollups as bytes: what its rows agree in, and their figures.
//!
//! A cell's key is its grain, the hour's or day's number, and a hash of what its rows agree in. Adding cells up is the
//! whole work of a sum, so a stored cell is read in place: [`CellView`] borrows its texts and adds its figures where they belong.

use crate::domain::histogram::LogHistogram;
use crate::domain::ledger::Entry;
use crate::domain::money::NanoUsd;
use crate::domain::sums::Tally;
use crate::domain::usage::Usage;
use crate::store::codec::{self, Cursor, numbered, put_bytes, put_signed, put_varint};
use crate::store::error::StoreError;
use crate::store::shelf::Shelf;
use std::ops::Bound;
use std::sync::Arc;

pub(super) const VERSION: u8 = 1;
const CELLS_A_READ: usize = 512;

/// The span of time of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grain {
    Hour,
    Day,
    /// An hour, by endpoint, model and route alone.
    Brief,
}

impl Grain {
    /// One that no other key of the state database begins with.
    fn tag(self) -> u8 {
        match self {
            Self::Hour => b'r',
            Self::Day => b's',
            Self::Brief => b'v',
        }
    }

    /// What all cells of an hour's or a day's keys begin with.
    pub fn prefix(self, number: u32) -> [u8; 5] {
        numbered(self.tag(), number)
    }

    /// The key of a cell.
    pub fn key(self, number: u32, dims: &Dims) -> CellKey {
        let mut bytes = Vec::with_capacity(96);
        dims.write(&mut bytes);
        let mut key = [0; 21];
        key[..5].copy_from_slice(&self.prefix(number));
        key[5..].copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
        key
    }
}

pub(super) type CellKey = [u8; 21];

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
    pub fn of(e: &Entry) -> Self {
        Self {
            endpoint: Arc::clone(&e.endpoint),
            model: Arc::clone(&e.model),
            key_id: Arc::clone(&e.key_id),
            route: Arc::clone(&e.route),
            tags: Some(Arc::clone(&e.tags)),
        }
    }

    /// The value of a tag; empty without it.
    pub fn tag(&self, name: &str) -> &str {
        let tags = self.tags.as_deref().unwrap_or_default();
        tags.iter().find(|(key, _)| **key == *name).map_or("", |(_, value)| value)
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
}

/// Writes a cell's value.
pub(super) fn encode(dims: &Dims, t: &Tally, out: &mut Vec<u8>) {
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

/// A stored cell, read in place.
pub(super) struct CellView<'a> {
    pub endpoint: &'a str,
    pub model: &'a str,
    pub key_id: &'a str,
    pub route: &'a str,
    /// `None`: various. Else how many, and where they begin.
    tags: Option<(usize, Cursor<'a>)>,
    figures: Cursor<'a>,
}

impl<'a> CellView<'a> {
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor::new(bytes);
        let (endpoint, model) = (cursor.text()?, cursor.text()?);
        let (key_id, route) = (cursor.text()?, cursor.text()?);
        let tags = match cursor.length()? {
            0 => None,
            more => {
                let begin = cursor.clone();
                for _ in 1..more {
                    cursor.bytes()?;
                    cursor.bytes()?;
                }
                Some((more - 1, begin))
            }
        };
        Some(Self { endpoint, model, key_id, route, tags, figures: cursor })
    }

    /// The value of a tag; empty without it.
    pub fn tag(&self, name: &str) -> &'a str {
        let Some((count, mut cursor)) = self.tags.clone() else { return "" };
        let mut pairs = (0..count).map_while(|_| Some((cursor.text()?, cursor.text()?)));
        pairs.find(|(key, _)| *key == name).map_or("", |(_, value)| value)
    }

    pub fn dims(&self) -> Option<Dims> {
        let tags = match self.tags.clone() {
            None => None,
            Some((count, mut cursor)) => {
                let mut tags = Vec::new();
                for _ in 0..count {
                    tags.push((cursor.text()?.into(), cursor.text()?.into()));
                }
                Some(tags.into())
            }
        };
        let shared = Arc::<str>::from;
        Some(Dims {
            endpoint: shared(self.endpoint),
            model: shared(self.model),
            key_id: shared(self.key_id),
            route: shared(self.route),
            tags,
        })
    }

    /// Adds the cell's figures to a tally.
    pub fn add_to(&self, tally: &mut Tally) -> Option<()> {
        let mut cursor = self.figures.clone();
        let mut next = || cursor.varint();
        let mut cell = Tally {
            requests: next()?,
            attempts: next()?,
            successes: next()?,
            failures: next()?,
            cancelled: next()?,
            unpriced: next()?,
            latency_us_sum: next()?,
            ..Tally::default()
        };
        cell.usage =
            Usage { input: next()?, cached_input: next()?, cache_write: next()?, output: next()?, reasoning: next()? };
        cell.cost = NanoUsd(cursor.signed()?);
        tally.merge(&cell);
        let buckets = cursor.length()?;
        let pairs = (0..buckets).map_while(|_| Some((u16::try_from(cursor.varint()?).ok()?, cursor.varint()?)));
        (tally.latency.add_sorted(pairs) == buckets).then_some(())
    }

    /// The cell's figures.
    pub fn tally(&self) -> Option<Tally> {
        let mut tally = Tally { latency: LogHistogram::default(), ..Tally::default() };
        self.add_to(&mut tally).map(|()| tally)
    }
}

/// Takes a cell's number, key and contents.
pub(super) type Visit<'a> = &'a mut dyn FnMut(u32, &[u8], &CellView<'_>) -> Result<(), StoreError>;

/// Calls `each` with every stored cell of the hours or days from `first` to `last`. Returns how many
/// were of an unknown version, and passed over. The database is borrowed for some hundred cells at a time.
pub(super) fn each(state: &Shelf, grain: Grain, (first, last): (u32, u32), each: Visit<'_>) -> Result<u64, StoreError> {
    let mut unknown = 0;
    let mut from = Bound::Included(sled::IVec::from(&grain.prefix(first)));
    let end = match last.checked_add(1) {
        Some(next) => sled::IVec::from(&grain.prefix(next)),
        None => sled::IVec::from(&[grain.tag() + 1]),
    };
    loop {
        let cells = state.read(|db| {
            let range = db.range((from.clone(), Bound::Excluded(end.clone())));
            range.take(CELLS_A_READ).collect::<sled::Result<Vec<_>>>()
        })?;
        let Some((last, _)) = cells.last() else { return Ok(unknown) };
        from = Bound::Excluded(last.clone());
        for (key, value) in &cells {
            let number = key.get(1..5).and_then(|k| k.try_into().ok()).map(u32::from_be_bytes).ok_or_else(damaged)?;
            if let Some((version, payload)) = codec::single(value) {
                match version {
                    VERSION => each(number, key, &CellView::read(payload).ok_or_else(damaged)?)?,
                    _ => unknown += 1,
                }
                continue;
            }
            match state.read(|db| codec::open(db, key, value))?.known(VERSION, "a rollup")? {
                Some(payload) => each(number, key, &CellView::read(&payload).ok_or_else(damaged)?)?,
                None => unknown += 1,
            }
        }
    }
}

/// Removes an hour's or a day's stored cells.
pub(super) fn remove(state: &Shelf, grain: Grain, number: u32, batch: &mut sled::Batch) -> Result<(), StoreError> {
    let cells = state.read(|db| db.scan_prefix(grain.prefix(number)).collect::<sled::Result<Vec<_>>>())?;
    cells.iter().for_each(|(key, value)| codec::remove(batch, key, value));
    Ok(())
}

pub(super) fn damaged() -> StoreError {
    StoreError::Damaged { seq: None, what: "a rollup cannot be read".into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::sample;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cell_is_read_as_it_was_written(entries in prop::collection::vec(sample::entry(), 1..9), various in any::<bool>()) {
            let mut tally = Tally::default();
            entries.iter().for_each(|e| tally.count(e));
            let mut dims = Dims::of(&entries[0]);
            if various {
                dims.tags = None;
            }
            let mut bytes = Vec::new();
            encode(&dims, &tally, &mut bytes);
            let view = CellView::read(&bytes).unwrap();
            for (key, value) in dims.tags.as_deref().unwrap_or_default() {
                prop_assert_eq!(view.tag(key), &**value);
            }
            prop_assert_eq!(view.tag("absent"), "");
            prop_assert_eq!(view.dims(), Some(dims));
            prop_assert_eq!(view.tally(), Some(tally));
            for cut in 0..bytes.len() {
                prop_assert!(CellView::read(&bytes[..cut]).and_then(|v| v.tally()).is_none());
            }
        }
    }
}
