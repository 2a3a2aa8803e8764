//! The real binary as a child process: started on a port of its own, watched, stopped politely or killed, started again on the same
//! store; and every other subcommand, run to its end.

use super::client::Answer;
use super::client::PROMPT;
use super::setup::{Setup, UPSTREAM_KEY};
use super::{eventually, ms, secs};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const ADMIN_TOKEN: &str = "test-admin-token-0123456789abcdef";

/// How long a start may take, on a machine that is busy with the other tests.
const START_LIMIT: Duration = Duration::from_secs(30);
/// What the first line on stdout says before the address.
const READY_LINE: &str = "listening on ";

/// A command that ran to its end.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

/// The binary under test: `BREAKWATER_BIN`, or the one that cargo built with the tests.
pub fn binary() -> String {
    std::env::var("BREAKWATER_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_breakwater").to_owned())
}

fn command(args: &[&str], env: &[(String, String)], wrapper: &[String]) -> Command {
    let binary = binary();
    let mut command = match wrapper {
        [] => Command::new(&binary),
        [program, rest @ ..] => {
            let mut wrapped = Command::new(program);
            wrapped.args(rest).arg(&binary);
            wrapped
        }
    };
    command.args(args).env_remove("RUST_LOG").env("BREAKWATER_ADMIN_TOKEN", ADMIN_TOKEN);
    for (name, value) in env {
        // An empty value stands for a variable that is not there.
        if value.is_empty() {
            command.env_remove(name)
        } else {
            command.env(name, value)
        };
    }
    command.stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub fn breakwater(args: &[&str], env: &[(String, String)]) -> Run {
    let output = command(args, env, &[]).output().expect("the binary runs");
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A running gateway and its folder.
pub struct Gateway {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    pub base: String,
    log: Arc<Mutex<String>>,
    folder: tempfile::TempDir,
    env: Vec<(String, String)>,
    wrapper: Vec<String>,
    arguments: Vec<String>,
    client: reqwest::Client,
}

impl Gateway {
    /// Writes the configuration, starts `serve` and waits until it is ready.
    pub async fn start(setup: &Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(config_path(&folder), setup.yaml(&folder.path().join("state"))).unwrap();
        // reqwest is built without a default TLS provider; a second installation is refused and does no harm.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(secs(60)).build().unwrap();
        let (env, wrapper) = (setup.environment(), setup.wrapper().to_vec());
        let log = Arc::default();
        let arguments = setup.arguments().to_vec();
        let (child, base) = spawn(&folder, &env, &wrapper, &arguments, &log);
        let gateway = Self { child, base, log, folder, env, wrapper, arguments, client };
        gateway.wait_ready().await;
        gateway
    }

    async fn wait_ready(&self) {
        eventually(START_LIMIT, "the gateway is ready", async || {
            self.client.get(self.url("/health/ready")).send().await.is_ok_and(|r| r.status() == 200)
        })
        .await;
    }

    /// Starts again on the same folder, after the former process has ended.
    pub async fn start_again(&mut self) {
        assert!(self.child.try_wait().unwrap().is_some(), "the former process has ended");
        (self.child, self.base) = spawn(&self.folder, &self.env, &self.wrapper, &self.arguments, &self.log);
        self.wait_ready().await;
    }

    /// Stops politely and starts again.
    pub async fn restart(&mut self) {
        self.terminate();
        let status = self.wait_exit(secs(20)).await;
        assert_eq!(status.code(), Some(0), "a polite stop; {}", self.log());
        self.start_again().await;
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let sent = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.child.id())]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the process to end by itself.
    pub async fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let mut status = None;
        let child = &mut self.child;
        eventually(limit, "the process has ended", async || {
            status = child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Whatever a test was about: neither log nor store may hold a secret or the prompt that all tests send.
    fn assert_discreet(&self) {
        let markers = [ADMIN_TOKEN, UPSTREAM_KEY, PROMPT];
        let mut texts = vec![("the log".to_owned(), self.log())];
        read_all(&self.store(), &mut texts);
        for (place, text) in texts {
            for marker in markers {
                assert!(!text.contains(marker), "`{marker}` is found in {place}");
            }
        }
    }

    /// Runs another subcommand with this gateway's configuration file and environment.
    pub fn run(&self, args: &[&str]) -> Run {
        let config = self.config().display().to_string();
        let mut all = args.to_vec();
        all.extend(["--config", &config]);
        breakwater(&all, &self.env)
    }

    /// Runs a subcommand through the admin API of the running gateway.
    pub fn run_by_url(&self, args: &[&str]) -> Run {
        let mut all = args.to_vec();
        all.extend(["--url", &self.base]);
        breakwater(&all, &[])
    }

    pub fn environment(&self) -> &[(String, String)] {
        &self.env
    }

    pub fn config(&self) -> PathBuf {
        config_path(&self.folder)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn store(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Everything that every process of this gateway wrote to stdout and stderr.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The running process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory, KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Fails unless resident memory comes back to within 24 MiB of `before` KiB. The allocator gives pages back while it works, a
    /// second after they became free, so a request goes in between looks.
    pub async fn wait_memory(&self, before: u64) {
        eventually(secs(30), &format!("less than 24 MiB are held beyond {before} KiB"), async || {
            self.get("/v1/models").await;
            self.resident_kib() < before + 24 * 1024
        })
        .await;
    }

    /// A bare connection, for what no HTTP client would send.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.base.trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(secs(10))).unwrap();
        stream
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.client.request(method, self.url(path)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.expect("a whole body").to_vec();
        Answer { status, headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, &[], body).await
    }

    pub async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let mut all = vec![("content-type", "application/json")];
        all.extend(headers);
        self.send("POST", path, &all, body.to_string()).await
    }

    /// A chat completion of the body.
    pub async fn chat(&self, body: &Value) -> Answer {
        self.post("/v1/chat/completions", body).await
    }

    pub async fn chat_with(&self, headers: &[(&str, &str)], body: &Value) -> Answer {
        self.post_with("/v1/chat/completions", headers, body).await
    }

    /// A chat completion whose answer is read piece by piece.
    pub async fn open(&self, body: &Value) -> reqwest::Response {
        let request = self.client.post(self.url("/v1/chat/completions")).body(body.to_string());
        request.header("content-type", "application/json").send().await.expect("a head")
    }

    /// A call of the admin API with the admin token.
    pub async fn admin(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let token = format!("Bearer {ADMIN_TOKEN}");
        let mut headers = vec![("authorization", token.as_str())];
        let text = body.map(Value::to_string).unwrap_or_default();
        if body.is_some() {
            headers.push(("content-type", "application/json"));
        }
        self.send(method, path, &headers, text).await
    }

    pub async fn admin_get(&self, path: &str) -> Value {
        self.admin("GET", path, None).await.expect(200).json()
    }

    /// One endpoint of `/admin/endpoints/{name}`.
    pub async fn endpoint(&self, name: &str) -> Value {
        let answer = self.admin_get(&format!("/admin/endpoints/{name}")).await;
        let endpoint = match answer["endpoints"].as_array() {
            Some(list) => list.iter().find(|e| e["name"] == name).cloned().unwrap_or_default(),
            None => answer,
        };
        assert_eq!(endpoint["name"], name, "{endpoint}");
        endpoint
    }

    pub async fn breaker(&self, name: &str) -> String {
        self.endpoint(name).await["breaker"]["state"].as_str().expect("a state").to_owned()
    }

    /// Waits until the endpoint's breaker is in the state.
    pub async fn wait_breaker(&self, name: &str, state: &str, limit: Duration) {
        eventually(limit, &format!("the breaker of {name} is {state}"), async || self.breaker(name).await == state)
            .await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- what the gateway wrote ---\n{}", self.log());
        } else {
            self.assert_discreet();
        }
    }
}

/// The readable part of every file below a folder.
fn read_all(folder: &Path, texts: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_all(&path, texts);
        } else if let Ok(bytes) = std::fs::read(&path) {
            texts.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
}

fn config_path(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("config.yaml")
}

/// Starts `serve` and reads from its first line where it listens.
fn spawn(
    folder: &tempfile::TempDir,
    env: &[(String, String)],
    wrapper: &[String],
    arguments: &[String],
    log: &Arc<Mutex<String>>,
) -> (Child, String) {
    let config = config_path(folder).display().to_string();
    let mut child = command(&["serve", "--config", &config, "--listen", "127.0.0.1:0"], env, wrapper)
        .args(arguments)
        .env("STORE", folder.path().join("state"))
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let (first, ready) = mpsc::sync_channel(1);
    follow(child.stdout.take().unwrap(), Arc::clone(log), Some(first));
    follow(child.stderr.take().unwrap(), Arc::clone(log), None);
    let line = wait_line(&ready, &mut child).unwrap_or_else(|| {
        let _ = child.kill();
        let _ = child.wait();
        panic!("serve said no address\n{}", log.lock().unwrap())
    });
    let base = line.strip_prefix(READY_LINE).unwrap_or_else(|| panic!("the first line is `{line}`"));
    (child, base.trim().to_owned())
}

/// The first line of stdout; `None` when the process ends or the time passes without one.
fn wait_line(ready: &mpsc::Receiver<String>, child: &mut Child) -> Option<String> {
    let until = Instant::now() + START_LIMIT;
    while Instant::now() < until {
        match ready.recv_timeout(ms(50)) {
            Ok(line) => return Some(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            Err(mpsc::RecvTimeoutError::Timeout) if child.try_wait().unwrap().is_some() => {
                return ready.try_recv().ok();
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
    }
    None
}

/// Keeps what a process writes, and hands on its first line.
fn follow(from: impl Read + Send + 'static, log: Arc<Mutex<String>>, mut first: Option<mpsc::SyncSender<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { return };
            {
                let mut log = log.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
            if let Some(first) = first.take() {
                let _ = first.send(line);
            }
        }
    });
}
