//! The API for operators. Every call needs the admin token; whatever is wrong with it, the answer is the same.

use crate::actors::messages::Act;
use crate::clock;
use crate::domain::ids::RequestId;
use crate::engine::error::{ApiError, Code};
use crate::engine::explain;
use crate::engine::gateway::{Gateway, Worker};
use crate::engine::hints::Hints;
use crate::engine::operations::NewKey;
use crate::http::{at, body, chaos, guard, reports, respond};
use actix_web::web::{self, Payload, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

type OfWorker = web::Data<Rc<Worker>>;

pub fn routes(config: &mut ServiceConfig) {
    config
        .service(at("/admin/endpoints").route(web::get().to(endpoints)).route(web::post().to(register)))
        .service(at("/admin/endpoints/{name:.+}/trip").route(web::post().to(trip)))
        .service(at("/admin/endpoints/{name:.+}/reset").route(web::post().to(reset)))
        .service(
            at("/admin/endpoints/{name:.+}")
                .route(web::get().to(endpoint))
                .route(web::patch().to(patch))
                .route(web::delete().to(remove)),
        )
        .service(at("/admin/explain").route(web::post().to(explained)))
        .service(at("/admin/decisions/{id}").route(web::get().to(decision)))
        .service(at("/admin/keys").route(web::get().to(keys)).route(web::post().to(create_key)))
        .service(at("/admin/keys/{id}").route(web::get().to(key)).route(web::delete().to(revoke_key)))
        .service(at("/admin/budgets").route(web::get().to(budgets)))
        .service(at("/admin/reload").route(web::post().to(reload)))
        .service(at("/admin/audit").route(web::get().to(audit)))
        .service(at("/admin/events").route(web::get().to(events)))
        .service(at("/admin/test/stall").route(web::post().to(stall_store)))
        .service(at("/admin/test/panic/{name}").route(web::post().to(panic_actor)));
    chaos::routes(config);
    reports::routes(config);
}

/// Lets an operator pass and answers with what `work` gives.
pub async fn answered<T: Serialize>(
    worker: &Worker,
    request: &HttpRequest,
    code: u16,
    work: impl AsyncFnOnce(&Arc<Gateway>) -> Result<T, ApiError>,
) -> HttpResponse {
    let gateway = &worker.gateway;
    let result = match guard::operator(gateway, request.headers()) {
        Ok(()) => guard::caught(work(gateway)).await.flatten(),
        Err(error) => Err(error),
    };
    match result {
        Ok(value) => respond::json(code, &value),
        Err(error) => respond::error(&error, None),
    }
}

async fn endpoints(request: HttpRequest, worker: OfWorker) -> HttpResponse {
    answered(&worker, &request, 200, async |g| Ok(g.endpoint_views().await)).await
}

async fn endpoint(request: HttpRequest, name: web::Path<String>, worker: OfWorker) -> HttpResponse {
    answered(&worker, &request, 200, async |g| g.endpoint_view(&name).await).await
}

async fn register(request: HttpRequest, payload: Payload, worker: OfWorker) -> HttpResponse {
    answered(&worker, &request, 201, async |g| {
        let cell = g.register_endpoint(body::json(&request, payload).await?).await?;
        g.endpoint_view(&cell.name).await
    })
    .await
}

async fn patch(request: HttpRequest, payload: Payload, name: web::Path<String>, worker: OfWorker) -> HttpResponse {
    answered(&worker, &request, 200, async |g| {
        let change: Value = body::json(&request, payload).await?;
        let cell = g.patch_endpoint(&name, &change).await?;
        g.endpoint_view(&cell.name).await
    })
    .await
}

async fn remove(request: HttpRequest, name: web::Path<String>, worker: OfWorker) -> HttpResponse {
    answered(&worker, &request, 200, async |g| {
        g.remove_endpoint(&name).await?;
        Ok(serde_json::json!({ "name": &*name, "removed": true }))
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trip {
    #[serde(default)]
    reason: String,
    /// `10m`; left out: until reset.
    #[serde(default, rename = "for")]
    period: Option<String>,
}

async fn trip(request: HttpRequest, payload: Payload, name: web::Path<String>, worker: OfWorker) -> HttpResponse {
    answered(&worker, &request, 200, async |g| {
        let trip: Trip = body::json(&request, payload).await?;
        let period = trip.period.as_deref().map(read_period).transpose()?;
        g.operate(&name, Act::Trip(period), bounded(trip.reason)?).await
    })
    .await
}

fn read_period(text: &str) -> Result<Duration, ApiError> {
    let fits = |d: &Duration| !d.is_zero() && *d <= Duration::from_secs(366 * 86_400);
    crate::config::scalar::parse_duration(text).filter(fits).ok_or_else(|| {
        let message = format!("`for` is `{text}`; allowed are durations up to 366 days such as 30s, 10m or 2h");
        ApiError::new(Code::InvalidRequest, message).with_param("for")
    })
}

fn bounded(reason: String) -> Result<String, ApiError> {
    const MOST: usize = 1000;
    if reason.len() > MOST {
        let message = format!("`reason` is at most {MOST} bytes");
        return Err(ApiError::new(Code::InvalidRequest, message).with_param("reason"));
    }
    Ok(reason)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reset {
    #[serde(default)]
    reason: String,
}

async fn reset(request: HttpRequest, payload: Payload, name: web::Path<String>, worker: OfWorker) -> HttpResponse {
    answered(&worker, &request, 200, async |g| {
        let reset: Reset = body::json(&request, payload).await?;
        g.operate(&name, Act::Reset, bounded(reset.reason)?).await
    })
    .await
}

async fn explained(request: HttpRequest, payload: Payload, worker: OfWorker) -> HttpResponse {
    answered(&worker, &request, 200, async |g| {
        let body = body::read(&request, payload, g.config().server.body_limit).await?;
        explain::running(&worker, &crate::engine::access::Caller::Operator, Hints::default(), &body).await
    })
    .await
}

async fn decision(request: HttpRequest, id: web::Path<String>, worker: OfWorker) -> HttpResponse {
    answered(&worker, &request, 200, async |g| {
        let missing = || ApiError::new(Code::NotFound, format!("no decision of a request `{id}` is known"));
        let id = RequestId::parse(&id).map_err(|_| missing())?;
        g.request_record(&id).await.ok_or_else(missing)
    })
    .await
}

async fn keys(request: HttpRequest, worker: OfWorker) -> HttpResponse {
    answered(&worker, &request, 200, async |g| Ok(g.key_views())).await
}

async fn key(request: HttpRequest, id: web::Path<String>, worker: OfWorker) -> HttpResponse {
    answered(&worker, &request, 200, async |g| g.key_view(&id)).await
}

async fn create_key(request: HttpRequest, payload: Payload, worker: OfWorker) -> HttpResponse {
    answered(&worker, &request, 201, async |g| {
        let new: NewKey = body::json(&request, payload).await?;
        g.create_key(new).await
    })
    .await
}

async fn revoke_key(request: HttpRequest, id: web::Path<String>, worker: OfWorker) -> HttpResponse {
    answered(&worker, &request, 200, async |g| g.revoke_key(&id).await).await
}

async fn budgets(request: HttpRequest, worker: OfWorker) -> HttpResponse {
    answered(&worker, &request, 200, async |g| Ok(g.budget_views())).await
}

async fn reload(request: HttpRequest, worker: OfWorker) -> HttpResponse {
    answered(&worker, &request, 200, async |g| g.reload().await).await
}

async fn audit(request: HttpRequest, worker: OfWorker) -> HttpResponse {
    answered(&worker, &request, 200, async |g| g.audit_log().await).await
}

/// What happens, as it happens: server-sent events, with a comment every few seconds while nothing does.
async fn events(request: HttpRequest, worker: OfWorker) -> HttpResponse {
    const PING: Duration = Duration::from_secs(10);
    let gateway = &worker.gateway;
    if let Err(error) = guard::operator(gateway, request.headers()) {
        return respond::error(&error, None);
    }
    let stream = futures_util::stream::unfold(gateway.events.watch(), |mut watch| async move {
        use tokio::sync::broadcast::error::RecvError;
        let text = match tokio::time::timeout(PING, watch.recv()).await {
            Err(_) => ": ping\n\n".to_owned(),
            Ok(Ok(event)) => {
                let at = clock::wall().to_rfc3339();
                format!("data: {}\n\n", serde_json::json!({ "at": at, "what": event }))
            }
            Ok(Err(RecvError::Lagged(lost))) => format!(": {lost} events were lost, the watcher is too slow\n\n"),
            Ok(Err(RecvError::Closed)) => return None,
        };
        Some((Ok::<_, std::convert::Infallible>(web::Bytes::from(text)), watch))
    });
    HttpResponse::Ok().content_type("text/event-stream").insert_header(("cache-control", "no-cache")).streaming(stream)
}

async fn stall_store(request: HttpRequest, worker: OfWorker) -> HttpResponse {
    answered(&worker, &request, 202, async |g| g.stall_store().map(|()| serde_json::json!({ "sent": true }))).await
}

async fn panic_actor(request: HttpRequest, name: web::Path<String>, worker: OfWorker) -> HttpResponse {
    answered(&worker, &request, 202, async |g| g.panic_actor(&name).map(|()| serde_json::json!({ "sent": true }))).await
}
