//! Exact token counts, where they decide about money: a cost ceiling, and whole answers whose upstream reported nothing.
//!
//! Vocabularies are read at their first use, on a thread of their own (about 0.1 s and 12 to 24 MB each, see docs/ledger.md);
//! until then, and for texts beyond [`MOST`], there is no exact count and the caller keeps its estimate. So a worker never waits,
//! and a gateway that needs no exact count never pays for one.

use crate::domain::tokens::encoding::Encoding;
use std::sync::atomic::{AtomicU8, Ordering};

/// Bytes of one text that are counted at once: some 0.1 ms, and 2 ms for the worst text there is.
pub const MOST: usize = 8 << 10;

const ASLEEP: u8 = 0;
const WAKING: u8 = 1;
const READY: u8 = 2;

/// Of [`Encoding::ALL`], in its order.
static STATES: [AtomicU8; 3] = [const { AtomicU8::new(ASLEEP) }; 3];

/// The tokens of a text; `None` if it is too long, or the vocabulary is not read yet: then it will be.
#[must_use]
pub fn exact(encoding: Encoding, text: &str) -> Option<u64> {
    if text.len() > MOST {
        return None;
    }
    let state = Encoding::ALL.iter().position(|e| *e == encoding).and_then(|at| STATES.get(at))?;
    match state.load(Ordering::Acquire) {
        READY => tiktoken::get_encoding(encoding.as_str()).map(|vocabulary| vocabulary.count(text) as u64),
        ASLEEP => {
            wake(encoding, state);
            None
        }
        _ => None,
    }
}

/// Reads a vocabulary on a blocking thread, once.
fn wake(encoding: Encoding, state: &'static AtomicU8) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    if state.compare_exchange(ASLEEP, WAKING, Ordering::AcqRel, Ordering::Acquire).is_ok() {
        runtime.spawn_blocking(move || {
            if tiktoken::get_encoding(encoding.as_str()).is_some() {
                state.store(READY, Ordering::Release);
                tracing::debug!(encoding = encoding.as_str(), "vocabulary read");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn the_first_count_wakes_the_vocabulary_and_long_texts_are_not_counted() {
        // No other test of this process uses this vocabulary through here.
        assert_eq!(exact(Encoding::Cl100k, &"a".repeat(MOST + 1)), None);
        assert_eq!(STATES[1].load(Ordering::Acquire), ASLEEP);
        assert_eq!(exact(Encoding::Cl100k, "hello world"), None);
        let counted = async {
            loop {
                match exact(Encoding::Cl100k, "hello world") {
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                    Some(count) => break count,
                }
            }
        };
        assert_eq!(tokio::time::timeout(Duration::from_secs(30), counted).await, Ok(2));
    }
}
