//! A first endpoint that fails in every way there is before content, and a second one that answers.

use crate::support::upstream::{error_body, text_event};
use crate::support::{Gateway, Reply, Setup, Upstream, chat_body, ms, secs, stream_body};
use serde_json::Value;
use std::time::Instant;

/// Asks `chat`, whose first endpoint `a` does as told, and fails unless `b` gave the one answer. Gives the outcome that the ledger
/// has for `a`.
async fn outcome_of(reply: Reply) -> String {
    outcome_with(Upstream::start_with(reply), &[]).await
}

async fn outcome_with(a: Upstream, settings: &[&str]) -> String {
    outcome_for(a, settings, &chat_body("chat")).await
}

async fn outcome_for(a: Upstream, settings: &[&str], body: &Value) -> String {
    let b = Upstream::start();
    let gateway = Gateway::start(&Setup::pair(&a, &b, settings)).await;
    let answer = gateway.chat(body).await;
    answer.expect(200);
    assert_eq!(answer.need("x-breakwater-endpoint"), "b");
    assert_eq!(answer.need("x-breakwater-attempts"), "2");
    let content = if body["stream"] == true {
        let sse = answer.sse();
        assert_eq!(sse.dones(), 1, "{}", answer.text());
        assert!(sse.error().is_none(), "{}", answer.text());
        sse.content()
    } else {
        answer.json()["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(content, "All is well here.");
    assert_eq!(b.calls(), 1);
    let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), 2).await;
    assert_eq!((rows[0].get("endpoint"), rows[1].get("endpoint")), ("a", "b"));
    assert_eq!(rows[1].get("outcome"), "success");
    rows[0].get("outcome").to_owned()
}

#[tokio::test]
async fn on_a_refused_connection() {
    assert_eq!(outcome_with(Upstream::refusing(), &[]).await, "connect_failed");
}

#[tokio::test]
async fn on_a_connection_closed_without_an_answer() {
    assert_eq!(outcome_of(Reply::Close).await, "connect_failed");
}

#[tokio::test]
async fn on_a_first_byte_timeout() {
    let a = Upstream::start_with(Reply::Hang);
    assert_eq!(outcome_with(a, &["timeouts: {first_byte: 300ms}"]).await, "uncertain");
}

#[tokio::test]
async fn on_a_deadline_half_of_which_a_silent_endpoint_has_used() {
    let (a, b) = (Upstream::start_with(Reply::Hang), Upstream::start());
    let gateway = Gateway::start(&Setup::pair(&a, &b, &[])).await;
    let began = Instant::now();
    let answer = gateway.chat_with(&[("x-breakwater-deadline-ms", "2000")], &chat_body("chat")).await;
    answer.expect(200);
    assert_eq!(answer.need("x-breakwater-endpoint"), "b");
    assert!(began.elapsed() < secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn on_server_errors() {
    for (status, outcome) in
        [(500, "server_error"), (502, "server_error"), (503, "unavailable"), (504, "server_error"), (529, "overloaded")]
    {
        assert_eq!(outcome_of(Reply::status(status)).await, outcome, "{status}");
    }
}

#[tokio::test]
async fn on_408() {
    assert_eq!(outcome_of(Reply::status(408)).await, "upstream_timeout");
}

#[tokio::test]
async fn on_a_model_that_the_upstream_does_not_have() {
    assert_eq!(outcome_of(Reply::status(404)).await, "model_not_found");
}

#[tokio::test]
async fn on_a_malformed_body() {
    let json = "application/json";
    for (content_type, body) in [
        (json, "{"),
        (json, ""),
        (json, "null"),
        (json, "{}"),
        (json, "{\"choices\":\"none\"}"),
        ("text/html", "<html>maintenance</html>"),
        (json, "\u{fffd}\0garbage"),
    ] {
        let reply = Reply::Body { content_type, body: body.into() };
        assert_eq!(outcome_of(reply).await, "protocol", "{body}");
    }
}

#[tokio::test]
async fn on_a_200_with_an_error_in_it() {
    let reply = Reply::Body { content_type: "application/json", body: error_body("the server had an error").into() };
    let outcome = outcome_of(reply).await;
    assert!(["protocol", "server_error"].contains(&outcome.as_str()), "{outcome}");
}

#[tokio::test]
async fn on_a_stream_that_begins_with_an_error() {
    let events = format!("data: {}\n\n", error_body("the server had an error"));
    let outcome = outcome_for(Upstream::start_with(Reply::Events(events)), &[], &stream_body("chat")).await;
    assert!(["protocol", "server_error"].contains(&outcome.as_str()), "{outcome}");
}

#[tokio::test]
async fn on_a_stream_without_content() {
    for events in ["", "data: [DONE]\n\n", "data: {\n\n", ": only a comment\n\n"] {
        let a = Upstream::start_with(Reply::Events(events.into()));
        assert_eq!(outcome_for(a, &[], &stream_body("chat")).await, "protocol", "{events}");
    }
}

#[tokio::test]
async fn on_a_stream_cut_before_content() {
    let head =
        r#"data: {"id":"x","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
    let a = Upstream::start_with(Reply::CutEvents(format!("{head}\n\n")));
    let outcome = outcome_for(a, &[], &stream_body("chat")).await;
    assert_ne!(outcome, "success");
    assert_ne!(outcome, "partial", "nothing was delivered");
}

#[tokio::test]
async fn on_429_which_pauses_the_endpoint_for_as_long_as_it_says() {
    let (a, b) = (Upstream::start_with(Reply::status_with(429, &[("retry-after", "2")])), Upstream::start());
    let gateway = Gateway::start(&Setup::pair(&a, &b, &[])).await;
    let paused = Instant::now();
    let first = gateway.chat(&chat_body("chat")).await;
    assert_eq!(first.expect(200).need("x-breakwater-endpoint"), "b");
    a.set(Reply::Completion);
    let mut calls_while_paused = 0;
    loop {
        let sent = Instant::now();
        let answer = gateway.chat(&chat_body("chat")).await;
        if answer.expect(200).need("x-breakwater-endpoint") == "a" {
            assert!(paused.elapsed() >= ms(1900), "a was called again after {:?}", paused.elapsed());
            break;
        }
        assert!(sent.duration_since(paused) < secs(4), "a was never called again");
        calls_while_paused += 1;
    }
    assert!(calls_while_paused > 0);
    assert_eq!(gateway.breaker("a").await, "closed", "a limit is no failure");
    let rows = gateway.rows_of(first.need("x-breakwater-request-id"), 2).await;
    assert_eq!((rows[0].get("outcome"), rows[0].get("http_status")), ("rate_limited", "429"));
}

#[tokio::test]
async fn all_paused_is_429_with_the_shortest_wait_and_no_call() {
    let a = Upstream::start_with(Reply::status_with(429, &[("retry-after", "60")]));
    let b = Upstream::start_with(Reply::status_with(429, &[("retry-after", "30")]));
    let setup = Setup::new()
        .endpoint("a", &a, &["limits: {max_wait: 0s}"])
        .endpoint("b", &b, &["limits: {max_wait: 0s}"])
        .route("chat", "priority", &["a", "b"], &[]);
    let gateway = Gateway::start(&setup).await;
    for _ in 0..3 {
        let answer = gateway.chat(&chat_body("chat")).await;
        answer.expect_error(429, "rate_limit_exceeded");
        let wait: u64 = answer.need("retry-after").parse().unwrap();
        assert!((25..=30).contains(&wait), "{wait}");
    }
    assert_eq!((a.calls(), b.calls()), (1, 1));
}

#[tokio::test]
async fn a_key_that_the_upstream_refuses_is_never_the_callers_401() {
    let a = Upstream::start_with(Reply::status(401));
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let answer = gateway.chat(&chat_body("chat")).await;
    answer.expect_error(502, "upstream_auth");
}

#[tokio::test]
async fn an_answer_about_the_request_itself_comes_back_unchanged() {
    for status in [400, 413, 415, 422] {
        let body = r#"{"error":{"message":"no such tool","type":"invalid_request_error","param":"tools[0]","code":"x"},"more":1}"#;
        let reply = Reply::Status { status, headers: vec![], body: body.into() };
        let (a, b) = (Upstream::start_with(reply), Upstream::start());
        let gateway = Gateway::start(&Setup::pair(&a, &b, &[])).await;
        let answer = gateway.chat(&chat_body("chat")).await;
        assert_eq!(answer.expect(status).text(), body);
        assert_eq!((a.calls(), b.calls()), (1, 0));
        assert_eq!(gateway.breaker("a").await, "closed");
    }
}

#[tokio::test]
async fn when_all_fail_the_answer_lists_the_attempts() {
    let (a, b) = (Upstream::start_with(Reply::status(500)), Upstream::start_with(Reply::Close));
    let setup = Setup::pair(&a, &b, &[]);
    let gateway = Gateway::start(&setup).await;
    let answer = gateway.chat_with(&[("x-breakwater-max-attempts", "2")], &chat_body("chat")).await;
    answer.expect_error(502, "upstream_failed");
    let body = answer.json();
    let attempts = body["error"]["attempts"].as_array().expect("attempts");
    let told: Vec<_> =
        attempts.iter().map(|a| (a["endpoint"].as_str().unwrap(), a["outcome"].as_str().unwrap())).collect();
    assert_eq!(told, [("a", "server_error"), ("b", "connect_failed")]);
    assert!(attempts.iter().all(|a| a["ms"].is_number()), "{body}");
}

#[tokio::test]
async fn one_attempt_means_one_call() {
    let (a, b) = (Upstream::start_with(Reply::status(500)), Upstream::start());
    let gateway = Gateway::start(&Setup::pair(&a, &b, &[])).await;
    let hint = [("x-breakwater-max-attempts", "1")];
    gateway.chat_with(&hint, &chat_body("chat")).await.expect_error(502, "upstream_failed");
    assert_eq!((a.calls(), b.calls()), (1, 0));
}

#[tokio::test]
async fn no_fallback_means_no_other_endpoint() {
    let (a, b) = (Upstream::start_with(Reply::status(500)), Upstream::start());
    let gateway = Gateway::start(&Setup::pair(&a, &b, &[])).await;
    let hint = [("x-breakwater-no-fallback", "true")];
    gateway.chat_with(&hint, &chat_body("chat")).await.expect_error(502, "upstream_failed");
    assert_eq!((a.calls(), b.calls()), (1, 0), "the first candidate, asked once");
    a.set(Reply::Completion);
    assert_eq!(gateway.chat_with(&hint, &chat_body("b")).await.expect(200).need("x-breakwater-endpoint"), "b");
}

#[tokio::test]
async fn a_deadline_that_passes_is_504() {
    let a = Upstream::start_with(Reply::Hang);
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let began = Instant::now();
    let answer = gateway.chat_with(&[("x-breakwater-deadline-ms", "400")], &chat_body("chat")).await;
    answer.expect_error(504, "deadline_exceeded");
    assert!((ms(380)..secs(3)).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_bad_event_after_content_never_looks_like_a_good_end() {
    let started = text_event("All ") + &text_event("is ");
    let faults = [
        Reply::CutEvents(started.clone()),
        Reply::Paced(started.clone()),
        Reply::Paced(format!("{started}data: {}\n\n", error_body("the server had an error"))),
        Reply::Paced(format!("{started}data: {{\n\n")),
    ];
    for fault in faults {
        let (a, b) = (Upstream::start_with(fault.clone()), Upstream::start());
        let gateway = Gateway::start(&Setup::pair(&a, &b, &[])).await;
        let answer = gateway.chat(&stream_body("chat")).await;
        let sse = answer.expect(200).sse();
        assert_eq!(sse.content(), "All is ", "{fault:?}");
        assert_eq!(sse.dones(), 0, "{fault:?}: {}", answer.text());
        assert!(sse.error().is_some(), "{fault:?}: {}", answer.text());
        assert_eq!(b.calls(), 0, "text is delivered once");
        let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), 1).await;
        assert_eq!(rows[0].get("outcome"), "partial");
    }
}

#[tokio::test]
async fn random_errors_are_ridden_out() {
    let upstreams: Vec<_> = (0..3).map(|_| Upstream::start_with(Reply::FailEvery(5))).collect();
    let setup = Setup::new()
        .endpoint("a", &upstreams[0], &[])
        .endpoint("b", &upstreams[1], &[])
        .endpoint("c", &upstreams[2], &[])
        .route("chat", "round_robin", &["a", "b", "c"], &[]);
    let gateway = Gateway::start(&setup).await;
    let mut failed = 0;
    for _ in 0..1_000 {
        failed += usize::from(gateway.chat(&chat_body("chat")).await.status != 200);
    }
    assert!(failed <= 3, "{failed} of 1,000 failed although each endpoint answers four of five calls");
}
