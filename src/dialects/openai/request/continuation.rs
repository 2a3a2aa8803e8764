//! Asking another model to go on with a text that broke off.
//!
//! OpenAI's API has no prefill: a partial message of the assistant at the end is taken for a finished one. So the text goes in as the
//! assistant's last message, which vendors that do know prefill understand by itself, and an instruction to go on follows it.

use super::{ChatRequest, MaxTokens, name, quote};
use serde_json::value::RawValue;

/// What the model is told.
const INSTRUCTION: &str = "Your last message broke off. Continue it exactly where it stopped, in the middle of a word if need be. \
                           Repeat nothing, add no remark; write only what comes next.";

impl ChatRequest<'_> {
    /// Whether another model could go on with half of the answer: it is one text, not JSON that has to hold together or figures about
    /// each token. Otherwise, why not.
    ///
    /// # Errors
    /// What the request asks for.
    pub fn may_be_continued(&self) -> Result<(), &'static str> {
        let given = |name: &str| self.members.get(name).map(RawValue::get).filter(|v| *v != "null");
        let format: Option<serde_json::Value> = given("response_format").and_then(|f| serde_json::from_str(f).ok());
        if self.n != 1 {
            return Err("the request asks for several choices");
        }
        if format.is_some_and(|f| f.get("type").is_none_or(|kind| kind != "text")) {
            return Err("the request asks for JSON");
        }
        if given("logprobs").is_some_and(|v| v != "false") {
            return Err("the request asks for log probabilities");
        }
        Ok(())
    }

    /// Bytes that [`Self::continuation_body`] adds to the prompt at most, for a text of so many.
    #[must_use]
    pub fn continuation_bytes(text: usize) -> u64 {
        (text + INSTRUCTION.len() + 64) as u64
    }

    /// The body for an upstream that is to go on after `text`, which came in so many `pieces`: where the caller limits the tokens, each
    /// piece has used up one. `most` is a further limit.
    #[must_use]
    pub fn continuation_body(&self, model: &str, text: &str, pieces: u64, most: Option<MaxTokens>) -> Vec<u8> {
        let left = self.max_tokens.map(|limit| limit.saturating_sub(pieces).max(1));
        let most = match (most, left) {
            (Some(most), Some(left)) => Some(MaxTokens { tokens: most.tokens.min(left), ..most }),
            (None, Some(left)) => Some(MaxTokens { tokens: left, member: "max_tokens" }),
            (most, None) => most,
        };
        let mut out = Vec::with_capacity(text.len() + 1024);
        out.push(b'{');
        self.push_members(&mut out, model, most, |out, key, value| match key {
            "messages" => {
                name(out, key);
                let messages = value.get().trim_end();
                out.extend_from_slice(messages.strip_suffix(']').unwrap_or(messages).trim_end().as_bytes());
                out.extend_from_slice(br#",{"role":"assistant","content":"#);
                quote(out, text);
                out.extend_from_slice(br#"},{"role":"user","content":"#);
                quote(out, INSTRUCTION);
                out.extend_from_slice(b"}]");
                true
            }
            _ => false,
        });
        out.push(b'}');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn request(more: &str) -> String {
        format!(r#"{{"model":"m","stream":true,"messages":[{{"role":"user","content":"hi"}} ]{more}}}"#)
    }

    #[test]
    fn the_text_and_an_instruction_follow_the_conversation() {
        let body = request(r#","max_tokens":20,"stop":["x"],"breakwater":{"tier":"free"}"#);
        let sent =
            ChatRequest::parse(body.as_bytes()).unwrap().continuation_body("vendor/m", "half a \"word\n", 7, None);
        let sent: Value = serde_json::from_slice(&sent).unwrap();
        let expected = json!({
            "model": "vendor/m", "stream": true, "stop": ["x"], "max_tokens": 13, "stream_options": {"include_usage": true},
            "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "half a \"word\n"},
                {"role": "user", "content": INSTRUCTION},
            ],
        });
        assert_eq!(sent, expected);
        let used_up = ChatRequest::parse(body.as_bytes()).unwrap().continuation_body("m", "x", 50, None);
        assert_eq!(serde_json::from_slice::<Value>(&used_up).unwrap()["max_tokens"], 1);
    }

    #[test]
    fn only_plain_text_is_continued() {
        for (more, may) in [
            ("", true),
            (r#","n":1,"response_format":{"type":"text"},"logprobs":false,"tools":[]"#, true),
            (r#","response_format":null,"logprobs":null"#, true),
            (r#","n":2"#, false),
            (r#","response_format":{"type":"json_object"}"#, false),
            (r#","response_format":{"type":"json_schema","json_schema":{}}"#, false),
            (r#","logprobs":true"#, false),
        ] {
            let body = request(more);
            assert_eq!(ChatRequest::parse(body.as_bytes()).unwrap().may_be_continued().is_ok(), may, "{more}");
        }
    }
}
