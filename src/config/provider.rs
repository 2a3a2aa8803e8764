//! The `providers` block: accounts at vendors, with their addresses and keys.
//!
//! A provider needs a key unless it may have a private address, as a model server on the same machine does. A key that stands in
//! the file itself, and one that travels over plain http, is worth a warning.

use crate::config::address;
use crate::config::model::{ApiKey, DialectKind, ProviderConfig};
use crate::config::reader::{Field, Section};
use crate::config::scalar::{whole, yes_or_no};
use crate::config::tree::Value;
use crate::config::variables;
use std::sync::Arc;

const MAX_KEYS: usize = 64;

/// The dialects that exist elsewhere and not here yet.
const LATER: [&str; 2] = ["anthropic", "gemini"];

/// The providers by name; `None` for one with a fault, so that whoever names it is not told that it is missing.
pub type Providers = Vec<(Arc<str>, Option<Arc<ProviderConfig>>)>;

/// Reads one provider.
pub fn read(name: &str, field: &Field<'_>) -> Option<ProviderConfig> {
    let mut s = field.section()?;
    let dialect = match s.field("dialect") {
        Some(f) => f.get(|s| dialect(&s.text)),
        None => Some(DialectKind::OpenAi),
    };
    let mut allow_private = false;
    s.set("allow_private", &mut allow_private, yes_or_no);
    let base_url = match s.field("base_url") {
        Some(f) => address(&f, allow_private),
        None => dialect.map(|d| preset(d).into()),
    };
    let keys = keys(&mut s, allow_private);
    Some(ProviderConfig { name: name.into(), dialect: dialect?, base_url: base_url?, keys: keys?, allow_private })
}

fn dialect(text: &str) -> Result<DialectKind, String> {
    match text {
        "openai" => Ok(DialectKind::OpenAi),
        _ if LATER.contains(&text) => Err("openai; the others are not supported in this version".into()),
        _ => Err("openai".into()),
    }
}

/// Where a vendor's own SDK goes when it is told nothing.
fn preset(dialect: DialectKind) -> &'static str {
    match dialect {
        DialectKind::OpenAi => "https://api.openai.com/v1",
    }
}

fn address(field: &Field<'_>, allow_private: bool) -> Option<Arc<str>> {
    let url = field.get_unquoted(|s| address::base_url(&s.text, allow_private))?;
    if url.in_clear {
        field.warn("plain http to a public host: keys and prompts travel unencrypted; https:// is safer".into());
    }
    Some(url.url.into())
}

fn keys(s: &mut Section<'_>, keyless: bool) -> Option<Vec<ApiKey>> {
    match (s.field("api_key").filter(|f| !f.is_null()), s.field("api_keys")) {
        (Some(_), Some(many)) => {
            many.fault("stands beside `api_key`; expected one of the two".into());
            None
        }
        (Some(one), None) => Some(vec![ApiKey { key: secret(&one)?, weight: 1 }]),
        (None, Some(many)) => several(&many),
        (None, None) if keyless => Some(Vec::new()),
        (None, None) => {
            s.fault("`api_key` is missing; expected a secret, as ${NAME} or file:PATH, or `api_keys`".into());
            None
        }
    }
}

fn several(field: &Field<'_>) -> Option<Vec<ApiKey>> {
    let items = field.items()?;
    if items.is_empty() || items.len() > MAX_KEYS {
        field.fault(format!("{} keys are listed; expected 1 to {MAX_KEYS}", items.len()));
        return None;
    }
    let mut keys: Vec<ApiKey> = Vec::with_capacity(items.len());
    // Not short-circuited: every item's faults are reported.
    let read: Vec<Option<ApiKey>> = items.iter().map(one_of_several).collect();
    for (key, item) in read.into_iter().zip(&items) {
        let key = key?;
        if keys.iter().any(|k| k.key == key.key) {
            item.fault("the same key stands further up; expected each key once".into());
        }
        keys.push(key);
    }
    Some(keys)
}

fn one_of_several(item: &Field<'_>) -> Option<ApiKey> {
    if item.is_scalar() {
        return Some(ApiKey { key: secret(item)?, weight: 1 });
    }
    let mut s = item.section()?;
    let mut weight = 1;
    s.set("weight", &mut weight, whole(1, 1000));
    let key = secret(&s.required("key", "a secret, as ${NAME} or file:PATH")?)?;
    Some(ApiKey { key, weight })
}

fn secret(field: &Field<'_>) -> Option<crate::config::secret::Secret> {
    let secret = field.get_unquoted(|s| variables::secret(&s.text, field.src.base_dir))?;
    if let Value::Scalar(raw) = &field.node.value
        && !raw.text.contains("${")
        && !raw.text.starts_with("file:")
    {
        field.warn("a key stands in the file itself; ${NAME} or file:PATH keeps it out".into());
    }
    Some(secret)
}
