//! Money as integers: [`NanoUsd`] for amounts, [`PicoUsdPerToken`] for prices. No float ever holds money.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// An amount in nano-dollars (10⁻⁹ USD). Additions saturate, at about ± 9.2 billion dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NanoUsd(pub i64);

impl NanoUsd {
    pub const ZERO: Self = Self(0);

    /// Reads a plain decimal amount of dollars such as `0.05` or `12`.
    ///
    /// # Errors
    /// What is wrong with the text: not a decimal number, negative, more than nine decimals, or too large.
    pub fn parse_usd(text: &str) -> Result<Self, String> {
        decimal(text, 9).map(Self)
    }

    /// The amount in dollars, for display and JSON only.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn usd(self) -> f64 {
        self.0 as f64 / 1e9
    }

    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for NanoUsd {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for NanoUsd {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for NanoUsd {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

/// Exact decimal dollars without trailing zeros, at least two decimals: `0.000420`, `1.50`.
impl fmt::Display for NanoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let abs = self.0.unsigned_abs();
        let (mut decimals, mut digits) = (abs % 1_000_000_000, 9);
        while digits > 2 && decimals % 10 == 0 {
            decimals /= 10;
            digits -= 1;
        }
        write!(f, "{sign}{}.{decimals:0digits$}", abs / 1_000_000_000)
    }
}

/// A price in pico-dollars (10⁻¹² USD) per token: USD per 1,000,000 tokens times 10⁶, so six decimals of a listed price are exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PicoUsdPerToken(pub u64);

impl PicoUsdPerToken {
    /// Reads a price in USD per 1,000,000 tokens, such as `0.42`.
    ///
    /// # Errors
    /// What is wrong with the text: not a decimal number, negative, more than six decimals, or too large.
    pub fn parse_usd_per_million(text: &str) -> Result<Self, String> {
        decimal(text, 6).map(|n| Self(n.unsigned_abs()))
    }

    /// USD per 1,000,000 tokens, for display and ranking only.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn usd_per_million(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

/// Exact decimal dollars per 1,000,000 tokens, at least two decimals: `0.42`, `0.0375`.
impl fmt::Display for PicoUsdPerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut decimals = format!("{:06}", self.0 % 1_000_000);
        while decimals.len() > 2 && decimals.ends_with('0') {
            decimals.pop();
        }
        write!(f, "{}.{decimals}", self.0 / 1_000_000)
    }
}

/// Reads a non-negative plain decimal as an integer count of 10⁻ᵖˡᵃᶜᵉˢ.
fn decimal(text: &str, places: u32) -> Result<i64, String> {
    let bad = || format!("`{text}` is not a plain non-negative decimal number");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty() || !digits(whole) || !digits(fraction) || text.ends_with('.') {
        return Err(bad());
    }
    let fraction = fraction.trim_end_matches('0');
    let used = u32::try_from(fraction.len()).map_err(|_| bad())?;
    if used > places {
        return Err(format!("`{text}` has more than {places} decimals"));
    }
    let parse = |s: &str| if s.is_empty() { Ok(0) } else { s.parse::<i64>() };
    let too_large = |_| format!("`{text}` is too large");
    let scale = 10_i64.pow(places);
    let whole = parse(whole).map_err(too_large)?;
    let part = parse(fraction).map_err(too_large)?.saturating_mul(10_i64.pow(places - used));
    whole.checked_mul(scale).and_then(|w| w.checked_add(part)).ok_or_else(|| format!("`{text}` is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_and_writes_exact_decimals() {
        assert_eq!(NanoUsd::parse_usd("0.000000001"), Ok(NanoUsd(1)));
        assert_eq!(NanoUsd::parse_usd("12"), Ok(NanoUsd(12_000_000_000)));
        assert_eq!(NanoUsd(1_500_000_000).to_string(), "1.50");
        assert_eq!(NanoUsd(-420).to_string(), "-0.00000042");
        assert_eq!(PicoUsdPerToken::parse_usd_per_million("0.42"), Ok(PicoUsdPerToken(420_000)));
        for bad in ["", ".", "-1", "1e3", "1.", "0.0000000001", "99999999999", "１"] {
            assert!(NanoUsd::parse_usd(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn display_round_trips(n in 0_i64..i64::MAX) {
            prop_assert_eq!(NanoUsd::parse_usd(&NanoUsd(n).to_string()), Ok(NanoUsd(n)));
            let price = PicoUsdPerToken(n.unsigned_abs());
            prop_assert_eq!(PicoUsdPerToken::parse_usd_per_million(&price.to_string()), Ok(price));
        }
    }
}
