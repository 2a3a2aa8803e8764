//! Names of things: request ids.

use crate::domain::time::Wall;
use std::fmt;
use std::sync::Arc;

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const MINTED_LEN: usize = 30;

/// A request's id: minted (`req_` and a 26-character ULID, so ids sort by time) or given by the caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Mints an id from the time and 80 random bits (the upper bits of `roll` are ignored).
    #[must_use]
    pub fn mint(at: Wall, roll: u128) -> Self {
        let ms = u128::try_from(at.0.max(0) / 1000).unwrap_or(0);
        let bits = (ms << 80) | (roll & ((1 << 80) - 1));
        let mut text = *b"req_00000000000000000000000000";
        for (i, slot) in text.iter_mut().skip(4).enumerate() {
            let shift = 125 - 5 * i;
            *slot = CROCKFORD[((bits >> shift) & 31) as usize];
        }
        Self(String::from_utf8_lossy(&text).into())
    }

    /// Takes a caller's id: 1 to 64 characters of `A-Z a-z 0-9 - _ . :`.
    ///
    /// # Errors
    /// What is allowed, if `text` is something else.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
        if text.is_empty() || text.len() > 64 || !text.bytes().all(fits) {
            return Err("a request id is 1 to 64 characters of A-Z a-z 0-9 - _ . :".into());
        }
        Ok(Self(text.into()))
    }

    /// When a minted id was minted, to the millisecond; `None` for a caller's own id.
    #[must_use]
    pub fn minted_at(&self) -> Option<Wall> {
        let ulid = self.0.strip_prefix("req_").filter(|_| self.0.len() == MINTED_LEN)?;
        let mut bits: u128 = 0;
        for b in ulid.bytes() {
            let digit = CROCKFORD.iter().position(|c| *c == b)?;
            bits = (bits << 5) | digit as u128;
        }
        i64::try_from(bits >> 80).ok().map(|ms| Wall(ms.saturating_mul(1000)))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shared text, for rows that outlive the request.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minted_ids_sort_by_time_and_give_it_back() {
        let early = RequestId::mint(Wall(1_795_461_720_123_456), u128::MAX);
        let late = RequestId::mint(Wall(1_795_461_720_124_456), 0);
        assert!(early < late);
        assert_eq!(early.as_str().len(), MINTED_LEN);
        assert_eq!(early.minted_at(), Some(Wall(1_795_461_720_123_000)));
        assert_eq!(RequestId::parse("mine").unwrap().minted_at(), None);
        assert!(RequestId::parse("a b").is_err());
    }
}
