//! The path of one request: what it asks for, whether it is let in, which faults hit it, and how the answer leaves.
//!
//! Order: a reset on the head, the body, the bearer token, the rate limit, the request itself, the faults. So a fault is
//! rolled for every request that a healthy provider would have looked at, and an answer under a fault looks like one that
//! was meant well.

use super::active::{Asked, Hits, Manner, Port};
use super::answer::Call;
use super::conn::{Conn, Gone, Head, Unread};
use super::dice::millis;
use super::endings::{After, What, spoil, spoilt, whole};
use super::fault::On;
use super::limit::Standing;
use super::profile::Profile;
use super::reply::Reply;
use super::state::{Opened, Shared, Ticket};
use super::{control, openai, stream};
use crate::clock;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// What a path asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    Chat,
    Embeddings,
    Models(Option<String>),
    Health,
    Unknown,
    WrongMethod,
}

impl Route {
    fn of(method: &str, path: &str) -> Self {
        let path = path.strip_prefix("/v1").unwrap_or(path);
        let (route, methods): (_, &[&str]) = match path {
            "/chat/completions" => (Self::Chat, &["POST"]),
            "/embeddings" => (Self::Embeddings, &["POST"]),
            "/models" => (Self::Models(None), &["GET", "HEAD"]),
            "/health" => (Self::Health, &["GET", "HEAD"]),
            _ => match path.strip_prefix("/models/") {
                Some(id) => (Self::Models(Some(id.to_owned())), &["GET", "HEAD"]),
                None => return Self::Unknown,
            },
        };
        if methods.contains(&method) { route } else { Self::WrongMethod }
    }

    fn label(&self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Models(_) => "/v1/models",
            Self::Health => "/health",
            Self::Unknown | Self::WrongMethod => "other",
        }
    }

    fn on(&self) -> On {
        match self {
            Self::Chat | Self::Embeddings => On::Generation,
            Self::Health => On::Health,
            _ => On::Models,
        }
    }
}

/// What is going to happen to one request.
struct Act {
    what: What,
    /// Before the first byte.
    delay: Duration,
    manner: Manner,
    outcome: &'static str,
    /// The outcome is an injected ending: a hang-up doesn't change it.
    injected: bool,
}

impl Act {
    /// An answer that the provider gives before it looks at the request.
    fn refusal(reply: Reply, outcome: &'static str) -> Self {
        Self { what: What::Reply(reply), delay: Duration::ZERO, manner: Manner::default(), outcome, injected: false }
    }
}

/// Serves one connection to its end.
pub(super) async fn connection(socket: TcpStream, shared: Arc<Shared>, control_only: bool) {
    let mut opened = shared.accepted();
    if control_only {
        opened.uncount();
    }
    let mut port = shared.port.subscribe();
    let mut conn = Conn::new(socket, shared.clone());
    loop {
        let after = match conn.head((!control_only).then_some(&mut port)).await {
            Ok(Some(head)) => exchange(&mut conn, &shared, &mut opened, &head, control_only).await,
            Ok(None) | Err(Unread::Gone) => return,
            Err(Unread::Refused(status)) => {
                let _ = whole(&mut conn, &openai::error_for(status), None).await;
                return;
            }
        };
        match after {
            After::Keep if control_only || *port.borrow() == Port::Open => {}
            After::Keep | After::Close => return,
            After::Reset => return conn.reset(),
        }
    }
}

async fn exchange(
    conn: &mut Conn,
    shared: &Arc<Shared>,
    opened: &mut Opened,
    head: &Head,
    control_only: bool,
) -> After {
    conn.one_byte = None;
    let control = head.path.strip_prefix("/__sim/");
    conn.counted = control.is_none();
    if let Some(what) = control {
        opened.uncount();
        let reply = match conn.body(head).await {
            Ok(body) => control::answer(shared, &head.method, what, &body).await,
            Err(Unread::Refused(status)) => openai::error_for(status),
            Err(Unread::Gone) => return After::Close,
        };
        return whole(conn, &reply, Some(head)).await.unwrap_or(After::Close);
    }
    if control_only {
        let text = "this port takes only /__sim/";
        let reply = openai::error(404, "invalid_request_error", None, text);
        return whole(conn, &reply, None).await.unwrap_or(After::Close);
    }
    let route = Route::of(&head.method, &head.path);
    let profile = shared.profile();
    let mut ticket = shared.begin(route.label());
    if let Some(kind) = shared.fault_on_head(&profile, route.on(), ticket.n) {
        ticket.outcome = kind.name();
        return After::Reset;
    }
    let body = match conn.body(head).await {
        Ok(body) => body,
        Err(Unread::Gone) => {
            ticket.aborted(false);
            return After::Close;
        }
        Err(Unread::Refused(status)) => {
            ticket.outcome = "client_error";
            let _ = whole(conn, &openai::error_for(status), None).await;
            return After::Close;
        }
    };
    shared.keep(&profile, ticket.n, &head.raw, &body);
    let act = decide(shared, &profile, &route, head, &body, ticket.n);
    ticket.outcome = act.outcome;
    let injected = act.injected;
    match perform(conn, act, &profile, head, &mut ticket).await {
        Ok(after) => after,
        Err(Gone) => {
            ticket.aborted(injected);
            After::Close
        }
    }
}

/// Decides what happens to a request. Synchronous: locks are taken and given back here.
fn decide(shared: &Shared, profile: &Profile, route: &Route, head: &Head, body: &Bytes, n: u64) -> Act {
    let wants_key = !profile.api_keys.is_empty() && *route != Route::Health;
    if wants_key && !head.bearer.as_ref().is_some_and(|key| profile.api_keys.contains(key)) {
        return Act::refusal(openai::error_for(401), "unauthorized");
    }
    let generation = route.on() == On::Generation;
    let standing = if generation { shared.rate() } else { None };
    if let Some(wait) = standing.and_then(|standing| standing.refused_for) {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let reply = openai::error_for(429)
            .with("retry-after", seconds.to_string())
            .with("retry-after-ms", wait.as_micros().div_ceil(1000).to_string());
        return Act::refusal(rate_headers(profile, standing, reply), "rate_limited");
    }
    let call = (*route == Route::Chat).then(|| openai::chat(profile, body));
    let (stream, model) = match &call {
        Some(Ok(call)) => (call.stream, Some(call.model.as_str())),
        _ => (false, None),
    };
    let hits = shared.faults_on_request(profile, Asked { on: route.on(), stream, model }, n);
    let injected_latency = hits.manner.latency.as_ref().map(|latency| latency.sample(profile.seed, n));
    let first_token = injected_latency.unwrap_or_else(|| profile.latency.sample(profile.seed, n));
    let (what, natural) = match call {
        Some(Ok(call)) => generated(call, &hits.manner, profile, n, first_token),
        Some(Err(reply)) => (What::Reply(reply), injected_latency.unwrap_or_default()),
        None => match other(route, profile, body, &hits.manner) {
            reply if *route == Route::Embeddings && reply.status == 200 => (What::Reply(reply), first_token),
            reply => (What::Reply(reply), injected_latency.unwrap_or_default()),
        },
    };
    let what = match what {
        What::Reply(reply) => What::Reply(rate_headers(profile, standing, reply)),
        What::Stream(call, headers, ending) if standing.is_some() => {
            let headers = rate_headers(profile, standing, Reply { headers, ..Reply::json(200, "") }).headers;
            What::Stream(call, headers, ending)
        }
        other => other,
    };
    let Hits { manner, ending, .. } = hits;
    let Some(kind) = ending else {
        let client_error = matches!(&what, What::Reply(reply) if reply.status >= 400);
        let outcome = if client_error { "client_error" } else { "ok" };
        return Act { what, delay: natural + manner.slow, manner, outcome, injected: false };
    };
    let outcome = kind.name();
    let what = spoil(what, kind);
    // What takes the answer's place costs no model's time.
    let takes_time = matches!(what, What::Stream(..) | What::Spoilt(..));
    let delay = if takes_time { natural } else { injected_latency.unwrap_or_default() } + manner.slow;
    Act { what, delay, manner, outcome, injected: true }
}

/// A chat completion, whole or as a stream, and the time to its first byte.
fn generated(mut call: Call, manner: &Manner, profile: &Profile, n: u64, first_token: Duration) -> (What, Duration) {
    if manner.no_usage {
        call.usage = None;
    }
    if let Some(reason) = &manner.finish {
        call.finish = reason.clone().into();
    }
    if call.stream {
        return (What::Stream(call, Vec::new(), None), first_token);
    }
    let rest = rate(profile, manner).map_or(Duration::ZERO, |rate| pace(call.content.len().saturating_sub(1), rate));
    let reply = openai::completion(&call, n, clock::wall().0 / 1_000_000);
    (What::Reply(reply), first_token + rest)
}

/// Tokens per second of an answer; none: as fast as it goes.
pub(super) fn rate(profile: &Profile, manner: &Manner) -> Option<f64> {
    manner.tokens_per_second.or(profile.tokens_per_second)
}

/// How long `tokens` take.
#[allow(clippy::cast_precision_loss, reason = "a count of tokens")]
pub(super) fn pace(tokens: u64, rate: f64) -> Duration {
    millis(tokens as f64 / rate * 1000.0)
}

/// The answers to everything but chat completions.
fn other(route: &Route, profile: &Profile, body: &[u8], manner: &Manner) -> Reply {
    match route {
        Route::Embeddings => openai::embeddings(profile, body, !manner.no_usage).unwrap_or_else(|refusal| refusal),
        Route::Models(id) => openai::models(profile, id.as_deref()),
        Route::Health => Reply::json(200, r#"{"status":"ok"}"#),
        Route::WrongMethod => openai::error(405, "invalid_request_error", None, "wrong method for this path"),
        Route::Chat | Route::Unknown => openai::error(404, "invalid_request_error", None, "no such path"),
    }
}

fn rate_headers(profile: &Profile, standing: Option<Standing>, reply: Reply) -> Reply {
    match standing.filter(|_| profile.ratelimit_headers) {
        None => reply,
        Some(Standing { limit, remaining, reset, .. }) => reply
            .with("x-ratelimit-limit-requests", limit.to_string())
            .with("x-ratelimit-remaining-requests", remaining.to_string())
            .with("x-ratelimit-reset-requests", format!("{:.3}s", reset.as_secs_f64())),
    }
}

async fn perform(
    conn: &mut Conn,
    act: Act,
    profile: &Profile,
    head: &Head,
    ticket: &mut Ticket,
) -> Result<After, Gone> {
    let begin = clock::now().plus(act.delay);
    conn.one_byte = act.manner.one_byte;
    match act.what {
        What::Hang => Err(conn.wait_for_ever().await),
        What::Reset => {
            conn.wait_until(begin).await?;
            Ok(After::Reset)
        }
        What::Reply(reply) => {
            conn.wait_until(begin).await?;
            whole(conn, &reply, Some(head)).await
        }
        What::Spoilt(reply, kind) => {
            conn.wait_until(begin).await?;
            spoilt(conn, &reply, &kind, ticket.n).await
        }
        What::Stream(call, headers, ending) => {
            let rate = rate(profile, &act.manner);
            let stream = stream::Stream { call, headers, ending, begin, rate, mixed: act.manner.mixed_newlines };
            stream.run(conn, head, ticket).await
        }
    }
}
