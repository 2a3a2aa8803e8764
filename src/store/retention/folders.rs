//! The folders of a removal: a month's new one gets its name when it is complete, old ones go so that none is ever taken for whole with half
//! its files, and what a killed process left undone is completed or deleted at the next opening.

use crate::store::checkpoints::Anchor;
use crate::store::error::StoreError;
use crate::store::files;
use crate::store::month::{COMPACTED, Month};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Ends a folder's name until it is complete.
pub(super) const PART: &str = ".compact.part";
/// Ends the name of a folder that is being deleted.
pub(super) const GONE: &str = ".gone";

/// Completes what a removal has decided, and deletes what one has not got to deciding. Only for whoever may write.
pub(in crate::store) fn tidy(dir: &Path, anchor: Option<&Anchor>) -> Result<(), StoreError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(dir, &e)),
    };
    let names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let decided = anchor.filter(|anchor| anchor.rewritten).map(|anchor| anchor.first_month);
    let mut changed = false;
    for name in &names {
        let path = dir.join(name);
        let month = |end| name.strip_suffix(end).and_then(Month::parse);
        let done = if let Some(month) = month(COMPACTED) {
            let own = dir.join(month.to_string());
            match own.exists() {
                // Cut off before the decision.
                true if decided != Some(month) => remove(&path),
                true => discard(&own).and_then(|()| fs::rename(&path, &own)),
                false => fs::rename(&path, &own),
            }
        } else if month(PART).is_some() || month(GONE).is_some() {
            remove(&path)
        } else if Month::parse(name).is_some_and(|month| anchor.is_some_and(|anchor| month < anchor.first_month)) {
            discard(&path)
        } else {
            continue;
        };
        done.map_err(|e| failed(&path, &e))?;
        changed = true;
    }
    if changed {
        files::sync_dir(dir).map_err(|e| failed(dir, &e))?;
    }
    Ok(())
}

/// Deletes a folder so that, cut short, it does not stand there with half its files under its own name.
fn discard(path: &Path) -> io::Result<()> {
    let mut gone = path.as_os_str().to_owned();
    gone.push(GONE);
    let gone = Path::new(&gone);
    remove(gone)?;
    fs::rename(path, gone)?;
    remove(gone)
}

/// Deletes a folder, if there is one.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Gives a folder that is written its name, with everything in it on disk.
pub(super) fn complete(part: &Path, whole: &Path) -> io::Result<()> {
    sync_files(part)?;
    fs::rename(part, whole)?;
    whole.parent().map_or(Ok(()), files::sync_dir)
}

/// Makes everything in a folder durable, its names too.
fn sync_files(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { sync_files(&path)? } else { fs::File::open(path)?.sync_all()? }
    }
    files::sync_dir(dir)
}

pub(super) fn failed(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Failed { what: format!("{}: {error}", path.display()) }
}
