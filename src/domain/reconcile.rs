//! A vendor's usage export against the ledger: by UTC day × model × token class, differences over a tolerance with their likely cause.
//!
//! A difference is the invoice's figure less the ledger's, in percent of the larger. Attempts that chaos injected never reached the
//! vendor and are left out. Models are matched by their names without vendor and date, dots as dashes, and shown by the shortest name that the invoice has for
//! them, or else the ledger. A cause is the first that fits:
//!
//! | cause | fits when |
//! |---|---|
//! | `unmetered_traffic` | the invoice has a day and model that the ledger lacks, or more requests than the ledger has attempts: used past the gateway |
//! | `not_invoiced` | the ledger has what the invoice lacks, or fewer requests: an export that is not complete, another account |
//! | `cache_class` | the prompt as a whole agrees, its classes don't: cached tokens told apart otherwise |
//! | `day_boundary` | the day before or after is off by as much in the other direction: the vendor's day is not UTC's |
//! | `aborted_streams` | the invoice has more, at most what was counted here or left uncounted in attempts that were cut or left |
//! | `estimated_tokens` | at most what answers without reported usage were estimated at |
//! | `price_version` | tokens agree, the cost doesn't, and the ledger's price of that day is one for all rows or changed within it |
//! | `unpriced` | tokens agree, and the ledger has rows without a price |
//! | `unknown` | none of these |

pub mod invoice;
mod report;

use crate::domain::ledger::Entry;
use crate::domain::model_name::undated;
use crate::domain::outcome::Outcome;
use crate::domain::usage::UsageSource;
use invoice::{Figure, Line, Mapping};
pub use report::{Cause, Difference, ReconcileReport, Tolerance};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is compared, in this order.
const CLASSES: [(&str, &[Figure]); 7] = [
    ("requests", &[Figure::Requests]),
    ("input", &[Figure::Prompt, Figure::Input]),
    ("cached_input", &[Figure::CachedInput]),
    ("cache_write", &[Figure::CacheWrite]),
    ("output", &[Figure::Completion, Figure::Output]),
    ("reasoning", &[Figure::Reasoning]),
    ("cost_nanousd", &[Figure::Cost]),
];
const REQUESTS: usize = 0;
const PROMPT_CLASSES: std::ops::Range<usize> = 1..4;
const COST: usize = 6;

type Figures = [i64; CLASSES.len()];
type Key = (u32, String);

/// What the ledger knows of a day and model.
#[derive(Clone, Debug, Default)]
struct Cell {
    figures: Figures,
    /// Tokens of rows that were estimated: prompt, generated.
    estimated: [i64; 2],
    /// The same of those that were cut or left.
    aborted: [i64; 2],
    /// Cut or left attempts of which nothing is counted.
    uncounted: i64,
    /// The largest answer seen: prompt, generated.
    largest: [i64; 2],
    unpriced: u64,
    versions: BTreeSet<Arc<str>>,
}

/// Adds both sides up, in memory that grows with days and models only.
#[derive(Clone, Debug)]
pub struct Reconciliation {
    compared: [bool; CLASSES.len()],
    /// Whether the invoice tells cached, written and reasoning tokens apart.
    split: [bool; 3],
    tolerance: Tolerance,
    invoice: BTreeMap<Key, Figures>,
    ledger: BTreeMap<Key, Cell>,
    /// By matched name the one that is shown; those that only the ledger has stand behind.
    names: BTreeMap<String, (bool, String)>,
    /// Rows of one vendor alone: models that only the ledger knows count as well.
    one_vendor: bool,
}

impl Reconciliation {
    /// `one_vendor`: the rows that will be counted are those of the invoice's vendor alone.
    #[must_use]
    pub fn new(mapping: &Mapping, tolerance: Tolerance, one_vendor: bool) -> Self {
        let split = [Figure::CachedInput, Figure::CacheWrite, Figure::Reasoning].map(|f| mapping.has(f));
        let compared = CLASSES.map(|(_, figures)| figures.iter().any(|f| mapping.has(*f)));
        Self {
            compared,
            split,
            tolerance,
            invoice: BTreeMap::new(),
            ledger: BTreeMap::new(),
            names: BTreeMap::new(),
            one_vendor,
        }
    }

    /// Takes a line of the invoice.
    pub fn invoiced(&mut self, line: &Line) {
        let signed = |n: Option<u64>| i64::try_from(n.unwrap_or(0)).unwrap_or(i64::MAX);
        let (cached, written, reasoning) =
            (signed(line.cached_input), signed(line.cache_write), signed(line.reasoning));
        let input = line.prompt.map_or(signed(line.input), |p| signed(Some(p)) - cached - written);
        let output = line.completion.map_or(signed(line.output), |c| signed(Some(c)) - reasoning);
        let cost = line.cost.unwrap_or_default().0;
        let all = [signed(line.requests), input, cached, written, output, reasoning, cost];
        let model = self.named(&line.model, true);
        add(self.invoice.entry((line.day, model)).or_default(), &all);
    }

    /// The name by which a model is matched; how it is spelled is remembered.
    fn named(&mut self, model: &str, is_vendors: bool) -> String {
        let matched = canonical(model);
        let is_better = |(vendors, name): &(bool, String)| {
            (!is_vendors, model.len(), model) < (!*vendors, name.len(), name.as_str())
        };
        if self.names.get(&matched).is_none_or(is_better) {
            self.names.insert(matched.clone(), (is_vendors, model.to_owned()));
        }
        matched
    }

    /// The UTC days of the invoice, the first and the last.
    #[must_use]
    pub fn days(&self) -> Option<(u32, u32)> {
        let days = || self.invoice.keys().map(|(day, _)| *day);
        Some((days().min()?, days().max()?))
    }

    /// Takes a row of the ledger.
    pub fn counted(&mut self, e: &Entry) {
        if e.is_injected() {
            return;
        }
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let u = &e.usage;
        let (mut input, mut cached, mut written) = (signed(u.input), signed(u.cached_input), signed(u.cache_write));
        let (mut output, mut reasoning) = (signed(u.output), signed(u.reasoning));
        // What the invoice does not tell apart is part of the whole.
        let [cached_split, write_split, reasoning_split] = self.split;
        let merge = |told: bool, part: &mut i64, whole: &mut i64| {
            if !told {
                *whole = whole.saturating_add(std::mem::take(part));
            }
        };
        merge(cached_split, &mut cached, &mut input);
        merge(write_split, &mut written, &mut input);
        merge(reasoning_split, &mut reasoning, &mut output);
        let cost = e.cost.map_or(0, |c| c.0);
        let model = self.named(&e.model, false);
        let cell = self.ledger.entry((e.at.hour() / 24, model)).or_default();
        // What an upstream refused it does not bill.
        let used = i64::from(u.total() > 0);
        add(&mut cell.figures, &[used, input, cached, written, output, reasoning, cost]);
        let sides = [signed(u.prompt()), signed(u.completion())];
        let broken = [Outcome::Cancelled, Outcome::Partial, Outcome::FirstByteTimeout, Outcome::DeadlineExceeded];
        let is_broken = broken.iter().any(|o| o.ledger_str() == &*e.outcome);
        for (at, side) in sides.into_iter().enumerate() {
            cell.largest[at] = cell.largest[at].max(side);
            if e.usage_source == UsageSource::Estimated {
                let sum = if is_broken { &mut cell.aborted[at] } else { &mut cell.estimated[at] };
                *sum = sum.saturating_add(side);
            }
        }
        cell.uncounted += i64::from(is_broken && e.usage_source == UsageSource::None);
        cell.unpriced += u64::from(e.cost.is_none());
        if !cell.versions.contains(&e.price_version) && cell.versions.len() < 16 {
            cell.versions.insert(Arc::clone(&e.price_version));
        }
    }

    /// Compares.
    #[must_use]
    pub fn report(self) -> ReconcileReport {
        let invoiced: BTreeSet<&String> = self.invoice.keys().map(|(_, model)| model).collect();
        let mine = |key: &&Key| self.one_vendor || invoiced.contains(&key.1);
        let keys: BTreeSet<&Key> = self.invoice.keys().chain(self.ledger.keys().filter(mine)).collect();
        let left_out: BTreeSet<&String> =
            self.ledger.keys().map(|(_, model)| model).filter(|m| !self.one_vendor && !invoiced.contains(m)).collect();
        let mut lines = Vec::new();
        for key in keys {
            self.compare(key, &mut lines);
        }
        ReconcileReport::new(self.tolerance, lines, left_out.len())
    }

    fn compare(&self, key: &Key, lines: &mut Vec<Difference>) {
        let theirs = self.invoice.get(key).copied().unwrap_or_default();
        let ours = self.ledger.get(key).map(|cell| cell.figures).unwrap_or_default();
        let mut of_tokens = None;
        for (at, (class, _)) in CLASSES.iter().enumerate() {
            let (invoice, ledger) = (theirs[at], ours[at]);
            if !self.compared[at] || invoice == 0 && ledger == 0 {
                continue;
            }
            let over = self.tolerance.is_over(invoice, ledger);
            let cause = over.then(|| match (at, of_tokens) {
                // A cost that follows from tokens has their cause.
                (COST, Some(cause)) => cause,
                _ => self.cause(key, at, &theirs),
            });
            if at != COST {
                of_tokens = of_tokens.or(cause);
            }
            let versions = self.ledger.get(key).filter(|_| cause == Some(Cause::PriceVersion));
            lines.push(Difference {
                day: report::date(key.0),
                model: self.names.get(&key.1).map_or_else(|| key.1.clone(), |(_, name)| name.clone()),
                class: (*class).to_owned(),
                invoice,
                ledger,
                difference: invoice.saturating_sub(ledger),
                percent: report::percent(invoice, ledger),
                cause,
                price_versions: versions
                    .map(|c| c.versions.iter().map(|v| v.to_string()).collect())
                    .unwrap_or_default(),
            });
        }
    }

    fn cause(&self, key: &Key, at: usize, theirs: &Figures) -> Cause {
        let Some(cell) = self.ledger.get(key) else { return Cause::UnmeteredTraffic };
        if !self.invoice.contains_key(key) {
            return Cause::NotInvoiced;
        }
        let ours = &cell.figures;
        let difference = theirs[at].saturating_sub(ours[at]);
        if PROMPT_CLASSES.contains(&at) {
            let whole = |f: &Figures| f[PROMPT_CLASSES].iter().copied().fold(0, i64::saturating_add);
            if !self.tolerance.is_over(whole(theirs), whole(ours)) {
                return Cause::CacheClass;
            }
        }
        if self.is_shifted(key, at, difference) {
            return Cause::DayBoundary;
        }
        if self.compared[REQUESTS] && self.tolerance.is_over(theirs[REQUESTS], ours[REQUESTS] + cell.uncounted) {
            let more = theirs[REQUESTS] > ours[REQUESTS] + cell.uncounted;
            return if more { Cause::UnmeteredTraffic } else { Cause::NotInvoiced };
        }
        if at == COST {
            return if cell.unpriced > 0 { Cause::Unpriced } else { Cause::PriceVersion };
        }
        if at == REQUESTS {
            return if cell.uncounted > 0 { Cause::AbortedStreams } else { Cause::Unknown };
        }
        let side = usize::from(!PROMPT_CLASSES.contains(&at));
        let unseen = cell.uncounted.saturating_mul(cell.largest[side]);
        // An answer that was cut here may have gone on there, at most as long as the longest.
        let broken = cell.aborted[side].saturating_add(unseen);
        let longest = if cell.aborted[side] > 0 { cell.largest[side] } else { 0 };
        if difference > 0 && broken > 0 && difference <= broken.saturating_add(longest) {
            return Cause::AbortedStreams;
        }
        if difference.abs() <= cell.estimated[side].saturating_add(cell.aborted[side]) {
            return Cause::EstimatedTokens;
        }
        Cause::Unknown
    }

    /// Whether a neighbouring day is off by about as much the other way.
    fn is_shifted(&self, (day, model): &Key, at: usize, difference: i64) -> bool {
        [day.checked_sub(1), day.checked_add(1)].into_iter().flatten().any(|other| {
            let key = (other, model.clone());
            let (Some(theirs), Some(cell)) = (self.invoice.get(&key), self.ledger.get(&key)) else { return false };
            let there = theirs[at].saturating_sub(cell.figures[at]);
            let left = difference.saturating_add(there).unsigned_abs();
            there.signum() == -difference.signum() && left.saturating_mul(10) <= difference.unsigned_abs()
        })
    }
}

fn add(sum: &mut Figures, more: &Figures) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.saturating_add(*more));
}

/// A model's name as both sides may write it: without a vendor before and a date behind it, small, dots as dashes.
fn canonical(model: &str) -> String {
    let bare = model.rsplit('/').next().unwrap_or(model).to_ascii_lowercase().replace('.', "-");
    undated(&bare).map(str::to_owned).unwrap_or(bare)
}

#[cfg(test)]
mod tests;
