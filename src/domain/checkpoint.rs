//! A checkpoint: what the ledger said at a moment, in a form that can be signed.
//!
//! The chain of hashes finds a change to a row, unless whoever made it also recomputed every hash after it, or cut the end off. A
//! checkpoint that is signed finds that too. It names a row's number and hash, how many rows it stands for, and *marks*: hashes of rows in
//! between, few enough to keep and close enough to say where a rewritten chain first differs.
//!
//! The signed text is [`Statement::signed_text`]: one line per field, so that any ed25519 tool can check it.

use crate::domain::time::Wall;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// What a checkpoint is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The rows since the checkpoint before.
    Hour,
    /// The rows of an export.
    Export,
    /// The rows that retention removed: the chain goes on from the last of them.
    Removed,
}

/// A row's number and hash.
pub type Mark = (u64, [u8; 32]);

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    pub kind: Kind,
    /// When it was made.
    pub at: Wall,
    /// The first row's number; 0 without rows.
    pub first_seq: u64,
    /// The hash before the first row.
    pub prev_hash: [u8; 32],
    /// The last row's number; 0 without rows.
    pub seq: u64,
    /// The last row's hash.
    pub hash: [u8; 32],
    pub rows: u64,
    /// Of an export: BLAKE3 over the hashes of its rows in order.
    pub digest: Option<[u8; 32]>,
    /// Of removed rows: the time of the first row that was kept.
    pub before: Option<Wall>,
    /// Rows in between, in order.
    pub marks: Vec<Mark>,
}

impl Statement {
    /// The bytes that the signature is over.
    #[must_use]
    pub fn signed_text(&self) -> String {
        let kind = match self.kind {
            Kind::Hour => "hour",
            Kind::Export => "export",
            Kind::Removed => "removed",
        };
        let mut text = format!(
            "breakwater ledger checkpoint 1\nkind {kind}\nat {}\nfirst_seq {}\nprev_hash {}\nseq {}\nhash {}\nrows {}\n",
            self.at.0,
            self.first_seq,
            hex(&self.prev_hash),
            self.seq,
            hex(&self.hash),
            self.rows,
        );
        if let Some(digest) = &self.digest {
            let _ = writeln!(text, "digest {}", hex(digest));
        }
        if let Some(before) = self.before {
            let _ = writeln!(text, "before {}", before.0);
        }
        for (seq, hash) in &self.marks {
            let _ = writeln!(text, "mark {seq} {}", hex(hash));
        }
        text
    }

    /// Whether its rows have every number from the first to the last: an export that a filter thinned out has not.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.rows == 0 || self.seq.saturating_sub(self.first_seq).saturating_add(1) == self.rows
    }
}

/// A statement with its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub statement: Statement,
    /// The ed25519 public key that it was signed with.
    pub key: [u8; 32],
    pub signature: [u8; 64],
}

/// A checkpoint as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    breakwater_checkpoint: u32,
    kind: Kind,
    at: String,
    first_seq: u64,
    prev_hash: String,
    seq: u64,
    hash: String,
    rows: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    marks: Vec<(u64, String)>,
    key: String,
    signature: String,
}

const FORMAT: u32 = 1;

impl Checkpoint {
    #[must_use]
    pub fn to_json(&self) -> String {
        let s = &self.statement;
        let wire = Wire {
            breakwater_checkpoint: FORMAT,
            kind: s.kind,
            at: s.at.to_rfc3339(),
            first_seq: s.first_seq,
            prev_hash: hex(&s.prev_hash),
            seq: s.seq,
            hash: hex(&s.hash),
            rows: s.rows,
            digest: s.digest.as_ref().map(|d| hex(d)),
            before: s.before.map(Wall::to_rfc3339),
            marks: s.marks.iter().map(|(seq, hash)| (*seq, hex(hash))).collect(),
            key: hex(&self.key),
            signature: hex(&self.signature),
        };
        // Texts and numbers in memory: nothing can fail.
        serde_json::to_string(&wire).unwrap_or_default()
    }

    /// Reads what [`Self::to_json`] has written. The signature is not looked at.
    ///
    /// # Errors
    /// Why it is no checkpoint.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let wire: Wire = serde_json::from_slice(text).map_err(|e| format!("not a checkpoint: {e}"))?;
        if wire.breakwater_checkpoint != FORMAT {
            return Err(format!("a checkpoint of format {}, not {FORMAT}", wire.breakwater_checkpoint));
        }
        let mark = |(seq, hash): (u64, String)| Ok::<_, String>((seq, unhex(&hash)?));
        let statement = Statement {
            kind: wire.kind,
            at: Wall::parse(&wire.at)?,
            first_seq: wire.first_seq,
            prev_hash: unhex(&wire.prev_hash)?,
            seq: wire.seq,
            hash: unhex(&wire.hash)?,
            rows: wire.rows,
            digest: wire.digest.as_deref().map(unhex).transpose()?,
            before: wire.before.as_deref().map(Wall::parse).transpose()?,
            marks: wire.marks.into_iter().map(mark).collect::<Result<_, _>>()?,
        };
        Ok(Self { statement, key: unhex(&wire.key)?, signature: unhex(&wire.signature)? })
    }
}

/// Collects marks: every row's at first, every second's when there are too many, and so on.
#[derive(Clone, Debug)]
pub struct Marks {
    most: usize,
    every: u64,
    seen: u64,
    list: Vec<(u64, Mark)>,
}

impl Marks {
    /// Keeps at most `most` marks.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, every: 1, seen: 0, list: Vec::new() }
    }

    /// Takes the next row.
    pub fn push(&mut self, seq: u64, hash: [u8; 32]) {
        self.seen += 1;
        if !self.seen.is_multiple_of(self.every) {
            return;
        }
        self.list.push((self.seen, (seq, hash)));
        if self.list.len() > self.most {
            self.every = self.every.saturating_mul(2);
            self.list.retain(|(nth, _)| nth.is_multiple_of(self.every));
        }
    }

    /// The marks so far.
    #[must_use]
    pub fn list(&self) -> Vec<Mark> {
        self.list.iter().map(|(_, mark)| *mark).collect()
    }
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Reads hexadecimal digits.
///
/// # Errors
/// The text that is something else, or too long or short.
pub fn unhex<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let wrong = || format!("`{text}` is not {N} bytes in hexadecimal");
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    for (byte, place) in bytes.iter_mut().zip((0..).step_by(2)) {
        let digits = text.get(place..place + 2).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn statement() -> Statement {
        Statement {
            kind: Kind::Hour,
            at: Wall(1_795_456_800_000_000),
            first_seq: 3,
            prev_hash: [1; 32],
            seq: 7,
            hash: [2; 32],
            rows: 5,
            digest: None,
            before: None,
            marks: vec![(5, [3; 32])],
        }
    }

    #[test]
    fn every_field_is_in_the_signed_text() {
        type Change = fn(&mut Statement);
        let changes: [Change; 10] = [
            |s| s.kind = Kind::Export,
            |s| s.at.0 += 1,
            |s| s.first_seq += 1,
            |s| s.prev_hash[31] ^= 1,
            |s| s.seq += 1,
            |s| s.hash[0] ^= 1,
            |s| s.rows += 1,
            |s| s.digest = Some([0; 32]),
            |s| s.before = Some(Wall(0)),
            |s| s.marks[0].1[5] ^= 1,
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut other = statement();
            change(&mut other);
            assert_ne!(other.signed_text(), statement().signed_text(), "change {number}");
        }
    }

    #[test]
    fn json_round_trips_and_nonsense_is_refused() {
        let whole = Checkpoint { statement: statement(), key: [9; 32], signature: [8; 64] };
        let filtered = Statement { digest: Some([4; 32]), before: Some(Wall(77)), rows: 2, ..statement() };
        assert!(whole.statement.is_whole() && !filtered.is_whole());
        for checkpoint in [whole.clone(), Checkpoint { statement: filtered, ..whole.clone() }] {
            assert_eq!(Checkpoint::from_json(checkpoint.to_json().as_bytes()), Ok(checkpoint));
        }
        let json = whole.to_json();
        for (old, new) in
            [("checkpoint\":1", "checkpoint\":2"), ("hour", "day"), ("0909", "09"), ("0808", "zz08"), ("{", "")]
        {
            assert!(Checkpoint::from_json(json.replacen(old, new, 1).as_bytes()).is_err(), "{old}");
        }
    }

    proptest! {
        #[test]
        fn marks_are_few_in_order_and_no_longer_apart_than_they_must(rows in 0_u64..5_000, most in 1_usize..40) {
            let mut marks = Marks::new(most);
            (1..=rows).for_each(|seq| marks.push(seq * 3, [0; 32]));
            let list: Vec<u64> = marks.list().into_iter().map(|(seq, _)| seq / 3).collect();
            prop_assert!(list.len() <= most && list.is_sorted());
            let apart = rows.div_ceil(most as u64).next_power_of_two().max(1) * 2;
            let mut last = 0;
            for place in list.into_iter().chain([rows + 1]) {
                prop_assert!(place - last <= apart, "{last} to {place}, {apart}");
                last = place;
            }
        }
    }
}
