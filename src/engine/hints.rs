//! What a caller may ask for one request: headers `x-breakwater-…`, or the same keys with `_` in the body's `breakwater` object.
//! A header wins over the body. An unknown hint or a malformed value is the caller's error, never ignored.

use crate::domain::ids::RequestId;
use crate::domain::intelligent::{RequestHints, Tier};
use crate::domain::money::NanoUsd;
use crate::domain::strategy::StrategyKind;
use crate::engine::error::{ApiError, Code};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub const PREFIX: &str = "x-breakwater-";
const MAX_TAGS: usize = 16;
const MAX_TAG_LEN: usize = 128;

/// Sorted and unique, as the ledger wants them.
pub type Tags = Arc<[(Box<str>, Box<str>)]>;

#[derive(Clone, Debug, Default)]
pub struct Hints {
    pub strategy: Option<StrategyKind>,
    pub routing: RequestHints,
    pub deadline: Option<Duration>,
    /// Wished for the first token of a stream.
    pub ttft: Option<Duration>,
    pub max_attempts: Option<u32>,
    pub no_fallback: bool,
    /// One attempt at a time, whatever the route says.
    pub no_hedge: bool,
    pub request_id: Option<RequestId>,
    tags: BTreeMap<Box<str>, Box<str>>,
}

impl Hints {
    /// Takes one header, its name lower case; names without the prefix are nobody's hint.
    ///
    /// # Errors
    /// Which hint is unknown or malformed, and what is allowed.
    pub fn take_header(&mut self, name: &str, value: &str) -> Result<(), ApiError> {
        match name.strip_prefix(PREFIX) {
            Some(hint) => self.take(&hint.replace('-', "_"), value).map_err(|m| invalid(name, m)),
            None => Ok(()),
        }
    }

    /// Takes the body's `breakwater` object; hints that stand already (from headers) stay.
    ///
    /// # Errors
    /// Which hint is unknown or malformed, and what is allowed.
    pub fn take_body(&mut self, json: &str) -> Result<(), ApiError> {
        let Ok(Value::Object(map)) = serde_json::from_str(json) else {
            return Err(invalid("breakwater", "must be an object of hints".into()));
        };
        let mut from_body = Self::default();
        for (key, value) in map {
            let param = format!("breakwater.{key}");
            let one = |hints: &mut Self, value: &Value| {
                let text = match value {
                    Value::String(s) => s.clone(),
                    Value::Number(n) => n.to_string(),
                    Value::Bool(b) => b.to_string(),
                    _ => return Err(invalid(&param, "must be a text, a number or true/false".into())),
                };
                hints.take(&key, &text).map_err(|m| invalid(&param, m))
            };
            match (&*key, value) {
                ("tag" | "tags", Value::Array(tags)) => tags.iter().try_for_each(|t| one(&mut from_body, t))?,
                ("tag" | "tags", Value::Object(tags)) => {
                    for (k, v) in tags {
                        let text = v.as_str().ok_or_else(|| invalid(&param, "tags are texts".into()))?;
                        from_body.take("tag", &format!("{k}={text}")).map_err(|m| invalid(&param, m))?;
                    }
                }
                (_, value) => one(&mut from_body, &value)?,
            }
        }
        self.fill_from(from_body);
        Ok(())
    }

    fn fill_from(&mut self, other: Self) {
        self.strategy = self.strategy.or(other.strategy);
        self.deadline = self.deadline.or(other.deadline);
        self.ttft = self.ttft.or(other.ttft);
        self.max_attempts = self.max_attempts.or(other.max_attempts);
        self.no_fallback |= other.no_fallback;
        self.no_hedge |= other.no_hedge;
        self.request_id = self.request_id.take().or(other.request_id);
        self.routing.tier = self.routing.tier.or(other.routing.tier);
        self.routing.latency_sensitive |= other.routing.latency_sensitive;
        self.routing.max_cost = self.routing.max_cost.or(other.routing.max_cost);
        for (key, value) in other.tags {
            self.tags.entry(key).or_insert(value);
        }
    }

    fn take(&mut self, hint: &str, value: &str) -> Result<(), String> {
        let value = value.trim();
        match hint {
            "strategy" => {
                let names = || StrategyKind::ALL.map(StrategyKind::as_str).join(", ");
                let kind = StrategyKind::parse(value).ok_or_else(|| format!("must be one of {}", names()))?;
                self.strategy = Some(kind);
            }
            "max_cost_usd" => self.routing.max_cost = Some(NanoUsd::parse_usd(value)?),
            "tier" => {
                let tier = Tier::parse(value).ok_or("must be free or premium")?;
                self.routing.tier = Some(tier);
            }
            "latency_sensitive" => self.routing.latency_sensitive = boolean(value)?,
            "no_fallback" => self.no_fallback = boolean(value)?,
            "deadline_ms" => {
                let ms = whole(value, 1, 86_400_000)?;
                self.deadline = Some(Duration::from_millis(ms));
            }
            "ttft_ms" => {
                let ms = whole(value, 1, 86_400_000)?;
                self.ttft = Some(Duration::from_millis(ms));
            }
            "max_attempts" => self.max_attempts = Some(u32::try_from(whole(value, 1, 100)?).unwrap_or(100)),
            "hedge" if value == "off" => self.no_hedge = true,
            "hedge" => return Err("must be off".into()),
            "tag" | "tags" => self.take_tag(value)?,
            "request_id" => self.request_id = Some(RequestId::parse(value)?),
            _ => {
                return Err(
                    "is no hint; there are strategy, max-cost-usd, tier, latency-sensitive, deadline-ms, ttft-ms, \
                            max-attempts, no-fallback, hedge, tag and request-id"
                        .into(),
                );
            }
        }
        Ok(())
    }

    fn take_tag(&mut self, value: &str) -> Result<(), String> {
        let (key, value) = value.split_once('=').ok_or("must be key=value")?;
        let fits = |s: &str| !s.is_empty() && s.len() <= MAX_TAG_LEN && !s.chars().any(char::is_control);
        if !fits(key) || !fits(value) {
            return Err(format!("key and value are 1 to {MAX_TAG_LEN} bytes without control characters"));
        }
        if self.tags.len() >= MAX_TAGS && !self.tags.contains_key(key) {
            return Err(format!("at most {MAX_TAGS} tags"));
        }
        self.tags.insert(key.into(), value.into());
        Ok(())
    }

    /// The tags with those of the key beneath them.
    #[must_use]
    pub fn tags_over(&self, of_key: &BTreeMap<String, String>) -> Tags {
        if of_key.is_empty() && self.tags.is_empty() {
            return Tags::default();
        }
        let mut all: BTreeMap<Box<str>, Box<str>> =
            of_key.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect();
        all.extend(self.tags.clone());
        all.into_iter().collect()
    }
}

fn invalid(param: &str, message: String) -> ApiError {
    ApiError::new(Code::InvalidRequest, format!("`{param}` {message}")).with_param(param)
}

fn boolean(value: &str) -> Result<bool, String> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("must be true or false".into()),
    }
}

fn whole(value: &str, least: u64, most: u64) -> Result<u64, String> {
    let number = value.parse().ok().filter(|n| (least..=most).contains(n));
    number.ok_or_else(|| format!("must be a whole number from {least} to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_win_over_the_body_and_tags_join() {
        let mut hints = Hints::default();
        hints.take_header("x-breakwater-tier", "premium").unwrap();
        hints.take_header("x-breakwater-tag", "team=a").unwrap();
        hints.take_header("accept", "whatever").unwrap();
        hints
            .take_body(
                r#"{"tier":"free","deadline_ms":500,"tag":["team=b","app=x"],"latency_sensitive":true,"hedge":"off"}"#,
            )
            .unwrap();
        assert_eq!(hints.routing.tier, Tier::parse("premium"));
        assert_eq!(hints.deadline, Some(Duration::from_millis(500)));
        assert!(hints.routing.latency_sensitive && hints.no_hedge);
        let of_key = [("app".to_owned(), "key".to_owned()), ("owner".into(), "o".into())].into();
        let tags = hints.tags_over(&of_key);
        let text: Vec<_> = tags.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(text, ["app=x", "owner=o", "team=a"]);
    }

    #[test]
    fn junk_is_refused_by_name() {
        for (name, value) in [
            ("x-breakwater-strategy", "best"),
            ("x-breakwater-max-cost-usd", "-1"),
            ("x-breakwater-deadline-ms", "0"),
            ("x-breakwater-ttft-ms", "soon"),
            ("x-breakwater-max-attempts", "x"),
            ("x-breakwater-tag", "k"),
            ("x-breakwater-hedge", "on"),
            ("x-breakwater-colour", "red"),
            ("x-breakwater-request-id", "a b"),
        ] {
            let error = Hints::default().take_header(name, value).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(name));
        }
        assert!(Hints::default().take_body("[]").is_err());
        assert_eq!(Hints::default().take_body(r#"{"x":1}"#).unwrap_err().param.as_deref(), Some("breakwater.x"));
    }
}
