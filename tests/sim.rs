//! Simulated providers on the wire: every fault is seen by a client that reads raw bytes.

#![allow(clippy::unwrap_used, reason = "a test's own functions may fail as loudly as the test")]

use breakwater::clock;
use breakwater::sim::{
    self, Answer, Fault, FaultKind, Handle, Latency, Malformed, On, Outages, Port, Profile, Schedule, Stats, Tls,
    Window,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";
/// Long enough for a busy machine; reached only when something is broken.
const LONG: Duration = Duration::from_secs(20);
/// How long silence is watched before it is called silence.
const QUIET: Duration = Duration::from_millis(150);

fn provider(profile: Profile) -> Handle {
    sim::start(profile).unwrap()
}

fn with(kind: FaultKind) -> Handle {
    provider(Profile { faults: vec![kind.into()], ..Profile::new("a", &["m"]) })
}

fn body(stream: bool) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "say it"}], "stream": stream})
}

fn streamed() -> Value {
    body(true)
}

fn unary() -> Value {
    body(false)
}

struct Raw(TcpStream);

impl Raw {
    fn to(addr: SocketAddr) -> Self {
        let socket = TcpStream::connect(addr).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        Self(socket)
    }

    fn ask(handle: &Handle, path: &str, body: &Value) -> Self {
        let mut raw = Self::to(handle.addr());
        raw.send(path, body);
        raw
    }

    fn send(&mut self, path: &str, body: &Value) {
        let body = body.to_string();
        let text = format!("POST {path} HTTP/1.1\r\nhost: sim\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        self.0.write_all(text.as_bytes()).unwrap();
    }

    /// Everything up to the end of the connection, and how it ended.
    fn rest(&mut self) -> (String, Option<ErrorKind>) {
        let mut all = Vec::new();
        let end = self.0.read_to_end(&mut all).err().map(|e| e.kind());
        (String::from_utf8_lossy(&all).into_owned(), end)
    }

    fn until(&mut self, mark: &str) -> String {
        let mut all = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&all).ends_with(mark) {
            assert_eq!(self.0.read(&mut byte).unwrap(), 1, "ended early: {}", String::from_utf8_lossy(&all));
            all.push(byte[0]);
        }
        String::from_utf8(all).unwrap()
    }

    /// One whole answer of a known length or in chunks.
    fn answer(&mut self) -> Got {
        let head = self.until("\r\n\r\n");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut body = Vec::new();
        if head.contains("chunked") {
            loop {
                let line = self.until("\r\n");
                let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
                let start = body.len();
                body.resize(start + size, 0);
                self.0.read_exact(&mut body[start..]).unwrap();
                assert_eq!(self.until("\r\n"), "\r\n");
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = header(&head, "content-length") {
            body.resize(length.parse().unwrap(), 0);
            self.0.read_exact(&mut body).unwrap();
        }
        Got { status, head, body: String::from_utf8(body).unwrap() }
    }

    /// Asserts that nothing comes, and that the connection stands.
    fn is_silent(&mut self) {
        self.0.set_read_timeout(Some(QUIET)).unwrap();
        let got = self.0.read(&mut [0; 16]);
        assert!(matches!(&got, Err(e) if e.kind() == ErrorKind::WouldBlock), "{got:?}");
        self.0.set_read_timeout(Some(LONG)).unwrap();
    }
}

#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: String,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().filter_map(|line| line.split_once(": ")).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// The data of an event stream, read as the format's specification says.
fn events(text: &str) -> Vec<String> {
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n").replace('\r', "\n");
    let (mut all, mut data) = (Vec::new(), Vec::<&str>::new());
    for line in text.split('\n') {
        if line.is_empty() && !data.is_empty() {
            all.push(data.join("\n"));
            data.clear();
        } else if let Some(value) = line.strip_prefix("data:") {
            data.push(value.strip_prefix(' ').unwrap_or(value));
        }
    }
    all
}

fn said(events: &[String]) -> String {
    let frames = events.iter().filter_map(|data| serde_json::from_str::<Value>(data).ok());
    frames.filter_map(|frame| frame.pointer("/choices/0/delta/content")?.as_str().map(str::to_owned)).collect()
}

fn numbered(tokens: u64) -> String {
    (0..tokens).map(|i| format!("t{i}")).collect::<Vec<_>>().join(" ")
}

/// Waits until the statistics say so.
fn eventually(handle: &Handle, holds: impl Fn(&Stats) -> bool) -> Stats {
    let end = clock::now().plus(LONG);
    loop {
        let stats = handle.stats();
        if holds(&stats) {
            return stats;
        }
        assert!(clock::now() < end, "{stats:#?}");
        std::thread::yield_now();
    }
}

fn ask(handle: &Handle, body: &Value) -> Got {
    Raw::ask(handle, CHAT, body).answer()
}

fn call(addr: SocketAddr, method: &str, path: &str, body: &str) -> Got {
    let mut raw = Raw::to(addr);
    write!(raw.0, "{method} {path} HTTP/1.1\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    raw.answer()
}

fn control_addr(handle: &Handle) -> SocketAddr {
    let url = handle.control_url();
    url.strip_prefix("http://").unwrap().strip_suffix("/__sim").unwrap().parse().unwrap()
}

// --- answers that are meant well ------------------------------------------------------------------------------------

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

// --- faults of the port ---------------------------------------------------------------------------------------------

#[test]
fn refuse_closes_the_listener_for_its_time_and_ends_idle_connections() {
    let handle = provider(Profile::new("a", &["m"]));
    let mut idle = Raw::ask(&handle, CHAT, &unary());
    assert_eq!(idle.answer().status, 200);
    for _ in 0..3 {
        handle.set_faults(vec![FaultKind::Refuse.into()]).unwrap();
        let refused = TcpStream::connect(handle.addr()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(handle.stats().port, Port::Refusing);
        // The other port is there to end it.
        assert_eq!(call(control_addr(&handle), "DELETE", "/__sim/faults", "").status, 200);
        assert_eq!(ask(&handle, &unary()).status, 200);
    }
    assert_eq!(idle.rest(), (String::new(), None));

    let begin = clock::now();
    handle.set_faults(vec![Fault::from(FaultKind::Refuse).lasting(Duration::from_millis(100))]).unwrap();
    assert!(TcpStream::connect(handle.addr()).is_err());
    eventually(&handle, |stats| stats.port == Port::Open);
    assert!(clock::now().since(begin) >= Duration::from_millis(100));
    assert_eq!(ask(&handle, &unary()).status, 200);
}

#[test]
fn unreachable_lets_connecting_time_out() {
    let handle = provider(Profile::new("a", &["m"]));
    handle.set_faults(vec![FaultKind::Unreachable.into()]).unwrap();
    let failed = TcpStream::connect_timeout(&handle.addr(), QUIET).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::TimedOut);
    handle.set_faults(Vec::new()).unwrap();
    assert_eq!(ask(&handle, &unary()).status, 200);
}

#[tokio::test]
async fn a_self_signed_certificate_is_refused_before_anything_is_said() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let handle = provider(Profile { tls: Some(Tls::SelfSigned), ..Profile::new("a", &["m"]) });
    assert!(handle.base_url().starts_with("https://127.0.0.1:"));
    let ask = |client: reqwest::ClientBuilder| {
        let client = client.no_proxy().build().unwrap();
        client.get(format!("{}/models", handle.base_url())).bearer_auth("a-key").send()
    };
    let roots = rustls::RootCertStore::empty();
    let checking = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let error = ask(reqwest::Client::builder().tls_backend_preconfigured(checking)).await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    let stats = eventually(&handle, |stats| stats.requests.in_progress == 0);
    assert_eq!((stats.outcomes.get("tls_refused"), stats.last.len()), (Some(&1), 0));

    // The certificate is one: a client that checks nothing gets through, and what it says is seen.
    assert!(ask(reqwest::Client::builder().tls_danger_accept_invalid_certs(true)).await.is_err());
    let stats = eventually(&handle, |stats| stats.outcomes.contains_key("tls_accepted"));
    assert_eq!(stats.last[0].header("authorization"), Some("Bearer a-key"));
}

#[test]
fn outages_come_and_go_by_themselves() {
    let when = Schedule::Windows { windows: vec![Window { from_ms: 0, for_ms: 200 }] };
    let outages = Some(Outages { when: when.clone(), fault: FaultKind::Refuse });
    let handle = provider(Profile { outages, ..Profile::new("a", &["m"]) });
    eventually(&handle, |stats| stats.port == Port::Refusing);
    eventually(&handle, |stats| stats.port == Port::Open);
    assert_eq!(ask(&handle, &unary()).status, 200);

    let fault = FaultKind::Status { code: 503, headers: BTreeMap::new(), body: None };
    let when = Schedule::Windows { windows: vec![Window { from_ms: 0, for_ms: 60_000 }] };
    let handle = provider(Profile { outages: Some(Outages { when, fault }), ..Profile::new("a", &["m"]) });
    assert_eq!(ask(&handle, &unary()).status, 503);
    assert_eq!(call(handle.addr(), "GET", "/health", "").status, 503);
}

// --- faults instead of an answer ------------------------------------------------------------------------------------

#[test]
fn statuses_carry_what_they_are_given() {
    let headers = BTreeMap::from([("retry-after".to_owned(), "Wed, 21 Oct 2026 07:28:00 GMT".to_owned())]);
    let handle = with(FaultKind::Status { code: 503, headers, body: None });
    let got = ask(&handle, &unary());
    assert_eq!((got.status, got.header("retry-after")), (503, Some("Wed, 21 Oct 2026 07:28:00 GMT")));
    assert_eq!(got.json()["error"]["type"], "server_error");

    let status = |code, body| FaultKind::Status { code, headers: BTreeMap::new(), body };
    handle.set_faults(vec![status(400, Some(json!({"error": {"code": "content_filter"}}))).into()]).unwrap();
    assert_eq!(ask(&handle, &streamed()).json()["error"]["code"], "content_filter");
    handle.set_faults(vec![status(500, Some(json!("<plain>"))).into()]).unwrap();
    let got = ask(&handle, &streamed());
    assert_eq!((got.status, got.body.as_str(), got.header("content-type")), (500, "<plain>", Some("text/plain")));
    assert_eq!(call(handle.addr(), "GET", "/health", "").status, 200);
}

#[test]
fn refusals_look_like_the_vendors() {
    let limited = |retry_after: Option<&str>, retry_after_ms: Option<&str>| FaultKind::RateLimited {
        retry_after: retry_after.map(str::to_owned),
        retry_after_ms: retry_after_ms.map(str::to_owned),
    };
    let handle = with(limited(Some("7"), None));
    let got = ask(&handle, &unary());
    assert_eq!((got.status, got.header("retry-after"), got.header("retry-after-ms")), (429, Some("7"), None));
    handle.set_faults(vec![limited(Some("1e30"), Some("-5")).into()]).unwrap();
    let got = ask(&handle, &unary());
    assert_eq!((got.header("retry-after"), got.header("retry-after-ms")), (Some("1e30"), Some("-5")));
    for (kind, status, pointer, value) in [
        (FaultKind::Quota, 429, "/error/code", "insufficient_quota"),
        (FaultKind::AuthFailed, 401, "/error/code", "invalid_api_key"),
        (FaultKind::Overloaded529, 529, "/error/type", "overloaded_error"),
    ] {
        handle.set_faults(vec![kind.into()]).unwrap();
        let got = ask(&handle, &streamed());
        assert_eq!((got.status, got.json().pointer(pointer)), (status, Some(&json!(value))));
    }
}

#[test]
fn hang_reads_the_request_and_says_nothing() {
    let handle = with(FaultKind::Hang);
    let mut raw = Raw::ask(&handle, CHAT, &unary());
    let stats = eventually(&handle, |stats| stats.requests.in_progress == 1 && stats.faults.get("hang") == Some(&1));
    assert_eq!(stats.last[0].body, unary().to_string());
    raw.is_silent();
    drop(raw);
    let stats = eventually(&handle, |stats| stats.requests.in_progress == 0);
    assert_eq!((stats.outcomes["hang"], stats.aborted.total), (1, 1));
}

#[test]
fn resets_come_before_the_body_and_after_it() {
    let handle = with(FaultKind::ResetBeforeHeaders);
    let mut raw = Raw::to(handle.addr());
    write!(raw.0, "POST {CHAT} HTTP/1.1\r\ncontent-length: 1000\r\n\r\n").unwrap();
    assert_eq!(raw.rest(), (String::new(), Some(ErrorKind::ConnectionReset)));

    handle.set_faults(vec![FaultKind::ResetAfterBody.into()]).unwrap();
    let mut raw = Raw::to(handle.addr());
    let body = unary().to_string();
    write!(raw.0, "POST {CHAT} HTTP/1.1\r\ncontent-length: {}\r\n\r\n", body.len()).unwrap();
    raw.is_silent();
    raw.0.write_all(body.as_bytes()).unwrap();
    assert_eq!(raw.rest(), (String::new(), Some(ErrorKind::ConnectionReset)));
    let stats = eventually(&handle, |stats| stats.requests.in_progress == 0);
    assert_eq!((stats.outcomes["reset_before_headers"], stats.outcomes["reset_after_body"]), (1, 1));
    assert_eq!(stats.last.len(), 1);
}

#[test]
fn malformed_answers_are_two_hundreds() {
    for (what, content_type, check) in [
        (Malformed::Html, "text/html", (|text| text.starts_with("<!DOCTYPE html>")) as fn(&str) -> bool),
        (Malformed::HalfJson, "application/json", |text| {
            text.starts_with('{') && serde_json::from_str::<Value>(text).is_err()
        }),
        (Malformed::Empty, "application/json", str::is_empty),
        (Malformed::JsonError200, "application/json", |text| text.starts_with(r#"{"error":{"#)),
        (Malformed::WrongContentType, "text/plain", |text| text.contains("t0 t1")),
    ] {
        let got = ask(&with(FaultKind::Malformed { what }), &unary());
        assert_eq!((got.status, got.header("content-type")), (200, Some(content_type)), "{what:?}");
        assert!(check(&got.body), "{what:?}: {}", got.body);
    }
    let stream = |what| ask(&with(FaultKind::Malformed { what }), &streamed());
    assert_eq!(stream(Malformed::Html).header("content-type"), Some("text/html"));
    assert!(stream(Malformed::HalfJson).json_is_broken());
    let empty = stream(Malformed::Empty);
    assert_eq!((empty.header("content-type"), empty.body.as_str()), (Some("text/event-stream; charset=utf-8"), ""));
    let plain = stream(Malformed::WrongContentType);
    assert_eq!(plain.header("content-type"), Some("text/plain"));
    assert!(plain.body.ends_with("data: [DONE]\n\n"));
}

impl Got {
    fn json_is_broken(&self) -> bool {
        !self.body.is_empty() && serde_json::from_str::<Value>(&self.body).is_err()
    }
}

// --- faults at the end of an answer ---------------------------------------------------------------------------------

#[test]
fn a_cut_is_in_the_middle_of_a_chunk() {
    for reset in [false, true] {
        let handle = with(FaultKind::CutAfter { events: 3, reset });
        let (text, end) = Raw::ask(&handle, CHAT, &streamed()).rest();
        assert!(text.contains("t2\"") && !text.contains("t3\"") && !text.contains("[DONE]"), "{text}");
        let broken = text.rsplit("\r\n").next().unwrap();
        assert!(broken.starts_with("data: ") && !broken.ends_with('\n'), "{broken}");
        assert_eq!(end, reset.then_some(ErrorKind::ConnectionReset));

        let (text, end) = Raw::ask(&handle, CHAT, &unary()).rest();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length: usize = header(head, "content-length").unwrap().parse().unwrap();
        assert_eq!(body.len(), length / 2);
        assert_eq!(end, reset.then_some(ErrorKind::ConnectionReset));
    }
}

#[test]
fn a_stream_can_end_cleanly_without_saying_so() {
    for (given, tokens) in [(Some(2), 2), (None, 16), (Some(0), 0)] {
        let got = ask(&with(FaultKind::EndWithoutDone { events: given }), &streamed());
        let all = events(&got.body);
        assert_eq!(said(&all), numbered(tokens));
        assert!(!got.body.contains("[DONE]") && !got.body.contains(r#""finish_reason":"stop""#));
    }
}

#[test]
fn errors_come_as_events() {
    let got = ask(&with(FaultKind::ErrorEvent { after: 3, body: None }), &streamed());
    let all = events(&got.body);
    assert_eq!(said(&all), numbered(3));
    assert!(all.last().unwrap().starts_with(r#"{"error":{"#) && !got.body.contains("[DONE]"));

    let own = json!({"error": {"type": "overloaded_error"}});
    let got = ask(&with(FaultKind::FirstEventError { body: Some(own.clone()) }), &streamed());
    assert_eq!((got.status, events(&got.body)), (200, vec![own.to_string()]));
}

#[test]
fn silence_lasts_and_ends() {
    let handle = with(FaultKind::SilentAfter { events: 2, ms: None });
    let mut raw = Raw::ask(&handle, CHAT, &streamed());
    raw.until("t1\"");
    raw.until("\n\n\r\n");
    raw.is_silent();
    drop(raw);
    let stats = eventually(&handle, |stats| stats.aborted.total == 1);
    assert_eq!((stats.aborted.last[0].events, stats.outcomes.get("silent_after")), (2, Some(&1)));

    let handle = with(FaultKind::SilentAfter { events: 0, ms: Some(120) });
    let begin = clock::now();
    let mut raw = Raw::ask(&handle, CHAT, &streamed());
    raw.until("\r\n\r\n");
    assert_eq!(said(&events(&raw.until("0\r\n\r\n"))), numbered(16));
    assert!(clock::now().since(begin) >= Duration::from_millis(120));
}

#[test]
fn chunks_json_and_lengths_can_be_wrong() {
    let (text, end) = Raw::ask(&with(FaultKind::BrokenChunk { after: 2 }), CHAT, &streamed()).rest();
    assert!(text.contains("t1\"") && text.ends_with("\r\nzz\r\nno chunk\r\n") && end.is_none(), "{text}");
    let (text, _) = Raw::ask(&with(FaultKind::BrokenChunk { after: 2 }), CHAT, &unary()).rest();
    assert!(text.contains("chunked") && text.ends_with("\r\nzz\r\nno chunk\r\n"), "{text}");

    let all = events(&ask(&with(FaultKind::BrokenJsonEvent { after: 1 }), &streamed()).body);
    let broken: Vec<_> = all.iter().filter(|data| serde_json::from_str::<Value>(data).is_err()).collect();
    assert_eq!((broken.len(), broken[1].as_str()), (2, "[DONE]"));
    assert!(broken[0].starts_with('{'));

    for by in [-5_i64, 5] {
        let (text, end) = Raw::ask(&with(FaultKind::WrongLength { by }), CHAT, &unary()).rest();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length: i64 = header(head, "content-length").unwrap().parse().unwrap();
        assert_eq!(length - i64::try_from(body.len()).unwrap(), by);
        assert!(end.is_none() && serde_json::from_str::<Value>(body).is_ok());
    }
}

#[test]
fn endless_bodies_do_not_end() {
    const ENOUGH: u64 = 4 * 1024 * 1024;
    for request in [unary(), streamed()] {
        let handle = with(FaultKind::EndlessBody);
        let mut raw = Raw::ask(&handle, CHAT, &request);
        let mut got = 0;
        let mut piece = vec![0; 64 * 1024];
        while got < ENOUGH {
            got += raw.0.read(&mut piece).unwrap() as u64;
        }
        drop(raw);
        let stats = eventually(&handle, |stats| stats.requests.in_progress == 0);
        assert_eq!((stats.outcomes["endless_body"], stats.aborted.total), (1, 1));
        assert!(stats.bytes_out >= ENOUGH);
    }
}

// --- manners --------------------------------------------------------------------------------------------------------

#[test]
fn bytes_can_come_one_by_one() {
    let handle = with(FaultKind::OneBytePackets);
    let mut raw = Raw::ask(&handle, CHAT, &streamed());
    let (mut all, mut reads) = (Vec::new(), 0_usize);
    let mut piece = [0; 4096];
    while !all.ends_with(b"0\r\n\r\n") {
        let got = raw.0.read(&mut piece).unwrap();
        all.extend_from_slice(&piece[..got]);
        reads += 1;
    }
    let text = String::from_utf8(all).unwrap();
    assert_eq!(said(&events(&text)), numbered(16));
    // A reader that is kept from running finds several bytes at once; that it never gets one at a time is impossible.
    assert!(reads > text.len() / 20, "{} bytes in {reads} reads", text.len());
}

#[test]
fn newlines_can_be_mixed() {
    let got = ask(&with(FaultKind::MixedNewlines), &streamed());
    let text = &got.body;
    assert!(text.starts_with("\u{feff}data: "));
    for form in ["}\n\n", "}\r\n\r\n", ": keep-alive\r\n", ",\r\ndata: ", "id: 3\ndata:{"] {
        assert!(text.contains(form), "{form:?} is not in {text}");
    }
    let all = events(text);
    assert_eq!((said(&all), all.last().unwrap().as_str()), (numbered(16), "[DONE]"));
}

#[test]
fn speed_usage_and_finish_reason_can_be_changed() {
    let mut request = streamed();
    request["stream_options"] = json!({"include_usage": true});
    assert!(!ask(&with(FaultKind::NoUsage), &request).body.contains("prompt_tokens"));
    assert!(ask(&with(FaultKind::NoUsage), &unary()).json().get("usage").is_none());
    let filtered = ask(&with(FaultKind::Finish { reason: "content_filter".into() }), &unary()).json();
    assert_eq!(filtered["choices"][0]["finish_reason"], "content_filter");

    for (kind, least) in [
        (FaultKind::SlowFirstByte { ms: 80 }, 80),
        (FaultKind::Latency { latency: Latency::fixed(70.0) }, 70),
        (FaultKind::Trickle { tokens_per_second: 200.0 }, 75),
    ] {
        let handle = with(kind.clone());
        for request in [unary(), streamed()] {
            let begin = clock::now();
            assert_eq!(ask(&handle, &request).status, 200);
            assert!(clock::now().since(begin) >= Duration::from_millis(least), "{kind:?}");
        }
    }
    let slow_error = vec![
        FaultKind::SlowFirstByte { ms: 60 }.into(),
        FaultKind::Status { code: 500, headers: BTreeMap::new(), body: None }.into(),
    ];
    let handle = provider(Profile { faults: slow_error, ..Profile::new("a", &["m"]) });
    let begin = clock::now();
    assert_eq!(ask(&handle, &unary()).status, 500);
    assert!(clock::now().since(begin) >= Duration::from_millis(60));
}

// --- what can be seen and set ---------------------------------------------------------------------------------------

#[test]
fn a_seed_makes_the_same_run_again() {
    let run = |seed| {
        let fault = Fault::from(FaultKind::Status { code: 500, headers: BTreeMap::new(), body: None }).share(0.4);
        let handle = provider(Profile { seed, faults: vec![fault], ..Profile::new("a", &["m"]) });
        let mut raw = Raw::to(handle.addr());
        let mut statuses = Vec::new();
        for _ in 0..100 {
            raw.send(CHAT, &unary());
            statuses.push(raw.answer().status);
        }
        statuses
    };
    let (one, again, other) = (run(1), run(1), run(2));
    assert_eq!(one, again);
    assert_ne!(one, other);
    let failed = one.iter().filter(|status| **status == 500).count();
    assert!((25..=55).contains(&failed), "{failed} of 100");
}

#[test]
fn a_hang_up_is_noticed_while_nothing_is_written() {
    // Before the first token, and between two of them: neither would come within the test's time.
    for (latency, rate, mark, events) in [(60_000.0, None, None, 0), (0.0, Some(0.01), Some("t0\""), 1)] {
        let profile =
            Profile { latency: Latency::fixed(latency), tokens_per_second: rate, ..Profile::new("a", &["m"]) };
        let handle = provider(profile);
        let mut raw = Raw::ask(&handle, CHAT, &streamed());
        match mark {
            Some(mark) => drop(raw.until(mark)),
            None => drop(eventually(&handle, |stats| stats.requests.in_progress == 1 && !stats.last.is_empty())),
        }
        let left = clock::now();
        let left_unix_us = clock::wall().0;
        drop(raw);
        let stats = eventually(&handle, |stats| stats.aborted.total == 1);
        let noticed = clock::now().since(left);
        assert!(noticed < Duration::from_secs(2), "{noticed:?}");
        let abort = stats.aborted.last[0];
        assert_eq!(abort.events, events);
        assert!(abort.at_unix_us >= left_unix_us - 1_000 && abort.after_last_event_us < 10_000_000, "{abort:?}");
        assert_eq!(eventually(&handle, |stats| stats.connections.open == 0).outcomes["aborted"], 1);
    }
}

#[test]
fn a_client_that_does_not_read_blocks_and_is_noticed_too() {
    let handle = with(FaultKind::EndlessBody);
    let raw = Raw::ask(&handle, CHAT, &streamed());
    // Blocked: what has been written stays the same for a while.
    let mut last = 0;
    let mut since = clock::now();
    eventually(&handle, |stats| stats.bytes_out > 0);
    let end = clock::now().plus(LONG);
    while clock::now().since(since) < QUIET {
        let out = handle.stats().bytes_out;
        if out != last {
            (last, since) = (out, clock::now());
        }
        assert!(clock::now() < end, "never blocked");
        std::thread::yield_now();
    }
    // Others are served meanwhile.
    assert_eq!(call(handle.addr(), "GET", "/health", "").status, 200);
    drop(raw);
    eventually(&handle, |stats| stats.aborted.total == 1);
}

#[test]
fn control_over_http_sets_shows_and_resets() {
    let handle = provider(Profile::new("a", &["m"]));
    let addr = handle.addr();
    let set =
        call(addr, "PUT", "/__sim/faults", r#"[{"kind": "status", "code": 500, "count": 2}, {"kind": "no_usage"}]"#);
    assert_eq!(set.status, 200);
    assert_eq!((&set.json()[0]["kind"], &set.json()[0]["hits"]), (&json!("status"), &json!(0)));
    let statuses: Vec<u16> = (0..3).map(|_| ask(&handle, &unary()).status).collect();
    assert_eq!(statuses, [500, 500, 200]);
    let left = call(addr, "GET", "/__sim/faults", "").json();
    assert_eq!(
        (left.as_array().unwrap().len(), &left[0]["kind"], &left[0]["hits"]),
        (1, &json!("no_usage"), &json!(3))
    );

    for bad in
        [r#"[{"kind": "nope"}]"#, r#"[{"kind": "hang", "share": 2}]"#, "{}", r#"[{"kind": "refuse", "count": 1}]"#]
    {
        let refused = call(addr, "POST", "/__sim/faults", bad);
        assert!(refused.status == 400 && refused.json()["error"].is_string(), "{bad}");
    }
    assert_eq!(call(addr, "GET", "/__sim/faults", "").json().as_array().unwrap().len(), 1);
    assert_eq!(call(addr, "DELETE", "/__sim/faults", "").json(), json!([]));

    let stats: Stats = serde_json::from_str(&call(addr, "GET", "/__sim/stats", "").body).unwrap();
    assert_eq!((stats.requests.total, stats.paths[CHAT], stats.outcomes["status"], stats.outcomes["ok"]), (3, 3, 2, 1));
    assert_eq!((stats.faults["status"], stats.faults["no_usage"]), (2, 3));
    let seen = &stats.last[2];
    assert_eq!((seen.n, seen.method.as_str(), seen.path.as_str(), seen.header("HOST")), (2, "POST", CHAT, Some("sim")));
    assert_eq!(seen.body, unary().to_string());

    let profile = call(addr, "PUT", "/__sim/profile", r#"{"output_tokens": 2, "keep_requests": 1}"#).json();
    assert_eq!((&profile["output_tokens"], &profile["name"]), (&json!(2), &json!("a")));
    assert_eq!(ask(&handle, &unary()).json()["choices"][0]["message"]["content"], "t0 t1");
    assert_eq!(call(addr, "PUT", "/__sim/profile", r#"{"name": "b"}"#).status, 400);

    assert_eq!(call(addr, "POST", "/__sim/reset", "").status, 200);
    let stats = handle.stats();
    assert_eq!((stats.requests.total, stats.last.len(), stats.outcomes.len(), stats.bytes_out), (0, 0, 0, 0));
    assert_eq!(call(addr, "PATCH", "/__sim/stats", "").status, 405);
    assert_eq!(call(addr, "GET", "/__sim/nothing", "").status, 404);
    assert_eq!(call(control_addr(&handle), "POST", CHAT, &unary().to_string()).status, 404);
}

#[test]
fn faults_can_be_meant_for_other_paths_and_models() {
    let handle = provider(Profile::new("a", &["m", "n"]));
    let hung = || FaultKind::Status { code: 500, headers: BTreeMap::new(), body: None };
    handle.set_faults(vec![Fault::from(hung()).on(On::Health)]).unwrap();
    assert_eq!((call(handle.addr(), "GET", "/health", "").status, ask(&handle, &unary()).status), (500, 200));
    handle.set_faults(vec![Fault { model: Some("n".into()), ..hung().into() }]).unwrap();
    let other = json!({"model": "n", "messages": [{"role": "user", "content": "x"}]});
    assert_eq!((ask(&handle, &other).status, ask(&handle, &unary()).status), (500, 200));
}

#[test]
fn kept_requests_are_bounded() {
    let handle = provider(Profile { keep_requests: 2, ..Profile::new("a", &["m"]) });
    let mut large = unary();
    large["messages"][0]["content"] = json!("x".repeat(300_000));
    let mut raw = Raw::to(handle.addr());
    for _ in 0..3 {
        raw.send(CHAT, &large);
        assert_eq!(raw.answer().status, 200);
    }
    let stats = handle.stats();
    assert_eq!((stats.last.len(), stats.last[0].n), (2, 1));
    assert!(stats.last[0].truncated && stats.last[0].body_bytes > 300_000 && stats.last[0].body.len() < 100_000);
}

#[test]
fn stopping_frees_the_port_and_a_taken_port_is_an_error() {
    let handle = provider(Profile::new("a", &["m"]));
    let addr = handle.addr();
    let idle = Raw::to(addr);
    let again = Profile { listen: Some(addr), ..Profile::new("b", &[]) };
    assert_eq!(sim::start(again.clone()).err().unwrap().kind(), ErrorKind::AddrInUse);
    handle.stop();
    let second = provider(again);
    assert_eq!((second.addr(), ask(&second, &unary()).status), (addr, 200));
    drop(idle);
}

#[test]
fn the_demo_has_its_four_models() {
    let demo = sim::demo();
    let models: Vec<&str> = demo.iter().flat_map(|profile| profile.models.iter().map(String::as_str)).collect();
    assert_eq!(models, ["deepseek-v3.2", "gemini-2.5-flash", "gpt-4.1", "claude-sonnet-4.5"]);
    let profile = Profile { output_tokens: 2, ..demo[0].clone() };
    assert_eq!(
        Raw::ask(
            &provider(profile),
            CHAT,
            &json!({"model": "deepseek-v3.2", "messages": [{"role": "user", "content": "x"}]})
        )
        .answer()
        .status,
        200
    );
}
