//! Endpoints that come, change and go while the gateway runs.

use crate::support::{Gateway, Reply, Setup, Upstream, chat_body, ms, stream_body};
use serde_json::{Value, json};

fn new_endpoint(name: &str, model: &str) -> Value {
    json!({"name": name, "provider": "p-spare", "model": model, "price": {"input": 0.5, "output": 0.5}})
}

/// `a` serves `chat`; `spare` is a second provider that an endpoint can be registered at.
async fn start(a: &Upstream, spare: &Upstream) -> Gateway {
    let setup = Setup::new().endpoint("a", a, &["weight: 1"]).endpoint("spare", spare, &[]).route(
        "chat",
        "cost_based",
        &["a"],
        &[],
    );
    Gateway::start(&setup).await
}

async fn answered_by(gateway: &Gateway, model: &str) -> String {
    gateway.chat(&chat_body(model)).await.expect(200).need("x-breakwater-endpoint").to_owned()
}

#[tokio::test]
async fn a_registered_endpoint_takes_calls_and_survives_a_restart() {
    let (a, spare) = (Upstream::start(), Upstream::start());
    let mut gateway = start(&a, &spare).await;
    let made = gateway.admin("POST", "/admin/endpoints", Some(&new_endpoint("fresh", "model-new"))).await;
    assert!([200, 201].contains(&made.status), "{}", made.text());
    assert_eq!(answered_by(&gateway, "fresh").await, "fresh");
    assert_eq!(spare.last().json()["model"], "model-new");
    assert_eq!(answered_by(&gateway, "model-new").await, "fresh", "its model can be asked for as well");
    let models = gateway.get("/v1/models").await.expect(200).text();
    assert!(models.contains("fresh") && models.contains("model-new"), "{models}");
    gateway.admin("POST", "/admin/endpoints", Some(&new_endpoint("fresh", "again"))).await.expect(409);

    gateway.restart().await;
    assert_eq!(answered_by(&gateway, "fresh").await, "fresh");
    assert_eq!(gateway.endpoint("fresh").await["model"], "model-new");
}

#[tokio::test]
async fn a_bad_registration_changes_nothing() {
    let (a, spare) = (Upstream::start(), Upstream::start());
    let gateway = start(&a, &spare).await;
    let mut no_provider = new_endpoint("x", "m");
    no_provider["provider"] = "nobody".into();
    let mut zero = new_endpoint("x", "m");
    zero["limits"] = json!({"rpm": 0});
    let mut unknown = new_endpoint("x", "m");
    unknown["colour"] = "red".into();
    for bad in [
        json!({}),
        json!([]),
        json!({"name": "x"}),
        no_provider,
        zero,
        unknown,
        new_endpoint("", "m"),
        new_endpoint("a b", "m"),
    ] {
        let answer = gateway.admin("POST", "/admin/endpoints", Some(&bad)).await;
        assert_eq!(answer.status, 400, "{bad}: {}", answer.text());
    }
    assert_eq!(gateway.admin_get("/admin/endpoints").await["endpoints"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_patch_changes_limits_and_price_and_survives_a_restart() {
    let (a, spare) = (Upstream::start(), Upstream::start());
    let mut gateway = start(&a, &spare).await;
    let patch = json!({"limits": {"rpm": 6}, "price": {"input": 3, "output": 4}, "weight": 5, "quality": 0.4});
    gateway.admin("PATCH", "/admin/endpoints/a", Some(&patch)).await.expect(200);
    for restarted in [false, true] {
        if restarted {
            gateway.restart().await;
        }
        assert_eq!(gateway.endpoint("a").await["limits"]["rpm"]["limit"], 6, "restarted: {restarted}");
    }
    let answer = gateway.chat(&chat_body("chat")).await;
    let cost: f64 = answer.expect(200).need("x-breakwater-cost-usd").parse().unwrap();
    assert!((cost - (10.0 * 3.0 + 5.0 * 4.0) / 1e6).abs() < 1e-12, "{cost}");
    for bad in
        [json!({"limits": {"rpm": 0}}), json!({"weight": -1}), json!({"quality": 7}), json!({"colour": 1}), json!([])]
    {
        gateway.admin("PATCH", "/admin/endpoints/a", Some(&bad)).await.expect(400);
    }
    gateway.admin("PATCH", "/admin/endpoints/nobody", Some(&patch)).await.expect(404);
    assert_eq!(gateway.endpoint("a").await["limits"]["rpm"]["limit"], 6);
}

#[tokio::test]
async fn a_removed_endpoint_gets_nothing_more_and_its_streams_finish() {
    let (a, spare) = (Upstream::start(), Upstream::start());
    let mut gateway = start(&a, &spare).await;
    let made = gateway.admin("POST", "/admin/endpoints", Some(&new_endpoint("fresh", "m"))).await;
    assert!([200, 201].contains(&made.status), "{}", made.text());
    spare.set(Reply::Trickle { words: 20, gap: ms(50) });
    let mut running = gateway.open(&stream_body("fresh")).await;
    let mut text = String::from_utf8_lossy(&running.chunk().await.unwrap().unwrap()).into_owned();
    let removed = gateway.admin("DELETE", "/admin/endpoints/fresh", None).await;
    assert!([200, 204].contains(&removed.status), "{}", removed.text());
    assert_eq!(answered_by(&gateway, "chat").await, "a");
    gateway.chat(&chat_body("fresh")).await.expect_error(404, "model_not_found");
    while let Some(piece) = running.chunk().await.unwrap() {
        text += &String::from_utf8_lossy(&piece);
    }
    let sse = crate::support::Sse::read(&text);
    assert_eq!((sse.dones(), sse.content().matches("word").count()), (1, 20));
    gateway.admin("DELETE", "/admin/endpoints/fresh", None).await.expect(404);
    gateway.restart().await;
    gateway.chat(&chat_body("fresh")).await.expect_error(404, "model_not_found");
}

#[tokio::test]
async fn a_configured_endpoint_that_was_removed_stays_away_after_a_restart() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let mut gateway = Gateway::start(&Setup::pair(&a, &b, &[])).await;
    let removed = gateway.admin("DELETE", "/admin/endpoints/a", None).await;
    assert!([200, 204].contains(&removed.status), "{}", removed.text());
    for restarted in [false, true] {
        if restarted {
            gateway.restart().await;
        }
        assert_eq!(answered_by(&gateway, "chat").await, "b", "restarted: {restarted}");
    }
    assert_eq!(a.calls(), 0);
}

#[tokio::test]
async fn changes_beside_traffic_lose_no_request() {
    let (a, spare) = (Upstream::start(), Upstream::start());
    let gateway = start(&a, &spare).await;
    let done = std::cell::Cell::new(false);
    let traffic = async {
        let mut n = 0;
        while !done.get() {
            gateway.chat(&chat_body("chat")).await.expect(200);
            n += 1;
        }
        n
    };
    let changes = async {
        for n in 0..20 {
            let name = format!("fresh-{n}");
            let made = gateway.admin("POST", "/admin/endpoints", Some(&new_endpoint(&name, "m"))).await;
            assert!([200, 201].contains(&made.status), "{}", made.text());
            assert_eq!(answered_by(&gateway, &name).await, name);
            gateway.admin("PATCH", &format!("/admin/endpoints/{name}"), Some(&json!({"weight": 2}))).await.expect(200);
            let removed = gateway.admin("DELETE", &format!("/admin/endpoints/{name}"), None).await;
            assert!([200, 204].contains(&removed.status), "{}", removed.text());
        }
        done.set(true);
    };
    let (n, ()) = futures_util::future::join(traffic, changes).await;
    assert!(n > 20, "{n}");
}
