//! A row of the table: what was measured, what a bare client gets, the target and whether it is met.

use crate::plot;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

/// How a figure is to be read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unit {
    /// A share, 0..1, shown as a percentage.
    Share,
    Milliseconds,
    /// A quotient.
    Times,
    Count,
}

impl Unit {
    pub fn show(self, value: f64) -> String {
        match self {
            // Enough digits for what is rare.
            Self::Share => format!("{:.3} %", value * 100.0),
            Self::Milliseconds if value < 100.0 => format!("{value:.1} ms"),
            Self::Milliseconds => format!("{value:.0} ms"),
            Self::Times => format!("{value:.2} ×"),
            Self::Count => format!("{value:.0}"),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Share => "share",
            Self::Milliseconds => "ms",
            Self::Times => "times",
            Self::Count => "count",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Row {
    pub scenario: &'static str,
    pub figure: &'static str,
    pub unit: Unit,
    pub value: f64,
    /// What a bare client gets in the same weather; `None` where there is nothing to compare.
    pub bare: Option<f64>,
    pub target: Target,
    /// How much was measured.
    pub sample: String,
}

impl Row {
    pub fn is_met(&self) -> bool {
        self.target.is_met(self.value)
    }

    fn target_text(&self) -> String {
        match self.target {
            Target::AtLeast(v) => format!("≥ {}", self.unit.show(v)),
            Target::AtMost(v) => format!("≤ {}", self.unit.show(v)),
        }
    }
}

pub struct Report {
    machine: String,
    pub rows: Vec<Row>,
}

impl Report {
    pub fn new(machine: String) -> Self {
        Self { machine, rows: Vec::new() }
    }

    pub fn is_met(&self) -> bool {
        self.rows.iter().all(Row::is_met)
    }

    pub fn table(&self) -> String {
        let mut text = format!("{}\n\n| scenario | figure | measured | bare client | target | |\n", self.machine);
        text.push_str("|---|---|---|---|---|---|\n");
        let mut last = "";
        for row in &self.rows {
            let scenario = if row.scenario == last { "" } else { row.scenario };
            last = row.scenario;
            let bare = row.bare.map_or_else(String::new, |v| row.unit.show(v));
            let verdict = if row.is_met() { "met" } else { "MISSED" };
            let (value, target) = (row.unit.show(row.value), row.target_text());
            writeln!(text, "| {scenario} | {} | {value} | {bare} | {target} | {verdict} |", row.figure).unwrap();
        }
        text
    }

    fn json(&self) -> Value {
        let row = |row: &Row| {
            let (kind, value) = match row.target {
                Target::AtLeast(v) => ("at_least", v),
                Target::AtMost(v) => ("at_most", v),
            };
            json!({
                "scenario": row.scenario, "figure": row.figure, "unit": row.unit.as_str(), "value": row.value,
                "bare_client": row.bare, "target": {kind: value}, "met": row.is_met(), "sample": row.sample,
            })
        };
        json!({ "machine": self.machine, "rows": self.rows.iter().map(row).collect::<Vec<_>>() })
    }

    pub fn write(&self, folder: &Path, json: &str, svg: &str) {
        std::fs::create_dir_all(folder).unwrap();
        let text = serde_json::to_string_pretty(&self.json()).unwrap() + "\n";
        std::fs::write(folder.join(json), text).unwrap();
        std::fs::write(folder.join(svg), plot::svg(&self.rows)).unwrap();
    }
}

/// The value below which a share of the values lies; the values need not be sorted.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64) * share).ceil() as usize;
    values.get(at.clamp(1, values.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}
