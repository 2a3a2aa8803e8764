//! What is asked and what is answered: one fixed request and one fixed answer per mode, about 1 KB each way, a stream of
//! exactly [`EVENTS`] events. The mode travels in the request's `user` field, which every proxy hands on.

use breakwater::domain::time::Wall;
use std::time::Duration;

/// `data:` events of a stream: one with the role, the content, one with the finish reason, one with the usage, `[DONE]`.
pub const EVENTS: usize = 100;
/// Before the time in a paced event; the time is 16 digits of microseconds since the Unix epoch.
pub const STAMP: &[u8] = b"\"fp_";
pub const STAMP_DIGITS: usize = 16;
const NO_STAMP: &str = "0000000000000000";

/// What the load generator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// One JSON answer.
    Unary,
    /// A stream that the upstream writes at once: what relaying an event costs.
    Burst,
    /// A stream with a pause before each event, each event stamped: whether it leaves when it came.
    Paced,
    /// A slower paced stream, for counting the memory of many open ones.
    Open,
}

impl Mode {
    pub const ALL: [Self; 4] = [Self::Unary, Self::Burst, Self::Paced, Self::Open];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::Burst => "burst",
            Self::Paced => "paced",
            Self::Open => "open",
        }
    }

    /// The pause before each event.
    pub fn gap(self) -> Option<Duration> {
        match self {
            Self::Unary | Self::Burst => None,
            Self::Paced => Some(Duration::from_millis(5)),
            Self::Open => Some(Duration::from_millis(25)),
        }
    }

    /// The request's body.
    pub fn body(self) -> String {
        let stream = if self == Self::Unary { "" } else { r#""stream":true,"stream_options":{"include_usage":true},"# };
        let prompt = "Summarise the incident below for an on-call engineer in three sentences. ".to_owned()
            + &"At 14:02 the primary region began to answer with errors and traffic moved to the second one. "
                .repeat(8);
        format!(
            r#"{{"model":"chat",{stream}"user":"bench-{}","temperature":0.2,"max_tokens":256,"messages":[{{"role":"system","content":"You are a careful assistant who answers briefly."}},{{"role":"user","content":"{prompt}"}}]}}"#,
            self.as_str()
        )
    }

    /// The mode that a request's body names.
    pub fn of_body(body: &[u8]) -> Option<Self> {
        const MARK: &[u8] = b"bench-";
        let at = body.windows(MARK.len()).position(|w| w == MARK)? + MARK.len();
        Self::ALL.into_iter().find(|m| body.get(at..).is_some_and(|rest| rest.starts_with(m.as_str().as_bytes())))
    }

    /// Whether `body` is the whole answer.
    pub fn check(self, body: &[u8]) -> Result<(), String> {
        if self == Self::Unary {
            return if body == answer().as_bytes() {
                Ok(())
            } else {
                Err(format!("answer of {} bytes differs from the upstream's {} bytes", body.len(), answer().len()))
            };
        }
        let mut events = body.split(|b| *b == b'\n').filter(|l| l.starts_with(b"data: "));
        let count = events.clone().count();
        if count != EVENTS {
            return Err(format!("stream has {count} events instead of {EVENTS}"));
        }
        match events.next_back() {
            Some(b"data: [DONE]") => Ok(()),
            _ => Err("stream doesn't end with [DONE]".into()),
        }
    }
}

/// The unary answer's body.
pub fn answer() -> &'static str {
    const {
        concat!(
            r#"{"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion","created":1741569952,"#,
            r#""model":"deepseek-v3.2","choices":[{"index":0,"message":{"role":"assistant","content":""#,
            "At 14:02 the primary region began to answer with errors, and routing moved all traffic to the second ",
            "region within a minute. The move was clean: error rates outside the window stayed under one in ten ",
            "thousand, and no request was answered twice. Open work is to find what failed in the primary region, to ",
            "decide whether the move should have come sooner, and to bring traffic back in steps once the owner of the ",
            "region says that it is healthy; until then the second region carries everything and has room for about ",
            r#"forty per cent more.","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"#,
            r#""usage":{"prompt_tokens":214,"completion_tokens":118,"total_tokens":332,"prompt_tokens_details":"#,
            r#"{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"#,
            r#""audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"#,
            r#""service_tier":"default","system_fingerprint":"fp_50cad350e4"}"#,
        )
    }
}

/// The stream's events, each as it goes over the wire, with room for the time.
pub fn events() -> Vec<String> {
    let event = |choices: &str, usage: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG\",\"object\":\"chat.completion.chunk\",\
             \"created\":1741570283,\"model\":\"deepseek-v3.2\",\"service_tier\":\"default\",\
             \"system_fingerprint\":\"fp_{NO_STAMP}\",\"choices\":[{choices}],\"usage\":{usage}}}\n\n"
        )
    };
    let delta = |delta: &str, finish: &str| {
        format!("{{\"index\":0,\"delta\":{{{delta}}},\"logprobs\":null,\"finish_reason\":{finish}}}")
    };
    let mut all = vec![event(&delta(r#""role":"assistant","content":"""#, "null"), "null")];
    let words = [" the", " region", " answered", " within", " a", " minute", " and", " stayed"];
    for word in words.iter().cycle().take(EVENTS - 4) {
        all.push(event(&delta(&format!("\"content\":\"{word}\""), "null"), "null"));
    }
    all.push(event(&delta("", "\"stop\""), "null"));
    all.push(event("", r#"{"prompt_tokens":214,"completion_tokens":96,"total_tokens":310}"#));
    all.push("data: [DONE]\n\n".into());
    all
}

/// Writes the time into a copy of an event, if it has room for one.
pub fn stamp(event: &mut [u8], at: Wall) {
    if let Some(start) = event.windows(STAMP.len()).position(|w| w == STAMP) {
        let digits = format!("{:0width$}", at.0, width = STAMP_DIGITS);
        let start = start + STAMP.len();
        if let Some(slot) = event.get_mut(start..start + STAMP_DIGITS) {
            slot.copy_from_slice(digits.as_bytes());
        }
    }
}

/// The times in the events of `body` from `from` on that are complete; gives back where to look next.
pub fn stamps(body: &[u8], mut from: usize, mut each: impl FnMut(Wall)) -> usize {
    while let Some(at) = body.get(from..).and_then(|rest| rest.windows(STAMP.len()).position(|w| w == STAMP)) {
        let start = from + at + STAMP.len();
        let Some(digits) = body.get(start..start + STAMP_DIGITS) else { break };
        if let Some(us) = std::str::from_utf8(digits).ok().and_then(|d| d.parse().ok()) {
            each(Wall(us));
        }
        from = start + STAMP_DIGITS;
    }
    from
}
