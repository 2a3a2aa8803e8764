//! The tokens that a request's prompt is at most, as a vendor may count it: every text, name, tool call, tool definition and
//! schema by its ceiling, the framing around each message, and what is no text by a flat sum.
//!
//! | part | at most |
//! |---|---|
//! | a message | 8 tokens beside its texts (OpenAI: 3 or 4, Llama 3: 5) |
//! | a request | 32, and 512 more with tools (Anthropic adds a prompt of 346) |
//! | an image | 4,096: any that OpenAI's full models or Anthropic take. `gpt-4o-mini` alone counts images 33-fold, and passes this |
//! | sound | 1 for 128 characters of base64: 42 a second at 32 kbit/s (Gemini counts 32, OpenAI 10) |
//! | a file | 4,096, and 1 for 2 characters of base64 |
//!
//! What lies behind an address (a video, a file by its id) has no bound here.

use super::request::ChatRequest;
use crate::dialects::members::{Members, Text};
use crate::domain::tokens::ceiling::ceiling;
use serde_json::value::RawValue;

const A_MESSAGE: u64 = 8;
const A_REQUEST: u64 = 32;
const WITH_TOOLS: u64 = 512;
const AN_IMAGE: u64 = 4_096;
const A_FILE: u64 = 4_096;
const SOUND_CHARS: u64 = 128;
const FILE_CHARS: u64 = 2;

/// Members whose JSON becomes part of the prompt.
const DESCRIBING: [&str; 4] = ["tools", "functions", "response_format", "tool_choice"];

impl ChatRequest<'_> {
    /// See the module's table.
    #[must_use]
    pub fn token_ceiling(&self) -> u64 {
        let members = self.members();
        let described = DESCRIBING.iter().filter_map(|name| members.get(name)).filter(|v| v.get() != "null");
        let described: u64 = described.map(|v| ceiling(v.get())).fold(0, u64::saturating_add);
        let with_tools = if self.has_tools || members.get("functions").is_some() { WITH_TOOLS } else { 0 };
        let messages = members.get("messages").map_or(0, messages);
        A_REQUEST.saturating_add(with_tools).saturating_add(described).saturating_add(messages)
    }
}

fn messages(raw: &RawValue) -> u64 {
    let Ok(messages) = serde_json::from_str::<Vec<Members>>(raw.get()) else { return ceiling(raw.get()) };
    let message =
        |m: &Members| m.0.iter().map(|(name, value)| member(name, value)).fold(A_MESSAGE, u64::saturating_add);
    messages.iter().map(message).fold(0, u64::saturating_add)
}

fn member(name: &str, value: &RawValue) -> u64 {
    match name {
        "content" => match serde_json::from_str::<Vec<Members>>(value.get()) {
            Ok(parts) => parts.iter().map(part).fold(0, u64::saturating_add),
            Err(_) => text(value),
        },
        _ => text(value),
    }
}

fn part(part: &Members) -> u64 {
    let size = |name: &str, value: &RawValue| match name {
        "type" => 1,
        "image_url" | "image" => AN_IMAGE,
        "input_audio" => (value.get().len() as u64).div_ceil(SOUND_CHARS),
        "file" => A_FILE.saturating_add((value.get().len() as u64).div_ceil(FILE_CHARS)),
        _ => text(value),
    };
    part.0.iter().map(|(name, value)| size(name, value)).fold(0, u64::saturating_add)
}

/// A string by what it says, anything else by its JSON.
fn text(value: &RawValue) -> u64 {
    match serde_json::from_str::<Text>(value.get()) {
        Ok(text) => ceiling(&text.0),
        Err(_) if value.get() == "null" => 0,
        Err(_) => ceiling(value.get()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: &str) -> u64 {
        ChatRequest::parse(body.as_bytes()).unwrap().token_ceiling()
    }

    fn with(message: &str, more: &str) -> u64 {
        of(&format!(r#"{{"model":"m","messages":[{message}]{more}}}"#))
    }

    #[test]
    fn everything_that_a_vendor_counts_is_in_it() {
        let plain = with(r#"{"role":"user","content":"hello there"}"#, "");
        assert!(plain >= A_REQUEST + A_MESSAGE + 2, "{plain}");
        // Escapes are counted as what they stand for.
        assert_eq!(with(r#"{"role":"user","content":"hello\u0020there"}"#, ""), plain);
        assert_eq!(with(r#"{"role":"user","content":[{"type":"text","text":"hello there"}]}"#, ""), plain + 1);
        assert!(with(r#"{"role":"user","content":"hello there","name":"Wilhelmina"}"#, "") > plain);
        let called = r#"{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"city\":\"Oslo\"}"}}]}"#;
        assert!(with(called, "") > A_REQUEST + A_MESSAGE + 20);
        let tools = r#","tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]"#;
        assert!(with(r#"{"role":"user","content":"hello there"}"#, tools) >= plain + WITH_TOOLS + 20);
        let schema = r#","response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{}}}"#;
        assert!(with(r#"{"role":"user","content":"hello there"}"#, schema) >= plain + 15);
        assert_eq!(
            with(r#"{"role":"user","content":"hello there"}"#, r#","tools":null,"response_format":null"#),
            plain
        );
    }

    #[test]
    fn what_is_no_text_is_not_counted_as_one() {
        let empty = with(r#"{"role":"user","content":[]}"#, "");
        let data = "A".repeat(100_000);
        let image = format!(
            r#"{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{data}"}}}}]}}"#
        );
        assert_eq!(with(&image, ""), empty + 1 + AN_IMAGE);
        let sound = format!(
            r#"{{"role":"user","content":[{{"type":"input_audio","input_audio":{{"data":"{data}","format":"mp3"}}}}]}}"#
        );
        assert!((700..1_000).contains(&(with(&sound, "") - empty)));
        let file = format!(r#"{{"role":"user","content":[{{"type":"file","file":{{"file_data":"{data}"}}}}]}}"#);
        assert!((50_000..60_000).contains(&(with(&file, "") - empty)));
    }
}
