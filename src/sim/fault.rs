//! Faults: what can be injected, and which of them hit a request.
//!
//! - A fault has a kind, a `share` of the requests (0..1), and optionally a `count` of hits, a time `for_ms`, the paths it is
//!   `on`, and a `model`. It is over when the first of them is used up.
//! - Of the list's **manners** (latency, trickle, one byte per packet …) all that hit a request apply together. Of the
//!   **endings** (a status, a reset, a cut …) the first that hits applies. **Port** faults act on the listener, not on requests.
//! - An ending that only a stream can have passes unary requests by, and the other way round.
//!
//! Pure: time and rolls are arguments. What a fault looks like on the wire is decided in `serve` and `stream`.

use super::dice::Latency;
use crate::domain::time::Ts;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
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

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FaultKind {
    /// The port is closed: connecting is refused, idle connections end.
    Refuse,
    /// The port drops what wants to connect: connecting times out.
    Unreachable,

    /// The first token comes after this time, instead of the profile's.
    Latency { latency: Latency },
    /// The first byte of any answer, errors too, comes this much later.
    SlowFirstByte { ms: u64 },
    /// Another rate, instead of the profile's.
    Trickle { tokens_per_second: f64 },
    /// One write per byte.
    OneBytePackets,
    /// Streams: a byte order mark, CRLF and LF in turn, data over several lines, comments, no blank after the colon.
    MixedNewlines,
    /// The answer doesn't say what it used.
    NoUsage,
    /// Another finish reason, such as `content_filter`.
    Finish { reason: String },

    /// An answer with this status; a text as `body` is sent as it is, other JSON as JSON, none: the dialect's envelope.
    Status {
        code: u16,
        #[serde(default)]
        headers: BTreeMap<String, String>,
        #[serde(default)]
        body: Option<Value>,
    },
    /// The request is read and never answered.
    Hang,
    /// The connection is reset when the request's head has come, before its body is read.
    ResetBeforeHeaders,
    /// The connection is reset when the whole request has come.
    ResetAfterBody,
    /// The connection ends in the middle of the chunk after so many content events; unary: in the middle of the body.
    CutAfter {
        events: u64,
        /// Reset instead of an orderly close.
        #[serde(default)]
        reset: bool,
    },
    /// Streams: a clean end after so many content events (none given: all of them), with no finish reason and no `[DONE]`.
    EndWithoutDone {
        #[serde(default)]
        events: Option<u64>,
    },
    /// Streams: an error event after so many content events, then the end.
    ErrorEvent {
        after: u64,
        #[serde(default)]
        body: Option<Value>,
    },
    /// Streams: an error as the first event.
    FirstEventError {
        #[serde(default)]
        body: Option<Value>,
    },
    /// A 200 that is none.
    Malformed { what: Malformed },
    /// The body never ends.
    EndlessBody,
    /// Streams: nothing for this long after so many content events (no `ms`: for ever), then on.
    SilentAfter {
        events: u64,
        #[serde(default)]
        ms: Option<u64>,
    },
    /// A chunk whose size is no number, after so many content events; unary: at once.
    BrokenChunk {
        #[serde(default)]
        after: u64,
    },
    /// Streams: the event after so many content events is half a JSON object.
    BrokenJsonEvent {
        #[serde(default)]
        after: u64,
    },
    /// Unary: `content-length` is wrong by so many bytes; over the truth: the connection ends early.
    WrongLength { by: i64 },
    /// 429 with these texts as `retry-after` and `retry-after-ms`.
    RateLimited {
        #[serde(default)]
        retry_after: Option<String>,
        #[serde(default)]
        retry_after_ms: Option<String>,
    },
    /// 429 `insufficient_quota`.
    Quota,
    /// 401 `invalid_api_key`.
    AuthFailed,
    /// 529 `overloaded_error`.
    #[serde(rename = "overloaded_529")]
    Overloaded529,
}

/// The ways in which a 200 can be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Malformed {
    /// A web page.
    Html,
    HalfJson,
    /// No body at all.
    Empty,
    /// An error envelope.
    JsonError200,
    /// The right body as `text/plain`.
    WrongContentType,
}

impl FaultKind {
    /// The name in JSON and in the statistics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Unreachable => "unreachable",
            Self::Latency { .. } => "latency",
            Self::SlowFirstByte { .. } => "slow_first_byte",
            Self::Trickle { .. } => "trickle",
            Self::OneBytePackets => "one_byte_packets",
            Self::MixedNewlines => "mixed_newlines",
            Self::NoUsage => "no_usage",
            Self::Finish { .. } => "finish",
            Self::Status { .. } => "status",
            Self::Hang => "hang",
            Self::ResetBeforeHeaders => "reset_before_headers",
            Self::ResetAfterBody => "reset_after_body",
            Self::CutAfter { .. } => "cut_after",
            Self::EndWithoutDone { .. } => "end_without_done",
            Self::ErrorEvent { .. } => "error_event",
            Self::FirstEventError { .. } => "first_event_error",
            Self::Malformed { .. } => "malformed",
            Self::EndlessBody => "endless_body",
            Self::SilentAfter { .. } => "silent_after",
            Self::BrokenChunk { .. } => "broken_chunk",
            Self::BrokenJsonEvent { .. } => "broken_json_event",
            Self::WrongLength { .. } => "wrong_length",
            Self::RateLimited { .. } => "rate_limited",
            Self::Quota => "quota",
            Self::AuthFailed => "auth_failed",
            Self::Overloaded529 => "overloaded_529",
        }
    }

    fn stage(&self) -> Stage {
        match self {
            Self::Refuse | Self::Unreachable => Stage::Port,
            Self::ResetBeforeHeaders => Stage::Head,
            Self::Latency { .. }
            | Self::SlowFirstByte { .. }
            | Self::Trickle { .. }
            | Self::OneBytePackets
            | Self::MixedNewlines
            | Self::NoUsage
            | Self::Finish { .. } => Stage::Manner,
            _ => Stage::Ending,
        }
    }

    fn fits(&self, stream: bool) -> bool {
        match self {
            Self::MixedNewlines
            | Self::EndWithoutDone { .. }
            | Self::ErrorEvent { .. }
            | Self::FirstEventError { .. }
            | Self::SilentAfter { .. }
            | Self::BrokenJsonEvent { .. } => stream,
            Self::WrongLength { .. } => !stream,
            _ => true,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Acts on the listener.
    Port,
    /// Acts before the body is read.
    Head,
    /// Changes how an answer is sent.
    Manner,
    /// Replaces or ends an answer.
    Ending,
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

/// What a request is, as far as faults ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub on: On,
    pub stream: bool,
    pub model: Option<&'a str>,
}

/// How an answer is sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Manner {
    pub latency: Option<Latency>,
    pub slow: Duration,
    pub tokens_per_second: Option<f64>,
    pub one_byte: bool,
    pub mixed_newlines: bool,
    pub no_usage: bool,
    pub finish: Option<String>,
}

/// What hits one request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Hits {
    pub manner: Manner,
    pub ending: Option<FaultKind>,
    /// All that hit, for the statistics.
    pub names: Vec<&'static str>,
}

/// What the listener is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Port {
    #[default]
    Open,
    /// Closed.
    Refusing,
    /// Bound, but dropping connection attempts.
    Unreachable,
}

/// One fault in force.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Entry {
    #[serde(flatten)]
    fault: Fault,
    /// How often it has hit.
    hits: u64,
    #[serde(skip)]
    until: Option<Ts>,
}

impl Entry {
    fn new(fault: Fault, now: Ts) -> Self {
        let until = fault.for_ms.map(|ms| now.plus(Duration::from_millis(ms)));
        Self { fault, hits: 0, until }
    }

    fn in_force(&self, now: Ts) -> bool {
        self.until.is_none_or(|until| now < until) && self.fault.count.is_none_or(|count| self.hits < count)
    }

    fn hit(&mut self, asked: Asked<'_>, now: Ts, roll: f64) -> bool {
        let fault = &self.fault;
        let meant = (fault.on == On::All || fault.on == asked.on)
            && fault.model.as_deref().is_none_or(|model| asked.model == Some(model))
            && fault.kind.fits(asked.stream);
        let hit = meant && self.in_force(now) && (fault.share >= 1.0 || roll < fault.share);
        self.hits += u64::from(hit);
        hit
    }
}

/// The faults in force.
#[derive(Debug, Default)]
pub(super) struct Active {
    entries: Vec<Entry>,
    /// The fault of an outage under way: before all others, on everything.
    outage: Option<FaultKind>,
}

impl Active {
    pub(super) fn new(faults: Vec<Fault>, now: Ts) -> Self {
        Self { entries: faults.into_iter().map(|fault| Entry::new(fault, now)).collect(), outage: None }
    }

    /// Begins (or, with none, ends) an outage.
    pub(super) fn set_outage(&mut self, kind: Option<FaultKind>) {
        self.outage = kind;
    }

    /// Puts another list in the place of this one; an outage under way goes on.
    pub(super) fn replace(&mut self, faults: Vec<Fault>, now: Ts) {
        self.entries = Self::new(faults, now).entries;
    }

    /// What is still in force.
    pub(super) fn entries(&self, now: Ts) -> Vec<Entry> {
        self.entries.iter().filter(|entry| entry.in_force(now)).cloned().collect()
    }

    /// What the listener is to do now, and when that changes by itself.
    pub(super) fn port(&self, now: Ts) -> (Port, Option<Ts>) {
        if let Some(kind) = self.outage.as_ref().filter(|kind| kind.stage() == Stage::Port) {
            return (port_of(kind), None);
        }
        let entry = self.entries.iter().find(|e| e.fault.kind.stage() == Stage::Port && e.in_force(now));
        match entry {
            None => (Port::Open, None),
            Some(entry) => (port_of(&entry.fault.kind), entry.until),
        }
    }

    /// The fault that acts on a request's head, if one hits. `roll` gives a number in 0..1 for a place in the list.
    pub(super) fn on_head(&mut self, on: On, now: Ts, roll: impl Fn(u64) -> f64) -> Option<FaultKind> {
        if let Some(kind) = self.outage.as_ref().filter(|kind| kind.stage() == Stage::Head) {
            return Some(kind.clone());
        }
        let asked = Asked { on, stream: false, model: None };
        self.entries.iter_mut().zip(0..).find_map(|(entry, i)| {
            let hit = entry.fault.kind.stage() == Stage::Head && entry.hit(asked, now, roll(i));
            hit.then(|| entry.fault.kind.clone())
        })
    }

    /// The faults that hit a whole request. `roll` gives a number in 0..1 for a place in the list.
    pub(super) fn on_request(&mut self, asked: Asked<'_>, now: Ts, roll: impl Fn(u64) -> f64) -> Hits {
        let mut hits = Hits::default();
        let fits = |kind: &&FaultKind| kind.fits(asked.stream) && matches!(kind.stage(), Stage::Manner | Stage::Ending);
        if let Some(kind) = self.outage.as_ref().filter(fits) {
            hits.take(kind);
        }
        for (entry, i) in self.entries.iter_mut().zip(0..) {
            let stage = entry.fault.kind.stage();
            let wanted = stage == Stage::Manner || stage == Stage::Ending && hits.ending.is_none();
            if wanted && entry.hit(asked, now, roll(i)) {
                hits.take(&entry.fault.kind);
            }
        }
        hits
    }
}

/// What a port fault makes of the listener.
fn port_of(kind: &FaultKind) -> Port {
    match kind {
        FaultKind::Refuse => Port::Refusing,
        FaultKind::Unreachable => Port::Unreachable,
        _ => Port::Open,
    }
}

impl Hits {
    /// Adds a fault that hit; an ending that is already there stays.
    fn take(&mut self, kind: &FaultKind) {
        self.names.push(kind.name());
        match kind {
            FaultKind::Latency { latency } => self.manner.latency = Some(latency.clone()),
            FaultKind::SlowFirstByte { ms } => self.manner.slow += Duration::from_millis(*ms),
            FaultKind::Trickle { tokens_per_second } => self.manner.tokens_per_second = Some(*tokens_per_second),
            FaultKind::OneBytePackets => self.manner.one_byte = true,
            FaultKind::MixedNewlines => self.manner.mixed_newlines = true,
            FaultKind::NoUsage => self.manner.no_usage = true,
            FaultKind::Finish { reason } => self.manner.finish = Some(reason.clone()),
            other => {
                self.ending.get_or_insert_with(|| other.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CHAT: Asked<'_> = Asked { on: On::Generation, stream: true, model: Some("m") };

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

    #[test]
    fn all_manners_apply_but_only_the_first_ending() {
        let mut active = Active::new(
            vec![
                FaultKind::OneBytePackets.into(),
                FaultKind::CutAfter { events: 3, reset: false }.into(),
                FaultKind::Hang.into(),
                FaultKind::SlowFirstByte { ms: 5 }.into(),
            ],
            Ts(0),
        );
        let hits = active.on_request(CHAT, Ts(0), |_| 0.0);
        assert!(hits.manner.one_byte && hits.manner.slow == Duration::from_millis(5));
        assert_eq!(hits.ending, Some(FaultKind::CutAfter { events: 3, reset: false }));
        assert_eq!(hits.names, ["one_byte_packets", "cut_after", "slow_first_byte"]);
    }

    #[test]
    fn count_time_share_and_place_bound_a_fault() {
        let hit = |fault: Fault, asked, now, roll: f64| {
            Active::new(vec![fault], Ts(0)).on_request(asked, now, |_| roll).ending.is_some()
        };
        let hang = || Fault::from(FaultKind::Hang);
        assert!(hit(hang(), CHAT, Ts(0), 0.99));
        assert!(hit(hang().share(0.5), CHAT, Ts(0), 0.49));
        assert!(!hit(hang().share(0.5), CHAT, Ts(0), 0.5));
        assert!(hit(hang().lasting(Duration::from_millis(2)), CHAT, Ts(1_999), 0.0));
        assert!(!hit(hang().lasting(Duration::from_millis(2)), CHAT, Ts(2_000), 0.0));
        assert!(!hit(hang(), Asked { on: On::Health, ..CHAT }, Ts(0), 0.0));
        assert!(hit(hang().on(On::All), Asked { on: On::Health, ..CHAT }, Ts(0), 0.0));
        assert!(!hit(Fault { model: Some("other".into()), ..hang() }, CHAT, Ts(0), 0.0));
        let done = Fault::from(FaultKind::EndWithoutDone { events: None });
        assert!(!hit(done, Asked { stream: false, ..CHAT }, Ts(0), 0.0));

        let mut twice = Active::new(vec![hang().times(2)], Ts(0));
        let hits: Vec<bool> = (0..4).map(|_| twice.on_request(CHAT, Ts(0), |_| 0.0).ending.is_some()).collect();
        assert_eq!(hits, [true, true, false, false]);
        assert!(twice.entries(Ts(0)).is_empty());
    }

    #[test]
    fn the_port_follows_its_fault_and_opens_when_it_is_over() {
        let refuse = Fault::from(FaultKind::Refuse).lasting(Duration::from_millis(10));
        let mut active = Active::new(vec![refuse], Ts(0));
        assert_eq!(active.port(Ts(0)), (Port::Refusing, Some(Ts(10_000))));
        assert_eq!(active.port(Ts(10_000)), (Port::Open, None));
        active.set_outage(Some(FaultKind::Unreachable));
        assert_eq!(active.port(Ts(10_000)), (Port::Unreachable, None));
    }
}
