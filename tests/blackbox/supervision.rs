//! An endpoint's actor that panics: its supervisor brings it back with its state, and gives up on one that never holds.

use crate::support::{ADMIN_TOKEN, Gateway, Reply, Setup, Upstream, chat_body, eventually, ms, seconds, secs};
use std::time::Instant;

async fn start(a: &Upstream, b: &Upstream) -> Gateway {
    let setup = Setup::pair(a, b, &["breaker: {open_for: 60s}"]).env("BREAKWATER_TEST_HOOKS", "1");
    Gateway::start(&setup).await
}

async fn panic(gateway: &Gateway, endpoint: &str) {
    let answer = gateway.admin("POST", &format!("/admin/test/panic/{endpoint}"), None).await;
    assert!((200..300).contains(&answer.status), "{} {}", answer.status, answer.text());
}

/// Panics until the actor has come back `n` times.
async fn panic_and_return(gateway: &Gateway, n: u64) {
    for _ in 0..n {
        let before = generation(gateway).await;
        panic(gateway, "a").await;
        let began = Instant::now();
        // The backoff between restarts doubles from 100 ms; the first is back at once.
        eventually(secs(5), "the actor is back", async || generation(gateway).await > before).await;
        if n == 1 {
            assert!(began.elapsed() < ms(500), "{:?}", began.elapsed());
        }
    }
}

/// The number of the actor's present life.
async fn generation(gateway: &Gateway) -> u64 {
    let endpoint = gateway.endpoint("a").await;
    endpoint["generation"].as_u64().unwrap_or_else(|| panic!("generation in {endpoint}"))
}

#[tokio::test]
async fn a_panicked_actor_is_back_with_its_state() {
    let (a, b) = (Upstream::start_with(Reply::status(500)), Upstream::start());
    let gateway = start(&a, &b).await;
    for _ in 0..5 {
        gateway.chat(&chat_body("chat")).await.expect(200);
    }
    gateway.wait_breaker("a", "open", secs(2)).await;
    let before = gateway.endpoint("a").await;
    panic_and_return(&gateway, 1).await;
    let after = gateway.endpoint("a").await;
    assert_eq!(after["breaker"]["state"], "open");
    let retry_at = |view: &serde_json::Value| seconds(view["breaker"]["retry_at"].as_str().expect("retry_at"));
    assert!((retry_at(&after) - retry_at(&before)).abs() < 0.01, "{before} {after}");
    assert_eq!(after["totals"], before["totals"]);
    for _ in 0..5 {
        gateway.chat(&chat_body("chat")).await.expect(200);
    }
    assert_eq!(a.calls(), 5, "the open breaker held all the time");
}

#[tokio::test]
async fn requests_go_on_through_a_panic() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let gateway = start(&a, &b).await;
    for n in 0..60 {
        if n % 20 == 10 {
            panic(&gateway, "a").await;
        }
        gateway.chat(&chat_body("chat")).await.expect(200);
    }
    assert_eq!(a.calls() + b.calls(), 60);
    eventually(secs(5), "every success was counted", async || {
        let count = async |name: &str| gateway.endpoint(name).await["totals"]["successes"].as_u64().unwrap();
        count("a").await + count("b").await == 60
    })
    .await;
}

#[tokio::test]
async fn the_sixth_panic_within_a_minute_quarantines_and_says_so() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let gateway = start(&a, &b).await;
    panic_and_return(&gateway, 5).await;
    assert_eq!(gateway.endpoint("a").await["quarantined"], false);
    panic(&gateway, "a").await;
    eventually(secs(5), "a is quarantined", async || gateway.endpoint("a").await["quarantined"] == true).await;
    let calls = a.calls();
    for _ in 0..5 {
        assert_eq!(gateway.chat(&chat_body("chat")).await.expect(200).need("x-breakwater-endpoint"), "b");
    }
    assert_eq!(a.calls(), calls);
    assert_eq!(gateway.endpoint("b").await["quarantined"], false);
}

#[tokio::test]
async fn without_the_hook_the_call_does_not_exist() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let gateway = Gateway::start(&Setup::pair(&a, &b, &[])).await;
    let token = format!("Bearer {ADMIN_TOKEN}");
    gateway.send("POST", "/admin/test/panic/a", &[("authorization", &token)], "").await.expect(404);
}
