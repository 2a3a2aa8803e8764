//! The pure core: state machines and arithmetic. Time (`now`) and randomness (`roll`) are arguments; nothing here does I/O.

pub mod address;
pub mod breaker;
pub mod bucket;
pub mod complexity;
pub mod gate;
pub mod health;
pub mod histogram;
pub mod ids;
pub mod intelligent;
pub mod key;
pub mod latency;
pub mod learn;
pub mod ledger;
pub mod money;
pub mod outcome;
pub mod plan;
pub mod price;
pub mod report;
pub mod retry;
pub mod settings;
pub mod strategy;
pub mod sums;
pub mod time;
pub mod usage;
pub mod window;
