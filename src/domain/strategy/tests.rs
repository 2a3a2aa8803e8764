use super::*;
use proptest::prelude::*;

/// An open, healthy, tried and priced candidate.
fn facts() -> CandidateFacts {
    CandidateFacts {
        weight: 1,
        quality: 0.8,
        est_cost: Some(NanoUsd(1_000_000)),
        ewma_ttft_us: Some(100_000.0),
        in_flight: 0,
        failure_rate: 0.0,
        samples: 100,
        blocked: false,
    }
}

/// The demo's four models: deepseek, gemini, gpt, claude.
fn demo() -> Vec<CandidateFacts> {
    [(7, 0.62, 420, 40_000.0), (3, 0.75, 2_500, 80_000.0), (1, 0.9, 8_000, 100_000.0), (1, 0.95, 15_000, 120_000.0)]
        .into_iter()
        .map(|(weight, quality, cost, ttft)| CandidateFacts {
            weight,
            quality,
            est_cost: Some(NanoUsd(cost)),
            ewma_ttft_us: Some(ttft),
            ..facts()
        })
        .collect()
}

fn fresh() -> CandidateFacts {
    CandidateFacts { ewma_ttft_us: None, samples: 0, ..facts() }
}

fn order_of(kind: StrategyKind, facts: &[CandidateFacts], cursor: &mut Cursor, roll: f64) -> Vec<u32> {
    let mut out = Vec::new();
    rank(kind, facts, cursor, roll, &mut out);
    out.iter().map(|r| r.index).collect()
}

/// How often each candidate leads in `n` rankings with evenly spread rolls.
fn leaders(kind: StrategyKind, facts: &[CandidateFacts], n: u32) -> Vec<u32> {
    let mut cursor = Cursor::default();
    let mut out = Vec::new();
    let mut counts = vec![0; facts.len()];
    for i in 0..n {
        // The golden ratio spreads the rolls without a pattern that could match the rotation.
        let roll = (f64::from(i) * 0.618_033_988_749_894_9).fract();
        rank(kind, facts, &mut cursor, roll, &mut out);
        counts[out[0].index as usize] += 1;
    }
    counts
}

#[test]
fn each_strategy_orders_the_demos_models_by_its_measure() {
    use StrategyKind::*;
    for (kind, expected) in [
        (LeastLatency, [0, 1, 2, 3]),
        (CostBased, [0, 1, 2, 3]),
        (Priority, [0, 1, 2, 3]),
        (BestQuality, [3, 2, 1, 0]),
        (Balanced, [0, 1, 2, 3]),
        (RoundRobin, [0, 1, 2, 3]),
        (Weighted, [0, 1, 2, 3]),
    ] {
        assert_eq!(order_of(kind, &demo(), &mut Cursor::default(), 0.0), expected, "{}", kind.as_str());
    }
}

#[test]
fn ten_thousand_rankings_spread_as_each_strategy_says() {
    use StrategyKind::*;
    let all = leaders;
    assert_eq!(all(RoundRobin, &demo(), 10_000), [2_500; 4]);
    assert_eq!(all(Weighted, &demo(), 12_000), [7_000, 3_000, 1_000, 1_000]);
    assert_eq!(all(LeastLatency, &demo(), 10_000), [10_000, 0, 0, 0]);
    assert_eq!(all(CostBased, &demo(), 10_000), [10_000, 0, 0, 0]);
    assert_eq!(all(Priority, &demo(), 10_000), [10_000, 0, 0, 0]);
    assert_eq!(all(BestQuality, &demo(), 10_000), [0, 0, 0, 10_000]);
    assert_eq!(all(Balanced, &demo(), 10_000), [10_000, 0, 0, 0]);
    assert_eq!(all(Intelligent, &demo(), 10_000), [10_000, 0, 0, 0]);
    // Equals share evenly under every strategy but the listed order.
    for kind in StrategyKind::ALL {
        let expected = if kind == Priority { [10_000, 0, 0, 0] } else { [2_500; 4] };
        assert_eq!(all(kind, &[facts(); 4], 10_000), expected, "{}", kind.as_str());
    }
}

#[test]
fn latency_follows_load_and_a_slow_start_of_failures() {
    let mut c = demo();
    c[0].in_flight = 2; // 40 ms × 3 = 120 ms, behind 80 and 100, level with 120
    assert_eq!(order_of(StrategyKind::LeastLatency, &c, &mut Cursor::default(), 0.0), [1, 2, 0, 3]);
    c[1].ewma_ttft_us = Some(2_000_000.0); // failures counted as 5 s have raised it
    assert_eq!(order_of(StrategyKind::LeastLatency, &c, &mut Cursor::default(), 0.0), [2, 0, 3, 1]);
}

#[test]
fn ties_of_a_measure_fall_back_on_the_next() {
    let mut c = demo();
    c[0].est_cost = c[1].est_cost;
    c[0].ewma_ttft_us = Some(90_000.0);
    assert_eq!(order_of(StrategyKind::CostBased, &c, &mut Cursor::default(), 0.0), [1, 0, 2, 3]);
    c[2].quality = 0.95; // as good as the last and cheaper
    assert_eq!(order_of(StrategyKind::BestQuality, &c, &mut Cursor::default(), 0.0), [2, 3, 1, 0]);
}

#[test]
fn costs_that_differ_by_a_nano_dollar_are_not_equal() {
    let a = CandidateFacts { est_cost: Some(NanoUsd(9_000_000_001)), ewma_ttft_us: Some(1.0), ..facts() };
    let b = CandidateFacts { est_cost: Some(NanoUsd(9_000_000_000)), ewma_ttft_us: Some(9e9), ..facts() };
    assert_eq!(order_of(StrategyKind::CostBased, &[a, b], &mut Cursor::default(), 0.0), [1, 0]);
}

#[test]
fn a_balanced_ranking_weighs_failures_and_cost_as_set() {
    let mut c = vec![facts(); 2];
    c[0].failure_rate = 0.4;
    assert_eq!(order_of(StrategyKind::Balanced, &c, &mut Cursor::default(), 0.0), [1, 0]);
    c[1].est_cost = None; // unpriced counts as the dearest
    assert_eq!(order_of(StrategyKind::Balanced, &c, &mut Cursor::default(), 0.0), [0, 1]);
    let no_cost = BlendWeights { cost: 0.0, ..BlendWeights::default() };
    let settings = RankSettings { balanced: no_cost, ..RankSettings::default() };
    let order = Order { settings, ..Order::by(StrategyKind::Balanced) };
    let mut out = Vec::new();
    rank_with(&order, &c, &mut Cursor::default(), 0.0, &mut out);
    assert_eq!(out[0].index, 1);
    // 0.3 × cost 0, 0.2 × latency 0, 0.3 × 0.2, 0.2 × 0.4, of weights that sum to 1.
    rank(StrategyKind::Balanced, &[c[0]], &mut Cursor::default(), 0.0, &mut out);
    assert!((out[0].score - 0.14).abs() < 1e-6, "{}", out[0].score);
}

#[test]
fn a_quality_floor_moves_the_worse_behind_and_never_removes_them() {
    let ranked = |floor: f32, facts: &[CandidateFacts]| {
        let order = Order { min_quality: floor, ..Order::by(StrategyKind::CostBased) };
        let mut out = Vec::new();
        let applied = rank_with(&order, facts, &mut Cursor::default(), 0.0, &mut out);
        (out.iter().map(|r| r.index).collect::<Vec<_>>(), applied.floor_missed)
    };
    assert_eq!(ranked(0.85, &demo()), (vec![2, 3, 1, 0], false));
    assert_eq!(ranked(0.99, &demo()), (vec![3, 2, 1, 0], true));
    assert_eq!(ranked(f32::NAN, &demo()), (vec![0, 1, 2, 3], false));
    let mut c = demo();
    c[2].blocked = true;
    c[3].blocked = true;
    assert_eq!(ranked(0.85, &c), (vec![1, 0, 2, 3], true), "blocked is behind even when good");
}

/// Endpoints whose quality nobody has set are all alike and below most floors: the strategies must work among them.
#[test]
fn equals_below_the_floor_are_ranked_and_explored_as_ever() {
    use StrategyKind::{Balanced, BestQuality, CostBased, LeastLatency};
    let mut c: Vec<_> = demo().into_iter().map(|f| CandidateFacts { quality: 0.5, ..f }).collect();
    c.reverse();
    c.push(CandidateFacts { quality: 0.5, est_cost: Some(NanoUsd(20_000)), ..fresh() });
    for kind in [CostBased, BestQuality, LeastLatency, Balanced] {
        let order = Order { min_quality: 0.7, ..Order::by(kind) };
        let mut out = Vec::new();
        let mut first = |roll| {
            let applied = rank_with(&order, &c, &mut Cursor::default(), roll, &mut out);
            assert!(applied.floor_missed);
            out[0].index
        };
        assert_eq!(first(0.5), 3, "{}", kind.as_str());
        let explored = if matches!(kind, LeastLatency | Balanced) { 4 } else { 3 };
        assert_eq!(first(0.01), explored, "{}", kind.as_str());
    }
}

#[test]
fn rotation_skips_the_blocked_without_doubling_their_successor() {
    let mut c = vec![facts(); 4];
    c[1].blocked = true;
    assert_eq!(leaders(StrategyKind::RoundRobin, &c, 9_000), [3_000, 0, 3_000, 3_000]);
}

#[test]
fn weight_zero_leads_only_when_nobody_else_is_open() {
    let mut c = demo();
    c[1].weight = 0;
    assert_eq!(leaders(StrategyKind::Weighted, &c, 9_000), [7_000, 0, 1_000, 1_000]);
    assert_eq!(order_of(StrategyKind::Weighted, &c, &mut Cursor::default(), 0.0)[3], 1);
    for i in [0, 2, 3] {
        c[i].blocked = true;
    }
    assert_eq!(leaders(StrategyKind::Weighted, &c, 10), [0, 10, 0, 0]);
}

#[test]
fn weighted_turns_are_spread_and_not_in_bursts() {
    let c: Vec<_> = [5, 1, 1].into_iter().map(|weight| CandidateFacts { weight, ..facts() }).collect();
    let mut cursor = Cursor::default();
    let turns: Vec<u32> = (0..7).map(|_| order_of(StrategyKind::Weighted, &c, &mut cursor, 0.0)[0]).collect();
    assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn a_changed_weight_or_count_starts_the_credits_anew() {
    let weighted = |w: &[u32]| w.iter().map(|&weight| CandidateFacts { weight, ..facts() }).collect::<Vec<_>>();
    let mut cursor = Cursor::default();
    order_of(StrategyKind::Weighted, &weighted(&[1_000_000, 1]), &mut cursor, 0.0);
    // With the old debt of a million, the first would wait a million turns.
    let led = |facts: &[CandidateFacts], cursor: &mut Cursor| {
        (0..6).filter(|_| order_of(StrategyKind::Weighted, facts, cursor, 0.0)[0] == 0).count()
    };
    assert_eq!(led(&weighted(&[1, 1]), &mut cursor), 3);
    assert_eq!(led(&weighted(&[1, 1, 1]), &mut cursor), 2);
    assert_eq!(led(&weighted(&[5]), &mut cursor), 6);
}

#[test]
fn a_blocked_candidate_comes_back_without_a_burst() {
    let mut c: Vec<_> = [2, 1, 1].into_iter().map(|weight| CandidateFacts { weight, ..facts() }).collect();
    let mut cursor = Cursor::default();
    let mut out = Vec::new();
    c[0].blocked = true;
    for _ in 0..1_000 {
        rank(StrategyKind::Weighted, &c, &mut cursor, 0.0, &mut out);
    }
    c[0].blocked = false;
    let led = (0..8).filter(|_| order_of(StrategyKind::Weighted, &c, &mut cursor, 0.0)[0] == 0).count();
    assert_eq!(led, 4);
}

#[test]
fn workers_start_at_different_places() {
    for kind in [StrategyKind::RoundRobin, StrategyKind::LeastLatency, StrategyKind::CostBased] {
        let starts: Vec<u32> =
            [0.1, 0.3, 0.6, 0.9].map(|roll| order_of(kind, &[facts(); 4], &mut Cursor::default(), roll)[0]).to_vec();
        assert_eq!(starts, [0, 1, 2, 3], "{}", kind.as_str());
    }
    let starts = [0.1, 0.3, 0.6, 0.9].map(|roll| {
        let mut cursor = Cursor::default();
        (0..4).map(|_| order_of(StrategyKind::Weighted, &demo(), &mut cursor, roll)[0]).collect::<Vec<_>>()
    });
    assert!(starts.iter().any(|s| *s != starts[0]), "{starts:?}");
}

#[test]
fn one_strategys_requests_leave_anothers_turns_alone() {
    let turns = |disturbed: bool| {
        let mut cursors = Cursors::default();
        (0..12)
            .map(|_| {
                if disturbed {
                    for other in [StrategyKind::RoundRobin, StrategyKind::BestQuality, StrategyKind::Intelligent] {
                        order_of(other, &demo(), cursors.of(other), 0.7);
                    }
                }
                order_of(StrategyKind::Weighted, &demo(), cursors.of(StrategyKind::Weighted), 0.0)
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(turns(false), turns(true));
}

#[test]
fn a_newcomer_is_explored_with_a_small_share_and_is_no_failovers_last_resort() {
    for (tried, new) in [(1, 1), (3, 1), (2, 2), (9, 1), (30, 10), (1, 49)] {
        let mut c = vec![facts(); tried];
        c.extend(vec![fresh(); new]);
        for kind in
            [StrategyKind::LeastLatency, StrategyKind::CostBased, StrategyKind::BestQuality, StrategyKind::Balanced]
        {
            let counts = leaders(kind, &c, 10_000);
            let most = 10_000 / (tried + new) as u32;
            for (i, count) in counts.iter().enumerate().skip(tried) {
                assert!((100..=most + 20).contains(count), "{} {tried}+{new}: {i} led {count}", kind.as_str());
            }
        }
    }
    // Neither best nor worst: with the mean of 40, 100 and 160 ms the newcomer stands amid them.
    let mut c: Vec<_> = [40e3, 90e3, 160e3].map(|t| CandidateFacts { ewma_ttft_us: Some(t), ..facts() }).to_vec();
    c.push(fresh());
    assert_eq!(order_of(StrategyKind::LeastLatency, &c, &mut Cursor::default(), 0.5), [0, 1, 3, 2]);
    assert_eq!(order_of(StrategyKind::LeastLatency, &c, &mut Cursor::default(), 0.01), [3, 0, 1, 2]);
    // One failure, held as 5 s, ends the exploring.
    c[3] = CandidateFacts { ewma_ttft_us: Some(5e6), samples: 1, failure_rate: 1.0, ..facts() };
    assert_eq!(order_of(StrategyKind::LeastLatency, &c, &mut Cursor::default(), 0.01), [0, 1, 2, 3]);
}

#[test]
fn a_blocked_or_too_poor_newcomer_is_not_explored() {
    let blocked = CandidateFacts { blocked: true, ..fresh() };
    assert_eq!(leaders(StrategyKind::LeastLatency, &[facts(), blocked], 1_000), [1_000, 0]);
    let poor = CandidateFacts { quality: 0.3, ..fresh() };
    let mut out = Vec::new();
    for kind in [StrategyKind::LeastLatency, StrategyKind::Balanced] {
        for floor in [0.5, 0.95] {
            let order = Order { min_quality: floor, ..Order::by(kind) };
            let applied = rank_with(&order, &[facts(), poor], &mut Cursor::default(), 0.0, &mut out);
            assert_eq!((out[0].index, applied.explored), (0, false), "{} {floor}", kind.as_str());
        }
    }
}

#[test]
fn says_what_it_did() {
    let mut out = Vec::new();
    let c = [facts(), fresh()];
    let applied = rank(StrategyKind::LeastLatency, &c, &mut Cursor::default(), 0.0, &mut out);
    let expected = Applied { strategy: StrategyKind::LeastLatency, explored: true, floor_missed: false };
    assert_eq!(applied, expected);
    let applied = rank(StrategyKind::Intelligent, &c, &mut Cursor::default(), 0.9, &mut out);
    assert_eq!((applied.strategy, applied.explored), (StrategyKind::Balanced, false));
    assert!(RankSettings::default().faults().is_empty());
    let bad = BlendWeights { cost: 0.0, latency: 0.0, quality: 0.0, failure_rate: 0.0 };
    assert_eq!(RankSettings { explore: f32::NAN, balanced: bad }.faults().len(), 2);
}

#[test]
fn nothing_to_rank_is_an_empty_ranking() {
    for kind in StrategyKind::ALL {
        assert!(order_of(kind, &[], &mut Cursor::default(), 0.5).is_empty());
    }
}

#[test]
fn names_round_trip() {
    for kind in StrategyKind::ALL {
        assert_eq!(StrategyKind::parse(kind.as_str()), Some(kind));
    }
    assert_eq!(StrategyKind::parse("lowest_latency"), Some(StrategyKind::LeastLatency));
    assert_eq!(StrategyKind::parse("fastest"), None);
}

fn any_float() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => 0.0_f32..1.0,
        1 => prop::num::f32::ANY,
        1 => prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0, f32::MAX, f32::MIN]),
    ]
}

prop_compose! {
    fn any_facts()(
        weight in prop_oneof![Just(0), 0_u32..20, any::<u32>()],
        quality in any_float(),
        est_cost in prop::option::of(prop_oneof![4 => 0_i64..1_000_000, 1 => any::<i64>()]),
        ewma in prop::option::of(prop_oneof![4 => 0.0_f32..10e6, 1 => any_float()]),
        in_flight in prop_oneof![4 => 0_u32..300, 1 => any::<u32>()],
        failure_rate in any_float(),
        samples in 0_u64..3,
        blocked in any::<bool>(),
    ) -> CandidateFacts {
        let est_cost = est_cost.map(NanoUsd);
        CandidateFacts { weight, quality, est_cost, ewma_ttft_us: ewma, in_flight, failure_rate, samples, blocked }
    }
}

fn any_kind() -> impl Strategy<Value = StrategyKind> {
    prop::sample::select(StrategyKind::ALL.to_vec())
}

proptest! {
    /// Whatever the facts, settings, rolls and changes of the list: all candidates once, blocked last, no NaN.
    #[test]
    fn a_ranking_is_a_permutation_with_the_blocked_last(
        lists in prop::collection::vec(prop::collection::vec(any_facts(), 0..12), 1..6),
        kind in any_kind(),
        min_quality in any_float(),
        blend in [any_float(), any_float(), any_float(), any_float()],
        explore in any_float(),
        roll in prop_oneof![4 => 0.0..1.0, 1 => prop::num::f64::ANY],
    ) {
        let [cost, latency, quality, failure_rate] = blend;
        let balanced = BlendWeights { cost, latency, quality, failure_rate };
        let order = Order { strategy: kind, min_quality, settings: RankSettings { explore, balanced } };
        let mut cursor = Cursor::default();
        let mut out = Vec::new();
        for facts in &lists {
            rank_with(&order, facts, &mut cursor, roll, &mut out);
            let mut seen: Vec<u32> = out.iter().map(|r| r.index).collect();
            prop_assert!(out.iter().all(|r| !r.score.is_nan()));
            let blocked: Vec<bool> = seen.iter().map(|i| facts[*i as usize].blocked).collect();
            prop_assert!(blocked.is_sorted(), "{blocked:?}");
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..facts.len() as u32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn rotation_is_exact_over_any_whole_number_of_rounds(
        n in 1_usize..20, blocked in prop::collection::vec(any::<bool>(), 20), roll in 0.0..1.0, rounds in 1_usize..4,
    ) {
        let c: Vec<_> = blocked.iter().take(n).map(|&blocked| CandidateFacts { blocked, ..facts() }).collect();
        let open = c.iter().filter(|f| !f.blocked).count();
        prop_assume!(open > 0);
        let mut cursor = Cursor::default();
        let mut counts = vec![0; n];
        for _ in 0..open * rounds {
            counts[order_of(StrategyKind::RoundRobin, &c, &mut cursor, roll)[0] as usize] += 1;
        }
        for (f, count) in c.iter().zip(counts) {
            prop_assert_eq!(count, if f.blocked { 0 } else { rounds });
        }
    }

    #[test]
    fn weights_are_exact_over_a_full_cycle(
        weights in prop::collection::vec(0_u32..9, 1..8), roll in 0.0..1.0, cycles in 1_u32..3,
    ) {
        let total: u32 = weights.iter().sum();
        prop_assume!(total > 0);
        let c: Vec<_> = weights.iter().map(|&weight| CandidateFacts { weight, ..facts() }).collect();
        let mut cursor = Cursor::default();
        let mut counts = vec![0; weights.len()];
        for _ in 0..total * cycles {
            counts[order_of(StrategyKind::Weighted, &c, &mut cursor, roll)[0] as usize] += 1;
        }
        let expected: Vec<u32> = weights.iter().map(|w| w * cycles).collect();
        prop_assert_eq!(counts, expected);
    }

    #[test]
    fn an_unpriced_candidate_never_comes_before_an_open_priced_one(
        mut c in prop::collection::vec(any_facts(), 1..10), new in any_facts(), roll in 0.0..1.0,
    ) {
        for f in &mut c {
            f.est_cost = f.est_cost.or(Some(NanoUsd(i64::MAX)));
            f.blocked = false;
        }
        c.push(CandidateFacts { est_cost: None, ..new });
        let last = c.len() as u32 - 1;
        let order = order_of(StrategyKind::CostBased, &c, &mut Cursor::default(), roll);
        prop_assert_eq!(order.last(), Some(&last));
    }

    #[test]
    fn cost_quality_and_priority_are_sorted(mut c in prop::collection::vec(any_facts(), 1..10), roll in 0.0..1.0) {
        for f in &mut c {
            f.blocked = false;
            f.quality = if f.quality.is_nan() { 0.5 } else { f.quality.clamp(0.0, 1.0) };
        }
        let sorted = |kind| order_of(kind, &c, &mut Cursor::default(), roll).into_iter().map(|i| c[i as usize]);
        let cost = |f: CandidateFacts| f.est_cost.map_or(i64::MAX, |x| x.0.max(0));
        prop_assert!(sorted(StrategyKind::CostBased).map(cost).is_sorted());
        prop_assert!(sorted(StrategyKind::BestQuality).map(|f| 1.0 - f.quality).is_sorted());
        prop_assert!(order_of(StrategyKind::Priority, &c, &mut Cursor::default(), roll).is_sorted());
    }
}
