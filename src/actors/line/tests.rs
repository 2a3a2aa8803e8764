use super::*;
use crate::clock;
use crate::config::demo;
use crate::domain::gate::{Door, Gate};
use crate::domain::health::EndpointHealth;
use crate::domain::settings::LimitSettings;
use proptest::prelude::*;
use std::time::Duration;

fn cell(id: u32, limits: &LimitSettings) -> Arc<EndpointCell> {
    let addressed = demo::ENDPOINTS.map(|(name, model)| (name, model, "http://127.0.0.1:4000/v1"));
    let config = Arc::clone(&demo::demo(&addressed).unwrap().endpoints[0]);
    let now = clock::now();
    let health = EndpointHealth::new(Arc::new(config.breaker.clone()), now);
    EndpointCell::new(id, config, Gate::new(limits, now), health, now)
}

fn at_once(concurrency: u32) -> LimitSettings {
    LimitSettings { concurrency, ..LimitSettings::default() }
}

fn stand(cells: &[&Arc<EndpointCell>], key: &str, priority: Priority) -> Standing {
    Standing::enter(cells.iter().copied().enumerate(), &key.into(), priority, 1, clock::now())
}

fn newcomer(cell: &Arc<EndpointCell>, priority: Priority) -> Result<Permit, RefusalReason> {
    let ask = Ask { may_probe: false, roll: 0.5 };
    Permit::take_as(cell, clock::now(), 1, ask, priority).map_err(|r| r.reason)
}

#[test]
fn a_place_is_given_to_one_and_newcomers_do_not_overtake() {
    let a = cell(0, &at_once(1));
    let held = newcomer(&a, Priority::Normal).unwrap();
    let (first, second) = (stand(&[&a], "k", Priority::Normal), stand(&[&a], "k", Priority::Normal));
    held.give_back(clock::now());
    assert_eq!(newcomer(&a, Priority::Normal).unwrap_err(), RefusalReason::Queued);
    let Given { permit, .. } = first.given().expect("it was given the place");
    assert!(second.given().is_none());
    assert_eq!(newcomer(&a, Priority::High).unwrap_err(), RefusalReason::Concurrency, "allowed to ask, but full");
    permit.give_back(clock::now());
    assert!(second.given().is_some());
    assert_eq!(a.line.waiting(), 0);
}

#[test]
fn who_leaves_passes_its_place_on() {
    let a = cell(0, &at_once(1));
    let held = newcomer(&a, Priority::Normal).unwrap();
    let (first, second) = (stand(&[&a], "k", Priority::Normal), stand(&[&a], "k", Priority::Normal));
    held.give_back(clock::now());
    // Given, but never looked at: the caller went away.
    drop(first);
    let Given { permit, .. } = second.given().expect("the place went on");
    drop(second);
    assert_eq!(a.hot.lock().gate.in_flight(), 1);
    permit.give_back(clock::now());
    assert_eq!((a.hot.lock().gate.in_flight(), a.line.waiting()), (0, 0));
}

#[test]
fn one_request_takes_one_place_though_it_stands_in_two_lines() {
    let (a, b) = (cell(0, &at_once(1)), cell(1, &at_once(1)));
    let (at_a, at_b) = (newcomer(&a, Priority::Normal).unwrap(), newcomer(&b, Priority::Normal).unwrap());
    let (first, second) = (stand(&[&a, &b], "k", Priority::Normal), stand(&[&a, &b], "k", Priority::Normal));
    at_b.give_back(clock::now());
    at_a.give_back(clock::now());
    let (of_first, of_second) = (first.given().unwrap(), second.given().unwrap());
    assert_eq!((of_first.candidate, of_second.candidate), (1, 0));
    drop((first, second));
    of_first.permit.give_back(clock::now());
    of_second.permit.give_back(clock::now());
    assert_eq!(a.hot.lock().gate.in_flight() + b.hot.lock().gate.in_flight(), 0);
}

#[test]
fn a_place_at_a_breaker_that_has_shut_since_is_not_good_any_more() {
    let a = cell(0, &at_once(1));
    let held = newcomer(&a, Priority::Normal).unwrap();
    let first = stand(&[&a], "k", Priority::Normal);
    held.give_back(clock::now());
    let Given { permit, .. } = first.given().unwrap();
    assert!(permit.is_good());
    a.hot.lock().gate.set_door(Door::Shut { epoch: 2, until: None, operator: false });
    assert!(!permit.is_good());
    a.hot.lock().gate.set_door(Door::Probing { epoch: 3, left: 1, spare: 0 });
    assert!(!permit.is_good(), "it is no probe of this period");
    permit.give_back(clock::now());
}

#[test]
fn who_was_given_what_is_worth_nothing_is_next_again_in_all_its_lines() {
    let (a, b) = (cell(0, &at_once(1)), cell(1, &at_once(1)));
    let (at_a, at_b) = (newcomer(&a, Priority::Normal).unwrap(), newcomer(&b, Priority::Normal).unwrap());
    let (first, second) = (stand(&[&a, &b], "k", Priority::Normal), stand(&[&a, &b], "l", Priority::Normal));
    at_a.give_back(clock::now());
    let given = first.given().unwrap();
    a.hot.lock().gate.set_door(Door::Shut { epoch: 2, until: None, operator: false });
    assert!(!given.permit.is_good());
    first.stand_again(given, clock::now());
    assert_eq!((a.line.waiting(), b.line.waiting()), (2, 2));
    assert_eq!(a.hot.lock().gate.in_flight(), 0, "what was given is given back");
    a.hot.lock().gate.set_door(Door::Open { epoch: 3 });
    a.serve_line(clock::now());
    let at_a = first.given().expect("it is its turn as before");
    assert!(at_a.candidate == 0 && second.given().is_none());
    at_b.give_back(clock::now());
    let at_b = second.given().expect("and then the other's");
    drop((first, second));
    [at_a, at_b].into_iter().for_each(|given| given.permit.give_back(clock::now()));
    assert_eq!((a.line.waiting(), b.line.waiting()), (0, 0));
}

#[test]
fn as_many_probes_as_a_half_open_breaker_admits() {
    let a = cell(0, &at_once(100));
    a.hot.lock().gate.set_door(Door::Shut { epoch: 2, until: None, operator: false });
    let all: Vec<_> = (0..50).map(|_| stand(&[&a], "k", Priority::Normal)).collect();
    a.hot.lock().gate.set_door(Door::Probing { epoch: 3, left: 3, spare: 0 });
    a.serve_line(clock::now());
    let mut probes: Vec<_> = all.iter().filter_map(Standing::given).map(|given| given.permit).collect();
    assert_eq!(probes.len(), 3);
    // A probe that says nothing gives its permit to the next.
    probes.pop().unwrap().give_back(clock::now());
    assert_eq!(all.iter().filter_map(Standing::given).map(|g| probes.push(g.permit)).count(), 1);
    drop(all);
    probes.into_iter().for_each(|p| p.give_back(clock::now()));
}

#[test]
fn the_next_in_line_watches_the_time_for_all() {
    let a = cell(0, &LimitSettings { rpm: Some(60), ..LimitSettings::default() });
    while newcomer(&a, Priority::Normal).map(|p| p.finish(clock::now(), &report())).is_ok() {}
    let (first, second) = (stand(&[&a], "k", Priority::Normal), stand(&[&a], "k", Priority::Normal));
    let alarm = first.alarm().expect("the bucket says when");
    assert!(second.alarm().is_none(), "nobody else looks at the clock");
    first.look(alarm);
    let given = first.given();
    assert!(given.is_some() && second.given().is_none());
    assert_eq!(second.alarm().map(|at| at.since(alarm)), Some(Duration::from_secs(1)), "now it is second's to watch");
}

fn report() -> crate::actors::permit::Report {
    crate::actors::permit::Report {
        outcome: crate::domain::outcome::Outcome::Success,
        ttft_us: None,
        usage: crate::domain::usage::Usage::default(),
        cost: None,
        retry_after: None,
    }
}

#[derive(Clone, Debug)]
enum Move {
    Stand { key: usize, class: usize, lines: usize },
    Leave(usize),
    Newcomer(usize),
    Finish(usize),
    Limit(u32),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => (0_usize..3, 0_usize..3, 1_usize..4).prop_map(|(key, class, lines)| Move::Stand { key, class, lines }),
        1 => (0_usize..100).prop_map(Move::Leave),
        2 => (0_usize..3).prop_map(Move::Newcomer),
        4 => (0_usize..100).prop_map(Move::Finish),
        1 => (1_u32..4).prop_map(Move::Limit),
    ];
    prop::collection::vec(one, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// After every move: no place is free while somebody waits for it (no wake-up is lost), nobody holds two places, no more are
    /// in flight than were let in, and in the end every place is back.
    #[test]
    fn no_place_and_no_waiter_is_ever_lost(moves in moves()) {
        let cells = [cell(0, &at_once(2)), cell(1, &at_once(1))];
        let mut standing: Vec<(Standing, usize)> = Vec::new();
        let mut permits: Vec<Permit> = Vec::new();
        for act in moves {
            match act {
                Move::Stand { key, class, lines } => {
                    let at: Vec<_> = (0..2).filter(|i| lines & (1 << i) != 0).map(|i| &cells[i]).collect();
                    standing.push((stand(&at, &format!("k{key}"), Priority::ALL[class]), lines));
                }
                Move::Leave(which) if !standing.is_empty() => drop(standing.remove(which % standing.len())),
                Move::Newcomer(class) => permits.extend(newcomer(&cells[0], Priority::ALL[class]).ok()),
                Move::Finish(which) if !permits.is_empty() => {
                    permits.remove(which % permits.len()).give_back(clock::now());
                }
                Move::Limit(concurrency) => {
                    cells[0].hot.lock().gate.set_limits(&at_once(concurrency), clock::now());
                    cells[0].serve_line(clock::now());
                }
                Move::Leave(_) | Move::Finish(_) => {}
            }
            standing.retain(|(standing, _)| standing.given().map(|given| permits.push(given.permit)).is_none());
            for (i, cell) in cells.iter().enumerate() {
                let in_flight = permits.iter().filter(|p| p.cell().id == cell.id).count();
                let hot = cell.hot.lock();
                prop_assert_eq!(hot.gate.in_flight() as usize, in_flight);
                let waits = standing.iter().filter(|(_, lines)| lines & (1 << i) != 0).count();
                prop_assert!(waits == 0 || hot.gate.peek(clock::now(), 1, true).is_some(), "{waits} wait beside a free place");
                prop_assert_eq!(cell.line.waiting(), waits);
            }
        }
        drop(standing);
        permits.into_iter().for_each(|p| p.give_back(clock::now()));
        for cell in &cells {
            prop_assert_eq!((cell.hot.lock().gate.in_flight(), cell.line.waiting()), (0, 0));
        }
    }
}
