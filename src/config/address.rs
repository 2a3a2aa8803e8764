//! Which addresses a provider may have, and which the gateway may listen on.
//!
//! A provider's `base_url` is http or https with a host; no user info, query or fragment. Loopback, private, link-local (where
//! clouds keep their metadata) and other special addresses need `allow_private: true`, in whatever spelling: the address is
//! judged as the HTTP client itself parses it. A public name that resolves to a private address is refused when it is resolved. Messages never repeat an address, which may hold a password.

use crate::config::model::AuthMode;
use crate::domain::address::is_private;
use reqwest::Url;
use std::net::{IpAddr, SocketAddr};

/// A provider's address that may be used.
#[derive(Debug, PartialEq, Eq)]
pub struct BaseUrl {
    /// Without a slash at the end.
    pub url: String,
    /// Plain http to somewhere else than this machine or network.
    pub in_clear: bool,
}

/// Reads a provider's address.
///
/// # Errors
/// What is wrong with it, what is allowed.
pub fn base_url(text: &str, allow_private: bool) -> Result<BaseUrl, String> {
    const EXPECTED: &str = "expected http:// or https:// with a host, such as https://api.openai.com/v1";
    let url = Url::parse(text.trim()).map_err(|e| format!("is no address ({e}); {EXPECTED}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!(
            "the scheme `{}` is not allowed; {EXPECTED}",
            url.scheme().chars().take(16).collect::<String>()
        ));
    }
    let host = url.host_str().filter(|h| !h.is_empty()).ok_or_else(|| format!("has no host; {EXPECTED}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("user and password in the address are not allowed; expected api_key instead".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a query or fragment (? or #) is not allowed; expected the address up to the path".into());
    }
    let private = is_private_host(host.trim_start_matches('[').trim_end_matches(']'));
    if private && !allow_private {
        return Err("points to this machine, a private network or a special address; \
                    expected a public host, or `allow_private: true` beside it"
            .into());
    }
    let in_clear = url.scheme() == "http" && !private;
    Ok(BaseUrl { url: url.as_str().trim_end_matches('/').to_owned(), in_clear })
}

/// The host of an address, in lower case and without its port; empty if there is none.
#[must_use]
pub fn host(base_url: &str) -> String {
    Url::parse(base_url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
}

fn is_private_host(host: &str) -> bool {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return is_private(ip);
    }
    let name = host.trim_end_matches('.');
    let local = ["localhost", "local", "internal", "localdomain", "home.arpa"];
    local.iter().any(|l| name.strip_suffix(l).is_some_and(|before| before.is_empty() || before.ends_with('.')))
}

/// Whether a gateway with this kind of authentication may listen on `addr`.
///
/// # Errors
/// Why not.
pub fn may_listen(auth: AuthMode, addr: SocketAddr) -> Result<(), String> {
    if auth == AuthMode::Open && !addr.ip().to_canonical().is_loopback() {
        return Err(format!(
            "`open` is not allowed while the gateway listens on {addr}, which others can reach; \
             expected `required`, or a loopback address such as 127.0.0.1:8080 in `listen`"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_seen_in_every_spelling() {
        let private = [
            "http://127.0.0.1:11434/v1",
            "http://localhost/v1",
            "http://LOCALHOST./",
            "http://api.localhost",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://017700000001/",
            "http://0.0.0.0:80",
            "http://10.1.2.3",
            "http://172.31.0.1",
            "http://192.168.1.1",
            "http://169.254.169.254/latest",
            "http://metadata.google.internal",
            "http://100.64.0.1",
            "http://[::1]/",
            "http://[::]/",
            "http://[::ffff:10.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[fd00::1]/",
            "http://[fe80::1]/",
            "http://255.255.255.255/",
        ];
        for url in private {
            assert!(base_url(url, false).unwrap_err().contains("allow_private"), "{url}");
            assert!(base_url(url, true).is_ok(), "{url}");
        }
        for url in
            ["https://api.openai.com/v1", "https://8.8.8.8", "https://[2606:4700::1]/", "https://notlocalhost.com"]
        {
            assert!(base_url(url, false).is_ok(), "{url}");
        }
    }

    #[test]
    fn only_plain_web_addresses_pass() {
        for url in
            ["file:///etc/passwd", "ftp://a.com", "a.com/v1", "", "https://", "http:///", "https://u:p-marker@a.com"]
        {
            let message = base_url(url, true).unwrap_err();
            assert!(!message.contains("p-marker"), "{message}");
        }
        assert!(base_url("https://a.com?k=p-marker", true).is_err_and(|m| !m.contains("p-marker")));
        let read = base_url("http://API.a.com:8080/v1//", false).unwrap();
        assert_eq!(read, BaseUrl { url: "http://api.a.com:8080/v1".into(), in_clear: true });
        assert_eq!(host(&read.url), "api.a.com");
    }

    #[test]
    fn an_open_gateway_stays_on_this_machine() {
        for local in ["127.0.0.1:1", "[::1]:1", "127.9.9.9:1", "[::ffff:127.0.0.1]:1"] {
            assert!(may_listen(AuthMode::Open, local.parse().unwrap()).is_ok(), "{local}");
        }
        for wide in ["0.0.0.0:1", "[::]:1", "192.168.0.1:1"] {
            assert!(may_listen(AuthMode::Open, wide.parse().unwrap()).is_err(), "{wide}");
            assert!(may_listen(AuthMode::Required, wide.parse().unwrap()).is_ok(), "{wide}");
        }
    }
}
