//! What needs no key: liveness, readiness, metrics, the description of the API.

use crate::engine::error::{ApiError, Code};
use crate::engine::gateway::Worker;
use crate::http::{guard, metrics, respond};
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;
use std::rc::Rc;
use std::sync::Arc;

static OPENAPI: &str = include_str!("openapi.json");

/// The process runs.
pub async fn live() -> HttpResponse {
    respond::json(200, &json!({ "status": "live" }))
}

/// New requests are welcome.
pub async fn ready(worker: web::Data<Rc<Worker>>) -> HttpResponse {
    let gateway = &worker.gateway;
    let ledger = gateway.ledger.status();
    let (code, status) = if gateway.is_draining() {
        (503, "draining")
    } else if gateway.ledger.is_closed() {
        (503, "ledger_failing")
    } else if ledger.failing.is_some() {
        (200, "degraded")
    } else if ledger.room.low {
        (200, "disk_low")
    } else {
        (200, "ready")
    };
    let store = json!({
        "failing": ledger.failing, "waiting": ledger.waiting, "durable_seq": ledger.durable_seq, "lost_rows": ledger.lost_rows,
        "free_bytes": ledger.room.free, "disk_low": ledger.room.low,
    });
    let endpoints = gateway.board.topology().cells.len();
    respond::json(
        code,
        &json!({ "status": status, "ledger": store, "endpoints": endpoints, "in_flight": gateway.in_flight() }),
    )
}

/// Prometheus metrics; for operators only if the configuration says so.
pub async fn metrics(request: HttpRequest, worker: web::Data<Rc<Worker>>) -> HttpResponse {
    let gateway = &worker.gateway;
    if gateway.config().server.metrics_auth
        && let Err(error) = guard::operator(gateway, request.headers())
    {
        return respond::error(&error, None);
    }
    let gateway = Arc::clone(gateway);
    // Not on the thread that serves requests: there may be many keys to sum up.
    match web::block(move || metrics::render(&gateway)).await {
        Ok(text) => HttpResponse::Ok().content_type(metrics::CONTENT_TYPE).body(text),
        Err(e) => respond::error(&ApiError::new(Code::Internal, format!("the metrics cannot be read: {e}")), None),
    }
}

/// The description of this API.
pub async fn openapi() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(OPENAPI)
}
