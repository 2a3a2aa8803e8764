//! What a simulated provider has seen: counts, hang-ups and the last requests, for tests to assert on.
//!
//! Every map has a fixed set of keys and every list a bound. A request has exactly one outcome: the ending that was
//! injected, else `aborted` if the client hung up, else what became of it (`ok`, `client_error`, `unauthorized`,
//! `rate_limited`). Requests to `/__sim/` are not counted.

use super::active::Port;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Bytes of a body that are kept.
const KEEP_BODY: usize = 64 * 1024;
/// How many hang-ups are kept with their times.
const KEEP_ABORTS: usize = 64;

/// The statistics as JSON and in Rust.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    pub name: String,
    pub port: Port,
    pub requests: Requests,
    /// Requests by path (`/v1/chat/completions`, `/v1/embeddings`, `/v1/models`, `/health`, `tls`, `other`).
    pub paths: BTreeMap<String, u64>,
    pub outcomes: BTreeMap<String, u64>,
    /// Hits by kind of fault.
    pub faults: BTreeMap<String, u64>,
    pub connections: Connections,
    pub aborted: Aborted,
    /// Bytes of answers handed to the kernel.
    pub bytes_out: u64,
    /// The last requests, oldest first.
    pub last: Vec<Received>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    pub total: u64,
    pub in_progress: u64,
    pub peak_in_progress: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Without those that only carry `/__sim/`.
    pub open: u64,
    pub accepted: u64,
}

/// Requests whose client hung up before the answer's end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aborted {
    pub total: u64,
    pub last: Vec<Abort>,
}

/// One hang-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abort {
    /// Number of the request.
    pub n: u64,
    /// When it was noticed: microseconds since the Unix epoch.
    pub at_unix_us: i64,
    /// From the last content event (none: the request's head) to the notice.
    pub after_last_event_us: u64,
    /// Content events that were sent before.
    pub events: u64,
}

/// One request as it came in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    pub n: u64,
    pub method: String,
    pub path: String,
    /// In order, names as they were sent.
    pub headers: Vec<(String, String)>,
    /// Text; what is no UTF-8 is replaced.
    pub body: String,
    /// Length of the whole body, bytes.
    pub body_bytes: usize,
    /// Whether `body` is only its beginning.
    pub truncated: bool,
}

impl Received {
    /// The value of the first header of this name, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// A request as it is kept: raw, so that keeping it costs next to nothing.
#[derive(Debug)]
struct Kept {
    n: u64,
    head: Bytes,
    body: Bytes,
    body_bytes: usize,
}

impl Kept {
    fn show(&self) -> Received {
        let head = String::from_utf8_lossy(&self.head);
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
        let headers = lines.filter_map(|line| line.split_once(':'));
        Received {
            n: self.n,
            method: words.next().unwrap_or_default(),
            path: words.next().unwrap_or_default(),
            headers: headers.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect(),
            body: String::from_utf8_lossy(&self.body).into_owned(),
            body_bytes: self.body_bytes,
            truncated: self.body.len() < self.body_bytes,
        }
    }
}

/// The running counts.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Goes up with each reset: what began before it no longer counts.
    era: u64,
    total: u64,
    in_progress: u64,
    peak: u64,
    paths: BTreeMap<&'static str, u64>,
    outcomes: BTreeMap<&'static str, u64>,
    faults: BTreeMap<&'static str, u64>,
    open: u64,
    accepted: u64,
    aborted: u64,
    aborts: VecDeque<Abort>,
    kept: VecDeque<Kept>,
}

impl Counts {
    /// Counts a request that has begun; gives the present era and the request's number.
    pub(super) fn begin(&mut self, path: &'static str) -> (u64, u64) {
        let n = self.total;
        self.total += 1;
        self.in_progress += 1;
        self.peak = self.peak.max(self.in_progress);
        *self.paths.entry(path).or_default() += 1;
        (self.era, n)
    }

    pub(super) fn end(&mut self, era: u64, outcome: &'static str) {
        self.in_progress = self.in_progress.saturating_sub(1);
        if era == self.era {
            *self.outcomes.entry(outcome).or_default() += 1;
        }
    }

    pub(super) fn fault(&mut self, name: &'static str) {
        *self.faults.entry(name).or_default() += 1;
    }

    pub(super) fn abort(&mut self, era: u64, abort: Abort) {
        if era != self.era {
            return;
        }
        self.aborted += 1;
        if self.aborts.len() >= KEEP_ABORTS {
            self.aborts.pop_front();
        }
        self.aborts.push_back(abort);
    }

    pub(super) fn keep(&mut self, bound: usize, n: u64, head: &Bytes, body: &Bytes) {
        if bound == 0 {
            return;
        }
        while self.kept.len() >= bound {
            self.kept.pop_front();
        }
        let body_bytes = body.len();
        let (head, body) = match body.get(..KEEP_BODY) {
            // Head and body share an allocation: neither may hold on to a large one.
            Some(begin) => (Bytes::copy_from_slice(head), Bytes::copy_from_slice(begin)),
            None => (head.clone(), body.clone()),
        };
        self.kept.push_back(Kept { n, head, body, body_bytes });
    }

    pub(super) fn accepted(&mut self) {
        self.accepted += 1;
        self.open += 1;
    }

    /// A connection that was counted as open has ended, or turned out to be a control connection.
    pub(super) fn closed(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Starts anew; what is under way stays counted.
    pub(super) fn reset(&mut self) {
        let (era, in_progress, open) = (self.era + 1, self.in_progress, self.open);
        *self = Self { era, in_progress, peak: in_progress, open, ..Self::default() };
    }

    pub(super) fn show(&self, name: &str, port: Port, bytes_out: u64) -> Stats {
        let named = |map: &BTreeMap<&'static str, u64>| map.iter().map(|(&k, &v)| (k.to_owned(), v)).collect();
        Stats {
            name: name.to_owned(),
            port,
            requests: Requests { total: self.total, in_progress: self.in_progress, peak_in_progress: self.peak },
            paths: named(&self.paths),
            outcomes: named(&self.outcomes),
            faults: named(&self.faults),
            connections: Connections { open: self.open, accepted: self.accepted },
            aborted: Aborted { total: self.aborted, last: self.aborts.iter().copied().collect() },
            bytes_out,
            last: self.kept.iter().map(Kept::show).collect(),
        }
    }
}
