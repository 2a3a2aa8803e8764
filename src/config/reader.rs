//! Reading typed values out of the tree.
//!
//! A [`Section`] is a map of known keys. Whoever reads it asks for keys; when it is dropped, every key that nobody asked for is a
//! fault, so a key can never be ignored by accident. Reading goes on after a fault, with the value that would hold without the
//! key, so that one run shows everything. A value is quoted in a message as the file has it, before variables are put in, and
//! only if it is short.

use crate::config::fault::{Fault, Faults};
use crate::config::scalar::Allowed;
use crate::config::tree::{Entry, Mark, Node, Scalar, Value};
use crate::config::variables;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// Longer values are not quoted in messages: they are more likely keys than typing errors.
const LONGEST_QUOTED: usize = 40;

/// Gives the value of an environment variable.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What a tree was read from, and what was found wrong with it.
pub struct Source<'a> {
    pub file: Arc<str>,
    /// `None`: values are taken as they are, as in an API call.
    pub env: Option<Env<'a>>,
    /// Where relative paths begin.
    pub base_dir: &'a Path,
    faults: RefCell<Vec<Fault>>,
    warnings: RefCell<Vec<Fault>>,
}

impl<'a> Source<'a> {
    #[must_use]
    pub fn new(file: &str, env: Option<Env<'a>>, base_dir: &'a Path, faults: Vec<Fault>) -> Self {
        Self { file: file.into(), env, base_dir, faults: RefCell::new(faults), warnings: RefCell::default() }
    }

    pub fn fault(&self, at: Mark, path: &str, message: String) {
        self.faults.borrow_mut().push(self.note(at, path, message));
    }

    pub fn warn(&self, at: Mark, path: &str, message: String) {
        self.warnings.borrow_mut().push(self.note(at, path, message));
    }

    fn note(&self, at: Mark, path: &str, message: String) -> Fault {
        Fault { file: Arc::clone(&self.file), line: at.line, column: at.column, path: path.to_owned(), message }
    }

    /// The warnings, if nothing is wrong.
    ///
    /// # Errors
    /// All faults.
    pub fn finish(self) -> Result<Vec<Fault>, Faults> {
        match Faults::from_vec(self.faults.into_inner()) {
            Some(faults) => Err(faults),
            None => {
                let mut warnings = self.warnings.into_inner();
                warnings.sort_by_key(|w| (w.line, w.column));
                Ok(warnings)
            }
        }
    }
}

/// A value with its path.
pub struct Field<'a> {
    pub src: &'a Source<'a>,
    pub path: String,
    pub node: &'a Node,
    /// Where its key stands; the value's own place for items of a list.
    pub key_at: Mark,
}

impl<'a> Field<'a> {
    /// Reports the value as wrong.
    pub fn fault(&self, message: String) {
        self.src.fault(self.node.at, &self.path, message);
    }

    pub fn warn(&self, message: String) {
        self.src.warn(self.node.at, &self.path, message);
    }

    /// The scalar with variables put in; a list or map, or a missing variable, is a fault.
    pub fn scalar(&self) -> Option<Scalar> {
        let Value::Scalar(raw) = &self.node.value else {
            self.fault(format!("{} stands here; expected a single value", self.node.kind()));
            return None;
        };
        let Some(env) = self.src.env else {
            return Some(raw.clone());
        };
        match variables::put_in(&raw.text, env) {
            // A quoted value may stand for a number once a variable is put in: in `{rpm: "${RPM}"}` YAML needs the quotes.
            Ok(Some(text)) => Some(Scalar { text, quoted: false }),
            Ok(None) => Some(raw.clone()),
            Err(message) => {
                self.fault(message);
                None
            }
        }
    }

    /// The value as `read` understands it, or a fault that quotes it and says what is allowed.
    pub fn get<T>(&self, read: impl Fn(&Scalar) -> Result<T, Allowed>) -> Option<T> {
        let scalar = self.scalar()?;
        read(&scalar).map_err(|allowed| self.fault(format!("{} is not allowed; expected {allowed}", self.shown()))).ok()
    }

    /// As [`get`](Self::get), without quoting the value.
    pub fn get_unquoted<T>(&self, read: impl Fn(&Scalar) -> Result<T, String>) -> Option<T> {
        let scalar = self.scalar()?;
        read(&scalar).map_err(|message| self.fault(message)).ok()
    }

    /// The value as the file has it, for messages: variables not put in, long texts left out.
    #[must_use]
    pub fn shown(&self) -> String {
        match &self.node.value {
            Value::Scalar(s) if s.is_null() => "nothing".into(),
            Value::Scalar(s) if s.text.chars().count() > LONGEST_QUOTED || s.text.contains(['\n', '\r']) => {
                format!("a text of {} characters", s.text.chars().count())
            }
            Value::Scalar(s) if s.quoted && !s.text.contains("${") => format!("the text \"{}\"", s.text),
            Value::Scalar(s) => format!("`{}`", s.text),
            Value::List(_) | Value::Map(_) => self.node.kind().into(),
        }
    }

    /// Whether the value is an unquoted null.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(&self.node.value, Value::Scalar(s) if s.is_null())
    }

    #[must_use]
    pub fn is_scalar(&self) -> bool {
        matches!(self.node.value, Value::Scalar(_))
    }

    /// The value as a map of known keys. A null is one without keys.
    pub fn section(&self) -> Option<Section<'a>> {
        let entries = self.entries()?;
        Some(Section {
            src: self.src,
            path: self.path.clone(),
            at: self.key_at,
            entries,
            known: BTreeSet::new(),
            refused: Vec::new(),
        })
    }

    /// The value as a map of names that the user chose, in the file's order.
    pub fn named(&self) -> Vec<(&'a str, Field<'a>)> {
        let field = |e: &'a Entry| (e.key.as_str(), child(self.src, &self.path, e));
        self.entries().unwrap_or_default().iter().map(field).collect()
    }

    fn entries(&self) -> Option<&'a [Entry]> {
        match &self.node.value {
            Value::Map(entries) => Some(entries),
            Value::Scalar(s) if s.is_null() => Some(&[]),
            Value::Scalar(_) | Value::List(_) => {
                self.fault(format!("{} stands here; expected a map of keys", self.node.kind()));
                None
            }
        }
    }

    /// The items of a list.
    pub fn items(&self) -> Option<Vec<Field<'a>>> {
        let Value::List(items) = &self.node.value else {
            self.fault(format!("{} stands here; expected a list", self.node.kind()));
            return None;
        };
        let field = |(i, node): (usize, &'a Node)| Field {
            src: self.src,
            path: format!("{}[{i}]", self.path),
            node,
            key_at: node.at,
        };
        Some(items.iter().enumerate().map(field).collect())
    }
}

fn child<'a>(src: &'a Source<'a>, path: &str, entry: &'a Entry) -> Field<'a> {
    let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
    Field { src, path, node: &entry.value, key_at: entry.at }
}

/// A map of known keys.
pub struct Section<'a> {
    pub src: &'a Source<'a>,
    pub path: String,
    /// Where the section's own key stands.
    pub at: Mark,
    entries: &'a [Entry],
    known: BTreeSet<&'static str>,
    refused: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The value of `key`, which thereby is known.
    pub fn field(&mut self, key: &'static str) -> Option<Field<'a>> {
        self.known.insert(key);
        let entry = self.entries.iter().find(|e| e.key == key)?;
        Some(child(self.src, &self.path, entry))
    }

    /// The value of `key`; its absence is a fault that says what is `expected`.
    pub fn required(&mut self, key: &'static str, expected: &str) -> Option<Field<'a>> {
        let field = self.field(key);
        if field.is_none() {
            self.fault(format!("`{key}` is missing; expected {expected}"));
        }
        field
    }

    /// Puts the value of `key` into `slot`, if it is there and allowed.
    pub fn set<T>(&mut self, key: &'static str, slot: &mut T, read: impl Fn(&Scalar) -> Result<T, Allowed>) {
        if let Some(value) = self.field(key).and_then(|f| f.get(read)) {
            *slot = value;
        }
    }

    /// As [`set`](Self::set), where null means none.
    pub fn set_or_none<T>(
        &mut self,
        key: &'static str,
        slot: &mut Option<T>,
        read: impl Fn(&Scalar) -> Result<T, Allowed>,
    ) {
        let Some(field) = self.field(key) else { return };
        let value =
            field.get(|s| if s.is_null() { Ok(None) } else { read(s).map(Some).map_err(|a| format!("{a}, or null")) });
        if let Some(value) = value {
            *slot = value;
        }
    }

    /// The map under `key`.
    pub fn section(&mut self, key: &'static str) -> Option<Section<'a>> {
        self.field(key).and_then(|f| f.section())
    }

    /// Refuses `keys`, which this version does not act upon yet.
    pub fn unsupported(&mut self, keys: &[&'static str]) {
        for entry in self.entries.iter().filter(|e| keys.contains(&e.key.as_str())) {
            let field = child(self.src, &self.path, entry);
            self.src.fault(entry.at, &field.path, "is not supported in this version; remove it".into());
        }
        self.refused.extend(keys);
    }

    /// Lets keys stand that nobody asked for: somebody else reads them.
    pub fn accept_rest(&mut self) {
        self.entries = &[];
    }

    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|e| e.key == key)
    }

    /// Reports the section as wrong.
    pub fn fault(&self, message: String) {
        self.src.fault(self.at, &self.path, message);
    }

    /// Reports what stands at a path below this section, such as `tiers.free.simple` or `terms[3]`; if it does not stand in the
    /// file, the place is that of what would hold it.
    pub fn fault_below(&self, path: &str, message: String) {
        let mut at = self.at;
        let mut entries = self.entries;
        for part in path.split('.') {
            let (key, index) = match part.strip_suffix(']').and_then(|p| p.split_once('[')) {
                Some((key, index)) => (key, index.parse::<usize>().ok()),
                None => (part, None),
            };
            let Some(entry) = entries.iter().find(|e| e.key == key) else { break };
            at = entry.value.at;
            entries = &[];
            match &entry.value.value {
                Value::Map(inner) => entries = inner,
                Value::List(items) => at = index.and_then(|i| items.get(i)).map_or(at, |item| item.at),
                Value::Scalar(_) => {}
            }
        }
        self.src.fault(at, &format!("{}.{path}", self.path), message);
    }

    pub fn warn(&self, message: String) {
        self.src.warn(self.at, &self.path, message);
    }
}

/// Keys that nobody asked for are faults.
impl Drop for Section<'_> {
    fn drop(&mut self) {
        let answered = |key: &str| self.known.contains(key) || self.refused.contains(&key);
        for entry in self.entries.iter().filter(|e| !answered(&e.key)) {
            let field = child(self.src, &self.path, entry);
            let near = nearest(&entry.key, self.known.iter().copied());
            let guess = near.map(|n| format!(", did you mean `{n}`?")).unwrap_or_default();
            let known: Vec<&str> = self.known.iter().copied().collect();
            let message = format!("unknown key{guess}; allowed: {}", known.join(", "));
            self.src.fault(entry.at, &field.path, message);
        }
    }
}

/// The candidate most like `text`, if one is like it at all: a third of the characters may differ.
pub fn nearest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = match text.chars().count() {
        0..3 => 0,
        n => n.min(64).div_ceil(3),
    };
    let scored = candidates.map(|c| (distance(text, c), c)).filter(|(d, _)| *d <= most);
    scored.min_by_key(|(d, _)| *d).map(|(_, c)| c)
}

/// Insertions, deletions and replacements between two texts, of which at most 64 characters are looked at.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cb, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let best = (diagonal + usize::from(ca != cb)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_close_or_none() {
        let keys = || ["rpm", "tpm", "concurrency", "max_wait"].into_iter();
        assert_eq!(nearest("rmp", keys()), None, "two replacements of three letters are no likeness");
        assert_eq!(nearest("rpms", keys()), Some("rpm"));
        assert_eq!(nearest("concurency", keys()), Some("concurrency"));
        assert_eq!(nearest("maxwait", keys()), Some("max_wait"));
        assert_eq!(nearest("colour", keys()), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
