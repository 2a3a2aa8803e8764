//! The upstream's role: the cheapest server that answers the script. One thread, keep-alive, no library; it reads what a
//! proxy sends only as far as needed to find the request's end and its mode.

use crate::fault::Fault;
use crate::script::{self, Mode};
use crate::wire;
use breakwater::{cli, clock};
use std::io;
use std::rc::Rc;
use tokio::net::{TcpListener, TcpStream};

/// The answers as bytes, made once.
struct Answers {
    unary: Vec<u8>,
    stream_head: Vec<u8>,
    /// Each event as an HTTP chunk.
    chunks: Vec<Vec<u8>>,
    /// Head, all chunks and the end in one piece.
    burst: Vec<u8>,
}

const END: &[u8] = b"0\r\n\r\n";
const LARGEST_REQUEST: usize = 64 * 1024;

impl Answers {
    fn new() -> Self {
        let common = "Connection: keep-alive\r\nx-request-id: req_0123456789abcdef0123456789abcdef\r\n\
                      openai-processing-ms: 412\r\nx-ratelimit-remaining-requests: 9999\r\n";
        let body = script::answer();
        let unary = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{common}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        // `X-Accel-Buffering: no` is how an application tells nginx to relay a stream unbuffered.
        let stream_head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n\
             X-Accel-Buffering: no\r\n{common}Transfer-Encoding: chunked\r\n\r\n"
        );
        let chunks: Vec<Vec<u8>> =
            script::events().iter().map(|e| format!("{:x}\r\n{e}\r\n", e.len()).into_bytes()).collect();
        let burst = [stream_head.as_bytes(), &chunks.concat(), END].concat();
        Self { unary: unary.into(), stream_head: stream_head.into(), chunks, burst }
    }
}

/// Serves on a port of its own choice, which it prints, until its stdin is closed.
pub async fn run() -> Result<(), Fault> {
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(Fault::io("cannot bind the upstream"))?;
    let port = listener.local_addr().map_err(Fault::io("no local address"))?.port();
    cli::out(&format!("{port}\n"));
    let answers = Rc::new(Answers::new());
    let local = tokio::task::LocalSet::new();
    let accepting = async {
        loop {
            let (stream, _) = listener.accept().await.map_err(Fault::io("cannot accept"))?;
            let answers = Rc::clone(&answers);
            // A connection that a proxy resets ends alone; the load generator sees what came of it.
            tokio::task::spawn_local(async move { serve(&stream, &answers).await });
        }
    };
    let stopped = crate::parent_gone();
    local
        .run_until(async {
            tokio::select! {
                fault = accepting => fault,
                _ = stopped => Ok(()),
            }
        })
        .await
}

async fn serve(stream: &TcpStream, answers: &Answers) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; LARGEST_REQUEST];
    let mut have = 0;
    loop {
        let (length, mode) = loop {
            if let Some(found) = buffer.get(..have).and_then(whole_request) {
                break found;
            }
            let n = wire::read_some(stream, buffer.get_mut(have..).unwrap_or_default()).await?;
            if n == 0 {
                return Ok(());
            }
            have += n;
        };
        buffer.copy_within(length..have, 0);
        have -= length;
        match mode {
            Some(Mode::Unary) => wire::write_all(stream, &answers.unary).await?,
            Some(Mode::Burst) => wire::write_all(stream, &answers.burst).await?,
            Some(mode) => pace(stream, answers, mode).await?,
            None => wire::write_all(stream, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await?,
        }
    }
}

async fn pace(stream: &TcpStream, answers: &Answers, mode: Mode) -> io::Result<()> {
    wire::write_all(stream, &answers.stream_head).await?;
    let mut copy = Vec::new();
    for chunk in &answers.chunks {
        if let Some(gap) = mode.gap() {
            tokio::time::sleep(gap).await;
        }
        copy.clear();
        copy.extend_from_slice(chunk);
        script::stamp(&mut copy, clock::wall());
        wire::write_all(stream, &copy).await?;
    }
    wire::write_all(stream, END).await
}

/// Length and mode of the request at the beginning of `bytes`, once it is complete. The mode is `None` for one that is not
/// the script's.
fn whole_request(bytes: &[u8]) -> Option<(usize, Option<Mode>)> {
    let head = wire::head_len(bytes)?;
    let body: usize = wire::header(bytes.get(..head)?, "content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let whole = bytes.get(head..head.checked_add(body)?)?;
    Some((head + body, Mode::of_body(whole)))
}
