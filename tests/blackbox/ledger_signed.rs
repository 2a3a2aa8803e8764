//! Signatures: exports and stores that were changed are found, with nothing but the files at hand.

use crate::support::ledger::read_csv;
use crate::support::{Gateway, Run, Setup, Upstream, breakwater, chat_body, copy_folder, secs, stream_body};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A gateway with 20 rows, every third of them streamed.
async fn used() -> (Gateway, Upstream) {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a)).await;
    for n in 0..20 {
        let body = if n % 3 == 0 { stream_body("chat") } else { chat_body("chat") };
        gateway.chat(&body).await.expect(200);
    }
    gateway.wait_rows(20).await;
    (gateway, a)
}

fn verify_file(path: &Path, more: &[&str]) -> Run {
    let path = path.display().to_string();
    breakwater(&[&["ledger", "verify", "--file", &path], more].concat(), &[])
}

fn public_key(gateway: &Gateway) -> String {
    std::fs::read_to_string(gateway.store().join("checkpoint.pub")).unwrap().trim().to_owned()
}

#[tokio::test]
async fn an_export_carries_what_was_signed_of_it() {
    let (mut gateway, _a) = used().await;
    let key = public_key(&gateway);
    let mode = std::fs::metadata(gateway.store().join("checkpoint.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let folder = gateway.folder().to_owned();
    let file = |name: &str| folder.join(name);
    let mut exports: Vec<PathBuf> = vec![];
    let online =
        [("on.csv", &["--format", "csv"][..]), ("on.parquet", &["--format", "parquet"]), ("on.gz", &["--gzip"])];
    for (name, options) in online {
        let path = file(name).display().to_string();
        gateway.run_by_url(&[&["ledger", "export", "--output", &path], options].concat()).expect(0);
        exports.push(file(name));
    }
    gateway.terminate();
    gateway.wait_exit(secs(20)).await;
    let offline = [
        ("off.csv", &["--format", "csv"][..]),
        ("off.jsonl", &["--format", "jsonl"]),
        ("off.parquet", &["--format", "parquet"]),
        ("some.csv", &["--outcome", "success"]),
    ];
    for (name, options) in offline {
        let path = file(name).display().to_string();
        gateway.run(&[&["ledger", "export", "--output", &path], options].concat()).expect(0);
        exports.push(file(name));
    }
    for path in &exports {
        let found = verify_file(path, &["--public-key", &key]).expect(0).stdout;
        assert!(found.contains("rows 1 to 20") && found.contains(&format!("with key {key}")), "{path:?}: {found}");
        verify_file(path, &["--public-key", &"7".repeat(64)]).expect(3);
    }
    // What the chain alone cannot tell: the end cut off.
    let csv = file("off.csv");
    let text = std::fs::read_to_string(&csv).unwrap();
    let lines: Vec<_> = text.lines().collect();
    std::fs::write(&csv, lines[..18].join("\n") + "\n").unwrap();
    let found = verify_file(&csv, &[]).expect(3).stdout;
    assert!(found.contains("row 18") && found.contains("missing at the end"), "{found}");
    // Without its checkpoint it can only be said that this cannot be told; who demands a signature gets none.
    std::fs::rename(file("off.csv.sig"), file("away")).unwrap();
    assert!(verify_file(&csv, &[]).expect(0).stdout.contains("no checkpoint"));
    verify_file(&csv, &["--public-key", &key]).expect(3);
    let away = file("away").display().to_string();
    verify_file(&csv, &["--checkpoint", &away]).expect(3);
    // A checkpoint that was changed to fit.
    let forged = std::fs::read_to_string(&away).unwrap().replacen("\"rows\":20", "\"rows\":17", 1);
    std::fs::write(file("off.csv.sig"), forged).unwrap();
    assert!(verify_file(&csv, &[]).expect(3).stdout.contains("wrong signature"));
    std::fs::write(file("off.csv.sig"), "{}").unwrap();
    verify_file(&csv, &[]).expect(2);
}

#[tokio::test]
async fn an_export_that_curl_has_read_gets_its_checkpoint_by_id() {
    let (gateway, _a) = used().await;
    let answer = gateway.admin("GET", "/admin/ledger/export?format=jsonl", None).await;
    let id = answer.expect(200).need("x-breakwater-export-id").to_owned();
    let checkpoint = gateway.admin_get(&format!("/admin/ledger/export/{id}")).await;
    assert_eq!((&checkpoint["kind"], &checkpoint["rows"]), (&Value::from("export"), &Value::from(20)));
    let path = gateway.folder().join("by_hand.jsonl");
    std::fs::write(&path, &answer.body).unwrap();
    std::fs::write(gateway.folder().join("by_hand.jsonl.sig"), checkpoint.to_string()).unwrap();
    let key = public_key(&gateway);
    verify_file(&path, &["--public-key", &key]).expect(0);
    gateway.admin("GET", "/admin/ledger/export/exp_0_0", None).await.expect_error(404, "not_found");
    let record = gateway.admin_get("/admin/ledger/checkpoints").await;
    assert_eq!(record["public_keys"], serde_json::json!([key]));
    assert_eq!(record["removed"], Value::Null);
    for path in ["/admin/ledger/checkpoints", &format!("/admin/ledger/export/{id}")] {
        gateway.get(path).await.expect(401);
    }
}

#[tokio::test]
async fn a_copied_store_is_checked_without_its_key() {
    let (mut gateway, _a) = used().await;
    gateway.run_by_url(&["ledger", "verify"]).expect(0);
    let kept = gateway.admin_get("/admin/ledger/checkpoints").await;
    gateway.terminate();
    gateway.wait_exit(secs(20)).await;
    let copied = gateway.folder().join("copy");
    copy_folder(&gateway.store(), &copied);
    std::fs::remove_file(copied.join("checkpoint.key")).unwrap();
    let (store, key) = (copied.display().to_string(), public_key(&gateway));
    let verify = |more: &[&str]| breakwater(&[&["ledger", "verify", "--store", &store], more].concat(), &[]);
    let found = verify(&[]).expect(0).stdout;
    assert!(found.contains("signed up to row 20"), "a clean stop signs everything: {found}");
    let json: Value =
        serde_json::from_str(&verify(&["--public-key", &key, "--format", "json"]).expect(0).stdout).unwrap();
    assert_eq!((&json["signed"]["through"], &json["signed"]["key"]), (&20.into(), &key.as_str().into()));
    verify(&["--public-key", &"0".repeat(64)]).expect(3);
    verify(&["--public-key", "nonsense"]).expect(2);
    // One that was kept elsewhere.
    if let Some(first) = kept["checkpoints"].get(0) {
        let elsewhere = gateway.folder().join("kept.json");
        std::fs::write(&elsewhere, first.to_string()).unwrap();
        verify(&["--checkpoint", &elsewhere.display().to_string()]).expect(0);
        std::fs::write(&elsewhere, first.to_string().replacen("\"hash\":\"", "\"hash\":\"0", 1)).unwrap();
        verify(&["--checkpoint", &elsewhere.display().to_string()]).expect(2);
    } else {
        panic!("the first hour is signed at once: {kept}");
    }
}

/// "Streams are recorded as $0" and "rows get lost at restarts": what other gateways are known for.
#[tokio::test]
async fn what_streams_cost_is_there_after_every_kind_of_restart() {
    let (mut gateway, _a) = used().await;
    let before = gateway.rows().await;
    let streams: Vec<_> = before.iter().filter(|row| row.get("stream") == "true").collect();
    // 10 tokens at 1 USD and 5 at 2 USD per million.
    assert!(streams.len() == 7 && streams.iter().all(|row| row.number("cost_nanousd") == 20_000), "{streams:?}");
    let total = gateway.admin_get("/admin/ledger?group_by=model").await["total"].clone();
    for kill in [true, false] {
        if kill {
            gateway.kill()
        } else {
            gateway.restart().await
        }
        if kill {
            gateway.start_again().await;
        }
        let after = gateway.rows().await;
        let rows = |rows: &[crate::support::ledger::Row]| rows.iter().map(|row| row.0.clone()).collect::<Vec<_>>();
        assert_eq!(rows(&after), rows(&before), "killed: {kill}");
        assert_eq!(gateway.admin_get("/admin/ledger?group_by=model").await["total"], total, "killed: {kill}");
    }
    gateway.kill();
    assert_eq!(read_csv(&gateway.run(&["ledger", "export"]).expect(0).stdout).len(), 20);
}
