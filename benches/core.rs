//! What the pure core costs per call, under criterion: `cargo bench --bench core [-- FILTER]`.
//!
//! One group per question that a request asks on its path; the bars are in docs/benchmarks.md.

use breakwater::dialects::sse::Decoder;
use breakwater::domain::ledger::{Entry, GENESIS, Row};
use breakwater::domain::money::{NanoUsd, PicoUsdPerToken};
use breakwater::domain::outcome::Outcome;
use breakwater::domain::plan::{AttemptPlan, Step};
use breakwater::domain::price::Price;
use breakwater::domain::retry::RetryBudget;
use breakwater::domain::settings::{RetryBudgetSettings, RetrySettings};
use breakwater::domain::strategy::{CandidateFacts, Cursor, StrategyKind, rank};
use breakwater::domain::time::{Ts, Wall};
use breakwater::domain::usage::{Usage, UsageSource};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// Short runs: the figures are compared with bars a good way off, not with each other's third digit.
fn quick() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .without_plots()
}

fn usage() -> Usage {
    Usage { input: 150, cached_input: 64, cache_write: 0, output: 96, reasoning: 22 }
}

fn price(version: &str) -> Price {
    Price::flat(PicoUsdPerToken(2_500_000), PicoUsdPerToken(10_000_000), version)
}

fn entry() -> Entry {
    let text = |s: &str| -> Arc<str> { s.into() };
    Entry {
        at: Wall(1_795_461_720_123_456),
        request_id: text("req_01KAS0ZV5VX4M1T8Z4W3F6Q2RA"),
        attempt: 1,
        endpoint: text("deepseek"),
        provider: text("holysheep"),
        model: text("deepseek-v3.2"),
        route: text("chat"),
        key_id: text("key_01KAS0ZV5VX4M1"),
        tags: Arc::new([("team".into(), "search".into())]),
        outcome: text("success"),
        http_status: 200,
        stream: false,
        latency_us: 412_345,
        ttft_us: Some(40_123),
        usage: usage(),
        usage_source: UsageSource::Reported,
        cost: Some(NanoUsd(462_500)),
        price_version: text("config"),
        decision: text("cost_based/1"),
    }
}

fn pricing(c: &mut Criterion) {
    let (price, usage) = (price("bench"), usage());
    c.bench_function("price/cost", |b| b.iter(|| black_box(&price).cost(black_box(&usage))));
}

fn ledger(c: &mut Criterion) {
    let entry = entry();
    c.bench_function("ledger/chain", |b| {
        b.iter_batched(|| entry.clone(), |e| Row::chain(7, e, black_box(GENESIS)), BatchSize::SmallInput);
    });
}

/// Candidates that differ in everything a strategy looks at.
#[allow(clippy::cast_precision_loss, reason = "a few thousand at most")]
fn candidates(count: u32) -> Vec<CandidateFacts> {
    (0..count)
        .map(|i| {
            let spread = i.wrapping_mul(2_654_435_761) >> 20;
            CandidateFacts {
                weight: 1 + spread % 7,
                quality: spread as f32 / 4096.0,
                est_cost: Some(NanoUsd(i64::from(50_000 + spread))),
                ewma_ttft_us: Some(40_000.0 + spread as f32),
                in_flight: spread % 16,
                failure_rate: 0.01,
                samples: 1_000,
                blocked: spread % 32 == 0,
            }
        })
        .collect()
}

fn ranking(c: &mut Criterion) {
    for kind in [StrategyKind::RoundRobin, StrategyKind::Weighted, StrategyKind::CostBased, StrategyKind::Balanced] {
        for count in [4, 1_000] {
            let (facts, mut cursor, mut ranked) = (candidates(count), Cursor::default(), Vec::new());
            c.bench_function(&format!("rank/{}/{count}", kind.as_str()), |b| {
                b.iter(|| {
                    rank(kind, black_box(&facts), &mut cursor, 0.5, &mut ranked);
                    ranked.first().copied()
                });
            });
        }
    }
}

/// The steps of a request: the first try, and the whole walk over four endpoints that all fail.
fn attempts(c: &mut Criterion) {
    let now = Ts(7_200_000_000);
    let walk = |failures: u32| {
        let mut plan = AttemptPlan::new(4, RetrySettings::default(), now.plus(MINUTE));
        loop {
            let Step::Try(index) = plan.next(now, 0.5, |_| 0.6, |_, _| false) else { return plan };
            if plan.started() > failures {
                return plan;
            }
            plan.failed(index, Outcome::ServerError);
        }
    };
    assert_eq!((walk(0).attempts(), walk(4).attempts()), (1, 4), "the walks are what they are called");
    c.bench_function("attempts/first succeeds", |b| b.iter(|| walk(black_box(0))));
    c.bench_function("attempts/four fail", |b| b.iter(|| walk(black_box(4))));
    let mut budget = RetryBudget::new(RetryBudgetSettings::default(), now);
    c.bench_function("attempts/retry budget deposit", |b| b.iter(|| budget.deposit(black_box(now))));
}

/// Decoding a stream of 100 events that come one packet each, and in packets of 16 KiB.
fn sse(c: &mut Criterion) {
    const EVENTS: usize = 100;
    let event = r#"data: {"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk","created":1741570283,"model":"deepseek-v3.2","choices":[{"index":0,"delta":{"content":" region"},"logprobs":null,"finish_reason":null}],"usage":null}"#.to_owned()
        + "\n\n";
    let all = event.repeat(EVENTS).into_bytes();
    let decode = |packets: &mut dyn Iterator<Item = &[u8]>| {
        let (mut decoder, mut count) = (Decoder::default(), 0);
        for packet in packets {
            decoder.push(packet);
            while let Ok(Some(event)) = decoder.next_event() {
                count += black_box(event.raw.len()).min(1);
            }
        }
        assert_eq!(count, EVENTS, "every event is decoded once");
    };
    let mut group = c.benchmark_group("sse");
    group.throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("event per packet", |b| b.iter(|| decode(&mut all.chunks(event.len()))));
    group.bench_function("16 KiB packets", |b| b.iter(|| decode(&mut all.chunks(16 * 1024))));
    group.finish();
}

criterion_group! { name = core; config = quick(); targets = pricing, ledger, ranking, attempts, sse }
criterion_main!(core);
