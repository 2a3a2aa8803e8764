//! Breakwater: a self-hosted gateway for LLM APIs.
//!
//! A pure, synchronous core of state machines; actors that own it; a request task that does the talking; a store that
//! remembers. Imports go one way, checked by `tests/architecture.rs`:
//!
//! `domain` ← `config`, `store`, `dialects` ← `actors` ← `engine` ← `http` ← `app`, `cli`
//!
//! # Layout
//! - [`domain`]: breaker, buckets, strategies, money, ledger rows. No I/O, no clock, no randomness.
//! - [`config`]: `config.yaml`, validated with file, line and column for each fault.
//! - [`store`]: sled: ledger, rollups, checkpoints, keys, operator acts, audit.
//! - [`actors`]: the owners of the core's state: endpoints, their supervisor, coordinators, the ledger.
//! - [`dialects`]: what vendors' APIs look like on the wire; server-sent events; the upstream client.
//! - [`engine`]: the path of one request from plan to settled answer.
//! - [`http`]: the API for applications and operators, and the dashboard.
//! - [`sim`]: simulated providers with scripted faults, for the demo, the tests and the benches.
//! - [`cli`]: one file per subcommand. [`app`] puts everything together and takes it down in order.

pub mod actors;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dialects;
pub mod domain;
pub mod engine;
pub mod http;
pub mod sim;
pub mod store;
