//! Asking a running gateway over its admin API.

use reqwest::{Client, Method, RequestBuilder, Response};
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(5);

/// Posts `body` and gives the answer's bytes.
///
/// # Errors
/// What went wrong, with the gateway's own words where it answered.
pub fn post(url: &str, path: &str, token: Option<&str>, body: String) -> Result<Vec<u8>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let answer = send(Method::POST, url, path, token, Some(body)).await?;
        answer.bytes().await.map(|b| b.to_vec()).map_err(|e| format!("{url}: {e}"))
    })
}

/// Sends one request; an error status is an error.
///
/// # Errors
/// What went wrong, with the gateway's own words where it answered.
pub async fn send(
    method: Method,
    url: &str,
    path: &str,
    token: Option<&str>,
    body: Option<String>,
) -> Result<Response, String> {
    let mut request = request(method, url, path, token)?;
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body);
    }
    let answer = answer(url, request).await?;
    let status = answer.status();
    if status.is_success() { Ok(answer) } else { Err(format!("{url} answered {status}: {}", error(answer).await.0)) }
}

/// A request that carries the admin token.
///
/// # Errors
/// There is none, or the address is no address.
pub fn request(method: Method, url: &str, path: &str, token: Option<&str>) -> Result<RequestBuilder, String> {
    let token = token.filter(|t| !t.is_empty()).ok_or("no admin token: set BREAKWATER_ADMIN_TOKEN or give --token")?;
    // A second installation is refused, which changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().connect_timeout(CONNECT).no_proxy().build().map_err(|e| e.to_string())?;
    Ok(client.request(method, format!("{}{path}", url.trim_end_matches('/'))).bearer_auth(token))
}

/// The answer to a request, whatever its status.
///
/// # Errors
/// Why there is none.
pub async fn answer(url: &str, request: RequestBuilder) -> Result<Response, String> {
    request.send().await.map_err(|e| format!("{url} cannot be reached: {e}"))
}

/// What an error answer says, and its `param`.
pub async fn error(answer: Response) -> (String, Option<String>) {
    let text = answer.text().await.unwrap_or_default();
    let said = serde_json::from_str::<serde_json::Value>(&text).unwrap_or_default();
    let member = |name: &str| said["error"][name].as_str().map(str::to_owned);
    (member("message").unwrap_or_else(|| "no reason given".into()), member("param"))
}
