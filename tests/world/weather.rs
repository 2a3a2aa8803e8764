//! What a provider is like at a moment, and which fault meets a call. All of it follows from seeds: a spell of bad weather comes when
//! it comes, whoever asks.

use breakwater::domain::time::Ts;
use breakwater::sim::{FaultKind, Latency, Malformed, OutageClock, Schedule};
use std::time::Duration;

/// A provider as its seed made it.
#[derive(Clone, Debug)]
pub struct Nature {
    pub name: String,
    pub seed: u64,
    /// To the first token.
    pub latency: Latency,
    /// Between tokens.
    pub gap: Duration,
    /// Outages: when, and what each call meets then.
    pub outages: Option<(Schedule, FaultKind)>,
    /// Brown-outs: when, the share of calls that fail then, how much slower the rest is.
    pub brownouts: Option<(Schedule, f64, f64)>,
    /// The share of calls that fail in any weather.
    pub errors: f64,
    /// The kinds of those failures and of the brown-outs'.
    pub kinds: Vec<FaultKind>,
    /// The vendor's own limit, requests per minute.
    pub rpm: Option<u32>,
}

impl Nature {
    /// A provider that is always up, answers after `latency`, and fails by itself never.
    pub fn fair(name: &str, seed: u64, latency: Latency) -> Self {
        Self {
            name: name.to_owned(),
            seed,
            latency,
            gap: Duration::from_millis(10),
            outages: None,
            brownouts: None,
            errors: 0.0,
            kinds: Vec::new(),
            rpm: None,
        }
    }
}

/// Failures of mixed kinds, as vendors have them, in about their proportions; each meets unary calls and streams alike.
pub fn mixed() -> Vec<FaultKind> {
    let status = |code| FaultKind::Status { code, headers: [].into(), body: None };
    vec![
        status(500),
        status(502),
        status(503),
        status(504),
        status(500),
        FaultKind::Overloaded529,
        FaultKind::ResetAfterBody,
        FaultKind::ResetBeforeHeaders,
        FaultKind::Malformed { what: Malformed::Html },
        FaultKind::Malformed { what: Malformed::HalfJson },
        FaultKind::Malformed { what: Malformed::JsonError200 },
        FaultKind::Malformed { what: Malformed::Empty },
    ]
}

/// Besides those, what only a patient gateway survives: rate limits, silence, streams that break after their first words.
pub fn nasty() -> Vec<FaultKind> {
    let mut kinds = mixed();
    kinds.extend([
        FaultKind::RateLimited { retry_after: Some("2".into()), retry_after_ms: None },
        FaultKind::RateLimited { retry_after: None, retry_after_ms: Some("350".into()) },
        FaultKind::RateLimited { retry_after: Some("soon".into()), retry_after_ms: None },
        FaultKind::Hang,
        FaultKind::SlowFirstByte { ms: 7_000 },
        FaultKind::CutAfter { events: 3, reset: true },
        FaultKind::EndWithoutDone { events: None },
        FaultKind::ErrorEvent { after: 2, body: None },
        FaultKind::FirstEventError { body: None },
        FaultKind::SilentAfter { events: 2, ms: None },
        FaultKind::SilentAfter { events: 1, ms: Some(4_000) },
        FaultKind::BrokenJsonEvent { after: 2 },
        FaultKind::NoUsage,
        FaultKind::Status { code: 409, headers: [].into(), body: None },
        FaultKind::Status { code: 404, headers: [].into(), body: None },
    ]);
    kinds
}

/// What meets one call.
#[derive(Clone, Debug)]
pub struct Fate {
    pub fault: Option<FaultKind>,
    pub latency: Duration,
    /// 0..1: where in an answer a cut falls, and the like.
    pub roll: f64,
}

/// Walks a provider's weather forward in time.
pub struct Weather {
    outages: Option<OutageClock>,
    brownouts: Option<OutageClock>,
    calls: u64,
    /// When the vendor's limit admits the next call, in its own terms: a bucket of one minute's requests over ten seconds.
    limit_from: Ts,
}

impl Weather {
    pub fn new(nature: &Nature, start: Ts) -> Self {
        let clock = |schedule: &Schedule, salt| OutageClock::new(schedule.clone(), nature.seed ^ salt, start);
        Self {
            outages: nature.outages.as_ref().map(|(s, _)| clock(s, 0x0dd)),
            brownouts: nature.brownouts.as_ref().map(|(s, ..)| clock(s, 0xb40)),
            calls: 0,
            limit_from: start,
        }
    }

    /// Whether every call fails now.
    pub fn is_down(&mut self, now: Ts) -> bool {
        self.outages.as_mut().is_some_and(|o| o.at(now).0)
    }

    /// The fate of the next call. Its dice depend on the provider's seed and the call's number alone.
    pub fn fate(&mut self, nature: &Nature, now: Ts) -> Fate {
        self.calls += 1;
        let mut dice = fastrand::Rng::with_seed(nature.seed.wrapping_mul(0x9e37_79b9).wrapping_add(self.calls));
        let mut latency = nature.latency.sample(nature.seed, self.calls);
        let (luck, which, roll) = (dice.f64(), dice.f64(), dice.f64());
        let pick = || nature.kinds.get((which * nature.kinds.len() as f64) as usize).cloned();
        let mut fault = if luck < nature.errors { pick() } else { None };
        if let (Some(clock), Some((_, share, slower))) = (&mut self.brownouts, &nature.brownouts)
            && clock.at(now).0
        {
            latency = latency.mul_f64(*slower);
            if luck < *share {
                fault = pick();
            }
        }
        if self.is_down(now)
            && let Some((_, kind)) = &nature.outages
        {
            fault = Some(kind.clone());
        }
        if let Some(after) = self.over_limit(nature, now) {
            fault = Some(FaultKind::RateLimited { retry_after: Some(after.to_string()), retry_after_ms: None });
        }
        Fate { fault, latency, roll }
    }

    /// Seconds to wait, when the vendor's limit is used up.
    fn over_limit(&mut self, nature: &Nature, now: Ts) -> Option<u64> {
        let each = Duration::from_secs(60) / nature.rpm?;
        let burst = Duration::from_secs(10);
        let from = self.limit_from.max(now.minus(burst));
        if from.plus(each) > now {
            return Some(from.plus(each).since(now).as_secs() + 1);
        }
        self.limit_from = from.plus(each);
        None
    }
}
