//! Injected endings: what stands in an answer's place, and whole answers whose sending goes wrong.
//!
//! The endings of streams are in `stream`.

use super::answer::Call;
use super::conn::{Conn, Gone, Head};
use super::kind::{FaultKind, Malformed};
use super::reply::{self, Framing, Reply, chunk, half};
use super::{openai, stream};
use serde_json::Value;

/// What becomes of the connection after an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Keep,
    Close,
    Reset,
}

/// What a request gets.
pub(super) enum What {
    Reply(Reply),
    /// A whole answer whose sending goes wrong.
    Spoilt(Reply, FaultKind),
    /// With the headers that it adds, and the ending that is injected.
    Stream(Call, Vec<(String, String)>, Option<FaultKind>),
    Hang,
    Reset,
}

/// Puts an injected ending in the place of what would have been, or at its end.
pub(super) fn spoil(what: What, kind: FaultKind) -> What {
    match (kind, what) {
        (FaultKind::Hang, _) => What::Hang,
        (FaultKind::ResetAfterBody, _) => What::Reset,
        (FaultKind::Status { code, headers, body }, _) => {
            let mut reply = openai::error_for(code);
            reply.headers = headers.into_iter().collect();
            match body {
                None => {}
                Some(Value::String(text)) => {
                    (reply.content_type, reply.body) = ("text/plain".into(), text.into_bytes())
                }
                Some(json) => reply.body = json.to_string().into_bytes(),
            }
            What::Reply(reply)
        }
        (FaultKind::RateLimited { retry_after, retry_after_ms }, _) => {
            let mut reply = openai::error_for(429);
            let given = [("retry-after", retry_after), ("retry-after-ms", retry_after_ms)];
            reply.headers = given.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?))).collect();
            What::Reply(reply)
        }
        (FaultKind::Quota, _) => What::Reply(openai::quota()),
        (FaultKind::AuthFailed, _) => What::Reply(openai::error_for(401)),
        (FaultKind::Overloaded529, _) => What::Reply(openai::error_for(529)),
        (FaultKind::Malformed { what: how }, what) => malformed(how, what),
        (FaultKind::EndlessBody, What::Stream(mut call, headers, _)) => {
            call.content.never_end();
            What::Stream(call, headers, None)
        }
        (kind, What::Stream(call, headers, _)) => What::Stream(call, headers, Some(kind)),
        (kind, What::Reply(reply)) => What::Spoilt(reply, kind),
        (_, what) => what,
    }
}

fn malformed(how: Malformed, what: What) -> What {
    let page = "<!DOCTYPE html><html><head><title>Welcome</title></head><body>simulated: a web page</body></html>";
    let stream = matches!(what, What::Stream(..));
    match (how, what) {
        (Malformed::Html, _) => What::Reply(Reply { content_type: "text/html".into(), ..Reply::json(200, page) }),
        (Malformed::JsonError200, _) => What::Reply(Reply { status: 200, ..openai::error_for(500) }),
        (Malformed::HalfJson, What::Reply(reply)) => {
            let text = String::from_utf8_lossy(&reply.body);
            What::Reply(Reply { body: half(&text).as_bytes().to_vec(), ..reply })
        }
        (Malformed::HalfJson, _) => What::Reply(Reply::json(200, r#"{"id":"chatcmpl-"#)),
        (Malformed::Empty, _) => {
            let content_type = if stream { stream::CONTENT_TYPE } else { "application/json" };
            What::Reply(Reply { content_type: content_type.into(), ..Reply::json(200, "") })
        }
        (Malformed::WrongContentType, What::Reply(reply)) => {
            What::Reply(Reply { content_type: "text/plain".into(), ..reply })
        }
        (Malformed::WrongContentType, What::Stream(call, headers, _)) => {
            What::Stream(call, headers, Some(FaultKind::Malformed { what: how }))
        }
        (_, what) => what,
    }
}

/// Sends a whole answer. Without the request's head the connection closes after it.
pub(super) async fn whole(conn: &mut Conn, reply: &Reply, head: Option<&Head>) -> Result<After, Gone> {
    let keep_alive = head.is_some_and(|head| head.keep_alive);
    let mut out = Vec::with_capacity(512 + reply.body.len());
    start(&mut out, reply, Framing::Length(reply.body.len() as u64), keep_alive);
    if head.is_none_or(|head| head.method != "HEAD") {
        out.extend_from_slice(&reply.body);
    }
    conn.send(&out).await?;
    Ok(if keep_alive { After::Keep } else { After::Close })
}

fn start(out: &mut Vec<u8>, reply: &Reply, framing: Framing, keep_alive: bool) {
    let Reply { status, content_type, headers, .. } = reply;
    reply::Head { status: *status, content_type, headers, framing, keep_alive }.write(out);
}

/// Sends an answer whose sending goes wrong.
pub(super) async fn spoilt(conn: &mut Conn, reply: &Reply, kind: &FaultKind, n: u64) -> Result<After, Gone> {
    let body = &reply.body;
    let (first, _) = body.split_at(body.len() / 2);
    let mut out = Vec::with_capacity(1024);
    let mut after = After::Close;
    match kind {
        FaultKind::CutAfter { reset, .. } => {
            start(&mut out, reply, Framing::Length(body.len() as u64), true);
            out.extend_from_slice(first);
            if *reset {
                after = After::Reset;
            }
        }
        FaultKind::WrongLength { by } => {
            start(&mut out, reply, Framing::Length((body.len() as u64).saturating_add_signed(*by)), true);
            out.extend_from_slice(body);
        }
        FaultKind::EndlessBody => {
            start(&mut out, reply, Framing::Chunked, true);
            chunk(&mut out, openai::endless_start(n).as_bytes());
            conn.send(&out).await?;
            let mut piece = Vec::new();
            chunk(&mut piece, openai::endless_piece().as_bytes());
            loop {
                conn.send(&piece).await?;
                // A fast reader must not keep the others from their turn.
                tokio::task::yield_now().await;
            }
        }
        _ => {
            start(&mut out, reply, Framing::Chunked, true);
            chunk(&mut out, first);
            out.extend_from_slice(BROKEN_CHUNK);
        }
    }
    conn.send(&out).await?;
    Ok(after)
}

/// What stands where a chunk's size should.
pub(super) const BROKEN_CHUNK: &[u8] = b"zz\r\nno chunk\r\n";
