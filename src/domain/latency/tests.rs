use super::*;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000;

fn at(seconds: u64) -> Ts {
    Ts(seconds * SECOND)
}

/// Whether `got` is `want` to two significant digits.
fn close(got: u64, want: u64) -> bool {
    got.abs_diff(want) * 100 <= want.max(100)
}

#[test]
fn summarises_to_two_digits() {
    let mut r = LatencyRecorder::new(at(0));
    assert_eq!(r.summary(at(0)), Summary::default());
    assert_eq!((r.quantile(at(0), 0.5), r.probability_within(at(0), 1)), (None, None));
    for ms in 1..=1000 {
        r.record(at(1), ms * 1000);
    }
    let s = r.summary(at(1));
    assert_eq!(s.count, 1000);
    let got = [s.p50_us, s.p90_us, s.p99_us, s.p999_us, s.max_us];
    for (got, want) in got.into_iter().zip([500_000, 900_000, 990_000, 999_000, 1_000_000]) {
        assert!(close(got, want), "{got} {want}");
    }
    assert!((r.probability_within(at(1), 250_000).unwrap() - 0.25).abs() < 0.01);
    assert_eq!(r.quantiles(at(1), [0.5, 0.99]), Some([s.p50_us, s.p99_us]));
    assert_eq!(r.quantile(at(1), 0.5), Some(s.p50_us));
}

#[test]
fn values_outside_the_range_count_as_its_bounds() {
    let mut r = LatencyRecorder::new(at(0));
    r.record(at(1), 0);
    r.record(at(1), u64::MAX);
    let s = r.summary(at(1));
    assert_eq!(s.count, 2);
    assert!(close(s.max_us, MAX_US), "{}", s.max_us);
}

#[test]
fn slots_leave_one_by_one() {
    let mut r = LatencyRecorder::new(at(0));
    for minute in 0..7 {
        r.record(at(minute * 60), 1000 * (minute + 1));
    }
    let counts: Vec<_> = [6, 7, 9, 10, 11].map(|minute| r.count(at(minute * 60))).into();
    assert_eq!(counts, [5, 4, 2, 1, 0]);
    assert!(close(r.quantile(at(10 * 60), 1.0).unwrap(), 7000));
    r.age(at(10 * 60));
    r.record(at(10 * 60), 50_000);
    assert!(close(r.summary(at(10 * 60)).p50_us, 7000));
    assert_eq!(r.summary(at(10 * 60)).count, 2);
}

#[test]
fn a_damaged_checkpoint_cannot_break_the_sums() {
    let slot = |us, n| SlotCheckpoint { age_us: 0, counts: vec![(us, n); 3].into() };
    let from = LatencyCheckpoint { slots: vec![slot(5, u32::MAX), slot(u32::MAX, u32::MAX - 9), slot(0, 7)] };
    let r = LatencyRecorder::restore(&from, at(1000), Duration::ZERO);
    let s = r.summary(at(1000));
    assert!(s.count <= u64::from(u32::MAX) && s.p999_us <= s.max_us);
}

#[test]
fn an_average_jumps_to_a_peak_and_comes_back_to_the_base() {
    let mut e = PeakEwma::default();
    assert_eq!(e.value(at(0)), None);
    for n in 0..100 {
        e.observe(Ts(at(10).0 + n * 10_000), 40_000);
    }
    assert_eq!(e.value(at(11)).map(f64::round), Some(40_000.0));
    assert_eq!(e.value(at(70)).map(f64::round), Some(40_000.0), "idle changes nothing");
    e.penalize(at(71), 5_000_000);
    assert_eq!(e.value(at(71)).map(f64::round), Some(5_000_000.0));
    let later = e.value(at(81)).unwrap();
    assert!((1_800_000.0..1_900_000.0).contains(&later), "{later}");
    assert!(e.value(at(200)).unwrap() < 50_000.0);
    e.observe(at(201), 300_000);
    assert!(e.value(at(201)).unwrap() >= 300_000.0, "a peak counts at once");
    assert_eq!(e.value(at(501)), None, "five minutes without a word");
}

#[test]
fn an_endpoint_that_only_failed_looks_worse_than_a_slow_one() {
    let mut e = PeakEwma::default();
    e.penalize(at(10), 5_000_000);
    e.penalize(at(12), 100);
    assert!(e.value(at(12)).unwrap() > 4_000_000.0);
    e.observe(at(100), 80_000);
    assert!(close(e.value(at(130)).unwrap() as u64, 80_000));
}

#[test]
fn an_average_survives_a_restart() {
    let mut e = PeakEwma::default();
    e.observe(at(10), 40_000);
    e.penalize(at(11), 900_000);
    let wall = Wall(1_700_000_000_000_000);
    let saved: EwmaCheckpoint =
        serde_json::from_str(&serde_json::to_string(&e.checkpoint(at(12), wall)).unwrap()).unwrap();
    let back = PeakEwma::restore(&saved, at(5000), wall.plus(Duration::from_secs(5)));
    assert!((back.value(at(5000)).unwrap() - e.value(at(17)).unwrap()).abs() < 1.0);
    let bad = EwmaCheckpoint { peak_us: f64::NAN, ..saved };
    assert_eq!(PeakEwma::restore(&bad, at(5000), wall).value(at(5000)), None);
}

proptest! {
    /// Counts and quantiles are those of a plain list of the values of the newest five minutes, over restarts too.
    #[test]
    fn equals_a_list_of_values(
        steps in prop::collection::vec((0_u64..90 * SECOND, 1_u64..100_000_000, 0_u8..30), 1..150),
    ) {
        let mut r = LatencyRecorder::new(Ts(0));
        let mut values = Vec::new();
        let mut now = 0;
        for (wait, us, op) in steps {
            now += wait;
            match op {
                0 => {
                    // The same clock goes on, so a restart without delay loses and moves nothing.
                    r = LatencyRecorder::restore(&r.checkpoint(Ts(now)), Ts(now), Duration::ZERO);
                }
                1 => r.age(Ts(now)),
                _ => {
                    r.record(Ts(now), us);
                    values.push((now, us));
                }
            }
            let minute = |us: u64| us / (60 * SECOND);
            let mut live: Vec<_> =
                values.iter().filter(|(at, _)| minute(*at) + 5 > minute(now)).map(|(_, us)| *us).collect();
            live.sort_unstable();
            prop_assert_eq!(r.count(Ts(now)), live.len() as u64);
            if let Some(median) = live.get(live.len().div_ceil(2).max(1) - 1) {
                prop_assert!(close(r.quantile(Ts(now), 0.5).unwrap(), *median));
            }
        }
    }
}
