//! Disks that are full, damaged or read-only: told in words, by rule, and without touching what is still good.

use crate::providers::{alone, calls, faulty, pair, provider, set};
use crate::support::ledger::{cost, read_csv};
use crate::support::{Gateway, Reply, Run, Setup, Upstream, binary, breakwater, chat_body, eventually, ms, secs};
use breakwater::sim::{FaultKind, Handle};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// No file of the process may grow beyond this any more; `unlimited` ends it. To a process a full disk looks the same, and unlike
/// a file system of one's own this needs no privilege.
fn limit_files(gateway: &Gateway, bytes: &str) {
    let pid = gateway.pid().to_string();
    let done = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}:unlimited")]).status();
    assert!(done.expect("prlimit of util-linux").success());
}

async fn ask(gateway: &Gateway, requests: usize) {
    for _ in 0..requests {
        gateway.chat(&chat_body("chat")).await.expect(200);
    }
}

/// The signal that such a write raises would end the process, where a full disk raises none.
fn patient(setup: Setup) -> Setup {
    setup.before("trap '' XFSZ")
}

#[tokio::test]
async fn a_full_disk_by_the_rule_of_serving_and_counting() {
    let (a, b) = (provider("a"), provider("b"));
    let mut gateway = Gateway::start(&patient(pair(&a, &b, &["breaker: {open_for: 60s}"]))).await;
    ask(&gateway, 40).await;
    let rows = gateway.wait_rows(40).await;
    limit_files(&gateway, "4096");
    ask(&gateway, 10).await;
    eventually(secs(10), "readiness says degraded", async || {
        let ready = gateway.get("/health/ready").await;
        ready.expect(200).json()["status"] == "degraded" && ready.json()["ledger"]["failing"].is_string()
    })
    .await;
    // Routing goes on, its state machines too.
    set(&a, FaultKind::ResetAfterBody);
    ask(&gateway, 10).await;
    gateway.wait_breaker("a", "open", secs(2)).await;
    ask(&gateway, 10).await;
    assert!(gateway.log().contains("the store cannot be written"), "said in the log");
    let told = gateway.get("/metrics").await.expect(200).text();
    assert!(told.contains("ledger"), "told in metrics");

    limit_files(&gateway, "unlimited");
    eventually(secs(20), "it recovers without a restart", async || {
        gateway.get("/health/ready").await.expect(200).json()["status"] == "ready"
    })
    .await;
    // 70 answers, and what failed over until the breaker was open.
    let made = || usize::try_from(calls(&a) + calls(&b)).unwrap();
    assert!(made() >= 75, "{} calls", made());
    let after = gateway.wait_rows(made()).await;
    assert!(rows.iter().zip(&after).all(|(was, is)| was.get("hash") == is.get("hash")), "the old rows are untouched");
    ask(&gateway, 5).await;
    let after = gateway.wait_rows(made()).await;
    let sum = gateway.admin_get("/admin/ledger?group_by=endpoint").await["total"]["cost_nanousd"].as_i64();
    assert_eq!(sum, Some(cost(&after)));
    gateway.restart().await;
    gateway.wait_rows(made()).await;
    assert_eq!(gateway.breaker("a").await, "open", "a transition of the time without a disk is kept as well");
    gateway.kill();
    gateway.run(&["ledger", "verify"]).expect(0);
}

#[tokio::test]
async fn a_full_disk_by_the_rule_of_failing_closed() {
    let a = provider("a");
    let setup = patient(alone(&a, &[]).store("on_failure: fail_closed").store("durability: strict"));
    let mut gateway = Gateway::start(&setup).await;
    ask(&gateway, 20).await;
    limit_files(&gateway, "4096");
    eventually(secs(20), "requests are refused", async || {
        let answer = gateway.chat(&chat_body("chat")).await;
        if answer.status == 503 {
            answer.expect_error(503, "ledger_unavailable");
            assert!(answer.need("retry-after").parse::<u64>().is_ok());
        }
        answer.status == 503
    })
    .await;
    gateway.get("/health/ready").await.expect(503);
    gateway.get("/health/live").await.expect(200);
    let made = calls(&a);
    for _ in 0..20 {
        gateway.chat(&chat_body("chat")).await.expect_error(503, "ledger_unavailable");
    }
    assert_eq!(calls(&a), made, "what could not be accounted for is not sent");
    limit_files(&gateway, "unlimited");
    eventually(secs(20), "it recovers without a restart", async || gateway.get("/health/ready").await.status == 200)
        .await;
    ask(&gateway, 5).await;
    gateway.wait_rows(usize::try_from(made).unwrap() + 5).await;
    gateway.kill();
    gateway.run(&["ledger", "verify"]).expect(0);
}

/// A store with this many rows, of a gateway that has ended.
struct Stopped {
    gateway: Gateway,
    _a: Handle,
    export: String,
}

impl Stopped {
    async fn with_rows(rows: usize) -> Self {
        let a = provider("a");
        let mut gateway = Gateway::start(&alone(&a, &[])).await;
        ask(&gateway, rows).await;
        gateway.wait_rows(rows).await;
        gateway.terminate();
        assert_eq!(gateway.wait_exit(secs(10)).await.code(), Some(0));
        let export = gateway.run(&["ledger", "export", "--format", "csv"]).expect(0).stdout;
        assert_eq!(read_csv(&export).len(), rows);
        Self { gateway, _a: a, export }
    }

    fn store(&self) -> PathBuf {
        self.gateway.store()
    }

    /// A start that has to be refused.
    fn serve(&self) -> Run {
        self.serve_with(&[])
    }

    fn serve_with(&self, more: &[&str]) -> Run {
        let config = self.gateway.config().display().to_string();
        let mut args = vec!["serve", "--config", &config, "--listen", "127.0.0.1:0"];
        args.extend(more);
        breakwater(&args, self.gateway.environment())
    }
}

/// Every file of a folder with its content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

fn restore(store: &Path, good: &BTreeMap<PathBuf, Vec<u8>>) {
    std::fs::remove_dir_all(store).unwrap();
    for (path, bytes) in good {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// Neither a panic's exit code nor its words.
#[track_caller]
fn no_panic(run: &Run, what: &str) {
    assert!((0..=3).contains(&run.code), "{what}: {run:?}");
    assert!(!run.stderr.contains("panicked"), "{what}: {run:?}");
}

#[tokio::test]
async fn one_byte_flipped_in_twenty_places() {
    let stopped = Stopped::with_rows(120).await;
    let store = stopped.store();
    let good = files(&store);
    // The ledger's databases are full of rows; whatever else there is gets a share.
    let mut targets: Vec<(PathBuf, usize)> = vec![];
    let used = |bytes: &[u8]| bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    let rows: Vec<_> = good.iter().filter(|(p, b)| p.starts_with(store.join("ledger")) && used(b) > 1_000).collect();
    assert!(!rows.is_empty(), "{:?}", good.keys());
    for n in 0..14 {
        let (path, bytes) = rows[n % rows.len()];
        targets.push((path.clone(), used(bytes) * (2 * n + 1) / 28));
    }
    for name in ["HEAD", "VERSION", "state"] {
        let mine: Vec<_> = good.iter().filter(|(p, b)| p.starts_with(store.join(name)) && used(b) > 0).collect();
        let (path, bytes) = mine.iter().max_by_key(|(_, b)| b.len()).unwrap_or_else(|| panic!("no {name}"));
        targets.push(((*path).clone(), used(bytes) / 3));
        targets.push(((*path).clone(), used(bytes) * 2 / 3));
    }
    assert_eq!(targets.len(), 20);
    let mut reported = 0;
    for (path, at) in targets {
        let what = format!("byte {at} of {}", path.strip_prefix(&store).unwrap().display());
        let mut bytes = good[&path].clone();
        bytes[at] ^= 0x40;
        std::fs::write(&path, bytes).unwrap();
        let verify = stopped.gateway.run(&["ledger", "verify"]);
        let export = stopped.gateway.run(&["ledger", "export", "--format", "csv"]);
        no_panic(&verify, &what);
        no_panic(&export, &what);
        if verify.code == 0 {
            // It hit space that holds nothing any more: then nothing may be missing either.
            assert_eq!((export.code, &export.stdout), (0, &stopped.export), "{what}: silent: {verify:?}");
        } else {
            reported += 1;
            assert!(!verify.stderr.is_empty() || !verify.stdout.is_empty(), "{what}: nothing was said");
        }
        restore(&store, &good);
    }
    assert!(reported >= 5, "{reported} of 20 hit something");
    stopped.gateway.run(&["ledger", "verify"]).expect(0);
}

#[tokio::test]
async fn truncated_without_its_snapshot() {
    let stopped = Stopped::with_rows(120).await;
    let ledger = stopped.store().join("ledger");
    let databases: Vec<_> = files(&ledger).into_keys().filter(|p| p.ends_with("db")).collect();
    assert!(!databases.is_empty());
    for path in files(&ledger).into_keys().filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("snap.")) {
        std::fs::remove_file(path).unwrap();
    }
    for path in databases {
        std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    }
    let run = stopped.serve().expect(2);
    no_panic(&run, "a start");
    assert!(run.stderr.contains("--accept-ledger-loss") && run.stderr.contains("missing"), "{run:?}");
    let verify = stopped.gateway.run(&["ledger", "verify"]);
    no_panic(&verify, "verify");
    assert_ne!(verify.code, 0, "{verify:?}");
    // Nobody is locked out: told to accept the loss, it goes on.
    let mut gateway = stopped.gateway;
    let config = gateway.config();
    let yaml = std::fs::read_to_string(&config).unwrap();
    assert!(yaml.contains("store:"));
    let mut child = Command::new(binary())
        .args(["serve", "--config", &config.display().to_string(), "--listen", "127.0.0.1:0", "--accept-ledger-loss"])
        .envs(gateway.environment().iter().cloned())
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    let _ = (child.kill(), child.wait());
    assert!(line.starts_with("listening on "), "{line}");
    gateway.start_again().await;
    ask(&gateway, 3).await;
    gateway.wait_rows(3).await;
}

#[tokio::test]
async fn a_newer_schema() {
    let stopped = Stopped::with_rows(10).await;
    let version = stopped.store().join("VERSION");
    let text = std::fs::read_to_string(&version).unwrap();
    let newer = text.replace(|c: char| c.is_ascii_digit(), "9");
    assert_ne!(newer, text);
    std::fs::write(&version, newer).unwrap();
    let before = files(&stopped.store());
    let run = stopped.serve().expect(2);
    assert!(run.stderr.contains("schema 9"), "{run:?}");
    stopped.serve_with(&["--accept-ledger-loss"]).expect(2);
    for args in [&["ledger", "report"][..], &["ledger", "verify"], &["key", "list"]] {
        let run = stopped.gateway.run(args);
        assert!(run.code != 0 && run.stderr.contains("schema 9"), "{args:?}: {run:?}");
    }
    assert!(files(&stopped.store()) == before, "not a byte was touched");
}

#[tokio::test]
async fn a_read_only_folder() {
    let a = faulty("a", FaultKind::Refuse);
    let folder = tempfile::tempdir().unwrap();
    let closed = folder.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    let store = closed.join("state");
    let setup = alone(&a, &[]);
    let config = folder.path().join("config.yaml");
    std::fs::write(&config, setup.yaml(&store)).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o555)).unwrap();
    // To root without capabilities the mode means what it says; to everybody else it does anyway.
    let is_root = std::fs::write(closed.join("probe"), "").is_ok();
    let mut command = Command::new(if is_root { "setpriv".to_owned() } else { binary() });
    if is_root {
        std::fs::remove_file(closed.join("probe")).unwrap();
        command.args(["--bounding-set", "-all", "--inh-caps", "-all"]).arg(binary());
    }
    let config = config.display().to_string();
    command.args(["serve", "--config", &config, "--listen", "127.0.0.1:0"]).envs(setup.environment());
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains(&store.display().to_string()), "the path is named: {told}");
    assert!(output.stdout.is_empty());
}

#[tokio::test]
async fn a_disk_that_stalls_for_two_seconds() {
    let a = provider("a");
    let gateway = Gateway::start(&alone(&a, &[]).env("BREAKWATER_TEST_HOOKS", "1")).await;
    let body = chat_body("chat");
    gateway.chat(&body).await.expect(200);
    gateway.wait_rows(1).await;
    gateway.admin("POST", "/admin/test/stall", None).await.expect(202);
    let (began, mut sent, mut slowest) = (Instant::now(), 1, Duration::ZERO);
    // Well within the stall: no row can reach the disk meanwhile.
    while began.elapsed() < ms(1_500) {
        let asked = Instant::now();
        gateway.chat(&body).await.expect(200);
        slowest = slowest.max(asked.elapsed());
        sent += 1;
    }
    let metrics = gateway.get("/metrics").await.text();
    assert!(metrics.contains("breakwater_ledger_durable_seq 1\n"), "it stalls: {metrics}");
    let waiting = metrics.lines().find_map(|l| l.strip_prefix("breakwater_ledger_rows_waiting ")).unwrap();
    // A checkpoint may wait among them.
    assert!(waiting.parse::<usize>().unwrap() >= sent - 1, "all {sent} rows but the first wait: {waiting}");
    assert!(sent > 20 && slowest < ms(500), "{sent} requests, the slowest took {slowest:?}");
    gateway.wait_rows(sent).await;
    assert!(began.elapsed() >= ms(1_900), "nothing came before the stall was over");
    gateway.run_by_url(&["ledger", "verify"]).expect(0);
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_is_told_before_it_is() {
    let a = Upstream::start();
    let mut gateway = Gateway::start(&Setup::single(&a).store("low_space: 1000000GiB")).await;
    eventually(secs(10), "readiness tells", async || {
        gateway.get("/health/ready").await.expect(200).json()["status"] == "disk_low"
    })
    .await;
    let ready = gateway.get("/health/ready").await.json();
    assert_eq!(ready["ledger"]["disk_low"], true, "{ready}");
    assert!(ready["ledger"]["free_bytes"].as_u64().is_some_and(|free| free > 0), "{ready}");
    gateway.chat(&chat_body("chat")).await.expect(200);
    assert!(gateway.get("/metrics").await.text().lines().any(|l| l == "breakwater_store_disk_low 1"));
    tokio::time::sleep(secs(3)).await;
    assert_eq!(gateway.log().matches("disk_low").count(), 1, "once per change: {}", gateway.log());
    let config = std::fs::read_to_string(gateway.config()).unwrap();
    std::fs::write(gateway.config(), config.replace("1000000GiB", "1B")).unwrap();
    gateway.restart().await;
    tokio::time::sleep(secs(2)).await;
    assert_eq!(gateway.get("/health/ready").await.json()["status"], "ready");
}

/// Endpoint `a` before `b` behind `chat`, which has a hard budget: an attempt's money is on disk before it leaves, and the disk has just
/// begun to stall. One request was answered before. `free` is `a` alone without a budget.
async fn stalled_under_a_hard_budget(a: &Upstream, b: &Upstream) -> Gateway {
    let breaker = "breaker: {consecutive_failures: 2, open_for: 60s}";
    let setup = Setup::new()
        .endpoint("a", a, &[breaker])
        .endpoint("b", b, &[])
        .route("chat", "priority", &["a", "b"], &["budget: {amount: 10, period: total, mode: hard}"])
        .route("free", "priority", &["a"], &["retry: {max_attempts: 1}"])
        .env("BREAKWATER_TEST_HOOKS", "1");
    let gateway = Gateway::start(&setup).await;
    gateway.chat(&chat_body("chat")).await.expect(200);
    gateway.wait_rows(1).await;
    gateway.admin("POST", "/admin/test/stall", None).await.expect(202);
    gateway
}

async fn wait_calls_out(gateway: &Gateway, name: &str, calls: u64) {
    let out = async || gateway.endpoint(name).await["limits"]["concurrency"]["in_use"].as_u64();
    eventually(secs(1), &format!("{calls} calls are out at {name}"), async || out().await == Some(calls)).await;
}

#[tokio::test]
async fn nothing_goes_to_an_endpoint_that_opens_while_the_money_is_put_on_disk() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let gateway = stalled_under_a_hard_budget(&a, &b).await;
    a.set(Reply::status(500));
    let opens = async {
        wait_calls_out(&gateway, "a", 1).await;
        for _ in 0..2 {
            gateway.chat(&chat_body("free")).await.expect(502);
        }
        gateway.wait_breaker("a", "open", secs(1)).await;
    };
    let (answer, ()) = tokio::join!(async { gateway.chat(&chat_body("chat")).await }, opens);
    assert_eq!(answer.expect(200).need("x-breakwater-endpoint"), "b");
    assert_eq!((answer.need("x-breakwater-attempts"), a.calls(), b.calls()), ("1", 3, 1));
    let id = answer.need("x-breakwater-request-id");
    let rows = gateway.rows_of(id, 1).await;
    assert_eq!((rows.len(), rows[0].get("endpoint"), rows[0].get("attempt")), (1, "b", "1"));
    let record = gateway.admin_get(&format!("/admin/decisions/{id}")).await;
    let refused = record["steps"].as_array().unwrap().iter().find(|s| s["step"] == "refused").cloned();
    assert_eq!(
        refused.map(|s| (s["endpoint"].clone(), s["reason"].clone())),
        Some(("a".into(), "breaker_open".into()))
    );
    wait_calls_out(&gateway, "a", 0).await;
}

#[tokio::test]
async fn a_caller_that_leaves_before_anything_was_sent_leaves_no_row() {
    let (a, b) = (Upstream::start(), Upstream::start());
    let gateway = stalled_under_a_hard_budget(&a, &b).await;
    let left = tokio::time::timeout(ms(500), gateway.chat(&chat_body("chat"))).await;
    assert!(left.is_err(), "the money cannot be on disk yet");
    wait_calls_out(&gateway, "a", 0).await;
    let budgets = gateway.admin_get("/admin/budgets").await;
    assert_eq!(budgets["budgets"][0]["reserved_nanousd"], 0, "{budgets}");
    // The store writes again, and knows of nothing between these two.
    let next = gateway.chat(&chat_body("chat")).await;
    let rows = gateway.wait_rows(2).await;
    assert_eq!(rows[1].get("request_id"), next.expect(200).need("x-breakwater-request-id"), "{rows:?}");
    assert_eq!((a.calls(), b.calls()), (2, 0));
}
