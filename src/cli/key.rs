//! `breakwater key`: virtual keys, in a stopped gateway's store or with `--url` in a running one.
//!
//! A secret is printed once, when its key is made; the store has only its hash.

use super::download::Download;
use super::place::{self, Place, Purpose};
use super::{Exit, out, remote, say};
use crate::clock;
use crate::domain::budget::period::Zone;
use crate::domain::budget::{self, Terms};
use crate::domain::key::{KeySecret, VirtualKey};
use crate::domain::queue::Priority;
use crate::domain::time::Wall;
use crate::store::{Area, StateStore};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

#[derive(Debug, clap::Args)]
pub struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, clap::Subcommand)]
enum KeyCommand {
    /// Make a key; its secret is shown once.
    Create(CreateArgs),
    /// Show all keys, without secrets.
    List(ListArgs),
    /// Make a key worthless at once and for good.
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    #[command(flatten)]
    place: Place,
    /// For people: whose key it is.
    #[arg(long, value_parser = name_of)]
    name: String,
    /// Routes and models that it may ask for, with commas; left out: all.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    models: Vec<String>,
    /// Requests per minute.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    rpm: Option<u64>,
    /// Tokens per minute.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    tpm: Option<u64>,
    /// How urgent its requests are while they wait for a place: high, normal or low.
    #[arg(long, value_parser = priority_of, default_value = "normal")]
    priority: Priority,
    /// Goes into each ledger row; can be given several times.
    #[arg(long = "tag", value_name = "K=V", value_parser = tag_of)]
    tags: Vec<(String, String)>,
    /// What it may spend per period, USD; the gateway refuses what would go beyond.
    #[arg(long, value_name = "USD", value_parser = amount_of, allow_negative_numbers = true)]
    budget: Option<String>,
    /// Calendar period of the budget: day, week, month or total.
    #[arg(long, requires = "budget", default_value = "month", value_parser = ["day", "week", "month", "total"])]
    period: String,
    /// Whose calendar, as an IANA name.
    #[arg(long, requires = "budget", value_name = "ZONE", default_value = "UTC", value_parser = zone_of)]
    timezone: String,
    /// hard: refuse what goes beyond the budget; soft: go to cheaper endpoints instead.
    #[arg(long, requires = "budget", default_value = "hard", value_parser = ["hard", "soft"])]
    budget_mode: String,
    /// When it ends: a date, or an RFC 3339 time.
    #[arg(long, value_name = "TIME", value_parser = Wall::parse)]
    expires_at: Option<Wall>,
    #[arg(long, value_enum, default_value_t = KeyFormat::Table)]
    format: KeyFormat,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    place: Place,
    #[arg(long, value_enum, default_value_t = KeyFormat::Table)]
    format: KeyFormat,
}

#[derive(Debug, clap::Args)]
struct RevokeArgs {
    #[command(flatten)]
    place: Place,
    /// The key's id, `key_…`.
    #[arg(value_parser = id_of)]
    id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum KeyFormat {
    Table,
    Json,
}

fn name_of(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 128 { Err("a name has 1 to 128 bytes".into()) } else { Ok(text.into()) }
}

fn id_of(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if text.bytes().all(fits) && text.starts_with("key_") { Ok(text.into()) } else { Err("an id is key_…".into()) }
}

fn amount_of(text: &str) -> Result<String, String> {
    budget::parse_amount(text).map(|_| text.to_owned())
}

fn zone_of(text: &str) -> Result<String, String> {
    Zone::parse(text).map(|zone| zone.name().to_owned())
}

fn priority_of(text: &str) -> Result<Priority, String> {
    Priority::parse(text).ok_or_else(|| "must be high, normal or low".into())
}

impl CreateArgs {
    fn terms(&self) -> Result<Option<Terms>, Exit> {
        let (period, zone, mode) = (Some(&*self.period), Some(&*self.timezone), Some(&*self.budget_mode));
        let terms = self.budget.as_ref().map(|amount| Terms::parse(amount, period, zone, mode));
        terms.transpose().map_err(|(field, why)| failed(format!("{field}: {why}")))
    }
}

fn tag_of(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("a tag is NAME=VALUE".into()),
    }
}

/// Runs a key command.
#[must_use]
pub fn run(args: &KeyArgs) -> Exit {
    let ended = match &args.command {
        KeyCommand::Create(args) => create(args),
        KeyCommand::List(args) => list(args),
        KeyCommand::Revoke(args) => revoke(args),
    };
    ended.unwrap_or_else(|exit| exit)
}

fn failed(why: impl std::fmt::Display) -> Exit {
    say(&why.to_string());
    Exit::Failed
}

fn create(args: &CreateArgs) -> Result<Exit, Exit> {
    let tags: BTreeMap<_, _> = args.tags.iter().cloned().collect();
    let budget = args.terms()?;
    let made: Value = if let Some(url) = &args.place.url {
        let wanted = json!({
            "name": args.name, "models": args.models, "rpm": args.rpm, "tpm": args.tpm, "priority": args.priority.as_str(), "tags": tags,
            "budget": budget.map(|b| json!({
                "amount_usd": b.amount.to_string(), "period": b.period.as_str(), "timezone": b.timezone.name(), "mode": b.mode.as_str(),
            })),
            "expires_at": args.expires_at.map(Wall::to_rfc3339),
        });
        let answer = remote::post(url, "/admin/keys", args.place.token.as_deref(), wanted.to_string());
        serde_json::from_slice(&answer.map_err(failed)?).map_err(failed)?
    } else {
        let (mut id, mut secret) = ([0; 12], [0; 32]);
        getrandom::fill(&mut id).and_then(|()| getrandom::fill(&mut secret)).map_err(failed)?;
        let secret = KeySecret::from_random(&secret);
        let key = VirtualKey {
            id: VirtualKey::id_from_random(&id),
            name: args.name.clone(),
            hash: secret.hash(),
            models: args.models.clone(),
            rpm: args.rpm,
            tpm: args.tpm,
            priority: args.priority,
            tags,
            budget,
            created_at: clock::wall(),
            expires_at: args.expires_at,
            revoked: false,
        };
        let state = args.place.open(Purpose::Begin)?.state();
        put(&state, &key, "create_key")?;
        let mut view = key.to_view();
        if let Some(map) = view.as_object_mut() {
            map.insert("secret".into(), secret.reveal().into());
        }
        view
    };
    match args.format {
        KeyFormat::Json => out(&format!("{made:#}\n")),
        KeyFormat::Table => {
            let text = |name: &str| made.get(name).and_then(Value::as_str).unwrap_or_default();
            out(&format!("id      {}\nsecret  {}\n", text("id"), text("secret")));
            say("the secret is not kept and cannot be shown again");
        }
    }
    Ok(Exit::Done)
}

/// Stores a key and notes the act in the audit log.
fn put(state: &StateStore, key: &VirtualKey, act: &str) -> Result<(), Exit> {
    let entry = json!({
        "at": clock::wall().to_rfc3339(), "act": act, "subject": key.id, "detail": key.name, "author": "command line",
    });
    let stored = state.put(Area::Key, &key.id, &key.to_bytes(), true);
    stored.and_then(|()| state.audit(entry.to_string().as_bytes())).map_err(|e| place::failed(&e))
}

fn stored_keys(state: &StateStore) -> Result<Vec<VirtualKey>, Exit> {
    let mut keys = Vec::new();
    for (id, bytes) in state.list(Area::Key).map_err(|e| place::failed(&e))? {
        match VirtualKey::from_bytes(&bytes) {
            Ok(key) => keys.push(key),
            Err(why) => say(&format!("warning: {id}: {why}")),
        }
    }
    Ok(keys)
}

fn list(args: &ListArgs) -> Result<Exit, Exit> {
    let keys: Value = if let Some(url) = &args.place.url {
        Download::get(url, "/admin/keys", &[], args.place.token.as_deref()).and_then(Download::json).map_err(failed)?
    } else {
        let state = args.place.open(Purpose::Read)?.state();
        json!({"keys": stored_keys(&state)?.iter().map(VirtualKey::to_view).collect::<Vec<_>>()})
    };
    match args.format {
        KeyFormat::Json => out(&format!("{keys:#}\n")),
        KeyFormat::Table => out(&table(&keys)),
    }
    Ok(Exit::Done)
}

fn revoke(args: &RevokeArgs) -> Result<Exit, Exit> {
    if let Some(url) = &args.place.url {
        let path = format!("/admin/keys/{}", args.id);
        let answer = Download::ask(Method::DELETE, url, &path, args.place.token.as_deref()).map_err(failed)?;
        answer.json::<Value>().map_err(failed)?;
    } else {
        let state = args.place.open(Purpose::Change)?.state();
        let Some(key) = stored_keys(&state)?.into_iter().find(|key| key.id == args.id) else {
            return Err(failed(format!("there is no key `{}`", args.id)));
        };
        put(&state, &VirtualKey { revoked: true, ..key }, "revoke_key")?;
    }
    out(&format!("{} is revoked\n", args.id));
    Ok(Exit::Done)
}

fn table(keys: &Value) -> String {
    let mut text = format!(
        "{:<20}  {:<8}  {:>8}  {:>10}  {:<34}  {:<27}  name\n",
        "id", "state", "rpm", "tpm", "budget", "created"
    );
    let now = clock::wall();
    for key in keys.get("keys").and_then(Value::as_array).into_iter().flatten() {
        let field = |name: &str| key.get(name).and_then(Value::as_str).unwrap_or("-");
        let limit = |name: &str| key.get(name).and_then(Value::as_u64).map_or_else(|| "-".into(), |n| n.to_string());
        let over = Wall::parse(field("expires_at")).is_ok_and(|end| end <= now);
        let state = match key.get("revoked").and_then(Value::as_bool) {
            Some(true) => "revoked",
            _ if over => "expired",
            _ => "live",
        };
        let name: String = field("name").chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        let _ = writeln!(
            text,
            "{:<20}  {state:<8}  {:>8}  {:>10}  {:<34}  {:<27}  {name}",
            field("id"),
            limit("rpm"),
            limit("tpm"),
            budget_of(key),
            field("created_at")
        );
    }
    text
}

/// `10 usd a month, 9.97 left`; a stopped gateway's keys have no figures.
fn budget_of(key: &Value) -> String {
    let Some(budget) = key.get("budget").filter(|budget| !budget.is_null()) else { return "-".into() };
    let usd = |name: &str| budget.get(name).and_then(Value::as_f64);
    let mut text = usd("amount_usd").unwrap_or_default().to_string() + " usd";
    match budget.get("period").and_then(Value::as_str) {
        Some("total") | None => text += " in all",
        Some(period) => text += &format!(" a {period}"),
    }
    if budget.get("mode").and_then(Value::as_str) == Some("soft") {
        text += ", soft";
    }
    if let Some(left) = usd("left_usd") {
        text += &format!(", {left} left");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{OpenOptions, Store};
    use clap::Parser;
    use std::path::Path;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: KeyArgs,
    }

    fn key(words: &[&str]) -> Exit {
        run(&Line::try_parse_from([&["key"], words].concat()).unwrap().args)
    }

    fn stored(path: &Path) -> (Vec<VirtualKey>, usize) {
        let (store, _) = Store::open(&OpenOptions::at(path, Wall(0))).unwrap();
        (stored_keys(&store.state()).unwrap(), store.state().audit_entries(99).unwrap().len())
    }

    #[test]
    fn keys_are_made_listed_and_revoked_in_a_stopped_store() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let name = path.display().to_string();
        assert_eq!(key(&["list", "--store", &name]), Exit::Usage, "a list makes no store");
        let wanted = ["--name", "team a", "--models", "chat,auto", "--rpm", "60", "--tag", "team=a", "--tag", "env=x"];
        assert_eq!(key(&[&["create", "--store", &name], &wanted[..]].concat()), Exit::Done);
        assert_eq!(key(&["create", "--store", &name, "--name", "b", "--format", "json"]), Exit::Done);
        let (keys, audited) = stored(&path);
        assert_eq!((keys.len(), audited), (2, 2));
        let made = keys.iter().find(|key| key.name == "team a").unwrap();
        assert_eq!((made.models.len(), made.rpm, made.tpm, made.revoked), (2, Some(60), None, false));
        assert_eq!(made.tags.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(), ["env=x", "team=a"]);
        assert_eq!(key(&["revoke", "--store", &name, &made.id]), Exit::Done);
        assert_eq!(key(&["revoke", "--store", &name, "key_unknown"]), Exit::Failed);
        let (keys, audited) = stored(&path);
        assert_eq!(keys.iter().filter(|key| key.revoked).map(|key| &key.id).collect::<Vec<_>>(), [&made.id]);
        assert_eq!(audited, 3);
        let urgent = ["create", "--store", &name, "--name", "c", "--priority", "high"];
        assert_eq!(key(&urgent), Exit::Done);
        assert_eq!(stored(&path).0.iter().filter(|key| key.priority == Priority::High).count(), 1);
        for format in ["table", "json"] {
            assert_eq!(key(&["list", "--store", &name, "--format", format]), Exit::Done);
        }
        let shown = table(&json!({"keys": keys.iter().map(VirtualKey::to_view).collect::<Vec<_>>()}));
        assert!(shown.lines().any(|line| line.contains("revoked") && line.ends_with("team a")), "{shown}");
    }

    #[test]
    fn nonsense_is_refused_before_anything_is_opened() {
        for words in [
            &["create", "--name", ""][..],
            &["create", "--name", "a", "--rpm", "0"],
            &["create", "--name", "a", "--priority", "urgent"],
            &["create", "--name", "a", "--tag", "novalue"],
            &["create", "--name", "a", "--expires-at", "soon"],
            &["revoke", "../endpoints/a"],
            &["list", "--store", "a", "--url", "http://b"],
        ] {
            assert!(Line::try_parse_from([&["key"], words].concat()).is_err(), "{words:?}");
        }
    }
}
