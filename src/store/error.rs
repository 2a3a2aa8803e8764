//! What can go wrong with the store, by what the caller should do about it.

use crate::domain::time::Wall;
use std::fmt;
use std::path::PathBuf;

/// An error of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// There is no store, and none was to be made: check the path.
    Missing { path: PathBuf },
    /// The folder cannot be written: check its owner, mode and file system.
    Unwritable { path: PathBuf, what: String },
    /// Another process has the store open: stop it, or ask it over HTTP.
    InUse { path: PathBuf },
    /// A newer version wrote the store; nothing was touched: use that version.
    NewerSchema { path: PathBuf, found: u32, known: u32 },
    /// The database cannot be opened or holds nonsense; nothing was replaced: restore it, or accept the loss.
    Broken { path: PathBuf, what: String },
    /// The store is open for reading only: the text says what is missing.
    ReadOnly { why: String },
    /// There is a ledger writer already, and there can be one only.
    WriterTaken,
    /// A record is damaged; others may still be readable.
    Damaged { seq: Option<u64>, what: String },
    /// Retention has removed rows that the question needs: ask for a later time.
    Removed { through: u64, before: Wall },
    /// The disk failed or is full: `reopen`, then try the same again.
    Failed { what: String },
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { path } => write!(f, "there is no store at {}", path.display()),
            Self::Unwritable { path, what } => write!(f, "the store at {} cannot be written: {what}", path.display()),
            Self::InUse { path } => write!(f, "the store at {} is in use by another process", path.display()),
            Self::NewerSchema { path, found, known } => write!(
                f,
                "the store at {} has schema {found}, this version knows up to {known}; nothing was touched",
                path.display()
            ),
            Self::Broken { path, what } => write!(f, "the database at {} is broken: {what}", path.display()),
            Self::ReadOnly { why } => write!(f, "the store is open for reading only: {why}"),
            Self::WriterTaken => f.write_str("the ledger has a writer already"),
            Self::Damaged { seq: Some(seq), what } => write!(f, "damaged at row {seq}: {what}"),
            Self::Damaged { seq: None, what } => write!(f, "damaged: {what}"),
            Self::Removed { through, before } => write!(
                f,
                "rows before {} (1 to {through}) were removed by retention; only the sums of whole hours are left of them",
                before.to_rfc3339()
            ),
            Self::Failed { what } => write!(f, "the store failed: {what}"),
        }
    }
}

impl std::error::Error for StoreError {}
