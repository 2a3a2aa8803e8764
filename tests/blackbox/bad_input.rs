//! Requests that cannot be served: each is told what is wrong, nothing goes upstream, and the next one is served.

use crate::support::{Gateway, Setup, Upstream, chat_body, eventually, secs};
use serde_json::{Value, json};
use std::io::{Read, Write};

const MIB: usize = 1 << 20;

async fn start(a: &Upstream) -> Gateway {
    Gateway::start(&Setup::single(a)).await
}

async fn post(gateway: &Gateway, body: impl Into<reqwest::Body>) -> crate::support::Answer {
    gateway.send("POST", "/v1/chat/completions", &[("content-type", "application/json")], body).await
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_400() {
    let a = Upstream::start();
    let gateway = start(&a).await;
    let good = chat_body("chat").to_string();
    let cut = &good.as_bytes()[..good.len() / 2];
    let deep = format!(r#"{{"model":"chat","messages":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let deep_object = format!(r#"{{"model":"chat","x":{}1{}}}"#, r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    let bodies: [&[u8]; 14] = [
        b"",
        b"   ",
        b"{",
        cut,
        b"not json",
        b"[]",
        b"\"chat\"",
        b"7",
        b"null",
        b"{\"model\":\"chat\",}",
        b"\xff\xfe{\"model\":\"chat\"}",
        b"{\"model\":\"ch\xc3\x28at\",\"messages\":[]}",
        deep.as_bytes(),
        deep_object.as_bytes(),
    ];
    for body in bodies {
        let answer = post(&gateway, body.to_vec()).await;
        answer.expect_error(400, "invalid_request");
    }
    assert_eq!(a.calls(), 0);
    post(&gateway, good).await.expect(200);
}

#[tokio::test]
async fn a_bad_field_is_400_and_named() {
    let a = Upstream::start();
    let gateway = start(&a).await;
    let user = json!([{"role": "user", "content": "hi"}]);
    let with = |name: &str, value: Value| {
        let mut body = chat_body("chat");
        body[name] = value;
        body
    };
    let table = [
        (json!({"messages": user}), "model"),
        (with("model", json!(7)), "model"),
        (with("model", Value::Null), "model"),
        (with("model", json!("")), "model"),
        (json!({"model": "chat"}), "messages"),
        (with("messages", Value::Null), "messages"),
        (with("messages", json!("hi")), "messages"),
        (with("messages", json!({"role": "user"})), "messages"),
        (with("messages", json!([])), "messages"),
        (with("messages", json!(["hi"])), "messages[0]"),
        (with("messages", json!([{"content": "hi"}])), "messages[0].role"),
        (with("messages", json!([{"role": 7, "content": "hi"}])), "messages[0].role"),
        (with("messages", json!([{"role": null, "content": "hi"}])), "messages[0].role"),
        (
            with("messages", json!([{"role": "user", "content": "hi"}, {"role": "pope", "content": "hi"}])),
            "messages[1].role",
        ),
        (with("messages", json!([{"role": "user", "content": 7}])), "messages[0].content"),
        (with("stream", json!("yes")), "stream"),
        (with("stream", json!(1)), "stream"),
        (with("stream_options", json!("usage")), "stream_options"),
        (with("temperature", json!(2.5)), "temperature"),
        (with("temperature", json!(-0.1)), "temperature"),
        (with("temperature", json!("warm")), "temperature"),
        (with("top_p", json!(1.5)), "top_p"),
        (with("presence_penalty", json!(-3)), "presence_penalty"),
        (with("frequency_penalty", json!(3)), "frequency_penalty"),
        (with("n", json!(0)), "n"),
        (with("n", json!(1_000_000)), "n"),
        (with("max_tokens", json!(-1)), "max_tokens"),
        (with("max_tokens", json!(1.5)), "max_tokens"),
        (with("max_completion_tokens", json!(0)), "max_completion_tokens"),
    ];
    for (body, param) in table {
        let answer = gateway.chat(&body).await;
        assert_eq!(answer.expect_error(400, "invalid_request").as_deref(), Some(param), "{body}: {}", answer.text());
    }
    let huge =
        post(&gateway, r#"{"model":"chat","messages":[{"role":"user","content":"hi"}],"temperature":1e999}"#).await;
    huge.expect_error(400, "invalid_request");
    assert_eq!(a.calls(), 0);
}

#[tokio::test]
async fn an_unknown_model_is_404_and_named() {
    let a = Upstream::start();
    let gateway = start(&a).await;
    for model in ["nobody", "chat ", "../chat", "CHAT"] {
        let answer = gateway.chat(&chat_body(model)).await;
        assert_eq!(answer.expect_error(404, "model_not_found").as_deref(), Some("model"));
    }
    assert_eq!(a.calls(), 0);
    for model in ["chat", "a", "model-a"] {
        gateway.chat(&chat_body(model)).await.expect(200);
    }
}

#[tokio::test]
async fn a_wrong_path_or_method_is_an_error_in_the_same_envelope() {
    let a = Upstream::start();
    let gateway = start(&a).await;
    for (method, path) in [
        ("GET", "/v1/nothing"),
        ("POST", "/v1/chat/completion"),
        ("GET", "/v1/chat/completions"),
        ("DELETE", "/v1/models"),
        ("PUT", "/admin/endpoints"),
        ("GET", "/nothing"),
    ] {
        let answer = gateway.send(method, path, &[], "").await;
        assert!([404, 405].contains(&answer.status), "{method} {path}: {}", answer.status);
        assert!(answer.text().contains("\"message\""), "{method} {path}: {} with {:?}", answer.status, answer.text());
        assert!(answer.json()["error"]["message"].is_string(), "{method} {path}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_its_memory_comes_back() {
    let a = Upstream::start();
    let gateway = start(&a).await;
    gateway.chat(&chat_body("chat")).await.expect(200);
    let before = gateway.resident_kib();
    let mut big = chat_body("chat");
    big["messages"][0]["content"] = "x".repeat(21 * MIB).into();
    let big = big.to_string();
    for _ in 0..6 {
        too_large(&gateway, &big).await;
    }
    assert_eq!(a.calls(), 1, "only the good one");
    gateway.chat(&chat_body("chat")).await.expect(200);
    // The allocator may keep a body's worth for each of the two workers; twelve bodies' worth it may not.
    let most = before + 48 * 1024;
    eventually(secs(10), "the memory is back", async || gateway.resident_kib() < most).await;
}

#[tokio::test]
async fn a_body_of_20_mb_passes_and_its_memory_comes_back() {
    let a = Upstream::start();
    a.forget_bodies();
    let setup = Setup::new().endpoint("a", &a, &[]).route("chat", "priority", &["a"], &[]);
    let gateway = Gateway::start(&setup).await;
    gateway.chat(&chat_body("chat")).await.expect(200);
    let before = gateway.resident_kib();
    let mut big = chat_body("chat");
    big["messages"][0]["content"] = "x".repeat(20_000_000).into();
    for _ in 0..4 {
        gateway.chat(&big).await.expect(200);
    }
    eventually(secs(10), "the memory is back", async || gateway.resident_kib() < before + 64 * 1024).await;
}

/// Sends a body that is too large, announced and unannounced. The gateway may close before it has read it all.
async fn too_large(gateway: &Gateway, body: &str) {
    for head in [format!("content-length: {}", body.len()), "transfer-encoding: chunked".into()] {
        let mut stream = gateway.connect();
        write!(
            stream,
            "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\n{head}\r\n\r\n"
        )
        .unwrap();
        let mut writer = stream.try_clone().unwrap();
        let text = body.to_owned();
        let chunked = head.starts_with("transfer");
        let writing = std::thread::spawn(move || {
            if chunked {
                let _ = write!(writer, "{:x}\r\n", text.len());
            }
            let _ = writer.write_all(text.as_bytes());
            if chunked {
                let _ = writer.write_all(b"\r\n0\r\n\r\n");
            }
        });
        let answer = read_head_and_body(&mut stream);
        drop(stream);
        writing.join().unwrap();
        assert!(answer.starts_with("HTTP/1.1 413 "), "{head}: {answer}");
        assert!(answer.contains("request_too_large"), "{head}: {answer}");
    }
}

/// Reads until the peer is silent or gone, at most 64 KiB.
fn read_head_and_body(stream: &mut std::net::TcpStream) -> String {
    let mut seen = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&seen).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|l| {
                l.to_ascii_lowercase().strip_prefix("content-length:").map(|v| v.trim().parse().unwrap_or(0))
            });
            if length.is_some_and(|n: usize| body.len() >= n) {
                return text;
            }
        }
        match stream.read(&mut piece) {
            Ok(n) if n > 0 && seen.len() < 64 * 1024 => seen.extend_from_slice(&piece[..n]),
            _ => return text,
        }
    }
}

#[tokio::test]
async fn what_is_no_http_is_refused_and_harms_nobody() {
    let a = Upstream::start();
    let gateway = start(&a).await;
    let body = chat_body("chat").to_string();
    let n = body.len();
    let post = "POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\n";
    let nasty = [
        "\0\0\0\0\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        format!("{post}content-length: {n}\r\ntransfer-encoding: chunked\r\n\r\n{body}"),
        format!("{post}content-length: {n}\r\ncontent-length: 3\r\n\r\n{body}"),
        format!("{post}content-length: -1\r\n\r\n{body}"),
        format!("{post}transfer-encoding: chunked\r\n\r\nzz\r\n{body}\r\n0\r\n\r\n"),
        format!("{post}bad header\r\ncontent-length: {n}\r\n\r\n{body}"),
        format!("{post}{}content-length: {n}\r\n\r\n{body}", "x-many: 1\r\n".repeat(500)),
        format!("{post}x-long: {}\r\ncontent-length: {n}\r\n\r\n{body}", "y".repeat(300_000)),
    ];
    for bytes in nasty {
        let mut stream = gateway.connect();
        // The gateway may close before it has read it all; the answer, if one came, is what counts.
        let _ = stream.write_all(bytes.as_bytes());
        let answer = read_head_and_body(&mut stream);
        let shown = &bytes[..bytes.len().min(120)];
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{shown:?}: {answer}");
    }
    assert_eq!(a.calls(), 0);
    gateway.chat(&chat_body("chat")).await.expect(200);
}

#[tokio::test]
async fn a_body_without_a_type_is_read_and_a_compressed_one_refused() {
    const GZIP: [u8; 24] =
        *b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00\x00\x00";
    let a = Upstream::start();
    let gateway = start(&a).await;
    gateway.send("POST", "/v1/chat/completions", &[], chat_body("chat").to_string()).await.expect(200);
    let headers = [("content-type", "application/json"), ("content-encoding", "gzip")];
    let answer = gateway.send("POST", "/v1/chat/completions", &headers, GZIP.to_vec()).await;
    assert!([400, 415].contains(&answer.status), "{} {}", answer.status, answer.text());
    assert_eq!(a.calls(), 1);
}
