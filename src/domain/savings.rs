//! Savings: what the answers of a time would have cost on one baseline, against what was really spent.
//!
//! Rules, so that nobody has to take a figure on trust:
//! - The baseline's cost is that of the same tokens, priced answer by answer: prices by prompt length hold as they would have.
//! - Only successful answers are priced on the baseline. What was really spent is everything: the answers, and besides the overhead
//!   of attempts that failed, were cancelled, lost against a hedge or were tried again. So the saving is net of what resilience cost.
//! - An answer without a price of its own is left out of both sides, and counted: nobody knows what it cost.
//! - Tokens are taken as the vendor that answered counted them. Another vendor's tokenizer would count somewhat differently.

use crate::domain::ledger::Entry;
use crate::domain::money::NanoUsd;
use crate::domain::outcome::Outcome;
use crate::domain::price::Price;
use crate::domain::report::push_csv;
use crate::domain::table::{Table, Tabular};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// What everything is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// As it was asked for.
    pub name: String,
    /// Where the price comes from: `endpoint gpt`, `openai's list`.
    pub source: String,
    pub price: Arc<Price>,
}

/// Adds ledger rows up against a baseline, in memory that grows with models and days only.
#[derive(Clone, Debug)]
pub struct Savings {
    baseline: Baseline,
    models: BTreeMap<Arc<str>, Figures>,
    /// By days since 1970.
    days: BTreeMap<u32, Figures>,
}

/// Figures of one group. Money in nano-dollars.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Successful answers that have a price.
    pub answers: u64,
    pub input_tokens: u64,
    pub cached_input_tokens: u64,
    pub cache_write_tokens: u64,
    pub output_tokens: u64,
    pub reasoning_tokens: u64,
    /// What the answers cost.
    pub cost_nanousd: i64,
    /// What failed, cancelled and lost attempts cost besides.
    pub overhead_nanousd: i64,
    /// What the answers would have cost on the baseline.
    pub baseline_nanousd: i64,
    /// The baseline's cost less the two others; below zero: the baseline would have been cheaper.
    pub saved_nanousd: i64,
    /// Attempts without a price, left out of all of the above.
    pub unpriced: u64,
}

impl Figures {
    fn count(&mut self, e: &Entry, baseline: &Price) {
        let Some(cost) = e.cost else {
            self.unpriced = self.unpriced.saturating_add(1);
            return;
        };
        if &*e.outcome == Outcome::Success.ledger_str() {
            let u = &e.usage;
            self.add(&Self {
                answers: 1,
                input_tokens: u.input,
                cached_input_tokens: u.cached_input,
                cache_write_tokens: u.cache_write,
                output_tokens: u.output,
                reasoning_tokens: u.reasoning,
                cost_nanousd: cost.0,
                baseline_nanousd: baseline.cost(u).0,
                ..Self::default()
            });
        } else {
            self.overhead_nanousd = self.overhead_nanousd.saturating_add(cost.0);
        }
        let spent = self.cost_nanousd.saturating_add(self.overhead_nanousd);
        self.saved_nanousd = self.baseline_nanousd.saturating_sub(spent);
    }

    fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.answers, other.answers),
            (&mut self.input_tokens, other.input_tokens),
            (&mut self.cached_input_tokens, other.cached_input_tokens),
            (&mut self.cache_write_tokens, other.cache_write_tokens),
            (&mut self.output_tokens, other.output_tokens),
            (&mut self.reasoning_tokens, other.reasoning_tokens),
            (&mut self.unpriced, other.unpriced),
        ] {
            *sum = sum.saturating_add(more);
        }
        for (sum, more) in [
            (&mut self.cost_nanousd, other.cost_nanousd),
            (&mut self.overhead_nanousd, other.overhead_nanousd),
            (&mut self.baseline_nanousd, other.baseline_nanousd),
            (&mut self.saved_nanousd, other.saved_nanousd),
        ] {
            *sum = sum.saturating_add(more);
        }
    }

    /// Tokens of all classes.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        let classes = [
            self.input_tokens,
            self.cached_input_tokens,
            self.cache_write_tokens,
            self.output_tokens,
            self.reasoning_tokens,
        ];
        classes.into_iter().fold(0, u64::saturating_add)
    }
}

impl Savings {
    #[must_use]
    pub fn new(baseline: Baseline) -> Self {
        Self { baseline, models: BTreeMap::new(), days: BTreeMap::new() }
    }

    /// Counts one ledger row.
    pub fn count(&mut self, entry: &Entry) {
        let price = &self.baseline.price;
        match self.models.get_mut(&entry.model) {
            Some(figures) => figures.count(entry, price),
            None => self.models.entry(Arc::clone(&entry.model)).or_default().count(entry, price),
        }
        self.days.entry(entry.at.hour() / 24).or_default().count(entry, price);
    }

    /// Ends the count.
    #[must_use]
    pub fn report(self) -> SavingsReport {
        let mut total = Figures::default();
        self.models.values().for_each(|figures| total.add(figures));
        let all = total.answers;
        let line = |group: String, figures: Figures| SavingsLine {
            group,
            share_percent: percent(figures.answers, all),
            saved_percent: saved_percent(&figures),
            figures,
        };
        let p = &self.baseline.price;
        let usd = |price: crate::domain::money::PicoUsdPerToken| price.to_string();
        SavingsReport {
            baseline: BaselineView {
                name: self.baseline.name,
                source: self.baseline.source,
                price_version: p.version.to_string(),
                input_usd_per_million: usd(p.input),
                output_usd_per_million: usd(p.output),
            },
            saved_usd: NanoUsd(total.saved_nanousd).to_string(),
            models: self.models.into_iter().map(|(model, figures)| line(model.to_string(), figures)).collect(),
            days: self.days.into_iter().map(|(day, figures)| line(date(day), figures)).collect(),
            total: line("total".into(), total),
        }
    }
}

/// What the answers would have cost on the baseline, as it is written and read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavingsReport {
    pub baseline: BaselineView,
    /// Exact dollars.
    pub saved_usd: String,
    pub total: SavingsLine,
    /// The mix: by the model that answered.
    pub models: Vec<SavingsLine>,
    /// By UTC day.
    pub days: Vec<SavingsLine>,
}

/// The baseline as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaselineView {
    pub name: String,
    pub source: String,
    pub price_version: String,
    /// Exact decimals.
    pub input_usd_per_million: String,
    /// Exact decimals.
    pub output_usd_per_million: String,
}

/// One model's, one day's, or the total's line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavingsLine {
    pub group: String,
    /// Of all answers.
    pub share_percent: Option<f64>,
    /// Of the baseline's cost; `None`: that is 0.
    pub saved_percent: Option<f64>,
    #[serde(flatten)]
    pub figures: Figures,
}

impl Tabular for SavingsReport {
    /// Two tables for people, by model and by day, and what they come to.
    fn to_table(&self) -> String {
        let b = &self.baseline;
        let mut text = format!(
            "baseline {} ({}: {} USD in, {} USD out per 1,000,000 tokens)\n\n",
            b.name, b.source, b.input_usd_per_million, b.output_usd_per_million
        );
        for (what, lines, with_total) in [("model", &self.models, true), ("day", &self.days, false)] {
            let mut table = Table::new(&[
                what,
                "answers",
                "share",
                "tokens",
                "cost usd",
                "overhead usd",
                "on baseline usd",
                "saved usd",
                "saved",
            ]);
            lines.iter().for_each(|line| table.row(line.cells()));
            if with_total {
                table.total(self.total.cells());
            }
            text.push_str(&table.to_text());
            text.push('\n');
        }
        let figures = &self.total.figures;
        let spent = NanoUsd(figures.cost_nanousd) + NanoUsd(figures.overhead_nanousd);
        let _ = write!(text, "saved {} USD: {spent} instead of {}", self.saved_usd, NanoUsd(figures.baseline_nanousd));
        if let Some(percent) = self.total.saved_percent {
            let _ = write!(text, ", {percent:.2} %");
        }
        text.push('\n');
        if figures.unpriced > 0 {
            let _ = writeln!(text, "{} attempts without a price are left out of both sides", figures.unpriced);
        }
        text
    }

    /// CSV with a head line: models, days and the total, told apart by the first column.
    fn to_csv(&self) -> String {
        let mut text = "scope,group,answers,share_percent,input_tokens,cached_input_tokens,cache_write_tokens,output_tokens,\
                        reasoning_tokens,cost_nanousd,overhead_nanousd,baseline_nanousd,saved_nanousd,saved_percent,unpriced\n"
            .to_owned();
        let scoped = |scope| move |line| (scope, line);
        let lines = self.models.iter().map(scoped("model")).chain(self.days.iter().map(scoped("day")));
        for (scope, line) in lines.chain([("total", &self.total)]) {
            let maybe = |percent: Option<f64>| percent.map_or(String::new(), |p| p.to_string());
            let f = &line.figures;
            text.push_str(scope);
            text.push(',');
            push_csv(&mut text, &line.group);
            let _ = write!(text, ",{},{}", f.answers, maybe(line.share_percent));
            let tokens =
                [f.input_tokens, f.cached_input_tokens, f.cache_write_tokens, f.output_tokens, f.reasoning_tokens];
            for count in tokens {
                let _ = write!(text, ",{count}");
            }
            for nano in [f.cost_nanousd, f.overhead_nanousd, f.baseline_nanousd, f.saved_nanousd] {
                let _ = write!(text, ",{nano}");
            }
            let _ = writeln!(text, ",{},{}", maybe(line.saved_percent), f.unpriced);
        }
        text
    }
}

impl SavingsLine {
    fn cells(&self) -> Vec<String> {
        let share = |percent: Option<f64>| percent.map_or_else(|| "-".to_owned(), |p| format!("{p:.2} %"));
        let money = |nano: i64| NanoUsd(nano).to_string();
        let f = &self.figures;
        vec![
            self.group.clone(),
            f.answers.to_string(),
            share(self.share_percent),
            f.tokens().to_string(),
            money(f.cost_nanousd),
            money(f.overhead_nanousd),
            money(f.baseline_nanousd),
            money(f.saved_nanousd),
            share(self.saved_percent),
        ]
    }
}

fn saved_percent(f: &Figures) -> Option<f64> {
    let whole = u64::try_from(f.baseline_nanousd).ok()?;
    let part = percent(f.saved_nanousd.unsigned_abs(), whole)?;
    Some(if f.saved_nanousd < 0 { -part } else { part })
}

/// In percent, to two decimals; `None` of nothing.
#[allow(clippy::cast_precision_loss)]
fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| (part as f64 * 10_000.0 / whole as f64).round() / 100.0)
}

fn date(day: u32) -> String {
    let at = crate::domain::time::Wall(i64::from(day).saturating_mul(86_400_000_000));
    at.to_rfc3339().chars().take(10).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::money::PicoUsdPerToken;
    use crate::domain::price::LongContext;
    use crate::domain::sample;
    use proptest::prelude::*;

    fn usd(text: &str) -> PicoUsdPerToken {
        PicoUsdPerToken::parse_usd_per_million(text).unwrap()
    }

    fn baseline() -> Baseline {
        Baseline {
            name: "gpt".into(),
            source: "endpoint gpt".into(),
            price: Arc::new(Price::flat(usd("8"), usd("8"), "config:1")),
        }
    }

    #[test]
    fn answers_are_compared_and_everything_spent_is_deducted() {
        let answer = Entry { outcome: "success".into(), cost: Some(NanoUsd(1_000)), ..sample::nth(0) };
        let mut savings = Savings::new(baseline());
        // 120 tokens at 8,000 nano-dollars.
        savings.count(&answer);
        savings.count(&Entry { outcome: "cancelled".into(), cost: Some(NanoUsd(300)), ..answer.clone() });
        savings.count(&Entry { outcome: "uncertain".into(), cost: Some(NanoUsd(50)), ..answer.clone() });
        savings.count(&Entry { cost: None, ..answer.clone() });
        let report = savings.report();
        let f = &report.total.figures;
        assert_eq!((f.answers, f.tokens(), f.unpriced), (1, 120, 1));
        assert_eq!((f.cost_nanousd, f.overhead_nanousd, f.baseline_nanousd), (1_000, 350, 960_000));
        assert_eq!((f.saved_nanousd, report.total.saved_percent), (958_650, Some(99.86)));
        assert_eq!(report.saved_usd, "0.00095865");
        assert_eq!(report.models[0].share_percent, Some(100.0));
        assert_eq!(report.days[0].group, "2026-11-23");
        let read: SavingsReport = serde_json::from_value(report.to_json()).unwrap();
        assert_eq!(read, report);
        let table = report.to_table();
        assert!(table.contains("saved 0.00095865 USD: 0.00000135 instead of 0.00096, 99.86 %"), "{table}");
        assert!(table.contains("1 attempts without a price"), "{table}");
        let csv = report.to_csv();
        assert!(csv.ends_with("\ntotal,total,1,100,100,0,0,20,0,1000,350,960000,958650,99.86,1\n"), "{csv}");
    }

    #[test]
    fn prices_by_prompt_length_hold_answer_by_answer() {
        let mut dear = baseline();
        let mut price = (*dear.price).clone();
        price.long_context = Some(LongContext { above: 150, input: usd("16"), output: usd("16") });
        dear.price = Arc::new(price);
        let mut savings = Savings::new(dear);
        for input in [100, 100, 200] {
            let usage = crate::domain::usage::Usage { input, ..Default::default() };
            savings.count(&Entry { outcome: "success".into(), cost: Some(NanoUsd(0)), usage, ..sample::nth(0) });
        }
        // Two short ones at 8, one long one at 16: not four hundred tokens at 16.
        assert_eq!(savings.report().total.figures.baseline_nanousd, 100 * 8_000 * 2 + 200 * 16_000);
    }

    proptest! {
        #[test]
        fn models_days_and_total_agree(numbers in prop::collection::vec(0_u64..20_000_000, 0..60)) {
            let mut savings = Savings::new(baseline());
            numbers.iter().for_each(|n| savings.count(&sample::nth(*n)));
            let report = savings.report();
            for lines in [&report.models, &report.days] {
                let mut sum = Figures::default();
                lines.iter().for_each(|line| sum.add(&line.figures));
                prop_assert_eq!(&sum, &report.total.figures);
            }
            let f = &report.total.figures;
            prop_assert_eq!(f.saved_nanousd, f.baseline_nanousd - f.cost_nanousd - f.overhead_nanousd);
        }
    }
}
