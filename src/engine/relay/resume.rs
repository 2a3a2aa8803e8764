//! Going on with a stream that broke off: its upstream's call is closed and its attempt settled as `partial`; then another endpoint is
//! asked to continue, and takes the place of the first behind the same client. Meanwhile the client gets pings.
//!
//! What cannot be gone on with, or when nobody can, the client is told as it would be without recovery. Either stands in the record.

use super::{PING, PING_EVERY, Phase, Relay};
use crate::clock;
use crate::domain::outcome::Outcome;
use crate::engine::context::RequestContext;
use crate::engine::error::ApiError;
use crate::engine::record::Step;
use bytes::Bytes;
use std::borrow::Cow;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::time::sleep;

/// A continuation that is being sought.
pub(super) struct Resume {
    ctx: Rc<RequestContext>,
    from: Arc<str>,
    at_chars: usize,
    /// What broke the stream.
    message: String,
    going: Pin<Box<dyn Future<Output = Result<Box<Relay>, ApiError>>>>,
}

impl Relay {
    /// The stream failed after its first content: somebody else goes on with it, or the client is told.
    pub(super) fn broke_off(&mut self, message: &str) {
        let Some(recovery) = self.recovery.take() else { return self.fail(Outcome::Partial, message) };
        let Some(attempt) = self.attempt.take() else { return };
        let ctx = Rc::clone(attempt.context());
        let from = Arc::clone(&attempt.config.name);
        match self.flow.take_transcript() {
            Ok(mut transcript) => {
                transcript.broke_off(&attempt.used());
                let at_chars = transcript.text().map_or(0, |text| text.chars().count());
                let going = recovery.go_on(transcript);
                self.phase =
                    Phase::Recovering(Box::new(Resume { ctx, from, at_chars, message: message.to_owned(), going }));
                self.response = None;
                self.alarm.set(sleep(PING_EVERY));
            }
            Err(why) => {
                not_recovered(&ctx, why.into());
                self.tell_failure(&ctx, Outcome::Partial, message);
            }
        }
        let _ = attempt.settle(Outcome::Partial, message, None);
    }

    /// Waits for the continuation; a ping when that takes long.
    pub(super) async fn resume(&mut self, mut resume: Box<Resume>) -> Option<Bytes> {
        let found = tokio::select! {
            biased;
            found = &mut resume.going => found,
            () = self.alarm.as_mut() => {
                self.last_ping = clock::now();
                self.alarm.set(sleep(PING_EVERY));
                self.phase = Phase::Recovering(resume);
                return Some(PING);
            }
            () = self.stopped.as_mut() => {
                let Resume { ctx, going, .. } = *resume;
                ctx.cancel(going, "the gateway is stopping");
                self.tell_failure(&ctx, Outcome::Cancelled, "the gateway is stopping");
                return None;
            }
        };
        let Resume { ctx, from, at_chars, message, .. } = *resume;
        match found {
            Ok(relay) => {
                let to = relay.attempt.as_ref().map_or_else(|| "".into(), |a| Arc::clone(&a.config.name));
                *self = *relay;
                self.flow.put_before(&format!(": breakwater recovered from={from} to={to} at_chars={at_chars}\n\n"));
                ctx.worker.gateway.counters.recovered.fetch_add(1, Relaxed);
                ctx.note(clock::now(), |at_ms| Step::Recovered { at_ms, from, endpoint: to, at_chars });
            }
            Err(error) => {
                not_recovered(&ctx, error.message.into());
                self.tell_failure(&ctx, Outcome::Partial, &message);
            }
        }
        None
    }
}

fn not_recovered(ctx: &RequestContext, why: Cow<'static, str>) {
    ctx.worker.gateway.counters.not_recovered.fetch_add(1, Relaxed);
    ctx.note(clock::now(), |at_ms| Step::NotRecovered { at_ms, why });
}
