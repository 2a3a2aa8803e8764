//! `ledger verify`: whether a ledger or an exported file was changed.

use super::{ROWS_A_STEP, failed};
use crate::cli::download::Download;
use crate::cli::output::Progress;
use crate::cli::place::{self, Place, Purpose};
use crate::cli::{Exit, out, say};
use crate::domain::time::Wall;
use crate::store::import::{open_rows, read_rows};
use crate::store::{ChainCheck, Fault, VerifyReport};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    place: Place,
    /// Check an exported file alone, CSV or JSON lines.
    #[arg(long, value_name = "EXPORT", conflicts_with_all = ["store", "url"])]
    file: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = VerifyFormat::Table)]
    format: VerifyFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum VerifyFormat {
    Table,
    Json,
}

pub(super) fn verify(args: &VerifyArgs) -> Result<Exit, Exit> {
    let mut progress = Progress::new("rows");
    let (found, whole) = match (&args.file, &args.place.url) {
        (Some(path), _) => (verify_file(path, &mut progress)?, false),
        (None, Some(url)) => {
            let query = [("format", Some("jsonl".to_owned()))];
            let body = Download::get(url, "/admin/ledger/export", &query, args.place.token.as_deref());
            let body = BufReader::new(body.map_err(failed)?);
            (verify_rows(body, ChainCheck::whole(), &mut progress).map_err(failed)?, true)
        }
        (None, None) => {
            let reader = args.place.open(Purpose::Read)?.reader();
            (reader.verify(&mut |count| progress.at(count)).map_err(|e| place::failed(&e))?, true)
        }
    };
    drop(progress);
    let text = match args.format {
        VerifyFormat::Table => verdict(&found, whole),
        VerifyFormat::Json => format!("{}\n", verdict_json(&found)),
    };
    out(&text);
    Ok(if found.first_bad.is_some() { Exit::Violation } else { Exit::Done })
}

fn verify_file(path: &Path, progress: &mut Progress) -> Result<VerifyReport, Exit> {
    let file = File::open(path).map_err(|e| {
        say(&format!("{}: {e}", path.display()));
        Exit::Usage
    })?;
    let reader = BufReader::with_capacity(1 << 18, file);
    verify_rows(reader, ChainCheck::part(), progress).map_err(|e| failed(format!("{}: {e}", path.display())))
}

/// Checks exported rows. A line that is no row is a fault of the ledger; a file that is no export at all is an error.
fn verify_rows(
    file: impl BufRead + 'static,
    mut check: ChainCheck,
    progress: &mut Progress,
) -> Result<VerifyReport, String> {
    let mut count = 0_u64;
    for row in open_rows(file).and_then(read_rows).map_err(|e| e.to_string())? {
        let checked = match row {
            Ok(row) => check.next(&row),
            Err(error) => Err(Fault { seq: check.next_seq(), at: None, what: format!("{error}") }),
        };
        if let Err(fault) = checked {
            return Ok(check.report(Some(fault)));
        }
        count += 1;
        if count.is_multiple_of(ROWS_A_STEP) {
            progress.at(count);
        }
    }
    Ok(check.report(None))
}

fn verdict(found: &VerifyReport, whole: bool) -> String {
    let hash = blake3::Hash::from_bytes(found.last_hash).to_hex();
    let rows = match (found.first_seq, found.last_seq) {
        (Some(first), Some(last)) => format!("rows {first} to {last} follow each other unchanged, last hash {hash}\n"),
        _ => "no rows\n".to_owned(),
    };
    match &found.first_bad {
        None if whole => format!("ok: {rows}"),
        None => format!("ok: {rows}what was cut off before or after them cannot be told from the file alone\n"),
        Some(fault) => {
            let at = fault.at.map_or_else(String::new, |at| format!(" of {}", at.to_rfc3339()));
            format!("violation: row {}{at}: {}\nbefore it: {rows}", fault.seq, fault.what)
        }
    }
}

fn verdict_json(found: &VerifyReport) -> serde_json::Value {
    let fault = found
        .first_bad
        .as_ref()
        .map(|fault| serde_json::json!({"seq": fault.seq, "at": fault.at.map(Wall::to_rfc3339), "what": fault.what}));
    serde_json::json!({
        "ok": found.first_bad.is_none(),
        "rows": found.rows,
        "first_seq": found.first_seq,
        "last_seq": found.last_seq,
        "last_hash": blake3::Hash::from_bytes(found.last_hash).to_hex().as_str(),
        "first_bad": fault,
    })
}
