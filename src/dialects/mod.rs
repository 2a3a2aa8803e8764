//! What vendors' APIs look like on the wire: reading requests and answers, classing faults, calling upstream.
//! Pure but for [`upstream`], which owns the HTTP client.

pub mod fault;
pub mod members;
pub mod openai;
pub mod remaining;
pub mod retry_after;
pub mod sse;
pub mod upstream;
