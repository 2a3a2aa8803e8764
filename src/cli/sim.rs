//! `breakwater sim`: simulated providers alone, until a signal ends them.
//!
//! Prints one JSON line per provider on stdout: `{"name","url","control","models"}`. Providers whose profile names no address
//! take consecutive ports from `--listen`.

use super::{Exit, out, say};
use crate::sim::{self, Handle, Profile};
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Debug, clap::Args)]
pub struct SimArgs {
    /// First address; the next provider takes the next port. Port 0 takes any.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9100")]
    pub listen: SocketAddr,
    /// JSON file with one profile or an array of them (docs/sim.md); left out: the four models of the demo.
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
}

/// Runs the providers until SIGINT or SIGTERM.
#[must_use]
pub fn run(args: &SimArgs) -> Exit {
    let profiles = match &args.profile {
        None => sim::demo(),
        Some(path) => {
            let read = std::fs::read_to_string(path).map_err(|e| e.to_string());
            match read.and_then(|text| Profile::read(&text).map_err(|e| e.to_string())) {
                Ok(profiles) => profiles,
                Err(why) => {
                    say(&format!("{}: {why}", path.display()));
                    return Exit::Usage;
                }
            }
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            say(&format!("cannot start: {e}"));
            return Exit::Failed;
        }
    };
    runtime.block_on(async {
        // Before the first line is out: who reads it may send a signal at once.
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            say("cannot listen for signals");
            return Exit::Failed;
        };
        let Some(_providers) = start_all(profiles, args.listen) else { return Exit::Failed };
        first(&mut interrupt, &mut terminate).await;
        Exit::Done
    })
}

async fn first(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

/// Starts the providers and says where they are.
fn start_all(profiles: Vec<Profile>, listen: SocketAddr) -> Option<Vec<Handle>> {
    let mut next = Some(listen);
    let mut running = Vec::new();
    for mut profile in profiles {
        if profile.listen.is_none() {
            profile.listen = next;
            // Port 0 stays 0; past the last port there is none.
            next = next.and_then(|addr| match addr.port() {
                0 => Some(addr),
                port => Some(SocketAddr::new(addr.ip(), port.checked_add(1)?)),
            });
        }
        let (name, listen) = (profile.name.clone(), profile.listen);
        match sim::start(profile) {
            Ok(handle) => running.push(handle),
            Err(e) => {
                let place = listen.map_or(String::new(), |addr| format!(" on {addr}"));
                say(&format!("cannot start {name}{place}: {e}"));
                return None;
            }
        }
    }
    for handle in &running {
        let models = handle.profile().models;
        let line = serde_json::json!({
            "name": handle.name(), "url": handle.base_url(), "control": handle.control_url(), "models": models,
        });
        out(&format!("{line}\n"));
    }
    Some(running)
}
