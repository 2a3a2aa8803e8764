//! What operators may watch live: breaker transitions, failovers, operators' acts. Bounded: a watcher that falls behind loses the
//! oldest events, never holds anybody up.

use serde::Serialize;
use std::sync::Arc;
use tokio::sync::broadcast;

const CAPACITY: usize = 1024;

#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Transition {
        endpoint: Arc<str>,
        from: &'static str,
        to: &'static str,
        cause: String,
    },
    Failover {
        request_id: Arc<str>,
        from: Arc<str>,
        to: Arc<str>,
        outcome: &'static str,
    },
    Hedge {
        request_id: Arc<str>,
        slow: Arc<str>,
        endpoint: Arc<str>,
    },
    Operator {
        endpoint: Arc<str>,
        act: &'static str,
        reason: String,
        author: String,
    },
    Actor {
        endpoint: Arc<str>,
        what: &'static str,
    },
    Key {
        endpoint: Arc<str>,
        works: bool,
    },
    /// An experiment began or ended; `detail` says with what score.
    Chaos {
        endpoint: Arc<str>,
        id: Arc<str>,
        kind: &'static str,
        what: &'static str,
        detail: String,
    },
    /// A failure domain opened for the rest of its members, or closed.
    Domain {
        domain: Arc<str>,
        is_open: bool,
        down: usize,
        members: usize,
    },
}

#[derive(Clone, Debug)]
pub struct Events(broadcast::Sender<Event>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(CAPACITY))
    }
}

impl Events {
    /// Tells whoever watches; costs next to nothing when nobody does.
    pub fn emit(&self, event: impl FnOnce() -> Event) {
        if self.0.receiver_count() > 0 {
            // Nobody listening any more is no error.
            let _ = self.0.send(event());
        }
    }

    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}
