//! Writes a `config.yaml` for a test. Every endpoint gets a provider of its own, whose key comes from the environment.

use super::upstream::Upstream;
use std::fmt::Write;

/// What the keys of providers begin with.
pub const UPSTREAM_KEY: &str = "sk-upstream-";

#[derive(Clone)]
struct Endpoint {
    name: String,
    base_url: String,
    key: String,
    /// A second key of the same provider.
    spare_key: Option<String>,
    settings: Vec<String>,
}

#[derive(Clone)]
struct Route {
    name: String,
    strategy: String,
    endpoints: Vec<String>,
    settings: Vec<String>,
}

#[derive(Clone)]
pub struct Setup {
    auth: &'static str,
    server: Vec<String>,
    store: Vec<String>,
    endpoints: Vec<Endpoint>,
    routes: Vec<Route>,
    pub env: Vec<(String, String)>,
    wrapper: Vec<String>,
    top: Vec<String>,
    serve: Vec<String>,
}

impl Setup {
    pub fn new() -> Self {
        Self {
            auth: "open",
            server: vec!["workers: 2".into()],
            store: vec![],
            endpoints: vec![],
            routes: vec![],
            env: vec![],
            wrapper: vec![],
            top: vec![],
            serve: vec![],
        }
    }

    /// One upstream `a`, asked for as `chat`.
    pub fn single(upstream: &Upstream) -> Self {
        Self::new().endpoint("a", upstream, &[]).route("chat", "priority", &["a"], &[])
    }

    /// `a` before `b`, asked for as `chat`; `a` has the settings.
    pub fn pair(a: &Upstream, b: &Upstream, settings_of_a: &[&str]) -> Self {
        Self::new().endpoint("a", a, settings_of_a).endpoint("b", b, &[]).route("chat", "priority", &["a", "b"], &[])
    }

    pub fn auth_required(mut self) -> Self {
        self.auth = "required";
        self
    }

    /// A line under `server:`.
    pub fn server(mut self, line: &str) -> Self {
        self.server.push(line.into());
        self
    }

    /// A line under `store:`.
    pub fn store(mut self, line: &str) -> Self {
        self.store.push(line.into());
        self
    }

    /// Lines at the top level of the file.
    pub fn top(mut self, lines: &str) -> Self {
        self.top.push(lines.into());
        self
    }

    /// An argument of `serve`.
    pub fn argument(mut self, argument: &str) -> Self {
        self.serve.push(argument.into());
        self
    }

    pub fn arguments(&self) -> &[String] {
        &self.serve
    }

    /// An endpoint `name` with the model `model-NAME`, 1 USD in and 2 USD out unless a setting says otherwise.
    pub fn endpoint(self, name: &str, upstream: &Upstream, settings: &[&str]) -> Self {
        self.endpoint_at(name, &upstream.base_url(), settings)
    }

    pub fn endpoint_at(mut self, name: &str, base_url: &str, settings: &[&str]) -> Self {
        let mut settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
        if !settings.iter().any(|s| s.starts_with("price:")) {
            settings.push("price: {input: 1.00, output: 2.00}".into());
        }
        let key = format!("{UPSTREAM_KEY}{name}");
        self.endpoints.push(Endpoint { name: name.into(), base_url: base_url.into(), key, spare_key: None, settings });
        self
    }

    /// The key that the provider of `endpoint` is configured with.
    pub fn upstream_key(mut self, endpoint: &str, key: &str) -> Self {
        self.endpoints.iter_mut().find(|e| e.name == endpoint).expect("an endpoint of that name").key = key.into();
        self
    }

    /// A second key that the provider of `endpoint` has.
    pub fn spare_key(mut self, endpoint: &str, key: &str) -> Self {
        let found = self.endpoints.iter_mut().find(|e| e.name == endpoint);
        found.expect("an endpoint of that name").spare_key = Some(key.into());
        self
    }

    pub fn route(mut self, name: &str, strategy: &str, endpoints: &[&str], settings: &[&str]) -> Self {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        self.routes.push(Route {
            name: name.into(),
            strategy: strategy.into(),
            endpoints: owned(endpoints),
            settings: owned(settings),
        });
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// A shell line that runs before the gateway, in the process that becomes it: limits, mounts, traps. `$STORE` is the store's
    /// folder, which does not exist yet.
    pub fn before(mut self, shell: &str) -> Self {
        self.wrapper = ["sh", "-ec", &format!("{shell}\nexec \"$@\""), "sh"].map(str::to_owned).to_vec();
        self
    }

    /// What the binary is started through; empty: nothing.
    pub fn wrapper(&self) -> &[String] {
        &self.wrapper
    }

    /// The environment that the configuration refers to.
    pub fn environment(&self) -> Vec<(String, String)> {
        let keys = self.endpoints.iter().map(|e| (variable(&e.name), e.key.clone()));
        keys.chain(self.env.iter().cloned()).collect()
    }

    pub fn yaml(&self, store: &std::path::Path) -> String {
        let mut y = format!("server:\n  listen: 127.0.0.1:0\n  auth: {}\n", self.auth);
        let lines = |y: &mut String, indent: &str, lines: &[String]| {
            for line in lines {
                writeln!(y, "{indent}{line}").unwrap();
            }
        };
        lines(&mut y, "  ", &self.server);
        writeln!(y, "store:\n  path: {}", store.display()).unwrap();
        lines(&mut y, "  ", &self.store);
        lines(&mut y, "", &self.top);
        y += "providers:\n";
        for e in &self.endpoints {
            let key = format!("\"${{{}}}\"", variable(&e.name));
            let keys = match &e.spare_key {
                None => format!("api_key: {key}"),
                Some(spare) => format!("api_keys: [{{key: {key}}}, {{key: \"{spare}\"}}]"),
            };
            let (name, url) = (&e.name, &e.base_url);
            writeln!(y, "  p-{name}: {{dialect: openai, base_url: \"{url}\", {keys}, allow_private: true}}").unwrap();
        }
        y += "endpoints:\n";
        for e in &self.endpoints {
            writeln!(y, "  {0}:\n    provider: p-{0}", e.name).unwrap();
            if !e.settings.iter().any(|s| s.starts_with("model:")) {
                writeln!(y, "    model: model-{}", e.name).unwrap();
            }
            lines(&mut y, "    ", &e.settings);
        }
        y += "routes:\n";
        for r in &self.routes {
            writeln!(y, "  {}:\n    strategy: {}\n    endpoints: [{}]", r.name, r.strategy, r.endpoints.join(", "))
                .unwrap();
            lines(&mut y, "    ", &r.settings);
        }
        y
    }
}

fn variable(endpoint: &str) -> String {
    format!("UPSTREAM_KEY_{}", endpoint.to_uppercase().replace('-', "_"))
}
