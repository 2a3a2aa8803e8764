//! The ledger for operators: sums, the report, savings, the account of resilience, exports.

use crate::domain::filter::RowFilter;
use crate::domain::sums::TimeRange;
use crate::domain::table::Tabular;
use crate::engine::error::{ApiError, Code};
use crate::engine::gateway::Worker;
use crate::engine::reports::{group_by, range, shape, tag};
use crate::http::{admin, at, guard, respond};
use actix_web::http::header::ACCEPT;
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::stream;
use std::rc::Rc;

type OfWorker = web::Data<Rc<Worker>>;

pub fn routes(config: &mut ServiceConfig) {
    config
        .service(at("/admin/report").route(web::get().to(report)))
        .service(at("/admin/ledger").route(web::get().to(sums)))
        .service(at("/admin/ledger/savings").route(web::get().to(savings)))
        .service(at("/admin/ledger/resilience").route(web::get().to(resilience)))
        .service(at("/admin/ledger/checkpoints").route(web::get().to(checkpoints)))
        .service(at("/admin/ledger/export").route(web::get().to(export)))
        .service(at("/admin/ledger/export/{id}").route(web::get().to(export_checkpoint)));
}

/// A query string. Which parameters a call takes is the same for all of these.
#[derive(Default)]
struct Asked {
    from: Option<String>,
    to: Option<String>,
    group_by: Option<String>,
    format: Option<String>,
    compress: Option<String>,
    baseline: Option<String>,
    filter: RowFilter,
}

impl Asked {
    fn range(&self) -> Result<TimeRange, ApiError> {
        range(self.from.as_deref(), self.to.as_deref())
    }
}

/// Reads a query string. A parameter that is not known, or given twice where one is meant, is an error.
fn asked(request: &HttpRequest) -> Result<Asked, ApiError> {
    let pairs = web::Query::<Vec<(String, String)>>::from_query(request.query_string());
    let pairs = pairs.map_err(|e| ApiError::new(Code::InvalidRequest, format!("the query cannot be read: {e}")))?;
    let mut asked = Asked::default();
    for (name, value) in pairs.into_inner() {
        let place = match name.as_str() {
            "from" => &mut asked.from,
            "to" => &mut asked.to,
            "group_by" => &mut asked.group_by,
            "format" => &mut asked.format,
            "compress" => &mut asked.compress,
            "baseline" => &mut asked.baseline,
            "model" => &mut asked.filter.model,
            "endpoint" => &mut asked.filter.endpoint,
            "key" => &mut asked.filter.key,
            "outcome" => &mut asked.filter.outcome,
            "tag" => {
                asked.filter.tags.push(tag(&value)?);
                continue;
            }
            _ => {
                let known = "from, to, group_by, format, compress, baseline, model, endpoint, key, outcome, tag";
                return Err(
                    ApiError::new(Code::InvalidRequest, format!("`{name}` is not one of {known}")).with_param(&name)
                );
            }
        };
        if place.replace(value).is_some() {
            return Err(ApiError::new(Code::InvalidRequest, format!("`{name}` is given twice")).with_param(&name));
        }
    }
    Ok(asked)
}

/// By model, as a table for people or JSON.
async fn report(request: HttpRequest, worker: OfWorker) -> HttpResponse {
    let wants_text =
        request.headers().get(ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|a| a.starts_with("text/plain"));
    let made = async {
        guard::operator(&worker.gateway, request.headers())?;
        let asked = asked(&request)?;
        let group_by = group_by(asked.group_by.as_deref().unwrap_or("model"))?;
        worker.gateway.report(asked.range()?, group_by).await
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
        Ok(g.report(asked.range()?, group_by).await?.to_json())
    })
    .await
}

async fn savings(request: HttpRequest, worker: OfWorker) -> HttpResponse {
    admin::answered(&worker, &request, 200, async |g| {
        let asked = asked(&request)?;
        let baseline = asked.baseline.as_deref().ok_or_else(|| {
            let message = "baseline is missing: an endpoint's or a model's name".to_owned();
            ApiError::new(Code::InvalidRequest, message).with_param("baseline")
        })?;
        Ok(g.savings(asked.range()?, baseline).await?.to_json())
    })
    .await
}

async fn resilience(request: HttpRequest, worker: OfWorker) -> HttpResponse {
    admin::answered(&worker, &request, 200, async |g| {
        let asked = asked(&request)?;
        Ok(g.resilience(asked.range()?).await?.to_json())
    })
    .await
}

async fn export(request: HttpRequest, worker: OfWorker) -> HttpResponse {
    let started = || {
        guard::operator(&worker.gateway, request.headers())?;
        let asked = asked(&request)?;
        let shape = shape(asked.format.as_deref().unwrap_or("csv"), asked.compress.as_deref())?;
        worker.gateway.export(asked.range()?, asked.filter, shape)
    };
    match started() {
        Ok(export) => {
            let chunks = stream::unfold(export.chunks, |mut chunks| async move {
                // An error breaks the body off, so that no reader takes half an export for a whole one.
                let next = chunks.recv().await?;
                Some((next.map_err(std::io::Error::other), chunks))
            });
            let mut answer = HttpResponse::Ok();
            answer
                .insert_header(("x-breakwater-export-id", export.id))
                .content_type(export.content_type)
                .streaming(chunks)
        }
        Err(error) => respond::error(&error, None),
    }
}

/// The signed checkpoint of a finished export.
async fn export_checkpoint(request: HttpRequest, id: web::Path<String>, worker: OfWorker) -> HttpResponse {
    admin::answered(&worker, &request, 200, async |g| g.export_checkpoint(&id)).await
}

/// What the ledger has signed.
async fn checkpoints(request: HttpRequest, worker: OfWorker) -> HttpResponse {
    admin::answered(&worker, &request, 200, async |g| g.signed_record().await).await
}
