//! Answers as a client sees them: status, headers, body, and event streams taken apart.

use serde_json::{Value, json};

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.to_str().expect("a readable header"))
    }

    /// A header that has to be there.
    #[track_caller]
    pub fn need(&self, name: &str) -> &str {
        self.header(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {}: {:?}", self.status, self.text()))
    }

    #[track_caller]
    pub fn expect(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// Fails unless this is an error of the OpenAI envelope with the status and code; gives its `param`.
    #[track_caller]
    pub fn expect_error(&self, status: u16, code: &str) -> Option<String> {
        self.expect(status);
        let body = self.json();
        let error = &body["error"];
        assert_eq!(error["code"], code, "{body}");
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "a message in {body}");
        assert!(error["type"].as_str().is_some_and(|t| !t.is_empty()), "a type in {body}");
        assert!(error.as_object().unwrap().contains_key("param"), "param in {body}");
        error["param"].as_str().map(str::to_owned)
    }

    pub fn sse(&self) -> Sse {
        Sse::read(&self.text())
    }
}

/// A stream of server-sent events taken apart, without the blank lines.
#[derive(Clone, Debug, Default)]
pub struct Sse {
    pub data: Vec<String>,
    pub comments: Vec<String>,
}

impl Sse {
    pub fn read(text: &str) -> Self {
        let mut sse = Self::default();
        // A stream may begin with a byte order mark.
        for line in text.trim_start_matches('\u{feff}').lines() {
            if let Some(comment) = line.strip_prefix(':') {
                sse.comments.push(comment.trim().to_owned());
            } else if let Some(data) = line.strip_prefix("data:") {
                sse.data.push(data.trim_start().to_owned());
            }
        }
        sse
    }

    /// Every data event but `[DONE]`, as JSON.
    pub fn chunks(&self) -> Vec<Value> {
        self.data
            .iter()
            .filter(|d| *d != "[DONE]")
            .map(|d| serde_json::from_str(d).expect("JSON in an event"))
            .collect()
    }

    /// The text that the stream delivered.
    pub fn content(&self) -> String {
        self.chunks().iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
    }

    pub fn dones(&self) -> usize {
        self.data.iter().filter(|d| *d == "[DONE]").count()
    }

    /// The one comment that says what the stream cost.
    #[track_caller]
    pub fn cost_comment(&self) -> &str {
        let all: Vec<_> = self.comments.iter().filter(|c| c.starts_with("breakwater cost_usd=")).collect();
        assert_eq!(all.len(), 1, "one cost comment in {:?}", self.comments);
        all[0]
    }

    /// The error event, if there is one.
    pub fn error(&self) -> Option<Value> {
        self.chunks().into_iter().map(|c| c["error"].clone()).find(|e| !e.is_null())
    }
}

/// What tests ask, unless they care.
pub const PROMPT: &str = "Say that all is well.";

pub fn chat_body(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": PROMPT}]})
}

pub fn stream_body(model: &str) -> Value {
    let mut body = chat_body(model);
    body["stream"] = true.into();
    body
}
