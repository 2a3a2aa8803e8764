//! Who asks, and what happens when a handler panics.

use crate::engine::access::Caller;
use crate::engine::error::{ApiError, Code};
use crate::engine::gateway::Gateway;
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use futures_util::{FutureExt, TryFutureExt};
use std::panic::AssertUnwindSafe;

/// The secret of `Authorization: Bearer …`, or of `x-api-key`, which Anthropic's SDKs send.
fn secret(headers: &HeaderMap) -> Option<&str> {
    let bearer = || {
        let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    };
    bearer().or_else(|| headers.get("x-api-key")?.to_str().ok())
}

/// Who asks on the API for applications.
///
/// # Errors
/// 401.
pub fn caller(gateway: &Gateway, headers: &HeaderMap) -> Result<Caller, ApiError> {
    gateway.access.caller(secret(headers))
}

/// Lets operators pass.
///
/// # Errors
/// 401.
pub fn operator(gateway: &Gateway, headers: &HeaderMap) -> Result<(), ApiError> {
    gateway.access.operator(secret(headers))
}

/// Runs a handler's work; a panic in it becomes a 500, where actix would close the connection without a word.
///
/// # Errors
/// 500 after a panic, which the log tells more of.
pub fn caught<T>(work: impl Future<Output = T>) -> impl Future<Output = Result<T, ApiError>> {
    // Not an async fn: that would hold the work twice.
    let panicked = |_| ApiError::new(Code::Internal, "the gateway failed on this request; its log says more");
    AssertUnwindSafe(work).catch_unwind().map_err(panicked)
}
