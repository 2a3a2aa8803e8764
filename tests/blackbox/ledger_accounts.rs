//! What was saved, and what resilience did and cost: the same figures offline, over the wire and by hand from the rows.

use crate::support::{Gateway, Reply, Setup, Upstream, chat_body, secs};
use serde_json::Value;

/// Ten plain answers and three failovers from the cheap endpoint to the dear one: 16 rows.
async fn used() -> (Gateway, Upstream, Upstream) {
    let (a, b) = (Upstream::start(), Upstream::start());
    let setup = Setup::new()
        .endpoint("a", &a, &["price: {input: 0.42, output: 1.37}"])
        .endpoint("b", &b, &["price: {input: 15, output: 75}"])
        .route("chat", "priority", &["a", "b"], &[]);
    let gateway = Gateway::start(&setup).await;
    for n in 0..13 {
        if n % 5 == 0 {
            a.once(Reply::status(500));
        }
        gateway.chat(&chat_body("chat")).await.expect(200);
    }
    gateway.wait_rows(16).await;
    (gateway, a, b)
}

fn nano(report: &Value, path: &str) -> i64 {
    report.pointer(path).and_then(Value::as_i64).unwrap_or_else(|| panic!("{path} in {report}"))
}

#[tokio::test]
async fn savings_are_what_the_same_tokens_would_have_cost() {
    let (mut gateway, ..) = used().await;
    let rows = gateway.rows().await;
    let spent: i64 = rows.iter().map(|r| r.number("cost_nanousd")).sum();
    // 13 answers of 10 and 5 tokens.
    let on_b = 13 * (10 * 15_000 + 5 * 75_000);
    let report = gateway.admin_get("/admin/ledger/savings?baseline=b").await;
    assert_eq!(nano(&report, "/total/baseline_nanousd"), on_b);
    assert_eq!(nano(&report, "/total/saved_nanousd"), on_b - spent);
    assert_eq!(nano(&report, "/total/answers"), 13);
    assert_eq!(report["baseline"]["source"], "endpoint b");
    let by_model = gateway.admin_get("/admin/ledger/savings?baseline=model-b").await;
    assert_eq!(by_model["total"], report["total"], "an endpoint's model stands for it");
    let listed = gateway.admin_get("/admin/ledger/savings?baseline=gpt-4.1").await;
    assert_eq!(nano(&listed, "/total/baseline_nanousd"), 13 * (10 * 2_000 + 5 * 8_000));
    for query in ["", "?baseline=nonsense", "?baseline=b&from=noon", "?baseline=b&colour=red"] {
        gateway.admin("GET", &format!("/admin/ledger/savings{query}"), None).await.expect(400);
    }
    let unauthorised = gateway.get("/admin/ledger/savings?baseline=b").await;
    assert_eq!(unauthorised.status, 401);

    let words = ["ledger", "savings", "--baseline", "b", "--format", "json"];
    let by_url: Value = serde_json::from_str(&gateway.run_by_url(&words).expect(0).stdout).unwrap();
    assert_eq!(by_url, report);
    gateway.terminate();
    gateway.wait_exit(secs(20)).await;
    let offline: Value = serde_json::from_str(&gateway.run(&words).expect(0).stdout).unwrap();
    assert_eq!(offline, report);
    let table = gateway.run(&["ledger", "savings", "--baseline", "b"]).expect(0).stdout;
    assert!(table.contains("model-a") && table.contains("saved "), "{table}");
    gateway.run(&["ledger", "savings", "--baseline", "nonsense"]).expect(2);
}

#[tokio::test]
async fn the_account_of_resilience_tells_rescues_and_premiums() {
    let (mut gateway, ..) = used().await;
    let report = gateway.admin_get("/admin/ledger/resilience").await;
    assert_eq!((nano(&report, "/requests"), nano(&report, "/first_attempt_failed")), (13, 3));
    assert_eq!((nano(&report, "/rescued_by_failover"), nano(&report, "/premium_unknown")), (3, 0));
    let premium = 3 * (10 * (15_000 - 420) + 5 * (75_000 - 1_370));
    assert_eq!(nano(&report, "/premium_nanousd"), premium);
    assert_eq!(report["lost"][0]["outcome"], "server_error");
    let words = ["ledger", "report", "--resilience", "--format", "json"];
    let by_url: Value = serde_json::from_str(&gateway.run_by_url(&words).expect(0).stdout).unwrap();
    assert_eq!(by_url, report);
    gateway.terminate();
    gateway.wait_exit(secs(20)).await;
    let offline: Value = serde_json::from_str(&gateway.run(&words).expect(0).stdout).unwrap();
    assert_eq!(offline, report);
}
