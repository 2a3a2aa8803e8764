//! Reading answers: whole ones and the chunks of a stream. The bytes themselves are passed on as they came; this only looks.

use crate::dialects::fault;
use crate::dialects::openai::text::{Pieces, Size};
use crate::dialects::openai::usage::{Lenient, RawUsage, Reported};
use crate::domain::outcome::Outcome;
use serde::Deserialize;
use serde_json::value::RawValue;

/// What a whole answer says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// `None` when the upstream did not report, or nothing that can be believed.
    pub usage: Option<Reported>,
    /// The upstream reported what cannot be true.
    pub disbelieved: bool,
    /// Bytes of generated text: whether there is any.
    pub text_bytes: u64,
}

/// What one chunk of a stream says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk<'a> {
    pub usage: Option<Reported>,
    /// The upstream reported what cannot be true.
    pub disbelieved: bool,
    /// Generated text of all choices, tool arguments included.
    pub text: Pieces<'a>,
    /// Something that the client would show: from here on no other endpoint can take over unseen.
    pub has_content: bool,
    /// A choice ended.
    pub finished: bool,
    /// Only usage: `choices` is empty.
    pub is_usage_only: bool,
}

/// A payload that is no answer, with what it is instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    pub outcome: Outcome,
    pub message: String,
}

impl Wrong {
    fn protocol(message: impl Into<String>) -> Self {
        Self { outcome: Outcome::Protocol, message: message.into() }
    }
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de> + Default"))]
struct Body<'a, T> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a, T>>>,
    #[serde(default)]
    usage: Lenient<RawUsage>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de> + Default"))]
struct Choice<'a, T> {
    #[serde(default, alias = "delta")]
    message: Option<Said<T>>,
    #[serde(borrow, default)]
    finish_reason: Option<&'a RawValue>,
    /// Moonshot reports here at the end of a stream.
    #[serde(default)]
    usage: Lenient<RawUsage>,
}

/// What a message or delta says, each member measured or taken as `T`.
#[derive(Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de> + Default"))]
struct Said<T> {
    #[serde(default)]
    content: T,
    #[serde(default)]
    refusal: T,
    #[serde(default, alias = "reasoning")]
    reasoning_content: T,
    #[serde(default)]
    tool_calls: T,
    #[serde(default)]
    function_call: T,
    #[serde(default)]
    audio: T,
}

impl<T> Said<T> {
    fn all(self) -> [T; 6] {
        [self.reasoning_content, self.content, self.refusal, self.tool_calls, self.function_call, self.audio]
    }
}

impl<T> Body<'_, T> {
    fn reported(&self) -> Option<Reported> {
        let in_choices = || self.choices.iter().flatten().find_map(|c| c.usage.0.read());
        self.usage.0.read().or_else(in_choices)
    }

    fn is_disbelieved(&self) -> bool {
        self.usage.0.is_nonsense() || self.choices.iter().flatten().any(|c| c.usage.0.is_nonsense())
    }
}

fn read<'a, T: Deserialize<'a> + Default>(json: &'a [u8]) -> Result<Body<'a, T>, Wrong> {
    let text = std::str::from_utf8(json).map_err(|_| Wrong::protocol("the answer is not UTF-8"))?;
    let body: Body<T> = serde_json::from_str(text).map_err(|e| {
        if text.trim().is_empty() {
            Wrong::protocol("the answer is empty")
        } else {
            // Not the parser's words: they quote the text.
            Wrong::protocol(format!("the answer is no completion (line {}, column {})", e.line(), e.column()))
        }
    })?;
    if let Some(error) = body.error.map(RawValue::get).filter(|e| *e != "null") {
        return Err(Wrong { outcome: fault::of_error_object(error), message: fault::kind_of(json) });
    }
    Ok(body)
}

impl Answer {
    /// Reads a whole answer that came with status 200.
    ///
    /// # Errors
    /// What it is instead of an answer.
    pub fn read(json: &[u8]) -> Result<Self, Wrong> {
        let body = read::<Size>(json)?;
        let (usage, disbelieved) = (body.reported(), body.is_disbelieved());
        match body.choices {
            Some(choices) if !choices.is_empty() => {
                let said = choices.into_iter().filter_map(|c| c.message).flat_map(Said::all);
                Ok(Self { usage, disbelieved, text_bytes: said.map(|Size(n)| n).sum() })
            }
            _ => Err(Wrong::protocol("the answer has no choices")),
        }
    }

    /// The generated text of a whole answer; empty if it is none.
    #[must_use]
    pub fn text(json: &[u8]) -> Pieces<'_> {
        let choices = read::<Pieces>(json).ok().and_then(|body| body.choices).unwrap_or_default();
        text(choices)
    }
}

fn text<'a>(choices: Vec<Choice<'a, Pieces<'a>>>) -> Pieces<'a> {
    let mut all = Pieces::default();
    choices.into_iter().filter_map(|c| c.message).flat_map(Said::all).for_each(|pieces| all.append(pieces));
    all
}

impl<'a> Chunk<'a> {
    /// Reads the data of one event of a stream; `[DONE]` is not one.
    ///
    /// # Errors
    /// What it is instead of a chunk.
    pub fn read(json: &'a [u8]) -> Result<Self, Wrong> {
        let body = read::<Pieces>(json)?;
        let (usage, disbelieved) = (body.reported(), body.is_disbelieved());
        let choices = body.choices.unwrap_or_default();
        let finished = choices.iter().any(|c| c.finish_reason.is_some_and(|r| r.get() != "null"));
        let is_usage_only = choices.is_empty();
        let text = text(choices);
        Ok(Self { usage, disbelieved, has_content: !text.is_empty() || finished, text, finished, is_usage_only })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::usage::Usage;

    #[test]
    fn usage_classes_are_disjoint() {
        let answer = Answer::read(
            br#"{"choices":[{"message":{"content":"four"}}],"usage":{"prompt_tokens":100,"completion_tokens":30,
            "prompt_tokens_details":{"cached_tokens":60,"audio_tokens":null},"completion_tokens_details":{"reasoning_tokens":10}}}"#,
        )
        .unwrap();
        let usage = Usage { input: 40, cached_input: 60, cache_write: 0, output: 20, reasoning: 10 };
        assert_eq!(answer, Answer { usage: Some(Reported { usage, audio: 0 }), disbelieved: false, text_bytes: 4 });
    }

    #[test]
    fn what_is_no_answer_is_classed() {
        for (json, outcome) in [
            ("", Outcome::Protocol),
            ("{", Outcome::Protocol),
            ("<html></html>", Outcome::Protocol),
            ("{}", Outcome::Protocol),
            (r#"{"choices":[]}"#, Outcome::Protocol),
            (r#"{"error":{"message":"x","type":"server_error"}}"#, Outcome::ServerError),
            (r#"{"error":{"code":429}}"#, Outcome::RateLimited),
        ] {
            assert_eq!(Answer::read(json.as_bytes()).unwrap_err().outcome, outcome, "{json}");
        }
    }

    #[test]
    fn chunks_tell_content_from_preamble() {
        let chunk = |json: &'static str| Chunk::read(json.as_bytes()).unwrap();
        assert!(
            !chunk(r#"{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#).has_content
        );
        assert!(chunk(r#"{"choices":[{"delta":{"content":"a"}}]}"#).has_content);
        assert!(chunk(r#"{"choices":[{"delta":{"reasoning_content":"a"}}]}"#).has_content);
        let tool = chunk(r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}}]}"#);
        assert_eq!((tool.has_content, tool.text.each().collect::<Vec<_>>()), (true, vec!["{}"]));
        // The name of a call is generated, its id is not; sound is content, but no text.
        let named = chunk(
            r#"{"choices":[{"delta":{"tool_calls":[{"id":"call_1","type":"function","function":{"name":"f","arguments":""}}]}}]}"#,
        );
        assert_eq!(named.text.each().collect::<Vec<_>>(), ["f"]);
        let sound = chunk(r#"{"choices":[{"delta":{"audio":{"id":"a","data":"UklG"}}}]}"#);
        assert_eq!((sound.has_content, sound.text.each().count()), (true, 0));
        let end = chunk(r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#);
        assert!(end.finished && end.has_content);
        let usage = chunk(r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#);
        assert!(usage.is_usage_only && usage.usage.is_some() && !usage.has_content);
        assert_eq!(Chunk::read(br#"{"error":{"type":"overloaded_error"}}"#).unwrap_err().outcome, Outcome::Overloaded);
        assert!(Chunk::read(b"{\"choices\":[{").is_err());
    }
}
