//! Just enough HTTP/1.1 for both ends of the bench: reading and writing without a library, so that the load generator and
//! the upstream cost little beside what is measured. Not a general client: a body has a length or is chunked.

use crate::fault::Fault;
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpStream;

const READ: usize = 32 * 1024;
/// More than any answer of the script; a peer that sends more is wrong.
const LARGEST: usize = 1 << 20;

/// Reads what is there, waiting for the first byte; 0 is the end.
pub async fn read_some(stream: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.try_read(into) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => stream.readable().await?,
            done => return done,
        }
    }
}

pub async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Length of a message's head with its empty line, once it is complete.
pub fn head_len(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

/// The value of a header, without the spaces around it.
pub fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    head.split(|b| *b == b'\n').find_map(|line| {
        let (field, value) = line.split_at_checked(name.len())?;
        if !field.eq_ignore_ascii_case(name.as_bytes()) {
            return None;
        }
        std::str::from_utf8(value.strip_prefix(b":")?).ok().map(str::trim)
    })
}

/// A request with a JSON body.
pub fn request(method: &str, path: &str, bearer: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {bearer}\r\nContent-Type: application/json\r\n\
         Accept: */*\r\nUser-Agent: breakwater-bench\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// One keep-alive connection of a client.
pub struct Connection {
    stream: TcpStream,
    scratch: Box<[u8]>,
    raw: Vec<u8>,
    /// The last answer's body, without chunk framing.
    pub body: Vec<u8>,
}

impl Connection {
    pub async fn open(to: SocketAddr) -> Result<Self, Fault> {
        let stream = TcpStream::connect(to).await.map_err(Fault::io("cannot connect"))?;
        stream.set_nodelay(true).map_err(Fault::io("cannot set TCP_NODELAY"))?;
        Ok(Self { stream, scratch: vec![0; READ].into(), raw: Vec::new(), body: Vec::new() })
    }

    /// Sends a request and reads the whole answer; `grown` is called with the body so far each time it has grown.
    /// Gives back the status.
    pub async fn exchange(&mut self, request: &[u8], mut grown: impl FnMut(&[u8])) -> Result<u16, Fault> {
        self.raw.clear();
        self.body.clear();
        write_all(&self.stream, request).await.map_err(Fault::io("cannot send a request"))?;
        let head = loop {
            if let Some(len) = head_len(&self.raw) {
                break len;
            }
            self.fill().await?;
        };
        let (status, length) = parse_head(self.raw.get(..head).unwrap_or_default())?;
        self.raw.drain(..head);
        loop {
            let done = match length {
                Some(length) => {
                    self.body.append(&mut self.raw);
                    self.body.len() >= length
                }
                None => self.dechunk()?,
            };
            grown(&self.body);
            if done {
                break;
            }
            self.fill().await?;
        }
        if length.is_some_and(|l| l != self.body.len()) || !self.raw.is_empty() {
            return Err(Fault::Answer("more bytes than the answer has".into()));
        }
        Ok(status)
    }

    async fn fill(&mut self) -> Result<(), Fault> {
        let n = read_some(&self.stream, &mut self.scratch).await.map_err(Fault::io("cannot read an answer"))?;
        self.raw.extend_from_slice(self.scratch.get(..n).unwrap_or_default());
        if n == 0 {
            return Err(Fault::Answer(format!("connection closed after {} bytes of the answer", self.body.len())));
        }
        if self.raw.len() + self.body.len() > LARGEST {
            return Err(Fault::Answer("answer without end".into()));
        }
        Ok(())
    }

    /// Moves the complete chunks from `raw` to `body`; true when the last one was there.
    fn dechunk(&mut self) -> Result<bool, Fault> {
        let bad = || Fault::Answer("broken chunk".into());
        let mut at = 0;
        let ended = loop {
            let rest = self.raw.get(at..).unwrap_or_default();
            let Some(line) = rest.windows(2).position(|w| w == b"\r\n") else { break false };
            let digits = rest.get(..line).and_then(|d| std::str::from_utf8(d).ok()).ok_or_else(bad)?;
            let size = usize::from_str_radix(digits, 16).map_err(|_| bad())?;
            let Some(chunk) = rest.get(line + 2..line + 2 + size + 2) else { break false };
            let data = chunk.strip_suffix(b"\r\n").ok_or_else(bad)?;
            self.body.extend_from_slice(data);
            at += line + 2 + size + 2;
            if size == 0 {
                break true;
            }
        };
        self.raw.drain(..at);
        Ok(ended)
    }
}

/// Status, and the body's length or `None` for a chunked one.
fn parse_head(head: &[u8]) -> Result<(u16, Option<usize>), Fault> {
    let bad = |what: &str| Fault::Answer(format!("{what}: {}", String::from_utf8_lossy(head)));
    let status = head
        .strip_prefix(b"HTTP/1.1 ")
        .and_then(|rest| std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok())
        .ok_or_else(|| bad("no status line"))?;
    if header(head, "transfer-encoding").is_some_and(|t| t.eq_ignore_ascii_case("chunked")) {
        return Ok((status, None));
    }
    let length = header(head, "content-length").and_then(|l| l.parse().ok());
    length.map(|l| (status, Some(l))).ok_or_else(|| bad("answer of unknown length"))
}
