//! Usage objects as vendors really send them, with the exact cost of each: `golden/usage.json`, one line a case.

use crate::dialects::openai::answer::{Answer, Chunk};
use crate::dialects::openai::usage::Reported;
use crate::domain::money::{NanoUsd, PicoUsdPerToken};
use crate::domain::price::{LongContext, Price};
use crate::domain::usage::Usage;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Case {
    vendor: String,
    what: String,
    usage: Value,
    /// `None`: must not be believed.
    tokens: Option<Usage>,
    #[serde(default)]
    audio: u64,
    price: Option<Listed>,
    nanousd: Option<i64>,
}

/// USD per 1,000,000 tokens.
#[derive(Deserialize)]
struct Listed {
    input: String,
    output: String,
    cached_input: Option<String>,
    cache_write: Option<String>,
    long_context: Option<Long>,
}

#[derive(Deserialize)]
struct Long {
    above: u64,
    input: String,
    output: String,
}

impl Listed {
    fn price(&self) -> Price {
        let usd = |text: &String| PicoUsdPerToken::parse_usd_per_million(text).unwrap();
        let mut price = Price::flat(usd(&self.input), usd(&self.output), "golden");
        price.cached_input = self.cached_input.as_ref().map_or(price.input, usd);
        price.cache_write = self.cache_write.as_ref().map_or(price.input, usd);
        price.long_context = self.long_context.as_ref().map(|l| LongContext {
            above: l.above,
            input: usd(&l.input),
            output: usd(&l.output),
        });
        price
    }
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("../golden/usage.json")).unwrap()
}

fn answer(usage: &Value) -> Option<Reported> {
    let json = serde_json::json!({"choices": [{"message": {"role": "assistant", "content": "hi"}}], "usage": usage});
    Answer::read(json.to_string().as_bytes()).unwrap().usage
}

#[test]
fn every_vendors_usage_has_its_exact_cost() {
    let cases = cases();
    assert!(cases.len() >= 39, "the table only grows: {}", cases.len());
    for case in &cases {
        let name = format!("{}: {}", case.vendor, case.what);
        let reported = answer(&case.usage);
        assert_eq!(reported.map(|r| r.usage), case.tokens, "{name}");
        let Some(reported) = reported else { continue };
        assert_eq!(reported.audio, case.audio, "{name}");
        let price = case.price.as_ref().unwrap().price();
        assert_eq!(Some(price.cost(&reported.usage)), case.nanousd.map(NanoUsd), "{name}");
    }
    let vendors = ["openai", "azure", "deepseek", "gemini", "xai", "mistral", "openrouter", "moonshot", "groq"];
    assert!(vendors.iter().all(|v| cases.iter().any(|c| c.vendor == *v)));
}

#[test]
fn a_streams_usage_reads_as_a_whole_answers() {
    for case in cases() {
        let last = serde_json::json!({"choices": [], "usage": case.usage});
        let chunk = last.to_string();
        assert_eq!(Chunk::read(chunk.as_bytes()).unwrap().usage, answer(&case.usage), "{}: {}", case.vendor, case.what);
    }
    // Moonshot's last chunk has it in its choice.
    let chunk = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop","usage":{"prompt_tokens":8,"completion_tokens":2,"cached_tokens":3}}]}"#;
    let usage = Usage { input: 5, cached_input: 3, output: 2, ..Usage::default() };
    assert_eq!(Chunk::read(chunk.as_bytes()).unwrap().usage, Some(Reported { usage, audio: 0 }));
}

/// Gateways that price the whole prompt at the input price, or that count cached tokens once within the prompt and once beside it,
/// are off by up to five times. Here each token has one class and one price.
#[test]
fn cached_tokens_are_not_mispriced_by_a_factor_of_five() {
    let case = cases().into_iter().find(|c| c.vendor == "deepseek" && c.what == "hit and miss").unwrap();
    let usage = answer(&case.usage).unwrap().usage;
    assert_eq!(usage.prompt(), 1_000, "hits and misses make up the prompt, once");
    let price = case.price.unwrap().price();
    let prompt_only = price.cost(&Usage { output: 0, ..usage });
    // 104 × 280 + 896 × 28 nano-dollars.
    assert_eq!(prompt_only, NanoUsd(104 * 280 + 896 * 28));
    let all_at_full_price = price.cost(&Usage { input: 1_000, ..Usage::default() });
    let twice = price.cost(&Usage { input: 1_000, cached_input: 896, ..Usage::default() });
    assert!(all_at_full_price.0 >= 5 * prompt_only.0, "the mistake that this guards against is this large");
    assert!(twice.0 > 5 * prompt_only.0);
}
