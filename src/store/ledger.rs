//! Writing the ledger: one owner, one group commit per call.
//!
//! An append chains the entries, puts them into blocks, commits them to the month's database down to the disk, and only then
//! counts them in the rollups and stores the request records. Rules:
//! - A row's time is never earlier than that of the row before by less than five seconds: an inversion that small comes from
//!   rows waiting in a batch and is evened out, so that the ledger's order is its order in time. A larger one is a clock that
//!   was set back, and stays.
//! - A row goes into the month of its time, but never into an earlier month than the row before.
//! - Rollups and HEAD follow about a second later, and at [`LedgerWriter::close`]. With them goes a signed checkpoint: the first after an
//!   hour's turn, and at the close.
//! - After an error the same entries are to be given again. The databases are then opened again first, and rows that had got
//!   through all the same are recognised by request, attempt and endpoint, and not written twice.

use crate::domain::checkpoint::Checkpoint;
use crate::domain::ledger::{Entry, GENESIS, Row};
use crate::domain::time::Wall;
use crate::store::block::{self, BLOCK_VERSION, BlockBuilder};
use crate::store::checkpoints::{self, Pending};
use crate::store::codec;
use crate::store::error::StoreError;
use crate::store::month::Month;
use crate::store::records::{RecordLog, RequestRecord};
use crate::store::shelf::{Reach, Shelf};
use crate::store::{Inner, LedgerReader, days, end, hours};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const STORE_EVERY: Duration = Duration::from_secs(1);
const EVEN_OUT_US: i64 = 5_000_000;

/// Something for the ledger's next commit.
#[allow(clippy::large_enum_variant, reason = "most items are rows, and a batch of them is one allocation")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerItem {
    /// An attempt.
    Row(Entry),
    /// A whole request.
    Record(RequestRecord),
}

/// The ledger's end, as far as it is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    pub seq: u64,
    pub hash: [u8; 32],
    pub at: Wall,
    /// `None`: the ledger is empty.
    pub month: Option<Month>,
}

impl Tail {
    pub const EMPTY: Self = Self { seq: 0, hash: GENESIS, at: Wall(i64::MIN), month: None };
}

/// Appends to the ledger. There is one at a time.
pub struct LedgerWriter {
    pub(super) inner: Arc<Inner>,
    pub(super) tail: Tail,
    pending: Pending,
    /// Rows on disk whose append ended in an error: to be recognised when they are given again.
    landed: VecDeque<(Arc<str>, u16, Arc<str>)>,
    records: RecordLog,
    failed: bool,
    stored_at: Option<Wall>,
}

impl Drop for LedgerWriter {
    fn drop(&mut self) {
        self.inner.writer_taken.store(false, Ordering::Release);
    }
}

impl LedgerWriter {
    pub(super) fn take(inner: &Arc<Inner>) -> Result<Self, StoreError> {
        inner.writable()?;
        let records = RecordLog::load(&inner.state, inner.record_limits)?;
        let pending = Pending::load(&inner.state, inner.anchor.read().as_ref())?;
        if inner.writer_taken.swap(true, Ordering::AcqRel) {
            return Err(StoreError::WriterTaken);
        }
        let mut writer = Self {
            inner: Arc::clone(inner),
            tail: Tail::EMPTY,
            pending,
            landed: VecDeque::new(),
            records,
            failed: false,
            stored_at: None,
        };
        writer.catch_up(false)?;
        Ok(writer)
    }

    /// Commits the items and returns the number of the last row that is on disk. `now` only decides what else is due.
    ///
    /// # Errors
    /// The disk failed or is full: give the same items again, in the same order, perhaps with more behind them.
    pub fn append(&mut self, items: &[LedgerItem], now: Wall) -> Result<u64, StoreError> {
        if self.failed {
            self.reopen()?;
        }
        let done = self.try_append(items, now);
        match &done {
            Ok(_) => self.landed.clear(),
            Err(_) => self.failed = true,
        }
        done
    }

    /// Stores rollups and HEAD if that is due: for times without rows.
    ///
    /// # Errors
    /// The disk failed or is full.
    pub fn tick(&mut self, now: Wall) -> Result<(), StoreError> {
        self.append(&[], now).map(|_| ())
    }

    /// Stores rollups and HEAD now: the last call before a clean stop.
    ///
    /// # Errors
    /// The disk failed or is full; nothing is lost but time at the next start.
    pub fn close(mut self) -> Result<(), StoreError> {
        if self.failed {
            self.reopen()?;
        }
        let now = self.stored_at.unwrap_or(self.tail.at).max(self.tail.at);
        self.store_sums(now, true)
    }

    /// Opens the databases again after an error and finds out what got through. [`Self::append`] does so by itself.
    ///
    /// # Errors
    /// The disk still fails, or rows that had been on disk are gone.
    pub fn reopen(&mut self) -> Result<(), StoreError> {
        if let Some(month) = self.inner.months.newest() {
            let shelf = self.inner.months.shelf(month)?;
            shelf.reopen()?;
            shelf.sync(Reach::Disk)?;
        }
        self.inner.state_writer.lock().failed = true;
        self.inner.write_state(Reach::Disk, |_| Ok(sled::Batch::default()))?;
        self.catch_up(true)?;
        self.failed = false;
        Ok(())
    }

    /// Number of the last row that is on disk.
    #[must_use]
    pub fn durable_seq(&self) -> u64 {
        self.tail.seq
    }

    /// Takes the ledger's end from disk and counts what the rollups have not seen.
    fn catch_up(&mut self, remember: bool) -> Result<(), StoreError> {
        let tail = end::find_tail(&self.inner.months, self.inner.anchor.read().as_ref())?;
        if tail.seq < self.tail.seq {
            let what = format!("rows {} to {} had been on disk and are gone", tail.seq + 1, self.tail.seq);
            return Err(StoreError::Damaged { seq: Some(tail.seq + 1), what });
        }
        let known = self.tail.seq;
        let through = self.inner.live.read().through();
        // At the beginning there is nothing to remember: a look at every row would make a start take as long as the ledger is.
        let from = if remember { known.min(through) } else { through };
        self.inner.durable_seq.store(tail.seq, Ordering::Release);
        for row in (LedgerReader { inner: Arc::clone(&self.inner) }).rows_after(from) {
            let row = row?;
            self.inner.live.write().count(&self.inner.state, &row)?;
            if row.seq > known {
                self.pending.row(row.seq, row.hash);
            }
            if remember && row.seq > known {
                self.landed.push_back(identity(&row.entry));
            }
        }
        self.tail = tail;
        self.raise_head();
        Ok(())
    }

    /// Lets the next mark name the ledger's end.
    fn raise_head(&self) {
        if let Some(month) = self.tail.month {
            let head = &mut self.inner.state_writer.lock().head;
            (head.seq, head.hash, head.month) = (self.tail.seq, self.tail.hash, month);
        }
    }

    fn try_append(&mut self, items: &[LedgerItem], now: Wall) -> Result<u64, StoreError> {
        let mut entries = Vec::with_capacity(items.len());
        let mut records = Vec::new();
        for item in items {
            match item {
                LedgerItem::Row(entry) => entries.push(entry),
                LedgerItem::Record(record) => records.push(record),
            }
        }
        let mut seen = 0;
        while let (Some(landed), Some(entry)) = (self.landed.get(seen), entries.get(seen)) {
            if *landed != identity(entry) {
                break;
            }
            seen += 1;
        }
        let mut rest = entries.get(seen..).unwrap_or_default();
        while !rest.is_empty() {
            let (month, rows) = self.chain(rest);
            rest = rest.get(rows.len()..).unwrap_or_default();
            self.commit(month, &rows)?;
        }
        self.records.append(&self.inner, &records)?;
        if self.stored_at.is_none_or(|at| now < at || now.since(at) >= STORE_EVERY) {
            self.store_sums(now, false)?;
            self.stored_at = Some(now);
        }
        Ok(self.tail.seq)
    }

    /// Chains the entries that belong into one month.
    fn chain(&self, entries: &[&Entry]) -> (Month, Vec<Row>) {
        let mut rows: Vec<Row> = Vec::with_capacity(entries.len());
        let (mut seq, mut hash, mut at) = (self.tail.seq, self.tail.hash, self.tail.at);
        let mut month = None;
        for entry in entries {
            let mut entry = (*entry).clone();
            if entry.at < at && entry.at.0 >= at.0.saturating_sub(EVEN_OUT_US) {
                entry.at = at;
            }
            let own = self.tail.month.map_or_else(|| Month::of(entry.at), |last| last.max(Month::of(entry.at)));
            let current = *month.get_or_insert(own);
            if own > current {
                break;
            }
            seq += 1;
            at = entry.at;
            let row = Row::chain(seq, entry, hash);
            hash = row.hash;
            rows.push(row);
        }
        (month.unwrap_or_else(|| Month::of(Wall(0))), rows)
    }

    fn commit(&mut self, month: Month, rows: &[Row]) -> Result<(), StoreError> {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(()) };
        if self.tail.month != Some(month) {
            self.inner.months.add(month, first.seq);
            self.inner.write_state(Reach::Memory, |_| Ok(end::month_begins(month, first.seq)))?;
        }
        let shelf = self.inner.months.shelf(month)?;
        commit_rows(&shelf, rows)?;
        self.tail = Tail { seq: last.seq, hash: last.hash, at: last.entry.at, month: Some(month) };
        self.inner.durable_seq.store(last.seq, Ordering::Release);
        self.raise_head();
        // Until the whole append is done, an error further on makes the caller give these rows again.
        self.landed.extend(rows.iter().map(|row| identity(&row.entry)));
        rows.iter().for_each(|row| self.pending.row(row.seq, row.hash));
        let mut live = self.inner.live.write();
        rows.iter().try_for_each(|row| live.count(&self.inner.state, row))
    }

    /// Stores sums, HEAD, and a signed checkpoint if one is due.
    pub(super) fn store_sums(&mut self, now: Wall, closing: bool) -> Result<(), StoreError> {
        let inner = &self.inner;
        let due = self.pending.due(self.tail.seq, self.tail.hash, now, closing);
        let checkpoint: Option<Checkpoint> = due.zip(inner.signer.as_ref()).map(|(due, signer)| signer.sign(due));
        if !inner.live.read().is_dirty() && !inner.state_writer.lock().dirty && checkpoint.is_none() {
            return Ok(());
        }
        let (mut sealed_hours, mut sealed_days) = (Vec::new(), Vec::new());
        inner.write_state(Reach::Disk, |state| {
            let mut batch = sled::Batch::default();
            let live = inner.live.read();
            live.collect(&mut batch);
            sealed_hours = hours::seal(state, live.due_hours(), &mut batch)?;
            sealed_days = days::seal(state, live.due_days(), &mut batch)?;
            if let Some(checkpoint) = &checkpoint {
                checkpoints::put(&mut batch, checkpoint);
            }
            Ok(batch)
        })?;
        inner.live.write().stored(&sealed_hours, &sealed_days);
        if let Some(checkpoint) = checkpoint {
            self.pending.done(&checkpoint.statement);
        }
        Ok(())
    }
}

fn identity(entry: &Entry) -> (Arc<str>, u16, Arc<str>) {
    (Arc::clone(&entry.request_id), entry.attempt, Arc::clone(&entry.endpoint))
}

pub(super) fn commit_rows(shelf: &Shelf, rows: &[Row]) -> Result<(), StoreError> {
    let mut batch = sled::Batch::default();
    let mut builder = BlockBuilder::default();
    for row in rows {
        if builder.is_full() {
            seal(&mut builder, &mut batch);
        }
        builder.push(row);
    }
    seal(&mut builder, &mut batch);
    shelf.commit(batch, Reach::Disk)
}

fn seal(builder: &mut BlockBuilder, batch: &mut sled::Batch) {
    if let Some((first_seq, bytes)) = builder.finish() {
        debug_assert!(block::head(&bytes).is_some_and(|h| h.first_seq == first_seq));
        codec::put(batch, &first_seq.to_be_bytes(), BLOCK_VERSION, &bytes);
    }
}
