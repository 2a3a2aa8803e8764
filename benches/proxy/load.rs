//! The load generator: a closed loop of keep-alive connections on one thread. Every answer is read to its end and checked;
//! the first wrong one ends the run.

use crate::fault::Fault;
use crate::script::{self, Mode};
use crate::wire::{self, Connection};
use breakwater::clock;
use breakwater::domain::time::{Ts, micros};
use hdrhistogram::Histogram;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// How long after its time a run may still be going before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(20);
const LONGEST_US: u64 = 60_000_000;

/// What to send, to whom, for how long.
#[derive(Clone, Debug)]
pub struct Load {
    pub to: SocketAddr,
    pub key: String,
    pub mode: Mode,
    pub connections: usize,
    /// Each connection begins its last request before this is over, and makes at least one.
    pub time: Duration,
}

/// What came of it. Times are microseconds.
pub struct Tally {
    pub requests: u64,
    pub elapsed: Duration,
    /// From the request's first byte to the answer's last.
    pub latency: Histogram<u64>,
    /// From the request's first byte to the answer body's first.
    pub first: Histogram<u64>,
    /// From the upstream's writing of an event to its reading here; only for paced modes.
    pub delay: Histogram<u64>,
}

impl Tally {
    fn new() -> Result<Self, Fault> {
        let histogram = || Histogram::new_with_max(LONGEST_US, 3).map_err(|e| Fault::Peer(format!("histogram: {e}")));
        Ok(Self {
            requests: 0,
            elapsed: Duration::ZERO,
            latency: histogram()?,
            first: histogram()?,
            delay: histogram()?,
        })
    }
}

/// Runs the load and gives back the sum of all connections.
pub fn run(load: &Load) -> Result<Tally, Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Fault::io("cannot start the load generator"))?;
    let tally = Rc::new(RefCell::new(Tally::new()?));
    let start = clock::now();
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..load.connections {
            tasks.spawn_local(connection(load.clone(), start.plus(load.time), Rc::clone(&tally)));
        }
        let all = async {
            while let Some(done) = tasks.join_next().await {
                done.map_err(|e| Fault::Peer(format!("the load generator failed: {e}")))??;
            }
            Ok(())
        };
        match tokio::time::timeout(load.time + PATIENCE, all).await {
            Ok(done) => done,
            Err(_) => Err(Fault::Answer("an answer did not come to its end".into())),
        }
    }))?;
    drop((local, runtime));
    let mut tally =
        Rc::into_inner(tally).ok_or_else(|| Fault::Peer("a connection is still running".into()))?.into_inner();
    tally.elapsed = clock::now().since(start);
    Ok(tally)
}

async fn connection(load: Load, until: Ts, tally: Rc<RefCell<Tally>>) -> Result<(), Fault> {
    let mode = load.mode;
    let request = wire::request("POST", "/v1/chat/completions", &load.key, &mode.body());
    let mut connection = Connection::open(load.to).await?;
    loop {
        let sent = clock::now();
        let (mut first, mut scanned) = (None, 0);
        let grown = |body: &[u8]| {
            if first.is_none() && !body.is_empty() {
                first = Some(clock::now());
            }
            if mode.gap().is_some() {
                let read = clock::wall();
                scanned = script::stamps(body, scanned, |written| {
                    tally.borrow_mut().delay.saturating_record(micros(read.since(written)));
                });
            }
        };
        let status = connection.exchange(&request, grown).await?;
        let done = clock::now();
        verify(mode, status, &connection.body)?;
        let mut tally = tally.borrow_mut();
        tally.requests += 1;
        tally.latency.saturating_record(micros(done.since(sent)));
        tally.first.saturating_record(micros(first.unwrap_or(done).since(sent)));
        if done >= until {
            return Ok(());
        }
    }
}

fn verify(mode: Mode, status: u16, body: &[u8]) -> Result<(), Fault> {
    let excerpt = || String::from_utf8_lossy(body.get(..body.len().min(300)).unwrap_or_default()).into_owned();
    if status != 200 {
        return Err(Fault::Answer(format!("status {status}: {}", excerpt())));
    }
    mode.check(body).map_err(|what| Fault::Answer(format!("{what}: {}", excerpt())))
}
