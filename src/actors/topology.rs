//! Which names clients may ask for, and which endpoints stand behind each.
//!
//! A configured route wins over an endpoint's name, and that over an upstream model's name. The table is immutable: a change makes
//! a new one and swaps it in; running requests keep the one they started with.

use crate::actors::board::EndpointCell;
use crate::config::model::RouteConfig;
use crate::domain::hedge::{HedgeSettings, Hedging};
use crate::domain::settings::RetrySettings;
use crate::domain::slo::Slo;
use crate::domain::strategy::StrategyKind;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    Route,
    Endpoint,
    Model,
}

#[derive(Debug)]
pub struct RouteTable {
    pub name: Arc<str>,
    pub kind: NameKind,
    pub strategy: StrategyKind,
    /// In the listed order.
    pub cells: Vec<Arc<EndpointCell>>,
    pub retry: RetrySettings,
    /// `None`: the server's.
    pub deadline: Option<Duration>,
    /// `None`: this route does not hedge.
    pub hedge: Option<Arc<Mutex<Hedging>>>,
    /// Another endpoint goes on with a stream that broke off.
    pub recover: bool,
    /// The first token that its streams wish for.
    pub slo: Option<Slo>,
}

#[derive(Debug, Default)]
pub struct Topology {
    pub cells: Vec<Arc<EndpointCell>>,
    routes: HashMap<Arc<str>, Arc<RouteTable>>,
    /// In the order of the file: routes, then endpoints, then models.
    names: Vec<Arc<str>>,
}

impl Topology {
    /// Builds the tables. Endpoints that a route names and that do not exist (removed at run time) are left out of it.
    #[must_use]
    pub fn new(cells: Vec<Arc<EndpointCell>>, routes: &[Arc<RouteConfig>]) -> Self {
        Self::after(&Self::default(), cells, routes)
    }

    /// As [`Self::new`], where routes keep what they have learnt in `former`.
    #[must_use]
    pub fn after(former: &Self, cells: Vec<Arc<EndpointCell>>, routes: &[Arc<RouteConfig>]) -> Self {
        let mut built = Self { cells: cells.clone(), ..Self::default() };
        for route in routes {
            let find = |name: &Arc<str>| cells.iter().find(|c| c.name == *name).cloned();
            built.add(RouteTable {
                name: Arc::clone(&route.name),
                kind: NameKind::Route,
                strategy: route.strategy,
                cells: route.endpoints.iter().filter_map(find).collect(),
                retry: route.retry.clone(),
                deadline: route.deadline,
                hedge: route.hedge.map(|settings| former.hedging(&route.name, settings)),
                recover: route.recover,
                slo: route.slo,
            });
        }
        let direct = |name: &Arc<str>, kind, cells| RouteTable {
            name: Arc::clone(name),
            kind,
            strategy: StrategyKind::Priority,
            cells,
            retry: RetrySettings::default(),
            deadline: None,
            hedge: None,
            recover: false,
            slo: None,
        };
        for cell in &cells {
            built.add(direct(&cell.name, NameKind::Endpoint, vec![Arc::clone(cell)]));
        }
        for cell in &cells {
            let model = Arc::clone(&cell.config().model);
            let same = cells.iter().filter(|c| c.config().model == model).cloned().collect();
            built.add(direct(&model, NameKind::Model, same));
        }
        built
    }

    fn hedging(&self, route: &str, settings: HedgeSettings) -> Arc<Mutex<Hedging>> {
        let kept = self.route(route).and_then(|r| r.hedge.clone()).filter(|h| h.lock().settings() == settings);
        kept.unwrap_or_else(|| Arc::new(Mutex::new(Hedging::new(settings))))
    }

    fn add(&mut self, table: RouteTable) {
        let name = Arc::clone(&table.name);
        if !self.routes.contains_key(&name) {
            self.names.push(Arc::clone(&name));
            self.routes.insert(name, Arc::new(table));
        }
    }

    #[must_use]
    pub fn route(&self, name: &str) -> Option<&Arc<RouteTable>> {
        self.routes.get(name)
    }

    #[must_use]
    pub fn cell(&self, name: &str) -> Option<&Arc<EndpointCell>> {
        self.cells.iter().find(|c| &*c.name == name)
    }

    /// Every name that can be asked for, each once.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<RouteTable>> {
        self.names.iter().filter_map(|n| self.routes.get(n))
    }
}
