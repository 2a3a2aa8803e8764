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
        let providers = match start_all(profiles, args.listen) {
            Ok(providers) => providers,
            Err(why) => {
                say(&why);
                return Exit::Failed;
            }
        };
        providers.iter().for_each(|provider| out(&line(provider)));
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

/// Starts all providers, or none.
fn start_all(profiles: Vec<Profile>, listen: SocketAddr) -> Result<Vec<Handle>, String> {
    let mut next = Some(listen);
    let mut running = Vec::new();
    for mut profile in profiles {
        let name = profile.name.clone();
        let addr = match profile.listen {
            Some(addr) => addr,
            None => {
                let addr = next.ok_or_else(|| format!("cannot start {name}: no port is left after {listen}"))?;
                next = following(addr);
                addr
            }
        };
        profile.listen = Some(addr);
        running.push(sim::start(profile).map_err(|e| format!("cannot start {name} on {addr}: {e}"))?);
    }
    Ok(running)
}

/// The next port's address; any port stays any port.
fn following(addr: SocketAddr) -> Option<SocketAddr> {
    match addr.port() {
        0 => Some(addr),
        port => port.checked_add(1).map(|port| SocketAddr::new(addr.ip(), port)),
    }
}

/// Where a provider is, as a line of JSON.
fn line(provider: &Handle) -> String {
    let line = serde_json::json!({
        "name": provider.name(),
        "url": provider.base_url(),
        "control": provider.control_url(),
        "models": provider.profile().models,
    });
    format!("{line}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_without_an_address_share_what_listen_says() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let running = start_all(sim::demo(), any).unwrap();
        let ports: std::collections::BTreeSet<u16> = running.iter().map(|provider| provider.addr().port()).collect();
        assert_eq!(ports.len(), 4);
        let told: serde_json::Value = serde_json::from_str(&line(&running[2])).unwrap();
        assert_eq!((&told["name"], &told["models"][0]), (&"gpt".into(), &"gpt-4.1".into()));
        assert_eq!(told["url"], format!("http://{}/v1", running[2].addr()));
        assert!(told["control"].as_str().unwrap().ends_with("/__sim"));

        let taken = Profile { listen: Some(running[0].addr()), ..Profile::new("x", &[]) };
        let why = start_all(vec![taken], any).err().unwrap();
        assert!(why.starts_with(&format!("cannot start x on {}", running[0].addr())), "{why}");
    }

    #[test]
    fn ports_follow_each_other_to_the_last() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(following(at(9100)), Some(at(9101)));
        assert_eq!(following(at(0)), Some(at(0)));
        assert_eq!(following(at(u16::MAX)), None);
    }
}
