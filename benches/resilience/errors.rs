//! Providers that are up and not well: random errors, slow tails, streams that break.

use crate::figure::{Row, Target, Unit, quantile};
use crate::load::{Plan, Results, pooled, through_bare_client, through_engine};
use crate::world::client::End;
use crate::world::weather::{Nature, mixed};
use breakwater::sim::{FaultKind, Latency};
use std::time::Duration;

const SEEDS: u64 = 4;

fn plan(seed: u64, route: &'static str, nature: impl Fn(&str, u64) -> Nature) -> Plan {
    Plan {
        natures: (0..3).map(|i| nature(&format!("e{i}"), seed * 1_000 + i)).collect(),
        route,
        requests: 5_000,
        per_second: 10.0,
        tokens: 12,
        streams: 0.5,
        seed,
    }
}

fn sample(results: &Results) -> String {
    format!("{} requests over {SEEDS} seeds", results.outcomes.len())
}

pub fn random() -> Vec<Row> {
    let scenario = "20 % random errors of mixed kinds at each of 3 providers";
    let nature = |name: &str, seed| {
        let mut nature = Nature::fair(name, seed, Latency::Lognormal { median_ms: 100.0, p99_ms: 300.0 });
        (nature.errors, nature.kinds) = (0.2, mixed());
        nature
    };
    let plan = |seed| plan(seed, "strategy: weighted", nature);
    let (engine, bare) = (pooled(SEEDS, plan, through_engine), pooled(SEEDS, plan, through_bare_client));
    let row = |figure, unit, of: fn(&Results) -> f64, target| Row {
        scenario,
        figure,
        unit,
        value: of(&engine),
        bare: Some(of(&bare)),
        target,
        sample: sample(&engine),
    };
    let mut slow = [&engine, &bare].map(|r| quantile(&mut r.latencies(|_| true), 0.99));
    let mut rows = vec![
        row("answered in full", Unit::Share, Results::success, Target::AtLeast(0.999)),
        row("upstream calls per request", Unit::Times, Results::calls_per_request, Target::AtMost(1.4)),
    ];
    slow.iter_mut().for_each(|ms| *ms = ms.round());
    rows.push(Row {
        scenario,
        figure: "p99 of whole answers",
        unit: Unit::Milliseconds,
        value: slow[0],
        bare: Some(slow[1]),
        target: Target::AtMost(1_500.0),
        sample: sample(&engine),
    });
    rows
}

/// 2 % of the answers take twenty times as long: `The Tail at Scale`'s case (Dean and Barroso, CACM 2013: 1,800 to 74 ms for 2 %).
pub fn hedging() -> Vec<Row> {
    let scenario = "2 % of answers take 20 × as long, `hedge: {after: 111ms}`";
    let nature = |name: &str, seed| {
        let of = Box::new(Latency::Lognormal { median_ms: 100.0, p99_ms: 110.0 });
        let latency = Latency::Bimodal { of, share: 0.02, factor: 20.0 };
        Nature { gap: Duration::ZERO, ..Nature::fair(name, seed, latency) }
    };
    let with = |seed, route| Plan { per_second: 50.0, ..plan(seed, route, nature) };
    let route = "strategy: weighted, hedge: {after: 111ms}";
    let hedged = pooled(SEEDS, |seed| with(seed, route), through_engine);
    let patient = pooled(SEEDS, |seed| with(seed, "strategy: weighted"), through_engine);
    let bare = pooled(SEEDS, |seed| with(seed, "strategy: weighted"), through_bare_client);
    let [hedged_ms, patient_ms, bare_ms] =
        [&hedged, &patient, &bare].map(|r| quantile(&mut r.latencies(|_| true), 0.999));
    let row = |figure, unit, value, bare, target| Row {
        scenario,
        figure,
        unit,
        value,
        bare,
        target,
        sample: format!("{}; without hedging {patient_ms:.0} ms", sample(&hedged)),
    };
    vec![
        row("p99.9 of whole answers", Unit::Milliseconds, hedged_ms, Some(bare_ms), Target::AtMost(patient_ms / 10.0)),
        row(
            "more upstream calls",
            Unit::Share,
            hedged.calls_per_request() / patient.calls_per_request() - 1.0,
            None,
            Target::AtMost(0.03),
        ),
    ]
}

/// Three streams in ten break at a random token, in one of the ways in which streams break.
pub fn streams() -> Vec<Row> {
    let scenario = "3 of 10 streams cut at a random token";
    let nature = |name: &str, seed| {
        let mut nature = Nature::fair(name, seed, Latency::Lognormal { median_ms: 100.0, p99_ms: 300.0 });
        nature.errors = 0.3;
        nature.kinds = vec![
            FaultKind::CutAfter { events: 0, reset: true },
            FaultKind::EndWithoutDone { events: Some(0) },
            FaultKind::ErrorEvent { after: 0, body: None },
            FaultKind::BrokenJsonEvent { after: 0 },
        ];
        nature
    };
    let streams = |seed, route| Plan { streams: 1.0, tokens: 60, ..plan(seed, route, nature) };
    let told = pooled(SEEDS, |seed| streams(seed, "strategy: weighted"), through_engine);
    let whole = pooled(SEEDS, |seed| streams(seed, "strategy: weighted, recover: continue"), through_engine);
    let bare = pooled(SEEDS, |seed| streams(seed, "strategy: weighted"), through_bare_client);
    let honest = |r: &Results| {
        let broken = r.outcomes.iter().filter(|o| o.seen.end != End::Complete).count();
        let told = r.outcomes.iter().filter(|o| matches!(o.seen.end, End::Cut | End::Refused(_))).count();
        told as f64 / broken.max(1) as f64
    };
    let (share, losses) = (told.success() * 100.0, whole.losses());
    let sample = format!("{}; {share:.1} % whole without recovery; not whole with it: {losses}", sample(&told));
    let row = |figure, value, bare, target| Row {
        scenario,
        figure,
        unit: Unit::Share,
        value,
        bare,
        target: Target::AtLeast(target),
        sample: sample.clone(),
    };
    vec![
        row("answered in full, `recover: continue`", whole.success(), Some(bare.success()), 0.99),
        row("broken streams told as broken, without it", honest(&told), None, 1.0),
    ]
}
