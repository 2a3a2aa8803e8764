use super::*;
use proptest::prelude::*;

const NOW: Ts = Ts(7_200_000_000);

fn table(values_us: &[u64]) -> QuantileTable {
    let mut recorder = LatencyRecorder::new(NOW);
    values_us.iter().for_each(|us| recorder.record(NOW, *us));
    QuantileTable::of(&recorder, NOW)
}

fn steady(us: u64, count: usize) -> QuantileTable {
    table(&vec![us; count])
}

fn wish(ms: u64, is_deadline: bool) -> Wish {
    Wish { within: Duration::from_millis(ms), measured: Measured::Whole, target: 0.95, is_deadline }
}

/// Orders candidates of these tables and costs, all open, from the strategy's order 0, 1, 2 …
fn ordered(wish: Wish, all: &[(QuantileTable, Option<i64>)], roll: f64) -> (Vec<u32>, Judged, Vec<f32>) {
    let mut ranking: Vec<u32> = (0..u32::try_from(all.len()).unwrap()).collect();
    let mut chances: Vec<_> = all.iter().map(|(table, _)| Chance::of(table, &wish)).collect();
    let judged =
        order(wish, &mut ranking, |i| *i, &mut chances, |i| (true, all[i as usize].1.map(NanoUsd)), 0.05, roll);
    (ranking, judged, chances.iter().map(|c| c.p).collect())
}

#[test]
fn the_cheapest_that_is_in_time_leads_and_the_late_follow_by_chance() {
    let mixed = table(&[vec![100_000; 60], vec![900_000; 40]].concat());
    let all = [
        (steady(900_000, 100), Some(1)),
        (steady(100_000, 100), Some(30)),
        (mixed, Some(2)),
        (steady(200_000, 100), Some(20)),
        (steady(50_000, 100), None),
    ];
    let (ranking, judged, p) = ordered(wish(500, true), &all, 0.5);
    assert_eq!((ranking, judged.in_time), (vec![3, 1, 4, 2, 0], 3));
    assert!(p[0] < 0.01 && (0.55..0.7).contains(&p[2]) && p[3] > 0.99, "{p:?}");
    assert!(!judged.lost_cause && !judged.explored);
}

#[test]
fn who_would_refuse_stays_last_whatever_its_chance() {
    let all = [steady(10, 100), steady(900_000, 100)];
    let (mut ranking, wish) = (vec![0, 1], wish(500, false));
    let mut chances = all.map(|t| Chance::of(&t, &wish));
    let judged = order(wish, &mut ranking, |i| *i, &mut chances, |i| (i == 1, None), 0.05, 0.5);
    assert_eq!((ranking, judged.in_time), (vec![1, 0], 0));
}

#[test]
fn the_unknown_count_as_the_mean_and_are_explored_a_little() {
    let all = [(steady(600_000, 100), Some(5)), (QuantileTable::default(), Some(1)), (steady(100_000, 100), Some(9))];
    let (ranking, judged, p) = ordered(wish(500, false), &all, 0.5);
    assert_eq!((ranking, judged.explored), (vec![2, 1, 0], false));
    assert!((p[1] - 0.5).abs() < 0.01, "{p:?}");
    let (ranking, judged, _) = ordered(wish(500, false), &all, 0.01);
    assert_eq!((ranking, judged.explored), (vec![1, 2, 0], true));
    // Where nothing is known of anybody, the strategy's order stays.
    let none = [(QuantileTable::default(), Some(5)), (QuantileTable::default(), Some(1))];
    for roll in [0.01, 0.5] {
        assert_eq!(ordered(wish(500, true), &none, roll).0, [0, 1]);
    }
}

#[test]
fn a_deadline_that_nobody_keeps_is_lost_a_wish_never_is() {
    let slow = |count| (steady(900_000, count), Some(1));
    assert!(ordered(wish(500, true), &[slow(100), slow(200)], 0.5).1.lost_cause);
    assert!(!ordered(wish(500, false), &[slow(100), slow(200)], 0.5).1.lost_cause, "a wish");
    assert!(!ordered(wish(500, true), &[slow(100), slow(99)], 0.5).1.lost_cause, "not known well enough");
    let tried = ordered(wish(500, true), &[slow(100), slow(200)], 0.01).1;
    assert!(!tried.lost_cause && tried.explored, "now and then it is tried");
    assert!(!ordered(wish(500, true), &[], 0.5).1.lost_cause);
}

#[test]
fn a_stream_is_in_time_with_its_first_token_a_whole_answer_with_its_end() {
    let ms = Duration::from_millis;
    let slo = Some(Slo { ttft: ms(2_000), target: 0.9 });
    let of = |stream, deadline, ttft, route| {
        Wish::of(stream, deadline, ttft, route).map(|w| (w.within, w.measured, w.target, w.is_deadline))
    };
    assert_eq!(of(true, None, None, slo), Some((ms(2_000), Measured::FirstToken, 0.9, false)));
    assert_eq!(of(true, None, Some(ms(300)), slo), Some((ms(300), Measured::FirstToken, 0.9, false)));
    assert_eq!(of(true, Some(ms(200)), Some(ms(300)), None), Some((ms(200), Measured::FirstToken, 0.95, true)));
    assert_eq!(of(false, Some(ms(700)), Some(ms(300)), slo), Some((ms(700), Measured::Whole, 0.9, true)));
    assert_eq!(of(false, None, Some(ms(300)), slo), None);
    assert_eq!(of(true, None, None, None), None);
}

proptest! {
    /// The table's share lies between the shares at its neighbouring points, which are counted in the values themselves.
    #[test]
    fn a_share_is_right_to_its_points(values in prop::collection::vec(1_u64..5_000_000, 1..400), us in 0_u64..6_000_000) {
        let table = table(&values);
        let told = f64::from(table.share_within(us));
        // HDR keeps two digits: a value may be told up to 1 % off.
        let share = |bound: f64| values.iter().filter(|v| **v as f64 <= bound).count() as f64 / values.len() as f64;
        let (low, high) = (share(us as f64 / 1.02), share(us as f64 * 1.02));
        let gap = |q: f64| POINTS.windows(2).find(|w| w[0] <= q && q <= w[1]).map_or(0.0, |w| w[1] - w[0]);
        let slack = gap(low).max(gap(high)).max(0.05) + 1.0 / values.len() as f64;
        prop_assert!(low - slack <= told && told <= high + slack, "{told} for {low}..{high}");
        prop_assert!(table.share_within(us) <= table.share_within(us + 1_000));
    }

    /// Nobody is lost; groups come in order; among the in-time the first is cheapest and the rest keep the strategy's order.
    #[test]
    fn an_order_is_what_the_rules_say(
        all in prop::collection::vec((1_u64..1_000_000, 0_usize..150, any::<bool>(), prop::option::of(0_i64..5)), 1..20),
        roll in 0.0_f64..1.0,
    ) {
        let tables: Vec<_> = all.iter().map(|(us, n, ..)| steady(*us, *n)).collect();
        let w = wish(500, true);
        let mut ranking: Vec<u32> = (0..u32::try_from(all.len()).unwrap()).collect();
        let mut chances: Vec<_> = tables.iter().map(|t| Chance::of(t, &w)).collect();
        let of = |i: u32| (all[i as usize].2, all[i as usize].3.map(NanoUsd));
        let judged = order(w, &mut ranking, |i| *i, &mut chances, of, 0.05, roll);
        let mut everybody = ranking.clone();
        everybody.sort_unstable();
        prop_assert_eq!(everybody, (0..u32::try_from(all.len()).unwrap()).collect::<Vec<_>>());
        let (leaders, rest) = ranking.split_at(judged.in_time as usize);
        if let Some((first, others)) = leaders.split_first() {
            let price = |i: &u32| of(*i).1.map_or(i64::MAX, |c| c.0);
            prop_assert!(others.iter().all(|o| price(first) <= price(o)));
            prop_assert!(others.is_sorted(), "{leaders:?}");
        }
        let open = rest.iter().take_while(|i| of(**i).0).count();
        prop_assert!(rest[open..].iter().all(|i| !of(*i).0) && rest[open..].is_sorted());
        let p = |i: &u32| chances[*i as usize].p;
        prop_assert!(rest[..open].windows(2).all(|w| p(&w[0]) >= p(&w[1])));
        prop_assert!(leaders.iter().all(|i| of(*i).0 && (p(i) >= 0.95 || judged.explored)));
    }
}
