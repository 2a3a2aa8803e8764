//! The command line: exit codes, what goes to stdout and what to stderr, what `check` says.

use crate::support::{Gateway, Run, Setup, Upstream, binary, breakwater};
use std::path::Path;

fn check(text: &str) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, text).unwrap();
    breakwater(&["check", "--config", &file.display().to_string()], &[])
}

const GOOD: &str = "\
server:
  auth: open
providers:
  one: {dialect: openai, base_url: \"https://api.example.com/v1\", api_key: plain-key}
endpoints:
  a:
    provider: one
    model: m
    price: {input: 1, output: 2}
routes:
  chat: {strategy: priority, endpoints: [a]}
";

#[test]
fn a_good_configuration_is_0() {
    check(GOOD).expect(0);
}

#[test]
fn every_fault_is_told_with_its_place_at_once() {
    let bad = GOOD
        .replace("auth: open", "auth: maybe\n  lisden: 127.0.0.1:1")
        .replace("provider: one", "provider: two")
        .replace("priority", "cheapest")
        .replace("[a]", "[a, b]");
    let run = check(&bad).expect(2);
    let told = run.stdout + &run.stderr;
    for (line, path) in [
        (2, "server.auth"),
        (3, "server.lisden"),
        (8, "endpoints.a.provider"),
        (12, "routes.chat.strategy"),
        (12, "routes.chat.endpoints"),
    ] {
        let found = told.lines().any(|l| l.contains(&format!("config.yaml:{line}:")) && l.contains(path));
        assert!(found, "line {line}, {path} in\n{told}");
    }
}

#[test]
fn each_kind_of_fault_is_2() {
    let with = |old: &str, new: &str| {
        assert!(GOOD.contains(old), "{old}");
        GOOD.replace(old, new)
    };
    let faults = [
        String::new(),
        "just text".into(),
        "server: [".into(),
        with("auth: open", "auth: open\n  listen: 0.0.0.0:8080"),
        with("    model: m", "    model: m\n    limits: {rpm: 0}"),
        with("    model: m", "    model: m\n    limits: {rpm: -1}"),
        with("    model: m", "    model: m\n    limits: {rpm: 1e20}"),
        with("    model: m", "    model: m\n    weight: -3"),
        with("    model: m", "    model: m\n    quality: 1.5"),
        with("    model: m", "    model: m\n    model: n"),
        with("    model: m", "    model: m\n    timeouts: {connect: 5}"),
        with("input: 1", "input: -1"),
        with("[a]", "[]"),
        with("[a]", "[a, a]"),
        with("https://api.example.com/v1", "file:///etc/passwd"),
        with("https://api.example.com/v1", "http://127.0.0.1:9/v1"),
        with("https://api.example.com/v1", "http://169.254.169.254/v1"),
        with("plain-key", "\"${A_VARIABLE_THAT_IS_NOT_SET}\""),
        with("plain-key", "\"file:/nonexistent/secret\""),
        with("dialect: openai", "dialect: klingon"),
    ];
    for fault in faults {
        let run = check(&fault);
        assert_eq!(run.code, 2, "{fault}\n{run:?}");
        assert!(!(run.stdout + &run.stderr).trim().is_empty(), "{fault}: nothing was said");
    }
}

#[test]
fn a_fault_never_shows_a_secret() {
    let bad = GOOD.replace("plain-key}", "marker-secret-zwkx, api_kee: marker-secret-zwkx}");
    let run = check(&bad).expect(2);
    assert!(!(run.stdout + &run.stderr).contains("marker-secret-zwkx"));
}

#[test]
fn bad_usage_is_2_and_help_is_0() {
    for args in [
        &[][..],
        &["fly"],
        &["serve", "--nonsense"],
        &["ledger"],
        &["ledger", "fly"],
        &["key"],
        &["explain"],
        &["serve", "--listen", "nowhere"],
    ] {
        let run = breakwater(args, &[]);
        assert_eq!(run.code, 2, "{args:?} {run:?}");
        assert_eq!(run.stdout, "", "{args:?}");
        assert!(!run.stderr.is_empty(), "{args:?}");
    }
    for args in [
        &["--help"][..],
        &["--version"],
        &["serve", "--help"],
        &["ledger", "export", "--help"],
        &["key", "create", "--help"],
    ] {
        let run = breakwater(args, &[]).expect(0);
        assert!(!run.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_configuration_that_is_not_there_is_2() {
    for command in ["serve", "check"] {
        let run = breakwater(&[command, "--config", "/nonexistent/config.yaml"], &[]).expect(2);
        assert!((run.stdout.clone() + &run.stderr).contains("/nonexistent/config.yaml"), "{run:?}");
    }
}

#[test]
fn serve_refuses_a_bad_configuration_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, GOOD.replace("[a]", "[b]")).unwrap();
    let run = breakwater(&["serve", "--config", &file.display().to_string(), "--listen", "127.0.0.1:0"], &[]).expect(2);
    assert!(run.stderr.contains("config.yaml:11:"), "{run:?}");
}

#[test]
fn an_open_gateway_may_not_listen_where_others_reach_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, GOOD).unwrap();
    let run = breakwater(&["serve", "--config", &file.display().to_string(), "--listen", "0.0.0.0:0"], &[]).expect(2);
    assert!(run.stderr.contains("open"), "{run:?}");
    assert!(!folder.path().join("data").exists(), "nothing was made");
}

/// Every `breakwater WORD` in the code of README.md and docs/ is a command that exists.
#[test]
fn the_documentation_names_no_command_that_does_not_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let help = breakwater(&["--help"], &[]).expect(0).stdout;
    let commands: Vec<&str> = help.lines().filter_map(|l| l.strip_prefix("  ")?.split(' ').next()).collect();
    assert!(commands.contains(&"serve"), "{commands:?}");
    let mut files = vec![root.join("README.md")];
    files.extend(std::fs::read_dir(root.join("docs")).unwrap().map(|e| e.unwrap().path()));
    let mut found = 0;
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "md")) {
        let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let mut in_code = false;
        for line in text.lines() {
            if line.trim_start().starts_with("```") {
                in_code = !in_code;
            }
            let starts: Vec<&str> = if in_code {
                line.trim_start().trim_start_matches("$ ").strip_prefix("breakwater ").into_iter().collect()
            } else {
                line.split("`breakwater ").skip(1).collect()
            };
            for rest in starts {
                let word = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next().unwrap_or_default();
                if word.starts_with(|c: char| c.is_ascii_lowercase()) {
                    found += 1;
                    assert!(commands.contains(&word), "{}: `breakwater {word}`: {line}", file.display());
                }
            }
        }
    }
    assert!(found > 0, "the documentation names no command at all");
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it() {
    let a = Upstream::start();
    let gateway = Gateway::start(&Setup::single(&a)).await;
    let other = tempfile::tempdir().unwrap();
    let file = other.path().join("config.yaml");
    std::fs::write(&file, Setup::single(&a).yaml(&other.path().join("state"))).unwrap();
    let address = gateway.base.trim_start_matches("http://");
    let run =
        breakwater(&["serve", "--config", &file.display().to_string(), "--listen", address], gateway.environment());
    assert!([1, 2].contains(&run.code), "{run:?}");
    assert!(run.stderr.contains(address), "{run:?}");
}

#[test]
fn commands_that_cannot_reach_a_gateway_are_1() {
    for args in [&["ledger", "report"][..], &["key", "list"], &["explain", "--model", "chat"]] {
        let mut all = args.to_vec();
        all.extend(["--url", "http://127.0.0.1:1"]);
        let run = breakwater(&all, &[]).expect(1);
        assert!(run.stderr.contains("127.0.0.1:1"), "{run:?}");
    }
}

#[test]
fn the_shipped_configuration_is_good() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml");
    let text = std::fs::read_to_string(&file).expect("config.yaml stands in the repository");
    let names = text.split("${").skip(1).filter_map(|rest| rest.split_once(['}', ':'])).map(|(n, _)| n.to_owned());
    let env: Vec<_> = names.map(|n| (n, "a-key".to_owned())).collect();
    breakwater(&["check", "--config", &file.display().to_string()], &env).expect(0);
}

#[test]
fn output_into_a_closed_pipe_is_no_crash() {
    let binary = binary();
    let script = format!("'{binary}' serve --help | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}");
    let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{output:?}");
}
