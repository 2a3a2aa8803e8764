//! The owners of the core's state. Measuring, deciding and enforcing are three pieces: an [`endpoint`] actor measures and
//! decides; it moves its gate on the [`board`]; the request's own thread takes from that gate.

pub mod board;
pub mod coordinator;
pub mod domains;
pub mod endpoint;
pub mod events;
pub mod ledger;
pub mod line;
pub mod messages;
pub mod meters;
pub mod permit;
mod space;
pub mod supervisor;
pub mod topology;
mod upkeep;
