//! Secrets and prompts: marker texts go in at every door, and come out at none.

use crate::support::upstream::{error_body, text_event};
use crate::support::{ADMIN_TOKEN, Gateway, Reply, Setup, Upstream, chat_body, eventually, ms, secs, stream_body};
use serde_json::json;
use std::path::Path;

const PROMPT: &str = "marker-prompt-qvzx";
const ANSWER: &str = "marker-answer-qvzx";
const UPSTREAM_KEY: &str = "sk-marker-upstream-qvzx";

/// Everything that a file in the folder holds, as text.
fn contents(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            contents(&path, found);
        } else {
            found.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
}

fn holds(bytes: &[u8], marker: &str) -> bool {
    bytes.windows(marker.len()).any(|w| w == marker.as_bytes())
}

#[tokio::test]
async fn no_secret_and_no_prompt_is_found_anywhere() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let setup = Setup::pair(&a, &b, &["timeouts: {first_byte: 300ms}"])
        .upstream_key("a", UPSTREAM_KEY)
        .auth_required()
        .env("RUST_LOG", "trace")
        .env("BREAKWATER_LOG", "trace");
    let mut gateway = Gateway::start(&setup).await;
    let key = gateway.admin("POST", "/admin/keys", Some(&json!({"name": "app"}))).await.expect(201).json();
    let secret = key["secret"].as_str().unwrap().to_owned();
    let bearer = format!("Bearer {secret}");
    let mut told = vec![];
    let token = format!("Bearer {ADMIN_TOKEN}");
    let mut events =
        reqwest::Client::new().get(gateway.url("/admin/events")).header("authorization", &token).send().await.unwrap();

    let mut body = chat_body("chat");
    body["messages"][0]["content"] = PROMPT.into();
    let mut stream = stream_body("chat");
    stream["messages"][0]["content"] = PROMPT.into();
    let leaky = error_body(&format!("Incorrect API key provided: {UPSTREAM_KEY}. Your prompt was {PROMPT}"));
    let answered =
        json!({"choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})
        .to_string();
    for reply in [
        Reply::Body { content_type: "application/json", body: answered.into() },
        Reply::Status { status: 401, headers: vec![], body: leaky.clone() },
        Reply::Status { status: 500, headers: vec![], body: leaky.clone() },
        Reply::Body { content_type: "application/json", body: leaky.clone().into() },
        Reply::Body { content_type: "text/html", body: format!("<html>{UPSTREAM_KEY} {PROMPT}").into() },
        Reply::CutEvents(text_event(ANSWER)),
        Reply::Hang,
    ] {
        a.set(reply);
        for body in [&body, &stream] {
            let answer = gateway.chat_with(&[("authorization", &bearer)], body).await;
            assert!(!holds(&answer.body, UPSTREAM_KEY), "an answer shows the upstream's key: {}", answer.text());
        }
    }
    b.set(Reply::Status { status: 500, headers: vec![], body: leaky });
    a.set(Reply::Close);
    let hints = [("authorization", bearer.as_str()), ("x-breakwater-max-attempts", "2")];
    told.push(gateway.chat_with(&hints, &body).await.text());
    body["temperature"] = PROMPT.into();
    told.push(gateway.chat_with(&hints, &body).await.text());
    told.push(gateway.chat_with(&[("authorization", &format!("Bearer {secret}-wrong"))], &stream).await.text());

    let mut seen = String::new();
    while let Ok(Ok(Some(piece))) = tokio::time::timeout(ms(500), events.chunk()).await {
        seen += &String::from_utf8_lossy(&piece);
    }
    assert!(seen.contains("data:"), "there are events to look at");
    told.push(seen);
    drop(events);
    for path in [
        "/admin/endpoints",
        "/admin/keys",
        "/admin/report",
        "/admin/audit",
        "/admin/ledger?group_by=key",
        "/admin/ledger/export?format=csv",
        "/admin/ledger/export?format=jsonl",
        "/metrics",
        "/health/ready",
        "/",
        "/openapi.json",
    ] {
        told.push(gateway.admin("GET", path, None).await.text());
    }
    for row in gateway.rows().await {
        told.push(gateway.admin("GET", &format!("/admin/decisions/{}", row.get("request_id")), None).await.text());
    }
    let markers = [PROMPT, ANSWER, UPSTREAM_KEY, ADMIN_TOKEN, &secret];
    for text in &told {
        for marker in markers {
            assert!(!text.contains(marker), "{marker} in {text}");
        }
    }
    gateway.restart().await;
    gateway.kill();
    for marker in markers {
        assert!(!gateway.log().contains(marker), "{marker} in the log");
    }
    assert!(gateway.log().lines().count() > 1, "there is a log to look at");
    let mut files = vec![];
    contents(&gateway.store(), &mut files);
    assert!(files.iter().any(|(_, bytes)| holds(bytes, "model-a")), "the store can be searched");
    for (file, bytes) in files {
        for marker in markers {
            assert!(!holds(&bytes, marker), "{marker} in {file}");
        }
    }
}

#[tokio::test]
async fn the_command_line_shows_no_secret_either() {
    let a = Upstream::start();
    let mut gateway = Gateway::start(&Setup::single(&a).upstream_key("a", UPSTREAM_KEY)).await;
    gateway.chat(&chat_body("chat")).await.expect(200);
    eventually(secs(5), "the row is there", async || gateway.rows().await.len() == 1).await;
    gateway.kill();
    for args in [
        &["check"][..],
        &["explain", "--model", "chat"],
        &["ledger", "report"],
        &["ledger", "export", "--format", "csv"],
        &["key", "list"],
    ] {
        let run = gateway.run(args).expect(0);
        for marker in [UPSTREAM_KEY, ADMIN_TOKEN] {
            assert!(!(run.stdout.clone() + &run.stderr).contains(marker), "{marker}: {args:?}");
        }
    }
}
