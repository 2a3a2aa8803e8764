//! Questions that send nothing: what would be chosen, what became of a request, which models there are.

use crate::support::{Gateway, Reply, Setup, Upstream, chat_body, eventually, ms, secs};
use serde_json::{Value, json};
use std::io::Write;

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

/// Half a second of silence, an error, a pause, and an answer after 300 ms: every part stands in the record, and they add up.
#[tokio::test]
async fn a_slow_requests_time_is_accounted_for_to_the_end() {
    let (a, b) = (Upstream::start_with(Reply::Hang), Upstream::start_with(Reply::Slow(ms(300))));
    b.once(Reply::status(500));
    let setup = Setup::new().endpoint("a", &a, &["timeouts: {first_byte: 500ms}"]).endpoint("b", &b, &[]).endpoint(
        "c",
        &a,
        &["limits: {concurrency: 1}"],
    );
    let setup =
        setup.route("chat", "priority", &["a", "b"], &["retry: {backoff: 400ms, max_backoff: 400ms, max_attempts: 4}"]);
    let gateway = Gateway::start(&setup).await;
    gateway.admin("POST", "/admin/endpoints/c/trip", Some(&json!({"reason": "not today"}))).await.expect(200);
    a.once(Reply::Hang);
    a.once(Reply::status(500));
    let began = std::time::Instant::now();
    let answer = gateway.chat(&chat_body("chat")).await;
    let seen_ms = began.elapsed().as_secs_f64() * 1e3;
    let id = answer.expect(200).need("x-breakwater-request-id").to_owned();
    let told = gateway.get(&format!("/v1/requests/{id}")).await.expect(200).json();
    let steps = told["steps"].as_array().unwrap();
    let of = |kind: &str| steps.iter().filter(|s| s["step"] == kind).cloned().collect::<Vec<_>>();
    let number =
        |value: &serde_json::Value, key: &str| value[key].as_f64().unwrap_or_else(|| panic!("{key} in {value}"));

    let attempts = of("attempt");
    let outcomes: Vec<_> = attempts.iter().map(|s| s["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["first_byte_timeout", "server_error", "server_error", "success"], "{told}");
    assert_eq!((number(&attempts[0], "given_ms"), attempts[0]["first_byte_ms"].is_null()), (500.0, true));
    assert!((500.0..1_000.0).contains(&number(&attempts[0], "ms")), "{told}");
    assert!((300.0..800.0).contains(&number(&attempts[3], "first_byte_ms")), "{told}");
    assert!(number(&attempts[3], "given_ms") > 10_000.0, "{told}");
    let moves: Vec<_> =
        of("failover").iter().map(|s| format!("{} {} {}", s["from"], s["to"], s["outcome"]).replace('"', "")).collect();
    assert_eq!(moves, ["a b first_byte_timeout", "b a server_error", "a b server_error"], "{told}");
    let waits: f64 = of("waited").iter().map(|s| number(s, "ms")).sum();

    let (time, duration) = (&told["time"], number(&told, "duration_ms"));
    let part = |key: &str| number(time, key);
    let sum = part("planning_ms") + part("endpoints_ms") + part("waiting_ms") + part("gateway_ms");
    assert!((sum - duration).abs() < 0.01, "{told}");
    let asked: f64 = attempts.iter().map(|s| number(s, "ms")).sum();
    assert!((part("endpoints_ms") - asked).abs() < 0.01 && (800.0..2_500.0).contains(&asked), "{told}");
    assert!((part("waiting_ms") - waits).abs() < 0.01 && waits > 0.0, "{told}");
    assert!(part("planning_ms") + part("gateway_ms") < 250.0, "nothing is left unexplained: {told}");
    assert!(seen_ms >= duration - 1.0 && seen_ms - duration < 250.0, "the caller saw {seen_ms} ms: {told}");
    let text = told["explanation"].as_str().unwrap();
    for says in [
        "answered by b with status 200",
        "a was asked, given 500 ms for its first byte: first byte timeout after 5",
        "moved from a to b because of first byte timeout",
        "backoff before another pass",
        "In all: ",
    ] {
        assert!(text.contains(says), "{says} in: {text}");
    }
    let refused = gateway.chat(&chat_body("c")).await;
    let id = refused.expect(503).need("x-breakwater-request-id").to_owned();
    let told = gateway.get(&format!("/v1/requests/{id}")).await.expect(200).json();
    let text = told["explanation"].as_str().unwrap();
    assert!(
        text.contains("c was passed over: forced open") && text.contains("ended as no endpoint available"),
        "{text}"
    );
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

#[tokio::test]
async fn explain_tells_what_is_left_of_budgets_with_a_gateway_and_without() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let setup = Setup::new()
        .endpoint("a", &a, &["budget: {amount: 0.5, mode: soft}"])
        .endpoint("b", &b, &[])
        .route("chat", "priority", &["a", "b"], &["budget: {amount: 2, period: total}"])
        .top("budgets:\n  - {name: red, tag: team=red, amount: 1, period: day, timezone: Asia/Tokyo}\n  - {name: other, tag: team=blue, amount: 1}");
    let mut gateway = Gateway::start(&setup).await;
    for _ in 0..3 {
        let answer = gateway.chat_with(&[("x-breakwater-tag", "team=red")], &chat_body("chat")).await;
        answer.expect(200);
    }
    gateway.wait_rows(3).await;
    let mut body = chat_body("chat");
    body["breakwater"] = json!({"tag": "team=red"});
    let online = gateway.admin("POST", "/admin/explain", Some(&body)).await.expect(200).json()["budgets"].clone();
    let left: Vec<_> = online
        .as_array()
        .unwrap()
        .iter()
        .map(|b| (b["budget"].as_str().unwrap(), b["left_usd"].as_f64().unwrap(), b["amount_usd"].as_f64().unwrap()))
        .collect();
    // Three answers of 0.00002 USD.
    assert_eq!(left, [("route:chat", 1.99994, 2.0), ("red", 0.99994, 1.0), ("endpoint:a", 0.49994, 0.5)], "{online}");
    let asked = ["explain", "--model", "chat", "--tag", "team=red", "--format", "json"];
    let budgets = |stdout: &str| serde_json::from_str::<Value>(stdout).unwrap()["budgets"].clone();
    assert_eq!(budgets(&gateway.run_by_url(&asked).expect(0).stdout), online);
    gateway.run_by_url(&["explain", "--model", "chat", "--tag", "team"]).expect(2);
    gateway.terminate();
    gateway.wait_exit(secs(20)).await;
    assert_eq!(budgets(&gateway.run(&asked).expect(0).stdout), online);
    let table = gateway.run(&asked[..5]).expect(0).stdout;
    assert!(table.contains("hard budget red: 0.999940 of 1 usd is left until "), "{table}");
    assert!(table.contains("soft budget endpoint:a at a: 0.499940 of 0.5 usd"), "{table}");
    // Nobody knows what was spent where there is no store.
    let unknown = gateway.run(&[&asked[..], &["--store", "/nonexistent"]].concat()).expect(0);
    let shown = budgets(&unknown.stdout);
    assert_eq!(shown[1]["left_usd"], Value::Null, "{shown}");
    assert!(unknown.stderr.contains("/nonexistent") && unknown.stderr.contains("--url"), "{}", unknown.stderr);
    let table = gateway.run(&[&asked[..5], &["--store", "/nonexistent"]].concat()).expect(0).stdout;
    assert!(table.contains("hard budget red: an unknown part of 1 usd is left"), "{table}");
}

#[tokio::test]
async fn explain_steers_by_spent_soft_budgets_with_a_gateway_and_without() {
    let (dear, cheap) = (Upstream::start(), Upstream::start());
    let priced = "price: {input: 10.00, output: 20.00}";
    let of_route = Setup::new().endpoint("dear", &dear, &[priced]).endpoint("cheap", &cheap, &[]).route(
        "chat",
        "priority",
        &["dear", "cheap"],
        &["budget: {amount: 0.0001, mode: soft}"],
    );
    let of_endpoint = Setup::new()
        .endpoint("dear", &dear, &[priced, "budget: {amount: 0.0001, mode: soft}"])
        .endpoint("cheap", &cheap, &[])
        .route("chat", "priority", &["dear", "cheap"], &[]);
    for (setup, strategy) in [(of_route, "cost_based"), (of_endpoint, "priority")] {
        let mut gateway = Gateway::start(&setup).await;
        gateway.chat(&chat_body("chat")).await.expect(200);
        gateway.wait_rows(1).await;
        let online = gateway.post("/v1/explain", &chat_body("chat")).await.expect(200).json();
        assert_eq!((&online["strategy"], names(&online)), (&json!(strategy), vec!["cheap".into(), "dear".to_owned()]));
        gateway.terminate();
        gateway.wait_exit(secs(20)).await;
        let offline = gateway.run(&["explain", "--model", "chat", "--format", "json"]).expect(0).stdout;
        let offline: Value = serde_json::from_str(&offline).unwrap();
        assert_eq!((&offline["strategy"], names(&offline)), (&online["strategy"], names(&online)));
    }
}

/// What a kill cut short is charged at the next start: until then it counts as well.
#[tokio::test]
async fn explain_without_a_gateway_counts_what_a_kill_cut_short() {
    let a = Upstream::start_with(Reply::Hang);
    let setup = Setup::new().endpoint("a", &a, &[]).route("chat", "priority", &["a"], &["budget: {amount: 2}"]);
    let mut gateway = Gateway::start(&setup).await;
    let body = chat_body("chat").to_string();
    // Its caller holds on until the kill: one that leaves gives its reservation back.
    let mut caller = gateway.connect();
    let length = body.len();
    write!(
        caller,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    eventually(secs(10), "the upstream is called", async || a.running() == 1).await;
    let online = gateway.post("/v1/explain", &chat_body("chat")).await.expect(200).json()["budgets"].clone();
    assert!(online[0]["left_usd"].as_f64().unwrap() < 1.995, "4,096 tokens are reserved: {online}");
    gateway.kill();
    let offline = gateway.run(&["explain", "--model", "chat", "--format", "json"]).expect(0).stdout;
    assert_eq!(serde_json::from_str::<Value>(&offline).unwrap()["budgets"], online);
    a.set(Reply::Completion);
    gateway.start_again().await;
    let after = gateway.post("/v1/explain", &chat_body("chat")).await.expect(200).json()["budgets"].clone();
    assert_eq!(after, online, "and so it does after the start");
}
