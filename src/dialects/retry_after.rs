//! How long an upstream asks to be left alone: `retry-after-ms`, then `Retry-After` in seconds or as an HTTP date.
//! Junk, negative and absurd values say nothing, so that the caller's default holds.

use crate::domain::time::Wall;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use std::time::Duration;

/// A longer wish is not believed.
const ABSURD: Duration = Duration::from_secs(7 * 24 * 3600);

/// The pause that the headers ask for, counted from `now`.
#[must_use]
pub fn read(headers: &HeaderMap, now: Wall) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
    let millis = text("retry-after-ms").and_then(|t| decimal(t, 1e-3));
    millis.or_else(|| text(RETRY_AFTER.as_str()).and_then(|t| decimal(t, 1.0).or_else(|| date(t, now))))
}

fn decimal(text: &str, unit_s: f64) -> Option<Duration> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let value = if plain { text.parse::<f64>().ok()? } else { return None };
    Duration::try_from_secs_f64(value * unit_s).ok().filter(|d| *d <= ABSURD)
}

fn date(text: &str, now: Wall) -> Option<Duration> {
    let at = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    let at = Wall(i64::try_from(at.as_micros()).ok()?);
    Some(at.since(now)).filter(|d| *d <= ABSURD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&'static str, &str)]) -> Option<Duration> {
        let headers = pairs.iter().map(|(k, v)| ((*k).parse().unwrap(), v.parse().unwrap())).collect();
        read(&headers, Wall(1_795_461_720_000_000))
    }

    #[test]
    fn seconds_milliseconds_and_dates_are_read_junk_is_not() {
        assert_eq!(of(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(of(&[("retry-after", "0.5")]), Some(Duration::from_millis(500)));
        assert_eq!(of(&[("retry-after", "9"), ("retry-after-ms", "1500")]), Some(Duration::from_millis(1500)));
        let date = httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(1_795_461_727));
        assert_eq!(of(&[("retry-after", &date)]), Some(Duration::from_secs(7)));
        for junk in ["soon", "-1", "1e30", "99999999999", "NaN", "", "inf", "1.2.3"] {
            assert_eq!(of(&[("retry-after", junk)]), None, "{junk}");
        }
        assert_eq!(of(&[]), None);
    }
}
