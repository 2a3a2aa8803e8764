//! Retention: old rows go, sums and chain stay, and no kill at any moment loses anything else.

use crate::entries;
use crate::support::ledger::read_csv;
use crate::support::{Gateway, Run, Setup, Upstream, binary, breakwater, chat_body, copy_folder, secs};
use breakwater::domain::ledger::Entry;
use breakwater::store::{LedgerItem, OpenOptions, Store};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

const DAY_US: u64 = 86_400_000_000;

/// A store with `rows` rows over thirty days from 2026-09-15 on, the way a gateway leaves it.
fn filled(path: &Path, rows: u64) {
    let earlier = Duration::from_micros(61 * DAY_US);
    let now = entries::START.plus(Duration::from_micros(30 * DAY_US)).minus(earlier);
    let entry = |n, step| {
        let entry = entries::nth(n, step);
        Entry { at: entry.at.minus(earlier), ..entry }
    };
    let (store, _) = Store::open(&OpenOptions::at(path, now)).unwrap();
    let mut writer = store.ledger_writer().unwrap();
    let step = 30 * DAY_US / rows;
    for first in (0..rows).step_by(512) {
        let items: Vec<_> = (first..rows.min(first + 512)).map(|n| LedgerItem::Row(entry(n, step))).collect();
        writer.append(&items, now).unwrap();
    }
    writer.close().unwrap();
}

fn ledger(store: &Path, args: &[&str]) -> Run {
    let store = store.display().to_string();
    breakwater(&[&["ledger", args[0], "--store", &store], &args[1..]].concat(), &[])
}

/// Sums by what each row has and by when it came, as text.
fn sums(store: &Path) -> Vec<String> {
    let by = |group: &str| ledger(store, &["report", "--group-by", group, "--format", "json"]).expect(0).stdout;
    ["model", "tag:team", "hour"].map(by).to_vec()
}

#[test]
fn compact_removes_days_and_says_so_wherever_they_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("state");
    filled(&store, 6_000);
    let before = sums(&store);
    let plan = ledger(&store, &["compact", "--before", "2026-10-05", "--dry-run"]).expect(0).stdout;
    assert!(plan.contains("would be removed") && plan.contains("whole months: 2026-09"), "{plan}");
    assert_eq!(read_csv(&ledger(&store, &["export"]).expect(0).stdout).len(), 6_000, "nothing has happened");
    let json: Value = serde_json::from_str(
        &ledger(&store, &["compact", "--before", "2026-10-05", "--format", "json"]).expect(0).stdout,
    )
    .unwrap();
    let last = json["removed"]["last_seq"].as_u64().unwrap();
    assert_eq!((json["removed"]["months"][0].as_str(), last), (Some("2026-09"), 4_000));
    assert!(json["freed_bytes"].as_u64().unwrap() > 100_000, "{json}");
    assert_eq!(sums(&store), before);
    let verified = ledger(&store, &["verify"]).expect(0).stdout;
    assert!(verified.contains("rows 1 to 4000 were removed by retention"), "{verified}");
    // Rows: what is there, and a word; nothing by halves.
    let rest = ledger(&store, &["export"]).expect(0);
    assert!(rest.stderr.contains("removed by retention"), "{}", rest.stderr);
    let rows = read_csv(&rest.stdout);
    assert_eq!((rows.len(), rows[0].get("seq"), rows[0].get("at")), (2_000, "4001", "2026-10-05T00:00:00.000000Z"));
    for refused in [
        &["export", "--from", "2026-10-04"][..],
        &["report", "--resilience"],
        &["savings", "--baseline", "gpt-4.1", "--from", "2026-10-01"],
        &["report", "--from", "2026-10-01T10:30:00Z"],
    ] {
        let run = ledger(&store, refused).expect(1);
        assert!(run.stdout.is_empty() && run.stderr.contains("removed by retention"), "{refused:?}: {run:?}");
        assert!(run.stderr.contains("--from 2026-10-05T00:00:00"), "names the remedy: {run:?}");
    }
    ledger(&store, &["report", "--from", "2026-09-20", "--to", "2026-10-02"]).expect(0);
    ledger(&store, &["report", "--resilience", "--from", "2026-10-05"]).expect(0);
    let file = dir.path().join("rest.csv").display().to_string();
    ledger(&store, &["export", "--from", "2026-10-05", "--output", &file]).expect(0);
    breakwater(&["ledger", "verify", "--file", &file], &[]).expect(0);
    let again = ledger(&store, &["compact", "--before", "2026-10-05"]).expect(0).stdout;
    assert!(again.contains("no rows before"), "{again}");
}

#[test]
fn bad_input_changes_nothing_and_is_2() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("state");
    filled(&store, 600);
    let rows = ledger(&store, &["export"]).expect(0).stdout;
    for bad in [
        &["compact"][..],
        &["compact", "--keep", "1.5d"],
        &["compact", "--keep", "0d"],
        &["compact", "--keep", "90"],
        &["compact", "--before", "noon"],
        &["compact", "--before", "2026-12-01T10:00:00Z"],
        &["compact", "--before", "2999-01-01"],
        &["compact", "--before", "2026-12-01", "--keep", "90d"],
        &["report", "--group-by", "colour"],
        &["report", "--group-by", "tag:"],
        &["report", "--from", "2026-12-02", "--to", "2026-12-01"],
        &["report", "--resilience", "--from", "2026-12-02", "--to", "2026-12-02"],
        &["report", "--format", "parquet"],
        &["export", "--from", "2026-12-02", "--to", "2026-12-01"],
        &["export", "--from", "yesterday"],
        &["export", "--format", "xlsx"],
        &["export", "--format", "parquet", "--zstd"],
        &["export", "--tag", "team"],
        &["savings", "--baseline", "nobody-knows-it"],
        &["savings"],
        &["savings", "--baseline", "gpt-4.1", "--from", "2026-12-02", "--to", "2026-12-01"],
        &["verify", "--public-key", "zz"],
        &["verify", "--checkpoint", "/nonexistent"],
    ] {
        let run = ledger(&store, bad).expect(2);
        assert!(run.stdout.is_empty() && run.stderr.len() > 10, "{bad:?}: {run:?}");
    }
    assert_eq!(ledger(&store, &["export"]).expect(0).stdout, rows);
    let url = breakwater(&["ledger", "compact", "--url", "http://127.0.0.1:1", "--keep", "9d"], &[]).expect(2);
    assert!(url.stderr.contains("store.retention"), "{url:?}");
    // Half-written exports, and files that are none.
    let file = |name: &str| dir.path().join(name).display().to_string();
    let parquet = file("whole.parquet");
    ledger(&store, &["export", "--format", "parquet", "--output", &parquet]).expect(0);
    let whole = std::fs::read(&parquet).unwrap();
    std::fs::write(file("half.parquet"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(file("half.csv"), &rows[..rows.len() / 2]).unwrap();
    std::fs::write(file("other.csv"), "a,b\n1,2\n").unwrap();
    let verify = |name: &str| breakwater(&["ledger", "verify", "--file", &file(name)], &[]);
    verify("half.csv").expect(3);
    for none in ["half.parquet", "other.csv", "absent.csv"] {
        let run = verify(none).expect(2);
        assert!(run.stdout.is_empty() && run.stderr.contains(none), "{run:?}");
    }
}

#[test]
fn killed_while_it_compacts_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let origin = dir.path().join("origin");
    filled(&origin, 10_000);
    let before = sums(&origin);
    let run = |store: &Path| {
        let mut command = std::process::Command::new(binary());
        command.args(["ledger", "compact", "--before", "2026-10-03", "--store"]).arg(store);
        command.stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    // How long it takes without a kill.
    let whole = dir.path().join("whole");
    copy_folder(&origin, &whole);
    let begun = std::time::Instant::now();
    assert!(run(&whole).wait().unwrap().success());
    let takes = begun.elapsed();
    let rest = ledger(&whole, &["export"]).expect(0).stdout;
    let mut halves = [0, 0];
    for step in 1..=6 {
        let store = dir.path().join(format!("killed-{step}"));
        copy_folder(&origin, &store);
        let mut child = run(&store);
        std::thread::sleep(takes * step / 6);
        let _ = child.kill();
        child.wait().unwrap();
        ledger(&store, &["verify"]).expect(0);
        assert_eq!(sums(&store), before, "step {step}");
        let left = read_csv(&ledger(&store, &["export"]).expect(0).stdout).len();
        let done = usize::from(left != 10_000);
        halves[done] += 1;
        assert!(done == 0 || left == read_csv(&rest).len(), "step {step}: {left} rows");
        ledger(&store, &["compact", "--before", "2026-10-03"]).expect(0);
        assert_eq!(ledger(&store, &["export"]).expect(0).stdout, rest, "step {step}");
        ledger(&store, &["verify"]).expect(0);
        std::fs::remove_dir_all(&store).unwrap();
    }
    assert!(halves[0] > 0, "no kill came before the decision: {halves:?}");
}

#[tokio::test]
async fn a_running_gateway_removes_whole_months_and_refuses_what_needs_them() {
    let a = Upstream::start();
    let mut gateway = Gateway::start(&Setup::single(&a).store("retention: {rows: 1d}")).await;
    gateway.chat(&chat_body("chat")).await.expect(200);
    gateway.wait_rows(1).await;
    let busy = gateway.run(&["ledger", "compact", "--keep", "1d"]).expect(1);
    assert!(busy.stderr.contains("stop the gateway") && busy.stderr.contains("store.retention"), "{busy:?}");
    gateway.terminate();
    gateway.wait_exit(secs(20)).await;
    // An older store in its place: three months ago, so that the new row's month is another one.
    std::fs::remove_dir_all(gateway.store()).unwrap();
    old(&gateway.store());
    gateway.start_again().await;
    gateway.chat(&chat_body("chat")).await.expect(200);
    crate::support::eventually(secs(10), "the new row is there", async || {
        gateway.admin_get("/admin/ledger?group_by=total").await["total"]["attempts"] == 301
    })
    .await;
    gateway.restart().await;
    let kept = async || read_csv(&gateway.admin("GET", "/admin/ledger/export", None).await.expect(200).text()).len();
    crate::support::eventually(secs(10), "old months are gone", async || kept().await == 1).await;
    assert_eq!(gateway.admin_get("/admin/ledger?group_by=total").await["total"]["attempts"], 301, "their sums stay");
    for path in ["/admin/ledger/export?from=2020-01-01", "/admin/ledger/resilience", "/admin/ledger/savings?baseline=a"]
    {
        let answer = gateway.admin("GET", path, None).await;
        let message = answer.expect(400).json()["error"].clone();
        assert_eq!(message["param"], "from", "{path}: {message}");
        assert!(message["message"].as_str().unwrap().contains("removed by retention"), "{path}: {message}");
    }
    assert!(!gateway.admin_get("/admin/ledger/checkpoints").await["removed"].is_null());
    gateway.run_by_url(&["ledger", "verify"]).expect(0);
    gateway.terminate();
    gateway.wait_exit(secs(20)).await;
    gateway.run(&["ledger", "verify"]).expect(0);
}

/// A store with 300 rows from a hundred days ago.
fn old(path: &Path) {
    let now = breakwater::clock::wall().minus(Duration::from_secs(100 * 86_400));
    let (store, _) = Store::open(&OpenOptions::at(path, now)).unwrap();
    let mut writer = store.ledger_writer().unwrap();
    let items: Vec<_> = (0..300).map(|n| LedgerItem::Row(Entry { at: now, ..entries::nth(n, 1) })).collect();
    writer.append(&items, now).unwrap();
    writer.close().unwrap();
}
