//! The plot: for each figure that a bare client can be held against, its bar and the gateway's, on a scale of its own. What counts is
//! how much is lost, how long it takes and how much is paid for it, so shares are drawn as what is missing to 100 %, and a shorter bar
//! is a better one everywhere.

use crate::figure::{Row, Target, Unit};
use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
/// Where bars begin and how long the longest is.
const LEFT: f64 = 24.0;
const LONGEST: f64 = 560.0;
const GROUP: f64 = 92.0;
const TOP: f64 = 64.0;
const INK: &str = "#1f2933";
const PALE: &str = "#64707d";
const OURS: &str = "#1f77b4";
const BARE: &str = "#c9ced6";
const LIMIT: &str = "#d1495b";

/// The figure as a thing of which less is better.
struct Bar {
    title: String,
    ours: f64,
    bare: f64,
    limit: f64,
    unit: Unit,
}

impl Bar {
    fn of(row: &Row) -> Option<Self> {
        let bare = row.bare?;
        let turned = |v: f64| if row.unit == Unit::Share { 1.0 - v } else { v };
        let (Target::AtLeast(limit) | Target::AtMost(limit)) = row.target;
        let figure = match row.unit {
            Unit::Share => "not answered in full",
            _ => row.figure,
        };
        Some(Self {
            title: format!("{}: {figure}", row.scenario),
            ours: turned(row.value).max(0.0),
            bare: turned(bare).max(0.0),
            limit: turned(limit),
            unit: row.unit,
        })
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

pub fn svg(rows: &[Row]) -> String {
    let bars: Vec<_> = rows.iter().filter_map(Bar::of).collect();
    let height = TOP + GROUP * bars.len() as f64 + 8.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"30\" font-size=\"17\" font-weight=\"600\" fill=\"{INK}\">The same providers in the same weather; \
         shorter is better</text>\n"
    );
    legend(&mut svg);
    for (i, bar) in bars.iter().enumerate() {
        group(&mut svg, bar, TOP + GROUP * i as f64);
    }
    svg.push_str("</svg>\n");
    svg
}

fn legend(svg: &mut String) {
    let mut x = LEFT;
    for (colour, text, width) in
        [(OURS, "Breakwater", 110.0), (BARE, "bare client: pick again after 1 s, 2 s, 4 s", 310.0)]
    {
        write!(svg, "<rect x=\"{x}\" y=\"42\" width=\"11\" height=\"11\" fill=\"{colour}\"/>").unwrap();
        writeln!(svg, "<text x=\"{}\" y=\"52\" font-size=\"12\" fill=\"{PALE}\">{text}</text>", x + 17.0).unwrap();
        x += width;
    }
    write!(svg, "<rect x=\"{}\" y=\"41\" width=\"2\" height=\"13\" fill=\"{LIMIT}\"/>", x + 4.0).unwrap();
    writeln!(svg, "<text x=\"{}\" y=\"52\" font-size=\"12\" fill=\"{PALE}\">target</text>", x + 12.0).unwrap();
}

fn group(svg: &mut String, bar: &Bar, y: f64) {
    let most = bar.ours.max(bar.bare).max(bar.limit);
    let length = |v: f64| (v / most * LONGEST).max(1.0);
    writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{}\" font-size=\"13\" fill=\"{INK}\">{}</text>",
        y + 20.0,
        escaped(&bar.title)
    )
    .unwrap();
    for (value, colour, top, weight) in [(bar.ours, OURS, y + 30.0, 600), (bar.bare, BARE, y + 52.0, 400)] {
        let end = LEFT + length(value);
        write!(svg, "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{:.1}\" height=\"18\" fill=\"{colour}\"/>", end - LEFT)
            .unwrap();
        // Beside the bar, or beyond the target's line where that would run through the words.
        let line = LEFT + length(bar.limit);
        let at = if (end - 2.0..end + 64.0).contains(&line) { line + 8.0 } else { end + 8.0 };
        writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" font-size=\"12\" font-weight=\"{weight}\" fill=\"{INK}\">{}</text>",
            at,
            top + 13.5,
            bar.unit.show(value)
        )
        .unwrap();
    }
    let at = LEFT + length(bar.limit);
    writeln!(svg, "<rect x=\"{at:.1}\" y=\"{}\" width=\"2\" height=\"46\" fill=\"{LIMIT}\"/>", y + 27.0).unwrap();
}
