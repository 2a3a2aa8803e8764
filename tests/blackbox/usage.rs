//! Where a row's tokens come from: reported by the upstream, or counted here because it said nothing or nonsense. Whole answers,
//! streams, cut and left ones.

use crate::support::ledger::Row;
use crate::support::{Gateway, Reply, Setup, Upstream, chat_body, eventually, ms, secs, stream_body};
use serde_json::{Value, json};

const TEXT: &str = "The quick brown fox jumps over the lazy dog near the river bank.";

fn whole(usage: &Value) -> Reply {
    let body = json!({"id": "c", "object": "chat.completion", "model": "m", "usage": usage,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}]});
    Reply::Body { content_type: "application/json", body: body.to_string().into_bytes() }
}

/// Chunks of the text's words; `usage` is asked for the usage member of chunk n, the last one being the usage chunk.
fn events(usage: impl Fn(usize) -> Option<Value>, done: bool) -> String {
    let words: Vec<&str> = TEXT.split_inclusive(' ').collect();
    let mut out = String::new();
    for (n, word) in words.iter().enumerate() {
        let mut chunk = json!({"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": null}]});
        if let Some(usage) = usage(n) {
            chunk["usage"] = usage;
        }
        out.push_str(&format!("data: {chunk}\n\n"));
    }
    if done {
        out.push_str("data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n");
        if let Some(usage) = usage(words.len()) {
            out.push_str(&format!("data: {}\n\n", json!({"choices": [], "usage": usage})));
        }
        out.push_str("data: [DONE]\n\n");
    }
    out
}

async fn gateway(model: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::start();
    let setup = Setup::new()
        .endpoint("a", &upstream, &[&format!("model: {model}"), "price: {input: 1, cached_input: 0.1, output: 10}"])
        .route("chat", "priority", &["a"], &["retry: {max_attempts: 1}"]);
    (Gateway::start(&setup).await, upstream)
}

/// The newest row, of `count` that there must be by now.
async fn last(gateway: &Gateway, count: usize) -> Row {
    gateway.wait_rows(count).await;
    gateway.rows().await.pop().unwrap()
}

fn tokens(row: &Row) -> (i64, i64, i64) {
    (row.number("input_tokens"), row.number("cached_input_tokens"), row.number("output_tokens"))
}

#[tokio::test]
async fn whole_answers_without_a_believable_report_are_counted_and_say_so() {
    let (gateway, upstream) = gateway("some-model").await;
    let mut count = 0;
    for (usage, source, expected) in [
        (
            json!({"prompt_tokens": 30, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 20}}),
            "reported",
            Some((10, 20, 7)),
        ),
        (Value::Null, "estimated", None),
        (json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}), "estimated", None),
        (json!({"prompt_tokens": -4, "completion_tokens": 9}), "estimated", None),
        (json!({"prompt_tokens": 1e30, "completion_tokens": 9}), "estimated", None),
        (json!("lots"), "estimated", None),
        // The side that is believable is believed.
        (json!({"prompt_tokens": 0, "completion_tokens": 9}), "estimated", Some((0, 0, 9))),
        (json!({"prompt_tokens": 40, "completion_tokens": 0}), "estimated", Some((40, 0, 0))),
    ] {
        upstream.once(whole(&usage));
        let answer = gateway.chat(&chat_body("chat")).await;
        answer.expect(200);
        count += 1;
        let row = last(&gateway, count).await;
        assert_eq!(row.get("usage_source"), source, "{usage}: {row:?}");
        let state = if source == "reported" { "measured" } else { "estimated" };
        assert_eq!(answer.header("x-breakwater-cost-state"), Some(state), "{usage}");
        let (input, cached, output) = tokens(&row);
        match expected {
            Some((i, c, o)) => {
                assert!(i == 0 || input == i, "{usage}: {row:?}");
                assert!(o == 0 || output == o, "{usage}: {row:?}");
                assert_eq!(cached, c);
            }
            None => assert_eq!(cached, 0),
        }
        assert!(input > 0 && output > 0, "{usage}: nothing is free: {row:?}");
        // "The quick … bank." is 14 tokens by every vocabulary.
        assert!((7..=17).contains(&output), "{usage}: {row:?}");
        assert_eq!(row.number("cost_nanousd"), input * 1_000 + cached * 100 + output * 10_000, "{row:?}");
    }
    // All but the first, and those that were no report at all.
    assert_eq!(disbelieved(&gateway).await, 5);
}

/// The answers whose usage the gateway did not believe.
async fn disbelieved(gateway: &Gateway) -> u64 {
    let text = gateway.get("/metrics").await.text();
    let line = text.lines().find_map(|l| l.strip_prefix("breakwater_usage_disbelieved_total{endpoint=\"a\"} "));
    line.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

#[tokio::test]
async fn a_known_vocabulary_counts_exactly() {
    let (gateway, upstream) = gateway("gpt-4.1").await;
    upstream.set(whole(&Value::Null));
    let mut count = 0;
    // The first answer wakes the vocabulary and is estimated.
    let exact = async {
        loop {
            gateway.chat(&chat_body("chat")).await.expect(200);
            count += 1;
            let row = last(&gateway, count).await;
            assert_eq!(row.get("usage_source"), "estimated");
            if row.number("output_tokens") == 14 {
                break;
            }
            tokio::time::sleep(ms(100)).await;
        }
    };
    tokio::time::timeout(secs(30), exact).await.expect("14 tokens, counted by o200k_base");
}

#[tokio::test]
async fn streams_say_where_their_tokens_come_from() {
    let (gateway, upstream) = gateway("some-model").await;
    let running = |n: usize| Some(json!({"prompt_tokens": 12, "completion_tokens": n + 1, "total_tokens": n + 13}));
    let mut count = 0;
    let cases = [
        (
            "at the end",
            Reply::Events(events(|n| (n == 13).then(|| json!({"prompt_tokens": 12, "completion_tokens": 14})), true)),
            "reported",
            Some((12, 14)),
        ),
        ("with every chunk, running totals", Reply::Events(events(running, true)), "reported", Some((12, 14))),
        ("null with every chunk", Reply::Events(events(|_| Some(Value::Null), true)), "estimated", None),
        ("never", Reply::Events(events(|_| None, true)), "estimated", None),
        (
            "zeros at the end",
            Reply::Events(events(|n| (n == 13).then(|| json!({"prompt_tokens": 0, "completion_tokens": 0})), true)),
            "estimated",
            None,
        ),
        (
            "totals, then zeros",
            Reply::Events(events(
                |n| if n == 13 { Some(json!({"prompt_tokens": 0, "completion_tokens": 0})) } else { running(n) },
                true,
            )),
            "reported",
            Some((12, 13)),
        ),
    ];
    for (what, reply, source, expected) in cases {
        upstream.once(reply);
        gateway.chat(&stream_body("chat")).await.expect(200);
        count += 1;
        let row = last(&gateway, count).await;
        assert_eq!((row.get("outcome"), row.get("usage_source")), ("success", source), "{what}: {row:?}");
        let (input, _, output) = tokens(&row);
        match expected {
            Some(expected) => assert_eq!((input, output), expected, "{what}"),
            None => assert!(input > 0 && (11..=17).contains(&output), "{what}: {row:?}"),
        }
    }
}

#[tokio::test]
async fn cut_streams_are_charged_for_what_came() {
    let (gateway, upstream) = gateway("some-model").await;
    upstream.once(Reply::CutEvents(events(|_| None, false)));
    gateway.chat(&stream_body("chat")).await;
    let row = last(&gateway, 1).await;
    assert_eq!((row.get("outcome"), row.get("usage_source")), ("partial", "estimated"), "{row:?}");
    let (input, _, output) = tokens(&row);
    assert!(input > 0 && (11..=17).contains(&output), "{row:?}");
    // The first chunk says what the prompt was, and that nothing is generated yet: half a report.
    let first = |n: usize| (n == 0).then(|| json!({"prompt_tokens": 12, "completion_tokens": 0}));
    upstream.once(Reply::CutEvents(events(first, false)));
    gateway.chat(&stream_body("chat")).await;
    let row = last(&gateway, 2).await;
    assert_eq!(row.get("usage_source"), "estimated", "{row:?}");
    let (input, _, output) = tokens(&row);
    assert!(input == 12 && (11..=17).contains(&output), "{row:?}");
}

#[tokio::test]
async fn a_stream_that_its_caller_left_is_charged_for_what_came() {
    let (gateway, upstream) = gateway("some-model").await;
    upstream.once(Reply::SilentAfter(events(|_| None, false)));
    let mut stream = gateway.open(&stream_body("chat")).await;
    let mut seen = String::new();
    while !seen.contains("bank.") {
        seen.push_str(&String::from_utf8_lossy(&stream.chunk().await.unwrap().unwrap()));
    }
    drop(stream);
    let row = last(&gateway, 1).await;
    assert_eq!((row.get("outcome"), row.get("usage_source")), ("cancelled", "estimated"), "{row:?}");
    let (input, _, output) = tokens(&row);
    assert!(input > 0 && (11..=17).contains(&output), "{row:?}");
    eventually(secs(2), "the upstream is let go", async || upstream.hang_ups() == 1).await;
}

#[tokio::test]
async fn sound_is_priced_as_text_and_marked() {
    let (gateway, upstream) = gateway("some-model").await;
    upstream.once(whole(
        &json!({"prompt_tokens": 30, "completion_tokens": 7, "prompt_tokens_details": {"audio_tokens": 25}}),
    ));
    let answer = gateway.chat(&chat_body("chat")).await;
    answer.expect(200);
    assert_eq!(answer.header("x-breakwater-cost-state"), Some("estimated"));
    let row = last(&gateway, 1).await;
    assert_eq!((row.get("decision"), row.get("usage_source")), ("priority/1;audio_as_text", "reported"));
    assert_eq!(row.number("cost_nanousd"), 30 * 1_000 + 7 * 10_000);
}
