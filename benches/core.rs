//! What the core and the store cost per call, under criterion: `cargo bench --bench core [-- FILTER]`.
//!
//! One group per question that a request asks on its path, and the store in small; the bars are in docs/benchmarks.md.

#[path = "support/entries.rs"]
mod entries;

use breakwater::actors::coordinator::Coordinator;
use breakwater::actors::messages::PlanRequest;
use breakwater::actors::permit::{Permit, Report};
use breakwater::actors::topology::Topology;
use breakwater::clock;
use breakwater::config::{self, Config};
use breakwater::dialects::sse::Decoder;
use breakwater::domain::breaker::Breaker;
use breakwater::domain::gate::{Ask, Gate};
use breakwater::domain::health::{EndpointHealth, Figures, Settle};
use breakwater::domain::intelligent::RequestHints;
use breakwater::domain::latency::{LatencyRecorder, PeakEwma};
use breakwater::domain::ledger::{GENESIS, Row};
use breakwater::domain::money::{NanoUsd, PicoUsdPerToken};
use breakwater::domain::outcome::{Outcome, Reserved, Verdict};
use breakwater::domain::plan::{AttemptPlan, Step};
use breakwater::domain::price::Price;
use breakwater::domain::retry::RetryBudget;
use breakwater::domain::settings::{BreakerSettings, LimitSettings, RetryBudgetSettings, RetrySettings};
use breakwater::domain::strategy::{CandidateFacts, Cursor, StrategyKind, rank};
use breakwater::domain::sums::{GroupBy, TimeRange};
use breakwater::domain::time::Ts;
use breakwater::domain::usage::Usage;
use breakwater::engine::registry::make_cell;
use breakwater::store::export::{RowFormat, RowWriter};
use breakwater::store::{LedgerItem, LedgerReader, OpenOptions, Store};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use parking_lot::Mutex;
use std::fmt::Debug;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Well after the clock's origin.
const NOW: Ts = Ts(7_200_000_000);
const MINUTE: Duration = Duration::from_secs(60);

/// Short runs: the figures are compared with bars a good way off, not with each other's third digit.
fn quick() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .without_plots()
}

/// A bench whose set-up fails has nothing to say.
fn must<T>(result: Result<T, impl Debug>) -> T {
    result.unwrap_or_else(|e| panic!("the bench cannot go on: {e:?}"))
}

fn usage() -> Usage {
    Usage { input: 150, cached_input: 64, cache_write: 0, output: 96, reasoning: 22 }
}

fn price(version: &str) -> Price {
    Price::flat(PicoUsdPerToken(2_500_000), PicoUsdPerToken(10_000_000), version)
}

fn pricing(c: &mut Criterion) {
    let (price, usage) = (price("bench"), usage());
    c.bench_function("price/cost", |b| b.iter(|| black_box(&price).cost(black_box(&usage))));
}

fn ledger(c: &mut Criterion) {
    let entry = entries::nth(7, 1_000);
    c.bench_function("ledger/chain", |b| {
        b.iter_batched(|| entry.clone(), |e| Row::chain(7, e, black_box(GENESIS)), BatchSize::SmallInput);
    });
    let row = Row::chain(7, entry, GENESIS);
    for (name, format) in [("csv", RowFormat::Csv), ("jsonl", RowFormat::Jsonl)] {
        let (mut writer, mut out) = (RowWriter::new(format), Vec::new());
        c.bench_function(&format!("ledger/encode {name}"), |b| {
            b.iter(|| {
                out.clear();
                writer.row(black_box(&row), &mut out);
                out.len()
            });
        });
    }
}

/// Time goes on by 20 µs a call: 50,000 requests a second, so that buckets refill and windows roll.
fn ticking() -> impl FnMut() -> Ts {
    after(NOW)
}

fn after(mut now: Ts) -> impl FnMut() -> Ts {
    move || {
        now = now.plus(Duration::from_micros(20));
        now
    }
}

fn admission(c: &mut Criterion) {
    let limits = LimitSettings {
        rpm: Some(60_000_000),
        tpm: Some(60_000_000_000),
        concurrency: 1_000,
        ..LimitSettings::default()
    };
    let (mut gate, mut tick) = (Gate::new(&limits, NOW), ticking());
    let ask = Ask { may_probe: true, roll: 0.5 };
    c.bench_function("gate/admit and release", |b| {
        b.iter(|| {
            let ticket = must(gate.admit(tick(), black_box(500), ask));
            gate.release(tick(), ticket, Reserved::Settle, Some(332));
        });
    });
    let cell = Mutex::new(Gate::new(&limits, NOW));
    let mut tick = ticking();
    c.bench_function("gate/admit and release, under its lock", |b| {
        b.iter(|| {
            let ticket = must(cell.lock().admit(tick(), black_box(500), ask));
            cell.lock().release(tick(), ticket, Reserved::Settle, Some(332));
        });
    });
}

/// The cells and routes of a configuration with `count` endpoints behind the route `chat`, each with some history.
fn topology(config: &Config) -> Topology {
    let cells: Vec<_> = (0..).zip(&config.endpoints).map(|(id, e)| make_cell(id, Arc::clone(e), None)).collect();
    for cell in &cells {
        let figures =
            Figures { ewma_ttft_us: Some(40_000.0 + f64::from(cell.id)), samples: 1_000, ..Figures::default() };
        cell.hot.lock().figures = figures;
    }
    Topology::new(cells, &config.routes)
}

fn configuration(count: u32) -> Arc<Config> {
    let names: Vec<String> = (0..count).map(|i| format!("e{i}")).collect();
    let endpoints: String = (names.iter().zip(1_u32..))
        .map(|(name, i)| {
            format!(
                "  {name}:\n    provider: p\n    model: m{i}\n    price: {{input: {i}.5, output: {i}}}\n    \
                 limits: {{rpm: 60000000, tpm: 60000000000, concurrency: 1000}}\n"
            )
        })
        .collect();
    let text = format!(
        "providers:\n  p: {{dialect: openai, base_url: \"http://127.0.0.1:9/v1\", api_key: \"${{KEY}}\", \
         allow_private: true}}\nendpoints:\n{endpoints}routes:\n  chat: {{strategy: cost_based, endpoints: [{}]}}\n",
        names.join(", ")
    );
    Arc::new(must(config::parse("bench", &text, &|_| Some("sk-upstream".into()), Path::new("."))))
}

/// What a request asks of its Coordinator and its endpoint: the whole plan, then a permit taken and finished.
fn planning(c: &mut Criterion) {
    for count in [4, 1_000] {
        let config = configuration(count);
        let topology = topology(&config);
        let (mut coordinator, mut tick) = (Coordinator::default(), after(clock::now()));
        let route = must(topology.route("chat").ok_or("no route"));
        c.bench_function(&format!("plan/{count}"), |b| {
            b.iter(|| {
                let request = PlanRequest {
                    route: Arc::clone(route),
                    now: tick(),
                    prompt_tokens: black_box(250),
                    completion_tokens: 256,
                    strategy: None,
                    hints: RequestHints::default(),
                    no_fallback: false,
                    complexity: None,
                    hard_budget: None,
                    wish: None,
                    config: Arc::clone(&config),
                    look_only: false,
                };
                coordinator.plan(request, 0.5)
            });
        });
    }
    let topology = topology(&configuration(1));
    let cell = must(topology.cell("e0").ok_or("no endpoint"));
    let (mut tick, mut waiting) = (after(clock::now()), 0);
    let report = Report {
        outcome: Outcome::Success,
        ttft_us: Some(40_123),
        usage: usage(),
        cost: Some(NanoUsd(462_500)),
        retry_after: None,
    };
    c.bench_function("permit/take and finish", |b| {
        b.iter(|| {
            let permit = must(Permit::take(cell, tick(), 500, Ask { may_probe: true, roll: 0.5 }));
            permit.finish(tick(), black_box(&report));
            waiting += 1;
            // In place of the actor, which looks every few milliseconds.
            if waiting % 256 == 0 {
                drop(cell.take_inbox());
            }
        });
    });
}

/// What an endpoint's actor does with one result: in parts, and whole.
fn settling(c: &mut Criterion) {
    let settings = Arc::new(BreakerSettings::default());
    let (mut breaker, mut tick) = (Breaker::new(Arc::clone(&settings), NOW), ticking());
    let epoch = breaker.epoch();
    c.bench_function("settle/breaker on_result", |b| {
        b.iter(|| breaker.on_result(tick(), epoch, false, black_box(Verdict::Success), false, 0.5));
    });
    let (mut recorder, mut tick, mut us) = (LatencyRecorder::new(NOW), ticking(), 0_u64);
    c.bench_function("settle/latency record", |b| {
        b.iter(|| {
            us = (us + 7_919) % 2_000_000;
            recorder.record(tick(), us);
        });
    });
    let (mut ewma, mut tick) = (PeakEwma::default(), ticking());
    c.bench_function("settle/peak ewma observe", |b| b.iter(|| ewma.observe(tick(), black_box(41_000))));
    let (mut health, mut tick) = (EndpointHealth::new(settings, NOW), ticking());
    let epoch = health.breaker().epoch();
    c.bench_function("settle/whole", |b| {
        b.iter(|| {
            let at = tick();
            let settle = Settle {
                at,
                epoch,
                probe: false,
                outcome: Outcome::Success,
                latency_us: 412_345,
                ttft_us: Some(40_123),
                cost: NanoUsd(462_500),
                usage: usage(),
                out: 1,
            };
            health.apply(at, black_box(&settle), 0.5)
        });
    });
}

/// The store in small: one commit of 512 rows, then sums and export over what was written. `--bench ledger` is the same at scale.
fn store(c: &mut Criterion) {
    const BATCH: u64 = 512;
    const STEP_US: u64 = 100_000;
    const LEAST: u64 = 100 * BATCH;
    let batch = |from: u64| -> Vec<LedgerItem> {
        (from..from + BATCH).map(|n| LedgerItem::Row(entries::nth(n, STEP_US))).collect()
    };
    let dir = must(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")));
    let (store, _) = must(Store::open(&OpenOptions::at(&dir.path().join("state"), clock::wall())));
    let mut writer = must(store.ledger_writer());
    let mut next = 0;
    let mut append = |items: &[LedgerItem]| must(writer.append(items, clock::wall()));
    while next < LEAST {
        append(&batch(next));
        next += BATCH;
    }
    let mut group = c.benchmark_group("store");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("append 512", |b| {
        b.iter_batched(
            || {
                next += BATCH;
                batch(next - BATCH)
            },
            |items| append(&items),
            BatchSize::PerIteration,
        );
    });
    let reader = store.reader();
    group.throughput(Throughput::Elements(reader.durable_seq()));
    group.bench_function("sums by endpoint", |b| {
        b.iter(|| reader.sums(TimeRange::ALL, &GroupBy::Endpoint).map(|rows| rows.len()));
    });
    group.bench_function("export csv", |b| b.iter(|| export(&reader)));
    group.finish();
}

fn export(reader: &LedgerReader) -> usize {
    let (mut writer, mut out, mut bytes) = (RowWriter::new(RowFormat::Csv), Vec::new(), 0);
    for row in must(reader.rows(TimeRange::ALL)) {
        writer.row(&must(row), &mut out);
        bytes += out.len();
        out.clear();
    }
    bytes
}

/// Candidates that differ in everything a strategy looks at.
#[allow(clippy::cast_precision_loss, reason = "a few thousand at most")]
fn candidates(count: u32) -> Vec<CandidateFacts> {
    (0..count)
        .map(|i| {
            let spread = i.wrapping_mul(2_654_435_761) >> 20;
            CandidateFacts {
                slot: i,
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
    let now = NOW;
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

criterion_group! { name = core; config = quick(); targets = planning, admission, settling, pricing, ledger, ranking, attempts, sse, store }
criterion_main!(core);
