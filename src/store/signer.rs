//! The key that signs checkpoints, and checking what it signed.
//!
//! Beside the databases, made at the first start:
//! - `checkpoint.key` (mode 0600): the ed25519 seed in hexadecimal. Whoever can read it can sign.
//! - `checkpoint.pub`: the public keys that this store has signed with, one a line, the present one last. It is what a copy of the
//!   store is checked by; kept elsewhere, it also finds a store that was signed anew as a whole.
//!
//! A key that is lost is replaced by a new one; the old one's checkpoints stay valid by its line in `checkpoint.pub`.

use crate::domain::checkpoint::{Checkpoint, Statement, hex, unhex};
use crate::store::error::StoreError;
use crate::store::files;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

const KEY: &str = "checkpoint.key";
const PUBLIC: &str = "checkpoint.pub";

/// Signs statements.
pub(super) struct Signer {
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

impl Signer {
    /// The store's key; `None` if it has none, or not for this user.
    pub fn load(dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = dir.join(KEY);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let broken = |what: String| StoreError::Broken { path: path.clone(), what };
                let seed = unhex(text.trim()).map_err(|_| {
                    broken("it holds no signing key; restore it, or remove it and a new one is made".into())
                })?;
                Self::from_seed(&seed).map(Some).map_err(broken)
            }
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => Ok(None),
            Err(e) => Err(StoreError::Broken { path, what: e.to_string() }),
        }
    }

    /// The store's key, which is made if there is none.
    pub fn load_or_make(dir: &Path) -> Result<Self, StoreError> {
        let failed = |name: &str, what: String| StoreError::Unwritable { path: dir.join(name), what };
        let signer = if let Some(signer) = Self::load(dir)? {
            signer
        } else {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(|e| failed(KEY, format!("no random bytes: {e}")))?;
            let signer = Self::from_seed(&seed).map_err(|what| failed(KEY, what))?;
            files::replace(dir, KEY, format!("{}\n", hex(&seed)).as_bytes()).map_err(|e| failed(KEY, e.to_string()))?;
            signer
        };
        let mut known = public_keys(dir)?;
        if known.last() != Some(&signer.public) {
            known.retain(|key| *key != signer.public);
            known.push(signer.public);
            let text: String = known.iter().map(|key| hex(key) + "\n").collect();
            files::replace(dir, PUBLIC, text.as_bytes()).map_err(|e| failed(PUBLIC, e.to_string()))?;
        }
        Ok(signer)
    }

    fn from_seed(seed: &[u8; 32]) -> Result<Self, String> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|e| e.to_string())?;
        let public =
            pair.public_key().as_ref().try_into().map_err(|_| "its public key has another length".to_owned())?;
        Ok(Self { pair, public })
    }

    pub fn sign(&self, statement: Statement) -> Checkpoint {
        let mut signature = [0; 64];
        // ed25519 signatures have 64 bytes.
        signature.copy_from_slice(self.pair.sign(statement.signed_text().as_bytes()).as_ref());
        Checkpoint { statement, key: self.public, signature }
    }
}

/// The keys that a store has signed with, the present one last; empty if it has none.
pub(super) fn public_keys(dir: &Path) -> Result<Vec<[u8; 32]>, StoreError> {
    let path = dir.join(PUBLIC);
    match fs::read_to_string(&path) {
        Ok(text) => parse_public_keys(&text).map_err(|what| StoreError::Broken { path, what }),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(StoreError::Broken { path, what: e.to_string() }),
    }
}

/// Reads public keys in hexadecimal, one a line.
///
/// # Errors
/// The line that is no key, or that there is none.
pub fn parse_public_keys(text: &str) -> Result<Vec<[u8; 32]>, String> {
    let keys: Vec<_> = text.split_whitespace().map(unhex).collect::<Result<_, _>>()?;
    if keys.is_empty() { Err("it holds no public key".into()) } else { Ok(keys) }
}

/// Whether a checkpoint's signature is the one of its key over its statement.
#[must_use]
pub fn is_signed(checkpoint: &Checkpoint) -> bool {
    let key = UnparsedPublicKey::new(&ED25519, &checkpoint.key);
    key.verify(checkpoint.statement.signed_text().as_bytes(), &checkpoint.signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::checkpoint::Kind;
    use crate::domain::time::Wall;
    use std::os::unix::fs::PermissionsExt;

    fn statement(seq: u64) -> Statement {
        Statement {
            kind: Kind::Hour,
            at: Wall(5),
            first_seq: 1,
            prev_hash: [0; 32],
            seq,
            hash: [1; 32],
            rows: seq,
            digest: None,
            before: None,
            marks: Vec::new(),
        }
    }

    #[test]
    fn the_key_is_private_stays_and_signs() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Signer::load(dir.path()).unwrap().is_none() && public_keys(dir.path()).unwrap().is_empty());
        let signed = Signer::load_or_make(dir.path()).unwrap().sign(statement(7));
        assert_eq!(fs::metadata(dir.path().join(KEY)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Signer::load(dir.path()).unwrap().unwrap().sign(statement(7)), signed);
        assert!(is_signed(&signed));
        for change in [0, 1, 2] {
            let mut forged = signed.clone();
            match change {
                0 => forged.statement.seq = 8,
                1 => forged.signature[10] ^= 1,
                _ => forged.key[3] ^= 1,
            }
            assert!(!is_signed(&forged), "{change}");
        }
        // RFC 8032, section 7.1, test 1: the key is read as every other tool reads it.
        let seed = unhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let public = hex(&Signer::from_seed(&seed).unwrap().public);
        assert_eq!(public, "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    }

    #[test]
    fn a_lost_key_is_replaced_and_its_signatures_stay_known() {
        let dir = tempfile::tempdir().unwrap();
        let old = Signer::load_or_make(dir.path()).unwrap().public;
        fs::remove_file(dir.path().join(KEY)).unwrap();
        let new = Signer::load_or_make(dir.path()).unwrap().public;
        assert_eq!(public_keys(dir.path()).unwrap(), [old, new]);
        fs::write(dir.path().join(KEY), "half a k").unwrap();
        assert!(Signer::load_or_make(dir.path()).is_err_and(|e| e.to_string().contains("checkpoint.key")));
        assert!(parse_public_keys("").is_err() && parse_public_keys("zz").is_err());
    }
}
