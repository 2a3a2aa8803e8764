//! The seam between a text that broke off and its continuation by another model.
//!
//! A model that is asked to go on often repeats a little first: the last words, or everything from the start. What it repeats must not reach
//! the reader twice. The overlap is the longest end of the delivered text that the continuation begins with; it is cut off.
//!
//! - An overlap begins where a word may begin and has three characters at least: a model repeats words, not the second `l` of `Hello`. The
//!   whole text, repeated, needs only two.
//! - It is looked for in the last 4 KiB of the delivered text and at its very start.
//! - Pieces are held as long as they may be part of a longer overlap; then all but the overlap is let go at once.
//! - A continuation that begins like the delivered text for 64 bytes and then differs has begun anew with other words. It cannot be joined.
//!
//! If the text itself says the same words on both sides of the seam, they look like an overlap, and are said once.

/// How far back an overlap may begin, bytes.
const REACH: usize = 4096;
/// Characters of the shortest overlap.
const SHORTEST: usize = 3;
/// The same for the whole text.
const SHORTEST_WHOLE: usize = 2;
/// Bytes from which a common beginning is no coincidence.
const SAME: usize = 64;

/// What to do with a piece of the continuation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joint {
    /// It may still be overlap; it is held.
    Held,
    /// What follows the delivered text. The seam is closed: everything after this follows too.
    Joined(String),
    /// The text was begun anew with other words.
    Anew,
}

/// A seam that is not closed yet. The delivered text is handed in again each time, and must be the same.
#[derive(Clone, Debug)]
pub struct Seam {
    held: String,
    /// Where in the delivered text `held` may have been taken from; ascending.
    alive: Vec<usize>,
    /// The longest overlap that is complete, bytes.
    overlap: usize,
    /// For how many bytes the continuation began like the delivered text.
    same: usize,
}

impl Seam {
    #[must_use]
    pub fn new(delivered: &str) -> Self {
        let near = delivered.len().saturating_sub(REACH);
        let long_enough = |at: usize, chars: usize| delivered[at..].chars().nth(chars - 1).is_some();
        let mut alive: Vec<usize> = (near.max(1)..delivered.len())
            .filter(|at| is_word_start(delivered, *at))
            .filter(|at| long_enough(*at, SHORTEST) && !delivered[*at..].trim().is_empty())
            .collect();
        if long_enough(0, SHORTEST_WHOLE) {
            alive.insert(0, 0);
        }
        Self { held: String::new(), alive, overlap: 0, same: 0 }
    }

    /// Takes a piece of the continuation.
    pub fn push(&mut self, delivered: &str, piece: &str) -> Joint {
        let before = self.held.len();
        let overlap = &mut self.overlap;
        if self.alive.first() == Some(&0) {
            let rest = delivered.as_bytes().iter().skip(before);
            self.same = before + rest.zip(piece.as_bytes()).take_while(|(a, b)| a == b).count();
        }
        self.alive.retain(|at| {
            let rest = delivered.get(at + before..).unwrap_or_default();
            if piece.starts_with(rest) {
                *overlap = (*overlap).max(delivered.len() - at);
                return false;
            }
            rest.starts_with(piece)
        });
        self.held.push_str(piece);
        if !self.alive.is_empty() {
            return Joint::Held;
        }
        if self.overlap == 0 && self.same >= SAME {
            return Joint::Anew;
        }
        Joint::Joined(self.release())
    }

    /// The continuation has ended: what of it is held and follows the delivered text. If all of it stands there already, at length,
    /// nothing does.
    pub fn end(&mut self) -> String {
        let is_repetition = !self.alive.is_empty() && self.overlap == 0 && self.held.len() >= SAME;
        if is_repetition { String::new() } else { self.release() }
    }

    fn release(&mut self) -> String {
        self.alive = Vec::new();
        std::mem::take(&mut self.held).split_off(self.overlap)
    }
}

/// Whether a word may begin at `at`: anywhere but between two ASCII letters or digits. Other scripts write words without blanks.
fn is_word_start(text: &str, at: usize) -> bool {
    let inner = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    text.is_char_boundary(at) && !(inner(bytes.get(at)) && inner(bytes.get(at.wrapping_sub(1))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the reader gets when `continuation` comes in these pieces.
    fn joined(delivered: &str, pieces: &[&str]) -> Option<String> {
        let mut seam = Seam::new(delivered);
        let mut text = delivered.to_owned();
        let mut closed = false;
        for piece in pieces {
            if closed {
                text.push_str(piece);
                continue;
            }
            match seam.push(delivered, piece) {
                Joint::Held => {}
                Joint::Joined(rest) => {
                    text.push_str(&rest);
                    closed = true;
                }
                Joint::Anew => return None,
            }
        }
        if !closed {
            text.push_str(&seam.end());
        }
        Some(text)
    }

    #[test]
    fn overlaps_are_cut_off_and_coincidences_are_not() {
        for (delivered, continuation, expected) in [
            ("t0 t1 t2", " t3 t4", "t0 t1 t2 t3 t4"),
            ("t0 t1 t2", " t1 t2 t3", "t0 t1 t2 t3"),
            ("t0 t1 t2", "t0 t1 t2 t3", "t0 t1 t2 t3"),
            ("t0", "t0 t1", "t0 t1"),
            ("Hel", "lo", "Hello"),
            ("1", "1 days", "11 days"),
            ("in 1", "1 days", "in 11 days"),
            ("a line\n", "\nanother", "a line\n\nanother"),
            ("I say Hel", "Hello", "I say Hello"),
            ("今天天气", "天天气很好", "今天天气很好"),
            ("The end", ".", "The end."),
            ("", "All of it", "All of it"),
        ] {
            assert_eq!(joined(delivered, &[continuation]).as_deref(), Some(expected), "{delivered} | {continuation}");
        }
    }

    #[test]
    fn what_begins_anew_with_other_words_is_not_joined() {
        let words: String = (0..40).map(|n| format!("word{n} ")).collect();
        let other = format!("{}something else", &words[..words.len() / 2]);
        assert_eq!(joined(&words, &[&other]), None);
        // The same beginning and nothing more: all of it has been said.
        assert_eq!(joined(&words, &[&words[..100]]), Some(words.clone()));
    }

    #[test]
    fn a_text_of_one_letter_takes_no_longer_than_its_reach() {
        let text = "a ".repeat(200_000);
        let mut seam = Seam::new(&text);
        assert!(seam.alive.len() <= REACH + 1);
        assert!((0..100_000).all(|_| seam.push(&text, "a ") == Joint::Held));
        assert_eq!(seam.alive, [0], "the ends within reach are complete");
    }

    proptest! {
        /// Every cut, with and without overlap, in any pieces: the text once and in order.
        #[test]
        fn the_text_is_there_once_and_in_order(
            seed in proptest::collection::vec((0_usize..3, prop_oneof![Just(" "), Just("\n"), Just(", "), Just(" é")]), 2..40),
            cut in 0.0_f64..1.0,
            back in 0_usize..30,
            pieces in proptest::collection::vec(1_usize..12, 1..50),
        ) {
            let word = |(n, (kind, gap)): (usize, &(usize, &str))| match kind {
                0 => format!("t{n}{gap}"),
                1 => format!("Word{n}x{gap}"),
                _ => format!("ü{n}字{gap}"),
            };
            let text: String = seed.iter().enumerate().map(word).collect();
            let mut cut = (text.len() as f64 * cut) as usize;
            while !text.is_char_boundary(cut) { cut -= 1; }
            let (delivered, rest) = text.split_at(cut);
            let splits = |continuation: &str| {
                let (mut all, mut left) = (Vec::new(), continuation.to_owned());
                for n in pieces.iter().cycle() {
                    if left.is_empty() { break; }
                    let mut n = (*n).min(left.len());
                    while !left.is_char_boundary(n) { n += 1; }
                    let tail = left.split_off(n);
                    all.push(std::mem::replace(&mut left, tail));
                }
                all
            };
            let mut starts = vec![cut];
            if delivered.chars().count() >= SHORTEST_WHOLE { starts.push(0); }
            let overlaps = (0..cut).rev().filter(|at| is_word_start(&text, *at));
            starts.extend(overlaps.filter(|at| {
                let overlap = &delivered[*at..];
                overlap.chars().count() >= SHORTEST && !overlap.trim().is_empty()
            }).nth(back));
            for start in starts {
                let continuation = splits(&format!("{}{rest}", &delivered[start..]));
                let continuation: Vec<&str> = continuation.iter().map(String::as_str).collect();
                prop_assert_eq!(joined(delivered, &continuation), Some(text.clone()), "cut {} from {}", cut, start);
            }
        }
    }
}
