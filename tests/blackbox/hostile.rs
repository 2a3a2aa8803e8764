//! Upstreams that would lead the gateway astray: to another address, into endless memory, into endless waiting.

use crate::support::upstream::text_event;
use crate::support::{Gateway, Reply, Setup, Upstream, chat_body, eventually, secs, stream_body};

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for status in [301, 302, 307, 308] {
        let (target, b) = (Upstream::start(), Upstream::start());
        let location = format!("{}/chat/completions", target.base_url());
        let a = Upstream::start_with(Reply::status_with(status, &[("location", &location)]));
        let gateway = Gateway::start(&Setup::pair(&a, &b, &[])).await;
        let answer = gateway.chat(&chat_body("chat")).await;
        assert_eq!(answer.expect(200).need("x-breakwater-endpoint"), "b", "{status}");
        assert_eq!(target.connections(), 0, "{status}: no key leaves for another address");
        let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), 2).await;
        assert_eq!((rows[0].get("endpoint"), rows[0].get("outcome")), ("a", "protocol"));
    }
}

#[tokio::test]
async fn an_endless_body_is_cut_and_memory_stays_flat() {
    let (a, b) = (Upstream::start_with(Reply::Endless), Upstream::start());
    let gateway = Gateway::start(&Setup::pair(&a, &b, &[])).await;
    gateway.chat(&chat_body("b")).await.expect(200);
    let before = gateway.resident_kib();
    for _ in 0..3 {
        let answer = gateway.chat(&chat_body("chat")).await;
        assert_eq!(answer.expect(200).need("x-breakwater-endpoint"), "b");
    }
    assert_eq!(a.calls(), 3);
    eventually(secs(5), "the calls are closed", async || a.running() == 0).await;
    eventually(secs(10), "the memory is back", async || gateway.resident_kib() < before + 64 * 1024).await;
}

#[tokio::test]
async fn a_base_url_in_a_request_changes_nothing() {
    let (a, target) = (Upstream::start(), Upstream::start());
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let mut body = chat_body("chat");
    for name in ["api_base", "base_url", "api_key", "provider", "endpoint"] {
        body[name] = target.base_url().into();
    }
    gateway.chat_with(&[("host", "metadata.google.internal")], &body).await.expect(200);
    assert_eq!((a.calls(), target.connections()), (1, 0));
    assert_eq!(a.last().header("authorization"), Some("Bearer sk-upstream-a"));
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive_with_comments() {
    let a = Upstream::start_with(Reply::SilentAfter(text_event("first")));
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let mut running = gateway.open(&stream_body("chat")).await;
    let mut text = String::new();
    let read = async {
        while !text.contains(": ping") {
            text += &String::from_utf8_lossy(&running.chunk().await.unwrap().expect("the stream goes on"));
        }
    };
    tokio::time::timeout(secs(20), read).await.expect("a comment every 15 s");
    assert!(text.contains("first"));
}

#[tokio::test]
async fn a_caller_that_does_not_read_holds_nothing_in_memory() {
    let flood: String = (0..200_000).map(|n| text_event(&format!("word{n} "))).collect();
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a)).await;
    gateway.chat(&chat_body("chat")).await.expect(200);
    let before = gateway.resident_kib();
    a.set(Reply::Events(flood));
    let body = stream_body("chat");
    let held = futures_util::future::join_all((0..5).map(|_| gateway.open(&body))).await;
    assert!(held.iter().all(|h| h.status() == 200));
    assert_eq!(a.running(), 5, "the upstream waits for the callers");
    let until = std::time::Instant::now() + secs(2);
    eventually(secs(5), "memory was watched for two seconds", async || {
        assert!(gateway.resident_kib() < before + 64 * 1024, "{} KiB, {before} before", gateway.resident_kib());
        std::time::Instant::now() > until
    })
    .await;
    drop(held);
}
