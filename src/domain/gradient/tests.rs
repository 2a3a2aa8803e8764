use super::*;
use proptest::prelude::*;

/// A vendor that serves `room` calls at once in `service_us` each, and lets the others wait: by Little's law all take
/// `service · out / room` when more are out.
struct Vendor {
    service_us: f64,
    room: f64,
    /// Standard deviation of the logarithm of what an answer takes.
    spread: f64,
    seed: u64,
}

impl Vendor {
    fn steady(service_us: f64, room: f64) -> Self {
        Self { service_us, room, spread: 0.0, seed: 1 }
    }

    /// About normal: the sum of twelve uniform rolls.
    fn roll(&mut self) -> f64 {
        let mut sum = -6.0;
        for _ in 0..12 {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            sum += (self.seed >> 11) as f64 / (1_u64 << 53) as f64;
        }
        sum
    }

    /// `answers` under `demand` callers that always want more. Returns the mean limit of the second half.
    fn serve(&mut self, gradient: &mut Gradient, now: &mut f64, demand: u32, answers: u32) -> f64 {
        let mut sum = 0.0;
        for n in 0..answers {
            let out = demand.min(gradient.limit());
            let mean = self.service_us * (f64::from(out) / self.room).max(1.0);
            *now += mean / f64::from(out);
            let latency = mean * (self.spread * self.roll()).exp();
            gradient.on_content(Ts((*now - latency) as u64), Ts(*now as u64), latency as u64, out);
            sum += if n >= answers / 2 { f64::from(gradient.limit()) } else { 0.0 };
        }
        sum / f64::from(answers - answers / 2)
    }
}

const BEGIN: f64 = 1e12;

#[test]
fn it_finds_about_the_knee_and_stays_there_for_a_while() {
    for (room, spread) in [(30.0, 0.0), (30.0, 0.5), (30.0, 1.0), (80.0, 0.5), (80.0, 1.0), (12.0, 0.5)] {
        let mut vendor = Vendor { spread, ..Vendor::steady(400_000.0, room) };
        let (mut gradient, mut now) = (Gradient::new(1000), BEGIN);
        // A few callers first: what is usual is what an unhurried vendor takes.
        vendor.serve(&mut gradient, &mut now, 4, 500);
        let found = vendor.serve(&mut gradient, &mut now, 1000, 10_000);
        assert!((room * 0.8..=room * 2.5).contains(&found), "room {room}, spread {spread}: {found:.0}");
    }
}

#[test]
fn hours_of_unbroken_overload_do_not_raise_it() {
    for (room, spread) in [(30.0, 0.3), (30.0, 1.0), (80.0, 0.5), (12.0, 0.5)] {
        let mut vendor = Vendor { spread, ..Vendor::steady(400_000.0, room) };
        // Nothing is known of the vendor when the load begins.
        let (mut gradient, mut now) = (Gradient::new(1000), BEGIN);
        let answers_an_hour = (room / 0.4 * 3600.0) as u32;
        for hour in 1..=12 {
            let began = now;
            let found = vendor.serve(&mut gradient, &mut now, 1000, answers_an_hour);
            assert!(
                (room * 0.8..=room * 2.5).contains(&found),
                "room {room}, spread {spread}, hour {hour}: {found:.0}"
            );
            let hours = (now - began) / 3.6e9;
            assert!(hours < 1.02, "measuring took no more than a fiftieth of the vendor's time: {hours:.3}");
        }
    }
}

#[test]
fn measuring_ends_in_time_where_little_comes() {
    let mut gradient = Gradient::new(100);
    let at = |s: u64| Ts(1_000_000_000 + s * 1_000_000);
    for n in 0..100 {
        gradient.on_content(at(n), at(n + 1), 1_000_000, 20);
    }
    assert_eq!(gradient.limit(), FLOOR, "nothing is known but from under load");
    let usual = gradient.usual;
    for n in 0..4 {
        gradient.on_content(at(100 + 10 * n), at(105 + 10 * n), 10_000, 20 - 5 * n as u32);
    }
    assert_eq!((gradient.limit(), gradient.usual), (FLOOR, usual), "what had waited in the queue says nothing");
    gradient.on_timeout(at(110), at(170));
    assert_eq!(gradient.limit(), FLOOR, "a timeout raises nothing, though the minute is over");
    gradient.on_content(at(170), at(171), 100_000, 1);
    assert!(
        gradient.limit() > START / 2 && gradient.usual == usual,
        "one answer in a minute is too little to learn from"
    );
}

#[test]
fn without_a_queue_it_grows_to_what_is_configured_but_only_while_used() {
    let mut vendor = Vendor { spread: 0.7, ..Vendor::steady(300_000.0, 1e9) };
    let (mut gradient, mut now) = (Gradient::new(200), BEGIN);
    assert_eq!(gradient.limit(), START);
    vendor.serve(&mut gradient, &mut now, 9, 5_000);
    assert_eq!(gradient.limit(), START, "nine of twenty are no reason");
    let grown = vendor.serve(&mut gradient, &mut now, 1000, 20_000);
    assert!(grown > 190.0, "{grown:.0}");
}

#[test]
fn it_shrinks_when_latency_rises_and_comes_back_with_it() {
    let (mut gradient, mut now) = (Gradient::new(100), BEGIN);
    let mut vendor = Vendor { spread: 0.3, ..Vendor::steady(300_000.0, 1e9) };
    vendor.serve(&mut gradient, &mut now, 4, 300);
    vendor.serve(&mut gradient, &mut now, 1000, 10_000);
    assert!(gradient.limit() > 90, "{}", gradient.limit());
    vendor.service_us *= 10.0;
    vendor.serve(&mut gradient, &mut now, 1000, 600);
    assert!(gradient.limit() < 30, "{}", gradient.limit());
    vendor.service_us /= 10.0;
    vendor.serve(&mut gradient, &mut now, 1000, 10_000);
    assert!(gradient.limit() > 90, "{}", gradient.limit());
}

#[test]
fn a_vendor_that_is_slower_for_good_becomes_the_usual() {
    let (mut gradient, mut now) = (Gradient::new(100), BEGIN);
    let mut vendor = Vendor { spread: 0.3, ..Vendor::steady(300_000.0, 1e9) };
    vendor.serve(&mut gradient, &mut now, 4, 300);
    vendor.serve(&mut gradient, &mut now, 1000, 5_000);
    for slower in [2.0, 10.0] {
        vendor.service_us *= slower;
        let began = now;
        for enough in [|limit| limit < 40, |limit| limit > 90] {
            while !enough(gradient.limit()) {
                vendor.serve(&mut gradient, &mut now, 1000, 20);
                assert!(now - began < 3.6e9, "not within an hour: {}", gradient.limit());
            }
        }
    }
}

#[test]
fn timeouts_cut_once_for_all_that_were_out() {
    let mut gradient = Gradient::new(100);
    let at = |s: u64| Ts(1_000_000_000 + s * 1_000_000);
    for n in 0..10 {
        gradient.on_timeout(at(n % 3), at(10));
    }
    assert_eq!(gradient.limit(), 15);
    gradient.on_timeout(at(9), at(12));
    assert_eq!(gradient.limit(), 15, "sent before the cut");
    gradient.on_timeout(at(10), at(20));
    assert_eq!(gradient.limit(), 11);
    for s in 2..100 {
        gradient.on_timeout(at(s * 10), at(s * 10 + 9));
    }
    assert_eq!(gradient.limit(), FLOOR);
}

#[test]
fn a_checkpoint_brings_limit_and_usual_latency_back() {
    let (mut gradient, mut now) = (Gradient::new(500), BEGIN);
    let mut vendor = Vendor::steady(300_000.0, 40.0);
    vendor.serve(&mut gradient, &mut now, 4, 300);
    vendor.serve(&mut gradient, &mut now, 1000, 5_000);
    let text = serde_json::to_string(&gradient.checkpoint()).unwrap();
    let mut back = Gradient::restore(&serde_json::from_str(&text).unwrap(), 500, Ts(now as u64));
    assert_eq!(back.limit(), gradient.limit());
    let found = vendor.serve(&mut back, &mut now, 1000, 5_000);
    assert!((32.0..=88.0).contains(&found), "{found:.0}");
    assert_eq!(Gradient::restore(&gradient.checkpoint(), 10, Ts(now as u64)).limit(), 10);
}

#[derive(Clone, Debug)]
enum Move {
    Content { after_us: u64, latency_us: u64, out: u32 },
    Timeout { after_us: u64, took_us: u64 },
    Most(u32),
    Restart,
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        20 => (0_u64..2_000_000, any::<u64>(), any::<u32>()).prop_map(|(after_us, latency_us, out)| Move::Content { after_us, latency_us, out }),
        20 => (0_u64..50_000, 1_u64..100_000_000, 0_u32..500).prop_map(|(after_us, latency_us, out)| Move::Content { after_us, latency_us, out }),
        2 => (0_u64..2_000_000, 0_u64..100_000_000).prop_map(|(after_us, took_us)| Move::Timeout { after_us, took_us }),
        1 => (1_u32..1000).prop_map(Move::Most),
        1 => Just(Move::Restart),
    ]
}

proptest! {
    #[test]
    fn never_above_what_is_configured_nor_below_the_floor(
        most in 1_u32..1000,
        moves in proptest::collection::vec(moves(), 0..400),
    ) {
        let (mut gradient, mut most, mut now) = (Gradient::new(most), most, 1_000_000_000_u64);
        for step in moves {
            let before = gradient.limit();
            match step {
                Move::Content { after_us, latency_us, out } => {
                    now += after_us;
                    gradient.on_content(Ts(now.saturating_sub(latency_us)), Ts(now), latency_us, out);
                }
                Move::Timeout { after_us, took_us } => {
                    now += after_us;
                    gradient.on_timeout(Ts(now.saturating_sub(took_us)), Ts(now));
                    prop_assert!(gradient.limit() <= before);
                }
                Move::Most(other) => {
                    most = other;
                    gradient.set_most(most);
                }
                Move::Restart => {
                    let is_measuring = gradient.measuring.is_some();
                    gradient = Gradient::restore(&gradient.checkpoint(), most, Ts(now));
                    prop_assert!(is_measuring || gradient.limit() == before);
                }
            }
            prop_assert!((FLOOR.min(most)..=most).contains(&gradient.limit()), "{} of {most}", gradient.limit());
        }
    }

    #[test]
    fn it_grows_only_while_half_of_it_is_used_or_after_measuring(
        latencies in proptest::collection::vec(1_u64..100_000_000, 0..500),
        most in 1_u32..500,
    ) {
        let mut gradient = Gradient::new(most);
        for (n, latency) in latencies.into_iter().enumerate() {
            let before = (gradient.limit(), gradient.measuring.is_some());
            let out = before.0.div_ceil(2) - 1;
            let at = 1_000_000_000 + n as u64 * 20_000;
            gradient.on_content(Ts(at - latency), Ts(at), latency, out);
            prop_assert!(gradient.limit() <= before.0 || before.1);
        }
    }
}
