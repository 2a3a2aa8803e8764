//! Hedging: a slow attempt is overtaken by a second one, which costs what it says and never shows in the answer.

use crate::providers::{calls, provider, said, set, whole_text, with_profile};
use crate::support::gateway::Gateway;
use crate::support::ledger::cost;
use crate::support::{Setup, chat_body, eventually, ms, secs, stream_body};
use breakwater::sim::{Fault, FaultKind, Handle, Latency, Profile};
use serde_json::Value;
use std::time::Instant;

const SLOW: FaultKind = FaultKind::SlowFirstByte { ms: 3_000 };

/// The providers in their order behind the route `chat`, which hedges so.
fn setup(providers: &[&Handle], hedge: &str) -> Setup {
    let names = ["a", "b", "c"];
    let setup = Setup::new();
    let setup = providers.iter().zip(names).fold(setup, |s, (p, name)| s.endpoint_at(name, &p.base_url(), &[]));
    setup.route("chat", "priority", &names[..providers.len()], &[&format!("hedge: {hedge}")])
}

async fn steps(gateway: &Gateway, request_id: &str, kind: &str) -> Vec<Value> {
    let record = gateway.admin_get(&format!("/admin/decisions/{request_id}")).await;
    let all = record["steps"].as_array().expect("steps").clone();
    all.into_iter().filter(|s| s["step"] == kind).collect()
}

#[tokio::test]
async fn a_slow_attempt_is_overtaken_and_closed_and_both_have_rows() {
    let (a, b) = (provider("a"), provider("b"));
    set(&a, SLOW);
    let gateway = Gateway::start(&setup(&[&a, &b], "{after: 100ms, max_extra: 1}")).await;
    for (n, body) in [(1, chat_body("chat")), (2, stream_body("chat"))] {
        let began = Instant::now();
        let answer = gateway.chat(&body).await;
        assert!(began.elapsed() < ms(2_900), "{:?}", began.elapsed());
        assert_eq!(said(answer.expect(200)), whole_text(16));
        assert_eq!((answer.need("x-breakwater-endpoint"), answer.need("x-breakwater-attempts")), ("b", "2"));
        eventually(secs(1), "the slow call is closed", async || a.stats().aborted.total == n).await;
        let id = answer.need("x-breakwater-request-id");
        let rows = gateway.rows_of(id, 2).await;
        assert_eq!((rows[0].get("endpoint"), rows[0].get("outcome")), ("a", "cancelled"));
        assert_eq!((rows[0].get("decision"), rows[0].number("cost_nanousd")), ("priority/1", 0));
        assert_eq!((rows[1].get("endpoint"), rows[1].get("outcome")), ("b", "success"));
        assert_eq!(rows[1].get("decision"), "priority/2;hedge");
        assert!(rows[1].number("cost_nanousd") > 0);
        let hedged = steps(&gateway, id, "hedged").await;
        assert_eq!((&hedged[0]["slow"], &hedged[0]["endpoint"]), (&"a".into(), &"b".into()), "{hedged:?}");
        assert_eq!(hedged[0]["after_ms"], 100.0);
        let attempts = steps(&gateway, id, "attempt").await;
        let lost = attempts.iter().find(|s| s["attempt"] == 1).expect("the loser's step");
        assert_eq!(lost["message"], "another attempt answered first");
    }
    let metrics = gateway.get("/metrics").await.text();
    for line in ["breakwater_hedges_total 2", "breakwater_hedges_won_total 2"] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    assert_eq!(gateway.admin_get("/admin/ledger/resilience").await["hedges_won"], 2);
    assert_eq!(gateway.endpoint("a").await["breaker"]["calls"], 0, "losing says nothing about health");
}

#[tokio::test]
async fn who_was_overtaken_is_slow_in_the_ranking() {
    let at =
        |name: &str, latency| with_profile(Profile { latency: Latency::fixed(latency), ..Profile::new(name, &[]) });
    let (a, b) = (at("a", 10.0), at("b", 80.0));
    let setup = Setup::new().endpoint_at("a", &a.base_url(), &[]).endpoint_at("b", &b.base_url(), &[]).route(
        "chat",
        "least_latency",
        &["a", "b"],
        &["hedge: {after: 200ms, max_extra: 1}"],
    );
    let gateway = Gateway::start(&setup).await;
    let ask = async || gateway.chat(&chat_body("chat")).await.expect(200).need("x-breakwater-endpoint").to_owned();
    // Once each, so that nobody leads for being new; from then on the quicker one.
    eventually(secs(10), "a leads", async || ask().await == "a" && calls(&b) > 0 && ask().await == "a").await;
    set(&a, SLOW);
    assert_eq!(ask().await, "b", "a was overtaken");
    let before = calls(&a);
    for _ in 0..5 {
        assert_eq!(ask().await, "b");
    }
    assert_eq!(calls(&a), before, "it took over 200 ms when it was last asked: b, with its 80 ms, leads");
}

#[tokio::test]
async fn hedge_race_within_a_millisecond() {
    let at =
        |name: &str, latency| with_profile(Profile { latency: Latency::fixed(latency), ..Profile::new(name, &[]) });
    let (a, b) = (at("a", 250.0), at("b", 150.0));
    let gateway = Gateway::start(&setup(&[&a, &b], "{after: 100ms, max_extra: 1}")).await;
    let mut winners = vec![];
    for n in 0..12 {
        let body = if n % 2 == 0 { stream_body("chat") } else { chat_body("chat") };
        let answer = gateway.chat(&body).await;
        assert_eq!(said(answer.expect(200)), whole_text(16), "one text, once");
        if n % 2 == 0 {
            assert_eq!(answer.sse().dones(), 1);
        }
        let winner = answer.need("x-breakwater-endpoint").to_owned();
        let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), 2).await;
        for row in &rows {
            let won = row.get("endpoint") == winner;
            assert_eq!(row.get("outcome"), if won { "success" } else { "cancelled" }, "{rows:?}");
            assert_eq!(row.number("cost_nanousd") > 0, won, "paid once: {rows:?}");
        }
        winners.push(winner);
    }
    let total = cost(&gateway.rows().await);
    let each = cost(&gateway.rows().await[..2]);
    assert_eq!(total, 12 * each, "every answer costs the same: {winners:?}");
}

#[tokio::test]
async fn an_attempt_that_fails_leaves_the_request_to_its_hedge() {
    let (a, b, c) = (provider("a"), provider("b"), provider("c"));
    let late = |ms, code| {
        let status = FaultKind::Status { code, headers: Default::default(), body: None };
        vec![Fault::from(FaultKind::SlowFirstByte { ms }), status.into()]
    };
    a.set_faults(late(400, 500)).unwrap();
    set(&b, FaultKind::SlowFirstByte { ms: 900 });
    let gateway = Gateway::start(&setup(&[&a, &b, &c], "{after: 100ms, max_extra: 1}")).await;
    let answer = gateway.chat(&chat_body("chat")).await;
    assert_eq!(answer.expect(200).need("x-breakwater-endpoint"), "b");
    let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), 2).await;
    assert_eq!((rows[0].get("outcome"), rows[1].get("outcome")), ("server_error", "success"));
    assert_eq!(calls(&c), 0, "nobody else was asked meanwhile");
    // Both fail: the walk goes on, and the same two are not asked again before it.
    b.set_faults(late(600, 502)).unwrap();
    let answer = gateway.chat(&chat_body("chat")).await;
    assert_eq!(answer.expect(200).need("x-breakwater-endpoint"), "c");
    let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), 3).await;
    let outcomes: Vec<_> = rows.iter().map(|r| r.get("outcome")).collect();
    assert_eq!(outcomes, ["server_error", "server_error", "success"]);
    assert_eq!(rows[2].get("decision"), "priority/3");
}

#[tokio::test]
async fn what_forbids_a_hedge_is_told() {
    let (a, b) = (provider("a"), provider("b"));
    set(&a, FaultKind::SlowFirstByte { ms: 300 });
    let slow = async |gateway: &Gateway, why: Option<&str>, headers: &[(&str, &str)]| {
        let answer = gateway.chat_with(headers, &chat_body("chat")).await;
        assert_eq!((answer.expect(200).need("x-breakwater-endpoint"), calls(&b)), ("a", 0), "{why:?}");
        let id = answer.need("x-breakwater-request-id");
        gateway.rows_of(id, 1).await;
        let told = steps(gateway, id, "not_hedged").await;
        assert_eq!(told.first().map(|s| s["why"].as_str().unwrap()), why);
    };
    let gateway = Gateway::start(&setup(&[&a, &b], "{after: 100ms}")).await;
    slow(&gateway, Some("max_extra_reached"), &[]).await;
    slow(&gateway, None, &[("x-breakwater-hedge", "off")]).await;
    slow(&gateway, Some("no_candidate"), &[("x-breakwater-no-fallback", "true")]).await;
    gateway.admin("POST", "/admin/endpoints/b/trip", Some(&serde_json::json!({"reason": "test"}))).await.expect(200);
    gateway.wait_breaker("b", "forced_open", secs(2)).await;
    slow(&gateway, Some("breaker_not_closed"), &[]).await;
    let same = Setup::new()
        .endpoint_at("a", &a.base_url(), &["domain: [x]"])
        .endpoint_at("b", &b.base_url(), &["domain: [x, y]"])
        .route("chat", "priority", &["a", "b"], &["hedge: {after: 100ms, max_extra: 1}"]);
    slow(&Gateway::start(&same).await, Some("no_candidate"), &[]).await;
    let poor = "hedge: {after: 100ms, max_extra: 1}\nretry_budget: {ratio: 0, min_per_second: 0}";
    let poor = Setup::new().endpoint_at("a", &a.base_url(), &[]).endpoint_at("b", &b.base_url(), &[]).route(
        "chat",
        "priority",
        &["a", "b"],
        &[poor],
    );
    slow(&Gateway::start(&poor).await, Some("retry_budget_under_half"), &[]).await;
}

#[tokio::test]
async fn a_hedge_does_not_pass_those_who_wait() {
    let (a, b) = (provider("a"), provider("b"));
    set(&a, FaultKind::SlowFirstByte { ms: 300 });
    set(&b, SLOW);
    let setup = Setup::new()
        .auth_required()
        .endpoint_at("a", &a.base_url(), &[])
        // A bucket of 200 tokens, 20 more each second.
        .endpoint_at("b", &b.base_url(), &["limits: {tpm: 1200, max_wait: 10s}"])
        .route("only", "priority", &["b"], &[])
        .route("chat", "priority", &["a", "b"], &["hedge: {after: 100ms, max_extra: 1}"]);
    let gateway = Gateway::start(&setup).await;
    let made = gateway.admin("POST", "/admin/keys", Some(&serde_json::json!({"name": "k", "priority": "low"}))).await;
    let bearer = format!("Bearer {}", made.expect(201).json()["secret"].as_str().unwrap());
    let ask = async |route: &str, most: u64| {
        let mut body = chat_body(route);
        body["max_tokens"] = most.into();
        gateway.chat_with(&[("authorization", &bearer)], &body).await
    };
    let hedged = async {
        eventually(secs(2), "b is called", async || calls(&b) == 1).await;
        let waits = async || gateway.get("/metrics").await.text().contains("breakwater_requests_waiting 1");
        eventually(secs(2), "one waits", waits).await;
        // What is left is too little for the one who waits, and enough for this one.
        ask("chat", 10).await
    };
    let second = async {
        eventually(secs(2), "b is called", async || calls(&b) == 1).await;
        ask("only", 130).await
    };
    let (first, second, hedged) = tokio::join!(ask("only", 150), second, hedged);
    [&first, &second].into_iter().for_each(|answer| assert_eq!(answer.expect(200).need("x-breakwater-endpoint"), "b"));
    let answer = hedged.expect(200);
    assert_eq!((answer.need("x-breakwater-endpoint"), answer.need("x-breakwater-attempts")), ("a", "1"));
    let told = steps(&gateway, answer.need("x-breakwater-request-id"), "not_hedged").await;
    assert_eq!(told[0]["why"], "no_candidate", "{told:?}");
}

#[tokio::test]
async fn the_routes_own_quantile_decides_after_a_hundred_answers() {
    let at = |name: &str| with_profile(Profile { latency: Latency::fixed(2.0), ..Profile::new(name, &[]) });
    let (a, b) = (at("a"), at("b"));
    let gateway = Gateway::start(&setup(&[&a, &b], "{after: p95, floor: 20ms, max_extra: 0.5}")).await;
    set(&a, FaultKind::SlowFirstByte { ms: 300 });
    let early = gateway.chat(&chat_body("chat")).await;
    assert_eq!(early.expect(200).need("x-breakwater-attempts"), "1", "nothing is known yet");
    a.set_faults(vec![]).unwrap();
    for _ in 0..110 {
        gateway.chat(&chat_body("chat")).await.expect(200);
    }
    set(&a, SLOW);
    let answer = gateway.chat(&chat_body("chat")).await;
    assert_eq!(answer.expect(200).need("x-breakwater-endpoint"), "b");
    let hedged = steps(&gateway, answer.need("x-breakwater-request-id"), "hedged").await;
    assert!(hedged[0]["samples"].as_u64().unwrap() >= 100, "{hedged:?}");
    assert!(hedged[0]["after_ms"].as_f64().unwrap() < 290.0, "{hedged:?}");
    let stream = gateway.chat(&stream_body("chat")).await;
    assert_eq!(stream.expect(200).need("x-breakwater-endpoint"), "a", "of streams nothing is known yet");
}
