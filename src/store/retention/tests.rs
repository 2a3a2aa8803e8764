use super::*;
use crate::domain::ledger::{Entry, Row};
use crate::domain::sample;
use crate::domain::sums::{GroupBy, SumRow};
use crate::store::tests::{copy, fill, open, rows, snapshot, verify};
use crate::store::{LedgerItem, OpenOptions, Store};
use std::fs;
use std::path::Path;
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
