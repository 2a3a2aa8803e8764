//! Virtual keys: made, listed and revoked by the API, by the command line with a running gateway and without one.

use crate::support::{Answer, Gateway, Setup, Upstream, chat_body, eventually, secs};
use serde_json::{Value, json};

async fn start(a: &Upstream) -> Gateway {
    let setup = Setup::single(a).route("other", "priority", &["a"], &[]).auth_required();
    Gateway::start(&setup).await
}

async fn make(gateway: &Gateway, key: &Value) -> (String, String) {
    let made = gateway.admin("POST", "/admin/keys", Some(key)).await.expect(201).json();
    (made["id"].as_str().expect("an id").to_owned(), made["secret"].as_str().expect("a secret").to_owned())
}

async fn chat(gateway: &Gateway, secret: &str, model: &str) -> Answer {
    gateway.chat_with(&[("authorization", &format!("Bearer {secret}"))], &chat_body(model)).await
}

#[tokio::test]
async fn a_key_lives_until_it_is_revoked_and_its_secret_is_shown_once() {
    let a = Upstream::start();
    let mut gateway = start(&a).await;
    let (id, secret) = make(&gateway, &json!({"name": "app"})).await;
    chat(&gateway, &secret, "chat").await.expect(200);
    let list = gateway.admin_get("/admin/keys").await.to_string();
    assert!(list.contains(&id) && list.contains("app") && !list.contains(&secret), "{list}");
    gateway.restart().await;
    chat(&gateway, &secret, "chat").await.expect(200);
    let revoked = gateway.admin("DELETE", &format!("/admin/keys/{id}"), None).await;
    assert!([200, 204].contains(&revoked.status), "{}", revoked.text());
    chat(&gateway, &secret, "chat").await.expect_error(401, "invalid_api_key");
    gateway.restart().await;
    chat(&gateway, &secret, "chat").await.expect_error(401, "invalid_api_key");
    gateway.admin("DELETE", "/admin/keys/key_unknown", None).await.expect(404);
    let rows = gateway.wait_rows(2).await;
    assert!(rows.iter().all(|r| r.get("key_id") == id));
}

#[tokio::test]
async fn a_key_for_some_models_is_403_for_others() {
    let a = Upstream::start();
    let gateway = start(&a).await;
    let (_, secret) = make(&gateway, &json!({"name": "app", "models": ["chat"]})).await;
    chat(&gateway, &secret, "chat").await.expect(200);
    for model in ["other", "a", "model-a"] {
        chat(&gateway, &secret, model).await.expect_error(403, "model_not_allowed");
    }
    assert_eq!(a.calls(), 1);
    let list = gateway.send("GET", "/v1/models", &[("authorization", &format!("Bearer {secret}"))], "").await;
    let ids: Vec<_> = list.expect(200).json()["data"].as_array().unwrap().iter().map(|m| m["id"].clone()).collect();
    assert_eq!(ids, [json!("chat")], "it sees what it may ask for");
}

/// Whatever refuses a request before it is planned, its id leads to why.
#[tokio::test]
async fn a_refused_request_has_a_record_that_says_why() {
    let a = Upstream::start();
    let gateway = start(&a).await;
    let (id, secret) = make(&gateway, &json!({"name": "app", "models": ["chat", "nowhere"], "rpm": 6})).await;
    let (_, stranger) = make(&gateway, &json!({"name": "another"})).await;
    let record = async |id: &str, secret: &str| {
        gateway.send("GET", &format!("/v1/requests/{id}"), &[("authorization", &format!("Bearer {secret}"))], "").await
    };
    let expect_record = async |answer: &Answer, model: &str, because: &str| {
        let request_id = answer.need("x-breakwater-request-id");
        let told = record(request_id, &secret).await.expect(200).json();
        assert_eq!((&told["outcome"], &told["status"]), (&answer.json()["error"]["code"], &json!(answer.status)));
        assert_eq!(
            (&told["model"], &told["key_id"], &told["attempts"]),
            (&json!(model), &json!(id), &json!(0)),
            "{told}"
        );
        assert_eq!(told["steps"][0]["step"], "turned_away", "{told}");
        assert!(told["steps"][0]["because"].as_str().unwrap().contains(because), "{told}");
        assert!(told["explanation"].as_str().unwrap().contains(because), "{told}");
        assert_eq!(gateway.admin_get(&format!("/admin/decisions/{request_id}")).await, told);
        record(request_id, &stranger).await.expect_error(404, "not_found");
    };
    expect_record(&chat(&gateway, &secret, "other").await, "other", "may not use the model `other`").await;
    expect_record(&chat(&gateway, &secret, "nowhere").await, "nowhere", "not known").await;
    // What is wrong with a request may quote it: that is told to its caller alone.
    let bearer = format!("Bearer {secret}");
    let mut bad = chat_body("chat");
    bad["max_tokens"] = json!("a secret plan");
    let answer = gateway.chat_with(&[("authorization", &bearer)], &bad).await;
    answer.expect_error(400, "invalid_request");
    expect_record(&answer, "", "not valid").await;
    let told = record(answer.need("x-breakwater-request-id"), &secret).await.text();
    assert!(!told.contains("a secret plan"), "{told}");
    let named = [("authorization", &*bearer), ("x-breakwater-request-id", "the-second")];
    gateway.chat_with(&named[..1], &chat_body("chat")).await.expect(200);
    let limited = gateway.chat_with(&named, &chat_body("chat")).await;
    limited.expect_error(429, "rate_limit_exceeded");
    assert_eq!(limited.need("x-breakwater-request-id"), "the-second");
    expect_record(&limited, "chat", "limit of requests per minute").await;
    assert_eq!(a.calls(), 1);
}

/// A caller that is refused all the time takes nobody's record away.
#[tokio::test]
async fn a_crowd_of_refusals_pushes_out_only_its_own_records() {
    let a = Upstream::start();
    let gateway = start(&a).await;
    let (_, secret) = make(&gateway, &json!({"name": "app", "models": ["chat"]})).await;
    let bearer = format!("Bearer {secret}");
    let served = chat(&gateway, &secret, "chat").await;
    let first = chat(&gateway, &secret, "other").await;
    let body = chat_body("other");
    let headers = [("authorization", &*bearer)];
    for _ in 0..11 {
        futures_util::future::join_all((0..100).map(|_| gateway.chat_with(&headers, &body))).await;
    }
    let last = chat(&gateway, &secret, "other").await;
    let status = async |answer: &Answer| {
        let path = format!("/admin/decisions/{}", answer.need("x-breakwater-request-id"));
        gateway.admin("GET", &path, None).await.status
    };
    assert_eq!((status(&served).await, status(&first).await, status(&last).await), (200, 404, 200));
}

#[tokio::test]
async fn a_keys_requests_per_minute_hold() {
    let a = Upstream::start();
    let gateway = start(&a).await;
    let (_, slow) = make(&gateway, &json!({"name": "slow", "rpm": 60})).await;
    let (_, free) = make(&gateway, &json!({"name": "free"})).await;
    let mut served = 0;
    let mut refused = 0;
    for _ in 0..40 {
        let answer = chat(&gateway, &slow, "chat").await;
        if answer.status == 200 {
            served += 1;
        } else {
            refused += 1;
            answer.expect_error(429, "rate_limit_exceeded");
            assert!((1..=60).contains(&answer.need("retry-after").parse::<u64>().unwrap()));
        }
        chat(&gateway, &free, "chat").await.expect(200);
    }
    assert!((10..=20).contains(&served), "{served} served at 60 per minute");
    assert_eq!(a.calls(), 40 + served);
    assert!(refused > 0);
}

#[tokio::test]
async fn a_bad_key_request_is_refused() {
    let a = Upstream::start();
    let gateway = start(&a).await;
    for bad in [
        json!({}),
        json!({"name": 7}),
        json!({"name": "x", "rpm": 0}),
        json!({"name": "x", "rpm": -1}),
        json!({"name": "x", "colour": "red"}),
        json!({"name": "x", "models": "chat"}),
    ] {
        gateway.admin("POST", "/admin/keys", Some(&bad)).await.expect(400);
    }
    assert!(gateway.admin_get("/admin/keys").await["keys"].as_array().is_some_and(Vec::is_empty));
}

/// A new key's id and secret from `key create --format json`.
fn made(stdout: &str) -> (String, String) {
    let key: Value = serde_json::from_str(stdout).unwrap_or_else(|e| panic!("{e}: {stdout}"));
    (key["id"].as_str().expect("an id").to_owned(), key["secret"].as_str().expect("a secret").to_owned())
}

#[tokio::test]
async fn the_command_line_makes_lists_and_revokes_keys_of_a_stopped_gateway() {
    let a = Upstream::start();
    let mut gateway = start(&a).await;
    gateway.kill();
    let create = ["key", "create", "--name", "offline", "--models", "chat", "--rpm", "600", "--format", "json"];
    let (id, secret) = made(&gateway.run(&create).expect(0).stdout);
    let list = gateway.run(&["key", "list", "--format", "json"]).expect(0).stdout;
    assert!(list.contains(&id) && list.contains("offline") && !list.contains(&secret), "{list}");
    gateway.start_again().await;
    chat(&gateway, &secret, "chat").await.expect(200);
    chat(&gateway, &secret, "other").await.expect_error(403, "model_not_allowed");

    let refused = gateway.run(&["key", "list"]).expect(1);
    assert!(refused.stderr.contains("--url"), "{}", refused.stderr);

    gateway.kill();
    gateway.run(&["key", "revoke", &id]).expect(0);
    gateway.run(&["key", "revoke", "key_unknown"]).expect(1);
    gateway.start_again().await;
    chat(&gateway, &secret, "chat").await.expect_error(401, "invalid_api_key");
}

#[tokio::test]
async fn the_command_line_makes_lists_and_revokes_keys_of_a_running_gateway() {
    let a = Upstream::start();
    let gateway = start(&a).await;
    let (id, secret) =
        made(&gateway.run_by_url(&["key", "create", "--name", "online", "--format", "json"]).expect(0).stdout);
    chat(&gateway, &secret, "chat").await.expect(200);
    let list = gateway.run_by_url(&["key", "list", "--format", "json"]).expect(0).stdout;
    assert!(list.contains(&id) && !list.contains(&secret), "{list}");
    gateway.run_by_url(&["key", "revoke", &id]).expect(0);
    eventually(secs(2), "the key is refused", async || chat(&gateway, &secret, "chat").await.status == 401).await;
    gateway.run_by_url(&["key", "revoke", "key_unknown"]).expect(1);
}
