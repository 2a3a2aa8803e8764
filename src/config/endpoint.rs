//! The `endpoints` block and the endpoint's part of `defaults`.
//!
//! Settings are read over a base, key by key: over the built-in defaults for `defaults`, over those for an endpoint, over the
//! present settings for a change at run time. What an endpoint does not say is thus what stands next above it.

use crate::config::address;
use crate::config::budget;
use crate::config::catalogue;
use crate::config::model::{EndpointConfig, EndpointDefaults, ProviderConfig};
use crate::config::provider::Providers;
use crate::config::reader::{Field, Section, nearest};
use crate::config::scalar::{self, duration, label, share, whole, word};
use crate::config::tree::Scalar;
use crate::domain::price::{LongContext, Price};
use crate::domain::settings::{BreakerSettings, LimitSettings, ProbeSettings, TimeoutSettings};
use std::sync::Arc;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const MAX_DOMAINS: usize = 16;
const PROBE_INTERVAL: Duration = Duration::from_secs(15);

/// Reads one endpoint.
pub fn read(name: &str, field: &Field<'_>, providers: &Providers, base: &EndpointDefaults) -> Option<EndpointConfig> {
    let mut s = field.section()?;
    let provider = s.required("provider", "the name of a provider").and_then(|f| known_provider(&f, providers));
    let model = s.required("model", "the provider's name of the model").and_then(|f| f.get(label));
    let price = s.field("price").filter(|f| !f.is_null());
    let priced = price.is_some();
    let price = price.and_then(|f| read_price(&f));
    let settings = settings(&mut s, base);
    let domain = s.field("domain").map(|f| domains(&f)).unwrap_or_default();
    let mut context = None;
    s.set_or_none("context", &mut context, whole(1, 1_000_000_000));
    let budget = budget::short(&mut s);
    s.unsupported(&["hedge", "recover"]);
    let (provider, model) = (provider?, model?);
    let mut endpoint = EndpointConfig {
        name: name.into(),
        provider,
        model,
        price: price.map(Arc::new),
        limits: settings.limits,
        weight: settings.weight,
        quality: settings.quality,
        timeouts: settings.timeouts,
        breaker: settings.breaker,
        probe: settings.probe,
        domain,
        context,
        budget,
    };
    if let Some(warning) = complete(&mut endpoint, priced) {
        s.warn(warning);
    }
    if let Some(terms) = &endpoint.budget {
        budget::check_priced(&s, &endpoint, terms);
    }
    Some(endpoint)
}

fn known_provider(field: &Field<'_>, providers: &Providers) -> Option<Arc<ProviderConfig>> {
    let name = field.get(scalar::name)?;
    if let Some((_, provider)) = providers.iter().find(|(n, _)| *n == name) {
        return provider.clone();
    }
    let guess = nearest(&name, providers.iter().map(|(n, _)| &**n));
    let guess = guess.map(|n| format!(", did you mean `{n}`?")).unwrap_or_default();
    let names: Vec<&str> = providers.iter().map(|(n, _)| &**n).collect();
    let known = if names.is_empty() { "none is configured".into() } else { format!("known: {}", names.join(", ")) };
    field.fault(format!("no provider has this name{guess}; {known}"));
    None
}

/// Fills in what the catalogue knows and the file left out. The warning says what stays unknown or is a guess.
pub fn complete(endpoint: &mut EndpointConfig, priced: bool) -> Option<String> {
    let host = address::host(&endpoint.provider.base_url);
    let listed = catalogue::find(endpoint.provider.dialect, &host, &endpoint.model);
    if let Some(listed) = &listed {
        endpoint.context = endpoint.context.or(listed.context);
    }
    if priced {
        return None;
    }
    let Some((listed, price)) = listed.and_then(|mut l| l.price.take().map(|p| (l, p))) else {
        return Some(format!(
            "unpriced: no `price` here and none for `{}` in the price catalogue; its requests will have no cost",
            endpoint.model
        ));
    };
    endpoint.price = Some(price);
    if !listed.certain {
        return Some(format!(
            "no `price` here and the host is not in the price catalogue; the list price of {} is taken for `{}`",
            listed.vendor, endpoint.model
        ));
    }
    listed.long_context_unknown.then(|| {
        "the price catalogue has dearer prices for long prompts, but not from which length on; \
         write `price` with `long_context` to have them counted"
            .into()
    })
}

/// Reads a whole price; its version is the hash of its canonical text.
pub fn read_price(field: &Field<'_>) -> Option<Price> {
    let mut s = field.section()?;
    let input = s.required("input", "USD per 1,000,000 tokens").and_then(|f| f.get(scalar::price));
    let output = s.required("output", "USD per 1,000,000 tokens").and_then(|f| f.get(scalar::price));
    let (plain_in, plain_out) = (input.unwrap_or_default(), output.unwrap_or_default());
    let mut price = Price::flat(plain_in, plain_out, "");
    s.set("cached_input", &mut price.cached_input, scalar::price);
    s.set("cache_write", &mut price.cache_write, scalar::price);
    s.set("reasoning", &mut price.reasoning, scalar::price);
    price.long_context = s.field("long_context").filter(|f| !f.is_null()).and_then(|f| long_context(&f));
    input.and(output)?;
    price.version = price_version(&price);
    Some(price)
}

fn long_context(field: &Field<'_>) -> Option<LongContext> {
    let mut s = field.section()?;
    let above = s.required("above", "a number of tokens").and_then(|f| f.get(whole(1, 1_000_000_000)));
    let input = s.required("input", "USD per 1,000,000 tokens").and_then(|f| f.get(scalar::price));
    let output = s.required("output", "USD per 1,000,000 tokens").and_then(|f| f.get(scalar::price));
    Some(LongContext { above: above?, input: input?, output: output? })
}

fn price_version(p: &Price) -> Arc<str> {
    let mut text = format!(
        "input={} cached_input={} cache_write={} output={} reasoning={}",
        p.input.0, p.cached_input.0, p.cache_write.0, p.output.0, p.reasoning.0
    );
    if let Some(l) = p.long_context {
        text.push_str(&format!(" above={} input={} output={}", l.above, l.input.0, l.output.0));
    }
    let hash = blake3::hash(text.as_bytes()).to_hex();
    format!("config:{}", hash.get(..12).unwrap_or_default()).into()
}

/// Reads the settings that endpoints and `defaults` share.
pub fn settings(s: &mut Section<'_>, base: &EndpointDefaults) -> EndpointDefaults {
    let mut c = adjustable(s, base);
    if let Some(mut s) = s.section("timeouts") {
        timeouts(&mut s, &mut c.timeouts);
    }
    if let Some(mut s) = s.section("breaker") {
        breaker(&mut s, &mut c.breaker);
    }
    if let Some(f) = s.field("probe") {
        c.probe = probe(&f, &c.probe).unwrap_or(c.probe);
    }
    c
}

/// Reads the settings that may change while the endpoint runs.
pub fn adjustable(s: &mut Section<'_>, base: &EndpointDefaults) -> EndpointDefaults {
    let mut c = base.clone();
    if let Some(mut s) = s.section("limits") {
        limits(&mut s, &mut c.limits);
    }
    s.set("weight", &mut c.weight, whole(0, 1_000_000));
    s.set("quality", &mut c.quality, share(0.0, false));
    c
}

fn limits(s: &mut Section<'_>, c: &mut LimitSettings) {
    s.set_or_none("rpm", &mut c.rpm, whole(1, 100_000_000));
    s.set_or_none("tpm", &mut c.tpm, whole(1, 100_000_000_000));
    s.set("concurrency", &mut c.concurrency, whole(1, 1_000_000));
    s.set("adaptive", &mut c.adaptive, scalar::yes_or_no);
    s.set("max_wait", &mut c.max_wait, duration(Duration::ZERO, HOUR));
}

fn timeouts(s: &mut Section<'_>, c: &mut TimeoutSettings) {
    s.set("connect", &mut c.connect, duration(MS, HOUR));
    s.set("first_byte", &mut c.first_byte, duration(MS, DAY));
    s.set("idle", &mut c.idle, duration(MS, DAY));
    s.set("total", &mut c.total, duration(MS, DAY));
}

fn breaker(s: &mut Section<'_>, c: &mut BreakerSettings) {
    s.set("window", &mut c.window, duration(SECOND, HOUR));
    s.set("minimum_calls", &mut c.minimum_calls, whole(1, 1_000_000));
    s.set("failure_rate", &mut c.failure_rate, share(0.0, true));
    s.set("consecutive_failures", &mut c.consecutive_failures, whole(1, 1_000_000));
    s.set("slow_call", &mut c.slow_call, duration(MS, DAY));
    s.set("slow_rate", &mut c.slow_rate, share(0.0, true));
    s.set("slow_minimum_calls", &mut c.slow_minimum_calls, whole(1, 1_000_000));
    s.set("open_for", &mut c.open_for, duration(MS, DAY));
    s.set("max_open_for", &mut c.max_open_for, duration(MS, DAY));
    s.set("jitter", &mut c.jitter, share(0.0, false));
    s.set("forget_after", &mut c.forget_after, duration(Duration::ZERO, DAY));
    s.set("half_open_calls", &mut c.half_open_calls, whole(1, 1000));
    s.set("half_open_successes", &mut c.half_open_successes, whole(1, 1000));
    s.set("half_open_for", &mut c.half_open_for, duration(MS, DAY));
    s.set("ramp", &mut c.ramp, duration(Duration::ZERO, HOUR));
    s.set("reopen_wait", &mut c.reopen_wait, duration(Duration::ZERO, HOUR));
    if c.open_for > c.max_open_for && (s.has("open_for") || s.has("max_open_for")) {
        let (first, longest) = (scalar::format_duration(c.open_for), scalar::format_duration(c.max_open_for));
        s.fault(format!("`open_for` ({first}) is longer than `max_open_for` ({longest}); expected at most that"));
    }
}

fn probe(field: &Field<'_>, base: &ProbeSettings) -> Option<ProbeSettings> {
    if field.is_scalar() {
        return field.get(|s| {
            let off = || ProbeSettings::Off;
            (s.text == "off").then(off).ok_or_else(|| "off, {path: /health, interval: 15s} or {kind: models}".into())
        });
    }
    let (mut by_models, mut path, mut interval) = match base {
        ProbeSettings::Off => (None, None, PROBE_INTERVAL),
        ProbeSettings::Path { path, interval } => (Some(false), Some(Arc::clone(path)), *interval),
        ProbeSettings::Models { interval } => (Some(true), None, *interval),
    };
    let mut s = field.section()?;
    let kind = word("path, models", |t| match t {
        "path" => Some(Some(false)),
        "models" => Some(Some(true)),
        _ => None,
    });
    if s.has("path") {
        by_models = Some(false);
    }
    s.set("kind", &mut by_models, kind);
    s.set("interval", &mut interval, duration(SECOND, DAY));
    let given = s.field("path");
    match (by_models, given) {
        (Some(true), Some(given)) => given.fault("has no effect with `kind: models`; remove one of the two".into()),
        (Some(true), None) => return Some(ProbeSettings::Models { interval }),
        (_, Some(given)) => path = given.get(url_path),
        (_, None) if path.is_none() => {
            s.fault("`path` is missing; expected a path such as /health, or `kind: models`".into())
        }
        (_, None) => {}
    }
    path.map(|path| ProbeSettings::Path { path, interval })
}

fn url_path(s: &Scalar) -> Result<Arc<str>, String> {
    let fits = s.text.starts_with('/') && !s.text.starts_with("//") && s.text.len() <= 1024;
    if !fits || !s.text.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Err("a path that begins with one /, such as /health".into());
    }
    Ok(s.text.as_str().into())
}

fn domains(field: &Field<'_>) -> Vec<Arc<str>> {
    let items = if field.is_null() { Vec::new() } else { field.items().unwrap_or_default() };
    if items.len() > MAX_DOMAINS {
        field.fault(format!("{} failure domains are listed; expected at most {MAX_DOMAINS}", items.len()));
    }
    let mut domains: Vec<Arc<str>> = Vec::new();
    for item in items.iter().take(MAX_DOMAINS) {
        let Some(name) = item.get(scalar::name) else { continue };
        if domains.contains(&name) {
            item.fault(format!("{} is listed twice; expected each failure domain once", item.shown()));
        }
        domains.push(name);
    }
    domains
}
