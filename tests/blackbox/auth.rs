//! Who may call what: every route with every kind of key.

use crate::support::{ADMIN_TOKEN, Answer, Gateway, Setup, Upstream, chat_body};
use serde_json::{Value, json};

/// The calls of applications.
const DATA: [(&str, &str); 5] = [
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/chat"),
    ("POST", "/v1/explain"),
    ("GET", "/v1/requests/req_00000000000000000000000000"),
];

/// The calls of operators.
const ADMIN: [(&str, &str); 23] = [
    ("GET", "/admin/endpoints"),
    ("GET", "/admin/endpoints/a"),
    ("POST", "/admin/endpoints"),
    ("PATCH", "/admin/endpoints/a"),
    ("DELETE", "/admin/endpoints/nobody"),
    ("POST", "/admin/endpoints/a/trip"),
    ("POST", "/admin/endpoints/a/reset"),
    ("POST", "/admin/explain"),
    ("GET", "/admin/decisions/req_00000000000000000000000000"),
    ("GET", "/admin/report"),
    ("GET", "/admin/ledger"),
    ("GET", "/admin/ledger/export"),
    ("GET", "/admin/keys"),
    ("POST", "/admin/keys"),
    ("DELETE", "/admin/keys/nobody"),
    ("GET", "/admin/chaos"),
    ("POST", "/admin/chaos"),
    ("DELETE", "/admin/chaos"),
    ("GET", "/admin/chaos/chaos-1"),
    ("DELETE", "/admin/chaos/chaos-1"),
    ("GET", "/admin/audit"),
    ("POST", "/admin/test/stall"),
    ("POST", "/admin/test/panic/a"),
];

const OPEN: [&str; 3] = ["/health/live", "/health/ready", "/metrics"];

struct Case {
    gateway: Gateway,
    data: String,
    revoked: String,
    upstream: Upstream,
}

impl Case {
    async fn start() -> Self {
        let upstream = Upstream::start();
        let gateway = Gateway::start(&Setup::single(&upstream).auth_required()).await;
        let mut made = vec![];
        for name in ["data", "revoked"] {
            let key = gateway.admin("POST", "/admin/keys", Some(&json!({ "name": name }))).await.expect(201).json();
            made.push((key["id"].as_str().unwrap().to_owned(), key["secret"].as_str().unwrap().to_owned()));
        }
        gateway.admin("DELETE", &format!("/admin/keys/{}", made[1].0), None).await;
        Self { gateway, data: made[0].1.clone(), revoked: made[1].1.clone(), upstream }
    }

    /// Everything that is not a valid key or admin token, as an `authorization` header.
    fn strangers(&self) -> Vec<Option<String>> {
        let cut = &self.data[..self.data.len() - 1];
        let mut all = vec![None];
        let headers = [
            String::new(),
            "Bearer".into(),
            "Bearer ".into(),
            "Bearer wrong".into(),
            format!("Bearer {cut}"),
            format!("Bearer {}x", self.data),
            format!("Bearer {}", self.revoked),
            format!("Basic {}", self.data),
            "Bearer sk-upstream-a".into(),
            format!("Bearer {}", &ADMIN_TOKEN[1..]),
        ];
        all.extend(headers.map(Some));
        all
    }

    async fn call(&self, method: &str, path: &str, authorization: Option<&str>) -> Answer {
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(authorization.map(|a| ("authorization", a)));
        let body = if method == "GET" { String::new() } else { chat_body("chat").to_string() };
        self.gateway.send(method, path, &headers, body).await
    }
}

/// A 401's body without what differs by nature.
fn told(answer: &Answer) -> Value {
    answer.expect_error(401, "invalid_api_key");
    answer.json()
}

#[tokio::test]
async fn strangers_get_the_same_401_everywhere_and_reach_nothing() {
    let case = Case::start().await;
    let mut bodies = std::collections::BTreeSet::new();
    for (method, path) in DATA.iter().chain(&ADMIN) {
        for stranger in case.strangers() {
            let answer = case.call(method, path, stranger.as_deref()).await;
            assert_eq!(answer.status, 401, "{method} {path} with {stranger:?}: {}", answer.text());
            bodies.insert(told(&answer).to_string());
        }
    }
    assert_eq!(bodies.len(), 1, "{bodies:#?}");
    assert_eq!(case.upstream.calls(), 0);
    assert_eq!(case.gateway.breaker("a").await, "closed");
}

#[tokio::test]
async fn an_applications_key_opens_the_applications_calls_only() {
    let case = Case::start().await;
    let key = format!("Bearer {}", case.data);
    for (method, path) in DATA {
        let answer = case.call(method, path, Some(&key)).await;
        assert!([200, 404].contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text());
    }
    for (method, path) in ADMIN {
        told(&case.call(method, path, Some(&key)).await);
    }
}

#[tokio::test]
async fn the_admin_token_opens_everything() {
    let case = Case::start().await;
    let token = format!("Bearer {ADMIN_TOKEN}");
    for (method, path) in ADMIN.iter().chain(&DATA) {
        let answer = case.call(method, path, Some(&token)).await;
        let status = answer.status;
        assert!(status != 401 && status < 500, "{method} {path}: {status} {}", answer.text());
    }
}

#[tokio::test]
async fn health_and_metrics_are_open() {
    let case = Case::start().await;
    for path in OPEN {
        case.call("GET", path, None).await.expect(200);
    }
}

#[tokio::test]
async fn metrics_can_be_put_behind_the_admin_token() {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a).server("metrics_auth: true")).await;
    gateway.get("/metrics").await.expect(401);
    gateway.admin("GET", "/metrics", None).await.expect(200);
}

#[tokio::test]
async fn an_open_gateway_needs_no_key_but_its_admin_calls_do() {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a)).await;
    gateway.chat(&chat_body("chat")).await.expect(200);
    gateway.chat_with(&[("authorization", "Bearer whatever")], &chat_body("chat")).await.expect(200);
    for (method, path) in ADMIN {
        gateway.send(method, path, &[], "").await.expect(401);
    }
}

#[tokio::test]
async fn a_key_works_in_the_ways_that_sdks_send_it() {
    let case = Case::start().await;
    for header in ["Bearer", "bearer", "BEARER"] {
        let authorization = format!("{header} {}", case.data);
        case.call("POST", "/v1/chat/completions", Some(&authorization)).await.expect(200);
    }
    let answer = case.gateway.chat_with(&[("x-api-key", &case.data)], &chat_body("chat")).await;
    answer.expect(200);
}

#[tokio::test]
async fn a_token_of_its_own_is_made_and_kept_when_none_is_given() {
    use std::os::unix::fs::PermissionsExt;
    let a = Upstream::start();
    let setup = Setup::single(&a).env("BREAKWATER_ADMIN_TOKEN", "");
    let mut gateway = Gateway::start(&setup).await;
    let file = std::fs::read_dir(gateway.store())
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.file_name().unwrap().to_string_lossy().contains("admin"))
        .expect("a file with the token");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(gateway.log().contains(&file.display().to_string()), "its path is printed");
    let token = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    assert!(token.len() >= 32 && !gateway.log().contains(&token), "the token itself is not printed");
    let header = format!("Bearer {token}");
    gateway.send("GET", "/admin/endpoints", &[("authorization", &header)], "").await.expect(200);
    gateway.admin("GET", "/admin/endpoints", None).await.expect(401);
    gateway.restart().await;
    gateway.send("GET", "/admin/endpoints", &[("authorization", &header)], "").await.expect(200);
}
