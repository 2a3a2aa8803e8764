//! `/metrics`: the figures are there, in Prometheus' format, and no caller can make them many.

use crate::support::{Gateway, Reply, Setup, Upstream, chat_body, eventually, secs};
use std::collections::BTreeSet;

/// The samples as (name with labels, value); fails on a line that is neither sample nor comment.
fn samples(text: &str) -> Vec<(String, f64)> {
    text.lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty())
        .map(|l| {
            let (name, value) = l.rsplit_once(' ').unwrap_or_else(|| panic!("`{l}`"));
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("`{l}`")))
        })
        .collect()
}

async fn scrape(gateway: &Gateway) -> Vec<(String, f64)> {
    let answer = gateway.get("/metrics").await;
    assert!(answer.expect(200).need("content-type").contains("text"), "{:?}", answer.headers);
    samples(&answer.text())
}

/// The sum over all samples whose name begins so and that have all the labels.
fn sum(samples: &[(String, f64)], prefix: &str, labels: &[&str]) -> f64 {
    samples.iter().filter(|(n, _)| n.starts_with(prefix) && labels.iter().all(|l| n.contains(l))).map(|(_, v)| v).sum()
}

#[tokio::test]
async fn the_figures_follow_the_traffic() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let gateway = Gateway::start(&Setup::pair(&a, &b, &[])).await;
    for _ in 0..7 {
        gateway.chat(&chat_body("chat")).await.expect(200);
    }
    a.once(Reply::status(500));
    gateway.chat(&chat_body("chat")).await.expect(200);
    eventually(secs(5), "the attempts are counted by endpoint and outcome", async || {
        let all = scrape(&gateway).await;
        let count = |endpoint: &str, outcome: &str| {
            let labels = [format!("endpoint=\"{endpoint}\""), format!("outcome=\"{outcome}\"")];
            sum(&all, "breakwater_attempts_total", &[&labels[0], &labels[1]])
        };
        [count("a", "success"), count("a", "server_error"), count("b", "success")] == [7.0, 1.0, 1.0]
    })
    .await;
    let text = gateway.get("/metrics").await.text();
    for family in ["breaker", "latency", "cost", "requests"] {
        assert!(text.lines().any(|l| l.starts_with("# TYPE breakwater_") && l.contains(family)), "{family} in\n{text}");
    }
    assert!(
        text.lines().filter(|l| l.starts_with("# TYPE ")).count()
            == text.lines().filter(|l| l.starts_with("# HELP ")).count()
    );
}

#[tokio::test]
async fn callers_cannot_make_new_series() {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a)).await;
    gateway.chat(&chat_body("chat")).await.expect(200);
    gateway.chat(&chat_body("nobody-0")).await.expect(404);
    gateway.get("/v1/nothing/0").await.expect(404);
    gateway
        .chat_with(&[("x-breakwater-tag", "t=0"), ("x-breakwater-request-id", "id-0")], &chat_body("chat"))
        .await
        .expect(200);
    let names = |all: Vec<(String, f64)>| all.into_iter().map(|(n, _)| n).collect::<BTreeSet<_>>();
    let before = names(scrape(&gateway).await);
    for n in 1..60 {
        gateway.chat(&chat_body(&format!("nobody-{n}"))).await.expect(404);
        gateway.get(&format!("/v1/nothing/{n}")).await.expect(404);
        let (tag, id) = (format!("t={n}"), format!("id-{n}"));
        gateway
            .chat_with(&[("x-breakwater-tag", &tag), ("x-breakwater-request-id", &id)], &chat_body("chat"))
            .await
            .expect(200);
    }
    let after = names(scrape(&gateway).await);
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.len() <= 5, "{new:#?}");
}

#[tokio::test]
async fn the_report_and_the_endpoints_view_agree_with_the_traffic() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let gateway = Gateway::start(&Setup::pair(&a, &b, &[])).await;
    for _ in 0..9 {
        gateway.chat(&chat_body("chat")).await.expect(200);
    }
    a.once(Reply::status(500));
    gateway.chat(&chat_body("chat")).await.expect(200);
    eventually(secs(5), "the totals are there", async || {
        let totals = gateway.endpoint("a").await["totals"].clone();
        totals["requests"] == 10 && totals["successes"] == 9 && totals["failures"] == 1
    })
    .await;
    let endpoint = gateway.endpoint("a").await;
    assert_eq!(endpoint["latency_ms"]["count"], 9, "{endpoint}");
    for quantile in ["p50", "p90", "p99", "p999", "max"] {
        assert!(endpoint["latency_ms"][quantile].as_f64().is_some_and(|v| v > 0.0), "{quantile} in {endpoint}");
    }
    assert!((endpoint["totals"]["cost_usd"].as_f64().unwrap() - 9.0 * 0.00002).abs() < 1e-12, "{endpoint}");
    assert_eq!((&endpoint["provider"], &endpoint["model"]), (&"p-a".into(), &"model-a".into()));
    let all = gateway.admin_get("/admin/endpoints").await;
    let names: Vec<_> = all["endpoints"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b"]);
}
