//! What operators see and do: endpoints, trips and resets, keys.

use crate::actors::board::EndpointCell;
use crate::actors::endpoint::observe;
use crate::actors::ledger::StateWrite;
use crate::actors::messages::{Act, Adopt, Observe, Observed, Operate, PanicNow};
use crate::clock;
use crate::domain::budget::Terms;
use crate::domain::ids::RequestId;
use crate::domain::key::{KeySecret, VirtualKey};
use crate::domain::latency::Summary;
use crate::domain::queue::Priority;
use crate::domain::time::{Ts, Wall};
use crate::engine::access::MAX_KEYS;
use crate::engine::budgets;
use crate::engine::chaos::Chaos;
use crate::engine::error::{ApiError, Code};
use crate::engine::explanation::explained;
use crate::engine::gateway::Gateway;
use crate::engine::record::RequestRecord;
use crate::store::Area;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// An operator waits this long for an actor, then sees its last saved state.
const ASK_TIME: Duration = Duration::from_millis(500);

/// A virtual key as an operator asks for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object such as {\"name\":\"app\"}")]
pub struct NewKey {
    pub name: String,
    #[serde(default)]
    pub models: Vec<String>,
    #[serde(default)]
    pub rpm: Option<u64>,
    #[serde(default)]
    pub tpm: Option<u64>,
    #[serde(default)]
    pub priority: Priority,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    #[serde(default)]
    pub budget: Option<NewBudget>,
    /// RFC 3339 or a date.
    #[serde(default)]
    pub expires_at: Option<String>,
}

/// A key's budget as an operator asks for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object such as {\"amount_usd\":10,\"period\":\"month\"}")]
pub struct NewBudget {
    /// A number or a text: read digit by digit, never as a float.
    amount_usd: Box<RawValue>,
    #[serde(default)]
    period: Option<String>,
    #[serde(default)]
    timezone: Option<String>,
    #[serde(default)]
    mode: Option<String>,
}

impl NewBudget {
    fn terms(&self) -> Result<Terms, ApiError> {
        let raw = self.amount_usd.get();
        let text: Option<String> = serde_json::from_str(raw).ok();
        let amount = text.as_deref().unwrap_or(raw);
        let terms = Terms::parse(amount, self.period.as_deref(), self.timezone.as_deref(), self.mode.as_deref());
        terms.map_err(|(field, message)| {
            let param = format!("budget.{field}");
            ApiError::new(Code::InvalidRequest, format!("`{param}`: {message}")).with_param(&param)
        })
    }
}

impl Gateway {
    /// All endpoints as operators see them.
    pub async fn endpoint_views(&self) -> Value {
        let topology = self.board.topology();
        let views =
            futures_util::future::join_all(topology.cells.iter().map(|cell| endpoint_view(&self.chaos, cell))).await;
        json!({ "endpoints": views })
    }

    /// One endpoint as operators see it.
    ///
    /// # Errors
    /// 404.
    pub async fn endpoint_view(&self, name: &str) -> Result<Value, ApiError> {
        Ok(endpoint_view(&self.chaos, &*self.cell(name)?).await)
    }

    /// Trips or resets an endpoint's breaker; on disk when it returns. A quarantined actor is started again by a reset.
    ///
    /// # Errors
    /// There is no such endpoint, its actor is down, or the store cannot be written.
    pub async fn operate(&self, name: &str, act: Act, reason: String) -> Result<Value, ApiError> {
        let cell = self.cell(name)?;
        if act == Act::Reset && cell.status.lock().quarantined {
            let adopted = self.supervisor.send(Adopt(Arc::clone(&cell))).await;
            adopted.map_err(|_| ApiError::new(Code::Internal, "the supervisor does not answer"))?;
        }
        let down = || {
            let message = format!("the actor of `{name}` is being restarted; try again");
            ApiError::new(Code::NoEndpointAvailable, message).with_retry_after(Some(Duration::from_secs(1)))
        };
        let operate = Operate { act, reason: reason.clone(), author: "admin".into() };
        cell.actor().ok_or_else(down)?.send(operate).await.map_err(|_| down())?;
        let what = match act {
            Act::Trip(_) => "trip",
            Act::Reset => "reset",
        };
        // The actor's checkpoint stands before this in the queue, so it is on disk as well.
        self.audit(what, name, &reason).await?;
        self.endpoint_view(name).await
    }

    /// Makes the endpoint's actor panic.
    ///
    /// # Errors
    /// 404 unless test hooks are on and the endpoint exists.
    pub fn panic_actor(&self, name: &str) -> Result<(), ApiError> {
        if !self.test_hooks {
            return Err(ApiError::new(Code::NotFound, "no such address"));
        }
        if let Some(actor) = self.cell(name)?.actor() {
            actor.do_send(PanicNow);
        }
        Ok(())
    }

    /// Makes the store's writer do nothing for two seconds.
    ///
    /// # Errors
    /// 404 unless test hooks are on.
    pub fn stall_store(&self) -> Result<(), ApiError> {
        if !self.test_hooks {
            return Err(ApiError::new(Code::NotFound, "no such address"));
        }
        self.ledger.stall(Duration::from_secs(2));
        Ok(())
    }

    /// What became of a request, if it is still known: from memory, else from the store.
    pub async fn request_record(&self, id: &RequestId) -> Option<RequestRecord> {
        if let Some(kept) = self.records.get(id).or_else(|| self.refused.get(id)) {
            return Some(explained(kept.spell_out()));
        }
        let (reader, id) = (self.ledger.reader(), id.clone());
        let found = tokio::task::spawn_blocking(move || reader.find_record(&id)).await.ok()?.ok()??;
        serde_json::from_slice(&found.bytes).ok().map(explained)
    }

    /// Makes a virtual key; the secret is in this answer and nowhere else.
    ///
    /// # Errors
    /// What is wrong with the request, or that the store cannot be written.
    pub async fn create_key(&self, new: NewKey) -> Result<Value, ApiError> {
        let invalid = |param: &str, m: String| ApiError::new(Code::InvalidRequest, m).with_param(param);
        if new.name.is_empty() || new.name.len() > 128 {
            return Err(invalid("name", "`name` must be 1 to 128 bytes".into()));
        }
        for (param, limit) in [("rpm", new.rpm), ("tpm", new.tpm)] {
            if limit.is_some_and(|l| l == 0 || l > 1_000_000_000) {
                return Err(invalid(param, format!("`{param}` must be a whole number from 1 to 1000000000")));
            }
        }
        let expires_at =
            new.expires_at.as_deref().map(Wall::parse).transpose().map_err(|m| invalid("expires_at", m))?;
        let budget = new.budget.as_ref().map(NewBudget::terms).transpose()?;
        if self.access.list().len() >= MAX_KEYS {
            return Err(invalid("name", format!("there are {MAX_KEYS} keys already, the most")));
        }
        let (mut id_bytes, mut secret_bytes) = ([0; 12], [0; 32]);
        let no_random = |_| ApiError::new(Code::Internal, "the system gives no random bytes");
        getrandom::fill(&mut id_bytes).map_err(no_random)?;
        getrandom::fill(&mut secret_bytes).map_err(no_random)?;
        let secret = KeySecret::from_random(&secret_bytes);
        let key = VirtualKey {
            id: VirtualKey::id_from_random(&id_bytes),
            name: new.name,
            hash: secret.hash(),
            models: new.models,
            rpm: new.rpm,
            tpm: new.tpm,
            priority: new.priority,
            tags: new.tags,
            budget,
            created_at: clock::wall(),
            expires_at,
            revoked: false,
        };
        self.store_key(&key).await?;
        self.audit("create_key", &key.id, &key.name).await?;
        let mut shown = key.to_view();
        if let Some(map) = shown.as_object_mut() {
            map.insert("secret".into(), secret.reveal().into());
        }
        if let Some(terms) = &key.budget {
            self.budgets.put_key(&key.id, terms, true);
        }
        self.access.put(key);
        Ok(shown)
    }

    async fn store_key(&self, key: &VirtualKey) -> Result<(), ApiError> {
        let bytes = key.to_bytes();
        self.write(StateWrite::Put { area: Area::Key, name: key.id.as_str().into(), bytes, durable: true }).await
    }

    /// All virtual keys, without secrets.
    #[must_use]
    pub fn key_views(&self) -> Value {
        json!({ "keys": self.access.list().iter().map(|key| self.view_of(key)).collect::<Vec<_>>() })
    }

    /// One virtual key, without its secret.
    ///
    /// # Errors
    /// 404.
    pub fn key_view(&self, id: &str) -> Result<Value, ApiError> {
        self.access.by_id(id).map(|e| self.view_of(&e.key)).ok_or_else(|| no_key(id))
    }

    /// A key with how its budget stands.
    fn view_of(&self, key: &VirtualKey) -> Value {
        let mut shown = key.to_view();
        if let (Some(map), Some((entry, figures))) = (shown.as_object_mut(), self.budgets.of_key(&key.id)) {
            map.insert("budget".into(), budgets::view(&entry, &figures));
        }
        shown
    }

    /// Revokes a virtual key at once and for good.
    ///
    /// # Errors
    /// There is no such key, or the store cannot be written.
    pub async fn revoke_key(&self, id: &str) -> Result<Value, ApiError> {
        let entry = self.access.by_id(id).ok_or_else(|| no_key(id))?;
        let key = VirtualKey { revoked: true, ..entry.key.clone() };
        self.access.put(key.clone());
        self.store_key(&key).await?;
        self.audit("revoke_key", id, &key.name).await?;
        Ok(key.to_view())
    }
}

fn no_key(id: &str) -> ApiError {
    ApiError::new(Code::NotFound, format!("there is no key `{id}`; GET /admin/keys lists them"))
}

async fn endpoint_view(chaos: &Chaos, cell: &EndpointCell) -> Value {
    let observed = match cell.actor() {
        Some(actor) => tokio::time::timeout(ASK_TIME, actor.send(Observe)).await.ok().and_then(Result::ok),
        None => None,
    };
    let Some(seen) = observed.or_else(|| cell.saved().map(|health| observe(&health))) else {
        return json!({ "name": &*cell.name });
    };
    spell_out(chaos, cell, &seen)
}

fn spell_out(chaos: &Chaos, cell: &EndpointCell, seen: &Observed) -> Value {
    let now = clock::now();
    let at = |t: Ts| clock::wall_of(t).to_rfc3339();
    let config = cell.config();
    let (gate, figures) = {
        let hot = cell.hot.lock();
        (hot.gate.view(now), hot.figures)
    };
    let status = cell.status.lock().clone();
    let limit = |l: Option<(u64, i64)>| l.map(|(limit, available)| json!({ "limit": limit, "available": available }));
    let breaker = &seen.breaker;
    let prices = config.price.as_ref().map(
        |p| json!({ "input": p.input.usd_per_million(), "output": p.output.usd_per_million(), "version": &*p.version }),
    );
    json!({
        "name": &*cell.name, "provider": &*config.provider.name, "model": &*config.model,
        "breaker": {
            "state": breaker.state.as_str(), "reason": breaker.reason, "since": at(breaker.since),
            "retry_at": breaker.retry_at.map(at), "failure_rate": breaker.failure_rate, "slow_rate": breaker.slow_rate,
            "calls": breaker.calls,
        },
        "limits": {
            "rpm": limit(gate.rpm), "tpm": limit(gate.tpm),
            "concurrency": {
                "limit": gate.concurrency.0, "in_use": gate.concurrency.1, "configured": gate.configured_concurrency,
            },
            "learnt_rpm": gate.learnt_rpm,
        },
        "paused": gate.paused.map(|(reason, until)| json!({ "reason": reason.as_str(), "until": at(until) })),
        "domains": {
            "member_of": config.domain.iter().map(|d| &**d).collect::<Vec<_>>(),
            "open": status.held_by.as_deref(), "retry_at": gate.held_until.map(at),
        },
        "waiting": cell.line.waiting(),
        "auth_failed": status.auth_failed.as_deref(),
        "chaos": chaos.on(cell).iter().map(|t| t.short_view()).collect::<Vec<_>>(),
        "quarantined": status.quarantined, "restarts": status.restarts, "generation": status.generation,
        "latency_ms": summary(&seen.latency), "ttft_ms": summary(&seen.ttft),
        "ranking_ttft_ms": figures.ewma_ttft_us.map(|us| us / 1e3),
        "totals": {
            "requests": seen.totals.requests, "successes": seen.totals.successes, "failures": seen.totals.failures,
            "cost_usd": seen.totals.cost.usd(),
        },
        "price_usd_per_million": prices, "weight": config.weight, "quality": config.quality,
    })
}

#[allow(clippy::cast_precision_loss)]
fn summary(s: &Summary) -> Value {
    #[derive(Serialize)]
    struct Millis {
        p50: f64,
        p90: f64,
        p99: f64,
        p999: f64,
        max: f64,
        count: u64,
    }
    let ms = |us: u64| us as f64 / 1e3;
    let millis = Millis {
        p50: ms(s.p50_us),
        p90: ms(s.p90_us),
        p99: ms(s.p99_us),
        p999: ms(s.p999_us),
        max: ms(s.max_us),
        count: s.count,
    };
    serde_json::to_value(millis).unwrap_or_default()
}
