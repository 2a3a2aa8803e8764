//! The HTTP surface: the API for applications, the API for operators, health, metrics and the dashboard. It knows the engine and
//! nothing below it.

mod admin;
mod applications;
mod body;
mod chaos;
mod dashboard;
mod guard;
mod health;
mod metrics;
mod reports;
mod respond;

use crate::engine::error::{ApiError, Code};
use actix_web::HttpResponse;
use actix_web::web::{self, ServiceConfig};

/// Everything that a listener may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// One listener for all.
    All,
    /// Applications, health and metrics; operators have a listener of their own.
    Applications,
    /// Operators, dashboard, health and metrics.
    Operators,
}

/// Registers the addresses of a surface.
pub fn routes(surface: Surface) -> impl FnOnce(&mut ServiceConfig) {
    move |config| {
        // First what is asked for most: addresses are compared in this order.
        if surface != Surface::Operators {
            applications::routes(config);
        }
        config
            .service(at("/health/live").route(web::get().to(health::live)))
            .service(at("/health/ready").route(web::get().to(health::ready)))
            .service(at("/metrics").route(web::get().to(health::metrics)))
            .service(at("/openapi.json").route(web::get().to(health::openapi)));
        if surface != Surface::Applications {
            config.service(at("/").route(web::get().to(dashboard::page)));
            admin::routes(config);
        }
        config.default_service(web::to(nowhere));
    }
}

/// An address; a method that it does not have is answered in the same envelope as everything else.
fn at(path: &str) -> actix_web::Resource {
    web::resource(path).default_service(web::to(wrong_method))
}

async fn wrong_method(request: actix_web::HttpRequest) -> HttpResponse {
    let message = format!("{} does not take {}", request.path(), request.method());
    respond::error(&ApiError::new(Code::MethodNotAllowed, message), None)
}

async fn nowhere(request: actix_web::HttpRequest) -> HttpResponse {
    let message = format!("nothing is served at {} {}", request.method(), request.path());
    respond::error(&ApiError::new(Code::NotFound, message), None)
}
