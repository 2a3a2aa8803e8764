//! `ledger reconcile`: a vendor's usage export held against the ledger. Nothing is written to either.

use super::running::RunningRows;
use super::{ReportFormat, Span, failed, tell};
use crate::cli::output::Progress;
use crate::cli::place::{self, Place, Purpose};
use crate::cli::{Exit, say};
use crate::domain::ledger::Entry;
use crate::domain::reconcile::invoice::{Line, Mapping};
use crate::domain::reconcile::{Reconciliation, Tolerance};
use crate::domain::sums::TimeRange;
use crate::domain::time::Wall;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const DAY_US: i64 = 86_400_000_000;

#[derive(Debug, clap::Args)]
pub(super) struct ReconcileArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    span: Span,
    /// The vendor's usage export, CSV with a head line.
    #[arg(long, value_name = "FILE.csv")]
    invoice: PathBuf,
    /// Which column is what: `openai`, `anthropic`, or `day=COLUMN,model=COLUMN,prompt=COLUMN,…`.
    #[arg(long, value_name = "LAYOUT", value_parser = Mapping::parse)]
    map: Mapping,
    /// By how much a figure may differ.
    #[arg(long, value_name = "PERCENT", default_value = "0.5%", value_parser = Tolerance::parse)]
    tolerance: Tolerance,
    /// Only rows of this provider, as the configuration names it; may be given several times. Then models that the invoice lacks
    /// count as well.
    #[arg(long = "provider", value_name = "NAME")]
    providers: Vec<String>,
    #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
    format: ReportFormat,
    /// Left out: stdout.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn reconcile(args: &ReconcileArgs) -> Result<Exit, Exit> {
    let span = args.span.range()?;
    let wrong = |e: String| {
        say(&format!("{}: {e}", args.invoice.display()));
        Exit::Usage
    };
    let lines = read_invoice(&args.invoice, &args.map).map_err(wrong)?;
    let mut found = Reconciliation::new(&args.map, args.tolerance, !args.providers.is_empty());
    lines.iter().filter(|line| span.contains(Wall(i64::from(line.day) * DAY_US))).for_each(|line| found.invoiced(line));
    let Some((first, last)) = found.days() else {
        return Err(wrong("no line is within --from and --to".into()));
    };
    let start_of = |day: u32| Wall(i64::from(day).saturating_mul(DAY_US));
    let range = TimeRange {
        from: Some(span.from.unwrap_or(start_of(first))),
        to: Some(span.to.unwrap_or(start_of(last.saturating_add(1)))),
    };
    rows(args, range, |entry| {
        if args.providers.is_empty() || args.providers.iter().any(|p| **p == *entry.provider) {
            found.counted(entry);
        }
    })?;
    let report = found.report();
    tell(&report, args.format, args.output.as_deref())?;
    Ok(if report.over > 0 { Exit::Violation } else { Exit::Done })
}

/// Reads a whole export before anything else is looked at, so that half a file is no half result.
fn read_invoice(path: &Path, map: &Mapping) -> Result<Vec<Line>, String> {
    let mut file = File::open(path).map_err(|e| e.to_string())?;
    if !ends_in_a_line(&mut file).map_err(|e| e.to_string())? {
        say(&format!("{}: the last line has no end; is the file complete?", path.display()));
    }
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(BufReader::new(file));
    let mut records = reader.records();
    let unreadable = |e: csv::Error| match e.position() {
        Some(at) => format!(
            "line {}: {}",
            at.line(),
            if matches!(e.kind(), csv::ErrorKind::Utf8 { .. }) { "not UTF-8".into() } else { e.to_string() }
        ),
        None => e.to_string(),
    };
    let head = records.next().ok_or("it is empty")?.map_err(unreadable)?;
    let columns = map.find(&head.iter().collect::<Vec<_>>())?;
    let mut lines = Vec::new();
    for record in records {
        let record = record.map_err(unreadable)?;
        let number = record.position().map_or(0, csv::Position::line);
        lines.push(columns.line(number, &record.iter().collect::<Vec<_>>())?);
    }
    if lines.is_empty() {
        return Err("there is a head, and no line after it".into());
    }
    Ok(lines)
}

fn ends_in_a_line(file: &mut File) -> std::io::Result<bool> {
    let mut last = [b'\n'];
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(last == [b'\n'])
}

/// Shows the rows of a time range, of the store or over the wire. One that cannot be read ends it.
fn rows(args: &ReconcileArgs, range: TimeRange, mut each: impl FnMut(&Entry)) -> Result<(), Exit> {
    let mut progress = Progress::new("rows");
    let mut count = 0_u64;
    let mut show = |entry: &Entry| {
        each(entry);
        count += 1;
        if count.is_multiple_of(super::ROWS_A_STEP) {
            progress.at(count);
        }
    };
    match &args.place.url {
        Some(url) => {
            for row in RunningRows::get(url, range, args.place.token.as_deref()).map_err(failed)? {
                show(&row.map_err(failed)?.entry);
            }
        }
        None => {
            let store = args.place.open(Purpose::Read)?;
            for row in store.reader().rows(range).map_err(|e| place::failed(&e))? {
                show(&row.map_err(|e| place::failed(&e))?.entry);
            }
        }
    }
    Ok(())
}
