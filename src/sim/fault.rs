//! One injected fault: a kind, and what bounds it; read from JSON, checked.
//!
//! A fault has a kind, a `share` of the requests (0..1), and optionally a `count` of hits, a time `for_ms`, the paths it is
//! `on`, and a `model`. It is over when the first of them is used up. A kind that acts on the port takes only a time.

use super::kind::{FaultKind, Stage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;

/// Most faults in one list.
pub(super) const MAX_FAULTS: usize = 64;

/// One injected fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Fault {
    #[serde(flatten)]
    pub kind: FaultKind,
    /// Share of the matching requests that it hits, 0..1.
    pub share: f64,
    /// Over after this many hits.
    pub count: Option<u64>,
    /// Over this many milliseconds after it was set.
    pub for_ms: Option<u64>,
    pub on: On,
    /// Only requests for this model.
    pub model: Option<String>,
}

/// The requests that a fault is meant for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On {
    /// Chat completions and embeddings.
    #[default]
    Generation,
    Models,
    Health,
    All,
}

impl From<FaultKind> for Fault {
    fn from(kind: FaultKind) -> Self {
        Self { kind, share: 1.0, count: None, for_ms: None, on: On::Generation, model: None }
    }
}

impl Fault {
    /// The same, for a share (0..1) of the requests.
    #[must_use]
    pub fn share(self, share: f64) -> Self {
        Self { share, ..self }
    }

    /// The same, for this many hits.
    #[must_use]
    pub fn times(self, count: u64) -> Self {
        Self { count: Some(count), ..self }
    }

    /// The same, for this long, in whole milliseconds.
    #[must_use]
    pub fn lasting(self, time: Duration) -> Self {
        Self { for_ms: Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)), ..self }
    }

    /// The same, on other paths.
    #[must_use]
    pub fn on(self, on: On) -> Self {
        Self { on, ..self }
    }

    /// What is wrong with it, if anything.
    pub(super) fn check(&self) -> Result<(), String> {
        let name = self.kind.name();
        if !(0.0..=1.0).contains(&self.share) {
            return Err(format!("{name}: share {} is not between 0 and 1", self.share));
        }
        let per_request = self.share < 1.0 || self.count.is_some() || self.model.is_some() || self.on != On::Generation;
        if self.kind.stage() == Stage::Port && per_request {
            return Err(format!("{name} acts on the port: it takes for_ms, not share, count, on or model"));
        }
        if self.kind.stage() == Stage::Head && self.model.is_some() {
            return Err(format!("{name} acts before the model is known: it takes no model"));
        }
        match &self.kind {
            FaultKind::Latency { latency } => latency.check().map_err(|why| format!("{name}: {why}")),
            FaultKind::Trickle { tokens_per_second } if !over_zero(*tokens_per_second) => {
                Err(format!("{name}: tokens_per_second {tokens_per_second} is not over 0"))
            }
            FaultKind::Status { code, headers, .. } => {
                if !(200..=599).contains(code) {
                    return Err(format!("{name}: {code} is no final status"));
                }
                let breaks = |text: &str| text.bytes().any(|b| b == b'\r' || b == b'\n');
                match headers.iter().find(|(key, value)| key.is_empty() || breaks(key) || breaks(value)) {
                    Some((key, _)) => Err(format!("{name}: header `{}` holds a line break", key.escape_debug())),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

impl TryFrom<Map<String, Value>> for Fault {
    type Error = String;

    fn try_from(mut map: Map<String, Value>) -> Result<Self, String> {
        fn take<T: serde::de::DeserializeOwned>(map: &mut Map<String, Value>, key: &str) -> Result<Option<T>, String> {
            match map.remove(key) {
                None | Some(Value::Null) => Ok(None),
                Some(value) => serde_json::from_value(value).map(Some).map_err(|e| format!("{key}: {e}")),
            }
        }
        let share = take(&mut map, "share")?.unwrap_or(1.0);
        let count = take(&mut map, "count")?;
        let for_ms = take(&mut map, "for_ms")?;
        let on = take(&mut map, "on")?.unwrap_or_default();
        let model = take(&mut map, "model")?;
        let kind: FaultKind = serde_json::from_value(Value::Object(map.clone())).map_err(|e| format!("fault: {e}"))?;
        // Serde lets unknown keys of a tagged variant pass; what was understood is what comes out again.
        let understood = serde_json::to_value(&kind).map_err(|e| e.to_string())?;
        match map.keys().find(|key| understood.get(key).is_none()) {
            Some(key) => Err(format!("{}: unknown key `{key}`", kind.name())),
            None => Ok(Self { kind, share, count, for_ms, on, model }),
        }
    }
}

/// Whether a rate is one; NaN is none.
pub(super) fn over_zero(rate: f64) -> bool {
    rate > 0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fault(value: Value) -> Result<Fault, String> {
        serde_json::from_value(value).map_err(|e| e.to_string()).and_then(|f: Fault| f.check().map(|()| f))
    }

    #[test]
    fn json_is_understood_and_comes_out_the_same() {
        let one =
            fault(json!({"kind": "status", "code": 503, "headers": {"retry-after": "7"}, "share": 0.5, "count": 3}));
        let one = one.unwrap();
        assert_eq!((one.share, one.count, one.on), (0.5, Some(3), On::Generation));
        let again: Fault = serde_json::from_value(serde_json::to_value(&one).unwrap()).unwrap();
        assert_eq!(one, again);
        assert_eq!(fault(json!({"kind": "overloaded_529"})).unwrap().kind, FaultKind::Overloaded529);
        assert_eq!(fault(json!({"kind": "hang", "on": "all"})).unwrap(), Fault::from(FaultKind::Hang).on(On::All));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (bad, why) in [
            (json!({"kind": "hangs"}), "unknown variant `hangs`"),
            (json!({"kind": "hang", "ms": 3}), "hang: unknown key `ms`"),
            (json!({"kind": "cut_after", "events": 3, "evnts": 3}), "unknown key `evnts`"),
            (json!({"kind": "cut_after"}), "missing field `events`"),
            (json!({"kind": "hang", "share": 1.5}), "not between 0 and 1"),
            (json!({"kind": "refuse", "share": 0.5}), "acts on the port"),
            (json!({"kind": "reset_before_headers", "model": "m"}), "before the model is known"),
            (json!({"kind": "status", "code": 99}), "no final status"),
            (json!({"kind": "status", "code": 500, "headers": {"a": "b\r\nc: d"}}), "line break"),
            (json!({"kind": "trickle", "tokens_per_second": 0.0}), "not over 0"),
            (json!({"kind": "latency", "latency": {"dist": "fixed", "ms": -1.0}}), "no time"),
        ] {
            let got = fault(bad.clone()).unwrap_err();
            assert!(got.contains(why), "{bad}: {got}");
        }
    }
}
