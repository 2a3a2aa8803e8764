//! Reading answers: whole ones and the chunks of a stream. The bytes themselves are passed on as they came; this only looks.

use crate::dialects::fault;
use crate::domain::outcome::Outcome;
use crate::domain::usage::Usage;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// What a whole answer says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// `None` when the upstream did not report.
    pub usage: Option<Usage>,
    /// Bytes of generated text, for an estimate where usage is missing.
    pub text_bytes: u64,
}

/// What one chunk of a stream says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    pub usage: Option<Usage>,
    /// Bytes of generated text, tool arguments included.
    pub text_bytes: u64,
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
struct Body<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(default)]
    usage: Option<RawUsage>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct Choice<'a> {
    #[serde(default, alias = "delta")]
    message: Option<Said>,
    #[serde(borrow, default)]
    finish_reason: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct Said {
    #[serde(default)]
    content: Size,
    #[serde(default)]
    refusal: Size,
    #[serde(default, alias = "reasoning")]
    reasoning_content: Size,
    #[serde(default)]
    tool_calls: Size,
    #[serde(default)]
    function_call: Size,
    #[serde(default)]
    audio: Size,
}

impl Said {
    fn bytes(&self) -> u64 {
        [&self.content, &self.refusal, &self.reasoning_content, &self.tool_calls, &self.function_call, &self.audio]
            .into_iter()
            .map(|s| s.0)
            .sum()
    }
}

/// How many bytes of text a value holds, strings anywhere in it counted, keys not; null and empty are 0.
#[derive(Default)]
struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count;
        impl<'de> Visitor<'de> for Count {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_str<E>(self, s: &str) -> Result<Size, E> {
                Ok(Size(s.len() as u64))
            }
            fn visit_unit<E>(self) -> Result<Size, E> {
                Ok(Size(0))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Size, E> {
                Ok(Size(0))
            }
            fn visit_u64<E>(self, _: u64) -> Result<Size, E> {
                Ok(Size(0))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Size, E> {
                Ok(Size(0))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Size, E> {
                Ok(Size(0))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Size, A::Error> {
                let mut sum = 0;
                while let Some(Size(n)) = seq.next_element()? {
                    sum += n;
                }
                Ok(Size(sum))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Size, A::Error> {
                let mut sum = 0;
                while map.next_key::<IgnoredAny>()?.is_some() {
                    sum += map.next_value::<Size>()?.0;
                }
                Ok(Size(sum))
            }
        }
        deserializer.deserialize_any(Count)
    }
}

/// OpenAI's usage object, in which cached tokens are part of the prompt's and reasoning tokens part of the completion's.
#[derive(Deserialize, Default)]
struct RawUsage {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(default)]
    completion_tokens_details: Option<CompletionDetails>,
    /// DeepSeek's name for cached tokens.
    #[serde(default)]
    prompt_cache_hit_tokens: Option<u64>,
}

#[derive(Deserialize, Default)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u64>,
    #[serde(default)]
    cache_write_tokens: Option<u64>,
}

#[derive(Deserialize, Default)]
struct CompletionDetails {
    #[serde(default)]
    reasoning_tokens: Option<u64>,
}

impl RawUsage {
    /// The classes made disjoint; details larger than their whole are cut to it. `None` when both wholes are missing.
    fn disjoint(&self) -> Option<Usage> {
        if self.prompt_tokens.is_none() && self.completion_tokens.is_none() {
            return None;
        }
        let (prompt, completion) = (self.prompt_tokens.unwrap_or(0), self.completion_tokens.unwrap_or(0));
        let details = self.prompt_tokens_details.as_ref();
        let cached = details.and_then(|d| d.cached_tokens).or(self.prompt_cache_hit_tokens).unwrap_or(0).min(prompt);
        let written = details.and_then(|d| d.cache_write_tokens).unwrap_or(0).min(prompt - cached);
        let reasoning = self.completion_tokens_details.as_ref().and_then(|d| d.reasoning_tokens).unwrap_or(0);
        let reasoning = reasoning.min(completion);
        Some(Usage {
            input: prompt - cached - written,
            cached_input: cached,
            cache_write: written,
            output: completion - reasoning,
            reasoning,
        })
    }
}

fn read(json: &[u8]) -> Result<Body<'_>, Wrong> {
    let text = std::str::from_utf8(json).map_err(|_| Wrong::protocol("the answer is not UTF-8"))?;
    let body: Body = serde_json::from_str(text).map_err(|e| {
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
        let body = read(json)?;
        match body.choices {
            Some(choices) if !choices.is_empty() => Ok(Self {
                usage: body.usage.and_then(|u| u.disjoint()),
                text_bytes: choices.iter().filter_map(|c| c.message.as_ref()).map(Said::bytes).sum(),
            }),
            _ => Err(Wrong::protocol("the answer has no choices")),
        }
    }
}

impl Chunk {
    /// Reads the data of one event of a stream; `[DONE]` is not one.
    ///
    /// # Errors
    /// What it is instead of a chunk.
    pub fn read(json: &[u8]) -> Result<Self, Wrong> {
        let body = read(json)?;
        let choices = body.choices.unwrap_or_default();
        let text_bytes = choices.iter().filter_map(|c| c.message.as_ref()).map(Said::bytes).sum();
        let finished = choices.iter().any(|c| c.finish_reason.is_some_and(|r| r.get() != "null"));
        Ok(Self {
            usage: body.usage.and_then(|u| u.disjoint()),
            text_bytes,
            has_content: text_bytes > 0 || finished,
            finished,
            is_usage_only: choices.is_empty(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_classes_are_disjoint() {
        let answer = Answer::read(
            br#"{"choices":[{"message":{"content":"four"}}],"usage":{"prompt_tokens":100,"completion_tokens":30,
            "prompt_tokens_details":{"cached_tokens":60,"audio_tokens":null},"completion_tokens_details":{"reasoning_tokens":10}}}"#,
        )
        .unwrap();
        let usage = Usage { input: 40, cached_input: 60, cache_write: 0, output: 20, reasoning: 10 };
        assert_eq!(answer, Answer { usage: Some(usage), text_bytes: 4 });
    }

    #[test]
    fn details_beyond_their_whole_are_cut() {
        let raw = RawUsage {
            prompt_tokens: Some(5),
            prompt_cache_hit_tokens: Some(9),
            completion_tokens_details: Some(CompletionDetails { reasoning_tokens: Some(3) }),
            ..RawUsage::default()
        };
        assert_eq!(raw.disjoint(), Some(Usage { cached_input: 5, ..Usage::default() }));
        assert_eq!(RawUsage::default().disjoint(), None);
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
        let chunk = |json: &str| Chunk::read(json.as_bytes()).unwrap();
        assert!(
            !chunk(r#"{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#).has_content
        );
        assert!(chunk(r#"{"choices":[{"delta":{"content":"a"}}]}"#).has_content);
        assert!(chunk(r#"{"choices":[{"delta":{"reasoning_content":"a"}}]}"#).has_content);
        let tool = chunk(r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}}]}"#);
        assert_eq!((tool.has_content, tool.text_bytes), (true, 2));
        let end = chunk(r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#);
        assert!(end.finished && end.has_content);
        let usage = chunk(r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#);
        assert!(usage.is_usage_only && usage.usage.is_some() && !usage.has_content);
        assert_eq!(Chunk::read(br#"{"error":{"type":"overloaded_error"}}"#).unwrap_err().outcome, Outcome::Overloaded);
        assert!(Chunk::read(b"{\"choices\":[{").is_err());
    }
}
