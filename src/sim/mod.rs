//! Simulated LLM providers over real HTTP on loopback, with scripted faults: for the demo, `breakwater sim`, tests, benches.
//!
//! Each provider is a thread with a runtime of its own ([`start`]), so it runs beside an actix system, in a plain test or in
//! a bench alike. What it says is deterministic; what goes wrong is rolled from the profile's seed. Everything can be changed
//! while it runs, in Rust through its [`Handle`] or over HTTP under `/__sim/` (docs/sim.md). It knows nothing of the gateway.
//!
//! # Layout
//! - [`profile`]: what a provider is like. [`kind`], [`fault`]: what can go wrong. [`active`]: which faults hit a request.
//!   [`dice`]: rolls, latencies, outages. [`limit`]: its own rate limit. [`stats`]: what it has seen. All pure.
//! - [`answer`]: what a model says. [`openai`]: how that looks in OpenAI's dialect. [`reply`], [`sse`]: bytes.
//! - [`server`]: ports. [`conn`]: one connection. [`serve`]: one request. [`stream`]: one streamed answer.
//!   [`endings`]: answers that go wrong. [`tls`]: a handshake that does. [`control`]: `/__sim/`. [`state`]: what they share.

mod active;
mod answer;
mod conn;
mod control;
mod dice;
mod endings;
mod fault;
mod kind;
mod limit;
mod openai;
mod profile;
mod reply;
mod serve;
mod server;
mod sse;
mod state;
mod stats;
mod stream;
mod tls;

pub use active::Port;
pub use dice::{Latency, OutageClock, Schedule, Window};
pub use fault::{Fault, On};
pub use kind::{FaultKind, Malformed};
pub use profile::{Answer, BadProfile, Outages, Profile, demo};
pub use stats::{Abort, Aborted, Connections, Received, Requests, Stats};
pub use tls::Tls;

use serde_json::{Map, Value};
use server::Sockets;
use state::Shared;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::Notify;

/// How long a change may take to reach the port.
const SETTLE: Duration = Duration::from_secs(5);

/// A running simulated provider. Dropping it stops it.
pub struct Handle {
    shared: Arc<Shared>,
    addr: SocketAddr,
    control: SocketAddr,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

/// Starts a provider; it listens when this returns.
///
/// # Errors
/// A profile that cannot be used (`InvalidInput`), an address that is taken, or a thread that cannot be had.
pub fn start(profile: Profile) -> io::Result<Handle> {
    profile.check().map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    let socket = server::bind(profile.listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))?;
    let addr = socket.local_addr()?;
    let control_socket = server::bind(SocketAddr::new(addr.ip(), 0))?;
    let control = control_socket.local_addr()?;
    let shared = Arc::new(Shared::new(profile));
    let tls = match shared.profile().tls {
        None => None,
        Some(Tls::SelfSigned) => Some(tls::self_signed(shared.profile().seed).map_err(io::Error::other)?),
    };
    let stop = Arc::new(Notify::new());
    let (told, ready) = mpsc::channel();
    let thread = std::thread::Builder::new().name(format!("sim-{}", shared.name)).spawn({
        let (shared, stop) = (shared.clone(), stop.clone());
        move || match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
            Ok(runtime) => {
                let sockets = Sockets { api: socket, control: control_socket, tls };
                runtime.block_on(server::run(shared, sockets, stop, |listening| {
                    let _ = told.send(listening);
                }));
            }
            Err(e) => {
                let _ = told.send(Err(e));
            }
        }
    })?;
    ready.recv().map_err(io::Error::other)??;
    Ok(Handle { shared, addr, control, stop, thread: Some(thread) })
}

impl Handle {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What an SDK takes as base URL: `http://127.0.0.1:PORT/v1` (`https` if the profile says `tls`).
    #[must_use]
    pub fn base_url(&self) -> String {
        let scheme = if self.shared.profile().tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/v1", self.addr)
    }

    /// `/__sim` on a port of its own, which no fault closes.
    #[must_use]
    pub fn control_url(&self) -> String {
        format!("http://{}/__sim", self.control)
    }

    /// The profile as it is now.
    #[must_use]
    pub fn profile(&self) -> Profile {
        Profile::clone(&self.shared.profile())
    }

    /// Replaces the faults in force. The port has followed when this returns.
    ///
    /// # Errors
    /// A fault that cannot be used; the faults are as before.
    pub fn set_faults(&self, faults: Vec<Fault>) -> Result<(), BadProfile> {
        self.shared.set_faults(faults)?;
        self.settle();
        Ok(())
    }

    /// Replaces some of the profile's keys.
    ///
    /// # Errors
    /// A key that is unknown or fixed, or a value that cannot be used; nothing is changed then.
    pub fn change_profile(&self, keys: Map<String, Value>) -> Result<(), BadProfile> {
        self.shared.change_profile(keys)?;
        self.settle();
        Ok(())
    }

    /// Back to the profile's faults, a full rate limit, and counts at zero.
    pub fn reset(&self) {
        self.shared.reset();
        self.settle();
    }

    /// What it has seen. A request's outcome is counted some microseconds after its last byte has left.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Closes everything and waits until the thread has ended.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn settle(&self) {
        let (done, settled) = mpsc::channel();
        self.shared.when_settled(move || {
            let _ = done.send(());
        });
        // The only way not to be told is a server that is stopping.
        let _ = settled.recv_timeout(SETTLE);
    }

    fn shut_down(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic in there has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shut_down();
    }
}
