//! The client that the gateway is held against: it picks a provider at random, and on failure picks again, after 1 s, 2 s and 4 s.
//! It keeps no memory of who failed, has a time limit of 60 s for a first byte and between pieces, and tells a whole answer from a
//! broken one as well as the gateway does.

use crate::world::answer::text;
use crate::world::client::{End, Reader, Request, Seen, Told, body};
use crate::world::provider::World;
use breakwater::dialects::upstream::Transport;
use breakwater::engine::error::Code;
use reqwest::{Response, Url};
use serde_json::Value;
use std::time::Duration;

const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn ask(world: &World, request: &Request) -> End {
    let mut end = once(world, request).await;
    for pause in PAUSES {
        // Words that are out cannot be taken back: a broken stream is not begun again.
        if end != End::Refused(Code::UpstreamFailed) {
            break;
        }
        tokio::time::sleep(pause).await;
        end = once(world, request).await;
    }
    end
}

async fn once(world: &World, request: &Request) -> End {
    let failed = End::Refused(Code::UpstreamFailed);
    let name = world.name(fastrand::usize(..world.len()));
    let url = Url::parse(&format!("http://{name}.example/v1/chat/completions")).expect("a url");
    let answer = tokio::time::timeout(PATIENCE, world.send(&url, Some(body(request)))).await;
    let Ok(Ok(response)) = answer else { return failed };
    if !response.status().is_success() {
        return failed;
    }
    if request.stream { stream(response, request).await } else { whole(response, request).await }
}

async fn whole(response: Response, request: &Request) -> End {
    let failed = End::Refused(Code::UpstreamFailed);
    let Ok(Ok(body)) = tokio::time::timeout(PATIENCE, response.bytes()).await else { return failed };
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    if answer["choices"][0]["message"]["content"] == text(0, request.tokens) { End::Complete } else { failed }
}

async fn stream(mut response: Response, request: &Request) -> End {
    let mut reader = Reader::default();
    while let Ok(Ok(Some(bytes))) = tokio::time::timeout(PATIENCE, response.chunk()).await {
        reader.take(&bytes);
    }
    let mut seen =
        Seen { end: End::Cut, took: Duration::ZERO, first: None, attempts: 0, lowered: false, why: String::new() };
    match reader.judge(&Told::of(request, None), &mut seen) {
        End::Complete => End::Complete,
        _ if reader.text.is_empty() => End::Refused(Code::UpstreamFailed),
        _ => End::Cut,
    }
}
