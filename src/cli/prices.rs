//! `breakwater prices`: the price catalogue that is built into the binary, and how it compares with what is configured.
//!
//! Prices are in USD per 1,000,000 tokens, exactly as listed. A class that a vendor does not list costs what its side does, and is shown
//! so: cached and cache-written input as input, reasoning as output.

use super::{Exit, out, say};
use crate::config::catalogue::{self, Entry};
use crate::config::model::EndpointConfig;
use crate::config::{self, address};
use crate::domain::money::PicoUsdPerToken;
use crate::domain::price::Price;
use crate::domain::table::Table;
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct PricesArgs {
    #[command(subcommand)]
    command: PricesCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PricesCommand {
    /// List models with their prices.
    List(ListArgs),
    /// Show what every vendor lists for one model.
    Show(ShowArgs),
    /// Compare the configured endpoints' prices with the listed ones.
    Diff(DiffArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only this vendor's list.
    #[arg(long)]
    provider: Option<String>,
    /// Only models with this in their name.
    #[arg(long)]
    name: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    model: String,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, clap::Args)]
struct DiffArgs {
    #[arg(long, value_name = "FILE", default_value = "config.yaml")]
    config: PathBuf,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
    Csv,
}

/// The token classes, as price keys.
const CLASSES: [&str; 5] = ["input", "cached_input", "cache_write", "output", "reasoning"];

/// Runs a prices command.
#[must_use]
pub fn run(args: &PricesArgs) -> Exit {
    match &args.command {
        PricesCommand::List(args) => {
            let wanted = |e: &Entry| {
                args.provider.as_deref().is_none_or(|p| p == e.vendor)
                    && args.name.as_deref().is_none_or(|n| e.model.contains(n))
            };
            told(&listing(catalogue::entries().into_iter().filter(wanted)), args.format, "no model fits")
        }
        PricesCommand::Show(args) => {
            let wanted = |e: &Entry| catalogue::is_called(e.model, &args.model);
            let found = listing(catalogue::entries().into_iter().filter(wanted));
            let missing = format!("`{}` is not listed; `breakwater prices list --name PART` searches", args.model);
            let shown = told(&found, args.format, &missing);
            if args.format == Format::Table && shown == Exit::Done {
                out(&format!(
                    "\n{}\nlooked for as {}; a vendor before the name and a date after it may be left out, dots and dashes between digits are alike\n",
                    catalogue::version(),
                    catalogue::names(&args.model).join(", ")
                ));
            }
            shown
        }
        PricesCommand::Diff(args) => match config::load(&args.config) {
            Ok(config) => told(&comparison(&config.endpoints), args.format, "no endpoints are configured"),
            Err(faults) => {
                say(&faults.to_string());
                Exit::Usage
            }
        },
    }
}

/// Titled lines; a missing value is empty.
struct Lines {
    titles: Vec<&'static str>,
    lines: Vec<Vec<String>>,
}

/// Prints lines; none at all is an error.
fn told(found: &Lines, format: Format, missing: &str) -> Exit {
    if found.lines.is_empty() {
        say(missing);
        return Exit::Failed;
    }
    out(&match format {
        Format::Table => {
            let mut table = Table::new(&found.titles);
            let dashed = |cell: &String| if cell.is_empty() { "-".to_owned() } else { cell.clone() };
            found.lines.iter().for_each(|line| table.row(line.iter().map(dashed)));
            table.to_text()
        }
        Format::Json => {
            let value = |cell: &String| if cell.is_empty() { Value::Null } else { json!(cell) };
            let object = |line: &Vec<String>| {
                let titles = found.titles.iter().map(|&title| title.to_owned());
                Value::Object(titles.zip(line.iter().map(value)).collect())
            };
            let list: Vec<Value> = found.lines.iter().map(object).collect();
            format!("{:#}\n", json!({"catalogue": &*catalogue::version(), "prices": list}))
        }
        Format::Csv => {
            let mut writer = csv::Writer::from_writer(Vec::new());
            // Writing to memory does not fail.
            let _ = writer.write_record(&found.titles);
            found.lines.iter().for_each(|line| drop(writer.write_record(line)));
            String::from_utf8(writer.into_inner().unwrap_or_default()).unwrap_or_default()
        }
    });
    Exit::Done
}

fn listing(entries: impl Iterator<Item = Entry>) -> Lines {
    let titles = ["model", "provider"].into_iter().chain(CLASSES).chain(["context"]).collect();
    let line = |e: Entry| {
        let mut line = vec![e.model.to_owned(), e.vendor.to_owned()];
        match &e.price {
            Some(price) => line.extend(classes(price).map(|p| p.to_string())),
            None => line.extend(CLASSES.map(|_| String::new())),
        }
        line.push(e.context.map_or(String::new(), |tokens| tokens.to_string()));
        line
    };
    Lines { titles, lines: entries.map(line).collect() }
}

/// A line for every class in which an endpoint and the list differ, and one for every endpoint where there is nothing to compare or
/// nothing differs.
fn comparison(endpoints: &[std::sync::Arc<EndpointConfig>]) -> Lines {
    let titles = vec!["endpoint", "model", "list of", "class", "configured", "listed", "difference"];
    let mut lines = Vec::new();
    for e in endpoints {
        let listed = catalogue::find(e.provider.dialect, &address::host(&e.provider.base_url), &e.model);
        let vendor = listed
            .as_ref()
            .map_or(String::new(), |l| format!("{}{}", l.vendor, if l.certain { "" } else { " (a guess)" }));
        let line = |class: &str, configured: String, listed: String, difference: &str| {
            let head = [e.name.to_string(), e.model.to_string(), vendor.clone()];
            head.into_iter().chain([class.to_owned(), configured, listed, difference.to_owned()]).collect::<Vec<_>>()
        };
        let none = String::new;
        match (&e.price, listed.as_ref().and_then(|l| l.price.as_ref())) {
            (None, _) => lines.push(line("", none(), none(), "unpriced")),
            (Some(_), None) => lines.push(line("", none(), none(), "not listed")),
            (Some(own), Some(_)) if own.version.starts_with("catalogue:") => {
                lines.push(line("", none(), none(), "taken from the list"));
            }
            (Some(own), Some(list)) => {
                let pairs = CLASSES.into_iter().zip(classes(own).into_iter().zip(classes(list)));
                let before = lines.len();
                for (class, (own, list)) in pairs.filter(|(_, (own, list))| own != list) {
                    lines.push(line(class, own.to_string(), list.to_string(), &difference(own, list)));
                }
                if lines.len() == before {
                    lines.push(line("", none(), none(), "the same"));
                }
            }
        }
    }
    Lines { titles, lines }
}

fn classes(p: &Price) -> [PicoUsdPerToken; 5] {
    [p.input, p.cached_input, p.cache_write, p.output, p.reasoning]
}

/// How much dearer the configured price is, in percent of the listed one.
fn difference(own: PicoUsdPerToken, list: PicoUsdPerToken) -> String {
    if list.0 == 0 {
        return "listed at 0".to_owned();
    }
    let share = (own.usd_per_million() - list.usd_per_million()) * 100.0 / list.usd_per_million();
    format!("{share:+.1} %")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::path::Path;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: PricesArgs,
    }

    fn prices(words: &[&str]) -> Exit {
        run(&Line::try_parse_from([&["prices"], words].concat()).unwrap().args)
    }

    #[test]
    fn lists_and_shows_in_every_format() {
        for format in ["table", "json", "csv"] {
            assert_eq!(prices(&["list", "--provider", "openai", "--name", "gpt-4.1", "--format", format]), Exit::Done);
            assert_eq!(prices(&["show", "openai/gpt-4.1-2031-10-01", "--format", format]), Exit::Done);
        }
        assert_eq!(prices(&["list", "--provider", "nobody"]), Exit::Failed);
        assert_eq!(prices(&["show", "no-such-model"]), Exit::Failed);
        assert_eq!(prices(&["diff", "--config", "/absent/config.yaml"]), Exit::Usage);
        let all = listing(catalogue::entries().into_iter());
        let gpt = all.lines.iter().find(|line| line[0] == "gpt-4.1" && line[1] == "openai").unwrap();
        assert_eq!(gpt[2..8], ["2.00", "0.50", "2.00", "8.00", "8.00", "1047576"]);
    }

    #[test]
    fn configured_prices_are_held_against_the_vendors_list() {
        let text = "providers: {p: {dialect: openai, base_url: 'https://api.openai.com/v1', api_key: k}}\n\
                    endpoints:\n  dear: {provider: p, model: gpt-4.1, price: {input: 3, cached_input: 0.5, output: 8}}\n  \
                    same: {provider: p, model: gpt-4.1, price: {input: 2, cached_input: 0.5, output: 8}}\n  \
                    list: {provider: p, model: gpt-4.1}\n  bare: {provider: p, model: nothing}\n  \
                    own: {provider: p, model: nothing, price: {input: 1, output: 1}}\n";
        let config = config::parse("c.yaml", text, &|_: &str| None, Path::new("")).unwrap();
        let lines = comparison(&config.endpoints).lines;
        let told: Vec<_> = lines.iter().map(|l| (l[0].as_str(), l[3].as_str(), l[4].as_str(), l[6].as_str())).collect();
        let expected = [
            ("dear", "input", "3.00", "+50.0 %"),
            ("dear", "cache_write", "3.00", "+50.0 %"),
            ("same", "", "", "the same"),
            ("list", "", "", "taken from the list"),
            ("bare", "", "", "unpriced"),
            ("own", "", "", "not listed"),
        ];
        assert_eq!(told, expected);
    }
}
