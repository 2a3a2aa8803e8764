//! Configurations that are wrong, callers that have no right, and requests that try to be led astray.

use crate::providers::{alone, calls, faulty, pair, provider, with_profile};
use crate::support::{Gateway, Setup, Sse, Upstream, chat_body, eventually, secs, stream_body};
use breakwater::sim::{FaultKind, Profile};
use serde_json::json;
use std::io::{Read, Write};

#[tokio::test]
async fn a_reload_of_a_faulty_file_keeps_the_old() {
    let a = provider("a");
    let gateway = Gateway::start(&alone(&a, &[])).await;
    let good = std::fs::read_to_string(gateway.config()).unwrap();
    let with = |old: &str, new: &str| {
        assert!(good.contains(old), "{old} in {good}");
        good.replace(old, new)
    };
    let base_url = format!("base_url: \"{}\"", a.base_url());
    let faults = [
        ("unknown field", with("auth: open", "auth: open\n  colour: red")),
        ("duplicate name", good.replace("routes:", "  a:\n    provider: p-a\n    model: m\nroutes:")),
        ("empty route", with("endpoints: [a]", "endpoints: []")),
        ("unknown endpoint", with("endpoints: [a]", "endpoints: [a, nobody]")),
        ("rpm 0", with("model: model-a", "model: model-a\n    limits: {rpm: 0}")),
        ("rpm -1", with("model: model-a", "model: model-a\n    limits: {rpm: -1}")),
        ("rpm 1e20", with("model: model-a", "model: model-a\n    limits: {rpm: 1e20}")),
        ("file:///", with(&base_url, "base_url: \"file:///etc/passwd\"")),
        (
            "a metadata address",
            with(&format!("{base_url}, api_key"), "base_url: \"http://169.254.169.254/v1\", api_key")
                .replace("allow_private: true", "allow_private: false"),
        ),
        ("missing variable", with("${UPSTREAM_KEY_A}", "${NOBODY_HAS_SET_THIS}")),
        ("no YAML", "server: [".into()),
        ("nothing", String::new()),
    ];
    for (what, bad) in faults {
        std::fs::write(gateway.config(), bad).unwrap();
        let answer = gateway.admin("POST", "/admin/reload", None).await;
        answer.expect_error(400, "invalid_request");
        let told = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(told.contains("config.yaml:"), "{what}: a place in `{told}`");
        gateway.chat(&chat_body("chat")).await.expect(200);
    }
    std::fs::write(gateway.config(), with("model: model-a", "model: model-a\n    weight: 3")).unwrap();
    let answer = gateway.admin("POST", "/admin/reload", None).await;
    assert!(answer.expect(200).text().contains("weight"), "{}", answer.text());
    assert_eq!(gateway.endpoint("a").await["weight"], 3);
}

#[tokio::test]
async fn an_endpoint_that_a_reload_removes_finishes_its_streams() {
    let a = with_profile(Profile { tokens_per_second: Some(20.0), output_tokens: 30, ..Profile::new("a", &[]) });
    let b = provider("b");
    let gateway = Gateway::start(&pair(&a, &b, &[])).await;
    let mut stream = gateway.open(&stream_body("chat")).await;
    stream.chunk().await.unwrap().unwrap();
    let without =
        alone(&b, &[]).yaml(&gateway.store()).replace("p-a", "p-b").replace("  a:", "  b:").replace("[a]", "[b]");
    std::fs::write(gateway.config(), without.replace("UPSTREAM_KEY_A", "UPSTREAM_KEY_B")).unwrap();
    gateway.admin("POST", "/admin/reload", None).await.expect(200);
    gateway.admin("GET", "/admin/endpoints/a", None).await.expect(404);
    assert_eq!(gateway.chat(&chat_body("chat")).await.expect(200).need("x-breakwater-endpoint"), "b");
    let mut text = String::new();
    while let Some(piece) = stream.chunk().await.unwrap() {
        text += &String::from_utf8_lossy(&piece);
    }
    let sse = Sse::read(&text);
    assert_eq!((sse.dones(), sse.error()), (1, None), "{text}");
    let rows = gateway.wait_rows(2).await;
    assert!(rows.iter().all(|r| r.get("outcome") == "success"));
}

#[tokio::test]
async fn an_expired_key_is_like_no_key() {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a).auth_required()).await;
    let make = async |name: &str, until: jiff::Timestamp| {
        let key = json!({"name": name, "expires_at": until.to_string()});
        let made = gateway.admin("POST", "/admin/keys", Some(&key)).await.expect(201).json();
        format!("Bearer {}", made["secret"].as_str().unwrap())
    };
    let now = jiff::Timestamp::now();
    let (short, long) = (make("short", now + secs(2)).await, make("long", now + secs(600)).await);
    for key in [&short, &long] {
        gateway.chat_with(&[("authorization", key)], &chat_body("chat")).await.expect(200);
    }
    eventually(secs(5), "the key has expired", async || {
        gateway.chat_with(&[("authorization", &short)], &chat_body("chat")).await.status == 401
    })
    .await;
    gateway.chat_with(&[("authorization", &long)], &chat_body("chat")).await.expect(200);
    let stranger = gateway.chat(&chat_body("chat")).await.expect(401).json();
    let body = chat_body("chat").to_string();
    for (method, path) in [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/explain"),
        ("GET", "/v1/models"),
        ("GET", "/v1/requests/req_00000000000000000000000000"),
        ("GET", "/admin/endpoints"),
        ("GET", "/admin/events"),
        ("GET", "/admin/audit"),
        ("GET", "/admin/keys/nobody"),
        ("POST", "/admin/reload"),
    ] {
        let sent = if method == "GET" { "" } else { &body };
        let answer = gateway.send(method, path, &[("authorization", &short)], sent.to_owned()).await;
        assert_eq!(answer.expect(401).json(), stranger, "{method} {path}");
    }
    for bad in ["soon", "2020-13-01", ""] {
        let key = json!({"name": "x", "expires_at": bad});
        gateway.admin("POST", "/admin/keys", Some(&key)).await.expect_error(400, "invalid_request");
    }
}

/// Sends bytes as they are and reads what comes until the end or a second of silence.
fn raw(gateway: &Gateway, bytes: &str) -> String {
    let mut socket = gateway.connect();
    socket.set_read_timeout(Some(secs(1))).unwrap();
    let _ = socket.write_all(bytes.as_bytes());
    let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = socket.read(&mut piece) {
        seen.extend_from_slice(&piece[..n]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

#[tokio::test]
async fn requests_that_name_another_target_do_not_reach_it() {
    let (a, target) = (Upstream::start(), provider("target"));
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let url = target.base_url();
    let mut body = chat_body("chat");
    for name in ["api_base", "base_url", "api_key", "endpoint", "custom_llm_provider", "proxy"] {
        body[name] = url.clone().into();
    }
    let hints = [
        ("x-forwarded-host", target.addr().to_string()),
        ("x-original-url", url.clone()),
        ("forwarded", format!("host={}", target.addr())),
    ];
    let headers: Vec<(&str, &str)> = hints.iter().map(|(n, v)| (*n, v.as_str())).collect();
    gateway.chat_with(&headers, &body).await.expect(200);
    assert_eq!(a.last().header("authorization"), Some("Bearer sk-upstream-a"));
    gateway
        .chat_with(&[("x-breakwater-base-url", &url)], &chat_body("chat"))
        .await
        .expect_error(400, "invalid_request");
    let mut hinted = chat_body("chat");
    hinted["breakwater"] = json!({"base_url": url});
    gateway.chat(&hinted).await.expect_error(400, "invalid_request");
    for model in [url.as_str(), "../../v1/models", "a\r\nhost: evil", "openai/http://169.254.169.254/"] {
        gateway.chat(&chat_body(model)).await.expect_error(404, "model_not_found");
    }

    // The request line and Host name another server.
    let (text, to) = (chat_body("chat").to_string(), target.addr());
    let post = |line: &str, hosts: &str| {
        format!(
            "{line}\r\n{hosts}content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        )
    };
    let before = a.calls();
    let path = "POST /v1/chat/completions HTTP/1.1";
    for (request, status) in [
        (post(path, &format!("host: {to}\r\n")), "HTTP/1.1 200 "),
        (post(&format!("POST http://{to}/v1/chat/completions HTTP/1.1"), "host: g\r\n"), "HTTP/1.1 "),
        (post(&format!("CONNECT {to} HTTP/1.1"), &format!("host: {to}\r\n")), "HTTP/1.1 4"),
    ] {
        let answer = raw(&gateway, &request);
        assert!(answer.starts_with(status), "{request}: {answer}");
    }
    assert!(a.calls() - before <= 2, "at most the two that ask for this gateway's own path");
    assert_eq!((calls(&target), target.stats().connections.accepted), (0, 0), "nothing reached the target");
}

#[tokio::test]
async fn ambiguous_requests_are_refused() {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let text = chat_body("chat").to_string();
    let n = text.len();
    let head = "POST /v1/chat/completions HTTP/1.1\r\ncontent-type: application/json\r\n";
    let plain = raw(&gateway, &format!("{head}host: one\r\nconnection: close\r\ncontent-length: {n}\r\n\r\n{text}"));
    assert!(plain.starts_with("HTTP/1.1 200 "), "what is not ambiguous is served: {plain}");
    for (what, request) in [
        ("two Hosts", format!("{head}host: one\r\nhost: two\r\ncontent-length: {n}\r\n\r\n{text}")),
        ("no Host", format!("{head}content-length: {n}\r\n\r\n{text}")),
        ("CL and TE", format!("{head}host: g\r\ncontent-length: {n}\r\ntransfer-encoding: chunked\r\n\r\n{text}")),
        ("TE and CL", format!("{head}host: g\r\ntransfer-encoding: chunked\r\ncontent-length: {n}\r\n\r\n{text}")),
        ("two lengths", format!("{head}host: g\r\ncontent-length: {n}\r\ncontent-length: 5\r\n\r\n{text}")),
        ("an odd TE", format!("{head}host: g\r\ntransfer-encoding: xchunked\r\n\r\n{n:x}\r\n{text}\r\n0\r\n\r\n")),
        ("a blank in a name", format!("{head}host: g\r\ncontent-length : {n}\r\n\r\n{text}")),
        ("a bare CR in a name", format!("{head}host: g\r\nx-a\rb: 1\r\ncontent-length: {n}\r\n\r\n{text}")),
        (
            "a folded header",
            format!("{head}host: g\r\nx-a: 1\r\n content-length: 5\r\ncontent-length: {n}\r\n\r\n{text}"),
        ),
    ] {
        let answer = raw(&gateway, &request);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{what}: {answer}");
        assert_eq!(a.calls(), 1, "{what} went upstream");
    }
    for name in ["a\r\nb", "a\nb", "a\0b", "a b", "ü"] {
        let endpoint = json!({"name": name, "provider": "p-a", "model": "m"});
        gateway.admin("POST", "/admin/endpoints", Some(&endpoint)).await.expect_error(400, "invalid_request");
    }
    gateway.chat(&chat_body("chat")).await.expect(200);
}

#[tokio::test]
async fn a_redirect_to_another_address_is_not_followed() {
    let target = provider("target");
    for code in [301, 302, 303, 307, 308] {
        let location = format!("{}/chat/completions", target.base_url());
        let headers = [("location".to_owned(), location.clone())].into();
        let a = faulty("a", FaultKind::Status { code, headers, body: None });
        let b = provider("b");
        let gateway = Gateway::start(&pair(&a, &b, &[])).await;
        let answer = gateway.chat(&chat_body("chat")).await;
        assert_eq!(answer.expect(200).need("x-breakwater-endpoint"), "b", "{code}");
        let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), 2).await;
        assert_eq!((rows[0].get("outcome"), rows[0].get("http_status")), ("protocol", code.to_string().as_str()));
        let refused = gateway.chat_with(&[("x-breakwater-no-fallback", "true")], &chat_body("a")).await;
        refused.expect_error(502, "upstream_failed");
        assert!(
            refused.header("location").is_none() && !refused.text().contains(&location),
            "the caller is not led either"
        );
    }
    assert_eq!(target.stats().connections.accepted, 0, "neither request nor key reached it");
}
