//! Budgets: what may be spent, on what, in which calendar period, and what happens at its end.
//!
//! - A budget has a scope (a virtual key, a tag's value, a route, an endpoint), an amount, a period in a time zone, and a mode.
//!   Every attempt is charged to each budget whose scope it falls into, whatever became of it, with exactly what its ledger row says.
//! - *Hard*: before an attempt, money is reserved at its ceiling: what it can cost at most. Where less is left the answer is made
//!   shorter, or waits for what others have reserved; where nothing is left it is refused.
//! - *Soft*: what is expected is reserved. A budget that is exceeded refuses nobody; requests go to cheaper endpoints instead.
//!
//! [`period`] says when a period begins and ends, [`book`] keeps what is spent and reserved, [`ceiling`] knows what an attempt can
//! cost at most, [`open`] is what a killed process remembers. All of it is pure: the time is an argument.

pub mod book;
pub mod ceiling;
pub mod open;
pub mod period;

use crate::domain::money::NanoUsd;
use period::{Period, Zone};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// What happens when a budget is spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// No further call is made.
    #[default]
    Hard,
    /// Calls go to cheaper endpoints.
    Soft,
}

impl Mode {
    pub const ALL: [Self; 2] = [Self::Hard, Self::Soft];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Soft => "soft",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.as_str() == text)
    }
}

/// How much, how long, and how strictly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Above zero.
    pub amount: NanoUsd,
    #[serde(default)]
    pub period: Period,
    #[serde(default)]
    pub timezone: Zone,
    #[serde(default)]
    pub mode: Mode,
}

impl Terms {
    /// As operators see them.
    #[must_use]
    pub fn to_view(&self) -> serde_json::Value {
        serde_json::json!({
            "amount_usd": self.amount.usd(),
            "period": self.period.as_str(),
            "timezone": self.timezone.name(),
            "mode": self.mode.as_str(),
        })
    }

    /// Reads terms as the API and the command line give them; what is left out is a calendar month in UTC, hard.
    ///
    /// # Errors
    /// The field at fault, and what is allowed.
    pub fn parse(
        amount: &str,
        period: Option<&str>,
        timezone: Option<&str>,
        mode: Option<&str>,
    ) -> Result<Self, (&'static str, String)> {
        let word = |field, text: &str, allowed: &str| (field, format!("`{text}` is not one of {allowed}"));
        let period = period.map(|p| Period::parse(p).ok_or_else(|| word("period", p, "day, week, month, total")));
        let mode = mode.map(|m| Mode::parse(m).ok_or_else(|| word("mode", m, "hard, soft")));
        let timezone = timezone.map(|z| Zone::parse(z).map_err(|e| ("timezone", e)));
        Ok(Self {
            amount: parse_amount(amount).map_err(|e| ("amount_usd", e))?,
            period: period.transpose()?.unwrap_or_default(),
            timezone: timezone.transpose()?.unwrap_or_default(),
            mode: mode.transpose()?.unwrap_or_default(),
        })
    }
}

/// Which attempts a budget is charged with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Of the virtual key with this id.
    Key(Arc<str>),
    /// With this tag.
    Tag(Arc<str>, Arc<str>),
    /// Of requests for this name.
    Route(Arc<str>),
    /// At this endpoint.
    Endpoint(Arc<str>),
}

/// `key:key_…`, `tag:team=a`, `route:chat` or `endpoint:gpt`: also the name of a budget that has no other.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(id) => write!(f, "key:{id}"),
            Self::Tag(name, value) => write!(f, "tag:{name}={value}"),
            Self::Route(name) => write!(f, "route:{name}"),
            Self::Endpoint(name) => write!(f, "endpoint:{name}"),
        }
    }
}

/// A budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Unique among all budgets.
    pub name: Arc<str>,
    pub scope: Scope,
    pub terms: Terms,
}

impl Budget {
    /// A budget named after its scope.
    #[must_use]
    pub fn of(scope: Scope, terms: Terms) -> Self {
        Self { name: scope.to_string().into(), scope, terms }
    }
}

/// Reads an amount of money that can be a budget: a plain decimal above zero, at most nine decimals.
///
/// # Errors
/// What is wrong with it.
pub fn parse_amount(text: &str) -> Result<NanoUsd, String> {
    match NanoUsd::parse_usd(text)? {
        NanoUsd::ZERO => Err(format!("`{text}` is no amount; a budget is above 0")),
        amount => Ok(amount),
    }
}
