//! Failure domains: when half of the endpoints that share one go down together, the rest is shut before it fails as well.

use crate::support::{Gateway, Reply, Setup, Upstream, chat_body, eventually, ms, secs};
use futures_util::future::join;
use serde_json::json;

const SHARED: &str = "domain: [vendor]";

/// `a`, `b` and `c` share a domain, `d` does not. `down-a`, `down-b` and `only-c` ask for one of them, `chat` for `c` before `d`.
fn setup(a: &Upstream, b: &Upstream, c: &Upstream, d: &Upstream, of_c: &[&str]) -> Setup {
    let breaker = "breaker: {open_for: 60s, jitter: 0}";
    let of_c: Vec<&str> = of_c.iter().copied().chain([SHARED]).collect();
    Setup::new()
        .top("domains: {open_for: 30s}")
        .endpoint("a", a, &[SHARED, breaker])
        .endpoint("b", b, &[SHARED, breaker])
        .endpoint("c", c, &of_c)
        .endpoint("d", d, &[])
        .route("down-a", "priority", &["a"], &["retry: {max_attempts: 1}"])
        .route("down-b", "priority", &["b"], &["retry: {max_attempts: 1}"])
        .route("only-c", "priority", &["c"], &[])
        .route("chat", "priority", &["c", "d"], &[])
}

/// Has `a` and `b` fail so often, and waits until `c` is held for it.
async fn fail(gateway: &Gateway, times: usize) {
    for model in ["down-a", "down-b"] {
        for _ in 0..times {
            gateway.chat(&chat_body(model)).await.expect(502);
        }
    }
    held(gateway, json!("vendor")).await;
}

/// Waits until this domain is open for `c`.
async fn held(gateway: &Gateway, by: serde_json::Value) {
    eventually(secs(5), &format!("c is held by {by}"), async || gateway.endpoint("c").await["domains"]["open"] == by)
        .await;
}

#[tokio::test]
async fn lost_connections_shut_the_rest_but_for_one_probe_whose_success_opens_it() {
    let (c, d) = (Upstream::start_with(Reply::Slow(ms(800))), Upstream::start());
    let gateway = Gateway::start(&setup(&Upstream::refusing(), &Upstream::refusing(), &c, &d, &[])).await;
    gateway.chat(&chat_body("chat")).await.expect(200);
    assert_eq!((c.calls(), d.calls()), (1, 0));
    // Three each: no breaker has opened yet.
    fail(&gateway, 3).await;
    assert_eq!((gateway.breaker("a").await, gateway.breaker("b").await), ("closed".into(), "closed".into()));
    let view = gateway.endpoint("c").await;
    assert_eq!(view["domains"]["member_of"], json!(["vendor"]));
    assert!(view["domains"]["retry_at"].is_string(), "{view}");
    assert!(gateway.endpoint("d").await["domains"]["open"].is_null());
    let metrics = gateway.get("/metrics").await.text();
    assert!(metrics.contains("breakwater_endpoint_domain_open{endpoint=\"c\"} 1"));
    assert!(metrics.contains("breakwater_endpoint_domain_open{endpoint=\"d\"} 0"));

    let body = chat_body("chat");
    let second = async {
        eventually(secs(5), "the probe runs", async || c.running() == 1).await;
        let answer = gateway.chat(&body).await;
        assert_eq!(answer.expect(200).need("x-breakwater-endpoint"), "d");
        let id = answer.need("x-breakwater-request-id");
        let record = gateway.admin_get(&format!("/admin/decisions/{id}")).await;
        let last = record["decision"]["candidates"][1].clone();
        assert_eq!((&last["endpoint"], &last["refusal"]), (&json!("c"), &json!("domain_open")), "{record}");
    };
    let (probe, ()) = join(gateway.chat(&body), second).await;
    assert_eq!(probe.expect(200).need("x-breakwater-endpoint"), "c");
    held(&gateway, json!(null)).await;
    assert!(gateway.log().contains("failure domain is open") && gateway.log().contains("failure domain closed"));
    let again = gateway.chat(&body).await;
    assert_eq!(again.expect(200).need("x-breakwater-endpoint"), "c", "it is open for all again");
}

#[tokio::test]
async fn a_probe_that_fails_leaves_it_shut_for_the_period() {
    let down = || Upstream::start_with(Reply::status(500));
    let (a, b, c, d) = (down(), down(), down(), Upstream::start());
    let gateway = Gateway::start(&setup(&a, &b, &c, &d, &[])).await;
    fail(&gateway, 5).await;
    assert_eq!((gateway.breaker("a").await, gateway.breaker("b").await), ("open".into(), "open".into()));
    for _ in 0..10 {
        gateway.chat(&chat_body("chat")).await.expect(200);
    }
    assert_eq!((c.calls(), d.calls()), (1, 10), "one probe, then nothing more");
    assert_eq!(gateway.breaker("c").await, "closed");
    // Nothing else is left, and nothing can be probed: said with the true time.
    let refused = gateway.chat(&chat_body("only-c")).await;
    refused.expect_error(503, "no_endpoint_available");
    let wait: u64 = refused.need("retry-after").parse().unwrap();
    assert!((20..=30).contains(&wait), "{wait} s");
    // An operator closes a member: the domain is seen working.
    gateway.admin("POST", "/admin/endpoints/a/reset", Some(&json!({"reason": "mended"}))).await.expect(200);
    held(&gateway, json!(null)).await;
}

#[tokio::test]
async fn nothing_available_is_not_said_while_a_probe_is_left_or_under_way() {
    let c = Upstream::start_with(Reply::Slow(ms(400)));
    let waits = ["breaker: {reopen_wait: 40s}"];
    let setup = setup(&Upstream::refusing(), &Upstream::refusing(), &c, &Upstream::start(), &waits);
    let gateway = Gateway::start(&setup).await;
    fail(&gateway, 3).await;
    let body = chat_body("only-c");
    let second = async {
        eventually(secs(5), "the probe runs", async || c.running() == 1).await;
        gateway.chat(&body).await
    };
    let (probe, second) = join(gateway.chat(&body), second).await;
    probe.expect(200);
    second.expect(200);
    assert_eq!(c.calls(), 2, "it waited for the probe's verdict, not for the period's end");
    held(&gateway, json!(null)).await;
}

#[tokio::test]
async fn it_outlives_an_actor_and_the_process() {
    let down = || Upstream::start_with(Reply::status(500));
    let (a, b, c, d) = (down(), down(), down(), Upstream::start());
    let hooks = setup(&a, &b, &c, &d, &[]).env("BREAKWATER_TEST_HOOKS", "1");
    let mut gateway = Gateway::start(&hooks).await;
    fail(&gateway, 5).await;
    gateway.chat(&chat_body("chat")).await.expect(200);
    assert_eq!(c.calls(), 1, "the probe");
    for endpoint in ["a", "c"] {
        let before = gateway.endpoint(endpoint).await["generation"].clone();
        let answer = gateway.admin("POST", &format!("/admin/test/panic/{endpoint}"), None).await;
        assert!((200..300).contains(&answer.status));
        eventually(secs(5), "it is back", async || gateway.endpoint(endpoint).await["generation"] != before).await;
    }
    gateway.chat(&chat_body("chat")).await.expect(200);
    assert_eq!((c.calls(), gateway.endpoint("c").await["domains"]["open"].clone()), (1, json!("vendor")));

    gateway.kill();
    gateway.start_again().await;
    held(&gateway, json!("vendor")).await;
    for _ in 0..5 {
        gateway.chat(&chat_body("chat")).await.expect(200);
    }
    assert_eq!(c.calls(), 2, "a new period has a new probe, no more");
}
