//! The whole engine in virtual time: the real supervisor, endpoints, coordinator, ledger and store on one thread, providers that
//! answer from memory, thousands of hours of outages, brown-outs, limits, operators, panics, restarts and kills. Nothing in it is a
//! model of the engine; only its clock and its way upstream are others.
//!
//! `BREAKWATER_SIM_HOURS=5000 cargo nextest run --profile long --release --test simulation` for the long run (the profile has no end of
//! time); a seed that failed is printed and replays with `BREAKWATER_SEED=… cargo nextest run --test simulation`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    reason = "tests tell what they did and how long it took"
)]

mod keys;
mod load;
mod money;
mod run;
mod scenario;
mod turns;
#[path = "../world/mod.rs"]
mod world;

use run::Report;
use scenario::Scenario;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, Once};
use std::time::Duration;

/// Where the stores of a run are: in memory, if the system has a place for that.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn run_seed(seed: u64) -> Report {
    /// What actors say when the simulated operator has them panic.
    const WANTED: &str = "asked to panic by a test hook";
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&WANTED) {
                usual(info);
            }
        }));
    });
    run::run(&Scenario::of(seed), folder().path())
}

fn told(seed: u64, report: &Report) -> String {
    let scenario = Scenario::of(seed);
    format!(
        "seed {seed} broke a promise; BREAKWATER_SEED={seed} replays it\n{}\n\nits journal:\n{}\n\nits configuration:\n{}",
        report.violations.iter().take(10).cloned().collect::<Vec<_>>().join("\n"),
        report.lines.join("\n"),
        scenario.config
    )
}

/// Seeds from 1 on, on all cores, until so many virtual hours have passed; or the one that the environment names.
fn run_hours(hours: u64) -> Vec<(u64, Report)> {
    if let Some(seed) = setting("BREAKWATER_SEED") {
        return vec![(seed, run_seed(seed))];
    }
    let (next, passed_s, done) = (AtomicU64::new(1), AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while passed_s.load(Relaxed) < hours * 3600 {
                    let seed = next.fetch_add(1, Relaxed);
                    let report = run_seed(seed);
                    passed_s.fetch_add(report.time.as_secs(), Relaxed);
                    let failed = !report.violations.is_empty();
                    done.lock().unwrap().push((seed, report));
                    if failed {
                        passed_s.store(u64::MAX / 2, Relaxed);
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(seed, _)| *seed);
    done
}

#[test]
fn every_promise_is_kept_through_outages_limits_restarts_and_kills() {
    let began = std::time::Instant::now();
    let runs = run_hours(setting("BREAKWATER_SIM_HOURS").unwrap_or(10));
    let sum = |of: fn(&Report) -> u64| runs.iter().map(|(_, r)| of(r)).sum::<u64>();
    let time: Duration = runs.iter().map(|(_, r)| r.time).sum();
    println!(
        "{} scenarios, {:.1} virtual hours in {:.0} s: {} requests ({} answered in full, {} of those shortened by a budget, \
         {} refused by one), {} refused by a key's limit, {} without room to wait, {} calls, {} of them past somebody in line, {} rows \
         ({} orphans), {} kills",
        runs.len(),
        time.as_secs_f64() / 3600.0,
        began.elapsed().as_secs_f64(),
        sum(|r| r.requests),
        sum(|r| r.complete),
        sum(|r| r.lowered),
        sum(|r| r.over_budget),
        sum(|r| r.over_limit),
        sum(|r| r.crowded),
        sum(|r| r.calls),
        sum(|r| r.passed),
        sum(|r| r.rows),
        sum(|r| r.orphans),
        sum(|r| r.kills),
    );
    if let Some((seed, report)) = runs.iter().find(|(_, r)| !r.violations.is_empty()) {
        panic!("{}", told(*seed, report));
    }
    // A simulation in which nothing happens shows nothing.
    assert!(sum(|r| r.requests) > 0 && sum(|r| r.complete) > 0 && sum(|r| r.calls) > sum(|r| r.complete));
    if runs.len() > 1 {
        assert!(sum(|r| r.lowered) > 0 && sum(|r| r.over_budget) > 0, "no budget was ever short");
        assert!(sum(|r| r.over_limit) > 0 && sum(|r| r.crowded) > 0, "no key ever asked too much");
        assert!(sum(|r| r.passed) > 0, "nobody ever stood in line");
    }
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    // One with budgets, one with lines of several keys.
    let seeds = setting("BREAKWATER_SEED").map_or([7, 8], |seed| [seed, seed + 1]);
    let hashes = seeds.map(|seed| {
        let (one, two) = (run_seed(seed), run_seed(seed));
        assert!(one.events > 100, "{one:?}");
        assert_eq!((one.hash, one.events, one.requests), (two.hash, two.events, two.requests), "seed {seed}");
        one.hash
    });
    assert_ne!(hashes[0], hashes[1]);
}
