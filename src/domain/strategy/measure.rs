//! Turns the facts of a candidate into one sortable integer: group, measure, what decides ties, turn.

use super::{BlendWeights, CandidateFacts, Order, StrategyKind};

const BLOCKED: u8 = 4;
const BELOW_FLOOR: u8 = 2;
const NO_WEIGHT: u8 = 1;

/// Bits of the turn, the lowest part of a key; more candidates than that would share turns, not lose them.
const TURN_BITS: u32 = 29;
const SECOND_BITS: u32 = 32;
const MEASURE_BITS: u32 = 64;

/// A candidate's place as one integer: 3 bits of group, 64 of the measure, 32 of what decides its ties, 29 of its turn.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u128);

impl Key {
    /// The turn, from which the cursor gets the index back.
    #[allow(clippy::cast_possible_truncation)] // masked
    pub(super) fn turn(self) -> usize {
        (self.0 & ((1 << TURN_BITS) - 1)) as usize
    }

    fn group(self) -> u128 {
        self.0 >> (TURN_BITS + SECOND_BITS + MEASURE_BITS)
    }

    fn group_and_measure(self) -> u128 {
        self.0 >> (TURN_BITS + SECOND_BITS)
    }

    /// The measure's first half is the quality in groups below the floor.
    fn group_and_quality(self) -> u128 {
        self.0 >> (TURN_BITS + SECOND_BITS + 32)
    }
}

/// What the candidates that may lead have in common, computed once per ranking.
pub(super) struct Measures {
    /// Never `Intelligent`.
    pub(super) strategy: StrategyKind,
    min_quality: f32,
    explore: f32,
    blend: BlendWeights,
    /// The group of the best candidates there are.
    lead: u8,
    cheapest: f32,
    fastest: f32,
    /// The latency of a candidate without history.
    usual_latency: f32,
    usual_failure_rate: f32,
}

impl Measures {
    pub(super) fn new(order: &Order, facts: &[CandidateFacts]) -> Self {
        let strategy = match order.strategy {
            StrategyKind::Intelligent => StrategyKind::Balanced,
            other => other,
        };
        let mut it = Self {
            strategy,
            min_quality: if order.min_quality.is_finite() { order.min_quality.min(1.0) } else { 0.0 },
            explore: unit(order.settings.explore),
            blend: normal(order.settings.balanced),
            lead: 0,
            cheapest: f32::INFINITY,
            fastest: f32::INFINITY,
            usual_latency: 1.0,
            usual_failure_rate: 0.0,
        };
        it.lead = facts.iter().map(|f| it.group(f)).min().unwrap_or(0);
        if it.looks_at_latency() {
            it.survey(facts);
        }
        it
    }

    fn survey(&mut self, facts: &[CandidateFacts]) {
        let (mut latencies, mut failures, mut known) = (0.0_f64, 0.0_f64, 0_u32);
        for f in facts {
            if self.group(f) != self.lead {
                continue;
            }
            self.cheapest = self.cheapest.min(cost(f));
            if let Some(latency) = latency(f) {
                self.fastest = self.fastest.min(latency);
                latencies += f64::from(latency);
                failures += f64::from(unit(f.failure_rate));
                known += 1;
            }
        }
        if known > 0 {
            #[allow(clippy::cast_possible_truncation)] // to the precision of the facts
            let mean = |sum: f64| (sum / f64::from(known)) as f32;
            self.usual_latency = mean(latencies);
            self.usual_failure_rate = mean(failures);
        }
    }

    fn looks_at_latency(&self) -> bool {
        matches!(
            self.strategy,
            StrategyKind::LeastLatency | StrategyKind::CostBased | StrategyKind::BestQuality | StrategyKind::Balanced
        )
    }

    fn group(&self, f: &CandidateFacts) -> u8 {
        let blocked = if f.blocked { BLOCKED } else { 0 };
        let below = if unit(f.quality) < self.min_quality { BELOW_FLOOR } else { 0 };
        let weightless = if self.strategy == StrategyKind::Weighted && f.weight == 0 { NO_WEIGHT } else { 0 };
        blocked | below | weightless
    }

    /// Whether the candidate takes part in the turns of `weighted`: open and of the best group there is. Below the quality
    /// floor quality orders, and credits that nobody spends would pile up.
    pub(super) fn leads(&self, f: &CandidateFacts) -> bool {
        self.lead & (BLOCKED | BELOW_FLOOR) == 0 && self.group(f) == self.lead
    }

    pub(super) fn floor_missed(&self) -> bool {
        self.lead & (BLOCKED | BELOW_FLOOR) != 0 && self.min_quality > 0.0
    }

    /// The key and the score of the candidate at `index` whose turn comes `turn` places after the next; `credit` is its
    /// state under `weighted`.
    #[allow(clippy::cast_precision_loss)] // scores are for reading
    pub(super) fn key(&self, f: &CandidateFacts, index: usize, turn: usize, credit: i64) -> (Key, f32) {
        let (measure, score) = match self.strategy {
            StrategyKind::RoundRobin => (0, turn as f32),
            StrategyKind::Weighted => (!ordered_i64(credit), -(credit as f32)),
            StrategyKind::Priority => (index as u64, index as f32),
            StrategyKind::LeastLatency => (0, self.latency_or_usual(f)),
            StrategyKind::CostBased => {
                // The largest value stays free for the unpriced.
                let priced = |c: i64| ordered_i64(c.max(0)).min(u64::MAX - 1);
                (f.est_cost.map_or(u64::MAX, |c| priced(c.0)), cost(f))
            }
            StrategyKind::BestQuality => {
                let short = 1.0 - unit(f.quality);
                (pair(short, cost(f)), short)
            }
            StrategyKind::Balanced | StrategyKind::Intelligent => {
                let blend = self.blended(f);
                (pair(blend, 0.0), blend)
            }
        };
        let group = self.group(f);
        let quality_first = group & BELOW_FLOOR != 0 && self.strategy != StrategyKind::BestQuality;
        let measure = if quality_first { pair(1.0 - unit(f.quality), score) } else { measure };
        let second = match self.strategy {
            // A blend holds the latency already.
            StrategyKind::Balanced => 0,
            _ if self.looks_at_latency() => ordered_f32(self.latency_or_usual(f)),
            // Cycles are exact only if equal credits fall the same way always; the weightless have none and take turns.
            StrategyKind::Weighted if f.weight > 0 => u32::try_from(index).unwrap_or(u32::MAX),
            _ => 0,
        };
        let bits = (u128::from(group) << (TURN_BITS + SECOND_BITS + MEASURE_BITS))
            | (u128::from(measure) << (TURN_BITS + SECOND_BITS))
            | (u128::from(second) << TURN_BITS)
            | (turn as u128 & ((1 << TURN_BITS) - 1));
        (Key(bits), score)
    }

    /// How many of the sorted `keys` are equals of the first by all but latency: among them a newcomer is explored.
    pub(super) fn equals_of_first(&self, keys: &[Key]) -> usize {
        let Some(first) = keys.first().filter(|_| self.looks_at_latency()) else { return 0 };
        // Where latency is (part of) the measure, all candidates of the group are rivals.
        let equal = |k: &&Key| match self.strategy {
            StrategyKind::Balanced | StrategyKind::LeastLatency if self.lead & BELOW_FLOOR == 0 => {
                k.group() == first.group()
            }
            StrategyKind::Balanced | StrategyKind::LeastLatency => k.group_and_quality() == first.group_and_quality(),
            _ => k.group_and_measure() == first.group_and_measure(),
        };
        keys.iter().take_while(equal).count()
    }

    /// The share of rankings that each newcomer among `rivals` leads.
    #[allow(clippy::cast_precision_loss)] // counts of candidates
    pub(super) fn explore_share(&self, rivals: usize) -> f64 {
        f64::from(self.explore).min(1.0 / rivals.max(1) as f64)
    }

    fn latency_or_usual(&self, f: &CandidateFacts) -> f32 {
        latency(f).unwrap_or_else(|| under_load(self.usual_latency, f.in_flight))
    }

    fn blended(&self, f: &CandidateFacts) -> f32 {
        let known = latency(f).is_some();
        let failure_rate = if known { unit(f.failure_rate) } else { self.usual_failure_rate };
        self.blend.cost * above(self.cheapest, cost(f))
            + self.blend.latency * above(self.fastest, self.latency_or_usual(f))
            + self.blend.quality * (1.0 - unit(f.quality))
            + self.blend.failure_rate * failure_rate
    }
}

/// Weights that sum to 1; unsound ones are 0.
fn normal(w: BlendWeights) -> BlendWeights {
    let sound = |x: f32| if x.is_finite() { x.clamp(0.0, 1.0) } else { 0.0 };
    let (cost, latency, quality, failure_rate) =
        (sound(w.cost), sound(w.latency), sound(w.quality), sound(w.failure_rate));
    let total = (cost + latency + quality + failure_rate).max(f32::MIN_POSITIVE);
    let share = |x: f32| x / total;
    BlendWeights {
        cost: share(cost),
        latency: share(latency),
        quality: share(quality),
        failure_rate: share(failure_rate),
    }
}

/// Whether nothing is known of the candidate's latency.
pub(super) fn is_new(f: &CandidateFacts) -> bool {
    latency(f).is_none()
}

/// The expected wait in microseconds; `None` without history.
fn latency(f: &CandidateFacts) -> Option<f32> {
    let ewma = f.ewma_ttft_us.filter(|t| f.samples > 0 && t.is_finite() && *t >= 0.0)?;
    Some(under_load(ewma.max(1.0), f.in_flight))
}

#[allow(clippy::cast_precision_loss)] // a measure
fn under_load(latency: f32, in_flight: u32) -> f32 {
    latency * (in_flight as f32 + 1.0)
}

/// Nano-dollars, not negative; infinite when unpriced.
#[allow(clippy::cast_precision_loss)] // a measure
fn cost(f: &CandidateFacts) -> f32 {
    f.est_cost.map_or(f32::INFINITY, |c| c.0.max(0) as f32)
}

/// How far `value` lies above the best, between 0 and 1.
fn above(best: f32, value: f32) -> f32 {
    if value <= best {
        0.0
    } else if value.is_finite() {
        1.0 - best / value
    } else {
        1.0
    }
}

/// Clamps to 0..=1; NaN is 0.
fn unit(x: f32) -> f32 {
    if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) }
}

fn pair(first: f32, second: f32) -> u64 {
    (u64::from(ordered_f32(first)) << 32) | u64::from(ordered_f32(second))
}

/// Bits that compare as the number does (no NaN comes here).
fn ordered_f32(x: f32) -> u32 {
    let bits = x.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | (1 << 31) }
}

fn ordered_i64(x: i64) -> u64 {
    x.cast_unsigned() ^ (1 << 63)
}
