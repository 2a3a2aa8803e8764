//! Calendar periods: a budget's day, week or month in its time zone, and where each begins and ends.
//!
//! - A day begins with its first moment on the clocks of the zone: at midnight, or, where the clocks skip midnight, when they
//!   resume; where they show midnight twice, at the first. So a day can have 23 or 25 hours.
//! - A week begins on Monday (ISO 8601), a month on its first day.
//! - Every moment lies in exactly one period, and a period begins where the one before it ends.
//!
//! Zones are those of the IANA database that is built into the program: the same on every machine, with or without `tzdata`.

use crate::domain::time::Wall;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How long a budget lasts before it is full again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    Day,
    Week,
    #[default]
    Month,
    /// For ever.
    Total,
}

impl Period {
    pub const ALL: [Self; 4] = [Self::Day, Self::Week, Self::Month, Self::Total];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Total => "total",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str() == text)
    }

    /// The period that `at` lies in.
    #[must_use]
    pub fn span(self, zone: &Zone, at: Wall) -> Span {
        let begins = |date: Date| {
            let start = date.at(0, 0, 0, 0).to_zoned_datetime(zone.0.clone()).ok()?;
            Some(Wall(start.timestamp().as_microsecond()))
        };
        let found = || {
            let local = Timestamp::from_microsecond(at.0).ok()?.to_zoned_datetime(zone.0.clone()).date();
            let mut first = self.first_day(local)?;
            let mut end = begins(self.next(first)?)?;
            // Clocks that are set back over midnight show a day's end after the next day's begin.
            while end <= at {
                first = self.next(first)?;
                end = begins(self.next(first)?)?;
            }
            Some(Span { start: Some(begins(first)?), end: Some(end) })
        };
        // Only a total has no first day; other moments without one are thousands of years away.
        found().unwrap_or(Span { start: None, end: None })
    }

    fn first_day(self, date: Date) -> Option<Date> {
        match self {
            Self::Day => Some(date),
            Self::Week => {
                let since_monday = jiff::Span::new().days(i64::from(date.weekday().to_monday_zero_offset()));
                date.checked_sub(since_monday).ok()
            }
            Self::Month => Some(date.first_of_month()),
            Self::Total => None,
        }
    }

    fn next(self, first: Date) -> Option<Date> {
        let step = match self {
            Self::Day => jiff::Span::new().days(1),
            Self::Week => jiff::Span::new().days(7),
            Self::Month => jiff::Span::new().months(1),
            Self::Total => return None,
        };
        first.checked_add(step).ok()
    }
}

/// From a period's first moment to the next one's; open ends are those of a total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: Option<Wall>,
    pub end: Option<Wall>,
}

/// A time zone of the built-in database.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(TimeZone);

impl Zone {
    /// Finds a zone by its IANA name, such as `Europe/Berlin`.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn parse(name: &str) -> Result<Self, String> {
        let unknown = |_| format!("`{name}` is no time zone; expected a name such as UTC or Europe/Berlin");
        TimeZoneDatabase::bundled().get(name).map(Self).map_err(unknown)
    }

    #[must_use]
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self(TimeZone::UTC)
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl TryFrom<String> for Zone {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        Self::parse(&name)
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span(period: Period, zone: &str, at: &str) -> (String, String) {
        let span = period.span(&Zone::parse(zone).unwrap(), Wall::parse(at).unwrap());
        let text = |at: Option<Wall>| at.map_or("-".into(), |at| at.to_rfc3339().replace(".000000", ""));
        (text(span.start), text(span.end))
    }

    fn pair(a: &str, b: &str) -> (String, String) {
        (a.into(), b.into())
    }

    #[test]
    fn periods_are_those_of_the_zones_calendar() {
        let at = "2026-11-25T23:30:00Z";
        assert_eq!(span(Period::Day, "UTC", at), pair("2026-11-25T00:00:00Z", "2026-11-26T00:00:00Z"));
        assert_eq!(span(Period::Day, "Europe/Berlin", at), pair("2026-11-25T23:00:00Z", "2026-11-26T23:00:00Z"));
        assert_eq!(span(Period::Day, "Asia/Kolkata", at), pair("2026-11-25T18:30:00Z", "2026-11-26T18:30:00Z"));
        assert_eq!(span(Period::Week, "UTC", at), pair("2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"));
        assert_eq!(span(Period::Month, "Asia/Tokyo", at), pair("2026-10-31T15:00:00Z", "2026-11-30T15:00:00Z"));
        assert_eq!(span(Period::Total, "Asia/Tokyo", at), pair("-", "-"));
        // The last moment of a month, and the first of the next.
        assert_eq!(span(Period::Month, "UTC", "2026-12-31T23:59:59.999999Z").1, "2027-01-01T00:00:00Z");
        assert_eq!(span(Period::Month, "UTC", "2027-01-01T00:00:00Z").0, "2027-01-01T00:00:00Z");
    }

    #[test]
    fn days_are_as_long_as_the_clocks_say() {
        // 25 October 2026 has 25 hours in Berlin, 29 March 23.
        assert_eq!(
            span(Period::Day, "Europe/Berlin", "2026-10-25T12:00:00Z"),
            pair("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z")
        );
        assert_eq!(
            span(Period::Day, "Europe/Berlin", "2026-03-29T12:00:00Z"),
            pair("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z")
        );
        // Midnight is skipped in Brazil, and stands twice in Cuba.
        assert_eq!(span(Period::Day, "America/Sao_Paulo", "2018-11-04T12:00:00Z").0, "2018-11-04T03:00:00Z");
        assert_eq!(span(Period::Day, "America/Havana", "2026-11-01T12:00:00Z").0, "2026-11-01T04:00:00Z");
        // Newfoundland set its clocks back at one minute past midnight: the day before goes on for 59 minutes.
        let again = "2010-11-07T03:00:00Z";
        assert_eq!(span(Period::Day, "America/St_Johns", again).0, "2010-11-07T02:30:00Z");
    }

    #[test]
    fn unknown_zones_are_refused_by_name() {
        for bad in ["", "Berlin", "Europe/Berlim", "+05:30", "UTC+1"] {
            assert!(Zone::parse(bad).unwrap_err().contains("no time zone"), "{bad}");
        }
        assert_eq!(Zone::parse("europe/berlin").unwrap().name(), "Europe/Berlin");
        assert_eq!(Zone::default(), Zone::parse("UTC").unwrap());
    }

    const ZONES: [&str; 9] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/Havana",
        "America/St_Johns",
        "Asia/Kolkata",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "America/Sao_Paulo",
    ];

    proptest! {
        #[test]
        fn every_moment_lies_in_one_period_and_they_join(
            us in 0_i64..4_000_000_000_000_000, zone in 0..ZONES.len(), period in 0_usize..3,
        ) {
            let (zone, period) = (Zone::parse(ZONES[zone]).unwrap(), Period::ALL[period]);
            let span = period.span(&zone, Wall(us));
            let (start, end) = (span.start.unwrap(), span.end.unwrap());
            prop_assert!(start <= Wall(us) && Wall(us) < end);
            prop_assert_eq!(period.span(&zone, end).start, Some(end));
            prop_assert_eq!(period.span(&zone, start), span);
            prop_assert_eq!(period.span(&zone, Wall(end.0 - 1)), span);
        }
    }
}
