//! Streams, byte by byte: what comes in goes out, when it came in.

use crate::support::upstream::{WORDS, closing_events, text_event};
use crate::support::{Gateway, Reply, Setup, Upstream, eventually, ms, secs, stream_body};
use std::time::Instant;

async fn gateway_for(a: &Upstream) -> Gateway {
    Gateway::start(&Setup::single(a)).await
}

#[tokio::test]
async fn a_stream_arrives_whole_in_order_and_ends_once() {
    let a = Upstream::start();
    let gateway = gateway_for(&a).await;
    let answer = gateway.chat(&stream_body("chat")).await;
    assert!(answer.expect(200).need("content-type").starts_with("text/event-stream"));
    let sse = answer.sse();
    assert_eq!(sse.content(), WORDS.concat());
    assert_eq!(sse.dones(), 1);
    assert_eq!(sse.data.last().unwrap(), "[DONE]");
    assert_eq!(a.last().json()["stream"], true);
}

#[tokio::test]
async fn events_leave_when_they_come() {
    let a = Upstream::start_with(Reply::Trickle { words: 5, gap: ms(200) });
    let gateway = gateway_for(&a).await;
    let mut response = gateway.open(&stream_body("chat")).await;
    let began = Instant::now();
    let mut arrivals = vec![];
    let mut seen = String::new();
    while let Some(piece) = response.chunk().await.unwrap() {
        seen.push_str(&String::from_utf8_lossy(&piece));
        let words = seen.matches("word").count();
        while arrivals.len() < words {
            arrivals.push(began.elapsed());
        }
    }
    assert_eq!(arrivals.len(), 5);
    let spread = arrivals[4].saturating_sub(arrivals[0]);
    assert!(spread >= ms(600), "the words came one by one: {arrivals:?}");
}

#[tokio::test]
async fn odd_but_legal_line_ends_and_fields_pass_through() {
    let first = text_event("All ").replace("\n\n", "\r\n\r\n");
    let second = format!(": a remark\nid: 7\nevent: message\n{}", text_event("is well"));
    let a = Upstream::start_with(Reply::Events(format!("\u{feff}{first}{second}{}", closing_events())));
    let gateway = gateway_for(&a).await;
    let answer = gateway.chat(&stream_body("chat")).await;
    let sse = answer.expect(200).sse();
    assert_eq!(sse.content(), "All is well");
    assert_eq!(sse.dones(), 1);
}

#[tokio::test]
async fn silence_within_a_stream_ends_it_with_an_error() {
    let a = Upstream::start_with(Reply::SilentAfter(text_event("All ")));
    let setup = Setup::new().endpoint("a", &a, &["timeouts: {idle: 500ms}"]).route("chat", "priority", &["a"], &[]);
    let gateway = Gateway::start(&setup).await;
    let answer = gateway.chat(&stream_body("chat")).await;
    let sse = answer.expect(200).sse();
    assert_eq!(sse.content(), "All ");
    assert_eq!(sse.dones(), 0);
    assert!(sse.error().is_some(), "{}", answer.text());
    eventually(secs(1), "the upstream's call is closed", async || a.hang_ups() == 1).await;
}

#[tokio::test]
async fn many_streams_at_once_do_not_mix() {
    let a = Upstream::start_with(Reply::Trickle { words: 20, gap: ms(5) });
    let gateway = gateway_for(&a).await;
    let body = stream_body("chat");
    let expected: String = (0..20).map(|n| format!("word{n} ")).collect();
    for answer in futures_util::future::join_all((0..50).map(|_| gateway.chat(&body))).await {
        let sse = answer.expect(200).sse();
        assert_eq!(sse.content(), expected);
        assert_eq!(sse.dones(), 1);
    }
}
