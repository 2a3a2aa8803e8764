//! A polite stop: what runs finishes, nothing new begins, the exit code is 0.

use crate::support::upstream::text_event;
use crate::support::{Gateway, Reply, Setup, Sse, Upstream, chat_body, eventually, ms, secs, stream_body};
use futures_util::future::join_all;

#[tokio::test]
async fn running_streams_and_requests_finish() {
    let a = Upstream::start_with(Reply::Trickle { words: 15, gap: ms(100) });
    let slow = Upstream::start_with(Reply::Slow(ms(1_000)));
    let setup = Setup::new()
        .endpoint("a", &a, &[])
        .endpoint("slow", &slow, &[])
        .route("chat", "priority", &["a"], &[])
        .server("drain: 20s");
    let mut gateway = Gateway::start(&setup).await;
    let (streamed, unary) = (stream_body("chat"), chat_body("slow"));
    let streams = join_all((0..20).map(|_| gateway.chat(&streamed)));
    let requests = join_all((0..10).map(|_| gateway.chat(&unary)));
    let stop = async {
        eventually(secs(10), "everything runs", async || a.running() == 20 && slow.running() == 10).await;
        gateway.terminate();
    };
    let (streams, requests, ()) = futures_util::future::join3(streams, requests, stop).await;
    for answer in streams {
        let sse = answer.expect(200).sse();
        assert_eq!((sse.dones(), sse.content().matches("word").count()), (1, 15));
    }
    assert!(requests.iter().all(|r| r.status == 200));
    let status = gateway.wait_exit(secs(20)).await;
    assert_eq!(status.code(), Some(0), "{}", gateway.log());
    let rows =
        crate::support::ledger::read_csv(&gateway.run(&["ledger", "export", "--format", "csv"]).expect(0).stdout);
    assert_eq!(rows.iter().filter(|r| r.get("outcome") == "success").count(), 30);
}

#[tokio::test]
async fn nothing_new_is_taken_while_the_rest_finishes() {
    let a = Upstream::start_with(Reply::Trickle { words: 30, gap: ms(100) });
    let mut gateway = Gateway::start(&Setup::single(&a)).await;
    let mut running = gateway.open(&stream_body("chat")).await;
    running.chunk().await.unwrap().unwrap();
    gateway.terminate();
    eventually(secs(2), "new connections are refused or told so", async || {
        let fresh = reqwest::Client::new().get(gateway.url("/health/ready")).send().await;
        fresh.map_or(true, |r| r.status() == 503)
    })
    .await;
    let mut text = String::new();
    while let Some(piece) = running.chunk().await.unwrap() {
        text += &String::from_utf8_lossy(&piece);
    }
    assert_eq!(Sse::read(&text).dones(), 1);
    assert_eq!(gateway.wait_exit(secs(10)).await.code(), Some(0));
}

#[tokio::test]
async fn a_stream_that_outlasts_the_drain_is_told_and_ended() {
    let a = Upstream::start_with(Reply::SilentAfter(text_event("first")));
    let mut gateway = Gateway::start(&Setup::single(&a).server("drain: 1s")).await;
    let mut running = gateway.open(&stream_body("chat")).await;
    let mut text = String::from_utf8_lossy(&running.chunk().await.unwrap().unwrap()).into_owned();
    gateway.terminate();
    while let Ok(Some(piece)) = running.chunk().await {
        text += &String::from_utf8_lossy(&piece);
    }
    let sse = Sse::read(&text);
    assert_eq!(sse.dones(), 0, "a cut stream never looks complete: {text}");
    assert!(sse.error().is_some(), "{text}");
    assert_eq!(gateway.wait_exit(secs(10)).await.code(), Some(0), "{}", gateway.log());
    eventually(secs(1), "the upstream's call is closed", async || a.running() == 0).await;
}

#[tokio::test]
async fn an_idle_gateway_stops_at_once() {
    let a = Upstream::start();
    let mut gateway = Gateway::start(&Setup::single(&a)).await;
    gateway.chat(&chat_body("chat")).await.expect(200);
    gateway.terminate();
    assert_eq!(gateway.wait_exit(secs(5)).await.code(), Some(0), "an idle keep-alive connection holds nothing up");
}
