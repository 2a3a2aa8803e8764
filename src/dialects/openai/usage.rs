//! OpenAI's usage object as its vendors and imitators fill it, made into disjoint classes.
//!
//! - `prompt_tokens` holds the cached and the cache-written tokens, `completion_tokens` the reasoning ones: they are taken out.
//!   A detail larger than its whole is cut to it.
//! - Cached tokens stand in `prompt_tokens_details.cached_tokens` (OpenAI, Azure, OpenRouter, xAI, Gemini), in
//!   `prompt_cache_hit_tokens` (DeepSeek) or in `cached_tokens` (Moonshot): the largest counts.
//! - Where `total_tokens` is more than prompt and completion, the rest was generated and is billed: reasoning that xAI and Gemini
//!   leave out of `completion_tokens`.
//! - Sound is part of prompt and completion, and priced as text: the ledger knows no class for it. Its tokens are told apart, so
//!   that the row can say so.
//! - A report is not believed at all if prompt or completion are no whole numbers from 0 to 2³², or if both are missing. Tokens
//!   are then counted here. A detail that is no such number is taken as absent.

use crate::domain::usage::Usage;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// More than any model reads or writes at once.
const MOST: u64 = 1 << 32;

/// What an upstream says that it used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    pub usage: Usage,
    /// Of all of them, those of sound; priced as text.
    pub audio: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct RawUsage {
    prompt_tokens: Count,
    completion_tokens: Count,
    total_tokens: Count,
    prompt_tokens_details: Lenient<Details>,
    completion_tokens_details: Lenient<Details>,
    prompt_cache_hit_tokens: Count,
    cached_tokens: Count,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Details {
    cached_tokens: Count,
    cache_write_tokens: Count,
    reasoning_tokens: Count,
    audio_tokens: Count,
}

impl RawUsage {
    /// Whether something is reported that cannot be true.
    pub(super) fn is_nonsense(&self) -> bool {
        [self.prompt_tokens, self.completion_tokens].contains(&Count::Nonsense)
    }

    /// `None`: nothing is reported, or nothing that can be believed.
    pub(super) fn read(&self) -> Option<Reported> {
        let (prompt, completion, total) =
            (self.prompt_tokens.wholly()?, self.completion_tokens.wholly()?, self.total_tokens.or_none());
        let (prompt, completion) = match (prompt, completion) {
            (None, None) => return None,
            (Some(p), Some(c)) => (p, c),
            (Some(p), None) => (p, total.unwrap_or(0).saturating_sub(p)),
            (None, Some(c)) => (total.unwrap_or(0).saturating_sub(c), c),
        };
        let (of_prompt, of_completion) = (&self.prompt_tokens_details.0, &self.completion_tokens_details.0);
        let hits = [of_prompt.cached_tokens, self.prompt_cache_hit_tokens, self.cached_tokens];
        let cached = hits.into_iter().filter_map(Count::or_none).max().unwrap_or(0).min(prompt);
        let written = of_prompt.cache_write_tokens.or_none().unwrap_or(0).min(prompt - cached);
        let beside = total.unwrap_or(0).saturating_sub(prompt + completion);
        let told = of_completion.reasoning_tokens.or_none().unwrap_or(0);
        let within = if beside > 0 { told.saturating_sub(beside) } else { told }.min(completion);
        let audio = |d: &Details, whole: u64| d.audio_tokens.or_none().unwrap_or(0).min(whole);
        Some(Reported {
            usage: Usage {
                input: prompt - cached - written,
                cached_input: cached,
                cache_write: written,
                output: completion - within,
                reasoning: within + beside,
            },
            audio: audio(of_prompt, prompt) + audio(of_completion, completion),
        })
    }
}

/// A member that should be a whole number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Count {
    #[default]
    Absent,
    Is(u64),
    /// Something else: negative, with a fraction, beyond all bounds, no number.
    Nonsense,
}

impl Count {
    fn of(n: u64) -> Self {
        if n <= MOST { Self::Is(n) } else { Self::Nonsense }
    }

    /// `None` for nonsense, `Some(None)` where it is absent.
    fn wholly(self) -> Option<Option<u64>> {
        match self {
            Self::Absent => Some(None),
            Self::Is(n) => Some(Some(n)),
            Self::Nonsense => None,
        }
    }

    fn or_none(self) -> Option<u64> {
        self.wholly().flatten()
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Count;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_u64<E>(self, n: u64) -> Result<Count, E> {
                Ok(Count::of(n))
            }
            fn visit_i64<E>(self, n: i64) -> Result<Count, E> {
                Ok(u64::try_from(n).map_or(Count::Nonsense, Count::of))
            }
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range and whole")]
            fn visit_f64<E>(self, n: f64) -> Result<Count, E> {
                let is_whole = n.fract() == 0.0 && (0.0..=4_294_967_296.0).contains(&n);
                Ok(if is_whole { Count::of(n as u64) } else { Count::Nonsense })
            }
            fn visit_unit<E>(self) -> Result<Count, E> {
                Ok(Count::Absent)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Count, E> {
                Ok(Count::Nonsense)
            }
            fn visit_str<E>(self, _: &str) -> Result<Count, E> {
                Ok(Count::Nonsense)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Count, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Count::Nonsense)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Count, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Count::Nonsense)
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// An object; anything else is taken as an empty one, so that no odd report costs an answer.
#[derive(Default)]
pub(super) struct Lenient<T>(pub(super) T);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for Read<T> {
            type Value = Lenient<T>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Lenient)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Lenient(T::default()))
            }
            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Lenient(T::default()))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Lenient(T::default()))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Lenient(T::default()))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Lenient(T::default()))
            }
            fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
                Ok(Lenient(T::default()))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Lenient(T::default()))
            }
        }
        deserializer.deserialize_any(Read(PhantomData))
    }
}

#[cfg(test)]
mod tests;
