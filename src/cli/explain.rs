//! `breakwater explain`: which endpoint would be chosen for a request, and why not the others; of a running gateway with `--url`,
//! else from the configuration and what the stopped gateway's store remembers. Nothing is sent to any provider.

use super::{Exit, out, remote, say};
use crate::clock;
use crate::config;
use crate::domain::filter::RowFilter;
use crate::engine::explain;
use crate::engine::record::Decision;
use crate::store::{OpenOptions, Store, StoreError};
use std::fmt::Write;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// Route, endpoint or upstream model.
    #[arg(long)]
    pub model: String,
    /// The user's message; left out: a short greeting.
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// A tag of the request; may be given several times.
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = RowFilter::parse_tag)]
    pub tags: Vec<(String, String)>,
    #[arg(long, value_name = "FILE", default_value = "config.yaml")]
    pub config: PathBuf,
    /// The store's folder, instead of the one that the configuration names.
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    pub store: Option<PathBuf>,
    /// Ask the running gateway there; the token is BREAKWATER_ADMIN_TOKEN or --token.
    #[arg(long)]
    pub url: Option<String>,
    #[arg(long, env = "BREAKWATER_ADMIN_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    #[arg(long, value_enum, default_value = "table")]
    pub format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Table,
    Json,
}

/// Prints the decision.
#[must_use]
pub fn run(args: &ExplainArgs) -> Exit {
    let prompt = match args.prompt_file.as_ref().map(std::fs::read_to_string).transpose() {
        Ok(prompt) => prompt.unwrap_or_else(|| "Hello".into()),
        Err(e) => {
            say(&format!("{}: {e}", args.prompt_file.as_deref().unwrap_or_else(|| "".as_ref()).display()));
            return Exit::Usage;
        }
    };
    let messages = serde_json::json!([{ "role": "user", "content": prompt }]);
    let mut body = serde_json::json!({ "model": args.model, "messages": messages });
    if !args.tags.is_empty() {
        let tags: Vec<_> = args.tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
        body["breakwater"] = serde_json::json!({ "tag": tags });
    }
    let body = body.to_string();
    let decision = match &args.url {
        Some(url) => ask(url, args.token.as_deref(), body),
        None => offline(args, &body),
    };
    match decision {
        Ok(decision) => {
            out(&match args.format {
                Format::Json => serde_json::to_string_pretty(&decision).unwrap_or_default() + "\n",
                Format::Table => table(&decision),
            });
            Exit::Done
        }
        Err((exit, message)) => {
            say(&message);
            exit
        }
    }
}

fn ask(url: &str, token: Option<&str>, body: String) -> Result<Decision, (Exit, String)> {
    let failed = |e: String| (Exit::Failed, e);
    let answer = remote::post(url, "/admin/explain", token, body).map_err(failed)?;
    serde_json::from_slice(&answer).map_err(|e| failed(format!("{url} answered something else: {e}")))
}

fn offline(args: &ExplainArgs, body: &str) -> Result<Decision, (Exit, String)> {
    let config = config::load(&args.config).map_err(|faults| (Exit::Usage, faults.to_string()))?;
    let path = args.store.as_ref().unwrap_or(&config.store.path);
    let options = OpenOptions { read_only: true, create: false, ..OpenOptions::at(path, clock::wall()) };
    let store = match Store::open(&options) {
        Ok((store, _)) => Some(store),
        Err(StoreError::Missing { .. }) => None,
        Err(e @ StoreError::InUse { .. }) => {
            return Err((
                Exit::Failed,
                format!("{e}; ask the running gateway with --url http://{}", config.server.listen),
            ));
        }
        Err(e) => return Err((Exit::Failed, e.to_string())),
    };
    let decision = explain::offline(&config, store.as_ref(), body.as_bytes()).map_err(|e| (Exit::Failed, e.message))?;
    if decision.budgets.iter().any(|budget| budget.left_usd.is_none()) {
        say(&format!(
            "there is no store at {}, so nobody knows what is left of the budgets: name it with --store, or ask the running gateway with --url",
            path.display()
        ));
    }
    Ok(decision)
}

fn table(decision: &Decision) -> String {
    let mut text = format!("strategy {}", decision.strategy);
    if let (Some(rule), Some(complexity)) = (&decision.rule, &decision.complexity) {
        let _ = write!(text, " by rule {rule}, the prompt is {complexity}");
        let points = decision.complexity_points.iter().filter(|(_, points)| *points > 0.0);
        let points: Vec<_> = points.map(|(feature, points)| format!("{feature} {points:.2}")).collect();
        if !points.is_empty() {
            let _ = write!(text, " ({})", points.join(", "));
        }
        if decision.floor_missed {
            text.push_str(", no open endpoint is as good as the rule wants");
        }
    }
    let _ = writeln!(text, "; about {} prompt tokens", decision.prompt_tokens_estimate);
    let _ = writeln!(
        text,
        "{:>4}  {:<24} {:>12} {:>12} {:>9} {:>9}  note",
        "rank", "endpoint", "score", "est. usd", "ttft ms", "failures"
    );
    let dash = |v: Option<f64>, digits: usize| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.digits$}"));
    for c in &decision.candidates {
        let note = c.refusal.as_ref().map_or(String::new(), |r| format!("would refuse now: {r}"));
        let _ = writeln!(
            text,
            "{:>4}  {:<24} {:>12.4} {:>12} {:>9} {:>8.1}%  {note}",
            c.rank,
            c.endpoint,
            c.score,
            dash(c.estimated_cost_usd, 6),
            dash(c.ttft_ms, 1),
            c.failure_rate * 100.0,
        );
    }
    for b in &decision.budgets {
        let at = b.endpoint.as_ref().map_or(String::new(), |e| format!(" at {e}"));
        let until = b.period_end.as_ref().map_or(String::new(), |end| format!(" until {end}"));
        let left = b.left_usd.map_or_else(|| "an unknown part".to_owned(), |left| format!("{left:.6}"));
        let _ =
            writeln!(text, "   $  {} budget {}{at}: {left} of {} usd is left{until}", b.mode, b.budget, b.amount_usd);
    }
    for r in &decision.removed {
        let _ = writeln!(text, "   -  {:<24} not a candidate: {}", r.endpoint, r.reason);
    }
    text
}
