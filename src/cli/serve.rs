//! `breakwater serve`: runs the gateway.

use super::{Exit, out, say};
use crate::app::{self, Addresses, AppError, Startup};
use crate::config::address::may_listen;
use crate::config::model::Config;
use crate::config::{self, demo};
use crate::domain::chaos::Experiment;
use crate::sim;
use crate::store::StoreError;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    #[arg(long, value_name = "FILE", default_value = "config.yaml")]
    pub config: PathBuf,
    /// Overrides server.listen; port 0 takes any.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Four simulated providers in this process instead of a configuration: needs no key and no network.
    #[arg(long, conflicts_with = "config")]
    pub demo: bool,
    /// A YAML or JSON list of faults to inject from the start, as POST /admin/chaos takes them; only where config.yaml says `chaos: allowed`.
    #[arg(long, value_name = "FILE")]
    pub chaos: Option<PathBuf>,
    /// Go on without what the store has lost; broken parts are set aside, never deleted.
    #[arg(long)]
    pub accept_ledger_loss: bool,
    /// error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", env = "BREAKWATER_LOG", default_value = "info")]
    pub log: LevelFilter,
}

/// Runs the gateway until a signal ends it.
#[must_use]
pub fn run(args: &ServeArgs) -> Exit {
    start_log(args.log);
    // One line in the log, where the default prints a page to stderr.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "panicked")));
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        say("cannot install the TLS provider");
        return Exit::Failed;
    }
    // The demo's providers live as long as this.
    let mut providers = Vec::new();
    let config = if args.demo {
        match start_demo(&mut providers) {
            Ok(config) => config,
            Err(e) => {
                say(&e);
                return Exit::Failed;
            }
        }
    } else {
        match config::load(&args.config) {
            Ok(config) => config,
            Err(faults) => {
                say(&faults.to_string());
                return Exit::Usage;
            }
        }
    };
    serve(args, config)
}

/// Logs to stderr; of the libraries only what is worth a warning.
fn start_log(level: LevelFilter) {
    let filter = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("breakwater", level);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
}

/// Starts the simulated providers and makes the configuration that uses them. The demo's store lies apart from a real one's.
fn start_demo(providers: &mut Vec<sim::Handle>) -> Result<Config, String> {
    for profile in sim::demo() {
        let name = profile.name.clone();
        providers.push(sim::start(profile).map_err(|e| format!("simulated provider {name}: {e}"))?);
    }
    let urls: Vec<String> = providers.iter().map(sim::Handle::base_url).collect();
    let endpoints: Vec<_> =
        demo::ENDPOINTS.iter().zip(&urls).map(|((name, model), url)| (*name, *model, url.as_str())).collect();
    config::demo(&endpoints).map_err(|faults| faults.to_string())
}

fn serve(args: &ServeArgs, mut config: Config) -> Exit {
    if let Some(listen) = args.listen {
        if let Err(why) = may_listen(config.server.auth, listen) {
            say(&format!("--listen {listen}: {why}"));
            return Exit::Usage;
        }
        config.server.listen = listen;
    }
    let chaos = match experiments(args.chaos.as_deref(), &config) {
        Ok(chaos) => chaos,
        Err(why) => {
            say(&why);
            return Exit::Usage;
        }
    };
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let startup = Startup {
        config,
        config_path: (!args.demo).then(|| args.config.clone()),
        admin_token: std::env::var("BREAKWATER_ADMIN_TOKEN").ok().filter(|t| !t.is_empty()),
        accept_ledger_loss: args.accept_ledger_loss,
        chaos,
        test_hooks: std::env::var("BREAKWATER_TEST_HOOKS").is_ok_and(|v| v == "1"),
    };
    let demo = args.demo;
    let ended = actix::System::new().block_on(app::run(startup, |addresses| announce(addresses, demo)));
    match ended {
        Ok(()) => Exit::Done,
        Err(e) => {
            say(&format!("breakwater: {e}"));
            match e {
                AppError::Store(StoreError::Failed { .. }) | AppError::System(_) => Exit::Failed,
                AppError::Listen(..) => Exit::Failed,
                AppError::Store(_) | AppError::StoreIncomplete(_) | AppError::Tls(_) => Exit::Usage,
            }
        }
    }
}

/// The faults of `--chaos`, for the endpoints of the configuration.
fn experiments(path: Option<&Path>, config: &Config) -> Result<Vec<Experiment>, String> {
    let Some(path) = path else { return Ok(Vec::new()) };
    if !config.chaos.allowed {
        let path = path.display();
        return Err(format!("--chaos {path}: chaos is not allowed here; write `chaos: allowed` into config.yaml"));
    }
    let endpoints: Vec<_> = config.endpoints.iter().map(|e| Arc::clone(&e.name)).collect();
    config::experiments_from_file(path, &endpoints, &config.chaos.experiments).map_err(|faults| faults.to_string())
}

/// One line on stdout for programs, the rest on stderr for people.
fn announce(addresses: &Addresses, demo: bool) {
    let Addresses { listen, admin, scheme, token_file } = addresses;
    out(&format!("listening on {scheme}://{listen}\n"));
    say(&format!("dashboard    {scheme}://{admin}/"));
    if let Some(path) = token_file {
        say(&format!("admin token  {}", path.display()));
    }
    if demo {
        say("try it:");
        say(&format!(
            "  curl -s {scheme}://{listen}/v1/chat/completions -H 'content-type: application/json' \
             -d '{{\"model\":\"chat\",\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'"
        ));
    }
}
