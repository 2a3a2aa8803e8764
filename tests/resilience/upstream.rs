//! Upstreams that fail before content: what the caller gets, what the breaker makes of it, what is asked again and when.

use crate::providers::{calls, faulty, heal, pair, provider, said, set, whole_text, with_profile};
use crate::support::{Gateway, Setup, chat_body, eventually, ms, secs};
use breakwater::sim::{FaultKind, Handle, Profile, Tls};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;

const LONG: &str = "breaker: {open_for: 60s}";

/// Asks `chat` and fails unless `b` answered whole; gives how often it was tried.
async fn answered_by_b(gateway: &Gateway) -> u32 {
    let answer = gateway.chat(&chat_body("chat")).await;
    assert_eq!(answer.expect(200).need("x-breakwater-endpoint"), "b");
    assert_eq!(said(&answer), whole_text(16));
    answer.need("x-breakwater-attempts").parse().unwrap()
}

/// Asks `chat` once and gives the outcomes of its rows, by attempt.
async fn outcomes_of_one(gateway: &Gateway) -> Vec<String> {
    let answer = gateway.chat(&chat_body("chat")).await;
    let attempts: usize = answer.need("x-breakwater-attempts").parse().unwrap();
    let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), attempts).await;
    rows.iter().map(|r| format!("{} {}", r.get("endpoint"), r.get("outcome"))).collect()
}

fn status(code: u16, body: Option<Value>) -> FaultKind {
    FaultKind::Status { code, headers: BTreeMap::new(), body }
}

#[tokio::test]
async fn refuse() {
    let (a, b) = (faulty("a", FaultKind::Refuse), provider("b"));
    let gateway = Gateway::start(&pair(&a, &b, &[LONG])).await;
    for _ in 0..5 {
        assert_eq!(answered_by_b(&gateway).await, 2);
    }
    gateway.wait_breaker("a", "open", secs(2)).await;
    // From here on traffic to it would be seen.
    heal(&a);
    let before = a.stats().connections.accepted;
    for _ in 0..30 {
        assert_eq!(answered_by_b(&gateway).await, 1);
    }
    assert_eq!((calls(&a), a.stats().connections.accepted), (0, before));
    let rows = gateway.wait_rows(40).await;
    assert_eq!(rows.iter().filter(|r| r.get("outcome") == "connect_failed").count(), 5);
}

#[tokio::test]
async fn blackhole() {
    let (a, b) = (faulty("a", FaultKind::Hang), provider("b"));
    let gateway = Gateway::start(&pair(&a, &b, &[])).await;
    let hint = [("x-breakwater-deadline-ms", "4000")];
    let began = Instant::now();
    let answer = gateway.chat_with(&hint, &chat_body("chat")).await;
    assert_eq!(answer.expect(200).need("x-breakwater-endpoint"), "b");
    assert!((ms(1_800)..secs(4)).contains(&began.elapsed()), "a had half of the deadline: {:?}", began.elapsed());

    set(&b, FaultKind::Hang);
    let answer = gateway.chat_with(&hint, &chat_body("chat")).await;
    answer.expect_error(504, "deadline_exceeded");
    let id = answer.need("x-breakwater-request-id").to_owned();
    let rows = gateway.rows_of(&id, 2).await;
    assert!(rows.iter().all(|r| r.get("outcome") == "uncertain"), "{rows:?}");
    eventually(secs(2), "both calls are closed", async || {
        a.stats().requests.in_progress + b.stats().requests.in_progress == 0
    })
    .await;
}

#[tokio::test]
async fn packets_that_are_dropped() {
    let (a, b) = (faulty("a", FaultKind::Unreachable), provider("b"));
    let gateway = Gateway::start(&pair(&a, &b, &["timeouts: {connect: 300ms}"])).await;
    assert_eq!(outcomes_of_one(&gateway).await, ["a connect_timeout", "b success"]);
}

#[tokio::test]
async fn reset_after_the_request_body() {
    for fault in [FaultKind::ResetAfterBody, FaultKind::ResetBeforeHeaders] {
        let (a, b) = (provider("a"), provider("b"));
        let gateway = Gateway::start(&pair(&a, &b, &[])).await;
        // On a fresh connection and on one that has been used: the latter tempts HTTP clients to try again by themselves.
        for warm in [false, true] {
            if warm {
                heal(&a);
                gateway.chat(&chat_body("chat")).await.expect(200);
            }
            set(&a, fault.clone());
            assert_eq!(outcomes_of_one(&gateway).await, ["a connect_failed", "b success"], "{fault:?}");
            let hits: u64 = a.stats().faults.values().sum();
            assert_eq!(hits, 1 + u64::from(warm), "one attempt is one call: {fault:?}");
        }
    }
}

#[tokio::test]
async fn a_self_signed_certificate() {
    let a = with_profile(Profile { tls: Some(Tls::SelfSigned), ..Profile::new("a", &[]) });
    let b = provider("b");
    let gateway = Gateway::start(&pair(&a, &b, &[])).await;
    assert_eq!(outcomes_of_one(&gateway).await, ["a connect_failed", "b success"]);
    eventually(secs(2), "the handshake was refused", async || a.stats().outcomes.contains_key("tls_refused")).await;
    let stats = a.stats();
    assert!(!stats.outcomes.contains_key("tls_accepted"), "{stats:?}");
    assert!(stats.last.is_empty(), "not a byte of a request was sent: {stats:?}");
}

/// When a 429 came, at the earliest and the latest, and until when its endpoint is paused then; seconds since the epoch.
async fn paused_by(gateway: &Gateway, name: &str) -> (f64, f64, f64) {
    let now = || jiff::Timestamp::now().as_duration().as_secs_f64();
    let before = now();
    gateway.chat(&chat_body(name)).await.expect_error(429, "rate_limit_exceeded");
    let after = now();
    let endpoint = gateway.endpoint(name).await;
    assert_eq!(endpoint["breaker"]["state"], "closed", "a limit is no failure: {endpoint}");
    let paused = &endpoint["paused"];
    assert_eq!(paused["reason"], "rate_limited", "{endpoint}");
    let until: jiff::Timestamp = paused["until"].as_str().unwrap().parse().unwrap();
    (before, after, until.as_duration().as_secs_f64())
}

/// What a 429 asks for and what it gets.
enum Wish {
    For(f64),
    Until(f64),
    /// Says nothing: one second, the first time.
    Nothing,
}

#[tokio::test]
async fn retry_after_in_all_its_forms() {
    let date = std::time::SystemTime::now() + secs(60);
    let whole_seconds = date.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_secs() as f64;
    let date = httpdate::fmt_http_date(date);
    // retry-after, retry-after-ms
    let forms = [
        (Some("7"), None, Wish::For(7.0)),
        (Some("0.5"), None, Wish::For(0.5)),
        (None, Some("6500"), Wish::For(6.5)),
        (Some("9"), Some("1500"), Wish::For(1.5)),
        (Some(date.as_str()), None, Wish::Until(whole_seconds)),
        (None, None, Wish::Nothing),
        (Some("soon"), None, Wish::Nothing),
        (Some("-3"), None, Wish::Nothing),
        (Some("1e30"), None, Wish::Nothing),
        (Some("NaN"), None, Wish::Nothing),
        (Some("99999999999999999999"), None, Wish::Nothing),
        (Some("0"), None, Wish::Nothing),
        (Some(""), None, Wish::Nothing),
        (Some("Thu, 01 Jan 1970 00:00:00 GMT"), None, Wish::Nothing),
    ];
    let limited = |after: Option<&str>, after_ms: Option<&str>| FaultKind::RateLimited {
        retry_after: after.map(str::to_owned),
        retry_after_ms: after_ms.map(str::to_owned),
    };
    let providers: Vec<Handle> = forms.iter().map(|(s, ms, _)| faulty("limited", limited(*s, *ms))).collect();
    let mut setup = Setup::new();
    for (n, provider) in providers.iter().enumerate() {
        setup = setup.endpoint_at(&format!("e{n}"), &provider.base_url(), &["limits: {max_wait: 0s}"]);
    }
    let gateway = Gateway::start(&setup.route("chat", "priority", &["e0"], &[])).await;
    for (n, (after, after_ms, wish)) in forms.iter().enumerate() {
        let (earliest, latest, until) = paused_by(&gateway, &format!("e{n}")).await;
        let (earliest, latest) = match wish {
            Wish::For(seconds) => (earliest + seconds, latest + seconds),
            Wish::Nothing => (earliest + 1.0, latest + 1.0),
            Wish::Until(moment) => (*moment, *moment),
        };
        // Two clocks are compared, to which the display adds its rounding.
        let kept = (earliest - 0.02..=latest + 0.02).contains(&until);
        assert!(kept, "retry-after {after:?}, ms {after_ms:?}: until {until}, expected {earliest} to {latest}");
        assert_eq!(calls(&providers[n]), 1);
    }
}

#[tokio::test]
async fn retry_after_is_kept_to_the_moment() {
    let fault = FaultKind::RateLimited { retry_after: Some("3".into()), retry_after_ms: None };
    let (a, b) = (faulty("a", fault), provider("b"));
    let gateway = Gateway::start(&pair(&a, &b, &[])).await;
    let began = Instant::now();
    assert_eq!(answered_by_b(&gateway).await, 2);
    let (paused, asked) = (Instant::now(), secs(3));
    heal(&a);
    let mut others = 0;
    let back = loop {
        let answer = gateway.chat(&chat_body("chat")).await;
        if answer.expect(200).need("x-breakwater-endpoint") == "a" {
            break Instant::now();
        }
        others += 1;
        assert!(paused.elapsed() < secs(10), "a was never asked again");
        tokio::time::sleep(ms(10)).await;
    };
    assert!(back - began >= asked, "asked again {:?} before its time", asked - (back - began));
    assert!(back - paused < asked + secs(2), "asked again {:?} after its time", back - paused - asked);
    assert!(others > 10 && gateway.breaker("a").await == "closed");
}

#[tokio::test]
async fn quota() {
    let (a, b) = (faulty("a", FaultKind::Quota), provider("b"));
    let setup = pair(&a, &b, &[]).route("only", "priority", &["a"], &[]);
    let gateway = Gateway::start(&setup).await;
    assert_eq!(answered_by_b(&gateway).await, 2);
    heal(&a);
    for _ in 0..30 {
        assert_eq!(answered_by_b(&gateway).await, 1);
    }
    let answer = gateway.chat(&chat_body("only")).await;
    answer.expect_error(429, "quota");
    let wait: u64 = answer.need("retry-after").parse().unwrap();
    assert!((800..=900).contains(&wait), "15 minutes: {wait}");
    assert_eq!(calls(&a), 1, "one call, then none for 15 minutes");
    let endpoint = gateway.endpoint("a").await;
    assert_eq!((&endpoint["breaker"]["state"], &endpoint["paused"]["reason"]), (&json!("closed"), &json!("quota")));
    gateway.admin("POST", "/admin/endpoints/a/reset", Some(&json!({"reason": "paid"}))).await.expect(200);
    gateway.chat(&chat_body("only")).await.expect(200);
}

#[tokio::test]
async fn a_key_that_is_revoked_while_it_is_in_use() {
    let (a, b) = (provider("a"), provider("b"));
    let gateway = Gateway::start(&pair(&a, &b, &[]).route("only", "priority", &["a"], &[])).await;
    for _ in 0..5 {
        assert_eq!(gateway.chat(&chat_body("chat")).await.expect(200).need("x-breakwater-endpoint"), "a");
    }
    a.change_profile(json!({"api_keys": ["sk-another"]}).as_object().unwrap().clone()).unwrap();
    for _ in 0..20 {
        answered_by_b(&gateway).await;
    }
    assert!(calls(&a) <= 5 + 4, "{} calls with a key that is refused", calls(&a) - 5);
    gateway.chat(&chat_body("only")).await.expect_error(502, "upstream_auth");
    let endpoint = gateway.endpoint("a").await;
    assert!(endpoint["auth_failed"].is_string(), "{endpoint}");
    assert_eq!(endpoint["breaker"]["state"], "closed", "a key says nothing about health");
    let alert = gateway.log().lines().any(|l| l.contains("ERROR") && l.contains("auth_failed"));
    assert!(alert, "an alert in the log");
    a.change_profile(json!({"api_keys": []}).as_object().unwrap().clone()).unwrap();
    eventually(secs(20), "the key is taken again", async || {
        gateway.chat(&chat_body("chat")).await.expect(200).need("x-breakwater-endpoint") == "a"
    })
    .await;
}

#[tokio::test]
async fn context_400() {
    let a = with_profile(Profile { context_tokens: Some(5), ..Profile::new("a", &[]) });
    let b = provider("b");
    let gateway = Gateway::start(&pair(&a, &b, &[])).await;
    let answer = gateway.chat(&chat_body("chat")).await;
    assert_eq!(answer.expect(400).json()["error"]["code"], "context_length_exceeded", "as the vendor said it");
    assert_eq!((calls(&a), calls(&b)), (1, 0), "one call");
    let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), 1).await;
    assert_eq!(rows[0].get("outcome"), "context_length");
    for _ in 0..20 {
        gateway.chat(&chat_body("chat")).await.expect(400);
    }
    let endpoint = gateway.endpoint("a").await;
    assert_eq!((&endpoint["breaker"]["state"], &endpoint["breaker"]["failure_rate"]), (&json!("closed"), &json!(0.0)));
}

#[tokio::test]
async fn a_content_filter_fifty_times() {
    let refused = json!({"error": {"message": "filtered", "type": "invalid_request_error", "param": "prompt",
        "code": "content_filter"}});
    let (as_400, as_finish) = (
        faulty("a", status(400, Some(refused.clone()))),
        faulty("b", FaultKind::Finish { reason: "content_filter".into() }),
    );
    let setup = Setup::new()
        .endpoint_at("a", &as_400.base_url(), &[])
        .endpoint_at("b", &as_finish.base_url(), &[])
        .route("chat", "priority", &["a", "b"], &[]);
    let gateway = Gateway::start(&setup).await;
    for _ in 0..50 {
        assert_eq!(gateway.chat(&chat_body("a")).await.expect(400).json(), refused);
        let answer = gateway.chat(&chat_body("b")).await;
        assert_eq!(answer.expect(200).json()["choices"][0]["finish_reason"], "content_filter");
    }
    assert_eq!((calls(&as_400), calls(&as_finish)), (50, 50), "each once, none tried elsewhere");
    for name in ["a", "b"] {
        assert_eq!(gateway.breaker(name).await, "closed");
    }
}

#[tokio::test]
async fn overloaded_ten_times() {
    let (a, b) = (faulty("a", FaultKind::Overloaded529), provider("b"));
    let gateway = Gateway::start(&pair(&a, &b, &[LONG])).await;
    for n in 1..=9 {
        assert_eq!(answered_by_b(&gateway).await, 2);
        eventually(secs(2), "the call is counted", async || gateway.endpoint("a").await["breaker"]["calls"] == n).await;
        assert_eq!(gateway.breaker("a").await, "closed", "after {n} that count half each");
    }
    assert_eq!(answered_by_b(&gateway).await, 2);
    gateway.wait_breaker("a", "open", secs(2)).await;
    assert_eq!(calls(&a), 10);
    set(&b, FaultKind::Overloaded529);
    gateway.chat(&chat_body("b")).await.expect_error(503, "upstream_failed");
}

#[tokio::test]
async fn endless_body() {
    let (a, b) = (faulty("a", FaultKind::EndlessBody), provider("b"));
    let gateway = Gateway::start(&pair(&a, &b, &[LONG])).await;
    gateway.chat(&chat_body("b")).await.expect(200);
    let before = gateway.resident_kib();
    let mut most = before;
    for _ in 0..4 {
        let body = chat_body("chat");
        let mut asking = Box::pin(gateway.chat(&body));
        let answer = loop {
            tokio::select! {
                answer = &mut asking => break answer,
                () = tokio::time::sleep(ms(5)) => most = most.max(gateway.resident_kib()),
            }
        };
        assert_eq!(answer.expect(200).need("x-breakwater-endpoint"), "b");
        let rows = gateway.rows_of(answer.need("x-breakwater-request-id"), 2).await;
        assert_eq!(rows[0].get("outcome"), "protocol");
    }
    assert!(most < before + 96 * 1024, "{before} KiB grew to {most}");
    eventually(secs(5), "the calls are closed", async || a.stats().requests.in_progress == 0).await;
    // Beyond what was read there is what the kernel's buffers take.
    let each = a.stats().bytes_out / calls(&a);
    assert!((15 << 20..64 << 20).contains(&each), "cut after {each} bytes");
}

#[tokio::test]
async fn a_probe_that_hangs_and_whose_caller_leaves() {
    let (a, b) = (faulty("a", status(500, None)), provider("b"));
    let breaker =
        "breaker: {open_for: 300ms, max_open_for: 300ms, jitter: 0, half_open_calls: 1, half_open_for: 3s, ramp: 0s}";
    let gateway = Gateway::start(&pair(&a, &b, &[breaker])).await;
    for _ in 0..5 {
        answered_by_b(&gateway).await;
    }
    gateway.wait_breaker("a", "open", secs(2)).await;
    set(&a, FaultKind::Hang);
    // One that hangs gives the permit back when its caller leaves: the next may probe.
    for n in 1..=3 {
        let before = calls(&a);
        let client = reqwest::Client::new();
        eventually(secs(10), "a probe hangs", async || {
            let body = chat_body("chat").to_string();
            let asked = client.post(gateway.url("/v1/chat/completions")).header("content-type", "application/json");
            let asked = asked.body(body).timeout(ms(300)).send();
            let _ = asked.await;
            calls(&a) > before
        })
        .await;
        let closed = async || a.stats().requests.in_progress == 0;
        eventually(secs(2), &format!("probe {n} is closed with its caller"), closed).await;
    }
    // Left to hang, it is a failed probe when half-open has lasted long enough: then it may be asked again, and heals.
    let body = chat_body("chat");
    let asking = gateway.chat(&body);
    let healing = async {
        eventually(secs(10), "half-open ended without a verdict", async || gateway.breaker("a").await == "open").await;
        heal(&a);
    };
    tokio::select! {
        _ = asking => {}
        () = healing => {}
    }
    heal(&a);
    eventually(secs(20), "a is closed again", async || {
        gateway.chat(&chat_body("chat")).await.expect(200);
        gateway.breaker("a").await == "closed"
    })
    .await;
}
