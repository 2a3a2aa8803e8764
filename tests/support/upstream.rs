//! An upstream that a test scripts and watches. It speaks just enough HTTP/1.1, by hand, so that it can also speak it wrongly:
//! hang, reset, cut a stream, promise one length and send another. It keeps every request byte for byte.
//!
//! One thread per connection, blocking sockets: an upstream goes on answering while the test itself waits for a process.

use super::ms;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Tokens that the ordinary answers report.
pub const PROMPT_TOKENS: u64 = 10;
pub const COMPLETION_TOKENS: u64 = 5;
/// The words that the ordinary answers consist of.
pub const WORDS: [&str; 4] = ["All ", "is ", "well ", "here."];

/// What an upstream does with one request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A completion: unary or streamed, as was asked.
    Completion,
    /// A completion after a time.
    Slow(Duration),
    /// A completion after `time`, or as much longer as more than `room` requests are being answered: a queue.
    Crowded { room: usize, time: Duration },
    /// A completion that uses as many tokens as the request allows, at most so many, after a time.
    Metered { wish: u64, time: Duration },
    /// A stream with this long a pause before each of so many words; unary requests get [`Reply::Completion`].
    Trickle { words: usize, gap: Duration },
    /// A status with headers and a body of the given type.
    Status { status: u16, headers: Vec<(&'static str, String)>, body: String },
    /// A 200 with these exact body bytes.
    Body { content_type: &'static str, body: Vec<u8> },
    /// A 200 event stream with these exact bytes, closed as a whole.
    Events(String),
    /// As [`Reply::Events`], but each event leaves 50 ms after the one before.
    Paced(String),
    /// A 200 event stream with these bytes, then the connection is cut within a chunk.
    CutEvents(String),
    /// A 200 event stream with these bytes, then silence until the caller goes.
    SilentAfter(String),
    /// A 200 with a JSON body that never ends.
    Endless,
    /// Reads the request and never answers.
    Hang,
    /// Reads the request and closes the connection without an answer.
    Close,
    /// A completion, but every `n`th request gets a 500.
    FailEvery(usize),
    /// 401 unless the request carries this bearer key.
    NeedsKey(String),
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self::Status { status, headers: vec![], body: error_body(&format!("scripted {status}")) }
    }

    pub fn status_with(status: u16, headers: &[(&'static str, &str)]) -> Self {
        let headers = headers.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        Self::Status { status, headers, body: error_body(&format!("scripted {status}")) }
    }
}

pub fn error_body(message: &str) -> String {
    json!({"error": {"message": message, "type": "server_error", "param": null, "code": null}}).to_string()
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the gateway sends JSON")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

struct Shared {
    reply: Mutex<Reply>,
    once: Mutex<VecDeque<Reply>>,
    seen: Mutex<Vec<Seen>>,
    calls: AtomicUsize,
    running: AtomicUsize,
    hang_ups: AtomicUsize,
    connections: AtomicUsize,
    stopped: AtomicBool,
    keep_bodies: AtomicBool,
}

pub struct Upstream {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Upstream {
    /// Starts one that answers with completions.
    pub fn start() -> Self {
        Self::start_with(Reply::Completion)
    }

    pub fn start_with(reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            reply: Mutex::new(reply),
            once: Mutex::default(),
            seen: Mutex::default(),
            calls: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            hang_ups: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            keep_bodies: AtomicBool::new(true),
        });
        accept(listener, Arc::clone(&shared));
        Self { addr, shared }
    }

    /// An address on which nobody listens.
    pub fn refusing() -> Self {
        let upstream = Self::start();
        upstream.stop();
        upstream
    }

    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// What every request gets from now on.
    pub fn set(&self, reply: Reply) {
        *self.shared.reply.lock().unwrap() = reply;
    }

    /// What the next request gets, before the standing reply holds again.
    pub fn once(&self, reply: Reply) {
        self.shared.once.lock().unwrap().push_back(reply);
    }

    /// Chat completion requests so far.
    pub fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::SeqCst)
    }

    /// Requests that are being answered now.
    pub fn running(&self) -> usize {
        self.shared.running.load(Ordering::SeqCst)
    }

    /// Requests whose caller went away before the answer's end.
    pub fn hang_ups(&self) -> usize {
        self.shared.hang_ups.load(Ordering::SeqCst)
    }

    /// Connections so far, whatever came over them.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Every request but for probes, oldest first.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    pub fn last(&self) -> Seen {
        self.shared.seen.lock().unwrap().last().cloned().expect("a request arrived")
    }

    /// Counts requests without keeping them, for the tests with very many.
    pub fn forget_bodies(&self) {
        self.shared.keep_bodies.store(false, Ordering::SeqCst);
    }

    /// Closes the port and every connection.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then drops the listener.
        let _ = TcpStream::connect(self.addr);
        let until = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(self.addr).is_ok() {
            assert!(Instant::now() < until, "{} still accepts connections", self.addr);
            std::thread::yield_now();
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
    }
}

fn accept(listener: TcpListener, shared: Arc<Shared>) {
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            if shared.stopped.load(Ordering::SeqCst) {
                return;
            }
            if let Ok(connection) = connection {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || converse(connection, &shared));
            }
        }
    });
}

/// Answers the requests of one connection until either side ends it.
fn converse(mut connection: TcpStream, shared: &Shared) {
    let _ = connection.set_nodelay(true);
    let mut buffer = Vec::new();
    while let Some(seen) = read_request(&mut connection, &mut buffer, shared) {
        let is_call = seen.method == "POST";
        let number = if is_call { shared.calls.fetch_add(1, Ordering::SeqCst) + 1 } else { 0 };
        if is_call && shared.keep_bodies.load(Ordering::SeqCst) {
            shared.seen.lock().unwrap().push(seen.clone());
        }
        let next = if is_call { shared.once.lock().unwrap().pop_front() } else { None };
        let reply = next.unwrap_or_else(|| shared.reply.lock().unwrap().clone());
        if !is_call {
            if answer_probe(&mut connection, &seen, &reply).is_err() {
                return;
            }
            continue;
        }
        shared.running.fetch_add(1, Ordering::SeqCst);
        let end = answer(&mut connection, shared, &seen, &reply, number);
        shared.running.fetch_sub(1, Ordering::SeqCst);
        match end {
            End::KeepAlive => {}
            End::Close => return,
            End::CallerLeft => {
                shared.hang_ups.fetch_add(1, Ordering::SeqCst);
                return;
            }
        }
    }
}

/// Answers a question that is no call: the list of models, which checks the key.
fn answer_probe(to: &mut TcpStream, seen: &Seen, reply: &Reply) -> std::io::Result<()> {
    match reply {
        Reply::NeedsKey(key) if !has_key(seen, key) => {
            write_whole(to, 401, &[], "application/json", error_body("wrong key").as_bytes())
        }
        _ => write_whole(to, 200, &[], "application/json", br#"{"object":"list","data":[]}"#),
    }
}

fn has_key(seen: &Seen, key: &str) -> bool {
    seen.header("authorization") == Some(&format!("Bearer {key}"))
}

enum End {
    KeepAlive,
    Close,
    CallerLeft,
}

fn answer(to: &mut TcpStream, shared: &Shared, seen: &Seen, reply: &Reply, number: usize) -> End {
    let streamed = serde_json::from_slice::<Value>(&seen.body).is_ok_and(|b| b["stream"] == true);
    let written = match reply {
        Reply::Slow(time) => {
            if let Some(end) = stay(to, shared, *time) {
                return end;
            }
            return answer(to, shared, seen, &Reply::Completion, number);
        }
        Reply::Crowded { room, time } => {
            let shares = shared.running.load(Ordering::SeqCst).max(*room);
            let time = *time * u32::try_from(shares).unwrap() / u32::try_from(*room).unwrap();
            return answer(to, shared, seen, &Reply::Slow(time), number);
        }
        Reply::Metered { wish, time } => {
            if let Some(end) = stay(to, shared, *time) {
                return end;
            }
            metered(to, seen, *wish, streamed)
        }
        Reply::FailEvery(n) if number.is_multiple_of(*n) => {
            return answer(to, shared, seen, &Reply::status(500), number);
        }
        Reply::NeedsKey(key) if !has_key(seen, key) => {
            return answer(to, shared, seen, &Reply::status(401), number);
        }
        Reply::Hang => return stay(to, shared, Duration::from_secs(120)).unwrap_or(End::Close),
        Reply::Close => return End::Close,
        Reply::Endless => return endless(to, shared),
        Reply::Trickle { words, gap } if streamed => return trickle(to, shared, *words, *gap),
        Reply::CutEvents(text) => {
            let _ = write_chunked_head(to);
            let _ = write!(to, "{:x}\r\n{text}", text.len() + 10);
            let _ = to.flush();
            let _ = to.shutdown(std::net::Shutdown::Both);
            return End::Close;
        }
        Reply::Paced(text) => return pace(to, shared, text),
        Reply::SilentAfter(text) => {
            let _ = write_chunked_head(to).and_then(|()| write_chunk(to, text));
            return stay(to, shared, Duration::from_secs(120)).unwrap_or(End::Close);
        }
        Reply::Events(text) => {
            write_chunked_head(to).and_then(|()| write_chunk(to, text)).and_then(|()| end_chunks(to))
        }
        Reply::Status { status, headers, body } => {
            write_whole(to, *status, headers, "application/json", body.as_bytes())
        }
        Reply::Body { content_type, body } => write_whole(to, 200, &[], content_type, body),
        Reply::Completion | Reply::FailEvery(_) | Reply::NeedsKey(_) | Reply::Trickle { .. } => {
            if streamed {
                let all: String = (0..=WORDS.len() + 1).map(stream_event).collect();
                write_chunked_head(to).and_then(|()| write_chunk(to, &all)).and_then(|()| end_chunks(to))
            } else {
                write_whole(to, 200, &[], "application/json", completion().to_string().as_bytes())
            }
        }
    };
    if written.is_ok() { End::KeepAlive } else { End::CallerLeft }
}

/// A completion that keeps to the request's maximum and reports just that.
fn metered(to: &mut TcpStream, seen: &Seen, wish: u64, streamed: bool) -> std::io::Result<()> {
    let body = seen.json();
    let most = ["max_tokens", "max_completion_tokens"].iter().filter_map(|member| body[member].as_u64()).min();
    let tokens = most.map_or(wish, |most| most.min(wish));
    let usage =
        json!({"prompt_tokens": PROMPT_TOKENS, "completion_tokens": tokens, "total_tokens": PROMPT_TOKENS + tokens});
    if streamed {
        let end = chunk_event(&json!([{"index": 0, "delta": {}, "finish_reason": "length"}]), &Value::Null)
            + &chunk_event(&json!([]), &usage)
            + "data: [DONE]\n\n";
        let all = stream_event(0) + &text_event("counted") + &end;
        return write_chunked_head(to).and_then(|()| write_chunk(to, &all)).and_then(|()| end_chunks(to));
    }
    let mut answer = completion();
    answer["usage"] = usage;
    write_whole(to, 200, &[], "application/json", answer.to_string().as_bytes())
}

/// The unary completion.
pub fn completion() -> Value {
    json!({
        "id": "chatcmpl-scripted", "object": "chat.completion", "created": 1_700_000_000, "model": "upstream-model",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": WORDS.concat()}, "finish_reason": "stop"}],
        "usage": usage(),
    })
}

fn usage() -> Value {
    json!({"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS, "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS})
}

/// One event with a piece of text.
pub fn text_event(text: &str) -> String {
    chunk_event(&json!([{"index": 0, "delta": {"content": text}, "finish_reason": null}]), &Value::Null)
}

/// The events after the text: finish, usage, `[DONE]`.
pub fn closing_events() -> String {
    let finish = chunk_event(&json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]), &Value::Null);
    finish + &chunk_event(&json!([]), &usage()) + "data: [DONE]\n\n"
}

/// An event without text that reports usage.
pub fn usage_event(prompt: u64, completion: u64) -> String {
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion});
    chunk_event(&json!([]), &usage)
}

fn chunk_event(choices: &Value, usage: &Value) -> String {
    let chunk = json!({"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 1_700_000_000,
        "model": "upstream-model", "choices": choices, "usage": usage});
    format!("data: {chunk}\n\n")
}

/// The `n`th part of the ordinary stream: a head, the words, the end.
fn stream_event(n: usize) -> String {
    match n {
        0 => chunk_event(
            &json!([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]),
            &Value::Null,
        ),
        n if n <= WORDS.len() => text_event(WORDS[n - 1]),
        _ => closing_events(),
    }
}

/// Writes until the caller has had enough.
fn endless(to: &mut TcpStream, shared: &Shared) -> End {
    let piece = [b'x'; 64 * 1024];
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{\"choices\":[{\"text\":\"";
    let mut written = to.write_all(head.as_bytes());
    while written.is_ok() {
        if shared.stopped.load(Ordering::SeqCst) {
            return End::Close;
        }
        written = to.write_all(&piece);
    }
    End::CallerLeft
}

fn pace(to: &mut TcpStream, shared: &Shared, text: &str) -> End {
    let mut written = write_chunked_head(to);
    for event in text.split_inclusive("\n\n") {
        written = written.and_then(|()| write_chunk(to, event));
        if written.is_err() {
            return End::CallerLeft;
        }
        if let Some(end) = stay(to, shared, ms(50)) {
            return end;
        }
    }
    if written.and_then(|()| end_chunks(to)).is_ok() { End::KeepAlive } else { End::CallerLeft }
}

fn trickle(to: &mut TcpStream, shared: &Shared, words: usize, gap: Duration) -> End {
    if write_chunked_head(to).and_then(|()| write_chunk(to, &stream_event(0))).is_err() {
        return End::CallerLeft;
    }
    for n in 0..words {
        if let Some(end) = stay(to, shared, gap) {
            return end;
        }
        if write_chunk(to, &text_event(&format!("word{n} "))).is_err() {
            return End::CallerLeft;
        }
    }
    let ended = write_chunk(to, &closing_events()).and_then(|()| end_chunks(to));
    if ended.is_ok() { End::KeepAlive } else { End::CallerLeft }
}

/// Passes time while watching whether the caller is still there; `Some` when it left or the upstream was stopped.
fn stay(with: &TcpStream, shared: &Shared, time: Duration) -> Option<End> {
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        if shared.stopped.load(Ordering::SeqCst) {
            return Some(End::Close);
        }
        with.set_read_timeout(Some(left.min(ms(50)).max(ms(1)))).unwrap();
        match with.peek(&mut [0]) {
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            // Nobody pipelines towards an upstream: anything but silence is the end.
            Ok(_) | Err(_) => return Some(End::CallerLeft),
        }
    }
}

fn write_whole(
    to: &mut TcpStream,
    status: u16,
    headers: &[(&str, String)],
    content_type: &str,
    body: &[u8],
) -> std::io::Result<()> {
    let mut bytes =
        format!("HTTP/1.1 {status} Scripted\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        bytes += &format!("{name}: {value}\r\n");
    }
    bytes += "\r\n";
    let mut bytes = bytes.into_bytes();
    bytes.extend_from_slice(body);
    to.write_all(&bytes)
}

fn write_chunked_head(to: &mut TcpStream) -> std::io::Result<()> {
    to.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
}

fn write_chunk(to: &mut TcpStream, text: &str) -> std::io::Result<()> {
    to.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())
}

fn end_chunks(to: &mut TcpStream) -> std::io::Result<()> {
    to.write_all(b"0\r\n\r\n")
}

/// Reads one request with a `content-length` body; `None` at the connection's end.
fn read_request(from: &mut TcpStream, buffer: &mut Vec<u8>, shared: &Shared) -> Option<Seen> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        fill(from, buffer, shared)?;
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<_> =
        lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect();
    let length = headers.iter().find(|(n, _)| n == "content-length").map_or(0, |(_, v)| v.parse().unwrap());
    let body_start = head_end + 4;
    while buffer.len() < body_start + length {
        fill(from, buffer, shared)?;
    }
    let body = buffer[body_start..body_start + length].to_vec();
    buffer.drain(..body_start + length);
    Some(Seen { method, path, headers, body })
}

fn fill(from: &mut TcpStream, buffer: &mut Vec<u8>, shared: &Shared) -> Option<()> {
    let mut piece = [0; 16 * 1024];
    from.set_read_timeout(Some(ms(100))).ok()?;
    loop {
        if shared.stopped.load(Ordering::SeqCst) {
            return None;
        }
        match from.read(&mut piece) {
            Ok(0) => return None,
            Ok(n) => {
                buffer.extend_from_slice(&piece[..n]);
                return Some(());
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(_) => return None,
        }
    }
}
