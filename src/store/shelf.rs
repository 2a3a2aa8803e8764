//! One sled database behind glass: opened guardedly, committed durably, closed and opened again after a failure.
//!
//! What is known of sled 0.34.7 and kept in here:
//! - opening a damaged file may panic: every call is guarded, a panic is an error;
//! - one failed write poisons the database, reads too, until it is opened again: [`Shelf::reopen`];
//! - `flush` hands bytes to the kernel, no more: a durable commit is followed by `fdatasync` on the database's file;
//! - background flushing only gets in the way of that: it is off, and nothing is left to it.
//!
//! Readers borrow the database for one short call each, so that a reopen waits for none of them long.

use crate::store::error::StoreError;
use crate::store::files;
use parking_lot::RwLock;
use std::cell::Cell;
use std::fs::File;
use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
#[cfg(test)]
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long sled's file lock is waited for, in all two seconds.
const PAUSE: Duration = Duration::from_millis(10);
const TRIES: u32 = 200;

/// How far a commit goes before it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// In sled's memory: survives with the next commit of another reach.
    Memory,
    /// With the kernel: survives a killed process.
    Kernel,
    /// On disk: survives a power cut.
    Disk,
}

struct Opened {
    db: sled::Db,
    file: File,
}

/// A database folder, open or closed.
pub(super) struct Shelf {
    dir: PathBuf,
    cache: u64,
    slot: RwLock<Option<Opened>>,
    /// The folder goes away: it is not to be opened, which would make it again.
    retired: AtomicBool,
    /// Commits left until one fails after having been applied.
    #[cfg(test)]
    pub fail_in: std::sync::atomic::AtomicU32,
}

impl Shelf {
    /// A closed shelf; the first use opens it. `cache` in bytes.
    pub fn closed(dir: PathBuf, cache: u64) -> Self {
        Self {
            dir,
            cache,
            slot: RwLock::new(None),
            retired: AtomicBool::new(false),
            #[cfg(test)]
            fail_in: Default::default(),
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens the database unless it is open. Makes the folder if there is none.
    pub fn open(&self) -> Result<(), StoreError> {
        let mut slot = self.slot.write();
        if self.retired.load(Ordering::Acquire) {
            return Err(StoreError::Failed { what: format!("{} was removed by retention", self.dir.display()) });
        }
        if slot.is_none() {
            *slot = Some(open_patiently(&self.dir, self.cache)?);
        }
        Ok(())
    }

    /// Closes the database. Its file lock is free again soon after.
    pub fn close(&self) {
        let closed = self.slot.write().take();
        let _ = guarded(&self.dir, || {
            drop(closed);
            Ok(())
        });
    }

    /// Closes the database for good and waits until sled's background threads have let go of its files.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.close();
        let Ok(file) = File::options().write(true).open(self.dir.join("db")) else { return };
        for _ in 1..TRIES {
            if file.try_lock().is_ok() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Closes and opens: the way back after a failed write.
    pub fn reopen(&self) -> Result<(), StoreError> {
        self.close();
        self.open()
    }

    /// Runs one short reading call.
    pub fn read<R>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<R>) -> Result<R, StoreError> {
        let slot = self.slot.read();
        if let Some(opened) = &*slot {
            return guarded(&self.dir, || call(&opened.db));
        }
        drop(slot);
        self.open()?;
        match &*self.slot.read() {
            Some(opened) => guarded(&self.dir, || call(&opened.db)),
            None => Err(StoreError::Failed { what: format!("{} is closed", self.dir.display()) }),
        }
    }

    /// Applies a batch, whole or not at all. After an error it may or may not have been applied: see [`Self::reopen`].
    pub fn commit(&self, batch: sled::Batch, reach: Reach) -> Result<(), StoreError> {
        self.read(|db| db.apply_batch(batch))?;
        #[cfg(test)]
        if self.fail_in.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)) == Ok(1) {
            return Err(StoreError::Failed { what: "as the test wants it".into() });
        }
        self.sync(reach)
    }

    /// Makes everything that was applied survive as far as `reach` says.
    pub fn sync(&self, reach: Reach) -> Result<(), StoreError> {
        if reach == Reach::Memory {
            return Ok(());
        }
        self.read(|db| db.flush().map(|_| ()))?;
        if reach == Reach::Disk
            && let Some(opened) = &*self.slot.read()
        {
            opened.file.sync_data().map_err(|e| failed(&self.dir, &e))?;
        }
        Ok(())
    }
}

/// sled gives its file lock back from background threads: a moment after closing, opening may still find it taken.
fn open_patiently(dir: &Path, cache: u64) -> Result<Opened, StoreError> {
    for _ in 1..TRIES {
        match open_once(dir, cache) {
            Err(StoreError::InUse { .. }) => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    open_once(dir, cache)
}

fn open_once(dir: &Path, cache: u64) -> Result<Opened, StoreError> {
    files::private_dir(dir)?;
    let config = sled::Config::new().path(dir).cache_capacity(cache).flush_every_ms(None);
    let db = guarded(dir, || config.open()).map_err(|e| match e {
        StoreError::Failed { what } if what.contains("could not acquire lock") => {
            StoreError::InUse { path: dir.to_owned() }
        }
        StoreError::Damaged { what, .. } => StoreError::Broken { path: dir.to_owned(), what },
        other => other,
    })?;
    let file = File::options().write(true).open(dir.join("db")).map_err(|e| failed(dir, &e))?;
    Ok(Opened { db, file })
}

fn failed(dir: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Failed { what: format!("{}: {error}", dir.display()) }
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Calls sled and turns its panics into errors, without a panic message: the error says it all.
fn guarded<R>(dir: &Path, call: impl FnOnce() -> sled::Result<R>) -> Result<R, StoreError> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                before(info);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(outer);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Corruption { at, .. })) => {
            let place = at.map_or_else(String::new, |at| format!(" at {at:?}"));
            Err(StoreError::Damaged { seq: None, what: format!("{} is corrupt{place}", dir.display()) })
        }
        // The disk's errors pass; everything else, and what a damaged file makes of reading it, does not.
        Ok(Err(sled::Error::Io(e))) if !matches!(e.kind(), UnexpectedEof | InvalidData | InvalidInput) => {
            Err(failed(dir, &e))
        }
        Ok(Err(error)) => Err(StoreError::Damaged { seq: None, what: format!("{}: {error}", dir.display()) }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            let text: String = text.chars().take(200).collect();
            Err(StoreError::Damaged { seq: None, what: format!("{}: {text}", dir.display()) })
        }
    }
}
