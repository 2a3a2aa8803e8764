//! The text of answers: how much there is, or the pieces themselves.

use crate::dialects::members::Text;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// Members that are no generated text: names of things, and sound.
const NOT_TEXT: [&str; 4] = ["id", "type", "data", "format"];

/// How many bytes of text a value holds, strings anywhere in it counted, keys not; null and empty are 0.
#[derive(Default)]
pub(super) struct Size(pub(super) u64);

/// The text in a value, piece by piece, borrowed where no escape stands in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pieces<'a> {
    first: Option<Cow<'a, str>>,
    more: Vec<Cow<'a, str>>,
    /// Something that is no text is there: sound.
    other: bool,
}

impl<'a> Pieces<'a> {
    pub fn each(&self) -> impl Iterator<Item = &str> {
        self.first.iter().chain(&self.more).map(|piece| &**piece)
    }

    /// Whether nothing is there, not even sound.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_none() && !self.other
    }

    fn push(&mut self, piece: Cow<'a, str>) {
        match &self.first {
            _ if piece.is_empty() => {}
            None => self.first = Some(piece),
            Some(_) => self.more.push(piece),
        }
    }

    pub(super) fn append(&mut self, other: Self) {
        self.other |= other.other;
        other.first.into_iter().chain(other.more).for_each(|piece| self.push(piece));
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Add;
        impl<'de> Visitor<'de> for Add {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_str<E>(self, s: &str) -> Result<Size, E> {
                Ok(Size(s.len() as u64))
            }
            fn visit_unit<E>(self) -> Result<Size, E> {
                Ok(Size(0))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Size, E> {
                Ok(Size(0))
            }
            fn visit_u64<E>(self, _: u64) -> Result<Size, E> {
                Ok(Size(0))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Size, E> {
                Ok(Size(0))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Size, E> {
                Ok(Size(0))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Size, A::Error> {
                let mut sum = 0;
                while let Some(Size(n)) = seq.next_element()? {
                    sum += n;
                }
                Ok(Size(sum))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Size, A::Error> {
                let mut sum = 0;
                while map.next_key::<IgnoredAny>()?.is_some() {
                    sum += map.next_value::<Size>()?.0;
                }
                Ok(Size(sum))
            }
        }
        deserializer.deserialize_any(Add)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Pieces<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Pieces<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_borrowed_str<E>(self, s: &'de str) -> Result<Self::Value, E> {
                let first = (!s.is_empty()).then_some(Cow::Borrowed(s));
                Ok(Pieces { first, ..Pieces::default() })
            }
            fn visit_str<E>(self, s: &str) -> Result<Self::Value, E> {
                let first = (!s.is_empty()).then(|| Cow::Owned(s.to_owned()));
                Ok(Pieces { first, ..Pieces::default() })
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Pieces::default())
            }
            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Pieces::default())
            }
            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Pieces::default())
            }
            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Pieces::default())
            }
            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Pieces::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut all = Pieces::default();
                while let Some(pieces) = seq.next_element::<Pieces>()? {
                    all.append(pieces);
                }
                Ok(all)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut all = Pieces::default();
                while let Some(Text(key)) = map.next_key()? {
                    let pieces = map.next_value::<Pieces>()?;
                    if NOT_TEXT.contains(&&*key) {
                        all.other |= !pieces.is_empty();
                    } else {
                        all.append(pieces);
                    }
                }
                Ok(all)
            }
        }
        deserializer.deserialize_any(Collect)
    }
}
