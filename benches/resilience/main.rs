//! How resilient the gateway is, in figures: `cargo bench --bench resilience [-- --only NAME --kills 100 --docs --enforce]`.
//!
//! Rows in virtual time run the real engine, store and all, on providers that answer from memory (see `tests/world`): thousands of
//! requests in seconds, with fixed seeds, so that every run gives the same figures. Beside each stands what a bare client gets
//! from the same providers in the same weather: it picks by the same strategy, and on failure picks again after 1 s, 2 s and 4 s.
//! The other rows run the real binary over real sockets, and take the time that they take.
//!
//! Prints one table; writes `report.json` and `plot.svg` under `target/resilience/`, and with `--docs` to `docs/` as well. With
//! `--enforce` it ends with 1 if a target is missed. Loopback only.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a bench whose set-up fails has nothing to say"
)]
#![allow(clippy::disallowed_macros, clippy::disallowed_methods, reason = "a bench prints, and measures real time")]
#![allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]

mod bare;
mod errors;
mod figure;
mod kills;
mod load;
#[path = "../support/machine.rs"]
mod machine;
mod outages;
mod overload;
mod plot;
#[path = "../../tests/support/mod.rs"]
mod support;
#[path = "../../tests/world/mod.rs"]
mod world;

use clap::Parser;
use figure::{Report, Row};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

#[derive(Parser)]
#[command(name = "resilience", about = "What becomes of requests when providers fail")]
struct Arguments {
    /// Rows whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// How often the process is killed under load
    #[arg(long, default_value_t = 100)]
    kills: u32,
    /// Write docs/resilience.svg and docs/resilience.json too
    #[arg(long)]
    docs: bool,
    /// End with 1 if a target is missed
    #[arg(long)]
    enforce: bool,
    /// Given by `cargo bench`
    #[arg(long = "bench", hide = true)]
    _bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let began = Instant::now();
    let mut report = Report::new(machine::describe());
    let mut measure = |name: &str, rows: &mut dyn FnMut() -> Vec<Row>| {
        if name.contains(&arguments.only) {
            let since = Instant::now();
            let rows = rows();
            rows.iter().for_each(|r| eprintln!("  {}: {}", r.figure, r.sample));
            report.rows.extend(rows);
            eprintln!("{name}: {:.0} s", since.elapsed().as_secs_f64());
        }
    };
    measure("outages", &mut outages::rows);
    measure("errors", &mut errors::random);
    measure("hedging", &mut errors::hedging);
    measure("streams", &mut errors::streams);
    measure("all-down", &mut overload::rows);
    measure("kills", &mut || kills::rows(arguments.kills));
    print!("{}", report.table());
    eprintln!("{:.0} s in all", began.elapsed().as_secs_f64());
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| here.join("target"), Into::into);
    report.write(&target.join("resilience"), "report.json", "plot.svg");
    if arguments.docs {
        report.write(&here.join("docs"), "resilience.json", "resilience.svg");
    }
    if arguments.enforce && !report.is_met() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
