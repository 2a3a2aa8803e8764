//! Whether the store's disk has little room left: a warning while there is still time to do something about it.
//!
//! The ledger looks at each of its ticks, once a second, never a request. Below `store.low_space` the disk is low; it is so until there is
//! an eighth more than that again, so that a disk at the mark does not fill the log.

use parking_lot::Mutex;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

#[derive(Debug, Default)]
pub(super) struct Space {
    /// The store's folder, and the free bytes below which its disk is low; zero is never reached.
    watched: Mutex<Option<(PathBuf, u64)>>,
    free: AtomicU64,
    known: AtomicBool,
    unreadable: AtomicBool,
    low: AtomicBool,
}

/// A disk's room, as it was at the last tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes that the gateway may still write; `None`: not watched, or not known.
    pub free: Option<u64>,
    /// Less than `store.low_space`.
    pub low: bool,
}

impl Space {
    pub fn watch(&self, folder: PathBuf, low_space: u64) {
        *self.watched.lock() = (low_space > 0).then_some((folder, low_space));
    }

    /// Asks the system how much room is left.
    pub fn look(&self) {
        let Some((folder, low_space)) = self.watched.lock().clone() else { return };
        self.found(fs2::available_space(&folder), low_space);
    }

    #[must_use]
    pub fn room(&self) -> Room {
        Room { free: self.known.load(Relaxed).then(|| self.free.load(Relaxed)), low: self.low.load(Relaxed) }
    }

    fn found(&self, free: io::Result<u64>, low_space: u64) {
        let free = match free {
            Ok(free) => free,
            Err(error) => {
                self.known.store(false, Relaxed);
                if !self.unreadable.swap(true, Relaxed) {
                    tracing::warn!(%error, "the free space of the store's disk cannot be read");
                }
                return;
            }
        };
        self.free.store(free, Relaxed);
        self.known.store(true, Relaxed);
        self.unreadable.store(false, Relaxed);
        let was = self.low.load(Relaxed);
        let low = free < if was { low_space.saturating_add(low_space / 8) } else { low_space };
        self.low.store(low, Relaxed);
        match (was, low) {
            (false, true) => tracing::error!(
                free_bytes = free,
                low_space,
                "disk_low: the store's disk is nearly full; make room, or have old rows removed with store.retention"
            ),
            (true, false) => tracing::info!(free_bytes = free, "the store's disk has room again"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn low_below_the_mark_and_until_there_is_an_eighth_more() {
        let space = Space::default();
        assert_eq!(space.room(), Room { free: None, low: false });
        for (free, low) in [(256, false), (255, true), (256, true), (287, true), (288, false), (256, false), (0, true)]
        {
            space.found(Ok(free * MIB), 256 * MIB);
            assert_eq!(space.room(), Room { free: Some(free * MIB), low }, "{free} MiB");
        }
        space.found(Err(io::Error::other("gone")), 256 * MIB);
        assert_eq!(space.room(), Room { free: None, low: true }, "what is not known changes nothing");
    }

    #[test]
    fn a_real_disk_is_asked_unless_it_is_off() {
        let (dir, space) = (tempfile::tempdir().unwrap(), Space::default());
        space.watch(dir.path().into(), 0);
        space.look();
        assert_eq!(space.room().free, None);
        space.watch(dir.path().into(), u64::MAX);
        space.look();
        assert!(space.room().low && space.room().free.is_some_and(|free| free > 0), "{:?}", space.room());
        space.watch(dir.path().into(), 1);
        space.look();
        assert!(!space.room().low);
    }
}
