//! `breakwater ledger`: the cost ledger of a stopped gateway's store, or with `--url` of a running one.
//!
//! What cannot be read is said on stderr and ends in exit code 1, after everything else was written; a ledger that was changed
//! ends `verify` in exit code 3.

mod accounts;
mod export;

use super::download::Download;
use super::output::{Output, Progress};
use super::place::{self, Place, Purpose};
use super::{Exit, say};
use crate::domain::report::Report;
use crate::domain::sums::{GroupBy, TimeRange};
use crate::domain::time::Wall;
use crate::store::import::{open_rows, read_rows};
use crate::store::{ChainCheck, Fault, VerifyReport};
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

const ROWS_A_STEP: u64 = 4_096;

#[derive(Debug, clap::Args)]
pub struct LedgerArgs {
    #[command(subcommand)]
    command: LedgerCommand,
}

#[derive(Debug, clap::Subcommand)]
enum LedgerCommand {
    /// Write the rows of a time range.
    Export(export::ExportArgs),
    /// Sum up requests, success, latency, tokens and cost.
    Report(ReportArgs),
    /// What the same tokens would have cost on one endpoint or model.
    Savings(accounts::SavingsArgs),
    /// Check the chain of hashes: nothing changed, removed, added or cut off.
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
struct Span {
    /// From this moment on: a date, or an RFC 3339 time.
    #[arg(long, value_name = "TIME", value_parser = Wall::parse)]
    from: Option<Wall>,
    /// Up to this moment, which is not part of it.
    #[arg(long, value_name = "TIME", value_parser = Wall::parse)]
    to: Option<Wall>,
}

impl Span {
    fn range(&self) -> Result<TimeRange, Exit> {
        match (self.from, self.to) {
            (Some(from), Some(to)) if to <= from => {
                say("--to is not after --from");
                Err(Exit::Usage)
            }
            (from, to) => Ok(TimeRange { from, to }),
        }
    }

    fn query(&self) -> [(&'static str, Option<String>); 2] {
        [("from", self.from.map(Wall::to_rfc3339)), ("to", self.to.map(Wall::to_rfc3339))]
    }
}

#[derive(Debug, clap::Args)]
struct ReportArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    span: Span,
    /// model, endpoint, route, key, tag:NAME, day, hour or total.
    #[arg(long, value_name = "WHAT", default_value = "model", value_parser = GroupBy::parse)]
    group_by: GroupBy,
    /// Instead: what failovers, retries and hedges rescued, and what that cost.
    #[arg(long, conflicts_with = "group_by")]
    resilience: bool,
    #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
    format: ReportFormat,
    /// Left out: stdout.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ReportFormat {
    Table,
    Json,
    Csv,
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    #[command(flatten)]
    place: Place,
    /// Check an exported file alone, CSV or JSON lines.
    #[arg(long, value_name = "EXPORT", conflicts_with_all = ["store", "url"])]
    file: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = VerifyFormat::Table)]
    format: VerifyFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum VerifyFormat {
    Table,
    Json,
}

/// Runs a ledger command.
#[must_use]
pub fn run(args: &LedgerArgs) -> Exit {
    let ended = match &args.command {
        LedgerCommand::Export(args) => export::export(args),
        LedgerCommand::Report(args) => report(args),
        LedgerCommand::Savings(args) => accounts::savings(args),
        LedgerCommand::Verify(args) => verify(args),
    };
    ended.unwrap_or_else(|exit| exit)
}

/// Says why a command failed while running.
fn failed(why: impl std::fmt::Display) -> Exit {
    say(&why.to_string());
    Exit::Failed
}

fn is_broken_pipe(error: &io::Error) -> bool {
    error.kind() == ErrorKind::BrokenPipe
}

fn report(args: &ReportArgs) -> Result<Exit, Exit> {
    if args.resilience {
        return accounts::resilience(args);
    }
    let range = args.span.range()?;
    let report: Report = match &args.place.url {
        Some(url) => {
            let [from, to] = args.span.query();
            let query = [from, to, ("group_by", Some(args.group_by.spelled()))];
            let answer = Download::get(url, "/admin/ledger", &query, args.place.token.as_deref());
            answer.and_then(Download::json).map_err(failed)?
        }
        None => {
            let reader = args.place.open(Purpose::Read)?.reader();
            let rows = reader.sums(range, &args.group_by).map_err(|e| place::failed(&e))?;
            Report::new(&args.group_by, rows)
        }
    };
    let text = match args.format {
        ReportFormat::Table => report.to_table(),
        ReportFormat::Json => format!("{:#}\n", report.to_json()),
        ReportFormat::Csv => report.to_csv(),
    };
    write(args.output.as_deref(), &text)
}

/// Writes a whole text to a file or stdout.
fn write(path: Option<&Path>, text: &str) -> Result<Exit, Exit> {
    let mut output = Output::open(path).map_err(failed)?;
    match output.write_all(text.as_bytes()) {
        Err(e) if is_broken_pipe(&e) => Ok(Exit::Done),
        done => done.map_err(|e| e.to_string()).and_then(|()| output.finish()).map(|()| Exit::Done).map_err(failed),
    }
}

fn verify(args: &VerifyArgs) -> Result<Exit, Exit> {
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
    super::out(&text);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{LedgerItem, OpenOptions, Store, sample};
    use clap::Parser;
    use std::net::TcpListener;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: LedgerArgs,
    }

    pub(super) fn ledger(words: &[&str]) -> Exit {
        run(&Line::try_parse_from([&["ledger"], words].concat()).unwrap().args)
    }

    pub(super) fn filled(path: &Path, rows: u64) -> Store {
        let (store, _) = Store::open(&OpenOptions::at(path, sample::START)).unwrap();
        let mut writer = store.ledger_writer().unwrap();
        let items: Vec<_> = (0..rows).map(|n| LedgerItem::Row(sample::nth(n))).collect();
        writer.append(&items, sample::START).unwrap();
        writer.close().unwrap();
        store
    }

    #[test]
    fn an_export_sums_up_to_the_report_and_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        drop(filled(&dir.path().join("store"), 1_000));
        let (store, csv, jsonl, json) = (path("store"), path("out.csv"), path("out.jsonl"), path("out.json"));
        assert_eq!(ledger(&["export", "--store", &store, "--output", &csv]), Exit::Done);
        let part = ["--from", "2026-11-23T18:00:01Z", "--to", "2026-11-23T18:00:02Z"];
        let words = [&["export", "--store", &store, "--format", "jsonl", "--output", &jsonl], &part[..]].concat();
        assert_eq!(ledger(&words), Exit::Done);
        let words = ["report", "--store", &store, "--group-by", "tag:team", "--format", "json", "--output", &json];
        assert_eq!(ledger(&words), Exit::Done);
        let report: Report = serde_json::from_reader(File::open(&json).unwrap()).unwrap();
        let rows = |path: &str| read_rows(BufReader::new(File::open(path).unwrap())).unwrap().map(Result::unwrap);
        let cost: i64 = rows(&csv).filter_map(|row| row.entry.cost).map(|cost| cost.0).sum();
        assert_eq!((report.total.cost_nanousd, report.total.attempts), (cost, 1_000));
        assert_eq!(rows(&jsonl).map(|row| row.seq).collect::<Vec<_>>(), (101..=200).collect::<Vec<_>>());
        for file in [&csv, &jsonl] {
            assert_eq!(ledger(&["verify", "--file", file]), Exit::Done);
        }
        assert_eq!(ledger(&["verify", "--store", &store]), Exit::Done);
    }

    #[test]
    fn a_changed_export_is_a_violation() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        drop(filled(&dir.path().join("store"), 50));
        let (store, csv) = (path("store"), path("out.csv"));
        assert_eq!(ledger(&["export", "--store", &store, "--output", &csv]), Exit::Done);
        let text = std::fs::read_to_string(&csv).unwrap();
        let changed = |change: &dyn Fn(&mut Vec<&str>)| {
            let mut lines: Vec<_> = text.lines().collect();
            change(&mut lines);
            std::fs::write(path("changed.csv"), lines.join("\n")).unwrap();
            ledger(&["verify", "--file", &path("changed.csv")])
        };
        assert_eq!(changed(&|_| {}), Exit::Done);
        assert_eq!(
            changed(&|lines| {
                lines.remove(20);
            }),
            Exit::Violation
        );
        assert_eq!(changed(&|lines| lines.swap(20, 21)), Exit::Violation);
        assert_eq!(changed(&|lines| lines.insert(20, lines[19])), Exit::Violation);
        assert_eq!(changed(&|lines| lines[20] = "nonsense"), Exit::Violation);
        let cheaper = text.replacen(",5101", ",5001", 1);
        assert_ne!(cheaper, text);
        std::fs::write(path("changed.csv"), cheaper).unwrap();
        assert_eq!(ledger(&["verify", "--file", &path("changed.csv"), "--format", "json"]), Exit::Violation);
        assert_eq!(changed(&|lines| lines[0] = "a,b"), Exit::Failed);
        assert_eq!(ledger(&["verify", "--file", &path("absent.csv")]), Exit::Usage);
    }

    #[test]
    fn a_running_gateways_store_and_a_missing_one_end_in_their_exit_codes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let name = path.display().to_string();
        assert_eq!(ledger(&["report", "--store", &name]), Exit::Usage);
        assert!(!path.exists());
        let running = filled(&path, 10);
        for command in ["export", "report", "verify"] {
            assert_eq!(ledger(&[command, "--store", &name]), Exit::Failed);
        }
        drop(running);
        assert_eq!(ledger(&["report", "--store", &name, "--from", "2026-02-02", "--to", "2026-02-01"]), Exit::Usage);
        assert_eq!(ledger(&["report", "--config", "/absent/config.yaml"]), Exit::Usage);
        assert!(Line::try_parse_from(["ledger", "report", "--from", "noon"]).is_err());
        assert!(Line::try_parse_from(["ledger", "export", "--gzip", "--zstd"]).is_err());
        assert!(Line::try_parse_from(["ledger", "export", "--tag", "team"]).is_err());
    }

    /// Answers one request with `body` in chunks, whole or broken off, and gives back the request's head.
    fn answering(body: Vec<u8>, whole: bool) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = String::new();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            while lines.read_line(&mut head).unwrap() > 2 {}
            write!(stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
            for chunk in body.chunks(1_000) {
                write!(stream, "{:x}\r\n", chunk.len()).unwrap();
                stream.write_all(chunk).unwrap();
                write!(stream, "\r\n").unwrap();
            }
            if whole {
                write!(stream, "0\r\n\r\n").unwrap();
            }
            head
        });
        (url, thread)
    }

    #[test]
    fn a_running_gateway_is_asked_over_its_admin_api() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        drop(filled(&dir.path().join("store"), 100));
        let rows = path("rows.jsonl");
        assert_eq!(ledger(&["export", "--store", &path("store"), "--format", "jsonl", "--output", &rows]), Exit::Done);
        let body = std::fs::read(&rows).unwrap();
        let (url, asked) = answering(body.clone(), true);
        let (out, from) = (path("remote.jsonl"), "2026-11-01");
        let words = ["--url", &url, "--token", "t", "--format", "jsonl", "--from", from, "--output", &out];
        assert_eq!(ledger(&[&["export"], &words[..]].concat()), Exit::Done);
        assert_eq!(std::fs::read(&out).unwrap(), body);
        let head = asked.join().unwrap();
        let line = "GET /admin/ledger/export?from=2026-11-01T00%3A00%3A00.000000Z&format=jsonl HTTP/1.1";
        assert!(head.starts_with(line) && head.contains("authorization: Bearer t\r\n"), "{head}");
        let (url, asked) = answering(body.clone(), true);
        assert_eq!(ledger(&["verify", "--url", &url, "--token", "t"]), Exit::Done);
        asked.join().unwrap();
        // Broken off in the middle: no file, no verdict.
        let (url, asked) = answering(body, false);
        let cut = path("cut.jsonl");
        let words = ["export", "--url", &url, "--token", "t", "--format", "jsonl", "--output", &cut];
        assert_eq!(ledger(&words), Exit::Failed);
        assert!(!Path::new(&cut).exists());
        asked.join().unwrap();
        let report = path("report.json");
        assert_eq!(ledger(&["report", "--store", &path("store"), "--format", "json", "--output", &report]), Exit::Done);
        let (url, asked) = answering(std::fs::read(&report).unwrap(), true);
        let (remote, local) = (path("remote.csv"), path("local.csv"));
        let words = ["report", "--url", &url, "--token", "t", "--format", "csv", "--output", &remote];
        assert_eq!(ledger(&words), Exit::Done);
        assert!(asked.join().unwrap().starts_with("GET /admin/ledger?group_by=model HTTP/1.1"));
        assert_eq!(ledger(&["report", "--store", &path("store"), "--format", "csv", "--output", &local]), Exit::Done);
        assert_eq!(std::fs::read(&remote).unwrap(), std::fs::read(&local).unwrap());
        assert_eq!(ledger(&["report", "--url", "http://127.0.0.1:1", "--token", "t"]), Exit::Failed);
    }

    #[test]
    fn a_damaged_row_is_said_and_the_rest_is_exported() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let store = filled(&dir.path().join("store"), 100);
        store.damage_for_test(40);
        drop(store);
        let out = path("out.csv");
        assert_eq!(ledger(&["export", "--store", &path("store"), "--output", &out]), Exit::Failed);
        let rows = read_rows(BufReader::new(File::open(&out).unwrap())).unwrap();
        let left: Vec<_> = rows.map(|row| row.unwrap().seq).collect();
        assert_eq!(left, (1..=100).filter(|seq| *seq != 40).collect::<Vec<_>>());
        assert_eq!(ledger(&["verify", "--store", &path("store")]), Exit::Violation);
    }
}
