//! The plain files beside the databases: `LOCK`, `VERSION` and `HEAD`, and folders and files that are private.
//!
//! - `LOCK` is held while the store is open; a second process finds it taken.
//! - `VERSION` names the schema. It is read before any database is opened, so that a newer store stays untouched.
//! - `HEAD` is the high-water mark: number, hash and month of a ledger row, and the state database's generation, that were on
//!   disk when it was written. It is replaced atomically. A ledger or a state that ends before its HEAD has lost something.

use crate::store::codec::Cursor;
use crate::store::error::StoreError;
use crate::store::month::Month;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// The schema that this version writes; it reads the older ones too. 2: days have sums of their own. 3: the ledger may begin after row 1.
/// 4: hours have brief sums.
pub(super) const SCHEMA: u32 = 4;
const VERSION: &str = "VERSION";
const HEAD: &str = "HEAD";
const LOCK: &str = "LOCK";

/// The high-water mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub seq: u64,
    pub hash: [u8; 32],
    pub month: Month,
    /// Counts the state database's commits to disk.
    pub generation: u64,
}

/// Makes a folder that only its owner may enter, with its parents, unless it is there.
pub(super) fn private_dir(dir: &Path) -> Result<(), StoreError> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| unwritable(dir, &e))?;
    dir.parent().map_or(Ok(()), |parent| sync_dir(parent).map_err(|e| unwritable(dir, &e)))
}

/// Takes the store's lock for as long as the file lives.
pub(super) fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK);
    let options = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = options.map_err(|e| unwritable(dir, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::InUse { path: dir.to_owned() }),
        Err(fs::TryLockError::Error(e)) => Err(unwritable(dir, &e)),
    }
}

/// The store's schema; `None`: it has none yet.
pub(super) fn read_version(dir: &Path) -> Result<Option<u32>, StoreError> {
    let path = dir.join(VERSION);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::Broken { path, what: e.to_string() }),
    };
    match text.trim().strip_prefix("breakwater store schema ").map(str::parse) {
        Some(Ok(found)) if found > SCHEMA => {
            Err(StoreError::NewerSchema { path: dir.to_owned(), found, known: SCHEMA })
        }
        Some(Ok(found)) => Ok(Some(found)),
        _ => Err(StoreError::Broken { path, what: "does not name a schema".into() }),
    }
}

pub(super) fn write_version(dir: &Path) -> Result<(), StoreError> {
    replace(dir, VERSION, format!("breakwater store schema {SCHEMA}\n").as_bytes()).map_err(|e| unwritable(dir, &e))
}

/// The high-water mark; `None` if there is none. A mark that cannot be read is damage.
pub(super) fn read_head(dir: &Path) -> Result<Option<Head>, StoreError> {
    let path = dir.join(HEAD);
    let damaged = |what: &str| StoreError::Damaged { seq: None, what: format!("{}: {what}", path.display()) };
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(damaged(&e.to_string())),
    };
    let fields = || {
        let mut cursor = Cursor::new(&bytes);
        let body = cursor.take(52)?;
        let crc = cursor.array().map(u32::from_le_bytes)?;
        let mut cursor = Cursor::new(body);
        let seq = cursor.array().map(u64::from_le_bytes)?;
        let hash = cursor.array()?;
        let month = cursor.array().map(u32::from_le_bytes)?;
        let generation = cursor.array().map(u64::from_le_bytes)?;
        let month = Month::from_number(month);
        (crc == crc32fast::hash(body)).then_some(Head { seq, hash, month, generation })
    };
    fields().map(Some).ok_or_else(|| damaged("the high-water mark cannot be read"))
}

pub(super) fn write_head(dir: &Path, head: &Head) -> Result<(), StoreError> {
    let mut bytes = Vec::with_capacity(56);
    bytes.extend_from_slice(&head.seq.to_le_bytes());
    bytes.extend_from_slice(&head.hash);
    bytes.extend_from_slice(&head.month.number().to_le_bytes());
    bytes.extend_from_slice(&head.generation.to_le_bytes());
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    replace(dir, HEAD, &bytes).map_err(|e| StoreError::Failed { what: format!("{}: {e}", dir.join(HEAD).display()) })
}

/// Replaces a file of `dir` as a whole: a reader, or a start after a power cut, finds the old one or the new one.
pub(super) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let (path, fresh) = (dir.join(name), dir.join(format!("{name}.new")));
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    drop(file);
    fs::rename(&fresh, &path)?;
    sync_dir(dir)
}

/// Makes the names in a folder durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

fn unwritable(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Unwritable { path: path.to_owned(), what: error.to_string() }
}
