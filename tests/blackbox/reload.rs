//! `POST /admin/reload`: another configuration takes over while requests run, a bad one changes nothing.

use crate::support::{Gateway, Reply, Setup, Upstream, chat_body, eventually, secs};

/// Writes another configuration and reloads it.
async fn reload(gateway: &Gateway, setup: &Setup) -> crate::support::Answer {
    std::fs::write(gateway.config(), setup.yaml(&gateway.store())).unwrap();
    gateway.admin("POST", "/admin/reload", None).await
}

async fn answered_by(gateway: &Gateway, model: &str) -> String {
    gateway.chat(&chat_body(model)).await.expect(200).need("x-breakwater-endpoint").to_owned()
}

#[tokio::test]
async fn a_good_one_is_swapped_in_and_says_what_changed() {
    let (a, b) = (Upstream::start(), Upstream::start());
    // The keys of later providers have to be in the environment from the start.
    let setup = Setup::single(&a).env("UPSTREAM_KEY_B", "sk-upstream-b");
    let gateway = Gateway::start(&setup).await;
    assert_eq!(answered_by(&gateway, "chat").await, "a");
    let next = Setup::new()
        .endpoint("a", &a, &["weight: 3"])
        .endpoint("b", &b, &[])
        .route("chat", "priority", &["b", "a"], &[])
        .route("more", "priority", &["a"], &[]);
    let told = reload(&gateway, &next).await.expect(200).json();
    let text = told["changes"].to_string();
    for change in ["\"b\"", "\"more\"", "weight"] {
        assert!(text.contains(change), "{change} in {told}");
    }
    assert_eq!(answered_by(&gateway, "chat").await, "b");
    assert_eq!(answered_by(&gateway, "more").await, "a");
    let gone = reload(&gateway, &setup).await.expect(200).json();
    assert!(gone["changes"].to_string().contains("removed"), "{gone}");
    gateway.chat(&chat_body("more")).await.expect_error(404, "model_not_found");
    assert_eq!(answered_by(&gateway, "chat").await, "a");
}

#[tokio::test]
async fn endpoints_keep_their_state() {
    let (a, b) = (Upstream::start_with(Reply::status(500)), Upstream::start());
    let settings = ["breaker: {open_for: 60s}"];
    let gateway = Gateway::start(&Setup::pair(&a, &b, &settings)).await;
    for _ in 0..5 {
        gateway.chat(&chat_body("chat")).await.expect(200);
    }
    gateway.wait_breaker("a", "open", secs(2)).await;
    gateway.chat(&chat_body("chat")).await.expect(200);
    let totals = async || gateway.endpoint("b").await["totals"].clone();
    eventually(secs(5), "all successes are counted", async || totals().await["successes"] == 6).await;
    let before = totals().await;
    let next = Setup::pair(&a, &b, &settings).route("more", "priority", &["a", "b"], &[]);
    reload(&gateway, &next).await.expect(200);
    assert_eq!(gateway.breaker("a").await, "open");
    assert_eq!(totals().await, before);
    assert_eq!(answered_by(&gateway, "more").await, "b");
    assert_eq!(a.calls(), 5);
}

#[tokio::test]
async fn a_bad_one_changes_nothing() {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let bad = Setup::single(&a).route("more", "cheapest", &["nobody"], &[]);
    let answer = reload(&gateway, &bad).await;
    let text = answer.expect(400).text();
    for fault in ["routes.more.strategy", "routes.more.endpoints"] {
        assert!(text.contains(fault), "{fault} in {text}");
    }
    assert_eq!(answered_by(&gateway, "chat").await, "a");
    gateway.chat(&chat_body("more")).await.expect_error(404, "model_not_found");
}

#[tokio::test]
async fn requests_beside_reloads_are_all_answered() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let one = Setup::pair(&a, &b, &[]);
    let two = Setup::pair(&b, &a, &[]);
    let gateway = Gateway::start(&one).await;
    let done = std::cell::Cell::new(false);
    let traffic = async {
        let mut n = 0;
        while !done.get() {
            gateway.chat(&chat_body("chat")).await.expect(200);
            n += 1;
        }
        n
    };
    let reloads = async {
        for n in 0..20 {
            reload(&gateway, if n % 2 == 0 { &two } else { &one }).await.expect(200);
        }
        done.set(true);
    };
    let (n, ()) = futures_util::future::join(traffic, reloads).await;
    assert!(n > 20, "{n}");
}
