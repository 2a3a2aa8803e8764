//! The budgets of the process: which apply to a request, and what is spent under them.
//!
//! - Which budgets apply is looked up in tables by key, tag, route and endpoint; where there is no budget at all, one flag says so.
//! - Spend is what the ledger's sums say for the present period ([`recall`]), plus what has been charged since. So a restart, a new
//!   budget and a changed one all start from the ledger, and there is no second account to disagree with it.
//! - A budget that is found again by name, scope, period and zone after a reload keeps its figures.
//! - A key's tag cannot be replaced by the caller where a budget hangs on it.

mod recall;

use crate::clock;
use crate::domain::budget::book::{Book, BudgetId, Demand, Figures};
use crate::domain::budget::{Budget, Mode, Scope, Terms};
use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;
use crate::engine::gateway::Gateway;
use crate::engine::hints::Tags;
use crate::engine::record::DecisionBudget;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use tokio::sync::Notify;

/// A budget and its place in the book.
#[derive(Clone, Debug)]
pub struct Entry {
    pub id: BudgetId,
    pub budget: Arc<Budget>,
}

/// The budgets of the configuration, by what they hang on.
#[derive(Debug, Default)]
struct Table {
    all: Vec<Entry>,
    by_key: HashMap<Arc<str>, Vec<Entry>>,
    by_route: HashMap<Arc<str>, Vec<Entry>>,
    by_endpoint: HashMap<Arc<str>, Vec<Entry>>,
    /// By the tag's name, then by its value.
    by_tag: HashMap<Arc<str>, HashMap<Arc<str>, Vec<Entry>>>,
}

impl Table {
    fn new(all: Vec<Entry>) -> Self {
        let mut table = Self::default();
        for entry in &all {
            let slot = match &entry.budget.scope {
                Scope::Key(id) => table.by_key.entry(Arc::clone(id)),
                Scope::Route(name) => table.by_route.entry(Arc::clone(name)),
                Scope::Endpoint(name) => table.by_endpoint.entry(Arc::clone(name)),
                Scope::Tag(name, value) => table.by_tag.entry(Arc::clone(name)).or_default().entry(Arc::clone(value)),
            };
            slot.or_default().push(entry.clone());
        }
        table.all = all;
        table
    }
}

/// What a request falls under, its endpoints apart.
#[derive(Debug)]
pub struct Applied {
    table: Arc<Table>,
    pub entries: Vec<Entry>,
}

impl Applied {
    /// The budgets of an attempt at this endpoint.
    #[must_use]
    pub fn at(&self, endpoint: &str) -> Vec<Entry> {
        let more = self.table.by_endpoint.get(endpoint).into_iter().flatten();
        self.entries.iter().chain(more).cloned().collect()
    }

    /// The first hard budget that does not hang on an endpoint: none of the candidates may be without a price.
    #[must_use]
    pub fn hard(&self) -> Option<Arc<str>> {
        let hard = self.entries.iter().find(|e| e.budget.terms.mode == Mode::Hard);
        hard.map(|e| Arc::clone(&e.budget.name))
    }
}

#[derive(Default)]
pub struct Budgets {
    /// Whether there is any budget.
    any: AtomicBool,
    /// Rises with every change of what applies to whom.
    version: AtomicU64,
    table: RwLock<Arc<Table>>,
    /// Of virtual keys, by their id.
    keys: RwLock<HashMap<Arc<str>, Entry>>,
    pub(super) book: Mutex<Book<Arc<Notify>>>,
    /// Attempts that cost more than was reserved for them: the upstream did not keep to `max_tokens`, or the prompt was longer
    /// than any estimate.
    pub overruns: AtomicU64,
    /// Attempts that left although their reservation was not on disk: the store did not write.
    pub unsecured: AtomicU64,
}

/// Tells those whose turn may have come.
pub(super) fn tell(told: Vec<Arc<Notify>>) {
    told.iter().for_each(|waker| waker.notify_one());
}

impl Budgets {
    /// What applies to a request; `None` if nothing does, at any endpoint.
    #[must_use]
    pub fn applied(&self, key_id: &str, route: &str, tags: &Tags) -> Option<Box<Applied>> {
        if !self.any.load(Acquire) {
            return None;
        }
        let table = Arc::clone(&self.table.read());
        let mut entries: Vec<Entry> = self.keys.read().get(key_id).cloned().into_iter().collect();
        entries.extend(table.by_key.get(key_id).into_iter().flatten().cloned());
        entries.extend(table.by_route.get(route).into_iter().flatten().cloned());
        if !table.by_tag.is_empty() {
            let found = |(name, value): &(Box<str>, Box<str>)| table.by_tag.get(&**name)?.get(&**value);
            entries.extend(tags.iter().filter_map(found).flatten().cloned());
        }
        let applies = !entries.is_empty() || !table.by_endpoint.is_empty();
        applies.then(|| Box::new(Applied { table, entries }))
    }

    /// Of the tables as they are now.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// The budgets that an attempt which ends now is charged to; `began` is what applied when its request came in, and `version` the
    /// tables' of then.
    #[must_use]
    pub(super) fn charged(
        &self,
        (began, version): (Option<&Applied>, u64),
        (key_id, route, tags): (&str, &str, &Tags),
        endpoint: &str,
    ) -> Vec<Entry> {
        if version == self.version() {
            return began.map(|applied| applied.at(endpoint)).unwrap_or_default();
        }
        self.applied(key_id, route, tags).map(|applied| applied.at(endpoint)).unwrap_or_default()
    }

    /// The tags of a request, with those of the key on top where a budget hangs on a tag of that name.
    #[must_use]
    pub fn firm(&self, tags: Tags, of_key: &BTreeMap<String, String>) -> Tags {
        if of_key.is_empty() || !self.any.load(Acquire) {
            return tags;
        }
        let table = Arc::clone(&self.table.read());
        let replaced = |name: &str, value: &str| {
            let firm = of_key.get(name).filter(|_| table.by_tag.contains_key(name))?;
            (*firm != *value).then(|| firm.as_str().into())
        };
        if !tags.iter().any(|(name, value)| replaced(name, value).is_some()) {
            return tags;
        }
        tags.iter()
            .map(|(name, value)| (name.clone(), replaced(name, value).unwrap_or_else(|| value.clone())))
            .collect()
    }

    /// Whether one of these soft budgets is exceeded already.
    #[must_use]
    pub fn is_exceeded<'a>(&self, entries: impl Iterator<Item = &'a Entry>) -> bool {
        let now = clock::wall();
        let probe = Demand { ceiling: NanoUsd(i64::MAX), least: NanoUsd(1), expected: NanoUsd(1), hurried: false };
        let mut soft = entries.filter(|e| e.budget.terms.mode == Mode::Soft);
        soft.any(|entry| self.book.lock().is_exceeded(now, entry.id, &probe))
    }

    /// Whether a soft budget of the endpoint itself is exceeded.
    #[must_use]
    pub fn endpoint_is_exceeded(&self, applied: &Applied, endpoint: &str) -> bool {
        applied.table.by_endpoint.get(endpoint).is_some_and(|entries| self.is_exceeded(entries.iter()))
    }

    /// Takes in the budget of a virtual key. `known`: the key is new, nothing can have been spent.
    pub fn put_key(&self, key_id: &str, terms: &Terms, known: bool) -> Entry {
        let budget = Arc::new(Budget::of(Scope::Key(key_id.into()), terms.clone()));
        let id = self.book.lock().open(terms.clone(), clock::wall(), known);
        let entry = Entry { id, budget };
        self.keys.write().insert(key_id.into(), entry.clone());
        self.changed();
        entry
    }

    fn changed(&self) {
        let any = !self.keys.read().is_empty() || !self.table.read().all.is_empty();
        self.any.store(any, Release);
        self.version.fetch_add(1, Release);
    }

    /// Swaps in the budgets of a configuration; returns those whose spend has to be summed up.
    pub(super) fn replace(&self, budgets: Vec<Arc<Budget>>) -> Vec<Entry> {
        let now = clock::wall();
        let before = Arc::clone(&self.table.read());
        let mut fresh = Vec::new();
        let mut told = Vec::new();
        let mut book = self.book.lock();
        let same = |a: &Budget, b: &Budget| {
            a.name == b.name
                && a.scope == b.scope
                && a.terms.period == b.terms.period
                && a.terms.timezone == b.terms.timezone
        };
        let mut all = Vec::with_capacity(budgets.len());
        for budget in budgets {
            let entry = match before.all.iter().find(|old| same(&old.budget, &budget)) {
                Some(old) => {
                    told.extend(book.amend(old.id, budget.terms.amount, budget.terms.mode));
                    Entry { id: old.id, budget }
                }
                None => {
                    let entry = Entry { id: book.open(budget.terms.clone(), now, false), budget };
                    fresh.push(entry.clone());
                    entry
                }
            };
            all.push(entry);
        }
        for gone in before.all.iter().filter(|old| !all.iter().any(|kept| kept.id == old.id)) {
            told.extend(book.close(gone.id));
        }
        drop(book);
        *self.table.write() = Arc::new(Table::new(all));
        self.changed();
        tell(told);
        fresh
    }

    fn figures_of(&self, id: BudgetId) -> Option<Figures> {
        self.book.lock().figures(clock::wall(), id)
    }

    /// What applies to a request, with what is left, for its explanation.
    #[must_use]
    pub fn shown<'a>(&self, applied: &Applied, endpoints: impl Iterator<Item = &'a Arc<str>>) -> Vec<DecisionBudget> {
        let show = |entry: &Entry, endpoint: Option<&Arc<str>>| {
            let figures = self.figures_of(entry.id)?;
            Some(DecisionBudget {
                budget: Arc::clone(&entry.budget.name),
                mode: figures.mode.as_str().to_owned(),
                amount_usd: figures.amount.usd(),
                left_usd: figures.known.then(|| figures.left.usd()),
                period_end: figures.span.end.map(Wall::to_rfc3339),
                endpoint: endpoint.cloned(),
            })
        };
        let of_all = applied.entries.iter().filter_map(|entry| show(entry, None));
        let of_endpoint = |name: &'a Arc<str>| {
            let entries = applied.table.by_endpoint.get(name).into_iter().flatten();
            entries.filter_map(move |entry| show(entry, Some(name))).collect::<Vec<_>>()
        };
        of_all.chain(endpoints.flat_map(of_endpoint)).collect()
    }

    /// The figures of a key's own budget.
    #[must_use]
    pub fn of_key(&self, key_id: &str) -> Option<(Entry, Figures)> {
        let entry = self.keys.read().get(key_id).cloned()?;
        let figures = self.figures_of(entry.id)?;
        Some((entry, figures))
    }

    /// The budgets of the configuration with their figures.
    #[must_use]
    pub fn configured(&self) -> Vec<(Entry, Figures)> {
        let table = Arc::clone(&self.table.read());
        table.all.iter().filter_map(|e| Some((e.clone(), self.figures_of(e.id)?))).collect()
    }

    /// The budgets of virtual keys with their figures, by key id.
    #[must_use]
    pub fn of_keys(&self) -> Vec<(Entry, Figures)> {
        let mut entries: Vec<Entry> = self.keys.read().values().cloned().collect();
        entries.sort_by(|a, b| a.budget.name.cmp(&b.budget.name));
        entries.into_iter().filter_map(|e| self.figures_of(e.id).map(|figures| (e, figures))).collect()
    }

    /// The sums over the budgets of virtual keys. Takes time by their number, and lets others in between.
    #[must_use]
    pub fn keys_together(&self) -> KeyBudgets {
        const AT_ONCE: usize = 256;
        let ids: Vec<BudgetId> = self.keys.read().values().map(|entry| entry.id).collect();
        let (mut spent, mut left, mut nearly) = (NanoUsd::ZERO, NanoUsd::ZERO, 0);
        for ids in ids.chunks(AT_ONCE) {
            let (now, mut book) = (clock::wall(), self.book.lock());
            for figures in ids.iter().filter_map(|id| book.figures(now, *id)) {
                spent = NanoUsd(spent.0.saturating_add(figures.spent.0));
                left = NanoUsd(left.0.saturating_add(figures.left.0));
                nearly += usize::from(figures.left.0 < figures.amount.0 / 100);
            }
        }
        KeyBudgets { count: ids.len(), spent: nearly, spent_usd: spent.usd(), left_usd: left.usd() }
    }
}

/// The budgets of virtual keys together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KeyBudgets {
    pub count: usize,
    /// Those of which less than a hundredth is left.
    pub spent: usize,
    pub spent_usd: f64,
    pub left_usd: f64,
}

impl Gateway {
    /// Every budget as operators see it.
    #[must_use]
    pub fn budget_views(&self) -> serde_json::Value {
        let all = self.budgets.configured().into_iter().chain(self.budgets.of_keys());
        serde_json::json!({
            "budgets": all.map(|(entry, figures)| view(&entry, &figures)).collect::<Vec<_>>(),
            "overruns": self.budgets.overruns.load(Relaxed),
            "unsecured": self.budgets.unsecured.load(Relaxed),
        })
    }
}

/// A budget as operators see it. Amounts are exact decimals in text beside the numbers.
#[must_use]
pub fn view(entry: &Entry, f: &Figures) -> serde_json::Value {
    let Budget { name, scope, terms } = &*entry.budget;
    let scope = match scope {
        Scope::Key(id) => serde_json::json!({ "key": &**id }),
        Scope::Tag(tag, value) => serde_json::json!({ "tag": format!("{tag}={value}") }),
        Scope::Route(route) => serde_json::json!({ "route": &**route }),
        Scope::Endpoint(endpoint) => serde_json::json!({ "endpoint": &**endpoint }),
    };
    serde_json::json!({
        "name": &**name,
        "scope": scope,
        "mode": f.mode.as_str(),
        "period": terms.period.as_str(),
        "timezone": terms.timezone.name(),
        "period_start": f.span.start.map(Wall::to_rfc3339),
        "period_end": f.span.end.map(Wall::to_rfc3339),
        "amount_usd": f.amount.usd(),
        "spent_usd": f.spent.usd(),
        "reserved_usd": f.reserved.usd(),
        "left_usd": f.left.usd(),
        "amount_nanousd": f.amount.0,
        "spent_nanousd": f.spent.0,
        "reserved_nanousd": f.reserved.0,
        "left_nanousd": f.left.0,
        "waiting": f.waiting,
        "known": f.known,
    })
}
