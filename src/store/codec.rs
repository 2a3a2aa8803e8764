//! Bytes: variable-length integers, texts, and the envelope around every stored value.
//!
//! An envelope is `version u8 · pieces u16 · crc32 u32 · payload`. sled moves values of a node over 128 KB into files that are
//! never synced, and a node holds up to seventeen values: a payload over 7 KB is therefore split into pieces under keys of their
//! own, written in the same batch. Reading never panics and never trusts a length.

use crate::store::error::StoreError;

/// Payload bytes per stored value: 17 × (7,000 + key) stays below sled's limit for values inside its log.
pub(super) const PIECE: usize = 7_000;
const HEAD: usize = 7;
const PIECE_KEY: u8 = b'P';

/// Reads numbers and texts one after the other; `None` at the first that does not fit.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Bytes not read yet.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub fn byte(&mut self) -> Option<u8> {
        self.array().map(|[b]| b)
    }

    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub fn signed(&mut self) -> Option<i64> {
        self.varint().map(|n| (n >> 1).cast_signed() ^ -(n & 1).cast_signed())
    }

    pub fn length(&mut self) -> Option<usize> {
        usize::try_from(self.varint()?).ok()
    }

    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.length()?;
        self.take(len)
    }

    pub fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The key of a value of which each hour or day has one, or the beginning of the keys of its cells.
pub(super) fn numbered(tag: u8, number: u32) -> [u8; 5] {
    let mut key = [tag; 5];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

/// A value as read, with its envelope taken off.
pub(super) struct Opened {
    pub version: u8,
    pub payload: Vec<u8>,
    /// Whether the payload is what was written.
    pub intact: bool,
}

impl Opened {
    /// The payload if it is intact and of a known version. A value of another version is `Ok(None)`: to be skipped and counted.
    pub fn known(self, version: u8, what: &str) -> Result<Option<Vec<u8>>, StoreError> {
        if !self.intact {
            return Err(StoreError::Damaged { seq: None, what: format!("{what}: checksum does not fit") });
        }
        Ok((self.version == version).then_some(self.payload))
    }
}

/// Adds `payload` under `key` to a batch, in as many pieces as it needs.
pub(super) fn put(batch: &mut sled::Batch, key: &[u8], version: u8, payload: &[u8]) {
    let mut pieces = payload.chunks(PIECE);
    let first = pieces.next().unwrap_or_default();
    let count = u16::try_from(pieces.len()).unwrap_or(u16::MAX);
    let mut value = Vec::with_capacity(HEAD + first.len());
    value.push(version);
    value.extend_from_slice(&count.to_le_bytes());
    value.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    value.extend_from_slice(first);
    batch.insert(key, value);
    for (number, piece) in (0..count).zip(pieces) {
        batch.insert(&piece_key(key, number), piece);
    }
}

/// Removes `key` with its pieces; `old` is what is stored there.
pub(super) fn remove(batch: &mut sled::Batch, key: &[u8], old: &[u8]) {
    batch.remove(key);
    for number in 0..piece_count(old) {
        batch.remove(&piece_key(key, number));
    }
}

/// Puts a stored value and its pieces together again.
pub(super) fn open(db: &sled::Db, key: &[u8], value: &[u8]) -> sled::Result<Opened> {
    let mut cursor = Cursor::new(value);
    let (Some(version), Some(count), Some(crc)) = (cursor.byte(), cursor.array(), cursor.array()) else {
        return Ok(Opened { version: 0, payload: Vec::new(), intact: false });
    };
    let mut payload = cursor.rest.to_vec();
    for number in 0..u16::from_le_bytes(count) {
        match db.get(piece_key(key, number))? {
            Some(piece) => payload.extend_from_slice(&piece),
            None => break,
        }
    }
    let intact = crc32fast::hash(&payload) == u32::from_le_bytes(crc);
    Ok(Opened { version, payload, intact })
}

/// Version and payload of a value that is whole in one piece and intact, without copying it.
pub(super) fn single(value: &[u8]) -> Option<(u8, &[u8])> {
    let mut cursor = Cursor::new(value);
    let (version, count, crc) = (cursor.byte()?, cursor.array()?, cursor.array()?);
    let whole = u16::from_le_bytes(count) == 0 && crc32fast::hash(cursor.rest) == u32::from_le_bytes(crc);
    whole.then_some((version, cursor.rest))
}

fn piece_count(value: &[u8]) -> u16 {
    let mut cursor = Cursor::new(value);
    cursor.byte().and_then(|_| cursor.array()).map_or(0, u16::from_le_bytes)
}

fn piece_key(key: &[u8], number: u16) -> [u8; 19] {
    let mut made = [PIECE_KEY; 19];
    let (hash, place) = made[1..].split_at_mut(16);
    hash.copy_from_slice(&blake3::hash(key).as_bytes()[..16]);
    place.copy_from_slice(&number.to_be_bytes());
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_round_trip(a in any::<u64>(), b in any::<i64>(), text in ".{0,40}") {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, a);
            put_signed(&mut bytes, b);
            put_bytes(&mut bytes, text.as_bytes());
            let mut cursor = Cursor::new(&bytes);
            prop_assert_eq!(cursor.varint(), Some(a));
            prop_assert_eq!(cursor.signed(), Some(b));
            prop_assert_eq!(cursor.text(), Some(&*text));
            prop_assert!(cursor.is_empty());
        }

        #[test]
        fn garbage_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut cursor = Cursor::new(&bytes);
            while cursor.varint().is_some() && cursor.text().is_some() {}
        }
    }

    #[test]
    fn large_values_are_split_and_joined() {
        let dir = tempfile::tempdir().unwrap();
        let db = sled::Config::new().path(dir.path()).flush_every_ms(None).open().unwrap();
        for len in [0, 1, PIECE, PIECE + 1, 5 * PIECE + 3] {
            let payload: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mut batch = sled::Batch::default();
            put(&mut batch, b"key", 1, &payload);
            db.apply_batch(batch).unwrap();
            let value = db.get(b"key").unwrap().unwrap();
            assert!(value.len() <= PIECE + HEAD);
            let opened = open(&db, b"key", &value).unwrap();
            assert!(opened.intact && opened.payload == payload);
            assert!(open(&db, b"key", &value).unwrap().known(2, "it").unwrap().is_none());
            let mut batch = sled::Batch::default();
            remove(&mut batch, b"key", &value);
            db.apply_batch(batch).unwrap();
            assert_eq!(db.iter().count(), 0, "nothing is left of {len} bytes");
        }
    }
}
