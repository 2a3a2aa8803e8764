//! What a route's rankings remember from one to the next: whose turn it is, and the credit of `weighted`.
//!
//! A cursor belongs to one route and one strategy of one Coordinator; so neither another worker nor a request that asks for
//! another strategy disturbs its exact turns. It also keeps the working memory of a ranking, for reuse.

use super::measure::{Key, Measures, is_new};
use super::{CandidateFacts, Ranked, StrategyKind};

/// Additions allowed for spreading the start of `weighted` over the workers.
const PREWIND_WORK: u64 = 2_048;

/// The turns of one route under one strategy.
///
/// A changed number of candidates is taken as it comes: turns go on behind the last leader, credits start anew (also when a
/// weight changes). When a route's list is replaced by another of the same length, take a new cursor.
#[derive(Clone, Default)]
pub struct Cursor {
    /// The leader of the last ranking; `None` before the first.
    last: Option<usize>,
    /// Where turns begin in the ranking under way.
    base: usize,
    /// Where the turns of those without history begin.
    explore_from: usize,
    credits: Vec<Credit>,
    /// The sum of the weights that took part in the ranking under way.
    stake: i64,
    keys: Vec<Key>,
    scores: Vec<f32>,
}

/// The state of one candidate in smooth weighted round robin.
#[derive(Clone, Copy)]
struct Credit {
    weight: u32,
    current: i64,
}

impl Cursor {
    /// Settles where turns begin.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // 0 <= roll * n <= n
    pub(super) fn begin(&mut self, facts: &[CandidateFacts], roll: f64) {
        let n = facts.len();
        let base = match self.last {
            Some(last) => last.saturating_add(1),
            None => (roll * n as f64) as usize,
        };
        self.base = if base < n { base } else { 0 };
        if self.last.is_none() || self.explore_from >= n {
            self.explore_from = if self.last.is_none() { self.base } else { 0 };
        }
        self.stake = 0;
        // Nothing to prewind for the strategies that hold no credits: `add_credit` fills them when first needed.
        if self.credits.len() != n || !self.credits.iter().zip(facts).all(|(c, f)| c.weight == f.weight) {
            self.credits.clear();
        }
    }

    /// Gives each leading candidate its weight; blocked ones keep their credit until they are back.
    pub(super) fn add_credit(&mut self, facts: &[CandidateFacts], leads: impl Fn(&CandidateFacts) -> bool) {
        if self.credits.len() != facts.len() {
            self.credits.clear();
            self.credits.extend(facts.iter().map(|f| Credit { weight: f.weight, current: 0 }));
            if self.last.is_none() {
                self.prewind();
            }
        }
        for (credit, _) in self.credits.iter_mut().zip(facts).filter(|(_, f)| leads(f)) {
            let weight = i64::from(credit.weight);
            credit.current = credit.current.saturating_add(weight);
            self.stake = self.stake.saturating_add(weight);
        }
    }

    /// Plays some turns ahead, so that this cursor's cycle begins at another place than its neighbours'.
    fn prewind(&mut self) {
        let n = self.credits.len() as u64;
        let total: i64 = self.credits.iter().map(|c| i64::from(c.weight)).sum();
        let most = PREWIND_WORK.checked_div(n).unwrap_or(0).min(total.unsigned_abs());
        // `base` is the seeded start: its share of n is the roll.
        let turns = most.saturating_mul(self.base as u64).checked_div(n).unwrap_or(0);
        for _ in 0..turns {
            for credit in &mut self.credits {
                credit.current = credit.current.saturating_add(i64::from(credit.weight));
            }
            // As in a ranking, the first in the list wins a tie: exact cycles need ties to fall the same way always.
            if let Some(first) = self.credits.iter_mut().rev().max_by_key(|c| c.current) {
                first.current = first.current.saturating_sub(total);
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
            let credit = self.credits.get(index).map_or(0, |c| c.current);
            let (key, score) = measures.key(f, index, turn, credit);
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
        let wait = |key: &Key| {
            let index = index_of(*key, base, n);
            if index >= self.explore_from { index - self.explore_from } else { index + n - self.explore_from }
        };
        let place = if explored {
            let next = rivals.iter().enumerate().filter(|(_, k)| new(k)).min_by_key(|(_, k)| wait(k));
            next.map(|(place, key)| (place, index_of(*key, base, n).saturating_add(1)))
        } else {
            rivals.iter().position(|k| !new(k)).map(|place| (place, self.explore_from))
        };
        let Some((place, explore_from)) = place else { return false };
        self.explore_from = explore_from;
        if let Some(front) = rivals.get_mut(..=place) {
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
        let Some(leader) = out.first().map(|r| r.index as usize) else { return };
        self.last = Some(leader);
        if measures.strategy == StrategyKind::Weighted
            && let Some(credit) = self.credits.get_mut(leader)
        {
            credit.current = credit.current.saturating_sub(self.stake);
        }
    }
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
