//! What a reconciliation found, as it is written and read.

use crate::domain::report::push_csv;
use crate::domain::table::{Table, Tabular};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// By how much two figures may differ, in parts per million of the larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tolerance(u32);

impl Default for Tolerance {
    /// 0.5 %.
    fn default() -> Self {
        Self(5_000)
    }
}

impl Tolerance {
    /// Reads percent, with or without the sign: `0.5%`, `0`, `2`.
    ///
    /// # Errors
    /// That it is no percentage from 0 to 100.
    pub fn parse(text: &str) -> Result<Self, String> {
        let number = text.trim().trim_end_matches('%').trim();
        let wrong = || format!("`{text}` is no percentage from 0 to 100 with at most four decimals");
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || whole.len() > 3 || fraction.len() > 4 || !digits(whole) || !digits(fraction) {
            return Err(wrong());
        }
        let padded = format!("{whole}{fraction:0<4}");
        let ppm: u32 = padded.parse().map_err(|_| wrong())?;
        if ppm > 1_000_000 { Err(wrong()) } else { Ok(Self(ppm)) }
    }

    /// Whether two figures differ by more.
    #[must_use]
    pub fn is_over(self, a: i64, b: i64) -> bool {
        let larger = u128::from(a.unsigned_abs().max(b.unsigned_abs()));
        u128::from(a.abs_diff(b)) * 1_000_000 > larger * u128::from(self.0)
    }

    fn spelled(self) -> String {
        let text = format!("{}.{:04}", self.0 / 10_000, self.0 % 10_000);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

/// Why two figures are likely to differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    UnmeteredTraffic,
    NotInvoiced,
    CacheClass,
    DayBoundary,
    AbortedStreams,
    EstimatedTokens,
    PriceVersion,
    Unpriced,
    Unknown,
}

impl Cause {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnmeteredTraffic => "unmetered_traffic",
            Self::NotInvoiced => "not_invoiced",
            Self::CacheClass => "cache_class",
            Self::DayBoundary => "day_boundary",
            Self::AbortedStreams => "aborted_streams",
            Self::EstimatedTokens => "estimated_tokens",
            Self::PriceVersion => "price_version",
            Self::Unpriced => "unpriced",
            Self::Unknown => "unknown",
        }
    }
}

/// One figure of one day and model on both sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    pub day: String,
    pub model: String,
    /// `requests`, a token class, or `cost_nanousd`.
    pub class: String,
    pub invoice: i64,
    pub ledger: i64,
    /// The invoice's less the ledger's.
    pub difference: i64,
    /// Of the larger.
    pub percent: f64,
    /// `None`: within the tolerance.
    pub cause: Option<Cause>,
    /// With the cause `price_version`: those of the ledger's rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub price_versions: Vec<String>,
}

/// The whole comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReconcileReport {
    pub tolerance_percent: String,
    /// Figures that were compared.
    pub compared: usize,
    /// Of those: over the tolerance.
    pub over: usize,
    /// Models of the ledger that the invoice doesn't name, left out.
    pub models_left_out: usize,
    pub lines: Vec<Difference>,
}

impl ReconcileReport {
    pub(super) fn new(tolerance: Tolerance, lines: Vec<Difference>, models_left_out: usize) -> Self {
        Self {
            tolerance_percent: tolerance.spelled(),
            compared: lines.len(),
            over: lines.iter().filter(|l| l.cause.is_some()).count(),
            models_left_out,
            lines,
        }
    }
}

impl Tabular for ReconcileReport {
    /// A table for people and what it comes to.
    fn to_table(&self) -> String {
        let mut table =
            Table::new(&["day", "model", "class", "invoice", "ledger", "difference", "off", "likely cause"]);
        for line in &self.lines {
            let mut cause = line.cause.map_or("", Cause::as_str).to_owned();
            if !line.price_versions.is_empty() {
                let _ = write!(cause, " ({})", line.price_versions.join(", "));
            }
            table.row([
                line.day.clone(),
                line.model.clone(),
                line.class.clone(),
                line.invoice.to_string(),
                line.ledger.to_string(),
                format!("{:+}", line.difference),
                format!("{:.2} %", line.percent),
                cause,
            ]);
        }
        let mut text = table.to_text();
        let _ = writeln!(
            text,
            "{} figures compared, {} differ by more than {} %",
            self.compared, self.over, self.tolerance_percent
        );
        if self.models_left_out > 0 {
            let (n, s, are) = match self.models_left_out {
                1 => (1, "", "is"),
                n => (n, "s", "are"),
            };
            let _ = writeln!(
                text,
                "{n} model{s} of the ledger {are} not in the invoice and left out; --provider says which rows are this vendor's"
            );
        }
        text
    }

    /// CSV with a head line.
    fn to_csv(&self) -> String {
        let mut text = "day,model,class,invoice,ledger,difference,percent,cause\n".to_owned();
        for line in &self.lines {
            let _ = write!(text, "{},", line.day);
            push_csv(&mut text, &line.model);
            let cause = line.cause.map_or("", Cause::as_str);
            let (theirs, ours) = (line.invoice, line.ledger);
            let _ = writeln!(text, ",{},{theirs},{ours},{},{},{cause}", line.class, line.difference, line.percent);
        }
        text
    }
}

/// Of the larger, to two decimals.
#[allow(clippy::cast_precision_loss)]
pub(super) fn percent(a: i64, b: i64) -> f64 {
    let larger = a.unsigned_abs().max(b.unsigned_abs()).max(1);
    (a.abs_diff(b) as f64 * 10_000.0 / larger as f64).round() / 100.0
}

pub(super) fn date(day: u32) -> String {
    let at = crate::domain::time::Wall(i64::from(day).saturating_mul(86_400_000_000));
    at.to_rfc3339().chars().take(10).collect()
}
