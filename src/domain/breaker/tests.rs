use super::*;
use crate::domain::time::Wall;
use crate::domain::window::Rates;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000;
const T0: u64 = 100_000 * SECOND;
/// A roll without jitter.
const MIDDLE: f64 = 0.5;
const OK: Verdict = Verdict::Success;
const FAIL: Verdict = Verdict::Failure { half_weight: false };
const HALF: Verdict = Verdict::Failure { half_weight: true };

fn at(seconds: u64) -> Ts {
    Ts(T0 + seconds * SECOND)
}

fn breaker() -> Breaker {
    Breaker::new(Arc::new(BreakerSettings::default()), at(0))
}

impl Breaker {
    /// A result of the running epoch.
    fn now(&mut self, seconds: u64, verdict: Verdict) -> Option<Transition> {
        let probe = self.state() == State::HalfOpen;
        self.on_result(at(seconds), self.epoch(), probe, verdict, false, MIDDLE)
    }
}

/// Opened by five failures at second `seconds`.
fn opened(seconds: u64) -> Breaker {
    let mut b = breaker();
    for _ in 0..5 {
        b.now(seconds, FAIL);
    }
    assert_eq!(b.state(), State::Open);
    b
}

fn half_open() -> Breaker {
    let mut b = opened(0);
    assert_eq!(b.on_time(at(5), MIDDLE).unwrap().to, State::HalfOpen);
    b
}

#[test]
fn five_failures_in_a_row_open() {
    let mut b = breaker();
    for verdict in [FAIL, FAIL, FAIL, FAIL, OK, FAIL, FAIL, FAIL] {
        assert_eq!(b.now(1, verdict), None);
    }
    assert_eq!(b.now(1, Verdict::Neutral), None);
    assert_eq!(b.now(1, FAIL), None, "the success broke the row, the neutral result did not");
    let transition = b.now(1, FAIL).unwrap();
    let want = Transition { from: State::Closed, to: State::Open, epoch: 2, cause: Cause::Consecutive { n: 5 } };
    assert_eq!(transition, want);
    assert_eq!(b.door(at(1)), Door::Shut { epoch: 2, until: Some(at(6)), operator: false });
}

#[test]
fn half_of_ten_calls_open_and_nine_do_not() {
    let mut b = breaker();
    for n in 0..9 {
        assert_eq!(b.now(1, if n % 2 == 0 { FAIL } else { OK }), None);
    }
    assert_eq!(b.now(1, OK).unwrap().cause, Cause::FailureRate { rate: 0.5, calls: 10 });
}

#[test]
fn a_rate_under_the_half_never_opens() {
    let mut b = breaker();
    for n in 0..1000 {
        assert_eq!(b.now(n / 20, if n % 5 > 2 { FAIL } else { OK }), None);
    }
    assert!((b.view(at(49)).failure_rate - 0.4).abs() < 0.01);
}

#[test]
fn ten_overloads_open_by_weight() {
    let mut b = breaker();
    for _ in 0..9 {
        assert_eq!(b.now(1, HALF), None);
    }
    assert_eq!(b.now(1, HALF).unwrap().cause, Cause::Consecutive { n: 5 });
    let mut b = breaker();
    for n in 0..40 {
        assert_eq!(b.now(1, if n % 4 == 0 { OK } else { HALF }), None, "three quarters of halves are 37.5 %");
    }
}

#[test]
fn slow_calls_open_from_twenty_on() {
    let mut b = breaker();
    for n in 0..19 {
        assert_eq!(b.on_result(at(1), 1, false, OK, n >= 4, MIDDLE), None);
    }
    let transition = b.on_result(at(1), 1, false, OK, true, MIDDLE).unwrap();
    assert_eq!(transition.cause, Cause::SlowRate { rate: 0.8, calls: 20 });
}

#[test]
fn old_failures_leave_the_window() {
    let mut b = breaker();
    for n in 0..9 {
        b.now(1, if n % 2 == 0 { FAIL } else { OK });
    }
    assert_eq!(b.now(32, OK), None);
    assert_eq!(b.view(at(32)).calls, 1);
}

#[test]
fn open_periods_double_to_five_minutes_and_jitter_by_a_fifth() {
    let mut b = breaker();
    let mut now = 0;
    let mut waits = Vec::new();
    for _ in 0..5 {
        b.now(now, FAIL);
    }
    for _ in 0..8 {
        let wait = b.next_wake().unwrap().since(at(now)).as_secs();
        waits.push(wait);
        assert_eq!(b.on_time(at(now + wait - 1), MIDDLE), None);
        now += wait;
        b.on_time(at(now), MIDDLE).unwrap();
        assert_eq!(b.now(now, FAIL), None);
        assert_eq!(b.now(now, FAIL).unwrap().cause, Cause::ProbeFailed);
    }
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300]);
    let s = BreakerSettings::default();
    for (roll, ms) in [(0.0, 4000), (0.25, 4500), (1.0, 6000)] {
        assert_eq!(open_period(&s, 0, roll).as_millis(), ms);
    }
    assert_eq!(open_period(&s, 40, 1.0), s.max_open_for);
    assert_eq!(open_period(&s, u32::MAX, f64::NAN), Duration::ZERO);
}

#[test]
fn a_minute_closed_forgets_earlier_openings() {
    for (closed_for, wait) in [(59, 10), (60, 5)] {
        let mut b = half_open();
        b.now(6, OK);
        b.now(6, OK).unwrap();
        for _ in 0..5 {
            b.now(6 + closed_for, FAIL);
        }
        assert_eq!(b.next_wake(), Some(at(6 + closed_for + wait)));
    }
}

#[test]
fn two_successes_close_and_traffic_ramps_back() {
    let mut b = half_open();
    assert_eq!(b.door(at(5)), Door::Probing { epoch: 3, left: 3, spare: 0 });
    assert_eq!(b.now(6, OK), None);
    assert_eq!(b.now(6, Verdict::Neutral), None);
    assert_eq!(b.now(7, OK).unwrap().cause, Cause::ProbesSucceeded { n: 2 });
    assert_eq!(b.view(at(7)).calls, 0, "the window starts anew");
    assert_eq!(b.door(at(8)), Door::Ramp { epoch: 4, since: at(7), over: Duration::from_secs(20) });
    assert_eq!(b.door(at(27)), Door::Open { epoch: 4 });
}

#[test]
fn more_successes_than_permits_leave_spare_ones() {
    let settings = BreakerSettings { half_open_calls: 1, half_open_successes: 3, ..BreakerSettings::default() };
    let mut b = half_open();
    b.set_settings(Arc::new(settings), at(5));
    assert_eq!(
        b.door(at(5)),
        Door::Probing { epoch: 3, left: 1, spare: 3 },
        "three successes and a failure, or two failures"
    );
}

#[test]
fn the_better_of_three_probes_decides() {
    for (verdicts, then) in
        [([FAIL, OK, OK], State::Closed), ([OK, HALF, OK], State::Closed), ([OK, FAIL, HALF], State::Open)]
    {
        let mut b = half_open();
        assert_eq!((b.now(6, verdicts[0]), b.now(6, verdicts[1])), (None, None));
        assert_eq!(b.now(6, verdicts[2]).unwrap().to, then);
    }
    let mut strict = half_open();
    strict.set_settings(Arc::new(BreakerSettings { half_open_failures: 1, ..BreakerSettings::default() }), at(5));
    assert_eq!(strict.now(6, FAIL).unwrap().cause, Cause::ProbeFailed);
}

#[test]
fn half_open_without_a_verdict_is_open_again() {
    let mut b = half_open();
    b.now(6, OK);
    assert_eq!(b.on_time(at(64), MIDDLE), None);
    assert_eq!(b.on_time(at(65), MIDDLE).unwrap().cause, Cause::NoVerdict);
    assert_eq!(b.next_wake(), Some(at(75)));
}

#[test]
fn late_results_never_move_the_state() {
    let mut b = half_open();
    for _ in 0..20 {
        assert_eq!(b.on_result(at(6), 1, false, FAIL, false, MIDDLE), None);
        assert_eq!(b.on_result(at(6), 1, true, OK, false, MIDDLE), None);
        assert_eq!(b.on_result(at(6), 2, true, FAIL, false, MIDDLE), None);
    }
    assert_eq!(b.view(at(6)).calls, 65, "they are statistics");
    b.now(7, OK);
    b.now(7, OK).unwrap();
    for _ in 0..50 {
        assert_eq!(b.on_result(at(8), 1, false, FAIL, true, MIDDLE), None);
    }
    assert_eq!(b.now(8, FAIL), None);
    assert_eq!(b.view(at(8)).calls, 1, "what decides while closed is only what was asked since");
}

#[test]
fn an_ordinary_result_in_half_open_is_no_probe() {
    let mut b = half_open();
    for verdict in [FAIL, OK, OK, OK] {
        assert_eq!(b.on_result(at(6), b.epoch(), false, verdict, false, MIDDLE), None);
    }
}

#[test]
fn an_operator_trips_until_a_time_and_then_probes_decide() {
    let mut b = breaker();
    let transition = b.trip(at(1), Some(at(601)), "maintenance", "admin");
    assert_eq!((transition.from, transition.to, transition.epoch), (State::Closed, State::ForcedOpen, 2));
    assert_eq!(b.door(at(2)), Door::Shut { epoch: 2, until: Some(at(601)), operator: true });
    let view = b.view(at(2));
    assert_eq!((view.reason.as_str(), view.retry_at), ("maintenance (by admin)", Some(at(601))));
    b.trip(at(3), Some(at(100)), "shorter", "admin");
    assert_eq!(b.next_wake(), Some(at(601)), "a deadline only moves later");
    assert_eq!(b.on_time(at(600), MIDDLE), None);
    assert_eq!(b.on_time(at(601), MIDDLE).unwrap().cause, Cause::OperatorPeriodOver);
    assert_eq!(b.state(), State::HalfOpen);
}

#[test]
fn a_trip_without_end_lasts_until_reset() {
    let mut b = opened(0);
    b.trip(at(1), None, "broken", "admin");
    b.trip(at(2), Some(at(3)), "again", "admin");
    assert_eq!(b.next_wake(), None);
    assert_eq!(b.on_time(at(1_000_000), MIDDLE), None);
    let transition = b.reset(at(10), "repaired", "admin");
    assert_eq!((transition.from, transition.to), (State::ForcedOpen, State::Closed));
    assert_eq!(b.door(at(10)), Door::Open { epoch: b.epoch() }, "an operator's reset is trusted at once");
    assert_eq!(b.view(at(10)).calls, 0);
    for _ in 0..5 {
        b.now(11, FAIL);
    }
    assert_eq!(b.next_wake(), Some(at(16)), "earlier openings are forgotten");
}

#[test]
fn a_trip_never_ends_before_the_open_period_it_replaces() {
    let mut b = opened(0);
    b.trip(at(1), Some(at(2)), "short", "admin");
    assert_eq!(b.next_wake(), Some(at(5)));
}

#[test]
fn disabled_records_and_never_refuses() {
    let mut b = breaker();
    b.disable(at(0), "noisy", "admin");
    for _ in 0..100 {
        assert_eq!(b.now(1, FAIL), None);
    }
    let view = b.view(at(1));
    assert_eq!((view.state, view.calls, view.failure_rate), (State::Disabled, 100, 1.0));
    assert_eq!(b.door(at(1)), Door::Open { epoch: 2 });
    assert_eq!(b.next_wake(), None);
}

fn through_json(saved: &BreakerCheckpoint) -> BreakerCheckpoint {
    serde_json::from_str(&serde_json::to_string(saved).unwrap()).unwrap()
}

#[test]
fn a_restart_clamps_what_remains() {
    let wall = Wall(1_800_000_000_000_000);
    let settings = Arc::new(BreakerSettings::default());
    let saved = through_json(&opened(0).checkpoint(at(1), wall));
    let wake = |wall| Breaker::restore(Arc::clone(&settings), &saved, at(0), wall).next_wake();
    assert_eq!(wake(wall.plus(Duration::from_secs(3))), Some(at(1)));
    assert_eq!(wake(wall.plus(Duration::from_secs(3000))), Some(at(0)));
    assert_eq!(wake(wall.minus(Duration::from_secs(30_000))), Some(at(300)), "a clock set back by hours");

    let mut forced = breaker();
    forced.trip(at(1), Some(at(3601)), "maintenance", "admin");
    let saved = through_json(&forced.checkpoint(at(1), wall));
    let back = Breaker::restore(Arc::clone(&settings), &saved, at(0), wall.minus(Duration::from_secs(30_000)));
    assert_eq!(back.next_wake(), Some(at(3600)));
    assert_eq!(back.view(at(0)).reason, "maintenance (by admin)");
}

#[test]
fn half_open_comes_back_as_open_with_nothing_remaining() {
    let saved = half_open().checkpoint(at(6), Wall(1_800_000_000_000_000));
    let mut back = Breaker::restore(Arc::new(BreakerSettings::default()), &saved, at(0), saved.at);
    assert_eq!((back.state(), back.next_wake()), (State::Open, Some(at(0))));
    assert!(back.epoch() > 3);
    assert_eq!(back.on_time(at(0), MIDDLE).unwrap().to, State::HalfOpen);
    back.now(1, FAIL);
    assert_eq!(back.now(1, FAIL).unwrap().to, State::Open);
    assert_eq!(back.next_wake(), Some(at(11)), "the doubling goes on");
}

#[test]
fn causes_have_names_and_words_of_their_own() {
    let causes = [
        Cause::Start,
        Cause::FailureRate { rate: 0.5, calls: 10 },
        Cause::Consecutive { n: 5 },
        Cause::SlowRate { rate: 0.8, calls: 20 },
        Cause::OpenPeriodOver,
        Cause::ProbesSucceeded { n: 2 },
        Cause::ProbeFailed,
        Cause::NoVerdict,
        Cause::operator("r", "a"),
        Cause::OperatorPeriodOver,
        Cause::Restarted,
    ];
    let names: std::collections::BTreeSet<_> = causes.iter().map(Cause::as_str).collect();
    let words: std::collections::BTreeSet<_> = causes.iter().map(ToString::to_string).collect();
    assert_eq!((names.len(), words.len()), (causes.len(), causes.len()));
    assert_eq!(causes[1].to_string(), "50 % of 10 calls failed");
    for state in State::ALL {
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Wake,
    Result { stale: u64, verdict: Verdict, slow: bool },
    Trip(Option<u64>),
    Reset,
    Disable,
    Restart(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let verdict = prop_oneof![4 => Just(OK), 4 => Just(FAIL), 2 => Just(HALF), 1 => Just(Verdict::Neutral)];
    prop_oneof![
        10 => (0_u64..4).prop_map(Step::Wait),
        1 => (0_u64..400).prop_map(Step::Wait),
        6 => Just(Step::Wake),
        40 => (prop_oneof![5 => Just(0_u64), 1 => 1_u64..3], verdict, prop::bool::weighted(0.3))
            .prop_map(|(stale, verdict, slow)| Step::Result { stale, verdict, slow }),
        1 => prop::option::of(0_u64..500).prop_map(Step::Trip),
        1 => Just(Step::Reset),
        1 => Just(Step::Disable),
        1 => (0_u64..30).prop_map(Step::Restart),
    ]
}

/// The plain list of what was recorded, and what it says under the default settings. Times are whole seconds, so that the
/// window's buckets are exact.
#[derive(Default)]
struct Reference {
    samples: Vec<(u64, u32, bool)>,
    row: u32,
    /// Probes of the running half-open period: good and bad ones.
    probes: (u32, u32),
}

impl Reference {
    fn record(&mut self, now: u64, halves: u32, slow: bool) {
        self.samples.push((now, halves, slow));
    }

    fn rates(&self, now: u64) -> Rates {
        let live: Vec<_> = self.samples.iter().filter(|(at, ..)| now - at < 30).collect();
        let calls = u32::try_from(live.len()).unwrap();
        let halves: u32 = live.iter().map(|(_, halves, _)| halves).sum();
        let slow = live.iter().filter(|(.., slow)| *slow).count() as f64;
        let of = |n: f64| if calls == 0 { 0.0 } else { n / f64::from(calls) };
        Rates { calls, failure_rate: of(f64::from(halves) / 2.0), slow_rate: of(slow) }
    }

    fn opens(&self, now: u64) -> bool {
        let r = self.rates(now);
        self.row >= 10 || r.calls >= 10 && r.failure_rate >= 0.5 || r.calls >= 20 && r.slow_rate >= 0.8
    }
}

fn deadline(b: &Breaker) -> Option<Ts> {
    match b.state() {
        State::Open => b.next_wake(),
        State::ForcedOpen => Some(b.next_wake().unwrap_or(Ts(u64::MAX))),
        _ => None,
    }
}

fn legal(t: &Transition) -> bool {
    use State::{Closed, ForcedOpen, HalfOpen, Open};
    match &t.cause {
        Cause::FailureRate { .. } | Cause::Consecutive { .. } | Cause::SlowRate { .. } => {
            (t.from, t.to) == (Closed, Open)
        }
        Cause::OpenPeriodOver => (t.from, t.to) == (Open, HalfOpen),
        Cause::ProbesSucceeded { .. } => (t.from, t.to) == (HalfOpen, Closed),
        Cause::ProbeFailed | Cause::NoVerdict => (t.from, t.to) == (HalfOpen, Open),
        Cause::OperatorPeriodOver => (t.from, t.to) == (ForcedOpen, HalfOpen),
        Cause::Operator { .. } => t.to != Open && t.to != HalfOpen,
        Cause::Start | Cause::Restarted => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn follows_the_rules_over_any_history(steps in prop::collection::vec((step(), 0.0_f64..1.0), 1..400)) {
        let settings = Arc::new(BreakerSettings::default());
        let (mut b, mut reference) = (breaker(), Reference::default());
        let mut now = 0;
        let mut half_open_since = 0;
        for (step, roll) in steps {
            let (state, epoch, shut_until) = (b.state(), b.epoch(), deadline(&b));
            let mut transition = None;
            match step.clone() {
                Step::Wait(seconds) => now += seconds,
                Step::Wake => {
                    let due = b.next_wake().is_some_and(|wake| wake <= at(now));
                    transition = b.on_time(at(now), roll);
                    prop_assert_eq!(transition.is_some(), due);
                }
                Step::Result { stale, verdict, slow } => {
                    let of_epoch = epoch.saturating_sub(stale);
                    transition = b.on_result(at(now), of_epoch, state == State::HalfOpen, verdict, slow, roll);
                    let halves = match verdict { OK => Some(0), FAIL => Some(2), HALF => Some(1), _ => None };
                    if let Some(halves) = halves.filter(|_| of_epoch == epoch || state != State::Closed) {
                        reference.record(now, halves, slow);
                    }
                    if let Some(halves) = halves.filter(|_| of_epoch == epoch) {
                        reference.row = if halves == 0 { 0 } else { reference.row + halves };
                        match state {
                            State::Closed => prop_assert_eq!(transition.is_some(), reference.opens(now)),
                            State::HalfOpen => {
                                let (good, bad) = reference.probes;
                                reference.probes = if halves == 0 { (good + 1, bad) } else { (good, bad + 1) };
                                let (good, bad) = reference.probes;
                                prop_assert_eq!(transition.is_some(), good == 2 || bad == 2);
                            }
                            _ => prop_assert!(transition.is_none()),
                        }
                    } else {
                        prop_assert!(transition.is_none());
                    }
                }
                Step::Trip(seconds) => transition = Some(b.trip(at(now), seconds.map(|s| at(now + s)), "r", "a")),
                Step::Reset => transition = Some(b.reset(at(now), "r", "a")),
                Step::Disable => transition = Some(b.disable(at(now), "r", "a")),
                Step::Restart(seconds) => {
                    let wall = Wall(1_800_000_000_000_000);
                    let saved = through_json(&b.checkpoint(at(now), wall));
                    let before = (b.next_wake(), b.window().rates(at(now + seconds)));
                    now += seconds;
                    let later = wall.plus(Duration::from_secs(seconds));
                    b = Breaker::restore(Arc::clone(&settings), &saved, at(now), later);
                    prop_assert!(b.epoch() > epoch);
                    prop_assert_eq!(b.window().rates(at(now)), before.1);
                    if state == State::HalfOpen {
                        prop_assert_eq!((b.state(), b.next_wake()), (State::Open, Some(at(now))));
                    } else {
                        prop_assert_eq!(b.state(), state);
                        prop_assert_eq!(b.next_wake(), before.0.map(|wake| wake.max(at(now))));
                    }
                    continue;
                }
            }
            if let Some(t) = transition {
                prop_assert_eq!((t.from, t.to, t.epoch), (state, b.state(), b.epoch()));
                prop_assert_eq!(t.epoch, epoch + 1);
                prop_assert!(legal(&t), "{:?}", t);
                if t.to == State::Closed {
                    reference = Reference::default();
                }
                if t.to == State::HalfOpen {
                    reference.probes = (0, 0);
                    half_open_since = now;
                }
                if t.to == State::Open {
                    let period = b.next_wake().unwrap().since(at(now));
                    prop_assert!(Duration::from_secs(4) <= period && period <= settings.max_open_for);
                }
            } else {
                prop_assert_eq!((state, epoch), (b.state(), b.epoch()));
            }
            if let (Some(before), Some(after)) = (shut_until, deadline(&b)) {
                prop_assert!(after >= before, "a deadline moved earlier");
            }
            if b.state() == State::HalfOpen {
                prop_assert_eq!(b.next_wake(), Some(at(half_open_since + 60)));
            }
            let fits = matches!(
                (b.state(), b.door(at(now))),
                (State::Closed, Door::Open { .. } | Door::Ramp { .. })
                    | (State::Disabled, Door::Open { .. })
                    | (State::Open, Door::Shut { operator: false, until: Some(_), .. })
                    | (State::ForcedOpen, Door::Shut { operator: true, .. })
                    | (State::HalfOpen, Door::Probing { .. })
            );
            prop_assert!(fits);
            let (got, want) = (b.window().rates(at(now)), reference.rates(now));
            prop_assert_eq!(got.calls, want.calls);
            prop_assert!((got.failure_rate - want.failure_rate).abs() < 1e-12);
            prop_assert!((got.slow_rate - want.slow_rate).abs() < 1e-12);
        }
    }
}
