//! Removing old rows: the sums stay, the chain stays checkable.
//!
//! sled's file never shrinks, so months go as whole folders, and a month that is cut is written anew without its old rows. Rules:
//! - What goes is a beginning of the ledger: all rows before the first one of the asked time. Rows that a clock set back has put
//!   behind it stay, and so does the last row: the chain goes on from it.
//! - Before a row goes, everything is counted in the stored sums.
//! - What decides is one commit of the state database: the signed statement which rows are removed, with the hash of the last of them
//!   (the chain's new beginning), and where the months now begin. Killed before it, nothing has happened; killed after it, the next
//!   opening deletes and renames what is left to do.
//! - A month's new folder is complete and on disk under a name of its own before that commit, and takes the old one's place after it.

use crate::domain::checkpoint::{Kind, Statement};
use crate::domain::ledger::GENESIS;
use crate::domain::sums::TimeRange;
use crate::domain::time::Wall;
use crate::store::block::{self, BLOCK_VERSION, BlockBuilder};
use crate::store::checkpoints::{self, Anchor};
use crate::store::codec;
use crate::store::end;
use crate::store::error::StoreError;
use crate::store::files;
use crate::store::ledger::LedgerWriter;
use crate::store::month::{CACHE, COMPACTED, Month};
use crate::store::reader::LedgerReader;
use crate::store::rollup;
use crate::store::shelf::{Reach, Shelf};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

/// Ends a folder's name until it is complete.
const PART: &str = ".compact.part";
/// Ends the name of a folder that is being deleted.
const GONE: &str = ".gone";
const BLOCKS_A_COMMIT: usize = 256;

/// Which rows go, or have gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    pub first_seq: u64,
    pub last_seq: u64,
    /// The time of the first row that stays.
    pub before: Wall,
    /// Months that go as a whole.
    pub months: Vec<String>,
    /// The month that is written anew without its old rows.
    pub rewritten: Option<String>,
    /// How many rows that month keeps, at most.
    pub rows_to_copy: u64,
}

/// What [`Removal`] needs to be done.
struct Plan {
    removal: Removal,
    hash: [u8; 32],
    gone: Vec<Month>,
    first_month: Month,
}

impl LedgerReader {
    /// Which rows would go if those before `before` were removed; `None`: none. `whole_months`: only whole months may go.
    ///
    /// # Errors
    /// The store failed, or is damaged where it would be cut.
    pub fn removal(&self, before: Wall, whole_months: bool) -> Result<Option<Removal>, StoreError> {
        Ok(self.plan(before, whole_months)?.map(|plan| plan.removal))
    }

    fn plan(&self, before: Wall, whole_months: bool) -> Result<Option<Plan>, StoreError> {
        let anchor = self.inner.anchor.read().clone();
        let removed = anchor.as_ref().map_or(0, Anchor::seq);
        let durable = self.durable_seq();
        let kept = match self.span(before.hour(), u32::MAX)? {
            Some((first, _)) => first,
            None => durable,
        };
        let mut cut = kept.min(durable).saturating_sub(1);
        let months = self.inner.months.holding(0, u64::MAX);
        if whole_months {
            cut =
                months.iter().map(|(_, begins)| begins.saturating_sub(1)).filter(|end| *end <= cut).max().unwrap_or(0);
        }
        if cut <= removed {
            return Ok(None);
        }
        let stays = self.rows_between(cut + 1, cut + 1, TimeRange::ALL).next().transpose()?;
        let missing = |seq| StoreError::Damaged { seq: Some(seq), what: "the row is missing".into() };
        let stays = stays.ok_or_else(|| missing(cut + 1))?;
        let holding = self.inner.months.holding(cut + 1, cut + 1);
        let Some((first_month, begins)) = holding.first().copied() else { return Err(missing(cut + 1)) };
        let gone: Vec<Month> = months.iter().map(|(month, _)| *month).filter(|month| *month < first_month).collect();
        let next = months.iter().find(|(month, _)| *month > first_month).map_or(durable + 1, |(_, begins)| *begins);
        let rewritten = begins <= cut;
        let removal = Removal {
            first_seq: removed + 1,
            last_seq: cut,
            before: stays.entry.at,
            months: gone.iter().map(Month::to_string).collect(),
            rewritten: rewritten.then(|| first_month.to_string()),
            rows_to_copy: if rewritten { next.saturating_sub(cut + 1) } else { 0 },
        };
        Ok(Some(Plan { removal, hash: stays.prev_hash, gone, first_month }))
    }

    /// Whether a question about the rows of a time range cannot be answered any more.
    ///
    /// # Errors
    /// It cannot ([`StoreError::Removed`]), or the store failed.
    pub fn has_rows_of(&self, range: TimeRange) -> Result<(), StoreError> {
        let low = range.from.map_or(0, Wall::hour);
        let high = range.to.map_or(u32::MAX, |to| Wall(to.0.saturating_sub(1)).hour());
        let removed = self.inner.removed_through();
        if removed == 0 || low > high {
            return Ok(());
        }
        let live: Vec<_> = self.inner.live.read().hours().filter(|(hour, _)| (low..=high).contains(hour)).collect();
        let stored = rollup::stored_hours(&self.inner.state, low, high)?;
        match live.into_iter().chain(stored).any(|(_, span)| span.first_seq <= removed) {
            true => Err(self.removed().unwrap_or(StoreError::Removed { through: removed, before: Wall(0) })),
            false => Ok(()),
        }
    }

    /// What to say about rows that retention has removed; `None`: it has removed none.
    #[must_use]
    pub fn removed(&self) -> Option<StoreError> {
        let anchor = self.inner.anchor.read();
        let statement = &anchor.as_ref()?.removed.statement;
        Some(StoreError::Removed { through: statement.seq, before: statement.before.unwrap_or(Wall(0)) })
    }
}

/// Where a removal can be stopped in a test, as a kill would.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    HalfCopied,
    Copied,
    Decided,
    OldAside,
    Renamed,
}

impl LedgerWriter {
    /// Removes the rows before `before`, and says which; `None`: there were none. `whole_months`: only whole months go, which takes no time
    /// that depends on the rows. `progress` is told the number of rows copied.
    ///
    /// # Errors
    /// The disk failed, or what has to be copied is damaged. Then either nothing has happened, or the next opening completes it.
    pub fn remove_before(
        &mut self,
        before: Wall,
        whole_months: bool,
        now: Wall,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Option<Removal>, StoreError> {
        let reader = LedgerReader { inner: Arc::clone(&self.inner) };
        let Some(plan) = reader.plan(before, whole_months)? else { return Ok(None) };
        // The rows' last chance to be counted.
        self.store_sums(now, false)?;
        if plan.removal.rewritten.is_some() {
            self.copy(plan.first_month, plan.removal.last_seq + 1, progress)?;
        }
        #[cfg(test)]
        self.stop_at(Stop::Copied)?;
        let anchor = self.decide(&plan, now)?;
        #[cfg(test)]
        self.stop_at(Stop::Decided)?;
        self.carry_out(&plan, anchor)?;
        Ok(Some(plan.removal))
    }

    /// Makes the month's new folder: its blocks from row `first` on.
    fn copy(&self, month: Month, first: u64, progress: &mut dyn FnMut(u64)) -> Result<(), StoreError> {
        let dir = self.inner.months.dir();
        let (part, whole) = (dir.join(format!("{month}{PART}")), dir.join(format!("{month}{COMPACTED}")));
        for old in [&part, &whole] {
            remove(old).map_err(|e| failed(old, &e))?;
        }
        let (from, to) = (self.inner.months.shelf(month)?, Shelf::closed(part.clone(), CACHE));
        let mut next = from.read(|db| db.get_lt((first + 1).to_be_bytes()))?.map_or(first, |(key, _)| number(&key));
        let mut copied = 0;
        loop {
            let blocks = from.read(|db| {
                let blocks =
                    db.range(next.to_be_bytes()..).filter(|item| !matches!(item, Ok((key, _)) if key.len() != 8));
                let open = |item: sled::Result<(sled::IVec, sled::IVec)>| {
                    let (key, value) = item?;
                    Ok((number(&key), codec::open(db, &key, &value)?))
                };
                blocks.take(BLOCKS_A_COMMIT).map(open).collect::<sled::Result<Vec<_>>>()
            })?;
            let Some((last, _)) = blocks.last() else { break };
            next = last + 1;
            let mut batch = sled::Batch::default();
            for (number, opened) in blocks {
                let damaged = || StoreError::Damaged { seq: Some(number), what: "its block cannot be read".into() };
                let payload = opened.known(BLOCK_VERSION, "a block")?.ok_or_else(damaged)?;
                let head = block::head(&payload).filter(|head| head.first_seq == number).ok_or_else(damaged)?;
                if number >= first {
                    codec::put(&mut batch, &number.to_be_bytes(), BLOCK_VERSION, &payload);
                } else if head.last_seq() >= first {
                    split(number, &payload, first, &mut batch)?;
                }
                copied += head.last_seq().saturating_sub(first.max(number)).saturating_add(1);
            }
            to.commit(batch, Reach::Kernel)?;
            progress(copied);
            #[cfg(test)]
            self.stop_at(Stop::HalfCopied)?;
        }
        to.sync(Reach::Disk)?;
        to.retire();
        let synced = sync_files(&part).and_then(|()| fs::rename(&part, &whole)).and_then(|()| files::sync_dir(dir));
        synced.map_err(|e| failed(&part, &e))
    }

    /// The commit from which on the rows are gone.
    fn decide(&self, plan: &Plan, now: Wall) -> Result<Anchor, StoreError> {
        let inner = &self.inner;
        let signer = inner.signer.as_ref().ok_or(StoreError::Failed { what: "the signing key is missing".into() })?;
        let removal = &plan.removal;
        let statement = Statement {
            kind: Kind::Removed,
            at: now,
            first_seq: 1,
            prev_hash: GENESIS,
            seq: removal.last_seq,
            hash: plan.hash,
            rows: removal.last_seq,
            digest: None,
            before: Some(removal.before),
            marks: Vec::new(),
        };
        let anchor = Anchor {
            removed: signer.sign(statement),
            first_month: plan.first_month,
            rewritten: removal.rewritten.is_some(),
        };
        inner.write_state(Reach::Disk, |state| {
            let mut batch = end::month_begins(plan.first_month, removal.last_seq + 1);
            plan.gone.iter().for_each(|month| batch.remove(end::month_key(*month)));
            checkpoints::forget(state, removal.last_seq, &mut batch)?;
            anchor.put(&mut batch);
            Ok(batch)
        })?;
        *inner.anchor.write() = Some(anchor.clone());
        inner.months.begin_at(Some(plan.first_month));
        Ok(anchor)
    }

    /// Deletes and renames folders as decided.
    fn carry_out(&self, plan: &Plan, anchor: Anchor) -> Result<(), StoreError> {
        let inner = &self.inner;
        let cut = plan.removal.rewritten.as_ref().map(|_| plan.first_month);
        plan.gone.iter().chain(&cut).for_each(|month| inner.months.retire(*month));
        #[cfg(test)]
        if let Some(step @ (Stop::OldAside | Stop::Renamed)) = STOP.get() {
            // What `tidy` does, up to the step.
            let name = |end: &str| inner.months.dir().join(format!("{}{end}", plan.first_month));
            fs::rename(name(""), name(GONE)).unwrap();
            self.stop_at(Stop::OldAside)?;
            fs::rename(name(COMPACTED), name("")).unwrap();
            self.stop_at(step)?;
        }
        tidy(inner.months.dir(), Some(&anchor))?;
        if cut.is_some() {
            inner.months.add(plan.first_month, plan.removal.last_seq + 1);
            let anchor = Anchor { rewritten: false, ..anchor };
            inner.write_state(Reach::Disk, |_| {
                let mut batch = sled::Batch::default();
                anchor.put(&mut batch);
                Ok(batch)
            })?;
            *inner.anchor.write() = Some(anchor);
        }
        Ok(())
    }

    #[cfg(test)]
    fn stop_at(&self, step: Stop) -> Result<(), StoreError> {
        match STOP.get() == Some(step) {
            true => Err(StoreError::Failed { what: format!("stopped at {step:?}") }),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
thread_local! {
    pub(super) static STOP: std::cell::Cell<Option<Stop>> = const { std::cell::Cell::new(None) };
}

/// Puts the rows of a block from `first` on into a batch, as a block of their own.
fn split(number: u64, payload: &[u8], first: u64, batch: &mut sled::Batch) -> Result<(), StoreError> {
    let mut builder = BlockBuilder::default();
    for row in block::rows(number, payload) {
        let row = row?;
        if row.seq >= first {
            builder.push(&row);
        }
    }
    if let Some((first_seq, bytes)) = builder.finish() {
        codec::put(batch, &first_seq.to_be_bytes(), BLOCK_VERSION, &bytes);
    }
    Ok(())
}

/// Completes what a removal has decided, and deletes what one has not got to deciding. Only for whoever may write.
pub(super) fn tidy(dir: &Path, anchor: Option<&Anchor>) -> Result<(), StoreError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(dir, &e)),
    };
    let names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let decided = anchor.filter(|anchor| anchor.rewritten).map(|anchor| anchor.first_month);
    let mut changed = false;
    for name in &names {
        let path = dir.join(name);
        let month = |end| name.strip_suffix(end).and_then(Month::parse);
        let done = if let Some(month) = month(COMPACTED) {
            let own = dir.join(month.to_string());
            match own.exists() {
                // Cut off before the decision.
                true if decided != Some(month) => remove(&path),
                true => discard(&own).and_then(|()| fs::rename(&path, &own)),
                false => fs::rename(&path, &own),
            }
        } else if month(PART).is_some() || month(GONE).is_some() {
            remove(&path)
        } else if Month::parse(name).is_some_and(|month| anchor.is_some_and(|anchor| month < anchor.first_month)) {
            discard(&path)
        } else {
            continue;
        };
        done.map_err(|e| failed(&path, &e))?;
        changed = true;
    }
    if changed {
        files::sync_dir(dir).map_err(|e| failed(dir, &e))?;
    }
    Ok(())
}

/// Deletes a folder so that, cut short, it does not stand there with half its files under its own name.
fn discard(path: &Path) -> io::Result<()> {
    let mut gone = path.as_os_str().to_owned();
    gone.push(GONE);
    let gone = Path::new(&gone);
    remove(gone)?;
    fs::rename(path, gone)?;
    remove(gone)
}

/// Deletes a folder, if there is one.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Makes everything in a folder durable, its names too.
fn sync_files(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { sync_files(&path)? } else { fs::File::open(path)?.sync_all()? }
    }
    files::sync_dir(dir)
}

fn number(key: &[u8]) -> u64 {
    key.try_into().map_or(0, u64::from_be_bytes)
}

fn failed(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Failed { what: format!("{}: {error}", path.display()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ledger::{Entry, Row};
    use crate::domain::sums::{GroupBy, SumRow};
    use crate::store::tests::{copy, fill, open, rows, snapshot, verify};
    use crate::store::{LedgerItem, OpenOptions, Store, sample};
    use std::time::Duration;

    const DAY: Duration = Duration::from_secs(86_400);

    /// 50 rows a day from 2026-11-23T18:00 on, twenty days: rows 1 to 350 are November's.
    fn days(dir: &Path) -> Store {
        let (store, _) = open(dir);
        let mut writer = store.ledger_writer().unwrap();
        for day in 0..20_u32 {
            let first = u64::from(day) * 50;
            let items: Vec<_> = (first..first + 50)
                .map(|n| {
                    let at = sample::START.plus(DAY * day).plus(Duration::from_millis(n));
                    LedgerItem::Row(Entry { at, ..sample::nth(n) })
                })
                .collect();
            writer.append(&items, sample::START.plus(DAY * day)).unwrap();
        }
        writer.close().unwrap();
        store
    }

    fn at(text: &str) -> Wall {
        Wall::parse(text).unwrap()
    }

    fn remove(store: &Store, before: &str) -> Result<Option<Removal>, StoreError> {
        let mut writer = store.ledger_writer()?;
        let removed = writer.remove_before(at(before), false, at("2026-12-31"), &mut |_| {})?;
        writer.close()?;
        Ok(removed)
    }

    fn sums(store: &Store) -> Vec<Vec<SumRow>> {
        [GroupBy::Total, GroupBy::Endpoint, GroupBy::Key, GroupBy::Tag("team".into()), GroupBy::Day, GroupBy::Hour]
            .iter()
            .map(|by| store.reader().sums(TimeRange::ALL, by).unwrap())
            .collect()
    }

    /// Holds what is left of `days` against what there was.
    fn assert_cut(store: &Store, kept: &[Row], sums_before: &[Vec<SumRow>]) {
        assert_eq!(rows(store, TimeRange::ALL), kept);
        assert_eq!(sums(store), sums_before);
        let report = verify(store);
        assert_eq!((&report.first_bad, report.rows), (&None, kept.len() as u64));
        assert_eq!(report.removed.map(|c| c.statement.seq), Some(kept[0].seq - 1));
    }

    #[test]
    fn rows_go_by_the_day_sums_and_chain_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = days(dir.path());
        let (all, before) = (rows(&store, TimeRange::ALL), sums(&store));
        assert_eq!(store.reader().removal(at("2026-11-23"), false), Ok(None));
        // Within November, then in December: November goes as a whole and December is written anew.
        for (date, kept, months) in [("2026-11-26", 150, 2), ("2026-12-05", 600, 1), ("2026-12-05", 600, 1)] {
            let planned = store.reader().removal(at(date), false).unwrap();
            assert_eq!(remove(&store, date).unwrap(), planned);
            assert_cut(&store, &all[kept..], &before);
            assert_eq!(fs::read_dir(dir.path().join("ledger")).unwrap().count(), months, "{date}");
        }
        drop(store);
        let (store, report) = open(dir.path());
        assert_eq!((report.last_seq, report.missing.len(), report.reapplied_rows), (1_000, 0, 0));
        assert_cut(&store, &all[600..], &before);
        // The chain goes on, and the last row stays whatever is asked.
        fill(&store, 2_000..2_001);
        remove(&store, "2026-12-31").unwrap();
        let left = rows(&store, TimeRange::ALL);
        assert_eq!((left.len(), left[0].seq, left[0].prev_hash), (1, 1_001, all[999].hash));
        assert_eq!(verify(&store).first_bad, None);
    }

    #[test]
    fn questions_that_need_removed_rows_are_refused_and_others_answered() {
        let dir = tempfile::tempdir().unwrap();
        let store = days(dir.path());
        let reader = store.reader();
        let ask = |from: &str, to: &str, by: &GroupBy| {
            reader.sums(TimeRange { from: Some(at(from)), to: Some(at(to)) }, by).map(|sums| sums.len())
        };
        let cut = ("2026-11-24T18:00:00.060Z", "2026-12-10");
        assert!(ask(cut.0, cut.1, &GroupBy::Total).is_ok());
        remove(&store, "2026-12-05").unwrap();
        assert_eq!(ask("2026-11-24", "2026-12-10", &GroupBy::Endpoint), Ok(4));
        let refused = ask(cut.0, cut.1, &GroupBy::Total).unwrap_err();
        assert!(matches!(refused, StoreError::Removed { through: 600, .. }), "{refused}");
        assert!(refused.to_string().contains("2026-12-05T18:00:00"), "{refused}");
        assert_eq!(ask("2026-12-05T18:00:00.610Z", "2026-12-10", &GroupBy::Total), Ok(1));
        let range = |from: &str| TimeRange { from: Some(at(from)), to: None };
        assert!(reader.has_rows_of(TimeRange::ALL).is_err() && reader.has_rows_of(range("2026-12-04")).is_err());
        assert_eq!(reader.has_rows_of(range("2026-12-05")), Ok(()));
    }

    #[test]
    fn whole_months_go_while_the_ledger_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = days(dir.path());
        let (all, before) = (rows(&store, TimeRange::ALL), sums(&store));
        let mut writer = store.ledger_writer().unwrap();
        let mut reading = store.reader().rows(TimeRange::ALL).unwrap();
        let mut go = |before: &str| writer.remove_before(at(before), true, at("2026-12-31"), &mut |_| {}).unwrap();
        assert_eq!(go("2026-11-30"), None);
        let removed = go("2026-12-20").unwrap();
        assert_eq!((removed.last_seq, removed.rewritten, removed.months), (400, None, vec!["2026-11".to_owned()]));
        assert!(!dir.path().join("ledger/2026-11").exists());
        assert_cut(&store, &all[400..], &before);
        // Whoever was reading is told, and does not make the folder anew.
        assert!(reading.any(|row| row.is_err()));
        assert!(!dir.path().join("ledger/2026-11").exists());
    }

    #[test]
    fn killed_at_any_step_a_removal_has_not_happened_or_is_completed() {
        let origin = tempfile::tempdir().unwrap();
        let store = days(origin.path());
        let (all, before) = (rows(&store, TimeRange::ALL), sums(&store));
        drop(store);
        for step in [Stop::HalfCopied, Stop::Copied, Stop::Decided, Stop::OldAside, Stop::Renamed] {
            let dir = tempfile::tempdir().unwrap();
            copy(origin.path(), dir.path());
            let (store, _) = open(dir.path());
            STOP.set(Some(step));
            let stopped = remove(&store, "2026-12-05").unwrap_err();
            STOP.set(None);
            assert!(stopped.to_string().contains("stopped"), "{step:?}: {stopped}");
            // What a killed process leaves, looked at first without changing it.
            let killed = tempfile::tempdir().unwrap();
            copy(dir.path(), killed.path());
            drop(store);
            let read_only = OpenOptions { read_only: true, ..OpenOptions::at(killed.path(), sample::START) };
            let (store, _) = Store::open(&read_only).unwrap();
            let decided = !matches!(step, Stop::HalfCopied | Stop::Copied);
            let kept = if decided { &all[600..] } else { &all[..] };
            assert_eq!(rows(&store, TimeRange::ALL), kept, "{step:?}");
            assert_eq!((verify(&store).first_bad, sums(&store) == before), (None, true), "{step:?}");
            drop(store);
            let (store, report) = open(killed.path());
            assert_eq!((&report.missing, store.read_only()), (&vec![], None), "{step:?}");
            let names: Vec<_> =
                fs::read_dir(killed.path().join("ledger")).unwrap().flatten().map(|e| e.file_name()).collect();
            assert!(names.iter().all(|name| Month::parse(name.to_str().unwrap()).is_some()), "{step:?}: {names:?}");
            assert_eq!(names.len(), if decided { 1 } else { 2 }, "{step:?}");
            assert_eq!(rows(&store, TimeRange::ALL), kept, "{step:?}");
            remove(&store, "2026-12-05").unwrap();
            assert_cut(&store, &all[600..], &before);
        }
    }

    #[test]
    fn a_forged_removal_is_a_violation() {
        let dir = tempfile::tempdir().unwrap();
        let store = days(dir.path());
        remove(&store, "2026-12-05").unwrap();
        let mut anchor = store.inner.anchor.read().clone().unwrap();
        anchor.removed.statement.before = Some(Wall(0));
        *store.inner.anchor.write() = Some(anchor);
        assert!(verify(&store).first_bad.unwrap().what.contains("wrong signature"));
    }

    #[test]
    fn what_cannot_be_copied_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = days(dir.path());
        store.damage_for_test(800);
        let shelf = store.inner.months.shelf(Month::parse("2026-12").unwrap()).unwrap();
        let (key, mut value) = shelf.read(|db| db.get_lt(801_u64.to_be_bytes())).unwrap().unwrap();
        value[3] ^= 1;
        shelf.read(|db| db.insert(&key, value)).unwrap();
        assert!(matches!(remove(&store, "2026-12-05"), Err(StoreError::Damaged { .. })));
        assert!(snapshot(&dir.path().join("ledger")).keys().any(|path| path.to_string_lossy().contains("/2026-11/")));
        assert!(store.inner.anchor.read().is_none());
    }
}
