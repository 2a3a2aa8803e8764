//! The whole way from text to configuration: what is refused, with which words and where; what must never happen.

use crate::config::model::{Config, EndpointDefaults, ServerConfig};
use crate::config::{Faults, load, load_store, parse};
use crate::domain::settings::{ProbeSettings, RetrySettings};
use proptest::prelude::*;
use std::path::Path;
use std::time::Duration;

static SHIPPED: &str = include_str!("../../config.yaml");

/// A valid file for cases to build upon.
const BASE: &str = "providers:\n  p: {base_url: 'https://a.com/v1', api_key: '${KEY}'}\nendpoints:\n  a: {provider: p, model: m, price: {input: 1, output: 2}}\n";

fn env(name: &str) -> Option<String> {
    match name {
        "KEY" | "HOLYSHEEP_API_KEY" => Some("sk-marker".into()),
        "RPM" => Some("120".into()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn read(text: &str) -> Result<Config, Faults> {
    parse("c.yaml", text, &env, Path::new(""))
}

fn lines(text: &str) -> Vec<String> {
    match read(text) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn every_fault_has_its_place_and_says_what_is_allowed() {
    // (file, the one fault); `+` in front appends to BASE, whose last line is 4.
    let cases = [
        (
            "server: {lsiten: 127.0.0.1:80}",
            "c.yaml:1:10: server.lsiten: unknown key, did you mean `listen`?; allowed: admin_listen, auth, body_limit, deadline, drain, listen, max_in_flight, max_waiting, metrics_auth, tls, workers, write_stall",
        ),
        (
            "colour: red",
            "c.yaml:1:1: colour: unknown key; allowed: budget_ceiling_tokens, budget_wait, budgets, chaos, defaults, domains, endpoints, intelligent, providers, retry_budget, routes, server, store, strategies",
        ),
        (
            "server: {listen: localhost}",
            "c.yaml:1:18: server.listen: `localhost` is not allowed; expected an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080",
        ),
        (
            "server: {listen: 0.0.0.0:80, auth: open}",
            "c.yaml:1:36: server.auth: `open` is not allowed while the gateway listens on 0.0.0.0:80, which others can reach; expected `required`, or a loopback address such as 127.0.0.1:8080 in `listen`",
        ),
        (
            "server: {listen: 127.0.0.1:1, admin_listen: 127.0.0.1:1}",
            "c.yaml:1:45: server.admin_listen: is the same as `listen`; expected another address, or null",
        ),
        (
            "server: {write_stall: 0s}",
            "c.yaml:1:23: server.write_stall: `0s` is not allowed; expected a duration from 1s to 1h, such as 250ms, 5s, 2m or 1h, or off",
        ),
        ("server: {auth: none}", "c.yaml:1:16: server.auth: `none` is not allowed; expected one of required, open"),
        (
            "server: {body_limit: 20MB}",
            "c.yaml:1:22: server.body_limit: `20MB` is not allowed; expected a size from 1KiB to 1GiB, such as 512KiB or 20MiB",
        ),
        (
            "server: {drain: 30}",
            "c.yaml:1:17: server.drain: `30` is not allowed; expected a duration from 0s to 1h, such as 250ms, 5s, 2m or 1h",
        ),
        (
            "server: {metrics_auth: yes}",
            "c.yaml:1:24: server.metrics_auth: `yes` is not allowed; expected true or false",
        ),
        (
            "server: {tls: {cert: /nonexistent/c.pem}}",
            "c.yaml:1:10: server.tls: `key` is missing; expected the path of a PEM file with the private key|c.yaml:1:22: server.tls.cert: the file cannot be read: No such file or directory (os error 2)",
        ),
        ("server: [1]", "c.yaml:1:9: server: a list stands here; expected a map of keys"),
        ("server: {listen: [1]}", "c.yaml:1:18: server.listen: a list stands here; expected a single value"),
        (
            "store: {on_failure: shrug}",
            "c.yaml:1:21: store.on_failure: `shrug` is not allowed; expected one of serve_and_count, fail_closed",
        ),
        (
            "retry_budget: {ratio: 1.5}",
            "c.yaml:1:23: retry_budget.ratio: `1.5` is not allowed; expected a share from 0 to 1, such as 0.5",
        ),
        (
            "intelligent: {simple_below: 0.9}",
            "c.yaml:1:1: intelligent.complex_from: must be between simple_below and 1",
        ),
        (
            "intelligent: {weights: {length: 2}}",
            "c.yaml:1:33: intelligent.weights.length: `2` is not allowed; expected a share from 0 to 1, such as 0.5",
        ),
        (
            "intelligent: {scale: {length_full: 20}}",
            "c.yaml:1:36: intelligent.scale.length_full: must be greater than length_from",
        ),
        (
            "intelligent: {terms: [good, '']}",
            "c.yaml:1:29: intelligent.terms[1]: an empty term would be found everywhere",
        ),
        (
            "intelligent: {tiers: {free: {simple: intelligent}}}",
            "c.yaml:1:38: intelligent.tiers.free.simple: must be one of the other strategies: `intelligent` can't pick itself",
        ),
        (
            "intelligent: {tiers: {gold: {}}}",
            "c.yaml:1:23: intelligent.tiers.gold: unknown key; allowed: capped, default, free, premium",
        ),
        ("budgets: {}", "c.yaml:1:10: budgets: a map of keys stands here; expected a list"),
        (
            "providers:\n  p: {base_url: 'file:///etc/passwd', api_key: '${KEY}'}",
            "c.yaml:2:17: providers.p.base_url: the scheme `file` is not allowed; expected http:// or https:// with a host, such as https://api.openai.com/v1",
        ),
        (
            "providers:\n  p: {base_url: 'http://169.254.169.254/', api_key: '${KEY}'}",
            "c.yaml:2:17: providers.p.base_url: points to this machine, a private network or a special address; expected a public host, or `allow_private: true` beside it",
        ),
        (
            "providers:\n  p: {base_url: 'https://u:sk-marker@a.com', api_key: '${KEY}'}",
            "c.yaml:2:17: providers.p.base_url: user and password in the address are not allowed; expected api_key instead",
        ),
        (
            "providers:\n  p: {dialect: anthropic, api_key: '${KEY}'}",
            "c.yaml:2:16: providers.p.dialect: `anthropic` is not allowed; expected openai; the others are not supported in this version",
        ),
        (
            "providers:\n  p: {api_key: '${MISSING}'}",
            "c.yaml:2:16: providers.p.api_key: the environment variable MISSING is not set; set it or write ${MISSING:-default}",
        ),
        (
            "providers:\n  p: {api_key: '${EMPTY}'}",
            "c.yaml:2:16: providers.p.api_key: the key is empty; expected a secret, as ${NAME} or file:PATH",
        ),
        (
            "providers:\n  p: {api_key: 'file:/nonexistent/key'}",
            "c.yaml:2:16: providers.p.api_key: the secret file `/nonexistent/key` cannot be read: No such file or directory (os error 2)",
        ),
        (
            "providers:\n  p: {}",
            "c.yaml:2:3: providers.p: `api_key` is missing; expected a secret, as ${NAME} or file:PATH, or `api_keys`",
        ),
        ("providers:\n  p: {api_keys: []}", "c.yaml:2:17: providers.p.api_keys: 0 keys are listed; expected 1 to 64"),
        (
            "providers:\n  p: {api_keys: ['${KEY}', {key: '${KEY}'}]}",
            "c.yaml:2:28: providers.p.api_keys[1]: the same key stands further up; expected each key once",
        ),
        (
            "providers:\n  a b: {api_key: '${KEY}'}",
            "c.yaml:2:3: providers.a b: the name is not allowed; expected a name: 1 to 64 characters of A-Z a-z 0-9 . _ : / -",
        ),
        ("+  b: {provider: q, model: m}", "c.yaml:5:17: endpoints.b.provider: no provider has this name; known: p"),
        (
            "+  b: {provider: p}",
            "c.yaml:5:3: endpoints.b: `model` is missing; expected the provider's name of the model",
        ),
        (
            "+  a: {provider: p, model: m}",
            "c.yaml:5:3: endpoints.a: is already there in line 4; a key or name may stand only once",
        ),
        (
            "+  b: {provider: p, model: m, limits: {rpm: 0}}",
            "c.yaml:5:44: endpoints.b.limits.rpm: `0` is not allowed; expected a whole number from 1 to 100000000, or null",
        ),
        (
            "+  b: {provider: p, model: m, limits: {rpm: -1}}",
            "c.yaml:5:44: endpoints.b.limits.rpm: `-1` is not allowed; expected a whole number from 1 to 100000000, or null",
        ),
        (
            "+  b: {provider: p, model: m, limits: {rpm: 1e20}}",
            "c.yaml:5:44: endpoints.b.limits.rpm: `1e20` is not allowed; expected a whole number from 1 to 100000000, or null",
        ),
        (
            "+  b: {provider: p, model: m, limits: {rpm: '60'}}",
            "c.yaml:5:44: endpoints.b.limits.rpm: the text \"60\" is not allowed; expected a whole number from 1 to 100000000, or null",
        ),
        (
            "+  b: {provider: p, model: m, limits: {concurrency: null}}",
            "c.yaml:5:52: endpoints.b.limits.concurrency: nothing is not allowed; expected a whole number from 1 to 1000000",
        ),
        (
            "+  b: {provider: p, model: m, quality: 62}",
            "c.yaml:5:39: endpoints.b.quality: `62` is not allowed; expected a share from 0 to 1, such as 0.5",
        ),
        (
            "+  b: {provider: p, model: m, breaker: {failure_rate: 0}}",
            "c.yaml:5:54: endpoints.b.breaker.failure_rate: `0` is not allowed; expected a share above 0 to 1, such as 0.5",
        ),
        (
            "+  b: {provider: p, model: m, breaker: {open_for: 10m}}",
            "c.yaml:5:30: endpoints.b.breaker: `open_for` (10m) is longer than `max_open_for` (5m); expected at most that",
        ),
        (
            "+  b: {provider: p, model: m, price: {input: 1}}",
            "c.yaml:5:30: endpoints.b.price: `output` is missing; expected USD per 1,000,000 tokens",
        ),
        (
            "+  b: {provider: p, model: m, price: {input: -1, output: 0.1234567}}",
            "c.yaml:5:45: endpoints.b.price.input: `-1` is not allowed; expected a price in USD per 1,000,000 tokens from 0 to 1000000 with at most six decimals, such as 0.42|c.yaml:5:57: endpoints.b.price.output: `0.1234567` is not allowed; expected a price in USD per 1,000,000 tokens from 0 to 1000000 with at most six decimals, such as 0.42",
        ),
        (
            "+  b: {provider: p, model: m, probe: {kind: models, path: /x}}",
            "c.yaml:5:58: endpoints.b.probe.path: has no effect with `kind: models`; remove one of the two",
        ),
        (
            "+  b: {provider: p, model: m, domain: [x, x]}",
            "c.yaml:5:42: endpoints.b.domain[1]: `x` is listed twice; expected each failure domain once",
        ),
        (
            "+routes:\n  r: {strategy: priority, endpoints: []}",
            "c.yaml:6:38: routes.r.endpoints: the route has no endpoint; expected a list of at least one",
        ),
        (
            "+routes:\n  r: {endpoints: [a]}",
            "c.yaml:6:3: routes.r: `strategy` is missing; expected one of round_robin, weighted, least_latency (alias lowest_latency), cost_based, priority, best_quality, balanced, intelligent",
        ),
        (
            "+routes:\n  r: {strategy: priority, endpoints: [a, a]}",
            "c.yaml:6:42: routes.r.endpoints[1]: `a` is listed twice; expected each endpoint once",
        ),
        (
            "+routes:\n  r: {strategy: priority, endpoints: [a, claude]}",
            "c.yaml:6:42: routes.r.endpoints[1]: no endpoint has the name `claude`; expected a name from `endpoints`",
        ),
        (
            "+routes:\n  r: {strategy: priority, endpoints: [a], hedge: {after: p0, max_extra: 0}}",
            "c.yaml:6:58: routes.r.hedge.after: `p0` is not allowed; expected a percentile from p1 to p99, or a duration from 1ms to 1h|\
             c.yaml:6:73: routes.r.hedge.max_extra: `0` is not allowed; expected a share above 0 to 1, such as 0.5",
        ),
        (
            "+routes:\n  r: {strategy: priority, endpoints: [a], slo: {target: 0.9}}",
            "c.yaml:6:43: routes.r.slo: `ttft` is missing; expected a duration such as 2s, or `slo: null`",
        ),
        (
            "+routes:\n  r: {strategy: priority, endpoints: [a], hedge: on}",
            "c.yaml:6:50: routes.r.hedge: `on` is not allowed; expected {after, floor, max_extra}, or off",
        ),
        (
            "+routes:\n  r: {strategy: priority, endpoints: [a], recover: restart}",
            "c.yaml:6:52: routes.r.recover: `restart` is not allowed; expected one of continue, off",
        ),
        (
            "+routes:\n  r: {strategy: priority, endpoints: [a], retry: {backoff: 6s}}",
            "c.yaml:6:43: routes.r.retry: `backoff` (6s) is longer than `max_backoff` (5s); expected at most that",
        ),
        (
            "defaults: {limits: {rpm: 0}}",
            "c.yaml:1:26: defaults.limits.rpm: `0` is not allowed; expected a whole number from 1 to 100000000, or null",
        ),
        (
            "defaults: {provider: p}",
            "c.yaml:1:12: defaults.provider: unknown key; allowed: breaker, deadline, hedge, limits, probe, quality, recover, retry, slo, timeouts, weight",
        ),
        ("", "c.yaml: is empty; it must hold a map of keys"),
        ("just text", "c.yaml:1:1: a single value stands here; expected a map of keys"),
        ("a: 1\n---\nb: 2", "c.yaml:2:1: a second YAML document begins; only one is allowed"),
        ("server: !x {}", "c.yaml:1:9: server: YAML tags are not allowed"),
        ("? [a]\n: 1", "c.yaml:1:3: a key must be plain text"),
    ];
    let mut wrong = Vec::new();
    for (text, expected) in cases {
        let text = text.strip_prefix('+').map_or_else(|| text.to_owned(), |more| format!("{BASE}{more}"));
        let expected: Vec<&str> = expected.split('|').collect();
        let got = lines(&text);
        if got != expected {
            wrong.push(format!("{text}\n  got {got:#?}\n  expected {expected:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn all_faults_come_at_once_in_the_files_order() {
    let text = "routes:\n  r: {strategy: best, endpoints: [x]}\nserver:\n  drain: soon\n  drain: 5s\n  port: 80\n";
    let got = lines(text);
    let places: Vec<String> = got.iter().map(|l| l.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        places,
        [
            "c.yaml:2:17 routes.r.strategy",
            "c.yaml:2:35 routes.r.endpoints[0]",
            "c.yaml:4:10 server.drain",
            "c.yaml:5:3 server.drain",
            "c.yaml:6:3 server.port",
        ]
    );
}

#[test]
fn the_shipped_file_states_the_built_in_defaults() {
    let shipped = read(SHIPPED).unwrap();
    assert_eq!(shipped.warnings, []);
    let minimal = "providers: {holysheep: {base_url: 'https://api.holysheep.ai/v1', api_key: '${HOLYSHEEP_API_KEY}'}}\n\
                   endpoints: {deepseek: {provider: holysheep, model: deepseek-v3.2}}\n\
                   routes: {chat: {strategy: cost_based, endpoints: [deepseek]}}\n";
    let minimal = read(minimal).unwrap();
    assert_eq!(shipped.server, minimal.server);
    assert_eq!(shipped.server, ServerConfig::default());
    assert_eq!(shipped.store, minimal.store);
    assert_eq!(shipped.retry_budget, minimal.retry_budget);
    assert_eq!(shipped.intelligent, minimal.intelligent);
    assert_eq!(shipped.defaults, minimal.defaults);
    assert_eq!(*shipped.defaults, EndpointDefaults::default());
    assert_eq!(shipped.providers, minimal.providers);
    let (stated, built_in) = (&shipped.endpoints[0], &minimal.endpoints[0]);
    assert_eq!((&stated.domain, stated.context), (&built_in.domain, built_in.context));
    let (stated, built_in) = (&shipped.routes[0], &minimal.routes[0]);
    assert_eq!((&stated.retry, stated.deadline), (&built_in.retry, built_in.deadline));
    assert_eq!(stated.retry, RetrySettings::default());
}

#[test]
fn the_shipped_file_states_every_key() {
    // Asking for an unknown key makes each block list the keys that it knows.
    for (block, place) in
        [("server", "server:"), ("store", "store:"), ("retry_budget", "retry_budget:"), ("defaults", "defaults:")]
    {
        let faults = lines(&format!("{block}: {{zzzzzzzz: 1}}"));
        let known = faults[0].split("allowed: ").nth(1).unwrap();
        let (_, text) = SHIPPED.split_once(&format!("\n{place}")).unwrap();
        for key in known.split(", ") {
            let stated = ["", "# "].iter().any(|comment| text.contains(&format!("\n  {comment}{key}:")));
            assert!(stated, "{block}.{key} is not in config.yaml");
        }
    }
    for (block, probe) in [("limits", "limits"), ("timeouts", "timeouts"), ("breaker", "breaker"), ("retry", "retry")] {
        let faults = lines(&format!("defaults: {{{probe}: {{zzzzzzzz: 1}}}}"));
        let known = faults[0].split("allowed: ").nth(1).unwrap();
        let (_, text) = SHIPPED.split_once(&format!("\n  {block}:")).unwrap();
        for key in known.split(", ") {
            assert!(text.contains(&format!("\n    {key}:")), "defaults.{block}.{key} is not in config.yaml");
        }
    }
}

#[test]
fn the_founding_models_are_configured() {
    let config = read(SHIPPED).unwrap();
    let rows: Vec<_> = config
        .endpoints
        .iter()
        .map(|e| (&*e.model, e.price.as_ref().map(|p| p.input.0), e.limits.rpm, &*e.provider.base_url))
        .collect();
    let url = "https://api.holysheep.ai/v1";
    assert_eq!(
        rows,
        [
            ("deepseek-v3.2", Some(420_000), Some(1000), url),
            ("gemini-2.5-flash", Some(2_500_000), Some(800), url),
            ("gpt-4.1", Some(8_000_000), Some(500), url),
            ("claude-sonnet-4.5", Some(15_000_000), Some(500), url),
        ]
    );
    assert!(config.endpoints.iter().all(|e| e.price.as_ref().is_some_and(|p| p.version.starts_with("config:"))));
}

#[test]
fn settings_are_merged_key_by_key() {
    let text = format!(
        "{BASE}    # the rest\n  b:\n    provider: p\n    model: n\n    limits: {{rpm: \"${{RPM}}\", tpm: null}}\n    probe: {{interval: 5s}}\n\
         routes:\n  r: {{strategy: lowest_latency, endpoints: [b, a], retry: {{max_attempts: 2}}}}\n\
         defaults:\n  limits: {{rpm: 10, tpm: 1000}}\n  probe: {{path: /up}}\n  retry: {{backoff: 1s}}\n  deadline: 1m\n"
    );
    let config = read(&text).unwrap();
    let [a, b] = &config.endpoints[..] else { panic!("two endpoints") };
    assert_eq!((a.limits.rpm, a.limits.tpm), (Some(10), Some(1000)));
    assert_eq!((b.limits.rpm, b.limits.tpm, b.limits.concurrency), (Some(120), None, 256));
    assert_eq!(a.probe, ProbeSettings::Path { path: "/up".into(), interval: Duration::from_secs(15) });
    assert_eq!(b.probe, ProbeSettings::Path { path: "/up".into(), interval: Duration::from_secs(5) });
    let route = &config.routes[0];
    assert_eq!((route.retry.max_attempts, route.retry.backoff), (2, Duration::from_secs(1)));
    assert_eq!(route.deadline, Some(Duration::from_secs(60)));
    assert_eq!(route.endpoints.iter().map(|e| &**e).collect::<Vec<_>>(), ["b", "a"]);
}

#[test]
fn what_is_not_wrong_but_odd_is_a_warning() {
    let text = "providers:\n  p: {base_url: 'http://a.com/v1', api_key: plain}\n  local: {base_url: 'http://localhost:1', allow_private: true}\n\
                endpoints:\n  a: {provider: p, model: who-knows}\n  b: {provider: p, model: gpt-4.1}\n\
                routes:\n  a: {strategy: priority, endpoints: [a]}\n";
    let warnings: Vec<String> = read(text).unwrap().warnings.iter().map(ToString::to_string).collect();
    let expected = [
        "c.yaml:2:17: providers.p.base_url: plain http to a public host",
        "c.yaml:2:45: providers.p.api_key: a key stands in the file itself",
        "c.yaml:5:3: endpoints.a: unpriced: no `price` here and none for `who-knows`",
        "c.yaml:6:3: endpoints.b: no `price` here and the host is not in the price catalogue; the list price of openai",
        "c.yaml:8:3: routes.a: is also the name of an endpoint (line 5); whoever asks for `a` gets the route",
    ];
    assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
    for (warning, expected) in warnings.iter().zip(expected) {
        assert!(warning.starts_with(expected), "{warning}");
    }
}

#[test]
fn the_catalogue_prices_what_the_file_does_not() {
    let text =
        "providers: {openai: {api_key: '${KEY}'}}\nendpoints: {a: {provider: openai, model: gpt-4.1-2025-04-14}}\n";
    let config = read(text).unwrap();
    assert_eq!(config.warnings, []);
    let endpoint = &config.endpoints[0];
    let price = endpoint.price.as_ref().unwrap();
    assert_eq!((price.input.0, price.output.0, endpoint.context), (2_000_000, 8_000_000, Some(1_047_576)));
    assert!(price.version.starts_with("catalogue:"));
    assert_eq!(&*endpoint.provider.base_url, "https://api.openai.com/v1");
}

#[test]
fn files_are_found_and_faults_name_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    std::fs::create_dir(dir.path().join("keys")).unwrap();
    std::fs::write(dir.path().join("keys/one"), "sk-marker\n").unwrap();
    std::fs::write(&path, "store: {path: st}\nproviders: {p: {api_key: 'file:keys/one'}}\n").unwrap();
    let config = load(&path).unwrap();
    assert_eq!(config.providers[0].keys[0].key.expose(), "sk-marker");
    assert_eq!(config.store.path, dir.path().join("st"));

    // The store alone is read although a key is missing.
    std::fs::write(&path, "store: {path: st}\nproviders: {p: {api_key: '${BREAKWATER_TEST_NEVER_SET}'}}\n").unwrap();
    assert_eq!(load_store(&path).unwrap(), config.store);
    assert!(
        load(&path).unwrap_err().to_string().contains("c.yaml:2:26: providers.p.api_key: the environment variable")
    );
    std::fs::write(&path, "store: {paht: st}\n").unwrap();
    assert!(load_store(&path).unwrap_err().to_string().contains("did you mean `path`?"));

    std::fs::write(&path, b"store:\n  path: \xff\n").unwrap();
    assert!(load(&path).unwrap_err().to_string().ends_with("c.yaml: line 2 is not UTF-8 text"));
    assert!(
        load(&dir.path().join("none.yaml"))
            .unwrap_err()
            .to_string()
            .contains("none.yaml: cannot be read: No such file")
    );
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_do_no_harm() {
    let text = format!("\u{feff}{}", BASE.replace('\n', "\r\n"));
    assert_eq!(read(&text), read(BASE));
    let huge = format!("# {}", "x".repeat(4 << 20));
    assert_eq!(lines(&huge), ["c.yaml: is larger than 4 MiB"]);
}

#[test]
fn aliases_work_and_are_bounded() {
    let text = format!(
        "{BASE}  b: {{provider: p, model: n, limits: &l {{rpm: 7}}}}\n  c: {{provider: p, model: o, limits: *l}}\n"
    );
    assert_eq!(read(&text).unwrap().endpoints[2].limits.rpm, Some(7));
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..9 {
        let refs = vec![format!("*a{}", i - 1); 10].join(", ");
        bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    assert!(lines(&bomb).last().unwrap().contains("aliases counted in full"));
    assert!(lines("a: &a [*a]")[0].contains("complete before it"));
    let deep = "[".repeat(100_000);
    assert_eq!(lines(&deep).len(), 1, "whoever nests this deep gets one fault and no crash");
    assert!(lines(&"[".repeat(40))[0].contains("nested more than 32 levels deep"));
    let steps: String = (1..40).map(|i| format!("a{i}: &a{i} [*a{}]\n", i - 1)).collect();
    let steps = lines(&format!("a0: &a0 [x]\n{steps}"));
    assert!(steps[0].contains("nested more than 32 levels deep"), "{steps:?}");
}

#[test]
fn a_secret_is_never_repeated() {
    let wrong = format!(
        "{BASE}  b: {{provider: '${{KEY}}', model: '${{KEY}}', limits: {{rpm: '${{KEY}}', max_wait: '${{KEY}}'}}, domain: ['${{KEY}} x'], price: '${{KEY}}', probe: '${{KEY}}', quality: '${{KEY}}'}}\n\
         server: {{listen: '${{KEY}}', auth: '${{KEY}}', body_limit: '${{KEY}}', tls: {{cert: '${{KEY}}', key: '${{KEY}}'}}}}\n\
         routes: {{r: {{strategy: '${{KEY}}', endpoints: ['${{KEY}}'], deadline: '${{KEY}}'}}}}\n"
    );
    let wrong = format!("{wrong}store: {{durability: '${{KEY}}'}}\n");
    let faults = read(&wrong).unwrap_err();
    assert!(faults.iter().count() > 12, "{faults}");
    assert!(!format!("{faults} {faults:?}").contains("sk-marker"), "{faults}");
    let right = read(SHIPPED).unwrap();
    assert_eq!(right.providers[0].keys[0].key.expose(), "sk-marker");
    assert!(!format!("{right:?} {right:#?}").contains("sk-marker"));
    // A key that somebody puts in the wrong place is not shown either.
    let long = "sk-proj-0123456789abcdefghijklmnopqrstuvwxyz0123456789";
    let faults =
        read(&format!("server: {{drain: {long}, listen: \"{long}\"}}\nproviders: {{p: {{base_url: {long}}}}}\n"));
    assert!(!faults.unwrap_err().to_string().contains("0123456789abc"));
}

const SIGNS: &[u8] = b"{}[]:,&*!|>'\"%@`#?- \n\t$~";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn no_mutation_of_a_good_file_panics(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..4), 1..12),
    ) {
        let mut bytes = SHIPPED.as_bytes().to_vec();
        for (at, byte, kind) in changes {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => { bytes.remove(at); }
                _ => bytes[at] = SIGNS[usize::from(byte) % SIGNS.len()],
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Err(faults) = read(&text) {
            let count = text.split('\n').count() as u32 + 1;
            for fault in &faults {
                prop_assert!(fault.line <= count, "{fault}");
                prop_assert!(!fault.message.contains("sk-marker"), "{fault}");
            }
        }
    }

    #[test]
    fn no_text_of_yaml_signs_panics(text in "[a-z{}\\[\\]:,&*!|>'\"%@`#?\\- \n\t$0-9.~<=]{0,200}") {
        let _ = read(&text);
    }
}

#[test]
fn chaos_is_off_unless_allowed() {
    let with = |chaos: &str| {
        let text = format!(
            "providers: {{p: {{base_url: 'http://127.0.0.1:9/v1', allow_private: true}}}}\n\
             endpoints: {{a: {{provider: p, model: m, price: {{input: 1, output: 1}}}}}}\n{chaos}\n"
        );
        parse("c.yaml", &text, &|_| None, Path::new("")).map(|c| c.chaos).map_err(|e| e.to_string())
    };
    let experiments = |chaos: &str| with(chaos).map(|c| (c.allowed, c.experiments.len()));
    assert_eq!(experiments(""), Ok((false, 0)));
    assert_eq!(experiments("chaos: off"), Ok((false, 0)));
    assert_eq!(experiments("chaos: allowed"), Ok((true, 0)));
    assert_eq!(experiments("chaos: {allowed: true}"), Ok((true, 0)));
    let one = "{endpoint: a, share: 0.5, for: 1m, fault: {kind: hang}}";
    assert_eq!(experiments(&format!("chaos: {{allowed: true, experiments: [{one}, {one}]}}")), Ok((true, 2)));
    for (chaos, why) in [
        ("chaos: on", "chaos: `on` is not allowed; expected one of off, allowed"),
        ("chaos: {alowed: true}", "chaos.alowed: unknown key, did you mean `allowed`?"),
        (&format!("chaos: {{experiments: [{one}]}}"), "chaos.experiments: experiments need `allowed: true`"),
        (
            &format!("chaos: {{allowed: true, experiments: [{}]}}", one.replace("endpoint: a", "endpoint: b")),
            "chaos.experiments[0].endpoint: no endpoint has the name `b`",
        ),
        (&format!("chaos: {{allowed: true, experiments: [{one}, {one}, {one}]}}"), "take more than all"),
    ] {
        let got = with(chaos).unwrap_err();
        assert!(got.contains(why), "{chaos}: {got}");
    }
}
