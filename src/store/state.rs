//! Named values of the state database: checkpoints, operator acts, registered endpoints, keys, settings; and the audit log.
//!
//! The contents are bytes whose meaning belongs to the caller. A value of an unknown version, or a damaged one in a list, is
//! skipped and counted, never an error of the whole. A put that is `durable` is on disk when it returns; one that is not is so
//! with the ledger's next commit of rollups, about a second later. After a failed write the database is opened again before the
//! next one.

use crate::store::Inner;
use crate::store::codec::{self, Opened};
use crate::store::error::StoreError;
use crate::store::shelf::Reach;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const VERSION: u8 = 1;
const AUDIT: u8 = b'a';
/// Entries of the audit log that are kept.
pub const AUDIT_KEPT: u64 = 10_000;

/// Kinds of named values, each with names of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Area {
    /// What an endpoint's actor needs to go on after a restart, by endpoint.
    Checkpoint,
    /// What an operator has forced, by endpoint.
    Act,
    /// Endpoints registered, changed or removed at run time, by name.
    Endpoint,
    /// Virtual keys, by id.
    Key,
    /// Attempts under way at the cost of a hard budget, by names of their own.
    Open,
    /// Anything else that is one of its kind, by name.
    Meta,
}

impl Area {
    fn prefix(self) -> u8 {
        match self {
            Self::Checkpoint => b'c',
            Self::Act => b'o',
            Self::Endpoint => b'e',
            Self::Key => b'k',
            Self::Open => b'u',
            Self::Meta => b'm',
        }
    }

    fn key(self, name: &str) -> Vec<u8> {
        let mut key = Vec::with_capacity(1 + name.len());
        key.push(self.prefix());
        key.extend_from_slice(name.as_bytes());
        key
    }
}

/// Named values and the audit log. Cheap to clone, safe to share.
#[derive(Clone)]
pub struct StateStore {
    pub(super) inner: Arc<Inner>,
}

impl StateStore {
    /// Stores one value.
    ///
    /// # Errors
    /// The store is read-only or failed.
    pub fn put(&self, area: Area, name: &str, bytes: &[u8], durable: bool) -> Result<(), StoreError> {
        self.put_all(area, &[(name, bytes)], durable)
    }

    /// Stores several values, all or none.
    ///
    /// # Errors
    /// The store is read-only or failed.
    pub fn put_all(&self, area: Area, values: &[(&str, &[u8])], durable: bool) -> Result<(), StoreError> {
        self.write(durable, |db, batch| {
            for (name, bytes) in values {
                let key = area.key(name);
                if let Some(old) = db.get(&key)? {
                    codec::remove(batch, &key, &old);
                }
                codec::put(batch, &key, VERSION, bytes);
            }
            Ok(())
        })
    }

    /// The value of that name; `None` also if its version is unknown, which is counted.
    ///
    /// # Errors
    /// The value is damaged, or the store failed.
    pub fn get(&self, area: Area, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let key = area.key(name);
        let found = self.inner.state.read(|db| match db.get(&key)? {
            Some(value) => codec::open(db, &key, &value).map(Some),
            None => Ok(None),
        })?;
        let Some(opened) = found else { return Ok(None) };
        let payload = opened.known(VERSION, name)?;
        self.inner.skipped.fetch_add(u64::from(payload.is_none()), Ordering::Relaxed);
        Ok(payload)
    }

    /// Removes the value of that name; no error if there is none.
    ///
    /// # Errors
    /// The store is read-only or failed.
    pub fn delete(&self, area: Area, name: &str, durable: bool) -> Result<(), StoreError> {
        self.delete_all(area, &[name], durable)
    }

    /// Removes several values, all or none.
    ///
    /// # Errors
    /// The store is read-only or failed.
    pub fn delete_all(&self, area: Area, names: &[&str], durable: bool) -> Result<(), StoreError> {
        self.write(durable, |db, batch| {
            for key in names.iter().map(|name| area.key(name)) {
                if let Some(old) = db.get(&key)? {
                    codec::remove(batch, &key, &old);
                }
            }
            Ok(())
        })
    }

    /// All readable values of an area, by name. What cannot be read is counted in [`Store::skipped_records`](crate::store::Store::skipped_records).
    ///
    /// # Errors
    /// The store failed.
    pub fn list(&self, area: Area) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let found = self.inner.state.read(|db| {
            let read = |item: sled::Result<(sled::IVec, sled::IVec)>| {
                let (key, value) = item?;
                let opened = codec::open(db, &key, &value)?;
                Ok((key, opened))
            };
            db.scan_prefix([area.prefix()]).map(read).collect::<sled::Result<Vec<_>>>()
        })?;
        let readable = |(key, opened): (sled::IVec, Opened)| {
            let name = String::from_utf8(key.get(1..)?.to_vec()).ok()?;
            let payload = opened.known(VERSION, &name).ok()??;
            Some((name, payload))
        };
        let count = found.len();
        let values: Vec<_> = found.into_iter().filter_map(readable).collect();
        self.inner.skipped.fetch_add((count - values.len()) as u64, Ordering::Relaxed);
        Ok(values)
    }

    /// Appends to the audit log, on disk at return; the oldest entry over [`AUDIT_KEPT`] goes.
    ///
    /// # Errors
    /// The store is read-only or failed.
    pub fn audit(&self, bytes: &[u8]) -> Result<(), StoreError> {
        self.write(true, |db, batch| {
            let last = db.scan_prefix([AUDIT]).next_back().transpose()?;
            let next = last.and_then(|(key, _)| audit_number(&key)).unwrap_or(0).saturating_add(1);
            codec::put(batch, &audit_key(next), VERSION, bytes);
            let oldest = db.scan_prefix([AUDIT]).next().transpose()?;
            if let Some((key, value)) = oldest
                && audit_number(&key).is_some_and(|n| n.saturating_add(AUDIT_KEPT) <= next)
            {
                codec::remove(batch, &key, &value);
            }
            Ok(())
        })
    }

    /// The newest `limit` entries of the audit log with their numbers, the newest first.
    ///
    /// # Errors
    /// The store failed.
    pub fn audit_entries(&self, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let found = self.inner.state.read(|db| {
            let read = |item: sled::Result<(sled::IVec, sled::IVec)>| {
                let (key, value) = item?;
                Ok((audit_number(&key).unwrap_or(0), codec::open(db, &key, &value)?))
            };
            db.scan_prefix([AUDIT]).rev().take(limit).map(read).collect::<sled::Result<Vec<_>>>()
        })?;
        let count = found.len();
        let entries: Vec<_> =
            found.into_iter().filter_map(|(n, opened)| Some((n, opened.known(VERSION, "").ok()??))).collect();
        self.inner.skipped.fetch_add((count - entries.len()) as u64, Ordering::Relaxed);
        Ok(entries)
    }

    fn write(
        &self,
        durable: bool,
        fill: impl FnOnce(&sled::Db, &mut sled::Batch) -> sled::Result<()>,
    ) -> Result<(), StoreError> {
        self.inner.writable()?;
        let reach = if durable { Reach::Disk } else { Reach::Memory };
        self.inner.write_state(reach, |state| {
            let mut batch = sled::Batch::default();
            state.read(|db| fill(db, &mut batch))?;
            Ok(batch)
        })
    }
}

fn audit_key(number: u64) -> [u8; 9] {
    let mut key = [AUDIT; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

fn audit_number(key: &[u8]) -> Option<u64> {
    key.get(1..).and_then(|k| k.try_into().ok()).map(u64::from_be_bytes)
}
