//! A caller that goes away: the upstream's call ends with it, because it is paid by the token.

use crate::support::upstream::text_event;
use crate::support::{Gateway, Reply, Setup, Upstream, chat_body, eventually, ms, secs, stream_body};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

/// Sends a chat request on a connection of its own and leaves it open.
fn request(gateway: &Gateway, body: &Value) -> TcpStream {
    let body = body.to_string();
    let mut stream = gateway.connect();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n";
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
    stream
}

/// Leaves, and fails unless the upstream sees the end within a second.
async fn leave(caller: TcpStream, gateway: &Gateway, a: &Upstream) {
    let left = Instant::now();
    drop(caller);
    eventually(secs(1), "the upstream's call is closed", async || a.hang_ups() == 1 && a.running() == 0).await;
    assert!(left.elapsed() < secs(1));
    let rows = gateway.wait_rows(1).await;
    assert_eq!(rows[0].get("outcome"), "cancelled");
    let endpoint = gateway.endpoint("a").await;
    assert_eq!(endpoint["breaker"]["state"], "closed");
    assert_eq!(endpoint["limits"]["concurrency"]["in_use"], 0, "{endpoint}");
}

#[tokio::test]
async fn leaving_before_a_unary_answer_closes_the_upstreams_call() {
    let a = Upstream::start_with(Reply::Hang);
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let caller = request(&gateway, &chat_body("chat"));
    eventually(secs(5), "the upstream is called", async || a.running() == 1).await;
    leave(caller, &gateway, &a).await;
}

#[tokio::test]
async fn leaving_before_a_streams_head_closes_the_upstreams_call() {
    let a = Upstream::start_with(Reply::Hang);
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let caller = request(&gateway, &stream_body("chat"));
    eventually(secs(5), "the upstream is called", async || a.running() == 1).await;
    leave(caller, &gateway, &a).await;
}

#[tokio::test]
async fn leaving_in_the_middle_of_a_stream_closes_the_upstreams_call() {
    let a = Upstream::start_with(Reply::Trickle { words: 1_000, gap: ms(20) });
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let mut caller = request(&gateway, &stream_body("chat"));
    read_until(&mut caller, "word3");
    leave(caller, &gateway, &a).await;
}

#[tokio::test]
async fn leaving_in_a_silent_gap_of_a_stream_closes_the_upstreams_call() {
    let a = Upstream::start_with(Reply::SilentAfter(text_event("first")));
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let mut caller = request(&gateway, &stream_body("chat"));
    read_until(&mut caller, "first");
    leave(caller, &gateway, &a).await;
}

#[tokio::test]
async fn a_hundred_callers_that_leave_leave_nothing_behind() {
    let a = Upstream::start_with(Reply::Hang);
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let callers: Vec<_> = (0..100).map(|_| request(&gateway, &chat_body("chat"))).collect();
    eventually(secs(10), "the upstream is called", async || a.running() == 100).await;
    drop(callers);
    eventually(secs(2), "all calls are closed", async || a.running() == 0).await;
    a.set(Reply::Completion);
    gateway.chat(&chat_body("chat")).await.expect(200);
    let rows = gateway.wait_rows(101).await;
    assert_eq!(rows.iter().filter(|r| r.get("outcome") == "cancelled").count(), 100);
}

fn read_until(caller: &mut TcpStream, word: &str) {
    let mut seen = Vec::new();
    let mut piece = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains(word) {
        let n = caller.read(&mut piece).expect("the stream goes on");
        assert!(n > 0, "the stream ended before {word}");
        seen.extend_from_slice(&piece[..n]);
    }
}
