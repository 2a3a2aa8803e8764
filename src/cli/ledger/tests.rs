//! The commands against stores on disk and against an admin API's answers.

use super::{LedgerArgs, run};
use crate::cli::Exit;
use crate::domain::report::Report;
use crate::domain::sample;
use crate::store::import::read_rows;
use crate::store::{LedgerItem, OpenOptions, Store};
use clap::Parser;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: LedgerArgs,
}

pub(super) fn ledger(words: &[&str]) -> Exit {
    run(&Line::try_parse_from([&["ledger"], words].concat()).unwrap().args)
}

pub(super) fn filled(path: &Path, rows: u64) -> Store {
    let (store, _) = Store::open(&OpenOptions::at(path, sample::START)).unwrap();
    let mut writer = store.ledger_writer().unwrap();
    let items: Vec<_> = (0..rows).map(|n| LedgerItem::Row(sample::nth(n))).collect();
    writer.append(&items, sample::START).unwrap();
    writer.close().unwrap();
    store
}

#[test]
fn an_export_sums_up_to_the_report_and_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    drop(filled(&dir.path().join("store"), 1_000));
    let (store, csv, jsonl, json) = (path("store"), path("out.csv"), path("out.jsonl"), path("out.json"));
    assert_eq!(ledger(&["export", "--store", &store, "--output", &csv]), Exit::Done);
    let part = ["--from", "2026-11-23T18:00:01Z", "--to", "2026-11-23T18:00:02Z"];
    let words = [&["export", "--store", &store, "--format", "jsonl", "--output", &jsonl], &part[..]].concat();
    assert_eq!(ledger(&words), Exit::Done);
    let words = ["report", "--store", &store, "--group-by", "tag:team", "--format", "json", "--output", &json];
    assert_eq!(ledger(&words), Exit::Done);
    let report: Report = serde_json::from_reader(File::open(&json).unwrap()).unwrap();
    let rows = |path: &str| read_rows(BufReader::new(File::open(path).unwrap())).unwrap().map(Result::unwrap);
    let cost: i64 = rows(&csv).filter_map(|row| row.entry.cost).map(|cost| cost.0).sum();
    assert_eq!((report.total.cost_nanousd, report.total.attempts), (cost, 1_000));
    assert_eq!(rows(&jsonl).map(|row| row.seq).collect::<Vec<_>>(), (101..=200).collect::<Vec<_>>());
    for file in [&csv, &jsonl] {
        assert_eq!(ledger(&["verify", "--file", file]), Exit::Done);
    }
    assert_eq!(ledger(&["verify", "--store", &store]), Exit::Done);
}

#[test]
fn a_changed_export_is_a_violation() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    drop(filled(&dir.path().join("store"), 50));
    let (store, csv) = (path("store"), path("out.csv"));
    assert_eq!(ledger(&["export", "--store", &store, "--output", &csv]), Exit::Done);
    let text = std::fs::read_to_string(&csv).unwrap();
    let changed = |change: &dyn Fn(&mut Vec<&str>)| {
        let mut lines: Vec<_> = text.lines().collect();
        change(&mut lines);
        std::fs::write(path("changed.csv"), lines.join("\n")).unwrap();
        ledger(&["verify", "--file", &path("changed.csv")])
    };
    assert_eq!(changed(&|_| {}), Exit::Done);
    assert_eq!(
        changed(&|lines| {
            lines.remove(20);
        }),
        Exit::Violation
    );
    assert_eq!(changed(&|lines| lines.swap(20, 21)), Exit::Violation);
    assert_eq!(changed(&|lines| lines.insert(20, lines[19])), Exit::Violation);
    assert_eq!(changed(&|lines| lines[20] = "nonsense"), Exit::Violation);
    let cheaper = text.replacen(",5101", ",5001", 1);
    assert_ne!(cheaper, text);
    std::fs::write(path("changed.csv"), cheaper).unwrap();
    assert_eq!(ledger(&["verify", "--file", &path("changed.csv"), "--format", "json"]), Exit::Violation);
    assert_eq!(changed(&|lines| lines[0] = "a,b"), Exit::Usage);
    assert_eq!(ledger(&["verify", "--file", &path("absent.csv")]), Exit::Usage);
}

#[test]
fn a_running_gateways_store_and_a_missing_one_end_in_their_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let name = path.display().to_string();
    assert_eq!(ledger(&["report", "--store", &name]), Exit::Usage);
    assert!(!path.exists());
    let running = filled(&path, 10);
    for command in ["export", "report", "verify"] {
        assert_eq!(ledger(&[command, "--store", &name]), Exit::Failed);
    }
    drop(running);
    assert_eq!(ledger(&["report", "--store", &name, "--from", "2026-02-02", "--to", "2026-02-01"]), Exit::Usage);
    assert_eq!(ledger(&["report", "--config", "/absent/config.yaml"]), Exit::Usage);
    assert!(Line::try_parse_from(["ledger", "report", "--from", "noon"]).is_err());
    assert!(Line::try_parse_from(["ledger", "export", "--gzip", "--zstd"]).is_err());
    assert!(Line::try_parse_from(["ledger", "export", "--tag", "team"]).is_err());
}

/// Answers one request with `body` in chunks, whole or broken off, and gives back the request's head.
fn answering(body: Vec<u8>, whole: bool) -> (String, std::thread::JoinHandle<String>) {
    answering_each(vec![(body, whole)])
}

/// Answers as many requests as there are bodies, and gives back their heads.
fn answering_each(bodies: Vec<(Vec<u8>, bool)>) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let mut head = String::new();
        for (body, whole) in bodies {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            while lines.read_line(&mut head).unwrap() > 2 {}
            let extra = "x-breakwater-export-id: exp_1\r\nconnection: close\r\n";
            write!(stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{extra}\r\n").unwrap();
            for chunk in body.chunks(1_000) {
                write!(stream, "{:x}\r\n", chunk.len()).unwrap();
                stream.write_all(chunk).unwrap();
                write!(stream, "\r\n").unwrap();
            }
            if whole {
                write!(stream, "0\r\n\r\n").unwrap();
            }
        }
        head
    });
    (url, thread)
}

#[test]
fn a_running_gateway_is_asked_over_its_admin_api() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    drop(filled(&dir.path().join("store"), 100));
    let rows = path("rows.jsonl");
    assert_eq!(ledger(&["export", "--store", &path("store"), "--format", "jsonl", "--output", &rows]), Exit::Done);
    let body = std::fs::read(&rows).unwrap();
    let checkpoint = std::fs::read(path("rows.jsonl.sig")).unwrap();
    let (url, asked) = answering_each(vec![(body.clone(), true), (checkpoint.clone(), true)]);
    let (out, from) = (path("remote.jsonl"), "2026-11-01");
    let words = ["--url", &url, "--token", "t", "--format", "jsonl", "--from", from, "--output", &out];
    assert_eq!(ledger(&[&["export"], &words[..]].concat()), Exit::Done);
    assert_eq!(std::fs::read(&out).unwrap(), body);
    let head = asked.join().unwrap();
    assert!(head.contains("GET /admin/ledger/export/exp_1 HTTP/1.1"), "{head}");
    assert_eq!(ledger(&["verify", "--file", &out]), Exit::Done);
    let line = "GET /admin/ledger/export?from=2026-11-01T00%3A00%3A00.000000Z&format=jsonl HTTP/1.1";
    assert!(head.starts_with(line) && head.contains("authorization: Bearer t\r\n"), "{head}");
    let checkpoint = String::from_utf8(checkpoint).unwrap();
    let key = checkpoint.split("\"key\":\"").nth(1).unwrap()[..64].to_owned();
    let signed = |checkpoint: &str| {
        format!("{{\"public_keys\":[\"{key}\"],\"checkpoints\":[{checkpoint}],\"removed\":null}}").into_bytes()
    };
    let longer = checkpoint.replacen("\"seq\":100", "\"seq\":101", 1);
    for (checkpoint, ends) in [(&checkpoint, Exit::Done), (&longer, Exit::Violation)] {
        let (url, asked) = answering_each(vec![(signed(checkpoint), true), (body.clone(), true)]);
        assert_eq!(ledger(&["verify", "--url", &url, "--token", "t"]), ends);
        asked.join().unwrap();
    }
    // Broken off in the middle: no file, no verdict.
    let (url, asked) = answering(body, false);
    let cut = path("cut.jsonl");
    let words = ["export", "--url", &url, "--token", "t", "--format", "jsonl", "--output", &cut];
    assert_eq!(ledger(&words), Exit::Failed);
    assert!(!Path::new(&cut).exists());
    asked.join().unwrap();
    let report = path("report.json");
    assert_eq!(ledger(&["report", "--store", &path("store"), "--format", "json", "--output", &report]), Exit::Done);
    let (url, asked) = answering(std::fs::read(&report).unwrap(), true);
    let (remote, local) = (path("remote.csv"), path("local.csv"));
    let words = ["report", "--url", &url, "--token", "t", "--format", "csv", "--output", &remote];
    assert_eq!(ledger(&words), Exit::Done);
    assert!(asked.join().unwrap().starts_with("GET /admin/ledger?group_by=model HTTP/1.1"));
    assert_eq!(ledger(&["report", "--store", &path("store"), "--format", "csv", "--output", &local]), Exit::Done);
    assert_eq!(std::fs::read(&remote).unwrap(), std::fs::read(&local).unwrap());
    assert_eq!(ledger(&["report", "--url", "http://127.0.0.1:1", "--token", "t"]), Exit::Failed);
}

#[test]
fn a_damaged_row_is_said_and_the_rest_is_exported() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let store = filled(&dir.path().join("store"), 100);
    store.damage_for_test(40);
    drop(store);
    let out = path("out.csv");
    assert_eq!(ledger(&["export", "--store", &path("store"), "--output", &out]), Exit::Failed);
    let rows = read_rows(BufReader::new(File::open(&out).unwrap())).unwrap();
    let left: Vec<_> = rows.map(|row| row.unwrap().seq).collect();
    assert_eq!(left, (1..=100).filter(|seq| *seq != 40).collect::<Vec<_>>());
    assert_eq!(ledger(&["verify", "--store", &path("store")]), Exit::Violation);
}
