use super::*;
use proptest::prelude::*;

fn key(n: usize) -> Arc<str> {
    format!("key{n}").into()
}

/// Serves whoever is next, and says who.
fn serve(queue: &mut Queue<u32>) -> Option<u32> {
    let (place, _) = queue.next()?;
    queue.serve(&place)
}

#[test]
fn keys_take_turns_and_each_keeps_its_order() {
    let mut queue = Queue::default();
    for n in 0..5 {
        queue.enter(&key(0), Priority::Normal, n);
    }
    queue.enter(&key(1), Priority::Normal, 10);
    queue.enter(&key(1), Priority::Normal, 11);
    let order: Vec<_> = std::iter::from_fn(|| serve(&mut queue)).collect();
    assert_eq!(order, [0, 10, 1, 11, 2, 3, 4]);
}

#[test]
fn high_comes_first_and_low_gets_one_in_ten() {
    let mut queue = Queue::default();
    for n in 0..40 {
        queue.enter(&key(0), Priority::Low, 100 + n);
        queue.enter(&key(1), Priority::High, n);
    }
    let order: Vec<_> = (0..40).filter_map(|_| serve(&mut queue)).collect();
    assert!(order[..9].iter().all(|n| *n < 100), "{order:?}");
    assert_eq!(order.iter().filter(|n| **n >= 100).count(), 4, "{order:?}");
    assert_eq!((order[9], order[19], order[29], order[39]), (100, 101, 102, 103));
}

#[test]
fn a_newcomer_passes_only_those_below_it_and_not_for_ever() {
    let mut queue = Queue::default();
    assert!(queue.may_pass(Priority::Low), "nobody waits");
    queue.enter(&key(0), Priority::Normal, 1);
    assert!(!queue.may_pass(Priority::Normal) && !queue.may_pass(Priority::Low));
    for _ in 0..9 {
        assert!(queue.may_pass(Priority::High));
        queue.passed(Priority::High);
    }
    assert!(!queue.may_pass(Priority::High), "the tenth grant is for who waits");
    assert_eq!(serve(&mut queue), Some(1));
}

#[test]
fn leaving_costs_nobody_a_turn() {
    let mut queue = Queue::default();
    let gone = queue.enter(&key(0), Priority::Normal, 0);
    queue.enter(&key(1), Priority::Normal, 1);
    queue.enter(&key(0), Priority::Normal, 2);
    assert_eq!(queue.leave(&gone), Some(0));
    assert_eq!(queue.leave(&gone), None, "only once");
    assert_eq!((serve(&mut queue), serve(&mut queue), serve(&mut queue)), (Some(2), Some(1), None));
}

#[test]
fn a_key_that_gives_up_before_each_of_its_turns_is_served_all_the_same() {
    let mut queue = Queue::default();
    for n in 0..30 {
        (0..3).for_each(|k| drop(queue.enter(&key(k), Priority::Normal, n)));
    }
    // It stands for two grants, goes, and comes back.
    let mut served = 0;
    for round in 0..20 {
        let place = queue.enter(&key(9), Priority::Normal, 100 + round);
        served += [serve(&mut queue), serve(&mut queue)].iter().flatten().filter(|n| **n >= 100).count();
        queue.leave(&place);
    }
    assert_eq!(served, 10, "of 40 grants among four");
}

#[test]
fn one_key_fills_half_of_the_places_and_the_rest_stays_for_others() {
    let mut lobby = Lobby::default();
    let fill =
        |lobby: &mut Lobby, n: usize| (0..2_000).take_while(|_| lobby.enter(Some(&key(n)), 1_000).is_ok()).count();
    assert_eq!(fill(&mut lobby, 0), 500);
    assert_eq!(lobby.enter(Some(&key(0)), 1_000), Err(Full::Share));
    assert_eq!(fill(&mut lobby, 1), 250);
    assert_eq!((0..2_000).take_while(|_| lobby.enter(None, 1_000).is_ok()).count(), 250);
    assert_eq!(lobby.enter(Some(&key(2)), 1_000), Err(Full::All));
    lobby.leave(None);
    assert_eq!(lobby.enter(Some(&key(2)), 1_000), Ok(()));
}

/// The rules again, as slowly and plainly as they can be written: a list of who waits and a diary of what happened.
#[derive(Default)]
struct Plain {
    /// Class, key and number in the order of arrival.
    waiting: Vec<(Priority, usize, u32)>,
    diary: Vec<Noted>,
    /// Who left unserved while others of the class waited.
    gone: Vec<(Priority, usize)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Noted {
    /// The key's first request of this class came, when it had none in line.
    KeyCame(Priority, usize),
    /// A request of the class came, when the class had none in line.
    ClassCame(Priority),
    Served(Priority, Option<usize>),
}

impl Plain {
    fn enter(&mut self, class: Priority, key: usize, number: u32) {
        if !self.waiting.iter().any(|w| w.0 == class) {
            self.diary.push(Noted::ClassCame(class));
        }
        if !self.stands(class, key) && !self.gone.contains(&(class, key)) {
            self.diary.push(Noted::KeyCame(class, key));
        }
        self.gone.retain(|gone| *gone != (class, key));
        self.waiting.push((class, key, number));
    }

    fn leave(&mut self, number: u32) {
        let Some(at) = self.waiting.iter().position(|w| w.2 == number) else { return };
        let (class, key, _) = self.waiting.remove(at);
        if !self.stands(class, key) {
            self.gone.push((class, key));
        }
        self.forget();
    }

    fn forget(&mut self) {
        let waiting = &self.waiting;
        self.gone.retain(|gone| waiting.iter().any(|w| w.0 == gone.0));
    }

    fn stands(&self, class: Priority, key: usize) -> bool {
        self.waiting.iter().any(|w| (w.0, w.1) == (class, key))
    }

    fn passed_over(&self, class: Priority) -> usize {
        let mine = |n: &Noted| *n == Noted::ClassCame(class) || matches!(n, Noted::Served(c, _) if *c == class);
        let since = self.diary.iter().rposition(mine).map_or(0, |at| at + 1);
        self.diary[since..].iter().filter(|n| matches!(n, Noted::Served(..))).count()
    }

    fn waits(&self, class: Priority) -> bool {
        self.waiting.iter().any(|w| w.0 == class)
    }

    fn due(&self) -> Option<Priority> {
        let mut due: Vec<_> =
            Priority::ALL.into_iter().filter(|c| self.waits(*c) && self.passed_over(*c) >= 9).collect();
        due.sort_by_key(|c| (usize::MAX - self.passed_over(*c), *c));
        due.first().copied()
    }

    fn first(&self) -> Option<Priority> {
        Priority::ALL.into_iter().find(|c| self.waits(*c))
    }

    fn next(&self) -> Option<(Priority, usize, u32)> {
        let class = self.due().or(self.first())?;
        let turn_of = |key: usize| {
            let moved = |n: &Noted| *n == Noted::KeyCame(class, key) || *n == Noted::Served(class, Some(key));
            self.diary.iter().rposition(moved)
        };
        self.waiting.iter().filter(|w| w.0 == class).min_by_key(|w| turn_of(w.1)).copied()
    }

    fn serve(&mut self) -> Option<u32> {
        let next = self.next()?;
        self.waiting.retain(|w| *w != next);
        self.forget();
        self.diary.push(Noted::Served(next.0, Some(next.1)));
        Some(next.2)
    }
}

#[derive(Clone, Debug)]
enum Move {
    Enter(usize, usize),
    Leave(usize),
    Serve,
    Newcomer(usize),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => (0_usize..3, 0_usize..4).prop_map(|(class, key)| Move::Enter(class, key)),
        1 => (0_usize..1_000).prop_map(Move::Leave),
        3 => Just(Move::Serve),
        1 => (0_usize..3).prop_map(Move::Newcomer),
    ];
    prop::collection::vec(one, 1..400)
}

proptest! {
    /// Whatever comes, goes and is served: the order, who may pass, and the count are the plain model's.
    #[test]
    fn the_line_is_the_plain_models(moves in moves()) {
        let (mut queue, mut plain) = (Queue::default(), Plain::default());
        let mut places: Vec<(Place, u32)> = Vec::new();
        for (number, act) in (0_u32..).zip(moves) {
            match act {
                Move::Enter(class, k) => {
                    let class = Priority::ALL[class];
                    places.push((queue.enter(&key(k), class, number), number));
                    plain.enter(class, k, number);
                }
                Move::Leave(which) => {
                    if !places.is_empty() {
                        let (place, number) = places.remove(which % places.len());
                        let stood = plain.waiting.iter().any(|w| w.2 == number);
                        prop_assert_eq!(queue.leave(&place), stood.then_some(number));
                        plain.leave(number);
                    }
                }
                Move::Serve => prop_assert_eq!(serve(&mut queue), plain.serve()),
                Move::Newcomer(class) => {
                    let class = Priority::ALL[class];
                    let may = plain.first().is_none_or(|first| class < first) && plain.due().is_none();
                    prop_assert_eq!(queue.may_pass(class), may);
                    if may {
                        queue.passed(class);
                        plain.diary.push(Noted::Served(class, None));
                    }
                }
            }
            prop_assert_eq!(queue.len(), plain.waiting.len());
            for class in Priority::ALL {
                let ahead = plain.waiting.iter().filter(|w| w.0 <= class).count();
                prop_assert_eq!(queue.ahead_of(class), ahead);
            }
            prop_assert_eq!(queue.next().map(|(_, n)| *n), plain.next().map(|w| w.2));
        }
        // Nobody is lost: all that still stand are served, each once.
        let mut rest: Vec<_> = std::iter::from_fn(|| serve(&mut queue)).collect();
        rest.sort_unstable();
        let mut stood: Vec<_> = plain.waiting.iter().map(|w| w.2).collect();
        stood.sort_unstable();
        prop_assert_eq!(rest, stood);
    }

    /// However the others come, a class that waits is served within eleven grants, and between two keys that wait all the time
    /// in one class the grants differ by at most one.
    #[test]
    fn nobody_starves(comers in prop::collection::vec((0_usize..3, 0_usize..3), 300)) {
        let mut queue = Queue::default();
        for class in Priority::ALL {
            for k in [7, 8] {
                (0..100).for_each(|n| drop(queue.enter(&key(k), class, n)));
            }
        }
        let (mut gap, mut by_key) = ([0_u32; 3], [[0_i32; 2]; 3]);
        for (class, k) in comers {
            queue.enter(&key(k), Priority::ALL[class], 0);
            let place = queue.next().map(|(place, _)| place).unwrap();
            queue.serve(&place);
            for class in Priority::ALL {
                let gap = &mut gap[class as usize];
                *gap = if class == place.priority { 0 } else { *gap + 1 };
                prop_assert!(*gap <= TURN_IN, "{class:?} waits for {gap} grants");
            }
            if let Some(which) = [key(7), key(8)].iter().position(|k| *k == place.key) {
                by_key[place.priority as usize][which] += 1;
            }
            prop_assert!(by_key.iter().all(|[a, b]| (a - b).abs() <= 1), "{by_key:?}");
        }
    }

    /// The lobby never holds more than its places, and a key never more than half of them.
    #[test]
    fn the_lobby_keeps_its_bounds(
        most in 1_usize..40,
        comers in prop::collection::vec((0_usize..5, any::<bool>()), 1..300),
    ) {
        let mut lobby = Lobby::default();
        let mut held = [0_usize; 5];
        for (k, comes) in comers {
            let all: usize = held.iter().sum();
            // Number 4 is the caller without a key.
            let name = (k < 4).then(|| key(k));
            if comes {
                let free = most - all;
                let expected = if free == 0 { Err(Full::All) } else if k < 4 && held[k] >= free { Err(Full::Share) } else { Ok(()) };
                prop_assert_eq!(lobby.enter(name.as_ref(), most), expected);
                held[k] += usize::from(expected.is_ok());
            } else if held[k] > 0 {
                lobby.leave(name.as_ref());
                held[k] -= 1;
            }
            prop_assert_eq!(lobby.waiting(), held.iter().sum::<usize>());
            prop_assert!(lobby.waiting() <= most && held[..4].iter().all(|n| *n <= most.div_ceil(2)));
        }
    }
}
