//! What tokens cost: prices by token class, and the exact cost of a usage.

use crate::domain::money::{NanoUsd, PicoUsdPerToken};
use crate::domain::usage::Usage;
use std::sync::Arc;

/// The price of one model at one endpoint. `version` goes into each ledger row, so that a row can be recomputed later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    pub input: PicoUsdPerToken,
    pub cached_input: PicoUsdPerToken,
    pub cache_write: PicoUsdPerToken,
    pub output: PicoUsdPerToken,
    pub reasoning: PicoUsdPerToken,
    pub long_context: Option<LongContext>,
    pub version: Arc<str>,
}

/// Prices that hold for the whole request once its prompt is longer than `above` tokens. The other classes scale with them:
/// cached and cache-written input as `input` does, reasoning as `output` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongContext {
    pub above: u64,
    pub input: PicoUsdPerToken,
    pub output: PicoUsdPerToken,
}

impl Price {
    /// A price with the defaults for the classes left out: cached and cache-written input as `input`, reasoning as `output`.
    #[must_use]
    pub fn flat(input: PicoUsdPerToken, output: PicoUsdPerToken, version: &str) -> Self {
        Self {
            input,
            cached_input: input,
            cache_write: input,
            output,
            reasoning: output,
            long_context: None,
            version: version.into(),
        }
    }

    /// The exact cost of `usage`, rounded half up to a whole nano-dollar once, at the end.
    #[must_use]
    pub fn cost(&self, usage: &Usage) -> NanoUsd {
        let long = self.long_context.filter(|l| usage.prompt() > l.above);
        let pico = |tokens: u64, price: PicoUsdPerToken| u128::from(tokens) * u128::from(price.0);
        let scaled = |tokens: u64, price: PicoUsdPerToken, base: PicoUsdPerToken, long: Option<PicoUsdPerToken>| {
            let plain = pico(tokens, price);
            match long {
                Some(long) if base.0 > 0 => plain * u128::from(long.0) / u128::from(base.0),
                Some(long) => pico(tokens, long),
                None => plain,
            }
        };
        let (long_in, long_out) = (long.map(|l| l.input), long.map(|l| l.output));
        let total = scaled(usage.input, self.input, self.input, long_in)
            + scaled(usage.cached_input, self.cached_input, self.input, long_in)
            + scaled(usage.cache_write, self.cache_write, self.input, long_in)
            + scaled(usage.output, self.output, self.output, long_out)
            + scaled(usage.reasoning, self.reasoning, self.output, long_out);
        NanoUsd(i64::try_from((total + 500) / 1000).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usd(text: &str) -> PicoUsdPerToken {
        PicoUsdPerToken::parse_usd_per_million(text).unwrap()
    }

    #[test]
    fn classes_and_tiers_are_priced_apart() {
        let mut price = Price::flat(usd("2.50"), usd("10"), "t");
        price.cached_input = usd("1.25");
        let usage = Usage { input: 100, cached_input: 50, cache_write: 0, output: 10, reasoning: 5 };
        // 100 × 2,500 + 50 × 1,250 + 15 × 10,000 nano-dollars
        assert_eq!(price.cost(&usage), NanoUsd(462_500));
        price.long_context = Some(LongContext { above: 149, input: usd("5"), output: usd("15") });
        assert_eq!(price.cost(&usage), NanoUsd(500_000 + 125_000 + 225_000));
    }

    #[test]
    fn rounds_once_half_up() {
        let price = Price::flat(usd("0.0005"), usd("0.0005"), "t");
        assert_eq!(price.cost(&Usage { input: 1, ..Usage::default() }), NanoUsd(1));
        assert_eq!(price.cost(&Usage { input: 1, output: 1, ..Usage::default() }), NanoUsd(1));
    }

    proptest! {
        #[test]
        fn more_tokens_never_cost_less(a in 0_u64..1 << 40, b in 0_u64..1 << 20, p in 0_u64..1_000_000_000) {
            let price = Price::flat(PicoUsdPerToken(p), PicoUsdPerToken(p), "t");
            let less = price.cost(&Usage { input: a, ..Usage::default() });
            let more = price.cost(&Usage { input: a + b, ..Usage::default() });
            prop_assert!(more >= less);
        }
    }
}
