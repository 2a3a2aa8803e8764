//! The metrics report: one line per group and a total, as a table for people, as JSON or as CSV.
//!
//! The same figures in all three; a missing figure (no success yet, no price) is `-`, `null` or empty, never 0.

use crate::domain::sums::{GroupBy, SumRow, Tally};
use crate::domain::table::{Table, Tabular};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// A report ready to be written, or as another process wrote it in JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What the groups are: `model`.
    pub group_by: String,
    pub rows: Vec<ReportRow>,
    pub total: Figures,
}

/// One group's line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportRow {
    pub group: String,
    #[serde(flatten)]
    pub figures: Figures,
}

/// What is told of a group. Latency is that of successful attempts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    pub requests: u64,
    pub attempts: u64,
    pub successes: u64,
    pub failures: u64,
    pub cancelled: u64,
    /// `None`: nothing succeeded or failed.
    pub success_percent: Option<f64>,
    pub latency_ms_avg: Option<f64>,
    /// Within 3.2 %.
    pub latency_ms_p50: Option<f64>,
    /// Within 3.2 %.
    pub latency_ms_p99: Option<f64>,
    pub latency_us_sum: u64,
    pub input_tokens: u64,
    pub cached_input_tokens: u64,
    pub cache_write_tokens: u64,
    pub output_tokens: u64,
    pub reasoning_tokens: u64,
    pub cost_nanousd: i64,
    /// The same in dollars, exactly.
    pub cost_usd: String,
    /// Attempts without a price, which the cost leaves out.
    pub unpriced: u64,
    /// Of all requests; `None` of none.
    #[serde(default)]
    pub share_percent: Option<f64>,
}

impl Figures {
    /// `all` are the requests of all groups.
    fn of(t: &Tally, all: u64) -> Self {
        Self {
            requests: t.requests,
            attempts: t.attempts,
            successes: t.successes,
            failures: t.failures,
            cancelled: t.cancelled,
            success_percent: t.success_percent(),
            latency_ms_avg: ms(t.mean_latency_us()),
            latency_ms_p50: ms(t.latency.quantile(0.5)),
            latency_ms_p99: ms(t.latency.quantile(0.99)),
            latency_us_sum: t.latency_us_sum,
            input_tokens: t.usage.input,
            cached_input_tokens: t.usage.cached_input,
            cache_write_tokens: t.usage.cache_write,
            output_tokens: t.usage.output,
            reasoning_tokens: t.usage.reasoning,
            cost_nanousd: t.cost.0,
            cost_usd: t.cost.to_string(),
            unpriced: t.unpriced,
            share_percent: share(t.requests, all),
        }
    }

    fn tokens(&self) -> u64 {
        let all = [
            self.input_tokens,
            self.cached_input_tokens,
            self.cache_write_tokens,
            self.output_tokens,
            self.reasoning_tokens,
        ];
        all.into_iter().fold(0, u64::saturating_add)
    }

    /// A line of the table. A cost that leaves attempts out is marked, one without any priced attempt is not told.
    fn line(&self, name: &str) -> [String; 10] {
        let dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
        let time = |ms: Option<f64>| dash(ms.map(|v| format!("{v:.1}")));
        let cost = match self.unpriced {
            0 => self.cost_usd.clone(),
            all if all == self.attempts => "-".into(),
            _ => format!("{}*", self.cost_usd),
        };
        [
            name.to_owned(),
            self.requests.to_string(),
            dash(self.share_percent.map(|p| format!("{p:.2} %"))),
            self.attempts.to_string(),
            dash(self.success_percent.map(|p| format!("{p:.2} %"))),
            time(self.latency_ms_avg),
            time(self.latency_ms_p50),
            time(self.latency_ms_p99),
            self.tokens().to_string(),
            cost,
        ]
    }
}

impl Report {
    /// Makes a report of grouped sums; the total is their sum.
    #[must_use]
    pub fn new(group_by: &GroupBy, rows: Vec<SumRow>) -> Self {
        let mut total = Tally::default();
        for row in &rows {
            total.merge(&row.tally);
        }
        let rows = rows
            .into_iter()
            .map(|row| ReportRow { figures: Figures::of(&row.tally, total.requests), group: row.group })
            .collect();
        Self { group_by: group_by.title().to_owned(), rows, total: Figures::of(&total, total.requests) }
    }
}

impl Tabular for Report {
    /// A table for people, columns aligned, a total last.
    fn to_table(&self) -> String {
        let titles = ["requests", "share", "attempts", "success", "avg ms", "p50 ms", "p99 ms", "tokens", "cost usd"];
        let titles: Vec<_> = [self.group_by.as_str()].into_iter().chain(titles).collect();
        let mut table = Table::new(&titles);
        self.rows.iter().for_each(|row| table.row(row.figures.line(named(&row.group))));
        table.total(self.total.line("total"));
        let mut text = table.to_text();
        if self.total.unpriced > 0 {
            let _ = writeln!(text, "* leaves out attempts without a price, {} in all", self.total.unpriced);
        }
        text
    }

    /// CSV with a head line, without the total.
    fn to_csv(&self) -> String {
        let mut text = "group,requests,attempts,successes,failures,cancelled,success_percent,latency_ms_avg,latency_ms_p50,\
                        latency_ms_p99,latency_us_sum,input_tokens,cached_input_tokens,cache_write_tokens,output_tokens,\
                        reasoning_tokens,cost_nanousd,cost_usd,unpriced,share_percent\n"
            .to_owned();
        for row in &self.rows {
            push_csv(&mut text, &row.group);
            let f = &row.figures;
            let counts = [f.requests, f.attempts, f.successes, f.failures, f.cancelled];
            let times = [f.success_percent, f.latency_ms_avg, f.latency_ms_p50, f.latency_ms_p99];
            let sums = [
                f.latency_us_sum,
                f.input_tokens,
                f.cached_input_tokens,
                f.cache_write_tokens,
                f.output_tokens,
                f.reasoning_tokens,
            ];
            for count in counts {
                let _ = write!(text, ",{count}");
            }
            for time in times {
                text.push(',');
                if let Some(time) = time {
                    let _ = write!(text, "{time}");
                }
            }
            for sum in sums {
                let _ = write!(text, ",{sum}");
            }
            let share = f.share_percent.map_or(String::new(), |p| p.to_string());
            let _ = writeln!(text, ",{},{},{},{share}", f.cost_nanousd, f.cost_usd, f.unpriced);
        }
        text
    }
}

/// Appends one CSV field, quoted if it has to be.
pub(super) fn push_csv(out: &mut String, field: &str) {
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

/// In percent, to two decimals.
#[allow(clippy::cast_precision_loss)]
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| (part as f64 * 10_000.0 / whole as f64).round() / 100.0)
}

/// Milliseconds to two decimals.
#[allow(clippy::cast_precision_loss)]
fn ms(us: Option<u64>) -> Option<f64> {
    us.map(|us| (us as f64 / 10.0).round() / 100.0)
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
        assert!(
            lines[2].contains("100.00 %") && lines[2].contains("75.00 %") && lines[2].contains("0.001234567"),
            "{table}"
        );
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
        let read: Report = serde_json::from_value(json).unwrap();
        assert_eq!(read, report);
        let csv = report.to_csv();
        assert!(csv.contains("\n\"a,\"\"b\"\"\",0,1,0,0,1,,,,,0,"), "{csv}");
        assert!(csv.contains(",1234567,0.001234567,0,100\n"), "{csv}");
    }
}
