//! How far the estimate lies from exact counts, over prose in 21 languages, prompts, code, JSON, HTML, YAML and Markdown of this
//! repository. `cargo nextest run --lib tokens::error --no-capture` prints the table that docs/ledger.md quotes.

use crate::domain::complexity::estimate_tokens;
use crate::domain::complexity::samples::{DECLARATION, PROMPTS};
use crate::domain::tokens::encoding::Encoding;

const CODE: [(&str, &str); 8] = [
    ("Rust", include_str!("../../engine/course.rs")),
    ("Rust", include_str!("../savings.rs")),
    ("Python", include_str!("../../../tests/sdk/test_openai.py")),
    ("HTML and JavaScript", include_str!("../../http/dashboard.html")),
    ("JSON schema", include_str!("../../http/openapi.json")),
    ("JSON of numbers", include_str!("../../../data/prices.json")),
    ("YAML", include_str!("../../../config.yaml")),
    ("Markdown", include_str!("../../../README.md")),
];

fn off(encoding: Encoding, texts: &[&str]) -> f64 {
    let vocabulary = tiktoken::get_encoding(encoding.as_str()).unwrap();
    let real: u64 = texts.iter().map(|t| vocabulary.count(t) as u64).sum();
    let estimated: u64 = texts.iter().map(|t| estimate_tokens(t)).sum();
    estimated as f64 / real as f64 * 100.0 - 100.0
}

#[test]
#[allow(clippy::disallowed_macros, reason = "the table is what one runs this for")]
fn the_estimate_is_as_near_as_documented() {
    let latin = ["English", "German", "French", "Spanish", "Polish", "Finnish", "Turkish", "Vietnamese", "Indonesian"];
    let of = |wanted: fn(&[&str], &str) -> bool| {
        DECLARATION.iter().filter(|(l, ..)| wanted(&latin, l)).map(|(.., t)| *t).collect::<Vec<_>>()
    };
    let groups: [(&str, Vec<&str>); 5] = [
        ("English", of(|_, l| l == "English")),
        ("other languages in Latin script", of(|latin, l| latin.contains(&l) && l != "English")),
        ("languages in other scripts", of(|latin, l| !latin.contains(&l))),
        ("prompts in all languages", PROMPTS.iter().map(|(.., t)| *t).collect()),
        ("code, JSON, HTML, YAML, Markdown", CODE.iter().map(|(_, t)| *t).collect()),
    ];
    // o200k, cl100k, DeepSeek: the most that the sum over a group may be off, in percent.
    let bounds = [[10.0, 12.0, 13.0], [6.0, 28.0, 22.0], [5.0, 66.0, 23.0], [10.0, 27.0, 6.0], [6.0, 6.0, 5.0]];
    println!("| texts | {} |", Encoding::ALL.map(Encoding::as_str).join(" | "));
    let mut wrong = Vec::new();
    for ((name, texts), bounds) in groups.iter().zip(bounds) {
        let found = Encoding::ALL.map(|e| off(e, texts));
        println!("| {name} | {} |", found.map(|p| format!("{p:+.0} %")).join(" | "));
        if found.iter().zip(bounds).any(|(p, most)| p.abs() > most) {
            wrong.push(format!("{name}: {found:?}, at most {bounds:?}"));
        }
    }
    for (name, text) in CODE {
        println!("| {name} | {} |", Encoding::ALL.map(|e| format!("{:+.0} %", off(e, &[text]))).join(" | "));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
