//! Questions that send nothing: what would be chosen, what became of a request, which models there are.

use crate::support::{Gateway, Reply, Setup, Upstream, chat_body, eventually, secs};
use serde_json::{Value, json};

struct Two {
    a: Upstream,
    b: Upstream,
    gateway: Gateway,
}

async fn two() -> Two {
    let (a, b) = (Upstream::start(), Upstream::start());
    let setup = Setup::new()
        .endpoint("a", &a, &["price: {input: 1, output: 1}", "quality: 0.3"])
        .endpoint("b", &b, &["price: {input: 9, output: 9}", "quality: 0.9"])
        .route("chat", "cost_based", &["b", "a"], &[]);
    let gateway = Gateway::start(&setup).await;
    Two { a, b, gateway }
}

/// The candidates of a decision, best first.
fn candidates(decision: &Value) -> Vec<Value> {
    let list = decision["candidates"].as_array().or_else(|| decision["decision"]["candidates"].as_array());
    list.unwrap_or_else(|| panic!("candidates in {decision}")).clone()
}

fn names(decision: &Value) -> Vec<String> {
    candidates(decision).iter().map(|c| c["endpoint"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test]
async fn explain_answers_with_the_decision_and_sends_nothing() {
    let Two { a, b, gateway } = two().await;
    let decision = gateway.post("/v1/explain", &chat_body("chat")).await.expect(200).json();
    assert_eq!(names(&decision), ["a", "b"], "{decision}");
    assert!(decision.to_string().contains("cost_based"), "{decision}");
    assert_eq!((a.calls(), b.calls()), (0, 0));
    assert!(gateway.rows().await.is_empty(), "nothing was spent");

    let mut hinted = chat_body("chat");
    hinted["breakwater"] = json!({"strategy": "best_quality"});
    let decision = gateway.post("/v1/explain", &hinted).await.expect(200).json();
    assert_eq!(names(&decision), ["b", "a"], "{decision}");
}

#[tokio::test]
async fn explain_says_what_removed_a_candidate() {
    let two = two().await;
    let gateway = &two.gateway;
    gateway.admin("POST", "/admin/endpoints/a/trip", Some(&json!({"reason": "drill"}))).await.expect(200);
    let decision = gateway.post("/v1/explain", &chat_body("chat")).await.expect(200).json();
    let text = decision.to_string();
    assert!(text.contains("forced_open") || text.contains("drill"), "why not a: {text}");
    assert!(text.contains("\"b\""), "{text}");
}

#[tokio::test]
async fn explain_refuses_what_a_request_would_be_refused_for() {
    let two = two().await;
    let gateway = &two.gateway;
    gateway.post("/v1/explain", &chat_body("nobody")).await.expect_error(404, "model_not_found");
    gateway.post("/v1/explain", &json!({"model": "chat"})).await.expect_error(400, "invalid_request");
}

#[tokio::test]
async fn an_operator_can_ask_as_well() {
    let Two { a, b, gateway } = two().await;
    let decision = gateway.admin("POST", "/admin/explain", Some(&chat_body("chat"))).await.expect(200).json();
    assert_eq!(names(&decision), ["a", "b"], "{decision}");
    assert_eq!((a.calls(), b.calls()), (0, 0));
}

#[tokio::test]
async fn what_became_of_a_request_can_be_asked() {
    let Two { a, b: _b, gateway } = two().await;
    a.once(Reply::status(500));
    let answer = gateway.chat(&chat_body("chat")).await;
    let id = answer.expect(200).need("x-breakwater-request-id").to_owned();
    let path = format!("/v1/requests/{id}");
    eventually(secs(5), "the request can be looked up", async || gateway.get(&path).await.status == 200).await;
    let told = gateway.get(&path).await.expect(200).json();
    let steps = told["steps"].as_array().unwrap_or_else(|| panic!("steps in {told}"));
    let attempts: Vec<_> = steps.iter().filter(|s| s["step"] == "attempt").collect();
    let pairs: Vec<_> =
        attempts.iter().map(|a| (a["endpoint"].as_str().unwrap(), a["outcome"].as_str().unwrap())).collect();
    assert_eq!(pairs, [("a", "server_error"), ("b", "success")], "{told}");
    assert_eq!((&told["attempts"], &told["status"]), (&json!(2), &json!(200)), "{told}");
    assert!((told["cost_usd"].as_f64().unwrap() - 15.0 * 9.0 / 1e6).abs() < 1e-12, "{told}");

    let decision = gateway.admin_get(&format!("/admin/decisions/{id}")).await;
    assert_eq!(names(&decision), ["a", "b"], "{decision}");
    gateway.get("/v1/requests/req_00000000000000000000000000").await.expect(404);
    gateway.admin("GET", "/admin/decisions/req_00000000000000000000000000", None).await.expect(404);
}

#[tokio::test]
async fn another_keys_request_is_not_found() {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a).auth_required()).await;
    let mut secrets = vec![];
    for name in ["mine", "other"] {
        let made = gateway.admin("POST", "/admin/keys", Some(&json!({"name": name}))).await;
        secrets.push(made.expect(201).json()["secret"].as_str().unwrap().to_owned());
    }
    let bearer = |n: usize| format!("Bearer {}", secrets[n]);
    let answer = gateway.chat_with(&[("authorization", &bearer(0))], &chat_body("chat")).await;
    let path = format!("/v1/requests/{}", answer.expect(200).need("x-breakwater-request-id"));
    let ask = async |n: usize| gateway.send("GET", &path, &[("authorization", &bearer(n))], "").await;
    eventually(secs(5), "the own request can be looked up", async || ask(0).await.status == 200).await;
    ask(1).await.expect(404);
}

#[tokio::test]
async fn models_lists_what_can_be_asked_for() {
    let two = two().await;
    let gateway = &two.gateway;
    let list = gateway.get("/v1/models").await.expect(200).json();
    assert_eq!(list["object"], "list");
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned()).collect();
    assert!(ids.contains(&"chat".to_owned()), "{ids:?}");
    for model in list["data"].as_array().unwrap() {
        assert_eq!(model["object"], "model");
        assert!(model["created"].is_u64() && model["owned_by"].is_string(), "{model}");
        let one = gateway.get(&format!("/v1/models/{}", model["id"].as_str().unwrap())).await.expect(200).json();
        assert_eq!(&one, model);
        gateway.chat(&chat_body(model["id"].as_str().unwrap())).await.expect(200);
    }
    gateway.get("/v1/models/nobody").await.expect_error(404, "model_not_found");
}

#[tokio::test]
async fn the_command_line_explains_a_running_and_a_stopped_gateway() {
    let Two { a: _a, b: _b, mut gateway } = two().await;
    let running = gateway.run_by_url(&["explain", "--model", "chat"]).expect(0);
    assert!(running.stdout.contains('a') && running.stdout.contains("cost_based"), "{}", running.stdout);
    gateway.run_by_url(&["explain", "--model", "nobody"]).expect(1);
    gateway.kill();
    let stopped = gateway.run(&["explain", "--model", "chat"]).expect(0);
    assert!(stopped.stdout.contains("cost_based"), "{}", stopped.stdout);
}

#[tokio::test]
async fn every_address_of_the_api_description_is_served() {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let described = gateway.get("/openapi.json").await.expect(200).json();
    let paths = described["paths"].as_object().expect("paths");
    assert!(paths.len() > 20, "{} paths", paths.len());
    for (path, methods) in paths {
        let path = path.replace("{id}", "unknown").replace("{name}", "unknown").replace("{request_id}", "unknown");
        for method in methods.as_object().expect("methods").keys() {
            let answer = gateway.send(&method.to_uppercase(), &path, &[], "").await;
            let code = if answer.status < 400 { String::new() } else { answer.json()["error"]["code"].to_string() };
            assert_ne!(answer.status, 405, "{method} {path}");
            // What is served but not there says which thing is missing; nothing served says only that.
            let nowhere = answer.status == 404 && answer.text().contains("nothing is served");
            assert!(!nowhere, "{method} {path}: {code}");
        }
    }
}
