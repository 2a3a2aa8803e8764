//! The command line: one file per subcommand, each with its arguments and its `run`.

pub mod check;
mod download;
pub mod explain;
pub mod key;
pub mod ledger;
mod output;
mod place;
pub mod prices;
mod remote;
pub mod serve;
pub mod sim;

use clap::{Parser, Subcommand};

use std::io::Write;
use std::process::{ExitCode, Termination};

/// How a command ended, as a Unix exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    /// Failed while running.
    Failed = 1,
    /// Bad usage or configuration.
    Usage = 2,
    /// `ledger verify` found that the ledger was changed.
    Violation = 3,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// Writes machine output to stdout. A reader that went away (`| head`) is no error.
pub fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Writes a message for people to stderr.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[derive(Debug, Parser)]
#[command(
    name = "breakwater",
    version,
    about = "A self-hosted gateway for LLM APIs that does not go down with its providers"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Serve(serve::ServeArgs),
    /// Run simulated providers alone.
    Sim(sim::SimArgs),
    /// Validate a configuration.
    Check(check::CheckArgs),
    /// Export, report, compare or verify the cost ledger.
    Ledger(ledger::LedgerArgs),
    /// Create, list or revoke virtual keys.
    Key(key::KeyArgs),
    /// List the built-in prices, or compare them with the configured ones.
    Prices(prices::PricesArgs),
    /// Show which endpoint would be chosen, and why not the others.
    Explain(explain::ExplainArgs),
}

/// Runs the command that the process's arguments name.
#[must_use]
pub fn run() -> Exit {
    match Cli::try_parse() {
        Ok(cli) => match &cli.command {
            Command::Serve(args) => serve::run(args),
            Command::Sim(args) => sim::run(args),
            Command::Check(args) => check::run(args),
            Command::Ledger(args) => ledger::run(args),
            Command::Key(args) => key::run(args),
            Command::Prices(args) => prices::run(args),
            Command::Explain(args) => explain::run(args),
        },
        Err(e) if e.use_stderr() => {
            say(e.to_string().trim_end());
            Exit::Usage
        }
        Err(help) => {
            out(&help.to_string());
            Exit::Done
        }
    }
}
