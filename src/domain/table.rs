//! Tables for people: columns as wide as what is in them, the first one to the left, figures to the right.

use serde::Serialize;
use std::fmt::Write;

/// A report that is written in three ways.
pub trait Tabular: Serialize {
    /// For people: tables and sentences.
    fn to_table(&self) -> String;

    /// With a head line.
    fn to_csv(&self) -> String;

    /// Reads back with serde.
    fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// A table under way.
#[derive(Clone, Debug)]
pub struct Table {
    lines: Vec<Vec<String>>,
    /// The last line stands below a rule.
    has_total: bool,
}

impl Table {
    /// A table with these column titles.
    #[must_use]
    pub fn new(titles: &[&str]) -> Self {
        Self { lines: vec![titles.iter().map(|&title| title.to_owned()).collect()], has_total: false }
    }

    /// Adds a line; control characters in it are made visible.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let shown = |cell: String| cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        self.lines.push(cells.into_iter().map(shown).collect());
    }

    /// Adds the last line.
    pub fn total(&mut self, cells: impl IntoIterator<Item = String>) {
        self.row(cells);
        self.has_total = true;
    }

    /// The text, each line with its end.
    #[must_use]
    pub fn to_text(&self) -> String {
        let columns = self.lines.iter().map(Vec::len).max().unwrap_or(0);
        let mut widths = vec![0_usize; columns];
        for line in &self.lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let rule = "-".repeat(widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1));
        let mut text = String::new();
        for (number, line) in self.lines.iter().enumerate() {
            if number == 1 || self.has_total && number + 1 == self.lines.len() {
                let _ = writeln!(text, "{rule}");
            }
            for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
                let _ = if column == 0 { write!(text, "{cell:<width$}") } else { write!(text, "  {cell:>width$}") };
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["model", "n"]);
        table.row(["a\nb".to_owned(), "1".to_owned()]);
        table.total(["total".to_owned(), "1000".to_owned()]);
        assert_eq!(table.to_text(), "model     n\n-----------\na\u{fffd}b       1\n-----------\ntotal  1000\n");
        assert_eq!(Table::new(&["a"]).to_text(), "a\n");
    }
}
