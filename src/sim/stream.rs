//! A streamed answer: event after event at its pace, and the ways in which a stream can end badly.
//!
//! Token `i` is due at the first token's time plus `i` over the rate, whatever the writes before it took. Events that are
//! due leave together; with a rate each leaves by itself. An injected ending strikes after so many content events, at the
//! latest when there are no more.

use super::answer::Call;
use super::conn::{Conn, Gone, Head};
use super::endings::{After, BROKEN_CHUNK};
use super::kind::{FaultKind, Malformed};
use super::openai::{self, Frames};
use super::reply::{self, Framing, half};
use super::serve::pace;
use super::sse::Encoder;
use super::state::Ticket;
use crate::clock;
use crate::domain::time::Ts;
use serde_json::Value;
use std::time::Duration;

pub(super) const CONTENT_TYPE: &str = "text/event-stream; charset=utf-8";

/// Bytes that are gathered before a write when nothing has to be waited for.
const BATCH: usize = 16 * 1024;

pub(super) struct Stream {
    pub call: Call,
    pub headers: Vec<(String, String)>,
    pub ending: Option<FaultKind>,
    /// When the first token is due.
    pub begin: Ts,
    pub rate: Option<f64>,
    pub mixed: bool,
}

/// What is on its way out.
struct Writer<'a> {
    conn: &'a mut Conn,
    ticket: &'a mut Ticket,
    encoder: Encoder,
    out: Vec<u8>,
}

impl Writer<'_> {
    async fn flush(&mut self) -> Result<(), Gone> {
        self.conn.send(&self.out).await?;
        self.out.clear();
        self.ticket.flushed();
        Ok(())
    }

    fn event(&mut self, data: &str) {
        self.encoder.event(&mut self.out, data);
    }
}

impl Stream {
    /// Sends it all.
    pub(super) async fn run(mut self, conn: &mut Conn, head: &Head, ticket: &mut Ticket) -> Result<After, Gone> {
        let ending = self.ending.take();
        let frames = Frames::new(&self.call, ticket.n, clock::wall().0 / 1_000_000);
        let mut writer = Writer { conn, ticket, encoder: Encoder::new(head.chunks, self.mixed), out: Vec::new() };
        writer.conn.wait_until(self.begin).await?;
        let plain = matches!(ending, Some(FaultKind::Malformed { what: Malformed::WrongContentType }));
        let keep_alive = head.keep_alive && head.chunks;
        let start = reply::Head {
            status: 200,
            content_type: if plain { "text/plain" } else { CONTENT_TYPE },
            headers: &self.headers,
            framing: if head.chunks { Framing::Chunked } else { Framing::Close },
            keep_alive,
        };
        start.write(&mut writer.out);

        let mut ending = ending.filter(|_| !plain);
        let mut pause = Duration::ZERO;
        for i in 0.. {
            let content = frames.content(i);
            let strikes = ending.as_ref().is_some_and(|kind| i >= strikes_at(kind) || content.is_none());
            if strikes && let Some(kind) = ending.take() {
                if let FaultKind::SilentAfter { ms, .. } = kind {
                    pause += silence(&mut writer, ms).await?;
                } else if let FaultKind::BrokenJsonEvent { .. } = kind {
                    writer.event(half(content.as_deref().unwrap_or("{}")));
                    continue;
                } else {
                    let next = content.or_else(|| frames.close().into_iter().next()).unwrap_or_default();
                    return strike(&mut writer, &kind, &next, keep_alive).await;
                }
            }
            let Some(content) = content else { break };
            if i == 0 {
                writer.event(&frames.open());
            } else if let Some(rate) = self.rate {
                let due = self.begin.plus(pause + pace(i, rate));
                if due > clock::now() {
                    writer.flush().await?;
                    writer.conn.wait_until(due).await?;
                }
            }
            writer.event(&content);
            writer.ticket.event();
            if writer.out.len() >= BATCH {
                writer.flush().await?;
                // A fast reader must not keep the others from their turn.
                tokio::task::yield_now().await;
            }
        }
        frames.close().iter().for_each(|data| writer.event(data));
        writer.encoder.end(&mut writer.out);
        writer.flush().await?;
        Ok(if keep_alive { After::Keep } else { After::Close })
    }
}

/// After how many content events an ending strikes.
fn strikes_at(kind: &FaultKind) -> u64 {
    match kind {
        FaultKind::CutAfter { events, .. } | FaultKind::SilentAfter { events, .. } => *events,
        FaultKind::EndWithoutDone { events } => events.unwrap_or(u64::MAX),
        FaultKind::ErrorEvent { after, .. }
        | FaultKind::BrokenChunk { after }
        | FaultKind::BrokenJsonEvent { after } => *after,
        _ => 0,
    }
}

/// Says nothing for a while; gives how long that was. With no time: until the client leaves.
async fn silence(writer: &mut Writer<'_>, ms: Option<u64>) -> Result<Duration, Gone> {
    writer.flush().await?;
    let Some(ms) = ms else { return Err(writer.conn.wait_for_ever().await) };
    let pause = Duration::from_millis(ms);
    writer.conn.wait_until(clock::now().plus(pause)).await?;
    Ok(pause)
}

/// Ends the stream badly. `next` is the event that would have come.
async fn strike(writer: &mut Writer<'_>, kind: &FaultKind, next: &str, keep_alive: bool) -> Result<After, Gone> {
    let mut after = if keep_alive { After::Keep } else { After::Close };
    match kind {
        FaultKind::CutAfter { reset, .. } => {
            let mut whole = Vec::new();
            writer.encoder.event(&mut whole, next);
            writer.out.extend_from_slice(whole.split_at(whole.len() / 2).0);
            after = if *reset { After::Reset } else { After::Close };
        }
        FaultKind::BrokenChunk { .. } => {
            writer.out.extend_from_slice(BROKEN_CHUNK);
            after = After::Close;
        }
        FaultKind::ErrorEvent { body, .. } | FaultKind::FirstEventError { body } => {
            match body {
                Some(Value::String(text)) => writer.event(text),
                Some(json) => writer.event(&json.to_string()),
                None => writer.event(&String::from_utf8_lossy(&openai::error_for(500).body)),
            }
            writer.encoder.end(&mut writer.out);
        }
        _ => writer.encoder.end(&mut writer.out),
    }
    writer.flush().await?;
    Ok(after)
}
