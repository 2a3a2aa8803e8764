//! `kill -9` in the middle of load, again and again: what was answered under `strict` is in the ledger, an endpoint that was known to be
//! bad gets nothing after the restart, and the chain verifies each time. The real binary and its real store.

use crate::figure::{Row, Target, Unit};
use crate::support::{Gateway, Setup, chat_body, eventually, secs};
use breakwater::sim::{self, Fault, FaultKind, Handle, Profile};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

const LANES: usize = 16;

type Answered = Arc<Mutex<Vec<String>>>;

fn provider(name: &str) -> Handle {
    sim::start(Profile { keep_requests: 0, output_tokens: 4, ..Profile::new(name, &[]) }).unwrap()
}

fn calls(provider: &Handle) -> u64 {
    provider.stats().paths.get("/v1/chat/completions").copied().unwrap_or(0)
}

/// Keeps asking until the gateway dies, and notes each answer that came whole.
async fn ask_until_it_dies(url: String, lane: String, answered: Answered) {
    let client = reqwest::Client::new();
    for n in 0.. {
        let id = format!("{lane}-{n}");
        let request = client.post(&url).body(chat_body("chat").to_string()).header("content-type", "application/json");
        let Ok(answer) = request.header("x-breakwater-request-id", &id).send().await else { return };
        let good = answer.status() == 200;
        if answer.bytes().await.is_err() {
            return;
        }
        if good {
            answered.lock().unwrap().push(id);
        }
    }
}

struct Found {
    answered: usize,
    lost: usize,
    to_bad: u64,
    broken_chains: u32,
}

async fn kill(times: u32) -> Found {
    let (bad, good) = (provider("bad"), provider("good"));
    bad.set_faults(vec![Fault::from(FaultKind::Status { code: 500, headers: [].into(), body: None })]).unwrap();
    // Open for longer than the whole run: no probe is due in it.
    let setup = Setup::new()
        .endpoint_at("bad", &bad.base_url(), &["breaker: {open_for: 1h, max_open_for: 1h, jitter: 0}"])
        .endpoint_at("good", &good.base_url(), &["limits: {concurrency: 1000}"])
        .route("chat", "priority", &["bad", "good"], &[]);
    let mut gateway = Gateway::start(&setup.store("durability: strict")).await;
    for _ in 0..10 {
        gateway.chat(&chat_body("chat")).await.expect(200);
    }
    gateway.wait_breaker("bad", "open", secs(5)).await;
    let known = calls(&bad);
    let answered: Answered = Arc::default();
    let mut broken_chains = 0;
    for round in 0..times {
        let before = answered.lock().unwrap().len();
        let lane = |lane| {
            let url = gateway.url("/v1/chat/completions");
            tokio::spawn(ask_until_it_dies(url, format!("r{round}-{lane}"), Arc::clone(&answered)))
        };
        let lanes: Vec<_> = (0..LANES).map(lane).collect();
        // At another point of the store's rhythm each time.
        let enough = before + 40 + (round as usize * 7) % 60;
        eventually(secs(30), "answers arrive", async || answered.lock().unwrap().len() >= enough).await;
        gateway.kill();
        for lane in lanes {
            lane.await.unwrap();
        }
        broken_chains += u32::from(gateway.run(&["ledger", "verify"]).code != 0);
        gateway.start_again().await;
    }
    let rows = gateway.rows().await;
    let there: BTreeSet<&str> = rows.iter().map(|r| r.get("request_id")).collect();
    let answered = answered.lock().unwrap().clone();
    let lost = answered.iter().filter(|id| !there.contains(id.as_str())).count();
    Found { answered: answered.len(), lost, to_bad: calls(&bad) - known, broken_chains }
}

pub fn rows(times: u32) -> Vec<Row> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found = runtime.block_on(kill(times));
    let row = |figure, value| Row {
        scenario: "kill -9 under load, `strict` (real binary)",
        figure,
        unit: Unit::Count,
        value,
        bare: None,
        target: Target::AtMost(0.0),
        sample: format!("{times} kills, {} answers", found.answered),
    };
    vec![
        row("answered requests without a ledger row", found.lost as f64),
        row("requests to an endpoint known to be bad, after a restart", found.to_bad as f64),
        row("restarts after which the chain does not verify", f64::from(found.broken_chains)),
    ]
}
