//! Virtual keys: what a caller's key may do, and how it is recognised.
//!
//! A secret is `bw_` and 43 characters of base64url over 32 random bytes. It is shown once; only its BLAKE3 hash is kept. A
//! fast hash is enough: there is nothing to guess in 256 random bits. Looking a caller's secret up by its hash needs no
//! constant-time comparison either, because what an attacker can vary is not what is compared.

use crate::domain::budget::Terms;
use crate::domain::queue::Priority;
use crate::domain::time::Wall;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What a caller must show. Its `Debug` tells nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct KeySecret(String);

impl KeySecret {
    /// Makes the secret of 32 bytes from the system's random source.
    #[must_use]
    pub fn from_random(bytes: &[u8; 32]) -> Self {
        Self(format!("bw_{}", base64url(bytes)))
    }

    /// The text to hand to the caller, once.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.0)
    }
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySecret(…)")
    }
}

/// The BLAKE3 hash of a secret, in hex when written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of what a caller showed, whatever that is.
    #[must_use]
    pub fn of(shown: &str) -> Self {
        Self(*blake3::hash(shown.as_bytes()).as_bytes())
    }
}

impl From<KeyHash> for String {
    fn from(hash: KeyHash) -> Self {
        blake3::Hash::from_bytes(hash.0).to_hex().to_string()
    }
}

impl TryFrom<String> for KeyHash {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        blake3::Hash::from_hex(&text).map(|h| Self(*h.as_bytes())).map_err(|e| format!("not a key's hash: {e}"))
    }
}

/// A virtual key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualKey {
    /// `key_` and 16 characters; stands in the ledger.
    pub id: String,
    /// For people.
    pub name: String,
    pub hash: KeyHash,
    /// Models and routes that may be asked for; empty: all.
    #[serde(default)]
    pub models: Vec<String>,
    /// Requests per minute; `None`: no limit of its own.
    #[serde(default)]
    pub rpm: Option<u64>,
    /// Tokens per minute; `None`: no limit of its own.
    #[serde(default)]
    pub tpm: Option<u64>,
    /// While requests wait for a place.
    #[serde(default)]
    pub priority: Priority,
    /// Go into each ledger row.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// What it may spend; `None`: no limit of its own.
    #[serde(default)]
    pub budget: Option<Terms>,
    pub created_at: Wall,
    /// `None`: never.
    #[serde(default)]
    pub expires_at: Option<Wall>,
    #[serde(default)]
    pub revoked: bool,
}

impl VirtualKey {
    /// Makes a key id of 12 random bytes.
    #[must_use]
    pub fn id_from_random(bytes: &[u8; 12]) -> String {
        format!("key_{}", base64url(bytes))
    }

    /// Whether the key opens anything at `now`.
    #[must_use]
    pub fn is_live(&self, now: Wall) -> bool {
        !self.revoked && self.expires_at.is_none_or(|end| now < end)
    }

    /// Whether `model` may be asked for.
    #[must_use]
    pub fn allows(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|m| m == model)
    }

    /// As operators see it: without the hash.
    #[must_use]
    pub fn to_view(&self) -> serde_json::Value {
        serde_json::json!({
            "id": self.id,
            "name": self.name,
            "models": self.models,
            "rpm": self.rpm,
            "tpm": self.tpm,
            "priority": self.priority.as_str(),
            "tags": self.tags,
            "budget": self.budget.as_ref().map(Terms::to_view),
            "created_at": self.created_at.to_rfc3339(),
            "expires_at": self.expires_at.map(Wall::to_rfc3339),
            "revoked": self.revoked,
        })
    }

    /// The stored form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// What does not fit.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|e| format!("not a virtual key: {e}"))
    }
}

/// Base64 with the URL alphabet and without padding.
fn base64url(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut bits = 0_u32;
        for i in 0..3 {
            bits = (bits << 8) | u32::from(chunk.get(i).copied().unwrap_or(0));
        }
        for i in 0..=chunk.len() {
            text.push(char::from(BASE64URL[(bits >> (18 - 6 * i)) as usize & 63]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_is_the_standard_one() {
        assert_eq!(base64url(b""), "");
        assert_eq!(base64url(b"f"), "Zg");
        assert_eq!(base64url(b"fo"), "Zm8");
        assert_eq!(base64url(b"foobar"), "Zm9vYmFy");
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn a_secret_is_recognised_by_its_hash_and_never_printed() {
        let secret = KeySecret::from_random(&[7; 32]);
        assert_eq!(secret.reveal().len(), 3 + 43);
        assert_eq!(secret.hash(), KeyHash::of(secret.reveal()));
        assert_ne!(secret.hash(), KeyHash::of("bw_other"));
        assert!(!format!("{secret:?}").contains(secret.reveal()));
    }

    #[test]
    fn a_key_round_trips_and_knows_its_limits() {
        let key = VirtualKey {
            id: VirtualKey::id_from_random(&[1; 12]),
            name: "team a".into(),
            hash: KeyHash::of("x"),
            models: vec!["chat".into()],
            rpm: Some(60),
            tpm: None,
            priority: Priority::High,
            tags: BTreeMap::from([("team".into(), "a".into())]),
            budget: None,
            created_at: Wall(5),
            expires_at: Some(Wall(10)),
            revoked: false,
        };
        assert_eq!(key.id.len(), 20);
        assert_eq!(VirtualKey::from_bytes(&key.to_bytes()), Ok(key.clone()));
        assert!(VirtualKey::from_bytes(b"{}").is_err());
        let older = String::from_utf8(key.to_bytes()).unwrap().replace(r#""priority":"high","#, "");
        let older = VirtualKey::from_bytes(older.as_bytes()).unwrap();
        assert_eq!(older.priority, Priority::Normal, "a key of before there were priorities");
        assert!(key.allows("chat") && !key.allows("safe"));
        assert!(key.is_live(Wall(9)) && !key.is_live(Wall(10)));
        assert!(!VirtualKey { revoked: true, ..key }.is_live(Wall(9)));
    }
}
