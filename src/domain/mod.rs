//! The pure core: state machines and arithmetic. Time (`now`) and randomness (`roll`) are arguments; nothing here does I/O.

pub mod complexity;
pub mod histogram;
pub mod ids;
pub mod intelligent;
pub mod key;
pub mod ledger;
pub mod money;
pub mod outcome;
pub mod price;
pub mod report;
pub mod settings;
pub mod strategy;
pub mod sums;
pub mod time;
pub mod usage;
