use super::*;
use crate::domain::breaker::State;
use crate::domain::gate::{Gate, PauseReason};
use crate::domain::settings::LimitSettings;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000;

fn at(seconds: u64) -> Ts {
    Ts((100_000 + seconds) * SECOND)
}

fn health() -> EndpointHealth {
    EndpointHealth::new(Arc::new(BreakerSettings::default()), at(0))
}

fn settle(seconds: u64, outcome: Outcome, latency_ms: u64, ttft_ms: Option<u64>) -> Settle {
    Settle {
        at: at(seconds),
        epoch: 1,
        probe: false,
        outcome,
        latency_us: latency_ms * 1000,
        ttft_us: ttft_ms.map(|ms| ms * 1000),
        cost: NanoUsd(1000),
        usage: Usage { input: 7, output: 3, ..Usage::default() },
        out: 1,
    }
}

fn give(h: &mut EndpointHealth, settle: Settle) -> Option<Transition> {
    h.apply(settle.at, &settle, 0.5)
}

#[test]
fn totals_tell_failures_from_what_is_neither() {
    let mut h = health();
    for outcome in
        [Outcome::Success, Outcome::ServerError, Outcome::RateLimited, Outcome::Cancelled, Outcome::InvalidRequest]
    {
        give(&mut h, settle(1, outcome, 10, None));
    }
    let want = Totals {
        requests: 5,
        successes: 1,
        failures: 1,
        cost: NanoUsd(5000),
        prompt_tokens: 35,
        completion_tokens: 15,
    };
    assert_eq!(h.totals(), want);
}

#[test]
fn latency_is_that_of_successes_and_timeouts() {
    let mut h = health();
    give(&mut h, settle(1, Outcome::Success, 900, Some(80)));
    give(&mut h, settle(1, Outcome::ConnectFailed, 1, None));
    give(&mut h, settle(1, Outcome::FirstByteTimeout, 60_000, None));
    give(&mut h, settle(1, Outcome::Partial, 5_000, Some(90)));
    assert_eq!(h.latency().count(at(1)), 2);
    assert_eq!(h.ttft().count(at(1)), 3);
    assert!(h.ttft().summary(at(1)).max_us >= 59_000_000);
}

#[test]
fn a_fast_error_never_looks_attractive() {
    for outcome in Outcome::ALL {
        let mut h = health();
        give(&mut h, settle(1, Outcome::Success, 900, Some(80)));
        give(&mut h, settle(1, outcome, 1, None));
        let value = h.ewma_ttft_us(at(1)).unwrap();
        match outcome {
            Outcome::Success
            | Outcome::ContentPolicy
            | Outcome::InvalidRequest
            | Outcome::ContextLength
            | Outcome::Conflict
            | Outcome::Cancelled
            | Outcome::DeadlineExceeded => {
                assert!((79_000.0..=80_001.0).contains(&value), "{outcome:?} {value}");
            }
            _ => assert!(value >= 5_000_000.0, "{outcome:?} {value}"),
        }
    }
    let mut h = health();
    give(&mut h, settle(1, Outcome::Success, 900, Some(80)));
    give(&mut h, settle(1, Outcome::DeadlineExceeded, 700, None));
    assert!(h.ewma_ttft_us(at(1)).unwrap() >= 700_000.0, "cut off: it took at least that long");
    give(&mut h, settle(1, Outcome::Cancelled, 800, None));
    assert!(h.ewma_ttft_us(at(1)).unwrap() >= 800_000.0, "overtaken by a hedge: at least that long as well");
    give(&mut h, settle(1, Outcome::Cancelled, 300, None));
    give(&mut h, settle(1, Outcome::Cancelled, 2_000, Some(40)));
    assert!(h.ewma_ttft_us(at(1)).unwrap() < 801_000.0, "sooner than usual, or after its first content: says nothing");
}

#[test]
fn a_first_byte_over_thirty_seconds_is_slow_whatever_the_rest_took() {
    let mut h = health();
    give(&mut h, settle(1, Outcome::Success, 90_000, Some(1_000)));
    give(&mut h, settle(1, Outcome::Success, 90_000, Some(30_001)));
    give(&mut h, settle(1, Outcome::Success, 31_000, None));
    give(&mut h, settle(1, Outcome::FirstByteTimeout, 2_000, None));
    assert_eq!(h.breaker().view(at(1)).slow_rate, 0.75);
}

#[test]
fn neutral_outcomes_never_open_and_failures_do() {
    for outcome in Outcome::ALL {
        let mut h = health();
        let opened = (0..50).any(|_| give(&mut h, settle(1, outcome, 10, None)).is_some());
        assert_eq!(opened, matches!(outcome.class().verdict, Verdict::Failure { .. }), "{outcome:?}");
    }
}

#[test]
fn figures_are_what_the_parts_say() {
    let mut h = health();
    assert_eq!(h.figures(at(0)), Figures::default());
    for n in 0..100 {
        let outcome = if n % 10 == 0 { Outcome::ServerError } else { Outcome::Success };
        give(&mut h, settle(1, outcome, 500, (n % 10 != 0).then_some(40 + n)));
    }
    let f = h.figures(at(1));
    assert_eq!((f.calls, f.samples), (100, 90));
    assert!((f.failure_rate - 0.1).abs() < 1e-6);
    assert_eq!(f.p50_us, h.ttft().quantile(at(1), 0.5));
    assert_eq!(f.p95_us, h.ttft().quantile(at(1), 0.95));
    assert_eq!(f.p99_us, h.ttft().quantile(at(1), 0.99));
    assert_eq!(f.ewma_ttft_us, h.ewma_ttft_us(at(1)));
}

#[test]
fn the_clock_moves_the_breaker_and_ages_the_histograms() {
    let mut h = health();
    for _ in 0..5 {
        give(&mut h, settle(1, Outcome::FirstByteTimeout, 100, None));
    }
    assert_eq!(h.breaker().state(), State::Open);
    assert_eq!(h.on_time(at(6), 0.5).unwrap().to, State::HalfOpen);
    h.breaker_mut().reset(at(7), "fine", "admin");
    assert_eq!(h.on_time(at(400), 0.5), None);
    assert_eq!(h.ttft().count(at(400)), 0);
}

#[test]
fn a_checkpoint_carries_the_gate() {
    let mut gate = Gate::new(&LimitSettings::default(), at(0));
    gate.pause(at(0), at(60), PauseReason::Quota);
    let wall = Wall(1_800_000_000_000_000);
    let saved = health().checkpoint(at(1), wall).with_gate(gate.checkpoint(at(1), wall));
    let back: HealthCheckpoint = serde_json::from_str(&serde_json::to_string(&saved).unwrap()).unwrap();
    assert_eq!(back, saved);
    let gate = Gate::restore(&LimitSettings::default(), &back.gate, at(1), wall);
    assert_eq!(gate.view(at(1)).paused, Some((PauseReason::Quota, at(60))));
}

proptest! {
    /// A restart in the same moment changes nothing that anybody can see, but the epoch and a half-open state.
    #[test]
    fn a_restart_keeps_everything(
        steps in prop::collection::vec((0_usize..Outcome::ALL.len(), 0_u64..20, 1_u64..100_000, any::<bool>()), 1..200),
        gap in 0_u64..10,
    ) {
        let mut h = health();
        let mut now = 0;
        for (outcome, wait, latency, has_ttft) in steps {
            now += wait;
            h.on_time(at(now), 0.5);
            let settle = Settle {
                epoch: h.breaker().epoch(),
                probe: true,
                ..settle(now, Outcome::ALL[outcome], latency, has_ttft.then_some(latency / 2))
            };
            give(&mut h, settle);
        }
        let wall = Wall(1_800_000_000_000_000);
        let saved = h.checkpoint(at(now), wall);
        let back: HealthCheckpoint = serde_json::from_str(&serde_json::to_string(&saved).unwrap()).unwrap();
        let later = at(now + gap);
        let settings = Arc::new(BreakerSettings::default());
        let r = EndpointHealth::restore(settings, &back, later, wall.plus(Duration::from_secs(gap)));
        prop_assert_eq!(r.totals(), h.totals());
        prop_assert_eq!(r.latency().summary(later), h.latency().summary(later));
        prop_assert_eq!(r.ttft().summary(later), h.ttft().summary(later));
        let (before, after) = (h.figures(later), r.figures(later));
        prop_assert_eq!((before.calls, before.failure_rate), (after.calls, after.failure_rate));
        prop_assert_eq!(before.ewma_ttft_us.is_some(), after.ewma_ttft_us.is_some());
        prop_assert!((before.ewma_ttft_us.unwrap_or(0.0) - after.ewma_ttft_us.unwrap_or(0.0)).abs() < 1.0);
        let (before, after) = (h.breaker().view(later), r.breaker().view(later));
        prop_assert!(after.epoch > before.epoch);
        if before.state == State::HalfOpen {
            prop_assert_eq!((after.state, after.retry_at), (State::Open, Some(later)));
        } else {
            prop_assert_eq!((after.state, after.since), (before.state, before.since));
            prop_assert_eq!(after.retry_at, before.retry_at.map(|retry| retry.max(later)));
        }
    }
}

#[test]
fn the_slowest_pace_is_known_after_a_hundred_streams_and_survives_a_restart() {
    let mut health = EndpointHealth::new(Arc::default(), Ts(0));
    let stream = |n: u64| Settle {
        // Ten tokens, the last nine in 90 ms; one of fifty is ten times slower.
        latency_us: 20_000 + if n.is_multiple_of(50) { 900_000 } else { 90_000 },
        ttft_us: Some(20_000),
        usage: Usage { output: 10, ..Usage::default() },
        ..settle(1, Outcome::Success, 0, None)
    };
    for n in 0..96 {
        health.apply(Ts(1), &stream(n), 0.5);
    }
    assert_eq!(health.figures(Ts(1)).slow_token_us, None);
    for n in 96..128 {
        health.apply(Ts(1), &stream(n), 0.5);
    }
    let slow = health.figures(Ts(1)).slow_token_us.unwrap();
    assert!((99_000..=101_000).contains(&slow), "{slow}");
    // Short ones, whole answers and failures say nothing.
    for other in [
        Settle { usage: Usage { output: 7, ..Usage::default() }, ..stream(0) },
        Settle { ttft_us: None, ..stream(0) },
        Settle { outcome: Outcome::Partial, ..stream(0) },
    ] {
        let before = health.pace.count(Ts(1));
        health.apply(Ts(1), &other, 0.5);
        assert_eq!(health.pace.count(Ts(1)), before);
    }
    let restored = EndpointHealth::restore(Arc::default(), &health.checkpoint(Ts(1), Wall(5)), Ts(9), Wall(6));
    assert_eq!(restored.figures(Ts(9)).slow_token_us, Some(slow));
}
