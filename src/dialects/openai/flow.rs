//! A stream on its way through the gateway, without sockets and clock: bytes go in, bytes for the client come out, and a
//! [`Watcher`] sees what passes.
//!
//! - Events leave with the bytes they came as, in their order, however the bytes were cut into packets; those that came together leave
//!   together. Only the usage event that Breakwater itself asked for is taken out, and one comment goes in where it was.
//! - The last event, `[DONE]`, is held back until the answer is settled. A stream that ends without it after its choice ended has said all:
//!   the marker is added. Any other end is a cut.
//! - With a [`Transcript`], the text is kept; events of a stream that follows another are rewritten, see there.

use crate::dialects::openai::answer::{Chunk, Wrong};
use crate::dialects::openai::transcript::{Told, Transcript};
use crate::dialects::sse::Decoder;
use crate::domain::outcome::Outcome;
use bytes::{Bytes, BytesMut};

/// Who looks on.
pub trait Watcher {
    /// An event with this chunk passes.
    fn saw(&mut self, chunk: &Chunk<'_>);
    /// The line that goes in where the usage event is, or before the end; asked for once.
    fn comment(&mut self) -> String;
}

#[derive(Debug, Default)]
pub struct Flow {
    decoder: Decoder,
    ready: BytesMut,
    /// The stream has ended properly; its last event waits here.
    end: Option<Bytes>,
    /// The client asked for the usage event itself.
    wants_usage: bool,
    events: usize,
    /// A choice has ended: an upstream that closes now has said all.
    finished: bool,
    has_comment: bool,
    /// Something that the client would show has come.
    has_content: bool,
    transcript: Option<Box<Transcript>>,
}

impl Flow {
    #[must_use]
    pub fn new(wants_usage: bool, transcript: Option<Box<Transcript>>) -> Self {
        Self { wants_usage, transcript, ..Self::default() }
    }

    /// Takes what the upstream sent.
    ///
    /// # Errors
    /// The stream is broken; what came before is ready all the same.
    pub fn push(&mut self, bytes: &[u8], watcher: &mut impl Watcher) -> Result<(), Wrong> {
        self.decoder.push(bytes);
        while self.end.is_none() {
            let too_large = |_| Wrong { outcome: Outcome::Protocol, message: "an event is over 16 MiB".into() };
            let Some(event) = self.decoder.next_event().map_err(too_large)? else { break };
            self.events += 1;
            let Some(data) = &event.data else {
                self.ready.extend_from_slice(&event.raw);
                continue;
            };
            if data.trim_ascii() == b"[DONE]" {
                self.end = Some(event.raw);
                break;
            }
            let chunk = Chunk::read(data)?;
            let told = match &mut self.transcript {
                Some(transcript) => transcript.tell(data),
                None => Told::AsItCame,
            };
            self.finished |= chunk.finished;
            self.has_content |= chunk.has_content;
            watcher.saw(&chunk);
            if chunk.is_usage_only && chunk.usage.is_some() {
                self.put_comment(watcher);
                if !self.wants_usage {
                    self.ready.extend_from_slice(b"\n");
                    continue;
                }
            }
            match told {
                Told::AsItCame => self.ready.extend_from_slice(&event.raw),
                Told::Nothing => {}
                Told::Instead(data) => {
                    for part in [b"data: ".as_slice(), &data, b"\n\n"] {
                        self.ready.extend_from_slice(part);
                    }
                }
                Told::Anew => {
                    let message = "the continuation began the text anew with other words".into();
                    return Err(Wrong { outcome: Outcome::Protocol, message });
                }
            }
        }
        Ok(())
    }

    /// The upstream has closed; whether it had said all.
    #[must_use]
    pub fn close(&mut self) -> bool {
        if self.end.is_none() && self.finished && !self.decoder.is_mid_event() {
            // It did not say that it had: clients wait for the marker.
            self.end = Some(Bytes::from_static(b"data: [DONE]\n\n"));
        }
        self.end.is_some()
    }

    /// Lets the last event go, the comment before it if it has not gone yet; `false` if there is none.
    pub fn finish(&mut self, watcher: &mut impl Watcher) -> bool {
        let Some(end) = self.end.take() else { return false };
        if self.put_comment(watcher) {
            self.ready.extend_from_slice(b"\n");
        }
        self.ready.extend_from_slice(&end);
        true
    }

    fn put_comment(&mut self, watcher: &mut impl Watcher) -> bool {
        let is_first = !std::mem::replace(&mut self.has_comment, true);
        if is_first {
            self.ready.extend_from_slice(watcher.comment().as_bytes());
        }
        is_first
    }

    /// Puts bytes of the gateway's own behind what is ready.
    pub fn add(&mut self, parts: &[&[u8]]) {
        parts.iter().for_each(|part| self.ready.extend_from_slice(part));
    }

    /// Puts bytes of the gateway's own before what is ready.
    pub fn put_before(&mut self, text: &str) {
        let rest = std::mem::replace(&mut self.ready, BytesMut::from(text));
        self.ready.extend_from_slice(&rest);
    }

    /// What is ready for the client.
    pub fn take_ready(&mut self) -> Option<Bytes> {
        (!self.ready.is_empty()).then(|| self.ready.split().freeze())
    }

    #[must_use]
    pub fn ready_bytes(&self) -> usize {
        self.ready.len()
    }

    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    #[must_use]
    pub fn events(&self) -> usize {
        self.events
    }

    #[must_use]
    pub fn has_content(&self) -> bool {
        self.has_content
    }

    /// Bytes of an event that is not complete have come.
    #[must_use]
    pub fn is_mid_event(&self) -> bool {
        self.decoder.is_mid_event()
    }

    /// The text so far, for somebody else to go on with; it is not kept here any longer.
    ///
    /// # Errors
    /// Why nobody can.
    pub fn take_transcript(&mut self) -> Result<Box<Transcript>, &'static str> {
        if self.finished {
            return Err("the text was complete");
        }
        let transcript = self.transcript.take().ok_or("the text was not kept")?;
        transcript.text()?;
        Ok(transcript)
    }
}

#[cfg(test)]
mod tests;
