//! The price catalogue: what vendors list for their models, built into the binary from `data/prices.json`.
//!
//! It is asked only for endpoints without a `price`. Whose list counts is decided by the provider's host: the vendor's own entries
//! for a host that is known, and no others. For an unknown host (a proxy, a reseller) the lists of the models' makers are asked,
//! which is a guess, and the answer says so. A model is found by its exact name, then without a `vendor/` before it, then
//! without a date after it (`-2025-10-01`, `-20251001`); then by the same names with dots and dashes between digits alike
//! (`claude-sonnet-4.5` is `claude-sonnet-4-5`), unless the vendor lists several prices for what is then one name. Models listed at 0 count as not listed: what is free for one account is not
//! for another. Prices are read digit by digit.

use crate::config::model::DialectKind;
use crate::domain::model_name::undated;
use crate::domain::money::PicoUsdPerToken;
use crate::domain::price::Price;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

static FILE: &[u8] = include_bytes!("../../data/prices.json");

/// Hosts and the vendor whose prices hold there; a name that starts with a dot stands for all hosts that end in it.
const HOSTS: [(&str, &str); 40] = [
    ("api.openai.com", "openai"),
    ("api.anthropic.com", "anthropic"),
    ("generativelanguage.googleapis.com", "gemini"),
    (".aiplatform.googleapis.com", "vertex_ai"),
    ("aiplatform.googleapis.com", "vertex_ai"),
    (".openai.azure.com", "azure"),
    (".cognitiveservices.azure.com", "azure"),
    (".services.ai.azure.com", "azure_ai"),
    (".models.ai.azure.com", "azure_ai"),
    ("api.deepseek.com", "deepseek"),
    ("api.mistral.ai", "mistral"),
    ("codestral.mistral.ai", "mistral"),
    ("api.x.ai", "xai"),
    (".api.x.ai", "xai"),
    ("api.groq.com", "groq"),
    ("api.together.xyz", "together_ai"),
    ("api.together.ai", "together_ai"),
    ("api.fireworks.ai", "fireworks_ai"),
    ("api.deepinfra.com", "deepinfra"),
    ("api.novita.ai", "novita"),
    ("api.perplexity.ai", "perplexity"),
    (".nebius.com", "nebius"),
    (".nebius.ai", "nebius"),
    (".databricks.com", "databricks"),
    (".azuredatabricks.net", "databricks"),
    ("api.cloudflare.com", "cloudflare"),
    ("dashscope.aliyuncs.com", "dashscope"),
    ("dashscope-intl.aliyuncs.com", "dashscope"),
    ("dashscope-us.aliyuncs.com", "dashscope"),
    ("api.voyageai.com", "voyage"),
    ("api.hyperbolic.xyz", "hyperbolic"),
    ("api.z.ai", "zai"),
    ("open.bigmodel.cn", "zai"),
    ("api.moonshot.ai", "moonshot"),
    ("api.moonshot.cn", "moonshot"),
    ("api.cohere.com", "cohere"),
    ("api.cohere.ai", "cohere"),
    ("api.sambanova.ai", "sambanova"),
    ("api.cerebras.ai", "cerebras"),
    ("api.minimax.io", "minimax"),
];

/// Vendors whose entries the file keeps under several names.
const RELATED: [(&str, &[&str]); 2] =
    [("vertex_ai", &["vertex_ai-language-models", "vertex_ai-anthropic_models"]), ("cohere", &["cohere_chat"])];

/// Vendors that list models of their own make, in the order in which an unknown host's model is looked for.
const MAKERS: [&str; 12] = [
    "openai",
    "anthropic",
    "gemini",
    "deepseek",
    "mistral",
    "xai",
    "dashscope",
    "moonshot",
    "zai",
    "cohere",
    "minimax",
    "voyage",
];

/// What the catalogue knows of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// `None`: listed at 0, or without a price.
    pub price: Option<Arc<Price>>,
    /// Tokens.
    pub context: Option<u64>,
    /// Whose list it is.
    pub vendor: &'static str,
    /// Whether the vendor follows from the host rather than from the model's name alone.
    pub certain: bool,
    /// The list has dearer prices for long prompts, but not from where on.
    pub long_context_unknown: bool,
}

/// Looks a model up.
#[must_use]
pub fn find(dialect: DialectKind, host: &str, model: &str) -> Option<Listed> {
    let catalogue = catalogue();
    if let Some(vendor) = vendor_of(host) {
        let related = RELATED.iter().filter(|(v, _)| *v == vendor).flat_map(|(_, more)| more.iter().copied());
        return std::iter::once(vendor).chain(related).find_map(|v| catalogue.listed(v, model, true));
    }
    let own = match dialect {
        DialectKind::OpenAi => "openai",
    };
    std::iter::once(own).chain(MAKERS).find_map(|v| catalogue.listed(v, model, false))
}

/// One price of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub model: &'static str,
    pub vendor: &'static str,
    /// `None`: listed at 0, or without a price.
    pub price: Option<Price>,
    /// Tokens.
    pub context: Option<u64>,
}

/// Everything that is listed, sorted by vendor and model.
#[must_use]
pub fn entries() -> Vec<Entry> {
    let catalogue = catalogue();
    let models = catalogue.models.iter().flat_map(|(vendor, models)| models.values().map(|m| (*vendor, m)));
    let entry = |(vendor, m): (&'static str, &Model<'static>)| Entry {
        model: m.model,
        vendor,
        price: m.price(&catalogue.version),
        context: m.context,
    };
    let mut entries: Vec<_> = models.map(entry).collect();
    entries.sort_unstable_by_key(|e| (e.vendor, e.model));
    entries
}

/// The names under which a model is looked for, the first that is listed counts.
#[must_use]
pub fn names(model: &str) -> Vec<&str> {
    let bare = model.split_once('/').map_or(model, |(_, rest)| rest);
    let mut names: Vec<&str> = [Some(model), Some(bare), undated(model), undated(bare)].into_iter().flatten().collect();
    names.dedup();
    names
}

/// Whether a listed name is one of those under which `model` is looked for, dots and dashes between digits alike.
#[must_use]
pub fn is_called(listed: &str, model: &str) -> bool {
    let bare = listed.split_once('/').map_or(listed, |(_, rest)| rest);
    names(model).into_iter().any(|name| [listed, bare].iter().any(|own| form(own) == form(name)))
}

/// The name with a dash for each dot that stands between two digits.
fn form(name: &str) -> Cow<'_, str> {
    let bytes = name.as_bytes();
    let is_digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let between =
        |at: usize| bytes.get(at) == Some(&b'.') && is_digit(at.checked_sub(1)) && is_digit(at.checked_add(1));
    if !(0..bytes.len()).any(between) {
        return Cow::Borrowed(name);
    }
    name.char_indices().map(|(at, c)| if between(at) { '-' } else { c }).collect()
}

fn vendor_of(host: &str) -> Option<&'static str> {
    let is = |name: &str| if name.starts_with('.') { host.ends_with(name) } else { host == name };
    HOSTS.iter().find(|(name, _)| is(name)).map(|(_, vendor)| *vendor)
}

/// `catalogue:` and the first characters of the file's hash: part of each ledger row that was priced from it.
#[must_use]
pub fn version() -> Arc<str> {
    Arc::clone(&catalogue().version)
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    models: Vec<Model<'a>>,
}

#[derive(Deserialize)]
struct Model<'a> {
    model: &'a str,
    provider: &'a str,
    #[serde(borrow)]
    input: &'a RawValue,
    output: Option<&'a RawValue>,
    cache_read: Option<&'a RawValue>,
    cache_write: Option<&'a RawValue>,
    reasoning: Option<&'a RawValue>,
    long_context_input: Option<&'a RawValue>,
    context: Option<u64>,
}

struct Catalogue {
    models: HashMap<&'static str, HashMap<&'static str, Model<'static>>>,
    /// By vendor and [`form`] the names that have it.
    forms: HashMap<&'static str, HashMap<Cow<'static, str>, Vec<&'static str>>>,
    version: Arc<str>,
}

fn catalogue() -> &'static Catalogue {
    static CATALOGUE: OnceLock<Catalogue> = OnceLock::new();
    CATALOGUE.get_or_init(|| {
        // A test reads the file in full, so an empty list never stands for one that cannot be read.
        let file: File<'static> = serde_json::from_slice(FILE).unwrap_or(File { models: Vec::new() });
        let hash = blake3::hash(FILE).to_hex();
        Catalogue::of(file, format!("catalogue:{}", hash.get(..12).unwrap_or_default()).into())
    })
}

impl Catalogue {
    fn of(file: File<'static>, version: Arc<str>) -> Self {
        let mut models: HashMap<_, HashMap<_, _>> = HashMap::new();
        let mut forms: HashMap<_, HashMap<_, Vec<_>>> = HashMap::new();
        for m in file.models {
            forms.entry(m.provider).or_default().entry(form(m.model)).or_default().push(m.model);
            models.entry(m.provider).or_default().insert(m.model, m);
        }
        Self { models, forms, version }
    }

    fn listed(&self, vendor: &'static str, model: &str, certain: bool) -> Option<Listed> {
        let models = self.models.get(vendor)?;
        let names = names(model);
        let exact = names.iter().find_map(|name| models.get(name));
        let found = exact.or_else(|| names.iter().find_map(|name| self.by_form(vendor, name)))?;
        let price = found.price(&self.version).map(Arc::new);
        let long_context_unknown = found.long_context_input.is_some();
        Some(Listed { price, context: found.context, vendor, certain, long_context_unknown })
    }

    /// The model of this form, if the vendor lists one price for it.
    fn by_form(&self, vendor: &str, name: &str) -> Option<&Model<'static>> {
        let models = self.models.get(vendor)?;
        let (first, others) = self.forms.get(vendor)?.get(&form(name))?.split_first()?;
        let price = |name: &&str| models.get(name).map(|m| m.price(&self.version));
        others.iter().all(|other| price(other) == price(first)).then(|| models.get(first)).flatten()
    }
}

impl Model<'_> {
    fn price(&self, version: &str) -> Option<Price> {
        let read = |raw: &RawValue| PicoUsdPerToken::parse_usd_per_million(raw.get()).ok();
        let or = |raw: Option<&RawValue>, other: PicoUsdPerToken| raw.map_or(Some(other), read);
        let input = read(self.input)?;
        // Only embeddings are listed without an output price: they have no output.
        let output = or(self.output, PicoUsdPerToken::default())?;
        if input.0 == 0 && output.0 == 0 {
            return None;
        }
        let mut price = Price::flat(input, output, version);
        price.cached_input = or(self.cache_read, input)?;
        price.cache_write = or(self.cache_write, input)?;
        price.reasoning = or(self.reasoning, output)?;
        Some(price)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd(text: &str) -> PicoUsdPerToken {
        PicoUsdPerToken::parse_usd_per_million(text).unwrap()
    }

    fn openai(host: &str, model: &str) -> Option<Listed> {
        find(DialectKind::OpenAi, host, model)
    }

    #[test]
    fn the_whole_file_is_read_and_every_price_is_exact() {
        let file: File = serde_json::from_slice(FILE).unwrap();
        assert_eq!(file.models.len(), 2252);
        assert_eq!(catalogue().models.values().map(HashMap::len).sum::<usize>(), 2252);
        let unpriced: Vec<&str> = file.models.iter().filter(|m| m.price("v").is_none()).map(|m| m.model).collect();
        assert_eq!(unpriced.len(), 25, "{unpriced:?}");
        for vendor in HOSTS.iter().map(|(_, v)| *v).chain(MAKERS) {
            assert!(catalogue().models.contains_key(vendor), "{vendor}");
        }
    }

    #[test]
    fn a_known_host_decides_whose_price_holds() {
        let listed = openai("api.openai.com", "gpt-4.1").unwrap();
        let price = listed.price.unwrap();
        assert_eq!((price.input, price.output, price.cached_input), (usd("2"), usd("8"), usd("0.5")));
        assert_eq!(price.version, version());
        assert!(listed.certain && listed.context == Some(1_047_576));
        assert_eq!(openai("x.openai.azure.com", "eu/gpt-4.1").unwrap().price.unwrap().input, usd("2.2"));
        assert_eq!(openai("api.mistral.ai", "gpt-4.1"), None, "another vendor's price is no price here");
        let guessed = openai("proxy.example.com", "deepseek-v3.2").unwrap();
        assert_eq!((guessed.vendor, guessed.certain), ("deepseek", false));
    }

    #[test]
    fn every_entry_can_be_told() {
        let entries = entries();
        assert_eq!(entries.len(), 2252);
        assert!(entries.is_sorted_by_key(|e| (e.vendor, e.model)));
        let listed = openai("api.openai.com", "gpt-4.1").unwrap();
        let entry = entries.iter().find(|e| (e.vendor, e.model) == ("openai", "gpt-4.1")).unwrap();
        assert_eq!((entry.price.as_ref(), entry.context), (listed.price.as_deref(), listed.context));
        assert_eq!(
            names("openai/gpt-4.1-20311001"),
            ["openai/gpt-4.1-20311001", "gpt-4.1-20311001", "openai/gpt-4.1", "gpt-4.1"]
        );
        assert_eq!(names("gpt-4.1"), ["gpt-4.1"]);
    }

    #[test]
    fn a_form_that_has_several_prices_is_no_name() {
        assert_eq!(form("claude-sonnet-4.5-v1.0:0"), "claude-sonnet-4-5-v1-0:0");
        assert_eq!(form(".5a.5.b.é.5."), ".5a.5.b.é.5.");
        let file = r#"{"models":[
            {"model":"m-1.5","provider":"v","input":1,"output":2}, {"model":"m-1-5","provider":"v","input":3,"output":4},
            {"model":"o-1.5-0","provider":"v","input":1,"output":2}, {"model":"o-1-5.0","provider":"v","input":3,"output":4},
            {"model":"n-1.5.2","provider":"v","input":1,"output":2}, {"model":"n-1-5.2","provider":"v","input":1,"output":2}]}"#;
        let catalogue = Catalogue::of(serde_json::from_str(file).unwrap(), "test".into());
        let input = |model| catalogue.listed("v", model, true).map(|listed| listed.price.unwrap().input);
        assert_eq!((input("m-1.5"), input("m-1-5")), (Some(usd("1")), Some(usd("3"))), "exact names count");
        assert_eq!(input("v/m-1.5-20310101"), Some(usd("1")));
        assert_eq!((input("n-1-5-2"), input("n-1.5-2")), (Some(usd("1")), Some(usd("1"))), "one price under two names");
        assert_eq!(input("o-1-5-0"), None, "two prices");
        assert!(is_called("claude-sonnet-4-5", "anthropic/claude-sonnet-4.5-20250929"));
        assert!(!is_called("claude-sonnet-4-5", "claude-sonnet-4"));
    }

    #[test]
    fn aliases_are_a_vendor_before_and_a_date_after() {
        let plain = openai("api.openai.com", "gpt-4.1");
        for alias in ["openai/gpt-4.1", "gpt-4.1-2031-10-01", "openai/gpt-4.1-20311001"] {
            assert_eq!(openai("api.openai.com", alias), plain, "{alias}");
        }
        for other in ["gpt-4.1-2031-1-01", "-20311001", "gpt-4.1x", "é-20311001"] {
            assert_eq!(openai("api.openai.com", other), None, "{other}");
        }
    }

    #[test]
    fn vendors_names_and_dated_versions_find_their_price() {
        let none: Option<&str> = None;
        for (host, model, input, cached, output) in [
            ("api.openai.com", "gpt-4.1-2025-04-14", Some("2"), "0.5", "8"),
            ("api.openai.com", "openai/gpt-4.1", Some("2"), "0.5", "8"),
            // Not listed by this date: the undated entry holds.
            ("api.openai.com", "gpt-4.1-2099-01-01", Some("2"), "0.5", "8"),
            ("api.openai.com", "gpt-4o-mini-2024-07-18", Some("0.15"), "0.075", "0.6"),
            ("api.anthropic.com", "claude-sonnet-4-5-20250929", Some("3"), "0.3", "15"),
            ("api.anthropic.com", "anthropic/claude-sonnet-4-5", Some("3"), "0.3", "15"),
            ("generativelanguage.googleapis.com", "models/gemini-2.5-flash", Some("0.3"), "0.03", "2.5"),
            ("generativelanguage.googleapis.com", "gemini-2.5-flash", Some("0.3"), "0.03", "2.5"),
            ("api.deepseek.com", "deepseek-chat", Some("0.28"), "0.028", "0.42"),
            ("api.groq.com", "openai/gpt-oss-120b", Some("0.15"), "0.075", "0.6"),
            ("api.mistral.ai", "mistral-large-latest", Some("0.5"), "0.05", "1.5"),
            // No price is no price: never the one of something that is called alike, and never 0.
            ("api.openai.com", "gpt-4.1-turbo", none, "", ""),
            ("api.anthropic.com", "gpt-4.1", none, "", ""),
            ("api.openai.com", "ft:gpt-4.1:acme::1", none, "", ""),
            // Dots and dashes between digits are alike, and nowhere else.
            ("api.anthropic.com", "claude-sonnet-4.5", Some("3"), "0.3", "15"),
            ("api.anthropic.com", "anthropic/claude-sonnet-4.5-20250929", Some("3"), "0.3", "15"),
            ("api.openai.com", "gpt-4-1", Some("2"), "0.5", "8"),
            ("api.openai.com", "gpt.4.1", none, "", ""),
            ("api.openai.com", "gpt-41", none, "", ""),
        ] {
            let price = openai(host, model).and_then(|listed| listed.price);
            let found = price.map(|p| (p.input, p.cached_input, p.output));
            assert_eq!(found, input.map(|input| (usd(input), usd(cached), usd(output))), "{model} at {host}");
        }
    }
}
