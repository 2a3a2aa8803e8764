//! `ledger export`: the rows of a time range as a file or a stream, in constant memory.

use super::running::damage;
use super::{ROWS_A_STEP, Span, failed, is_broken_pipe, sidecar};
use crate::cli::download::Download;
use crate::cli::output::{Output, Progress};
use crate::cli::place::{self, Place, Purpose};
use crate::cli::{Exit, say};
use crate::clock;
use crate::domain::filter::RowFilter;
use crate::store::stream::{ExportShape, ExportStream};
use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;

const REPORTED_FAULTS: u64 = 10;

#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    span: Span,
    #[command(flatten)]
    filter: FilterArgs,
    #[arg(long, default_value = "csv", value_parser = ["csv", "jsonl", "parquet"])]
    format: String,
    /// Compress with gzip.
    #[arg(long, conflicts_with = "zstd")]
    gzip: bool,
    /// Compress with zstd.
    #[arg(long)]
    zstd: bool,
    /// Left out: stdout. A file appears when it is complete.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Which rows; all that is given has to hold.
#[derive(Debug, clap::Args)]
struct FilterArgs {
    /// Only rows of this upstream model.
    #[arg(long)]
    model: Option<String>,
    /// Only rows of this endpoint.
    #[arg(long)]
    endpoint: Option<String>,
    /// Only rows of the virtual key with this id.
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Only rows of this outcome, such as `success`.
    #[arg(long)]
    outcome: Option<String>,
    /// Only rows with this tag; may be given several times.
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = RowFilter::parse_tag)]
    tags: Vec<(String, String)>,
}

impl FilterArgs {
    fn filter(&self) -> RowFilter {
        RowFilter {
            model: self.model.clone(),
            endpoint: self.endpoint.clone(),
            key: self.key.clone(),
            outcome: self.outcome.clone(),
            tags: self.tags.clone(),
        }
    }

    fn query(&self) -> Vec<(&'static str, Option<String>)> {
        let one =
            [("model", &self.model), ("endpoint", &self.endpoint), ("key", &self.key), ("outcome", &self.outcome)];
        let tags = self.tags.iter().map(|(name, value)| ("tag", Some(format!("{name}={value}"))));
        one.into_iter().map(|(name, value)| (name, value.clone())).chain(tags).collect()
    }
}

impl ExportArgs {
    fn compression(&self) -> Option<&'static str> {
        if self.gzip {
            return Some("gzip");
        }
        self.zstd.then_some("zstd")
    }
}

pub(super) fn export(args: &ExportArgs) -> Result<Exit, Exit> {
    let range = args.span.range()?;
    let shape = ExportShape::parse(&args.format, args.compression()).map_err(|e| {
        say(&e);
        Exit::Usage
    })?;
    if let Some(url) = &args.place.url {
        return download(args, url);
    }
    let store = args.place.open(Purpose::Read)?;
    let reader = store.reader();
    if args.span.from.is_some() {
        reader.has_rows_of(range).map_err(|e| place::failed(&e))?;
    } else if let Some(removed) = reader.removed() {
        say(&format!("{removed}: the export begins after them"));
    }
    let rows = reader.rows(range).map_err(|e| place::failed(&e))?;
    let mut stream = ExportStream::new(shape).map_err(failed)?;
    let mut output = Output::open(args.output.as_deref()).map_err(failed)?;
    let (mut progress, mut count, mut unread) = (Progress::new("rows"), 0_u64, 0_u64);
    progress.expect(rows.most());
    let filter = args.filter.filter();
    for row in rows {
        match row {
            Ok(row) if filter.wants(&row.entry) => stream.row(&row).map_err(failed)?,
            Ok(_) => {}
            Err(error) => {
                unread += 1;
                if unread <= REPORTED_FAULTS {
                    say(&error.to_string());
                }
            }
        }
        count += 1;
        if count.is_multiple_of(ROWS_A_STEP) {
            progress.at(count);
            let ready = stream.ready().map_err(failed)?;
            if send(&mut output, &ready)? {
                return Ok(Exit::Done);
            }
        }
    }
    // What lacks rows is not vouched for.
    let sign = |statement| reader.sign(statement).filter(|_| unread == 0);
    let (last, checkpoint) = stream.finish(clock::wall(), sign).map_err(failed)?;
    if send(&mut output, &last)? {
        return Ok(Exit::Done);
    }
    finish(args, output, checkpoint.map(|c| c.to_json()))?;
    if unread > 0 {
        return Err(failed(format!("{unread} faults: the export lacks what cannot be read")));
    }
    Ok(Exit::Done)
}

/// Completes the output, with its checkpoint beside it if it is a file that does not hold its own.
fn finish(args: &ExportArgs, output: Output, checkpoint: Option<String>) -> Result<(), Exit> {
    output.finish().map_err(failed)?;
    let Some(path) = args.output.as_deref().filter(|_| args.format != "parquet") else { return Ok(()) };
    let beside = sidecar(path);
    match checkpoint {
        Some(checkpoint) => {
            let mut output = Output::open(Some(&beside)).map_err(failed)?;
            let written = output.write_all(checkpoint.as_bytes()).and_then(|()| output.write_all(b"\n"));
            written.map_err(failed)?;
            output.finish().map_err(failed)
        }
        // An older export's would accuse this one.
        None => match std::fs::remove_file(&beside) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(failed(format!("{}: {e}", beside.display()))),
            _ => Ok(()),
        },
    }
}

/// An export of a running gateway.
fn download(args: &ExportArgs, url: &str) -> Result<Exit, Exit> {
    let token = args.place.token.as_deref();
    let (format, compress) = (args.format.clone(), args.compression().map(str::to_owned));
    let mut query = args.span.query().to_vec();
    query.extend([("format", Some(format)), ("compress", compress)]);
    query.extend(args.filter.query());
    let body = Download::get(url, "/admin/ledger/export", &query, token).map_err(failed)?;
    let id = body.header("x-breakwater-export-id");
    let mut output = Output::open(args.output.as_deref()).map_err(failed)?;
    match copy(body, &mut output) {
        Ok(()) => {}
        Err(e) if is_broken_pipe(&e) => return Ok(Exit::Done),
        Err(e) => {
            let damage = id.as_deref().and_then(|id| damage(url, id, token).ok().flatten());
            return Err(failed(damage.map_or_else(|| format!("the export broke off: {e}"), |damage| damage.what)));
        }
    }
    let wanted = id.filter(|_| args.output.is_some() && args.format != "parquet");
    let checkpoint = wanted.map(|id| {
        let answer = Download::get(url, &format!("/admin/ledger/export/{id}"), &[], token);
        answer.and_then(Download::json::<serde_json::Value>).map(|json| json.to_string())
    });
    finish(args, output, checkpoint.transpose().map_err(failed)?)?;
    Ok(Exit::Done)
}

/// Writes bytes; whether their reader went away.
fn send(output: &mut Output, bytes: &[u8]) -> Result<bool, Exit> {
    match output.write_all(bytes) {
        Err(e) if is_broken_pipe(&e) => Ok(true),
        done => done.map(|()| false).map_err(failed),
    }
}

fn copy(mut from: impl Read, output: &mut Output) -> io::Result<()> {
    let (mut progress, mut buffer, mut count) = (Progress::new("bytes"), vec![0; 64 << 10], 0_u64);
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        output.write_all(buffer.get(..read).unwrap_or_default())?;
        count += read as u64;
        progress.at(count);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{filled, ledger};
    use super::*;
    use crate::store::import::{open_rows, read_rows};
    use std::fs::File;
    use std::io::BufReader;

    #[test]
    fn filters_and_compressions_go_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        drop(filled(&dir.path().join("store"), 1_000));
        let (store, out) = (path("store"), path("out"));
        let read = |words: &[&str]| {
            assert_eq!(ledger(&[&["export", "--store", &store, "--output", &out], words].concat()), Exit::Done);
            let file = open_rows(BufReader::new(File::open(&out).unwrap())).unwrap();
            read_rows(file).unwrap().map(Result::unwrap).collect::<Vec<_>>()
        };
        let all = read(&[]);
        for (words, wants) in [
            (
                &["--gzip", "--model", "gpt-4.1"][..],
                RowFilter { model: Some("gpt-4.1".into()), ..RowFilter::default() },
            ),
            (
                &["--zstd", "--key", "key_1", "--format", "jsonl"],
                RowFilter { key: Some("key_1".into()), ..RowFilter::default() },
            ),
            (
                &["--outcome", "cancelled", "--endpoint", "gpt"],
                RowFilter { outcome: Some("cancelled".into()), endpoint: Some("gpt".into()), ..RowFilter::default() },
            ),
            (&["--tag", "team=t0"], RowFilter { tags: vec![("team".into(), "t0".into())], ..RowFilter::default() }),
        ] {
            let expected: Vec<_> = all.iter().filter(|row| wants.wants(&row.entry)).cloned().collect();
            assert!(!expected.is_empty() && expected.len() < all.len(), "{words:?}");
            assert_eq!(read(words), expected, "{words:?}");
        }
        assert_eq!(ledger(&["export", "--store", &store, "--format", "parquet", "--output", &out]), Exit::Done);
        assert_eq!(&std::fs::read(&out).unwrap()[..4], b"PAR1");
        assert_eq!(ledger(&["verify", "--file", &out]), Exit::Done);
        assert_eq!(ledger(&["export", "--store", &store, "--format", "parquet", "--gzip"]), Exit::Usage);
        for packed in ["--gzip", "--zstd"] {
            assert_eq!(ledger(&["export", "--store", &store, packed, "--output", &out]), Exit::Done);
            assert_eq!(ledger(&["verify", "--file", &out]), Exit::Done);
            let whole = std::fs::read(&out).unwrap();
            std::fs::write(&out, &whole[..whole.len() / 2]).unwrap();
            std::fs::remove_file(sidecar(out.as_ref())).unwrap();
            assert_eq!(ledger(&["verify", "--file", &out]), Exit::Violation, "cut off");
        }
    }
}
