//! A client that reads raw bytes, and what the tests ask.

use breakwater::clock;
use breakwater::sim::{self, FaultKind, Handle, Profile, Stats};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub const CHAT: &str = "/v1/chat/completions";
/// Long enough for a busy machine; reached only when something is broken.
pub const LONG: Duration = Duration::from_secs(20);
/// How long silence is watched before it is called silence.
pub const QUIET: Duration = Duration::from_millis(150);

pub fn provider(profile: Profile) -> Handle {
    sim::start(profile).unwrap()
}

pub fn with(kind: FaultKind) -> Handle {
    provider(Profile { faults: vec![kind.into()], ..Profile::new("a", &["m"]) })
}

pub fn body(stream: bool) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "say it"}], "stream": stream})
}

pub fn streamed() -> Value {
    body(true)
}

pub fn unary() -> Value {
    body(false)
}

pub struct Raw(pub TcpStream);

impl Raw {
    pub fn to(addr: SocketAddr) -> Self {
        let socket = TcpStream::connect(addr).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        Self(socket)
    }

    pub fn ask(handle: &Handle, path: &str, body: &Value) -> Self {
        let mut raw = Self::to(handle.addr());
        raw.send(path, body);
        raw
    }

    pub fn send(&mut self, path: &str, body: &Value) {
        let body = body.to_string();
        let text = format!("POST {path} HTTP/1.1\r\nhost: sim\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        self.0.write_all(text.as_bytes()).unwrap();
    }

    /// Everything up to the end of the connection, and how it ended.
    pub fn rest(&mut self) -> (String, Option<ErrorKind>) {
        let mut all = Vec::new();
        let end = self.0.read_to_end(&mut all).err().map(|e| e.kind());
        (String::from_utf8_lossy(&all).into_owned(), end)
    }

    pub fn until(&mut self, mark: &str) -> String {
        let mut all = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&all).ends_with(mark) {
            assert_eq!(self.0.read(&mut byte).unwrap(), 1, "ended early: {}", String::from_utf8_lossy(&all));
            all.push(byte[0]);
        }
        String::from_utf8(all).unwrap()
    }

    /// One whole answer of a known length or in chunks.
    pub fn answer(&mut self) -> Got {
        let head = self.until("\r\n\r\n");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut body = Vec::new();
        if head.contains("chunked") {
            loop {
                let line = self.until("\r\n");
                let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
                let start = body.len();
                body.resize(start + size, 0);
                self.0.read_exact(&mut body[start..]).unwrap();
                assert_eq!(self.until("\r\n"), "\r\n");
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = header(&head, "content-length") {
            body.resize(length.parse().unwrap(), 0);
            self.0.read_exact(&mut body).unwrap();
        }
        Got { status, head, body: String::from_utf8(body).unwrap() }
    }

    /// Asserts that nothing comes, and that the connection stands.
    pub fn is_silent(&mut self) {
        self.0.set_read_timeout(Some(QUIET)).unwrap();
        let got = self.0.read(&mut [0; 16]);
        assert!(matches!(&got, Err(e) if e.kind() == ErrorKind::WouldBlock), "{got:?}");
        self.0.set_read_timeout(Some(LONG)).unwrap();
    }
}

#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub fn json_is_broken(&self) -> bool {
        !self.body.is_empty() && serde_json::from_str::<Value>(&self.body).is_err()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().filter_map(|line| line.split_once(": ")).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// The data of an event stream, read as the format's specification says.
pub fn events(text: &str) -> Vec<String> {
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n").replace('\r', "\n");
    let (mut all, mut data) = (Vec::new(), Vec::<&str>::new());
    for line in text.split('\n') {
        if line.is_empty() && !data.is_empty() {
            all.push(data.join("\n"));
            data.clear();
        } else if let Some(value) = line.strip_prefix("data:") {
            data.push(value.strip_prefix(' ').unwrap_or(value));
        }
    }
    all
}

pub fn said(events: &[String]) -> String {
    let frames = events.iter().filter_map(|data| serde_json::from_str::<Value>(data).ok());
    frames.filter_map(|frame| frame.pointer("/choices/0/delta/content")?.as_str().map(str::to_owned)).collect()
}

pub fn numbered(tokens: u64) -> String {
    (0..tokens).map(|i| format!("t{i}")).collect::<Vec<_>>().join(" ")
}

/// Waits until the statistics say so.
pub fn eventually(handle: &Handle, holds: impl Fn(&Stats) -> bool) -> Stats {
    let end = clock::now().plus(LONG);
    loop {
        let stats = handle.stats();
        if holds(&stats) {
            return stats;
        }
        assert!(clock::now() < end, "{stats:#?}");
        std::thread::yield_now();
    }
}

pub fn ask(handle: &Handle, body: &Value) -> Got {
    Raw::ask(handle, CHAT, body).answer()
}

pub fn call(addr: SocketAddr, method: &str, path: &str, body: &str) -> Got {
    let mut raw = Raw::to(addr);
    write!(raw.0, "{method} {path} HTTP/1.1\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    raw.answer()
}

pub fn control_addr(handle: &Handle) -> SocketAddr {
    let url = handle.control_url();
    url.strip_prefix("http://").unwrap().strip_suffix("/__sim").unwrap().parse().unwrap()
}
