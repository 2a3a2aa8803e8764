//! What the ledger does for itself once a day: months whose rows are older than `store.retention.rows` go, as whole folders.
//!
//! That takes no time that depends on the rows, so that it may be done between two commits. Days within a month are for
//! `breakwater ledger compact`, on a stopped gateway's store. What fails is tried again the next day.

use crate::domain::time::Wall;
use crate::store::LedgerWriter;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

/// When months were last looked at.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// For how long rows are kept; `None`: for ever.
    keep: Option<Duration>,
    looked: Option<Wall>,
}

impl Upkeep {
    pub fn new(keep: Option<Duration>) -> Self {
        Self { keep, looked: None }
    }

    /// Looks once a day, at the first call first.
    pub fn look(&mut self, writer: &mut LedgerWriter, now: Wall) {
        let Some(keep) = self.keep else { return };
        if self.looked.is_some_and(|looked| now >= looked && now.since(looked) < DAY) {
            return;
        }
        self.looked = Some(now);
        match writer.remove_before(now.minus(keep).day_begin(), true, now, &mut |_| {}) {
            Ok(None) => {}
            Ok(Some(removed)) => tracing::info!(
                first_seq = removed.first_seq,
                last_seq = removed.last_seq,
                months = removed.months.join(","),
                "old ledger rows were removed, as store.retention says; their sums stay"
            ),
            Err(e) => tracing::error!(error = %e, "old ledger rows could not be removed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ledger::Entry;
    use crate::domain::sample;
    use crate::store::{LedgerItem, OpenOptions, Store};

    #[test]
    fn months_go_when_they_are_too_old_and_are_looked_for_once_a_day() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&OpenOptions::at(dir.path(), sample::START)).unwrap();
        let mut writer = store.ledger_writer().unwrap();
        // November and December 2026.
        let items: Vec<_> = (0..60)
            .map(|n: u64| {
                let at = sample::START.plus(DAY * u32::try_from(n / 4).unwrap());
                LedgerItem::Row(Entry { at, ..sample::nth(n) })
            })
            .collect();
        writer.append(&items, sample::START).unwrap();
        let at = |text: &str| Wall::parse(text).unwrap();
        let kept = |store: &Store| store.reader().rows(Default::default()).unwrap().count();
        Upkeep::new(None).look(&mut writer, at("2036-01-01"));
        let mut upkeep = Upkeep::new(Some(DAY * 30));
        upkeep.look(&mut writer, at("2026-12-30T12:00:00Z"));
        assert_eq!(kept(&store), 60);
        upkeep.look(&mut writer, at("2026-12-31T11:00:00Z"));
        assert_eq!(kept(&store), 60, "the day is not over");
        upkeep.look(&mut writer, at("2026-12-31T12:00:00Z"));
        assert_eq!(kept(&store), 28, "November's 32 rows are gone");
        upkeep.look(&mut writer, at("2030-01-01"));
        assert_eq!(kept(&store), 28, "the month that is written to stays");
        assert!(store.reader().verify(&mut |_| {}).unwrap().first_bad.is_none());
    }
}
