//! The store: the ledger, its sums, and everything that has to survive a restart.
//!
//! In its folder (mode 0700):
//! - `state/`, a database of named values, rollups, request records and the audit log: [`StateStore`];
//! - `ledger/YYYY-MM/`, a database of ledger rows per UTC month: one [`LedgerWriter`], any number of [`LedgerReader`]s;
//! - `VERSION`, `HEAD` and `LOCK`: [`files`];
//! - `checkpoint.key` and `checkpoint.pub`, the key that signs the ledger's checkpoints: [`signer`].
//!
//! Promises:
//! - What an append or a durable put has returned for is on disk.
//! - A batch is there whole or not at all; trying it again after an error never doubles a row.
//! - Damage is reported, never a panic, never silence. A store that lost ledger rows, a broken database: nothing is replaced or
//!   written over unless [`OpenOptions::accept_ledger_loss`] says so, and then it is set aside under another name.
//!
//! Everything here blocks: it belongs on the ledger's thread, a blocking thread or the command line, never on an HTTP worker.

mod block;
mod cell;
mod checkpoints;
mod codec;
mod days;
mod end;
mod error;
pub mod export;
mod files;
mod hours;
pub mod import;
mod ledger;
mod month;
mod open;
mod orphans;
mod parquet;
pub mod readback;
mod reader;
mod records;
mod retention;
mod rollup;
mod sealing;
mod shelf;
mod signer;
mod state;
pub mod stream;
mod sums;
#[cfg(test)]
mod tests;
mod unsealed;
mod verify;
mod witness;

pub use error::StoreError;
pub use ledger::{LedgerItem, LedgerWriter};
pub use open::{OpenOptions, OpenReport};
pub use reader::{LedgerReader, Rows};
pub use records::{RecordLimits, RequestRecord};
pub use retention::Removal;
pub use signer::{is_signed, parse_public_keys};
pub use state::{AUDIT_KEPT, Area, StateStore};
pub use verify::{Fault, SignedRecord, VerifyReport, check_export, check_ledger};
pub use witness::Trust;

use checkpoints::Anchor;
use files::Head;
use month::Months;
use parking_lot::{Mutex, RwLock};
use rollup::Live;
use shelf::{Reach, Shelf};
use signer::Signer;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// An open store. Cheap to clone; the folder's lock is held until the last clone, reader and writer is gone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What all handles of a store share.
struct Inner {
    path: PathBuf,
    state: Shelf,
    /// Held while a batch for `state` is made and applied.
    state_writer: Mutex<StateWriter>,
    months: Months,
    live: RwLock<Live>,
    /// Number of the last row that is on disk: readers see no further.
    durable_seq: AtomicU64,
    /// Records of unknown versions that were passed over.
    skipped: AtomicU64,
    /// Why nothing may be written.
    read_only: Option<String>,
    /// `None`: the store was opened for reading and its signing key is not there.
    signer: Option<Signer>,
    /// Which rows retention has removed.
    anchor: RwLock<Option<Anchor>>,
    writer_taken: AtomicBool,
    record_limits: RecordLimits,
    _lock: File,
}

/// What writing to the state database has to know.
struct StateWriter {
    /// The last write failed: the database has to be opened again before the next one.
    failed: bool,
    /// Something was written that is not on disk yet.
    dirty: bool,
    /// The mark as it is to be written next; its row is on disk.
    head: Head,
}

impl Store {
    /// The one writer of the ledger. Another one can be had when this one is gone.
    ///
    /// # Errors
    /// The store is read-only, has a writer, or failed.
    pub fn ledger_writer(&self) -> Result<LedgerWriter, StoreError> {
        LedgerWriter::take(&self.inner)
    }

    /// A reader of the ledger, safe beside the writer.
    #[must_use]
    pub fn reader(&self) -> LedgerReader {
        LedgerReader { inner: Arc::clone(&self.inner) }
    }

    /// Named values and the audit log.
    #[must_use]
    pub fn state(&self) -> StateStore {
        StateStore { inner: Arc::clone(&self.inner) }
    }

    /// The store's folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Why nothing may be written, if so.
    #[must_use]
    pub fn read_only(&self) -> Option<&str> {
        self.inner.read_only.as_deref()
    }

    /// Number of the last ledger row that is on disk; 0: none.
    #[must_use]
    pub fn durable_seq(&self) -> u64 {
        self.inner.durable_seq.load(Ordering::Acquire)
    }

    /// Records of unknown versions that were passed over since opening.
    #[must_use]
    pub fn skipped_records(&self) -> u64 {
        self.inner.skipped.load(Ordering::Relaxed)
    }
}

impl Inner {
    /// The last row that retention has removed; 0: none.
    fn removed_through(&self) -> u64 {
        self.anchor.read().as_ref().map_or(0, Anchor::seq)
    }

    fn writable(&self) -> Result<(), StoreError> {
        match &self.read_only {
            Some(why) => Err(StoreError::ReadOnly { why: why.clone() }),
            None => Ok(()),
        }
    }

    /// Makes and commits a batch for the state database, which is opened again first if its last write failed. A commit to
    /// disk raises the generation, there and then in HEAD.
    fn write_state(
        &self,
        reach: Reach,
        make: impl FnOnce(&Shelf) -> Result<sled::Batch, StoreError>,
    ) -> Result<(), StoreError> {
        let mut writer = self.state_writer.lock();
        if writer.failed {
            self.state.reopen()?;
        }
        // Stays set if anything below ends early.
        writer.failed = true;
        let mut batch = make(&self.state)?;
        let generation = writer.head.generation.saturating_add(u64::from(reach == Reach::Disk));
        if reach == Reach::Disk {
            end::put_generation(&mut batch, generation);
        }
        self.state.commit(batch, reach)?;
        if reach == Reach::Disk {
            writer.head.generation = generation;
            files::write_head(&self.path, &writer.head)?;
        }
        writer.failed = false;
        writer.dirty = reach != Reach::Disk;
        Ok(())
    }
}

#[cfg(test)]
impl Store {
    /// Replaces all rows and moves HEAD to the last of them: what somebody with the files could do, but for the signatures.
    pub(crate) fn forge_for_test(&self, rows: &[crate::domain::ledger::Row]) {
        for (month, _) in self.inner.months.holding(0, u64::MAX) {
            let shelf = self.inner.months.shelf(month).unwrap();
            shelf.read(|db| db.clear()).unwrap();
            ledger::commit_rows(&shelf, rows).unwrap();
        }
        let last = rows.last().unwrap();
        let mut head = files::read_head(&self.inner.path).unwrap().unwrap();
        (head.seq, head.hash) = (last.seq, last.hash);
        files::write_head(&self.inner.path, &head).unwrap();
        let mut batch = sled::Batch::default();
        rollup::put_applied(&mut batch, last.seq);
        self.inner.state.commit(batch, Reach::Disk).unwrap();
    }

    /// Flips a bit of one row, wherever it is stored.
    pub(crate) fn damage_for_test(&self, seq: u64) {
        for (month, _) in self.inner.months.holding(seq, seq) {
            let shelf = self.inner.months.shelf(month).unwrap();
            let (key, mut value) = shelf.read(|db| db.get_lt((seq + 1).to_be_bytes())).unwrap().unwrap();
            let rows = block::rows(u64::from_be_bytes((*key).try_into().unwrap()), &value[7..]);
            let hash = rows.into_iter().flatten().find(|row| row.seq == seq).unwrap().hash;
            let at = value.windows(32).rposition(|bytes| bytes == hash).unwrap();
            value[at - 1] ^= 1;
            shelf.read(|db| db.insert(&key, value)).unwrap();
            shelf.sync(Reach::Disk).unwrap();
        }
    }
}
