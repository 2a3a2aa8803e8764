//! Server-sent events as bytes, each in a chunk of its own.
//!
//! `mixed` writes the same events in the other ways that the format allows, in turn: after a byte order mark, with CRLF,
//! behind a comment, with the data over several lines, without the blank after the colon, with an id.

use super::reply::{LAST_CHUNK, chunk};
use std::io::Write;

#[derive(Debug)]
pub(super) struct Encoder {
    chunked: bool,
    mixed: bool,
    events: u64,
    scratch: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(chunked: bool, mixed: bool) -> Self {
        Self { chunked, mixed, events: 0, scratch: Vec::new() }
    }

    /// Appends one event.
    pub(super) fn event(&mut self, out: &mut Vec<u8>, data: &str) {
        self.scratch.clear();
        if self.mixed {
            self.odd_event(data);
        } else {
            for line in data.split('\n') {
                self.scratch.extend_from_slice(b"data: ");
                self.scratch.extend_from_slice(line.as_bytes());
                self.scratch.push(b'\n');
            }
            self.scratch.push(b'\n');
        }
        self.events += 1;
        if self.chunked {
            chunk(out, &self.scratch);
        } else {
            out.extend_from_slice(&self.scratch);
        }
    }

    fn odd_event(&mut self, data: &str) {
        let out = &mut self.scratch;
        if self.events == 0 {
            out.extend_from_slice("\u{feff}".as_bytes());
        }
        let (newline, blank) = match self.events % 4 {
            0 => ("\n", " "),
            1 => {
                out.extend_from_slice(b": keep-alive\r\n\r\n");
                ("\r\n", " ")
            }
            2 => ("\r\n", " "),
            _ => {
                let _ = writeln!(out, "id: {}", self.events);
                ("\n", "")
            }
        };
        let split = if self.events % 4 == 2 { comma(data) } else { None };
        let (first, rest) = data.split_at(split.unwrap_or(0));
        for line in first.lines().chain(rest.split('\n')) {
            let _ = write!(out, "data:{blank}{line}{newline}");
        }
        out.extend_from_slice(newline.as_bytes());
    }

    /// Appends the end of the body.
    pub(super) fn end(&self, out: &mut Vec<u8>) {
        if self.chunked {
            out.extend_from_slice(LAST_CHUNK);
        }
    }
}

/// Just behind the first comma of a JSON text that stands outside strings: a place where a line break changes nothing.
fn comma(json: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    json.bytes()
        .position(|byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b',' => return !quoted,
                _ => {}
            }
            false
        })
        .map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_events() {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(true, false);
        encoder.event(&mut out, "[DONE]");
        encoder.end(&mut out);
        assert_eq!(out, b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
    }

    #[test]
    fn mixed_events_take_every_form_and_mean_the_same() {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(false, true);
        let data = r#"{"a":"x,\",y","b":2}"#;
        (0..4).for_each(|_| encoder.event(&mut out, data));
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            format!(
                "\u{feff}data: {data}\n\n: keep-alive\r\n\r\ndata: {data}\r\n\r\n\
                 data: {{\"a\":\"x,\\\",y\",\r\ndata: \"b\":2}}\r\n\r\nid: 3\ndata:{data}\n\n"
            )
        );
    }
}
