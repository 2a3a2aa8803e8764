//! The breaker as an operator and a failing vendor see it: it opens, keeps calls away, lets them come back, obeys.

use crate::support::upstream::text_event;
use crate::support::{Gateway, Reply, Setup, Upstream, chat_body, eventually, ms, secs, stream_body};
use serde_json::{Value, json};
use std::time::Instant;

const QUICK: &str = "breaker: {open_for: 500ms, max_open_for: 2s, ramp: 0s}";
const LONG: &str = "breaker: {open_for: 60s}";

async fn send(gateway: &Gateway, n: usize) {
    for _ in 0..n {
        gateway.chat(&chat_body("chat")).await.expect(200);
    }
}

#[tokio::test]
async fn a_failing_endpoint_gets_no_calls_and_comes_back_after_healing() {
    let (a, b) = (Upstream::start_with(Reply::status(500)), Upstream::start());
    let gateway = Gateway::start(&Setup::pair(&a, &b, &[QUICK])).await;
    send(&gateway, 5).await;
    gateway.wait_breaker("a", "open", secs(2)).await;
    let calls = a.calls();
    assert_eq!(calls, 5, "it opens after five failures in a row");
    a.set(Reply::Completion);
    eventually(secs(10), "a answers again", async || {
        gateway.chat(&chat_body("chat")).await.expect(200).need("x-breakwater-endpoint") == "a"
    })
    .await;
    eventually(secs(10), "the breaker of a is closed", async || {
        gateway.chat(&chat_body("chat")).await.expect(200);
        gateway.breaker("a").await == "closed"
    })
    .await;
}

#[tokio::test]
async fn an_open_endpoint_is_left_alone() {
    let (a, b) = (Upstream::start_with(Reply::status(500)), Upstream::start());
    let gateway = Gateway::start(&Setup::pair(&a, &b, &[LONG])).await;
    send(&gateway, 5).await;
    gateway.wait_breaker("a", "open", secs(2)).await;
    let calls = a.calls();
    send(&gateway, 50).await;
    assert_eq!((calls, a.calls()), (5, 5));
    let breaker = gateway.endpoint("a").await["breaker"].clone();
    assert!(breaker["retry_at"].is_string(), "{breaker}");
    assert!(breaker["reason"].as_str().is_some_and(|r| !r.is_empty()), "{breaker}");
    assert!(breaker["since"].is_string(), "{breaker}");
}

#[tokio::test]
async fn half_of_the_calls_failing_opens_it_at_the_tenth_and_not_before() {
    let (a, b) = (Upstream::start_with(Reply::FailEvery(2)), Upstream::start());
    let gateway = Gateway::start(&Setup::pair(&a, &b, &[LONG])).await;
    send(&gateway, 9).await;
    assert_eq!(gateway.breaker("a").await, "closed");
    send(&gateway, 1).await;
    gateway.wait_breaker("a", "open", secs(2)).await;
    assert_eq!(a.calls(), 10);
}

#[tokio::test]
async fn a_failed_probe_opens_it_again() {
    let (a, b) = (Upstream::start_with(Reply::status(500)), Upstream::start());
    let gateway = Gateway::start(&Setup::pair(&a, &b, &[QUICK])).await;
    send(&gateway, 5).await;
    let before = a.calls();
    let until = Instant::now() + ms(1500);
    while Instant::now() < until {
        send(&gateway, 1).await;
    }
    let probes = a.calls() - before;
    assert!((1..=6).contains(&probes), "{probes} probes in 1.5 s");
    assert_ne!(gateway.breaker("a").await, "closed");
}

#[tokio::test]
async fn streams_that_break_after_content_open_it() {
    let (a, b) = (Upstream::start_with(Reply::CutEvents(text_event("All "))), Upstream::start());
    let gateway = Gateway::start(&Setup::pair(&a, &b, &[LONG])).await;
    for _ in 0..5 {
        gateway.chat(&stream_body("chat")).await.expect(200);
    }
    gateway.wait_breaker("a", "open", secs(2)).await;
}

#[tokio::test]
async fn answers_about_the_request_and_limits_never_open_it() {
    for reply in [Reply::status(400), Reply::status(422)] {
        let a = Upstream::start_with(reply);
        let gateway = Gateway::start(&Setup::single(&a)).await;
        for _ in 0..30 {
            gateway.chat(&chat_body("chat")).await;
        }
        assert_eq!(a.calls(), 30);
        assert_eq!(gateway.breaker("a").await, "closed");
    }
}

#[tokio::test]
async fn all_open_is_503_with_a_true_retry_after_or_one_probe() {
    let a = Upstream::start_with(Reply::status(500));
    let setup =
        Setup::new().endpoint("a", &a, &[LONG]).route("chat", "priority", &["a"], &["retry: {max_attempts: 1}"]);
    let gateway = Gateway::start(&setup).await;
    for _ in 0..5 {
        gateway.chat(&chat_body("chat")).await.expect_error(502, "upstream_failed");
    }
    gateway.wait_breaker("a", "open", secs(2)).await;
    let refusals = {
        let mut refusals = vec![];
        for _ in 0..5 {
            let answer = gateway.chat(&chat_body("chat")).await;
            if answer.status == 503 {
                answer.expect_error(503, "no_endpoint_available");
                refusals.push(answer.need("retry-after").parse::<u64>().unwrap());
            } else {
                answer.expect_error(502, "upstream_failed");
            }
        }
        refusals
    };
    assert!(refusals.len() >= 4, "at most one call as a probe: {refusals:?}");
    assert!(
        refusals.iter().all(|s| (40..=150).contains(s)),
        "60 s, half as much again or twice after a failed probe: {refusals:?}"
    );
    assert!(a.calls() <= 6, "{}", a.calls());
}

#[tokio::test]
async fn an_operator_trips_and_resets() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let mut gateway = Gateway::start(&Setup::pair(&a, &b, &[])).await;
    gateway.admin("POST", "/admin/endpoints/a/trip", Some(&json!({"reason": "vendor maintenance"}))).await.expect(200);
    send(&gateway, 10).await;
    assert_eq!((a.calls(), b.calls()), (0, 10));
    let breaker = gateway.endpoint("a").await["breaker"].clone();
    assert_eq!(breaker["state"], "forced_open");
    assert!(breaker["reason"].as_str().is_some_and(|r| r.contains("vendor maintenance")), "{breaker}");

    gateway.restart().await;
    assert_eq!(gateway.breaker("a").await, "forced_open");
    send(&gateway, 10).await;
    assert_eq!((a.calls(), b.calls()), (0, 20));

    gateway
        .admin("POST", "/admin/endpoints/a/reset", Some(&json!({"reason": "maintenance is over"})))
        .await
        .expect(200);
    send(&gateway, 10).await;
    assert_eq!((a.calls(), b.calls()), (10, 20));
    gateway.restart().await;
    assert_eq!(gateway.breaker("a").await, "closed", "a reset survives as well");

    let audit = gateway.admin_get("/admin/audit").await.to_string();
    for act in ["vendor maintenance", "maintenance is over"] {
        assert!(audit.contains(act), "{act} in {audit}");
    }
}

#[tokio::test]
async fn a_trip_for_a_time_ends_by_itself() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let gateway = Gateway::start(&Setup::pair(&a, &b, &["breaker: {ramp: 0s}"])).await;
    gateway.admin("POST", "/admin/endpoints/a/trip", Some(&json!({"reason": "drill", "for": "1s"}))).await.expect(200);
    let tripped = Instant::now();
    send(&gateway, 3).await;
    assert_eq!(a.calls(), 0);
    eventually(secs(5), "a gets calls again", async || {
        send(&gateway, 1).await;
        a.calls() > 0
    })
    .await;
    assert!(tripped.elapsed() >= ms(950), "{:?}", tripped.elapsed());
}

#[tokio::test]
async fn a_reset_closes_an_open_breaker_and_clears_its_window() {
    let (a, b) = (Upstream::start_with(Reply::status(500)), Upstream::start());
    let gateway = Gateway::start(&Setup::pair(&a, &b, &["breaker: {open_for: 60s, ramp: 0s}"])).await;
    send(&gateway, 5).await;
    gateway.wait_breaker("a", "open", secs(2)).await;
    a.set(Reply::Completion);
    gateway.admin("POST", "/admin/endpoints/a/reset", Some(&json!({"reason": "fixed"}))).await.expect(200);
    let breaker = gateway.endpoint("a").await["breaker"].clone();
    assert_eq!((&breaker["state"], &breaker["calls"]), (&json!("closed"), &json!(0)), "{breaker}");
    send(&gateway, 3).await;
    assert_eq!(a.calls(), 8);
}

#[tokio::test]
async fn an_operators_call_for_an_unknown_endpoint_or_with_a_bad_body_is_refused() {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a)).await;
    gateway.admin("POST", "/admin/endpoints/nobody/trip", Some(&json!({"reason": "x"}))).await.expect(404);
    gateway.admin("POST", "/admin/endpoints/a/trip", Some(&json!({"reason": "x", "for": "soon"}))).await.expect(400);
    gateway.admin("POST", "/admin/endpoints/a/trip", Some(&json!({"reason": 7}))).await.expect(400);
    gateway.admin("POST", "/admin/endpoints/a/trip", Some(&Value::Null)).await.expect(400);
    assert_eq!(gateway.breaker("a").await, "closed");
}

#[tokio::test]
async fn a_refused_upstream_key_takes_the_endpoint_out_until_the_key_works() {
    let a = Upstream::start_with(Reply::NeedsKey("another key".into()));
    let b = Upstream::start();
    let setup = Setup::pair(&a, &b, &[QUICK]);
    let gateway = Gateway::start(&setup).await;
    send(&gateway, 5).await;
    eventually(secs(5), "a is out because of its key", async || {
        send(&gateway, 1).await;
        gateway.endpoint("a").await["paused"]["reason"] == "auth_failed"
    })
    .await;
    let calls = a.calls();
    assert!(calls <= 4, "{calls} calls with a key that is refused");
    a.set(Reply::NeedsKey("sk-upstream-a".into()));
    eventually(secs(20), "a answers again", async || {
        gateway.chat(&chat_body("chat")).await.expect(200).need("x-breakwater-endpoint") == "a"
    })
    .await;
}

#[tokio::test]
async fn a_refused_key_is_passed_over_while_the_provider_has_another() {
    let a = Upstream::start_with(Reply::NeedsKey("sk-second".into()));
    let b = Upstream::start();
    let setup = Setup::pair(&a, &b, &[]).upstream_key("a", "sk-first").spare_key("a", "sk-second");
    let gateway = Gateway::start(&setup).await;
    for _ in 0..60 {
        gateway.chat(&chat_body("chat")).await.expect(200);
    }
    // Each of the two workers may find out for itself, and at the start the list of models is asked for.
    let refused = a.calls() + b.calls() - 60;
    assert!((1..=3).contains(&refused), "{refused} calls with the refused key");
    assert_eq!(b.calls(), refused, "the other endpoint stood in only then");
}
