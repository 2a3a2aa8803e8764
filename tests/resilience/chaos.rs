//! Faults that an operator injects: each kind looks like the vendor's own, strikes its share of its endpoint and nobody else, ends by
//! itself, and leaves a true score.

use crate::providers::{calls, pair, provider, said, whole_text, with_profile};
use crate::support::{Answer, Gateway, Setup, breakwater, chat_body, eventually, ms, secs, stream_body};
use breakwater::sim::{Latency, Profile};
use serde_json::{Value, json};
use std::time::Instant;

/// An endpoint whose breaker stays out of the way.
const PATIENT: &str =
    "breaker: {consecutive_failures: 1000, failure_rate: 1.0, minimum_calls: 10000, slow_minimum_calls: 10000}";
const QUICK: &str = "timeouts: {connect: 1s, first_byte: 400ms, idle: 2s, total: 10s}";
/// The retry budget out of the way as well.
const FREE: &str = "retry_budget: {ratio: 1.0, min_per_second: 1000}";

async fn start(gateway: &Gateway, endpoint: &str, share: f64, fault: Value) -> String {
    let body = json!({"endpoint": endpoint, "share": share, "for": "10m", "fault": fault});
    let answer = gateway.admin("POST", "/admin/chaos", Some(&body)).await.expect(201).json();
    assert_eq!((&answer["state"], &answer["fault"]), (&json!("running"), &fault), "{answer}");
    answer["id"].as_str().expect("an id").to_owned()
}

async fn stop(gateway: &Gateway, id: &str) -> Value {
    let answer = gateway.admin("DELETE", &format!("/admin/chaos/{id}"), None).await.expect(200).json();
    assert_eq!((&answer["state"], &answer["ended_by"]), (&json!("ended"), &json!("operator")), "{answer}");
    answer["scorecard"].clone()
}

/// The attempts of the request's record.
async fn attempts(gateway: &Gateway, answer: &Answer) -> Vec<Value> {
    let id = answer.need("x-breakwater-request-id");
    let record = gateway.admin_get(&format!("/admin/decisions/{id}")).await;
    record["steps"].as_array().unwrap().iter().filter(|s| s["step"] == "attempt").cloned().collect()
}

#[tokio::test]
async fn each_kind_is_met_like_the_vendors_own() {
    let (a, b) = (provider("a"), provider("b"));
    let gateway = Gateway::start(&pair(&a, &b, &[PATIENT, QUICK]).top("chaos: allowed").top(FREE)).await;
    let http = |code| json!({"kind": "status", "code": code});
    // Each with what the ledger calls it, for a whole answer and for a stream (`-`: it answers), and whether `a` was really called.
    let kinds = [
        (http(500), "server_error", "server_error", false),
        (http(503), "unavailable", "unavailable", false),
        (json!({"kind": "refuse"}), "connect_failed", "connect_failed", false),
        (json!({"kind": "hang"}), "uncertain", "uncertain", false),
        (json!({"kind": "malformed", "what": "html"}), "protocol", "protocol", false),
        (json!({"kind": "malformed", "what": "half_json"}), "protocol", "protocol", false),
        (json!({"kind": "malformed", "what": "empty"}), "protocol", "protocol", false),
        (json!({"kind": "malformed", "what": "json_error_200"}), "server_error", "server_error", false),
        (json!({"kind": "slow_first_byte", "ms": 60_000}), "uncertain", "uncertain", true),
        (json!({"kind": "latency", "latency": {"dist": "fixed", "ms": 60_000.0}}), "uncertain", "uncertain", true),
        (json!({"kind": "cut_after", "events": 0}), "protocol", "protocol", true),
        (json!({"kind": "error_event", "after": 0}), "-", "server_error", true),
    ];
    for (fault, whole, stream, is_called) in kinds {
        let kind = fault["kind"].as_str().unwrap().to_owned();
        let id = start(&gateway, "a", 1.0, fault.clone()).await;
        for (body, outcome) in [(chat_body("chat"), whole), (stream_body("chat"), stream)] {
            let before = calls(&a);
            let answer = gateway.chat(&body).await;
            assert_eq!((answer.status, said(&answer)), (200, whole_text(16)), "{fault}");
            assert_eq!(calls(&a) - before, u64::from(is_called), "{fault}: whether it costs a call");
            let (endpoint, n) = if outcome == "-" { ("a", 1) } else { ("b", 2) };
            assert_eq!(answer.need("x-breakwater-endpoint"), endpoint, "{fault}");
            let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), n).await;
            let steps = attempts(&gateway, &answer).await;
            if outcome == "-" {
                assert_eq!((rows[0].get("decision"), &steps[0]["injected"]), ("priority/1", &Value::Null), "{fault}");
                continue;
            }
            assert_eq!((rows[0].get("outcome"), rows[1].get("outcome")), (outcome, "success"), "{fault}");
            assert_eq!(rows[0].get("decision"), format!("priority/1;chaos={kind}"));
            assert_eq!(rows[1].get("decision"), "priority/2");
            assert_eq!((&steps[0]["injected"], &steps[1]["injected"]), (&json!(kind), &Value::Null), "{steps:?}");
        }
        stop(&gateway, &id).await;
        gateway.admin("POST", "/admin/endpoints/a/reset", Some(&json!({"reason": "next"}))).await.expect(200);
        assert_eq!(gateway.chat(&chat_body("chat")).await.need("x-breakwater-endpoint"), "a", "{fault}: it is over");
    }
}

#[tokio::test]
async fn what_an_injected_status_says_is_obeyed() {
    let (a, b) = (provider("a"), provider("b"));
    let gateway = Gateway::start(&pair(&a, &b, &[]).top("chaos: allowed")).await;
    let fault = json!({"kind": "status", "code": 429, "headers": {"retry-after": "7"}, "body": {"error": {"code": "slow_down"}}});
    let id = start(&gateway, "a", 1.0, fault).await;
    gateway.chat(&chat_body("chat")).await.expect(200);
    stop(&gateway, &id).await;
    let endpoint = gateway.endpoint("a").await;
    let until: jiff::Timestamp = endpoint["paused"]["until"].as_str().expect("a pause").parse().unwrap();
    let left = until.duration_since(jiff::Timestamp::now()).as_secs_f64();
    assert!((4.0..7.1).contains(&left), "as long as its header says, not the default of a second: {left}");
    assert_eq!(endpoint["paused"]["reason"], "rate_limited", "{endpoint}");
    assert_eq!(
        gateway.chat(&chat_body("chat")).await.need("x-breakwater-endpoint"),
        "b",
        "still paused, as by a vendor"
    );
    assert_eq!(calls(&a), 0);
}

#[tokio::test]
async fn streams_are_cut_broken_and_slowed_after_content() {
    let (a, b) = (provider("a"), provider("b"));
    let gateway = Gateway::start(&pair(&a, &b, &[PATIENT]).top("chaos: allowed")).await;
    for fault in [json!({"kind": "cut_after", "events": 3}), json!({"kind": "error_event", "after": 3})] {
        let id = start(&gateway, "a", 1.0, fault.clone()).await;
        let answer = gateway.chat(&stream_body("chat")).await.expect(200).clone();
        let sse = answer.sse();
        assert_eq!((sse.content(), sse.dones()), (whole_text(3), 0), "{fault}");
        assert!(sse.error().is_some(), "{fault}: {}", answer.text());
        let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), 1).await;
        assert_eq!(rows[0].get("outcome"), "partial");
        let card = stop(&gateway, &id).await;
        assert_eq!((&card["lost"], &card["rescued"]), (&json!(1), &json!(0)), "half a stream is lost: {card}");
    }
    let id = start(&gateway, "a", 1.0, json!({"kind": "trickle", "tokens_per_second": 20.0})).await;
    for body in [stream_body("chat"), chat_body("chat")] {
        let began = Instant::now();
        let answer = gateway.chat(&body).await;
        let took = began.elapsed();
        assert_eq!(said(&answer), whole_text(16));
        // 15 gaps of 50 ms; a whole answer of some 300 bytes at 80 a second.
        assert!(took >= ms(740) && took < secs(20), "{took:?}");
    }
    let card = stop(&gateway, &id).await;
    assert_eq!((&card["hits"], &card["rescued"]), (&json!(2), &json!(2)), "{card}");
    let id = start(&gateway, "a", 1.0, json!({"kind": "trickle", "bytes_per_second": 1000})).await;
    let (began, answer) = (Instant::now(), gateway.chat(&chat_body("chat")).await);
    let expected = answer.body.len() as f64 / 1000.0;
    let took = began.elapsed().as_secs_f64();
    assert!(took >= expected * 0.95 && took < expected + 5.0, "{took} s for {} bytes", answer.body.len());
    stop(&gateway, &id).await;
}

/// `a` and `b` in turn; 400 requests, a third of a's attempts fail. What the score says is what clients and providers saw.
#[tokio::test]
async fn the_share_is_kept_nobody_else_is_struck_and_the_score_is_true() {
    const SENT: u64 = 400;
    let slow = |name: &str, ms: f64| with_profile(Profile { latency: Latency::fixed(ms), ..Profile::new(name, &[]) });
    let (a, b) = (slow("a", 2.0), slow("b", 60.0));
    let price = |input| format!("price: {{input: {input}.00, output: {input}.00}}");
    let setup = Setup::new()
        .endpoint_at("a", &a.base_url(), &[PATIENT, &price(1)])
        .endpoint_at("b", &b.base_url(), &[PATIENT, &price(10)])
        .route("chat", "priority", &["a", "b"], &[])
        .route("other", "priority", &["b"], &[]);
    let gateway = Gateway::start(&setup.top("chaos: allowed").top(FREE)).await;
    let id = start(&gateway, "a", 0.3, json!({"kind": "status", "code": 500})).await;
    let (mut by_b, mut lost) = (0_u64, 0_u64);
    for n in 0..SENT {
        // Every tenth may ask once only, so that a hit is a loss.
        let hints: &[(&str, &str)] = if n % 10 == 0 { &[("x-breakwater-no-fallback", "true")] } else { &[] };
        let answer = gateway.chat_with(hints, &chat_body("chat")).await;
        match (answer.status, answer.header("x-breakwater-endpoint")) {
            (200, Some("b")) => by_b += 1,
            (200, _) => {}
            _ => lost += 1,
        }
    }
    for _ in 0..20 {
        assert_eq!(gateway.chat(&chat_body("other")).await.expect(200).need("x-breakwater-attempts"), "1");
    }
    let hits = by_b + lost;
    // Five standard deviations of 400 rolls at 0.3 are 46.
    assert!(hits.abs_diff(SENT * 3 / 10) <= 46, "{hits} of {SENT} were hit");
    assert_eq!((calls(&a), calls(&b)), (SENT - hits, by_b + 20), "an injected answer costs no call");
    let running = gateway.admin_get(&format!("/admin/chaos/{id}")).await;
    assert_eq!(running["scorecard"]["hits"], hits, "the score of a running experiment: {running}");
    let card = stop(&gateway, &id).await;
    for (figure, expected) in [
        ("requests", SENT),
        ("attempts", SENT),
        ("hits", hits),
        ("requests_hit", hits),
        ("rescued", by_b),
        ("lost", lost),
        ("under_way", 0),
        ("untouched", SENT - hits),
    ] {
        assert_eq!(card[figure], expected, "{figure} in {card}");
    }
    let rate = card["rescue_rate"].as_f64().unwrap();
    assert!((rate - by_b as f64 / hits as f64).abs() < 1e-9, "{card}");
    let added = card["added_ms"]["p50"].as_f64().unwrap();
    assert!((40.0..400.0).contains(&added), "b answers 58 ms after a: {card}");
    let rows = gateway.wait_rows((SENT + by_b + 20) as usize).await;
    let injected = rows.iter().filter(|r| r.get("decision").ends_with(";chaos=status"));
    assert_eq!(injected.clone().count() as u64, hits);
    assert!(injected.into_iter().all(|r| r.get("endpoint") == "a" && r.get("outcome") == "server_error"));
    // What b was paid for rescued requests, less a tenth of it, which is what a would have cost.
    let paid: i64 = rows
        .iter()
        .filter(|r| r.get("endpoint") == "b" && r.get("route") == "chat")
        .map(|r| r.number("cost_nanousd"))
        .sum();
    assert_eq!(card["extra_cost_nanousd"], paid - paid / 10, "{card}");
    let metrics = gateway.get("/metrics").await.text();
    assert!(
        metrics.contains(&format!("breakwater_chaos_injected_total{{endpoint=\"a\",kind=\"status\"}} {hits}\n")),
        "{metrics}"
    );
    let report = gateway.admin_get("/admin/ledger/resilience").await;
    assert_eq!((&report["injected_attempts"], &report["injected_rescued"]), (&json!(hits), &json!(by_b)), "{report}");
    let audit = gateway.admin_get("/admin/audit").await.to_string();
    assert!(audit.contains("chaos_start") && audit.contains(&format!("{by_b} rescued, {lost} lost")), "{audit}");
}

#[tokio::test]
async fn it_is_seen_while_it_runs_and_ends_by_itself() {
    let (a, b) = (provider("a"), provider("b"));
    let gateway = Gateway::start(&pair(&a, &b, &[PATIENT]).top("chaos: {allowed: true}")).await;
    let token = format!("Bearer {}", crate::support::ADMIN_TOKEN);
    let mut events =
        reqwest::Client::new().get(gateway.url("/admin/events")).header("authorization", &token).send().await.unwrap();
    let body = json!({"endpoint": "a", "share": 1, "for": "1s", "fault": {"kind": "refuse"}});
    let began = Instant::now();
    let id =
        gateway.admin("POST", "/admin/chaos", Some(&body)).await.expect(201).json()["id"].as_str().unwrap().to_owned();
    let views = gateway.admin_get("/admin/endpoints").await["endpoints"].as_array().unwrap().clone();
    assert_eq!(
        (&views[0]["chaos"][0]["id"], &views[0]["chaos"][0]["kind"], &views[1]["chaos"]),
        (&json!(id), &json!("refuse"), &json!([]))
    );
    assert!(gateway.get("/metrics").await.text().contains("breakwater_chaos_experiments{endpoint=\"a\"} 1\n"));
    assert_eq!(gateway.chat(&chat_body("chat")).await.need("x-breakwater-endpoint"), "b");
    eventually(secs(5), "it is over", async || {
        gateway.chat(&chat_body("chat")).await.need("x-breakwater-endpoint") == "a"
    })
    .await;
    assert!(began.elapsed() >= ms(950), "it lasted {:?}", began.elapsed());
    eventually(secs(5), "it is told as ended", async || {
        gateway.admin_get(&format!("/admin/chaos/{id}")).await["ended_by"] == "time"
    })
    .await;
    assert_eq!(gateway.endpoint("a").await["chaos"], json!([]));
    let list = gateway.admin_get("/admin/chaos").await;
    assert_eq!((list["running"].as_array().unwrap().len(), list["ended"].as_array().unwrap().len()), (0, 1), "{list}");
    let text = |path: String| {
        let (gateway, token) = (&gateway, token.clone());
        async move {
            gateway
                .send("GET", &path, &[("authorization", &token), ("accept", "text/plain")], "")
                .await
                .expect(200)
                .text()
        }
    };
    assert!(text(format!("/admin/chaos/{id}")).await.contains("rescue rate"), "a table");
    assert!(text("/admin/chaos".into()).await.contains(&id));
    assert!(gateway.log().contains("chaos ended"), "{}", gateway.log());
    let mut seen = String::new();
    while let Ok(Ok(Some(piece))) = tokio::time::timeout(ms(500), events.chunk()).await {
        seen += &String::from_utf8_lossy(&piece);
    }
    assert!(
        seen.contains("\"event\":\"chaos\"")
            && seen.contains("\"what\":\"started\"")
            && seen.contains("\"what\":\"ended\""),
        "{seen}"
    );
}

#[tokio::test]
async fn a_request_that_outlives_its_experiment_still_counts() {
    let (a, b) = (provider("a"), provider("b"));
    let patient = ["timeouts: {first_byte: 2s}"];
    let gateway = Gateway::start(&pair(&a, &b, &patient).top("chaos: allowed")).await;
    let id = start(&gateway, "a", 1.0, json!({"kind": "hang"})).await;
    let body = chat_body("chat");
    let ended = async {
        eventually(secs(5), "the request hangs", async || {
            gateway.admin_get(&format!("/admin/chaos/{id}")).await["scorecard"]["hits"] == 1
        })
        .await;
        stop(&gateway, &id).await
    };
    let (answer, at_the_end) = futures_util::future::join(gateway.chat(&body), ended).await;
    assert_eq!((&at_the_end["under_way"], &at_the_end["rescued"]), (&json!(1), &json!(0)), "{at_the_end}");
    assert_eq!(answer.expect(200).need("x-breakwater-endpoint"), "b", "it hangs on, as it would at the vendor");
    let later = gateway.admin_get(&format!("/admin/chaos/{id}")).await["scorecard"].clone();
    assert_eq!((&later["under_way"], &later["rescued"], &later["lost"]), (&json!(0), &json!(1), &json!(0)), "{later}");
    assert_eq!(gateway.chat(&body).await.need("x-breakwater-endpoint"), "a");
}

#[tokio::test]
async fn it_is_forbidden_unless_allowed() {
    let a = provider("a");
    let setup = Setup::new().endpoint_at("a", &a.base_url(), &[]).route("chat", "priority", &["a"], &[]);
    let gateway = Gateway::start(&setup.clone().top("chaos: off")).await;
    let body = json!({"endpoint": "a", "share": 1, "for": "1m", "fault": {"kind": "refuse"}});
    for (method, path, body) in [
        ("POST", "/admin/chaos", Some(&body)),
        ("GET", "/admin/chaos", None),
        ("DELETE", "/admin/chaos", None),
        ("GET", "/admin/chaos/chaos-1", None),
        ("DELETE", "/admin/chaos/chaos-1", None),
    ] {
        let answer = gateway.admin(method, path, body).await;
        answer.expect_error(403, "chaos_not_allowed");
        assert!(answer.text().contains("`chaos: allowed`"), "the remedy: {}", answer.text());
    }
    gateway.post("/admin/chaos", &body).await.expect_error(401, "invalid_api_key");
    gateway.chat(&chat_body("chat")).await.expect(200);
    // A reload allows it, and another ends what runs.
    let write =
        |chaos: &str| std::fs::write(gateway.config(), setup.clone().top(chaos).yaml(&gateway.store())).unwrap();
    write("chaos: allowed");
    gateway.admin("POST", "/admin/reload", None).await.expect(200);
    let id = start(&gateway, "a", 1.0, json!({"kind": "refuse"})).await;
    write("chaos: off");
    gateway.admin("POST", "/admin/reload", None).await.expect(200);
    assert_eq!(gateway.endpoint("a").await["chaos"], json!([]));
    write("chaos: allowed");
    gateway.admin("POST", "/admin/reload", None).await.expect(200);
    let ended = gateway.admin_get(&format!("/admin/chaos/{id}")).await;
    assert_eq!(ended["ended_by"], "not_allowed_any_more", "{ended}");
}

#[tokio::test]
async fn bad_ones_are_refused_and_change_nothing() {
    let (a, b) = (provider("a"), provider("b"));
    let gateway = Gateway::start(&pair(&a, &b, &[]).top("chaos: allowed")).await;
    let good = json!({"endpoint": "a", "share": 0.5, "for": "1m", "fault": {"kind": "refuse"}});
    let with = |key: &str, value: Value| {
        let mut body = good.clone();
        if value.is_null() {
            body.as_object_mut().unwrap().remove(key)
        } else {
            body.as_object_mut().unwrap().insert(key.into(), value)
        };
        body
    };
    for (body, status, code, says) in [
        (with("share", json!(2)), 400, "invalid_request", "share above 0 to 1"),
        (with("endpoint", json!("c")), 404, "not_found", "no endpoint `c`"),
        (with("fault", json!({"kind": "flood"})), 400, "invalid_request", "one of status, refuse"),
        (with("for", Value::Null), 400, "invalid_request", "`for` is missing"),
        (with("for", json!("25h")), 400, "invalid_request", "24h"),
        (json!("chaos"), 400, "invalid_request", "expected a map"),
    ] {
        let answer = gateway.admin("POST", "/admin/chaos", Some(&body)).await;
        answer.expect_error(status, code);
        assert!(answer.text().contains(says), "{body}: {}", answer.text());
    }
    assert_eq!(gateway.admin_get("/admin/chaos").await, json!({"running": [], "ended": []}));
    gateway.admin("POST", "/admin/chaos", Some(&good)).await.expect(201);
    let over = gateway.admin("POST", "/admin/chaos", Some(&with("share", json!(0.6)))).await;
    over.expect_error(409, "conflict");
    gateway.admin("POST", "/admin/chaos", Some(&with("endpoint", json!("b")))).await.expect(201);
    gateway.admin("DELETE", "/admin/chaos/chaos-none", None).await.expect_error(404, "not_found");
    let ended = gateway.admin("DELETE", "/admin/chaos", None).await.expect(200).json();
    assert_eq!(ended["ended"].as_array().unwrap().len(), 2, "{ended}");
    let id = ended["ended"][0]["id"].as_str().unwrap();
    gateway.admin("DELETE", &format!("/admin/chaos/{id}"), None).await.expect_error(409, "conflict");
    for _ in 0..20 {
        assert_eq!(gateway.chat(&chat_body("chat")).await.need("x-breakwater-attempts"), "1");
    }
}

#[tokio::test]
async fn a_changed_or_removed_endpoint_and_a_restart_end_it() {
    let (a, b) = (provider("a"), provider("b"));
    let setup = |weight: u32| pair(&a, &b, &[&format!("weight: {weight}")]).top("chaos: allowed");
    let mut gateway = Gateway::start(&setup(1)).await;
    let refuse = || json!({"kind": "refuse"});
    let (at_a, at_b) = (start(&gateway, "a", 1.0, refuse()).await, start(&gateway, "b", 0.5, refuse()).await);
    std::fs::write(gateway.config(), setup(2).yaml(&gateway.store())).unwrap();
    gateway.admin("POST", "/admin/reload", None).await.expect(200);
    let ended_by =
        async |gateway: &Gateway, id: &str| gateway.admin_get(&format!("/admin/chaos/{id}")).await["ended_by"].clone();
    assert_eq!(
        (ended_by(&gateway, &at_a).await, ended_by(&gateway, &at_b).await),
        (json!("endpoint_changed"), Value::Null)
    );
    gateway.admin("DELETE", "/admin/endpoints/b", None).await.expect(200);
    assert_eq!(ended_by(&gateway, &at_b).await, "endpoint_removed");
    start(&gateway, "a", 1.0, refuse()).await;
    gateway.restart().await;
    assert!(gateway.log().contains("ended by stop"), "{}", gateway.log());
    assert_eq!(gateway.admin_get("/admin/chaos").await, json!({"running": [], "ended": []}));
    assert_eq!(gateway.chat(&chat_body("chat")).await.need("x-breakwater-endpoint"), "a");
}

#[tokio::test]
async fn from_the_start_by_a_file_and_by_the_configuration() {
    let (a, b) = (provider("a"), provider("b"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chaos.yaml");
    let path = file.display().to_string();
    let one = "- {endpoint: a, share: 1, for: 10m, fault: {kind: status, code: 503}}\n";
    std::fs::write(&file, one).unwrap();
    let at_b = "chaos: {allowed: true, experiments: [{endpoint: b, share: 0.25, for: 1h, fault: {kind: hang}}]}";
    let gateway = Gateway::start(&pair(&a, &b, &[]).top(at_b).argument("--chaos").argument(&path)).await;
    let running = gateway.admin_get("/admin/chaos").await["running"].clone();
    let of = |n: usize| (running[n]["endpoint"].clone(), running[n]["fault"]["kind"].clone());
    assert_eq!((of(0), of(1)), ((json!("b"), json!("hang")), (json!("a"), json!("status"))), "{running}");

    let config = folder.path().join("config.yaml");
    let config_path = config.display().to_string();
    let refused = |chaos: &str, experiments: &str, says: &str| {
        std::fs::write(&config, pair(&a, &b, &[]).top(chaos).yaml(&folder.path().join("state"))).unwrap();
        std::fs::write(&file, experiments).unwrap();
        let run = breakwater(&["serve", "--config", &config_path, "--chaos", &path], gateway.environment()).expect(2);
        assert!(run.stderr.contains(says), "{says}: {}", run.stderr);
    };
    refused("chaos: off", one, "chaos is not allowed here; write `chaos: allowed`");
    refused(
        "chaos: allowed",
        &one.replace("endpoint: a", "endpoint: c"),
        "chaos.yaml:1:14: [0].endpoint: no endpoint has the name `c`",
    );
    refused("chaos: allowed", &one.replace("share: 1", "share: 2"), "chaos.yaml:1:24: [0].share: `2` is not allowed");
    refused("chaos: allowed", "- {", "chaos.yaml:");
    refused("chaos: maybe", one, "chaos: `maybe` is not allowed; expected one of off, allowed");
    refused("chaos: {experiments: []}", one, "experiments need `allowed: true`");
}
