//! What a simulated model says, whatever the dialect: the text token by token, when it ends, and what it counts.
//!
//! - Text is checkable: `t0 t1 t2 …`, the words of the last message, or the rest of an answer begun elsewhere.
//! - A prompt has as many tokens as its messages' texts have words, and four more for each message.
//! - Tool arguments and JSON answers are the smallest value that the request's schema allows, in pieces of eight characters.

use super::profile::{Answer, Profile};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::fmt::Write;

/// The pieces of an answer's text; each is one token and one content event.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// `tN` for each N from `from` to before `to`.
    Numbered {
        from: u64,
        to: u64,
    },
    Pieces(Vec<String>),
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Numbered { from, to } => to.saturating_sub(*from),
            Self::Pieces(pieces) => pieces.len() as u64,
        }
    }

    /// Appends piece `i` to `out`; false if there is none.
    pub(super) fn push(&self, i: u64, out: &mut String) -> bool {
        match self {
            Self::Numbered { from, to } => {
                let number = from.saturating_add(i);
                if number < *to {
                    let _ = write!(out, "{}t{number}", if number == 0 { "" } else { " " });
                }
                number < *to
            }
            Self::Pieces(pieces) => {
                let piece = usize::try_from(i).ok().and_then(|i| pieces.get(i));
                out.push_str(piece.map_or("", String::as_str));
                piece.is_some()
            }
        }
    }

    /// The whole text.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut i = 0;
        while self.push(i, &mut text) {
            i += 1;
        }
        text
    }

    /// Cuts it to at most `max` pieces; tells whether anything was cut off.
    pub(super) fn limit(&mut self, max: u64) -> bool {
        let cut = self.len() > max;
        match self {
            Self::Numbered { from, to } => *to = (*to).min(from.saturating_add(max)),
            Self::Pieces(pieces) => pieces.truncate(usize::try_from(max).unwrap_or(usize::MAX)),
        }
        cut
    }

    /// Makes it go on for ever.
    pub(super) fn never_end(&mut self) {
        let from = if let Self::Numbered { from, .. } = self { *from } else { 0 };
        *self = Self::Numbered { from, to: u64::MAX };
    }
}

/// One message of a conversation.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub assistant: bool,
    pub text: String,
}

/// Tokens of a conversation.
pub(super) fn prompt_tokens(turns: &[Turn]) -> u64 {
    turns.iter().map(|turn| 4 + turn.text.split_whitespace().count() as u64).sum()
}

/// The text that answers a conversation.
pub(super) fn text(profile: &Profile, turns: &[Turn]) -> Content {
    let numbered = |from| Content::Numbered { from, to: profile.output_tokens };
    match profile.answer {
        Answer::Numbered {} => numbered(0),
        Answer::Echo {} => {
            let words = turns.last().map_or("", |turn| turn.text.as_str()).split_whitespace();
            let blank = |i| if i == 0 { "" } else { " " };
            Content::Pieces(words.enumerate().map(|(i, word)| format!("{}{word}", blank(i))).collect())
        }
        Answer::Continue { overlap } => {
            let begun = turns.iter().rev().find(|turn| turn.assistant).and_then(|turn| {
                let last = turn.text.split_whitespace().next_back()?;
                last.strip_prefix('t')?.parse::<u64>().ok()?.checked_add(1)
            });
            // A finished answer is no beginning: what follows it is a new turn.
            numbered(begun.filter(|next| *next < profile.output_tokens).map_or(0, |next| next.saturating_sub(overlap)))
        }
    }
}

/// A JSON text in pieces.
pub(super) fn json_pieces(value: &Value) -> Content {
    let text: Vec<char> = value.to_string().chars().collect();
    Content::Pieces(text.chunks(8).map(|piece| piece.iter().collect()).collect())
}

/// The smallest value that a JSON schema allows, as far as schemas of tools go.
pub(super) fn fill(schema: &Value) -> Value {
    /// Deeper than any real schema; a self-referring one is no reason to overflow the stack.
    const DEPTH: u32 = 16;
    fill_to(schema, DEPTH)
}

fn fill_to(schema: &Value, depth: u32) -> Value {
    if depth == 0 {
        return Value::Null;
    }
    let get = |key: &str| schema.get(key);
    if let Some(value) = get("const").or_else(|| get("enum").and_then(|all| all.get(0))) {
        return value.clone();
    }
    if let Some(first) = get("anyOf").or_else(|| get("oneOf")).and_then(|all| all.get(0)) {
        return fill_to(first, depth - 1);
    }
    let kind = get("type").and_then(|kind| kind.as_str().or_else(|| kind.get(0)?.as_str()));
    match kind {
        Some("string") => json!("t0"),
        Some("integer" | "number") => get("minimum").cloned().unwrap_or(json!(0)),
        Some("boolean") => json!(true),
        Some("null") => Value::Null,
        Some("array") => json!([]),
        _ => {
            let required = get("required").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let fields = required.iter().filter_map(Value::as_str).map(|name| {
                let field = get("properties").and_then(|all| all.get(name)).unwrap_or(&Value::Null);
                (name.to_owned(), fill_to(field, depth - 1))
            });
            Value::Object(fields.collect::<Map<_, _>>())
        }
    }
}

/// An answer to one request.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub model: String,
    pub stream: bool,
    /// A stream ends with a usage event.
    pub include_usage: bool,
    pub content: Content,
    /// The content is the arguments of a call of this tool.
    pub tool: Option<String>,
    /// In OpenAI's words: `stop`, `length`, `tool_calls`.
    pub finish: Cow<'static, str>,
    pub usage: Option<Usage>,
}

/// What an answer counts, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub prompt: u64,
    /// Part of the prompt.
    pub cached: u64,
    /// With the reasoning.
    pub completion: u64,
    pub reasoning: u64,
}

impl Usage {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share between 0 and 1 of a small count"
    )]
    pub(super) fn new(profile: &Profile, prompt: u64, sent: u64) -> Self {
        Self {
            prompt,
            cached: (prompt as f64 * profile.cached_share) as u64,
            completion: sent.saturating_add(profile.reasoning_tokens),
            reasoning: profile.reasoning_tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(all: &[(&str, &str)]) -> Vec<Turn> {
        all.iter().map(|(role, text)| Turn { assistant: *role == "assistant", text: (*text).to_owned() }).collect()
    }

    #[test]
    fn numbered_text_is_limited_and_counted() {
        let mut content = Content::Numbered { from: 0, to: 4 };
        assert_eq!(content.text(), "t0 t1 t2 t3");
        assert!(!content.limit(4));
        assert!(content.limit(2));
        assert_eq!((content.text().as_str(), content.len()), ("t0 t1", 2));
        content.never_end();
        let mut piece = String::new();
        assert!(content.push(1_000_000, &mut piece));
        assert_eq!(piece, " t1000000");
    }

    #[test]
    fn an_answer_is_gone_on_with_where_it_ended() {
        let profile = Profile { output_tokens: 6, answer: Answer::Continue { overlap: 1 }, ..Profile::new("a", &[]) };
        let go_on = |all: &[(&str, &str)]| text(&profile, &turns(all)).text();
        assert_eq!(go_on(&[("user", "hi")]), "t0 t1 t2 t3 t4 t5");
        assert_eq!(go_on(&[("user", "hi"), ("assistant", "t0 t1 t2")]), " t2 t3 t4 t5");
        assert_eq!(go_on(&[("user", "hi"), ("assistant", "t0 t1 t2"), ("user", "go on")]), " t2 t3 t4 t5");
        assert_eq!(go_on(&[("assistant", "t0 t1 t2 t3 t4 t5"), ("user", "more")]), "t0 t1 t2 t3 t4 t5");
    }

    #[test]
    fn echo_says_the_last_message_and_prompts_count_words() {
        let profile = Profile { answer: Answer::Echo {}, ..Profile::new("a", &[]) };
        let all = turns(&[("system", "be brief"), ("user", "one  two\nthree")]);
        assert_eq!(text(&profile, &all).text(), "one two three");
        assert_eq!(prompt_tokens(&all), 4 + 2 + 4 + 3);
    }

    #[test]
    fn schemas_are_filled() {
        let schema = json!({"type": "object", "required": ["city", "unit", "days", "at"], "properties": {
            "city": {"type": "string"}, "unit": {"enum": ["c", "f"]}, "days": {"type": ["integer", "null"], "minimum": 1},
            "at": {"anyOf": [{"type": "array"}]}, "other": {"type": "string"}}});
        let value = fill(&schema);
        assert_eq!(value, json!({"city": "t0", "unit": "c", "days": 1, "at": []}));
        let content = json_pieces(&value);
        assert_eq!(serde_json::from_str::<Value>(&content.text()).unwrap(), value);
        assert!(content.len() > 3);
    }
}
