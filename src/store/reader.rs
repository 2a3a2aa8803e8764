//! Reading the ledger, in constant memory and beside the writer.
//!
//! A time range is turned into a range of row numbers by the hours' spans, the months that hold them are read in order, blocks
//! outside the range are skipped by their heads. The database is borrowed for a few blocks at a time. What should be there and
//! is not, or cannot be read, is an error in its place; reading goes on after it where that is possible.

use crate::domain::ids::RequestId;
use crate::domain::ledger::Row;
use crate::domain::sums::TimeRange;
use crate::store::block::{self, BLOCK_VERSION};
use crate::store::codec::{self, Opened};
use crate::store::error::StoreError;
use crate::store::month::Month;
use crate::store::records::{self, RequestRecord};
use crate::store::{Inner, rollup};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const BLOCKS_A_READ: usize = 64;
/// sled 0.34.7 looks at its cache's capacity only after 64 accesses to one of 256 shares of the pages: a page read once and never again
/// stays, up to 16,384 of them. A page holds at least eight blocks, so that so many looks at each block make sled let go of earlier pages.
const LOOKS_A_BLOCK: usize = 8;

/// Reads rows, sums and records. Cheap to clone, safe to share.
#[derive(Clone)]
pub struct LedgerReader {
    pub(super) inner: Arc<Inner>,
}

impl LedgerReader {
    /// The rows of a time range in the ledger's order, as far as they are on disk now, and not removed: see [`Self::has_rows_of`].
    ///
    /// # Errors
    /// The hours' spans cannot be read. Damage further on is an error among the rows.
    pub fn rows(&self, range: TimeRange) -> Result<Rows, StoreError> {
        let durable = self.inner.durable_seq.load(Ordering::Acquire);
        let (first, last) = if range == TimeRange::ALL {
            (1, durable)
        } else {
            let low = range.from.map_or(0, |from| from.hour());
            let high = range.to.map_or(u32::MAX, |to| to.hour());
            self.span(low, high)?.map_or((1, 0), |(first, last)| (first, last.min(durable)))
        };
        Ok(self.rows_between(first.max(self.inner.removed_through() + 1), last, range))
    }

    /// The record of a request, if it is still kept.
    ///
    /// # Errors
    /// The store failed.
    pub fn find_record(&self, id: &RequestId) -> Result<Option<RequestRecord>, StoreError> {
        records::find(&self.inner.state, id)
    }

    /// Number of the last row that is on disk; 0: none.
    #[must_use]
    pub fn durable_seq(&self) -> u64 {
        self.inner.durable_seq.load(Ordering::Acquire)
    }

    pub(super) fn rows_after(&self, seq: u64) -> Rows {
        self.rows_between(seq.saturating_add(1), self.durable_seq(), TimeRange::ALL)
    }

    /// The rows numbered `first` to `last` whose time is in `range`.
    pub(super) fn rows_between(&self, first: u64, last: u64, range: TimeRange) -> Rows {
        let months = if first <= last { self.inner.months.holding(first, last).into() } else { VecDeque::new() };
        Rows {
            inner: Arc::clone(&self.inner),
            range,
            first,
            last,
            months,
            begun: false,
            next_key: first,
            expected: Some(first),
            ready: VecDeque::new(),
        }
    }

    /// First and last row of the hours from `low` to `high`.
    pub(super) fn span(&self, low: u32, high: u32) -> Result<Option<(u64, u64)>, StoreError> {
        let live: Vec<_> = self.inner.live.read().hours().filter(|(hour, _)| (low..=high).contains(hour)).collect();
        let stored = rollup::stored_hours(&self.inner.state, low, high)?;
        let spans = live.into_iter().chain(stored).map(|(_, span)| (span.first_seq, span.last_seq));
        Ok(spans.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))))
    }
}

/// Rows in the ledger's order.
pub struct Rows {
    inner: Arc<Inner>,
    range: TimeRange,
    first: u64,
    last: u64,
    /// Months still to be read, each with the number at which it begins.
    months: VecDeque<(Month, u64)>,
    /// Whether the first of `months` is being read.
    begun: bool,
    /// Blocks below this number are done.
    next_key: u64,
    /// The number that has to come next; `None` after a block of unknown length.
    expected: Option<u64>,
    ready: VecDeque<Result<Row, StoreError>>,
}

impl Iterator for Rows {
    type Item = Result<Row, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.ready.pop_front() {
                return Some(row);
            }
            let Some((month, begins)) = self.months.front().copied() else {
                let missing = self.expected.take().filter(|next| *next <= self.last)?;
                return Some(Err(self.missing(missing, self.last)));
            };
            if let Err(error) = self.read_some(month, begins) {
                self.months.clear();
                self.expected = None;
                self.ready.push_back(Err(error));
            }
        }
    }
}

impl Rows {
    /// How many rows are looked at for it, at most.
    #[must_use]
    pub fn most(&self) -> u64 {
        self.last.saturating_sub(self.first).saturating_add(u64::from(self.first <= self.last))
    }

    fn missing(&self, from: u64, to: u64) -> StoreError {
        let what = if from == to { "the row is missing".into() } else { format!("rows {from} to {to} are missing") };
        StoreError::Damaged { seq: Some(from), what }
    }

    fn read_some(&mut self, month: Month, begins: u64) -> Result<(), StoreError> {
        let shelf = self.inner.months.shelf(month)?;
        let (begun, next_key, last) = (self.begun, self.next_key, self.last);
        let blocks = shelf.read(|db| {
            let mut low = next_key.max(begins);
            if !begun && let Some((key, _)) = db.get_lt(low.saturating_add(1).to_be_bytes())? {
                // The block that holds the first row may begin before it.
                low = number_of(&key).unwrap_or(low);
            }
            let mut blocks = Vec::with_capacity(BLOCKS_A_READ);
            for item in db.range(low.to_be_bytes()..=last.to_be_bytes()).take(BLOCKS_A_READ) {
                let (key, value) = item?;
                if let Some(number) = number_of(&key) {
                    blocks.push((number, codec::open(db, &key, &value)?));
                    for _ in 0..LOOKS_A_BLOCK {
                        db.contains_key(&key)?;
                    }
                }
            }
            Ok(blocks)
        })?;
        self.begun = true;
        if blocks.len() < BLOCKS_A_READ {
            self.months.pop_front();
            if !self.months.is_empty() {
                self.inner.months.rest(month);
            }
            self.begun = false;
        }
        for (number, opened) in blocks {
            self.next_key = number.saturating_add(1);
            self.take_block(number, &opened);
        }
        Ok(())
    }

    fn take_block(&mut self, number: u64, opened: &Opened) {
        if opened.version != BLOCK_VERSION {
            self.inner.skipped.fetch_add(1, Ordering::Relaxed);
            self.expected = None;
            return;
        }
        let head = block::head(&opened.payload).filter(|head| head.first_seq == number);
        let begins = number.max(self.first);
        if let Some(expected) = self.expected.filter(|expected| *expected < begins) {
            self.ready.push_back(Err(self.missing(expected, begins - 1)));
        }
        self.expected = head.map(|head| head.last_seq().saturating_add(1).max(self.first));
        let outside = |h: &block::BlockHead| {
            self.range.from.is_some_and(|from| h.latest < from) || self.range.to.is_some_and(|to| h.earliest >= to)
        };
        if head.is_some_and(|head| outside(&head)) {
            return;
        }
        let wanted = |row: &Result<Row, StoreError>| match row {
            Ok(row) => (self.first..=self.last).contains(&row.seq) && self.range.contains(row.entry.at),
            Err(_) => true,
        };
        self.ready.extend(block::rows(number, &opened.payload).into_iter().filter(wanted));
    }
}

/// The number in a block's key; other keys hold pieces.
fn number_of(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}
