//! Chaos for operators: experiments are started, looked at and ended here.

use crate::engine::chaos::{Trial, table};
use crate::engine::error::ApiError;
use crate::engine::gateway::Worker;
use crate::http::{admin, at, body, guard, respond};
use actix_web::web::{self, Payload, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};
use std::rc::Rc;
use std::sync::Arc;

type OfWorker = web::Data<Rc<Worker>>;

pub fn routes(config: &mut ServiceConfig) {
    config
        .service(
            at("/admin/chaos")
                .route(web::get().to(list))
                .route(web::post().to(start))
                .route(web::delete().to(stop_all)),
        )
        .service(at("/admin/chaos/{id}").route(web::get().to(show)).route(web::delete().to(stop)));
}

async fn start(request: HttpRequest, payload: Payload, worker: OfWorker) -> HttpResponse {
    admin::answered(&worker, &request, 201, async |g| {
        // Before the body: whoever is not allowed need not learn what is wrong with it.
        g.chaos_allowed()?;
        g.start_chaos(&body::json::<Value>(&request, payload).await?).await
    })
    .await
}

async fn stop(request: HttpRequest, id: web::Path<String>, worker: OfWorker) -> HttpResponse {
    admin::answered(&worker, &request, 200, async |g| g.stop_chaos(&id).await).await
}

async fn stop_all(request: HttpRequest, worker: OfWorker) -> HttpResponse {
    admin::answered(&worker, &request, 200, async |g| g.stop_all_chaos().await).await
}

/// Those that run and the last that have ended, as a table for people or JSON.
async fn list(request: HttpRequest, worker: OfWorker) -> HttpResponse {
    let looked = || {
        guard::operator(&worker.gateway, request.headers())?;
        worker.gateway.chaos_trials()
    };
    told(looked(), |trials| {
        if respond::wants_text(&request) {
            return respond::text(table(trials));
        }
        let (ended, running): (Vec<_>, Vec<_>) = trials.iter().partition(|t| t.has_ended());
        let views = |trials: Vec<&Arc<Trial>>| trials.iter().map(|t| t.view()).collect::<Vec<_>>();
        respond::json(200, &json!({ "running": views(running), "ended": views(ended) }))
    })
}

/// One with its scorecard, as a table for people or JSON.
async fn show(request: HttpRequest, id: web::Path<String>, worker: OfWorker) -> HttpResponse {
    let looked = || {
        guard::operator(&worker.gateway, request.headers())?;
        worker.gateway.chaos_trial(&id)
    };
    told(looked(), |trial| {
        if respond::wants_text(&request) { respond::text(trial.to_table()) } else { respond::json(200, &trial.view()) }
    })
}

fn told<T>(result: Result<T, ApiError>, show: impl FnOnce(&T) -> HttpResponse) -> HttpResponse {
    match result {
        Ok(value) => show(&value),
        Err(error) => respond::error(&error, None),
    }
}
