//! Finds the terms of three lists in a text: technical terms, demands (what asks for thought), code markers.
//!
//! A term is compared folded (case, diacritics and width don't matter) and found where a word begins; in scripts without
//! spaces, anywhere. It ends where a word ends, unless it ends in `*` (`algorithm*` finds `Algorithmen`), in a sign, or in a
//! script without spaces. Spaces in a term match any white space character. Each term counts once, however often it stands
//! there: repetition is not complexity. All lists are one trie, walked from each beginning; most walks end after a letter or
//! two, so the time depends on the text and hardly on the lists.

use super::chars::{fold, is_combining, is_unspaced, is_word};
use std::collections::BTreeMap;
use std::fmt;

/// Terms per list.
pub const MAX_TERMS: usize = 512;
/// Characters per term.
pub const MAX_TERM_CHARS: usize = 64;

const WORDS: usize = MAX_TERMS / 64;

/// What is wrong with a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TermFault {
    /// Nothing in it but white space or the `*`.
    Empty,
    /// Over [`MAX_TERM_CHARS`].
    TooLong,
    /// Stands behind the first [`MAX_TERMS`] of its list.
    TooMany,
}

impl fmt::Display for TermFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("an empty term would be found everywhere"),
            Self::TooLong => write!(f, "a term has at most {MAX_TERM_CHARS} characters"),
            Self::TooMany => write!(f, "a list has at most {MAX_TERMS} terms"),
        }
    }
}

/// The three lists by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TermList {
    Technical,
    Demands,
    CodeMarkers,
}

impl TermList {
    /// The key under `intelligent:` in config.yaml.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Technical => "terms",
            Self::Demands => "demands",
            Self::CodeMarkers => "code_markers",
        }
    }
}

/// A faulty term: list, place in the list, fault.
pub type LexiconFault = (TermList, usize, TermFault);

/// The compiled lists; equal when the lists are.
#[derive(Clone)]
pub struct Lexicon {
    technical: Vec<String>,
    demands: Vec<String>,
    code_markers: Vec<String>,
    nodes: Vec<Node>,
    /// The children of all nodes; those of one node together, sorted by character.
    edges: Vec<(char, u32)>,
    ends: Vec<End>,
    /// The children of the root by ASCII character; 0: none (no edge leads back to the root).
    first: [u32; 128],
    /// The other children of the root: a hash table with open addressing, at most a quarter full; 0: a free slot.
    first_beyond: Vec<(char, u32)>,
}

#[derive(Clone, Copy, Default)]
struct Node {
    edges: (u32, u32),
    ends: (u32, u32),
}

/// A term ends here.
#[derive(Clone, Copy, PartialEq, Eq)]
struct End {
    list: TermList,
    id: u16,
    /// Only if a word ends here too.
    whole: bool,
}

/// The distinct terms found so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    technical: [u64; WORDS],
    demands: [u64; WORDS],
    code_markers: [u64; WORDS],
}

impl Found {
    /// How many terms of a list were found.
    #[must_use]
    pub fn count(&self, list: TermList) -> u32 {
        let set = match list {
            TermList::Technical => &self.technical,
            TermList::Demands => &self.demands,
            TermList::CodeMarkers => &self.code_markers,
        };
        set.iter().map(|word| word.count_ones()).sum()
    }

    fn add(&mut self, end: End) {
        let set = match end.list {
            TermList::Technical => &mut self.technical,
            TermList::Demands => &mut self.demands,
            TermList::CodeMarkers => &mut self.code_markers,
        };
        if let Some(word) = set.get_mut(usize::from(end.id / 64)) {
            *word |= 1 << (end.id % 64);
        }
    }
}

impl Lexicon {
    /// No terms at all.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            technical: Vec::new(),
            demands: Vec::new(),
            code_markers: Vec::new(),
            nodes: Vec::new(),
            edges: Vec::new(),
            ends: Vec::new(),
            first: [0; 128],
            first_beyond: Vec::new(),
        }
    }

    /// Compiles the lists.
    ///
    /// # Errors
    /// Every faulty term.
    pub fn new(
        technical: Vec<String>,
        demands: Vec<String>,
        code_markers: Vec<String>,
    ) -> Result<Self, Vec<LexiconFault>> {
        let mut it = Self { technical, demands, code_markers, ..Self::empty() };
        let mut tree = Tree::default();
        let mut faults = Vec::new();
        for list in [TermList::Technical, TermList::Demands, TermList::CodeMarkers] {
            for (index, term) in it.list(list).iter().enumerate() {
                match u16::try_from(index).ok().filter(|_| index < MAX_TERMS) {
                    Some(id) => {
                        if let Err(fault) = tree.insert(term, list, id) {
                            faults.push((list, index, fault));
                        }
                    }
                    None => faults.push((list, index, TermFault::TooMany)),
                }
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        it.flatten(&tree);
        Ok(it)
    }

    /// One of the lists, as given.
    #[must_use]
    pub fn list(&self, list: TermList) -> &[String] {
        match list {
            TermList::Technical => &self.technical,
            TermList::Demands => &self.demands,
            TermList::CodeMarkers => &self.code_markers,
        }
    }

    #[allow(clippy::cast_possible_truncation)] // at most 3 * MAX_TERMS * MAX_TERM_CHARS nodes
    fn flatten(&mut self, tree: &Tree) {
        for branch in &tree.branches {
            let edges = self.edges.len() as u32;
            let ends = self.ends.len() as u32;
            self.edges.extend(branch.children.iter().map(|(c, to)| (*c, *to)));
            self.ends.extend(&branch.ends);
            self.nodes.push(Node { edges: (edges, self.edges.len() as u32), ends: (ends, self.ends.len() as u32) });
        }
        let Some(root) = tree.branches.first() else { return };
        self.first_beyond = vec![(' ', 0); (root.children.len() * 4).next_power_of_two()];
        for (c, to) in &root.children {
            match self.first.get_mut(*c as usize) {
                Some(slot) => *slot = *to,
                None => {
                    let mask = self.first_beyond.len() - 1;
                    let free = |at: &usize| self.first_beyond.get(*at).is_some_and(|(_, to)| *to == 0);
                    let free = (0..=mask).map(|i| (hash(*c) + i) & mask).find(free);
                    if let Some(slot) = free.and_then(|i| self.first_beyond.get_mut(i)) {
                        *slot = (*c, *to);
                    }
                }
            }
        }
    }

    /// Marks the terms that begin with `first` and go on with `rest`.
    pub(super) fn walk(&self, first: char, rest: &str, found: &mut Found) {
        if let Some(node) = self.step_from_root(fold(first)) {
            self.walk_from(node, rest, found);
        }
    }

    fn walk_from(&self, mut node: Node, rest: &str, found: &mut Found) {
        let mut chars = rest.chars();
        loop {
            for end in slice(&self.ends, node.ends) {
                if !end.whole || !chars.clone().next().is_some_and(is_word) {
                    found.add(*end);
                }
            }
            let Some(c) = chars.next() else { return };
            if is_combining(c) {
                continue;
            }
            let c = fold(c);
            let Some((_, to)) = slice(&self.edges, node.edges).iter().find(|(edge, _)| *edge == c) else { return };
            let Some(next) = self.nodes.get(*to as usize) else { return };
            node = *next;
        }
    }

    fn step_from_root(&self, c: char) -> Option<Node> {
        let to = match self.first.get(c as usize) {
            Some(to) => *to,
            None => {
                let mut at = hash(c);
                loop {
                    let (of, to) = *self.first_beyond.get(at & self.first_beyond.len().checked_sub(1)?)?;
                    if of == c || to == 0 {
                        break to;
                    }
                    at += 1;
                }
            }
        };
        if to == 0 { None } else { self.nodes.get(to as usize).copied() }
    }
}

/// Spreads characters over a small table: neighbours in a script go to different slots.
fn hash(c: char) -> usize {
    (u32::from(c).wrapping_mul(0x9e37_79b1) >> 16) as usize
}

fn slice<T>(all: &[T], (from, to): (u32, u32)) -> &[T] {
    all.get(from as usize..to as usize).unwrap_or(&[])
}

impl PartialEq for Lexicon {
    fn eq(&self, other: &Self) -> bool {
        self.technical == other.technical && self.demands == other.demands && self.code_markers == other.code_markers
    }
}

impl fmt::Debug for Lexicon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lexicon")
            .field("technical", &self.technical.len())
            .field("demands", &self.demands.len())
            .field("code_markers", &self.code_markers.len())
            .finish()
    }
}

/// The trie while it is built.
struct Tree {
    branches: Vec<Branch>,
}

#[derive(Default)]
struct Branch {
    children: BTreeMap<char, u32>,
    ends: Vec<End>,
}

impl Default for Tree {
    fn default() -> Self {
        Self { branches: vec![Branch::default()] }
    }
}

impl Tree {
    #[allow(clippy::cast_possible_truncation)] // at most 3 * MAX_TERMS * MAX_TERM_CHARS branches
    fn insert(&mut self, term: &str, list: TermList, id: u16) -> Result<(), TermFault> {
        let stem = term.strip_suffix('*').unwrap_or(term);
        if stem.trim().is_empty() {
            return Err(TermFault::Empty);
        }
        if stem.chars().count() > MAX_TERM_CHARS {
            return Err(TermFault::TooLong);
        }
        let mut at = 0_usize;
        let mut last = ' ';
        for c in stem.chars().filter(|c| !is_combining(*c)).map(fold) {
            last = c;
            let new = self.branches.len();
            let Some(branch) = self.branches.get_mut(at) else { return Ok(()) };
            at = *branch.children.entry(c).or_insert(new as u32) as usize;
            if at == new {
                self.branches.push(Branch::default());
            }
        }
        let whole = stem.len() == term.len() && is_word(last) && !is_unspaced(last);
        if let Some(branch) = self.branches.get_mut(at)
            // The same term twice counts once.
            && !branch.ends.iter().any(|e| e.list == list && e.whole == whole)
        {
            branch.ends.push(End { list, id, whole });
        }
        Ok(())
    }
}
