//! The scenarios that must pass: the real binary between simulated providers that fail in every way, seen from outside. One test
//! per scenario, named after it; docs/resilience.md lists them all, those in tests/blackbox included.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests measure real time and own their tasks")]

#[path = "../support/mod.rs"]
mod support;

mod chaos;
mod config_access;
mod disk;
mod hedge;
mod overload;
mod providers;
mod recover;
mod restart;
mod streams;
mod upstream;
