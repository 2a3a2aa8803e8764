//! Streams: the same events come out however they came in; after the first content a failure is told and never looks like an end.

use crate::providers::{alone, calls, faulty, heal, pair, provider, set, whole_text, with_profile};
use crate::support::{Gateway, chat_body, eventually, ms, secs, stream_body};
use breakwater::sim::{Fault, FaultKind, Handle, Profile};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Instant, SystemTime};

/// The data of each event as the standard reads it: lines end in LF, CRLF or CR, `data` lines of one event are joined.
fn events(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
    let data_of = |event: &str| {
        let lines = event.lines().filter_map(|l| l.strip_prefix("data:")).map(|l| l.strip_prefix(' ').unwrap_or(l));
        lines.collect::<Vec<_>>().join("\n")
    };
    text.split("\n\n").map(data_of).filter(|data| !data.is_empty()).collect()
}

/// Events without what differs from call to call.
fn comparable(text: &str) -> Vec<Value> {
    let read = |data: String| match serde_json::from_str::<Value>(&data) {
        Ok(mut chunk) => {
            for name in ["id", "created", "model"] {
                chunk.as_object_mut().map(|o| o.remove(name));
            }
            chunk
        }
        Err(_) => data.into(),
    };
    events(text).into_iter().map(read).collect()
}

/// What the provider says in a stream, once asked directly and once through the gateway.
async fn both_ways(a: &Handle) -> (String, String) {
    let gateway = Gateway::start(&alone(a, &[])).await;
    let mut body = stream_body("chat");
    body["stream_options"] = serde_json::json!({"include_usage": true});
    let through = gateway.chat(&body).await;
    let direct = reqwest::Client::new().post(format!("{}/chat/completions", a.base_url())).body(body.to_string());
    let direct = direct.header("content-type", "application/json").send().await.unwrap().text().await.unwrap();
    (direct, through.expect(200).text())
}

#[tokio::test]
async fn one_byte_per_packet() {
    let a = faulty("a", FaultKind::OneBytePackets { gap_ms: None });
    let (direct, through) = both_ways(&a).await;
    assert_eq!(comparable(&through), comparable(&direct));
    assert_eq!(events(&through).last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn mixed_line_ends_data_on_two_lines_and_a_byte_order_mark() {
    let a = provider("a");
    a.set_faults(vec![FaultKind::MixedNewlines.into(), FaultKind::OneBytePackets { gap_ms: None }.into()]).unwrap();
    let (direct, through) = both_ways(&a).await;
    assert!(direct.starts_with('\u{feff}') && direct.contains("\r\n"), "the provider does what it was told");
    assert_eq!(comparable(&through), comparable(&direct));
    assert!(!through.starts_with('\u{feff}'), "clients that know nothing of it would lose the first event");
    assert_eq!(events(&through).last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn a_head_and_then_silence_fails_over_unseen() {
    let a = faulty("a", FaultKind::SilentAfter { events: 0, ms: None });
    let b = provider("b");
    let gateway = Gateway::start(&pair(&a, &b, &["timeouts: {first_byte: 500ms}"])).await;
    let answer = gateway.chat(&stream_body("chat")).await;
    let sse = answer.expect(200).sse();
    assert_eq!((sse.content(), sse.dones(), answer.need("x-breakwater-endpoint")), (whole_text(16), 1, "b"));
    let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), 2).await;
    assert_eq!((rows[0].get("outcome"), rows[1].get("outcome")), ("uncertain", "success"));
    eventually(secs(1), "the silent call is closed", async || a.stats().requests.in_progress == 0).await;
}

#[tokio::test]
async fn a_stream_that_crawls_before_its_first_content_fails_over() {
    let a = with_profile(Profile { tokens_per_second: Some(2_000.0), ..Profile::new("a", &[]) });
    let b = provider("b");
    let gateway = Gateway::start(&pair(&a, &b, &[])).await;
    let crawl = FaultKind::OneBytePackets { gap_ms: Some(10) };
    // Nothing is known of its rate yet: it is waited for.
    set(&a, crawl.clone());
    let patient = gateway.open(&stream_body("chat")).await;
    assert_eq!(patient.headers()["x-breakwater-endpoint"], "a");
    drop(patient);
    heal(&a);
    for _ in 0..130 {
        gateway.chat(&stream_body("chat")).await.expect(200);
    }
    gateway.wait_rows(131).await;
    set(&a, crawl);
    let answer = gateway.chat(&stream_body("chat")).await;
    assert_eq!(answer.expect(200).need("x-breakwater-endpoint"), "b");
    assert_eq!(answer.sse().content(), whole_text(16));
    let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), 2).await;
    assert_eq!((rows[0].get("outcome"), rows[1].get("outcome")), ("uncertain", "success"));
    let record = gateway.admin_get(&format!("/admin/decisions/{}", answer.need("x-breakwater-request-id"))).await;
    assert!(record["steps"][0]["message"].as_str().unwrap().contains("crawls"), "{record}");
    // Nobody else is left: it is waited for again.
    gateway.admin("POST", "/admin/endpoints/b/trip", Some(&serde_json::json!({"reason": "test"}))).await.expect(200);
    let alone = gateway
        .open(&serde_json::json!({"model": "a", "stream": true, "messages": [{"role": "user", "content": "x"}]}))
        .await;
    assert_eq!(alone.headers()["x-breakwater-endpoint"], "a");
}

#[tokio::test]
async fn what_breaks_after_three_events_is_told_and_never_looks_complete() {
    for fault in [
        FaultKind::ErrorEvent { after: 3, body: None },
        FaultKind::EndWithoutDone { events: Some(3) },
        FaultKind::EndWithoutDone { events: None },
        FaultKind::CutAfter { events: 3, reset: false },
        FaultKind::CutAfter { events: 3, reset: true },
        FaultKind::BrokenChunk { after: 3 },
        FaultKind::BrokenJsonEvent { after: 3 },
    ] {
        // Paced, so that the fault comes after the events and not with them.
        let a = with_profile(Profile { tokens_per_second: Some(40.0), ..Profile::new("a", &[]) });
        a.set_faults(vec![Fault::from(fault.clone())]).unwrap();
        let b = provider("b");
        let gateway = Gateway::start(&pair(&a, &b, &[])).await;
        let answer = gateway.chat(&stream_body("chat")).await;
        let sse = answer.expect(200).sse();
        let tokens = if matches!(fault, FaultKind::EndWithoutDone { events: None }) { 16 } else { 3 };
        assert_eq!(sse.content(), whole_text(tokens), "{fault:?}");
        assert_eq!(sse.dones(), 0, "{fault:?}: {}", answer.text());
        let error = sse.error().unwrap_or_else(|| panic!("{fault:?}: {}", answer.text()));
        assert_eq!(error["code"], "upstream_failed", "{fault:?}");
        assert_eq!(calls(&b), 0, "text is delivered once: {fault:?}");
        let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), 1).await;
        assert_eq!(rows[0].get("outcome"), "partial", "{fault:?}");
        assert_eq!(rows[0].get("usage_source"), "estimated", "{fault:?}");
        assert!(rows[0].number("output_tokens") > 0 && rows[0].number("cost_nanousd") > 0, "{fault:?}");
        let breaker = gateway.endpoint("a").await["breaker"].clone();
        assert_eq!((&breaker["calls"], breaker["failure_rate"].as_f64()), (&1.into(), Some(1.0)), "{fault:?}");
    }
}

#[tokio::test]
async fn silence_gets_pings_and_then_an_error_event() {
    let a = faulty("a", FaultKind::SilentAfter { events: 3, ms: None });
    let gateway = Gateway::start(&alone(&a, &["timeouts: {idle: 16500ms}"])).await;
    let began = Instant::now();
    let answer = gateway.chat(&stream_body("chat")).await;
    let sse = answer.expect(200).sse();
    assert!((secs(16)..secs(25)).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(sse.comments.iter().filter(|c| *c == "ping").count(), 1, "{:?}", sse.comments);
    assert_eq!((sse.content(), sse.dones()), (whole_text(3), 0));
    assert!(sse.error().is_some(), "{}", answer.text());
}

/// Sends a chat request on a connection of its own and leaves it open.
fn request(gateway: &Gateway, body: &Value) -> TcpStream {
    let (mut stream, body) = (gateway.connect(), body.to_string());
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n";
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
    stream
}

fn read_until(from: &mut TcpStream, word: &str) {
    let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&seen).contains(word) {
        let n = from.read(&mut piece).expect("the stream goes on");
        assert!(n > 0, "the stream ended before {word}");
        seen.extend_from_slice(&piece[..n]);
    }
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_upstream_and_its_tokens() {
    // Before the head, and in a silent gap.
    for events in [None, Some(3)] {
        let fault = events.map_or(FaultKind::Hang, |events| FaultKind::SilentAfter { events, ms: None });
        let a = faulty("a", fault);
        let gateway = Gateway::start(&alone(&a, &["limits: {rpm: 60, tpm: 60000}"])).await;
        let available = async |what: &str| gateway.endpoint("a").await["limits"][what]["available"].as_f64().unwrap();
        let full = (available("rpm").await, available("tpm").await);
        let mut body = stream_body("chat");
        body["max_tokens"] = 5_000.into();
        let mut client = request(&gateway, &body);
        eventually(secs(5), "the upstream is called", async || a.stats().requests.in_progress == 1).await;
        if events.is_some() {
            read_until(&mut client, "t2");
        }
        assert!(available("tpm").await < full.1 - 4_000.0, "the tokens are reserved");
        let left = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
        drop(client);
        eventually(secs(2), "the upstream's call is closed", async || a.stats().aborted.total == 1).await;
        let closed = a.stats().aborted.last[0].at_unix_us - i64::try_from(left).unwrap();
        assert!(closed < 1_000_000, "closed {closed} µs after the client left");
        let rows = gateway.wait_rows(1).await;
        assert_eq!(rows[0].get("outcome"), "cancelled");
        assert_eq!(rows[0].number("output_tokens") > 0, events.is_some(), "{rows:?}");
        eventually(secs(2), "what was not used is given back", async || available("tpm").await > full.1 - 100.0).await;
        if events.is_none() {
            eventually(secs(3), "the request as well", async || available("rpm").await >= full.0).await;
        }
        let endpoint = gateway.endpoint("a").await;
        assert_eq!(endpoint["breaker"]["calls"], 0, "says nothing about health: {endpoint}");
    }
}

#[tokio::test]
async fn a_client_that_stops_reading_blocks_its_upstream_and_takes_no_memory() {
    const CLIENTS: u64 = 8;
    let a = faulty("a", FaultKind::EndlessBody);
    let b = provider("b");
    let gateway = Gateway::start(&pair(&a, &b, &[])).await;
    gateway.chat(&chat_body("b")).await.expect(200);
    let before = gateway.resident_kib();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| request(&gateway, &stream_body("chat"))).collect();
    for client in &mut clients {
        read_until(client, "t2");
    }
    // Kernel buffers fill up, then nothing moves any more.
    let mut last = (0, Instant::now());
    eventually(secs(30), "the upstream is blocked", async || {
        let out = a.stats().bytes_out;
        if out != last.0 {
            last = (out, Instant::now());
        }
        last.1.elapsed() > ms(700)
    })
    .await;
    assert_eq!(a.stats().requests.in_progress, CLIENTS, "nobody was given up");
    let grown = gateway.resident_kib().saturating_sub(before);
    assert!(grown < 40 * 1024, "{grown} KiB for {CLIENTS} clients that don't read");
    gateway.chat(&chat_body("b")).await.expect(200);
    // One that reads again gets on, in order.
    let out = a.stats().bytes_out;
    let mut bytes = vec![0; 24 << 20];
    let mut client = clients.pop().unwrap();
    client.read_exact(&mut bytes).unwrap();
    assert!(a.stats().bytes_out > out);
    let text = String::from_utf8_lossy(&bytes);
    let tokens = text.split("\"content\":\"").skip(2).filter_map(|rest| rest.split_once('"'));
    let numbers: Vec<u64> = tokens.filter_map(|(t, _)| t.trim().strip_prefix('t')?.parse().ok()).collect();
    assert!(
        numbers.len() > 1_000 && numbers.windows(2).all(|w| w[1] == w[0] + 1),
        "without a gap: {:?}",
        &numbers[..4]
    );
    drop((client, clients));
    eventually(secs(5), "all calls are closed", async || a.stats().requests.in_progress == 0).await;
    let rows = gateway.wait_rows(2 + CLIENTS as usize).await;
    assert_eq!(rows.iter().filter(|r| r.get("outcome") == "cancelled").count(), CLIENTS as usize);
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut_off_at_the_limit() {
    let a = faulty("a", FaultKind::EndlessBody);
    let gateway = Gateway::start(&alone(&a, &[]).server("write_stall: 4s")).await;
    let mut slow = request(&gateway, &stream_body("chat"));
    read_until(&mut slow, "t2");
    let mut stalled = request(&gateway, &stream_body("chat"));
    read_until(&mut stalled, "t2");
    let began = Instant::now();
    // Reads a little now and then: slow, but not gone.
    let slowly = std::thread::spawn(move || {
        let mut piece = vec![0; 256 << 10];
        while began.elapsed() < secs(12) {
            slow.read_exact(&mut piece).expect("whoever reads is served");
            std::thread::sleep(ms(300));
        }
        slow
    });
    eventually(secs(20), "the stalled call is closed", async || a.stats().aborted.total == 1).await;
    assert!(began.elapsed() > secs(4), "{:?}", began.elapsed());
    let rows = gateway.wait_rows(1).await;
    assert_eq!(rows[0].get("outcome"), "cancelled");
    let record = gateway.admin_get(&format!("/admin/decisions/{}", rows[0].get("request_id"))).await;
    assert_eq!(record["steps"][0]["message"], "the client stopped reading", "{record}");
    // Its connection is closed: what the kernel still held can be read, and then nothing more comes.
    let mut rest = Vec::new();
    let _ = stalled.read_to_end(&mut rest);
    assert!(rest.len() < 64 << 20, "{}", rest.len());
    let slow = tokio::task::spawn_blocking(move || slowly.join().unwrap()).await.unwrap();
    assert_eq!(a.stats().requests.in_progress, 1, "the slow one goes on");
    drop(slow);
}

#[tokio::test]
async fn no_usage_is_estimated_and_marked() {
    let a = faulty("a", FaultKind::NoUsage);
    let gateway = Gateway::start(&alone(&a, &[])).await;
    let answer = gateway.chat(&stream_body("chat")).await;
    let sse = answer.expect(200).sse();
    assert_eq!((sse.content(), sse.dones()), (whole_text(16), 1));
    assert!(sse.cost_comment().contains("cost_usd=0.0"), "{}", sse.cost_comment());
    let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), 1).await;
    assert_eq!((rows[0].get("outcome"), rows[0].get("usage_source")), ("success", "estimated"));
    // 16 words of two or three bytes were sent, a letter and a number each.
    assert!((8..=40).contains(&rows[0].number("output_tokens")), "{rows:?}");
    assert!(rows[0].number("input_tokens") > 0 && rows[0].number("cost_nanousd") > 0, "{rows:?}");
}
