//! Sums from the rollups, exact for any time range.
//!
//! Whole hours come from their cells, memory before disk. Where they have good sums of a coarser kind, those come instead: an hour's brief
//! ones if the question is for no key and no tag, else a whole day's. The hours cut by the range's edges are summed from their rows, and so
//! are hours with too many tag sets when the sum is by tag.

use crate::domain::sums::{GroupBy, SumRow, Tally, TimeRange};
use crate::domain::time::Wall;
use crate::store::cell::{self, CellKey, CellView, Dims, Grain};
use crate::store::days::{self, day_of, hours_of};
use crate::store::error::StoreError;
use crate::store::reader::LedgerReader;
use crate::store::{hours, rollup};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::Ordering;

const HOUR_US: i64 = 3_600_000_000;

fn start_of(hour: u32) -> Wall {
    Wall(i64::from(hour).saturating_mul(HOUR_US))
}

impl LedgerReader {
    /// The sums over a time range, by group, sorted by group.
    ///
    /// # Errors
    /// The store failed, something that belongs into the sum is damaged, or rows that it needs were removed by retention.
    pub fn sums(&self, range: TimeRange, group_by: &GroupBy) -> Result<Vec<SumRow>, StoreError> {
        let mut groups = Groups { group_by, by_name: BTreeMap::new(), last: (Grain::Hour, u32::MAX, String::new()) };
        let low = range.from.map_or(0, |from| from.hour());
        // An end on the hour excludes that hour.
        let high = range.to.map_or(u32::MAX, |to| Wall(to.0.saturating_sub(1)).hour());
        if range.to.is_some_and(|to| to.0 <= 0) || low > high {
            return Ok(Vec::new());
        }
        let by_rows = self.hours_by_rows(range, low, high, group_by)?;
        for hour in &by_rows {
            self.has_rows_of(TimeRange { from: Some(start_of(*hour)), to: Some(start_of(hour.saturating_add(1))) })?;
        }
        self.add_cells((low, high), &by_rows, &mut groups)?;
        for hour in by_rows {
            let start = start_of(hour);
            let within = TimeRange {
                from: range.from.max((hour > 0).then_some(start)),
                to: Some(range.to.unwrap_or(Wall(i64::MAX)).min(start_of(hour.saturating_add(1)))),
            };
            let Some((first, last)) = self.span(hour, hour)? else { continue };
            for row in self.rows_between(first, last.min(self.durable_seq()), within) {
                let row = row?;
                groups.of_live(hour, &Dims::of(&row.entry)).count(&row.entry);
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
        (low, high): (u32, u32),
        by_rows: &BTreeSet<u32>,
        groups: &mut Groups<'_>,
    ) -> Result<(), StoreError> {
        let wanted = |hour: u32| (low..=high).contains(&hour) && !by_rows.contains(&hour);
        let mut seen: HashSet<CellKey> = HashSet::new();
        let mut in_memory = BTreeSet::new();
        {
            let live = self.inner.live.read();
            in_memory.extend(live.hours().map(|(hour, _)| hour));
            for (hour, dims, tally) in live.cells().filter(|(hour, ..)| wanted(*hour)) {
                groups.of_live(hour, dims).merge(tally);
                seen.insert(Grain::Hour.key(hour, dims));
            }
        }
        let briefly = !matches!(groups.group_by, GroupBy::Key | GroupBy::Tag(_));
        let sealed = if briefly { hours::sealed(&self.inner.state, low, high)? } else { BTreeSet::new() };
        let brief = |hour: u32| wanted(hour) && sealed.contains(&hour) && !in_memory.contains(&hour);
        let by_hours = by_rows.iter().chain(&in_memory).copied().map(day_of).collect();
        let stored: Vec<u32> =
            rollup::stored_hours(&self.inner.state, low, high)?.into_iter().map(|(hour, _)| hour).collect();
        let mut days = self.days(low, high, &by_hours, groups.group_by)?;
        if briefly {
            // Brief sums are fewer, where every hour of the day has them.
            let lacking: BTreeSet<u32> = stored.iter().copied().filter(|hour| !brief(*hour)).map(day_of).collect();
            days.retain(|day| lacking.contains(day));
        }
        let of_day = |hour: u32| days.binary_search(&day_of(hour)).is_ok();
        let mut skipped = 0;
        let mut add = |grain: Grain, span: (u32, u32)| {
            skipped += cell::each(&self.inner.state, grain, span, &mut |number, key, view| {
                let passed_over = match grain {
                    Grain::Hour => !seen.is_empty() && seen.contains(key),
                    Grain::Brief => !brief(number) || of_day(number),
                    Grain::Day => false,
                };
                if passed_over {
                    return Ok(());
                }
                view.add_to(groups.of(grain, number, view)).ok_or_else(cell::damaged)
            })?;
            Ok::<(), StoreError>(())
        };
        days.iter().try_for_each(|day| add(Grain::Day, (*day, *day)))?;
        if briefly {
            add(Grain::Brief, (low, high))?;
        }
        for hour in stored {
            if wanted(hour) && !brief(hour) && !of_day(hour) {
                add(Grain::Hour, (hour, hour))?;
            }
        }
        self.inner.skipped.fetch_add(skipped, Ordering::Relaxed);
        Ok(())
    }

    /// The days whose own sums answer the question, in order.
    fn days(&self, low: u32, high: u32, by_hours: &BTreeSet<u32>, group_by: &GroupBy) -> Result<Vec<u32>, StoreError> {
        if *group_by == GroupBy::Hour {
            return Ok(Vec::new());
        }
        let by_tag = matches!(group_by, GroupBy::Tag(_));
        let whole = |day: u32| hours_of(day).0 >= low && hours_of(day).1 <= high;
        let sealed = days::sealed(&self.inner.state, day_of(low), day_of(high))?;
        let good = sealed.into_iter().filter(|(_, sealed)| !(by_tag && sealed.collapsed)).map(|(day, _)| day);
        Ok(good.filter(|day| whole(*day) && !by_hours.contains(day)).collect())
    }
}

struct Groups<'a> {
    group_by: &'a GroupBy,
    by_name: BTreeMap<String, Tally>,
    /// The hour or day whose name was made last: cells come in order of time.
    last: (Grain, u32, String),
}

impl Groups<'_> {
    fn of_live(&mut self, hour: u32, dims: &Dims) -> &mut Tally {
        match self.group_by {
            GroupBy::Endpoint => self.named(&dims.endpoint),
            GroupBy::Model => self.named(&dims.model),
            GroupBy::Route => self.named(&dims.route),
            GroupBy::Key => self.named(&dims.key_id),
            GroupBy::Tag(tag) => self.named(dims.tag(tag)),
            GroupBy::Total | GroupBy::Day | GroupBy::Hour => self.of_time(Grain::Hour, hour),
        }
    }

    fn of(&mut self, grain: Grain, number: u32, cell: &CellView<'_>) -> &mut Tally {
        match self.group_by {
            GroupBy::Endpoint => self.named(cell.endpoint),
            GroupBy::Model => self.named(cell.model),
            GroupBy::Route => self.named(cell.route),
            GroupBy::Key => self.named(cell.key_id),
            GroupBy::Tag(tag) => self.named(cell.tag(tag)),
            GroupBy::Total | GroupBy::Day | GroupBy::Hour => self.of_time(grain, number),
        }
    }

    fn of_time(&mut self, grain: Grain, number: u32) -> &mut Tally {
        if *self.group_by == GroupBy::Total {
            return self.named("total");
        }
        if (self.last.0, self.last.1) != (grain, number) {
            let hour = if grain == Grain::Day { hours_of(number).0 } else { number };
            let start = Wall(i64::from(hour).saturating_mul(HOUR_US)).to_rfc3339();
            let name = match self.group_by {
                GroupBy::Day => start.chars().take(10).collect(),
                _ => start.chars().take(13).chain(":00:00Z".chars()).collect(),
            };
            self.last = (grain, number, name);
        }
        let name = self.last.2.clone();
        self.named(&name)
    }

    fn named(&mut self, name: &str) -> &mut Tally {
        if !self.by_name.contains_key(name) {
            self.by_name.insert(name.to_owned(), Tally::default());
        }
        self.by_name.entry(name.to_owned()).or_default()
    }
}
