//! Answers: JSON, errors in OpenAI's envelope, and the `x-breakwater-…` headers.

use crate::domain::ids::RequestId;
use crate::engine::error::{ApiError, Code};
use crate::engine::serve::Head;
use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT, HeaderName, HeaderValue, RETRY_AFTER};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use serde::Serialize;

pub fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

pub fn json(code: u16, value: &impl Serialize) -> HttpResponse {
    match serde_json::to_vec(value) {
        Ok(body) => HttpResponse::build(status(code)).content_type("application/json").body(body),
        Err(e) => error(&ApiError::new(Code::Internal, format!("the answer cannot be written: {e}")), None),
    }
}

/// Whether the caller asked for text for people.
pub fn wants_text(request: &HttpRequest) -> bool {
    request.headers().get(ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|a| a.starts_with("text/plain"))
}

/// Text for people.
pub fn text(text: String) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(text)
}

/// An error in OpenAI's envelope.
pub fn error(error: &ApiError, id: Option<&RequestId>) -> HttpResponse {
    let mut builder = HttpResponse::build(status(error.code.status()));
    builder.content_type("application/json");
    if let Some(id) = id {
        builder.insert_header((ID, header(id.as_str())));
        builder.insert_header((ATTEMPTS, HeaderValue::from(error.attempts.len() as u64)));
    }
    if let Some(after) = error.retry_after {
        // Whole seconds, rounded up: asking again earlier would be in vain.
        let seconds = after.as_millis().div_ceil(1000).max(1);
        builder.insert_header((RETRY_AFTER, HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX))));
    }
    if error.code == Code::BudgetExceeded {
        // The vendors' SDKs ask again after a 429 unless they are told not to.
        builder.insert_header(("x-should-retry", "false"));
    }
    if error.code == Code::InvalidApiKey {
        builder.insert_header(("www-authenticate", "Bearer"));
    }
    builder.body(error.to_json())
}

const ID: HeaderName = HeaderName::from_static("x-breakwater-request-id");
const ENDPOINT: HeaderName = HeaderName::from_static("x-breakwater-endpoint");
const MODEL: HeaderName = HeaderName::from_static("x-breakwater-model");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-breakwater-attempts");
const LATENCY_MS: HeaderName = HeaderName::from_static("x-breakwater-latency-ms");
const COST_USD: HeaderName = HeaderName::from_static("x-breakwater-cost-usd");
const COST_STATE: HeaderName = HeaderName::from_static("x-breakwater-cost-state");

const MAX_TOKENS: HeaderName = HeaderName::from_static("x-breakwater-max-tokens");
const MAX_TOKENS_LOWERED: HeaderName = HeaderName::from_static("x-breakwater-max-tokens-lowered");

/// The headers of an answer from an endpoint; a stream's cost is not known yet.
pub fn headed(code: u16, head: &Head, is_stream: bool) -> HttpResponseBuilder {
    let mut builder = HttpResponse::build(status(code));
    builder.insert_header((ID, header(head.request_id.as_str())));
    builder.insert_header((ENDPOINT, header(&head.endpoint)));
    builder.insert_header((MODEL, header(&head.model)));
    builder.insert_header((ATTEMPTS, HeaderValue::from(head.attempts)));
    builder.insert_header((LATENCY_MS, HeaderValue::from(u64::try_from(head.elapsed.as_millis()).unwrap_or(u64::MAX))));
    if let Some(cap) = head.max_tokens {
        builder.insert_header((MAX_TOKENS, HeaderValue::from(cap.tokens)));
        if cap.lowered {
            builder.insert_header((MAX_TOKENS_LOWERED, HeaderValue::from(cap.tokens)));
        }
    }
    if !is_stream {
        if head.cost_state != crate::engine::context::CostState::Unpriced {
            builder.insert_header((COST_USD, header(&head.cost_usd)));
        }
        builder.insert_header((COST_STATE, HeaderValue::from_static(head.cost_state.as_str())));
    }
    builder
}

/// A header's value; characters that none may have become `?`.
fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| {
        let plain: String = text.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect();
        HeaderValue::from_str(&plain).unwrap_or_else(|_| HeaderValue::from_static("?"))
    })
}
