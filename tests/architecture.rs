//! The architecture, checked against the sources: which folder may name which, what stays pure, how long a file may be.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Longest file, in lines of code: neither blank nor comment, tests apart.
const LONGEST_FILE: usize = 400;
const VAGUE_NAMES: [&str; 7] = ["utils", "util", "helpers", "common", "types", "manager", "misc"];

/// What each folder of `src/` may name besides itself; `app`, `cli`, `lib` and `main` may name everything.
const MAY_NAME: [(&str, &[&str]); 9] = [
    ("domain", &[]),
    ("clock", &["domain"]),
    ("config", &["domain"]),
    ("store", &["domain", "config", "clock"]),
    ("dialects", &["domain", "config", "clock"]),
    ("actors", &["domain", "config", "store", "clock"]),
    ("engine", &["domain", "config", "store", "dialects", "actors", "clock"]),
    ("http", &["domain", "config", "actors", "engine", "clock"]),
    ("sim", &["domain", "clock"]),
];

/// What pure code never names: I/O, runtimes, clocks, randomness.
const IMPURE: [&str; 19] = [
    "actix",
    "actix_web",
    "tokio",
    "reqwest",
    "sled",
    "hyper",
    "parking_lot",
    "fastrand",
    "getrandom",
    "futures_util",
    "std::fs",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "std::env",
    "std::thread",
    "Instant",
    "SystemTime",
];

struct Source {
    /// Relative to `src/`, such as `domain/breaker.rs`.
    name: String,
    text: String,
}

impl Source {
    /// The first folder, or the file's own name at the top level.
    fn layer(&self) -> &str {
        self.name.split('/').next().unwrap().trim_end_matches(".rs")
    }

    /// The lines of code without comments, and without the tests at the end.
    fn code(&self) -> Vec<&str> {
        let end = self.text.find("#[cfg(test)]\nmod ").unwrap_or(self.text.len());
        let lines = self.text[..end].lines().map(|l| l.split(" // ").next().unwrap_or(l));
        lines.filter(|l| !l.trim().is_empty() && !l.trim_start().starts_with("//")).collect()
    }

    /// How many lines of code there are; a line of a table of texts is data and counts for nothing.
    fn length(&self) -> usize {
        self.code().iter().filter(|l| !l.trim_start().starts_with('"')).count()
    }

    /// The modules of this crate that the code names with `crate::`.
    fn named(&self) -> BTreeSet<String> {
        let code = self.code().join("\n");
        let mut found = BTreeSet::new();
        for after in code.split("crate::").skip(1) {
            match after.strip_prefix('{') {
                Some(group) => found.extend(heads_of_group(group)),
                None => found.extend(identifier(after)),
            }
        }
        found
    }
}

fn identifier(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

/// The first names in `a::b, c::{d, e}}`: `a` and `c`.
fn heads_of_group(text: &str) -> Vec<String> {
    let (mut depth, mut heads, mut at_head) = (0, vec![], true);
    for (i, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_head = true,
            c if depth == 0 && at_head && !c.is_whitespace() => {
                heads.extend(identifier(&text[i..]));
                at_head = false;
            }
            _ => {}
        }
    }
    heads
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = vec![];
    collect(&root, &root, &mut found);
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            found.push(Source { name, text: std::fs::read_to_string(&path).unwrap() });
        }
    }
}

/// The files that only tests are built from: those that another file declares under `#[cfg(test)]`, and what lies below them.
fn test_files(sources: &[Source]) -> Vec<String> {
    let mut found = vec![];
    for source in sources {
        let stem = source.name.trim_end_matches(".rs");
        let folder = stem.strip_suffix("/mod").unwrap_or(stem);
        for after in source.text.split("#[cfg(test)]\nmod ").skip(1) {
            if let Some(name) = identifier(after)
                && after[name.len()..].starts_with(';')
            {
                found.push(format!("{folder}/{name}"));
            }
        }
    }
    found
}

/// The sources without the files of tests.
fn product() -> Vec<Source> {
    let mut sources = sources();
    let tests = test_files(&sources);
    sources.retain(|s| {
        !tests.iter().any(|t| s.name.strip_prefix(t).is_some_and(|rest| rest == ".rs" || rest.starts_with('/')))
    });
    assert!(sources.len() > 30, "only {} source files", sources.len());
    sources
}

fn report(breaches: Vec<String>) {
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}

#[test]
fn imports_go_one_way() {
    let layers: BTreeSet<&str> = MAY_NAME.iter().map(|(l, _)| *l).chain(["app", "cli"]).collect();
    let mut breaches = vec![];
    for source in product() {
        let layer = source.layer();
        if ["app", "cli", "lib", "main"].contains(&layer) {
            continue;
        }
        let Some((_, allowed)) = MAY_NAME.iter().find(|(l, _)| *l == layer) else {
            breaches.push(format!("src/{}: the architecture knows no folder or file `{layer}`", source.name));
            continue;
        };
        for named in source.named() {
            if layers.contains(named.as_str()) && named != layer && !allowed.contains(&named.as_str()) {
                breaches.push(format!("src/{}: `{layer}` may not name `crate::{named}`", source.name));
            }
        }
    }
    report(breaches);
}

#[test]
fn the_domain_is_pure() {
    let mut breaches = vec![];
    for source in product().iter().filter(|s| s.layer() == "domain") {
        for line in source.code() {
            for word in IMPURE {
                let named = line.match_indices(word).any(|(i, _)| {
                    let before = line[..i].chars().next_back();
                    let after = line[i + word.len()..].chars().next();
                    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
                    !part(before) && !part(after)
                });
                if named {
                    breaches.push(format!("src/{}: names {word}: {}", source.name, line.trim()));
                }
            }
        }
    }
    report(breaches);
}

#[test]
fn only_the_store_knows_its_database() {
    let naming =
        product().into_iter().filter(|s| s.layer() != "store" && s.code().iter().any(|l| l.contains("sled::")));
    report(naming.map(|s| format!("src/{}: names sled", s.name)).collect());
}

#[test]
fn no_file_is_too_long() {
    let long = product().into_iter().map(|s| (s.length(), s.name));
    report(long.filter(|(n, _)| *n > LONGEST_FILE).map(|(n, name)| format!("src/{name}: {n} lines of code")).collect());
}

#[test]
fn every_file_says_what_it_is_for_and_has_a_name_that_does() {
    let mut breaches = vec![];
    for source in product() {
        if !source.text.starts_with("//!") {
            breaches.push(format!("src/{}: does not open with `//!`", source.name));
        }
        let stems = source.name.split('/').map(|p| p.trim_end_matches(".rs"));
        if stems.into_iter().any(|stem| VAGUE_NAMES.contains(&stem)) {
            breaches.push(format!("src/{}: a name that says nothing", source.name));
        }
    }
    report(breaches);
}

#[test]
fn the_readers_of_this_file_see_groups_and_paths() {
    let text = "use crate::config::model::X;\nuse crate::{store::{a, b}, http};\n// crate::sim\nlet x = crate::app::run();\n#[cfg(test)]\nmod tests { use crate::cli; }";
    let source = Source { name: "domain/x.rs".into(), text: text.into() };
    assert_eq!(source.named().into_iter().collect::<Vec<_>>(), ["app", "config", "http", "store"]);
    assert_eq!((source.layer(), source.code().len()), ("domain", 3));
}
