//! `ledger savings` and `ledger report --resilience`: accounts that read every row of their time.

use super::report::ReportArgs;
use super::{ROWS_A_STEP, ReportFormat, Span, failed, tell};
use crate::cli::download::Download;
use crate::cli::output::Progress;
use crate::cli::place::{self, Place, Purpose};
use crate::cli::{Exit, say};
use crate::config;
use crate::domain::ledger::Entry;
use crate::domain::resilience::{Resilience, ResilienceReport};
use crate::domain::savings::{Savings, SavingsReport};
use crate::domain::sums::TimeRange;
use crate::engine::reports::prices;
use crate::store::Store;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(super) struct SavingsArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    span: Span,
    /// A configured endpoint, its model, or a model of the price catalogue.
    #[arg(long, value_name = "MODEL_OR_ENDPOINT")]
    baseline: String,
    #[arg(long, value_enum, default_value_t = ReportFormat::Table)]
    format: ReportFormat,
    /// Left out: stdout.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn savings(args: &SavingsArgs) -> Result<Exit, Exit> {
    let range = args.span.range()?;
    let report: SavingsReport = match &args.place.url {
        Some(url) => {
            let [from, to] = args.span.query();
            let query = [from, to, ("baseline", Some(args.baseline.clone()))];
            let answer = Download::get(url, "/admin/ledger/savings", &query, args.place.token.as_deref());
            answer.and_then(Download::json).map_err(failed)?
        }
        None => {
            let store = args.place.open(Purpose::Read)?;
            let baseline = config::baseline(&args.place.endpoints(&store)?, &args.baseline).map_err(|e| {
                say(&e);
                Exit::Usage
            })?;
            let mut account = Savings::new(baseline);
            count(&store, range, |entry| account.count(entry))?;
            account.report()
        }
    };
    tell(&report, args.format, args.output.as_deref())
}

pub(super) fn resilience(args: &ReportArgs) -> Result<Exit, Exit> {
    let range = args.span.range()?;
    let report: ResilienceReport = match &args.place.url {
        Some(url) => {
            let answer =
                Download::get(url, "/admin/ledger/resilience", &args.span.query(), args.place.token.as_deref());
            answer.and_then(Download::json).map_err(failed)?
        }
        None => {
            let store = args.place.open(Purpose::Read)?;
            let mut account = Resilience::new(prices(&args.place.endpoints(&store)?));
            count(&store, range, |entry| account.count(entry))?;
            account.report()
        }
    };
    tell(&report, args.format, args.output.as_deref())
}

/// Reads the rows of a time range. One that cannot be read ends it: half an account is none.
fn count(store: &Store, range: TimeRange, mut each: impl FnMut(&Entry)) -> Result<(), Exit> {
    let mut progress = Progress::new("rows");
    store.reader().has_rows_of(range).map_err(|e| place::failed(&e))?;
    for (count, row) in (1_u64..).zip(store.reader().rows(range).map_err(|e| place::failed(&e))?) {
        each(&row.map_err(|e| place::failed(&e))?.entry);
        if count.is_multiple_of(ROWS_A_STEP) {
            progress.at(count);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{filled, ledger};
    use super::*;
    use crate::domain::money::NanoUsd;

    #[test]
    fn savings_and_the_account_of_resilience_agree_with_the_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let store = filled(&dir.path().join("store"), 1_000);
        let rows: Vec<Entry> = store.reader().rows(TimeRange::ALL).unwrap().map(|row| row.unwrap().entry).collect();
        drop(store);
        let yaml = "providers: {p: {dialect: openai, base_url: 'http://127.0.0.1:1', api_key: k, allow_private: true}}\n\
                    endpoints: {gpt: {provider: p, model: gpt-4.1, price: {input: 8, output: 8}}}\n\
                    routes: {chat: {strategy: priority, endpoints: [gpt]}}\nstore: {path: STORE}\n";
        std::fs::write(path("config.yaml"), yaml.replace("STORE", &path("store"))).unwrap();
        let (config, json) = (path("config.yaml"), path("savings.json"));
        let words = ["savings", "--config", &config, "--baseline", "gpt", "--format", "json", "--output", &json];
        assert_eq!(ledger(&words), Exit::Done);
        let report: SavingsReport = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        let priced: Vec<_> = rows.iter().filter(|e| e.cost.is_some()).collect();
        let spent: NanoUsd = priced.iter().filter_map(|e| e.cost).sum();
        let tokens: u64 = priced.iter().filter(|e| &*e.outcome == "success").map(|e| e.usage.total()).sum();
        let f = &report.total.figures;
        assert_eq!((f.tokens(), f.baseline_nanousd), (tokens, i64::try_from(tokens).unwrap() * 8_000));
        assert_eq!(f.cost_nanousd + f.overhead_nanousd, spent.0);
        assert_eq!((report.models.len(), report.days.len()), (4, 1));
        assert_eq!(report.baseline.source, "endpoint gpt");
        for unknown in [&["--config", config.as_str()][..], &["--store", path("store").as_str()]] {
            assert_eq!(ledger(&[&["savings", "--baseline", "nonsense"], unknown].concat()), Exit::Usage);
        }
        let words = ["savings", "--store", &path("store"), "--baseline", "gpt-4.1", "--from", "2026-11-24"];
        assert_eq!(ledger(&[&words[..], &["--format", "json", "--output", &json]].concat()), Exit::Done);
        let none: SavingsReport = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        assert_eq!((none.total.figures.answers, none.total.saved_percent), (0, None));

        let words = ["report", "--resilience", "--config", &config, "--format", "json", "--output", &json];
        assert_eq!(ledger(&words), Exit::Done);
        let report: ResilienceReport = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        let lost: i64 = priced.iter().filter(|e| &*e.outcome != "success").filter_map(|e| e.cost).map(|c| c.0).sum();
        assert_eq!((report.requests, report.lost_nanousd), (500, lost));
        assert!(report.rescued_by_failover > 0 && report.hedges_won > 0, "{report:?}");
    }

    #[test]
    fn half_an_account_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = filled(&dir.path().join("store"), 100);
        store.damage_for_test(40);
        drop(store);
        let store = dir.path().join("store").display().to_string();
        assert_eq!(ledger(&["report", "--resilience", "--store", &store]), Exit::Failed);
    }
}
