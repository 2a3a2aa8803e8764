//! The ledger for operators: sums, the report, savings, the account of resilience, exports.

use crate::engine::error::{ApiError, Code};
use crate::engine::gateway::Worker;
use crate::engine::reports::{group_by, range};
use crate::http::{admin, at, guard, respond};
use actix_web::http::header::ACCEPT;
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::stream;
use serde::Deserialize;
use std::rc::Rc;

type OfWorker = web::Data<Rc<Worker>>;

pub fn routes(config: &mut ServiceConfig) {
    config
        .service(at("/admin/report").route(web::get().to(report)))
        .service(at("/admin/ledger").route(web::get().to(sums)))
        .service(at("/admin/ledger/savings").route(web::get().to(savings)))
        .service(at("/admin/ledger/resilience").route(web::get().to(resilience)))
        .service(at("/admin/ledger/export").route(web::get().to(export)));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    from: Option<String>,
    to: Option<String>,
    group_by: Option<String>,
    format: Option<String>,
    baseline: Option<String>,
}

/// Reads a query string.
fn asked(request: &HttpRequest) -> Result<Asked, ApiError> {
    let read = web::Query::<Asked>::from_query(request.query_string());
    read.map(web::Query::into_inner).map_err(|e| {
        ApiError::new(
            Code::InvalidRequest,
            format!("the query does not fit (from, to, group_by, format, baseline): {e}"),
        )
    })
}

/// By model, as a table for people or JSON.
async fn report(request: HttpRequest, worker: OfWorker) -> HttpResponse {
    let wants_text =
        request.headers().get(ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|a| a.starts_with("text/plain"));
    let made = async {
        guard::operator(&worker.gateway, request.headers())?;
        let asked = asked(&request)?;
        let group_by = group_by(asked.group_by.as_deref().unwrap_or("model"))?;
        worker.gateway.report(range(asked.from.as_deref(), asked.to.as_deref())?, group_by).await
    };
    match guard::caught(made).await.flatten() {
        Ok(report) if wants_text => {
            HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(report.to_table())
        }
        Ok(report) => respond::json(200, &report.to_json()),
        Err(error) => respond::error(&error, None),
    }
}

async fn sums(request: HttpRequest, worker: OfWorker) -> HttpResponse {
    admin::answered(&worker, &request, 200, async |g| {
        let asked = asked(&request)?;
        let group_by = group_by(asked.group_by.as_deref().unwrap_or("endpoint"))?;
        Ok(g.report(range(asked.from.as_deref(), asked.to.as_deref())?, group_by).await?.to_json())
    })
    .await
}

async fn savings(request: HttpRequest, worker: OfWorker) -> HttpResponse {
    admin::answered(&worker, &request, 200, async |g| {
        let asked = asked(&request)?;
        let baseline = asked.baseline.ok_or_else(|| {
            let message = "baseline is missing: an endpoint's or a model's name".to_owned();
            ApiError::new(Code::InvalidRequest, message).with_param("baseline")
        })?;
        Ok(g.savings(range(asked.from.as_deref(), asked.to.as_deref())?, &baseline).await?.to_json())
    })
    .await
}

async fn resilience(request: HttpRequest, worker: OfWorker) -> HttpResponse {
    admin::answered(&worker, &request, 200, async |g| {
        let asked = asked(&request)?;
        Ok(g.resilience(range(asked.from.as_deref(), asked.to.as_deref())?).await?.to_json())
    })
    .await
}

async fn export(request: HttpRequest, worker: OfWorker) -> HttpResponse {
    let started = || {
        guard::operator(&worker.gateway, request.headers())?;
        let asked = asked(&request)?;
        let range = range(asked.from.as_deref(), asked.to.as_deref())?;
        worker.gateway.export(range, asked.format.as_deref().unwrap_or("csv"))
    };
    match started() {
        Ok(export) => {
            let chunks = stream::unfold(export.chunks, |mut chunks| async move {
                // An error breaks the body off, so that no reader takes half an export for a whole one.
                let next = chunks.recv().await?;
                Some((next.map_err(std::io::Error::other), chunks))
            });
            HttpResponse::Ok().content_type(export.content_type).streaming(chunks)
        }
        Err(error) => respond::error(&error, None),
    }
}
