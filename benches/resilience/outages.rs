//! Providers that are down 5 % of the time, for a minute on average, each on its own: the founding use case's claim.

use crate::figure::{Row, Target, Unit, quantile};
use crate::load::{Plan, Results, pooled, through_bare_client, through_engine};
use crate::world::weather::Nature;
use breakwater::sim::{FaultKind, Latency, Schedule};
use std::time::Duration;

const SEEDS: u64 = 6;
const REQUESTS: usize = 10_000;
const PER_SECOND: f64 = 10.0;

fn nature(i: usize, seed: u64) -> Nature {
    let mut nature =
        Nature::fair(&format!("e{i}"), seed * 1_000 + i as u64, Latency::Lognormal { median_ms: 100.0, p99_ms: 300.0 });
    nature.gap = Duration::from_millis(2);
    let hard = FaultKind::Status { code: 503, headers: [].into(), body: None };
    let kind = [FaultKind::Refuse, hard, FaultKind::ResetAfterBody, FaultKind::Refuse][i % 4].clone();
    nature.outages = Some((Schedule::Random { up_mean_ms: 1_140_000, down_mean_ms: 60_000 }, kind));
    nature
}

fn plan(providers: usize, seed: u64) -> Plan {
    Plan {
        natures: (0..providers).map(|i| nature(i, seed)).collect(),
        route: "strategy: weighted",
        requests: REQUESTS,
        per_second: PER_SECOND,
        tokens: 12,
        streams: 0.5,
        seed,
    }
}

fn sample(results: &Results) -> String {
    format!(
        "{} requests over {SEEDS} seeds, {PER_SECOND} a second; not whole: {}",
        results.outcomes.len(),
        results.losses()
    )
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (providers, scenario, least) in
        [(3, "3 providers, each up 95 %, outages of 60 s on average", 0.9995), (4, "4 providers, each up 95 %", 0.9999)]
    {
        let engine = pooled(SEEDS, |seed| plan(providers, seed), through_engine);
        let bare = pooled(SEEDS, |seed| plan(providers, seed), through_bare_client);
        rows.push(Row {
            scenario,
            figure: "answered in full",
            unit: Unit::Share,
            value: engine.success(),
            bare: Some(bare.success()),
            target: Target::AtLeast(least),
            sample: sample(&engine),
        });
        if providers == 3 {
            rows.push(added(scenario, &engine, &bare));
        }
    }
    rows
}

/// The 99th percentile of requests that came while an endpoint was down and known to be, above that of fair weather.
fn added(scenario: &'static str, engine: &Results, bare: &Results) -> Row {
    let added = |results: &Results, known: bool| {
        let mut fair = results.latencies(|o| o.down == 0);
        let mut foul = results.latencies(|o| o.down > 0 && (o.known || !known));
        quantile(&mut foul, 0.99) - quantile(&mut fair, 0.99)
    };
    let counted = engine.outcomes.iter().filter(|o| o.down > 0 && o.known).count();
    Row {
        scenario,
        figure: "p99 added while one is down, its breaker open",
        unit: Unit::Milliseconds,
        value: added(engine, true),
        bare: Some(added(bare, false)),
        target: Target::AtMost(50.0),
        sample: format!("{counted} requests"),
    }
}
