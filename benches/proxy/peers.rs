//! The programs that are measured: how each is configured, started, found ready and stopped. Each runs as a process of its
//! own, so that its CPU time and memory are the kernel's figures for it alone.

use crate::fault::Fault;
use crate::procfs;
use crate::wire::{self, Connection};
use breakwater::clock;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const START_WITHIN: Duration = Duration::from_secs(15);
const STOP_WITHIN: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Lines of a program's log that an error shows: the first fault says most.
const LINES_SHOWN: usize = 40;
const ADMIN_TOKEN: &str = "admin-token-of-the-bench";
const UPSTREAM_KEY: &str = "sk-upstream";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// No proxy: what the upstream and the load generator do alone.
    Direct,
    Passthrough,
    Breakwater,
    Nginx,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Passthrough => "passthrough",
            Self::Breakwater => "breakwater",
            Self::Nginx => "nginx",
        }
    }
}

/// A child process that ends with this value.
pub struct Process {
    child: Child,
    /// Whether it ends at a SIGTERM; otherwise at the end of its stdin.
    by_signal: bool,
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        if self.by_signal {
            // The standard library can only kill; a kill would leave nginx's workers behind.
            let _ = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status();
        }
        let start = clock::now();
        while clock::now().since(start) < STOP_WITHIN {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running program that takes the load.
pub struct Peer {
    pub kind: Kind,
    pub address: SocketAddr,
    pub key: String,
    /// From the start of the process to its first readiness.
    pub ready: Duration,
    pids: Vec<u32>,
    _process: Option<Process>,
}

impl Peer {
    /// No proxy: the upstream itself.
    pub fn direct(upstream: SocketAddr) -> Self {
        let key = UPSTREAM_KEY.into();
        Self { kind: Kind::Direct, address: upstream, key, ready: Duration::ZERO, pids: Vec::new(), _process: None }
    }

    pub fn cpu(&self) -> Result<Duration, Fault> {
        procfs::cpu(&self.pids)
    }

    pub fn rss(&self) -> u64 {
        procfs::rss(&self.pids)
    }
}

/// Starts this very program in another role; the role prints its port.
pub fn role(arguments: &[&str]) -> Result<(Process, SocketAddr), Fault> {
    let program = std::env::current_exe().map_err(Fault::io("cannot find this program"))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Fault::io("cannot start a role"))?;
    let stdout = child.stdout.take();
    let process = Process { child, by_signal: false };
    let mut line = String::new();
    if let Some(stdout) = stdout {
        BufReader::new(stdout).read_line(&mut line).map_err(Fault::io("cannot read a role's port"))?;
    }
    let port = line.trim().parse().map_err(|_| Fault::Peer(format!("role {arguments:?} did not start")))?;
    Ok((process, local(port)))
}

pub fn passthrough(upstream: SocketAddr, workers: usize) -> Result<Peer, Fault> {
    let start = clock::now();
    let url = format!("http://{upstream}/v1/chat/completions");
    let (process, address) = role(&["passthrough", "--upstream", &url, "--workers", &workers.to_string()])?;
    let ready = clock::now().since(start);
    let pids = vec![process.child.id()];
    Ok(Peer { kind: Kind::Passthrough, address, key: "sk-client".into(), ready, pids, _process: Some(process) })
}

/// `None`: nginx is not installed.
pub fn nginx(upstream: SocketAddr, workers: usize, dir: &Path) -> Result<Option<Peer>, Fault> {
    let dir = dir.join("nginx");
    fs::create_dir_all(&dir).map_err(Fault::io("cannot make nginx's folder"))?;
    let address = local(free_port()?);
    let folder = dir.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {folder}/{kind};\n"))
        .collect();
    let text = format!(
        "daemon off;\nworker_processes {workers};\npid {folder}/pid;\nerror_log {folder}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\naccess_log off;\nclient_body_buffer_size 64k;\nkeepalive_requests 1000000000;\n{temporary}\
         upstream model {{ server {upstream}; keepalive 512; keepalive_requests 1000000000; }}\n\
         server {{\nlisten {address};\nlocation / {{\nproxy_pass http://model;\nproxy_http_version 1.1;\n\
         proxy_set_header Connection \"\";\nproxy_set_header Authorization \"Bearer {UPSTREAM_KEY}\";\n}}\n}}\n}}\n"
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, text).map_err(Fault::io("cannot write nginx's configuration"))?;
    let mut command = Command::new("nginx");
    command.arg("-e").arg(dir.join("error.log")).arg("-p").arg(&dir).arg("-c").arg(&file);
    let start = clock::now();
    let child = match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(Fault::io("cannot start nginx"))?,
    };
    let mut process = Process { child, by_signal: true };
    await_answer(&mut process, address, None, &dir.join("error.log"))?;
    // The master listens before it has started all workers; a worker missed here would work uncounted.
    let mut pids = procfs::family(process.child.id());
    while pids.len() <= workers && clock::now().since(start) < START_WITHIN {
        std::thread::sleep(LOOK_AGAIN);
        pids = procfs::family(process.child.id());
    }
    if pids.len() <= workers {
        return Err(Fault::Peer(format!("nginx has {} processes instead of {}", pids.len(), workers + 1)));
    }
    let ready = clock::now().since(start);
    Ok(Some(Peer { kind: Kind::Nginx, address, key: "sk-client".into(), ready, pids, _process: Some(process) }))
}

/// The real binary with everything on: a virtual key, a route of four priced and limited endpoints, the ledger.
pub fn breakwater(upstream: SocketAddr, workers: usize, dir: &Path) -> Result<Peer, Fault> {
    let dir = dir.join("breakwater");
    fs::create_dir_all(&dir).map_err(Fault::io("cannot make Breakwater's folder"))?;
    let address = local(free_port()?);
    let file = dir.join("config.yaml");
    fs::write(&file, config(upstream, address, workers, &dir)).map_err(Fault::io("cannot write config.yaml"))?;
    let log = dir.join("log");
    let out = File::create(&log).map_err(Fault::io("cannot make Breakwater's log"))?;
    let err = out.try_clone().map_err(Fault::io("cannot make Breakwater's log"))?;
    let start = clock::now();
    let child = Command::new(env!("CARGO_BIN_EXE_breakwater"))
        .arg("serve")
        .arg("--config")
        .arg(&file)
        .env("BREAKWATER_ADMIN_TOKEN", ADMIN_TOKEN)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .map_err(Fault::io("cannot start Breakwater"))?;
    let mut process = Process { child, by_signal: true };
    await_answer(&mut process, address, Some("/health/ready"), &log)?;
    let ready = clock::now().since(start);
    let key = virtual_key(address)?;
    let pids = vec![process.child.id()];
    Ok(Peer { kind: Kind::Breakwater, address, key, ready, pids, _process: Some(process) })
}

/// Limits far above what the machine can do: they are computed for each request, and never refuse one.
fn config(upstream: SocketAddr, listen: SocketAddr, workers: usize, dir: &Path) -> String {
    let endpoints: String = [("deepseek", "0.42"), ("gemini", "2.50"), ("gpt", "8.00"), ("claude", "15.00")]
        .iter()
        .map(|(name, price)| {
            format!(
                "  {name}:\n    provider: loopback\n    model: {name}-model\n    \
                 price: {{input: {price}, output: {price}}}\n    \
                 limits: {{rpm: 60000000, tpm: 60000000000, concurrency: 1000}}\n"
            )
        })
        .collect();
    format!(
        "server:\n  listen: {listen}\n  auth: required\n  workers: {workers}\nstore:\n  path: {}\n  durability: group\n\
         providers:\n  loopback: {{dialect: openai, base_url: \"http://{upstream}/v1\", api_key: \"{UPSTREAM_KEY}\", \
         allow_private: true}}\nendpoints:\n{endpoints}routes:\n  chat: {{strategy: cost_based, \
         endpoints: [deepseek, gemini, claude, gpt]}}\n",
        dir.join("state").display()
    )
}

fn virtual_key(address: SocketAddr) -> Result<String, Fault> {
    let body = r#"{"name":"bench","models":["chat"]}"#;
    let (status, answer) = ask(address, &wire::request("POST", "/admin/keys", ADMIN_TOKEN, body))?;
    let key: Option<String> = serde_json::from_slice::<serde_json::Value>(&answer)
        .ok()
        .and_then(|v| v.get("secret").and_then(|s| s.as_str()).map(str::to_owned));
    key.filter(|_| status == 201)
        .ok_or_else(|| Fault::Peer(format!("no key: status {status}, {}", String::from_utf8_lossy(&answer))))
}

/// Waits until the process takes connections and, if a path is named, answers it with 200.
fn await_answer(process: &mut Process, to: SocketAddr, path: Option<&str>, log: &Path) -> Result<(), Fault> {
    let start = clock::now();
    while clock::now().since(start) < START_WITHIN {
        let up = match path {
            Some(path) => ask(to, &wire::request("GET", path, ADMIN_TOKEN, "")).is_ok_and(|(status, _)| status == 200),
            None => std::net::TcpStream::connect(to).is_ok(),
        };
        if up {
            return Ok(());
        }
        if !matches!(process.child.try_wait(), Ok(None)) {
            break;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    let log = fs::read_to_string(log).unwrap_or_default();
    let said: Vec<&str> = log.lines().take(LINES_SHOWN).collect();
    Err(Fault::Peer(format!("a measured program did not become ready; it said:\n{}", said.join("\n"))))
}

/// One request on a connection of its own.
fn ask(to: SocketAddr, request: &[u8]) -> Result<(u16, Vec<u8>), Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Fault::io("cannot start a runtime"))?;
    let exchange = async {
        let mut connection = Connection::open(to).await?;
        let status = connection.exchange(request, |_| {}).await?;
        Ok((status, connection.body))
    };
    runtime.block_on(async {
        tokio::time::timeout(START_WITHIN, exchange)
            .await
            .unwrap_or_else(|_| Err(Fault::Answer("no answer in time".into())))
    })
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A port that was free a moment ago, for programs that cannot say which one they took.
fn free_port() -> Result<u16, Fault> {
    let listener = TcpListener::bind(local(0)).map_err(Fault::io("cannot find a free port"))?;
    Ok(listener.local_addr().map_err(Fault::io("no local address"))?.port())
}
