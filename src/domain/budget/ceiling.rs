//! What an attempt can cost at most, and how long an answer an amount pays for.
//!
//! The ceiling holds for every way in which the tokens may be split into classes and price tiers: of all prices that could hold for
//! a prompt's token the dearest is taken, and so for a generated token. So a cache write that costs more than plain input, or a
//! long prompt's second tier, cannot carry a call past what was reserved for it.

use crate::domain::money::{NanoUsd, PicoUsdPerToken};
use crate::domain::price::Price;

/// Longest answer that is ever reckoned with, tokens.
const MOST_TOKENS: u64 = 1 << 40;

/// The most that a call with at most `prompt` and `completion` tokens can cost, rounded up to a whole nano-dollar.
#[must_use]
pub fn ceiling(price: &Price, prompt: u64, completion: u64) -> NanoUsd {
    let (input, output) = dearest(price, prompt);
    let pico = input.of(prompt) + output.of(completion);
    NanoUsd(i64::try_from(pico.div_ceil(1000)).unwrap_or(i64::MAX))
}

/// The most completion tokens, at most `most`, that `amount` pays for after a prompt of `prompt` tokens; `None` when it does not
/// pay for a single one.
#[must_use]
pub fn affordable(price: &Price, prompt: u64, most: u64, amount: NanoUsd) -> Option<u64> {
    let fits = |tokens: u64| ceiling(price, prompt, tokens) <= amount;
    if !fits(1) {
        return None;
    }
    let (mut low, mut high) = (1, most.clamp(1, MOST_TOKENS));
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Some(low)
}

/// A price as a fraction, in pico-dollars: a class's own price scaled by that of a tier.
#[derive(Clone, Copy)]
struct Rate {
    pico: u128,
    numerator: u128,
    denominator: u128,
}

impl Rate {
    fn plain(price: PicoUsdPerToken) -> Self {
        Self { pico: u128::from(price.0), numerator: 1, denominator: 1 }
    }

    /// As [`Price::cost`] scales a class in the dearer tier.
    fn scaled(price: PicoUsdPerToken, base: PicoUsdPerToken, long: PicoUsdPerToken) -> Self {
        match base.0 {
            0 => Self::plain(long),
            base => Self { pico: u128::from(price.0), numerator: u128::from(long.0), denominator: u128::from(base) },
        }
    }

    fn of(self, tokens: u64) -> u128 {
        (u128::from(tokens).saturating_mul(self.pico).saturating_mul(self.numerator)).div_ceil(self.denominator)
    }
}

/// The dearest rates that can hold for a token of the prompt and for a generated one.
fn dearest(price: &Price, prompt: u64) -> (Rate, Rate) {
    let inputs = [price.input, price.cached_input, price.cache_write];
    let outputs = [price.output, price.reasoning];
    let long = price.long_context.filter(|long| prompt > long.above);
    let top = |classes: &[PicoUsdPerToken], base: PicoUsdPerToken, long: Option<PicoUsdPerToken>| {
        let plain = classes.iter().map(|class| Rate::plain(*class));
        let scaled = classes.iter().filter_map(|class| Some(Rate::scaled(*class, base, long?)));
        // Compared over so many tokens that rounding hides nothing.
        plain.chain(scaled).max_by_key(|rate| rate.of(MOST_TOKENS)).unwrap_or(Rate::plain(base))
    };
    (top(&inputs, price.input, long.map(|long| long.input)), top(&outputs, price.output, long.map(|long| long.output)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::price::LongContext;
    use crate::domain::usage::Usage;
    use proptest::prelude::*;

    prop_compose! {
        fn any_price()(
            p in proptest::collection::vec(0_u64..200_000_000, 7), above in 0_u64..5_000, tiered in any::<bool>(),
        ) -> Price {
            let pico = PicoUsdPerToken;
            let mut price = Price::flat(pico(p[0]), pico(p[1]), "t");
            (price.cached_input, price.cache_write, price.reasoning) = (pico(p[2]), pico(p[3]), pico(p[4]));
            price.long_context = tiered.then_some(LongContext { above, input: pico(p[5]), output: pico(p[6]) });
            price
        }
    }

    proptest! {
        #[test]
        fn no_usage_within_the_tokens_costs_more(
            price in any_price(), split in proptest::collection::vec(0_u64..4_000, 5), spare in 0_u64..2_000,
        ) {
            let usage = Usage {
                input: split[0], cached_input: split[1], cache_write: split[2], output: split[3], reasoning: split[4],
            };
            let most = ceiling(&price, usage.prompt() + spare, usage.completion() + spare);
            prop_assert!(price.cost(&usage) <= most, "{} over {most}", price.cost(&usage));
        }

        #[test]
        fn what_is_affordable_is_paid_for_and_one_more_is_not(
            price in any_price(), prompt in 0_u64..10_000, most in 1_u64..100_000, amount in 0_i64..2_000_000_000,
        ) {
            match affordable(&price, prompt, most, NanoUsd(amount)) {
                Some(tokens) => {
                    prop_assert!((1..=most).contains(&tokens));
                    prop_assert!(ceiling(&price, prompt, tokens) <= NanoUsd(amount));
                    prop_assert!(tokens == most || ceiling(&price, prompt, tokens + 1) > NanoUsd(amount));
                }
                None => prop_assert!(ceiling(&price, prompt, 1) > NanoUsd(amount)),
            }
        }
    }

    #[test]
    fn the_dearest_class_counts() {
        let pico = PicoUsdPerToken;
        let mut price = Price::flat(pico(1_000_000), pico(2_000_000), "t");
        assert_eq!(ceiling(&price, 10, 5), NanoUsd(20_000));
        price.cache_write = pico(1_250_000);
        assert_eq!(ceiling(&price, 10, 5), NanoUsd(22_500));
        assert_eq!(affordable(&price, 10, 100, NanoUsd(22_499)), Some(4));
        assert_eq!(affordable(&price, 10, 100, NanoUsd(14_499)), None);
    }
}
