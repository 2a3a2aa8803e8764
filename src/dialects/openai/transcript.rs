//! What a client has been told of a stream, kept so that another upstream can go on with it; and how that one's events are made to
//! follow: under the first stream's id, model and time, the role not told twice, the text joined at the seam, usage added up.
//!
//! Only plain text of one choice can be gone on with. Anything else that was delivered (calls of tools, reasoning, audio, a refusal, log
//! probabilities) closes the transcript for good, and so does a text of more than 1 MiB.

use crate::domain::seam::{Joint, Seam};
use crate::domain::usage::Usage;
use serde_json::{Map, Value};

/// Text beyond this is not kept.
const MAX_TEXT: usize = 1 << 20;
/// What names a stream, and must stay the same within one.
const IDENTITY: [&str; 4] = ["id", "created", "model", "system_fingerprint"];

/// What becomes of an event.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// It goes to the client as it came.
    AsItCame,
    /// It says nothing that the client doesn't know.
    Nothing,
    /// This data goes to the client instead.
    Instead(Vec<u8>),
    /// The text was begun anew and cannot be joined.
    Anew,
}

/// A stream's text so far.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    text: String,
    /// Events that the text came in.
    pieces: u64,
    /// Why nobody can go on.
    closed: Option<&'static str>,
    identity: Map<String, Value>,
    follows: Option<Follows>,
}

/// The state of a stream that follows another.
#[derive(Clone, Debug)]
struct Follows {
    /// `None` once it is closed.
    seam: Option<Seam>,
    /// What earlier streams used.
    before: Usage,
}

impl Transcript {
    /// One that nobody can go on with.
    #[must_use]
    pub fn closed(why: &'static str) -> Self {
        Self { closed: Some(why), ..Self::default() }
    }

    /// The text, if another upstream can go on with it.
    ///
    /// # Errors
    /// Why none can.
    pub fn text(&self) -> Result<&str, &'static str> {
        match self.closed {
            Some(why) => Err(why),
            None if self.text.is_empty() => Err("no text was delivered yet"),
            None => Ok(&self.text),
        }
    }

    #[must_use]
    pub fn pieces(&self) -> u64 {
        self.pieces
    }

    /// From here on another stream follows; this one used `used`.
    pub fn broke_off(&mut self, used: &Usage) {
        let sum = |a: &Usage, b: &Usage| Usage {
            input: a.input.saturating_add(b.input),
            cached_input: a.cached_input.saturating_add(b.cached_input),
            cache_write: a.cache_write.saturating_add(b.cache_write),
            output: a.output.saturating_add(b.output),
            reasoning: a.reasoning.saturating_add(b.reasoning),
        };
        let before = self.follows.take().map_or_else(Usage::default, |f| f.before);
        self.follows = Some(Follows { seam: Some(Seam::new(&self.text)), before: sum(&before, used) });
    }

    /// Takes the data of one event.
    pub fn tell(&mut self, data: &[u8]) -> Told {
        if self.closed.is_some() && self.follows.is_none() {
            return Told::AsItCame;
        }
        let Ok(Value::Object(chunk)) = serde_json::from_slice::<Value>(data) else {
            // Judged by whoever reads events; here it is only kept.
            self.close("an event could not be read");
            return Told::AsItCame;
        };
        match self.follows.take() {
            Some(mut follows) => {
                let told = self.follow(&mut follows, chunk);
                self.follows = Some(follows);
                told
            }
            None => {
                self.keep(&chunk);
                Told::AsItCame
            }
        }
    }

    fn close(&mut self, why: &'static str) {
        self.closed.get_or_insert(why);
        self.text = String::new();
    }

    fn keep(&mut self, chunk: &Map<String, Value>) {
        if self.identity.is_empty() {
            let named = IDENTITY.iter().filter_map(|key| Some(((*key).to_owned(), chunk.get(*key)?.clone())));
            self.identity = named.collect();
        }
        let none = Vec::new();
        let choices = chunk.get("choices").and_then(Value::as_array).unwrap_or(&none);
        if choices.len() > 1 || choices.iter().any(|c| c.get("index").is_some_and(|i| i != 0)) {
            return self.close("there are several choices");
        }
        let Some(choice) = choices.first() else { return };
        if choice.get("logprobs").is_some_and(|l| !l.is_null()) {
            return self.close("log probabilities were delivered");
        }
        let Some(Value::Object(delta)) = choice.get("delta") else { return };
        for (key, value) in delta {
            match (key.as_str(), value) {
                ("content", Value::String(piece)) => self.add(piece),
                ("role", _) | (_, Value::Null) => {}
                (_, Value::String(text)) if text.is_empty() => {}
                (_, Value::Array(items)) if items.is_empty() => {}
                _ => self.close("something other than text was delivered"),
            }
        }
    }

    fn add(&mut self, piece: &str) {
        if self.closed.is_some() || piece.is_empty() {
            return;
        }
        if self.text.len() + piece.len() > MAX_TEXT {
            return self.close("the text is over 1 MiB");
        }
        self.text.push_str(piece);
        self.pieces += 1;
    }

    /// Makes an event of a later stream follow.
    fn follow(&mut self, follows: &mut Follows, mut chunk: Map<String, Value>) -> Told {
        for key in IDENTITY {
            match self.identity.get(key) {
                Some(value) => chunk.insert(key.to_owned(), value.clone()),
                None => chunk.remove(key),
            };
        }
        let has_usage = chunk.get_mut("usage").is_some_and(|usage| add_usage(usage, &follows.before));
        let choice = chunk.get_mut("choices").and_then(|c| c.get_mut(0)).and_then(Value::as_object_mut);
        let mut says = has_usage;
        if let Some(choice) = choice {
            let ends = choice.get("finish_reason").is_some_and(|r| !r.is_null());
            says |= ends;
            if !choice.get("delta").is_some_and(Value::is_object) {
                choice.insert("delta".to_owned(), Value::Object(Map::new()));
            }
            let Some(Value::Object(delta)) = choice.get_mut("delta") else { return Told::Nothing };
            delta.remove("role");
            let mut piece = match delta.remove("content") {
                Some(Value::String(piece)) => piece,
                _ => String::new(),
            };
            let others = delta.values().any(|v| !v.is_null() && v.as_str() != Some(""));
            says |= others;
            if let Some(seam) = &mut follows.seam {
                let joint = if piece.is_empty() { Joint::Held } else { seam.push(&self.text, &piece) };
                piece = match joint {
                    Joint::Anew => return Told::Anew,
                    Joint::Held if ends || others => seam.end(),
                    Joint::Held => String::new(),
                    Joint::Joined(text) => {
                        follows.seam = None;
                        text
                    }
                };
                if ends || others {
                    follows.seam = None;
                }
            }
            if !piece.is_empty() {
                says = true;
                delta.insert("content".to_owned(), Value::String(piece));
            }
        }
        if !says {
            return Told::Nothing;
        }
        self.keep(&chunk);
        Told::Instead(Value::Object(chunk).to_string().into_bytes())
    }
}

/// Adds what earlier streams used to a usage object; false if it is none.
fn add_usage(usage: &mut Value, before: &Usage) -> bool {
    let Value::Object(usage) = usage else { return false };
    let mut add = |key: &str, more: u64| {
        if let Some(n) = usage.get(key).and_then(Value::as_u64) {
            usage.insert(key.to_owned(), n.saturating_add(more).into());
        }
    };
    add("prompt_tokens", before.prompt());
    add("completion_tokens", before.completion());
    add("total_tokens", before.total());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(transcript: &mut Transcript, chunk: Value) -> Option<Value> {
        match transcript.tell(chunk.to_string().as_bytes()) {
            Told::AsItCame => Some(chunk),
            Told::Nothing => None,
            Told::Instead(data) => Some(serde_json::from_slice(&data).unwrap()),
            Told::Anew => panic!("anew"),
        }
    }

    fn chunk(id: &str, delta: Value) -> Value {
        json!({"id": id, "created": 1, "model": id, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
    }

    #[test]
    fn a_second_stream_follows_the_first_unseen() {
        let mut t = Transcript::default();
        told(&mut t, chunk("a", json!({"role": "assistant", "content": ""})));
        told(&mut t, chunk("a", json!({"content": "one"})));
        told(&mut t, chunk("a", json!({"content": " two"})));
        assert_eq!((t.text(), t.pieces()), (Ok("one two"), 2));
        t.broke_off(&Usage { input: 10, output: 2, ..Usage::default() });
        assert_eq!(told(&mut t, chunk("b", json!({"role": "assistant", "content": ""}))), None);
        assert_eq!(told(&mut t, chunk("b", json!({"content": " two"}))), None);
        assert_eq!(
            told(&mut t, chunk("b", json!({"content": " three"}))),
            Some(chunk("a", json!({"content": " three"})))
        );
        assert_eq!(t.text(), Ok("one two three"));
        let usage = json!({"id": "b", "choices": [], "usage": {"prompt_tokens": 15, "completion_tokens": 4, "total_tokens": 19}});
        let summed = told(&mut t, usage).unwrap();
        assert_eq!(summed["usage"], json!({"prompt_tokens": 25, "completion_tokens": 6, "total_tokens": 31}));
        assert_eq!((&summed["id"], &summed["model"]), (&"a".into(), &"a".into()));
        // It breaks off as well: a third follows both.
        t.broke_off(&Usage { input: 15, output: 4, ..Usage::default() });
        let end = json!({"id": "c", "choices": [{"index": 0, "delta": {"content": "three"}, "finish_reason": "stop"}]});
        assert_eq!(told(&mut t, end).unwrap()["choices"], json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]));
    }

    #[test]
    fn what_is_held_at_the_seam_leaves_before_the_end() {
        let mut t = Transcript::default();
        told(&mut t, chunk("a", json!({"content": "say ho ho"})));
        t.broke_off(&Usage::default());
        assert_eq!(told(&mut t, chunk("b", json!({"content": " h"}))), None, "it may be overlap");
        let mut end = chunk("b", json!({}));
        end["choices"][0]["finish_reason"] = "stop".into();
        assert_eq!(told(&mut t, end).unwrap()["choices"][0]["delta"], json!({"content": " h"}));
    }

    #[test]
    fn anything_but_plain_text_closes_it() {
        for delta in [
            json!({"tool_calls": [{"index": 0}]}),
            json!({"function_call": {"name": "f"}}),
            json!({"reasoning_content": "hm"}),
            json!({"refusal": "no"}),
        ] {
            let mut t = Transcript::default();
            told(&mut t, chunk("a", json!({"content": "x", "refusal": null, "tool_calls": []})));
            assert_eq!(t.text(), Ok("x"));
            told(&mut t, chunk("a", delta.clone()));
            assert!(t.text().is_err(), "{delta}");
        }
        let mut t = Transcript::default();
        assert!(t.text().is_err(), "nothing to go on with");
        told(&mut t, chunk("a", json!({"content": "x".repeat(MAX_TEXT)})));
        assert!(t.text().is_ok());
        told(&mut t, chunk("a", json!({"content": "x"})));
        assert!(t.text().is_err() && t.text.capacity() == 0);
        let mut t = Transcript::default();
        told(&mut t, json!({"choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": {"content": []}}]}));
        assert!(t.text().is_err());
    }
}
