//! A secret text: a provider's API key, a token.
//!
//! It can be used and compared, never shown: `Debug` and `Display` print `***`, there is no `Serialize`, and comparing takes the
//! same time wherever two secrets of one length differ. Only [`Secret::expose`] gives the text away, so that a search for it
//! finds every place where one leaves the process.

use std::fmt;
use std::sync::Arc;

/// A text that is never shown.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `text` is the secret, in a time that depends on the lengths alone.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let (own, other) = (self.0.as_bytes(), text.as_bytes());
        let differing = own.iter().zip(other).fold(0_u8, |acc, (a, b)| std::hint::black_box(acc | (a ^ b)));
        differing == 0 && own.len() == other.len()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.0)
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_never_shown_and_compares_whole() {
        let secret = Secret::new("sk-marker");
        assert_eq!(format!("{secret} {secret:?} {:#?}", Some(&secret)), "*** *** Some(\n    ***,\n)");
        assert!(secret.matches("sk-marker"));
        for other in ["", "sk-marke", "sk-marker2", "Sk-marker", "sk-markes"] {
            assert!(!secret.matches(other), "{other}");
            assert_ne!(secret, Secret::new(other));
        }
    }
}
