//! One connection: reads requests, writes bytes, notices a hang-up.
//!
//! Raw on purpose: no HTTP library lets a server break the protocol. While a request is being worked on the read half is
//! polled at every wait, so that a client that leaves is noticed at once, also while nothing is being written. A client that
//! only shuts down its writing side counts as gone.

use super::active::Port;
use super::state::Shared;
use crate::clock;
use crate::domain::time::Ts;
use bytes::{Bytes, BytesMut};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;

const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 128;
const MAX_BODY: usize = 64 * 1024 * 1024;
/// What a client may send ahead of the answer; beyond it reading stops, and with it the watch for a hang-up.
const MAX_AHEAD: usize = 256 * 1024;

/// The client hung up, or the connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// Why no request could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    Gone,
    /// Answer with this status and close.
    Refused(u16),
}

impl From<Gone> for Unread {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Known(usize),
    Chunked,
}

/// The head of a request.
#[derive(Debug)]
pub(super) struct Head {
    pub raw: Bytes,
    pub method: String,
    /// Without the query.
    pub path: String,
    pub bearer: Option<String>,
    /// HTTP/1.0 knows no chunks.
    pub chunks: bool,
    pub keep_alive: bool,
    expects_continue: bool,
    length: Length,
}

impl Head {
    /// Reads a head; none: there is more to come.
    fn parse(buf: &mut BytesMut) -> Result<Option<Self>, Unread> {
        let bad = Unread::Refused(400);
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let size = match request.parse(buf) {
            Ok(httparse::Status::Complete(size)) => size,
            Ok(httparse::Status::Partial) if buf.len() > MAX_HEAD => return Err(Unread::Refused(431)),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(Unread::Refused(431)),
            Err(_) => return Err(bad),
        };
        let chunks = request.version == Some(1);
        let target = request.path.unwrap_or_default();
        let mut head = Self {
            raw: Bytes::new(),
            method: request.method.unwrap_or_default().to_owned(),
            path: target.split('?').next().unwrap_or_default().to_owned(),
            bearer: None,
            chunks,
            keep_alive: chunks,
            expects_continue: false,
            length: Length::Known(0),
        };
        for header in request.headers.iter() {
            let value = std::str::from_utf8(header.value).unwrap_or_default().trim();
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("content-length") && head.length != Length::Chunked {
                head.length = Length::Known(value.parse().map_err(|_| bad)?);
            } else if is("transfer-encoding") {
                if !value.eq_ignore_ascii_case("chunked") {
                    return Err(bad);
                }
                head.length = Length::Chunked;
            } else if is("authorization") {
                head.bearer = value
                    .split_once(' ')
                    .filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"))
                    .map(|(_, key)| key.trim().to_owned());
            } else if is("connection") {
                let has = |word: &str| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word));
                head.keep_alive = !has("close") && (chunks || has("keep-alive"));
            } else if is("expect") {
                head.expects_continue = value.eq_ignore_ascii_case("100-continue");
            }
        }
        head.raw = buf.split_to(size).freeze();
        Ok(Some(head))
    }
}

pub(super) struct Conn {
    stream: TcpStream,
    buf: BytesMut,
    shared: Arc<Shared>,
    /// Each byte goes out by itself, with a pause of so long.
    pub one_byte: Option<Duration>,
    /// What is written counts; answers to control requests don't.
    pub counted: bool,
}

/// Reads what is there. 0: the client has shut down.
fn fill(stream: &TcpStream, buf: &mut BytesMut) -> std::io::Result<usize> {
    let mut chunk = [0; 16 * 1024];
    let got = stream.try_read(&mut chunk)?;
    buf.extend_from_slice(chunk.get(..got).unwrap_or_default());
    Ok(got)
}

/// Waits for more to read.
async fn more(stream: &TcpStream, buf: &mut BytesMut) -> Result<(), Gone> {
    loop {
        match fill(stream, buf) {
            Ok(0) => return Err(Gone),
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => stream.readable().await.map_err(|_| Gone)?,
            Err(_) => return Err(Gone),
        }
    }
}

/// Waits for the client to hang up; what it sends ahead is kept for the next request.
async fn hang_up(stream: &TcpStream, buf: &mut BytesMut) {
    while buf.len() <= MAX_AHEAD {
        if more(stream, buf).await.is_err() {
            return;
        }
    }
    std::future::pending().await
}

impl Conn {
    pub(super) fn new(stream: TcpStream, shared: Arc<Shared>) -> Self {
        Self { stream, buf: BytesMut::new(), shared, one_byte: None, counted: true }
    }

    /// The head of the next request; none: the connection is over. With `port`, an idle connection ends when the port does.
    pub(super) async fn head(&mut self, mut port: Option<&mut watch::Receiver<Port>>) -> Result<Option<Head>, Unread> {
        loop {
            if !self.buf.is_empty()
                && let Some(head) = Head::parse(&mut self.buf)?
            {
                return Ok(Some(head));
            }
            let idle = self.buf.is_empty();
            let got = match port.as_deref_mut().filter(|_| idle) {
                None => more(&self.stream, &mut self.buf).await,
                Some(port) => tokio::select! {
                    biased;
                    got = more(&self.stream, &mut self.buf) => got,
                    _ = port.wait_for(|port| *port != Port::Open) => return Ok(None),
                },
            };
            match got {
                Ok(()) => {}
                Err(Gone) if idle => return Ok(None),
                Err(Gone) => return Err(Unread::Gone),
            }
        }
    }

    /// The whole body of a request.
    pub(super) async fn body(&mut self, head: &Head) -> Result<Bytes, Unread> {
        if head.expects_continue {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        match head.length {
            Length::Known(length) if length > MAX_BODY => Err(Unread::Refused(413)),
            Length::Known(length) => {
                while self.buf.len() < length {
                    more(&self.stream, &mut self.buf).await?;
                }
                Ok(self.buf.split_to(length).freeze())
            }
            Length::Chunked => self.chunked_body().await,
        }
    }

    async fn chunked_body(&mut self) -> Result<Bytes, Unread> {
        let mut body = BytesMut::new();
        loop {
            let (start, size) = match httparse::parse_chunk_size(&self.buf) {
                Ok(httparse::Status::Complete(found)) => found,
                Ok(httparse::Status::Partial) if self.buf.len() < MAX_HEAD => {
                    more(&self.stream, &mut self.buf).await?;
                    continue;
                }
                _ => return Err(Unread::Refused(400)),
            };
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if size.saturating_add(body.len()) > MAX_BODY {
                return Err(Unread::Refused(413));
            }
            while self.buf.len() < start + size + 2 {
                more(&self.stream, &mut self.buf).await?;
            }
            let _ = self.buf.split_to(start);
            body.extend_from_slice(&self.buf.split_to(size));
            // The end is taken to have no trailers: no client of LLM APIs sends any.
            let _ = self.buf.split_to(2);
            if size == 0 {
                return Ok(body.freeze());
            }
        }
    }

    /// Waits until `due`.
    pub(super) async fn wait_until(&mut self, due: Ts) -> Result<(), Gone> {
        let left = due.since(clock::now());
        if left.is_zero() {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = hang_up(&self.stream, &mut self.buf) => Err(Gone),
            () = tokio::time::sleep(left) => Ok(()),
        }
    }

    /// Waits until the client is gone.
    pub(super) async fn wait_for_ever(&mut self) -> Gone {
        hang_up(&self.stream, &mut self.buf).await;
        Gone
    }

    /// Writes all of it.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let piece = if self.one_byte.is_some() { rest.get(..1).unwrap_or(rest) } else { rest };
            match self.stream.try_write(piece) {
                Ok(sent) => {
                    if self.counted {
                        self.shared.bytes_out.fetch_add(sent as u64, Ordering::Relaxed);
                    }
                    rest = rest.get(sent..).unwrap_or_default();
                    if let Some(gap) = self.one_byte {
                        tokio::task::yield_now().await;
                        self.wait_until(clock::now().plus(gap)).await?;
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    tokio::select! {
                        biased;
                        () = hang_up(&self.stream, &mut self.buf) => return Err(Gone),
                        ready = self.stream.writable() => ready.map_err(|_| Gone)?,
                    }
                }
                Err(_) => return Err(Gone),
            }
        }
        Ok(())
    }

    /// Ends the connection with a reset instead of an orderly close.
    pub(super) fn reset(self) {
        // If it fails the connection is gone already.
        let _ = self.stream.set_zero_linger();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Head>, Unread> {
        Head::parse(&mut BytesMut::from(text))
    }

    #[test]
    fn heads_are_read() {
        let head = parse(
            "POST /v1/chat/completions?x=1 HTTP/1.1\r\nHost: a\r\nAuthorization: bearer  k\r\nContent-Length: 5\r\n\r\nhello",
        );
        let head = head.unwrap().unwrap();
        assert_eq!((head.method.as_str(), head.path.as_str()), ("POST", "/v1/chat/completions"));
        assert_eq!((head.bearer.as_deref(), head.length, head.keep_alive), (Some("k"), Length::Known(5), true));
        assert!(parse("GET / HTTP/1.1\r\nHos").unwrap().is_none());
        assert!(!parse("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n").unwrap().unwrap().keep_alive);
        let old = parse("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap().unwrap();
        assert!(old.keep_alive && !old.chunks);
        assert!(!parse("GET / HTTP/1.0\r\n\r\n").unwrap().unwrap().keep_alive);
    }

    #[test]
    fn chunked_wins_over_a_length_and_nonsense_is_refused() {
        for order in
            ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 5"]
        {
            let head = parse(&format!("POST / HTTP/1.1\r\n{order}\r\n\r\n")).unwrap().unwrap();
            assert_eq!(head.length, Length::Chunked);
        }
        let refused = |text: &str| parse(text).unwrap_err();
        assert_eq!(refused("POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n"), Unread::Refused(400));
        assert_eq!(refused("hello\r\n\r\n"), Unread::Refused(400));
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(MAX_HEAD))), Unread::Refused(431));
    }
}
