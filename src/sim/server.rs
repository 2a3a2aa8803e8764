//! The server of one simulated provider: its port, open or not, and its connections.
//!
//! `refuse` really closes the listener: a bound socket that doesn't listen holds the port meanwhile, so that nobody else
//! gets it and the system answers each attempt with a reset. `unreachable` listens with room for a single connection and
//! takes that itself: the system then drops every attempt, and connecting times out. Either ends idle connections.

use super::active::Port;
use super::serve::connection;
use super::state::Shared;
use super::tls;
use crate::clock;
use crate::domain::time::Ts;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

const BACKLOG: u32 = 4096;
const MAX_CONNECTIONS: usize = 16_384;
/// Pause after a socket call failed (no file handles left, port not free yet).
const RETRY: Duration = Duration::from_millis(10);

/// A bound socket that doesn't listen yet.
///
/// # Errors
/// The address is taken or cannot be had.
pub(super) fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// The port in its present state.
enum Gate {
    Open(TcpListener),
    Refusing(#[allow(dead_code, reason = "held for the port")] TcpSocket),
    Unreachable { _listener: TcpListener, _filling: Vec<TcpStream> },
}

impl Gate {
    fn port(&self) -> Port {
        match self {
            Self::Open(_) => Port::Open,
            Self::Refusing(_) => Port::Refusing,
            Self::Unreachable { .. } => Port::Unreachable,
        }
    }

    async fn set(port: Port, addr: SocketAddr) -> io::Result<Self> {
        let socket = bind(addr)?;
        match port {
            Port::Open => Ok(Self::Open(socket.listen(BACKLOG)?)),
            Port::Refusing => Ok(Self::Refusing(socket)),
            Port::Unreachable => {
                let listener = socket.listen(0)?;
                let mut filling = Vec::new();
                // The first attempt that isn't answered shows that the queue is full.
                while filling.len() < 8 {
                    match tokio::time::timeout(Duration::from_millis(20), TcpStream::connect(addr)).await {
                        Ok(stream) => filling.push(stream?),
                        Err(_) => break,
                    }
                }
                Ok(Self::Unreachable { _listener: listener, _filling: filling })
            }
        }
    }
}

/// The next connection; none while the port isn't open.
async fn accept(gate: Option<&Gate>) -> io::Result<TcpStream> {
    match gate {
        Some(Gate::Open(listener)) => accept_on(listener).await,
        _ => std::future::pending().await,
    }
}

async fn accept_on(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn until(due: Option<Ts>) {
    match due {
        Some(due) => tokio::time::sleep(due.since(clock::now())).await,
        None => std::future::pending().await,
    }
}

/// What a provider listens with.
pub(super) struct Sockets {
    pub api: TcpSocket,
    /// For `/__sim/` alone; no fault closes it.
    pub control: TcpSocket,
    pub tls: Option<TlsAcceptor>,
}

/// Serves until it is told to stop. `ready` is called when both ports listen, or can't.
pub(super) async fn run(shared: Arc<Shared>, sockets: Sockets, stop: Arc<Notify>, ready: impl FnOnce(io::Result<()>)) {
    let Sockets { api, control, tls } = sockets;
    let listening = api.local_addr().and_then(|addr| Ok((addr, api.listen(BACKLOG)?, control.listen(BACKLOG)?)));
    let (addr, listener, control) = match listening {
        Ok(all) => all,
        Err(e) => return ready(Err(e)),
    };
    let mut gate = Some(Gate::Open(listener));
    let mut connections = JoinSet::new();
    let mut ready = Some(ready);
    let mut waiting = Vec::new();
    loop {
        waiting.append(&mut shared.take_waiters());
        let (port, mut next) = shared.wanted_port(clock::now());
        if gate.as_ref().map(Gate::port) != Some(port) {
            // The old socket has to go before the new one can have the port.
            drop(gate.take());
            gate = Gate::set(port, addr).await.ok();
            if gate.is_none() {
                next = Some(clock::now().plus(RETRY));
            }
            shared.port.send_replace(port);
        }
        if gate.is_some() {
            waiting.drain(..).for_each(|done| done());
        }
        if let Some(ready) = ready.take() {
            ready(Ok(()));
        }
        let room = connections.len() < MAX_CONNECTIONS;
        tokio::select! {
            () = stop.notified() => return,
            () = shared.changed.notified() => {}
            () = until(next) => {}
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = accept(gate.as_ref()), if room => match accepted {
                Ok(stream) => {
                    match &tls {
                        None => connections.spawn(connection(stream, shared.clone(), false)),
                        Some(acceptor) => connections.spawn(tls::connection(stream, shared.clone(), acceptor.clone())),
                    };
                }
                Err(_) => tokio::time::sleep(RETRY).await,
            },
            accepted = accept_on(&control), if room => match accepted {
                Ok(stream) => {
                    connections.spawn(connection(stream, shared.clone(), true));
                }
                Err(_) => tokio::time::sleep(RETRY).await,
            },
        }
    }
}
