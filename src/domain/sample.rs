//! Ledger entries for the tests.

use crate::domain::ledger::Entry;
use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;
use crate::domain::usage::{Usage, UsageSource};
use proptest::prelude::*;
use std::sync::Arc;

/// 2026-11-23T18:00:00Z.
pub(crate) const START: Wall = Wall(1_795_456_800_000_000);

/// The `n`th of a long list of plausible entries, 10 ms apart.
pub(crate) fn nth(n: u64) -> Entry {
    let i = usize::try_from(n % 4).unwrap();
    let outcome = match n % 11 {
        7 => "server_error",
        9 => "cancelled",
        _ => "success",
    };
    let priced = !n.is_multiple_of(13);
    Entry {
        at: Wall(START.0 + i64::try_from(n).unwrap() * 10_000),
        request_id: format!("req_{:026}", n / 2).into(),
        attempt: u16::try_from(n % 2 + 1).unwrap(),
        endpoint: ["deepseek", "gemini", "gpt", "claude"][i].into(),
        provider: ["holysheep", "google", "openai", "anthropic"][i].into(),
        model: ["deepseek-v3.2", "gemini-2.5-flash", "gpt-4.1", "claude-sonnet-4.5"][i].into(),
        route: "chat".into(),
        key_id: format!("key_{}", n % 3).into(),
        tags: if n.is_multiple_of(5) {
            Arc::new([("team".into(), format!("t{}", n % 7).into())])
        } else {
            Arc::new([])
        },
        outcome: outcome.into(),
        http_status: if outcome == "server_error" { 500 } else { 200 },
        stream: n.is_multiple_of(3),
        latency_us: 40_000 + (n * 7_919) % 100_000,
        ttft_us: (n.is_multiple_of(3)).then_some(12_000),
        usage: Usage { input: 100 + n % 17, cached_input: n % 3, cache_write: 0, output: 20 + n % 5, reasoning: n % 2 },
        usage_source: UsageSource::Reported,
        cost: priced.then(|| NanoUsd(i64::try_from(51_000 + n % 1_000).unwrap())),
        price_version: if priced { "2026-11".into() } else { "unpriced".into() },
        decision: format!("cost_based/{}", i + 1).into(),
    }
}

/// Any entry whose tags are sorted and unique.
pub(crate) fn entry() -> impl Strategy<Value = Entry> {
    let text = || "[ -~é\n\"]{0,12}".prop_map(Arc::<str>::from);
    let names = (text(), text(), text(), text(), text(), text(), text(), text(), text());
    let tags = prop::collection::btree_map("[a-z]{1,4}", ".{0,6}", 0..4)
        .prop_map(|tags| tags.into_iter().map(|(k, v)| (k.into(), v.into())).collect::<Arc<[(Box<str>, Box<str>)]>>());
    let tokens = || prop_oneof![Just(0_u64), any::<u64>()];
    let usage = (tokens(), tokens(), tokens(), tokens(), tokens());
    let source = prop::sample::select(vec![UsageSource::Reported, UsageSource::Estimated, UsageSource::None]);
    let numbers = (0_i64..7_200_000_000, 1_u16..9, any::<u16>(), any::<bool>(), any::<u64>());
    (
        names,
        tags,
        usage,
        source,
        numbers,
        any::<Option<u64>>(),
        prop::option::of(-1_000_000_000_000_000_i64..1_000_000_000_000_000),
    )
        .prop_map(
            |(names, tags, usage, usage_source, (after, attempt, http_status, stream, latency_us), ttft_us, cost)| {
                Entry {
                    at: Wall(START.0 + after),
                    request_id: names.0,
                    attempt,
                    endpoint: names.1,
                    provider: names.2,
                    model: names.3,
                    route: names.4,
                    key_id: names.5,
                    tags,
                    outcome: names.6,
                    http_status,
                    stream,
                    latency_us,
                    ttft_us,
                    usage: Usage {
                        input: usage.0,
                        cached_input: usage.1,
                        cache_write: usage.2,
                        output: usage.3,
                        reasoning: usage.4,
                    },
                    usage_source,
                    cost: cost.map(NanoUsd),
                    price_version: names.7,
                    decision: names.8,
                }
            },
        )
}
