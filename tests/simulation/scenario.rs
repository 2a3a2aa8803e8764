//! What a seed stands for: providers and their weather, a configuration, the lives of the process, and the load.

use crate::keys::Keys;
use crate::money::Money;
use crate::world::life::Ending;
use crate::world::weather::{Nature, nasty};
use breakwater::sim::{FaultKind, Latency, Schedule};
use fastrand::Rng;
use std::fmt::Write;
use std::time::Duration;

const STRATEGIES: [&str; 8] =
    ["round_robin", "weighted", "least_latency", "cost_based", "priority", "best_quality", "balanced", "intelligent"];

/// A route of the configuration, as far as its requests are judged by it.
#[derive(Clone, Debug)]
pub struct Route {
    pub name: String,
    pub max_attempts: u32,
    pub deadline: Duration,
    /// Streams that break off are gone on with.
    pub recovers: bool,
}

/// One life of the process.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub lasts: Duration,
    pub ending: Ending,
    /// The pause before the next life.
    pub then_down: Duration,
    pub durability: &'static str,
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub natures: Vec<Nature>,
    pub config: String,
    pub routes: Vec<Route>,
    pub lives: Vec<Span>,
    /// Requests per second, on average, while there is load.
    pub rate: f64,
    pub money: Money,
    pub keys: Keys,
    /// The longest that an endpoint has requests wait.
    pub longest_wait: Duration,
}

fn pick<T: Copy>(dice: &mut Rng, from: &[T]) -> T {
    from[dice.usize(..from.len())]
}

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

impl Scenario {
    pub fn of(seed: u64) -> Self {
        let mut dice = Rng::with_seed(seed);
        let count = dice.usize(2..=5);
        let natures: Vec<_> = (0..count).map(|i| nature(&mut dice, i)).collect();
        let mut routes: Vec<_> = ["chat", "safe", "quick"].into_iter().map(|name| route(&mut dice, name)).collect();
        let money = Money::of(seed, &natures, &routes);
        let keys = Keys::of(seed, money.is_any);
        let config = config(&mut dice, &natures, &mut routes, &money, &keys);
        let longest_wait =
            [5, 1, 0].into_iter().find(|s| config.contains(&format!("max_wait: {s}s"))).map_or(Duration::ZERO, secs);
        let lives = dice.usize(2..=4);
        let lives = (0..lives).map(|_| span(&mut dice)).collect();
        let rate = pick(&mut dice, &[0.05, 0.2, 0.5, 1.0, 3.0]);
        Self { seed, natures, config, routes, lives, rate, money, keys, longest_wait }
    }
}

fn span(dice: &mut Rng) -> Span {
    Span {
        lasts: secs(dice.u64(120..3_000)),
        ending: if dice.bool() { Ending::Kill } else { Ending::Graceful },
        then_down: Duration::from_millis(dice.u64(0..90_000)),
        durability: pick(dice, &["group", "strict"]),
    }
}

fn nature(dice: &mut Rng, i: usize) -> Nature {
    let median_ms = pick(dice, &[20.0, 80.0, 250.0, 900.0]);
    let mut nature =
        Nature::fair(&format!("e{i}"), dice.u64(..), Latency::Lognormal { median_ms, p99_ms: median_ms * 4.0 });
    nature.gap = Duration::from_millis(dice.u64(1..60));
    nature.kinds = nasty();
    nature.errors = pick(dice, &[0.0, 0.01, 0.05, 0.2]);
    if dice.f64() < 0.7 {
        let down_mean_ms = pick(dice, &[5_000, 30_000, 60_000, 300_000]);
        let when = Schedule::Random { up_mean_ms: down_mean_ms * dice.u64(3..20), down_mean_ms };
        let hard = FaultKind::Status { code: 503, headers: [].into(), body: None };
        let kind = dice.choice([FaultKind::Refuse, FaultKind::Refuse, FaultKind::Unreachable, FaultKind::Hang, hard]);
        nature.outages = kind.map(|kind| (when, kind));
    }
    if dice.f64() < 0.4 {
        let down_mean_ms = pick(dice, &[20_000, 120_000]);
        let when = Schedule::Random { up_mean_ms: down_mean_ms * dice.u64(2..8), down_mean_ms };
        nature.brownouts = Some((when, dice.f64() * 0.8, 1.0 + dice.f64() * 10.0));
    }
    nature.rpm = (dice.f64() < 0.3).then(|| pick(dice, &[20, 60, 300]));
    nature
}

fn route(dice: &mut Rng, name: &str) -> Route {
    let deadline = if name == "quick" { Duration::from_millis(dice.u64(300..4_000)) } else { secs(dice.u64(10..90)) };
    Route { name: name.into(), max_attempts: dice.u32(1..=6), deadline, recovers: false }
}

fn config(dice: &mut Rng, natures: &[Nature], routes: &mut [Route], money: &Money, keys: &Keys) -> String {
    let mut text = format!("server: {{{}, drain: 5s}}\n{}providers:\n", keys.settings(), money.head);
    for n in natures {
        let name = &n.name;
        writeln!(text, "  {name}: {{dialect: openai, base_url: 'http://{name}.example/v1', allow_private: true}}")
            .unwrap();
    }
    text.push_str("endpoints:\n");
    for n in natures {
        let name = &n.name;
        let mut more = String::new();
        if dice.f64() < 0.3 {
            write!(more, ", rpm: {}", pick(dice, &[30, 120, 600])).unwrap();
        }
        if dice.f64() < 0.2 {
            write!(more, ", tpm: {}", pick(dice, &[20_000, 200_000])).unwrap();
        }
        let (concurrency, max_wait) = (pick(dice, &[1, 3, 16, 256]), pick(dice, &["0s", "1s", "5s"]));
        let (first_byte, idle) = (pick(dice, &["5s", "20s", "60s"]), pick(dice, &["2s", "20s"]));
        let probe = pick(dice, &["off", "{kind: models, interval: 15s}", "{path: /health, interval: 10s}"]);
        let domain = pick(dice, &["[]", "[a]", "[a, b]"]);
        let price = dice.u64(1..2_000);
        writeln!(
            text,
            "  {name}: {{provider: {name}, model: m-{name}, weight: {}, quality: 0.{}, probe: {probe}, domain: {domain}, \
             price: {{input: {}.{:02}, output: {}.{:02}}}, \
             limits: {{concurrency: {concurrency}, max_wait: {max_wait}{more}}}, \
             timeouts: {{first_byte: {first_byte}, idle: {idle}, total: 120s}}{}}}",
            dice.u32(1..8),
            dice.u32(1..9),
            price / 100,
            price % 100,
            price / 50,
            price % 100,
            money.of_endpoint(name),
        )
        .unwrap();
    }
    text.push_str("routes:\n");
    let all: Vec<_> = natures.iter().map(|n| n.name.as_str()).collect();
    for route in routes {
        let mut endpoints = all.clone();
        dice.shuffle(&mut endpoints);
        let (strategy, backoff) = (pick(dice, &STRATEGIES), pick(dice, &[100, 200, 1_000]));
        let hedge = pick(dice, &["off", "off", "{after: p90, max_extra: 0.5}", "{after: 150ms, max_extra: 1.0}"]);
        let recover = pick(dice, &["off", "continue"]);
        route.recovers = recover == "continue";
        writeln!(
            text,
            "  {}: {{strategy: {strategy}, endpoints: [{}], deadline: {}ms, retry: {{max_attempts: {}, backoff: {backoff}ms}}, \
             hedge: {hedge}, recover: {recover}{}}}",
            route.name,
            endpoints.join(", "),
            route.deadline.as_millis(),
            route.max_attempts,
            money.of_route(&route.name),
        )
        .unwrap();
    }
    text
}
