//! The yardstick: the least that a proxy of actix-web and reqwest can do. It replaces the key, hands the body on unparsed
//! and gives the answer back unread; no limits, no ledger, no failover.

use crate::fault::Fault;
use actix_web::http::{StatusCode, header};
use actix_web::web::{self, Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use breakwater::cli;
use std::sync::Arc;

/// One per worker thread, as is its client: a connection's task then lives on the thread that uses it.
struct Upstream {
    client: reqwest::Client,
    url: reqwest::Url,
    authorization: Arc<str>,
}

/// Serves on a port of its own choice, which it prints, until its stdin is closed.
pub fn run(upstream: &str, workers: usize) -> Result<(), Fault> {
    // The client is built for TLS too and panics without a provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url: reqwest::Url = upstream.parse().map_err(|e| Fault::Peer(format!("upstream's address: {e}")))?;
    actix_web::rt::System::new().block_on(async move {
        let server = HttpServer::new(move || {
            // A client that cannot be built ends this worker; nothing useful could be measured without it.
            let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build();
            let upstream = client.ok().map(|client| {
                Data::new(Upstream { client, url: url.clone(), authorization: "Bearer sk-upstream".into() })
            });
            App::new().configure(|app| {
                if let Some(upstream) = upstream {
                    app.app_data(upstream).default_service(web::to(forward));
                }
            })
        })
        .workers(workers)
        .tcp_nodelay(true) // without it, streams stall 40 ms at the delayed acknowledgement
        .disable_signals()
        .bind("127.0.0.1:0")
        .map_err(Fault::io("cannot bind the pass-through"))?;
        let port = server.addrs().first().map_or(0, std::net::SocketAddr::port);
        cli::out(&format!("{port}\n"));
        let server = server.run();
        let handle = server.handle();
        actix_web::rt::spawn(async move {
            let _ = crate::parent_gone().await;
            handle.stop(false).await;
        });
        server.await.map_err(Fault::io("the pass-through failed"))
    })
}

async fn forward(request: HttpRequest, body: Bytes, upstream: Data<Upstream>) -> HttpResponse {
    let mut out =
        upstream.client.post(upstream.url.clone()).header("authorization", &*upstream.authorization).body(body);
    for name in [header::CONTENT_TYPE, header::ACCEPT, header::USER_AGENT] {
        if let Some(value) = request.headers().get(&name) {
            out = out.header(name.as_str(), value.as_bytes());
        }
    }
    let Ok(answer) = out.send().await else { return HttpResponse::BadGateway().finish() };
    let status = StatusCode::from_u16(answer.status().as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut back = HttpResponse::build(status);
    if let Some(value) = answer.headers().get("content-type") {
        back.insert_header((header::CONTENT_TYPE, value.as_bytes()));
    }
    if answer.content_length().is_none() {
        return back.streaming(answer.bytes_stream());
    }
    match answer.bytes().await {
        Ok(whole) => back.body(whole),
        Err(_) => HttpResponse::BadGateway().finish(),
    }
}
