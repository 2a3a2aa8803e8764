//! The only place that reads time. Everything else is handed a [`Ts`] or a [`Wall`].
//!
//! The monotonic clock is tokio's, the one that timers follow: in a runtime whose time is paused (tests and benches) it moves as the
//! timers do. A thread may [`simulate`] instead: then both clocks are its runtime's virtual time, from an origin of its choosing.

use crate::domain::time::{Ts, Wall};
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Ten years: "long ago", such as an operator's act of before the restart, has room below the clock's origin.
const HEAD_START_US: u64 = 10 * 366 * 86_400 * 1_000_000;

static ORIGIN: OnceLock<Instant> = OnceLock::new();
/// Whether any thread has ever simulated: the usual path looks no further.
static SIMULATED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static SIMULATION: Cell<Option<Simulation>> = const { Cell::new(None) };
}

/// A thread's own time.
#[derive(Clone, Copy)]
struct Simulation {
    origin: Instant,
    wall: Wall,
}

fn simulation() -> Option<Simulation> {
    if SIMULATED.load(Relaxed) { SIMULATION.get() } else { None }
}

/// From now on both clocks of this thread follow the time of the runtime that it is in, and start anew: the wall clock at `wall`. To be
/// called in a runtime whose time is paused; the same seed then sees the same times in every run.
pub fn simulate(wall: Wall) {
    SIMULATED.store(true, Relaxed);
    SIMULATION.set(Some(Simulation { origin: tokio_now(), wall }));
}

#[allow(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
fn tokio_now() -> Instant {
    Instant::now()
}

fn since(origin: Instant) -> Duration {
    tokio_now().saturating_duration_since(origin)
}

/// The monotonic clock. Its origin is the first call, moved ten years back.
#[must_use]
pub fn now() -> Ts {
    let origin = match simulation() {
        Some(simulation) => simulation.origin,
        None => *ORIGIN.get_or_init(tokio_now),
    };
    Ts(HEAD_START_US + u64::try_from(since(origin).as_micros()).unwrap_or(u64::MAX))
}

/// The wall clock, UTC. It may jump; nothing but records and restored deadlines depends on it.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn wall() -> Wall {
    if let Some(Simulation { origin, wall }) = simulation() {
        return wall.plus(since(origin));
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// The wall-clock time of a moment of the monotonic clock. The same moment always gives the same time: the two clocks are compared
/// once in a process's life.
#[must_use]
pub fn wall_of(at: Ts) -> Wall {
    static ANCHOR: OnceLock<(Ts, Wall)> = OnceLock::new();
    let (then, wall) = match simulation() {
        Some(simulation) => (Ts(HEAD_START_US), simulation.wall),
        None => *ANCHOR.get_or_init(|| (now(), wall())),
    };
    if at >= then { wall.plus(at.since(then)) } else { wall.minus(then.since(at)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_simulating_thread_has_its_runtimes_time() {
        simulate(Wall(1_000));
        let start = now();
        assert_eq!((wall(), wall_of(start)), (Wall(1_000), Wall(1_000)));
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert_eq!(now().since(start), Duration::from_secs(3_600));
        assert_eq!((wall(), wall_of(now())), (Wall(3_600_001_000), Wall(3_600_001_000)));
        let other = std::thread::spawn(|| wall() > Wall(1_700_000_000_000_000)).join();
        assert!(other.is_ok_and(|real| real), "another thread keeps the real time");
        simulate(Wall(5));
        assert_eq!((now(), wall()), (start, Wall(5)));
    }
}
