//! What single values look like: durations, sizes, numbers, shares, prices, names.
//!
//! Every function here makes a reader of one scalar: `Ok` with the value, or what is allowed instead. A message never repeats the
//! value, which may hold a secret put in from a variable; the caller quotes what stands in the file.

use crate::config::tree::Scalar;
use crate::domain::money::PicoUsdPerToken;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// What is allowed, in words: `a duration from 1ms to 1h, such as 250ms, 5s, 2m or 1h`.
pub type Allowed = String;

/// Dearer than any listed price by a factor of 100; keeps every price exact as a JSON number.
const MAX_USD_PER_MILLION: u64 = 1_000_000;

/// A whole number from `low` to `high`.
pub fn whole<T: FromStr + PartialOrd + Display + Copy>(low: T, high: T) -> impl Fn(&Scalar) -> Result<T, Allowed> {
    move |s| {
        let digits = s.text.bytes().all(|b| b.is_ascii_digit()) && !s.quoted;
        let value = s.text.parse().ok().filter(|n| digits && *n >= low && *n <= high);
        value.ok_or_else(|| format!("a whole number from {low} to {high}"))
    }
}

/// A share from `low` to 1; `above` leaves `low` itself out.
pub fn share(low: f64, above: bool) -> impl Fn(&Scalar) -> Result<f64, Allowed> {
    move |s| {
        let fits = |n: &f64| (*n > low || (!above && *n >= low)) && *n <= 1.0;
        number(s).filter(fits).ok_or_else(|| format!("a share {} {low} to 1, such as 0.5", from(above)))
    }
}

/// A decimal number from 0 to `high`.
pub fn decimal(high: f64) -> impl Fn(&Scalar) -> Result<f64, Allowed> {
    move |s| number(s).filter(|n| *n <= high).ok_or_else(|| format!("a number from 0 to {high}"))
}

fn from(above: bool) -> &'static str {
    if above { "above" } else { "from" }
}

fn number(s: &Scalar) -> Option<f64> {
    let plain = !s.quoted && s.text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    s.text.parse().ok().filter(|_| plain)
}

/// `true` or `false`.
pub fn yes_or_no(s: &Scalar) -> Result<bool, Allowed> {
    match (s.quoted, s.text.as_str()) {
        (false, "true") => Ok(true),
        (false, "false") => Ok(false),
        _ => Err("true or false".into()),
    }
}

/// One of the words that `parse` knows.
pub fn word<'a, T>(
    allowed: &'a str,
    parse: impl Fn(&str) -> Option<T> + 'a,
) -> impl Fn(&Scalar) -> Result<T, Allowed> + 'a {
    move |s| parse(&s.text).ok_or_else(|| format!("one of {allowed}"))
}

/// A duration with its unit, from `low` to `high`; a zero needs no unit.
pub fn duration(low: Duration, high: Duration) -> impl Fn(&Scalar) -> Result<Duration, Allowed> {
    move |s| {
        let fits = |d: &Duration| *d >= low && *d <= high;
        parse_duration(&s.text).filter(fits).ok_or_else(|| {
            let (low, high) = (format_duration(low), format_duration(high));
            format!("a duration from {low} to {high}, such as 250ms, 5s, 2m or 1h")
        })
    }
}

/// Reads `250ms`, `1.5s`, `2m`, `1h` or `10us`: whole microseconds.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (count, unit) = text.split_at(unit_at);
    let us = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        _ => return None,
    };
    exact(count, us).map(Duration::from_micros)
}

/// Reads whole days, `1d` to `36500d`.
#[must_use]
pub fn parse_days(text: &str) -> Option<Duration> {
    let days: u64 = text.strip_suffix('d').filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()?;
    (1..=36_500).contains(&days).then(|| Duration::from_secs(days * 86_400))
}

/// The shortest text that [`parse_duration`] reads back as `d`, cut to whole microseconds.
#[must_use]
pub fn format_duration(d: Duration) -> String {
    let us = d.as_micros();
    match us {
        0 => "0s".into(),
        _ if us.is_multiple_of(3_600_000_000) => format!("{}h", us / 3_600_000_000),
        _ if us.is_multiple_of(60_000_000) => format!("{}m", us / 60_000_000),
        _ if us.is_multiple_of(1_000_000) => format!("{}s", us / 1_000_000),
        _ if us.is_multiple_of(1_000) => format!("{}ms", us / 1_000),
        _ => format!("{us}us"),
    }
}

/// A size in bytes from `low` to `high`: `512KiB`, `20MiB`, `1GiB`, `4096B` or a bare number of bytes.
pub fn size(low: usize, high: usize) -> impl Fn(&Scalar) -> Result<usize, Allowed> {
    move |s| {
        let unit_at = s.text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(s.text.len());
        let (count, unit) = s.text.split_at(unit_at);
        let bytes = match unit {
            "" | "B" => exact(count, 1),
            "KiB" => exact(count, 1 << 10),
            "MiB" => exact(count, 1 << 20),
            "GiB" => exact(count, 1 << 30),
            _ => None,
        };
        let bytes = bytes.and_then(|n| usize::try_from(n).ok()).filter(|n| *n >= low && *n <= high);
        bytes.ok_or_else(|| format!("a size from {} to {}, such as 512KiB or 20MiB", in_words(low), in_words(high)))
    }
}

fn in_words(bytes: usize) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 30) => format!("{}GiB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => format!("{bytes}B"),
    }
}

/// `count` × `scale` for a plain decimal, if it is whole.
fn exact(count: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = match count.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (count, ""),
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 12 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let tens = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? * u128::from(scale) };
    let part = part.is_multiple_of(tens).then(|| u64::try_from(part / tens).ok()).flatten()?;
    whole.checked_add(part)
}

/// A price in USD per 1,000,000 tokens, read digit by digit.
pub fn price(s: &Scalar) -> Result<PicoUsdPerToken, Allowed> {
    let highest = PicoUsdPerToken(MAX_USD_PER_MILLION * 1_000_000);
    let price = PicoUsdPerToken::parse_usd_per_million(&s.text).ok().filter(|p| !s.quoted && *p <= highest);
    price.ok_or_else(|| {
        format!("a price in USD per 1,000,000 tokens from 0 to {MAX_USD_PER_MILLION} with at most six decimals, such as 0.42")
    })
}

/// A name of a provider, endpoint, route or failure domain.
pub fn name(s: &Scalar) -> Result<Arc<str>, Allowed> {
    check_name(&s.text).map(|()| s.text.as_str().into())
}

/// Whether `text` may be a name.
///
/// # Errors
/// What is allowed.
pub fn check_name(text: &str) -> Result<(), Allowed> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._:/-".contains(&b);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(fits) {
        return Err("a name: 1 to 64 characters of A-Z a-z 0-9 . _ : / -".into());
    }
    Ok(())
}

/// Text that a vendor gives sense to, such as a model's name.
pub fn label(s: &Scalar) -> Result<Arc<str>, Allowed> {
    let chars = s.text.chars().count();
    if s.is_null() || chars == 0 || chars > 256 || s.text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("1 to 256 characters without spaces".into());
    }
    Ok(s.text.as_str().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(text: &str) -> Scalar {
        Scalar { text: text.into(), quoted: false }
    }

    #[test]
    fn days_are_whole() {
        assert_eq!(parse_days("90d"), Some(Duration::from_secs(90 * 86_400)));
        for bad in ["", "d", "0d", "1.5d", "-1d", "+1d", "36501d", "90", "90h", "99999999999999999999d"] {
            assert_eq!(parse_days(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_are_exact_and_need_a_unit() {
        let hour = Duration::from_secs(3600);
        let read = |t: &str| duration(Duration::ZERO, hour)(&plain(t)).ok();
        assert_eq!(read("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(read("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(read("0"), Some(Duration::ZERO));
        assert_eq!(read("1h"), Some(hour));
        for bad in
            ["", "5", "s", ".5s", "5.s", "-1s", "1e3s", "61m", "5 s", "5S", "0.0000001s", "99999999999999999999h"]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        let read = |t: &str| size(1, 1 << 30)(&plain(t)).ok();
        assert_eq!(read("20MiB"), Some(20 << 20));
        assert_eq!(read("1.5KiB"), Some(1536));
        assert_eq!(read("4096"), Some(4096));
        for bad in ["0", "20MB", "2GiB", "MiB", "1.0001KiB", "-1"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn numbers_are_bounded_and_unquoted() {
        let read = |t: &str| whole(1_u64, 100)(&plain(t));
        assert_eq!(read("100"), Ok(100));
        for bad in ["0", "-1", "1e20", "101", "1.0", "+5", "0x10", "", "１"] {
            assert_eq!(read(bad), Err("a whole number from 1 to 100".into()), "{bad}");
        }
        assert!(whole(1_u64, 100)(&Scalar { text: "5".into(), quoted: true }).is_err());
        assert!(share(0.0, true)(&plain("0")).is_err());
        assert_eq!(share(0.0, false)(&plain("0")), Ok(0.0));
        for bad in ["1.1", "-0.1", "NaN", "inf", ".nan", "1e-1", "50%", ""] {
            assert!(share(0.0, false)(&plain(bad)).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn durations_round_trip(us in 0_u64..1 << 50) {
            let d = Duration::from_micros(us);
            prop_assert_eq!(parse_duration(&format_duration(d)), Some(d));
        }
    }
}
