//! What every store has to do, as one function over an opened store, and what this one has to survive.

use super::*;
use crate::domain::ids::RequestId;
use crate::domain::ledger::{Entry, Row};
use crate::domain::sample::{self, START, nth};
use crate::domain::sums::{GroupBy, SumRow, Tally, TimeRange};
use crate::domain::time::Wall;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

pub(super) fn open(path: &Path) -> (Store, OpenReport) {
    Store::open(&OpenOptions::at(path, START)).unwrap()
}

fn accepting(path: &Path) -> OpenOptions {
    OpenOptions { accept_ledger_loss: true, ..OpenOptions::at(path, START) }
}

pub(super) fn items(range: std::ops::Range<u64>) -> Vec<LedgerItem> {
    range.map(|n| LedgerItem::Row(nth(n))).collect()
}

/// Appends `nth` entries in batches of 100, one a tenth of a second, and closes the writer.
pub(super) fn fill(store: &Store, range: std::ops::Range<u64>) {
    let mut writer = store.ledger_writer().unwrap();
    for (step, batch) in items(range).chunks(100).enumerate() {
        let now = START.plus(Duration::from_millis(100 * step as u64));
        writer.append(batch, now).unwrap();
    }
    writer.close().unwrap();
}

pub(super) fn rows(store: &Store, range: TimeRange) -> Vec<Row> {
    store.reader().rows(range).unwrap().map(Result::unwrap).collect()
}

pub(super) fn verify(store: &Store) -> VerifyReport {
    store.reader().verify(&mut |_| {}).unwrap()
}

fn assert_sound(store: &Store, count: u64) {
    let report = verify(store);
    assert_eq!((report.first_bad, report.rows), (None, count));
}

/// The sums as a recount of the rows gives them.
fn recount(rows: &[Row], range: TimeRange, name: impl Fn(&Entry) -> String) -> Vec<SumRow> {
    let mut groups: BTreeMap<String, Tally> = BTreeMap::new();
    for row in rows.iter().filter(|row| range.contains(row.entry.at)) {
        groups.entry(name(&row.entry)).or_default().count(&row.entry);
    }
    groups.into_iter().map(|(group, tally)| SumRow { group, tally }).collect()
}

pub(super) fn assert_sums_equal_a_recount(store: &Store, range: TimeRange) {
    let all = rows(store, TimeRange::ALL);
    let tag = |e: &Entry| e.tags.iter().find(|(k, _)| &**k == "team").map_or(String::new(), |(_, v)| v.to_string());
    let time = |e: &Entry, len: usize, end: &str| format!("{}{end}", &e.at.to_rfc3339()[..len]);
    let sums = |by: GroupBy| store.reader().sums(range, &by).unwrap();
    assert_eq!(sums(GroupBy::Total), recount(&all, range, |_| "total".into()));
    assert_eq!(sums(GroupBy::Endpoint), recount(&all, range, |e| e.endpoint.to_string()));
    assert_eq!(sums(GroupBy::Model), recount(&all, range, |e| e.model.to_string()));
    assert_eq!(sums(GroupBy::Route), recount(&all, range, |e| e.route.to_string()));
    assert_eq!(sums(GroupBy::Key), recount(&all, range, |e| e.key_id.to_string()));
    assert_eq!(sums(GroupBy::Tag("team".into())), recount(&all, range, tag));
    assert_eq!(sums(GroupBy::Day), recount(&all, range, |e| time(e, 10, "")));
    assert_eq!(sums(GroupBy::Hour), recount(&all, range, |e| time(e, 13, ":00:00Z")));
    let filtered: Vec<_> = all.iter().filter(|row| range.contains(row.entry.at)).cloned().collect();
    assert_eq!(rows(store, range), filtered);
}

/// A copy of the folder as a killed process would leave it.
pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub(super) fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.path().is_dir() {
            files.extend(snapshot(&entry.path()));
        } else {
            files.insert(entry.path(), fs::read(entry.path()).unwrap());
        }
    }
    files
}

fn record(n: u64, size: usize) -> RequestRecord {
    let at = START.plus(Duration::from_millis(n));
    RequestRecord {
        request_id: RequestId::mint(Wall(at.0 - 3_000_000), u128::from(n)),
        at,
        bytes: format!("record {n} ").repeat(size).into_bytes(),
    }
}

/// The suite: runs over an empty store.
fn check_promises(store: &Store) {
    check_named_values(store);
    check_audit(store);
    check_ledger(store);
    check_records(store);
}

fn check_named_values(store: &Store) {
    let state = store.state();
    for area in [Area::Checkpoint, Area::Act, Area::Endpoint, Area::Key, Area::Meta] {
        assert_eq!(state.list(area).unwrap(), []);
        assert_eq!(state.get(area, "a").unwrap(), None);
        state.put(area, "b", b"two", false).unwrap();
        state.put(area, "a", &[7; 50_000], true).unwrap();
        state.put_all(area, &[("a", b"one"), ("c", b"")], true).unwrap();
        state.delete(area, "b", true).unwrap();
        state.delete(area, "never there", false).unwrap();
        assert_eq!(state.get(area, "a").unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(state.list(area).unwrap(), [("a".into(), b"one".to_vec()), ("c".into(), Vec::new())]);
    }
}

fn check_audit(store: &Store) {
    let state = store.state();
    for n in 0..5_u8 {
        state.audit(&[n]).unwrap();
    }
    assert_eq!(state.audit_entries(2).unwrap(), [(5, vec![4]), (4, vec![3])]);
    assert_eq!(state.audit_entries(99).unwrap().len(), 5);
}

fn check_ledger(store: &Store) {
    assert_eq!(rows(store, TimeRange::ALL), []);
    assert_eq!(store.reader().sums(TimeRange::ALL, &GroupBy::Model).unwrap(), []);
    assert_sound(store, 0);
    let mut writer = store.ledger_writer().unwrap();
    assert!(matches!(store.ledger_writer(), Err(StoreError::WriterTaken)));
    assert_eq!(writer.append(&items(0..1), START).unwrap(), 1);
    assert_eq!(writer.append(&[], START).unwrap(), 1);
    assert_eq!(writer.append(&items(1..700), START).unwrap(), 700);
    let reader = store.reader();
    let read: Vec<_> = reader.rows(TimeRange::ALL).unwrap().map(|row| row.unwrap().entry).collect();
    assert_eq!(read, (0..700).map(nth).collect::<Vec<_>>());
    let early = reader.rows(TimeRange::ALL).unwrap();
    writer.append(&items(700..800), START).unwrap();
    assert_eq!(early.count(), 700, "a reader sees the ledger as it was");
    writer.close().unwrap();
    assert_sound(store, 800);
    for (from, to) in [(None, None), (Some(2_000_001), None), (None, Some(7_000_000)), (Some(10_000), Some(20_000))] {
        let wall = |offset: i64| Wall(START.0 + offset);
        assert_sums_equal_a_recount(store, TimeRange { from: from.map(wall), to: to.map(wall) });
    }
}

fn check_records(store: &Store) {
    let mut writer = store.ledger_writer().unwrap();
    let own = RequestRecord { request_id: RequestId::parse("mine").unwrap(), ..record(9_999, 1) };
    for n in (0..300).step_by(3) {
        let large = record(n + 1, 3_000);
        let batch = [record(n, 1), large, record(n + 2, 10)].map(LedgerItem::Record);
        writer.append(&batch, START).unwrap();
    }
    writer.append(&[LedgerItem::Record(own.clone())], START).unwrap();
    let reader = store.reader();
    for n in [0, 1, 2, 150, 299] {
        let size = [1, 3_000, 10][n as usize % 3];
        let wanted = record(n, size);
        assert_eq!(reader.find_record(&wanted.request_id).unwrap(), Some(wanted));
    }
    assert_eq!(reader.find_record(&own.request_id).unwrap(), Some(own));
    assert_eq!(reader.find_record(&record(5_000, 1).request_id).unwrap(), None);
    assert_eq!(reader.find_record(&RequestId::parse("other").unwrap()).unwrap(), None);
    writer.close().unwrap();
}

#[test]
fn a_new_store_keeps_the_promises_and_remembers_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/store");
    let (store, report) = open(&path);
    assert!(report.created && !report.read_only && report.missing.is_empty(), "{report:?}");
    check_promises(&store);
    let (before, sums) = (rows(&store, TimeRange::ALL), store.reader().sums(TimeRange::ALL, &GroupBy::Model));
    drop(store);
    let (store, report) = open(&path);
    assert_eq!((report.created, report.last_seq, report.reapplied_rows), (false, 800, 0), "{report:?}");
    assert!(report.missing.is_empty() && !report.read_only, "{report:?}");
    assert_eq!(rows(&store, TimeRange::ALL), before);
    assert_eq!(store.reader().sums(TimeRange::ALL, &GroupBy::Model), sums);
    assert_eq!(store.state().get(Area::Key, "a").unwrap().as_deref(), Some(&b"one"[..]));
    assert_eq!(store.state().audit_entries(1).unwrap(), [(5, vec![4])]);
    let found = store.reader().find_record(&record(150, 1).request_id).unwrap();
    assert_eq!(found, Some(record(150, 1)));
    let mut writer = store.ledger_writer().unwrap();
    assert_eq!(writer.append(&items(800..810), START).unwrap(), 810);
    assert_sound(&store, 810);
}

#[test]
#[cfg(unix)]
fn the_folder_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(open(&path));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(path.join("HEAD")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_copy_of_a_running_store_has_every_acknowledged_row() {
    let dir = tempfile::tempdir().unwrap();
    let (live, copied) = (dir.path().join("live"), dir.path().join("copied"));
    let (store, _) = open(&live);
    let mut writer = store.ledger_writer().unwrap();
    for step in 0..20 {
        // The clock stands still after the first batch: rollups and HEAD stay behind.
        writer.append(&items(step * 50..step * 50 + 50), START).unwrap();
    }
    copy(&live, &copied);
    let (after, report) = open(&copied);
    assert_eq!((report.last_seq, report.reapplied_rows), (1_000, 950), "{report:?}");
    assert!(!report.read_only, "{report:?}");
    assert_sound(&after, 1_000);
    assert_sums_equal_a_recount(&after, TimeRange::ALL);
    drop(after);
    // Nothing has stored the rollups yet: they are counted again, not twice.
    let (after, report) = open(&copied);
    assert_eq!(report.reapplied_rows, 950);
    assert_sums_equal_a_recount(&after, TimeRange::ALL);
}

/// Not a test of its own: the process that `a_killed_process_loses_nothing_acknowledged` kills.
#[test]
fn a_process_to_be_killed() {
    let Some(path) = std::env::var_os("BREAKWATER_TEST_KILLED_STORE") else { return };
    let (store, _) = open(Path::new(&path));
    let mut writer = store.ledger_writer().unwrap();
    let mut out = std::io::stdout();
    loop {
        let next = writer.durable_seq();
        let now = START.plus(Duration::from_millis(next * 20));
        let done = writer.append(&items(next..next + 7), now).unwrap();
        store.state().put(Area::Checkpoint, "a", &done.to_le_bytes(), true).unwrap();
        if writeln!(out, "done {done}").and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for kill in 1..=6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::a_process_to_be_killed", "--nocapture"])
            .env("BREAKWATER_TEST_KILLED_STORE", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let done = |line: Option<std::io::Result<String>>| {
            let line = line.unwrap().unwrap();
            line.split_once("done ").map(|(_, n)| n.parse::<u64>().unwrap())
        };
        for _ in 0..40 * kill {
            acknowledged = done(lines.next()).unwrap_or(acknowledged);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            // A last line may have been cut by the kill.
            let whole = line.ok().and_then(|l| l.strip_prefix("done ").and_then(|n| n.parse().ok()));
            acknowledged = whole.filter(|n| *n > acknowledged).unwrap_or(acknowledged);
        }
        let (store, report) = open(dir.path());
        assert!(report.last_seq >= acknowledged && !report.read_only, "{acknowledged}: {report:?}");
        assert_sound(&store, report.last_seq);
        assert_sums_equal_a_recount(&store, TimeRange::ALL);
        let checkpoint = store.state().get(Area::Checkpoint, "a").unwrap().unwrap();
        assert!(u64::from_le_bytes(checkpoint.try_into().unwrap()) >= acknowledged);
    }
}

#[test]
fn a_flipped_byte_is_reported_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let sound = dir.path().join("sound");
    let (store, _) = open(&sound);
    store.state().put(Area::Key, "k", b"secret", true).unwrap();
    fill(&store, 0..2_000);
    let (before, sums) = (rows(&store, TimeRange::ALL), store.reader().sums(TimeRange::ALL, &GroupBy::Key).unwrap());
    drop(store);
    let month = format!("ledger/{}", month::Month::of(START));
    let databases = [format!("{month}/db"), "state/db".to_owned()].map(|name| (name, 20));
    let small = snapshot(&sound).into_keys().map(|path| path.strip_prefix(&sound).unwrap().display().to_string());
    let small = small.filter(|name| !name.ends_with("/db") && name != "LOCK").map(|name| (name, 4));
    let places = databases.into_iter().chain(small).flat_map(|(name, n)| (0..n).map(move |i| (name.clone(), i, n)));
    let mut reported = 0;
    for (number, (name, part, parts)) in places.enumerate() {
        let broken = dir.path().join(format!("broken{number}"));
        copy(&sound, &broken);
        let file = broken.join(name);
        let mut bytes = fs::read(&file).unwrap();
        // The written part: behind it a database's file is zeros.
        let used = bytes.iter().rposition(|b| *b != 0).unwrap();
        let at = used * part / parts;
        bytes[at] ^= 0x40;
        fs::write(&file, bytes).unwrap();
        let silent = match Store::open(&OpenOptions::at(&broken, START)) {
            Err(error) => {
                let told = matches!(error, StoreError::Broken { .. } | StoreError::Damaged { .. });
                assert!(told || matches!(error, StoreError::NewerSchema { .. }), "{error}");
                false
            }
            Ok((store, report)) if report.read_only || !report.missing.is_empty() => {
                assert!(store.ledger_writer().is_err() || !report.read_only);
                false
            }
            Ok((store, _)) => match store.reader().verify(&mut |_| {}) {
                Ok(report) => {
                    report.first_bad.is_none() && {
                        assert_eq!(rows(&store, TimeRange::ALL), before, "byte {at} of {}", file.display());
                        let state = store.state().get(Area::Key, "k");
                        let sums_now = store.reader().sums(TimeRange::ALL, &GroupBy::Key);
                        if let (Ok(state), Ok(sums_now)) = (state, sums_now) {
                            assert_eq!(state.as_deref(), Some(&b"secret"[..]), "byte {at} of {}", file.display());
                            assert_eq!(sums_now, sums, "byte {at} of {}", file.display());
                            true
                        } else {
                            false
                        }
                    }
                }
                Err(error) => {
                    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
                    false
                }
            },
        };
        reported += u32::from(!silent);
        fs::remove_dir_all(&broken).unwrap();
    }
    assert!(reported >= 20, "only {reported} flips hit anything");
}

#[test]
fn a_cut_ledger_opens_for_reading_until_the_loss_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    fill(&store, 0..3_000);
    drop(store);
    let month = dir.path().join(format!("ledger/{}", month::Month::of(START)));
    for entry in fs::read_dir(&month).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("snap") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let db = fs::File::options().write(true).open(month.join("db")).unwrap();
    db.set_len(db.metadata().unwrap().len() / 3).unwrap();
    drop(db);
    match Store::open(&OpenOptions::at(dir.path(), START)) {
        Err(error) => assert!(matches!(error, StoreError::Broken { .. }), "{error}"),
        Ok((store, report)) => {
            assert!(report.read_only && report.head_seq == 3_000 && report.last_seq < 3_000, "{report:?}");
            assert!(report.missing.iter().any(|m| m.contains("to 3000 are missing")), "{report:?}");
            assert!(matches!(store.ledger_writer(), Err(StoreError::ReadOnly { .. })));
            assert!(matches!(store.state().put(Area::Meta, "a", b"", true), Err(StoreError::ReadOnly { .. })));
            let found = verify(&store);
            assert!(found.first_bad.is_some(), "{found:?}");
        }
    }
    let (store, report) = Store::open(&accepting(dir.path())).unwrap();
    assert!(!report.read_only && !report.missing.is_empty(), "{report:?}");
    assert_sums_equal_a_recount(&store, TimeRange::ALL);
    fill(&store, report.last_seq..report.last_seq + 100);
    assert_sound(&store, report.last_seq + 100);
    assert_sums_equal_a_recount(&store, TimeRange::ALL);
    drop(store);
    let (_, report) = open(dir.path());
    assert!(!report.read_only && report.missing.is_empty(), "{report:?}");
}

#[test]
fn a_state_that_cannot_be_opened_is_set_aside_only_if_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.state().put(Area::Key, "k", b"secret", true).unwrap();
    fill(&store, 0..500);
    drop(store);
    fs::write(dir.path().join("state/conf"), b"neither here nor there, and no numbers").unwrap();
    let before = snapshot(&dir.path().join("state"));
    let error = Store::open(&OpenOptions::at(dir.path(), START)).err().unwrap();
    assert!(matches!(error, StoreError::Broken { .. }), "{error}");
    assert_eq!(snapshot(&dir.path().join("state")), before);
    let (store, report) = Store::open(&accepting(dir.path())).unwrap();
    assert_eq!((report.set_aside.len(), report.reapplied_rows), (1, 500), "{report:?}");
    assert!(report.set_aside[0].join("db").exists());
    assert_eq!(store.state().get(Area::Key, "k").unwrap(), None);
    assert_sound(&store, 500);
    assert_sums_equal_a_recount(&store, TimeRange::ALL);
}

#[test]
fn an_emptied_state_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    fs::remove_dir_all(dir.path().join("state")).unwrap();
    let error = Store::open(&OpenOptions::at(dir.path(), START)).err().unwrap();
    assert!(matches!(error, StoreError::Broken { .. }), "{error}");
}

#[test]
fn a_state_set_back_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("old");
    let path = dir.path().join("store");
    let (store, _) = open(&path);
    drop(store);
    copy(&path.join("state"), &old);
    let (store, _) = open(&path);
    store.state().put(Area::Key, "k", b"revoked", true).unwrap();
    drop(store);
    fs::remove_dir_all(path.join("state")).unwrap();
    copy(&old, &path.join("state"));
    let (_, report) = open(&path);
    assert!(report.read_only && report.missing[0].contains("keys"), "{report:?}");
}

#[test]
fn a_newer_schema_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    fill(&store, 0..10);
    drop(store);
    fs::write(dir.path().join("VERSION"), "breakwater store schema 5\n").unwrap();
    let before = snapshot(dir.path());
    for options in [OpenOptions::at(dir.path(), START), accepting(dir.path())] {
        let error = Store::open(&options).err().unwrap();
        assert_eq!(error, StoreError::NewerSchema { path: dir.path().into(), found: 5, known: 4 });
        assert_eq!(snapshot(dir.path()), before);
    }
}

#[test]
fn records_of_unknown_versions_are_skipped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.state().put(Area::Endpoint, "known", b"1", true).unwrap();
    fill(&store, 0..300);
    let mut batch = sled::Batch::default();
    codec::put(&mut batch, b"enewer", 9, b"who knows");
    store.inner.state.commit(batch, Reach::Disk).unwrap();
    assert_eq!(store.state().list(Area::Endpoint).unwrap().len(), 1);
    assert_eq!(store.state().get(Area::Endpoint, "newer").unwrap(), None);
    assert_eq!(store.skipped_records(), 2);
    let shelf = store.inner.months.shelf(month::Month::of(START)).unwrap();
    let (key, value) = shelf.read(|db| db.get_gt(100_u64.to_be_bytes())).unwrap().unwrap();
    let mut newer = value.to_vec();
    newer[0] = 9;
    let mut batch = sled::Batch::default();
    batch.insert(&key, newer);
    shelf.commit(batch, Reach::Disk).unwrap();
    let read: Vec<_> = store.reader().rows(TimeRange::ALL).unwrap().collect();
    assert!(read.len() < 300 && read.iter().all(Result::is_ok), "{}", read.len());
    assert_eq!(store.skipped_records(), 3);
    assert!(verify(&store).first_bad.unwrap().what.contains("missing"));
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let path = Path::new("/proc/breakwater/store");
    let error = Store::open(&OpenOptions::at(path, START)).err().unwrap();
    assert!(matches!(&error, StoreError::Unwritable { path: p, .. } if p == path), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    let options = OpenOptions { create: false, ..OpenOptions::at(&absent, START) };
    assert_eq!(Store::open(&options).err(), Some(StoreError::Missing { path: absent.clone() }));
    assert!(!absent.exists());
}

#[test]
fn a_second_process_is_turned_away_and_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let mut writer = store.ledger_writer().unwrap();
    writer.append(&items(0..10), START).unwrap();
    let error = Store::open(&OpenOptions::at(dir.path(), START)).err().unwrap();
    assert_eq!(error, StoreError::InUse { path: dir.path().into() });
    writer.append(&items(10..20), START).unwrap();
    assert_sound(&store, 20);
}

#[test]
fn each_month_has_a_folder_and_the_chain_runs_through() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let at = |text: &str, n| LedgerItem::Row(Entry { at: Wall::parse(text).unwrap(), ..nth(n) });
    let batch = [
        at("2026-10-31T23:59:59.999998Z", 0),
        at("2026-11-30T23:59:59.999999Z", 1),
        at("2026-12-01T00:00:00Z", 2),
        // Late by a little: evened out. Late by an hour: a clock set back, which stays, in the running month.
        at("2026-11-30T23:59:59.999998Z", 3),
        at("2026-11-30T23:00:00Z", 4),
        at("2027-01-01T00:00:00Z", 5),
    ];
    let mut writer = store.ledger_writer().unwrap();
    assert_eq!(writer.append(&batch, START).unwrap(), 6);
    writer.close().unwrap();
    let months: Vec<_> = store.inner.months.on_disk().iter().map(ToString::to_string).collect();
    assert_eq!(months, ["2026-10", "2026-11", "2026-12", "2027-01"]);
    assert_sound(&store, 6);
    drop(store);
    let (store, _) = open(dir.path());
    assert_sound(&store, 6);
    let wall = |text| Wall::parse(text).unwrap();
    let december = TimeRange { from: Some(wall("2026-12-01")), to: Some(wall("2027-01-01")) };
    assert_eq!(rows(&store, december).iter().map(|r| r.seq).collect::<Vec<_>>(), [3, 4]);
    let november = TimeRange { from: Some(wall("2026-11-01")), to: Some(wall("2026-12-01")) };
    assert_eq!(rows(&store, november).iter().map(|r| r.seq).collect::<Vec<_>>(), [2, 5]);
    for range in [december, november, TimeRange { from: Some(wall("2026-11-30T23:30:00Z")), to: None }] {
        assert_sums_equal_a_recount(&store, range);
    }
    drop(store);
    fs::remove_dir_all(dir.path().join("ledger/2026-11")).unwrap();
    let (store, report) = open(dir.path());
    assert!(report.read_only && report.missing[0].contains("2026-11"), "{report:?}");
    assert_eq!(verify(&store).first_bad.unwrap().seq, 2);
}

#[test]
fn a_failed_append_can_be_repeated_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let mut writer = store.ledger_writer().unwrap();
    writer.append(&items(0..50), START).unwrap();
    let shelf = store.inner.months.shelf(month::Month::of(START)).unwrap();
    let mut done = 50;
    for (failing, commits) in [(&*shelf, 1), (&store.inner.state, 1), (&store.inner.state, 2)] {
        let mut batch = items(done..done + 120);
        batch.push(LedgerItem::Record(record(done, 1)));
        failing.fail_in.store(commits, Ordering::SeqCst);
        let now = START.plus(Duration::from_secs(done));
        writer.append(&batch, now).unwrap_err();
        // More has come meanwhile.
        batch.extend(items(done + 120..done + 150));
        done += 150;
        assert_eq!(writer.append(&batch, now).unwrap(), done);
        assert_sound(&store, done);
        assert_sums_equal_a_recount(&store, TimeRange::ALL);
        assert_eq!(store.reader().find_record(&record(done - 150, 1).request_id).unwrap(), Some(record(done - 150, 1)));
    }
    let entries: Vec<_> = rows(&store, TimeRange::ALL).into_iter().map(|row| row.entry).collect();
    assert_eq!(entries, (0..done).map(nth).collect::<Vec<_>>());
    // A writer that dies in between leaves the rollups to the next one.
    store.inner.state.fail_in.store(1, Ordering::SeqCst);
    writer.append(&[&items(done..done + 10)[..], &[LedgerItem::Record(record(1, 1))]].concat(), START).unwrap_err();
    drop(writer);
    let writer = store.ledger_writer().unwrap();
    assert_eq!(writer.durable_seq(), done + 10);
    assert_sums_equal_a_recount(&store, TimeRange::ALL);
}

#[test]
fn tampering_is_found_at_the_row() {
    let dir = tempfile::tempdir().unwrap();
    let sound = dir.path().join("sound");
    let (store, _) = open(&sound);
    fill(&store, 0..200);
    let all = rows(&store, TimeRange::ALL);
    drop(store);
    let rewritten = |change: &dyn Fn(&mut Vec<Row>)| {
        let path = dir.path().join("changed");
        let _ = fs::remove_dir_all(&path);
        copy(&sound, &path);
        let (store, _) = open(&path);
        let mut rows = all.clone();
        change(&mut rows);
        let shelf = store.inner.months.shelf(month::Month::of(START)).unwrap();
        shelf.read(|db| db.clear()).unwrap();
        let mut batch = sled::Batch::default();
        for row in rows {
            let mut builder = block::BlockBuilder::default();
            builder.push(&row);
            let (seq, bytes) = builder.finish().unwrap();
            codec::put(&mut batch, &seq.to_be_bytes(), block::BLOCK_VERSION, &bytes);
        }
        shelf.commit(batch, Reach::Disk).unwrap();
        verify(&store)
    };
    let found = |change: &dyn Fn(&mut Vec<Row>)| rewritten(change).first_bad.map(|f| f.seq);
    assert_eq!(found(&|_| {}), None);
    assert_eq!(found(&|rows| rows[99].entry.latency_us += 1), Some(100), "changed");
    let replaced = rewritten(&|rows| rows[99] = Row::chain(100, nth(3), rows[98].hash)).first_bad.unwrap();
    assert!((97..=101).contains(&replaced.seq), "replaced with its hash, found by a signed mark: {replaced:?}");
    assert_eq!(found(&|rows| drop(rows.remove(99))), Some(100), "removed");
    assert_eq!(found(&|rows| rows.truncate(150)), Some(151), "cut off");
    let moved = |rows: &mut Vec<Row>| {
        (rows[49].seq, rows[50].seq) = (51, 50);
        rows.swap(49, 50);
    };
    assert_eq!(found(&moved), Some(50), "moved");
    let rebuilt = |rows: &mut Vec<Row>| {
        let mut prev = rows[9].hash;
        for row in rows.iter_mut().skip(10) {
            *row = Row::chain(row.seq, Entry { cost: None, ..row.entry.clone() }, prev);
            prev = row.hash;
        }
    };
    let rebuilt = rewritten(&rebuilt).first_bad.unwrap();
    assert!(rebuilt.seq <= 11 && rebuilt.what.contains("made anew"), "rewritten with all hashes: {rebuilt:?}");
}

#[test]
fn the_oldest_records_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let limits = RecordLimits { count: 25, bytes: 1 << 20 };
    let (store, _) = Store::open(&OpenOptions { records: limits, ..OpenOptions::at(dir.path(), START) }).unwrap();
    let mut writer = store.ledger_writer().unwrap();
    for n in 0..100 {
        writer.append(&[LedgerItem::Record(record(n, 100))], START).unwrap();
    }
    let kept = |n: u64| store.reader().find_record(&record(n, 1).request_id).unwrap().is_some();
    assert_eq!((0..100).filter(|n| kept(*n)).collect::<Vec<_>>(), (75..100).collect::<Vec<_>>());
}

#[test]
fn the_audit_log_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let mut batch = sled::Batch::default();
    for n in 1..=AUDIT_KEPT {
        codec::put(&mut batch, &[&b"a"[..], &n.to_be_bytes()].concat(), 1, b"old");
    }
    store.inner.state.commit(batch, Reach::Kernel).unwrap();
    store.state().audit(b"new").unwrap();
    let entries = store.state().audit_entries(usize::MAX).unwrap();
    assert_eq!((entries.len() as u64, entries.last().unwrap().0), (AUDIT_KEPT, 2));
}

#[test]
fn too_many_tag_sets_cost_time_and_not_exactness() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let mut writer = store.ledger_writer().unwrap();
    let many = u64::from(rollup::MAX_CELLS) + 500;
    let tagged = |n: u64| Entry { tags: Arc::new([("team".into(), n.to_string().into())]), at: START, ..nth(0) };
    let batch: Vec<_> = (0..many).map(|n| LedgerItem::Row(tagged(n))).collect();
    for part in batch.chunks(512) {
        writer.append(part, START).unwrap();
    }
    assert!(store.inner.live.read().cells().count() <= rollup::MAX_CELLS as usize + 1);
    let tags = store.reader().sums(TimeRange::ALL, &GroupBy::Tag("team".into())).unwrap();
    assert_eq!(tags.len() as u64, many);
    assert_sums_equal_a_recount(&store, TimeRange::ALL);
    writer.close().unwrap();
    drop(store);
    let (store, _) = open(dir.path());
    assert_sums_equal_a_recount(&store, TimeRange::ALL);
}

fn sealed_days(store: &Store) -> usize {
    days::sealed(&store.inner.state, 0, u32::MAX).unwrap().len()
}

fn sealed_hours(store: &Store) -> usize {
    hours::sealed(&store.inner.state, 0, u32::MAX).unwrap().len()
}

/// An entry `hours` after the start.
fn hours_later(n: u64, hours: i64) -> Entry {
    Entry { at: Wall(START.0 + hours * 3_600_000_000 + i64::try_from(n).unwrap()), ..nth(n) }
}

#[test]
fn an_old_store_gets_its_hours_and_days_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let mut writer = store.ledger_writer().unwrap();
    // Into the fifth day.
    let batch: Vec<_> = (0..80_u64).map(|n| LedgerItem::Row(hours_later(n, i64::try_from(n).unwrap()))).collect();
    writer.append(&batch, START).unwrap();
    writer.close().unwrap();
    drop(store);
    fs::write(dir.path().join("VERSION"), "breakwater store schema 1\n").unwrap();
    let state = shelf::Shelf::closed(dir.path().join("state"), 1 << 20);
    let mut old = sled::Batch::default();
    codec::put(&mut old, b"!schema", 1, &[1]);
    let coarse = |db: &sled::Db| {
        let keys = [b"d", b"s", b"b", b"v"].into_iter().flat_map(|prefix| db.scan_prefix(prefix));
        keys.map(|kv| kv.map(|(key, _)| key)).collect::<sled::Result<Vec<_>>>()
    };
    for key in state.read(coarse).unwrap() {
        old.remove(key);
    }
    state.commit(old, Reach::Disk).unwrap();
    state.close();

    let read_only = OpenOptions { read_only: true, ..OpenOptions::at(dir.path(), START) };
    assert_sums_equal_a_recount(&Store::open(&read_only).unwrap().0, TimeRange::ALL);
    assert_eq!(fs::read_to_string(dir.path().join("VERSION")).unwrap(), "breakwater store schema 1\n");
    let (store, _) = open(dir.path());
    assert_eq!(
        (sealed_hours(&store), sealed_days(&store), fs::read_to_string(dir.path().join("VERSION")).unwrap()),
        (0, 0, "breakwater store schema 4\n".into())
    );
    let mut writer = store.ledger_writer().unwrap();
    writer.tick(START).unwrap();
    assert_eq!((sealed_hours(&store), sealed_days(&store)), (79, 4), "all but the running ones");
    assert_sums_equal_a_recount(&store, TimeRange::ALL);
    // A late row takes its day's sums away until the day is left alone again.
    writer.append(&[LedgerItem::Row(hours_later(81, 10))], START.plus(Duration::from_secs(2))).unwrap();
    assert_sums_equal_a_recount(&store, TimeRange::ALL);
    assert_eq!((sealed_hours(&store), sealed_days(&store)), (78, 3));
    writer.tick(START.plus(Duration::from_secs(4))).unwrap();
    assert_eq!((sealed_hours(&store), sealed_days(&store)), (79, 4));
    assert_sums_equal_a_recount(&store, TimeRange::ALL);
    let cut = TimeRange { from: Some(Wall(START.0 + 5_000_000_000)), to: Some(hours_later(0, 70).at) };
    assert_sums_equal_a_recount(&store, cut);
}

#[test]
fn sums_for_no_key_and_no_tag_read_nothing_else_of_hours_that_are_over() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let mut writer = store.ledger_writer().unwrap();
    let batch: Vec<_> = (0..200_u64).map(|n| LedgerItem::Row(hours_later(n, i64::try_from(n / 4).unwrap()))).collect();
    writer.append(&batch, START).unwrap();
    writer.tick(START.plus(Duration::from_secs(2))).unwrap();
    writer.close().unwrap();
    let groups = [GroupBy::Total, GroupBy::Endpoint, GroupBy::Model, GroupBy::Route, GroupBy::Day, GroupBy::Hour];
    let sums = || groups.iter().map(|by| store.reader().sums(TimeRange::ALL, by).unwrap()).collect::<Vec<_>>();
    let before = sums();
    let mut batch = sled::Batch::default();
    let marked = hours::sealed(&store.inner.state, 0, u32::MAX).unwrap();
    assert_eq!(marked.len(), 49);
    for hour in marked.into_iter().filter(|hour| store.inner.live.read().hours().all(|(live, _)| live != *hour)) {
        cell::remove(&store.inner.state, cell::Grain::Hour, hour, &mut batch).unwrap();
    }
    store.inner.state.commit(batch, Reach::Memory).unwrap();
    assert_eq!(sums(), before);
}

/// Whatever has a name in the state database stands apart from the sums beside it.
#[test]
fn named_values_and_sums_do_not_meet() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let areas = [Area::Checkpoint, Area::Act, Area::Endpoint, Area::Key, Area::Open, Area::Meta];
    let names = ["64b1c2d3-0", "\u{0}\u{7}\u{1}\u{2}name", "zzzzz"];
    for area in areas {
        names.iter().for_each(|name| store.state().put(area, name, name.as_bytes(), true).unwrap());
    }
    let mut writer = store.ledger_writer().unwrap();
    let batch: Vec<_> = (0..60_u64).map(|n| LedgerItem::Row(hours_later(n, i64::try_from(n).unwrap()))).collect();
    writer.append(&batch, START).unwrap();
    writer.tick(START.plus(Duration::from_secs(2))).unwrap();
    assert!(sealed_hours(&store) > 50 && sealed_days(&store) > 1);
    assert_sums_equal_a_recount(&store, TimeRange::ALL);
    writer.close().unwrap();
    for area in areas {
        let found: Vec<_> = store.state().list(area).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(found.len(), names.len(), "{area:?}: {found:?}");
    }
    assert_eq!(store.skipped_records(), 0);
}

#[test]
fn a_day_with_too_many_tag_sets_is_summed_up_by_its_hours() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let mut writer = store.ledger_writer().unwrap();
    let tagged = |n: u64| Entry {
        tags: Arc::new([("team".into(), n.to_string().into())]),
        ..hours_later(n, 6 + i64::try_from(n / 2_500).unwrap())
    };
    let batch: Vec<_> =
        (0..7_500).map(|n| LedgerItem::Row(tagged(n))).chain([LedgerItem::Row(hours_later(0, 40))]).collect();
    for part in batch.chunks(512) {
        writer.append(part, START).unwrap();
    }
    writer.tick(START.plus(Duration::from_secs(2))).unwrap();
    writer.tick(START.plus(Duration::from_secs(4))).unwrap();
    let marks = days::sealed(&store.inner.state, 0, u32::MAX).unwrap();
    assert_eq!(marks.values().collect::<Vec<_>>(), [&days::Sealed { collapsed: true }]);
    assert_sums_equal_a_recount(&store, TimeRange::ALL);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Over any rows, cut into any batches, with a kill anywhere: sums are what counting the rows gives.
    #[test]
    fn sums_equal_a_recount(
        entries in prop::collection::vec(sample::entry(), 1..120),
        batch in 1_usize..40,
        late in 0_u64..3,
        stretch in 1_i64..60,
        from in prop::option::of(0_i64..7_200_000_000),
        to in prop::option::of(0_i64..7_300_000_000),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (live, copied) = (dir.path().join("live"), dir.path().join("copied"));
        let (store, _) = open(&live);
        let mut writer = store.ledger_writer().unwrap();
        // Up to five days, in no order: clocks set back and forth.
        let at = |offset: i64| Wall(START.0 + offset * stretch);
        let items: Vec<_> = entries.into_iter().map(|e| LedgerItem::Row(Entry { at: at(e.at.0 - START.0), ..e })).collect();
        for (step, part) in items.chunks(batch).enumerate() {
            writer.append(part, START.plus(Duration::from_millis(step as u64 * late * 400))).unwrap();
        }
        let range = TimeRange { from: from.map(at), to: to.map(at) };
        assert_sums_equal_a_recount(&store, range);
        assert_sums_equal_a_recount(&store, TimeRange::ALL);
        copy(&live, &copied);
        let (store, _) = open(&copied);
        assert_sums_equal_a_recount(&store, range);
        assert_sound(&store, items.len() as u64);
        // Days that are over get sums of their own, and lose them when a row comes late.
        let mut writer = store.ledger_writer().unwrap();
        for (step, late) in items.iter().take(3).enumerate() {
            for second in [1, 2, 3] {
                writer.tick(START.plus(Duration::from_secs(step as u64 * 4 + second))).unwrap();
            }
            assert_sums_equal_a_recount(&store, range);
            writer.append(std::slice::from_ref(late), START.plus(Duration::from_secs(step as u64 * 4 + 4))).unwrap();
            assert_sums_equal_a_recount(&store, TimeRange::ALL);
            // Killed when the late row is there and the sums that it changes are not.
            let killed = dir.path().join(format!("killed-{step}"));
            copy(&copied, &killed);
            let (store, _) = open(&killed);
            assert_sums_equal_a_recount(&store, TimeRange::ALL);
            store.ledger_writer().unwrap().close().unwrap();
            assert_sums_equal_a_recount(&store, range);
        }
    }
}
