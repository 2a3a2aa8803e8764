pub mod samples;

use super::*;
use crate::domain::intelligent::{IntelligentSettings, default_lexicon};
use proptest::prelude::*;
use samples::{DECLARATION, PROMPTS};
use std::sync::Arc;

fn scan(texts: &[&str]) -> PromptFacts {
    let settings = IntelligentSettings::default();
    let mut scan = PromptScan::new(&settings);
    for text in texts {
        scan.turn();
        scan.feed(text);
    }
    scan.finish(None)
}

fn judge(facts: &PromptFacts) -> Classified {
    classify(facts, &IntelligentSettings::default())
}

fn off(estimate: u64, counted: u64) -> f64 {
    estimate as f64 / counted as f64 - 1.0
}

#[test]
fn prompts_get_the_complexity_that_a_person_would_give() {
    let mut wrong = Vec::new();
    for (expected, language, _, text) in PROMPTS {
        let facts = scan(&[text]);
        let got = judge(&facts);
        if got.complexity != *expected {
            wrong.push(format!("{language} {expected:?} → {:?} {:.2} {facts:?} {text}", got.complexity, got.score));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn estimates_lie_near_a_real_tokenizers_count() {
    let mut wrong = Vec::new();
    let mut check = |name: &str, counted: u64, text: &str, tolerance: f64| {
        let off = off(estimate_tokens(text), counted);
        if off.abs() > tolerance {
            wrong.push(format!("{name}: {:+.0} % of {counted}: {text}", off * 100.0));
        }
    };
    for (language, counted, text) in DECLARATION {
        check(language, *counted, text, 0.25);
    }
    for (_, language, counted, text) in PROMPTS {
        check(language, *counted, text, 0.35);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let (estimated, counted) = PROMPTS.iter().fold((0, 0), |(e, c), (.., n, text)| (e + estimate_tokens(text), c + n));
    assert!(off(estimated, counted).abs() < 0.1, "{estimated} of {counted}");
}

#[test]
fn kinds_of_text_cost_what_their_tokens_are_made_of() {
    assert_eq!(estimate_tokens(""), 0);
    for one in ["a", " ", "\n", "é", "。", "\u{301}", "🙂"] {
        assert!((1..=2).contains(&estimate_tokens(one)), "{one:?}");
    }
    // Digits go by threes, whole runs of spaces and line breaks for one, identifiers by their parts.
    assert_eq!(estimate_tokens(&"123".repeat(100)), 100);
    assert!(estimate_tokens(&" ".repeat(1_000)) <= 1);
    assert!(estimate_tokens("readUtf8HttpServerConfig") >= 5);
    assert!(estimate_tokens(&"汉".repeat(100)) > 2 * estimate_tokens(&"a".repeat(100)));
}

#[test]
fn long_texts_are_sampled_and_still_counted_in_full() {
    let (_, counted, chinese) = DECLARATION.iter().find(|(l, ..)| *l == "Chinese").unwrap();
    let repeats = 2_000;
    let long = format!("{chinese}\n").repeat(repeats);
    assert!(long.len() > 10 * 64 * 1024);
    assert!(off(estimate_tokens(&long), (counted + 1) * repeats as u64).abs() < 0.25);
    let (_, english_counted, english) = DECLARATION[0];
    let mixed = format!("{}{}", format!("{english}\n").repeat(2_000), format!("{chinese}\n").repeat(2_000));
    assert!(off(estimate_tokens(&mixed), (english_counted + counted + 2) * 2_000).abs() < 0.25);
}

#[test]
fn terms_are_found_in_any_case_form_and_script() {
    let lexicon = |terms: &[&str]| {
        let owned = terms.iter().map(|t| (*t).to_owned()).collect();
        Arc::new(Lexicon::new(owned, Vec::new(), Vec::new()).unwrap())
    };
    let count = |terms: &[&str], text: &str| {
        let settings = IntelligentSettings { lexicon: lexicon(terms), ..IntelligentSettings::default() };
        let mut scan = PromptScan::new(&settings);
        scan.feed(text);
        scan.finish(None).technical_terms
    };
    for (terms, text, expected) in [
        (&["rust"][..], "Rust, RUST and ｒｕｓｔ", 1),
        (&["rust"], "trust rusty crustacean", 0),
        (&["rust*"], "rusty", 1),
        (&["rust"], "rust_lang rust", 1),
        (&["machine learning"], "Machine\nLearning", 1),
        (&["Komplexität*"], "die KOMPLEXITAETEN", 0),
        (&["Komplexität*"], "die komplexitäten", 1),
        (&["komplexitat*"], "die Komplexita\u{308}t", 1),
        (&["алгоритм*", "ёлка"], "Алгоритмами под елкой; ЕЛКА", 2),
        (&["数据库", "算法"], "请优化数据库的算法，数据库很慢", 2),
        (&["python"], "请用Python写", 1),
        (&["アルゴリズム"], "このアルゴリズムは", 1),
        (&["알고리즘"], "이 알고리즘을", 1),
        (&["c++"], "in C++17 or C", 1),
        (&["thread", "thread", "THREAD"], "thread", 1),
    ] {
        assert_eq!(count(terms, text), expected, "{terms:?} in {text:?}");
    }
}

#[test]
fn faulty_terms_are_all_named() {
    let long = "x".repeat(MAX_TERM_CHARS + 1);
    let faults = Lexicon::new(
        vec![String::new(), "*".to_owned(), "fine".to_owned(), long],
        vec!["x".to_owned(); MAX_TERMS + 1],
        vec![" ".to_owned()],
    );
    let expected = vec![
        (TermList::Technical, 0, TermFault::Empty),
        (TermList::Technical, 1, TermFault::Empty),
        (TermList::Technical, 3, TermFault::TooLong),
        (TermList::Demands, MAX_TERMS, TermFault::TooMany),
        (TermList::CodeMarkers, 0, TermFault::Empty),
    ];
    assert_eq!(faults.unwrap_err(), expected);
    assert!(!default_lexicon().list(TermList::Demands).is_empty(), "the default lists compile");
}

#[test]
fn code_in_any_language_looks_like_code_and_prose_does_not() {
    for code in [
        "local t = {} for i = 1, 10 do t[i] = (i * 2) end t[1] = nil; t[2] = \"x\"",
        "(defun fact (n) (if (<= n 1) 1 (* n (fact (- n 1)))))",
        "\\begin{equation} \\int_{0}^{1} x_{i}^{2} \\, dx = \\frac{1}{3} \\end{equation}",
        "<ul class=\"menu\"><li><a href=\"/\">Home</a></li><li><a href=\"/x\">X</a></li></ul>",
    ] {
        assert!(scan(&[code]).code > 0.8, "{code}: {:?}", scan(&[code]));
    }
    for (language, _, prose) in DECLARATION {
        assert!(scan(&[prose]).code < 0.2, "{language}");
    }
    assert!(scan(&["See https://example.com/a/b (or the list) – it's nice :) ;)"]).code < 0.4);
}

#[test]
fn depth_length_and_asked_output_raise_the_score_and_instructions_do_not() {
    let settings = IntelligentSettings::default();
    let short = scan(&["And then?"]);
    let score = |facts: PromptFacts| classify(&facts, &settings).score;
    assert!(score(PromptFacts { turns: 10, ..short }) >= 0.15);
    assert!(score(PromptFacts { asked_output_tokens: Some(32_000), ..short }) >= 0.09);
    let document = DECLARATION[0].2.repeat(100);
    assert_eq!(judge(&scan(&[&document])).complexity, Complexity::Medium);
    let mut scan = PromptScan::new(&settings);
    scan.feed_instructions(&document);
    scan.feed("Hi!");
    let facts = scan.finish(None);
    assert!(facts.est_tokens > 5_000 && facts.conversation_tokens < 5);
    assert_eq!(judge(&facts).complexity, Complexity::Simple);
}

#[test]
fn contributions_sum_up_to_the_score() {
    for (.., text) in PROMPTS {
        let got = judge(&scan(&[text]));
        let sum: f32 = got.contributions.iter().map(|c| c.points).sum();
        assert!((got.score - sum.min(1.0)).abs() < 1e-6);
    }
}

#[test]
fn only_the_ends_of_a_very_long_text_are_searched() {
    let filler = "lorem ipsum ".repeat(4_000);
    assert_eq!(scan(&[&format!("kubernetes {filler} mutex")]).technical_terms, 2);
    assert_eq!(scan(&[&format!("{filler} kubernetes {filler}")]).technical_terms, 0);
}

proptest! {
    /// Any text, however cut: no panic, scores in range, and more text is never estimated at less than either part.
    #[test]
    fn any_text_can_be_judged(a in "\\PC{0,200}", b in any::<String>(), n in 1_usize..2_000) {
        let text = format!("{a}{b}").repeat(n);
        let facts = scan(&[&text]);
        let got = judge(&facts);
        prop_assert!((0.0..=1.0).contains(&got.score) && (0.0..=1.0).contains(&facts.code));
        prop_assert!(facts.est_tokens <= 4 * text.chars().count() as u64 + 1);
        prop_assert_eq!(facts.est_tokens == 0, text.is_empty());
    }
}
