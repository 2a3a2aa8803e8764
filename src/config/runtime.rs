//! Endpoints that are registered or changed at run time, as JSON with the same keys as in `config.yaml`.
//!
//! The same code reads both. Variables are not put in: an API call must not be able to read the process's environment.

use crate::config::endpoint;
use crate::config::model::{Config, EndpointConfig, EndpointDefaults};
use crate::config::provider::Providers;
use crate::config::reader::{Field, Section, Source};
use crate::config::scalar::{check_name, format_duration};
use crate::config::tree::{self, Mark};
use crate::domain::budget::Terms;
use crate::domain::money::PicoUsdPerToken;
use crate::domain::price::Price;
use crate::domain::settings::ProbeSettings;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;

/// Reads an endpoint that is to be registered under `name`. What it leaves out comes from the configuration's defaults; a `name`
/// in the value must be the same.
///
/// # Errors
/// Everything that is wrong with it, in one line.
pub fn endpoint_from_json(name: &str, value: &Value, config: &Config) -> Result<EndpointConfig, String> {
    check_name(name).map_err(|allowed| format!("name: is not allowed; expected {allowed}"))?;
    let mut value = value.clone();
    if let Some(inside) = value.as_object_mut().and_then(|o| o.remove("name"))
        && inside != name
    {
        return Err(format!("name: is not `{name}`; expected the same name, or none"));
    }
    let providers: Providers = config.providers.iter().map(|p| (Arc::clone(&p.name), Some(Arc::clone(p)))).collect();
    with_tree(&value, |field| endpoint::read(name, field, &providers, &config.defaults))
}

/// Reads a change of an endpoint: `limits`, `weight`, `quality`, `price` and no other keys. Limits change key by key, a price as a
/// whole; a price of null goes back to the catalogue's.
///
/// # Errors
/// Everything that is wrong with it, in one line; nothing is changed then.
pub fn apply_patch(current: &EndpointConfig, patch: &Value) -> Result<EndpointConfig, String> {
    with_tree(patch, |field| field.section().map(|mut s| patched(&mut s, current)))
}

fn patched(s: &mut Section<'_>, current: &EndpointConfig) -> EndpointConfig {
    let mut next = current.clone();
    let base = EndpointDefaults {
        limits: current.limits.clone(),
        weight: current.weight,
        quality: current.quality,
        ..EndpointDefaults::default()
    };
    let changed = endpoint::adjustable(s, &base);
    (next.limits, next.weight, next.quality) = (changed.limits, changed.weight, changed.quality);
    if let Some(price) = s.field("price") {
        next.price = if price.is_null() { None } else { endpoint::read_price(&price).map(Arc::new) };
        endpoint::complete(&mut next, !price.is_null());
    }
    next
}

fn with_tree<T>(value: &Value, read: impl FnOnce(&Field<'_>) -> Option<T>) -> Result<T, String> {
    let tree = tree::from_json(value)?;
    let src = Source::new("", None, Path::new(""), Vec::new());
    let result = read(&Field { src: &src, path: String::new(), node: &tree, key_at: Mark::default() });
    src.finish().map_err(|faults| faults.in_one_line())?;
    result.ok_or_else(|| "expected an object".into())
}

/// The endpoint as [`endpoint_from_json`] reads it back, every setting written out. A price from the catalogue is left out, so
/// that a newer catalogue holds when it is read again.
#[must_use]
pub fn endpoint_to_json(e: &EndpointConfig) -> Value {
    let (l, t, b) = (&e.limits, &e.timeouts, &e.breaker);
    let mut out = json!({
        "provider": &*e.provider.name,
        "model": &*e.model,
        "limits": {"rpm": l.rpm, "tpm": l.tpm, "concurrency": l.concurrency, "adaptive": l.adaptive, "max_wait": format_duration(l.max_wait)},
        "weight": e.weight,
        "quality": e.quality,
        "timeouts": {
            "connect": format_duration(t.connect),
            "first_byte": format_duration(t.first_byte),
            "idle": format_duration(t.idle),
            "total": format_duration(t.total),
        },
        "breaker": {
            "window": format_duration(b.window),
            "minimum_calls": b.minimum_calls,
            "failure_rate": b.failure_rate,
            "consecutive_failures": b.consecutive_failures,
            "slow_call": format_duration(b.slow_call),
            "slow_rate": b.slow_rate,
            "slow_minimum_calls": b.slow_minimum_calls,
            "open_for": format_duration(b.open_for),
            "max_open_for": format_duration(b.max_open_for),
            "jitter": b.jitter,
            "forget_after": format_duration(b.forget_after),
            "half_open_calls": b.half_open_calls,
            "half_open_successes": b.half_open_successes,
            "half_open_for": format_duration(b.half_open_for),
            "ramp": format_duration(b.ramp),
            "reopen_wait": format_duration(b.reopen_wait),
        },
        "probe": match &e.probe {
            ProbeSettings::Off => json!("off"),
            ProbeSettings::Path { path, interval } => json!({"path": &**path, "interval": format_duration(*interval)}),
            ProbeSettings::Models { interval } => json!({"kind": "models", "interval": format_duration(*interval)}),
        },
        "domain": e.domain.iter().map(|d| &**d).collect::<Vec<&str>>(),
        "context": e.context,
    });
    if let (Some(terms), Some(out)) = (&e.budget, out.as_object_mut()) {
        out.insert("budget".into(), terms_to_json(terms));
    }
    if let (Some(price), Some(out)) = (&e.price, out.as_object_mut())
        && !price.version.starts_with("catalogue:")
    {
        out.insert("price".into(), price_to_json(price));
    }
    out
}

fn terms_to_json(t: &Terms) -> Value {
    json!({
        // As text, which is read digit by digit: a number of JSON would be a float.
        "amount": t.amount.to_string(),
        "period": t.period.as_str(),
        "timezone": t.timezone.name(),
        "mode": t.mode.as_str(),
    })
}

fn price_to_json(p: &Price) -> Value {
    // At most twelve digits, so the float's shortest text is the price's own.
    let usd = |p: PicoUsdPerToken| json!(p.usd_per_million());
    let mut out = Map::new();
    let classes = [("input", p.input), ("cached_input", p.cached_input), ("cache_write", p.cache_write)];
    for (key, price) in classes.into_iter().chain([("output", p.output), ("reasoning", p.reasoning)]) {
        out.insert(key.into(), usd(price));
    }
    if let Some(l) = p.long_context {
        out.insert("long_context".into(), json!({"above": l.above, "input": usd(l.input), "output": usd(l.output)}));
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config() -> Config {
        let text = "providers:\n  local: {base_url: 'http://127.0.0.1:9/v1', allow_private: true}\n\
                    defaults: {limits: {rpm: 60, concurrency: 7}, quality: 0.25}\n";
        crate::config::parse("t.yaml", text, &|_| Some("from-the-environment".into()), Path::new("")).unwrap()
    }

    #[test]
    fn a_registration_takes_the_defaults_and_no_variables() {
        let config = config();
        let body = json!({"name": "new", "provider": "local", "model": "${HOME}", "limits": {"rpm": 5}, "price": {"input": 0.000_001, "output": 2}});
        let e = endpoint_from_json("new", &body, &config).unwrap();
        assert_eq!((&*e.model, e.limits.rpm, e.limits.concurrency, e.quality), ("${HOME}", Some(5), 7, 0.25));
        assert_eq!(e.price.as_ref().map(|p| p.input.0), Some(1));
        let refused = [
            (json!({"provider": "local"}), "`model` is missing"),
            (json!({"provider": "loacl", "model": "m"}), "provider: no provider has this name, did you mean `local`?"),
            (json!({"provider": "local", "model": "m", "limits": {"rpm": 0}}), "limits.rpm: `0` is not allowed"),
            (
                json!({"provider": "local", "model": "m", "limits": {"rpm": "5"}}),
                "limits.rpm: the text \"5\" is not allowed",
            ),
            (
                json!({"provider": "local", "model": "m", "limits": {"rpm": 1e20}}),
                "limits.rpm: `100000000000000000000`",
            ),
            (json!({"provider": "local", "model": "m", "weigth": 1}), "weigth: unknown key, did you mean `weight`?"),
            (json!({"name": "other", "provider": "local", "model": "m"}), "name: is not `new`"),
            (json!([]), "expected a map of keys"),
        ];
        for (body, message) in refused {
            let got = endpoint_from_json("new", &body, &config).unwrap_err();
            assert!(got.contains(message), "{got}");
        }
        assert!(endpoint_from_json("a b", &body, &config).is_err());
    }

    #[test]
    fn a_change_touches_what_it_names() {
        let config = config();
        let body = json!({"provider": "local", "model": "m", "price": {"input": 1, "output": 2}});
        let e = endpoint_from_json("e", &body, &config).unwrap();
        let next =
            apply_patch(&e, &json!({"limits": {"tpm": 10}, "weight": 3, "price": {"input": 4, "output": 5}})).unwrap();
        assert_eq!((next.limits.rpm, next.limits.tpm, next.weight, next.quality), (Some(60), Some(10), 3, 0.25));
        assert_ne!(next.price, e.price);
        assert_eq!(apply_patch(&e, &json!({})).unwrap(), e);
        assert_eq!(apply_patch(&e, &json!({"price": null})).unwrap().price, None);
        assert!(
            apply_patch(&e, &json!({"model": "x"}))
                .unwrap_err()
                .starts_with("model: unknown key; allowed: limits, price")
        );
        assert!(apply_patch(&e, &json!({"price": {"input": 4}})).unwrap_err().contains("`output` is missing"));
    }

    proptest! {
        #[test]
        fn json_round_trips(
            numbers in proptest::collection::vec(1_u32..1000, 8),
            prices in proptest::collection::vec(0_u64..1_000_000_000_000, 7),
            thousandths in proptest::collection::vec(1_u16..1000, 3),
            us in proptest::collection::vec(1_000_u64..3_600_000_000, 12),
            probe in 0_u8..3,
        ) {
            let config = config();
            let share = |i: usize| f64::from(thousandths[i]) / 1000.0;
            let dur = |i: usize| std::time::Duration::from_micros(us[i]);
            let mut e = endpoint_from_json("e", &json!({"provider": "local", "model": "m"}), &config).unwrap();
            let pico = |i: usize| PicoUsdPerToken(prices[i]);
            let mut price = Price::flat(pico(0), pico(1), "");
            (price.cached_input, price.cache_write, price.reasoning) = (pico(2), pico(3), pico(4));
            price.long_context = Some(crate::domain::price::LongContext { above: 5, input: pico(5), output: pico(6) });
            e.price = Some(Arc::new(price));
            e.limits.rpm = Some(numbers[0].into());
            e.limits.max_wait = dur(0);
            e.limits.adaptive = probe == 1;
            e.timeouts.total = dur(1);
            e.breaker.failure_rate = share(0);
            e.breaker.jitter = share(1);
            e.quality = share(2);
            e.breaker.ramp = dur(2);
            e.breaker.reopen_wait = dur(4);
            e.breaker.minimum_calls = numbers[1];
            let interval = dur(3) + std::time::Duration::from_secs(1);
            e.probe = match probe {
                0 => ProbeSettings::Off,
                1 => ProbeSettings::Path { path: "/h".into(), interval },
                _ => ProbeSettings::Models { interval },
            };
            e.context = Some(numbers[2].into());
            e.domain = vec!["a".into(), "b/c".into()];
            let text = endpoint_to_json(&e).to_string();
            let mut back = endpoint_from_json("e", &serde_json::from_str(&text).unwrap(), &config).unwrap();
            let version = back.price.as_ref().map(|p| Arc::clone(&p.version));
            prop_assert!(version.as_ref().is_some_and(|v| v.starts_with("config:")));
            let mut unversioned = (**back.price.as_ref().unwrap()).clone();
            unversioned.version = "".into();
            back.price = Some(Arc::new(unversioned));
            prop_assert_eq!(back, e);
        }
    }
}
