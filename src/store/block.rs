//! A block of ledger rows: up to 32 rows and 7 KB under one key, the number of its first row.
//!
//! Layout: `count · first seq · earliest at · latest − earliest · prev hash · last hash · crc` (the head), then a table of the texts that
//! rows share with a crc, then the rows: `length · row · crc`. Each row carries its hash, so that reading needs no hashing and a
//! changed row is found by its number. The head can be read without the rows: it is enough to skip a block by time.
//!
//! Damage is told by row: a row whose crc does not fit is an error in its place, and the rows after it are read all the same.

use crate::domain::ledger::{Entry, Row};
use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;
use crate::domain::usage::{Usage, UsageSource};
use crate::store::codec::{Cursor, PIECE, put_bytes, put_signed, put_varint};
use crate::store::error::StoreError;
use std::sync::Arc;

/// The layout's version, in the envelope.
pub(super) const BLOCK_VERSION: u8 = 1;
const MAX_ROWS: u64 = 32;
/// What the head takes at most, and a margin for the lengths.
const HEAD_ROOM: usize = 128;

const STREAM: u8 = 1;
const TTFT: u8 = 2;
const PRICED: u8 = 4;
const REPORTED: u8 = 8;
const ESTIMATED: u8 = 16;
const SAME_REQUEST: u8 = 32;
const NO_USAGE: u8 = 64;

/// What a block says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockHead {
    pub count: u64,
    pub first_seq: u64,
    pub earliest: Wall,
    pub latest: Wall,
    pub prev_hash: [u8; 32],
    pub last_hash: [u8; 32],
}

impl BlockHead {
    pub fn last_seq(&self) -> u64 {
        self.first_seq.saturating_add(self.count).saturating_sub(1)
    }
}

/// Collects rows until a block is full.
#[derive(Default)]
pub(super) struct BlockBuilder {
    head: Option<BlockHead>,
    texts: Vec<Arc<str>>,
    text_bytes: usize,
    rows: Vec<u8>,
    row: Vec<u8>,
    request: Option<Arc<str>>,
}

impl BlockBuilder {
    /// Whether the block has no room for one more row of about the size of the last.
    pub fn is_full(&self) -> bool {
        self.head.is_some_and(|h| h.count >= MAX_ROWS)
            || HEAD_ROOM + self.text_bytes + self.rows.len() + 2 * self.row.len() > PIECE
    }

    /// Adds the row that follows the last one.
    pub fn push(&mut self, row: &Row) {
        let at = row.entry.at;
        let head = self.head.get_or_insert(BlockHead {
            count: 0,
            first_seq: row.seq,
            earliest: at,
            latest: at,
            prev_hash: row.prev_hash,
            last_hash: row.hash,
        });
        head.count += 1;
        head.earliest = head.earliest.min(at);
        head.latest = head.latest.max(at);
        head.last_hash = row.hash;
        self.encode(&row.entry);
        self.row.extend_from_slice(&row.hash);
        put_bytes(&mut self.rows, &self.row);
        self.rows.extend_from_slice(&crc32fast::hash(&self.row).to_le_bytes());
    }

    /// The number of the first row and the block's bytes; the builder is empty afterwards. `None` without a row.
    pub fn finish(&mut self) -> Option<(u64, Vec<u8>)> {
        let head = self.head.take()?;
        let mut out = Vec::with_capacity(HEAD_ROOM + self.text_bytes + self.rows.len());
        put_varint(&mut out, head.count);
        put_varint(&mut out, head.first_seq);
        put_signed(&mut out, head.earliest.0);
        put_varint(&mut out, head.latest.0.abs_diff(head.earliest.0));
        out.extend_from_slice(&head.prev_hash);
        out.extend_from_slice(&head.last_hash);
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        let mut table = Vec::with_capacity(self.text_bytes + 2);
        put_varint(&mut table, self.texts.len() as u64);
        for text in self.texts.drain(..) {
            put_bytes(&mut table, text.as_bytes());
        }
        let crc = crc32fast::hash(&table);
        put_bytes(&mut out, &table);
        out.extend_from_slice(&crc.to_le_bytes());
        out.append(&mut self.rows);
        self.text_bytes = 0;
        self.row.clear();
        self.request = None;
        Some((head.first_seq, out))
    }

    fn encode(&mut self, e: &Entry) {
        let mut row = std::mem::take(&mut self.row);
        row.clear();
        let same = self.request.as_deref() == Some(&*e.request_id);
        let flag = |set, flag| if set { flag } else { 0 };
        let no_usage = e.usage == Usage::default();
        row.push(
            flag(e.stream, STREAM)
                | flag(e.ttft_us.is_some(), TTFT)
                | flag(e.cost.is_some(), PRICED)
                | flag(e.usage_source == UsageSource::Reported, REPORTED)
                | flag(e.usage_source == UsageSource::Estimated, ESTIMATED)
                | flag(same, SAME_REQUEST)
                | flag(no_usage, NO_USAGE),
        );
        put_signed(&mut row, e.at.0);
        if !same {
            put_bytes(&mut row, e.request_id.as_bytes());
            self.request = Some(Arc::clone(&e.request_id));
        }
        for text in [&e.endpoint, &e.provider, &e.model, &e.route, &e.key_id, &e.outcome, &e.price_version, &e.decision]
        {
            let place = self.intern(text);
            put_varint(&mut row, place);
        }
        put_varint(&mut row, u64::from(e.attempt));
        put_varint(&mut row, u64::from(e.http_status));
        put_varint(&mut row, e.latency_us);
        if let Some(ttft) = e.ttft_us {
            put_varint(&mut row, ttft);
        }
        if let Some(cost) = e.cost {
            put_signed(&mut row, cost.0);
        }
        if !no_usage {
            let u = &e.usage;
            for tokens in [u.input, u.cached_input, u.cache_write, u.output, u.reasoning] {
                put_varint(&mut row, tokens);
            }
        }
        put_varint(&mut row, e.tags.len() as u64);
        for (key, value) in e.tags.iter() {
            put_bytes(&mut row, key.as_bytes());
            put_bytes(&mut row, value.as_bytes());
        }
        self.row = row;
    }

    /// The text's place in the table. A block has few texts, most of them seen by pointer: a search beats hashing.
    fn intern(&mut self, text: &Arc<str>) -> u64 {
        let seen = self.texts.iter().position(|t| Arc::ptr_eq(t, text) || t == text);
        let place = seen.unwrap_or_else(|| {
            self.texts.push(Arc::clone(text));
            self.text_bytes += text.len() + 2;
            self.texts.len() - 1
        });
        place as u64
    }
}

/// Reads a block's head alone.
pub(super) fn head(bytes: &[u8]) -> Option<BlockHead> {
    read_head(&mut Cursor::new(bytes), bytes)
}

fn read_head(cursor: &mut Cursor<'_>, bytes: &[u8]) -> Option<BlockHead> {
    let count = cursor.varint()?;
    let first_seq = cursor.varint()?;
    let earliest = Wall(cursor.signed()?);
    let latest = Wall(earliest.0.checked_add_unsigned(cursor.varint()?)?);
    let (prev_hash, last_hash) = (cursor.array()?, cursor.array()?);
    let covered = bytes.len() - cursor.left();
    let crc = u32::from_le_bytes(cursor.array()?);
    let fits = crc == crc32fast::hash(bytes.get(..covered)?) && count > 0;
    fits.then_some(BlockHead { count, first_seq, earliest, latest, prev_hash, last_hash })
}

/// Reads a block's rows in order, a damaged one as an error in its place. `key_seq` is the number in the block's key.
pub(super) fn rows(key_seq: u64, bytes: &[u8]) -> Vec<Result<Row, StoreError>> {
    let damaged = |seq: u64, what: &str| StoreError::Damaged { seq: Some(seq), what: what.into() };
    let mut cursor = Cursor::new(bytes);
    let Some(head) = read_head(&mut cursor, bytes) else {
        return vec![Err(damaged(key_seq, "the head of its block cannot be read"))];
    };
    if head.first_seq != key_seq {
        return vec![Err(damaged(key_seq, "its block stands in another's place"))];
    }
    let Some(texts) = read_table(&mut cursor) else {
        return vec![Err(damaged(key_seq, "the texts of its block cannot be read"))];
    };
    let mut rows = Vec::new();
    let (mut prev_hash, mut request) = (Some(head.prev_hash), None);
    for seq in head.first_seq..=head.last_seq() {
        let (Some(body), Some(crc)) = (cursor.bytes(), cursor.array()) else {
            rows.push(Err(damaged(seq, "its block ends too early")));
            break;
        };
        let row = (crc32fast::hash(body) == u32::from_le_bytes(crc))
            .then(|| decode(seq, body, &texts, prev_hash, &mut request))
            .flatten();
        prev_hash = row.as_ref().map(|row| row.hash);
        if row.is_none() {
            request = None;
        }
        rows.push(row.ok_or_else(|| damaged(seq, "its checksum does not fit")));
    }
    rows
}

fn read_table(cursor: &mut Cursor<'_>) -> Option<Vec<Arc<str>>> {
    let table = cursor.bytes()?;
    if u32::from_le_bytes(cursor.array()?) != crc32fast::hash(table) {
        return None;
    }
    let mut cursor = Cursor::new(table);
    let count = cursor.length()?;
    let mut texts = Vec::new();
    for _ in 0..count {
        texts.push(cursor.text()?.into());
    }
    Some(texts)
}

/// A row after a damaged one has no known predecessor; its `prev_hash` is then all ones, which no chain contains.
const UNKNOWN: [u8; 32] = [0xff; 32];

fn decode(
    seq: u64,
    body: &[u8],
    texts: &[Arc<str>],
    prev_hash: Option<[u8; 32]>,
    request: &mut Option<Arc<str>>,
) -> Option<Row> {
    let mut cursor = Cursor::new(body);
    let flags = cursor.byte()?;
    let has = |flag| flags & flag != 0;
    let at = Wall(cursor.signed()?);
    let request_id: Arc<str> = if has(SAME_REQUEST) { request.clone()? } else { cursor.text()?.into() };
    *request = Some(Arc::clone(&request_id));
    let mut text = || cursor.length().and_then(|place| texts.get(place)).map(Arc::clone);
    let (endpoint, provider, model, route) = (text()?, text()?, text()?, text()?);
    let (key_id, outcome, price_version, decision) = (text()?, text()?, text()?, text()?);
    let attempt = u16::try_from(cursor.varint()?).ok()?;
    let http_status = u16::try_from(cursor.varint()?).ok()?;
    let latency_us = cursor.varint()?;
    let ttft_us = if has(TTFT) { Some(cursor.varint()?) } else { None };
    let cost = if has(PRICED) { Some(NanoUsd(cursor.signed()?)) } else { None };
    let mut usage = Usage::default();
    if !has(NO_USAGE) {
        usage.input = cursor.varint()?;
        usage.cached_input = cursor.varint()?;
        usage.cache_write = cursor.varint()?;
        usage.output = cursor.varint()?;
        usage.reasoning = cursor.varint()?;
    }
    let mut tags = Vec::new();
    for _ in 0..cursor.length()? {
        tags.push((cursor.text()?.into(), cursor.text()?.into()));
    }
    let hash = cursor.array()?;
    let usage_source = match (has(REPORTED), has(ESTIMATED)) {
        (true, _) => UsageSource::Reported,
        (false, true) => UsageSource::Estimated,
        (false, false) => UsageSource::None,
    };
    let entry = Entry {
        at,
        request_id,
        attempt,
        endpoint,
        provider,
        model,
        route,
        key_id,
        tags: tags.into(),
        outcome,
        http_status,
        stream: has(STREAM),
        latency_us,
        ttft_us,
        usage,
        usage_source,
        cost,
        price_version,
        decision,
    };
    cursor.is_empty().then_some(Row { seq, entry, prev_hash: prev_hash.unwrap_or(UNKNOWN), hash })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ledger::GENESIS;
    use crate::domain::sample;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_round_trip(entries in prop::collection::vec(sample::entry(), 1..40)) {
            let mut builder = BlockBuilder::default();
            let (mut prev, mut written) = (GENESIS, Vec::new());
            for (seq, entry) in (7_u64..).zip(entries) {
                if builder.is_full() {
                    break;
                }
                let row = Row::chain(seq, entry, prev);
                prev = row.hash;
                builder.push(&row);
                written.push(row);
            }
            let (first, bytes) = builder.finish().unwrap();
            prop_assert_eq!(first, 7);
            let read: Vec<_> = rows(7, &bytes).into_iter().map(Result::unwrap).collect();
            prop_assert_eq!(&read, &written);
            prop_assert!(read.iter().all(Row::is_intact));
            let head = head(&bytes).unwrap();
            prop_assert_eq!(head.last_hash, prev);
            prop_assert_eq!(head.last_seq(), written.last().unwrap().seq);
            prop_assert!(builder.finish().is_none());
        }

        #[test]
        fn a_flipped_bit_is_never_read_as_a_row(entries in prop::collection::vec(sample::entry(), 1..8), place in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut builder = BlockBuilder::default();
            let mut prev = GENESIS;
            for (seq, entry) in (1_u64..).zip(entries) {
                let row = Row::chain(seq, entry, prev);
                prev = row.hash;
                builder.push(&row);
            }
            let (_, mut bytes) = builder.finish().unwrap();
            let written = rows(1, &bytes);
            let at = place.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let read = rows(1, &bytes);
            prop_assert!(read != written, "byte {at} bit {bit}");
            for row in read.into_iter().flatten() {
                let mut same = written[usize::try_from(row.seq - 1).unwrap()].clone().unwrap();
                same.prev_hash = row.prev_hash;
                prop_assert_eq!(row, same);
            }
        }

        #[test]
        fn garbage_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(rows(1, &bytes).iter().all(Result::is_err));
        }
    }
}
