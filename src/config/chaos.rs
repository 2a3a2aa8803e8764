//! Experiments as people write them: under `chaos` in config.yaml, in the file of `serve --chaos`, and as JSON over the API. One reader
//! for all three. What is missing, too much or unknown is a fault with its place.

use crate::config::fault::{Fault as ConfigFault, Faults};
use crate::config::load::read_file;
use crate::config::model::ChaosConfig;
use crate::config::reader::{Field, Section, Source, nearest};
use crate::config::scalar::{self, decimal, duration, share, whole, word, yes_or_no};
use crate::config::tree::{self, Mark, Node, Scalar, Value};
use crate::domain::chaos::{Experiment, Fault, LONGEST, MOST_RUNNING, Malformed, Pace, free_share};
use crate::domain::spread::Latency;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
/// A day: no injected wait is longer than an experiment may be.
const MOST_MS: u64 = 86_400_000;
const KINDS: &str = "status, refuse, hang, malformed, slow_first_byte, latency, trickle, cut_after, error_event";
const WHATS: &str = "html, half_json, empty, json_error_200";
const DISTS: &str = "fixed, uniform, lognormal, bimodal";

/// Reads `chaos` at the top of config.yaml: the word `allowed` or `off`, or a map with experiments for the start.
pub fn chaos(root: &mut Section<'_>, endpoints: &[Arc<str>]) -> ChaosConfig {
    let mut c = ChaosConfig::default();
    let Some(field) = root.field("chaos") else { return c };
    if field.is_scalar() && !field.is_null() {
        let read = word("off, allowed, or a map with `allowed: true`", |t| match t {
            "off" => Some(false),
            "allowed" => Some(true),
            _ => None,
        });
        c.allowed = field.get(read).unwrap_or(false);
        return c;
    }
    let Some(mut s) = field.section() else { return c };
    s.set("allowed", &mut c.allowed, yes_or_no);
    if let Some(list) = s.field("experiments") {
        if !c.allowed {
            list.fault("experiments need `allowed: true` beside them".into());
        }
        c.experiments = experiments(&list, endpoints, &[]);
    }
    c
}

/// Reads the file of `serve --chaos`: a YAML or JSON list of experiments for these endpoints, `beside` others that run already. No
/// variables are put in.
///
/// # Errors
/// Everything that is wrong with it.
pub fn experiments_from_file(
    path: &Path,
    endpoints: &[Arc<str>],
    beside: &[Experiment],
) -> Result<Vec<Experiment>, Faults> {
    let (name, text) = read_file(path)?;
    let mut faults = Vec::new();
    let tree = tree::from_yaml(&name, &text, &mut faults).map_err(Faults::one)?;
    let src = Source::new(&name, None, Path::new(""), faults);
    let list = experiments(&Field { src: &src, path: String::new(), node: &tree, key_at: tree.at }, endpoints, beside);
    src.finish()?;
    if list.is_empty() {
        return Err(Faults::one(ConfigFault::of_file(&name, "holds no experiment".into())));
    }
    Ok(list)
}

/// Reads one experiment of an API call. Whether its endpoint exists is for the caller to say.
///
/// # Errors
/// Everything that is wrong with it, in one line.
pub fn experiment_from_json(value: &Json) -> Result<Experiment, String> {
    let tree = tree::from_json(value)?;
    let src = Source::new("", None, Path::new(""), Vec::new());
    let read = experiment(&Field { src: &src, path: String::new(), node: &tree, key_at: Mark::default() }, None);
    src.finish().map_err(|faults| faults.in_one_line())?;
    read.ok_or_else(|| "expected an object".into())
}

/// A list of experiments that may all run at once.
fn experiments(list: &Field<'_>, endpoints: &[Arc<str>], beside: &[Experiment]) -> Vec<Experiment> {
    let items = list.items().unwrap_or_default();
    if items.len() + beside.len() > MOST_RUNNING {
        list.fault(format!("{} experiments stand here; expected at most {MOST_RUNNING}", items.len()));
    }
    let mut read: Vec<Experiment> = Vec::new();
    for item in items.iter().take(MOST_RUNNING) {
        let Some(next) = experiment(item, Some(endpoints)) else { continue };
        let free = free_share(beside.iter().chain(&read).filter(|e| e.endpoint == next.endpoint).map(|e| e.share));
        if next.share > free {
            item.fault(format!(
                "the experiments of `{}` take more than all of its attempts; expected shares of at most 1 together",
                next.endpoint
            ));
        } else {
            read.push(next);
        }
    }
    read
}

fn experiment(field: &Field<'_>, endpoints: Option<&[Arc<str>]>) -> Option<Experiment> {
    let mut s = field.section()?;
    let endpoint = s.required("endpoint", "the name of an endpoint").and_then(|f| known(&f, endpoints));
    let hit = s.required("share", "a share above 0 to 1, such as 0.3").and_then(|f| f.get(share(0.0, true)));
    let period = s.required("for", "a duration of at most 24h, such as 10m").and_then(|f| f.get(duration(MS, LONGEST)));
    let fault = s.required("fault", "a map with `kind`").and_then(|f| fault(&f));
    Some(Experiment { endpoint: endpoint?, share: hit?, period: period?, fault: fault? })
}

fn known(field: &Field<'_>, endpoints: Option<&[Arc<str>]>) -> Option<Arc<str>> {
    let name = field.get(scalar::name)?;
    let Some(endpoints) = endpoints.filter(|all| !all.contains(&name)) else { return Some(name) };
    let guess = nearest(&name, endpoints.iter().map(|n| &**n));
    let guess = guess.map(|n| format!(", did you mean `{n}`?")).unwrap_or_default();
    field.fault(format!(
        "no endpoint has the name {}{guess}; expected a name from `endpoints` of config.yaml",
        field.shown()
    ));
    None
}

fn fault(field: &Field<'_>) -> Option<Fault> {
    let mut s = field.section()?;
    let named = |t: &str| KINDS.split(", ").find(|k| *k == t);
    let kind = s.required("kind", &format!("one of {KINDS}")).and_then(|f| f.get(word(KINDS, named)));
    let Some(kind) = kind else {
        // Which keys there may be depends on the kind.
        s.accept_rest();
        return None;
    };
    let count = |s: &mut Section<'_>, key| {
        s.required(key, "how many events come before it").and_then(|f| f.get(whole(0_u64, 1_000_000)))
    };
    match kind {
        "status" => status(&mut s),
        "refuse" => Some(Fault::Refuse),
        "hang" => Some(Fault::Hang),
        "malformed" => {
            let read = word(WHATS, |t| match t {
                "html" => Some(Malformed::Html),
                "half_json" => Some(Malformed::HalfJson),
                "empty" => Some(Malformed::Empty),
                "json_error_200" => Some(Malformed::JsonError200),
                _ => None,
            });
            Some(Fault::Malformed { what: s.required("what", &format!("one of {WHATS}"))?.get(read)? })
        }
        "slow_first_byte" => {
            let ms = s.required("ms", "milliseconds")?.get(whole(1, MOST_MS))?;
            Some(Fault::SlowFirstByte { ms })
        }
        "latency" => Some(Fault::Latency {
            latency: s.required("latency", "a distribution: a map with `dist`").and_then(|f| latency(&f))?,
        }),
        "trickle" => trickle(&mut s),
        "cut_after" => Some(Fault::CutAfter { events: count(&mut s, "events")? }),
        _ => {
            let after = count(&mut s, "after");
            let body = s.field("body").map(|f| json(f.node));
            Some(Fault::ErrorEvent { after: after?, body })
        }
    }
}

fn status(s: &mut Section<'_>) -> Option<Fault> {
    let code = s.required("code", "an HTTP status from 200 to 599").and_then(|f| f.get(whole(200_u16, 599)));
    let mut headers = BTreeMap::new();
    for (name, value) in s.field("headers").map(|f| f.named()).unwrap_or_default() {
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        let Some(text) = value.scalar().map(|v| v.text) else { continue };
        if !is_name {
            value.fault("is no name of a header; expected letters, digits, `-` and `_`".into());
        } else if !text.bytes().all(|b| b == b'\t' || (0x20..0x7f).contains(&b)) {
            value.fault("has characters that no header may carry; expected printable ASCII".into());
        } else {
            headers.insert(name.to_ascii_lowercase(), text);
        }
    }
    let body = s.field("body").filter(|f| !f.is_null()).map(|f| json(f.node));
    Some(Fault::Status { code: code?, headers, body })
}

fn trickle(s: &mut Section<'_>) -> Option<Fault> {
    const MOST_A_SECOND: f64 = 1e6;
    let tokens = s.field("tokens_per_second").map(|f| {
        f.get(|s| {
            decimal(MOST_A_SECOND)(s).ok().filter(|n| *n > 0.0).ok_or_else(|| "a number above 0 to 1000000".into())
        })
    });
    let bytes = s.field("bytes_per_second").map(|f| f.get(whole(1_u64, 1_000_000_000)));
    match (tokens, bytes) {
        (Some(tokens), None) => tokens.map(Pace::TokensPerSecond),
        (None, Some(bytes)) => bytes.map(Pace::BytesPerSecond),
        _ => {
            s.fault("expected either `tokens_per_second` or `bytes_per_second`".into());
            None
        }
    }
    .map(|pace| Fault::Trickle { pace })
}

fn latency(field: &Field<'_>) -> Option<Latency> {
    let mut s = field.section()?;
    let named = |t: &str| DISTS.split(", ").find(|d| *d == t);
    let dist = s.required("dist", &format!("one of {DISTS}")).and_then(|f| f.get(word(DISTS, named)));
    let Some(dist) = dist else {
        s.accept_rest();
        return None;
    };
    #[allow(clippy::cast_precision_loss)]
    let mut ms = |key| s.required(key, "milliseconds").and_then(|f| f.get(decimal(MOST_MS as f64)));
    let read = match dist {
        "fixed" => Latency::Fixed { ms: ms("ms")? },
        "uniform" => Latency::Uniform { min_ms: ms("min_ms")?, max_ms: ms("max_ms")? },
        "lognormal" => Latency::Lognormal { median_ms: ms("median_ms")?, p99_ms: ms("p99_ms")? },
        _ => {
            let of = s.required("of", "a distribution: a map with `dist`").and_then(|f| latency(&f));
            let slow = s.required("share", "the share that is slow").and_then(|f| f.get(share(0.0, false)));
            let factor = s.required("factor", "how many times as slow").and_then(|f| f.get(decimal(1e6)));
            Latency::Bimodal { of: Box::new(of?), share: slow?, factor: factor? }
        }
    };
    read.check().map_err(|why| s.fault(why)).ok().map(|()| read)
}

/// A value as JSON: an unquoted scalar is a number, true, false or null where it looks so, else a text.
fn json(node: &Node) -> Json {
    match &node.value {
        Value::Scalar(Scalar { text, quoted: true }) => Json::String(text.clone()),
        Value::Scalar(scalar) if scalar.is_null() => Json::Null,
        Value::Scalar(Scalar { text, .. }) => match serde_json::from_str(text) {
            Ok(value @ (Json::Number(_) | Json::Bool(_))) => value,
            _ => Json::String(text.clone()),
        },
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(entries) => Json::Object(entries.iter().map(|e| (e.key.clone(), json(&e.value))).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn experiment(fault: Json) -> Json {
        json!({"endpoint": "a", "share": 0.3, "for": "10m", "fault": fault})
    }

    #[test]
    fn every_kind_is_read_and_spelled_back() {
        for fault in [
            json!({"kind": "status", "code": 503, "headers": {"retry-after": "7"}, "body": {"error": {"code": 1}}}),
            json!({"kind": "status", "code": 500, "body": "no"}),
            json!({"kind": "refuse"}),
            json!({"kind": "hang"}),
            json!({"kind": "malformed", "what": "half_json"}),
            json!({"kind": "slow_first_byte", "ms": 250}),
            json!({"kind": "latency", "latency": {"dist": "lognormal", "median_ms": 40.0, "p99_ms": 200.0}}),
            json!({"kind": "latency", "latency": {"dist": "bimodal", "of": {"dist": "fixed", "ms": 5.0}, "share": 0.5, "factor": 10.0}}),
            json!({"kind": "trickle", "tokens_per_second": 2.5}),
            json!({"kind": "trickle", "bytes_per_second": 100}),
            json!({"kind": "cut_after", "events": 3}),
            json!({"kind": "error_event", "after": 0, "body": {"error": {"code": "overloaded"}}}),
        ] {
            let read = experiment_from_json(&experiment(fault.clone())).unwrap_or_else(|e| panic!("{fault}: {e}"));
            assert_eq!((&*read.endpoint, read.share, read.period), ("a", 0.3, Duration::from_secs(600)));
            assert_eq!(serde_json::to_value(&read.fault).unwrap(), fault);
            assert_eq!(fault["kind"], read.fault.name());
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_allowed() {
        let with = |key: &str, value: Json| {
            let mut body = experiment(json!({"kind": "hang"}));
            if value.is_null() {
                body.as_object_mut().unwrap().remove(key)
            } else {
                body.as_object_mut().unwrap().insert(key.into(), value)
            };
            body
        };
        for (body, why) in [
            (with("share", json!(2)), "share: `2` is not allowed; expected a share above 0 to 1"),
            (with("share", json!(0)), "share: `0` is not allowed"),
            (with("share", Json::Null), "`share` is missing"),
            (with("for", Json::Null), "`for` is missing; expected a duration of at most 24h"),
            (with("for", json!("25h")), "for: the text \"25h\" is not allowed"),
            (with("for", json!("forever")), "for: "),
            (with("endpoint", Json::Null), "`endpoint` is missing"),
            (with("fault", Json::Null), "`fault` is missing"),
            (with("count", json!(3)), "count: unknown key"),
            (
                experiment(json!({"kind": "hangs"})),
                "fault.kind: the text \"hangs\" is not allowed; expected one of status, refuse, hang",
            ),
            (experiment(json!({"kind": "hang", "ms": 3})), "fault.ms: unknown key"),
            (experiment(json!({"kind": "cut_after"})), "fault: `events` is missing"),
            (experiment(json!({"kind": "status", "code": 99})), "fault.code: `99` is not allowed"),
            (experiment(json!({"kind": "status", "code": 500, "headers": {"a": "b\r\nc: d"}})), "no header may carry"),
            (experiment(json!({"kind": "status", "code": 500, "headers": {"a b": "c"}})), "is no name of a header"),
            (experiment(json!({"kind": "trickle"})), "expected either"),
            (experiment(json!({"kind": "trickle", "tokens_per_second": 0})), "a number above 0"),
            (
                experiment(json!({"kind": "latency", "latency": {"dist": "uniform", "min_ms": 3, "max_ms": 1}})),
                "min_ms 3 is over max_ms 1",
            ),
            (json!([]), "expected a map of keys"),
        ] {
            let got = experiment_from_json(&body).unwrap_err();
            assert!(got.contains(why), "{body}: {got}");
        }
    }

    #[test]
    fn a_file_of_experiments_has_places_for_its_faults() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chaos.yaml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            experiments_from_file(&path, &["gemini".into(), "gpt".into()], &[]).map_err(|e| e.to_string())
        };
        let one = "- {endpoint: gemini, share: 0.6, for: 10m, fault: {kind: refuse}}\n";
        assert_eq!(read(one).unwrap().len(), 1);
        let json = r#"[{"endpoint": "gpt", "share": 1, "for": "1h", "fault": {"kind": "status", "code": 429}}]"#;
        assert_eq!(read(json).unwrap()[0].share, 1.0);
        assert_eq!(read(&(one.to_owned() + &one.replace("gemini", "gpt"))).unwrap().len(), 2);
        for (text, why) in [
            (
                one.replace("gemini", "gemni"),
                ":1:14: [0].endpoint: no endpoint has the name `gemni`, did you mean `gemini`?",
            ),
            (one.replace("0.6", "2"), ":1:29: [0].share: `2` is not allowed"),
            (one.repeat(2), ":2:3: [1]: the experiments of `gemini` take more than all"),
            (one.repeat(MOST_RUNNING + 1), "expected at most 32"),
            ("{endpoint: gemini}".into(), "expected a list"),
            ("[]".into(), "holds no experiment"),
            ("- {".into(), "chaos.yaml:"),
        ] {
            let got = read(&text).unwrap_err();
            assert!(got.contains(why), "{text}: {got}");
        }
    }
}
