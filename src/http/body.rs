//! Reading request bodies with a bound on size and on patience: actix has no timeout for a slow body.

use crate::engine::error::{ApiError, Code};
use actix_web::HttpRequest;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use actix_web::web::{Bytes, BytesMut, Payload};
use futures_util::StreamExt;
use std::time::Duration;

/// A body must be complete within this, or keep up [`SLOWEST`] beyond it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes per second that are not slow.
const SLOWEST: u64 = 64 << 10;

/// The whole body of at most `limit` bytes.
///
/// # Errors
/// 413, 408, or 400 for a body that breaks off.
pub async fn read(request: &HttpRequest, mut payload: Payload, limit: usize) -> Result<Bytes, ApiError> {
    let too_large = || {
        let message = format!("the body is over the limit of {limit} bytes (server.body_limit)");
        ApiError::new(Code::RequestTooLarge, message)
    };
    if let Some(coding) = request.headers().get(CONTENT_ENCODING).filter(|v| *v != "identity") {
        let message = format!("a body with content-encoding {coding:?} is not read; send it uncompressed");
        return Err(ApiError::new(Code::InvalidRequest, message).with_param("content-encoding"));
    }
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|n| n > limit as u64) {
        return Err(too_large());
    }
    let patience = PATIENCE + Duration::from_secs(announced.unwrap_or(0) / SLOWEST);
    let collect = async {
        let mut first = Bytes::new();
        let mut all: Option<BytesMut> = None;
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|e| ApiError::new(Code::InvalidRequest, format!("the body broke off: {e}")))?;
            if first.is_empty() && all.is_none() {
                first = chunk;
            } else {
                let joined = all.get_or_insert_with(|| BytesMut::from(&*first));
                joined.extend_from_slice(&chunk);
            }
            if all.as_ref().map_or(first.len(), BytesMut::len) > limit {
                return Err(too_large());
            }
        }
        Ok(all.map_or(first, BytesMut::freeze))
    };
    match tokio::time::timeout(patience, collect).await {
        Ok(done) => done,
        Err(_) => {
            let message = format!("the body was not complete within {} s", patience.as_secs());
            Err(ApiError::new(Code::RequestTimeout, message))
        }
    }
}

/// The whole body as JSON; an empty one is `{}`.
///
/// # Errors
/// As [`read`], and 400 for what is no JSON.
pub async fn json<T: serde::de::DeserializeOwned>(request: &HttpRequest, payload: Payload) -> Result<T, ApiError> {
    const LIMIT: usize = 1 << 20;
    let body = read(request, payload, LIMIT).await?;
    let body: &[u8] = if body.trim_ascii().is_empty() { b"{}" } else { &body };
    serde_json::from_slice(body).map_err(|e| ApiError::new(Code::InvalidRequest, format!("the body does not fit: {e}")))
}
