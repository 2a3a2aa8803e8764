//! The two kinds of time: [`Ts`], monotonic, for every decision; [`Wall`], for what people and disks read.

use std::time::Duration;

/// Microseconds on the process's monotonic clock. Meaningless in another process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ts(pub u64);

impl Ts {
    /// This moment moved later by `d`; stays at the end of time on overflow.
    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(micros(d)))
    }

    /// This moment moved earlier by `d`; stays at the clock's origin on underflow.
    #[must_use]
    pub fn minus(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(micros(d)))
    }

    /// Time from `earlier` to this moment; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// Whole microseconds of `d`, saturating.
#[must_use]
pub fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

/// Microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Wall(pub i64);

impl Wall {
    /// RFC 3339 with microseconds, always UTC: `2026-11-23T18:22:00.000001Z`.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(t) => format!("{t:.6}"),
            Err(_) => self.0.to_string(),
        }
    }

    /// Reads RFC 3339 (any offset) or a date `YYYY-MM-DD`, which stands for its first moment in UTC.
    ///
    /// # Errors
    /// The text that is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(t) = text.parse::<jiff::Timestamp>() {
            return Ok(Self(t.as_microsecond()));
        }
        text.parse::<jiff::civil::Date>()
            .ok()
            .and_then(|d| jiff::tz::TimeZone::UTC.to_timestamp(d.at(0, 0, 0, 0)).ok())
            .map(|t| Self(t.as_microsecond()))
            .ok_or_else(|| {
                format!("`{text}` is neither a date (2026-11-23) nor an RFC 3339 time (2026-11-23T18:00:00Z)")
            })
    }

    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(d.as_micros()).unwrap_or(i64::MAX)))
    }

    #[must_use]
    pub fn minus(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(d.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Time from `earlier` to this moment; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The first moment of this moment's UTC day.
    #[must_use]
    pub fn day_begin(self) -> Self {
        Self(self.0.saturating_sub(self.0.rem_euclid(86_400_000_000)))
    }

    /// Hours since the Unix epoch: the rollups' bucket.
    #[must_use]
    pub fn hour(self) -> u32 {
        u32::try_from(self.0.div_euclid(3_600_000_000).max(0)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_round_trips_through_text() {
        for us in [0, 1, 1_795_461_720_000_001, 4_102_444_800_999_999] {
            assert_eq!(Wall::parse(&Wall(us).to_rfc3339()), Ok(Wall(us)));
        }
        assert_eq!(Wall::parse("1970-01-02"), Ok(Wall(86_400_000_000)));
        assert_eq!(Wall(86_400_000_001).day_begin(), Wall(86_400_000_000));
        assert_eq!(Wall(-1).day_begin(), Wall(-86_400_000_000));
        assert_eq!(Wall(1_000_000).to_rfc3339(), "1970-01-01T00:00:01.000000Z");
        assert!(Wall::parse("yesterday").is_err());
    }
}
