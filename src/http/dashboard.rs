use actix_web::HttpResponse;
pub async fn page() -> HttpResponse {
    HttpResponse::Ok().finish()
}
