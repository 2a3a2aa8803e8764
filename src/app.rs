//! The composition root: puts the store, the actors, the engine and the HTTP servers together, and takes them down in order:
//! readiness off, nothing new taken, what runs finishes or is told, actors write their checkpoints, the ledger is flushed.

pub mod assembly;

use crate::app::assembly::{Assembled, assemble, close};
use crate::config::model::{Config, TlsFiles};
use crate::dialects::upstream::Upstream;
use crate::domain::chaos::Experiment;
use crate::engine::chaos::{self, EndedBy};
use crate::engine::gateway::{Gateway, Worker};
use crate::engine::probe;
use crate::http::{self, Surface};
use crate::store::StoreError;
use actix::Arbiter;
use actix_web::dev::{Server, ServerHandle};
use actix_web::{App, HttpServer, web};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Idle connections of clients are kept this long.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// A request's head must be complete within this.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// After the drain period: for error events to reach their clients.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What a gateway is started with.
pub struct Startup {
    pub config: Config,
    /// `None`: there is no file to reload.
    pub config_path: Option<PathBuf>,
    /// `None`: made at the first start and kept in the store's folder.
    pub admin_token: Option<String>,
    pub accept_ledger_loss: bool,
    pub test_hooks: bool,
    /// Faults to inject from the start, besides the configuration's.
    pub chaos: Vec<Experiment>,
}

/// Why a gateway did not start or did not end well, by what the operator should do.
#[derive(Debug)]
pub enum AppError {
    /// The store cannot be used: its error says why.
    Store(StoreError),
    /// The store is behind its high-water mark, or damaged: look first, then accept the loss if it must be.
    StoreIncomplete(Vec<String>),
    /// An address cannot be listened at.
    Listen(SocketAddr, std::io::Error),
    /// Certificate or key cannot be used.
    Tls(String),
    /// Anything else that the system refused.
    System(String),
}

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(e) => write!(f, "{e}"),
            Self::StoreIncomplete(missing) => {
                write!(f, "the store is incomplete: {}; ", missing.join("; "))?;
                f.write_str("restore it, or start with --accept-ledger-loss to go on without what is missing")
            }
            Self::Listen(addr, e) => write!(f, "cannot listen at {addr}: {e}"),
            Self::Tls(e) => write!(f, "server.tls: {e}"),
            Self::System(e) => f.write_str(e),
        }
    }
}

impl From<StoreError> for AppError {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

/// Where a running gateway can be reached.
#[derive(Clone, Debug)]
pub struct Addresses {
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    pub scheme: &'static str,
    /// Where the admin token was written, if Breakwater made it.
    pub token_file: Option<PathBuf>,
}

/// Runs a gateway until SIGTERM or SIGINT, inside an actix system. `ready` is told the addresses once requests are welcome.
///
/// # Errors
/// Why it did not start, or what could not be written at its end.
pub async fn run(mut startup: Startup, ready: impl FnOnce(&Addresses)) -> Result<(), AppError> {
    let ledger_arbiter = Arbiter::new();
    let asked_for = std::mem::take(&mut startup.chaos);
    let Assembled { gateway, token_file } = assemble(startup, &ledger_arbiter.handle())?;
    let config = gateway.config();
    let tls = config.server.tls.as_ref().map(tls_config).transpose()?;
    let (servers, mut addresses) = listen(&gateway, &config, tls.as_ref())?;
    addresses.token_file = token_file;
    let handles: Vec<ServerHandle> = servers.iter().map(Server::handle).collect();
    let experiments = config.chaos.experiments.iter().cloned().chain(asked_for).collect();
    gateway.start_configured_chaos(experiments).await;
    let ending_chaos = actix::spawn(chaos::run(Arc::clone(&gateway)));
    let probing = actix::spawn(probe::run(Arc::clone(&gateway), Upstream::default()));
    let serving: Vec<_> = servers.into_iter().map(actix::spawn).collect();
    ready(&addresses);
    wait_for_signal().await?;
    probing.abort();
    stop(&gateway, &handles).await;
    ending_chaos.abort();
    gateway.end_chaos(|_| Some(EndedBy::Stop)).await;
    for server in serving {
        if let Ok(Err(e)) = server.await {
            tracing::error!(error = %e, "a listener ended badly");
        }
    }
    close(&gateway).await?;
    ledger_arbiter.stop();
    Ok(())
}

/// Binds the listeners and builds their servers.
fn listen(
    gateway: &Arc<Gateway>,
    config: &Config,
    tls: Option<&rustls::ServerConfig>,
) -> Result<(Vec<Server>, Addresses), AppError> {
    let (main, listen) = bind(config.server.listen, config)?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut addresses = Addresses { listen, admin: listen, scheme, token_file: None };
    let workers = config.server.workers;
    let Some(admin) = config.server.admin_listen else {
        return Ok((vec![server(gateway, main, Surface::All, workers, config, tls)?], addresses));
    };
    let (admin, at) = bind(admin, config)?;
    addresses.admin = at;
    let servers = vec![
        server(gateway, main, Surface::Applications, workers, config, tls)?,
        server(gateway, admin, Surface::Operators, Some(1), config, tls)?,
    ];
    Ok((servers, addresses))
}

fn bind(addr: SocketAddr, config: &Config) -> Result<(TcpListener, SocketAddr), AppError> {
    let listener = TcpListener::bind(addr).map_err(|e| AppError::Listen(addr, e))?;
    if let Some(limit) = config.server.write_stall
        && let Err(e) = limit_stalls(&listener, limit)
    {
        tracing::warn!(error = %e, "server.write_stall cannot be enforced: clients that stop reading are not cut off");
    }
    let bound = listener.local_addr().map_err(|e| AppError::Listen(addr, e))?;
    Ok((listener, bound))
}

/// Has the kernel close a connection whose peer takes nothing of what was sent for so long (`TCP_USER_TIMEOUT`); accepted connections
/// inherit that from their listener. The request's task then ends as if the client had left. A server cannot measure this itself: while
/// its buffer is full nobody asks the body for more.
#[cfg(target_os = "linux")]
fn limit_stalls(listener: &TcpListener, limit: Duration) -> std::io::Result<()> {
    socket2::SockRef::from(listener).set_tcp_user_timeout(Some(limit))
}

#[cfg(not(target_os = "linux"))]
fn limit_stalls(_: &TcpListener, _: Duration) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

fn server(
    gateway: &Arc<Gateway>,
    listener: TcpListener,
    surface: Surface,
    workers: Option<usize>,
    config: &Config,
    tls: Option<&rustls::ServerConfig>,
) -> Result<Server, AppError> {
    let gateway = Arc::clone(gateway);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let drain = config.server.drain + LAST_WORDS;
    let server = HttpServer::new(move || {
        // This runs once on each worker's thread: what it makes is that worker's own.
        let worker = Worker::start(Arc::clone(&gateway), Upstream::default());
        App::new().app_data(web::Data::new(worker)).configure(http::routes(surface))
    })
    .workers(workers.unwrap_or(cores))
    .keep_alive(KEEP_ALIVE)
    .client_request_timeout(HEAD_TIME)
    .h1_allow_half_closed(false)
    .tcp_nodelay(true)
    .shutdown_timeout(drain.as_secs())
    .disable_signals();
    let addr = config.server.listen;
    let bound = match tls {
        Some(tls) => server.listen_rustls_0_23(listener, tls.clone()),
        None => server.listen(listener),
    };
    Ok(bound.map_err(|e| AppError::Listen(addr, e))?.run())
}

fn tls_config(files: &TlsFiles) -> Result<rustls::ServerConfig, AppError> {
    let at = |path: &Path, e: String| AppError::Tls(format!("{}: {e}", path.display()));
    let chain = CertificateDer::pem_file_iter(&files.cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|e| at(&files.cert, e.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| at(&files.key, e.to_string()))?;
    let builder = rustls::ServerConfig::builder().with_no_client_auth();
    builder.with_single_cert(chain, key).map_err(|e| at(&files.cert, e.to_string()))
}

async fn wait_for_signal() -> Result<(), AppError> {
    let failed = |e: std::io::Error| AppError::System(format!("signals: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal = name, "stopping");
    Ok(())
}

/// Takes nothing new and lets what runs finish, for the drain period; then streams are told that it is over.
async fn stop(gateway: &Arc<Gateway>, handles: &[ServerHandle]) {
    gateway.drain();
    let drain = gateway.config().server.drain;
    let graceful = futures_util::future::join_all(handles.iter().map(|h| h.stop(true)));
    tokio::pin!(graceful);
    if tokio::time::timeout(drain, &mut graceful).await.is_err() {
        tracing::warn!(in_flight = gateway.in_flight(), "the drain period is over: ending what still runs");
        gateway.stop_running();
        if tokio::time::timeout(LAST_WORDS, graceful).await.is_err() {
            futures_util::future::join_all(handles.iter().map(|h| h.stop(false))).await;
        }
    }
}
