//! `limits.adaptive`: calls at once follow the endpoint's latency.

use crate::support::{Gateway, Reply, Setup, Upstream, chat_body, eventually, ms, secs};
use serde_json::json;
use std::cell::{Cell, RefCell};

const CALLERS: usize = 60;

async fn concurrency(gateway: &Gateway) -> (u64, u64) {
    let endpoint = gateway.endpoint("a").await;
    let limit = &endpoint["limits"]["concurrency"];
    (limit["limit"].as_u64().unwrap(), limit["configured"].as_u64().unwrap())
}

#[tokio::test]
async fn it_sheds_when_latency_grows_with_load_and_takes_more_when_it_is_over() {
    let (a, b) = (Upstream::start_with(Reply::Slow(ms(60))), Upstream::start_with(Reply::Slow(ms(150))));
    let setup = Setup::pair(&a, &b, &["limits: {concurrency: 40, adaptive: true, max_wait: 0s}"]);
    let gateway = Gateway::start(&setup).await;
    assert_eq!(concurrency(&gateway).await, (20, 40), "where an unknown endpoint begins");
    let (done, shed) = (Cell::new(false), RefCell::new(None));
    let caller = async || {
        let body = chat_body("chat");
        while !done.get() {
            let answer = gateway.chat(&body).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            if answer.need("x-breakwater-endpoint") == "b" {
                *shed.borrow_mut() = Some(answer.need("x-breakwater-request-id").to_owned());
            }
        }
    };
    let story = async {
        eventually(secs(30), "a quick endpoint gets more", async || concurrency(&gateway).await.0 >= 35).await;
        a.set(Reply::Crowded { room: 4, time: ms(60) });
        eventually(secs(30), "a crowded one gets less", async || concurrency(&gateway).await.0 <= 15).await;
        eventually(secs(5), "those who are out come back", async || a.running() <= 15).await;
        *shed.borrow_mut() = None;
        let b_before = b.calls();
        eventually(secs(10), "others answer meanwhile", async || b.calls() > b_before + 100).await;
        let id = shed.borrow_mut().take().unwrap();
        let record = gateway.admin_get(&format!("/admin/decisions/{id}")).await;
        let candidates = record["decision"]["candidates"].as_array().unwrap();
        let refused = candidates.iter().find(|c| c["endpoint"] == "a").map(|c| &c["refusal"]);
        assert_eq!(refused, Some(&json!("concurrency")), "{record}");
        assert!(gateway.breaker("a").await == "closed", "slower is not broken");
        let metrics = gateway.get("/metrics").await.expect(200).text();
        let line = metrics.lines().find(|l| l.starts_with("breakwater_endpoint_concurrency_limit{endpoint=\"a\"}"));
        let limit: f64 = line.and_then(|l| l.rsplit(' ').next()).unwrap().parse().unwrap();
        assert!((4.0..=20.0).contains(&limit), "{limit}");
        a.set(Reply::Slow(ms(60)));
        eventually(secs(30), "it gets more again", async || concurrency(&gateway).await.0 >= 35).await;
        done.set(true);
    };
    futures_util::future::join(futures_util::future::join_all((0..CALLERS).map(|_| caller())), story).await;
}

#[tokio::test]
async fn what_was_found_survives_a_kill_and_a_patch_goes_on_from_it() {
    let a = Upstream::start_with(Reply::Slow(ms(60)));
    let setup = Setup::new().endpoint("a", &a, &["limits: {concurrency: 60, adaptive: true, max_wait: 20s}"]);
    let mut gateway = Gateway::start(&setup).await;
    let body = chat_body("a");
    let load = async || {
        for answer in futures_util::future::join_all((0..120).map(|_| gateway.chat(&body))).await {
            answer.expect(200);
        }
    };
    eventually(secs(60), "it grows", async || {
        load().await;
        concurrency(&gateway).await.0 >= 26
    })
    .await;
    tokio::time::sleep(ms(1500)).await;
    let (found, _) = concurrency(&gateway).await;
    gateway.restart().await;
    assert_eq!(concurrency(&gateway).await, (found, 60));
    let patch = async |limits: serde_json::Value| {
        gateway.admin("PATCH", "/admin/endpoints/a", Some(&json!({"limits": limits}))).await.expect(200);
    };
    patch(json!({"concurrency": 10})).await;
    assert_eq!(concurrency(&gateway).await, (10, 10));
    patch(json!({"concurrency": 30})).await;
    eventually(secs(5), "it stays adaptive", async || concurrency(&gateway).await == (10, 30)).await;
    patch(json!({"adaptive": false})).await;
    eventually(secs(5), "as configured", async || concurrency(&gateway).await == (30, 30)).await;
}
