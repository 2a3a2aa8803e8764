//! UTC months, and the ledger's databases by month.
//!
//! sled's file never shrinks, so each month has a database of its own, which can be closed and taken away as a whole. At most
//! [`OPEN`] of them are open at a time: the one written and the last ones read.

use crate::domain::time::Wall;
use crate::store::error::StoreError;
use crate::store::shelf::Shelf;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const OPEN: usize = 3;
/// Bytes of sled's page cache per month.
pub(super) const CACHE: u64 = 8 << 20;
/// Ends the name of a month's new folder until it takes the old one's place.
pub(super) const COMPACTED: &str = ".compact";

/// A UTC calendar month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Month(u32);

impl Month {
    pub fn of(at: Wall) -> Self {
        let at = jiff::Timestamp::from_microsecond(at.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let date = jiff::tz::TimeZone::UTC.to_datetime(at);
        let year = u32::try_from(date.year()).unwrap_or(0);
        Self(year * 12 + u32::try_from(date.month() - 1).unwrap_or(0))
    }

    pub fn number(self) -> u32 {
        self.0
    }

    pub fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// Reads `2026-11`.
    pub fn parse(text: &str) -> Option<Self> {
        let (year, month) = text.split_once('-')?;
        let (year, month): (u32, u32) = (year.parse().ok()?, month.parse().ok()?);
        let made = Self(year.checked_mul(12)?.checked_add(month.checked_sub(1)?)?);
        (made.to_string() == text).then_some(made)
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.0 / 12, self.0 % 12 + 1)
    }
}

/// The ledger's months: where each begins, and its database.
pub(super) struct Months {
    dir: PathBuf,
    /// By month: its first row's number and its database.
    by_month: RwLock<BTreeMap<Month, Entry>>,
    /// Least recently used first.
    open: Mutex<VecDeque<Month>>,
    /// Folders of earlier months are what retention has not got to deleting yet.
    begin: RwLock<Option<Month>>,
}

#[derive(Clone)]
struct Entry {
    first_seq: u64,
    shelf: Arc<Shelf>,
}

impl Months {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, by_month: RwLock::default(), open: Mutex::default(), begin: RwLock::default() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Passes over the folders of earlier months from now on.
    pub fn begin_at(&self, month: Option<Month>) {
        *self.begin.write() = month;
    }

    /// The months that have a folder, sorted. One whose new folder has not got its name yet has one too.
    pub fn on_disk(&self) -> Vec<Month> {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return Vec::new() };
        let month = |name: &str| Month::parse(name.strip_suffix(COMPACTED).unwrap_or(name));
        let begin = *self.begin.read();
        let mut months: Vec<_> = entries
            .flatten()
            .filter_map(|e| e.file_name().to_str().and_then(month))
            .filter(|month| begin.is_none_or(|begin| *month >= begin))
            .collect();
        months.sort_unstable();
        months.dedup();
        months
    }

    fn folder(&self, month: Month) -> PathBuf {
        let (own, compacted) = (self.dir.join(month.to_string()), self.dir.join(format!("{month}{COMPACTED}")));
        if !own.exists() && compacted.exists() { compacted } else { own }
    }

    /// Adds a month, or corrects where it begins.
    pub fn add(&self, month: Month, first_seq: u64) -> Arc<Shelf> {
        let mut by_month = self.by_month.write();
        let entry = by_month
            .entry(month)
            .or_insert_with(|| Entry { first_seq, shelf: Arc::new(Shelf::closed(self.folder(month), CACHE)) });
        entry.first_seq = first_seq;
        Arc::clone(&entry.shelf)
    }

    pub fn forget(&self, month: Month) {
        if let Some(entry) = self.by_month.write().remove(&month) {
            entry.shelf.close();
        }
        self.open.lock().retain(|m| *m != month);
    }

    /// Forgets a month whose folder is going to be moved or deleted: whoever still reads it gets an error and does not make it anew.
    pub fn retire(&self, month: Month) {
        if let Some(entry) = self.by_month.write().remove(&month) {
            entry.shelf.retire();
        }
        self.open.lock().retain(|m| *m != month);
    }

    /// The months that may hold rows numbered `first` to `last`, in order, with the number at which each begins.
    pub fn holding(&self, first: u64, last: u64) -> Vec<(Month, u64)> {
        let by_month = self.by_month.read();
        let all: Vec<_> = by_month.iter().map(|(month, entry)| (*month, entry.first_seq)).collect();
        let skip = all.iter().rposition(|(_, begins)| *begins <= first).unwrap_or(0);
        all.into_iter().skip(skip).filter(|(_, begins)| *begins <= last).collect()
    }

    /// Closes a month that has been read to its end, unless it is the one written: its pages leave the memory. Whoever reads it still
    /// opens it again.
    pub fn rest(&self, month: Month) {
        let by_month = self.by_month.read();
        if by_month.keys().next_back() != Some(&month)
            && let Some(entry) = by_month.get(&month)
        {
            self.open.lock().retain(|m| *m != month);
            entry.shelf.close();
        }
    }

    pub fn newest(&self) -> Option<Month> {
        self.by_month.read().keys().next_back().copied()
    }

    /// The database of a known month, and a note that it is in use: the one unused the longest is closed if there are too many.
    pub fn shelf(&self, month: Month) -> Result<Arc<Shelf>, StoreError> {
        let by_month = self.by_month.read();
        let Some(entry) = by_month.get(&month) else {
            return Err(StoreError::Damaged { seq: None, what: format!("the ledger's month {month} is missing") });
        };
        let newest = by_month.keys().next_back().copied();
        let mut open = self.open.lock();
        open.retain(|m| *m != month);
        open.push_back(month);
        if open.len() > OPEN
            && let Some(at) = open.iter().position(|m| Some(*m) != newest)
            && let Some(unused) = open.remove(at).and_then(|m| by_month.get(&m))
        {
            unused.shelf.close();
        }
        Ok(Arc::clone(&entry.shelf))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_utc_and_round_trip() {
        let end = Wall::parse("2026-11-30T23:59:59.999999Z").unwrap();
        assert_eq!(Month::of(end).to_string(), "2026-11");
        assert_eq!(Month::of(Wall(end.0 + 1)).to_string(), "2026-12");
        assert_eq!(Month::parse("2026-12"), Some(Month::of(Wall(end.0 + 1))));
        for bad in ["2026-13", "2026-00", "2026-1", "lost+found", "2026-11.broken"] {
            assert_eq!(Month::parse(bad), None, "{bad}");
        }
    }
}
