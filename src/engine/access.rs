//! Who may ask: virtual keys for applications, one token for operators. Secrets are only ever compared as hashes.

use crate::clock;
use crate::config::model::AuthMode;
use crate::domain::bucket::Bucket;
use crate::domain::key::{KeyHash, VirtualKey};
use crate::domain::queue::Priority;
use crate::domain::time::Ts;
use crate::engine::error::{ApiError, Code};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Virtual keys in one process.
pub const MAX_KEYS: usize = 100_000;

static NO_TAGS: BTreeMap<String, String> = BTreeMap::new();

/// All keys, by the hash of their secret.
pub struct Access {
    mode: AuthMode,
    admin: KeyHash,
    keys: RwLock<HashMap<KeyHash, Arc<KeyEntry>>>,
}

/// A key with what is left of its own limits.
pub struct KeyEntry {
    pub key: VirtualKey,
    id: Arc<str>,
    limits: Mutex<KeyLimits>,
}

struct KeyLimits {
    rpm: Option<Bucket>,
    tpm: Option<Bucket>,
}

/// Who a request comes from.
#[derive(Clone)]
pub enum Caller {
    /// The gateway is open: everybody.
    Anyone,
    Operator,
    Key(Arc<KeyEntry>),
}

impl Access {
    #[must_use]
    pub fn new(mode: AuthMode, admin_token: &str, keys: Vec<VirtualKey>) -> Self {
        let access = Self { mode, admin: KeyHash::of(admin_token), keys: RwLock::default() };
        for key in keys {
            access.put(key);
        }
        access
    }

    /// Takes a key in, or its new version. Its limits start full.
    pub fn put(&self, key: VirtualKey) {
        let now = clock::now();
        let bucket = |limit: Option<u64>| limit.map(|l| Bucket::new(l, 1, now));
        let limits = Mutex::new(KeyLimits { rpm: bucket(key.rpm), tpm: bucket(key.tpm) });
        let entry = KeyEntry { id: key.id.as_str().into(), limits, key };
        self.keys.write().insert(entry.key.hash, Arc::new(entry));
    }

    /// The key with this id.
    #[must_use]
    pub fn by_id(&self, id: &str) -> Option<Arc<KeyEntry>> {
        self.keys.read().values().find(|e| e.key.id == id).cloned()
    }

    /// All keys, by id.
    #[must_use]
    pub fn list(&self) -> Vec<VirtualKey> {
        let mut all: Vec<_> = self.keys.read().values().map(|e| e.key.clone()).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// Who shows this secret on the API for applications.
    ///
    /// # Errors
    /// 401, the same whatever is wrong with the key.
    pub fn caller(&self, secret: Option<&str>) -> Result<Caller, ApiError> {
        if self.mode == AuthMode::Open {
            return Ok(Caller::Anyone);
        }
        let refused = || ApiError::new(Code::InvalidApiKey, "no valid API key: send `Authorization: Bearer <key>`");
        let hash = KeyHash::of(secret.ok_or_else(refused)?);
        if hash == self.admin {
            return Ok(Caller::Operator);
        }
        let entry = self.keys.read().get(&hash).cloned().filter(|e| e.key.is_live(clock::wall()));
        entry.map(Caller::Key).ok_or_else(refused)
    }

    /// Whether this secret is the operators' token.
    ///
    /// # Errors
    /// 401, the same whatever is wrong with the token.
    pub fn operator(&self, secret: Option<&str>) -> Result<(), ApiError> {
        match secret {
            Some(secret) if KeyHash::of(secret) == self.admin => Ok(()),
            _ => Err(ApiError::new(Code::InvalidApiKey, "no valid API key: send `Authorization: Bearer <key>`")),
        }
    }
}

impl Caller {
    /// Goes into ledger rows; empty when there is no key.
    #[must_use]
    pub fn key_id(&self) -> Arc<str> {
        match self {
            Self::Key(entry) => Arc::clone(&entry.id),
            Self::Operator => "admin".into(),
            Self::Anyone => "".into(),
        }
    }

    /// The virtual key's id, if the caller has one.
    #[must_use]
    pub fn key(&self) -> Option<Arc<str>> {
        match self {
            Self::Key(entry) => Some(Arc::clone(&entry.id)),
            Self::Operator | Self::Anyone => None,
        }
    }

    /// How urgent the caller's requests are while they wait.
    #[must_use]
    pub fn priority(&self) -> Priority {
        match self {
            Self::Key(entry) => entry.key.priority,
            Self::Operator | Self::Anyone => Priority::Normal,
        }
    }

    #[must_use]
    pub fn tags(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Key(entry) => &entry.key.tags,
            Self::Anyone | Self::Operator => &NO_TAGS,
        }
    }

    /// Whether the caller may see what became of a request of this key.
    #[must_use]
    pub fn sees(&self, key_id: &str) -> bool {
        matches!(self, Self::Operator) || *self.key_id() == *key_id
    }

    /// Whether the caller may ask for `model`.
    ///
    /// # Errors
    /// 403.
    pub fn may_use(&self, model: &str) -> Result<(), ApiError> {
        match self {
            Self::Key(entry) if !entry.key.allows(model) => {
                let message = format!("this key may not use the model `{model}`");
                Err(ApiError::new(Code::ModelNotAllowed, message).with_param("model"))
            }
            _ => Ok(()),
        }
    }

    /// Takes a request of about `tokens` from the key's own limits.
    ///
    /// # Errors
    /// 429 with the time from which there is room.
    pub fn admit(&self, now: Ts, tokens: u64) -> Result<(), ApiError> {
        let Self::Key(entry) = self else { return Ok(()) };
        let full = |what: &str, at: Ts| {
            let message = format!("this key's limit of {what} per minute is reached");
            ApiError::new(Code::RateLimitExceeded, message).with_retry_after(Some(at.since(now)))
        };
        let mut limits = entry.limits.lock();
        let KeyLimits { rpm, tpm } = &mut *limits;
        if let Some(bucket) = rpm {
            bucket.try_take(now, 1).map_err(|at| full("requests", at))?;
        }
        if let Some(bucket) = tpm {
            bucket.try_take(now, tokens).map_err(|at| {
                if let Some(requests) = rpm {
                    requests.give_back(1);
                }
                full("tokens", at)
            })?;
        }
        Ok(())
    }
}
