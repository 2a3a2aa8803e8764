//! The `server`, `store`, `retry_budget` and `domains` blocks.

use crate::config::address;
use crate::config::model::{AuthMode, Durability, OnStoreFailure, Retention, ServerConfig, StoreConfig, TlsFiles};
use crate::config::reader::{Field, Section};
use crate::config::scalar::{decimal, duration, format_duration, parse_days, share, size, whole, word, yes_or_no};
use crate::config::tree::Scalar;
use crate::domain::domains::DomainSettings;
use crate::domain::settings::RetryBudgetSettings;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Reads `server` at the top of the file.
pub fn server(root: &mut Section<'_>) -> ServerConfig {
    let mut c = ServerConfig::default();
    let Some(mut s) = root.section("server") else { return c };
    s.set("listen", &mut c.listen, socket);
    s.set_or_none("admin_listen", &mut c.admin_listen, socket);
    if c.admin_listen == Some(c.listen) && c.listen.port() != 0 {
        s.field("admin_listen")
            .iter()
            .for_each(|f| f.fault("is the same as `listen`; expected another address, or null".into()));
    }
    let auth = s.field("auth");
    let auth_mode = word("required, open", |t| match t {
        "required" => Some(AuthMode::Required),
        "open" => Some(AuthMode::Open),
        _ => None,
    });
    if let Some(field) = auth {
        c.auth = field.get(auth_mode).unwrap_or(c.auth);
        if let Err(message) = address::may_listen(c.auth, c.listen) {
            field.fault(message);
        }
    }
    s.set("body_limit", &mut c.body_limit, size(1 << 10, 1 << 30));
    c.tls = tls(&mut s);
    s.set("drain", &mut c.drain, duration(Duration::ZERO, HOUR));
    s.set_or_none("workers", &mut c.workers, whole(1, 256));
    s.set("max_in_flight", &mut c.max_in_flight, whole(1, 1_000_000));
    s.set("max_waiting", &mut c.max_waiting, whole(0, 1_000_000));
    s.set("deadline", &mut c.deadline, duration(MS, HOUR * 24));
    s.set("metrics_auth", &mut c.metrics_auth, yes_or_no);
    s.set("write_stall", &mut c.write_stall, |s| match s.text.as_str() {
        "off" => Ok(None),
        _ => duration(SECOND, HOUR)(s).map(Some).map_err(|allowed| format!("{allowed}, or off")),
    });
    c
}

fn socket(s: &Scalar) -> Result<SocketAddr, String> {
    s.text.parse().map_err(|_| "an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080".into())
}

fn tls(server: &mut Section<'_>) -> Option<TlsFiles> {
    let field = server.field("tls").filter(|f| !f.is_null())?;
    let mut s = field.section()?;
    let cert = s.required("cert", "the path of a PEM file with the certificate chain");
    let key = s.required("key", "the path of a PEM file with the private key");
    let files = (cert.and_then(|f| readable(&f)), key.and_then(|f| readable(&f)));
    Some(TlsFiles { cert: files.0?, key: files.1? })
}

/// The path of a file that can be opened now.
fn readable(field: &Field<'_>) -> Option<PathBuf> {
    let path = field.get(|s| path(s, field.src.base_dir))?;
    if let Err(e) = std::fs::File::open(&path) {
        field.fault(format!("the file cannot be read: {e}"));
        return None;
    }
    Some(path)
}

fn path(s: &Scalar, base_dir: &Path) -> Result<PathBuf, String> {
    if s.is_null() || s.text.is_empty() || s.text.contains('\0') {
        return Err("a path; a relative one begins at the folder of this file".into());
    }
    Ok(base_dir.join(&s.text))
}

fn days_or_null(s: &Scalar) -> Result<Option<Duration>, String> {
    if s.is_null() {
        return Ok(None);
    }
    parse_days(&s.text)
        .map(Some)
        .ok_or_else(|| "whole days from 1d to 36500d, such as 400d, or null to keep all".into())
}

/// Room for about a million ledger rows, see docs/benchmarks.md.
const LOW_SPACE: u64 = 256 << 20;

/// Reads `store` at the top of the file.
pub fn store(root: &mut Section<'_>) -> StoreConfig {
    let base_dir = root.src.base_dir;
    let mut c = StoreConfig {
        path: base_dir.join("data/state"),
        durability: Durability::Group,
        on_failure: OnStoreFailure::ServeAndCount,
        low_space: LOW_SPACE,
        retention: Retention::default(),
    };
    let Some(mut s) = root.section("store") else { return c };
    s.set("path", &mut c.path, |s| path(s, base_dir));
    let durability = word("group, strict", |t| match t {
        "group" => Some(Durability::Group),
        "strict" => Some(Durability::Strict),
        _ => None,
    });
    s.set("durability", &mut c.durability, durability);
    let on_failure = word("serve_and_count, fail_closed", |t| match t {
        "serve_and_count" => Some(OnStoreFailure::ServeAndCount),
        "fail_closed" => Some(OnStoreFailure::FailClosed),
        _ => None,
    });
    s.set("on_failure", &mut c.on_failure, on_failure);
    s.set("low_space", &mut c.low_space, |s| size(0, 1 << 60)(s).map(|bytes| bytes as u64));
    if let Some(mut retention) = s.section("retention") {
        retention.set("rows", &mut c.retention.rows, days_or_null);
    }
    c
}

/// Reads `retry_budget` at the top of the file.
pub fn retry_budget(root: &mut Section<'_>) -> RetryBudgetSettings {
    let mut c = RetryBudgetSettings::default();
    let Some(mut s) = root.section("retry_budget") else { return c };
    s.set("ratio", &mut c.ratio, share(0.0, false));
    s.set("min_per_second", &mut c.min_per_second, decimal(1e6));
    s.set("window", &mut c.window, duration(SECOND, HOUR));
    c
}

/// Reads `domains` at the top of the file.
pub fn domains(root: &mut Section<'_>) -> DomainSettings {
    let mut c = DomainSettings::default();
    let Some(mut s) = root.section("domains") else { return c };
    s.set("share", &mut c.share, share(0.0, true));
    s.set("minimum", &mut c.minimum, whole(1, 1_000_000));
    s.set("within", &mut c.within, duration(MS, HOUR));
    s.set("open_for", &mut c.open_for, duration(MS, HOUR));
    s.set("max_open_for", &mut c.max_open_for, duration(MS, HOUR));
    if c.open_for > c.max_open_for {
        let (first, longest) = (format_duration(c.open_for), format_duration(c.max_open_for));
        s.fault(format!("`open_for` ({first}) is longer than `max_open_for` ({longest}); expected at most that"));
    }
    c
}
