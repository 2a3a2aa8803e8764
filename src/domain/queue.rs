//! Who is next where more wait than there is room for.
//!
//! [`Queue`] is one line. Whoever is next is decided in this order:
//! 1. **priority class**: high before normal before low;
//! 2. **but one in [`TURN_IN`] to each class that waits**: a class that was passed over nine times is due, whatever is above it, so
//!    none starves. If two are due, the one passed over more often comes first, the higher class on a tie, and the other with
//!    the next grant;
//! 3. **key**: within a class the keys take turns, so a key with a hundred requests in line gets no more than one with two;
//! 4. **order of arrival**, within a key.
//!
//! A key whose last request was served goes to the end of the turns when it comes again. Leaving the line costs nobody their
//! turn: a key that leaves unserved and comes again while others of its class wait stands where it stood. Otherwise a key whose requests
//! give up a moment before each of its turns would never be served. Nor does a grant cost a turn that came to nothing and is taken back.
//! A newcomer may pass a line without standing in it only if its class is above all that wait, and only while no class is
//! due; passing counts as a grant.
//!
//! [`Lobby`] is the bound on all lines together: a fixed number of requests may wait, and of one key no more than there are places
//! still free at that moment. So one key alone fills at most half, two fill a third each, and there is always a place for a key
//! that has none.
//!
//! Both know neither time nor endpoints. Entering, leaving and granting are `O(log n)` in what waits in one line.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A class that waits gets at least every so many-th grant.
pub const TURN_IN: u32 = 10;

/// Keys of a class whose turns are kept while they are not in line; of more, the turns are lost.
const MOST_KEPT: usize = 1_000;

/// What a key's requests are worth while they wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    High,
    #[default]
    Normal,
    Low,
}

impl Priority {
    /// The most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    /// Reads a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str() == text)
    }
}

/// Where somebody stands in a line; what leaving needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub priority: Priority,
    pub key: Arc<str>,
    number: u64,
}

/// What serving somebody changed, for [`Queue::take_back`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    turn: u64,
    passed_over: u32,
}

/// The requests of one key, in the order they came.
#[derive(Debug)]
struct Lane<W> {
    turn: u64,
    waiters: BTreeMap<u64, W>,
}

/// The requests of one priority.
#[derive(Debug)]
struct Class<W> {
    lanes: HashMap<Arc<str>, Lane<W>>,
    /// The keys in the order of their turns; as many as there are lanes.
    turns: BTreeMap<u64, Arc<str>>,
    /// The turns of keys that left unserved.
    kept: HashMap<Arc<str>, u64>,
    count: usize,
    /// Grants to others since this class began to wait or was last served.
    passed_over: u32,
}

impl<W> Class<W> {
    /// The lane of a key, which begins with the turn that was kept for it, or this one.
    fn lane(&mut self, key: &Arc<str>, new_turn: u64) -> &mut Lane<W> {
        let Self { lanes, turns, kept, .. } = self;
        lanes.entry(Arc::clone(key)).or_insert_with(|| {
            let turn = kept.remove(key).unwrap_or(new_turn);
            turns.insert(turn, Arc::clone(key));
            Lane { turn, waiters: BTreeMap::new() }
        })
    }

    /// Gives a key in line another turn.
    fn set_turn(&mut self, key: &Arc<str>, turn: u64) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        let key = self.turns.remove(&std::mem::replace(&mut lane.turn, turn));
        self.turns.extend(key.map(|key| (turn, key)));
    }

    /// In the order of their turns.
    fn lanes(&self) -> impl Iterator<Item = &Lane<W>> {
        self.turns.values().filter_map(|key| self.lanes.get(key))
    }
}

/// One line.
#[derive(Debug)]
pub struct Queue<W> {
    classes: [Class<W>; Priority::ALL.len()],
    count: usize,
    /// Of the next place and the next turn.
    next_number: u64,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        let class =
            || Class { lanes: HashMap::new(), turns: BTreeMap::new(), kept: HashMap::new(), count: 0, passed_over: 0 };
        Self { classes: [class(), class(), class()], count: 0, next_number: 0 }
    }
}

impl<W> Queue<W> {
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many would be served before a newcomer if only classes and turns of classes counted: those of its class or above.
    #[must_use]
    pub fn ahead_of(&self, priority: Priority) -> usize {
        self.classes.iter().take(priority as usize + 1).map(|class| class.count).sum()
    }

    /// Stands at the end of the key's own requests.
    pub fn enter(&mut self, key: &Arc<str>, priority: Priority, waiter: W) -> Place {
        let number = self.number();
        let new_turn = self.number();
        let class = &mut self.classes[priority as usize];
        class.lane(key, new_turn).waiters.insert(number, waiter);
        class.count += 1;
        self.count += 1;
        Place { priority, key: Arc::clone(key), number }
    }

    /// Steps out of the line without having been served; `None` if the place is no longer held.
    pub fn leave(&mut self, place: &Place) -> Option<W> {
        self.remove(place.priority, &place.key, place.number, false)
    }

    /// Who is next, and where they stand; asking changes nothing.
    #[must_use]
    pub fn next(&self) -> Option<(Place, &W)> {
        let priority = self.class_due().or_else(|| self.first_class())?;
        let class = &self.classes[priority as usize];
        let key = class.turns.values().next()?;
        let (number, waiter) = class.lanes.get(key)?.waiters.first_key_value()?;
        Some((Place { priority, key: Arc::clone(key), number: *number }, waiter))
    }

    /// Serves whoever stands at `place`: it is out of the line, its key's turn is over, and the other classes were passed over.
    pub fn serve(&mut self, place: &Place) -> Option<(W, Turn)> {
        let class = &self.classes[place.priority as usize];
        let turn = Turn { turn: class.lanes.get(&place.key)?.turn, passed_over: class.passed_over };
        let served = self.remove(place.priority, &place.key, place.number, true)?;
        self.pass_over(place.priority);
        Some((served, turn))
    }

    /// Whoever stood at `place` stands there again, unless it does already. If it was served and that came to nothing, `turn` is what
    /// that had changed: it is its key's turn as before. Without, it had left, and its key has the turn of one that comes again.
    pub fn take_back(&mut self, place: &Place, waiter: W, turn: Option<Turn>) {
        let new_turn = self.number();
        let class = &mut self.classes[place.priority as usize];
        let lane = class.lane(&place.key, new_turn);
        if lane.waiters.contains_key(&place.number) {
            return;
        }
        lane.waiters.insert(place.number, waiter);
        let present = lane.turn;
        class.count += 1;
        self.count += 1;
        let Some(Turn { turn, passed_over }) = turn else { return };
        if turn < present {
            class.set_turn(&place.key, turn);
        }
        class.passed_over = class.passed_over.max(passed_over);
        for (priority, class) in Priority::ALL.into_iter().zip(&mut self.classes) {
            if priority != place.priority {
                class.passed_over = class.passed_over.saturating_sub(1);
            }
        }
    }

    /// Whether a newcomer of this priority may be served before all that wait.
    #[must_use]
    pub fn may_pass(&self, priority: Priority) -> bool {
        self.first_class().is_none_or(|first| priority < first) && self.class_due().is_none()
    }

    /// A newcomer was served before all that wait.
    pub fn passed(&mut self, priority: Priority) {
        self.pass_over(priority);
    }

    /// All who wait, by class and turn: in the same order whenever the same has happened.
    pub fn waiters(&self) -> impl Iterator<Item = &W> {
        self.classes.iter().flat_map(Class::lanes).flat_map(|lane| lane.waiters.values())
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn remove(&mut self, priority: Priority, key: &Arc<str>, number: u64, served: bool) -> Option<W> {
        let turn = self.number();
        let class = &mut self.classes[priority as usize];
        let lane = class.lanes.get_mut(key)?;
        let waiter = lane.waiters.remove(&number)?;
        class.count -= 1;
        self.count -= 1;
        if lane.waiters.is_empty() {
            class.turns.remove(&lane.turn);
            if !served && class.kept.len() < MOST_KEPT {
                class.kept.insert(Arc::clone(key), lane.turn);
            }
            class.lanes.remove(key);
            if class.lanes.is_empty() {
                class.passed_over = 0;
                class.kept.clear();
            }
        } else if served {
            class.set_turn(key, turn);
        }
        Some(waiter)
    }

    fn pass_over(&mut self, served: Priority) {
        for (priority, class) in Priority::ALL.into_iter().zip(&mut self.classes) {
            if priority == served {
                class.passed_over = 0;
            } else if !class.lanes.is_empty() {
                class.passed_over = class.passed_over.saturating_add(1);
            }
        }
    }

    fn waiting_classes(&self) -> impl Iterator<Item = (Priority, &Class<W>)> {
        Priority::ALL.into_iter().zip(&self.classes).filter(|(_, class)| !class.lanes.is_empty())
    }

    fn first_class(&self) -> Option<Priority> {
        self.waiting_classes().next().map(|(priority, _)| priority)
    }

    fn class_due(&self) -> Option<Priority> {
        let due = self.waiting_classes().filter(|(_, class)| class.passed_over + 1 >= TURN_IN);
        // The last of equals in reverse order is the highest class.
        due.map(|(priority, class)| (class.passed_over, std::cmp::Reverse(priority))).max().map(|(_, p)| p.0)
    }
}

/// The bound on all who wait.
#[derive(Debug, Default)]
pub struct Lobby {
    waiting: usize,
    of_key: HashMap<Arc<str>, usize>,
}

/// Why somebody may not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// Every place is taken.
    All,
    /// The key has as many places as are left for everybody else.
    Share,
}

impl Lobby {
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes one of `most` places, for a key or (`None`) for a caller without one, who has no share to keep to.
    ///
    /// # Errors
    /// Why there is none; nothing was taken.
    pub fn enter(&mut self, key: Option<&Arc<str>>, most: usize) -> Result<(), Full> {
        let free = most.saturating_sub(self.waiting);
        if free == 0 {
            return Err(Full::All);
        }
        if let Some(key) = key {
            let held = self.of_key.get(key).copied().unwrap_or(0);
            if held >= free {
                return Err(Full::Share);
            }
            self.of_key.insert(Arc::clone(key), held + 1);
        }
        self.waiting += 1;
        Ok(())
    }

    /// Gives a place back that [`Self::enter`] gave.
    pub fn leave(&mut self, key: Option<&Arc<str>>) {
        self.waiting = self.waiting.saturating_sub(1);
        let Some(key) = key else { return };
        if let Some(held) = self.of_key.get_mut(key) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.of_key.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests;
