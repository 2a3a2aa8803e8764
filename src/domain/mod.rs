//! The pure core: state machines and arithmetic. Time (`now`) and randomness (`roll`) are arguments; nothing here does I/O.

pub mod complexity;
pub mod ids;
pub mod intelligent;
pub mod ledger;
pub mod money;
pub mod outcome;
pub mod plan;
pub mod price;
pub mod retry;
pub mod settings;
pub mod strategy;
pub mod time;
pub mod usage;
