use super::*;
use crate::domain::time::Wall;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000;
const GO: Ask = Ask { may_probe: true, roll: 0.5 };

fn at(seconds: u64) -> Ts {
    Ts((100_000 + seconds) * SECOND)
}

fn gate(rpm: Option<u64>, tpm: Option<u64>, concurrency: u32) -> Gate {
    Gate::new(&LimitSettings { rpm, tpm, concurrency, ..LimitSettings::default() }, at(0))
}

fn free() -> Gate {
    gate(None, None, 256)
}

fn reason(answer: Result<Ticket, Refusal>) -> RefusalReason {
    answer.unwrap_err().reason
}

fn probing(epoch: u64, left: u32) -> Door {
    Door::Probing { epoch, left, spare: 0 }
}

#[test]
fn a_shut_door_refuses_and_says_until_when() {
    let mut g = free();
    for (operator, reason) in [(false, RefusalReason::BreakerOpen), (true, RefusalReason::ForcedOpen)] {
        g.set_door(Door::Shut { epoch: 2, until: Some(at(5)), operator });
        let refusal = g.admit(at(1), 0, GO).unwrap_err();
        assert_eq!(refusal, Refusal { reason, retry_at: Some(at(5).plus(ACTOR_GRACE)) });
        assert_eq!(g.peek(at(1), 0, true), Some(refusal));
        assert!(
            g.admit(at(6), 0, GO).unwrap_err().retry_at.unwrap() > at(6),
            "it waits for its actor, without spinning"
        );
    }
    g.set_door(Door::Shut { epoch: 2, until: None, operator: true });
    assert_eq!(g.admit(at(1), 0, GO).unwrap_err().retry_at, None);
    assert_eq!(g.in_flight(), 0);
}

#[test]
fn probes_take_permits_and_only_silent_ones_give_them_back() {
    let mut g = free();
    g.set_door(probing(3, 2));
    assert_eq!(reason(g.admit(at(0), 0, Ask { may_probe: false, roll: 0.0 })), RefusalReason::ProbeNotAllowed);
    let (first, second) = (g.admit(at(0), 0, GO).unwrap(), g.admit(at(0), 0, GO).unwrap());
    assert!(first.probe && first.epoch == 3 && first.serial != second.serial);
    assert_eq!(reason(g.admit(at(0), 0, GO)), RefusalReason::HalfOpenFull);
    g.set_door(probing(3, 2));
    assert_eq!(reason(g.admit(at(0), 0, GO)), RefusalReason::HalfOpenFull, "the same period told twice");
    g.release(at(1), first, Reserved::Settle, None);
    assert_eq!(reason(g.admit(at(1), 0, GO)), RefusalReason::HalfOpenFull, "a judged probe has used its permit");
    g.release_unjudged(at(1), second, Reserved::Refund, None);
    assert!(g.admit(at(1), 0, GO).is_ok());
}

#[test]
fn a_probe_of_an_earlier_period_gives_nothing_to_a_later_one() {
    let mut g = free();
    g.set_door(probing(3, 1));
    let old = g.admit(at(0), 0, GO).unwrap();
    g.set_door(Door::Shut { epoch: 4, until: Some(at(70)), operator: false });
    g.set_door(probing(5, 1));
    let new = g.admit(at(70), 0, GO).unwrap();
    g.release_unjudged(at(71), old, Reserved::Refund, None);
    assert_eq!(reason(g.admit(at(71), 0, GO)), RefusalReason::HalfOpenFull);
    assert_eq!(g.in_flight(), 1);
    g.release_unjudged(at(71), new, Reserved::Refund, None);
    assert_eq!(g.door(), probing(5, 1));
}

#[test]
fn spare_permits_come_free_one_by_one() {
    let mut g = free();
    g.set_door(Door::Probing { epoch: 3, left: 1, spare: 2 });
    for _ in 0..3 {
        let ticket = g.admit(at(0), 0, GO).unwrap();
        assert_eq!(reason(g.admit(at(0), 0, GO)), RefusalReason::HalfOpenFull);
        g.release(at(0), ticket, Reserved::Settle, None);
    }
    assert_eq!(reason(g.admit(at(0), 0, GO)), RefusalReason::HalfOpenFull);
}

#[test]
fn a_ramp_lets_its_share_through() {
    let mut g = gate(None, None, u32::MAX);
    g.set_door(Door::Ramp { epoch: 4, since: at(0), over: Duration::from_secs(30) });
    let mut shares = Vec::new();
    for seconds in [0, 9, 10, 19, 20, 29, 30, 1000] {
        let passed =
            (0..100).filter(|n| g.admit(at(seconds), 0, Ask { may_probe: false, roll: f64::from(*n) / 100.0 }).is_ok());
        shares.push(passed.count());
    }
    assert_eq!(shares, [10, 10, 30, 30, 60, 60, 100, 100]);
    let refusal = g.admit(at(3), 0, Ask { may_probe: true, roll: 0.99 }).unwrap_err();
    assert_eq!(refusal, Refusal { reason: RefusalReason::Ramping, retry_at: Some(at(10)) });
    assert_eq!(g.peek(at(3), 0, false), None);
    g.set_door(Door::Ramp { epoch: 4, since: at(0), over: Duration::ZERO });
    assert!(g.admit(at(0), 0, Ask { may_probe: false, roll: 1.0 }).is_ok());
}

#[test]
fn pauses_only_move_later_and_end_by_reason() {
    let mut g = free();
    g.pause(at(0), at(7), PauseReason::Unavailable);
    g.pause(at(0), at(5), PauseReason::Unavailable);
    g.pause(at(0), at(3), PauseReason::Auth);
    let refusal = g.admit(at(1), 0, GO).unwrap_err();
    assert_eq!(refusal, Refusal { reason: RefusalReason::Unavailable, retry_at: Some(at(7)) });
    g.unpause(PauseReason::Unavailable);
    assert_eq!(g.peek(at(1), 0, false), Some(Refusal { reason: RefusalReason::AuthFailed, retry_at: Some(at(3)) }));
    assert_eq!(g.view(at(1)).paused, Some((PauseReason::Auth, at(3))));
    assert!(g.admit(at(3), 0, GO).is_ok());
}

#[test]
fn tokens_and_request_slots_are_settled_as_told() {
    let left = |g: &Gate| (g.view(at(0)).rpm.unwrap().1, g.view(at(0)).tpm.unwrap().1);
    for (reserved, actual, want) in [
        (Reserved::Settle, Some(30), (9, 970)),
        (Reserved::Settle, Some(150), (9, 850)),
        (Reserved::Settle, None, (9, 900)),
        (Reserved::Refund, Some(30), (10, 1000)),
        (Reserved::Keep, Some(30), (9, 900)),
    ] {
        let mut g = gate(Some(60), Some(6000), 256);
        let ticket = g.admit(at(0), 100, GO).unwrap();
        assert_eq!((left(&g), g.in_flight()), ((9, 900), 1));
        g.release(at(0), ticket, reserved, actual);
        assert_eq!((left(&g), g.in_flight()), (want, 0), "{reserved:?} {actual:?}");
    }
}

#[test]
fn each_limit_refuses_without_taking_of_the_others() {
    let mut g = gate(Some(60), Some(600), 2);
    let _one = g.admit(at(0), 100, GO).unwrap();
    let refusal = g.admit(at(0), 50, GO).unwrap_err();
    assert_eq!(refusal, Refusal { reason: RefusalReason::Tpm, retry_at: Some(at(5)) });
    assert_eq!(g.view(at(0)).rpm, Some((60, 9)));
    let _two = g.admit(at(5), 50, GO).unwrap();
    assert_eq!(g.admit(at(60), 1, GO).unwrap_err(), Refusal { reason: RefusalReason::Concurrency, retry_at: None });
    let mut g = gate(Some(1), None, 2);
    let _one = g.admit(at(0), 0, GO).unwrap();
    assert_eq!(g.peek(at(0), 0, true), Some(Refusal { reason: RefusalReason::Rpm, retry_at: Some(at(60)) }));
}

#[test]
fn the_upstreams_count_may_lower_a_bucket() {
    let mut g = gate(Some(60), Some(6000), 256);
    g.on_remaining(at(0), Some(3), Some(10_000));
    g.on_remaining(at(0), Some(8), None);
    let view = g.view(at(0));
    assert_eq!((view.rpm, view.tpm), (Some((60, 3)), Some((6000, 1000))));
}

#[test]
fn a_429_pauses_for_what_it_says_or_doubles() {
    let wait = |g: &mut Gate, now: u64, header: Option<u64>| {
        let (reason, until) = g.on_rate_limited(at(now), header.map(Duration::from_secs));
        (reason, until.since(at(now)).as_secs())
    };
    let mut g = free();
    assert_eq!(wait(&mut g, 0, Some(7)), (PauseReason::RateLimited, 7));
    assert_eq!(wait(&mut g, 1, Some(3)), (PauseReason::RateLimited, 6), "never earlier");
    assert_eq!(wait(&mut g, 1, Some(9)), (PauseReason::RateLimited, 9));
    assert_eq!(wait(&mut g, 2, None), (PauseReason::RateLimited, 8), "the same event");
    assert_eq!(g.peek(at(2), 0, false).unwrap().reason, RefusalReason::RateLimited);
    assert_eq!(wait(&mut g, 20, None), (PauseReason::RateLimited, 2), "the second event");
    assert_eq!(wait(&mut g, 30, Some(0)), (PauseReason::RateLimited, 4), "zero is not usable");
    let ticket = g.admit(at(40), 0, GO).unwrap();
    g.release(at(41), ticket, Reserved::Settle, None);
    assert_eq!(wait(&mut g, 50, None), (PauseReason::RateLimited, 1), "a success starts anew");
    assert_eq!(wait(&mut g, 60, Some(120)), (PauseReason::RateLimited, 120));
    let mut g = free();
    assert_eq!(wait(&mut g, 0, Some(121)), (PauseReason::Quota, 900));
    assert_eq!(g.peek(at(899), 0, false).unwrap(), Refusal { reason: RefusalReason::Quota, retry_at: Some(at(900)) });
    g.unpause(PauseReason::Quota);
    assert_eq!(g.peek(at(1), 0, false), None);
}

#[test]
fn a_429_lowers_the_configured_rate_until_it_has_recovered() {
    let mut g = gate(Some(1000), None, 256);
    g.on_rate_limited(at(0), Some(Duration::from_secs(5)));
    assert_eq!(g.view(at(0)).learnt_rpm, Some(700));
    assert_eq!(g.view(at(5)).rpm, Some((700, 116)));
    let _ticket = g.admit(at(20), 0, GO).unwrap();
    assert_eq!(g.view(at(20)).rpm.unwrap().0, 962);
    let _ticket = g.admit(at(36), 0, GO).unwrap();
    assert_eq!((g.view(at(36)).rpm.unwrap().0, g.view(at(36)).learnt_rpm), (1000, None));
}

#[test]
fn a_429_without_a_configured_rate_makes_a_bucket_for_a_while() {
    let mut g = free();
    let mut tickets: Vec<_> = (0..100).map(|n| g.admit(Ts(at(0).0 + n * 100_000), 0, GO).unwrap()).collect();
    g.on_rate_limited(Ts(at(10).0 - 1), None);
    for ticket in tickets.drain(..) {
        g.release(at(10), ticket, Reserved::Refund, None);
    }
    assert_eq!(g.view(at(11)).rpm, Some((420, 70)));
    let passed = (0..200).filter(|_| g.admit(at(11), 0, GO).is_ok()).count();
    assert_eq!(passed, 70);
    let _ticket = g.admit(at(200), 0, GO).unwrap();
    assert_eq!(g.view(at(200)).rpm, None);
}

#[test]
fn limits_change_at_run_time() {
    let mut g = gate(Some(60), None, 1);
    let _ticket = g.admit(at(0), 0, GO).unwrap();
    let limits = LimitSettings { rpm: Some(600), tpm: Some(60), concurrency: 5, ..LimitSettings::default() };
    g.set_limits(&limits, at(0));
    let view = g.view(at(0));
    assert_eq!((view.rpm, view.tpm, view.concurrency), (Some((600, 9)), Some((60, 10)), (5, 1)));
    g.set_limits(&LimitSettings::default(), at(0));
    assert_eq!((g.view(at(0)).rpm, g.view(at(0)).tpm), (None, None));
}

#[test]
fn pauses_and_learnt_rates_survive_a_restart() {
    let limits = LimitSettings { rpm: Some(1000), ..LimitSettings::default() };
    let mut g = Gate::new(&limits, at(0));
    g.on_rate_limited(at(0), Some(Duration::from_secs(60)));
    g.pause(at(0), at(1000), PauseReason::Auth);
    let wall = Wall(1_800_000_000_000_000);
    let saved: GateCheckpoint =
        serde_json::from_str(&serde_json::to_string(&g.checkpoint(at(10), wall)).unwrap()).unwrap();
    let back = Gate::restore(&limits, &saved, at(5), wall.plus(Duration::from_secs(20)));
    let refusal = Refusal { reason: RefusalReason::RateLimited, retry_at: Some(at(35)) };
    assert_eq!(back.peek(at(5), 0, true), Some(refusal));
    assert_eq!(back.view(at(5)).rpm.unwrap().0, 700);
    let back = Gate::restore(&limits, &saved, at(5), wall.minus(Duration::from_secs(7200)));
    assert_eq!(back.view(at(5)).paused, Some((PauseReason::RateLimited, at(55))), "a clock set back by hours");
    let back = Gate::restore(&limits, &saved, at(5), wall.plus(Duration::from_secs(7200)));
    assert_eq!((back.view(at(5)).paused, back.view(at(5)).learnt_rpm), (None, None));
}

#[test]
fn refusals_have_names_of_their_own() {
    let names: std::collections::BTreeSet<_> = RefusalReason::ALL.iter().map(|r| r.as_str()).collect();
    assert_eq!(names.len(), RefusalReason::ALL.len());
    for reason in PauseReason::ALL {
        assert!(names.contains(reason.as_str()));
    }
}

#[test]
fn a_gate_stays_small() {
    assert!(size_of::<Gate>() <= 384, "{}", size_of::<Gate>());
    assert!(size_of::<Result<Ticket, Refusal>>() <= 48);
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Admit {
        tokens: u64,
        may_probe: bool,
        roll: f64,
    },
    /// Of the tickets that are out, the one at this place; judged or not.
    Release {
        which: usize,
        judged: bool,
        reserved: Reserved,
        actual: Option<u64>,
    },
    Door(u8),
    Pause(u64, PauseReason),
    Unpause(PauseReason),
    Limited(Option<u64>),
    Limits(Option<u64>, Option<u64>, u32),
}

fn step() -> impl Strategy<Value = Step> {
    let pause = prop_oneof![Just(PauseReason::Quota), Just(PauseReason::Auth), Just(PauseReason::RateLimited)];
    let reserved = prop_oneof![Just(Reserved::Settle), Just(Reserved::Refund), Just(Reserved::Keep)];
    prop_oneof![
        8 => (0..3 * SECOND).prop_map(Step::Wait),
        20 => (0_u64..500, any::<bool>(), 0.0..1.0).prop_map(|(tokens, may_probe, roll)| Step::Admit { tokens, may_probe, roll }),
        12 => (any::<usize>(), any::<bool>(), reserved, prop::option::of(0_u64..800))
            .prop_map(|(which, judged, reserved, actual)| Step::Release { which, judged, reserved, actual }),
        4 => (0_u8..5).prop_map(Step::Door),
        1 => (0_u64..10, pause.clone()).prop_map(|(s, reason)| Step::Pause(s, reason)),
        1 => pause.prop_map(Step::Unpause),
        1 => prop::option::of(0_u64..200).prop_map(Step::Limited),
        1 => (prop::option::of(1_u64..5000), prop::option::of(1_u64..50_000), 1_u32..20)
            .prop_map(|(rpm, tpm, concurrency)| Step::Limits(rpm, tpm, concurrency)),
    ]
}

#[test]
fn a_hold_lets_one_probe_through_and_only_such_as_may() {
    let mut g = gate(None, None, 8);
    let (may, may_not) = (Ask { may_probe: true, roll: 0.0 }, Ask { may_probe: false, roll: 0.0 });
    g.set_hold(at(0), Some(at(5)));
    let refused = g.admit(at(1), 1, may_not).unwrap_err();
    assert_eq!((refused.reason, refused.retry_at), (RefusalReason::DomainOpen, Some(at(5).plus(ACTOR_GRACE))));
    let probe = g.admit(at(1), 1, may).unwrap();
    assert!(probe.held && !probe.probe);
    assert_eq!(g.admit(at(1), 1, may).unwrap_err().reason, RefusalReason::DomainOpen);
    // It said nothing about health: the next may try. It failed: nobody until the next period.
    g.release_unjudged(at(2), probe, Reserved::Refund, None);
    let probe = g.admit(at(2), 1, may).unwrap();
    g.release(at(2), probe, Reserved::Refund, None);
    assert!(g.admit(at(2), 1, may).is_err());
    g.set_hold(at(3), Some(at(5)));
    assert!(g.admit(at(3), 1, may).is_err(), "the same period");
    g.set_hold(at(5), Some(at(15)));
    let probe = g.admit(at(5), 1, may).unwrap();
    g.set_hold(at(6), Some(at(30)));
    let next = g.admit(at(6), 1, may).unwrap();
    g.release_unjudged(at(7), probe, Reserved::Refund, None);
    assert!(g.admit(at(7), 1, may).is_err(), "a permit of an earlier period is no permit of this one");
    assert!(!g.take_proof());
    g.prove();
    assert!(g.take_proof() && !g.take_proof(), "asked once");
    g.set_hold(at(8), None);
    assert!(g.admit(at(8), 1, may_not).is_ok());
    g.release(at(8), next, Reserved::Settle, None);
    assert_eq!(g.view(at(8)).held_until, None);
}

#[test]
fn a_half_open_door_goes_before_a_hold() {
    let mut g = gate(None, None, 8);
    g.set_hold(at(0), Some(at(50)));
    g.set_door(probing(2, 2));
    let may = Ask { may_probe: true, roll: 0.0 };
    let (a, b) = (g.admit(at(1), 1, may).unwrap(), g.admit(at(1), 1, may).unwrap());
    assert!(a.probe && b.probe && !a.held && !b.held, "its own breaker's probes");
    g.release_unjudged(at(2), a, Reserved::Refund, None);
    g.release_unjudged(at(2), b, Reserved::Refund, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn counts_what_is_out_and_never_passes_what_is_shut(steps in prop::collection::vec(step(), 1..400)) {
        let mut g = gate(Some(600), Some(60_000), 8);
        let mut out: Vec<Ticket> = Vec::new();
        let (mut now, mut epoch, mut concurrency) = (at(0), 1, 8);
        // Permits of the running probing period: granted in all, free again, and how many there are.
        let (mut granted, mut returned, mut permits) = (0, 0, 0);
        for step in steps {
            match step {
                Step::Wait(us) => now = Ts(now.0 + us),
                Step::Admit { tokens, may_probe, roll } => {
                    let peeked = g.peek(now, tokens, may_probe);
                    let (door, paused) = (g.door(), g.view(now).paused);
                    match g.admit(now, tokens, Ask { may_probe, roll }) {
                        Ok(ticket) => {
                            let shut = matches!(door, Door::Shut { .. });
                            prop_assert!(!shut);
                            prop_assert!(paused.is_none());
                            prop_assert!(u32::try_from(out.len()).unwrap() < concurrency);
                            prop_assert_eq!(ticket.epoch, epoch);
                            prop_assert_eq!(ticket.probe, matches!(door, Door::Probing { .. }));
                            if ticket.probe {
                                prop_assert!(may_probe);
                                granted += 1;
                                prop_assert!(granted - returned <= permits);
                            }
                            prop_assert!(out.iter().all(|other| other.serial != ticket.serial));
                            out.push(ticket);
                        }
                        Err(refusal) => {
                            prop_assert!(refusal.retry_at.is_none_or(|retry| retry > now));
                            if refusal.reason != RefusalReason::Ramping {
                                let peeked = peeked.map(|r| r.reason);
                                // The learnt rate moves on admission, and only ever up: then it is the tokens that are short.
                                let eased = peeked == Some(RefusalReason::Rpm) && refusal.reason == RefusalReason::Tpm;
                                prop_assert!(eased || peeked == Some(refusal.reason), "{peeked:?}, {refusal:?}");
                            }
                        }
                    }
                }
                Step::Release { which, judged, reserved, actual } if !out.is_empty() => {
                    let ticket = out.swap_remove(which % out.len());
                    if judged {
                        g.release(now, ticket, reserved, actual);
                    } else {
                        if ticket.probe && ticket.epoch == epoch {
                            returned += 1;
                        }
                        g.release_unjudged(now, ticket, reserved, actual);
                    }
                }
                Step::Release { .. } => {}
                Step::Door(kind) => {
                    epoch += 1;
                    (granted, returned, permits) = (0, 0, 3);
                    g.set_door(match kind {
                        0 => Door::Shut { epoch, until: Some(now.plus(Duration::from_secs(3))), operator: false },
                        1 => probing(epoch, 3),
                        2 => Door::Ramp { epoch, since: now, over: Duration::from_secs(5) },
                        _ => Door::Open { epoch },
                    });
                }
                Step::Pause(seconds, reason) => {
                    let before = g.view(now).paused.map(|(_, until)| until);
                    g.pause(now, now.plus(Duration::from_secs(seconds)), reason);
                    prop_assert!(g.view(now).paused.map(|(_, until)| until) >= before);
                }
                Step::Unpause(reason) => {
                    g.unpause(reason);
                    prop_assert!(g.view(now).paused.is_none_or(|(other, _)| other != reason));
                }
                Step::Limited(header) => {
                    let before = g.view(now).paused.map(|(_, until)| until);
                    let (_, until) = g.on_rate_limited(now, header.map(Duration::from_secs));
                    prop_assert!(until > now);
                    let after = g.view(now).paused.map(|(_, until)| until);
                    prop_assert!(after >= before && after >= Some(until));
                }
                Step::Limits(rpm, tpm, n) => {
                    concurrency = n;
                    g.set_limits(&LimitSettings { rpm, tpm, concurrency, ..LimitSettings::default() }, now);
                }
            }
            prop_assert_eq!(g.in_flight() as usize, out.len());
            if let Door::Probing { left, .. } = g.door() {
                prop_assert_eq!(left, permits + returned - granted, "a permit leaked");
            }
        }
    }
}
