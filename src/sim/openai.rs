//! OpenAI's dialect: chat completions (unary and streamed), embeddings, models, errors.
//!
//! Fields that it doesn't know are ignored, `n` too: there is always one choice. Other dialects stand beside this file and
//! give the same four things: a [`Call`] from a body, a whole answer, an answer's [`Frames`], and an error.

use super::answer::{Call, Content, Turn, Usage, fill, json_pieces, prompt_tokens, text};
use super::dice::roll;
use super::profile::Profile;
use super::reply::Reply;
use base64::Engine;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::borrow::Cow;

#[derive(Deserialize)]
struct ChatRequest<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    #[serde(borrow)]
    messages: Vec<Message<'a>>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    max_tokens: Option<u64>,
    #[serde(default)]
    max_completion_tokens: Option<u64>,
    #[serde(default)]
    tools: Option<Vec<Tool>>,
    #[serde(default)]
    tool_choice: Option<Value>,
    #[serde(default)]
    response_format: Option<Value>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    /// A text or an array of parts; told apart by hand because that needs no buffering.
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: Option<String>,
}

#[derive(Deserialize)]
struct Tool {
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    #[serde(default)]
    parameters: Value,
}

fn turn(message: &Message<'_>) -> Result<Turn, serde_json::Error> {
    let raw = message.content.map_or("null", RawValue::get);
    let text = if raw.starts_with('[') {
        let parts: Vec<Part> = serde_json::from_str(raw)?;
        parts.into_iter().filter_map(|part| part.text).collect::<Vec<_>>().join(" ")
    } else {
        serde_json::from_str::<Option<String>>(raw)?.unwrap_or_default()
    };
    Ok(Turn { assistant: message.role == "assistant", text })
}

/// The answer to a chat request.
///
/// # Errors
/// The refusal to send instead: 400 for a body that is none, 404 for an unknown model.
pub(super) fn chat(profile: &Profile, body: &[u8]) -> Result<Call, Reply> {
    let bad = |e: serde_json::Error| error(400, "invalid_request_error", None, &format!("cannot read the body: {e}"));
    let request: ChatRequest<'_> = serde_json::from_slice(body).map_err(bad)?;
    let turns = request.messages.iter().map(turn).collect::<Result<Vec<_>, _>>().map_err(bad)?;
    if turns.is_empty() {
        return Err(error(400, "invalid_request_error", None, "messages is empty"));
    }
    if !profile.serves(&request.model) {
        return Err(unknown_model(&request.model));
    }
    let prompt = prompt_tokens(&turns);
    if let Some(limit) = profile.context_tokens.filter(|limit| prompt > *limit) {
        let message = format!("this model's maximum context length is {limit} tokens, the messages have {prompt}");
        return Err(error(400, "invalid_request_error", Some("context_length_exceeded"), &message));
    }
    let tool = wanted_tool(&request);
    let schema = request.response_format.as_ref().and_then(|format| match format.get("type")?.as_str()? {
        "json_schema" => format.pointer("/json_schema/schema").cloned(),
        "json_object" => Some(json!({})),
        _ => None,
    });
    let (mut content, natural_end) = match (&tool, schema) {
        (Some(tool), _) => (json_pieces(&fill(&tool.parameters)), "tool_calls"),
        (None, Some(schema)) => (json_pieces(&fill(&schema)), "stop"),
        (None, None) => (text(profile, &turns), "stop"),
    };
    let limit = request.max_completion_tokens.or(request.max_tokens).unwrap_or(u64::MAX);
    let cut = content.limit(limit);
    Ok(Call {
        model: request.model.clone().into_owned(),
        stream: request.stream == Some(true),
        include_usage: request.stream_options.as_ref().is_some_and(|options| options.include_usage),
        usage: Some(Usage::new(profile, prompt, content.len())),
        content,
        tool: tool.map(|tool| tool.name.clone()),
        finish: if cut { "length".into() } else { natural_end.into() },
    })
}

/// The tool that has to be called: the one named, or the first if only some call is required.
fn wanted_tool<'r>(request: &'r ChatRequest<'_>) -> Option<&'r Function> {
    let tools = request.tools.as_deref()?;
    let choice = request.tool_choice.as_ref()?;
    match choice.pointer("/function/name").and_then(Value::as_str) {
        Some(name) => tools.iter().map(|tool| &tool.function).find(|function| function.name == name),
        None if choice == "required" => tools.first().map(|tool| &tool.function),
        None => None,
    }
}

fn usage(usage: Usage) -> String {
    let Usage { prompt, cached, completion, reasoning } = usage;
    let total = prompt.saturating_add(completion);
    format!(
        r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{total},"prompt_tokens_details":{{"cached_tokens":{cached}}},"completion_tokens_details":{{"reasoning_tokens":{reasoning}}}}}"#
    )
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A whole chat completion.
pub(super) fn completion(call: &Call, n: u64, created: i64) -> Reply {
    let text = quoted(&call.content.text());
    let message = match &call.tool {
        None => format!(r#"{{"role":"assistant","content":{text},"refusal":null}}"#),
        Some(name) => format!(
            r#"{{"role":"assistant","content":null,"refusal":null,"tool_calls":[{{"id":"call_sim{n}","type":"function","function":{{"name":{},"arguments":{text}}}}}]}}"#,
            quoted(name)
        ),
    };
    let usage = call.usage.map_or(String::new(), |used| format!(r#","usage":{}"#, usage(used)));
    let body = format!(
        r#"{{"id":"chatcmpl-sim{n}","object":"chat.completion","created":{created},"model":{},"choices":[{{"index":0,"message":{message},"logprobs":null,"finish_reason":{}}}]{usage},"system_fingerprint":"fp_sim"}}"#,
        quoted(&call.model),
        quoted(&call.finish)
    );
    Reply::json(200, body)
}

/// The data of a streamed chat completion's events.
#[derive(Debug)]
pub(super) struct Frames<'a> {
    call: &'a Call,
    n: u64,
    prefix: String,
}

impl<'a> Frames<'a> {
    pub(super) fn new(call: &'a Call, n: u64, created: i64) -> Self {
        let model = quoted(&call.model);
        let prefix = format!(
            r#"{{"id":"chatcmpl-sim{n}","object":"chat.completion.chunk","created":{created},"model":{model},"system_fingerprint":"fp_sim","#
        );
        Self { call, n, prefix }
    }

    fn choice(&self, delta: &str, finish: &str) -> String {
        let usage = if self.call.include_usage { r#","usage":null"# } else { "" };
        format!(
            r#"{}"choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}]{usage}}}"#,
            self.prefix
        )
    }

    /// What comes before the first content.
    pub(super) fn open(&self) -> String {
        let delta = match &self.call.tool {
            None => r#"{"role":"assistant","content":"","refusal":null}"#.to_owned(),
            Some(name) => format!(
                r#"{{"role":"assistant","content":null,"tool_calls":[{{"index":0,"id":"call_sim{}","type":"function","function":{{"name":{},"arguments":""}}}}]}}"#,
                self.n,
                quoted(name)
            ),
        };
        self.choice(&delta, "null")
    }

    /// Content event `i`, if there are so many.
    pub(super) fn content(&self, i: u64) -> Option<String> {
        let mut piece = String::new();
        if !self.call.content.push(i, &mut piece) {
            return None;
        }
        let text = quoted(&piece);
        let delta = match &self.call.tool {
            None => format!(r#"{{"content":{text}}}"#),
            Some(_) => format!(r#"{{"tool_calls":[{{"index":0,"function":{{"arguments":{text}}}}}]}}"#),
        };
        Some(self.choice(&delta, "null"))
    }

    /// What comes after the last content.
    pub(super) fn close(&self) -> Vec<String> {
        let mut frames = vec![self.choice("{}", &quoted(&self.call.finish))];
        if let Some(used) = self.call.usage.filter(|_| self.call.include_usage) {
            frames.push(format!(r#"{}"choices":[],"usage":{}}}"#, self.prefix, usage(used)));
        }
        frames.push("[DONE]".to_owned());
        frames
    }
}

#[derive(Deserialize)]
struct EmbeddingsRequest {
    model: String,
    input: Value,
    #[serde(default)]
    encoding_format: Option<String>,
    #[serde(default)]
    dimensions: Option<usize>,
}

/// The answer to an embeddings request: unit vectors that depend on the text alone.
///
/// # Errors
/// The refusal to send instead.
pub(super) fn embeddings(profile: &Profile, body: &[u8], with_usage: bool) -> Result<Reply, Reply> {
    let bad = |why: &str| error(400, "invalid_request_error", None, why);
    let request: EmbeddingsRequest = serde_json::from_slice(body).map_err(|e| bad(&e.to_string()))?;
    if !profile.serves(&request.model) {
        return Err(unknown_model(&request.model));
    }
    let texts: Vec<String> = match &request.input {
        Value::String(text) => vec![text.clone()],
        Value::Array(all) if all.iter().all(Value::is_number) => vec![request.input.to_string()],
        Value::Array(all) => all.iter().map(|one| one.as_str().map_or(one.to_string(), str::to_owned)).collect(),
        _ => return Err(bad("input is neither a text nor an array")),
    };
    let dimensions = request.dimensions.unwrap_or(8);
    if texts.is_empty() || texts.len() > 2048 || !(1..=4096).contains(&dimensions) {
        return Err(bad("input must hold 1 to 2048 texts, dimensions must be 1 to 4096"));
    }
    let as_text = request.encoding_format.as_deref() == Some("base64");
    let data: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let vector = vector(text, dimensions);
            let embedding = if as_text {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                json!(base64::engine::general_purpose::STANDARD.encode(bytes))
            } else {
                json!(vector)
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let mut answer = json!({"object": "list", "data": data, "model": request.model});
    if with_usage {
        let tokens: usize = texts.iter().map(|text| text.split_whitespace().count()).sum();
        answer["usage"] = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    }
    Ok(Reply::json(200, answer.to_string()))
}

#[allow(clippy::cast_possible_truncation, reason = "embeddings are f32")]
fn vector(text: &str, dimensions: usize) -> Vec<f32> {
    let seed = text.bytes().fold(0_u64, |hash, byte| hash.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte));
    let raw: Vec<f64> = (0..dimensions as u64).map(|i| roll(seed, i, 0) - 0.5).collect();
    let length = raw.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    raw.iter().map(|x| (x / length) as f32).collect()
}

/// The list of models, or one of them.
pub(super) fn models(profile: &Profile, id: Option<&str>) -> Reply {
    let show = |id: &str| json!({"id": id, "object": "model", "created": 0, "owned_by": profile.name});
    match id {
        None => {
            let data: Vec<Value> = profile.models.iter().map(|id| show(id)).collect();
            Reply::json(200, json!({"object": "list", "data": data}).to_string())
        }
        Some(id) if profile.serves(id) => Reply::json(200, show(id).to_string()),
        Some(id) => unknown_model(id),
    }
}

fn unknown_model(model: &str) -> Reply {
    error(404, "invalid_request_error", Some("model_not_found"), &format!("the model `{model}` does not exist"))
}

/// An error in the dialect's envelope.
pub(super) fn error(status: u16, kind: &str, code: Option<&str>, message: &str) -> Reply {
    let body = json!({"error": {"message": message, "type": kind, "param": null, "code": code}});
    Reply::json(status, body.to_string())
}

/// The error that OpenAI would send with a status.
pub(super) fn error_for(status: u16) -> Reply {
    let (kind, code, message) = match status {
        400 | 422 => ("invalid_request_error", None, "simulated: the request is invalid"),
        401 => ("invalid_request_error", Some("invalid_api_key"), "simulated: incorrect API key provided"),
        403 => ("invalid_request_error", Some("permission_denied"), "simulated: not allowed"),
        404 => ("invalid_request_error", Some("model_not_found"), "simulated: the model does not exist"),
        429 => ("requests", Some("rate_limit_exceeded"), "simulated: rate limit reached"),
        529 => ("overloaded_error", None, "simulated: overloaded"),
        _ => ("server_error", None, "simulated: the server had an error"),
    };
    error(status, kind, code, message)
}

/// The error of an account that has spent its money.
pub(super) fn quota() -> Reply {
    error(429, "insufficient_quota", Some("insufficient_quota"), "simulated: you exceeded your current quota")
}

/// The beginning of an answer whose text never ends.
pub(super) fn endless_start(n: u64) -> String {
    format!(
        r#"{{"id":"chatcmpl-sim{n}","object":"chat.completion","choices":[{{"index":0,"message":{{"role":"assistant","content":""#
    )
}

/// A stretch of an endless answer's text.
pub(super) fn endless_piece() -> String {
    Content::Numbered { from: 1, to: 2_000 }.text()
}
