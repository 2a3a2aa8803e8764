//! `breakwater check`: whether a configuration is good, and if not, everything that is wrong with it.
//!
//! Faults go to stdout, one a line; warnings go to stderr, because they need no answer. JSON holds both.

use crate::cli::{Exit, out, say};
use crate::config::{self, Config, Fault, Faults};
use serde_json::json;
use std::path::PathBuf;

/// Validates the configuration; prints every fault with its place.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The file to check.
    #[arg(long, value_name = "FILE", default_value = "config.yaml")]
    pub config: PathBuf,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = CheckFormat::Table)]
    pub format: CheckFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CheckFormat {
    /// One fault a line, as `file:line:column: path.to.key: message`.
    Table,
    /// One object with `ok`, `faults` and `warnings`.
    Json,
}

/// Checks and prints.
#[must_use]
pub fn run(args: &CheckArgs) -> Exit {
    let result = config::load(&args.config);
    let file = args.config.display().to_string();
    match args.format {
        CheckFormat::Table => {
            let (stdout, stderr) = table(&file, &result);
            stderr.iter().for_each(|line| say(line));
            out(&stdout);
        }
        CheckFormat::Json => out(&json_text(&file, &result)),
    }
    if result.is_ok() { Exit::Done } else { Exit::Usage }
}

/// What goes to stdout, and the lines for stderr.
fn table(file: &str, result: &Result<Config, Faults>) -> (String, Vec<String>) {
    match result {
        Err(faults) => (format!("{faults}\n"), Vec::new()),
        Ok(config) => {
            let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
            let warnings: Vec<String> = config.warnings.iter().map(warning).collect();
            let summary = format!(
                "{file}: ok: {}, {}, {}; {}\n",
                count(config.providers.len(), "provider"),
                count(config.endpoints.len(), "endpoint"),
                count(config.routes.len(), "route"),
                count(warnings.len(), "warning"),
            );
            (summary, warnings)
        }
    }
}

fn warning(fault: &Fault) -> String {
    format!("warning: {fault}")
}

fn json_text(file: &str, result: &Result<Config, Faults>) -> String {
    let value = match result {
        Err(faults) => json!({"ok": false, "file": file, "faults": faults.iter().collect::<Vec<_>>(), "warnings": []}),
        Ok(config) => json!({
            "ok": true,
            "file": file,
            "faults": [],
            "warnings": config.warnings,
            "providers": config.providers.len(),
            "endpoints": config.endpoints.len(),
            "routes": config.routes.len(),
        }),
    };
    format!("{value}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn check(text: &str) -> Result<Config, Faults> {
        config::parse("c.yaml", text, &|_| None, Path::new(""))
    }

    #[test]
    fn a_fault_is_a_line_on_stdout() {
        let bad = check("server: {listen: here}\nstore: {paht: x}\n");
        let (stdout, stderr) = table("c.yaml", &bad);
        assert_eq!(stdout.lines().count(), 2, "{stdout}");
        assert!(stdout.starts_with("c.yaml:1:18: server.listen: `here` is not allowed"), "{stdout}");
        assert_eq!(stderr, Vec::<String>::new());
        let json: serde_json::Value = serde_json::from_str(&json_text("c.yaml", &bad)).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(json["faults"][1]["line"], 2);
        assert_eq!(json["faults"][1]["path"], "store.paht");
    }

    #[test]
    fn a_good_file_is_one_line_and_warnings_go_to_stderr() {
        let good = check("store: {durability: strict}");
        let (stdout, stderr) = table("c.yaml", &good);
        assert_eq!(stdout, "c.yaml: ok: 0 providers, 0 endpoints, 0 routes; 1 warning\n");
        assert_eq!(stderr.len(), 1);
        assert!(stderr[0].starts_with("warning: c.yaml:1:1: no endpoint is configured"), "{stderr:?}");
        let json: serde_json::Value = serde_json::from_str(&json_text("c.yaml", &good)).unwrap();
        assert_eq!((&json["ok"], &json["warnings"][0]["line"]), (&json!(true), &json!(1)));
    }

    #[test]
    fn the_exit_code_tells_good_from_bad() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yaml");
        let exit = |text: &str| {
            std::fs::write(&path, text).unwrap();
            run(&CheckArgs { config: path.clone(), format: CheckFormat::Table })
        };
        assert_eq!(exit("server: {auth: open}"), Exit::Done);
        assert_eq!(exit("server: {auth: opne}"), Exit::Usage);
        let missing = CheckArgs { config: dir.path().join("none.yaml"), format: CheckFormat::Json };
        assert_eq!(run(&missing), Exit::Usage);
    }
}
