//! What a route's rankings remember from one to the next: whose turn it is, and the credit of `weighted`.
//!
//! A cursor belongs to one route and one strategy of one Coordinator; so neither another worker nor a request that asks for
//! another strategy disturbs its exact turns. It also keeps the working memory of a ranking, for reuse.

use super::measure::{Key, Measures, is_new};
use super::{CandidateFacts, Ranked, StrategyKind};

/// Additions allowed for spreading the start of `weighted` over the workers.
const PREWIND_WORK: u64 = 2_048;

/// Places of a list that can hold credit; those behind have none under `weighted`.
const MAX_SLOTS: usize = 65_536;

/// Parts that a unit of weight is divided into, so that credits survive a change of the turn's price unrounded.
const FINE: i64 = 1 << 16;

/// The turns of one route under one strategy.
///
/// Turns and credits are kept by slot, so the candidates may differ from request to request: who is missing keeps its credit,
/// like one that is blocked. A changed weight starts all credits anew. When a route's list is replaced, take a new cursor.
#[derive(Clone, Default)]
pub struct Cursor {
    /// The slot of the last leader; `None` before the first ranking.
    last: Option<u32>,
    /// The slot of the candidate that was explored last.
    explored: Option<u32>,
    /// The index at which turns begin in the ranking under way.
    base: usize,
    /// By slot.
    credits: Vec<Credit>,
    /// What a turn costs: the sum of the weights that took part in the last ranking.
    stake: i64,
    /// What the leader of the ranking under way will be charged.
    due: i64,
    keys: Vec<Key>,
    scores: Vec<f32>,
}

/// The state of one candidate in smooth weighted round robin.
#[derive(Clone, Copy, Default)]
struct Credit {
    /// `None`: never seen.
    weight: Option<u32>,
    /// In parts of weight: see [`FINE`].
    current: i64,
}

impl Cursor {
    /// Settles where turns begin.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // 0 <= roll * n <= n
    pub(super) fn begin(&mut self, facts: &[CandidateFacts], roll: f64) {
        let n = facts.len();
        let base = match self.last {
            Some(last) => after(facts, last),
            None => (roll * n as f64) as usize,
        };
        self.base = if base < n { base } else { 0 };
        self.due = 0;
    }

    /// Gives each leading candidate its weight; all others keep their credit until they may lead again.
    pub(super) fn add_credit(&mut self, facts: &[CandidateFacts], leads: impl Fn(&CandidateFacts) -> bool) {
        self.know_weights(facts);
        if self.last.is_none() {
            self.prewind(facts, &leads);
        }
        self.due = self.pay(facts, &leads);
    }

    /// Pays the leading candidates their weights and returns the sum, which the leader is charged.
    fn pay(&mut self, facts: &[CandidateFacts], leads: impl Fn(&CandidateFacts) -> bool) -> i64 {
        let parts = facts.iter().filter(|f| leads(f)).map(|f| i64::from(f.weight) * FINE);
        let stake = parts.fold(0, i64::saturating_add);
        if stake == 0 {
            return 0;
        }
        self.rescale(stake);
        for f in facts.iter().filter(|f| leads(f)) {
            if let Some(credit) = self.credits.get_mut(f.slot as usize) {
                credit.current = credit.current.saturating_add(i64::from(f.weight) * FINE);
            }
        }
        stake
    }

    /// Keeps credits worth the same number of turns when a turn's price changes because others take part in it.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)] // rounding is what FINE is for
    fn rescale(&mut self, stake: i64) {
        let before = std::mem::replace(&mut self.stake, stake);
        if before != stake && before > 0 {
            let ratio = stake as f64 / before as f64;
            for credit in &mut self.credits {
                credit.current = (credit.current as f64 * ratio).round() as i64;
            }
        }
    }

    fn charge(&mut self, leader: &CandidateFacts, due: i64) {
        if let Some(credit) = self.credits.get_mut(leader.slot as usize) {
            credit.current = credit.current.saturating_sub(due);
        }
    }

    fn credit(&self, f: &CandidateFacts) -> i64 {
        self.credits.get(f.slot as usize).map_or(0, |c| c.current)
    }

    fn know_weights(&mut self, facts: &[CandidateFacts]) {
        let slots = facts.iter().map(|f| (f.slot as usize).saturating_add(1)).max().unwrap_or(0).min(MAX_SLOTS);
        if self.credits.len() < slots {
            self.credits.resize(slots, Credit::default());
        }
        let same = |f: &CandidateFacts| {
            self.credits.get(f.slot as usize).and_then(|c| c.weight).is_none_or(|known| known == f.weight)
        };
        if !facts.iter().all(same) {
            self.credits.fill(Credit::default());
        }
        for f in facts {
            if let Some(credit) = self.credits.get_mut(f.slot as usize) {
                credit.weight = Some(f.weight);
            }
        }
    }

    /// Plays some turns ahead, so that this cursor's cycle begins at another place than its neighbours'.
    fn prewind(&mut self, facts: &[CandidateFacts], leads: impl Fn(&CandidateFacts) -> bool) {
        let n = facts.len() as u64;
        let cycle: u64 = facts.iter().filter(|f| leads(f)).map(|f| u64::from(f.weight)).sum();
        let most = PREWIND_WORK.checked_div(n).unwrap_or(0).min(cycle);
        // `base` is the seeded start: its share of n is the roll.
        let turns = most.saturating_mul(self.base as u64).checked_div(n).unwrap_or(0);
        for _ in 0..turns {
            let due = self.pay(facts, &leads);
            // As in a ranking, the first in the list wins a tie: exact cycles need ties to fall the same way always.
            if let Some(leader) = facts.iter().rev().filter(|f| leads(f)).max_by_key(|f| self.credit(f)) {
                self.charge(leader, due);
            }
        }
    }

    /// Sorts the keys of all candidates.
    pub(super) fn sort(&mut self, facts: &[CandidateFacts], measures: &Measures) {
        self.keys.clear();
        self.scores.clear();
        let n = facts.len();
        for (index, f) in facts.iter().enumerate() {
            let turn = if index >= self.base { index - self.base } else { index + n - self.base };
            let (key, score) = measures.key(f, index, turn, self.credit(f));
            self.keys.push(key);
            self.scores.push(score);
        }
        self.keys.sort_unstable();
    }

    /// Moves a newcomer to the front if it is its turn to be explored, else a tried candidate in front of its equals that
    /// have no history; says whether it explored.
    #[allow(clippy::cast_precision_loss)] // small counts
    pub(super) fn explore(&mut self, facts: &[CandidateFacts], measures: &Measures, roll: f64) -> bool {
        let n = facts.len();
        let base = self.base;
        let rivals = measures.equals_of_first(&self.keys);
        let Some(rivals) = self.keys.get_mut(..rivals) else { return false };
        let new = |key: &Key| facts.get(index_of(*key, base, n)).is_some_and(is_new);
        let newcomers = rivals.iter().filter(|k| new(k)).count();
        if newcomers == 0 || newcomers == rivals.len() {
            return false;
        }
        let share = measures.explore_share(rivals.len());
        let explored = roll < share * newcomers as f64;
        // Newcomers take turns of their own: who is next doesn't depend on how the tried ones fare.
        let from = self.explored.map_or(base, |slot| after(facts, slot));
        let wait = |key: &Key| {
            let index = index_of(*key, base, n);
            if index >= from { index - from } else { index + n - from }
        };
        let place = if explored {
            let next = rivals.iter().enumerate().filter(|(_, k)| new(k)).min_by_key(|(_, k)| wait(k));
            next.map(|(place, key)| {
                self.explored = facts.get(index_of(*key, base, n)).map(|f| f.slot);
                place
            })
        } else {
            rivals.iter().position(|k| !new(k))
        };
        if let Some(front) = place.and_then(|place| rivals.get_mut(..=place)) {
            front.rotate_right(1);
        }
        explored
    }

    /// Writes the ranking and ends the leader's turn.
    #[allow(clippy::cast_possible_truncation)] // a route has far fewer candidates than u32 holds
    pub(super) fn finish(&mut self, facts: &[CandidateFacts], measures: &Measures, out: &mut Vec<Ranked>) {
        let n = facts.len();
        out.reserve(n);
        for key in &self.keys {
            let index = index_of(*key, self.base, n);
            out.push(Ranked { index: index as u32, score: self.scores.get(index).copied().unwrap_or(0.0) });
        }
        let Some(leader) = out.first().and_then(|r| facts.get(r.index as usize)) else { return };
        self.last = Some(leader.slot);
        if measures.strategy == StrategyKind::Weighted {
            self.charge(leader, self.due);
        }
    }
}

/// The index of the first candidate behind a slot; the number of candidates if there is none.
fn after(facts: &[CandidateFacts], slot: u32) -> usize {
    facts.partition_point(|f| f.slot <= slot)
}

fn index_of(key: Key, base: usize, n: usize) -> usize {
    let index = key.turn() + base;
    if index >= n { index - n } else { index }
}

/// A route's cursors, one per strategy.
#[derive(Clone, Default)]
pub struct Cursors([Cursor; StrategyKind::ALL.len()]);

impl Cursors {
    /// The cursor of one strategy.
    pub fn of(&mut self, kind: StrategyKind) -> &mut Cursor {
        &mut self.0[kind as usize]
    }
}
