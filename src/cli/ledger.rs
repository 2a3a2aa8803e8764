//! `breakwater ledger`: the cost ledger of a stopped gateway's store, or with `--url` of a running one.
//!
//! What cannot be read is said on stderr and ends in exit code 1, after everything else was written; a ledger that was changed
//! ends `verify` in exit code 3.

mod accounts;
mod compact;
mod export;
mod reconcile;
mod report;
mod running;
mod verify;

#[cfg(test)]
mod tests;

use super::output::Output;
use super::{Exit, say};
use crate::domain::sums::TimeRange;
use crate::domain::table::Tabular;
use crate::domain::time::Wall;
use std::io::{self, ErrorKind, Write};
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
    /// Hold a vendor's usage export against the rows, and tell the likely causes of differences.
    Reconcile(reconcile::ReconcileArgs),
    /// Sum up requests, success, latency, tokens and cost.
    Report(report::ReportArgs),
    /// What the same tokens would have cost on one endpoint or model.
    Savings(accounts::SavingsArgs),
    /// Remove old rows and give their disk space back; their sums stay.
    Compact(compact::CompactArgs),
    /// Check the chain of hashes and its signatures: nothing changed, removed, added or cut off.
    Verify(verify::VerifyArgs),
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ReportFormat {
    Table,
    Json,
    Csv,
}

/// Runs a ledger command.
#[must_use]
pub fn run(args: &LedgerArgs) -> Exit {
    let ended = match &args.command {
        LedgerCommand::Export(args) => export::export(args),
        LedgerCommand::Reconcile(args) => reconcile::reconcile(args),
        LedgerCommand::Report(args) => report::report(args),
        LedgerCommand::Savings(args) => accounts::savings(args),
        LedgerCommand::Compact(args) => compact::compact(args),
        LedgerCommand::Verify(args) => verify::verify(args),
    };
    ended.unwrap_or_else(|exit| exit)
}

/// Says why a command failed while running.
fn failed(why: impl std::fmt::Display) -> Exit {
    say(&why.to_string());
    Exit::Failed
}

/// Where an export's checkpoint is kept: beside it.
fn sidecar(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

fn is_broken_pipe(error: &io::Error) -> bool {
    error.kind() == ErrorKind::BrokenPipe
}

/// Writes a report to a file or stdout.
fn tell(report: &impl Tabular, format: ReportFormat, path: Option<&Path>) -> Result<Exit, Exit> {
    let text = match format {
        ReportFormat::Table => report.to_table(),
        ReportFormat::Json => format!("{:#}\n", report.to_json()),
        ReportFormat::Csv => report.to_csv(),
    };
    let mut output = Output::open(path).map_err(failed)?;
    match output.write_all(text.as_bytes()) {
        Err(e) if is_broken_pipe(&e) => Ok(Exit::Done),
        done => done.map_err(|e| e.to_string()).and_then(|()| output.finish()).map(|()| Exit::Done).map_err(failed),
    }
}
