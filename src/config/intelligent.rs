//! The blocks `strategies` and `intelligent`: how candidates are ranked; and the thresholds, weights, term lists, quality floors and the tier table of the strategy `intelligent`.
//!
//! Numbers and cells are read over the built-in ones; a list of terms replaces the built-in list. The rules between the settings
//! are those of [`IntelligentSettings::faults`].

use crate::config::reader::{Field, Section};
use crate::config::scalar::{share, whole, word};
use crate::config::tree::Scalar;
use crate::domain::complexity::{Lexicon, terms};
use crate::domain::intelligent::{Cell, Cells, FeatureScale, IntelligentSettings, TierRow};
use crate::domain::strategy::{RankSettings, StrategyKind};
use std::sync::Arc;

const MANY_TOKENS: u64 = 1_000_000_000;
const MANY: u32 = 1_000_000;

/// Reads `intelligent` at the top of the file.
pub fn read(root: &mut Section<'_>) -> IntelligentSettings {
    let mut c = IntelligentSettings::default();
    let Some(mut s) = root.section("intelligent") else { return c };
    s.set("simple_below", &mut c.simple_below, unit);
    s.set("complex_from", &mut c.complex_from, unit);
    if let Some(mut s) = s.section("weights") {
        let w = &mut c.weights;
        s.set("length", &mut w.length, unit);
        s.set("code", &mut w.code, unit);
        s.set("terms", &mut w.terms, unit);
        s.set("demands", &mut w.demands, unit);
        s.set("depth", &mut w.depth, unit);
        s.set("output", &mut w.output, unit);
    }
    if let Some(mut s) = s.section("scale") {
        scale(&mut s, &mut c.scale);
    }
    if let Some(lexicon) = lexicon(&mut s) {
        c.lexicon = Arc::new(lexicon);
    }
    if let Some(mut s) = s.section("quality") {
        s.set("simple", &mut c.quality.simple, unit);
        s.set("medium", &mut c.quality.medium, unit);
        s.set("complex", &mut c.quality.complex, unit);
    }
    if let Some(mut s) = s.section("tiers") {
        row(&mut s, "premium", &mut c.tiers.premium);
        row(&mut s, "free", &mut c.tiers.free);
        row(&mut s, "capped", &mut c.tiers.capped);
        row(&mut s, "default", &mut c.tiers.default);
    }
    for (path, message) in c.faults() {
        s.fault_below(&path, message);
    }
    c
}

/// Reads `strategies` at the top of the file: what all rankings share.
pub fn ranking(root: &mut Section<'_>) -> RankSettings {
    let mut c = RankSettings::default();
    let Some(mut s) = root.section("strategies") else { return c };
    s.set("explore", &mut c.explore, unit);
    if let Some(mut s) = s.section("balanced") {
        let w = &mut c.balanced;
        s.set("cost", &mut w.cost, unit);
        s.set("latency", &mut w.latency, unit);
        s.set("quality", &mut w.quality, unit);
        s.set("failure_rate", &mut w.failure_rate, unit);
    }
    for (path, message) in c.faults() {
        s.fault_below(&path, message);
    }
    c
}

fn unit(s: &Scalar) -> Result<f32, String> {
    share(0.0, false)(s).and_then(|_| s.text.parse().map_err(|_| "a share from 0 to 1".into()))
}

fn scale(s: &mut Section<'_>, c: &mut FeatureScale) {
    s.set("length_from", &mut c.length_from, whole(0, MANY_TOKENS));
    s.set("length_full", &mut c.length_full, whole(1, MANY_TOKENS));
    s.set("markers_full", &mut c.markers_full, whole(1, MANY));
    s.set("terms_full", &mut c.terms_full, whole(1, MANY));
    s.set("demands_full", &mut c.demands_full, whole(1, MANY));
    s.set("depth_full", &mut c.depth_full, whole(2, MANY));
    s.set("output_from", &mut c.output_from, whole(0, MANY_TOKENS));
    s.set("output_full", &mut c.output_full, whole(1, MANY_TOKENS));
}

/// The compiled lists, if one of them is in the file.
fn lexicon(s: &mut Section<'_>) -> Option<Lexicon> {
    let lists = [
        list(s, "terms", terms::TECHNICAL),
        list(s, "demands", terms::DEMANDS),
        list(s, "code_markers", terms::CODE_MARKERS),
    ];
    let given = lists.iter().any(|(_, given)| *given);
    let [technical, demands, code_markers] = lists.map(|(terms, _)| terms);
    if !given {
        return None;
    }
    match Lexicon::new(technical, demands, code_markers) {
        Ok(lexicon) => Some(lexicon),
        Err(faults) => {
            for (list, index, fault) in faults {
                s.fault_below(&format!("{}[{index}]", list.as_str()), fault.to_string());
            }
            None
        }
    }
}

/// The list under `key` or the built-in one, and whether it is the file's.
fn list(s: &mut Section<'_>, key: &'static str, built_in: &[&str]) -> (Vec<String>, bool) {
    let items = s.field(key).and_then(|f| f.items());
    match items {
        // A value that is no text is a fault already; something stands for it, so that the others keep their places.
        Some(items) => {
            let text = |f: &Field<'_>| f.scalar().map(|s| s.text).unwrap_or_else(|| "-".into());
            (items.iter().map(text).collect(), true)
        }
        None => (built_in.iter().map(|t| (*t).to_owned()).collect(), false),
    }
}

fn row(s: &mut Section<'_>, key: &'static str, row: &mut TierRow) {
    let Some(mut s) = s.section(key) else { return };
    cells(&mut s, &mut row.usual);
    if let Some(mut s) = s.section("latency_sensitive") {
        cells(&mut s, &mut row.latency_sensitive);
    }
}

fn cells(s: &mut Section<'_>, cells: &mut Cells) {
    let keys = [("simple", &mut cells.simple), ("medium", &mut cells.medium), ("complex", &mut cells.complex)];
    for (key, slot) in keys {
        if let Some(cell) = s.field(key).and_then(|f| cell(&f)) {
            *slot = cell;
        }
    }
}

const STRATEGIES: &str = "round_robin, weighted, least_latency, cost_based, priority, best_quality, balanced";

fn cell(field: &Field<'_>) -> Option<Cell> {
    if field.is_scalar() {
        return field.get(word(STRATEGIES, StrategyKind::parse)).map(Cell::from);
    }
    let mut s = field.section()?;
    let strategy = s.required("strategy", STRATEGIES).and_then(|f| f.get(word(STRATEGIES, StrategyKind::parse)));
    let mut min_quality = None;
    s.set_or_none("min_quality", &mut min_quality, unit);
    Some(Cell { strategy: strategy?, min_quality })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(text: &str) -> Arc<IntelligentSettings> {
        crate::config::parse("t.yaml", text, &|_| None, Path::new("")).unwrap().intelligent
    }

    #[test]
    fn what_the_file_says_replaces_the_built_in_and_nothing_else() {
        let built_in = IntelligentSettings::default();
        assert_eq!(*read("store: {}"), built_in);
        let c = read(
            "intelligent:\n  complex_from: 0.6\n  weights: {code: 0.1}\n  scale: {depth_full: 4}\n  demands: [prove]\n  quality: {medium: 0.2}\n\
             \x20 tiers:\n    default: {complex: {strategy: priority, min_quality: 0.9}, latency_sensitive: {simple: weighted}}\n",
        );
        let mut expected = built_in.clone();
        expected.complex_from = 0.6;
        expected.weights.code = 0.1;
        expected.scale.depth_full = 4;
        expected.quality.medium = 0.2;
        expected.tiers.default.usual.complex = Cell { strategy: StrategyKind::Priority, min_quality: Some(0.9) };
        expected.tiers.default.latency_sensitive.simple = StrategyKind::Weighted.into();
        assert_ne!(c.lexicon, expected.lexicon);
        expected.lexicon = Arc::clone(&c.lexicon);
        assert_eq!(*c, expected);
    }
}
