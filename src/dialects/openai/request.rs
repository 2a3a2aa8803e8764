//! A chat completion request: what routing needs of it, and the bytes that go upstream.
//!
//! It is parsed once and borrowed. Every member that Breakwater does not know passes through as the bytes it came as; `model` is
//! replaced, `breakwater` never leaves, and a streamed request always asks for usage.

mod continuation;

use crate::dialects::members::{Members, Text, is_too_deep};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// The request is at fault: what is wrong, and in which member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRequest {
    pub message: String,
    pub param: Option<String>,
}

fn bad(param: &str, message: impl Into<String>) -> BadRequest {
    BadRequest { message: message.into(), param: Some(param.into()) }
}

#[derive(Debug)]
pub struct ChatRequest<'a> {
    members: Members<'a>,
    pub model: Cow<'a, str>,
    pub stream: bool,
    /// The client asked for the usage chunk itself.
    pub wants_usage: bool,
    pub max_tokens: Option<u64>,
    /// Answers asked for.
    pub n: u64,
    pub has_tools: bool,
    pub messages: Vec<Message<'a>>,
    /// The `breakwater` member: hints.
    pub hints: Option<&'a RawValue>,
}

/// A maximum for the answer's tokens, and in which member an upstream is told that has not been told yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxTokens {
    pub tokens: u64,
    pub member: &'static str,
}

impl MaxTokens {
    /// OpenAI itself and Azure know `max_completion_tokens` for all of their models; whoever else speaks the dialect, `max_tokens`.
    #[must_use]
    pub fn for_host(tokens: u64, base_url: &str) -> Self {
        let host = base_url.split("://").nth(1).and_then(|rest| rest.split(['/', ':']).next()).unwrap_or("");
        let newer = host == "api.openai.com" || host.ends_with(".openai.azure.com");
        Self { tokens, member: if newer { "max_completion_tokens" } else { "max_tokens" } }
    }
}

/// A message's texts; images and the like are left out.
#[derive(Debug, Deserialize)]
pub struct Message<'a> {
    #[serde(borrow)]
    role: Text<'a>,
    #[serde(borrow, default)]
    content: Content<'a>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
}

impl<'a> Message<'a> {
    #[must_use]
    pub fn is_from_user(&self) -> bool {
        self.role.0 == "user"
    }

    /// Tells the model how to behave: the same for each request of an application.
    #[must_use]
    pub fn is_instruction(&self) -> bool {
        matches!(&*self.role.0, "system" | "developer")
    }

    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.content.texts.iter().map(|t| &**t)
    }
}

#[derive(Debug, Default)]
struct Content<'a> {
    texts: Vec<Cow<'a, str>>,
    images: u64,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default)]
    text: Option<Text<'a>>,
    #[serde(default)]
    image_url: Option<IgnoredAny>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Content<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string, an array of content parts, or null")
            }
            fn visit_borrowed_str<E>(self, s: &'de str) -> Result<Self::Value, E> {
                Ok(Content { texts: vec![Cow::Borrowed(s)], images: 0 })
            }
            fn visit_str<E>(self, s: &str) -> Result<Self::Value, E> {
                Ok(Content { texts: vec![Cow::Owned(s.to_owned())], images: 0 })
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Content::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut content = Content::default();
                while let Some(part) = seq.next_element::<Part>()? {
                    content.texts.extend(part.text.map(|t| t.0));
                    content.images += u64::from(part.image_url.is_some());
                }
                Ok(content)
            }
        }
        deserializer.deserialize_any(Collect)
    }
}

const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];
/// Numbers with the range that the API documents: (member, least, most).
const RANGES: [(&str, f64, f64); 7] = [
    ("temperature", 0.0, 2.0),
    ("top_p", 0.0, 1.0),
    ("presence_penalty", -2.0, 2.0),
    ("frequency_penalty", -2.0, 2.0),
    ("top_logprobs", 0.0, 20.0),
    ("n", 1.0, 128.0),
    ("max_tokens", 1.0, 1e9),
];

impl<'a> ChatRequest<'a> {
    /// Reads a request body.
    ///
    /// # Errors
    /// The first fault found, with the member's name where there is one.
    pub fn parse(body: &'a [u8]) -> Result<Self, BadRequest> {
        let whole = |message: String| BadRequest { message, param: None };
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(whole("the body is empty; send a JSON object".into()));
        }
        let text = std::str::from_utf8(body)
            .map_err(|e| whole(format!("the body is not UTF-8 (byte {})", e.valid_up_to())))?;
        if is_too_deep(text) {
            return Err(whole("the body is nested deeper than 128 levels".into()));
        }
        let members: Members =
            serde_json::from_str(text).map_err(|e| whole(format!("the body is not a JSON object: {e}")))?;
        if let Some(name) = members.duplicate() {
            return Err(bad(name, format!("`{name}` stands twice in the body")));
        }
        let model = match members.get("model").map(|v| serde_json::from_str::<Text>(v.get())) {
            Some(Ok(model)) if !model.0.is_empty() => model.0,
            Some(_) => return Err(bad("model", "`model` must be a non-empty string")),
            None => return Err(bad("model", "`model` is missing; GET /v1/models lists what can be asked for")),
        };
        let stream = flag(&members, "stream")?.unwrap_or(false);
        for (name, least, most) in RANGES {
            number(&members, name, least, most)?;
        }
        number(&members, "max_completion_tokens", 1.0, 1e9)?;
        let messages = read_messages(&members)?;
        Ok(Self {
            model,
            stream,
            wants_usage: wants_usage(&members)?,
            max_tokens: whole_number(&members, "max_completion_tokens")?.or(whole_number(&members, "max_tokens")?),
            n: whole_number(&members, "n")?.unwrap_or(1),
            has_tools: members.get("tools").is_some_and(|t| t.get() != "null"),
            messages,
            hints: members.get("breakwater").filter(|v| v.get() != "null"),
            members,
        })
    }

    /// Pictures in the messages.
    #[must_use]
    pub fn images(&self) -> u64 {
        self.messages.iter().map(|m| m.content.images).sum()
    }

    /// Bytes of JSON that is part of the prompt: tools, and the calls of them so far.
    #[must_use]
    pub fn json_bytes(&self) -> u64 {
        let size = |raw: &RawValue| if raw.get() == "null" { 0 } else { raw.get().len() as u64 };
        let tools = if self.has_tools { self.members.get("tools").map_or(0, size) } else { 0 };
        self.messages.iter().filter_map(|m| m.tool_calls).map(size).fold(tools, u64::saturating_add)
    }

    /// Everything that the client sent.
    pub(super) fn members(&self) -> &Members<'a> {
        &self.members
    }

    /// The body for an upstream that calls the model `model`; `most` replaces every maximum that the client named.
    #[must_use]
    pub fn upstream_body(&self, model: &str, most: Option<MaxTokens>) -> Vec<u8> {
        let size: usize = self.members.0.iter().map(|(k, v)| k.len() + v.get().len() + 8).sum();
        let mut out = Vec::with_capacity(size + model.len() + 48);
        out.push(b'{');
        self.push_members(&mut out, model, most, |_, _, _| false);
        out.push(b'}');
        out
    }

    /// Writes the members that go upstream; `instead` may write one in its own way.
    fn push_members(
        &self,
        out: &mut Vec<u8>,
        model: &str,
        most: Option<MaxTokens>,
        instead: impl Fn(&mut Vec<u8>, &str, &RawValue) -> bool,
    ) {
        let mut asked_usage = !self.stream;
        let mut told_most = most.is_none();
        for (key, value) in &self.members.0 {
            match &**key {
                "breakwater" => {}
                "model" => {
                    name(out, key);
                    quote(out, model);
                }
                "max_tokens" | "max_completion_tokens" if most.is_some() && value.get() != "null" => {
                    told_most = true;
                    name(out, key);
                    out.extend_from_slice(most.map_or(0, |most| most.tokens).to_string().as_bytes());
                }
                // Named below, or not at all: some vendors refuse one of the two.
                "max_tokens" | "max_completion_tokens" if most.is_some() => {}
                "stream_options" if self.stream => {
                    asked_usage = true;
                    name(out, key);
                    out.extend_from_slice(with_usage(value).as_bytes());
                }
                key if instead(out, key, value) => {}
                _ => {
                    name(out, key);
                    out.extend_from_slice(value.get().as_bytes());
                }
            }
        }
        if let Some(most) = most.filter(|_| !told_most) {
            name(out, most.member);
            out.extend_from_slice(most.tokens.to_string().as_bytes());
        }
        if !asked_usage {
            name(out, "stream_options");
            out.extend_from_slice(br#"{"include_usage":true}"#);
        }
    }
}

/// The name of a further member.
fn name(out: &mut Vec<u8>, key: &str) {
    if out.len() > 1 {
        out.push(b',');
    }
    quote(out, key);
    out.push(b':');
}

fn quote(out: &mut Vec<u8>, text: &str) {
    if text.bytes().any(|b| b < b' ' || matches!(b, b'"' | b'\\')) {
        out.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
    } else {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    }
}

/// The client's stream options with usage switched on.
fn with_usage(options: &RawValue) -> String {
    let mut map: serde_json::Map<String, serde_json::Value> = serde_json::from_str(options.get()).unwrap_or_default();
    map.insert("include_usage".into(), true.into());
    serde_json::Value::Object(map).to_string()
}

fn flag(members: &Members, name: &str) -> Result<Option<bool>, BadRequest> {
    match members.get(name).map(RawValue::get) {
        None | Some("null") => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(bad(name, format!("`{name}` must be true or false"))),
    }
}

fn number(members: &Members, name: &str, least: f64, most: f64) -> Result<Option<f64>, BadRequest> {
    let Some(raw) = members.get(name).map(RawValue::get).filter(|v| *v != "null") else { return Ok(None) };
    let value: Option<f64> = serde_json::from_str(raw).ok();
    value.filter(|v| (least..=most).contains(v)).map(Some).ok_or_else(|| {
        let most = if most >= 1e9 { "1000000000".into() } else { most.to_string() };
        bad(name, format!("`{name}` must be a number from {least} to {most}"))
    })
}

fn whole_number(members: &Members, name: &str) -> Result<Option<u64>, BadRequest> {
    let Some(raw) = members.get(name).map(RawValue::get).filter(|v| *v != "null") else { return Ok(None) };
    serde_json::from_str(raw).map(Some).map_err(|_| bad(name, format!("`{name}` must be a whole number")))
}

fn wants_usage(members: &Members) -> Result<bool, BadRequest> {
    #[derive(Deserialize)]
    struct Options {
        #[serde(default)]
        include_usage: Option<bool>,
    }
    let Some(raw) = members.get("stream_options").filter(|v| v.get() != "null") else { return Ok(false) };
    let options: Options = serde_json::from_str(raw.get())
        .map_err(|_| bad("stream_options", "`stream_options` must be an object such as {\"include_usage\": true}"))?;
    Ok(options.include_usage.unwrap_or(false))
}

fn read_messages<'a>(members: &Members<'a>) -> Result<Vec<Message<'a>>, BadRequest> {
    let Some(raw) = members.get("messages") else {
        return Err(bad("messages", "`messages` is missing; send an array of {\"role\", \"content\"}"));
    };
    match serde_json::from_str::<Vec<Message>>(raw.get()) {
        Ok(messages) if messages.is_empty() => Err(bad("messages", "`messages` must not be empty")),
        Ok(messages) => match messages.iter().position(|m| !ROLES.contains(&&*m.role.0)) {
            None => Ok(messages),
            Some(i) => Err(bad(&format!("messages[{i}].role"), format!("`role` must be one of {}", ROLES.join(", ")))),
        },
        Err(_) => Err(explain_messages(raw)),
    }
}

/// Finds which message is at fault; only called when one is.
fn explain_messages(raw: &RawValue) -> BadRequest {
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(raw.get()) else {
        return bad("messages", "`messages` must be an array of {\"role\", \"content\"}");
    };
    for (i, item) in items.iter().enumerate() {
        let at = format!("messages[{i}]");
        let Ok(fields) = serde_json::from_str::<Members>(item.get()) else {
            return bad(&at, format!("`{at}` must be an object with a role and a content"));
        };
        match fields.get("role").map(|r| serde_json::from_str::<Text>(r.get())) {
            Some(Ok(_)) => {}
            Some(Err(_)) => return bad(&format!("{at}.role"), "`role` must be a string"),
            None => return bad(&format!("{at}.role"), "`role` is missing"),
        }
        if let Some(e) = fields.get("content").and_then(|c| serde_json::from_str::<Content>(c.get()).err()) {
            return bad(&format!("{at}.content"), format!("`content` is malformed: {e}"));
        }
    }
    bad("messages", "`messages` is malformed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(body: &str) -> (String, Option<String>) {
        let e = ChatRequest::parse(body.as_bytes()).unwrap_err();
        (e.message, e.param)
    }

    #[test]
    fn names_the_member_at_fault() {
        let ok = r#"{"role":"user","content":"hi"}"#;
        for (body, param) in [
            (String::new(), None),
            ("{".into(), None),
            ("[]".into(), None),
            (r#"{"messages":[]}"#.into(), Some("model")),
            (r#"{"model":1,"messages":[]}"#.into(), Some("model")),
            (r#"{"model":"m"}"#.into(), Some("messages")),
            (r#"{"model":"m","messages":null}"#.into(), Some("messages")),
            (r#"{"model":"m","messages":"hi"}"#.into(), Some("messages")),
            (r#"{"model":"m","messages":[]}"#.into(), Some("messages")),
            (format!(r#"{{"model":"m","messages":[{ok},7]}}"#), Some("messages[1]")),
            (r#"{"model":"m","messages":[{"content":""}]}"#.into(), Some("messages[0].role")),
            (r#"{"model":"m","messages":[{"role":3}]}"#.into(), Some("messages[0].role")),
            (r#"{"model":"m","messages":[{"role":"king","content":""}]}"#.into(), Some("messages[0].role")),
            (r#"{"model":"m","messages":[{"role":"user","content":5}]}"#.into(), Some("messages[0].content")),
            (format!(r#"{{"model":"m","stream":"yes","messages":[{ok}]}}"#), Some("stream")),
            (format!(r#"{{"model":"m","temperature":3,"messages":[{ok}]}}"#), Some("temperature")),
            (format!(r#"{{"model":"m","n":0,"messages":[{ok}]}}"#), Some("n")),
            (format!(r#"{{"model":"m","max_tokens":-1,"messages":[{ok}]}}"#), Some("max_tokens")),
            (format!(r#"{{"model":"m","max_tokens":1.5,"messages":[{ok}]}}"#), Some("max_tokens")),
            (format!(r#"{{"model":"m","model":"n","messages":[{ok}]}}"#), Some("model")),
        ] {
            assert_eq!(fault(&body).1.as_deref(), param, "{body}");
        }
        assert!(ChatRequest::parse(b"\xff{}").unwrap_err().message.contains("UTF-8"));
        let deep = format!(r#"{{"model":"m","x":{}1{},"messages":[{ok}]}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert!(fault(&deep).0.contains("nested"));
    }

    #[test]
    fn only_what_must_change_changes() {
        let body = br#"{ "model":"auto", "messages":[{"role":"user","content":[{"type":"text","text":"a\"b"},{"type":"image_url"}]}],
            "seed": 1.0e2, "stream":true, "breakwater":{"tier":"free"}, "unknown":{"k":[1, 2]} }"#;
        let request = ChatRequest::parse(body).unwrap();
        assert_eq!(request.messages[0].texts().collect::<Vec<_>>(), ["a\"b"]);
        assert!(request.stream && !request.wants_usage && request.hints.is_some());
        let sent = String::from_utf8(request.upstream_body("vendor/m", None)).unwrap();
        assert_eq!(
            sent,
            r#"{"model":"vendor/m","messages":[{"role":"user","content":[{"type":"text","text":"a\"b"},{"type":"image_url"}]}],"seed":1.0e2,"stream":true,"unknown":{"k":[1, 2]},"stream_options":{"include_usage":true}}"#
        );
    }

    #[test]
    fn a_maximum_is_put_in_once() {
        let sent = |body: &str, host: &str| {
            let request = ChatRequest::parse(body.as_bytes()).unwrap();
            String::from_utf8(request.upstream_body("m", Some(MaxTokens::for_host(7, host)))).unwrap()
        };
        let messages = r#""messages":[{"role":"user","content":null}]"#;
        let other = "https://api.deepseek.com/v1";
        let plain = format!(r#"{{"model":"m",{messages}}}"#);
        assert_eq!(sent(&plain, other), format!(r#"{{"model":"m",{messages},"max_tokens":7}}"#));
        let openai = sent(&plain, "https://api.openai.com/v1");
        assert_eq!(openai, format!(r#"{{"model":"m",{messages},"max_completion_tokens":7}}"#));
        let named = format!(r#"{{"model":"m","max_completion_tokens":900,{messages}}}"#);
        assert_eq!(sent(&named, other), format!(r#"{{"model":"m","max_completion_tokens":7,{messages}}}"#));
        let nulled = format!(r#"{{"model":"m","max_tokens":null,{messages}}}"#);
        assert_eq!(sent(&nulled, other), format!(r#"{{"model":"m",{messages},"max_tokens":7}}"#));
        let both = format!(r#"{{"model":"m","max_tokens":9,"max_completion_tokens":8,{messages}}}"#);
        assert_eq!(
            sent(&both, other),
            format!(r#"{{"model":"m","max_tokens":7,"max_completion_tokens":7,{messages}}}"#)
        );
    }

    #[test]
    fn stream_options_of_the_client_are_kept() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":null}],"stream":true,"stream_options":{"x":1,"include_usage":false}}"#;
        let request = ChatRequest::parse(body).unwrap();
        let sent: serde_json::Value = serde_json::from_slice(&request.upstream_body("m", None)).unwrap();
        assert_eq!(sent["stream_options"], serde_json::json!({"x": 1, "include_usage": true}));
        assert!(!request.wants_usage);
    }
}
