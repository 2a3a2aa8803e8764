//! A stream that breaks off is gone on with elsewhere: the text once and in order, one stream for the client, every attempt paid.

use crate::providers::{calls, provider, set, whole_text, with_profile};
use crate::support::ledger::cost;
use crate::support::{Gateway, Setup, Sse, eventually, ms, secs, stream_body};
use breakwater::sim::{Answer, Fault, FaultKind, Handle, Profile};
use serde_json::{Value, json};

const TOKENS: usize = 16;

/// Paced, so that what goes wrong comes after events and not with them.
fn paced(name: &str, answer: Answer) -> Handle {
    with_profile(Profile { tokens_per_second: Some(400.0), answer, ..Profile::new(name, &[]) })
}

/// The providers in their order behind `chat`, which recovers; their breakers stay closed.
async fn gateway_for(providers: &[&Handle]) -> Gateway {
    let names = ["a", "b", "c"];
    let settings = ["timeouts: {idle: 400ms}", "breaker: {consecutive_failures: 1000, minimum_calls: 1000}"];
    let setup = providers.iter().zip(names).fold(Setup::new(), |s, (p, n)| s.endpoint_at(n, &p.base_url(), &settings));
    let setup = setup.route("chat", "priority", &names[..providers.len()], &["recover: continue"]);
    Gateway::start(&setup).await
}

fn body() -> Value {
    let mut body = stream_body("chat");
    body["stream_options"] = json!({"include_usage": true});
    body
}

/// Fails unless this is one whole stream with one id and one role.
fn expect_one_stream(sse: &Sse, what: &str) {
    assert_eq!(sse.content(), whole_text(TOKENS), "{what}: {sse:#?}");
    assert_eq!((sse.dones(), sse.error()), (1, None), "{what}");
    let chunks = sse.chunks();
    for name in ["id", "model", "created"] {
        let values: std::collections::BTreeSet<String> = chunks.iter().map(|c| c[name].to_string()).collect();
        assert_eq!(values.len(), 1, "{what}: {name} {values:?}");
    }
    let roles = chunks.iter().filter(|c| c["choices"][0]["delta"]["role"].is_string()).count();
    assert_eq!(roles, 1, "{what}");
    let ends: Vec<_> = chunks.iter().filter_map(|c| c["choices"][0]["finish_reason"].as_str()).collect();
    assert_eq!(ends, ["stop"], "{what}");
}

fn faults(at: u64) -> Vec<FaultKind> {
    vec![
        FaultKind::ErrorEvent { after: at, body: None },
        FaultKind::EndWithoutDone { events: Some(at) },
        FaultKind::CutAfter { events: at, reset: false },
        FaultKind::CutAfter { events: at, reset: true },
        FaultKind::BrokenChunk { after: at },
        FaultKind::BrokenJsonEvent { after: at },
        FaultKind::SilentAfter { events: at, ms: None },
    ]
}

#[tokio::test]
async fn what_breaks_after_content_is_gone_on_with_elsewhere() {
    let (a, b) = (paced("a", Answer::Numbered {}), paced("b", Answer::Continue { overlap: 2 }));
    let gateway = gateway_for(&[&a, &b]).await;
    for fault in faults(5) {
        set(&a, fault.clone());
        let answer = gateway.chat(&body()).await;
        let sse = answer.expect(200).sse();
        expect_one_stream(&sse, &format!("{fault:?}"));
        let recovered = format!("breakwater recovered from=a to=b at_chars={}", whole_text(5).len());
        assert!(sse.comments.contains(&recovered), "{fault:?}: {:?}", sse.comments);
        let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), 2).await;
        assert_eq!((rows[0].get("outcome"), rows[0].get("decision")), ("partial", "priority/1"), "{fault:?}");
        assert_eq!((rows[1].get("outcome"), rows[1].get("decision")), ("success", "priority/2;recover"), "{fault:?}");
        assert!(rows[0].number("output_tokens") > 0 && rows[0].number("cost_nanousd") > 0, "{fault:?}");
        // The client's figures are those of both attempts.
        let sum = |column: &str| rows.iter().map(|r| r.number(column)).sum::<i64>();
        let usage = sse.chunks().iter().find(|c| c["usage"].is_object()).expect("a usage event")["usage"].clone();
        assert_eq!(usage["prompt_tokens"], sum("input_tokens"), "{fault:?}");
        assert_eq!(usage["completion_tokens"], sum("output_tokens"), "{fault:?}");
        assert_eq!(usage["total_tokens"], sum("input_tokens") + sum("output_tokens"), "{fault:?}");
        let told = sse.cost_comment().split_once("cost_usd=").unwrap().1.split(' ').next().unwrap().to_owned();
        let told: f64 = told.parse().unwrap();
        assert!((told * 1e9 - cost(&rows) as f64).abs() < 1.0, "{told} USD, {} nano", cost(&rows));
        let record = gateway.admin_get(&format!("/admin/decisions/{}", answer.need("x-breakwater-request-id"))).await;
        let step = record["steps"].as_array().unwrap().iter().find(|s| s["step"] == "recovered").cloned();
        assert_eq!(step.expect("a step")["endpoint"], "b", "{fault:?}");
    }
    let sent: Value = serde_json::from_str(&b.stats().last.last().unwrap().body).unwrap();
    assert_eq!(sent["messages"][1], json!({"role": "assistant", "content": whole_text(5)}));
    assert_eq!(sent["messages"][2]["role"], "user");
    eventually(secs(1), "every broken call is closed", async || a.stats().requests.in_progress == 0).await;
    assert!(gateway.get("/metrics").await.text().contains("breakwater_streams_recovered_total 7"));
}

#[tokio::test]
async fn every_cut_point_with_overlap_and_from_the_start() {
    // `Numbered` takes no notice of what was said and begins anew.
    for answer in [
        Answer::Continue { overlap: 0 },
        Answer::Continue { overlap: 1 },
        Answer::Continue { overlap: 4 },
        Answer::Numbered {},
    ] {
        let (a, b) = (paced("a", Answer::Numbered {}), paced("b", answer));
        let gateway = gateway_for(&[&a, &b]).await;
        for events in 1..TOKENS as u64 {
            set(&a, FaultKind::CutAfter { events, reset: false });
            let sse = gateway.chat(&body()).await.expect(200).sse();
            expect_one_stream(&sse, &format!("{answer:?} after {events}"));
        }
    }
}

#[tokio::test]
async fn a_continuation_that_breaks_off_is_gone_on_with_as_well() {
    let (a, b) = (paced("a", Answer::Numbered {}), paced("b", Answer::Continue { overlap: 0 }));
    let c = paced("c", Answer::Continue { overlap: 1 });
    let gateway = gateway_for(&[&a, &b, &c]).await;
    set(&a, FaultKind::CutAfter { events: 4, reset: false });
    set(&b, FaultKind::ErrorEvent { after: 5, body: None });
    let answer = gateway.chat(&body()).await;
    let sse = answer.expect(200).sse();
    expect_one_stream(&sse, "twice");
    let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), 3).await;
    let outcomes: Vec<_> = rows.iter().map(|r| r.get("outcome")).collect();
    assert_eq!(outcomes, ["partial", "partial", "success"]);
    let usage = sse.chunks().iter().find(|c| c["usage"].is_object()).unwrap()["usage"].clone();
    assert_eq!(usage["prompt_tokens"], rows.iter().map(|r| r.number("input_tokens")).sum::<i64>());
    // One that fails before its first content is passed over; the text has not moved.
    b.set_faults(vec![Fault::from(FaultKind::FirstEventError { body: None })]).unwrap();
    expect_one_stream(&gateway.chat(&body()).await.expect(200).sse(), "passed over");
}

#[tokio::test]
async fn when_nobody_can_go_on_the_client_is_told_as_ever() {
    let (a, b) = (paced("a", Answer::Numbered {}), provider("b"));
    let gateway = gateway_for(&[&a, &b]).await;
    set(&a, FaultKind::CutAfter { events: 4, reset: false });
    let tool = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "required": ["x", "y"],
        "properties": {"x": {"type": "string"}, "y": {"enum": ["a long value that makes several pieces"]}}}}}]);
    let whys = [
        (
            "response_format",
            json!({"type": "json_schema", "json_schema": {"schema": {"type": "object", "required": ["a", "b", "c", "d"],
            "properties": {"a": {"type": "string"}, "b": {"type": "string"}, "c": {"type": "string"}, "d": {"type": "string"}}}}}),
            "the request asks for JSON",
        ),
        ("logprobs", json!(true), "the request asks for log probabilities"),
        ("n", json!(2), "the request asks for several choices"),
        ("tools", tool, "something other than text was delivered"),
    ];
    for (member, value, why) in whys {
        let mut body = body();
        body[member] = value;
        if member == "tools" {
            body["tool_choice"] = "required".into();
        }
        let answer = gateway.chat(&body).await;
        let sse = answer.expect(200).sse();
        assert_eq!((sse.dones(), calls(&b)), (0, 0), "{member}: {}", answer.text());
        assert!(sse.error().is_some(), "{member}");
        let id = answer.need("x-breakwater-request-id");
        assert_eq!(gateway.rows_of(id, 1).await[0].get("outcome"), "partial", "{member}");
        let record = gateway.admin_get(&format!("/admin/decisions/{id}")).await;
        let step = record["steps"].as_array().unwrap().iter().find(|s| s["step"] == "not_recovered").cloned();
        assert_eq!(step.expect("a step")["why"], why, "{member}");
    }
    // Everybody fails.
    b.set_faults(vec![FaultKind::ErrorEvent { after: 0, body: None }.into()]).unwrap();
    let answer = gateway.chat(&body()).await;
    let sse = answer.expect(200).sse();
    assert_eq!((sse.content(), sse.dones()), (whole_text(4), 0));
    assert_eq!(sse.error().expect("an error event")["code"], "upstream_failed");
}

#[tokio::test]
async fn a_client_that_leaves_while_a_continuation_is_sought_closes_it() {
    let (a, b) = (paced("a", Answer::Numbered {}), provider("b"));
    let gateway = gateway_for(&[&a, &b]).await;
    set(&a, FaultKind::CutAfter { events: 4, reset: false });
    set(&b, FaultKind::Hang);
    let response = gateway.open(&stream_body("chat")).await;
    eventually(secs(5), "the second is asked", async || b.stats().requests.in_progress == 1).await;
    drop(response);
    eventually(ms(1_000), "its call is closed", async || b.stats().aborted.total == 1).await;
    let rows = gateway.wait_rows(2).await;
    let outcomes: std::collections::BTreeSet<_> = rows.iter().map(|r| r.get("outcome")).collect();
    assert_eq!(outcomes, ["cancelled", "partial"].into());
}
