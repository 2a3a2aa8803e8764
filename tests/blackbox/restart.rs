//! What a kill -9 leaves behind is what the next start goes on from.

use crate::support::ledger::cost;
use crate::support::{Gateway, Reply, Setup, Upstream, breakwater, chat_body, eventually, ms, seconds, secs};
use serde_json::{Value, json};
use std::time::Instant;

const LONG: &str = "breaker: {open_for: 60s, jitter: 0}";

#[tokio::test]
async fn a_killed_gateway_goes_on_where_it_was() {
    let (a, b, c) = (Upstream::start_with(Reply::status(500)), Upstream::start(), Upstream::start());
    let setup = Setup::new()
        .endpoint("a", &a, &[LONG])
        .endpoint("b", &b, &[])
        .endpoint("c", &c, &[])
        .route("chat", "priority", &["a", "b"], &[])
        .route("tripped", "priority", &["c", "b"], &[]);
    let mut gateway = Gateway::start(&setup).await;
    let send = async |n: usize| {
        for _ in 0..n {
            gateway.chat(&chat_body("chat")).await.expect(200);
        }
    };
    send(5).await;
    gateway.wait_breaker("a", "open", secs(2)).await;
    send(25).await;
    gateway.admin("POST", "/admin/endpoints/c/trip", Some(&json!({"reason": "drill"}))).await.expect(200);
    let rows = gateway.wait_rows(35).await;
    let since = Instant::now();
    // Checkpoints are written once a second if something changed.
    eventually(secs(5), "two seconds have passed", async || since.elapsed() > secs(2)).await;
    let before = (gateway.endpoint("b").await, gateway.admin_get("/admin/ledger?group_by=endpoint").await);
    let retry_at = gateway.endpoint("a").await["breaker"]["retry_at"].as_str().unwrap().to_owned();
    gateway.kill();
    gateway.start_again().await;

    assert_eq!(a.calls(), 5);
    for _ in 0..10 {
        assert_eq!(gateway.chat(&chat_body("chat")).await.expect(200).need("x-breakwater-endpoint"), "b");
        assert_eq!(gateway.chat(&chat_body("tripped")).await.expect(200).need("x-breakwater-endpoint"), "b");
    }
    assert_eq!((a.calls(), c.calls()), (5, 0), "not one call to the sick or the tripped endpoint");
    let breaker = gateway.endpoint("a").await["breaker"].clone();
    assert_eq!(breaker["state"], "open");
    let (was, is) = (seconds(&retry_at), seconds(breaker["retry_at"].as_str().unwrap()));
    assert!((was - is).abs() <= 2.0, "the same end of the open period: {retry_at}, {breaker}");
    assert_eq!(gateway.breaker("c").await, "forced_open");

    gateway.wait_rows(55).await;
    let after: Vec<_> = gateway.rows().await.into_iter().take(35).collect();
    assert_eq!(cost(&after), cost(&rows));
    assert!(after.iter().zip(&rows).all(|(a, b)| a.get("hash") == b.get("hash")), "the old rows are untouched");
    let sums = gateway.admin_get("/admin/ledger?group_by=endpoint").await;
    assert_eq!(
        sums["total"]["cost_nanousd"].as_i64(),
        before.1["total"]["cost_nanousd"].as_i64().map(|n| n + 20 * 20_000)
    );
    let count = |v: &Value| v["latency_ms"]["count"].as_u64().unwrap();
    assert_eq!(count(&before.0), 30);
    eventually(secs(5), "the histogram goes on from before", async || count(&gateway.endpoint("b").await) == 50).await;
    gateway.kill();
    gateway.run(&["ledger", "verify"]).expect(0);
}

#[tokio::test]
async fn kills_under_load_break_no_chain_and_lose_no_strict_row() {
    let a = Upstream::start();
    a.forget_bodies();
    let mut gateway = Gateway::start(&Setup::single(&a).store("durability: strict")).await;
    let mut answered = 0;
    for _ in 0..5 {
        let began = Instant::now();
        let body = chat_body("chat");
        while began.elapsed() < ms(400) {
            let answers = futures_util::future::join_all((0..20).map(|_| gateway.chat(&body))).await;
            answered += answers.iter().filter(|a| a.status == 200).count();
        }
        gateway.kill();
        gateway.start_again().await;
    }
    let rows = gateway.rows().await;
    assert!(rows.len() >= answered, "{} rows, {answered} acknowledged", rows.len());
    let sum = gateway.admin_get("/admin/ledger?group_by=endpoint").await["total"]["cost_nanousd"].as_i64();
    assert_eq!(sum, Some(cost(&rows)), "rollups and rows agree after the kills");
    gateway.kill();
    gateway.run(&["ledger", "verify"]).expect(0);
}

#[tokio::test]
async fn a_pause_asked_for_by_an_upstream_survives() {
    let (a, b) = (Upstream::start_with(Reply::status_with(429, &[("retry-after", "30")])), Upstream::start());
    let mut gateway = Gateway::start(&Setup::pair(&a, &b, &[])).await;
    gateway.chat(&chat_body("chat")).await.expect(200);
    let since = Instant::now();
    eventually(secs(5), "a checkpoint was due", async || since.elapsed() > secs(2)).await;
    gateway.kill();
    gateway.start_again().await;
    for _ in 0..5 {
        gateway.chat(&chat_body("chat")).await.expect(200);
    }
    assert_eq!(a.calls(), 1);
}

#[tokio::test]
async fn a_second_process_on_the_same_store_is_2_and_harms_nothing() {
    let a = Upstream::start();
    let mut gateway = Gateway::start(&Setup::single(&a)).await;
    gateway.chat(&chat_body("chat")).await.expect(200);
    let config = gateway.config().display().to_string();
    for _ in 0..2 {
        let run =
            breakwater(&["serve", "--config", &config, "--listen", "127.0.0.1:0"], gateway.environment()).expect(2);
        assert!(run.stderr.contains(&gateway.store().display().to_string()), "{run:?}");
    }
    gateway.chat(&chat_body("chat")).await.expect(200);
    gateway.wait_rows(2).await;
    gateway.restart().await;
    gateway.wait_rows(2).await;
}
