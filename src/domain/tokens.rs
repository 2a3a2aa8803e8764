//! How many tokens a text is: at most ([`ceiling`]), for reservations that must hold.

pub mod ceiling;
