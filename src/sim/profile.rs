//! What a simulated provider is like: models, speed, answers, access, and what goes wrong by itself.
//!
//! Read from JSON; unknown keys are refused and every number is checked. What can be changed while it runs is decided here
//! too ([`Profile::changed`]): everything but its name, address and TLS.

use super::dice::{Latency, Schedule};
use super::fault::{Fault, MAX_FAULTS, over_zero};
use super::kind::FaultKind;
use super::tls::Tls;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::net::SocketAddr;

/// A simulated provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    pub name: String,
    /// Names that it answers to; none: any.
    pub models: Vec<String>,
    /// Where it listens; none: an ephemeral port on 127.0.0.1.
    pub listen: Option<SocketAddr>,
    /// None: plain HTTP.
    pub tls: Option<Tls>,
    /// Time to the first token.
    pub latency: Latency,
    /// Pace after the first token; none: all at once.
    pub tokens_per_second: Option<f64>,
    /// Length of an answer, if the request sets no lower limit.
    pub output_tokens: u64,
    pub answer: Answer,
    /// Share (0..1) of the prompt that it reports as read from its cache.
    pub cached_share: f64,
    /// Reported on top of the tokens that are sent.
    pub reasoning_tokens: u64,
    /// Longest prompt in tokens; over it: 400 `context_length_exceeded`.
    pub context_tokens: Option<u64>,
    /// Accepted bearer tokens; none: everybody is let in.
    pub api_keys: Vec<String>,
    /// Requests per minute; over it: 429 with `retry-after`.
    pub rpm: Option<u32>,
    /// Whether answers carry `x-ratelimit-*-requests` (they need `rpm`).
    pub ratelimit_headers: bool,
    /// The faults at the start and after a reset.
    pub faults: Vec<Fault>,
    pub outages: Option<Outages>,
    pub seed: u64,
    /// How many of the last requests are kept with head and body.
    pub keep_requests: usize,
}

/// What the text of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "style", rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// `t0 t1 t2 …`
    Numbered {},
    /// The words of the last message.
    Echo {},
    /// As `numbered`, but an answer begun in the conversation (its last assistant message ends in `tN`, short of
    /// `output_tokens`) is gone on with, `overlap` tokens before its end.
    Continue {
        #[serde(default)]
        overlap: u64,
    },
}

/// When the provider is down, and how that looks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outages {
    pub when: Schedule,
    #[serde(default = "refuse")]
    pub fault: FaultKind,
}

fn refuse() -> FaultKind {
    FaultKind::Refuse
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            name: "sim".to_owned(),
            models: Vec::new(),
            listen: None,
            tls: None,
            latency: Latency::fixed(0.0),
            tokens_per_second: None,
            output_tokens: 16,
            answer: Answer::Numbered {},
            cached_share: 0.0,
            reasoning_tokens: 0,
            context_tokens: None,
            api_keys: Vec::new(),
            rpm: None,
            ratelimit_headers: false,
            faults: Vec::new(),
            outages: None,
            seed: 1,
            keep_requests: 32,
        }
    }
}

/// A profile or a list of faults that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadProfile(pub String);

impl fmt::Display for BadProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadProfile {}

impl Profile {
    /// A provider of this name with these models, as fast as the machine allows.
    #[must_use]
    pub fn new(name: &str, models: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            models: models.iter().map(|&model| model.to_owned()).collect(),
            ..Self::default()
        }
    }

    /// Reads a profile file: one profile, or an array of them.
    ///
    /// # Errors
    /// What is wrong, with line and column where it is JSON's fault.
    pub fn read(json: &str) -> Result<Vec<Self>, BadProfile> {
        let bad = |e: serde_json::Error| BadProfile(e.to_string());
        let profiles: Vec<Self> = if json.trim_start().starts_with('[') {
            serde_json::from_str(json).map_err(bad)?
        } else {
            vec![serde_json::from_str(json).map_err(bad)?]
        };
        for profile in &profiles {
            profile.check()?;
        }
        for (i, profile) in profiles.iter().enumerate() {
            if profiles.iter().take(i).any(|other| other.name == profile.name) {
                return Err(BadProfile(format!("{}: a second profile of that name", profile.name)));
            }
        }
        Ok(profiles)
    }

    /// Checks every number.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), BadProfile> {
        let bad = |why: String| Err(BadProfile(format!("{}: {why}", self.name)));
        if let Err(why) = self.latency.check() {
            return bad(format!("latency: {why}"));
        }
        if self.tokens_per_second.is_some_and(|rate| !over_zero(rate)) {
            return bad("tokens_per_second must be over 0".to_owned());
        }
        if !(0.0..=1.0).contains(&self.cached_share) {
            return bad(format!("cached_share {} is not between 0 and 1", self.cached_share));
        }
        if self.rpm == Some(0) {
            return bad("rpm must be over 0; leave it out for no limit".to_owned());
        }
        if self.keep_requests > 10_000 {
            return bad(format!("keep_requests {} is over 10000", self.keep_requests));
        }
        if let Some(outages) = &self.outages {
            let fault = Fault::from(outages.fault.clone());
            if let Err(why) = outages.when.check().and_then(|()| fault.check()) {
                return bad(format!("outages: {why}"));
            }
        }
        check_faults(&self.faults).or_else(|e| bad(e.0))
    }

    /// This profile with some keys replaced.
    ///
    /// # Errors
    /// An unknown or fixed key, or a value that cannot be used; nothing is changed then.
    pub fn changed(&self, keys: Map<String, Value>) -> Result<Self, BadProfile> {
        if let Some(fixed) = keys.keys().find(|key| matches!(key.as_str(), "name" | "listen" | "tls")) {
            return Err(BadProfile(format!("`{fixed}` cannot be changed while it runs")));
        }
        let mut all = serde_json::to_value(self).map_err(|e| BadProfile(e.to_string()))?;
        if let Value::Object(all) = &mut all {
            all.extend(keys);
        }
        let changed: Self = serde_json::from_value(all).map_err(|e| BadProfile(e.to_string()))?;
        changed.check()?;
        Ok(changed)
    }

    pub(super) fn serves(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|m| m == model)
    }
}

/// Checks a list of faults.
///
/// # Errors
/// The first fault that cannot be used, and why.
pub(super) fn check_faults(faults: &[Fault]) -> Result<(), BadProfile> {
    if faults.len() > MAX_FAULTS {
        return Err(BadProfile(format!("{} faults are more than {MAX_FAULTS}", faults.len())));
    }
    faults.iter().try_for_each(|fault| fault.check().map_err(BadProfile))
}

/// The four models of the demo, with about their real latencies and speeds.
#[must_use]
pub fn demo() -> Vec<Profile> {
    [
        ("deepseek", "deepseek-v3.2", 40.0, 60.0, 1000),
        ("gemini", "gemini-2.5-flash", 80.0, 160.0, 800),
        ("gpt", "gpt-4.1", 100.0, 90.0, 500),
        ("claude", "claude-sonnet-4.5", 120.0, 75.0, 500),
    ]
    .into_iter()
    .zip(1..)
    .map(|((name, model, median_ms, tokens_per_second, rpm), seed)| Profile {
        latency: Latency::Lognormal { median_ms, p99_ms: median_ms * 3.0 },
        tokens_per_second: Some(tokens_per_second),
        output_tokens: 48,
        answer: Answer::Continue { overlap: 0 },
        rpm: Some(rpm),
        ratelimit_headers: true,
        seed,
        ..Profile::new(name, &[model])
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_file_holds_one_profile_or_several() {
        let one = Profile::read(r#"{"name": "a", "latency": {"dist": "fixed", "ms": 5}}"#).unwrap();
        assert_eq!(one, [Profile { latency: Latency::fixed(5.0), ..Profile::new("a", &[]) }]);
        let text = serde_json::to_string(&demo()).unwrap();
        assert_eq!(Profile::read(&text).unwrap(), demo());
    }

    #[test]
    fn faults_in_a_file_are_told_with_their_place() {
        for (text, why) in [
            (r#"{"nmae": "a"}"#, "unknown field `nmae`"),
            (r#"{"latency": {"dist": "fixed", "ms": 5, "x": 1}}"#, "unknown field `x`"),
            (r#"{"answer": {"style": "numbered", "x": 1}}"#, "unknown field `x`"),
            (r#"{"faults": [{"kind": "hang", "x": 1}]}"#, "unknown key `x`"),
            (r#"{"rpm": 0}"#, "rpm must be over 0"),
            (r#"{"tokens_per_second": -1}"#, "over 0"),
            (r#"[{"name": "a"}, {"name": "a"}]"#, "second profile"),
            ("{", "line 1"),
        ] {
            let got = Profile::read(text).unwrap_err().0;
            assert!(got.contains(why), "{text}: {got}");
        }
    }

    #[test]
    fn only_what_may_change_changes() {
        let old = Profile::new("a", &["m"]);
        let Value::Object(keys) = json!({"output_tokens": 3, "rpm": 60}) else { unreachable!() };
        let new = old.changed(keys).unwrap();
        assert_eq!(new, Profile { output_tokens: 3, rpm: Some(60), ..old.clone() });
        for keys in [json!({"name": "b"}), json!({"listen": null}), json!({"speed": 3}), json!({"rpm": 0})] {
            let Value::Object(keys) = keys else { unreachable!() };
            assert!(old.changed(keys).is_err());
        }
    }
}
