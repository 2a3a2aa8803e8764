//! A JSON object as its members in order, each value left as the bytes it came as: what a same-dialect proxy needs to change one
//! member and pass the others on untouched.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// Deeper nesting is refused: no API needs it, and upstream parsers have died of it.
pub const MAX_DEPTH: usize = 128;

/// The members of one object, in the order they came.
#[derive(Debug)]
pub struct Members<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    /// The first member name that stands twice.
    #[must_use]
    pub fn duplicate(&self) -> Option<&str> {
        let mut seen = self.0.iter().enumerate();
        seen.find(|(i, (key, _))| self.0[..*i].iter().any(|(earlier, _)| earlier == key)).map(|(_, (key, _))| &**key)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(12);
                while let Some(Text(key)) = map.next_key()? {
                    members.push((key, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// A string, borrowed from the input when it has no escapes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Take;
        impl<'de> Visitor<'de> for Take {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, s: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(s)))
            }
            fn visit_str<E>(self, s: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(s.to_owned())))
            }
        }
        deserializer.deserialize_str(Take)
    }
}

/// Whether brackets nest deeper than [`MAX_DEPTH`] anywhere in `json`.
#[must_use]
pub fn is_too_deep(json: &str) -> bool {
    let (mut depth, mut rest) = (0_usize, json.as_bytes());
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'"' => rest = behind_string(rest),
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// What follows the string that `json` is in.
fn behind_string(mut json: &[u8]) -> &[u8] {
    while let Some(at) = memchr::memchr2(b'"', b'\\', json) {
        let is_end = json[at] == b'"';
        json = json.get(at + if is_end { 1 } else { 2 }..).unwrap_or_default();
        if is_end {
            return json;
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_bytes_and_finds_duplicates() {
        let m: Members = serde_json::from_str(r#"{"b": 1.50, "a\u0062": [ 1 ], "b":null}"#).unwrap();
        let seen: Vec<_> = m.0.iter().map(|(k, v)| (k.as_ref(), v.get())).collect();
        assert_eq!(seen, [("b", "1.50"), ("ab", "[ 1 ]"), ("b", "null")]);
        assert_eq!(m.duplicate(), Some("b"));
        assert!(serde_json::from_str::<Members>("[]").is_err());
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert!(!is_too_deep(&format!("{}1{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH))));
        assert!(is_too_deep(&"{\"a\":[".repeat(MAX_DEPTH / 2 + 1)));
        assert!(!is_too_deep(&format!("[\"\\\"{}\"]", "[".repeat(500))));
    }
}
