//! An upper bound of the tokens that a text is, by any vendor's tokenizer: what a hard budget reserves.
//!
//! **Basis.** Byte-level tokenizers never need more tokens than the text has bytes; that is the last bound. Below it each
//! character is given a weight by its kind, at least 1.3 times what prose of its script needs in the worst of six public
//! vocabularies (`o200k_base`, `cl100k_base`, DeepSeek V3, Qwen 2, Llama 3, Mistral v3), and more than base64, hex and digits
//! (one token each in two of them) need. So the bound is about twice the real count for English prose and three to five times for
//! scripts in which vocabularies differ most. Letters drawn at random from one rare script can pass the weights, never the bytes.
//!
//! One look at each byte, about a gigabyte a second: the time of even the longest request is small beside reading it.

/// Weights are in sixteenths of a token.
const WHOLE: u64 = 16;
/// Small Latin letters: the first two of a word, the next five, and those beyond: real words are rarely longer, random letters are.
const FIRST: u64 = 13;
const SECOND: u64 = 9;
const NEXT: u64 = 5;
const FAR: u64 = 12;
const FAR_FROM: u32 = 7;

/// By a character's first byte; the others of it weigh nothing.
static WEIGHTS: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = weight(byte as u8);
        byte += 1;
    }
    table
};

const fn weight(first: u8) -> u8 {
    match first {
        b' ' => 6,
        b'\t' | b'\n' | b'\r' => 12,
        b'A'..=b'Z' => 14,
        b'0'..=b'9' | 0..=b' ' | 0x7f => 16,
        // Small letters go by their place in the word.
        b'a'..=b'z' | 0x80..=0xc1 => 0,
        0..=0x7f => 16,
        0xc2..=0xc3 => 21,               // Latin with diacritics, signs
        0xc4..=0xc9 => 31,               // Latin, further letters
        0xce..=0xcf => 22,               // Greek
        0xd0..=0xd3 => 14,               // Cyrillic
        0xd6..=0xd7 => 25,               // Hebrew
        0xd8..=0xdb => 20,               // Arabic, Persian, Urdu
        0xe0 => 32,                      // the Indic scripts, Thai, Lao
        0xe2 => 43,                      // punctuation, mathematics, boxes
        0xe3 => 28,                      // Kana, Chinese punctuation
        0xe4..=0xe9 | 0xef => 28,        // Han, full-width forms
        0xea..=0xed => 32,               // Hangul
        0xca..=0xcd | 0xd4..=0xdf => 32, // marks, Armenian, Syriac …: two bytes
        0xe1 | 0xee => 48,               // Georgian, Ethiopic, Khmer …: three bytes
        0xf0..=0xff => 64,               // emoji, rare Han: four bytes
    }
}

/// The tokens that a text is at most; 0 only for an empty one.
#[must_use]
pub fn ceiling(text: &str) -> u64 {
    let (mut sum, mut run) = (0_u64, 0_u32);
    for byte in text.bytes() {
        if byte.is_ascii_lowercase() {
            sum += match run {
                0 => FIRST,
                1 => SECOND,
                2..FAR_FROM => NEXT,
                _ => FAR,
            };
            run = run.saturating_add(1);
        } else {
            run = 0;
            sum += u64::from(WEIGHTS[usize::from(byte)]);
        }
    }
    sum.div_ceil(WHOLE).min(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::complexity::estimate_tokens;
    use crate::domain::complexity::samples::{DECLARATION, PROMPTS};
    use proptest::prelude::*;

    /// The most that any of the vocabularies at hand counts.
    fn counted(text: &str) -> u64 {
        let count = |name| tiktoken::get_encoding(name).unwrap().count(text) as u64;
        ["o200k_base", "cl100k_base", "deepseek_v3"].into_iter().map(count).max().unwrap()
    }

    #[test]
    fn prose_in_any_script_stays_a_third_below() {
        let texts = DECLARATION.iter().map(|(.., text)| *text).chain(PROMPTS.iter().map(|(.., text)| *text));
        let mut wrong = Vec::new();
        for text in texts {
            let (most, real) = (ceiling(text), counted(text));
            // Useful only while it is no wild guess.
            if most * 10 < real * 13 || most > 6 * estimate_tokens(text).max(real) + 8 {
                wrong.push(format!("{most} for {real}: {text}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn code_json_and_tables_stay_below() {
        let texts = [
            include_str!("../../engine/course.rs"),
            include_str!("../../http/openapi.json"),
            include_str!("../../http/dashboard.html"),
            include_str!("../../../data/prices.json"),
            include_str!("../../../config.yaml"),
            include_str!("../../../README.md"),
            include_str!("../../../tests/run"),
            include_str!("../../../tests/sdk/gateway.py"),
        ];
        for text in texts {
            let (most, real) = (ceiling(text), counted(text));
            let name: String = text.chars().take(30).collect();
            assert!(most * 10 >= real * 13 && most <= real * 4, "{most} for {real}: {name}");
        }
    }

    #[test]
    fn digits_may_be_tokens_of_their_own() {
        assert!(ceiling(&"1234567890".repeat(100)) >= 1_000);
        assert_eq!((ceiling(""), ceiling("a"), ceiling("\u{1f642}")), (0, 1, 4));
    }

    proptest! {
        #[test]
        fn what_machines_write_stays_below(
            text in prop_oneof![
                "[a-zA-Z0-9+/]{50,400}",
                "[0-9a-f]{50,400}",
                "([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{12}, ){5,20}",
                "([A-Z]{2,5}[0-9]{1,6};){20,40}",
                "(-?[0-9]{1,4}\\.[0-9]{1,6}[ \t\n,]){20,60}",
                "[!-~]{50,400}",
                "[a-z]{60,400}",
                "([A-Za-z]{3,9}[ _.:=/]){20,60}",
                "[ \t\n]{10,200}",
            ]
        ) {
            prop_assert!(ceiling(&text) >= counted(&text), "{} for {}", ceiling(&text), counted(&text));
        }

        #[test]
        fn bytes_are_the_last_bound(text in "\\PC{0,200}") {
            prop_assert!(ceiling(&text) <= text.len() as u64);
        }
    }
}
