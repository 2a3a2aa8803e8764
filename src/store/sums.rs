//! Sums from the rollups, exact for any time range.
//!
//! Whole hours come from their cells, memory before disk. The hours cut by the range's edges are summed from their rows, and so
//! are hours with too many tag sets when the sum is by tag.

use crate::domain::sums::{GroupBy, SumRow, Tally, TimeRange};
use crate::domain::time::Wall;
use crate::store::error::StoreError;
use crate::store::reader::LedgerReader;
use crate::store::rollup::{self, Dims};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const HOUR_US: i64 = 3_600_000_000;
const CELLS_A_READ: usize = 512;

impl LedgerReader {
    /// The sums over a time range, by group, sorted by group.
    ///
    /// # Errors
    /// The store failed, or something that belongs into the sum is damaged.
    pub fn sums(&self, range: TimeRange, group_by: &GroupBy) -> Result<Vec<SumRow>, StoreError> {
        let mut groups = Groups { group_by, by_name: BTreeMap::new() };
        let low = range.from.map_or(0, |from| from.hour());
        // An end on the hour excludes that hour.
        let high = range.to.map_or(u32::MAX, |to| Wall(to.0.saturating_sub(1)).hour());
        if range.to.is_some_and(|to| to.0 <= 0) || low > high {
            return Ok(Vec::new());
        }
        let by_rows = self.hours_by_rows(range, low, high, group_by)?;
        self.add_cells(low, high, &by_rows, &mut groups)?;
        for hour in by_rows {
            let start = i64::from(hour).saturating_mul(HOUR_US);
            let within = TimeRange {
                from: range.from.max((hour > 0).then_some(Wall(start))),
                to: Some(range.to.unwrap_or(Wall(i64::MAX)).min(Wall(start.saturating_add(HOUR_US)))),
            };
            let Some((first, last)) = self.span(hour, hour)? else { continue };
            for row in self.rows_between(first, last.min(self.durable_seq()), within) {
                let row = row?;
                let e = &row.entry;
                let dims = Dims {
                    endpoint: Arc::clone(&e.endpoint),
                    model: Arc::clone(&e.model),
                    key_id: Arc::clone(&e.key_id),
                    route: Arc::clone(&e.route),
                    tags: Some(Arc::clone(&e.tags)),
                };
                groups.of(hour, &dims).count(e);
            }
        }
        Ok(groups.by_name.into_iter().map(|(group, tally)| SumRow { group, tally }).collect())
    }

    /// The hours whose cells do not answer the question.
    fn hours_by_rows(
        &self,
        range: TimeRange,
        low: u32,
        high: u32,
        group_by: &GroupBy,
    ) -> Result<BTreeSet<u32>, StoreError> {
        let cut = |at: Option<Wall>| at.filter(|at| at.0.rem_euclid(HOUR_US) != 0).map(Wall::hour);
        let mut hours: BTreeSet<u32> = cut(range.from).into_iter().chain(cut(range.to)).collect();
        if matches!(group_by, GroupBy::Tag(_)) {
            let live: Vec<_> = self.inner.live.read().hours().collect();
            let stored = rollup::stored_hours(&self.inner.state, low, high)?;
            hours.extend(live.into_iter().chain(stored).filter(|(_, span)| span.collapsed).map(|(hour, _)| hour));
        }
        hours.retain(|hour| (low..=high).contains(hour));
        Ok(hours)
    }

    fn add_cells(
        &self,
        low: u32,
        high: u32,
        except: &BTreeSet<u32>,
        groups: &mut Groups<'_>,
    ) -> Result<(), StoreError> {
        let wanted = |hour: u32| (low..=high).contains(&hour) && !except.contains(&hour);
        let mut seen: HashSet<(u32, Dims)> = HashSet::new();
        {
            let live = self.inner.live.read();
            for (hour, dims, tally) in live.cells().filter(|(hour, ..)| wanted(*hour)) {
                groups.of(hour, dims).merge(tally);
                seen.insert((hour, dims.clone()));
            }
        }
        let mut from = std::ops::Bound::Included(rollup::cell_prefix(low).to_vec());
        let end = match high.checked_add(1) {
            Some(next) => rollup::cell_prefix(next).to_vec(),
            None => vec![rollup::CELL + 1],
        };
        loop {
            let cells = self.inner.state.read(|db| {
                let range = db.range((from.clone(), std::ops::Bound::Excluded(end.clone())));
                range
                    .take(CELLS_A_READ)
                    .map(|item| {
                        let (key, value) = item?;
                        let cell = rollup::stored_cell(db, &key, &value)?;
                        Ok((key, cell))
                    })
                    .collect::<sled::Result<Vec<_>>>()
            })?;
            let Some((last, _)) = cells.last() else { return Ok(()) };
            from = std::ops::Bound::Excluded(last.to_vec());
            for (_, cell) in cells {
                match cell? {
                    None => {
                        self.inner.skipped.fetch_add(1, Ordering::Relaxed);
                    }
                    Some((hour, dims, tally)) => {
                        if wanted(hour) && (seen.is_empty() || !seen.contains(&(hour, dims.clone()))) {
                            groups.of(hour, &dims).merge(&tally);
                        }
                    }
                }
            }
        }
    }
}

struct Groups<'a> {
    group_by: &'a GroupBy,
    by_name: BTreeMap<String, Tally>,
}

impl Groups<'_> {
    fn of(&mut self, hour: u32, dims: &Dims) -> &mut Tally {
        let start = || Wall(i64::from(hour).saturating_mul(HOUR_US)).to_rfc3339();
        let made;
        let name: &str = match self.group_by {
            GroupBy::Total => "total",
            GroupBy::Endpoint => &dims.endpoint,
            GroupBy::Model => &dims.model,
            GroupBy::Route => &dims.route,
            GroupBy::Key => &dims.key_id,
            GroupBy::Tag(tag) => {
                let tags = dims.tags.as_deref().unwrap_or_default();
                tags.iter().find(|(key, _)| **key == **tag).map_or("", |(_, value)| value)
            }
            GroupBy::Day => {
                made = start().chars().take(10).collect::<String>();
                &made
            }
            GroupBy::Hour => {
                made = start().chars().take(13).chain(":00:00Z".chars()).collect::<String>();
                &made
            }
        };
        if !self.by_name.contains_key(name) {
            self.by_name.insert(name.to_owned(), Tally::default());
        }
        self.by_name.entry(name.to_owned()).or_default()
    }
}
