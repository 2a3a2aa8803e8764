//! Who gets how many of 10,000 requests under each strategy.

use crate::support::{Gateway, Reply, Setup, Upstream, chat_body, ms};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const REQUESTS: usize = 10_000;
/// HTTP workers of the gateway: each has cursors of its own, so an exact share may be off by one per worker.
const WORKERS: usize = 2;
const NAMES: [&str; 4] = ["deepseek", "gemini", "gpt", "claude"];
/// Prices, qualities and weights of the founding use case.
const SETTINGS: [[&str; 3]; 4] = [
    ["price: {input: 0.42, output: 0.42}", "quality: 0.62", "weight: 7"],
    ["price: {input: 2.50, output: 2.50}", "quality: 0.75", "weight: 1"],
    ["price: {input: 8.00, output: 8.00}", "quality: 0.88", "weight: 2"],
    ["price: {input: 15.00, output: 15.00}", "quality: 0.95", "weight: 0"],
];

struct Fleet {
    gateway: Gateway,
    upstreams: Vec<Upstream>,
}

impl Fleet {
    async fn start(strategy: &str, endpoints: usize, replies: [Reply; 4]) -> Self {
        let upstreams: Vec<_> = replies.into_iter().map(Upstream::start_with).take(endpoints).collect();
        let mut setup = Setup::new();
        for (i, upstream) in upstreams.iter().enumerate() {
            upstream.forget_bodies();
            let settings: Vec<_> = SETTINGS[i].iter().copied().filter(|s| *s != "weight: 0").collect();
            setup = setup.endpoint(NAMES[i], upstream, &settings);
        }
        let setup = setup.route("chat", strategy, &NAMES[..endpoints], &[]);
        Self { gateway: Gateway::start(&setup).await, upstreams }
    }

    /// Sends all requests, `lanes` at a time, and counts what each endpoint got.
    async fn spread(&self, requests: usize, lanes: usize, body: impl Fn(usize) -> Value) -> Vec<usize> {
        let before = self.counts();
        let next = Arc::new(AtomicUsize::new(0));
        let lane = async || loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= requests {
                return;
            }
            self.gateway.chat(&body(n)).await.expect(200);
        };
        futures_util::future::join_all((0..lanes).map(|_| lane())).await;
        let counts: Vec<_> = self.counts().iter().zip(before).map(|(now, before)| now - before).collect();
        assert_eq!(counts.iter().sum::<usize>(), requests, "one call per request: {counts:?}");
        counts
    }

    fn counts(&self) -> Vec<usize> {
        self.upstreams.iter().map(Upstream::calls).collect()
    }
}

const FAST: [Reply; 4] = [Reply::Completion, Reply::Completion, Reply::Completion, Reply::Completion];
const DELAYS: [Reply; 4] = [Reply::Slow(ms(2)), Reply::Slow(ms(150)), Reply::Slow(ms(250)), Reply::Slow(ms(350))];

async fn spread(strategy: &str, endpoints: usize, replies: [Reply; 4], lanes: usize) -> Vec<usize> {
    Fleet::start(strategy, endpoints, replies).await.spread(REQUESTS, lanes, |_| chat_body("chat")).await
}

#[tokio::test]
async fn round_robin_gives_equal_shares() {
    for n in spread("round_robin", 4, FAST, 32).await {
        assert!(n.abs_diff(REQUESTS / 4) <= WORKERS, "{n}");
    }
}

#[tokio::test]
async fn weighted_gives_shares_by_weight() {
    let counts = spread("weighted", 3, FAST, 32).await;
    for (n, share) in counts.iter().zip([7, 1, 2]) {
        assert!(n.abs_diff(REQUESTS * share / 10) <= WORKERS, "{counts:?}");
    }
}

#[tokio::test]
async fn cost_based_sends_everything_to_the_cheapest() {
    assert_eq!(spread("cost_based", 4, FAST, 32).await, [REQUESTS, 0, 0, 0]);
}

#[tokio::test]
async fn priority_sends_everything_to_the_first() {
    assert_eq!(spread("priority", 4, FAST, 32).await, [REQUESTS, 0, 0, 0]);
}

#[tokio::test]
async fn best_quality_sends_everything_to_the_best() {
    assert_eq!(spread("best_quality", 4, FAST, 32).await, [0, 0, 0, REQUESTS]);
}

#[tokio::test]
async fn least_latency_prefers_the_fastest_and_looks_at_the_others() {
    let counts = spread("least_latency", 4, DELAYS, 4).await;
    assert!(counts[0] >= REQUESTS * 9 / 10, "the fastest gets nearly all: {counts:?}");
    assert!(counts.iter().all(|n| *n > 0), "each is looked at: {counts:?}");
}

#[tokio::test]
async fn lowest_latency_is_another_name_for_it() {
    let fleet = Fleet::start("lowest_latency", 2, DELAYS).await;
    let counts = fleet.spread(500, 4, |_| chat_body("chat")).await;
    assert!(counts[0] > counts[1] * 4, "{counts:?}");
}

#[tokio::test]
async fn balanced_prefers_what_is_cheap_fast_and_good_enough() {
    let counts = spread("balanced", 4, DELAYS, 8).await;
    assert!(counts[0] > REQUESTS / 2, "cheapest and fastest: {counts:?}");
    assert!(counts[0] > counts[3], "dearest and slowest: {counts:?}");
}

const HARD: &str = "Prove rigorously that the following distributed consensus algorithm is linearizable under asynchronous \
network partitions, then derive a formal complexity bound, compare it step by step with Paxos and Raft, analyse every edge case, \
and implement it in Rust:\n```rust\nfn elect(nodes: &[Node], term: u64) -> Option<Leader> { unimplemented!() }\n```\nExplain the \
trade-offs and justify each lemma mathematically with induction over the log.";

/// A request that is easy or hard.
fn graded(n: usize) -> Value {
    let text = if n.is_multiple_of(2) { "Hi!".to_owned() } else { HARD.repeat(8) };
    json!({"model": "chat", "messages": [{"role": "user", "content": text}]})
}

#[tokio::test]
async fn intelligent_sends_easy_prompts_to_the_cheap_and_hard_ones_to_the_good() {
    let fleet = Fleet::start("intelligent", 4, FAST).await;
    let easy = fleet.spread(REQUESTS / 2, 32, |_| graded(0)).await;
    assert!(easy[0] >= REQUESTS / 2 * 9 / 10, "easy prompts go to the cheapest: {easy:?}");
    let hard = fleet.spread(REQUESTS / 2, 32, |_| graded(1)).await;
    assert!(hard[2] + hard[3] >= REQUESTS / 2 * 9 / 10, "hard prompts go to the two best: {hard:?}");
}

#[tokio::test]
async fn a_hint_overrides_the_strategy_of_the_route() {
    let fleet = Fleet::start("cost_based", 4, FAST).await;
    let counts = fleet
        .spread(100, 4, |_| {
            let mut body = chat_body("chat");
            body["breakwater"] = json!({"strategy": "best_quality"});
            body
        })
        .await;
    assert_eq!(counts, [0, 0, 0, 100]);
}
