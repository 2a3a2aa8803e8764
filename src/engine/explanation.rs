//! "Why did this take 4.2 s?": a request's steps added up and put into sentences.
//!
//! Every step is read by its fields, whatever its kind: a kind that this file has no words for is told with its own name and figures,
//! and counts in the sum if it has a beginning and a length. Where steps overlap, as hedged attempts do, time is counted once:
//! while an attempt runs it is the endpoint's, else the pause's or whatever else ran. What no step covers is the gateway's own.

use crate::engine::record::RequestRecord;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt::Write;

/// Steps that are spelled out; of more, the first and the last.
const MOST_TOLD: usize = 24;

/// Where a request's time went, milliseconds; the parts add up to the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimeSpent {
    /// From the request's arrival to the first step: reading, checking, planning.
    pub planning_ms: f64,
    /// While at least one attempt ran.
    pub endpoints_ms: f64,
    /// Pauses and waits, and other steps with a length, while no attempt ran.
    pub waiting_ms: f64,
    /// The rest.
    pub gateway_ms: f64,
}

/// Adds the sum and the sentences to a record.
#[must_use]
pub fn explained(mut record: RequestRecord) -> RequestRecord {
    let mut steps: Vec<Map<String, Value>> = record
        .steps
        .iter()
        .filter_map(|step| match serde_json::to_value(step) {
            Ok(Value::Object(fields)) => Some(fields),
            _ => None,
        })
        .collect();
    // An attempt is noted at its end.
    steps.sort_by(|a, b| number(a, "at_ms").total_cmp(&number(b, "at_ms")));
    record.time = time_spent(&steps, record.duration_ms);
    record.explanation = sentences(&record, &steps);
    record
}

fn number(step: &Map<String, Value>, key: &str) -> f64 {
    step.get(key).and_then(Value::as_f64).unwrap_or(0.0)
}

fn text<'a>(step: &'a Map<String, Value>, key: &str) -> &'a str {
    step.get(key).and_then(Value::as_str).unwrap_or("")
}

fn time_spent(steps: &[Map<String, Value>], duration_ms: f64) -> TimeSpent {
    let intervals = |of: &dyn Fn(&str) -> bool| {
        let chosen = steps.iter().filter(|s| s.contains_key("ms") && of(text(s, "step")));
        chosen.map(|s| (number(s, "at_ms"), number(s, "at_ms") + number(s, "ms"))).collect::<Vec<_>>()
    };
    let endpoints = covered(&intervals(&|step| step == "attempt"), duration_ms);
    let all = covered(&intervals(&|_| true), duration_ms);
    let planning = steps.first().map_or(duration_ms, |s| number(s, "at_ms")).min(duration_ms);
    let micros = |ms: f64| (ms * 1e3).round() / 1e3;
    TimeSpent {
        planning_ms: micros(planning),
        endpoints_ms: micros(endpoints),
        waiting_ms: micros(all - endpoints),
        gateway_ms: micros((duration_ms - planning - all).max(0.0)),
    }
}

/// The length that intervals, sorted by their beginning, cover together up to `end`.
fn covered(intervals: &[(f64, f64)], end: f64) -> f64 {
    let (mut sum, mut up_to) = (0.0, 0.0_f64);
    for (from, to) in intervals {
        let (from, to) = (from.max(up_to), to.min(end));
        if to > from {
            sum += to - from;
            up_to = to;
        }
    }
    sum
}

fn sentences(record: &RequestRecord, steps: &[Map<String, Value>]) -> String {
    let mut told = format!("Took {}", length(record.duration_ms));
    let _ = match (&record.endpoint, record.outcome.as_str()) {
        (Some(endpoint), "success") => write!(told, ", answered by {endpoint} with status {}.", record.status),
        (_, outcome) => write!(told, ", ended as {} with status {}.", words(outcome), record.status),
    };
    let half = MOST_TOLD / 2;
    for (n, step) in steps.iter().enumerate() {
        if steps.len() > MOST_TOLD && n == half {
            let _ = write!(told, " Then {} more steps.", steps.len() - MOST_TOLD);
        }
        if steps.len() <= MOST_TOLD || n < half || n >= steps.len() - half {
            let _ = write!(told, " {}.", phrase(step));
        }
    }
    let TimeSpent { planning_ms, endpoints_ms, waiting_ms, gateway_ms } = record.time;
    let _ = write!(
        told,
        " In all: {} reading and planning, {} at endpoints, {} waiting, {} in the gateway itself.",
        length(planning_ms),
        length(endpoints_ms),
        length(waiting_ms),
        length(gateway_ms)
    );
    told
}

fn phrase(step: &Map<String, Value>) -> String {
    let at = length(number(step, "at_ms"));
    let took = length(number(step, "ms"));
    let endpoint = text(step, "endpoint");
    match text(step, "step") {
        "attempt" => {
            let mut told = format!("At {at} {endpoint} was asked");
            if let Some(given) = step.get("given_ms").and_then(Value::as_f64) {
                let _ = write!(told, ", given {} for its first byte", length(given));
            }
            let _ = write!(told, ": {} after {took}", words(text(step, "outcome")));
            for (key, what) in [("first_byte_ms", "first byte"), ("ttft_ms", "first content")] {
                if let Some(ms) = step.get(key).and_then(Value::as_f64) {
                    let _ = write!(told, ", {what} after {}", length(ms));
                }
            }
            if !text(step, "message").is_empty() {
                let _ = write!(told, " ({})", text(step, "message"));
            }
            if !text(step, "injected").is_empty() {
                let _ = write!(told, ", injected by an experiment: {}", words(text(step, "injected")));
            }
            told
        }
        "refused" => {
            let mut told = format!("At {at} {endpoint} was passed over: {}", words(text(step, "reason")));
            if let Some(ms) = step.get("retry_in_ms").and_then(Value::as_f64) {
                let _ = write!(told, ", for {}", length(ms));
            }
            told
        }
        "failover" => {
            let why = words(text(step, "outcome"));
            format!("At {at} the request moved from {} to {} because of {why}", text(step, "from"), text(step, "to"))
        }
        "queued" => {
            let (priority, ahead) = (text(step, "priority"), number(step, "ahead"));
            let end = match endpoint {
                "" => "and nobody had a place in time".to_owned(),
                _ => format!("until {endpoint} had a place"),
            };
            format!(
                "At {at} every candidate was full: it stood in line for {took} with {priority} priority, {ahead} ahead of it, {end}"
            )
        }
        "budget" => budget(step, &at, &took),
        "waited" => format!("At {at} it waited {took}: {}", text(step, "why")),
        "hedged" => {
            let after = length(number(step, "after_ms"));
            format!("At {at} {} had been silent for {after}, so {endpoint} was asked as well", text(step, "slow"))
        }
        "not_hedged" => {
            format!(
                "After {} of silence nobody was asked as well: {}",
                length(number(step, "after_ms")),
                words(text(step, "why"))
            )
        }
        "retry_budget_spent" => format!("At {at} the retry budget of all requests allowed no further attempt"),
        other => {
            let mut told = format!("At {at} {}", words(other));
            for (key, value) in step.iter().filter(|(key, _)| !["step", "at_ms"].contains(&key.as_str())) {
                let _ = match value {
                    Value::Null | Value::Array(_) | Value::Object(_) => Ok(()),
                    Value::Number(n) if key == "ms" => write!(told, ", took {}", length(n.as_f64().unwrap_or(0.0))),
                    Value::Number(n) if key.ends_with("_ms") => {
                        write!(told, ", {} {}", words(key.trim_end_matches("_ms")), length(n.as_f64().unwrap_or(0.0)))
                    }
                    Value::String(s) => write!(told, ", {} {s}", words(key)),
                    other => write!(told, ", {} {other}", words(key)),
                };
            }
            told
        }
    }
}

fn budget(step: &Map<String, Value>, at: &str, took: &str) -> String {
    let (budget, endpoint) = (text(step, "budget"), text(step, "endpoint"));
    let usd = step.get("usd").and_then(Value::as_f64).map_or_else(String::new, |usd| format!("{usd} USD"));
    let tokens = number(step, "max_tokens");
    match text(step, "what") {
        "reserved" => format!("At {at} the budget {budget} reserved {usd} for {endpoint}"),
        "lowered" => {
            format!(
                "At {at} what is left of the budget {budget}, {usd}, lowered the answer of {endpoint} to {tokens} tokens at most"
            )
        }
        "waited" => format!("At {at} it waited {took} for money that other requests held of the budget {budget}"),
        "refused" => format!("At {at} the budget {budget} did not pay for {endpoint}"),
        other => format!("At {at} the budget {budget} for {endpoint}: {}", words(other)),
    }
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// A time in three digits or so: `0.4 ms`, `312 ms`, `4.21 s`, `1 min 3 s`.
fn length(ms: f64) -> String {
    match ms {
        _ if ms < 10.0 => format!("{ms:.1} ms"),
        _ if ms < 999.5 => format!("{ms:.0} ms"),
        _ if ms < 99_995.0 => format!("{:.2} s", ms / 1e3),
        _ => format!("{:.0} min {:.0} s", (ms / 6e4).floor(), (ms % 6e4) / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn record(duration_ms: f64, endpoint: Option<&str>, steps: &Value) -> RequestRecord {
        let read = json!({
            "request_id": "req_1", "started_at": "", "model": "chat", "stream": false, "outcome": if endpoint.is_some() { "success" } else { "upstream_failed" },
            "status": 200, "endpoint": endpoint, "duration_ms": duration_ms, "attempts": 1, "cost_usd": 0.0, "cost_state": "measured",
            "decision": {"strategy": "priority", "prompt_tokens_estimate": 1, "candidates": [], "removed": []}, "steps": steps,
        });
        serde_json::from_value(read).unwrap()
    }

    fn maps(steps: &Value) -> Vec<Map<String, Value>> {
        steps.as_array().unwrap().iter().map(|s| s.as_object().unwrap().clone()).collect()
    }

    #[test]
    fn a_slow_request_is_told_step_by_step_in_order() {
        let attempt = |at: f64, n: u32, endpoint: &str, outcome: &str, ms: f64| {
            json!({"step": "attempt", "at_ms": at, "attempt": n, "endpoint": endpoint, "outcome": outcome, "http_status": 0, "ms": ms,
                "given_ms": 2000.0, "first_byte_ms": null, "ttft_ms": null, "cost_usd": 0.0})
        };
        let steps = json!([
            {"step": "refused", "at_ms": 3.0, "endpoint": "claude", "reason": "breaker_open", "retry_in_ms": 4000.0},
            attempt(3.0, 1, "gemini", "first_byte_timeout", 2000.0),
            {"step": "waited", "at_ms": 2003.5, "ms": 300.0, "why": "backoff before another pass"},
            {"step": "failover", "at_ms": 2304.0, "from": "gemini", "to": "gpt", "outcome": "first_byte_timeout"},
            attempt(2304.0, 2, "gpt", "success", 1900.0),
        ]);
        let told = explained(record(4205.0, Some("gpt"), &steps));
        assert_eq!(told.time, TimeSpent { planning_ms: 3.0, endpoints_ms: 3900.0, waiting_ms: 300.0, gateway_ms: 2.0 });
        assert_eq!(
            told.explanation,
            "Took 4.21 s, answered by gpt with status 200. At 3.0 ms claude was passed over: breaker open, for 4.00 s. \
             At 3.0 ms gemini was asked, given 2.00 s for its first byte: first byte timeout after 2.00 s. \
             At 2.00 s it waited 300 ms: backoff before another pass. \
             At 2.30 s the request moved from gemini to gpt because of first byte timeout. \
             At 2.30 s gpt was asked, given 2.00 s for its first byte: success after 1.90 s. \
             In all: 3.0 ms reading and planning, 3.90 s at endpoints, 300 ms waiting, 2.0 ms in the gateway itself."
        );
    }

    #[test]
    fn standing_in_line_is_told_with_its_end() {
        let line = |endpoint: Option<&str>| {
            let step = json!([{"step": "queued", "at_ms": 2.0, "ms": 340.0, "priority": "low", "ahead": 3, "endpoint": endpoint}]);
            phrase(&maps(&step)[0])
        };
        assert_eq!(
            line(Some("gpt")),
            "At 2.0 ms every candidate was full: it stood in line for 340 ms with low priority, 3 ahead of it, until gpt had a place"
        );
        assert!(line(None).ends_with(", 3 ahead of it, and nobody had a place in time"), "{}", line(None));
    }

    #[test]
    fn what_budgets_did_is_told() {
        let told = |what: &str| {
            let step = json!([{"step": "budget", "at_ms": 2.0, "what": what, "budget": "team-a", "endpoint": "gpt", "usd": 0.0125, "max_tokens": 40, "ms": 250.0}]);
            phrase(&maps(&step)[0])
        };
        assert_eq!(told("reserved"), "At 2.0 ms the budget team-a reserved 0.0125 USD for gpt");
        assert_eq!(
            told("lowered"),
            "At 2.0 ms what is left of the budget team-a, 0.0125 USD, lowered the answer of gpt to 40 tokens at most"
        );
        assert_eq!(
            told("waited"),
            "At 2.0 ms it waited 250 ms for money that other requests held of the budget team-a"
        );
        assert_eq!(told("refused"), "At 2.0 ms the budget team-a did not pay for gpt");
    }

    #[test]
    fn a_kind_of_step_that_nobody_told_of_is_told_all_the_same() {
        let steps = maps(&json!([
            {"step": "queued_for_place", "at_ms": 1.0, "ms": 12.0, "key_share": 0.5, "ahead": 3, "wait_limit_ms": 5000.0, "endpoint": "gpt", "none": null}
        ]));
        assert_eq!(
            phrase(&steps[0]),
            "At 1.0 ms queued for place, ahead 3, endpoint gpt, key share 0.5, took 12 ms, wait limit 5.00 s"
        );
        assert_eq!(time_spent(&steps, 20.0).waiting_ms, 12.0);
    }

    #[test]
    fn many_steps_are_cut_in_the_middle() {
        let steps: Vec<Value> =
            (0..100).map(|n| json!({"step": "retry_budget_spent", "at_ms": f64::from(n)})).collect();
        let told = explained(record(100.0, None, &steps.into())).explanation;
        assert_eq!(told.matches("no further attempt").count(), MOST_TOLD, "{told}");
        assert!(told.contains("Then 76 more steps.") && told.len() < 4000, "{told}");
    }

    proptest! {
        #[test]
        fn the_parts_always_add_up(spans in proptest::collection::vec((0_u32..5000, 0_u32..5000, any::<bool>()), 0..20), after in 0_u32..1000) {
            let end = spans.iter().map(|(at, ms, _)| at + ms).max().unwrap_or(0) + after;
            let mut sorted = spans.clone();
            sorted.sort_unstable();
            let steps: Vec<_> = sorted.iter().map(|(at, ms, is_attempt)| {
                let step = if *is_attempt { "attempt" } else { "waited" };
                json!({"step": step, "at_ms": f64::from(*at), "ms": f64::from(*ms)})
            }).collect();
            let t = time_spent(&maps(&steps.into()), f64::from(end));
            let sum = t.planning_ms + t.endpoints_ms + t.waiting_ms + t.gateway_ms;
            prop_assert!((sum - f64::from(end)).abs() < 0.01, "{t:?} of {end}");
            // Counted millisecond by millisecond.
            let runs = |at: u32, attempts: bool| spans.iter().any(|(from, ms, is)| (*is || !attempts) && (*from..from + ms).contains(&at));
            let endpoints = (0..end).filter(|at| runs(*at, true)).count();
            prop_assert!((t.endpoints_ms - endpoints as f64).abs() < 0.01, "{t:?}, {endpoints}");
            let all = (0..end).filter(|at| runs(*at, false)).count();
            prop_assert!((t.waiting_ms - (all - endpoints) as f64).abs() < 0.01, "{t:?}");
        }
    }
}
