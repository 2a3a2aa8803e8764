//! The only place that reads time. Everything else is handed a [`Ts`] or a [`Wall`].

use crate::domain::time::{Ts, Wall};
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// The monotonic clock. Its origin is the first call, moved ten years back so that "long ago", such as an
/// operator's act of before the restart, has room below it.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
pub fn now() -> Ts {
    const HEAD_START_US: u64 = 10 * 366 * 86_400 * 1_000_000;
    let origin = *ORIGIN.get_or_init(Instant::now);
    Ts(HEAD_START_US + u64::try_from(origin.elapsed().as_micros()).unwrap_or(u64::MAX))
}

/// The wall clock, UTC. It may jump; nothing but records and restored deadlines depends on it.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn wall() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// The wall-clock time of a moment of the monotonic clock. The same moment always gives the same time: the two clocks are compared
/// once in a process's life.
#[must_use]
pub fn wall_of(at: Ts) -> Wall {
    static ANCHOR: OnceLock<(Ts, Wall)> = OnceLock::new();
    let (then, wall) = *ANCHOR.get_or_init(|| (now(), wall()));
    if at >= then { wall.plus(at.since(then)) } else { wall.minus(then.since(at)) }
}
