//! What an answer says about itself, and what a request may ask for beyond the API.

use crate::support::upstream::{COMPLETION_TOKENS, PROMPT_TOKENS, completion};
use crate::support::{Gateway, Reply, Setup, Upstream, chat_body, stream_body};
use serde_json::{Value, json};

/// 10 tokens at 1 USD and 5 at 2 USD per million.
const COST: &str = "0.00002";

fn cost_in(text: &str) -> f64 {
    text.parse().unwrap_or_else(|_| panic!("`{text}` is no plain decimal"))
}

#[tokio::test]
async fn a_unary_answer_says_who_answered_and_what_it_cost() {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let answer = gateway.chat(&chat_body("chat")).await;
    assert_eq!(answer.expect(200).json(), completion(), "the body is the upstream's");
    assert!(answer.need("x-breakwater-request-id").starts_with("req_"));
    assert_eq!(answer.need("x-breakwater-endpoint"), "a");
    assert_eq!(answer.need("x-breakwater-model"), "model-a");
    assert_eq!(answer.need("x-breakwater-attempts"), "1");
    assert!(answer.need("x-breakwater-latency-ms").parse::<f64>().is_ok());
    assert!((cost_in(answer.need("x-breakwater-cost-usd")) - cost_in(COST)).abs() < 1e-12);
    assert_eq!(answer.need("x-breakwater-cost-state"), "measured");
}

#[tokio::test]
async fn each_request_has_an_id_of_its_own_or_the_callers() {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..20 {
        ids.insert(gateway.chat(&chat_body("chat")).await.need("x-breakwater-request-id").to_owned());
    }
    assert_eq!(ids.len(), 20);
    let mine = gateway.chat_with(&[("x-breakwater-request-id", "my-request-1")], &chat_body("chat")).await;
    assert_eq!(mine.expect(200).need("x-breakwater-request-id"), "my-request-1");
    let error = gateway.chat(&chat_body("nobody")).await;
    assert!(error.need("x-breakwater-request-id").starts_with("req_"), "errors have one too");
}

#[tokio::test]
async fn a_stream_says_who_answers_in_its_head_and_the_cost_in_a_comment() {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let answer = gateway.chat(&stream_body("chat")).await;
    assert!(answer.expect(200).need("x-breakwater-request-id").starts_with("req_"));
    assert_eq!(answer.need("x-breakwater-endpoint"), "a");
    assert_eq!(answer.need("x-breakwater-model"), "model-a");
    assert_eq!(answer.need("x-breakwater-attempts"), "1");
    let sse = answer.sse();
    let comment = sse.cost_comment();
    let field = |name: &str| {
        comment.split(' ').find_map(|f| f.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {comment}"))
    };
    assert!((cost_in(field("cost_usd=")) - cost_in(COST)).abs() < 1e-12, "{comment}");
    assert_eq!((field("endpoint="), field("attempts=")), ("a", "1"));
}

#[tokio::test]
async fn usage_is_in_a_stream_only_if_asked_for() {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let plain = gateway.chat(&stream_body("chat")).await.expect(200).sse();
    assert!(plain.chunks().iter().all(|c| c["usage"].is_null()), "{:?}", plain.data);
    assert!(plain.chunks().iter().all(|c| c["choices"] != json!([])), "{:?}", plain.data);
    assert_eq!(a.last().json()["stream_options"]["include_usage"], true, "the gateway itself asks");

    let mut body = stream_body("chat");
    body["stream_options"] = json!({"include_usage": true});
    let asked = gateway.chat(&body).await.expect(200).sse();
    let usages: Vec<_> = asked.chunks().into_iter().map(|c| c["usage"].clone()).filter(|u| !u.is_null()).collect();
    assert_eq!(usages.len(), 1, "{:?}", asked.data);
    assert_eq!(usages[0]["prompt_tokens"], PROMPT_TOKENS);
    assert_eq!(usages[0]["completion_tokens"], COMPLETION_TOKENS);
    asked.cost_comment();
}

#[tokio::test]
async fn an_upstream_that_reports_no_usage_is_estimated_and_says_so() {
    let mut silent = completion();
    silent.as_object_mut().unwrap().remove("usage");
    let body = silent.to_string().into_bytes();
    let a = Upstream::start_with(Reply::Body { content_type: "application/json", body });
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let answer = gateway.chat(&chat_body("chat")).await;
    assert_eq!(answer.expect(200).need("x-breakwater-cost-state"), "estimated");
    assert!(cost_in(answer.need("x-breakwater-cost-usd")) > 0.0);
    let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), 1).await;
    assert_eq!(rows[0].get("usage_source"), "estimated");
    assert!(rows[0].number("cost_nanousd") > 0);
}

#[tokio::test]
async fn an_endpoint_without_a_price_is_unpriced_and_never_free() {
    let a = Upstream::start();
    let setup = Setup::new().endpoint("a", &a, &["price: null"]).route("chat", "priority", &["a"], &[]);
    let gateway = Gateway::start(&setup).await;
    let answer = gateway.chat(&chat_body("chat")).await;
    assert_eq!(answer.expect(200).need("x-breakwater-cost-state"), "unpriced");
    assert!(answer.header("x-breakwater-cost-usd").is_none());
    let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), 1).await;
    assert_eq!((rows[0].get("cost_nanousd"), rows[0].get("price_version")), ("", "unpriced"));
}

#[tokio::test]
async fn unknown_fields_pass_and_only_the_model_changes() {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let body = json!({"model": "chat", "messages": [{"role": "user", "content": "hi", "name": "x"}], "seed": 7,
        "new_vendor_field": {"deep": [1, 2.5, null, "ü"]}, "tools": [], "temperature": 0.25});
    gateway.chat(&body).await.expect(200);
    let mut expected = body;
    expected["model"] = "model-a".into();
    assert_eq!(a.last().json(), expected);
    assert_eq!(a.last().path, "/v1/chat/completions");
}

#[tokio::test]
async fn the_upstream_gets_its_own_key_and_nothing_of_the_gateways() {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let headers = [
        ("authorization", "Bearer the-callers-own"),
        ("x-breakwater-tag", "team=blue"),
        ("cookie", "secret=1"),
        ("x-forwarded-for", "10.0.0.1"),
    ];
    gateway.chat_with(&headers, &chat_body("chat")).await.expect(200);
    let seen = a.last();
    assert_eq!(seen.header("authorization"), Some("Bearer sk-upstream-a"));
    for (name, value) in &seen.headers {
        assert!(!name.starts_with("x-breakwater") && name != "cookie", "{name}");
        assert!(!value.contains("the-callers-own"), "{name}: {value}");
    }
}

/// Sends the same hint once as a header and once in the body, to gateways made alike.
async fn both_ways(hint: &str, value: Value, check: impl AsyncFn(&Gateway, &crate::support::Answer, &str)) {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let header = format!("x-breakwater-{}", hint.replace('_', "-"));
    for way in ["header", "body"] {
        let (a, b) = (Upstream::start(), Upstream::start());
        let setup = Setup::new()
            .endpoint("a", &a, &["price: {input: 0.10, output: 0.10}", "quality: 0.6"])
            .endpoint("b", &b, &["price: {input: 50, output: 50}", "quality: 0.9"])
            .route("chat", "cost_based", &["a", "b"], &[])
            .route("good", "best_quality", &["a", "b"], &[])
            .route("auto", "intelligent", &["a", "b"], &[]);
        let gateway = Gateway::start(&setup).await;
        let mut body = chat_body("good");
        let answer = if way == "header" {
            gateway.chat_with(&[(&header, &text)], &body).await
        } else {
            body["breakwater"] = json!({ hint: value });
            gateway.chat(&body).await
        };
        check(&gateway, &answer, way).await;
        for seen in a.seen().iter().chain(&b.seen()) {
            assert!(seen.json().get("breakwater").is_none(), "hints stay here");
        }
    }
}

#[tokio::test]
async fn the_strategy_hint_works_as_header_and_in_the_body() {
    both_ways("strategy", json!("cost_based"), async |_, answer, way| {
        assert_eq!(answer.expect(200).need("x-breakwater-endpoint"), "a", "{way}");
    })
    .await;
}

#[tokio::test]
async fn the_tier_hint_works_as_header_and_in_the_body() {
    for (tier, endpoint) in [("free", "a"), ("premium", "b")] {
        both_ways("tier", json!(tier), async |gateway, answer, way| {
            answer.expect(200);
            let mut body = chat_body("auto");
            body["breakwater"] = json!({ "tier": tier });
            assert_eq!(gateway.chat(&body).await.expect(200).need("x-breakwater-endpoint"), endpoint, "{way} {tier}");
        })
        .await;
    }
}

#[tokio::test]
async fn the_cost_hint_works_as_header_and_in_the_body() {
    both_ways("max_cost_usd", json!("0.0005"), async |_, answer, way| {
        assert_eq!(answer.expect(200).need("x-breakwater-endpoint"), "a", "{way}: b would cost more");
    })
    .await;
}

#[tokio::test]
async fn the_request_id_hint_works_as_header_and_in_the_body() {
    both_ways("request_id", json!("mine-42"), async |gateway, answer, _| {
        assert_eq!(answer.expect(200).need("x-breakwater-request-id"), "mine-42");
        assert_eq!(gateway.rows_of("mine-42", 1).await[0].get("outcome"), "success");
    })
    .await;
}

#[tokio::test]
async fn tags_work_as_header_and_in_the_body_and_reach_the_ledger() {
    both_ways("tag", json!("team=blue"), async |gateway, answer, way| {
        let rows = gateway.rows_of(answer.expect(200).need("x-breakwater-request-id"), 1).await;
        let tags = rows[0].get("tags");
        assert!(tags.contains("team") && tags.contains("blue"), "{way}: {tags}");
        let sums = gateway.admin_get("/admin/ledger?group_by=tag:team").await.to_string();
        assert!(sums.contains("blue"), "{way}: {sums}");
    })
    .await;
}

#[tokio::test]
async fn a_bad_hint_is_the_callers_error() {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a)).await;
    for (name, value) in [
        ("strategy", "cheapest_of_all"),
        ("max-cost-usd", "a lot"),
        ("deadline-ms", "-5"),
        ("max-attempts", "many"),
        ("tier", "gold"),
        ("latency-sensitive", "perhaps"),
        ("request-id", "with a space"),
    ] {
        let answer = gateway.chat_with(&[(&format!("x-breakwater-{name}"), value)], &chat_body("chat")).await;
        let param = answer.expect_error(400, "invalid_request").unwrap_or_default();
        assert!(param.contains(name) || param.contains(&name.replace('-', "_")), "{name}: param is `{param}`");
    }
    for (hints, param) in
        [(json!("cheap"), "breakwater"), (json!({"colour": "blue"}), "colour"), (json!({"strategy": 7}), "strategy")]
    {
        let mut body = chat_body("chat");
        body["breakwater"] = hints;
        let told = gateway.chat(&body).await.expect_error(400, "invalid_request").unwrap_or_default();
        assert!(told.contains(param), "{param}: `{told}`");
    }
    assert_eq!(a.calls(), 0);
}
