//! Ledgers that somebody has changed: each kind of change in a gateway's store, in a copy of it, over the wire and in exported files of
//! each format. `ledger verify` ends with 3 and names the first bad row.

use crate::entries;
use crate::support::{Gateway, Run, Setup, Upstream, breakwater, copy_folder, secs};
use breakwater::domain::checkpoint::Checkpoint;
use breakwater::domain::ledger::{Entry, Row};
use breakwater::domain::money::NanoUsd;
use breakwater::domain::sums::TimeRange;
use breakwater::store::readback::read_parquet;
use breakwater::store::stream::{ExportShape, ExportStream};
use breakwater::store::{LedgerItem, OpenOptions, Store};
use serde_json::Value;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ROWS: u64 = 120;
/// The row that is tampered with.
const AT: u64 = 60;

/// The entries as they were, numbered from 1.
fn untouched() -> Vec<Entry> {
    (1..=ROWS).map(|seq| entries::nth(seq, 1_000_000)).collect()
}

fn place(seq: u64) -> usize {
    usize::try_from(seq - 1).unwrap()
}

fn cheaper(entry: &Entry) -> Entry {
    Entry { cost: Some(NanoUsd(1)), ..entry.clone() }
}

fn a_stranger() -> Entry {
    Entry { request_id: "req_stranger".into(), ..entries::nth(7_000, 1_000_000) }
}

/// A store with these entries, the way a gateway leaves it, each in a block of its own.
fn store_of(path: &Path, entries: &[Entry]) {
    let (store, _) = Store::open(&OpenOptions::at(path, entries::START)).unwrap();
    let mut writer = store.ledger_writer().unwrap();
    for (seconds, entry) in (0_u64..).zip(entries) {
        let now = entries::START.plus(Duration::from_secs(seconds));
        writer.append(&[LedgerItem::Row(entry.clone())], now).unwrap();
    }
    writer.close().unwrap();
}

/// The database of the month that all rows are of.
fn rows_of(store: &Path) -> sled::Db {
    let month = std::fs::read_dir(store.join("ledger")).unwrap().next().unwrap().unwrap();
    // The file's lock is free a little after whoever had it has closed.
    for _ in 0..200 {
        match sled::Config::new().path(month.path()).flush_every_ms(None).open() {
            Ok(db) => return db,
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    panic!("{} cannot be opened", month.path().display())
}

/// Replaces the rows of these numbers by those that another store has.
fn graft(into: &sled::Db, from: &Path, numbers: RangeInclusive<u64>) {
    let from = rows_of(from);
    for seq in numbers {
        match from.get(seq.to_be_bytes()).unwrap() {
            Some(block) => into.insert(seq.to_be_bytes(), block).unwrap(),
            None => into.remove(seq.to_be_bytes()).unwrap(),
        };
    }
}

/// A change of a store, and which row is to be named. Where the whole chain was made anew, a signed hash of one row in several tells
/// about where.
struct Tampering {
    what: &'static str,
    first_bad: RangeInclusive<u64>,
    says: &'static str,
    /// A gateway starts on it.
    starts: bool,
    act: Box<dyn Fn(&Path)>,
}

impl Tampering {
    fn of(
        what: &'static str,
        first_bad: RangeInclusive<u64>,
        says: &'static str,
        act: impl Fn(&Path) + 'static,
    ) -> Self {
        Self { what, first_bad, says, starts: true, act: Box::new(act) }
    }

    fn rows(
        what: &'static str,
        first_bad: RangeInclusive<u64>,
        says: &'static str,
        act: impl Fn(&sled::Db) + 'static,
    ) -> Self {
        Self::of(what, first_bad, says, move |store| {
            let rows = rows_of(store);
            act(&rows);
            rows.flush().unwrap();
        })
    }

    /// The rows from `AT` on come from a store with other entries, and so does the high-water mark.
    fn anew(what: &'static str, dir: &Path, change: impl Fn(&mut Vec<Entry>)) -> Self {
        let (mut entries, other) = (untouched(), dir.join(what));
        change(&mut entries);
        entries.truncate(place(ROWS + 1));
        store_of(&other, &entries);
        // One of eight rows of an hour is signed.
        Self::of(what, AT - 8..=AT, "made anew", move |store| {
            let rows = rows_of(store);
            graft(&rows, &other, AT..=ROWS);
            rows.flush().unwrap();
            std::fs::copy(other.join("HEAD"), store.join("HEAD")).unwrap();
        })
    }

    fn starts_no_gateway(self) -> Self {
        Self { starts: false, ..self }
    }
}

fn tamperings(dir: &Path) -> Vec<Tampering> {
    let other = |name: &str, change: &dyn Fn(&mut Vec<Entry>)| {
        let (mut entries, path) = (untouched(), dir.join(name));
        change(&mut entries);
        store_of(&path, &entries);
        path
    };
    let changed = other("one-changed", &|entries| entries[place(AT)] = cheaper(&entries[place(AT)]));
    let longer = other("another-gateways", &|entries| {
        entries.iter_mut().for_each(|entry| *entry = cheaper(entry));
        entries.push(a_stranger());
    });
    let shorter = other("shorter", &|entries| entries.truncate(place(101)));
    vec![
        Tampering::rows("a bit flipped", AT..=AT, "", |rows| {
            let mut block = rows.get(AT.to_be_bytes()).unwrap().unwrap().to_vec();
            let at = block.len() - 60;
            block[at] ^= 4;
            rows.insert(AT.to_be_bytes(), block).unwrap();
        }),
        Tampering::rows("changed, with its own hash", AT..=AT + 1, "", move |rows| graft(rows, &changed, AT..=AT)),
        Tampering::anew("changed, all hashes anew", dir, |entries| entries[place(AT)] = cheaper(&entries[place(AT)])),
        Tampering::rows("removed", AT..=AT, "missing", |rows| drop(rows.remove(AT.to_be_bytes()))),
        Tampering::rows("removed from the start", 1..=1, "missing", |rows| {
            (1..AT).for_each(|seq| drop(rows.remove(seq.to_be_bytes())));
        }),
        Tampering::anew("removed, all hashes anew", dir, |entries| {
            entries.remove(place(AT));
            entries.push(a_stranger());
        }),
        Tampering::rows("added", ROWS + 1..=ROWS + 1, "does not follow", move |rows| {
            graft(rows, &longer, ROWS + 1..=ROWS + 1);
        }),
        Tampering::anew("added, all hashes anew", dir, |entries| entries.insert(place(AT), a_stranger())),
        Tampering::rows("swapped", AT..=AT, "another's place", |rows| {
            let two = [AT, AT + 1].map(|seq| rows.get(seq.to_be_bytes()).unwrap().unwrap());
            rows.insert(AT.to_be_bytes(), &two[1]).unwrap();
            rows.insert((AT + 1).to_be_bytes(), &two[0]).unwrap();
        }),
        Tampering::anew("swapped, all hashes anew", dir, |entries| entries.swap(place(AT), place(AT + 1))),
        Tampering::rows("cut off", 101..=101, "missing at the end", |rows| {
            (101..=ROWS).for_each(|seq| drop(rows.remove(seq.to_be_bytes())));
        })
        .starts_no_gateway(),
        // The high-water mark is set back as well: what is left is what was signed.
        Tampering::of("cut off with its mark", 101..=101, "missing at the end", move |store| {
            std::fs::remove_dir_all(store.join("ledger")).unwrap();
            copy_folder(&shorter.join("ledger"), &store.join("ledger"));
            std::fs::copy(shorter.join("HEAD"), store.join("HEAD")).unwrap();
        })
        .starts_no_gateway(),
    ]
}

/// Fails unless this is a violation at one of these rows, told as JSON.
fn expect_violation(run: Run, what: &str, first_bad: &RangeInclusive<u64>, says: &str) {
    assert_eq!(run.code, 3, "{what}: {run:?}");
    let found: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{what}: {e}: {run:?}"));
    let bad = &found["first_bad"];
    assert_eq!(found["ok"], false, "{what}: {found}");
    assert!(bad["seq"].as_u64().is_some_and(|seq| first_bad.contains(&seq)), "{what}: {found}");
    assert!(bad["what"].as_str().unwrap().contains(says), "{what}: {found}");
}

fn verify(args: &[&str]) -> Run {
    breakwater(&[&["ledger", "verify", "--format", "json"], args].concat(), &[])
}

#[test]
fn every_change_of_a_store_is_found_in_it_and_in_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let sound = dir.path().join("sound");
    store_of(&sound, &untouched());
    let key = sound.join("checkpoint.pub").display().to_string();
    verify(&["--store", &sound.display().to_string(), "--public-key", &key]).expect(0);
    for tampering in tamperings(dir.path()) {
        let Tampering { what, first_bad, says, act, .. } = &tampering;
        let live = dir.path().join("live");
        copy_folder(&sound, &live);
        act(&live);
        let copied = dir.path().join("copied");
        copy_folder(&live, &copied);
        std::fs::remove_file(copied.join("checkpoint.key")).unwrap();
        for store in [&live, &copied] {
            let path = store.display().to_string();
            expect_violation(verify(&["--store", &path]), what, first_bad, says);
            expect_violation(verify(&["--store", &path, "--public-key", &key]), what, first_bad, says);
            let told = breakwater(&["ledger", "verify", "--store", &path], &[]).expect(3).stdout;
            assert!(told.starts_with("violation: row "), "{what}: {told}");
            std::fs::remove_dir_all(store).unwrap();
        }
    }
}

#[tokio::test]
async fn every_change_of_a_store_is_found_through_the_gateway_that_runs_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let sound = dir.path().join("sound");
    store_of(&sound, &untouched());
    let a = Upstream::start();
    let mut gateway = Gateway::start(&Setup::single(&a)).await;
    for tampering in tamperings(dir.path()).into_iter().filter(|tampering| tampering.starts) {
        gateway.terminate();
        gateway.wait_exit(secs(20)).await;
        std::fs::remove_dir_all(gateway.store()).unwrap();
        copy_folder(&sound, &gateway.store());
        (tampering.act)(&gateway.store());
        gateway.start_again().await;
        let found = gateway.run_by_url(&["ledger", "verify", "--format", "json"]);
        expect_violation(found, tampering.what, &tampering.first_bad, tampering.says);
    }
}

/// A ledger that was set back as a whole, signatures and all, is found by a checkpoint that somebody kept.
#[test]
fn a_store_that_was_set_back_is_found_by_a_checkpoint_from_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let (store, before) = (dir.path().join("store"), dir.path().join("before"));
    let entries = untouched();
    store_of(&store, &entries[..100]);
    copy_folder(&store, &before);
    store_of(&store, &entries[100..]);
    let kept = dir.path().join("kept.csv").display().to_string();
    breakwater(&["ledger", "export", "--store", &store.display().to_string(), "--output", &kept], &[]).expect(0);
    let (back, signature) = (before.display().to_string(), format!("{kept}.sig"));
    verify(&["--store", &back]).expect(0);
    let found = verify(&["--store", &back, "--checkpoint", &signature]);
    expect_violation(found, "set back", &(101..=101), "missing at the end");
    verify(&["--store", &store.display().to_string(), "--checkpoint", &signature]).expect(0);
}

/// The rows from the second on, with every hash made anew.
fn rechained(entries: Vec<Entry>) -> Vec<Row> {
    let mut prev = breakwater::domain::ledger::GENESIS;
    let chain = |(seq, entry)| {
        let row = Row::chain(seq, entry, prev);
        prev = row.hash;
        row
    };
    (1..).zip(entries).map(chain).collect()
}

type Change = fn(&mut Vec<Row>);

/// Changes of an export, which row is to be named, and whether the rows tell it without what was signed of them.
const CHANGES: [(&str, u64, bool, Change); 12] = [
    ("changed", AT, true, |rows| rows[place(AT)].entry.cost = Some(NanoUsd(1))),
    ("changed, with its own hash", AT, true, |rows| {
        let row = &mut rows[place(AT)];
        *row = Row::chain(row.seq, cheaper(&row.entry), row.prev_hash);
    }),
    ("changed, all hashes anew", AT, false, |rows| anew(rows, |e| e[place(AT)] = cheaper(&e[place(AT)]))),
    ("removed", AT, true, |rows| drop(rows.remove(place(AT)))),
    ("removed from the start", 1, false, |rows| drop(rows.drain(..10))),
    ("removed, all hashes anew", AT, false, |rows| anew(rows, |e| drop(e.remove(place(AT))))),
    ("added", AT, true, |rows| rows.insert(place(AT), Row { entry: a_stranger(), ..rows[place(AT)].clone() })),
    ("repeated", AT, true, |rows| rows.insert(place(AT + 1), rows[place(AT)].clone())),
    ("added, all hashes anew", AT, false, |rows| anew(rows, |e| e.insert(place(AT), a_stranger()))),
    ("swapped", AT, true, |rows| rows.swap(place(AT), place(AT + 1))),
    ("swapped, all hashes anew", AT, false, |rows| anew(rows, |e| e.swap(place(AT), place(AT + 1)))),
    ("cut off", 101, false, |rows| rows.truncate(100)),
];

fn anew(rows: &mut Vec<Row>, change: fn(&mut Vec<Entry>)) {
    let mut entries: Vec<_> = rows.iter().map(|row| row.entry.clone()).collect();
    change(&mut entries);
    *rows = rechained(entries);
}

fn written(rows: &[Row], format: &str, compression: Option<&str>, checkpoint: &Checkpoint) -> Vec<u8> {
    let mut stream = ExportStream::new(ExportShape::parse(format, compression).unwrap()).unwrap();
    rows.iter().for_each(|row| stream.row(row).unwrap());
    let mut bytes = stream.ready().unwrap().to_vec();
    let (last, _) = stream.finish(entries::START, |_| Some(checkpoint.clone())).unwrap();
    bytes.extend(last);
    bytes
}

#[test]
fn every_change_of_an_export_is_found_with_nothing_but_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    store_of(&store, &untouched());
    let rows: Vec<Row> = {
        let read_only =
            OpenOptions { read_only: true, create: false, ..OpenOptions::at(&store, breakwater::clock::wall()) };
        let (store, _) = Store::open(&read_only).unwrap();
        store.reader().rows(TimeRange::ALL).unwrap().map(Result::unwrap).collect()
    };
    for (format, compression) in [("csv", None), ("jsonl", None), ("csv", Some("zstd")), ("parquet", None)] {
        let file: PathBuf = dir.path().join(format!("export.{format}.{}", compression.unwrap_or("plain")));
        let path = file.display().to_string();
        let mut export = vec!["ledger", "export", "--format", format, "--output", &path];
        let packed = compression.map(|name| format!("--{name}"));
        export.extend(packed.as_deref());
        let from = store.display().to_string();
        breakwater(&[&export[..], &["--store", &from]].concat(), &[]).expect(0);
        verify(&["--file", &path]).expect(0);
        let signature = dir.path().join(format!("{path}.sig"));
        let checkpoint = match std::fs::read(&signature) {
            Ok(text) => Checkpoint::from_json(&text).unwrap(),
            Err(_) => read_parquet(std::fs::File::open(&file).unwrap()).unwrap().1.unwrap(),
        };
        assert_eq!(written(&rows, format, compression, &checkpoint), std::fs::read(&file).unwrap(), "{format}");
        for (what, first_bad, alone, change) in CHANGES {
            let mut changed = rows.clone();
            change(&mut changed);
            std::fs::write(&file, written(&changed, format, compression, &checkpoint)).unwrap();
            let what = format!("{format}: {what}");
            expect_violation(verify(&["--file", &path]), &what, &(first_bad..=first_bad), "");
            if !signature.exists() {
                continue;
            }
            let away = dir.path().join("away");
            std::fs::rename(&signature, &away).unwrap();
            match alone {
                // Without what comes after it, a row that has its own hash again is told by the row behind it.
                true => expect_violation(verify(&["--file", &path]), &what, &(first_bad..=first_bad + 1), ""),
                false => drop(verify(&["--file", &path]).expect(0)),
            }
            std::fs::rename(&away, &signature).unwrap();
        }
    }
}
