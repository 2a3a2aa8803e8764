//! Everything is down for half a minute under 200 requests a second, then comes back: the real binary, real sockets, real time.

use crate::figure::{Row, Target, Unit, quantile};
use crate::support::{Gateway, Setup, chat_body, secs};
use breakwater::sim::{self, Fault, FaultKind, Handle, Profile};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const DOWN: Duration = Duration::from_secs(30);
const EVERY: Duration = Duration::from_millis(5);
/// Answers are looked at once breakers have had this long to open.
const OPENING: Duration = Duration::from_secs(2);
/// After the providers are healthy again: an open period may have just begun.
const HEALING: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
struct Answer {
    /// Since the start.
    sent: Duration,
    took: Duration,
    status: u16,
}

fn calls(providers: &[Handle]) -> u64 {
    providers.iter().map(|p| p.stats().paths.get("/v1/chat/completions").copied().unwrap_or(0)).sum()
}

async fn load(gateway: &Gateway, providers: &[Handle]) -> (Vec<Answer>, u64) {
    let answers: Arc<Mutex<Vec<Answer>>> = Arc::default();
    let client = reqwest::Client::new();
    let body = chat_body("chat").to_string();
    let began = Instant::now();
    let mut tick = tokio::time::interval(EVERY);
    let mut running = tokio::task::JoinSet::new();
    let mut while_down = None;
    while began.elapsed() < DOWN + HEALING {
        tick.tick().await;
        if while_down.is_none() && began.elapsed() >= DOWN {
            while_down = Some(calls(providers));
            providers.iter().for_each(|p| p.set_faults(vec![]).unwrap());
        }
        let request = client.post(gateway.url("/v1/chat/completions")).header("content-type", "application/json");
        let (request, noted) = (request.body(body.clone()), Arc::clone(&answers));
        running.spawn(async move {
            let sent = began.elapsed();
            let status = match request.send().await {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    answer.bytes().await.map_or(0, |_| status)
                }
                Err(_) => 0,
            };
            noted.lock().unwrap().push(Answer { sent, took: began.elapsed() - sent, status });
        });
        if while_down.is_some() && is_back(&answers.lock().unwrap()) {
            break;
        }
    }
    running.join_all().await;
    let answers = answers.lock().unwrap().clone();
    (answers, while_down.unwrap_or_default())
}

/// Whether all of the last second's requests were answered.
fn is_back(answers: &[Answer]) -> bool {
    let last = answers.iter().rev().take(400);
    answers.iter().filter(|a| a.status == 200).count() > 400 && last.clone().all(|a| a.status == 200)
}

/// From the first good answer to the last bad one.
fn recovery(answers: &[Answer]) -> Duration {
    let first = answers.iter().filter(|a| a.status == 200).map(|a| a.sent + a.took).min();
    let last_bad = answers.iter().filter(|a| a.status != 200).map(|a| a.sent).max();
    match (first, last_bad) {
        (Some(first), Some(bad)) => bad.saturating_sub(first),
        _ => Duration::MAX,
    }
}

pub fn rows() -> Vec<Row> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let status = FaultKind::Status { code: 500, headers: [].into(), body: None };
        let provider = |name: &str| {
            let profile = Profile { keep_requests: 0, output_tokens: 4, ..Profile::new(name, &[]) };
            let handle = sim::start(profile).unwrap();
            handle.set_faults(vec![Fault::from(status.clone())]).unwrap();
            handle
        };
        let names = ["a", "b", "c"];
        let providers = names.map(provider);
        let mut setup = Setup::new();
        for (name, provider) in names.iter().zip(&providers) {
            setup = setup.endpoint_at(name, &provider.base_url(), &[]);
        }
        let mut gateway = Gateway::start(&setup.route("chat", "weighted", &names, &[])).await;
        let (answers, upstream) = load(&gateway, &providers).await;
        gateway.terminate();
        gateway.wait_exit(secs(40)).await;
        told(&answers, upstream)
    })
}

fn told(answers: &[Answer], upstream: u64) -> Vec<Row> {
    let down: Vec<_> = answers.iter().filter(|a| a.sent < DOWN).collect();
    let ms = |a: &Answer| a.took.as_secs_f64() * 1000.0;
    let mut refused: Vec<f64> = down.iter().filter(|a| a.sent > OPENING && a.status == 503).map(|a| ms(a)).collect();
    let sample = format!("{} requests while down, {} in all", down.len(), answers.len());
    let row = |figure, unit, value, target| Row {
        scenario: "all 3 providers down for 30 s at 200 requests a second (real binary)",
        figure,
        unit,
        value,
        bare: None,
        target,
        sample: sample.clone(),
    };
    let per_request = upstream as f64 / down.len() as f64;
    // A bare client makes its four calls for each.
    let calls =
        Row { bare: Some(4.0), ..row("upstream calls per request", Unit::Times, per_request, Target::AtMost(0.2)) };
    vec![
        calls,
        row("p99 of answers once open", Unit::Milliseconds, quantile(&mut refused, 0.99), Target::AtMost(10.0)),
        row(
            "from the first healthy probe to the last refusal",
            Unit::Milliseconds,
            recovery(answers).as_secs_f64() * 1000.0,
            Target::AtMost(2_000.0),
        ),
    ]
}
