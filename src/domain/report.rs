//! The metrics report: one line per group and a total, as a table for people, as JSON or as CSV.
//!
//! The same figures in all three; a missing figure (no success yet, no price) is `-`, `null` or empty, never 0.

use crate::domain::sums::{GroupBy, SumRow, Tally};
use std::fmt::Write;

/// A report ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What the groups are: `model`.
    pub title: String,
    pub rows: Vec<SumRow>,
    pub total: Tally,
}

impl Report {
    /// Makes a report of grouped sums; the total is their sum.
    #[must_use]
    pub fn new(group_by: &GroupBy, rows: Vec<SumRow>) -> Self {
        let mut total = Tally::default();
        for row in &rows {
            total.merge(&row.tally);
        }
        Self { title: group_by.title().to_owned(), rows, total }
    }

    /// A table for people, columns aligned, a total last.
    #[must_use]
    pub fn to_table(&self) -> String {
        let head = [&self.title, "requests", "attempts", "success", "avg ms", "p50 ms", "p99 ms", "tokens", "cost usd"]
            .map(str::to_owned);
        let mut lines = vec![head];
        lines.extend(self.rows.iter().map(|row| table_line(named(&row.group), &row.tally)));
        lines.push(table_line("total", &self.total));
        let mut widths = [0_usize; 9];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for (number, line) in lines.iter().enumerate() {
            for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
                let _ = if column == 0 { write!(text, "{cell:<width$}") } else { write!(text, "  {cell:>width$}") };
            }
            text.push('\n');
            if number == 0 || number + 2 == lines.len() {
                text.push_str(&"-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1)));
                text.push('\n');
            }
        }
        if self.total.unpriced > 0 {
            let _ = writeln!(text, "cost leaves out {} attempts without a price", self.total.unpriced);
        }
        text
    }

    /// `{"group_by", "rows": [{"group", …}], "total": {…}}`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                let mut object = figures(&row.tally);
                object.insert("group".into(), row.group.clone().into());
                serde_json::Value::Object(object)
            })
            .collect();
        serde_json::json!({"group_by": self.title, "rows": rows, "total": figures(&self.total)})
    }

    /// CSV with a head line, without the total.
    #[must_use]
    pub fn to_csv(&self) -> String {
        const COLUMNS: [&str; 18] = [
            "requests",
            "attempts",
            "successes",
            "failures",
            "cancelled",
            "success_percent",
            "latency_ms_avg",
            "latency_ms_p50",
            "latency_ms_p99",
            "latency_us_sum",
            "input_tokens",
            "cached_input_tokens",
            "cache_write_tokens",
            "output_tokens",
            "reasoning_tokens",
            "cost_nanousd",
            "cost_usd",
            "unpriced",
        ];
        let mut text = format!("group,{}\n", COLUMNS.join(","));
        for row in &self.rows {
            push_csv(&mut text, &row.group);
            let object = figures(&row.tally);
            for column in COLUMNS {
                text.push(',');
                match object.get(column) {
                    None | Some(serde_json::Value::Null) => {}
                    Some(value) => text.push_str(value.to_string().trim_matches('"')),
                }
            }
            text.push('\n');
        }
        text
    }
}

/// Appends one CSV field, quoted if it has to be.
pub fn push_csv(out: &mut String, field: &str) {
    if field.contains(['"', ',', '\n', '\r']) {
        out.push('"');
        out.push_str(&field.replace('"', "\"\""));
        out.push('"');
    } else {
        out.push_str(field);
    }
}

fn named(group: &str) -> &str {
    if group.is_empty() { "(none)" } else { group }
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds for display")]
fn ms(us: Option<u64>) -> Option<f64> {
    us.map(|us| (us as f64 / 10.0).round() / 100.0)
}

fn table_line(name: &str, t: &Tally) -> [String; 9] {
    let dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let time = |us| dash(ms(us).map(|v| format!("{v:.1}")));
    [
        name.chars().map(|c| if c.is_control() { '�' } else { c }).collect(),
        t.requests.to_string(),
        t.attempts.to_string(),
        dash(t.success_percent().map(|p| format!("{p:.2} %"))),
        time(t.mean_latency_us()),
        time(t.latency.quantile(0.5)),
        time(t.latency.quantile(0.99)),
        t.usage.total().to_string(),
        if t.attempts > 0 && t.unpriced == t.attempts { "-".into() } else { t.cost.to_string() },
    ]
}

fn figures(t: &Tally) -> serde_json::Map<String, serde_json::Value> {
    let value = serde_json::json!({
        "requests": t.requests,
        "attempts": t.attempts,
        "successes": t.successes,
        "failures": t.failures,
        "cancelled": t.cancelled,
        "success_percent": t.success_percent(),
        "latency_ms_avg": ms(t.mean_latency_us()),
        "latency_ms_p50": ms(t.latency.quantile(0.5)),
        "latency_ms_p99": ms(t.latency.quantile(0.99)),
        "latency_us_sum": t.latency_us_sum,
        "input_tokens": t.usage.input,
        "cached_input_tokens": t.usage.cached_input,
        "cache_write_tokens": t.usage.cache_write,
        "output_tokens": t.usage.output,
        "reasoning_tokens": t.usage.reasoning,
        "cost_nanousd": t.cost.0,
        "cost_usd": t.cost.to_string(),
        "unpriced": t.unpriced,
    });
    match value {
        serde_json::Value::Object(object) => object,
        _ => serde_json::Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::money::NanoUsd;

    fn sample() -> Report {
        let mut fast = Tally { requests: 3, attempts: 4, successes: 3, failures: 1, ..Tally::default() };
        fast.latency_us_sum = 123_000;
        for us in [40_000, 41_000, 42_000] {
            fast.latency.record(us);
        }
        fast.cost = NanoUsd(1_234_567);
        let idle = Tally { attempts: 1, unpriced: 1, cancelled: 1, ..Tally::default() };
        let rows = vec![
            SumRow { group: "deepseek-v3.2".into(), tally: fast },
            SumRow { group: "a,\"b\"".into(), tally: idle },
        ];
        Report::new(&GroupBy::Model, rows)
    }

    #[test]
    fn a_table_lines_up_and_ends_with_the_total() {
        let table = sample().to_table();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 7, "{table}");
        assert!(lines[2].contains("75.00 %") && lines[2].contains("0.001234567"), "{table}");
        assert!(lines[3].contains(" - "), "a figure that is not known is no zero: {table}");
        assert!(lines[5].starts_with("total"), "{table}");
        let widths: std::collections::BTreeSet<_> = lines[..6].iter().map(|l| l.chars().count()).collect();
        assert_eq!(widths.len(), 1, "{table}");
    }

    #[test]
    fn json_and_csv_carry_the_same_figures() {
        let report = sample();
        let json = report.to_json();
        assert_eq!(json["total"]["cost_nanousd"], 1_234_567);
        assert_eq!(json["rows"][1]["latency_ms_p50"], serde_json::Value::Null);
        let csv = report.to_csv();
        assert!(csv.contains("\n\"a,\"\"b\"\"\",0,1,0,0,1,,,,,0,"), "{csv}");
        assert!(csv.contains(",1234567,0.001234567,0\n"), "{csv}");
    }
}
