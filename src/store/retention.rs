//! Removing old rows: the sums stay, the chain stays checkable.
//!
//! sled's file never shrinks, so months go as whole folders, and a month that is cut is written anew without its old rows. Rules:
//! - What goes is a beginning of the ledger: all rows before the first one of the asked time. Rows that a clock set back has put
//!   behind it stay, and so does the last row: the chain goes on from it.
//! - Before a row goes, everything is counted in the stored sums.
//! - What decides is one commit of the state database: the signed statement which rows are removed, with the hash of the last of them
//!   (the chain's new beginning), and where the months now begin. Killed before it, nothing has happened; killed after it, the next
//!   opening deletes and renames what is left to do.
//! - A month's new folder is complete and on disk under a name of its own before that commit, and takes the old one's place after it.

mod folders;

pub(super) use folders::tidy;

use crate::domain::checkpoint::{Kind, Statement};
use crate::domain::ledger::GENESIS;
use crate::domain::sums::TimeRange;
use crate::domain::time::Wall;
use crate::store::block::{self, BLOCK_VERSION, BlockBuilder};
use crate::store::checkpoints::{self, Anchor};
use crate::store::codec;
use crate::store::end;
use crate::store::error::StoreError;
use crate::store::ledger::LedgerWriter;
use crate::store::month::{CACHE, COMPACTED, Month};
use crate::store::reader::LedgerReader;
use crate::store::rollup;
use crate::store::shelf::{Reach, Shelf};
use std::sync::Arc;

const BLOCKS_A_COMMIT: usize = 256;

/// Which rows go, or have gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    pub first_seq: u64,
    pub last_seq: u64,
    /// The time of the first row that stays.
    pub before: Wall,
    /// Months that go as a whole.
    pub months: Vec<String>,
    /// The month that is written anew without its old rows.
    pub rewritten: Option<String>,
    /// How many rows that month keeps, at most.
    pub rows_to_copy: u64,
}

/// What [`Removal`] needs to be done.
struct Plan {
    removal: Removal,
    hash: [u8; 32],
    gone: Vec<Month>,
    first_month: Month,
}

impl LedgerReader {
    /// Which rows would go if those before `before` were removed; `None`: none. `whole_months`: only whole months may go.
    ///
    /// # Errors
    /// The store failed, or is damaged where it would be cut.
    pub fn removal(&self, before: Wall, whole_months: bool) -> Result<Option<Removal>, StoreError> {
        Ok(self.plan(before, whole_months)?.map(|plan| plan.removal))
    }

    fn plan(&self, before: Wall, whole_months: bool) -> Result<Option<Plan>, StoreError> {
        let anchor = self.inner.anchor.read().clone();
        let removed = anchor.as_ref().map_or(0, Anchor::seq);
        let durable = self.durable_seq();
        let kept = match self.span(before.hour(), u32::MAX)? {
            Some((first, _)) => first,
            None => durable,
        };
        let mut cut = kept.min(durable).saturating_sub(1);
        let months = self.inner.months.holding(0, u64::MAX);
        if whole_months {
            cut =
                months.iter().map(|(_, begins)| begins.saturating_sub(1)).filter(|end| *end <= cut).max().unwrap_or(0);
        }
        if cut <= removed {
            return Ok(None);
        }
        let stays = self.rows_between(cut + 1, cut + 1, TimeRange::ALL).next().transpose()?;
        let missing = |seq| StoreError::Damaged { seq: Some(seq), what: "the row is missing".into() };
        let stays = stays.ok_or_else(|| missing(cut + 1))?;
        let holding = self.inner.months.holding(cut + 1, cut + 1);
        let Some((first_month, begins)) = holding.first().copied() else { return Err(missing(cut + 1)) };
        let gone: Vec<Month> = months.iter().map(|(month, _)| *month).filter(|month| *month < first_month).collect();
        let next = months.iter().find(|(month, _)| *month > first_month).map_or(durable + 1, |(_, begins)| *begins);
        let rewritten = begins <= cut;
        let removal = Removal {
            first_seq: removed + 1,
            last_seq: cut,
            before: stays.entry.at,
            months: gone.iter().map(Month::to_string).collect(),
            rewritten: rewritten.then(|| first_month.to_string()),
            rows_to_copy: if rewritten { next.saturating_sub(cut + 1) } else { 0 },
        };
        Ok(Some(Plan { removal, hash: stays.prev_hash, gone, first_month }))
    }

    /// Whether a question about the rows of a time range cannot be answered any more.
    ///
    /// # Errors
    /// It cannot ([`StoreError::Removed`]), or the store failed.
    pub fn has_rows_of(&self, range: TimeRange) -> Result<(), StoreError> {
        let low = range.from.map_or(0, Wall::hour);
        let high = range.to.map_or(u32::MAX, |to| Wall(to.0.saturating_sub(1)).hour());
        let removed = self.inner.removed_through();
        if removed == 0 || low > high {
            return Ok(());
        }
        let live: Vec<_> = self.inner.live.read().hours().filter(|(hour, _)| (low..=high).contains(hour)).collect();
        let stored = rollup::stored_hours(&self.inner.state, low, high)?;
        match live.into_iter().chain(stored).any(|(_, span)| span.first_seq <= removed) {
            true => Err(self.removed().unwrap_or(StoreError::Removed { through: removed, before: Wall(0) })),
            false => Ok(()),
        }
    }

    /// What to say about rows that retention has removed; `None`: it has removed none.
    #[must_use]
    pub fn removed(&self) -> Option<StoreError> {
        let anchor = self.inner.anchor.read();
        let statement = &anchor.as_ref()?.removed.statement;
        Some(StoreError::Removed { through: statement.seq, before: statement.before.unwrap_or(Wall(0)) })
    }
}

/// Where a removal can be stopped in a test, as a kill would.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    HalfCopied,
    Copied,
    Decided,
    OldAside,
    Renamed,
}

impl LedgerWriter {
    /// Removes the rows before `before`, and says which; `None`: there were none. `whole_months`: only whole months go, which takes no time
    /// that depends on the rows. `progress` is told the number of rows copied.
    ///
    /// # Errors
    /// The disk failed, or what has to be copied is damaged. Then either nothing has happened, or the next opening completes it.
    pub fn remove_before(
        &mut self,
        before: Wall,
        whole_months: bool,
        now: Wall,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Option<Removal>, StoreError> {
        let reader = LedgerReader { inner: Arc::clone(&self.inner) };
        let Some(plan) = reader.plan(before, whole_months)? else { return Ok(None) };
        // The rows' last chance to be counted.
        self.store_sums(now, false)?;
        if plan.removal.rewritten.is_some() {
            self.copy(plan.first_month, plan.removal.last_seq + 1, progress)?;
        }
        #[cfg(test)]
        self.stop_at(Stop::Copied)?;
        let anchor = self.decide(&plan, now)?;
        #[cfg(test)]
        self.stop_at(Stop::Decided)?;
        self.carry_out(&plan, anchor)?;
        Ok(Some(plan.removal))
    }

    /// Makes the month's new folder: its blocks from row `first` on.
    fn copy(&self, month: Month, first: u64, progress: &mut dyn FnMut(u64)) -> Result<(), StoreError> {
        let dir = self.inner.months.dir();
        let (part, whole) = (dir.join(format!("{month}{}", folders::PART)), dir.join(format!("{month}{COMPACTED}")));
        for old in [&part, &whole] {
            folders::remove(old).map_err(|e| folders::failed(old, &e))?;
        }
        let (from, to) = (self.inner.months.shelf(month)?, Shelf::closed(part.clone(), CACHE));
        let mut next = from.read(|db| db.get_lt((first + 1).to_be_bytes()))?.map_or(first, |(key, _)| number(&key));
        let mut copied = 0;
        loop {
            let blocks = from.read(|db| {
                let blocks =
                    db.range(next.to_be_bytes()..).filter(|item| !matches!(item, Ok((key, _)) if key.len() != 8));
                let open = |item: sled::Result<(sled::IVec, sled::IVec)>| {
                    let (key, value) = item?;
                    Ok((number(&key), codec::open(db, &key, &value)?))
                };
                blocks.take(BLOCKS_A_COMMIT).map(open).collect::<sled::Result<Vec<_>>>()
            })?;
            let Some((last, _)) = blocks.last() else { break };
            next = last + 1;
            let mut batch = sled::Batch::default();
            for (number, opened) in blocks {
                let damaged = || StoreError::Damaged { seq: Some(number), what: "its block cannot be read".into() };
                let payload = opened.known(BLOCK_VERSION, "a block")?.ok_or_else(damaged)?;
                let head = block::head(&payload).filter(|head| head.first_seq == number).ok_or_else(damaged)?;
                if number >= first {
                    codec::put(&mut batch, &number.to_be_bytes(), BLOCK_VERSION, &payload);
                } else if head.last_seq() >= first {
                    split(number, &payload, first, &mut batch)?;
                }
                copied += head.last_seq().saturating_sub(first.max(number)).saturating_add(1);
            }
            to.commit(batch, Reach::Kernel)?;
            progress(copied);
            #[cfg(test)]
            self.stop_at(Stop::HalfCopied)?;
        }
        to.sync(Reach::Disk)?;
        to.retire();
        folders::complete(&part, &whole).map_err(|e| folders::failed(&part, &e))
    }

    /// The commit from which on the rows are gone.
    fn decide(&self, plan: &Plan, now: Wall) -> Result<Anchor, StoreError> {
        let inner = &self.inner;
        let signer = inner.signer.as_ref().ok_or(StoreError::Failed { what: "the signing key is missing".into() })?;
        let removal = &plan.removal;
        let statement = Statement {
            kind: Kind::Removed,
            at: now,
            first_seq: 1,
            prev_hash: GENESIS,
            seq: removal.last_seq,
            hash: plan.hash,
            rows: removal.last_seq,
            digest: None,
            before: Some(removal.before),
            marks: Vec::new(),
        };
        let anchor = Anchor {
            removed: signer.sign(statement),
            first_month: plan.first_month,
            rewritten: removal.rewritten.is_some(),
        };
        inner.write_state(Reach::Disk, |state| {
            let mut batch = end::month_begins(plan.first_month, removal.last_seq + 1);
            plan.gone.iter().for_each(|month| batch.remove(end::month_key(*month)));
            checkpoints::forget(state, removal.last_seq, &mut batch)?;
            anchor.put(&mut batch);
            Ok(batch)
        })?;
        *inner.anchor.write() = Some(anchor.clone());
        inner.months.begin_at(Some(plan.first_month));
        Ok(anchor)
    }

    /// Deletes and renames folders as decided.
    fn carry_out(&self, plan: &Plan, anchor: Anchor) -> Result<(), StoreError> {
        let inner = &self.inner;
        let cut = plan.removal.rewritten.as_ref().map(|_| plan.first_month);
        plan.gone.iter().chain(&cut).for_each(|month| inner.months.retire(*month));
        #[cfg(test)]
        if let Some(step @ (Stop::OldAside | Stop::Renamed)) = STOP.get() {
            // What `tidy` does, up to the step.
            let name = |end: &str| inner.months.dir().join(format!("{}{end}", plan.first_month));
            std::fs::rename(name(""), name(folders::GONE)).unwrap();
            self.stop_at(Stop::OldAside)?;
            std::fs::rename(name(COMPACTED), name("")).unwrap();
            self.stop_at(step)?;
        }
        tidy(inner.months.dir(), Some(&anchor))?;
        if cut.is_some() {
            inner.months.add(plan.first_month, plan.removal.last_seq + 1);
            let anchor = Anchor { rewritten: false, ..anchor };
            inner.write_state(Reach::Disk, |_| {
                let mut batch = sled::Batch::default();
                anchor.put(&mut batch);
                Ok(batch)
            })?;
            *inner.anchor.write() = Some(anchor);
        }
        Ok(())
    }

    #[cfg(test)]
    fn stop_at(&self, step: Stop) -> Result<(), StoreError> {
        match STOP.get() == Some(step) {
            true => Err(StoreError::Failed { what: format!("stopped at {step:?}") }),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
thread_local! {
    pub(super) static STOP: std::cell::Cell<Option<Stop>> = const { std::cell::Cell::new(None) };
}

/// Puts the rows of a block from `first` on into a batch, as a block of their own.
fn split(number: u64, payload: &[u8], first: u64, batch: &mut sled::Batch) -> Result<(), StoreError> {
    let mut builder = BlockBuilder::default();
    for row in block::rows(number, payload) {
        let row = row?;
        if row.seq >= first {
            builder.push(&row);
        }
    }
    if let Some((first_seq, bytes)) = builder.finish() {
        codec::put(batch, &first_seq.to_be_bytes(), BLOCK_VERSION, &bytes);
    }
    Ok(())
}

fn number(key: &[u8]) -> u64 {
    key.try_into().map_or(0, u64::from_be_bytes)
}

#[cfg(test)]
mod tests;
