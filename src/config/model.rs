//! The configuration after validation: what the rest of the program is handed. Every value in it is allowed and resolved:
//! variables and secret files are read, prices looked up, names checked against each other.

use crate::config::fault::Fault;
use crate::config::secret::Secret;
use crate::domain::budget::{Budget, Scope, Terms};
use crate::domain::chaos::Experiment;
use crate::domain::domains::DomainSettings;
use crate::domain::hedge::HedgeSettings;
use crate::domain::intelligent::IntelligentSettings;
use crate::domain::price::Price;
use crate::domain::settings::{
    BreakerSettings, LimitSettings, ProbeSettings, RetryBudgetSettings, RetrySettings, TimeoutSettings,
};
use crate::domain::slo::Slo;
use crate::domain::strategy::{RankSettings, StrategyKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A whole `config.yaml`. Lists keep the file's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub server: ServerConfig,
    pub store: StoreConfig,
    pub providers: Vec<Arc<ProviderConfig>>,
    /// What endpoints have where they say nothing else; those registered at run time as well.
    pub defaults: Arc<EndpointDefaults>,
    pub endpoints: Vec<Arc<EndpointConfig>>,
    pub routes: Vec<Arc<RouteConfig>>,
    pub budgets: BudgetConfig,
    pub retry_budget: RetryBudgetSettings,
    pub domains: DomainSettings,
    pub intelligent: Arc<IntelligentSettings>,
    pub ranking: RankSettings,
    pub chaos: ChaosConfig,
    /// Not wrong, but worth saying at every start: unpriced endpoints, names that hide others, keys in the file.
    pub warnings: Vec<Fault>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    pub listen: SocketAddr,
    /// `None`: `/admin` on the same listener.
    pub admin_listen: Option<SocketAddr>,
    pub auth: AuthMode,
    /// Largest request body, bytes.
    pub body_limit: usize,
    pub tls: Option<TlsFiles>,
    /// How long a graceful stop lets running requests finish.
    pub drain: Duration,
    /// HTTP worker threads; `None`: one per core.
    pub workers: Option<usize>,
    /// Requests in flight in the whole process.
    pub max_in_flight: u32,
    /// Requests that may wait for a place at an endpoint, of those in flight.
    pub max_waiting: usize,
    /// Deadline of a request that names none.
    pub deadline: Duration,
    /// Whether `/metrics` needs the admin token.
    pub metrics_auth: bool,
    /// A client that takes nothing of what was sent to it for so long is cut off; `None`: never.
    pub write_stall: Option<Duration>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin_listen: None,
            auth: AuthMode::Required,
            body_limit: 20 << 20,
            tls: None,
            drain: Duration::from_secs(30),
            workers: None,
            max_in_flight: 1000,
            max_waiting: 1000,
            deadline: Duration::from_secs(600),
            metrics_auth: false,
            write_stall: Some(Duration::from_secs(60)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    Required,
    Open,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConfig {
    pub path: PathBuf,
    pub durability: Durability,
    pub on_failure: OnStoreFailure,
    /// Free bytes of its disk below which there is a warning; 0: never.
    pub low_space: u64,
    pub retention: Retention,
}

/// What is kept of the ledger; its sums always are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// For how long rows are kept; `None`: for ever.
    pub rows: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Rows are committed in groups; nobody waits.
    Group,
    /// A response's last byte waits for its row.
    Strict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStoreFailure {
    ServeAndCount,
    FailClosed,
}

/// Whether operators may inject faults, and which are injected from the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChaosConfig {
    pub allowed: bool,
    /// Empty unless `allowed`. Started when the gateway starts, not by a reload.
    pub experiments: Vec<Experiment>,
}

/// An account at a vendor.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderConfig {
    pub name: Arc<str>,
    pub dialect: DialectKind,
    /// As the vendor's own SDK takes it, without a slash at the end.
    pub base_url: Arc<str>,
    /// At least one unless the provider needs none.
    pub keys: Vec<ApiKey>,
    /// Whether loopback and private addresses are allowed.
    pub allow_private: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ApiKey {
    pub key: Secret,
    pub weight: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialectKind {
    OpenAi,
}

impl DialectKind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
        }
    }
}

/// The settings of an endpoint that `defaults` may hold too.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointDefaults {
    pub limits: LimitSettings,
    pub weight: u32,
    pub quality: f64,
    pub timeouts: TimeoutSettings,
    pub breaker: BreakerSettings,
    pub probe: ProbeSettings,
}

impl Default for EndpointDefaults {
    fn default() -> Self {
        Self {
            limits: LimitSettings::default(),
            weight: 1,
            quality: 0.5,
            timeouts: TimeoutSettings::default(),
            breaker: BreakerSettings::default(),
            probe: ProbeSettings::default(),
        }
    }
}

/// One (provider, upstream model): one supervised actor.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointConfig {
    pub name: Arc<str>,
    pub provider: Arc<ProviderConfig>,
    /// The upstream's name of the model.
    pub model: Arc<str>,
    /// `None`: unpriced.
    pub price: Option<Arc<Price>>,
    pub limits: LimitSettings,
    pub weight: u32,
    /// 0..=1.
    pub quality: f64,
    pub timeouts: TimeoutSettings,
    pub breaker: BreakerSettings,
    pub probe: ProbeSettings,
    /// Failure domains that this endpoint shares with others.
    pub domain: Vec<Arc<str>>,
    /// Context length in tokens, if known.
    pub context: Option<u64>,
    pub budget: Option<Terms>,
}

/// A model name that clients ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteConfig {
    pub name: Arc<str>,
    pub strategy: StrategyKind,
    /// Names of endpoints, in the listed order; at least one, each once.
    pub endpoints: Vec<Arc<str>>,
    pub retry: RetrySettings,
    /// `None`: the server's.
    pub deadline: Option<Duration>,
    /// `None`: a slow request is waited for.
    pub hedge: Option<HedgeSettings>,
    /// Whether another endpoint goes on with a stream that broke off.
    pub recover: bool,
    /// `None`: no wish for the first token.
    pub slo: Option<Slo>,
    pub budget: Option<Terms>,
}

/// The block `budgets` and what holds for all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetConfig {
    pub list: Vec<Arc<Budget>>,
    /// Length of an answer under a hard budget whose request names none, tokens.
    pub ceiling_tokens: u64,
    /// Longest wait for money that other requests have reserved.
    pub wait: Duration,
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self { list: Vec::new(), ceiling_tokens: 4096, wait: Duration::from_secs(10) }
    }
}

impl Config {
    /// The budgets of the file and those that stand at its routes and at `endpoints`.
    #[must_use]
    pub fn all_budgets(&self, endpoints: &[Arc<EndpointConfig>]) -> Vec<Arc<Budget>> {
        let of = |scope, terms: &Option<Terms>| terms.clone().map(|terms| Arc::new(Budget::of(scope, terms)));
        let routes = self.routes.iter().filter_map(|r| of(Scope::Route(Arc::clone(&r.name)), &r.budget));
        let endpoints = endpoints.iter().filter_map(|e| of(Scope::Endpoint(Arc::clone(&e.name)), &e.budget));
        self.budgets.list.iter().cloned().chain(routes).chain(endpoints).collect()
    }
}
