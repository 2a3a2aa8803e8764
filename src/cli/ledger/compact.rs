//! `ledger compact`: removes old rows of a stopped gateway's ledger and gives their disk space back. Their sums stay.

use super::failed;
use crate::cli::output::Progress;
use crate::cli::place::{self, Place, Purpose};
use crate::cli::{Exit, out, say};
use crate::config;
use crate::config::scalar::parse_days;
use crate::domain::time::Wall;
use crate::store::{Removal, StoreError};
use crate::{clock, domain};
use std::path::Path;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(super) struct CompactArgs {
    #[command(flatten)]
    place: Place,
    /// Keep the rows of so many days, such as 90d, up to now. Left out with --before: what `store.retention.rows` says.
    #[arg(long, value_name = "DAYS", value_parser = days, conflicts_with = "before")]
    keep: Option<Duration>,
    /// Keep the rows from this UTC day on.
    #[arg(long, value_name = "DATE", value_parser = Wall::parse)]
    before: Option<Wall>,
    /// Only say what would go.
    #[arg(long)]
    dry_run: bool,
    #[arg(long, value_enum, default_value_t = CompactFormat::Table)]
    format: CompactFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum CompactFormat {
    Table,
    Json,
}

fn days(text: &str) -> Result<Duration, String> {
    parse_days(text).ok_or_else(|| format!("`{text}` is no number of days from 1d to 36500d, such as 90d"))
}

fn usage(why: &str) -> Exit {
    say(why);
    Exit::Usage
}

pub(super) fn compact(args: &CompactArgs) -> Result<Exit, Exit> {
    if args.place.url.is_some() {
        return Err(usage(
            "compact works on the store of a stopped gateway; a running one removes whole months by itself, as store.retention says",
        ));
    }
    let now = clock::wall();
    let before = before(args, now)?;
    let purpose = if args.dry_run { Purpose::Read } else { Purpose::Change };
    let store = args.place.try_open(purpose)?.map_err(|e| match e {
        StoreError::InUse { .. } => failed(format!(
            "{e}; stop the gateway first, or let it remove whole months by itself: store.retention in its configuration"
        )),
        e => place::failed(&e),
    })?;
    let held = size(store.path());
    let removed = if args.dry_run {
        store.reader().removal(before, false).map_err(|e| place::failed(&e))?
    } else {
        let mut writer = store.ledger_writer().map_err(|e| place::failed(&e))?;
        let mut progress = Progress::new("rows copied");
        let planned = store.reader().removal(before, false).map_err(|e| place::failed(&e))?;
        progress.expect(planned.map_or(0, |planned| planned.rows_to_copy));
        let removed = writer.remove_before(before, false, now, &mut |count| progress.at(count));
        let removed = removed.map_err(|e| place::failed(&e))?;
        drop(progress);
        writer.close().map_err(|e| place::failed(&e))?;
        removed
    };
    let freed = held.saturating_sub(size(store.path()));
    out(&match args.format {
        CompactFormat::Table => table(removed.as_ref(), before, args.dry_run, freed),
        CompactFormat::Json => format!("{}\n", json(removed.as_ref(), args.dry_run, freed)),
    });
    Ok(Exit::Done)
}

/// From which UTC day on rows are kept.
fn before(args: &CompactArgs, now: Wall) -> Result<Wall, Exit> {
    if let Some(before) = args.before {
        if before != before.day_begin() {
            return Err(usage("--before is not the beginning of a UTC day: give a date, such as 2026-11-01"));
        }
        if before > now {
            return Err(usage("--before lies in the future"));
        }
        return Ok(before);
    }
    let keep = match args.keep {
        Some(keep) => Some(keep),
        None if args.place.store.is_some() => None,
        None => {
            let store = config::load_store(&args.place.config).map_err(|faults| usage(&faults.to_string()))?;
            store.retention.rows
        }
    };
    let keep = keep.ok_or_else(|| {
        usage("nothing says what to keep: give --keep 90d or --before DATE, or set store.retention.rows")
    })?;
    Ok(domain::time::Wall::minus(now, keep).day_begin())
}

fn table(removed: Option<&Removal>, before: Wall, dry_run: bool, freed: u64) -> String {
    let Some(removed) = removed else { return format!("no rows before {}\n", before.to_rfc3339()) };
    let Removal { first_seq, last_seq, before, .. } = removed;
    let done = if dry_run { "would be removed" } else { "removed" };
    let mut text =
        format!("rows {first_seq} to {last_seq} {done}: all before {}; their sums stay\n", before.to_rfc3339());
    if !removed.months.is_empty() {
        text += &format!("whole months: {}\n", removed.months.join(", "));
    }
    if let Some(month) = &removed.rewritten {
        text += &format!("written anew: {month}, {} rows\n", removed.rows_to_copy);
    }
    if !dry_run {
        text += &format!("{freed} bytes less on disk\n");
    }
    text
}

fn json(removed: Option<&Removal>, dry_run: bool, freed: u64) -> serde_json::Value {
    let rows = removed.map(|r| {
        serde_json::json!({
            "first_seq": r.first_seq,
            "last_seq": r.last_seq,
            "before": r.before.to_rfc3339(),
            "months": r.months,
            "rewritten": r.rewritten,
        })
    });
    serde_json::json!({"dry_run": dry_run, "removed": rows, "freed_bytes": freed})
}

/// Bytes of all files below a folder, as far as they can be seen.
fn size(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => size(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}
