use super::*;
use crate::domain::complexity::{PromptScan, classify};
use crate::domain::strategy::{CandidateFacts, Cursor, rank_with};
use Complexity::{Complex, Medium, Simple};

const FREE: RequestHints = RequestHints { tier: Some(Tier::Free), latency_sensitive: false, max_cost: None };
const PREMIUM: RequestHints = RequestHints { tier: Some(Tier::Premium), latency_sensitive: false, max_cost: None };
const NONE: RequestHints = RequestHints { tier: None, latency_sensitive: false, max_cost: None };

fn quick(hints: RequestHints) -> RequestHints {
    RequestHints { latency_sensitive: true, ..hints }
}

#[test]
fn the_tier_table_decides_and_names_its_rule() {
    use StrategyKind::{Balanced, BestQuality, CostBased, LeastLatency};
    let capped = RequestHints { max_cost: Some(NanoUsd(1)), ..NONE };
    for (complexity, hints, strategy, min_quality, rule) in [
        (Simple, PREMIUM, BestQuality, 0.5, "premium.simple"),
        (Complex, PREMIUM, BestQuality, 0.85, "premium.complex"),
        (Complex, quick(PREMIUM), LeastLatency, 0.85, "premium.complex.latency_sensitive"),
        (Simple, FREE, CostBased, 0.5, "free.simple"),
        (Medium, FREE, CostBased, 0.7, "free.medium"),
        (Complex, quick(FREE), CostBased, 0.85, "free.complex.latency_sensitive"),
        (Medium, capped, CostBased, 0.7, "capped.medium"),
        (Medium, RequestHints { max_cost: Some(NanoUsd(1)), ..PREMIUM }, BestQuality, 0.7, "premium.medium"),
        (Simple, NONE, CostBased, 0.5, "default.simple"),
        (Medium, NONE, Balanced, 0.7, "default.medium"),
        (Complex, NONE, BestQuality, 0.85, "default.complex"),
        (Medium, quick(NONE), LeastLatency, 0.7, "default.medium.latency_sensitive"),
    ] {
        let choice = decide(&IntelligentSettings::default(), complexity, &hints);
        assert_eq!(choice, Choice { strategy, min_quality, rule });
    }
}

#[test]
fn a_cell_may_have_its_own_strategy_and_floor() {
    let mut settings = IntelligentSettings::default();
    settings.tiers.free.usual.complex = Cell { strategy: StrategyKind::Weighted, min_quality: Some(0.3) };
    let choice = decide(&settings, Complex, &FREE);
    assert_eq!((choice.strategy, choice.min_quality), (StrategyKind::Weighted, 0.3));
}

/// From a prompt to the endpoint, with the demo's four models.
#[test]
fn the_cheapest_that_is_good_enough_gets_a_free_request_and_the_best_a_premium_one() {
    let models = [(0.62, 420, 40e3), (0.75, 2_500, 80e3), (0.9, 8_000, 100e3), (0.95, 15_000, 120e3)];
    let facts = models.map(|(quality, cost, ttft)| CandidateFacts {
        weight: 1,
        quality,
        est_cost: Some(NanoUsd(cost)),
        ewma_ttft_us: Some(ttft),
        in_flight: 0,
        failure_rate: 0.0,
        samples: 10,
        blocked: false,
    });
    let settings = IntelligentSettings::default();
    let first = |prompt: &str, hints: RequestHints| {
        let mut scan = PromptScan::new(&settings);
        scan.feed(prompt);
        let complexity = classify(&scan.finish(None), &settings).complexity;
        let order = decide(&settings, complexity, &hints).order(RankSettings::default());
        let mut out = Vec::new();
        rank_with(&order, &facts, &mut Cursor::default(), 0.5, &mut out);
        assert_eq!(out.len(), facts.len());
        out[0].index
    };
    let simple = "你好，请问明天北京的天气怎么样？";
    let medium = "请用Python写一个函数，从数据库读取订单并按客户汇总金额，再加上单元测试。";
    let complex = "Analysiere und vergleiche Schritt für Schritt die Algorithmen Raft und Paxos; beweise die Konsistenz der Transaktionen, begründe ausführlich.";
    assert_eq!([simple, medium, complex].map(|p| first(p, FREE)), [0, 1, 2]);
    assert_eq!([simple, medium, complex].map(|p| first(p, PREMIUM)), [3, 3, 3]);
    assert_eq!([simple, medium, complex].map(|p| first(p, quick(PREMIUM))), [0, 1, 2]);
    assert_eq!([simple, medium, complex].map(|p| first(p, NONE)), [0, 1, 3]);
}

#[test]
fn the_defaults_are_valid_and_faults_are_named_by_path() {
    assert_eq!(IntelligentSettings::default().faults(), []);
    let mut s = IntelligentSettings { complex_from: 0.1, ..IntelligentSettings::default() };
    s.weights.code = f32::NAN;
    s.scale.length_full = 30;
    s.scale.terms_full = 0;
    s.quality.medium = 1.1;
    s.tiers.default.latency_sensitive.complex = Cell { strategy: StrategyKind::Intelligent, min_quality: Some(-0.1) };
    let paths: Vec<String> = s.faults().into_iter().map(|(path, _)| path).collect();
    let cell = "tiers.default.latency_sensitive.complex";
    let expected = ["complex_from", "weights.code", "scale.length_full", "scale.terms_full", "quality.medium", cell];
    assert_eq!(paths[..6], expected);
    assert_eq!(paths[6..], [format!("{cell}.min_quality")]);
}

#[test]
fn tiers_are_read_by_name() {
    for tier in [Tier::Free, Tier::Premium] {
        assert_eq!(Tier::parse(tier.as_str()), Some(tier));
    }
    assert_eq!(Tier::parse("gold"), None);
}
