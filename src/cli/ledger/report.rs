//! `ledger report`: requests, success, latency, tokens and cost, summed by one property.

use super::{ReportFormat, Span, accounts, failed, tell};
use crate::cli::Exit;
use crate::cli::download::Download;
use crate::cli::place::{self, Place, Purpose};
use crate::domain::report::Report;
use crate::domain::sums::GroupBy;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(super) struct ReportArgs {
    #[command(flatten)]
    pub(super) place: Place,
    #[command(flatten)]
    pub(super) span: Span,
    /// model, endpoint, route, key, tag:NAME, day, hour or total.
    #[arg(long, value_name = "WHAT", default_value = "model", value_parser = GroupBy::parse)]
    group_by: GroupBy,
    /// Instead: what failovers, retries and hedges rescued, and what that cost.
    #[arg(long, conflicts_with = "group_by")]
    resilience: bool,
    #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
    pub(super) format: ReportFormat,
    /// Left out: stdout.
    #[arg(long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
}

pub(super) fn report(args: &ReportArgs) -> Result<Exit, Exit> {
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
    tell(&report, args.format, args.output.as_deref())
}
