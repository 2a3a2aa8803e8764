//! The path of one request: plan, gate, attempt, settle, answer. The only module that sees both actors and dialects.

pub mod access;
pub mod attempt;
pub mod budgets;
pub mod call;
pub mod chaos;
pub mod context;
pub mod count;
pub mod course;
pub mod error;
pub mod explain;
pub mod explanation;
pub mod exports;
pub mod gateway;
pub mod hints;
pub mod hold;
pub mod operations;
pub mod place;
pub mod probe;
pub mod record;
pub mod refused;
pub mod registry;
pub mod relay;
pub mod reports;
pub mod serve;
pub mod understand;
