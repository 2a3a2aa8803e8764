//! What was spent under budgets before they were entered: summed up from the ledger at a start, and for what a reload brings.

use super::{Budgets, Entry, tell};
use crate::actors::ledger::StateWrite;
use crate::clock;
use crate::config::model::Config;
use crate::domain::budget::book::{BudgetId, Reserved};
use crate::domain::budget::{Budget, Scope};
use crate::domain::money::NanoUsd;
use crate::domain::sums::{GroupBy, TimeRange};
use crate::domain::time::Wall;
use crate::engine::gateway::Gateway;
use crate::store::{LedgerReader, Store, StoreError};
use std::collections::BTreeMap;
use std::sync::Arc;

const HOUR_US: i64 = 3_600_000_000;

/// What was spent, by group.
type Spends = BTreeMap<String, NanoUsd>;

impl Budgets {
    /// Sums up what a stopped gateway's store says was spent, with what its next start will charge for attempts that a kill cut short.
    ///
    /// # Errors
    /// The store failed.
    pub(in crate::engine) fn recall_all(&self, entries: &[Entry], store: &Store) -> Result<(), StoreError> {
        self.recall(entries, &store.reader(), None)?;
        for row in store.open_rows()? {
            let applied = self.applied(&row.key_id, &row.route, &row.tags).map(|applied| applied.at(&row.endpoint));
            let is_of_period = |entry: &Entry| {
                self.figures_of(entry.id).is_some_and(|figures| figures.span.start.is_none_or(|start| row.at >= start))
            };
            let charged = applied.unwrap_or_default().into_iter().filter(is_of_period);
            let ids: Vec<BudgetId> = charged.map(|entry| entry.id).collect();
            let told = self.book.lock().settle(row.at, Reserved::default(), &ids, row.cost.unwrap_or_default());
            tell(told);
        }
        Ok(())
    }

    /// Sums up from the ledger what was spent under these budgets before `until`, and tells the book.
    fn recall(&self, entries: &[Entry], reader: &LedgerReader, until: Option<Wall>) -> Result<(), StoreError> {
        // One sum answers for all budgets of a kind whose period began at the same time.
        let mut kinds: Vec<((Option<Wall>, GroupBy), Spends)> = Vec::new();
        for entry in entries {
            let Some(figures) = self.figures_of(entry.id) else { continue };
            let (group_by, group) = match &entry.budget.scope {
                Scope::Key(id) => (GroupBy::Key, id),
                Scope::Tag(name, value) => (GroupBy::Tag(name.to_string()), value),
                Scope::Route(name) => (GroupBy::Route, name),
                Scope::Endpoint(name) => (GroupBy::Endpoint, name),
            };
            let kind = (figures.span.start, group_by);
            let at = match kinds.iter().position(|(known, _)| *known == kind) {
                Some(at) => at,
                None => {
                    let sums = sums(reader, kind.0, until, &kind.1)?;
                    kinds.push((kind, sums));
                    kinds.len() - 1
                }
            };
            let spent = kinds.get(at).and_then(|(_, sums)| sums.get(&**group)).copied().unwrap_or_default();
            let told = self.book.lock().recall(entry.id, figures.span.start, spent);
            tell(told);
        }
        Ok(())
    }
}

/// What was spent from `start` on, by group. A start within an hour is summed up by its rows; where those are no longer kept, the
/// whole hour counts.
fn sums(
    reader: &LedgerReader,
    start: Option<Wall>,
    until: Option<Wall>,
    group_by: &GroupBy,
) -> Result<Spends, StoreError> {
    let read = |from| reader.sums(TimeRange { from, to: until }, group_by);
    let rows = match (read(start), start) {
        (Err(error), Some(at)) if at.0.rem_euclid(HOUR_US) != 0 => {
            tracing::warn!(%error, "a budget's period begins within an hour whose rows cannot be read: all of the hour is counted");
            read(Some(Wall(at.0 - at.0.rem_euclid(HOUR_US))))?
        }
        (rows, _) => rows?,
    };
    Ok(rows.into_iter().map(|row| (row.group, row.tally.cost)).collect())
}

impl Gateway {
    /// Takes in all budgets and sums up their spend, before the first request.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn start_budgets(&self) -> Result<(), String> {
        let keys = self.access.list();
        let of_key = |key: &crate::domain::key::VirtualKey| {
            key.budget.as_ref().map(|terms| self.budgets.put_key(&key.id, terms, false))
        };
        let mut fresh: Vec<Entry> = keys.iter().filter_map(of_key).collect();
        let configured = self.budgets.replace(self.wanted_budgets(&self.config()));
        self.warn_of_unknown_keys(&configured);
        fresh.extend(configured);
        self.budgets.recall(&fresh, &self.ledger.reader(), None).map_err(|e| e.to_string())
    }

    /// Takes in the budgets of a changed configuration. Those that are new are summed up from the ledger; until that is done
    /// their requests wait.
    pub async fn refresh_budgets(self: &Arc<Self>) {
        let fresh = self.budgets.replace(self.wanted_budgets(&self.config()));
        if fresh.is_empty() {
            return;
        }
        self.warn_of_unknown_keys(&fresh);
        // What ends from here on finds the new budgets; what ended before is on disk once the queue has been written.
        let until = clock::wall();
        let written = self.ledger.write(StateWrite::Nothing).await;
        let gateway = Arc::clone(self);
        let reader = self.ledger.reader();
        let summed = tokio::task::spawn_blocking(move || gateway.budgets.recall(&fresh, &reader, Some(until))).await;
        let failed = written.err().or_else(|| match summed {
            Ok(Ok(())) => None,
            Ok(Err(e)) => Some(e.to_string()),
            Err(e) => Some(e.to_string()),
        });
        if let Some(error) = failed {
            tracing::error!(error, "the spend of new budgets is not known: requests under hard ones are refused");
        }
    }

    /// A mistyped id would be a budget that nothing is ever charged to.
    fn warn_of_unknown_keys(&self, configured: &[Entry]) {
        for budget in configured.iter().map(|entry| &entry.budget) {
            if let Scope::Key(id) = &budget.scope
                && self.access.by_id(id).is_none()
            {
                tracing::warn!(budget = &*budget.name, key = &**id, "a budget is for a key that there is not");
            }
        }
    }

    fn wanted_budgets(&self, config: &Config) -> Vec<Arc<Budget>> {
        let endpoints: Vec<_> = self.board.topology().cells.iter().map(|cell| cell.config()).collect();
        config.all_budgets(&endpoints)
    }
}
