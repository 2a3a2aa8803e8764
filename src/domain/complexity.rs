//! How demanding a prompt is: simple, medium or complex, in any language.
//!
//! Six features, each between 0 and 1, weighted and added; the sum, at most 1, is compared with two thresholds.
//!
//! | feature | 0 at | 1 at (defaults) |
//! |---|---|---|
//! | `length` | ≤ 30 estimated tokens of conversation | ≥ 4,000, by logarithm |
//! | `code` | none | 3 different code markers, or 12 % of the characters are brackets, semicolons and their like |
//! | `terms` | no technical term | 4 different ones |
//! | `demands` | nothing that asks for thought ("prove", "compare", "step by step") | 3 different ones |
//! | `depth` | 1 turn | 10 turns of the user |
//! | `output` | nothing or ≤ 512 tokens asked for | ≥ 8,192, by logarithm |
//!
//! Length is measured in tokens, not words or bytes, so it means the same in Chinese and in English. Instructions to the model
//! (system prompts, tool definitions) count towards the tokens but not towards complexity: they are the same for each request of
//! an application and would make all of them complex. Of a text over 32 KiB the first and the last 16 KiB are searched for
//! terms and code; its length counts in full.
//!
//! This is a guess from the outside of a text, made in microseconds; it doesn't understand it.

mod chars;
mod lexicon;
pub mod terms;
#[cfg(test)]
mod tests;
mod tokens;

pub use lexicon::{Found, Lexicon, LexiconFault, MAX_TERM_CHARS, MAX_TERMS, TermFault, TermList};
#[cfg(test)]
pub(crate) use tests::samples;
pub(in crate::domain) use tokens::cost as cost_milli;
pub use tokens::estimate_tokens;

use crate::domain::intelligent::IntelligentSettings;
use chars::{boundary_after, boundary_before, is_combining, is_word};
use serde::{Deserialize, Serialize};

/// Bytes searched at each end of a long text.
const WINDOW: usize = 16 * 1024;

/// Fewer signs than this are punctuation, whatever their share.
const MIN_SIGNS: u32 = 8;
/// Shares of signs among the characters, in percent: prose has less than the first, code more than the second.
const PROSE_SIGNS: f32 = 3.0;
const CODE_SIGNS: f32 = 12.0;

/// How demanding a prompt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Complexity {
    Simple,
    Medium,
    Complex,
}

impl Complexity {
    pub const ALL: [Self; 3] = [Self::Simple, Self::Medium, Self::Complex];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Medium => "medium",
            Self::Complex => "complex",
        }
    }
}

/// What a scan found in a request's prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PromptFacts {
    /// Of the whole prompt; for reservations and cost estimates.
    pub est_tokens: u64,
    /// Of the conversation alone, without instructions; for complexity.
    pub conversation_tokens: u64,
    /// 0 (prose) to 1 (code).
    pub code: f32,
    /// Different technical terms.
    pub technical_terms: u32,
    /// Different terms that ask for thought.
    pub demands: u32,
    /// Messages of the user.
    pub turns: u32,
    /// The request's own limit on output, if it has one.
    pub asked_output_tokens: Option<u64>,
}

/// Reads a prompt text by text, without copying.
pub struct PromptScan<'s> {
    settings: &'s IntelligentSettings,
    found: Found,
    signs: Signs,
    /// The densest text's share of signs, 0..=1 as code.
    densest: f32,
    est_tokens: u64,
    conversation_tokens: u64,
    turns: u32,
}

/// Counts the brackets and semicolons of one text.
#[derive(Default)]
struct Signs {
    signs: u32,
    /// All but white space; bytes for ASCII, characters beyond.
    of: u32,
}

impl<'s> PromptScan<'s> {
    #[must_use]
    pub fn new(settings: &'s IntelligentSettings) -> Self {
        Self {
            settings,
            found: Found::default(),
            signs: Signs::default(),
            densest: 0.0,
            est_tokens: 0,
            conversation_tokens: 0,
            turns: 0,
        }
    }

    /// Begins a message of the user.
    pub fn turn(&mut self) {
        self.turns = self.turns.saturating_add(1);
    }

    /// Takes one text of the conversation: a message, or one text part of it, whoever said it.
    pub fn feed(&mut self, text: &str) {
        let tokens = estimate_tokens(text);
        self.est_tokens = self.est_tokens.saturating_add(tokens);
        self.conversation_tokens = self.conversation_tokens.saturating_add(tokens);
        self.signs = Signs::default();
        if text.len() <= 2 * WINDOW {
            self.search(text);
        } else {
            self.search(text.get(..boundary_before(text, WINDOW)).unwrap_or(""));
            self.search(text.get(boundary_after(text, text.len() - WINDOW)..).unwrap_or(""));
        }
        self.densest = self.densest.max(self.signs.code());
    }

    /// Takes a text that instructs the model: system and developer messages, tool definitions, output schemas.
    pub fn feed_instructions(&mut self, text: &str) {
        self.est_tokens = self.est_tokens.saturating_add(estimate_tokens(text));
    }

    /// What was found; `asked_output_tokens` is the request's `max_tokens` or its like.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // small counts
    pub fn finish(self, asked_output_tokens: Option<u64>) -> PromptFacts {
        let markers = self.found.count(TermList::CodeMarkers) as f32 / self.settings.scale.markers_full.max(1) as f32;
        PromptFacts {
            est_tokens: self.est_tokens,
            conversation_tokens: self.conversation_tokens,
            code: markers.max(self.densest).min(1.0),
            technical_terms: self.found.count(TermList::Technical),
            demands: self.found.count(TermList::Demands),
            turns: self.turns,
            asked_output_tokens,
        }
    }

    /// Looks for terms where words and signs begin.
    fn search(&mut self, text: &str) {
        let lexicon = &*self.settings.lexicon;
        let bytes = text.as_bytes();
        let mut at = 0;
        let mut in_word = false;
        while let Some(&byte) = bytes.get(at) {
            if byte.is_ascii_alphanumeric() {
                if !in_word {
                    lexicon.walk(char::from(byte), text.get(at + 1..).unwrap_or(""), &mut self.found);
                }
                let start = at;
                while bytes.get(at).is_some_and(u8::is_ascii_alphanumeric) {
                    at += 1;
                }
                self.signs.pass(at - start);
                in_word = true;
            } else if byte.is_ascii_whitespace() {
                in_word = false;
                at += 1;
            } else if byte.is_ascii() {
                lexicon.walk(char::from(byte), text.get(at + 1..).unwrap_or(""), &mut self.found);
                self.signs.sign(byte);
                in_word = false;
                at += 1;
            } else {
                let mut rest = text.get(at..).unwrap_or("").chars();
                while let Some(c) = rest.next() {
                    let word = is_word(c);
                    if !(in_word && word || is_combining(c)) {
                        lexicon.walk(c, rest.as_str(), &mut self.found);
                    }
                    self.signs.pass(1);
                    in_word = word;
                    at += c.len_utf8();
                    if bytes.get(at).is_none_or(u8::is_ascii) {
                        break;
                    }
                }
            }
        }
    }
}

impl Signs {
    fn pass(&mut self, characters: usize) {
        self.of = self.of.saturating_add(u32::try_from(characters).unwrap_or(u32::MAX));
    }

    fn sign(&mut self, byte: u8) {
        self.pass(1);
        if matches!(byte, b'{' | b'}' | b'[' | b']' | b'(' | b')' | b';' | b'=' | b'<' | b'>' | b'_' | b'"' | b'\\') {
            self.signs = self.signs.saturating_add(1);
        }
    }

    #[allow(clippy::cast_precision_loss)] // at most 32 Ki
    fn code(&self) -> f32 {
        if self.signs < MIN_SIGNS {
            return 0.0;
        }
        let percent = 100.0 * self.signs as f32 / self.of.max(1) as f32;
        ((percent - PROSE_SIGNS) / (CODE_SIGNS - PROSE_SIGNS)).clamp(0.0, 1.0)
    }
}

/// How much one feature adds to the score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contribution {
    pub feature: &'static str,
    /// 0..=1.
    pub value: f32,
    /// The value times the feature's weight.
    pub points: f32,
}

/// A classified prompt, with the reasons.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Classified {
    pub complexity: Complexity,
    /// The sum of the points, at most 1.
    pub score: f32,
    pub contributions: [Contribution; 6],
}

/// Weighs the facts and compares the sum with the thresholds.
#[must_use]
#[allow(clippy::cast_precision_loss)] // small counts
pub fn classify(facts: &PromptFacts, settings: &IntelligentSettings) -> Classified {
    let (w, s) = (&settings.weights, &settings.scale);
    let share = |count: u32, full: u32| count as f32 / full.max(1) as f32;
    let output = facts.asked_output_tokens.map_or(0.0, |t| by_logarithm(t, s.output_from, s.output_full));
    let part = |feature, value: f32, weight: f32| {
        let value = value.clamp(0.0, 1.0);
        Contribution { feature, value, points: value * weight }
    };
    let contributions = [
        part("length", by_logarithm(facts.conversation_tokens, s.length_from, s.length_full), w.length),
        part("code", facts.code, w.code),
        part("terms", share(facts.technical_terms, s.terms_full), w.terms),
        part("demands", share(facts.demands, s.demands_full), w.demands),
        part("depth", share(facts.turns.saturating_sub(1), s.depth_full.saturating_sub(1)), w.depth),
        part("output", output, w.output),
    ];
    let score = contributions.iter().map(|c| c.points).sum::<f32>().clamp(0.0, 1.0);
    let complexity = if score < settings.simple_below {
        Complexity::Simple
    } else if score < settings.complex_from {
        Complexity::Medium
    } else {
        Complexity::Complex
    };
    Classified { complexity, score, contributions }
}

/// 0 up to `from`, 1 from `full` on, in between by the logarithm: ten times as much counts the same anywhere.
#[allow(clippy::cast_precision_loss)] // a measure
fn by_logarithm(value: u64, from: u64, full: u64) -> f32 {
    let (value, from, full) = (value as f32, from.max(1) as f32, full.max(1) as f32);
    if value <= from {
        0.0
    } else if value >= full {
        1.0
    } else {
        (value / from).ln() / (full / from).ln()
    }
}
