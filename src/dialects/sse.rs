//! Server-sent events, decoded incrementally without changing a byte: each [`Event`] carries the exact bytes it came as, so a
//! relay in one dialect forwards them untouched, and the joined payload of its `data` lines for reading.
//!
//! Line ends may be LF, CRLF or CR, mixed; comment lines belong to the event after them. Only a byte order mark goes. An
//! event leaves the decoder with its blank line, however the bytes were cut into packets.

use bytes::{Buf, Bytes, BytesMut};

/// A larger event is a fault of the upstream.
pub const MAX_EVENT: usize = 16 << 20;

/// One event as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// All of its bytes, the blank line at its end included.
    pub raw: Bytes,
    /// The `data` lines joined by line feeds; `None` when the event has none (comments, `event:` alone).
    pub data: Option<Bytes>,
}

/// The stream sent an event over [`MAX_EVENT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    /// Where the line that has not ended yet starts.
    line: usize,
    /// Up to where that line has been searched for its end.
    searched: usize,
    /// Position of each `data` value of the event that has not ended yet.
    values: Vec<(usize, usize)>,
    /// The last byte taken was a CR that ended a line: a LF right after belongs to it.
    after_cr: bool,
    started: bool,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether bytes of an unfinished event are held: at the end of a stream, it was cut.
    #[must_use]
    pub fn is_mid_event(&self) -> bool {
        self.buffer.iter().any(|b| !matches!(b, b'\r' | b'\n'))
    }

    /// The next whole event, if one has arrived.
    ///
    /// # Errors
    /// [`TooLarge`] once an unfinished event has grown past the limit.
    pub fn next_event(&mut self) -> Result<Option<Event>, TooLarge> {
        loop {
            if self.after_cr && self.searched < self.buffer.len() {
                self.after_cr = false;
                if self.line == self.searched && self.buffer.get(self.line) == Some(&b'\n') {
                    self.line += 1;
                    self.searched += 1;
                }
            }
            let Some(at) = memchr::memchr2(b'\n', b'\r', &self.buffer[self.searched..]) else {
                self.searched = self.buffer.len();
                return if self.buffer.len() > MAX_EVENT { Err(TooLarge) } else { Ok(None) };
            };
            let end = self.searched + at;
            let mut next = end + 1;
            if self.buffer[end] == b'\r' {
                match self.buffer.get(next) {
                    Some(b'\n') => next += 1,
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            let blank = end == self.line_start();
            self.note_line(end);
            self.line = next;
            self.searched = next;
            if blank && self.has_content(end) {
                return Ok(Some(self.take(next)));
            }
        }
    }

    /// The line's start without a byte order mark at the stream's beginning.
    fn line_start(&self) -> usize {
        if !self.started && self.line == 0 && self.buffer.starts_with(b"\xEF\xBB\xBF") { 3 } else { self.line }
    }

    fn has_content(&self, end: usize) -> bool {
        self.buffer[..end].iter().any(|b| !matches!(b, b'\r' | b'\n'))
    }

    fn note_line(&mut self, end: usize) {
        let start = self.line_start();
        let line = &self.buffer[start..end];
        if let Some(rest) = line.strip_prefix(b"data") {
            match rest {
                [] => self.values.push((end, end)),
                [b':', b' ', ..] => self.values.push((start + 6, end)),
                [b':', ..] => self.values.push((start + 5, end)),
                _ => {}
            }
        }
    }

    fn take(&mut self, end: usize) -> Event {
        let mut raw = self.buffer.split_to(end).freeze();
        if !self.started && raw.starts_with(b"\xEF\xBB\xBF") {
            // Few clients know what the standard says of it: they would lose the first event.
            raw.advance(3);
            self.values.iter_mut().for_each(|(from, to)| (*from, *to) = (*from - 3, *to - 3));
        }
        let data = match self.values.as_slice() {
            [] => None,
            [(from, to)] => Some(raw.slice(*from..*to)),
            many => {
                let parts: Vec<&[u8]> = many.iter().map(|(from, to)| &raw[*from..*to]).collect();
                Some(Bytes::from(parts.join(&b'\n')))
            }
        };
        self.values.clear();
        self.line = 0;
        self.searched = 0;
        self.started = true;
        Event { raw, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(chunks: &[&[u8]]) -> (Vec<u8>, Vec<Option<String>>) {
        let mut decoder = Decoder::default();
        let (mut raw, mut data) = (Vec::new(), Vec::new());
        for chunk in chunks {
            decoder.push(chunk);
            while let Some(event) = decoder.next_event().unwrap() {
                raw.extend_from_slice(&event.raw);
                data.push(event.data.map(|d| String::from_utf8(d.to_vec()).unwrap()));
            }
        }
        (raw, data)
    }

    #[test]
    fn reads_fields_comments_and_joined_lines() {
        let (_, data) =
            decode(&[b"\xEF\xBB\xBFdata: a\r\n\r\n: ping\n\nevent: x\ndata:b\ndata:  c\rdata\n\ndata: {\"d\":1}\r\r"]);
        assert_eq!(
            data,
            [Some("a".into()), None, Some("b\n c\n".into()), Some("{\"d\":1}".into())] as [Option<String>; 4]
        );
    }

    #[test]
    fn an_event_leaves_with_its_blank_line() {
        let mut decoder = Decoder::default();
        decoder.push(b"data: a\r\n\r");
        assert!(decoder.next_event().unwrap().is_some());
        decoder.push(b"\ndata: b\n");
        assert_eq!(decoder.next_event(), Ok(None));
        assert!(decoder.is_mid_event());
        decoder.push(b"\n");
        assert_eq!(decoder.next_event().unwrap().unwrap().data.unwrap(), "b");
        assert!(!decoder.is_mid_event());
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&vec![b'x'; MAX_EVENT + 1]);
        assert_eq!(decoder.next_event(), Err(TooLarge));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_events_and_bytes(
            lines in proptest::collection::vec(("(data|data:|data: |:|event: )", "[a-c\u{e9}]{0,3}", "(\n|\r\n|\r)", any::<bool>()), 1..12),
            cuts in proptest::collection::vec(1_usize..5, 1..200),
        ) {
            let mut text = String::new();
            for (field, value, end, blank) in &lines {
                text.push_str(field);
                if field.contains(':') { text.push_str(value); }
                text.push_str(end);
                if *blank { text.push_str(end); }
            }
            text.push_str("\n\n");
            let bytes = text.as_bytes();
            let whole = decode(&[bytes]);
            let (mut pieces, mut rest) = (Vec::new(), bytes);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (head, tail) = rest.split_at((*cut).min(rest.len()));
                pieces.push(head);
                rest = tail;
            }
            let split = decode(&pieces);
            prop_assert_eq!(&split.1, &whole.1);
            // Bytes are only ever held back, never changed: a LF that follows a CR at a cut leaves with the next event.
            prop_assert!(bytes.starts_with(&split.0));
        }
    }
}
