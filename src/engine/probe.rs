//! Signs of life besides real traffic: each provider's key is checked against its list of models at start, and while it is refused;
//! endpoints with a `probe` are asked at its interval. One task on the control arbiter; it never holds anybody up.

use crate::actors::board::EndpointCell;
use crate::actors::messages::Probed;
use crate::clock;
use crate::config::model::EndpointConfig;
use crate::dialects::upstream::{Target, Upstream};
use crate::domain::outcome::Outcome;
use crate::domain::settings::ProbeSettings;
use crate::domain::time::Ts;
use crate::engine::gateway::Gateway;
use futures_util::StreamExt;
use futures_util::stream;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const TICK: Duration = Duration::from_secs(1);
/// How often a refused key is tried again.
const KEY_CHECK: Duration = Duration::from_secs(5);
const PROBE_TIME: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 16;

/// What to ask.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// Only whether the key is taken; an outage says nothing here.
    Key,
    Health,
}

/// Probes for ever; dropped with its task.
pub async fn run(gateway: Arc<Gateway>) {
    let upstream = Upstream::default();
    let mut due: HashMap<u32, Ts> = HashMap::new();
    loop {
        let now = clock::now();
        let cells = gateway.board.topology().cells.clone();
        due.retain(|id, _| cells.iter().any(|c| c.id == *id));
        let mut asks = Vec::new();
        for cell in cells {
            let first = !due.contains_key(&cell.id);
            if due.get(&cell.id).is_some_and(|at| now < *at) {
                continue;
            }
            let config = cell.config();
            let key_refused = cell.status.lock().auth_failed.is_some();
            let (ask, every) = match &config.probe {
                // The first look at a new endpoint, and every look at one whose key is refused, is at its key.
                _ if first || key_refused => (Some(Ask::Key), TICK.max(if key_refused { KEY_CHECK } else { TICK })),
                ProbeSettings::Off => (None, KEY_CHECK),
                ProbeSettings::Path { interval, .. } | ProbeSettings::Models { interval } => {
                    (Some(Ask::Health), *interval)
                }
            };
            due.insert(cell.id, now.plus(every));
            if let Some(ask) = ask {
                asks.push((cell, config, ask));
            }
        }
        let upstream = &upstream;
        stream::iter(asks)
            .for_each_concurrent(AT_ONCE, |(cell, config, ask)| async move {
                let found = tokio::time::timeout(PROBE_TIME, probe(upstream, &config, ask)).await;
                tell(&cell, ask, found.unwrap_or(Some(Probed::Failed)));
            })
            .await;
        tokio::time::sleep(TICK).await;
    }
}

/// Reports what was found, unless it says nothing.
fn tell(cell: &EndpointCell, ask: Ask, found: Option<Probed>) {
    let says_something = match (ask, found) {
        (Ask::Key, Some(Probed::KeyRefused)) => true,
        (Ask::Key, Some(Probed::Healthy)) => cell.status.lock().auth_failed.is_some(),
        (Ask::Health, Some(_)) => true,
        _ => false,
    };
    if let (true, Some(found), Some(actor)) = (says_something, found, cell.actor()) {
        actor.do_send(found);
    }
}

/// `None`: nothing can be said, as the provider has no such address.
async fn probe(upstream: &Upstream, config: &EndpointConfig, ask: Ask) -> Option<Probed> {
    let key = config.provider.keys.first().map(|k| k.key.expose());
    let target = Target::new(&config.provider.base_url, key, config.timeouts.connect).ok()?;
    let url = match (&config.probe, ask) {
        (ProbeSettings::Path { path, .. }, Ask::Health) => target.at_origin(path).ok()?,
        _ => target.models_url().clone(),
    };
    match upstream.get(&target, url).await {
        Ok(response) => match response.status().as_u16() {
            200..300 => Some(Probed::Healthy),
            401..=403 => Some(Probed::KeyRefused),
            404 | 405 if ask == Ask::Key => None,
            _ => Some(Probed::Failed),
        },
        Err(e) if e.outcome == Outcome::Cancelled => None,
        Err(_) => Some(Probed::Failed),
    }
}
