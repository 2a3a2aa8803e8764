//! `ledger verify`: whether a ledger or an exported file was changed.
//!
//! A store is held against the checkpoints that it has signed, an exported file against the one that it carries: Parquet in itself, the
//! others in `FILE.sig` beside it. Whose signature counts is said by `--public-key`; without it, by the keys in the store's folder.

use super::running::{Broken, Damage, RunningRows};
use super::{failed, sidecar};
use crate::cli::download::Download;
use crate::cli::output::Progress;
use crate::cli::place::{self, Place, Purpose};
use crate::cli::{Exit, out, say};
use crate::domain::checkpoint::{Checkpoint, hex, unhex};
use crate::domain::ledger::Row;
use crate::domain::sums::TimeRange;
use crate::domain::time::Wall;
use crate::store::import::{RowFault, open_rows, read_rows};
use crate::store::readback::read_parquet;
use crate::store::{Fault, SignedRecord, Trust, VerifyReport, check_export, check_ledger, parse_public_keys};
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    place: Place,
    /// Check an exported file alone: CSV or JSON lines, compressed or not, or Parquet.
    #[arg(long, value_name = "EXPORT", conflicts_with_all = ["store", "url"])]
    file: Option<PathBuf>,
    /// A signed checkpoint that was kept elsewhere: what it vouches for must be there. Left out with --file: EXPORT.sig, if it is there.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Only signatures by this key hold: 64 hexadecimal digits, or a file with some. May be given several times.
    #[arg(long, value_name = "HEX_OR_FILE")]
    public_key: Vec<String>,
    #[arg(long, value_enum, default_value_t = VerifyFormat::Table)]
    format: VerifyFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum VerifyFormat {
    Table,
    Json,
}

pub(super) fn verify(args: &VerifyArgs) -> Result<Exit, Exit> {
    let trust = trust(&args.public_key)?;
    let elsewhere = args.checkpoint.as_deref().map(|path| read_checkpoint(path).map_err(|e| usage(&e))).transpose()?;
    let mut progress = Progress::new("rows");
    let (found, whole) = match (&args.file, &args.place.url) {
        (Some(path), _) => (verify_file(path, elsewhere, &trust.unwrap_or(Trust::Any), &mut progress)?, false),
        (None, Some(url)) => (verify_running(url, args, elsewhere, trust, &mut progress)?, true),
        (None, None) => {
            let reader = args.place.open(Purpose::Read)?.reader();
            progress.expect(reader.durable_seq());
            let elsewhere = elsewhere.into_iter().collect();
            (reader.verify_by(trust, elsewhere, &mut |count| progress.at(count)).map_err(|e| place::failed(&e))?, true)
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

fn usage(why: &str) -> Exit {
    say(why);
    Exit::Usage
}

/// The keys that were given; `None`: none was.
fn trust(given: &[String]) -> Result<Option<Trust>, Exit> {
    let mut keys = Vec::new();
    for given in given {
        match unhex(given) {
            Ok(key) => keys.push(key),
            Err(_) => {
                let text = std::fs::read_to_string(given);
                let text = text.map_err(|e| {
                    usage(&format!("--public-key {given}: neither 64 hexadecimal digits nor a file: {e}"))
                })?;
                keys.extend(parse_public_keys(&text).map_err(|e| usage(&format!("{given}: {e}")))?);
            }
        }
    }
    Ok((!keys.is_empty()).then_some(Trust::Demanded(keys)))
}

fn read_checkpoint(path: &Path) -> Result<Checkpoint, String> {
    let text = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Checkpoint::from_json(&text).map_err(|e| format!("{}: {e}", path.display()))
}

type ReadRows = Box<dyn Iterator<Item = Result<Row, RowFault>>>;

/// Opens an exported file, with the checkpoint that it carries or that is beside it.
fn open_export(path: &Path) -> Result<(ReadRows, Option<Checkpoint>), Exit> {
    let wrong = |e: String| usage(&format!("{}: {e}", path.display()));
    let mut file = File::open(path).map_err(|e| usage(&format!("{}: {e}", path.display())))?;
    let mut start = Vec::new();
    Read::by_ref(&mut file).take(4).read_to_end(&mut start).map_err(|e| wrong(e.to_string()))?;
    let file = File::open(path).map_err(|e| usage(&format!("{}: {e}", path.display())))?;
    if start == b"PAR1" {
        return read_parquet(file).map_err(|e| wrong(e.what));
    }
    let reader = BufReader::with_capacity(1 << 18, file);
    let rows = open_rows(reader).and_then(read_rows).map_err(|e| wrong(e.to_string()))?;
    let beside = sidecar(path);
    let checkpoint = match std::fs::read(&beside) {
        Ok(text) => Some(Checkpoint::from_json(&text).map_err(|e| usage(&format!("{}: {e}", beside.display())))?),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(usage(&format!("{}: {e}", beside.display()))),
    };
    Ok((rows, checkpoint))
}

fn verify_file(
    path: &Path,
    elsewhere: Option<Checkpoint>,
    trust: &Trust,
    progress: &mut Progress,
) -> Result<VerifyReport, Exit> {
    let (rows, own) = open_export(path)?;
    let checkpoint = elsewhere.or(own);
    progress.expect(checkpoint.as_ref().map_or(0, |c| c.statement.rows));
    let checked = check_export(rows.map(faulty), checkpoint.as_ref(), trust, &mut |count| progress.at(count));
    checked.map_err(failed)
}

/// A line that is no row is a fault of the export.
fn faulty(row: Result<Row, RowFault>) -> Result<Result<Row, Fault>, String> {
    Ok(row.map_err(|error| Fault { seq: 0, at: None, what: error.to_string() }))
}

/// Checks a running gateway's rows here, by what it has signed.
fn verify_running(
    url: &str,
    args: &VerifyArgs,
    elsewhere: Option<Checkpoint>,
    trust: Option<Trust>,
    progress: &mut Progress,
) -> Result<VerifyReport, Exit> {
    let token = args.place.token.as_deref();
    let signed = Download::get(url, "/admin/ledger/checkpoints", &[], token).and_then(Download::json);
    let mut record = signed.and_then(|json| signed_record(&json)).map_err(failed)?;
    record.checkpoints.extend(elsewhere);
    let trust = trust.unwrap_or_else(|| Trust::Keys(record.keys.clone()));
    let rows = RunningRows::get(url, TimeRange::ALL, token).map_err(failed)?.map(|row| match row {
        Ok(row) => Ok(Ok(row)),
        Err(Broken::Damaged(Damage { seq, what })) => Ok(Err(Fault { seq: seq.unwrap_or(0), at: None, what })),
        Err(Broken::Cut(why)) => Err(why),
    });
    check_ledger(rows, record, &trust, &mut |count| progress.at(count)).map_err(failed)
}

/// Reads `GET /admin/ledger/checkpoints`.
fn signed_record(json: &serde_json::Value) -> Result<SignedRecord, String> {
    let one = |value: &serde_json::Value| Checkpoint::from_json(value.to_string().as_bytes());
    let list =
        |name: &str| json.get(name).and_then(serde_json::Value::as_array).ok_or(format!("no `{name}` in the answer"));
    Ok(SignedRecord {
        keys: list("public_keys")?
            .iter()
            .map(|key| unhex(key.as_str().unwrap_or_default()))
            .collect::<Result<_, _>>()?,
        checkpoints: list("checkpoints")?.iter().map(one).collect::<Result<_, _>>()?,
        removed: json.get("removed").filter(|value| !value.is_null()).map(one).transpose()?,
    })
}

fn verdict(found: &VerifyReport, whole: bool) -> String {
    let hash = hex(&found.last_hash);
    let mut text = match (found.first_seq, found.last_seq) {
        (Some(first), Some(last)) if last - first + 1 == found.rows => {
            format!("rows {first} to {last} follow each other unchanged, last hash {hash}\n")
        }
        (Some(first), Some(last)) => {
            format!("{} of the rows {first} to {last}, unchanged, last hash {hash}\n", found.rows)
        }
        _ => "no rows\n".to_owned(),
    };
    if let Some(removed) = &found.removed {
        let s = &removed.statement;
        text += &format!("rows 1 to {} were removed by retention on {}\n", s.seq, s.at.to_rfc3339());
    }
    if let Some(fault) = &found.first_bad {
        let at = fault.at.map_or_else(String::new, |at| format!(" of {}", at.to_rfc3339()));
        return format!("violation: row {}{at}: {}\nbefore it: {text}", fault.seq, fault.what);
    }
    text += &match &found.signed {
        Some(signed) => format!(
            "signed up to row {} on {} with key {}, {} in all\n",
            signed.through,
            signed.at.to_rfc3339(),
            hex(&signed.key),
            if signed.checkpoints == 1 { "1 checkpoint".to_owned() } else { format!("{} checkpoints", signed.checkpoints) },
        ),
        None if whole => "nothing is signed yet: rows whose hashes were all made anew cannot be told\n".to_owned(),
        None => "no checkpoint: what was cut off before or after them, or made anew with its hashes, cannot be told from the file \
                 alone\n"
            .to_owned(),
    };
    format!("ok: {text}")
}

fn verdict_json(found: &VerifyReport) -> serde_json::Value {
    let fault = found
        .first_bad
        .as_ref()
        .map(|fault| serde_json::json!({"seq": fault.seq, "at": fault.at.map(Wall::to_rfc3339), "what": fault.what}));
    let signed = found.signed.as_ref().map(|signed| {
        serde_json::json!({
            "through": signed.through,
            "at": signed.at.to_rfc3339(),
            "key": hex(&signed.key),
            "checkpoints": signed.checkpoints,
        })
    });
    let removed = found.removed.as_ref().map(|c| {
        let s = &c.statement;
        serde_json::json!({"through": s.seq, "at": s.at.to_rfc3339(), "before": s.before.map(Wall::to_rfc3339)})
    });
    serde_json::json!({
        "ok": found.first_bad.is_none(),
        "rows": found.rows,
        "first_seq": found.first_seq,
        "last_seq": found.last_seq,
        "last_hash": hex(&found.last_hash),
        "first_bad": fault,
        "signed": signed,
        "removed": removed,
    })
}
