//! The configuration of `serve --demo`: `data/demo.yaml` with the simulated providers' addresses put in as variables, read by the
//! same code as any other.

use crate::config::fault::Faults;
use crate::config::load::parse;
use crate::config::model::Config;
use std::path::Path;

static TEMPLATE: &str = include_str!("../../data/demo.yaml");

/// The demo's endpoints by name, with the models that they stand for.
pub const ENDPOINTS: [(&str, &str); 4] = [
    ("deepseek", "deepseek-v3.2"),
    ("gemini", "gemini-2.5-flash"),
    ("gpt", "gpt-4.1"),
    ("claude", "claude-sonnet-4.5"),
];

/// The demo's configuration for simulated providers, each as (endpoint, model, base URL). All of [`ENDPOINTS`] must be among them.
///
/// # Errors
/// An endpoint that is missing, or an address that is none.
pub fn demo(endpoints: &[(&str, &str, &str)]) -> Result<Config, Faults> {
    let variable = |name: &str| {
        let find = |suffix: &str| {
            let endpoint = name.strip_suffix(suffix)?.to_ascii_lowercase();
            endpoints.iter().find(|(e, _, _)| *e == endpoint)
        };
        let model = || find("_MODEL").map(|(_, model, _)| (*model).to_owned());
        find("_BASE_URL").map(|(_, _, url)| (*url).to_owned()).or_else(model)
    };
    parse("data/demo.yaml", TEMPLATE, &variable, Path::new(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::AuthMode;
    use crate::domain::strategy::StrategyKind;

    #[test]
    fn every_strategy_has_a_route_over_all_four() {
        let all = ENDPOINTS.map(|(name, model)| (name, model, "http://127.0.0.1:4000/v1"));
        let config = demo(&all).unwrap();
        assert_eq!((config.server.auth, config.server.listen.port()), (AuthMode::Open, 8080));
        assert_eq!(config.warnings, []);
        let rows: Vec<_> = config
            .endpoints
            .iter()
            .map(|e| (&*e.model, e.price.as_ref().unwrap().output.0, e.limits.rpm.unwrap(), e.weight))
            .collect();
        assert_eq!(
            rows,
            [
                ("deepseek-v3.2", 420_000, 1000, 7),
                ("gemini-2.5-flash", 2_500_000, 800, 1),
                ("gpt-4.1", 8_000_000, 500, 1),
                ("claude-sonnet-4.5", 15_000_000, 500, 1),
            ]
        );
        for strategy in StrategyKind::ALL {
            assert!(config.routes.iter().any(|r| r.strategy == strategy && r.endpoints.len() == 4), "{strategy:?}");
        }
        let faults = demo(&all[..3]).unwrap_err().to_string();
        assert!(faults.contains("CLAUDE_BASE_URL is not set"), "{faults}");
    }
}
