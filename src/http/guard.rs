//! Who asks, and what happens when a handler panics.

use crate::engine::access::Caller;
use crate::engine::error::{ApiError, Code};
use crate::engine::gateway::Gateway;
use crate::http::respond;
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use actix_web::middleware::Next;
use futures_util::FutureExt;
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

/// Around every request: a panic is answered with 500, where actix would close the connection without a word.
///
/// # Errors
/// Whatever the service reports.
pub async fn outermost<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, actix_web::Error> {
    let http = request.request().clone();
    match AssertUnwindSafe(next.call(request)).catch_unwind().await {
        Ok(done) => Ok(done?.map_into_left_body()),
        Err(_) => {
            tracing::error!(path = http.path(), "a request handler panicked");
            let error = ApiError::new(Code::Internal, "the gateway failed on this request; its log says more");
            Ok(ServiceResponse::new(http, respond::error(&error, None)).map_into_right_body())
        }
    }
}
