//! Bringing endpoints to life and taking them out: from the configuration at start, and by operators at run time. What operators
//! change survives restarts, as a layer over config.yaml.

use crate::actors::board::{EndpointCell, MAX_ENDPOINTS};
use crate::actors::ledger::StateWrite;
use crate::actors::messages::{Adopt, DomainRules, Reconfigured, Release, Retire};
use crate::clock;
use crate::config;
use crate::config::model::{Config, EndpointConfig};
use crate::domain::gate::Gate;
use crate::domain::health::{EndpointHealth, HealthCheckpoint};
use crate::domain::retry::RetryBudget;
use crate::engine::chaos::EndedBy;
use crate::engine::error::{ApiError, Code};
use crate::engine::gateway::Gateway;
use crate::store::{Area, StateStore};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What an operator did to an endpoint, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
enum Change {
    /// Registered or changed: its whole configuration, without secrets.
    Set {
        endpoint: Value,
    },
    Removed,
}

/// The endpoints of `config` with the operators' changes over them. A change that no longer fits the configuration is reported and
/// left out; it stays in the store.
///
/// # Errors
/// The store cannot be read.
pub fn layered(config: &Config, state: &StateStore) -> Result<Vec<Arc<EndpointConfig>>, String> {
    let mut endpoints = config.endpoints.clone();
    for (name, bytes) in state.list(Area::Endpoint).map_err(|e| e.to_string())? {
        let at = endpoints.iter().position(|e| *e.name == *name);
        let change = serde_json::from_slice(&bytes).map_err(|e| e.to_string());
        let endpoint = match change {
            Ok(Change::Removed) => {
                if let Some(at) = at {
                    endpoints.remove(at);
                }
                continue;
            }
            Ok(Change::Set { endpoint }) => config::endpoint_from_json(&name, &endpoint, config).map(Arc::new),
            Err(e) => Err(e),
        };
        match (endpoint, at) {
            (Ok(endpoint), Some(at)) => endpoints[at] = endpoint,
            (Ok(endpoint), None) => endpoints.push(endpoint),
            (Err(error), _) => {
                tracing::error!(endpoint = name, error, "a change made at run time does not fit config.yaml any more")
            }
        }
    }
    Ok(endpoints)
}

/// An endpoint's cell, going on from its checkpoint if there is one. Its actor is not started yet.
#[must_use]
pub fn make_cell(id: u32, endpoint: Arc<EndpointConfig>, checkpoint: Option<&[u8]>) -> Arc<EndpointCell> {
    let (now, wall) = (clock::now(), clock::wall());
    let settings = Arc::new(endpoint.breaker.clone());
    let restored = checkpoint.and_then(|bytes| {
        let read = serde_json::from_slice::<HealthCheckpoint>(bytes);
        read.inspect_err(|e| tracing::error!(endpoint = &*endpoint.name, error = %e, "checkpoint cannot be read")).ok()
    });
    let (mut health, mut gate) = match restored {
        Some(from) => (
            EndpointHealth::restore(settings, &from, now, wall),
            Gate::restore(&endpoint.limits, &from.gate, now, wall),
        ),
        None => (EndpointHealth::new(settings, now), Gate::new(&endpoint.limits, now)),
    };
    // Shut from the first moment: a request may come before the actor has started.
    gate.set_door(health.breaker().door(now));
    health.adapt(&endpoint.limits);
    gate.set_concurrency(health.concurrency());
    EndpointCell::new(id, endpoint, gate, health, now)
}

impl Gateway {
    /// Makes the cells of all endpoints, each going on from its checkpoint, and starts their actors.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn start_endpoints(&self) -> Result<(), String> {
        let config = self.config();
        let mut checkpoints: BTreeMap<String, Vec<u8>> =
            self.ledger.state().list(Area::Checkpoint).map_err(|e| e.to_string())?.into_iter().collect();
        let endpoints = layered(&config, self.ledger.state())?;
        let cells: Vec<_> = endpoints
            .into_iter()
            .map(|e| {
                let checkpoint = checkpoints.remove(&*e.name);
                self.new_cell(e, checkpoint.as_deref())
            })
            .collect();
        self.board.set(cells.clone(), &config.routes);
        self.supervisor.do_send(DomainRules(config.domains));
        for cell in cells {
            self.supervisor.do_send(Adopt(cell));
        }
        Ok(())
    }

    fn new_cell(&self, endpoint: Arc<EndpointConfig>, checkpoint: Option<&[u8]>) -> Arc<EndpointCell> {
        make_cell(self.board.next_id(), endpoint, checkpoint)
    }

    /// Registers an endpoint: the keys of config.yaml as JSON, and its name.
    ///
    /// # Errors
    /// What is wrong with it, or that the name is taken.
    pub async fn register_endpoint(self: &Arc<Self>, mut json: Value) -> Result<Arc<EndpointCell>, ApiError> {
        let invalid = |m: String| ApiError::new(Code::InvalidRequest, m);
        let name = match json.as_object_mut().and_then(|o| o.remove("name")) {
            Some(Value::String(name)) => name,
            _ => return Err(invalid("`name` is missing: the endpoint's name".into()).with_param("name")),
        };
        let endpoint = config::endpoint_from_json(&name, &json, &self.config()).map_err(invalid)?;
        let topology = self.board.topology();
        if topology.cell(&name).is_some() {
            return Err(ApiError::new(
                Code::Conflict,
                format!("an endpoint `{name}` exists; PATCH it, or DELETE it first"),
            ));
        }
        if topology.cells.len() >= MAX_ENDPOINTS {
            return Err(invalid(format!("there are {MAX_ENDPOINTS} endpoints already, the most")));
        }
        self.remember(&endpoint.name, &Change::Set { endpoint: config::endpoint_to_json(&endpoint) }).await?;
        let cell = self.new_cell(Arc::new(endpoint), None);
        let mut cells = topology.cells.clone();
        cells.push(Arc::clone(&cell));
        self.board.set(cells, &self.config().routes);
        self.supervisor.do_send(Adopt(Arc::clone(&cell)));
        self.refresh_budgets().await;
        self.audit("register", &name, "").await?;
        Ok(cell)
    }

    /// Changes limits, weight, price or quality of an endpoint.
    ///
    /// # Errors
    /// What is wrong with the change, or that there is no such endpoint.
    pub async fn patch_endpoint(&self, name: &str, json: &Value) -> Result<Arc<EndpointCell>, ApiError> {
        let cell = self.cell(name)?;
        let changed = config::apply_patch(&cell.config(), json).map_err(|m| ApiError::new(Code::InvalidRequest, m))?;
        self.remember(name, &Change::Set { endpoint: config::endpoint_to_json(&changed) }).await?;
        self.reconfigure(&cell, Arc::new(changed));
        self.audit("patch", name, &json.to_string()).await?;
        Ok(cell)
    }

    fn reconfigure(&self, cell: &Arc<EndpointCell>, config: Arc<EndpointConfig>) {
        cell.hot.lock().gate.set_limits(&config.limits, clock::now());
        cell.set_config(config);
        cell.serve_line(clock::now());
        if let Some(actor) = cell.actor() {
            actor.do_send(Reconfigured);
        }
    }

    /// Removes an endpoint. Requests that run there finish.
    ///
    /// # Errors
    /// There is no such endpoint, or it could not be remembered.
    pub async fn remove_endpoint(self: &Arc<Self>, name: &str) -> Result<(), ApiError> {
        let cell = self.cell(name)?;
        self.remember(name, &Change::Removed).await?;
        self.retire(&cell);
        let cells = self.board.topology().cells.iter().filter(|c| c.id != cell.id).cloned().collect();
        self.board.set(cells, &self.config().routes);
        self.refresh_budgets().await;
        self.end_chaos(|t| t.is_on(&cell).then_some(EndedBy::EndpointRemoved)).await;
        self.audit("remove", name, "").await
    }

    fn retire(&self, cell: &EndpointCell) {
        self.supervisor.do_send(Release(cell.id));
        if let Some(actor) = cell.actor() {
            actor.do_send(Retire);
        }
        cell.disconnect();
    }

    /// Swaps in another configuration: unchanged endpoints keep their state and run on, changed ones keep their state, new ones start,
    /// missing ones retire. Operators' changes stay on top. Returns the names of those that changed.
    ///
    /// # Errors
    /// The store cannot be read; nothing was changed.
    pub fn apply_config(&self, config: Arc<Config>) -> Result<Vec<Arc<str>>, String> {
        let endpoints = layered(&config, self.ledger.state())?;
        let before = self.board.topology();
        let mut cells = Vec::with_capacity(endpoints.len());
        let (mut fresh, mut changed) = (Vec::new(), Vec::new());
        for endpoint in endpoints {
            match before.cell(&endpoint.name) {
                Some(cell) => {
                    if *cell.config() != *endpoint {
                        changed.push(Arc::clone(&cell.name));
                        self.reconfigure(cell, endpoint);
                    }
                    cells.push(Arc::clone(cell));
                }
                None => {
                    let cell = self.new_cell(endpoint, None);
                    fresh.push(Arc::clone(&cell));
                    cells.push(cell);
                }
            }
        }
        for gone in before.cells.iter().filter(|c| !cells.iter().any(|kept| kept.id == c.id)) {
            self.retire(gone);
        }
        self.board.set(cells, &config.routes);
        *self.retry_budget.lock() = RetryBudget::new(config.retry_budget, clock::now());
        self.supervisor.do_send(DomainRules(config.domains));
        self.set_config(config);
        for cell in fresh {
            self.supervisor.do_send(Adopt(cell));
        }
        Ok(changed)
    }

    /// The endpoint of this name.
    ///
    /// # Errors
    /// 404.
    pub fn cell(&self, name: &str) -> Result<Arc<EndpointCell>, ApiError> {
        let missing =
            || ApiError::new(Code::NotFound, format!("there is no endpoint `{name}`; GET /admin/endpoints lists them"));
        self.board.topology().cell(name).cloned().ok_or_else(missing)
    }

    async fn remember(&self, name: &str, change: &Change) -> Result<(), ApiError> {
        let bytes = serde_json::to_vec(change).unwrap_or_default();
        self.write(StateWrite::Put { area: Area::Endpoint, name: name.into(), bytes, durable: true }).await
    }

    /// Writes a change of state to disk.
    ///
    /// # Errors
    /// 503 with the store's reason.
    pub async fn write(&self, change: StateWrite) -> Result<(), ApiError> {
        let failed = |e| ApiError::new(Code::LedgerUnavailable, format!("the store cannot be written: {e}"));
        self.ledger.write(change).await.map_err(failed)
    }

    /// Notes an operator's act.
    ///
    /// # Errors
    /// 503 with the store's reason.
    pub async fn audit(&self, act: &str, subject: &str, detail: &str) -> Result<(), ApiError> {
        let entry = serde_json::json!({
            "at": clock::wall().to_rfc3339(), "act": act, "subject": subject, "detail": detail, "author": "admin",
        });
        tracing::info!(act, subject, detail, "operator");
        self.write(StateWrite::Audit { bytes: entry.to_string().into_bytes() }).await
    }
}
