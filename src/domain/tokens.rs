//! How many tokens a text is: at most ([`ceiling`]) for reservations that must hold, about ([`meter`]) for text that comes in
//! pieces, and by whose vocabulary ([`encoding`]) for an exact count. The estimate for whole texts is
//! [`estimate_tokens`](crate::domain::complexity::estimate_tokens).

pub mod ceiling;
pub mod encoding;
#[cfg(test)]
mod error;
pub mod meter;
