//! The baseline of a comparison by its name: a configured endpoint, else a configured model, else a model of the price catalogue.

use crate::config::catalogue;
use crate::config::model::{DialectKind, EndpointConfig};
use crate::domain::savings::Baseline;
use std::sync::Arc;

/// Finds what `name` means. Of several endpoints with one model the first in the configuration's order is taken.
///
/// # Errors
/// It is nothing known, or has no price.
pub fn baseline(endpoints: &[Arc<EndpointConfig>], name: &str) -> Result<Baseline, String> {
    let endpoint = endpoints.iter().find(|e| *e.name == *name);
    let priced = endpoints.iter().find(|e| *e.model == *name && e.price.is_some());
    if let Some(endpoint) = endpoint.or(priced) {
        let price = endpoint.price.clone().ok_or_else(|| format!("endpoint `{name}` has no price"))?;
        return Ok(Baseline { name: name.to_owned(), source: format!("endpoint {}", endpoint.name), price });
    }
    match catalogue::find(DialectKind::OpenAi, "", name) {
        Some(listed) => {
            let price = listed.price.ok_or_else(|| format!("`{name}` is listed without a price"))?;
            Ok(Baseline { name: name.to_owned(), source: format!("list of {}", listed.vendor), price })
        }
        None => {
            let known: Vec<_> = endpoints.iter().take(10).map(|e| &*e.name).collect();
            Err(format!(
                "`{name}` is neither an endpoint ({}), nor a model of one or of the price catalogue",
                known.join(", ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use std::path::Path;

    #[test]
    fn endpoints_come_before_models_and_the_catalogue() {
        let text = "providers: {p: {dialect: openai, base_url: 'https://api.openai.com/v1', api_key: k}}\n\
                    endpoints:\n  gpt: {provider: p, model: gpt-4.1, price: {input: 9, output: 9}}\n  \
                    other: {provider: p, model: gpt, price: {input: 1, output: 1}}\n  \
                    bare: {provider: p, model: not-listed}\n";
        let config = config::parse("config.yaml", text, &|_: &str| None, Path::new("")).unwrap();
        let input = |name: &str| baseline(&config.endpoints, name).map(|b| (b.source, b.price.input.to_string()));
        assert_eq!(input("gpt"), Ok(("endpoint gpt".into(), "9.00".into())));
        assert_eq!(input("gpt-4.1"), Ok(("endpoint gpt".into(), "9.00".into())));
        assert_eq!(input("claude-haiku-4-5"), Ok(("list of anthropic".into(), "1.00".into())));
        assert!(input("bare").unwrap_err().contains("no price"));
        assert!(input("nonsense").unwrap_err().contains("gpt, other, bare"));
    }
}
