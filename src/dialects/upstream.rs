//! The HTTP client towards vendors. One per worker thread, so that a connection's task lives on the thread that uses it.
//!
//! Redirects and the client's own retries are off: the gateway is the only retry loop, and a redirect could lead a key anywhere.

use crate::dialects::openai;
use crate::domain::address::is_private;
use crate::domain::outcome::Outcome;
use bytes::{Bytes, BytesMut};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Response, Url};
use std::cell::RefCell;
use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

/// A whole answer over this many bytes is a fault.
pub const MAX_ANSWER: usize = 16 << 20;
/// Of an answer with an error status, only this much is read.
const MAX_ERROR_BODY: usize = 256 << 10;
/// More distinct clients than this are made anew for each call.
const MAX_CLIENTS: usize = 64;

/// Where an endpoint's calls go, prepared once.
#[derive(Clone, Debug)]
pub struct Target {
    chat: Url,
    models: Url,
    authorization: Option<HeaderValue>,
    client: ClientKind,
}

/// What clients differ by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ClientKind {
    connect: Duration,
    /// Whether names may resolve to loopback, private and other special addresses.
    allow_private: bool,
}

impl Target {
    /// Prepares the addresses below `base_url` and the header for `key`.
    ///
    /// # Errors
    /// What is wrong with the address or the key; never the key itself.
    pub fn new(base_url: &str, key: Option<&str>, connect: Duration, allow_private: bool) -> Result<Self, String> {
        let url = |path: &str| {
            Url::parse(&format!("{base_url}{path}")).map_err(|e| format!("base_url `{base_url}` is no address: {e}"))
        };
        let header = |key: &str| {
            let mut value = HeaderValue::try_from(format!("Bearer {key}"))
                .map_err(|_| "the API key has characters that no header may carry".to_owned())?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        };
        Ok(Self {
            chat: url(openai::CHAT_PATH)?,
            models: url(openai::MODELS_PATH)?,
            authorization: key.map(header).transpose()?,
            client: ClientKind { connect, allow_private },
        })
    }

    /// The address of `path` on the provider's host, for health probes.
    ///
    /// # Errors
    /// What is wrong with the path.
    pub fn at_origin(&self, path: &str) -> Result<Url, String> {
        self.chat.join(path).map_err(|e| format!("probe path `{path}`: {e}"))
    }

    #[must_use]
    pub fn models_url(&self) -> &Url {
        &self.models
    }
}

/// A call that brought no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    pub outcome: Outcome,
    /// For the operator; holds no address with credentials.
    pub message: String,
}

/// What carries a request to its vendor in place of HTTP over sockets: answers can come from memory. Dropping the future, or the
/// answer's body, is hanging up.
pub trait Transport {
    /// `body` is `None` for a GET. Resolves when the answer's head is there.
    fn send(&self, url: &Url, body: Option<Bytes>) -> Pin<Box<dyn Future<Output = Result<Response, CallError>>>>;
}

/// The clients of one worker.
#[derive(Default)]
pub struct Upstream {
    clients: RefCell<HashMap<ClientKind, Client>>,
    instead: Option<Rc<dyn Transport>>,
}

impl Upstream {
    /// Everything goes by `transport`; no socket is opened.
    #[must_use]
    pub fn by(transport: Rc<dyn Transport>) -> Self {
        Self { instead: Some(transport), ..Self::default() }
    }

    /// Posts a chat completion and returns as soon as the answer's head is there. Deadlines are the caller's.
    ///
    /// # Errors
    /// Why no head came.
    pub async fn post_chat(&self, target: &Target, body: Bytes) -> Result<Response, CallError> {
        if let Some(transport) = &self.instead {
            return transport.send(&target.chat, Some(body)).await;
        }
        let request = self.client(target.client)?.post(target.chat.clone());
        let request = match &target.authorization {
            Some(value) => request.header(AUTHORIZATION, value.clone()),
            None => request,
        };
        let json = HeaderValue::from_static("application/json");
        request.header(CONTENT_TYPE, json).body(body).send().await.map_err(|e| classed(&e))
    }

    /// Gets `url` with the endpoint's key and returns the answer's head.
    ///
    /// # Errors
    /// Why no head came.
    pub async fn get(&self, target: &Target, url: Url) -> Result<Response, CallError> {
        if let Some(transport) = &self.instead {
            return transport.send(&url, None).await;
        }
        let request = self.client(target.client)?.get(url).header(ACCEPT, "application/json");
        let request = match &target.authorization {
            Some(value) => request.header(AUTHORIZATION, value.clone()),
            None => request,
        };
        request.send().await.map_err(|e| classed(&e))
    }

    fn client(&self, kind: ClientKind) -> Result<Client, CallError> {
        let mut clients = self.clients.borrow_mut();
        if let Some(client) = clients.get(&kind) {
            return Ok(client.clone());
        }
        let mut builder = Client::builder();
        if !kind.allow_private {
            builder = builder.dns_resolver(PublicOnly);
        }
        let client = builder
            .connect_timeout(kind.connect)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .tcp_nodelay(true)
            .pool_idle_timeout(Duration::from_secs(55))
            .pool_max_idle_per_host(512)
            .http1_max_headers(128)
            .user_agent(concat!("breakwater/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .build()
            .map_err(|e| CallError { outcome: Outcome::ConnectFailed, message: format!("HTTP client: {e}") })?;
        if clients.len() < MAX_CLIENTS {
            clients.insert(kind, client.clone());
        }
        Ok(client)
    }
}

/// The system's resolver without the addresses that no public name should have.
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|addr| !is_private(addr.ip())).collect();
            if public.is_empty() {
                return Err("the name resolves to no public address; allow_private would let it".into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Reads a whole answer of at most [`MAX_ANSWER`] bytes.
///
/// # Errors
/// [`Outcome::Protocol`] when it is larger or breaks off.
pub async fn read_answer(mut response: Response) -> Result<Bytes, CallError> {
    let too_large =
        || CallError { outcome: Outcome::Protocol, message: format!("the answer is over {} MiB", MAX_ANSWER >> 20) };
    if response.content_length().is_some_and(|n| n > MAX_ANSWER as u64) {
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut all: Option<BytesMut> = None;
    while let Some(chunk) = next_chunk(&mut response).await? {
        match &mut all {
            None if first.is_empty() => first = chunk,
            None => {
                let mut joined = BytesMut::with_capacity((first.len() + chunk.len()) * 2);
                joined.extend_from_slice(&first);
                joined.extend_from_slice(&chunk);
                all = Some(joined);
            }
            Some(joined) => joined.extend_from_slice(&chunk),
        }
        if all.as_ref().map_or(first.len(), BytesMut::len) > MAX_ANSWER {
            return Err(too_large());
        }
    }
    Ok(all.map_or(first, BytesMut::freeze))
}

/// Reads what there is of an answer with an error status: the beginning, as far as it comes.
pub async fn read_error(mut response: Response) -> Bytes {
    let mut body = BytesMut::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ERROR_BODY {
            body.truncate(MAX_ERROR_BODY);
            break;
        }
    }
    body.freeze()
}

/// The next bytes of a body; `None` at its proper end.
///
/// # Errors
/// [`Outcome::Protocol`] when the body breaks off.
pub async fn next_chunk(response: &mut Response) -> Result<Option<Bytes>, CallError> {
    response
        .chunk()
        .await
        .map_err(|e| CallError { outcome: Outcome::Protocol, message: format!("the answer broke off: {}", root(&e)) })
}

fn classed(error: &reqwest::Error) -> CallError {
    let outcome = if error.is_connect() && error.is_timeout() {
        Outcome::ConnectTimeout
    } else if error.is_timeout() {
        Outcome::FirstByteTimeout
    } else if is_malformed(error) {
        Outcome::Protocol
    } else {
        Outcome::ConnectFailed
    };
    CallError { outcome, message: root(error) }
}

/// Whether the upstream answered with something that is not HTTP.
fn is_malformed(error: &reqwest::Error) -> bool {
    let mut cause: Option<&dyn Error> = error.source();
    while let Some(e) = cause {
        if e.downcast_ref::<io::Error>().is_some() {
            return false;
        }
        let text = e.to_string();
        if text.contains("invalid HTTP") || text.contains("message head is too large") {
            return true;
        }
        cause = e.source();
    }
    false
}

/// The innermost cause: the outer ones repeat the address.
fn root(error: &reqwest::Error) -> String {
    let mut text = String::from("no connection");
    let mut cause: Option<&dyn Error> = error.source();
    while let Some(e) = cause {
        text = e.to_string();
        cause = e.source();
    }
    text
}
