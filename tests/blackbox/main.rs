//! Black-box tests: the real binary, real sockets, one concern per module. One test program, because linking is what costs.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests measure real time and own their tasks")]

#[path = "../../benches/support/entries.rs"]
mod entries;
#[path = "../support/mod.rs"]
mod support;

mod adaptive;
mod auth;
mod bad_input;
mod breaker;
mod budgets;
mod cancel;
mod cli;
mod distribution;
mod domains;
mod explain;
mod failover;
mod headers;
mod hostile;
mod keys;
mod ledger;
mod ledger_accounts;
mod ledger_exports;
mod ledger_retention;
mod ledger_signed;
mod ledger_tampered;
mod limits;
mod metrics;
mod queue;
mod reconcile;
mod registry;
mod reload;
mod restart;
mod secrets;
mod shutdown;
mod slo;
mod streams;
mod supervision;
mod usage;
