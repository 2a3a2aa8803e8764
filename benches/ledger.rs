//! The store at scale: `cargo bench --bench ledger [-- --rows N --days N --output FILE.json --enforce]`.
//!
//! Makes a ledger of N rows spread over some weeks, and measures ingest in batches of 512, sums, export, verification, a stop
//! and a start, and what it takes on disk. The sum of costs must be the same by rollups, by exported rows and by what was put
//! in, or the run ends with an error. Ends with 1 if a bar is missed and `--enforce` is given.
//!
//! Making the rows is not counted. Files are in the page cache when they are read back, as they are after a restart of the
//! process alone.

#[path = "support/entries.rs"]
mod entries;
#[path = "support/machine.rs"]
mod machine;

use breakwater::domain::money::NanoUsd;
use breakwater::domain::sums::{GroupBy, TimeRange};
use breakwater::domain::time::Wall;
use breakwater::store::stream::{ExportFormat, ExportShape, ExportStream};
use breakwater::store::{LedgerItem, LedgerReader, OpenOptions, Store, StoreError};
use breakwater::{cli, clock};
use clap::Parser;
use serde_json::json;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The gateway's: memory is measured as it would take it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const BATCH: u64 = 512;
const DAY_US: u64 = 86_400_000_000;
/// Rows after which an export's bytes are taken, as for a response.
const ROWS_A_LOOK: u64 = 64;
const REPEATS: usize = 5;

#[derive(Parser)]
#[command(name = "ledger", about = "The ledger's store at scale")]
struct Arguments {
    /// Rows to make
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rows: u64,
    /// Days that the rows are spread over
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_650))]
    days: u64,
    /// File for the result as JSON
    #[arg(long)]
    output: Option<PathBuf>,
    /// End with 1 if a bar is missed
    #[arg(long)]
    enforce: bool,
    /// Given by `cargo bench`
    #[arg(long = "bench", hide = true)]
    _bench: bool,
}

/// One measured figure.
struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    bar: Bar,
}

#[derive(Clone, Copy)]
enum Bar {
    None,
    AtLeast(f64),
    AtMost(f64),
}

impl Bar {
    fn met(self, value: f64) -> Option<bool> {
        match self {
            Self::None => None,
            Self::AtLeast(bar) => Some(value >= bar),
            Self::AtMost(bar) => Some(value <= bar),
        }
    }
}

impl Figure {
    fn new(what: impl Into<String>, value: f64, unit: &'static str, bar: Bar) -> Self {
        Self { what: what.into(), value, unit, bar }
    }

    fn line(&self) -> String {
        let verdict = match (self.bar, self.bar.met(self.value)) {
            (Bar::AtLeast(bar), Some(true)) => format!("bar at least {bar}: met"),
            (Bar::AtMost(bar), Some(true)) => format!("bar at most {bar}: met"),
            (Bar::AtLeast(bar), _) => format!("bar at least {bar}: MISSED"),
            (Bar::AtMost(bar), _) => format!("bar at most {bar}: MISSED"),
            (Bar::None, _) => String::new(),
        };
        format!("{:<34} {:>14.2} {:<9} {verdict}", self.what, self.value, self.unit).trim_end().to_owned()
    }
}

/// Why there are no figures.
enum Failure {
    Io(&'static str, std::io::Error),
    Store(StoreError),
    /// Two ways to the same sum differ.
    Differs(String),
}

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

fn main() -> ExitCode {
    if !std::env::args().any(|a| a == "--bench") {
        // `cargo test --benches` runs this program too, with arguments of the test harness.
        cli::say("ledger: measures under `cargo bench` only");
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse();
    let fault = match measure(&arguments) {
        Ok(met) if met || !arguments.enforce => return ExitCode::SUCCESS,
        Ok(_) => return ExitCode::FAILURE,
        Err(Failure::Io(doing, e)) => format!("{doing}: {e}"),
        Err(Failure::Store(e)) => e.to_string(),
        Err(Failure::Differs(what)) => what,
    };
    cli::say(&format!("ledger: {fault}"));
    ExitCode::FAILURE
}

/// The whole run; whether every bar is met.
fn measure(arguments: &Arguments) -> Result<bool, Failure> {
    let machine = machine::describe();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|e| Failure::Io("cannot make a folder", e))?;
    let path = dir.path().join("state");
    let mut figures = Vec::new();
    let cost = ingest(arguments, &path, &mut figures)?;
    let disk = size(&path).map_err(|e| Failure::Io("cannot measure the store's folder", e))?;
    figures.push(Figure::new("on disk per row", ratio(disk, arguments.rows), "bytes", Bar::None));

    // As a gateway starts: with everything that has to be there before the first request.
    let (opened, took) = timed(|| {
        let (store, report) = Store::open(&OpenOptions::at(&path, clock::wall()))?;
        store.ledger_writer().map(|writer| (store, report, writer))
    });
    let (store, report, writer) = opened?;
    drop(writer);
    figures.push(Figure::new("start", took.as_secs_f64(), "s", Bar::AtMost(2.0)));
    if report.last_seq != arguments.rows {
        return Err(Failure::Differs(format!("{} of {} rows after the restart", report.last_seq, arguments.rows)));
    }
    let reader = store.reader();
    sums(&reader, arguments, cost, &mut figures)?;
    for (name, compression) in [("csv", None), ("jsonl", None), ("csv", Some("zstd")), ("parquet", None)] {
        export(&reader, arguments, (name, compression), cost, &mut figures)?;
    }
    let (verified, took) = timed(|| reader.verify(&mut |_| {}));
    let verified = verified?;
    if let Some(bad) = verified.first_bad {
        return Err(Failure::Differs(format!("the chain breaks at row {}: {}", bad.seq, bad.what)));
    }
    if verified.signed.is_none_or(|signed| signed.through != arguments.rows) {
        return Err(Failure::Differs("the last row is not signed".into()));
    }
    figures.push(Figure::new("verify", per_second(verified.rows, took), "rows/s", Bar::None));
    figures.push(Figure::new("memory, largest", memory("VmHWM:"), "MiB", Bar::None));
    present(arguments, &machine, &figures)
}

/// Fills the ledger and closes it; gives back the sum of costs.
fn ingest(arguments: &Arguments, path: &Path, figures: &mut Vec<Figure>) -> Result<NanoUsd, Failure> {
    let (store, _) = Store::open(&OpenOptions::at(path, clock::wall()))?;
    let mut writer = store.ledger_writer()?;
    let step = arguments.days.saturating_mul(DAY_US) / arguments.rows;
    let (mut took, mut cost, mut slowest) = (Duration::ZERO, NanoUsd::ZERO, Duration::ZERO);
    let mut next = 0;
    while next < arguments.rows {
        let end = (next + BATCH).min(arguments.rows);
        let items: Vec<LedgerItem> = (next..end).map(|n| LedgerItem::Row(entries::nth(n, step))).collect();
        for item in &items {
            if let LedgerItem::Row(entry) = item {
                cost += entry.cost.unwrap_or_default();
            }
        }
        let (appended, batch) = timed(|| writer.append(&items, clock::wall()));
        appended?;
        took += batch;
        slowest = slowest.max(batch);
        next = end;
    }
    let (closed, stop) = timed(|| writer.close());
    closed?;
    figures.push(Figure::new("ingest", per_second(arguments.rows, took), "rows/s", Bar::AtLeast(100_000.0)));
    figures.push(Figure::new("ingest, slowest batch", slowest.as_secs_f64() * 1e3, "ms", Bar::None));
    figures.push(Figure::new("stop", stop.as_secs_f64() * 1e3, "ms", Bar::None));
    Ok(cost)
}

/// Sums over everything by each group, and over a range that begins and ends within an hour.
fn sums(reader: &LedgerReader, arguments: &Arguments, cost: NanoUsd, figures: &mut Vec<Figure>) -> Result<(), Failure> {
    let day = i64::try_from(DAY_US).unwrap_or(i64::MAX);
    let within = |share: i64| Some(Wall(entries::START.0 + day / share + 1_234_567_890));
    let some_days = TimeRange { from: within(24), to: within(1) };
    let tag = GroupBy::Tag("team".into());
    let all = [GroupBy::Total, GroupBy::Endpoint, GroupBy::Model, GroupBy::Key, tag, GroupBy::Day, GroupBy::Hour];
    let questions = all.into_iter().map(|by| (TimeRange::ALL, by)).chain([(some_days, GroupBy::Endpoint)]);
    for (range, by) in questions {
        let mut times = Vec::new();
        for _ in 0..REPEATS {
            let (rows, took) = timed(|| reader.sums(range, &by));
            let rows = rows?;
            times.push(took);
            let sum: NanoUsd = rows.iter().map(|r| r.tally.cost).sum();
            let attempts: u64 = rows.iter().map(|r| r.tally.attempts).sum();
            if range == TimeRange::ALL && (sum != cost || attempts != arguments.rows) {
                return Err(Failure::Differs(format!("sum by {}: {sum} over {attempts} rows, not {cost}", by.title())));
            }
        }
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        let what = match range == TimeRange::ALL {
            true => format!("sums by {}", by.title()),
            false => format!("sums by {}, a day cut in hours", by.title()),
        };
        figures.push(Figure::new(what, median.as_secs_f64() * 1e3, "ms", Bar::AtMost(50.0)));
    }
    Ok(())
}

/// Writes every row and signs what was written, as for a client that takes what it gets. The memory that this takes is counted from a
/// tenth of the rows on, when every buffer has its size: flat is what an export of any length has to be.
fn export(
    reader: &LedgerReader,
    arguments: &Arguments,
    (format, compression): (&str, Option<&str>),
    cost: NanoUsd,
    figures: &mut Vec<Figure>,
) -> Result<(), Failure> {
    let shape = ExportShape::parse(format, compression).map_err(Failure::Differs)?;
    let io = |e| Failure::Io("cannot export", e);
    let start = clock::now();
    let mut stream = ExportStream::new(shape).map_err(io)?;
    let (mut rows, mut bytes, mut sum) = (0_u64, 0_u64, NanoUsd::ZERO);
    let (mut settled, mut most) = (0.0, 0.0_f64);
    for row in reader.rows(TimeRange::ALL)? {
        let row = row?;
        stream.row(&row).map_err(io)?;
        rows += 1;
        sum += row.entry.cost.unwrap_or_default();
        if rows.is_multiple_of(ROWS_A_LOOK) {
            bytes += std::hint::black_box(stream.ready().map_err(io)?).len() as u64;
        }
        if rows.is_multiple_of((arguments.rows / 100).max(1)) {
            let now = memory("VmRSS:");
            if rows <= arguments.rows / 10 {
                settled = now;
            }
            most = most.max(now);
        }
    }
    let (last, signed) = stream.finish(clock::wall(), |statement| reader.sign(statement)).map_err(io)?;
    let took = clock::now().since(start);
    bytes += last.len() as u64;
    if (rows, sum, signed.map(|s| s.statement.rows)) != (arguments.rows, cost, Some(arguments.rows)) {
        return Err(Failure::Differs(format!("{format} has {rows} rows and {sum} USD, not {cost} USD")));
    }
    let name = compression.map_or_else(|| format.to_owned(), |compression| format!("{format}, {compression}"));
    // What the compressors take is theirs: the bar is on the ledger's own formats.
    let bar = if shape == (ExportShape { format: ExportFormat::Parquet, compression: None }) || compression.is_some() {
        Bar::None
    } else {
        Bar::AtLeast(500_000.0)
    };
    figures.push(Figure::new(format!("export {name}"), per_second(rows, took), "rows/s", bar));
    figures.push(Figure::new(format!("export {name} per row"), ratio(bytes, rows), "bytes", Bar::None));
    figures.push(Figure::new(format!("export {name}, memory grown"), most - settled, "MiB", Bar::AtMost(16.0)));
    Ok(())
}

/// Prints the table, writes the JSON; whether every bar is met.
fn present(arguments: &Arguments, machine: &str, figures: &[Figure]) -> Result<bool, Failure> {
    let mut out = format!("{machine}\n{} rows over {} days\n\n", arguments.rows, arguments.days);
    for figure in figures {
        let _ = writeln!(out, "{}", figure.line());
    }
    cli::out(&out);
    if let Some(file) = &arguments.output {
        let list: Vec<_> = figures
            .iter()
            .map(|f| json!({"what": f.what, "value": f.value, "unit": f.unit, "met": f.bar.met(f.value)}))
            .collect();
        let all = json!({"machine": machine, "rows": arguments.rows, "days": arguments.days, "figures": list});
        std::fs::write(file, format!("{all:#}\n")).map_err(|e| Failure::Io("cannot write the output", e))?;
    }
    Ok(figures.iter().all(|f| f.bar.met(f.value) != Some(false)))
}

fn timed<R>(run: impl FnOnce() -> R) -> (R, Duration) {
    let start = clock::now();
    let result = run();
    (result, clock::now().since(start))
}

fn per_second(count: u64, took: Duration) -> f64 {
    ratio(count, 1) / took.as_secs_f64()
}

#[allow(clippy::cast_precision_loss, reason = "counts and bytes are far below 2^52")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

/// Bytes of all files below a folder.
fn size(dir: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let data = entry.metadata()?;
        sum += if data.is_dir() { size(&entry.path())? } else { data.len() };
    }
    Ok(sum)
}

/// A figure of this process's memory, MiB.
fn memory(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kb = status.lines().find_map(|l| l.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse().ok());
    ratio(kb.unwrap_or(0), 1024)
}
