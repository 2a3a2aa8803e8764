//! Answers that are meant well.

use super::wire::{CHAT, Got, Raw, ask, call, events, eventually, numbered, provider, said, streamed, unary};
use breakwater::clock;
use breakwater::sim::{Answer, Latency, Profile};
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;

#[test]
fn unary_answers_count_what_they_say() {
    let profile = Profile { cached_share: 0.5, reasoning_tokens: 7, ..Profile::new("a", &["m"]) };
    let handle = provider(profile);
    let got = ask(&handle, &unary()).json();
    assert_eq!(got["choices"][0]["message"]["content"], numbered(16));
    assert_eq!(got["choices"][0]["finish_reason"], "stop");
    // 4 for the message and a word each; sent and reasoned.
    assert_eq!(got["usage"]["prompt_tokens"], 6);
    assert_eq!(got["usage"]["prompt_tokens_details"]["cached_tokens"], 3);
    assert_eq!(got["usage"]["completion_tokens"], 23);
    assert_eq!(got["usage"]["total_tokens"], 29);

    for key in ["max_tokens", "max_completion_tokens"] {
        let mut request = unary();
        request[key] = json!(3);
        let got = ask(&handle, &request).json();
        assert_eq!(got["choices"][0]["message"]["content"], "t0 t1 t2");
        assert_eq!(got["choices"][0]["finish_reason"], "length");
        assert_eq!(got["usage"]["completion_tokens"], 10);
    }
}

#[test]
fn streams_say_the_same_and_tell_usage_only_if_asked() {
    let handle = provider(Profile::new("a", &["m"]));
    let mut request = streamed();
    let plain = ask(&handle, &request);
    assert_eq!(plain.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let plain = events(&plain.body);
    assert_eq!(said(&plain), numbered(16));
    // Role, sixteen tokens, finish reason, end.
    assert_eq!((plain.len(), plain.last().unwrap().as_str()), (19, "[DONE]"));
    assert!(plain.iter().all(|data| !data.contains("usage")));

    request["stream_options"] = json!({"include_usage": true});
    let full = events(&ask(&handle, &request).body);
    let usage: Value = serde_json::from_str(&full[full.len() - 2]).unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(16)));
    assert_eq!((full.len(), full.last().unwrap().as_str()), (20, "[DONE]"));
}

#[test]
fn tools_are_called_when_they_have_to_be() {
    let handle = provider(Profile::new("a", &["m"]));
    let tools = json!([{"type": "function", "function": {"name": "weather", "parameters": {"type": "object",
        "required": ["city"], "properties": {"city": {"type": "string"}}}}}]);
    let mut request = unary();
    request["tools"] = tools;
    assert_eq!(ask(&handle, &request).json()["choices"][0]["message"]["content"], numbered(16));

    for choice in [json!("required"), json!({"type": "function", "function": {"name": "weather"}})] {
        request["tool_choice"] = choice;
        request["stream"] = json!(false);
        let got = ask(&handle, &request).json();
        let function = &got["choices"][0]["message"]["tool_calls"][0]["function"];
        assert_eq!((&function["name"], &function["arguments"]), (&json!("weather"), &json!(r#"{"city":"t0"}"#)));
        assert_eq!(got["choices"][0]["finish_reason"], "tool_calls");

        request["stream"] = json!(true);
        let all = events(&ask(&handle, &request).body);
        let deltas: Vec<Value> = all.iter().filter_map(|data| serde_json::from_str(data).ok()).collect();
        let parts = deltas.iter().filter_map(|delta| delta.pointer("/choices/0/delta/tool_calls/0/function/arguments"));
        let arguments: String = parts.filter_map(Value::as_str).collect();
        assert_eq!(arguments, r#"{"city":"t0"}"#);
        assert_eq!(deltas[0].pointer("/choices/0/delta/tool_calls/0/function/name"), Some(&json!("weather")));
        assert_eq!(deltas.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    }
}

#[test]
fn answers_can_echo_go_on_and_be_json() {
    let handle = provider(Profile { answer: Answer::Echo {}, ..Profile::new("a", &["m"]) });
    let mut request = unary();
    request["messages"][0]["content"] =
        json!([{"type": "text", "text": "drei \"zwei\""}, {"type": "text", "text": "öäü"}]);
    assert_eq!(ask(&handle, &request).json()["choices"][0]["message"]["content"], "drei \"zwei\" öäü");

    let handle =
        provider(Profile { answer: Answer::Continue { overlap: 0 }, output_tokens: 5, ..Profile::new("a", &[]) });
    request["messages"] = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "t0 t1 t2"}]);
    assert_eq!(ask(&handle, &request).json()["choices"][0]["message"]["content"], " t3 t4");

    request["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "x", "schema":
        {"type": "object", "required": ["ok"], "properties": {"ok": {"type": "boolean"}}}}});
    assert_eq!(ask(&handle, &request).json()["choices"][0]["message"]["content"], r#"{"ok":true}"#);
}

#[test]
fn models_health_and_embeddings_answer() {
    let handle = provider(Profile::new("a", &["m", "n"]));
    let addr = handle.addr();
    let list = call(addr, "GET", "/v1/models", "").json();
    assert_eq!((&list["data"][0]["id"], &list["data"][1]["id"]), (&json!("m"), &json!("n")));
    assert_eq!(call(addr, "GET", "/v1/models/n", "").json()["id"], "n");
    assert_eq!(call(addr, "GET", "/models/x", "").status, 404);
    assert_eq!(call(addr, "GET", "/health", "").json(), json!({"status": "ok"}));
    assert_eq!(call(addr, "DELETE", "/health", "").status, 405);

    let ask = |format: &str| {
        let body = json!({"model": "m", "input": ["one two", "three"], "dimensions": 4, "encoding_format": format});
        call(addr, "POST", "/v1/embeddings", &body.to_string()).json()
    };
    let (floats, coded) = (ask("float"), ask("base64"));
    assert_eq!(floats["usage"]["prompt_tokens"], 3);
    let vector: Vec<f64> = serde_json::from_value(floats["data"][1]["embedding"].clone()).unwrap();
    assert_eq!(vector.len(), 4);
    assert!((vector.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5);
    // Four floats of four bytes in base64.
    assert_eq!(coded["data"][1]["embedding"].as_str().unwrap().len(), 24);
    assert_ne!(floats["data"][0]["embedding"], floats["data"][1]["embedding"]);
}

#[test]
fn what_cannot_be_answered_is_refused_in_the_envelope() {
    let profile = Profile { api_keys: vec!["k1".into()], context_tokens: Some(20), ..Profile::new("a", &["m"]) };
    let handle = provider(profile);
    let post = |key: &str, body: &str| {
        let mut raw = Raw::to(handle.addr());
        write!(
            raw.0,
            "POST {CHAT} HTTP/1.1\r\nauthorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        raw.answer()
    };
    let code = |got: Got| (got.status, got.json()["error"]["code"].clone());
    assert_eq!(post("k1", &unary().to_string()).status, 200);
    assert_eq!(code(post("k2", &unary().to_string())), (401, json!("invalid_api_key")));
    assert_eq!(code(ask(&handle, &unary())), (401, json!("invalid_api_key")));
    let other = unary().to_string().replace("\"m\"", "\"other\"");
    assert_eq!(code(post("k1", &other)), (404, json!("model_not_found")));
    let long = unary().to_string().replace("say it", &"word ".repeat(17));
    assert_eq!(code(post("k1", &long)), (400, json!("context_length_exceeded")));
    for bad in ["{", "[]", "", r#"{"model": "m"}"#, r#"{"model": "m", "messages": []}"#] {
        assert_eq!(post("k1", bad).status, 400, "{bad}");
    }
    let stats = eventually(&handle, |stats| stats.requests.in_progress == 0);
    assert_eq!((stats.outcomes["ok"], stats.outcomes["unauthorized"], stats.outcomes["client_error"]), (1, 2, 7));
}

#[test]
fn the_rate_limit_is_told_and_kept() {
    let handle = provider(Profile { rpm: Some(12), ratelimit_headers: true, ..Profile::new("a", &["m"]) });
    let first = ask(&handle, &unary());
    assert_eq!((first.status, first.header("x-ratelimit-remaining-requests")), (200, Some("1")));
    assert_eq!(ask(&handle, &streamed()).header("x-ratelimit-limit-requests"), Some("12"));
    let refused = ask(&handle, &unary());
    assert_eq!((refused.status, refused.header("x-ratelimit-remaining-requests")), (429, Some("0")));
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=5).contains(&seconds), "{seconds}");
    assert_eq!(refused.json()["error"]["code"], "rate_limit_exceeded");
    handle.reset();
    assert_eq!(ask(&handle, &unary()).status, 200);
}

#[test]
fn connections_are_kept_and_bodies_come_in_chunks() {
    let handle = provider(Profile::new("a", &["m"]));
    let mut raw = Raw::to(handle.addr());
    for _ in 0..3 {
        raw.send(CHAT, &unary());
        assert_eq!(raw.answer().status, 200);
        raw.send(CHAT, &streamed());
        assert!(raw.answer().body.ends_with("[DONE]\n\n"));
    }
    let text = unary().to_string();
    let (one, two) = text.split_at(10);
    write!(raw.0, "POST {CHAT} HTTP/1.1\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n").unwrap();
    assert_eq!(raw.until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    write!(raw.0, "{:x}\r\n{one}\r\n{:x};x=y\r\n{two}\r\n0\r\n\r\n", one.len(), two.len()).unwrap();
    assert_eq!(raw.answer().status, 200);
    let stats = eventually(&handle, |stats| stats.outcomes.get("ok") == Some(&7));
    assert_eq!((stats.connections.accepted, stats.connections.open), (1, 1));
    assert_eq!(stats.last.last().unwrap().body, text);

    // HTTP/1.0 has no chunks: the connection's end is the stream's.
    let mut old = Raw::to(handle.addr());
    let body = streamed().to_string();
    write!(old.0, "POST {CHAT} HTTP/1.0\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let (text, end) = old.rest();
    assert!(end.is_none() && !text.contains("chunked") && text.ends_with("[DONE]\n\n"), "{text}");
}

#[test]
fn pacing_keeps_the_rate_and_never_runs_ahead() {
    let profile = Profile {
        latency: Latency::fixed(60.0),
        tokens_per_second: Some(100.0),
        output_tokens: 11,
        ..Profile::new("a", &[])
    };
    let handle = provider(profile);
    for request in [streamed(), unary()] {
        let begin = clock::now();
        ask(&handle, &request);
        let took = clock::now().since(begin);
        // Ten tokens after the first, ten milliseconds each. Late is the machine's business; early would be ours.
        assert!(took >= Duration::from_millis(160), "{took:?}");
    }
    let begin = clock::now();
    let mut raw = Raw::ask(&handle, CHAT, &streamed());
    raw.until("t0\"");
    let first = clock::now().since(begin);
    raw.until("t10\"");
    let last = clock::now().since(begin);
    assert!(first >= Duration::from_millis(60), "{first:?}");
    assert!(last >= Duration::from_millis(160), "{last:?}");
}

#[tokio::test]
async fn an_ordinary_client_gets_on_with_it() {
    use futures_util::StreamExt;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let handle = provider(Profile { tokens_per_second: Some(500.0), ..Profile::new("a", &["m"]) });
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/chat/completions", handle.base_url());
    for _ in 0..3 {
        let answer = client.post(&url).body(streamed().to_string()).send().await.unwrap();
        let chunks: Vec<_> = answer.bytes_stream().map(|chunk| chunk.unwrap().to_vec()).collect().await;
        let text = String::from_utf8(chunks.concat()).unwrap();
        assert_eq!(said(&events(&text)), numbered(16));
        assert!(chunks.len() > 4, "an event leaves when it is due, {} pieces", chunks.len());
        assert_eq!(client.post(&url).body(unary().to_string()).send().await.unwrap().status(), 200);
    }
    assert_eq!(handle.stats().connections.accepted, 1);
}
