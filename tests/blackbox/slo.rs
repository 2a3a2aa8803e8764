//! Ranking by time: the cheapest that is likely in time, and no money for a lost cause.

use crate::support::{Answer, Gateway, Reply, Setup, Upstream, chat_body, eventually, ms, secs};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::Instant;

/// `slow` costs a hundredth of `fast`; both have a history.
async fn with_history(
    slow: &Upstream,
    fast: &Upstream,
    route: &[&str],
    body_of: fn(&str) -> Value,
    n: usize,
) -> Gateway {
    let setup = Setup::new()
        .top("strategies: {explore: 0}")
        .endpoint("slow", slow, &["price: {input: 0.01, output: 0.01}"])
        .endpoint("fast", fast, &[])
        .route("chat", "cost_based", &["slow", "fast"], route);
    let gateway = Gateway::start(&setup).await;
    for model in ["slow", "fast"] {
        let body = body_of(model);
        for _ in 0..n.div_ceil(25) {
            join_all((0..25).map(|_| gateway.chat(&body))).await.iter().for_each(|a| {
                a.expect(200);
            });
        }
    }
    eventually(secs(5), "the actors have counted", async || {
        let counts = [gateway.endpoint("slow").await, gateway.endpoint("fast").await];
        counts.iter().all(|view| view["latency_ms"]["count"].as_u64() >= Some(n as u64))
    })
    .await;
    gateway
}

fn whole(model: &str) -> Value {
    chat_body(model)
}

fn streamed(model: &str) -> Value {
    let mut body = chat_body(model);
    body["stream"] = true.into();
    body
}

async fn decision(gateway: &Gateway, answer: &Answer) -> Value {
    gateway.admin_get(&format!("/admin/decisions/{}", answer.need("x-breakwater-request-id"))).await["decision"].clone()
}

#[tokio::test]
async fn with_a_deadline_the_cheapest_in_time_leads() {
    let (slow, fast) = (Upstream::start_with(Reply::Slow(ms(1_500))), Upstream::start());
    let gateway = with_history(&slow, &fast, &[], whole, 25).await;
    let at = |answer: &Answer| answer.expect(200).need("x-breakwater-endpoint").to_owned();
    assert_eq!(at(&gateway.chat(&whole("chat")).await), "slow", "the strategy's own choice");
    let hurried = gateway.chat_with(&[("x-breakwater-deadline-ms", "1200")], &whole("chat")).await;
    assert_eq!(at(&hurried), "fast");
    let told = decision(&gateway, &hurried).await;
    assert_eq!((&told["slo"]["within_ms"], &told["slo"]["measured"]), (&json!(1200.0), &json!("latency")), "{told}");
    let p = |i: usize| told["candidates"][i]["p_in_time"].as_f64().unwrap_or_else(|| panic!("{told}"));
    assert!(p(0) > 0.95 && p(1) < 0.05, "{told}");
    let patient = gateway.chat_with(&[("x-breakwater-deadline-ms", "30000")], &whole("chat")).await;
    assert_eq!(at(&patient), "slow", "both are in time, so the cheaper");
    let explained = gateway.post_with("/v1/explain", &[("x-breakwater-deadline-ms", "1200")], &whole("chat")).await;
    assert_eq!(explained.expect(200).json()["candidates"][0]["endpoint"], "fast");
}

#[tokio::test]
async fn streams_are_in_time_with_their_first_token() {
    let (slow, fast) = (Upstream::start_with(Reply::Slow(ms(1_500))), Upstream::start());
    let gateway = with_history(&slow, &fast, &["slo: {ttft: 1s, target: 0.9}"], streamed, 25).await;
    let at = |answer: &Answer| answer.expect(200).need("x-breakwater-endpoint").to_owned();
    let by_route = gateway.chat(&streamed("chat")).await;
    assert_eq!(at(&by_route), "fast");
    assert_eq!(decision(&gateway, &by_route).await["slo"]["measured"], "time_to_first_token");
    assert_eq!(at(&gateway.chat(&whole("chat")).await), "slow", "a whole answer has no first token");
    let patient = gateway.chat_with(&[("x-breakwater-ttft-ms", "20000")], &streamed("chat")).await;
    assert_eq!(at(&patient), "slow", "the caller's wish goes before the route's");
    let never = gateway.chat_with(&[("x-breakwater-ttft-ms", "1")], &streamed("chat")).await;
    // A wish that nobody keeps is no reason to refuse.
    never.expect(200);
}

#[tokio::test]
async fn a_deadline_that_nobody_keeps_is_refused_unpaid_with_the_numbers() {
    let slow = || Upstream::start_with(Reply::Slow(ms(300)));
    let (a, b) = (slow(), slow());
    let gateway = with_history(&a, &b, &[], whole, 100).await;
    let (before, began) = (a.calls() + b.calls(), Instant::now());
    let refused = gateway.chat_with(&[("x-breakwater-deadline-ms", "100")], &whole("chat")).await;
    refused.expect_error(504, "deadline_exceeded");
    assert!(began.elapsed() < ms(90), "before the deadline: {:?}", began.elapsed());
    assert!(
        refused.text().contains("100 ms") && refused.text().contains("0.0 % of its last 100"),
        "{}",
        refused.text()
    );
    assert_eq!(a.calls() + b.calls(), before, "nothing was sent");
    gateway.chat_with(&[("x-breakwater-deadline-ms", "20000")], &whole("chat")).await.expect(200);
}
