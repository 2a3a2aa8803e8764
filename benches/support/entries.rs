//! Ledger entries to measure with: plausible attempts of a month in which a hundred keys are used every hour.

use breakwater::domain::ledger::Entry;
use breakwater::domain::money::NanoUsd;
use breakwater::domain::time::Wall;
use breakwater::domain::usage::{Usage, UsageSource};
use std::sync::Arc;

/// Middle of a month, so that a few weeks take two of the ledger's folders.
pub const START: Wall = Wall(1_794_700_800_000_000);

/// The `n`th of a long list of plausible attempts: four endpoints, a hundred keys, a tag on each fifth, one in eleven failed.
pub fn nth(n: u64, step_us: u64) -> Entry {
    let pick = |names: [&str; 4]| -> Arc<str> { names[(n % 4) as usize].into() };
    let failed = n % 11 == 7;
    let (input, output) = (100 + n * 37 % 3_000, 20 + n * 13 % 500);
    let team = || ("team".into(), format!("t{}", n % 7).into());
    Entry {
        at: Wall(START.0.saturating_add(i64::try_from(n.saturating_mul(step_us)).unwrap_or(i64::MAX))),
        request_id: format!("req_{n:026}").into(),
        attempt: 1,
        endpoint: pick(["deepseek", "gemini", "gpt", "claude"]),
        provider: pick(["holysheep", "google", "openai", "anthropic"]),
        model: pick(["deepseek-v3.2", "gemini-2.5-flash", "gpt-4.1", "claude-sonnet-4.5"]),
        route: "chat".into(),
        key_id: format!("key_{:012}", n * 7_919 % 100).into(),
        tags: if n.is_multiple_of(5) { Arc::new([team()]) } else { Arc::new([]) },
        outcome: if failed { "server_error" } else { "success" }.into(),
        http_status: if failed { 500 } else { 200 },
        stream: n.is_multiple_of(3),
        latency_us: 40_000 + n * 7_919 % 2_000_000,
        ttft_us: n.is_multiple_of(3).then_some(12_000 + n * 31 % 90_000),
        usage: if failed { Usage::default() } else { Usage { input, output, ..Usage::default() } },
        usage_source: if failed { UsageSource::None } else { UsageSource::Reported },
        cost: Some(NanoUsd(if failed { 0 } else { i64::try_from(input * 420 + output * 420).unwrap_or(0) })),
        price_version: "config".into(),
        decision: "cost_based/1".into(),
    }
}
