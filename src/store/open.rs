//! Opening a store: what is there, what is missing, and what has to be counted again.
//!
//! Order matters: the schema is read before anything is opened, the lock is taken before anything is written, and `VERSION` is
//! the last thing that a new store gets, so that a store with one has been whole before.
//!
//! Two witnesses say how far the ledger once reached: HEAD, and the last row that the rollups have counted. A ledger that ends
//! before one of them, lacks a month, or whose last block cannot be read, is opened for reading only. Told to accept the loss,
//! opening sets aside what cannot be read (it deletes nothing), counts the hours concerned again and starts HEAD anew.

use crate::domain::time::Wall;
use crate::store::checkpoints::{self, Anchor};
use crate::store::codec::{self, put_varint};
use crate::store::end::{self, End, carries, generation, known_months, stored_number};
use crate::store::error::StoreError;
use crate::store::files::{self, Head, SCHEMA};
use crate::store::ledger::Tail;
use crate::store::month::{Month, Months};
use crate::store::records::RecordLimits;
use crate::store::retention;
use crate::store::rollup::{self, Live};
use crate::store::shelf::{Reach, Shelf};
use crate::store::signer::Signer;
use crate::store::{Inner, LedgerReader, StateWriter, Store};
use parking_lot::{Mutex, RwLock};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes of sled's page cache for the state database.
const STATE_CACHE: u64 = 16 << 20;
const SCHEMA_KEY: &[u8] = b"!schema";
const VERSION: u8 = 1;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The store's folder.
    pub path: PathBuf,
    /// Go on without what is lost, setting aside what cannot be read.
    pub accept_ledger_loss: bool,
    /// Make a store if there is none.
    pub create: bool,
    /// Write nothing: for looking at a stopped gateway's store.
    pub read_only: bool,
    /// Now: names what is set aside.
    pub now: Wall,
    /// How many request records are kept.
    pub records: RecordLimits,
}

impl OpenOptions {
    /// For a gateway: makes the store if there is none, accepts no loss.
    #[must_use]
    pub fn at(path: &Path, now: Wall) -> Self {
        Self {
            path: path.to_owned(),
            accept_ledger_loss: false,
            create: true,
            read_only: false,
            now,
            records: RecordLimits::default(),
        }
    }
}

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// There was no store before.
    pub created: bool,
    /// Number of the ledger's last row; 0: none.
    pub last_seq: u64,
    /// How far the ledger is known to have reached.
    pub head_seq: u64,
    /// Rows that the rollups had not counted yet.
    pub reapplied_rows: u64,
    /// Records of unknown versions that were passed over.
    pub skipped_records: u64,
    /// What is lost or cannot be read, a sentence each.
    pub missing: Vec<String>,
    /// Where broken parts were put.
    pub set_aside: Vec<PathBuf>,
    /// Nothing can be written.
    pub read_only: bool,
}

impl Store {
    /// Opens the store, or makes one.
    ///
    /// # Errors
    /// There is none and none is to be made, it is in use, cannot be written, is of a newer schema, or a database is broken.
    pub fn open(options: &OpenOptions) -> Result<(Self, OpenReport), StoreError> {
        Opening { options, report: OpenReport::default() }.run()
    }
}

struct Opening<'a> {
    options: &'a OpenOptions,
    report: OpenReport,
}

impl Opening<'_> {
    fn run(mut self) -> Result<(Store, OpenReport), StoreError> {
        let path = &self.options.path;
        let exists = path.join("state").is_dir() || files::read_version(path)?.is_some();
        if !exists && (!self.options.create || self.options.read_only) {
            return Err(StoreError::Missing { path: path.clone() });
        }
        files::private_dir(path)?;
        let version = files::read_version(path)?;
        let lock = files::lock(path)?;
        let months = Months::new(path.join("ledger"));
        let used = path.join("HEAD").exists() || !months.on_disk().is_empty();
        self.report.created = version.is_none() && !used;
        if version.is_none() && used {
            self.lost(StoreError::Broken { path: path.join("VERSION"), what: "it is missing".into() })?;
        }
        let state = self.open_state(&path.join("state"))?;
        let anchor = Anchor::load(&state)?;
        if !self.options.read_only {
            retention::tidy(months.dir(), anchor.as_ref())?;
        }
        months.begin_at(anchor.as_ref().map(|anchor| anchor.first_month));
        self.open_months(&months, &state)?;
        let end = self.find_end(&months, anchor.as_ref())?;
        let read_only = self.judge(&months, &state, &end)?;
        let head = Head {
            seq: end.tail.seq,
            hash: end.tail.hash,
            month: end.tail.month.unwrap_or_else(|| Month::of(self.options.now)),
            generation: generation(&state)?,
        };
        let inner = Arc::new(Inner {
            path: path.clone(),
            live: RwLock::new(Live::load(&state)?),
            state_writer: Mutex::new(StateWriter { failed: false, dirty: false, head }),
            state,
            months,
            durable_seq: AtomicU64::new(end.tail.seq),
            skipped: AtomicU64::new(0),
            signer: if read_only.is_some() { Signer::load(path)? } else { Some(Signer::load_or_make(path)?) },
            anchor: RwLock::new(anchor),
            read_only,
            writer_taken: AtomicBool::new(false),
            record_limits: self.options.records,
            _lock: lock,
        });
        if inner.read_only.is_none() {
            self.settle(&inner, &end.tail)?;
        }
        self.count_again(&inner, end.tail.seq)?;
        self.report.last_seq = end.tail.seq;
        self.report.read_only = inner.read_only.is_some();
        self.report.skipped_records = inner.skipped.load(Ordering::Relaxed);
        Ok((Store { inner }, self.report))
    }

    /// An error, or a note if losses are accepted.
    fn lost(&mut self, error: StoreError) -> Result<(), StoreError> {
        if !self.options.accept_ledger_loss || self.options.read_only {
            return Err(error);
        }
        self.report.missing.push(error.to_string());
        Ok(())
    }

    fn open_state(&mut self, dir: &Path) -> Result<Shelf, StoreError> {
        let state = Shelf::closed(dir.to_owned(), STATE_CACHE);
        let schema = state.open().and_then(|()| stored_number(&state, SCHEMA_KEY));
        let broken = match schema {
            Ok(Some(found)) if found > u64::from(SCHEMA) => {
                let found = u32::try_from(found).unwrap_or(u32::MAX);
                return Err(StoreError::NewerSchema { path: dir.to_owned(), found, known: SCHEMA });
            }
            Ok(Some(found)) if found == u64::from(SCHEMA) || self.options.read_only => return Ok(state),
            // What an older schema lacks is made on the way; from here on an older version must leave the store alone.
            Ok(Some(_)) => {
                files::write_version(&self.options.path)?;
                return init_state(state);
            }
            Ok(None) if self.report.created => return init_state(state),
            Ok(None) => "it is empty, although the store has been in use".to_owned(),
            Err(StoreError::Broken { what, .. } | StoreError::Damaged { what, .. }) => what,
            Err(other) => return Err(other),
        };
        self.lost(StoreError::Broken { path: dir.to_owned(), what: broken })?;
        state.close();
        self.set_aside(dir)?;
        let state = Shelf::closed(dir.to_owned(), STATE_CACHE);
        state.open()?;
        init_state(state)
    }

    /// Renames a folder that cannot be used.
    fn set_aside(&mut self, dir: &Path) -> Result<(), StoreError> {
        let stamp: String = self.options.now.to_rfc3339().chars().filter(char::is_ascii_alphanumeric).collect();
        let mut aside = dir.to_owned();
        aside.set_file_name(format!("{}.broken-{stamp}", dir.file_name().unwrap_or_default().display()));
        std::fs::rename(dir, &aside)
            .map_err(|e| StoreError::Unwritable { path: dir.to_owned(), what: e.to_string() })?;
        self.report.set_aside.push(aside);
        Ok(())
    }

    /// Finds out where each month begins, and which are gone.
    fn open_months(&mut self, months: &Months, state: &Shelf) -> Result<(), StoreError> {
        let known = known_months(state)?;
        let newest = months.on_disk().last().copied();
        for month in months.on_disk() {
            // The newest one is going to be written to, so it has to open.
            let known_begin = known.get(&month).copied().filter(|_| Some(month) != newest);
            let shelf = months.add(month, known_begin.unwrap_or(u64::MAX));
            if known_begin.is_some() {
                continue;
            }
            let first = months.shelf(month).and_then(|shelf| shelf.read(|db| db.first()));
            match first {
                Ok(Some((key, _))) => {
                    let begins = <[u8; 8]>::try_from(&*key).map_or(u64::MAX, u64::from_be_bytes);
                    months.add(month, known.get(&month).copied().unwrap_or(begins).min(begins));
                }
                Ok(None) => months.forget(month),
                Err(StoreError::Broken { path, what }) => {
                    self.lost(StoreError::Broken { path, what })?;
                    months.forget(month);
                    self.set_aside(shelf.dir())?;
                }
                Err(StoreError::Damaged { what, .. }) => {
                    self.lost(StoreError::Broken { path: shelf.dir().to_owned(), what })?;
                    months.forget(month);
                    self.set_aside(shelf.dir())?;
                }
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Finds the ledger's end; what stands behind it unreadable is set aside if that is accepted.
    fn find_end(&mut self, months: &Months, anchor: Option<&Anchor>) -> Result<End, StoreError> {
        let mut end = end::find_end(months, anchor)?;
        if !self.options.accept_ledger_loss || self.options.read_only {
            return Ok(end);
        }
        for (month, number) in end.unreadable.drain(..) {
            let shelf = months.shelf(month)?;
            let key = number.to_be_bytes();
            let Some(value) = shelf.read(|db| db.get(key))? else { continue };
            let bytes = shelf.read(|db| codec::open(db, &key, &value))?.payload;
            let name = format!("{month}.unreadable-{number}");
            files::replace(months.dir(), &name, &bytes)
                .map_err(|e| StoreError::Failed { what: format!("{name}: {e}") })?;
            let mut batch = sled::Batch::default();
            codec::remove(&mut batch, &key, &value);
            shelf.commit(batch, Reach::Disk)?;
            self.report.missing.push(format!("the block at row {number} cannot be read"));
            self.report.set_aside.push(months.dir().join(name));
        }
        Ok(end)
    }

    /// Compares the ledger with its witnesses; the reason if it may not be written.
    fn judge(&mut self, months: &Months, state: &Shelf, end: &End) -> Result<Option<String>, StoreError> {
        let mut reasons: Vec<String> =
            end.unreadable.iter().map(|(_, number)| format!("the block at row {number} cannot be read")).collect();
        let head = match files::read_head(&self.options.path) {
            Ok(head) => head,
            Err(error) => {
                reasons.push(error.to_string());
                None
            }
        };
        if head.is_none() && reasons.is_empty() && !self.report.created {
            reasons.push("the ledger's high-water mark is missing".into());
        }
        let generation = generation(state)?;
        let reached = head.map_or(0, |h| h.seq).max(rollup::applied_through(state)?);
        self.report.head_seq = reached;
        if reached > end.tail.seq {
            reasons.push(format!("ledger rows {} to {reached} are missing", end.tail.seq + 1));
        } else if let Some(head) = head.filter(|h| h.seq > 0)
            && !carries(months, &head)?
        {
            reasons.push(format!("row {} is not the one that the high-water mark was taken of", head.seq));
        }
        if head.is_some_and(|head| head.generation > generation) {
            reasons.push("the newest changes of state, such as keys and operator acts, are missing".into());
        }
        let on_disk = months.on_disk();
        for (month, begins) in known_months(state)? {
            if !on_disk.contains(&month) && begins <= reached {
                reasons.push(format!("the ledger's month {month} is missing, from row {begins} on"));
            }
        }
        self.report.missing.append(&mut reasons.clone());
        if self.options.read_only {
            return Ok(Some("it was opened for reading".into()));
        }
        Ok((!reasons.is_empty() && !self.options.accept_ledger_loss).then(|| reasons.join("; ")))
    }

    /// Makes a store that may be written agree with itself: rollups that counted lost rows, forgotten months, HEAD, VERSION.
    fn settle(&mut self, inner: &Arc<Inner>, tail: &Tail) -> Result<(), StoreError> {
        if !self.report.missing.is_empty() {
            let on_disk = inner.months.on_disk();
            let mut batch = sled::Batch::default();
            for month in known_months(&inner.state)?.into_keys().filter(|m| !on_disk.contains(m)) {
                batch.remove(end::month_key(month));
            }
            checkpoints::forget_after(&inner.state, tail.seq, &mut batch)?;
            inner.write_state(Reach::Disk, |_| Ok(batch))?;
            if inner.live.read().through() > tail.seq {
                let (hours, first) = inner.live.write().unwind(&inner.state, tail.seq, inner.removed_through())?;
                let reader = LedgerReader { inner: Arc::clone(inner) };
                // What is missing among them is in the report already.
                for row in reader.rows_between(first, tail.seq, crate::domain::sums::TimeRange::ALL).flatten() {
                    if hours.contains(&row.entry.at.hour()) {
                        inner.live.write().recount(&inner.state, &row)?;
                    }
                }
            }
        }
        if self.report.created || !self.report.missing.is_empty() {
            inner.write_state(Reach::Disk, |_| Ok(sled::Batch::default()))?;
            files::write_version(&inner.path)?;
        }
        Ok(())
    }

    /// Counts the rows that came after the stored rollups.
    fn count_again(&mut self, inner: &Arc<Inner>, last: u64) -> Result<(), StoreError> {
        let from = inner.live.read().through();
        for row in (LedgerReader { inner: Arc::clone(inner) }).rows_between(from + 1, last, Default::default()) {
            match row {
                Ok(row) => inner.live.write().count(&inner.state, &row)?,
                Err(error) => {
                    self.report.missing.push(error.to_string());
                    continue;
                }
            }
            self.report.reapplied_rows += 1;
            if inner.read_only.is_none() && inner.live.read().is_heavy() {
                inner.write_state(Reach::Kernel, |_| {
                    let mut batch = sled::Batch::default();
                    inner.live.read().collect(&mut batch);
                    Ok(batch)
                })?;
                inner.live.write().stored(&[], &[]);
            }
        }
        Ok(())
    }
}

fn init_state(state: Shelf) -> Result<Shelf, StoreError> {
    let mut batch = sled::Batch::default();
    let mut payload = Vec::new();
    put_varint(&mut payload, u64::from(SCHEMA));
    codec::put(&mut batch, SCHEMA_KEY, VERSION, &payload);
    state.commit(batch, Reach::Disk)?;
    Ok(state)
}
