//! The token estimate of a text that comes in pieces, as a stream brings it: the same as of the whole text, however it was cut.
//!
//! The end of what has come may go on with the next piece, so it is held back: up to the last space after a word, at most
//! [`HELD`] bytes. Text without spaces is counted in such blocks, which may make a word or two of each more. So a meter's memory
//! is bounded, and each byte is looked at twice at most.

use crate::domain::complexity::{cost_milli, estimate_tokens};

/// Bytes held back at most, but for the last piece.
const HELD: usize = 256;
/// From here on a place to cut is looked for.
const CUT_FROM: usize = 64;
/// A larger piece is estimated by itself, by samples.
const LARGE: usize = 64 << 10;

/// Counts as text comes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    /// Thousandths of tokens of what is counted.
    milli: u64,
    /// What came after it.
    held: String,
    has_text: bool,
}

impl Meter {
    /// Takes the next piece.
    pub fn feed(&mut self, text: &str) {
        self.has_text |= !text.is_empty();
        if text.len() > LARGE {
            self.milli = self.milli.saturating_add(estimate_tokens(text).saturating_mul(1_000));
            return;
        }
        self.held.push_str(text);
        if self.held.len() < CUT_FROM {
            return;
        }
        let cut = match last_space(self.held.as_bytes()) {
            Some(at) => at,
            None if self.held.len() >= HELD => self.held.len(),
            None => return,
        };
        self.milli = self.milli.saturating_add(cost_milli(self.held.get(..cut).unwrap_or_default()));
        self.held.drain(..cut);
        if self.held.capacity() > 4 * HELD {
            self.held.shrink_to(HELD);
        }
    }

    /// Whether nothing came.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.has_text
    }

    /// The tokens so far; 0 only if nothing came.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        let milli = self.milli.saturating_add(cost_milli(&self.held));
        if self.is_empty() { 0 } else { (milli.saturating_add(500) / 1_000).max(1) }
    }
}

/// The last space that follows something else than white space: a text can be cut before it, and the parts cost as much as the whole.
fn last_space(text: &[u8]) -> Option<usize> {
    let is_cut = |pair: &[u8]| pair[1] == b' ' && !pair[0].is_ascii_whitespace() && pair[0] > b' ';
    text.windows(2).rposition(is_cut).map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::complexity::samples::{DECLARATION, PROMPTS};
    use proptest::prelude::*;

    fn in_pieces(text: &str, sizes: &[usize]) -> u64 {
        let (mut meter, mut rest) = (Meter::default(), text);
        for size in sizes.iter().cycle() {
            let cut = (*size..=rest.len()).find(|at| rest.is_char_boundary(*at)).unwrap_or(rest.len());
            let (piece, after) = rest.split_at(cut);
            meter.feed(piece);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        meter.tokens()
    }

    #[test]
    fn nothing_is_nothing_and_something_is_not() {
        let mut meter = Meter::default();
        meter.feed("");
        assert_eq!((meter.tokens(), meter.is_empty()), (0, true));
        meter.feed("a");
        assert_eq!((meter.tokens(), meter.is_empty()), (1, false));
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut meter = Meter::default();
        for _ in 0..10_000 {
            meter.feed("漢字");
            assert!(meter.held.len() < HELD + 8);
        }
        meter.feed(&"x".repeat(60_000));
        assert!(meter.held.capacity() <= 4 * HELD);
        let before = meter.tokens();
        meter.feed(&"word ".repeat(100_000));
        assert!(meter.held.len() < HELD && meter.tokens() > before + 50_000);
    }

    proptest! {
        #[test]
        fn any_cut_of_prose_gives_the_estimate_of_the_whole(
            which in 0..PROMPTS.len(),
            sizes in proptest::collection::vec(1_usize..40, 1..20),
        ) {
            let text = PROMPTS[which].3;
            // Where the text has no spaces, blocks may split words.
            let slack = if text.split(' ').any(|w| w.len() >= HELD) { text.len() as u64 / HELD as u64 * 2 } else { 0 };
            prop_assert!(in_pieces(text, &sizes).abs_diff(estimate_tokens(text)) <= slack, "{text}");
        }

        #[test]
        fn a_word_or_two_a_block_is_the_worst(
            which in 0..DECLARATION.len(),
            sizes in proptest::collection::vec(1_usize..9, 1..20),
        ) {
            let text = DECLARATION[which].2;
            let slack = text.len() as u64 / HELD as u64 * 2;
            prop_assert!(in_pieces(text, &sizes).abs_diff(estimate_tokens(text)) <= slack, "{text}");
        }

        #[test]
        fn any_text_with_spaces_is_cut_safely(
            text in "([a-zA-Z0-9é漢.,\n\t(){}]{0,20} {1,3}){0,30}",
            sizes in proptest::collection::vec(1_usize..30, 1..20),
        ) {
            prop_assert_eq!(in_pieces(&text, &sizes), estimate_tokens(&text));
        }
    }
}
