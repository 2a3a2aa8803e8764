//! What the black-box tests stand on: the real binary as a child process ([`gateway`]), upstreams whose every byte a test decides
//! and sees ([`upstream`]), a configuration to write down ([`setup`]), and a client that looks at answers ([`client`]).
//!
//! Rules: every test has its own ports and its own folder; nothing is waited for with a fixed sleep but with [`eventually`];
//! a process that a test started ends with the test.

#![allow(dead_code, unused_imports, reason = "shared by several test programs; not every part is needed in each")]

pub mod client;
pub mod gateway;
pub mod ledger;
pub mod setup;
pub mod upstream;

pub use client::{Answer, Sse, chat_body, stream_body};
pub use gateway::{ADMIN_TOKEN, Gateway, Run, binary, breakwater};
pub use setup::Setup;
pub use upstream::{Reply, Upstream, completion};

use std::path::Path;
use std::time::{Duration, Instant};

/// The first, or with `BREAKWATER_TEST_SCALE=full` the second: some scenarios are shown shorter than docs/resilience.md has them.
pub fn scaled<T>(short: T, full: T) -> T {
    match std::env::var("BREAKWATER_TEST_SCALE").as_deref() {
        Ok("full") => full,
        Err(_) | Ok("") => short,
        Ok(other) => panic!("BREAKWATER_TEST_SCALE is `{other}`; it may be `full`"),
    }
}

/// Looks every 10 ms whether `check` holds, and fails the test when it still does not after `limit`.
pub async fn eventually(limit: Duration, what: &str, mut check: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + limit;
    while !check().await {
        assert!(Instant::now() < until, "after {limit:?} it still does not hold that {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Copies a folder with all that is in it.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Seconds since the epoch of an RFC 3339 time.
#[track_caller]
pub fn seconds(rfc3339: &str) -> f64 {
    let at = rfc3339.parse::<jiff::Timestamp>().unwrap_or_else(|e| panic!("{e}: {rfc3339}"));
    at.as_duration().as_secs_f64()
}

pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}
