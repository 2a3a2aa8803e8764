//! The live page at `/`: one file without outside parts, served as it is.
//!
//! It holds no data: its script asks for the admin token, then reads the operations API with it. The headers make the browser
//! refuse whatever the file does not bring itself, keep the page out of frames and its address out of other sites' logs.
//! Asking for the token and drawing figures is the page's own business, in `dashboard.html`.

use actix_web::HttpResponse;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};

const PAGE: &str = include_str!("dashboard.html");
/// Style and script are inline, data comes from this gateway, the icon is a `data:` address; nothing else is loaded or framed.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The dashboard.
pub async fn page() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((X_FRAME_OPTIONS, "DENY"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .body(PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::body::to_bytes;
    use actix_web::http::StatusCode;

    #[tokio::test]
    async fn the_page_comes_whole_and_with_the_headers_that_confine_it() {
        let response = page().await;
        assert_eq!(response.status(), StatusCode::OK);
        let header = |name: &str| response.headers().get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), "text/html; charset=utf-8");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("cache-control"), "no-cache");
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; ") && policy.contains("connect-src 'self'"), "{policy}");
        let body = to_bytes(response.into_body()).await.unwrap();
        assert!(body.starts_with(b"<!doctype html>") && body.ends_with(b"</html>\n"));
    }

    #[test]
    fn the_page_brings_everything_itself() {
        for loads in ["src=", "@import", "url(", "import(", "<iframe", "<object", "<embed", "href=\"http", "href=\"/"] {
            assert!(!PAGE.contains(loads), "the page must not load anything: {loads}");
        }
        let addresses: std::collections::BTreeSet<&str> = PAGE
            .match_indices("http")
            .filter_map(|(at, _)| PAGE[at..].split(['"', '\'', ' ', '<']).next())
            .filter(|word| word.contains("://"))
            .collect();
        assert_eq!(addresses.into_iter().collect::<Vec<_>>(), ["http://www.w3.org/2000/svg"], "a name, never fetched");
    }

    #[test]
    fn the_page_never_takes_text_for_markup() {
        for sink in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage", "cookie"]
        {
            assert!(!PAGE.contains(sink), "{sink}");
        }
    }
}
