//! The kinds of fault, by their names in JSON, and where each acts.
//!
//! What a kind looks like on the wire is decided in `endings` and `stream`.

use super::dice::Latency;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

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
    /// One write per byte, and a pause after each if `gap_ms` says so: without it a reader that lags finds several at once.
    OneBytePackets {
        #[serde(default)]
        gap_ms: Option<u64>,
    },
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
            Self::OneBytePackets { .. } => "one_byte_packets",
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

    /// Where it acts.
    pub(super) fn stage(&self) -> Stage {
        match self {
            Self::Refuse | Self::Unreachable => Stage::Port,
            Self::ResetBeforeHeaders => Stage::Head,
            Self::Latency { .. }
            | Self::SlowFirstByte { .. }
            | Self::Trickle { .. }
            | Self::OneBytePackets { .. }
            | Self::MixedNewlines
            | Self::NoUsage
            | Self::Finish { .. } => Stage::Manner,
            _ => Stage::Ending,
        }
    }

    /// Whether a stream, or a unary request, can have it.
    pub(super) fn fits(&self, stream: bool) -> bool {
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
pub(super) enum Stage {
    /// Acts on the listener.
    Port,
    /// Acts before the body is read.
    Head,
    /// Changes how an answer is sent.
    Manner,
    /// Replaces or ends an answer.
    Ending,
}
