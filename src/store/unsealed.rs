//! Which hours or days have no good sums of their own yet, and which of them can be given some.
//!
//! One is due when it is over and no row has come for it since the rollups were last stored: only then is what is stored all there is.

use std::collections::BTreeMap;

/// Hours or days whose cells may still change, by number.
#[derive(Default)]
pub(super) struct Unsealed {
    open: BTreeMap<u32, State>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// Something came for it since the rollups were last stored.
    touched: bool,
    /// A mark that its sums are good may be stored, and has to go.
    marked: bool,
}

impl Unsealed {
    /// Those that are stored without a mark.
    pub fn load(numbers: impl Iterator<Item = u32>) -> Self {
        Self { open: numbers.map(|number| (number, State::default())).collect() }
    }

    /// A row has come for it.
    pub fn touch(&mut self, number: u32) {
        self.open.entry(number).or_insert(State { touched: true, marked: true }).touched = true;
    }

    /// Those before `current` that are stored as they are, the earliest first.
    pub fn due(&self, current: u32) -> impl Iterator<Item = u32> {
        self.open.range(..current).filter(|(_, state)| !state.touched).map(|(number, _)| *number)
    }

    /// Those whose marks have to go with the next batch.
    pub fn marked(&self) -> impl Iterator<Item = u32> {
        self.open.iter().filter(|(_, state)| state.marked).map(|(number, _)| *number)
    }

    /// Notes that everything is stored, with the sums of some.
    pub fn stored(&mut self, sealed: &[u32]) {
        self.open.retain(|number, state| {
            *state = State::default();
            sealed.binary_search(number).is_err()
        });
    }
}
