//! The API for applications.

use crate::actors::topology::{NameKind, RouteTable};
use crate::clock;
use crate::domain::ids::RequestId;
use crate::engine::error::{ApiError, Code};
use crate::engine::explain;
use crate::engine::gateway::Worker;
use crate::engine::hints::{Hints, PREFIX};
use crate::engine::relay::Relay;
use crate::engine::serve::{self, Failure, Served};
use crate::http::{at, body, guard, respond};
use actix_web::guard::fn_guard;
use actix_web::http::Method;
use actix_web::http::header::HeaderMap;
use actix_web::web::{self, Bytes, Payload, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, Route};
use futures_util::stream;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::rc::Rc;

type OfWorker = web::Data<Rc<Worker>>;

pub fn routes(config: &mut ServiceConfig) {
    config
        .service(at("/v1/chat/completions").route(post().to(chat)))
        .service(at("/v1/explain").route(web::post().to(explained)))
        .service(at("/v1/models").route(web::get().to(models)))
        .service(at("/v1/models/{id:.+}").route(web::get().to(model)))
        .service(at("/v1/requests/{id}").route(web::get().to(request_record)));
}

/// A POST. `web::post()` allocates for each request that it looks at.
fn post() -> Route {
    web::route().guard(fn_guard(|context| context.head().method == Method::POST))
}

async fn chat(request: HttpRequest, payload: Payload, worker: OfWorker) -> HttpResponse {
    let served = guard::caught(serve_chat(&request, payload, &worker)).await;
    match served.map_err(Failure::from).flatten() {
        Ok(Served::Whole { head, status, content_type, body }) => {
            respond::headed(status, &head, false).content_type(content_type).body(body)
        }
        Ok(Served::Stream { head, relay }) => respond::headed(200, &head, true)
            .content_type("text/event-stream; charset=utf-8")
            .insert_header(("cache-control", "no-cache"))
            .insert_header(("x-accel-buffering", "no"))
            .streaming(events(relay)),
        Err(Failure { request_id, error }) => {
            // Refused before it had an id: one is made, so that caller and operator can speak of it.
            let id = request_id.unwrap_or_else(|| RequestId::mint(clock::wall(), fastrand::u128(..)));
            respond::error(&error, Some(&id))
        }
    }
}

/// The relay as a body. Dropped by actix when the client goes, it cancels the upstream.
fn events(relay: Box<Relay>) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(relay, |mut relay| async move { relay.next().await.map(|bytes| (Ok(bytes), relay)) })
}

async fn serve_chat(request: &HttpRequest, payload: Payload, worker: &Rc<Worker>) -> Result<Served, Failure> {
    let started = clock::now();
    let caller = guard::caller(&worker.gateway, request.headers())?;
    let hints = hints(request.headers())?;
    let config = worker.gateway.config();
    let body = body::read(request, payload, config.server.body_limit).await?;
    serve::chat(worker, &config, caller, hints, body, started).await
}

fn hints(headers: &HeaderMap) -> Result<Hints, ApiError> {
    let mut hints = Hints::default();
    for (name, value) in headers {
        if name.as_str().starts_with(PREFIX) {
            let text = value.to_str().map_err(|_| {
                let message = format!("the header `{name}` has characters beyond ASCII");
                ApiError::new(Code::InvalidRequest, message).with_param(name.as_str())
            })?;
            hints.take_header(name.as_str(), text)?;
        }
    }
    Ok(hints)
}

async fn explained(request: HttpRequest, payload: Payload, worker: OfWorker) -> HttpResponse {
    let decided = async {
        let caller = guard::caller(&worker.gateway, request.headers())?;
        let hints = hints(request.headers())?;
        let body = body::read(&request, payload, worker.gateway.config().server.body_limit).await?;
        explain::running(&worker, &caller, hints, &body).await
    };
    match guard::caught(decided).await.flatten() {
        Ok(decision) => respond::json(200, &decision),
        Err(error) => respond::error(&error, None),
    }
}

fn model_object(route: &RouteTable, created_s: i64) -> Value {
    let owner = match route.kind {
        NameKind::Route => "breakwater".to_owned(),
        NameKind::Endpoint | NameKind::Model => {
            route.cells.first().map_or_else(String::new, |c| c.config().provider.name.to_string())
        }
    };
    json!({ "id": &*route.name, "object": "model", "created": created_s, "owned_by": owner })
}

async fn models(request: HttpRequest, worker: OfWorker) -> HttpResponse {
    let gateway = &worker.gateway;
    let caller = match guard::caller(gateway, request.headers()) {
        Ok(caller) => caller,
        Err(error) => return respond::error(&error, None),
    };
    let created = gateway.started_at.0 / 1_000_000;
    let topology = gateway.board.topology();
    let allowed = topology.routes().filter(|r| caller.may_use(&r.name).is_ok());
    let data: Vec<_> = allowed.map(|r| model_object(r, created)).collect();
    respond::json(200, &json!({ "object": "list", "data": data }))
}

async fn model(request: HttpRequest, id: web::Path<String>, worker: OfWorker) -> HttpResponse {
    let gateway = &worker.gateway;
    let found = || {
        let caller = guard::caller(gateway, request.headers())?;
        let missing =
            || ApiError::new(Code::ModelNotFound, format!("the model `{id}` is not known here")).with_param("model");
        let route = gateway.board.topology().route(&id).cloned().ok_or_else(missing)?;
        caller.may_use(&route.name)?;
        Ok(route)
    };
    match found() {
        Ok(route) => respond::json(200, &model_object(&route, gateway.started_at.0 / 1_000_000)),
        Err(error) => respond::error(&error, None),
    }
}

async fn request_record(request: HttpRequest, id: web::Path<String>, worker: OfWorker) -> HttpResponse {
    let gateway = &worker.gateway;
    let caller = match guard::caller(gateway, request.headers()) {
        Ok(caller) => caller,
        Err(error) => return respond::error(&error, None),
    };
    let missing = || ApiError::new(Code::NotFound, format!("no request `{id}` of this key is known"));
    let record = match RequestId::parse(&id) {
        Ok(id) => gateway.request_record(&id).await,
        Err(_) => None,
    };
    // Another key's request looks like none at all.
    match record.filter(|r| caller.sees(&r.key_id)) {
        Some(record) => respond::json(200, &record),
        None => respond::error(&missing(), None),
    }
}
