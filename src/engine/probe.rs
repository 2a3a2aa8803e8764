//! Signs of life besides real traffic: each provider's key is checked against its list of models at start, and while it is refused;
//! endpoints with a `probe` are asked at its interval. One task on the control arbiter; it never holds anybody up.

use crate::actors::board::EndpointCell;
use crate::actors::messages::Probed;
use crate::clock;
use crate::config::model::EndpointConfig;
use crate::dialects::upstream::{Target, Upstream};
use crate::domain::settings::ProbeSettings;
use crate::domain::time::Ts;
use crate::engine::gateway::Gateway;
use futures_util::StreamExt;
use futures_util::stream;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

const TICK: Duration = Duration::from_secs(1);
/// How often a refused key is tried again.
const KEY_CHECK: Duration = Duration::from_secs(5);
const PROBE_TIME: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 16;

/// Something to ask a provider, and the endpoints that the answer speaks of.
struct Errand {
    config: Arc<EndpointConfig>,
    /// Only whether the key is taken: an outage says nothing here.
    key_only: bool,
    cells: Vec<Arc<EndpointCell>>,
}

/// When what is asked next. Both maps hold only what exists.
#[derive(Default)]
struct Schedule {
    /// By provider; a provider that has been asked and takes its key is not asked again.
    keys: HashMap<Arc<str>, Ts>,
    /// By endpoint.
    probes: HashMap<u32, Ts>,
}

/// Probes for ever; dropped with its task.
pub async fn run(gateway: Arc<Gateway>, upstream: Upstream) {
    let upstream = &upstream;
    let mut schedule = Schedule::default();
    loop {
        let errands = schedule.due(&gateway.board.topology().cells, clock::now());
        let all = stream::iter(errands).for_each_concurrent(AT_ONCE, |errand| run_errand(upstream, errand));
        all.await;
        tokio::time::sleep(TICK).await;
    }
}

impl Schedule {
    /// What is to be asked now.
    fn due(&mut self, cells: &[Arc<EndpointCell>], now: Ts) -> Vec<Errand> {
        let mut providers: BTreeMap<Arc<str>, Vec<Arc<EndpointCell>>> = BTreeMap::new();
        for cell in cells {
            let config = cell.config();
            if !config.provider.keys.is_empty() {
                providers.entry(Arc::clone(&config.provider.name)).or_default().push(Arc::clone(cell));
            }
        }
        self.keys.retain(|name, _| providers.contains_key(name));
        self.probes.retain(|id, _| cells.iter().any(|c| c.id == *id));
        let mut errands = Vec::new();
        for (name, cells) in providers {
            let refused = cells.iter().any(|c| c.status.lock().auth_failed.is_some());
            let due = self.keys.get(&name).is_none_or(|last| refused && now >= last.plus(KEY_CHECK));
            if let (true, Some(first)) = (due, cells.first()) {
                self.keys.insert(name, now);
                errands.push(Errand { config: first.config(), key_only: true, cells });
            }
        }
        for cell in cells {
            let config = cell.config();
            let (ProbeSettings::Path { interval, .. } | ProbeSettings::Models { interval }) = &config.probe else {
                continue;
            };
            if self.probes.get(&cell.id).is_none_or(|last| now >= last.plus(*interval)) {
                self.probes.insert(cell.id, now);
                errands.push(Errand { config, key_only: false, cells: vec![Arc::clone(cell)] });
            }
        }
        errands
    }
}

async fn run_errand(upstream: &Upstream, errand: Errand) {
    let asked = tokio::time::timeout(PROBE_TIME, ask(upstream, &errand.config, errand.key_only)).await;
    let found = asked.unwrap_or(Probed::Failed);
    for cell in &errand.cells {
        let says_something = match found {
            _ if !errand.key_only => true,
            Probed::KeyRefused => true,
            Probed::Healthy => cell.status.lock().auth_failed.is_some(),
            Probed::Failed => false,
        };
        if let (true, Some(actor)) = (says_something, cell.actor()) {
            actor.do_send(found);
        }
    }
}

/// Asks with one key after the other until one is taken: the endpoint is out only when all are refused.
async fn ask(upstream: &Upstream, config: &EndpointConfig, key_only: bool) -> Probed {
    let mut found = Probed::Failed;
    let keys = config.provider.keys.iter().map(|k| Some(k.key.expose()));
    let keyless = config.provider.keys.is_empty().then_some(None);
    for key in keys.chain(keyless) {
        found = ask_with(upstream, config, key, key_only).await;
        if found != Probed::KeyRefused {
            break;
        }
    }
    found
}

async fn ask_with(upstream: &Upstream, config: &EndpointConfig, key: Option<&str>, key_only: bool) -> Probed {
    let EndpointConfig { provider, timeouts, probe, .. } = config;
    let Ok(target) = Target::new(&provider.base_url, key, timeouts.connect, provider.allow_private) else {
        return Probed::Failed;
    };
    let url = match probe {
        ProbeSettings::Path { path, .. } if !key_only => target.at_origin(path),
        _ => Ok(target.models_url().clone()),
    };
    let Ok(url) = url else { return Probed::Failed };
    match upstream.get(&target, url).await.map(|r| r.status().as_u16()) {
        Ok(200..300) => Probed::Healthy,
        Ok(401..=403) => Probed::KeyRefused,
        _ => Probed::Failed,
    }
}
