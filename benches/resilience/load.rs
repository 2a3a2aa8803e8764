//! A load in virtual time: so many requests a second, evenly chanced, through the engine or through a bare client, in the same weather.

use crate::bare;
use crate::world::Journal;
use crate::world::client::{End, Request, Seen, ask};
use crate::world::life::{EPOCH, Ending, Life, in_virtual_time};
use crate::world::provider::World;
use crate::world::weather::Nature;
use breakwater::actors::board::EndpointCell;
use breakwater::clock;
use breakwater::domain::gate::Door;
use breakwater::engine::access::Caller;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What is sent to whom.
#[derive(Clone)]
pub struct Plan {
    pub natures: Vec<Nature>,
    /// Of the route `chat`: its settings besides endpoints.
    pub route: &'static str,
    pub requests: usize,
    pub per_second: f64,
    pub tokens: usize,
    /// Share of requests that ask for a stream.
    pub streams: f64,
    pub seed: u64,
}

/// One request's end, and the state of the fleet when it began.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub seen: Seen,
    /// Providers that were down.
    pub down: u32,
    /// Whether every one of those had its breaker open already.
    pub known: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Results {
    pub outcomes: Vec<Outcome>,
    pub calls: u64,
}

impl Results {
    pub fn add(&mut self, more: Self) {
        self.outcomes.extend(more.outcomes);
        self.calls += more.calls;
    }

    pub fn share(&self, end: impl Fn(&End) -> bool) -> f64 {
        self.outcomes.iter().filter(|o| end(&o.seen.end)).count() as f64 / self.outcomes.len() as f64
    }

    /// Whole answers, of all that were asked for.
    pub fn success(&self) -> f64 {
        self.share(|end| *end == End::Complete)
    }

    /// What became of those without a whole answer, and how many providers were down then.
    pub fn losses(&self) -> String {
        let mut by_reason: BTreeMap<String, u32> = BTreeMap::new();
        for Outcome { seen, down, .. } in self.outcomes.iter().filter(|o| o.seen.end != End::Complete) {
            *by_reason.entry(format!("{:?} with {down} down, {} attempts", seen.end, seen.attempts)).or_default() += 1;
        }
        by_reason.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
    }

    pub fn calls_per_request(&self) -> f64 {
        self.calls as f64 / self.outcomes.len() as f64
    }

    /// Milliseconds to the end of each whole answer among those that `which` picks.
    pub fn latencies(&self, which: impl Fn(&Outcome) -> bool) -> Vec<f64> {
        let picked = self.outcomes.iter().filter(|o| o.seen.end == End::Complete && which(o));
        picked.map(|o| o.seen.took.as_secs_f64() * 1000.0).collect()
    }
}

/// As an operator would write it: everything else as it is by default.
fn config(plan: &Plan) -> String {
    let names: Vec<_> = plan.natures.iter().map(|n| n.name.as_str()).collect();
    let line = |name: &&str| {
        format!("  {name}: {{dialect: openai, base_url: 'http://{name}.example/v1', allow_private: true}}\n")
    };
    // To try other settings: `breaker: {max_open_for: 30s}`.
    let more = std::env::var("BREAKWATER_BENCH_ENDPOINT").unwrap_or_default();
    let endpoint = |name: &&str| {
        format!("  {name}: {{provider: {name}, model: m-{name}, price: {{input: 1, output: 1}}, {more}}}\n")
    };
    format!(
        "server: {{auth: open, max_in_flight: 100000}}\nproviders:\n{}endpoints:\n{}routes:\n  chat: {{endpoints: [{}], {}}}\n",
        names.iter().map(line).collect::<String>(),
        names.iter().map(endpoint).collect::<String>(),
        names.join(", "),
        plan.route
    )
}

fn requests(plan: &Plan) -> impl Iterator<Item = (Duration, Request)> {
    let mut dice = fastrand::Rng::with_seed(plan.seed);
    let plan = plan.clone();
    (0..plan.requests).map(move |n| {
        let pause = Duration::from_secs_f64(-(1.0 - dice.f64()).ln() / plan.per_second);
        let request = Request {
            name: format!("r{n}"),
            route: "chat".into(),
            tokens: plan.tokens,
            max_tokens: None,
            recovers: false,
            stream: dice.f64() < plan.streams,
            leaves_after: None,
            must_end_by: Duration::from_secs(700),
            hints: Vec::new(),
        };
        (pause, request)
    })
}

/// Sends the load through the engine.
pub fn through_engine(plan: &Plan) -> Results {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let world = World::new(plan.natures.clone(), Journal::default());
    let life = Life {
        world: &world,
        config: &config(plan),
        durability: "group",
        store: &folder.path().join("state"),
        begins: Duration::ZERO,
        seed: plan.seed,
        ending: Ending::Graceful,
    };
    let outcomes: Rc<RefCell<Vec<Outcome>>> = Rc::default();
    let work = async |worker: Rc<breakwater::engine::gateway::Worker>| {
        let cells = worker.gateway.board.topology().cells.clone();
        let mut running = Vec::new();
        for (pause, request) in requests(plan) {
            tokio::time::sleep(pause).await;
            let (world, worker, outcomes) = (Rc::clone(&world), Rc::clone(&worker), Rc::clone(&outcomes));
            let (down, known) = fleet(&world, &cells);
            running.push(actix::spawn(async move {
                let seen = ask(&world, &worker, Caller::Anyone, &request).await;
                outcomes.borrow_mut().push(Outcome { seen, down, known });
            }));
        }
        for task in running {
            task.await.unwrap();
        }
    };
    life.live(work, |_| ());
    let violations = world.journal().violations();
    assert!(violations.is_empty(), "{violations:#?}");
    let outcomes = outcomes.borrow().clone();
    Results { outcomes, calls: world.calls() }
}

/// How many providers are down, and whether the engine knows of all of them.
fn fleet(world: &World, cells: &[Arc<EndpointCell>]) -> (u32, bool) {
    let (mut down, mut known) = (0, true);
    for (i, cell) in cells.iter().enumerate().take(world.len()) {
        if world.is_down(i) {
            down += 1;
            known &= matches!(cell.hot.lock().gate.door(), Door::Shut { .. } | Door::Probing { .. });
        }
    }
    (down, known)
}

/// Sends the same load through a client of its own kind.
pub fn through_bare_client(plan: &Plan) -> Results {
    let world = World::new(plan.natures.clone(), Journal::default());
    let outcomes: Rc<RefCell<Vec<Outcome>>> = Rc::default();
    in_virtual_time(EPOCH, plan.seed, async {
        world.life_begins(Duration::ZERO);
        let mut running = Vec::new();
        for (pause, request) in requests(plan) {
            tokio::time::sleep(pause).await;
            let (world, outcomes) = (Rc::clone(&world), Rc::clone(&outcomes));
            let down = (0..world.len()).filter(|i| world.is_down(*i)).count();
            running.push(actix::spawn(async move {
                let started = clock::now();
                let end = bare::ask(&world, &request).await;
                let took = clock::now().since(started);
                let seen = Seen { end, took, first: None, attempts: 0, lowered: false, why: String::new() };
                outcomes.borrow_mut().push(Outcome {
                    seen,
                    down: u32::try_from(down).unwrap_or(u32::MAX),
                    known: false,
                });
            }));
        }
        for task in running {
            task.await.unwrap();
        }
    });
    let outcomes = outcomes.borrow().clone();
    Results { outcomes, calls: world.calls() }
}

/// Runs plans that differ by their seeds, on all cores, and puts their results together in the seeds' order.
pub fn pooled(seeds: u64, plan: impl Fn(u64) -> Plan + Sync, run: fn(&Plan) -> Results) -> Results {
    let next = std::sync::atomic::AtomicU64::new(1);
    let done = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..crate::machine::cores() {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed > seeds {
                        return;
                    }
                    let results = run(&plan(seed));
                    done.lock().unwrap().push((seed, results));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(seed, _)| *seed);
    let mut all = Results::default();
    done.into_iter().for_each(|(_, results)| all.add(results));
    all
}
