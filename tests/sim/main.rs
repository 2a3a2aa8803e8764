//! Simulated providers on the wire: every fault is seen by a client that reads raw bytes.

#![allow(clippy::unwrap_used, reason = "a test's own functions may fail as loudly as the test")]

mod answers;
mod control;
mod endings;
mod instead;
mod manners;
mod ports;
mod wire;
