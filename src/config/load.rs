//! From the text of a `config.yaml` to a [`Config`], or to everything that is wrong with it.
//!
//! The blocks are read in the order of what they need: `defaults` and `providers`, then `endpoints`, then `routes`. Names are
//! checked against each other here. A route hides an endpoint of its name, and a warning says so.

use crate::config::budget;
use crate::config::chaos;
use crate::config::endpoint;
use crate::config::fault::{Fault, Faults};
use crate::config::intelligent;
use crate::config::model::{Config, EndpointConfig, EndpointDefaults, RouteConfig, StoreConfig};
use crate::config::provider::{self, Providers};
use crate::config::reader::{Env, Field, Section, Source};
use crate::config::route::{self, RouteDefaults};
use crate::config::scalar::check_name;
use crate::config::server;
use crate::config::tree::{self, Mark, Node};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Reads and validates a file with the process's environment.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Config, Faults> {
    let (name, text) = read_file(path)?;
    parse(&name, &text, &|name| std::env::var(name).ok(), folder(path))
}

/// Reads the `store` block of a file alone, for commands that work on the store of a stopped gateway and need no keys.
///
/// # Errors
/// Everything that is wrong with the block, and YAML that cannot be read.
pub fn load_store(path: &Path) -> Result<StoreConfig, Faults> {
    let (name, text) = read_file(path)?;
    let mut faults = Vec::new();
    let tree = tree::from_yaml(&name, &text, &mut faults).map_err(Faults::one)?;
    let env = |name: &str| std::env::var(name).ok();
    let src = Source::new(&name, Some(&env), folder(path), faults);
    let store = top(&src, &tree).section().map(|mut root| {
        let store = server::store(&mut root);
        root.accept_rest();
        store
    });
    src.finish()?;
    store.ok_or_else(|| Faults::one(Fault::of_file(&name, "must hold a map of keys".into())))
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

pub fn read_file(path: &Path) -> Result<(String, String), Faults> {
    let name = path.display().to_string();
    let fault = |message: String| Faults::one(Fault::of_file(&name, message));
    let mut bytes = Vec::new();
    // One byte over the limit is enough for `tree` to refuse it.
    let read = std::fs::File::open(path).and_then(|f| f.take(tree::MAX_TEXT as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|e| fault(format!("cannot be read: {e}")))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok((name, text)),
        Err(e) => {
            let good = e.as_bytes().get(..e.utf8_error().valid_up_to()).unwrap_or_default();
            let line = good.iter().filter(|b| **b == b'\n').count() + 1;
            Err(fault(format!("line {line} is not UTF-8 text")))
        }
    }
}

/// Reads and validates a configuration. `file_name` goes into the faults; relative paths begin at `base_dir`.
///
/// # Errors
/// Everything that is wrong with it, in the file's order.
pub fn parse(file_name: &str, text: &str, env: Env<'_>, base_dir: &Path) -> Result<Config, Faults> {
    let mut faults = Vec::new();
    let tree = match tree::from_yaml(file_name, text, &mut faults) {
        Ok(tree) => tree,
        Err(last) => {
            return Err(match Faults::from_vec(faults) {
                Some(before) => before.and(last),
                None => Faults::one(last),
            });
        }
    };
    let src = Source::new(file_name, Some(env), base_dir, faults);
    let config = top(&src, &tree).section().map(|mut root| read(&mut root));
    let warnings = src.finish()?;
    match config {
        Some(config) => Ok(Config { warnings, ..config }),
        None => Err(Faults::one(Fault::of_file(file_name, "must hold a map of keys".into()))),
    }
}

fn top<'a>(src: &'a Source<'a>, tree: &'a Node) -> Field<'a> {
    Field { src, path: String::new(), node: tree, key_at: tree.at }
}

fn read(root: &mut Section<'_>) -> Config {
    let server = server::server(root);
    let store = server::store(root);
    let retry_budget = server::retry_budget(root);
    let domains = server::domains(root);
    let intelligent = Arc::new(intelligent::read(root));
    let ranking = intelligent::ranking(root);
    let (endpoint_defaults, route_defaults) = defaults(root);
    let providers: Providers = named(root, "providers")
        .into_iter()
        .map(|(name, field)| (name.into(), provider::read(name, &field).map(Arc::new)))
        .collect();
    let fields = named(root, "endpoints");
    if fields.is_empty() {
        root.warn("no endpoint is configured: nothing can be answered until one is registered".into());
    }
    let endpoint = |(name, field): &(&str, Field<'_>)| endpoint::read(name, field, &providers, &endpoint_defaults);
    let endpoints: Vec<Arc<EndpointConfig>> = fields.iter().filter_map(endpoint).map(Arc::new).collect();
    let names: Vec<(Arc<str>, Mark)> = fields.iter().map(|(name, f)| ((*name).into(), f.key_at)).collect();
    let routes = routes(root, &names, &route_defaults);
    let budgets = budget::read(root, &endpoints, &routes);
    let endpoint_names: Vec<Arc<str>> = names.into_iter().map(|(name, _)| name).collect();
    let chaos = chaos::chaos(root, &endpoint_names);
    root.unsupported(&["keys", "ledger"]);
    Config {
        server,
        store,
        providers: providers.into_iter().filter_map(|(_, p)| p).collect(),
        defaults: Arc::new(endpoint_defaults),
        endpoints,
        routes,
        budgets,
        retry_budget,
        domains,
        intelligent,
        ranking,
        chaos,
        warnings: Vec::new(),
    }
}

fn defaults(root: &mut Section<'_>) -> (EndpointDefaults, RouteDefaults) {
    match root.section("defaults") {
        Some(mut s) => {
            let endpoint = endpoint::settings(&mut s, &EndpointDefaults::default());
            let route = route::settings(&mut s, &RouteDefaults::default());
            (endpoint, route)
        }
        None => <_>::default(),
    }
}

fn routes(root: &mut Section<'_>, endpoints: &[(Arc<str>, Mark)], base: &RouteDefaults) -> Vec<Arc<RouteConfig>> {
    let names: Vec<Arc<str>> = endpoints.iter().map(|(name, _)| Arc::clone(name)).collect();
    let mut routes = Vec::new();
    for (name, field) in named(root, "routes") {
        if let Some((_, at)) = endpoints.iter().find(|(n, _)| **n == *name) {
            field.src.warn(
                field.key_at,
                &field.path,
                format!("is also the name of an endpoint (line {}); whoever asks for `{name}` gets the route", at.line),
            );
        }
        routes.extend(route::read(name, &field, &names, base).map(Arc::new));
    }
    routes
}

/// The entries of a block whose keys are names, those with a name that is not allowed left out.
fn named<'a>(root: &mut Section<'a>, block: &'static str) -> Vec<(&'a str, Field<'a>)> {
    let Some(field) = root.field(block) else { return Vec::new() };
    let mut all = field.named();
    all.retain(|(name, field)| match check_name(name) {
        Ok(()) => true,
        Err(allowed) => {
            field.src.fault(field.key_at, &field.path, format!("the name is not allowed; expected {allowed}"));
            false
        }
    });
    all
}
