//! `config.yaml`: read, validated in full, and handed on as plain settings.
//!
//! [`load`] gives a [`Config`](model::Config) in which every value is allowed and resolved, or all faults at once, each with its
//! place. Unknown keys are faults, and so are keys that this version would not act upon. `tree` knows where things stand,
//! `reader` takes typed values out of it, one file per block says which keys there are. Secrets are never shown.

pub mod address;
pub mod catalogue;
mod endpoint;
pub mod fault;
mod load;
pub mod model;
mod provider;
mod reader;
mod route;
pub mod scalar;
pub mod secret;
mod server;
mod tree;
mod variables;

pub use fault::{Fault, Faults};
pub use load::{load, load_store, parse};
