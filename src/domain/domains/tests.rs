use super::*;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000;

fn at(seconds: u64) -> Ts {
    Ts((1_000 + seconds) * SECOND)
}

fn vendor(members: u32) -> Domains {
    let mut domains = Domains::default();
    for id in 0..members {
        assert!(domains.set_member(at(0), id, &["vendor".into()]).is_empty());
    }
    domains
}

fn held(domains: &Domains, members: u32) -> Vec<u32> {
    (0..members).filter(|id| domains.hold(*id).is_some()).collect()
}

#[test]
fn half_of_the_members_within_ten_seconds_shut_the_rest() {
    let mut domains = vendor(4);
    assert!(domains.down(at(0), 0, at(0)).is_empty(), "one alone is its own trouble");
    let moved = domains.down(at(10), 1, at(10));
    assert_eq!((moved[0].until, moved[0].down, moved[0].members), (Some(at(15)), 2, 4));
    assert_eq!(held(&domains, 4), [2, 3], "those who are down have their own breakers");
    assert_eq!(domains.next_wake(), Some(at(15)));
}

#[test]
fn a_second_apart_too_late_or_too_few_of_many_do_not() {
    let mut late = vendor(4);
    late.down(at(0), 0, at(0));
    assert!(late.down(at(11), 1, at(11)).is_empty());
    let mut many = vendor(5);
    many.down(at(0), 0, at(0));
    assert!(many.down(at(0), 1, at(0)).is_empty(), "two of five are not half");
    let mut alone = vendor(1);
    assert!(alone.down(at(0), 0, at(0)).is_empty(), "at least two");
}

#[test]
fn it_goes_on_for_twice_as_long_until_somebody_is_seen_working() {
    let mut domains = vendor(4);
    domains.down(at(0), 0, at(0));
    domains.down(at(0), 1, at(0));
    assert!(domains.on_time(at(4)).is_empty());
    assert_eq!(domains.on_time(at(5))[0].until, Some(at(15)));
    assert_eq!(domains.on_time(at(15))[0].until, Some(at(35)));
    let closed = domains.up(at(20), 3);
    assert_eq!((closed[0].until, held(&domains, 4).len()), (None, 0));
    assert!(domains.down(at(21), 2, at(21)).is_empty(), "the two from before do not count again");
    assert_eq!(domains.down(at(22), 3, at(22))[0].until, Some(at(62)), "soon after, the doubling goes on");
}

#[test]
fn a_trip_by_an_operator_says_nothing() {
    let mut domains = vendor(2);
    domains.down(at(0), 0, at(0));
    domains.forget(0);
    assert!(domains.down(at(1), 1, at(1)).is_empty());
}

#[test]
fn several_domains_hold_for_as_long_as_the_longest() {
    let mut domains = Domains::default();
    for (id, names) in [(0, "a"), (1, "a"), (2, "b"), (3, "b")] {
        domains.set_member(at(0), id, &[names.into()]);
    }
    domains.set_member(at(0), 9, &["a".into(), "b".into()]);
    domains.down(at(0), 0, at(0));
    domains.down(at(0), 1, at(0));
    domains.down(at(3), 2, at(3));
    domains.down(at(3), 3, at(3));
    assert_eq!(domains.hold(9), Some((&"b".into(), at(8))));
    domains.up(at(4), 2);
    assert_eq!(domains.hold(9), Some((&"a".into(), at(5))));
    domains.set_member(at(4), 9, &[]);
    assert_eq!(domains.hold(9), None);
}

/// One domain, written down as plainly as it can be: a list of what happened, searched through each time.
#[derive(Default)]
struct Plain {
    members: Vec<u32>,
    down: Vec<(u32, u64)>,
    until: Option<u64>,
    period: u64,
    closed_at: u64,
}

impl Plain {
    fn needed(&self) -> usize {
        2.max(self.members.len().div_ceil(2))
    }

    fn start(&mut self, now: u64) {
        self.until = Some(now + self.period);
        self.period = (self.period * 2).min(60);
    }

    fn close(&mut self, now: u64) {
        (self.until, self.closed_at) = (None, now);
        self.down.iter_mut().for_each(|d| d.1 = 0);
    }

    fn down(&mut self, now: u64, id: u32) {
        self.down.retain(|d| d.0 != id);
        self.down.push((id, 1_000 + now));
        let together = self.down.iter().filter(|d| d.1 + 10 >= 1_000 + now).count();
        if self.until.is_none() && together >= self.needed() {
            if now - self.closed_at >= 60 || self.period == 0 {
                self.period = 5;
            }
            self.start(now);
        }
    }
}

proptest! {
    #[test]
    fn a_domain_is_the_plain_models(
        members in 2_u32..7,
        moves in prop::collection::vec((0_u8..8, 0_u32..6, 0_u64..12), 1..200),
    ) {
        let mut domains = vendor(members);
        let mut plain = Plain { members: (0..members).collect(), period: 5, ..Plain::default() };
        let mut now = 100;
        plain.closed_at = 0;
        for (what, who, later) in moves {
            now += later;
            let id = who % members;
            // The clock comes first, as an actor's timer would.
            domains.on_time(at(now));
            if plain.until.is_some_and(|until| now >= until) {
                if plain.down.len() >= plain.needed() { plain.start(now) } else { plain.close(now) }
            }
            match what {
                0..=4 => {
                    domains.down(at(now), id, at(now));
                    plain.down(now, id);
                }
                5 | 6 => {
                    domains.up(at(now), id);
                    plain.down.retain(|d| d.0 != id);
                    if plain.until.is_some() {
                        plain.close(now);
                    }
                }
                _ => {
                    domains.forget(id);
                    plain.down.retain(|d| d.0 != id);
                }
            }
            let expected: Vec<u32> =
                plain.members.iter().copied().filter(|m| plain.until.is_some() && !plain.down.iter().any(|d| d.0 == *m)).collect();
            prop_assert_eq!(held(&domains, members), expected);
            prop_assert_eq!(domains.next_wake(), plain.until.map(at));
        }
    }
}
