//! `config.yaml`: read, validated in full, and handed on as plain settings.
//!
//! [`load`] gives a [`Config`](model::Config) in which every value is allowed and resolved, or all faults at once, each with its
//! place. Unknown keys are faults, and so are keys that this version would not act upon. `tree` knows where things stand,
//! `reader` takes typed values out of it, one file per block says which keys there are. Secrets are never shown.

pub mod address;
mod baseline;
mod budget;
pub mod catalogue;
mod chaos;
pub mod demo;
pub mod diff;
mod endpoint;
pub mod fault;
mod intelligent;
mod load;
pub mod model;
mod provider;
mod reader;
mod route;
mod runtime;
pub mod scalar;
pub mod secret;
mod server;
#[cfg(test)]
mod tests;
mod tree;
mod variables;

pub use baseline::baseline;
pub use chaos::{experiment_from_json, experiments_from_file};
pub use demo::demo;
pub use diff::diff;
pub use fault::{Fault, Faults};
pub use load::{load, load_store, parse};
pub use model::Config;
pub use runtime::{apply_patch, endpoint_from_json, endpoint_to_json};
