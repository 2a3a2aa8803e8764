//! Ends of the process, polite and not: what was acknowledged is there, what was known is still known.

use crate::providers::{alone, calls, faulty, pair, provider, with_profile};
use crate::support::ledger::{cost, read_csv};
use crate::support::{Gateway, Setup, Sse, chat_body, eventually, scaled, secs, stream_body};
use breakwater::sim::{FaultKind, Profile};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// Keeps asking over a connection of its own until the gateway dies; notes each answer that arrived whole.
async fn ask_until_it_dies(base: String, lane: String, acknowledged: Arc<Mutex<Vec<String>>>) {
    let client = reqwest::Client::new();
    for n in 0.. {
        let id = format!("{lane}-{n}");
        let request = client.post(format!("{base}/v1/chat/completions")).body(chat_body("chat").to_string());
        let request = request.header("content-type", "application/json").header("x-breakwater-request-id", &id);
        let Ok(response) = request.send().await else { return };
        let whole = response.status() == 200;
        if response.bytes().await.is_err() {
            return;
        }
        if whole {
            acknowledged.lock().unwrap().push(id);
        }
    }
}

#[tokio::test]
async fn twenty_kills_under_load() {
    let a = with_profile(Profile { keep_requests: 0, output_tokens: 4, ..Profile::new("a", &[]) });
    let mut gateway = Gateway::start(&alone(&a, &["limits: {concurrency: 1000}"]).store("durability: strict")).await;
    let kills = scaled(20, 50);
    let acknowledged = Arc::new(Mutex::new(vec![]));
    for round in 0..kills {
        let before = acknowledged.lock().unwrap().len();
        let lanes: Vec<_> = (0..32)
            .map(|lane| {
                let noted = Arc::clone(&acknowledged);
                tokio::spawn(ask_until_it_dies(gateway.base.clone(), format!("r{round}-{lane}"), noted))
            })
            .collect();
        // In the middle of it, at another point of the store's rhythm each time.
        let enough = before + 60 + round * 7;
        eventually(secs(20), "answers arrive", async || acknowledged.lock().unwrap().len() >= enough).await;
        gateway.kill();
        for lane in lanes {
            lane.await.unwrap();
        }
        if round % 5 == 4 {
            gateway.run(&["ledger", "verify"]).expect(0);
        }
        gateway.start_again().await;
    }
    let rows = gateway.rows().await;
    let found: BTreeSet<&str> =
        rows.iter().filter(|r| r.get("outcome") == "success").map(|r| r.get("request_id")).collect();
    let acknowledged = acknowledged.lock().unwrap().clone();
    assert!(acknowledged.len() >= kills * 60, "{} answers", acknowledged.len());
    let lost: Vec<_> = acknowledged.iter().filter(|id| !found.contains(id.as_str())).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged rows are lost: {lost:?}", lost.len(), acknowledged.len());
    assert_eq!(found.len(), rows.len(), "none is there twice");
    let sum = gateway.admin_get("/admin/ledger?group_by=endpoint").await["total"]["cost_nanousd"].as_i64();
    assert_eq!(sum, Some(cost(&rows)), "sums and rows agree after the kills");
    gateway.kill();
    gateway.run(&["ledger", "verify"]).expect(0);
}

#[tokio::test]
async fn killed_in_a_sixty_second_pause() {
    let fault = FaultKind::RateLimited { retry_after: Some("60".into()), retry_after_ms: None };
    let (a, b, c) = (faulty("a", fault), provider("b"), faulty("c", FaultKind::Quota));
    let setup = pair(&a, &b, &[]).endpoint_at("c", &c.base_url(), &[]).route("quota", "priority", &["c", "b"], &[]);
    let mut gateway = Gateway::start(&setup).await;
    for route in ["chat", "quota"] {
        gateway.chat(&chat_body(route)).await.expect(200);
    }
    let pauses = async |gateway: &Gateway| {
        let mut pauses = vec![];
        for name in ["a", "c"] {
            let paused = gateway.endpoint(name).await["paused"].clone();
            let until: jiff::Timestamp =
                paused["until"].as_str().unwrap_or_else(|| panic!("{name}: {paused}")).parse().unwrap();
            pauses.push((paused["reason"].clone(), until));
        }
        pauses
    };
    let before = pauses(&gateway).await;
    // Pauses are kept with the checkpoints, once a second.
    tokio::time::sleep(secs(2)).await;
    for _ in 0..2 {
        gateway.kill();
        gateway.start_again().await;
    }
    for ((reason, until), (was_reason, was)) in pauses(&gateway).await.into_iter().zip(&before) {
        assert_eq!(&reason, was_reason);
        assert!(until.duration_since(*was).unsigned_abs() < secs(1), "{reason}: until {until} instead of {was}");
    }
    for route in ["chat", "quota"] {
        assert_eq!(gateway.chat(&chat_body(route)).await.expect(200).need("x-breakwater-endpoint"), "b");
    }
    assert_eq!((calls(&a), calls(&c)), (1, 1));
}

#[tokio::test]
async fn sigterm_with_a_hundred_streams() {
    let paced = |name: &str, output_tokens| {
        with_profile(Profile { tokens_per_second: Some(10.0), output_tokens, ..Profile::new(name, &[]) })
    };
    let (short, long, hung) = (paced("short", 20), paced("long", 10_000), faulty("hung", FaultKind::Hang));
    let setup = Setup::new()
        .endpoint_at("short", &short.base_url(), &[])
        .endpoint_at("long", &long.base_url(), &[])
        .endpoint_at("hung", &hung.base_url(), &[])
        .route("chat", "priority", &["short"], &[])
        .server("drain: 5s");
    let mut gateway = Gateway::start(&setup).await;
    let running = |model: &'static str, count| {
        let requests = (0..count).map(|_| {
            let (base, body) = (gateway.base.clone(), stream_body(model).to_string());
            tokio::spawn(async move {
                let request = reqwest::Client::new().post(format!("{base}/v1/chat/completions")).body(body);
                let mut response = request.header("content-type", "application/json").send().await?;
                let (status, mut text) = (response.status().as_u16(), String::new());
                while let Ok(Some(piece)) = response.chunk().await {
                    text += &String::from_utf8_lossy(&piece);
                }
                Ok::<_, reqwest::Error>((status, text))
            })
        });
        requests.collect::<Vec<_>>()
    };
    let (finishing, cut, unanswered) = (running("short", 50), running("long", 50), running("hung", 5));
    eventually(secs(15), "all run", async || {
        let count = |p: &breakwater::sim::Handle| p.stats().requests.in_progress;
        count(&long) == 50 && count(&hung) == 5 && calls(&short) == 50
    })
    .await;
    gateway.terminate();
    for stream in finishing {
        let (_, text) = stream.await.unwrap().unwrap();
        let sse = Sse::read(&text);
        assert_eq!(
            (
                sse.dones(),
                sse.chunks().iter().filter(|c| c["choices"][0]["delta"]["content"].is_string()).count() >= 20
            ),
            (1, true),
            "{text}"
        );
    }
    for stream in cut {
        let (_, text) = stream.await.unwrap().unwrap();
        let sse = Sse::read(&text);
        assert_eq!(sse.dones(), 0, "a cut stream never looks complete: {text}");
        assert!(sse.error().is_some(), "{text}");
    }
    for request in unanswered {
        let (status, text) = request.await.unwrap().expect("an answer also where no head had come yet");
        assert!(status == 503 && text.contains("\"error\""), "{status} {text}");
    }
    assert_eq!(gateway.wait_exit(secs(15)).await.code(), Some(0), "{}", gateway.log());
    let rows = read_csv(&gateway.run(&["ledger", "export", "--format", "csv"]).expect(0).stdout);
    let count = |outcome: &str| rows.iter().filter(|r| r.get("outcome") == outcome).count();
    assert_eq!((count("success"), rows.len()), (50, 105), "each attempt has its row");
    let tokens_of_cut = rows.iter().filter(|r| r.get("endpoint") == "long").map(|r| r.number("output_tokens"));
    assert!(tokens_of_cut.min().unwrap() > 0, "what was delivered is accounted for");
    eventually(secs(2), "the upstreams are closed", async || {
        long.stats().requests.in_progress + hung.stats().requests.in_progress == 0
    })
    .await;
}
