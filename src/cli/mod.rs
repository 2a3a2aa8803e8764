//! The command line: one file per subcommand, each with its arguments and its `run`.

pub mod check;
mod download;
pub mod key;
pub mod ledger;
mod output;
mod place;
mod remote;

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
