//! Everything behind the HTTP servers: the store opened, the ledger's actor, the supervisor and the endpoints started; and its end in
//! good order.

use crate::actors::events::Events;
use crate::actors::ledger::LedgerHandle;
use crate::actors::messages::{Retire, StandDown};
use crate::actors::supervisor::Supervisor;
use crate::app::{AppError, Startup};
use crate::clock;
use crate::domain::key::VirtualKey;
use crate::engine::access::Access;
use crate::engine::gateway::Gateway;
use crate::store::{Area, OpenOptions, OpenReport, Store};
use actix::{Actor, ArbiterHandle};
use std::fs::OpenOptions as FileOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A gateway that only lacks callers: whoever makes a [`Worker`](crate::engine::gateway::Worker) for it can serve.
pub struct Assembled {
    pub gateway: Arc<Gateway>,
    /// Where the admin token was written, if Breakwater made it.
    pub token_file: Option<PathBuf>,
}

/// Opens the store and starts all actors: the ledger's on `ledger_arbiter`, which it needs for itself wherever time is real, the others
/// on the calling one.
///
/// # Errors
/// Why the store cannot be used.
pub fn assemble(startup: Startup, ledger_arbiter: &ArbiterHandle) -> Result<Assembled, AppError> {
    let config = Arc::new(startup.config);
    let (store, report) = open_store(&config.store.path, startup.accept_ledger_loss)?;
    tell_opening(&report);
    let (token, token_file) = admin_token(startup.admin_token, &config.store.path)?;
    let access = Access::new(config.server.auth, &token, stored_keys(&store)?);
    let mut writer = store.ledger_writer()?;
    let open = store.settle_open(&mut writer, clock::wall())?;
    if open > 0 {
        tracing::warn!(
            open,
            "requests under hard budgets were open at the last end: each is charged what was reserved for it"
        );
    }
    let ledger =
        LedgerHandle::new(writer, store.reader(), store.state(), config.store.durability, config.store.on_failure)
            .keeping(config.store.retention.rows)
            .watching(&config.store.path, config.store.low_space);
    drop(store);
    let events = Events::default();
    let supervisor = Supervisor::new(ledger.clone(), ledger_arbiter.clone(), events.clone()).start();
    let gateway = Arc::new(Gateway::new(
        Arc::clone(&config),
        ledger,
        events,
        supervisor,
        access,
        startup.config_path,
        startup.test_hooks,
    ));
    gateway.start_endpoints().map_err(AppError::System)?;
    gateway.start_budgets().map_err(AppError::System)?;
    Ok(Assembled { gateway, token_file })
}

fn open_store(path: &Path, accept_ledger_loss: bool) -> Result<(Store, OpenReport), AppError> {
    let options = OpenOptions { accept_ledger_loss, ..OpenOptions::at(path, clock::wall()) };
    let (store, report) = Store::open(&options)?;
    if store.read_only().is_some() {
        return Err(AppError::StoreIncomplete(report.missing));
    }
    Ok((store, report))
}

fn tell_opening(report: &OpenReport) {
    let OpenReport { last_seq, reapplied_rows, skipped_records, .. } = report;
    tracing::info!(last_seq, reapplied_rows, skipped_records, created = report.created, "store opened");
    for what in &report.missing {
        tracing::error!(what, "the store has lost something");
    }
    for path in &report.set_aside {
        tracing::warn!(path = %path.display(), "a broken part of the store was set aside");
    }
}

fn stored_keys(store: &Store) -> Result<Vec<VirtualKey>, AppError> {
    let stored = store.state().list(Area::Key)?.into_iter();
    Ok(stored
        .filter_map(|(id, bytes)| {
            let read = VirtualKey::from_bytes(&bytes);
            read.inspect_err(|e| tracing::error!(id, error = e, "a stored key cannot be read")).ok()
        })
        .collect())
}

/// The admin token: given, or read from the store's folder, or made there (mode 0600).
fn admin_token(given: Option<String>, store: &Path) -> Result<(String, Option<PathBuf>), AppError> {
    if let Some(token) = given {
        return Ok((token, None));
    }
    let path = store.join("admin.token");
    let failed = |e: std::io::Error| AppError::System(format!("{}: {e}", path.display()));
    match std::fs::File::open(&path) {
        Ok(mut file) => {
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(failed)?;
            if text.trim().is_empty() {
                return Err(AppError::System(format!(
                    "{} is empty: remove it, and a new token is made",
                    path.display()
                )));
            }
            Ok((text.trim().to_owned(), Some(path)))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).map_err(|e| AppError::System(format!("no random bytes: {e}")))?;
            let token = crate::domain::key::KeySecret::from_random(&bytes).reveal().to_owned();
            let file = FileOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            file.and_then(|mut f| writeln!(f, "{token}")).map_err(failed)?;
            Ok((token, Some(path)))
        }
        Err(e) => Err(failed(e)),
    }
}

/// Has every actor write its checkpoint, then flushes the ledger.
///
/// # Errors
/// What could not be written.
pub async fn close(gateway: &Arc<Gateway>) -> Result<(), AppError> {
    const ACTOR_TIME: Duration = Duration::from_secs(2);
    let _ = gateway.supervisor.send(StandDown).await;
    let actors: Vec<_> = gateway.board.topology().cells.iter().filter_map(|c| c.actor()).collect();
    let retired = futures_util::future::join_all(actors.iter().map(|a| a.send(Retire)));
    if tokio::time::timeout(ACTOR_TIME, retired).await.is_err() {
        tracing::error!("not every endpoint wrote its last checkpoint");
    }
    gateway.ledger.drain().map_err(AppError::System)?;
    tracing::info!(rows = gateway.ledger.status().durable_seq, "stopped");
    Ok(())
}
