//! `${NAME}` and `${NAME:-default}` in values, and secrets from files.
//!
//! As in a shell, the default also takes the place of a variable that is set but empty. `$${` stands for a plain `${`. What a
//! variable holds is put in once and not looked through again. Messages name variables and files, never what they hold.

use crate::config::reader::Env;
use crate::config::secret::Secret;
use std::io::Read;
use std::path::Path;

const MAX_SECRET: u64 = 16 << 10;

/// `text` with its variables put in; `None` if it has none.
///
/// # Errors
/// The variable that is not set, or what is wrong with the way it is written.
pub fn put_in(text: &str, env: Env<'_>) -> Result<Option<String>, String> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, found) = rest.split_at(at);
        if let Some(escaped) = before.strip_suffix('$') {
            out.push_str(escaped);
            out.push_str("${");
            rest = found.get(2..).unwrap_or_default();
            continue;
        }
        out.push_str(before);
        let (inside, after) = found
            .get(2..)
            .and_then(|f| f.split_once('}'))
            .ok_or("`${` has no `}` after it; expected ${NAME} or ${NAME:-default}")?;
        out.push_str(&value(inside, env)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(Some(out))
}

fn value(inside: &str, env: Env<'_>) -> Result<String, String> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.is_empty() || name.len() > 256 || name.starts_with(|c: char| c.is_ascii_digit()) || !name.bytes().all(fits)
    {
        return Err("a variable's name must be letters, digits and _; expected ${NAME} or ${NAME:-default}".into());
    }
    match (env(name), default) {
        (Some(set), None) => Ok(set),
        (Some(set), Some(_)) if !set.is_empty() => Ok(set),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => {
            Err(format!("the environment variable {name} is not set; set it or write ${{{name}:-default}}"))
        }
    }
}

/// A secret from its value in the file, variables put in: the text itself, or what `file:PATH` holds without spaces around it.
///
/// # Errors
/// What is wrong, without the secret.
pub fn secret(text: &str, base_dir: &Path) -> Result<Secret, String> {
    let from_file = match text.strip_prefix("file:") {
        Some(path) => Some(read_secret(&base_dir.join(path)).map_err(|e| format!("the secret file `{path}` {e}"))?),
        None => None,
    };
    let secret = from_file.as_deref().unwrap_or(text).trim();
    if secret.is_empty() {
        return Err("the key is empty; expected a secret, as ${NAME} or file:PATH".into());
    }
    if !secret.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("the key has characters that cannot stand in an HTTP header; expected visible ASCII".into());
    }
    Ok(Secret::new(secret))
}

fn read_secret(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|e| format!("cannot be read: {e}"))?;
    let mut bytes = Vec::new();
    file.take(MAX_SECRET + 1).read_to_end(&mut bytes).map_err(|e| format!("cannot be read: {e}"))?;
    if bytes.len() as u64 > MAX_SECRET {
        return Err(format!("is larger than {} KiB", MAX_SECRET >> 10));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("one".into()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${A}".into()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_put_in_once() {
        let ok = |t: &str| put_in(t, &env).unwrap().unwrap();
        assert_eq!(put_in("plain $A", &env), Ok(None));
        assert_eq!(ok("<${A}${A}>"), "<oneone>");
        assert_eq!(ok("${EMPTY}|${EMPTY:-x}|${NONE:-}|${NONE:-a:-b}"), "|x||a:-b");
        assert_eq!(ok("${NESTED} $${A}"), "${A} ${A}");
        for bad in ["${", "${A", "${}", "${a b}", "${1A}", "${NONE}"] {
            assert!(put_in(bad, &env).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_come_from_files_and_never_show() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key"), "sk-marker\n").unwrap();
        std::fs::write(dir.path().join("bad"), "sk-marker\nsecond").unwrap();
        assert_eq!(secret("file:key", dir.path()).unwrap().expose(), "sk-marker");
        for bad in ["file:bad", "file:none", "sk-marker\u{7f}", "  "] {
            let message = secret(bad, dir.path()).unwrap_err();
            assert!(!message.contains("sk-marker"), "{message}");
        }
    }
}
