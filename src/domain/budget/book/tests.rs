use super::*;
use crate::domain::budget::period::{Period, Zone};
use proptest::prelude::*;

fn terms(amount: i64, period: Period, mode: Mode) -> Terms {
    Terms { amount: NanoUsd(amount), period, timezone: Zone::default(), mode }
}

fn demand(ceiling: i64, least: i64) -> Demand {
    Demand { ceiling: NanoUsd(ceiling), least: NanoUsd(least), expected: NanoUsd(ceiling / 2), hurried: false }
}

struct Desk {
    book: Book<u32>,
    told: Vec<u32>,
}

impl Desk {
    fn new() -> Self {
        Self { book: Book::default(), told: Vec::new() }
    }

    fn ask(&mut self, now: i64, budgets: &[BudgetId], demand: &Demand, place: &mut Option<Place>, who: u32) -> Answer {
        self.book.ask(Wall(now), budgets, demand, (place, &who), &mut self.told)
    }

    fn granted(&mut self, budgets: &[BudgetId], demand: &Demand) -> (Reserved, Option<NanoUsd>) {
        match self.ask(0, budgets, demand, &mut None, 0) {
            Answer::Granted { reserved, amount, .. } => (reserved, amount),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_last_money_makes_a_shorter_answer_and_then_none() {
    let mut desk = Desk::new();
    let id = desk.book.open(terms(100, Period::Total, Mode::Hard), Wall(0), true);
    let (first, amount) = desk.granted(&[id], &demand(80, 10));
    assert_eq!(amount, Some(NanoUsd(80)));
    assert!(desk.book.settle(Wall(0), first, &[id], NanoUsd(75)).is_empty());
    let (second, amount) = desk.granted(&[id], &demand(80, 10));
    assert_eq!(amount, Some(NanoUsd(25)), "all that is left");
    let _ = desk.book.settle(Wall(0), second, &[id], NanoUsd(16));
    assert_eq!(desk.ask(0, &[id], &demand(80, 10), &mut None, 0), Answer::Spent(id));
    assert_eq!(desk.book.figures(Wall(0), id).unwrap().left, NanoUsd(9));
}

#[test]
fn the_line_is_kept_and_its_head_is_told() {
    let mut desk = Desk::new();
    let id = desk.book.open(terms(100, Period::Total, Mode::Hard), Wall(0), true);
    let (held, _) = desk.granted(&[id], &demand(90, 10));
    let (mut one, mut two) = (None, None);
    assert_eq!(desk.ask(0, &[id], &demand(50, 10), &mut one, 1), Answer::Wait(id));
    assert_eq!(desk.ask(0, &[id], &demand(10, 10), &mut two, 2), Answer::Wait(id), "it would fit, but is no head");
    assert_eq!(desk.book.figures(Wall(0), id).unwrap().waiting, 2);
    assert_eq!(desk.book.settle(Wall(0), held, &[id], NanoUsd(30)), [1]);
    assert!(matches!(desk.ask(0, &[id], &demand(50, 10), &mut one, 1), Answer::Granted { .. }));
    assert_eq!((one, std::mem::take(&mut desk.told)), (None, vec![2]), "the next one is told");
    assert!(matches!(desk.ask(0, &[id], &demand(10, 10), &mut two, 2), Answer::Granted { .. }));
}

#[test]
fn a_hurried_request_takes_what_is_free_or_goes() {
    let mut desk = Desk::new();
    let id = desk.book.open(terms(100, Period::Total, Mode::Hard), Wall(0), true);
    let (_held, _) = desk.granted(&[id], &demand(70, 10));
    let mut place = None;
    assert_eq!(desk.ask(0, &[id], &demand(50, 10), &mut place, 1), Answer::Wait(id));
    let hurried = Demand { hurried: true, ..demand(50, 10) };
    match desk.ask(0, &[id], &hurried, &mut place, 1) {
        Answer::Granted { amount, .. } => assert_eq!(amount, Some(NanoUsd(30))),
        other => panic!("{other:?}"),
    }
    assert_eq!((place, desk.ask(0, &[id], &hurried, &mut None, 2)), (None, Answer::Held(id)));
}

#[test]
fn a_period_ends_and_what_is_reserved_stays_so() {
    const DAY: i64 = 86_400_000_000;
    let mut desk = Desk::new();
    let id = desk.book.open(terms(100, Period::Day, Mode::Hard), Wall(0), true);
    let (first, _) = desk.granted(&[id], &demand(60, 10));
    let _ = desk.book.settle(Wall(1), first, &[id], NanoUsd(60));
    let (over_midnight, amount) = desk.granted(&[id], &demand(60, 10));
    assert_eq!(amount, Some(NanoUsd(40)));
    let figures = desk.book.figures(Wall(DAY), id).unwrap();
    assert_eq!((figures.spent, figures.reserved, figures.left), (NanoUsd(0), NanoUsd(40), NanoUsd(60)));
    let _ = desk.book.settle(Wall(DAY + 1), over_midnight, &[id], NanoUsd(40));
    let back = desk.book.figures(Wall(DAY - 1), id).unwrap();
    assert_eq!((back.spent, back.span.start), (NanoUsd(40), Some(Wall(DAY))), "no way back");
}

#[test]
fn a_soft_budget_expects_what_requests_have_cost_and_refuses_nobody() {
    let mut desk = Desk::new();
    let id = desk.book.open(terms(1_000, Period::Total, Mode::Soft), Wall(0), true);
    let reserved = |desk: &mut Desk| desk.book.figures(Wall(0), id).unwrap().reserved;
    for _ in 0..ENOUGH {
        let (held, amount) = desk.granted(&[id], &demand(200, 10));
        assert_eq!((reserved(&mut desk), amount), (NanoUsd(100), None), "the estimate");
        let _ = desk.book.settle(Wall(0), held, &[id], NanoUsd(20));
    }
    assert!(!desk.book.is_exceeded(Wall(0), id, &demand(200, 10)));
    let (held, _) = desk.granted(&[id], &demand(200, 10));
    assert_eq!(reserved(&mut desk), NanoUsd(20), "the 95th percentile");
    let _ = desk.book.settle(Wall(0), held, &[id], NanoUsd(590));
    assert!(desk.book.is_exceeded(Wall(0), id, &demand(200, 10)));
    match desk.ask(0, &[id], &demand(200, 10), &mut None, 0) {
        Answer::Granted { exceeded, .. } => assert_eq!(exceeded, [id]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_budget_of_unknown_spend_makes_wait_until_it_is_told() {
    let mut desk = Desk::new();
    let id = desk.book.open(terms(100, Period::Total, Mode::Hard), Wall(0), false);
    let mut place = None;
    assert_eq!(desk.ask(0, &[id], &demand(50, 10), &mut place, 1), Answer::Wait(id));
    assert_eq!(desk.book.recall(id, None, NanoUsd(95)), [1]);
    assert_eq!(desk.ask(0, &[id], &demand(50, 10), &mut place, 1), Answer::Spent(id));
    assert_eq!(place, None);
}

#[test]
fn the_line_has_an_end() {
    let mut desk = Desk::new();
    let id = desk.book.open(terms(100, Period::Total, Mode::Hard), Wall(0), true);
    let (_held, _) = desk.granted(&[id], &demand(100, 10));
    let mut places: Vec<_> = (0..MAX_LINE).map(|_| None).collect();
    for place in &mut places {
        assert_eq!(desk.ask(0, &[id], &demand(50, 10), place, 1), Answer::Wait(id));
    }
    assert_eq!(desk.ask(0, &[id], &demand(50, 10), &mut None, 2), Answer::Held(id));
}

/// A request of the simulation: where it stands.
enum Stage {
    Waiting(Option<Place>),
    Running(Reserved, NanoUsd),
    Over,
}

struct Request {
    budgets: Vec<BudgetId>,
    demand: Demand,
    stage: Stage,
}

/// Everything that can happen, in any order.
#[derive(Clone, Debug)]
enum Move {
    /// A new request under a choice of the budgets, by a bit each.
    Ask {
        budgets: u8,
        ceiling: i64,
        least: i64,
    },
    /// One that waits asks again, told or not; perhaps for the last time.
    Again {
        which: usize,
        hurried: bool,
    },
    /// One that waits goes away.
    Leave {
        which: usize,
    },
    /// One that runs costs this share of its ceiling.
    Settle {
        which: usize,
        percent: i64,
    },
    /// One that runs reserves less.
    Trim {
        which: usize,
        percent: i64,
    },
    Time {
        us: i64,
    },
}

fn moves() -> impl Strategy<Value = Move> {
    const HOUR: i64 = 3_600_000_000;
    prop_oneof![
        6 => (1_u8..8, 1_i64..400, 0_i64..100).prop_map(|(budgets, ceiling, percent)| Move::Ask {
            budgets, ceiling, least: (ceiling * percent / 100).max(1),
        }),
        4 => (any::<usize>(), proptest::bool::weighted(0.2)).prop_map(|(which, hurried)| Move::Again { which, hurried }),
        1 => any::<usize>().prop_map(|which| Move::Leave { which }),
        6 => (any::<usize>(), 0_i64..=100).prop_map(|(which, percent)| Move::Settle { which, percent }),
        1 => (any::<usize>(), 0_i64..=100).prop_map(|(which, percent)| Move::Trim { which, percent }),
        1 => (-HOUR..30 * HOUR).prop_map(|us| Move::Time { us }),
    ]
}

struct World {
    desk: Desk,
    budgets: Vec<BudgetId>,
    requests: Vec<Request>,
    now: i64,
}

impl World {
    fn figures(&mut self, id: BudgetId) -> Figures {
        self.desk.book.figures(Wall(self.now), id).unwrap()
    }

    fn pick(&self, which: usize, wanted: impl Fn(&Stage) -> bool) -> Option<usize> {
        let fit: Vec<_> = (0..self.requests.len()).filter(|i| wanted(&self.requests[*i].stage)).collect();
        (!fit.is_empty()).then(|| fit[which % fit.len()])
    }

    /// Asks, and judges the answer against the figures.
    fn ask(&mut self, index: usize, hurried: bool) -> Result<(), TestCaseError> {
        let request = &mut self.requests[index];
        if !matches!(request.stage, Stage::Waiting(_)) {
            return Ok(());
        }
        let demand = Demand { hurried, ..request.demand };
        let Stage::Waiting(mut place) = std::mem::replace(&mut request.stage, Stage::Over) else { return Ok(()) };
        let budgets = request.budgets.clone();
        let answer = self.desk.ask(self.now, &budgets, &demand, &mut place, u32::try_from(index).unwrap());
        let left = |f: Figures| f.amount.saturating_sub(f.spent);
        self.requests[index].stage = match answer {
            Answer::Granted { reserved, amount, .. } => {
                let amount = amount.unwrap_or(demand.ceiling);
                prop_assert!(amount <= demand.ceiling && amount >= demand.least);
                Stage::Running(reserved, amount)
            }
            Answer::Spent(id) => {
                let figures = self.figures(id);
                prop_assert!(left(figures) < demand.least, "refused although {figures:?} pays for {demand:?}");
                Stage::Over
            }
            Answer::Held(id) => {
                let figures = self.figures(id);
                prop_assert!(hurried && figures.left < demand.least && figures.reserved > NanoUsd::ZERO);
                Stage::Over
            }
            Answer::Wait(id) => {
                let figures = self.figures(id);
                prop_assert!(figures.reserved > NanoUsd::ZERO || figures.waiting > 1, "{figures:?}");
                prop_assert!(place.is_some());
                Stage::Waiting(place)
            }
        };
        Ok(())
    }

    fn settle(&mut self, index: usize, percent: i64) {
        let Stage::Running(reserved, most) = std::mem::replace(&mut self.requests[index].stage, Stage::Over) else {
            return;
        };
        let budgets = self.requests[index].budgets.clone();
        let cost = NanoUsd(most.0 * percent / 100);
        let told = self.desk.book.settle(Wall(self.now), reserved, &budgets, cost);
        self.desk.told.extend(told);
    }

    fn step(&mut self, step: Move) -> Result<(), TestCaseError> {
        let waiting = |s: &Stage| matches!(s, Stage::Waiting(_));
        let running = |s: &Stage| matches!(s, Stage::Running(..));
        match step {
            Move::Ask { budgets, ceiling, least } => {
                let chosen = self.budgets.iter().enumerate().filter(|(i, _)| budgets & (1 << i) != 0);
                let budgets = chosen.map(|(_, id)| *id).collect();
                let demand = demand(ceiling, least);
                self.requests.push(Request { budgets, demand, stage: Stage::Waiting(None) });
                self.ask(self.requests.len() - 1, false)?;
            }
            Move::Again { which, hurried } => {
                if let Some(index) = self.pick(which, waiting) {
                    self.ask(index, hurried)?;
                }
            }
            Move::Leave { which } => {
                if let Some(index) = self.pick(which, waiting)
                    && let Stage::Waiting(mut place) = std::mem::replace(&mut self.requests[index].stage, Stage::Over)
                {
                    let told = self.desk.book.leave(&mut place);
                    self.desk.told.extend(told);
                }
            }
            Move::Settle { which, percent } => {
                if let Some(index) = self.pick(which, running) {
                    self.settle(index, percent);
                }
            }
            Move::Trim { which, percent } => {
                if let Some(index) = self.pick(which, running)
                    && let Stage::Running(reserved, most) = &mut self.requests[index].stage
                {
                    let to = NanoUsd(most.0 * percent / 100);
                    *most = to;
                    let told = self.desk.book.trim(reserved, to);
                    self.desk.told.extend(told);
                }
            }
            Move::Time { us } => self.now = (self.now + us).max(0),
        }
        for id in self.budgets.clone() {
            let figures = self.figures(id);
            if figures.mode == Mode::Hard {
                let used = figures.spent + figures.reserved;
                prop_assert!(used <= figures.amount && figures.spent >= NanoUsd::ZERO, "{figures:?}");
            }
            prop_assert!(figures.reserved >= NanoUsd::ZERO);
        }
        Ok(())
    }

    /// What runs ends, and whoever is told asks again: then nobody may be left waiting.
    fn drain(&mut self) -> Result<(), TestCaseError> {
        let mut rounds = 0;
        loop {
            rounds += 1;
            prop_assert!(rounds < 10_000, "they send each other from line to line");
            let told = std::mem::take(&mut self.desk.told);
            for who in &told {
                self.ask(*who as usize, false)?;
            }
            if let Some(index) = self.pick(0, |s| matches!(s, Stage::Running(..))) {
                self.settle(index, 50);
            } else if told.is_empty() {
                break;
            }
        }
        prop_assert!(self.pick(0, |s| matches!(s, Stage::Waiting(_))).is_none(), "somebody was never told");
        for id in self.budgets.clone() {
            prop_assert_eq!(self.figures(id).reserved, NanoUsd::ZERO);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens in whatever order: a hard budget is never overspent, nobody is refused while money is left that is neither
    /// spent nor reserved, and nobody is forgotten in a line.
    #[test]
    fn money_is_neither_overspent_nor_withheld(
        amounts in proptest::collection::vec(50_i64..600, 3),
        kinds in proptest::collection::vec((0_usize..4, proptest::bool::weighted(0.25)), 3),
        steps in proptest::collection::vec(moves(), 1..120),
    ) {
        let mut world = World { desk: Desk::new(), budgets: Vec::new(), requests: Vec::new(), now: 0 };
        for (amount, (period, soft)) in amounts.into_iter().zip(kinds) {
            let mode = if soft { Mode::Soft } else { Mode::Hard };
            let terms = terms(amount, Period::ALL[period], mode);
            world.budgets.push(world.desk.book.open(terms, Wall(0), true));
        }
        for step in steps {
            world.step(step)?;
        }
        world.drain()?;
    }
}
