//! What a proxy costs: `cargo bench --bench proxy [-- --seconds N --connections N --rounds N --output FILE.json]`.
//!
//! Starts a very cheap upstream on loopback and drives it through nothing, nginx (if installed), a bare actix-web + reqwest
//! pass-through, and Breakwater with everything on, in turn, round by round. Each proxy runs as a process of its own; its
//! CPU time and memory come from `/proc`. Prints medians and the ratios that the project's bars are set in. Every answer is
//! checked, and a wrong one ends the run. Ends with 1 if a bar is missed and `--enforce` is given.
//!
//! It doesn't pin threads, tune the kernel or install anything, and takes only loopback ports. The load generator and the
//! upstream share the machine with the proxy, so requests per second say less than CPU time per request.

mod fault;
mod load;
#[path = "../support/machine.rs"]
mod machine;
mod passthrough;
mod peers;
mod procfs;
mod report;
mod script;
mod upstream;
mod wire;

use breakwater::cli;
use clap::{Parser, Subcommand};
use fault::Fault;
use hdrhistogram::Histogram;
use load::Load;
use peers::{Kind, Peer};
use report::{Memory, Report, Sample};
use script::Mode;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Open streams at the two points between which memory per stream is the slope.
const STREAMS: [usize; 2] = [100, 400];
const SETTLE: Duration = Duration::from_millis(500);
const LOOK_AT_MEMORY: Duration = Duration::from_millis(100);

#[derive(Parser)]
#[command(name = "proxy", about = "CPU time, latency and memory of a proxy, as ratios")]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Seconds per measurement
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Keep-alive connections, each with one request at a time
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Rounds after the warm-up
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Worker threads of each proxy; left out: one per core
    #[arg(long)]
    workers: Option<usize>,
    /// Proxies to measure
    #[arg(long, value_delimiter = ',', default_value = "direct,nginx,passthrough,breakwater")]
    proxies: Vec<Kind>,
    /// File for the whole result as JSON
    #[arg(long)]
    output: Option<PathBuf>,
    /// End with 1 if a bar is missed
    #[arg(long)]
    enforce: bool,
    /// Given by `cargo bench`
    #[arg(long = "bench", hide = true)]
    _bench: bool,
}

/// The processes that this program also is.
#[derive(Subcommand)]
enum Role {
    Upstream,
    Passthrough {
        #[arg(long)]
        upstream: String,
        #[arg(long)]
        workers: usize,
    },
}

fn main() -> ExitCode {
    let mut given = std::env::args().skip(1);
    if !given.any(|a| matches!(a.as_str(), "--bench" | "upstream" | "passthrough")) {
        // `cargo test --benches` runs this program too, with arguments of the test harness.
        cli::say("proxy: measures under `cargo bench` only");
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse();
    let done = match &arguments.role {
        Some(Role::Upstream) => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Fault::io("cannot start the upstream"))
            .and_then(|runtime| runtime.block_on(upstream::run()))
            .map(|()| true),
        Some(Role::Passthrough { upstream, workers }) => passthrough::run(upstream, *workers).map(|()| true),
        None => measure(&arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(fault) => {
            cli::say(&format!("proxy: {fault}"));
            ExitCode::FAILURE
        }
    }
}

/// Resolves when this process's stdin is closed: a role never outlives the run that started it.
fn parent_gone() -> tokio::sync::oneshot::Receiver<()> {
    let (gone, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = gone.send(());
    });
    told
}

/// The whole run; false if a bar is missed that was to be enforced.
fn measure(arguments: &Arguments) -> Result<bool, Fault> {
    let machine = machine::describe();
    let workers = arguments.workers.unwrap_or_else(machine::cores);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(Fault::io("cannot make a folder"))?;
    let (_upstream, address) = peers::role(&["upstream"])?;
    let peers = start(arguments, address, workers, dir.path())?;
    std::thread::sleep(SETTLE);
    let idle: Vec<u64> = peers.iter().map(Peer::rss).collect();

    let time = Duration::try_from_secs_f64(arguments.seconds)
        .map_err(|e| Fault::Peer(format!("--seconds {}: {e}", arguments.seconds)))?;
    let mut samples = Vec::new();
    for mode in [Mode::Unary, Mode::Burst, Mode::Paced] {
        cli::say(&format!("{}: warm-up", mode.as_str()));
        for peer in &peers {
            run(peer, mode, arguments.connections, time / 4)?;
        }
        for round in 0..arguments.rounds {
            cli::say(&format!("{}: round {} of {}", mode.as_str(), round + 1, arguments.rounds));
            for step in 0..peers.len() {
                // Each round begins with another program, so that none always follows the same one.
                let peer = peers.get((step + round) % peers.len());
                samples.extend(peer.map(|p| run(p, mode, arguments.connections, time)).transpose()?);
            }
        }
    }
    cli::say("open streams");
    let mut memory = Vec::new();
    for (peer, idle) in peers.iter().zip(idle).filter(|(p, _)| p.kind != Kind::Direct) {
        let per_stream = Some(memory_per_stream(peer)?);
        memory.push(Memory { kind: peer.kind, ready: peer.ready, idle, per_stream });
    }
    drop(peers);

    let command = serde_json::json!({
        "connections": arguments.connections, "seconds": arguments.seconds, "rounds": arguments.rounds,
        "workers": workers,
    });
    let report = Report { machine, command, samples, memory };
    cli::out(&report.table());
    if let Some(file) = &arguments.output {
        std::fs::write(file, format!("{:#}\n", report.json())).map_err(Fault::io("cannot write the output"))?;
    }
    Ok(report.met() || !arguments.enforce)
}

fn start(
    arguments: &Arguments,
    upstream: std::net::SocketAddr,
    workers: usize,
    dir: &Path,
) -> Result<Vec<Peer>, Fault> {
    let mut peers = Vec::new();
    for kind in &arguments.proxies {
        match kind {
            Kind::Direct => peers.push(Peer::direct(upstream)),
            Kind::Passthrough => peers.push(peers::passthrough(upstream, workers)?),
            Kind::Breakwater => peers.push(peers::breakwater(upstream, workers, dir)?),
            Kind::Nginx => match peers::nginx(upstream, workers, dir)? {
                Some(peer) => peers.push(peer),
                None => cli::say("nginx is not installed: left out"),
            },
        }
    }
    Ok(peers)
}

/// One program under one mode of load.
fn run(peer: &Peer, mode: Mode, connections: usize, time: Duration) -> Result<Sample, Fault> {
    let load = Load { to: peer.address, key: peer.key.clone(), mode, connections, time };
    let (running, largest) = (AtomicBool::new(true), AtomicU64::new(0));
    let before = peer.cpu()?;
    let tally = std::thread::scope(|scope| {
        scope.spawn(|| {
            while running.load(Ordering::Relaxed) {
                largest.fetch_max(peer.rss(), Ordering::Relaxed);
                std::thread::sleep(LOOK_AT_MEMORY);
            }
        });
        let tally = load::run(&load);
        running.store(false, Ordering::Relaxed);
        tally
    })
    .map_err(|fault| match fault {
        Fault::Answer(what) => Fault::Answer(format!("{}, {}: {what}", peer.kind.as_str(), mode.as_str())),
        other => other,
    })?;
    let cpu = peer.cpu()?.saturating_sub(before);
    let two = |h: &Histogram<u64>| [h.value_at_quantile(0.5), h.value_at_quantile(0.99)];
    Ok(Sample {
        kind: peer.kind,
        mode,
        connections,
        requests: tally.requests,
        elapsed: tally.elapsed,
        cpu,
        rss: largest.into_inner(),
        latency: two(&tally.latency),
        first: two(&tally.first),
        delay: two(&tally.delay),
    })
}

/// The slope of resident memory over open streams, bytes per stream.
#[allow(clippy::cast_precision_loss, reason = "bytes are far below 2^52")]
fn memory_per_stream(peer: &Peer) -> Result<f64, Fault> {
    let [few, many] = STREAMS;
    let small = run(peer, Mode::Open, few, Duration::ZERO)?.rss;
    let large = run(peer, Mode::Open, many, Duration::ZERO)?.rss;
    Ok((large as f64 - small as f64) / (many - few) as f64)
}
