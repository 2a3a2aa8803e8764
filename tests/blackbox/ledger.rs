//! The ledger: a row for every attempt, sums that agree to the nano-dollar, exports that can be checked alone.

use crate::support::ledger::{COLUMNS, Row, cost, read_csv};
use crate::support::{Gateway, Reply, Setup, Upstream, breakwater, chat_body, eventually, secs, stream_body};
use serde_json::Value;
use std::collections::BTreeMap;

/// A gateway with traffic of all kinds behind it: 34 good requests, 4 failovers, 3 streams. 45 rows.
async fn used() -> (Gateway, Upstream, Upstream) {
    let (a, b) = (Upstream::start(), Upstream::start());
    let setup = Setup::new()
        .endpoint("a", &a, &["price: {input: 0.42, output: 1.37}"])
        .endpoint("b", &b, &["price: {input: 15, output: 75}"])
        .route("chat", "priority", &["a", "b"], &[])
        .route("fair", "round_robin", &["a", "b"], &[]);
    let gateway = Gateway::start(&setup).await;
    for n in 0..30 {
        let tag = format!("team={}", ["red", "blue"][n % 2]);
        gateway.chat_with(&[("x-breakwater-tag", &tag)], &chat_body("fair")).await.expect(200);
    }
    for _ in 0..4 {
        a.once(Reply::status(500));
        gateway.chat(&chat_body("chat")).await.expect(200);
        gateway.chat(&chat_body("a")).await.expect(200);
    }
    for _ in 0..3 {
        gateway.chat(&stream_body("chat")).await.expect(200);
    }
    gateway.wait_rows(45).await;
    (gateway, a, b)
}

fn total_nano(report: &Value) -> i64 {
    report["total"]["cost_nanousd"].as_i64().unwrap_or_else(|| panic!("total.cost_nanousd in {report}"))
}

#[tokio::test]
async fn every_attempt_has_a_row_and_the_chain_has_no_gap() {
    let (gateway, ..) = used().await;
    let rows = gateway.rows().await;
    assert_eq!(rows.iter().map(|r| r.number("seq")).collect::<Vec<_>>(), (1..=45).collect::<Vec<_>>());
    assert_eq!(rows.iter().filter(|r| r.get("outcome") == "server_error").count(), 4);
    assert_eq!(rows.iter().filter(|r| r.get("stream") == "true").count(), 3);
    assert!(rows[0].get("prev_hash").chars().all(|c| c == '0'));
    assert!(rows.windows(2).all(|w| w[1].get("prev_hash") == w[0].get("hash")));
    for row in rows.iter().filter(|r| r.get("outcome") == "success") {
        let expected = if row.get("endpoint") == "a" { 10 * 420 + 5 * 1370 } else { 10 * 15_000 + 5 * 75_000 };
        assert_eq!(row.number("cost_nanousd"), expected, "{row:?}");
        assert_eq!(
            (row.get("input_tokens"), row.get("output_tokens"), row.get("usage_source")),
            ("10", "5", "reported")
        );
        assert!(row.number("latency_us") > 0);
    }
    for row in rows.iter().filter(|r| r.get("outcome") == "server_error") {
        assert_eq!((row.get("http_status"), row.number("cost_nanousd")), ("500", 0));
    }
}

#[tokio::test]
async fn the_sums_of_an_export_are_the_reports() {
    let (gateway, ..) = used().await;
    let rows = gateway.rows().await;
    for (group, column) in [("endpoint", "endpoint"), ("model", "model"), ("key", "key_id")] {
        let report = gateway.admin_get(&format!("/admin/ledger?group_by={group}")).await;
        assert_eq!(total_nano(&report), cost(&rows));
        let mut expected: BTreeMap<String, i64> = BTreeMap::new();
        for row in &rows {
            *expected.entry(row.get(column).to_owned()).or_default() += row.number("cost_nanousd");
        }
        let told: BTreeMap<String, i64> = report["rows"]
            .as_array()
            .unwrap_or_else(|| panic!("rows in {report}"))
            .iter()
            .map(|r| (r["group"].as_str().unwrap().to_owned(), r["cost_nanousd"].as_i64().unwrap()))
            .collect();
        assert_eq!(told, expected, "by {group}");
    }
    for group in ["day", "hour", "tag:team"] {
        assert_eq!(
            total_nano(&gateway.admin_get(&format!("/admin/ledger?group_by={group}")).await),
            cost(&rows),
            "by {group}"
        );
    }
    let report = gateway.admin_get("/admin/report").await;
    assert_eq!(total_nano(&report), cost(&rows));
    let table = gateway
        .send(
            "GET",
            "/admin/report",
            &[("authorization", &format!("Bearer {}", crate::support::ADMIN_TOKEN)), ("accept", "text/plain")],
            "",
        )
        .await;
    let text = table.expect(200).text();
    assert!(text.contains("model-a") && text.contains("model-b"), "{text}");
}

#[tokio::test]
async fn jsonl_and_csv_hold_the_same() {
    let (gateway, ..) = used().await;
    let csv = gateway.rows().await;
    let text = gateway.admin("GET", "/admin/ledger/export?format=jsonl", None).await.expect(200).text();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON in each line")).collect();
    assert_eq!(lines.len(), csv.len());
    for (json, row) in lines.iter().zip(&csv) {
        for column in COLUMNS.split(',').filter(|c| *c != "tags") {
            let value = match &json[column] {
                Value::String(s) => s.clone(),
                Value::Null => String::new(),
                other => other.to_string(),
            };
            assert_eq!(value, row.get(column), "{column}");
        }
    }
    gateway.admin("GET", "/admin/ledger/export?format=xlsx", None).await.expect(400);
}

#[tokio::test]
async fn a_time_range_takes_what_lies_in_it() {
    let (gateway, ..) = used().await;
    let rows = gateway.rows().await;
    let (from, to) = (rows[10].get("at").to_owned(), rows[20].get("at").to_owned());
    let path = format!("/admin/ledger/export?format=csv&from={from}&to={to}");
    let part = read_csv(&gateway.admin("GET", &path, None).await.expect(200).text());
    let expected: Vec<_> =
        rows.iter().filter(|r| (from.as_str()..to.as_str()).contains(&r.get("at"))).map(|r| r.get("seq")).collect();
    assert_eq!(part.iter().map(|r| r.get("seq")).collect::<Vec<_>>(), expected);
    gateway.admin("GET", "/admin/ledger/export?format=csv&from=yesterday", None).await.expect(400);
    gateway.admin("GET", "/admin/ledger?group_by=colour", None).await.expect(400);
}

#[tokio::test]
async fn the_command_line_reads_a_stopped_gateways_ledger() {
    let (mut gateway, ..) = used().await;
    let online = gateway.rows().await;
    gateway.terminate();
    gateway.wait_exit(secs(20)).await;

    let offline = read_csv(&gateway.run(&["ledger", "export", "--format", "csv"]).expect(0).stdout);
    let hashes = |rows: &[Row]| rows.iter().map(|r| r.get("hash").to_owned()).collect::<Vec<_>>();
    assert_eq!(hashes(&offline), hashes(&online));

    let file = gateway.folder().join("export.csv");
    let output = file.display().to_string();
    gateway.run(&["ledger", "export", "--format", "csv", "--output", &output]).expect(0);
    assert_eq!(hashes(&read_csv(&std::fs::read_to_string(&file).unwrap())), hashes(&online));

    let report: Value =
        serde_json::from_str(&gateway.run(&["ledger", "report", "--format", "json"]).expect(0).stdout).unwrap();
    assert_eq!(total_nano(&report), cost(&online));
    assert!(gateway.run(&["ledger", "report"]).expect(0).stdout.contains("model-a"));
    gateway.run(&["ledger", "verify"]).expect(0);
}

#[tokio::test]
async fn on_a_running_gateway_it_refuses_and_names_the_way_that_works() {
    let (mut gateway, ..) = used().await;
    let expected = gateway.rows().await.len();
    for command in ["export", "report", "verify"] {
        let refused = gateway.run(&["ledger", command]).expect(1);
        assert!(refused.stderr.contains("--url"), "{command}: {}", refused.stderr);
        assert_eq!(refused.stdout, "");
    }
    assert!(gateway.is_running());
    let by_url = read_csv(&gateway.run_by_url(&["ledger", "export", "--format", "csv"]).expect(0).stdout);
    assert_eq!(by_url.len(), expected);
    assert!(gateway.run_by_url(&["ledger", "report"]).expect(0).stdout.contains("model-a"));
}

#[tokio::test]
async fn an_export_verifies_and_any_change_to_it_is_found() {
    let (mut gateway, ..) = used().await;
    gateway.terminate();
    gateway.wait_exit(secs(20)).await;
    for format in ["csv", "jsonl"] {
        let text = gateway.run(&["ledger", "export", "--format", format]).expect(0).stdout;
        let file = gateway.folder().join(format!("export.{format}"));
        let path = file.display().to_string();
        let verify = |text: &str| {
            std::fs::write(&file, text).unwrap();
            breakwater(&["ledger", "verify", "--file", &path], &[])
        };
        verify(&text).expect(0);
        let lines: Vec<&str> = text.lines().collect();
        let without = |skip: usize| {
            lines.iter().enumerate().filter(|(i, _)| *i != skip).map(|(_, l)| format!("{l}\n")).collect::<String>()
        };
        verify(&without(20)).expect(3);
        let mut swapped = lines.clone();
        swapped.swap(10, 11);
        verify(&(swapped.join("\n") + "\n")).expect(3);
        for (old, new) in [("server_error", "success"), ("model-a", "model-x"), ("reported", "estimated")] {
            assert!(text.contains(old));
            verify(&text.replacen(old, new, 1)).expect(3);
        }
        let cost = if format == "csv" { ",11050," } else { ":11050," };
        assert!(text.contains(cost), "{}", lines[1]);
        verify(&text.replacen(cost, &cost.replace("11050", "11051"), 1)).expect(3);
    }
    let missing = breakwater(&["ledger", "verify", "--file", "/nonexistent/export.csv"], &[]);
    assert!([1, 2].contains(&missing.code), "{missing:?}");
}

#[tokio::test]
async fn strict_durability_has_the_row_before_the_answer_ends() {
    let a = Upstream::start();
    let mut gateway = Gateway::start(&Setup::single(&a).store("durability: strict")).await;
    let mut ids = vec![];
    for n in 0..20 {
        let body = if n % 2 == 0 { chat_body("chat") } else { stream_body("chat") };
        ids.push(gateway.chat(&body).await.expect(200).need("x-breakwater-request-id").to_owned());
    }
    gateway.kill();
    let rows = read_csv(&gateway.run(&["ledger", "export", "--format", "csv"]).expect(0).stdout);
    assert_eq!(rows.iter().map(|r| r.get("request_id").to_owned()).collect::<Vec<_>>(), ids);
}

#[tokio::test]
async fn many_requests_at_once_are_all_in_it_once() {
    let a = Upstream::start();
    a.forget_bodies();
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let body = chat_body("chat");
    for _ in 0..10 {
        let answers = futures_util::future::join_all((0..100).map(|_| gateway.chat(&body))).await;
        assert!(answers.iter().all(|a| a.status == 200));
    }
    eventually(secs(10), "all rows are there", async || gateway.rows().await.len() == 1_000).await;
    let ids: std::collections::BTreeSet<_> =
        gateway.rows().await.iter().map(|r| r.get("request_id").to_owned()).collect();
    assert_eq!(ids.len(), 1_000);
}
