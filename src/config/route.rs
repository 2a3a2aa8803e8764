//! The `routes` block and the route's part of `defaults`: the model names that clients ask for.

use crate::config::budget;
use crate::config::model::RouteConfig;
use crate::config::reader::{Field, Section, nearest};
use crate::config::scalar::{self, Allowed, duration, format_duration, share, whole, word};
use crate::config::tree::Scalar;
use crate::domain::hedge::{HedgeAfter, HedgeSettings};
use crate::domain::settings::RetrySettings;
use crate::domain::slo::{DEFAULT_TARGET, Slo};
use crate::domain::strategy::StrategyKind;
use std::sync::Arc;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

const STRATEGIES: &str = "round_robin, weighted, least_latency (alias lowest_latency), cost_based, priority, \
                          best_quality, balanced, intelligent";

/// The settings of a route that `defaults` may hold too.
#[derive(Clone, Default)]
pub struct RouteDefaults {
    pub retry: RetrySettings,
    pub deadline: Option<Duration>,
    pub hedge: Option<HedgeSettings>,
    pub recover: bool,
    pub slo: Option<Slo>,
}

/// Reads one route; `endpoints` are all names that it may list.
pub fn read(name: &str, field: &Field<'_>, endpoints: &[Arc<str>], base: &RouteDefaults) -> Option<RouteConfig> {
    let mut s = field.section()?;
    let strategy = s
        .required("strategy", &format!("one of {STRATEGIES}"))
        .and_then(|f| f.get(word(STRATEGIES, StrategyKind::parse)));
    let listed = s.required("endpoints", "a list of endpoints").and_then(|f| members(&f, endpoints));
    let settings = settings(&mut s, base);
    let budget = budget::short(&mut s);
    Some(RouteConfig {
        name: name.into(),
        strategy: strategy?,
        endpoints: listed?,
        retry: settings.retry,
        deadline: settings.deadline,
        hedge: settings.hedge,
        recover: settings.recover,
        slo: settings.slo,
        budget,
    })
}

/// Reads the settings that routes and `defaults` share.
pub fn settings(s: &mut Section<'_>, base: &RouteDefaults) -> RouteDefaults {
    let mut c = base.clone();
    if let Some(mut s) = s.section("retry") {
        s.set("max_attempts", &mut c.retry.max_attempts, whole(1, 20));
        s.set("backoff", &mut c.retry.backoff, duration(Duration::ZERO, HOUR));
        s.set("max_backoff", &mut c.retry.max_backoff, duration(Duration::ZERO, HOUR));
        if c.retry.backoff > c.retry.max_backoff && (s.has("backoff") || s.has("max_backoff")) {
            let (first, longest) = (format_duration(c.retry.backoff), format_duration(c.retry.max_backoff));
            s.fault(format!("`backoff` ({first}) is longer than `max_backoff` ({longest}); expected at most that"));
        }
    }
    s.set_or_none("deadline", &mut c.deadline, duration(MS, DAY));
    if let Some(field) = s.field("slo") {
        c.slo = if field.is_null() { None } else { slo(&field, base.slo) };
    }
    if let Some(field) = s.field("hedge") {
        c.hedge = hedge(&field, base.hedge);
    }
    let recover = word("continue, off", |t| match t {
        "continue" => Some(true),
        "off" => Some(false),
        _ => None,
    });
    s.set("recover", &mut c.recover, recover);
    c
}

/// Reads `off` or the settings of a hedge; keys that are left out keep the value of `base`.
fn hedge(field: &Field<'_>, base: Option<HedgeSettings>) -> Option<HedgeSettings> {
    if field.is_null() {
        return None;
    }
    if field.is_scalar() {
        field.get(|s| if s.text == "off" { Ok(()) } else { Err("{after, floor, max_extra}, or off".into()) });
        return None;
    }
    let mut s = field.section()?;
    let mut c = base.unwrap_or_default();
    s.set("after", &mut c.after, hedge_after);
    s.set("floor", &mut c.floor, duration(Duration::ZERO, HOUR));
    s.set("max_extra", &mut c.max_extra, share(0.0, true));
    Some(c)
}

fn hedge_after(s: &Scalar) -> Result<HedgeAfter, Allowed> {
    let percentile = s.text.strip_prefix('p').and_then(|p| p.parse().ok()).filter(|p| (1..=99).contains(p));
    let fixed = || scalar::parse_duration(&s.text).filter(|d| (MS..=HOUR).contains(d)).map(HedgeAfter::Fixed);
    let after = percentile.map(HedgeAfter::Percentile).or_else(fixed);
    after.ok_or_else(|| "a percentile from p1 to p99, or a duration from 1ms to 1h".into())
}

fn slo(field: &Field<'_>, base: Option<Slo>) -> Option<Slo> {
    let mut s = field.section()?;
    let (mut ttft, mut target) = (base.map(|slo| slo.ttft), f64::from(base.map_or(DEFAULT_TARGET, |slo| slo.target)));
    s.set_or_none("ttft", &mut ttft, duration(MS, DAY));
    s.set("target", &mut target, share(0.0, true));
    if ttft.is_none() {
        s.fault("`ttft` is missing; expected a duration such as 2s, or `slo: null`".into());
    }
    ttft.map(|ttft| Slo { ttft, target: target as f32 })
}

fn members(field: &Field<'_>, endpoints: &[Arc<str>]) -> Option<Vec<Arc<str>>> {
    let items = field.items()?;
    if items.is_empty() {
        field.fault("the route has no endpoint; expected a list of at least one".into());
        return None;
    }
    let mut members: Vec<Arc<str>> = Vec::with_capacity(items.len());
    for item in &items {
        let Some(name) = item.get(scalar::name) else { continue };
        if !endpoints.contains(&name) {
            let guess = nearest(&name, endpoints.iter().map(|n| &**n));
            let guess = guess.map(|n| format!(", did you mean `{n}`?")).unwrap_or_default();
            item.fault(format!("no endpoint has the name {}{guess}; expected a name from `endpoints`", item.shown()));
        } else if members.contains(&name) {
            item.fault(format!("{} is listed twice; expected each endpoint once", item.shown()));
        } else {
            members.push(name);
        }
    }
    Some(members)
}
