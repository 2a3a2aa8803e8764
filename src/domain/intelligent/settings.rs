//! The settings of `intelligent`: thresholds, weights, term lists, quality floors and the tier table, with their defaults and
//! the rules they must keep. How they look in config.yaml is said in the parent module.

use crate::domain::complexity::{Complexity, Lexicon, terms};
use crate::domain::strategy::StrategyKind;
use std::sync::{Arc, LazyLock};

/// The settings of `intelligent`, already validated: see [`IntelligentSettings::faults`].
#[derive(Clone, Debug, PartialEq)]
pub struct IntelligentSettings {
    /// Scores below are simple.
    pub simple_below: f32,
    /// Scores from here on are complex.
    pub complex_from: f32,
    pub weights: FeatureWeights,
    pub scale: FeatureScale,
    /// The compiled term lists.
    pub lexicon: Arc<Lexicon>,
    pub quality: QualityFloors,
    pub tiers: TierTable,
}

impl IntelligentSettings {
    /// What is wrong with the settings: path below `intelligent:`, what is wrong and what is allowed. Faulty terms are found
    /// earlier, by [`Lexicon::new`].
    #[must_use]
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let mut check = |fine: bool, path: String, what: &str| {
            if !fine {
                faults.push((path, what.to_owned()));
            }
        };
        let unit = |x: f32| (0.0..=1.0).contains(&x);
        check(unit(self.simple_below), "simple_below".to_owned(), "must be between 0 and 1");
        check(
            unit(self.complex_from) && self.complex_from >= self.simple_below,
            "complex_from".to_owned(),
            "must be between simple_below and 1",
        );
        let w = &self.weights;
        let weights = [
            ("length", w.length),
            ("code", w.code),
            ("terms", w.terms),
            ("demands", w.demands),
            ("depth", w.depth),
            ("output", w.output),
        ];
        for (name, weight) in weights {
            check(unit(weight), format!("weights.{name}"), "must be between 0 and 1");
        }
        let s = &self.scale;
        check(s.length_from < s.length_full, "scale.length_full".to_owned(), "must be greater than length_from");
        check(s.output_from < s.output_full, "scale.output_full".to_owned(), "must be greater than output_from");
        check(s.depth_full > 1, "scale.depth_full".to_owned(), "must be greater than 1");
        let counts = [("markers_full", s.markers_full), ("terms_full", s.terms_full), ("demands_full", s.demands_full)];
        for (name, count) in counts {
            check(count > 0, format!("scale.{name}"), "must be greater than 0");
        }
        for complexity in Complexity::ALL {
            let path = format!("quality.{}", complexity.as_str());
            check(unit(self.quality.of(complexity)), path, "must be between 0 and 1");
        }
        for (path, cell) in self.tiers.cells() {
            check(
                cell.strategy != StrategyKind::Intelligent,
                path.clone(),
                "must be one of the other strategies: `intelligent` can't pick itself",
            );
            check(cell.min_quality.is_none_or(unit), format!("{path}.min_quality"), "must be between 0 and 1");
        }
        faults
    }
}

impl Default for IntelligentSettings {
    fn default() -> Self {
        Self {
            simple_below: 0.18,
            complex_from: 0.45,
            weights: FeatureWeights::default(),
            scale: FeatureScale::default(),
            lexicon: default_lexicon(),
            quality: QualityFloors::default(),
            tiers: TierTable::default(),
        }
    }
}

/// The default term lists, compiled once per process.
#[must_use]
pub fn default_lexicon() -> Arc<Lexicon> {
    static LEXICON: LazyLock<Arc<Lexicon>> = LazyLock::new(|| {
        let owned = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect();
        let lists = (owned(terms::TECHNICAL), owned(terms::DEMANDS), owned(terms::CODE_MARKERS));
        Arc::new(Lexicon::new(lists.0, lists.1, lists.2).unwrap_or_else(|_| Lexicon::empty()))
    });
    Arc::clone(&LEXICON)
}

/// Points that each feature of a prompt can bring; 1 in all is the most that counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FeatureWeights {
    pub length: f32,
    pub code: f32,
    pub terms: f32,
    pub demands: f32,
    pub depth: f32,
    pub output: f32,
}

impl Default for FeatureWeights {
    fn default() -> Self {
        Self { length: 0.30, code: 0.20, terms: 0.25, demands: 0.25, depth: 0.15, output: 0.10 }
    }
}

/// Where each feature begins to count and where it counts in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureScale {
    /// Tokens of conversation.
    pub length_from: u64,
    pub length_full: u64,
    /// Different code markers.
    pub markers_full: u32,
    /// Different technical terms.
    pub terms_full: u32,
    /// Different demands.
    pub demands_full: u32,
    /// Messages of the user.
    pub depth_full: u32,
    /// Tokens of output asked for.
    pub output_from: u64,
    pub output_full: u64,
}

impl Default for FeatureScale {
    fn default() -> Self {
        Self {
            length_from: 30,
            length_full: 4_000,
            markers_full: 3,
            terms_full: 4,
            demands_full: 3,
            depth_full: 10,
            output_from: 512,
            output_full: 8_192,
        }
    }
}

/// The quality that is good enough for each complexity, 0..=1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QualityFloors {
    pub simple: f32,
    pub medium: f32,
    pub complex: f32,
}

impl QualityFloors {
    pub(super) fn of(&self, complexity: Complexity) -> f32 {
        match complexity {
            Complexity::Simple => self.simple,
            Complexity::Medium => self.medium,
            Complexity::Complex => self.complex,
        }
    }
}

impl Default for QualityFloors {
    fn default() -> Self {
        Self { simple: 0.5, medium: 0.7, complex: 0.85 }
    }
}

/// One row per tier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TierTable {
    pub premium: TierRow,
    pub free: TierRow,
    /// No tier, but a cost ceiling.
    pub capped: TierRow,
    /// Neither.
    pub default: TierRow,
}

impl Default for TierTable {
    fn default() -> Self {
        use StrategyKind::{Balanced, BestQuality, CostBased, LeastLatency};
        let fastest = Cells::all(LeastLatency);
        let cheapest = TierRow { usual: Cells::all(CostBased), latency_sensitive: Cells::all(CostBased) };
        let usual = Cells { medium: Balanced.into(), complex: BestQuality.into(), ..Cells::all(CostBased) };
        Self {
            premium: TierRow { usual: Cells::all(BestQuality), latency_sensitive: fastest },
            free: cheapest,
            capped: cheapest,
            default: TierRow { usual, latency_sensitive: fastest },
        }
    }
}

impl TierTable {
    /// All cells with their paths below `intelligent:`.
    fn cells(&self) -> impl Iterator<Item = (String, Cell)> + '_ {
        let rows =
            [("premium", &self.premium), ("free", &self.free), ("capped", &self.capped), ("default", &self.default)];
        rows.into_iter().flat_map(|(name, row)| {
            let halves = [("", row.usual), (".latency_sensitive", row.latency_sensitive)];
            halves.into_iter().flat_map(move |(half, cells)| {
                Complexity::ALL.map(|c| (format!("tiers.{name}{half}.{}", c.as_str()), cells.of(c)))
            })
        })
    }
}

/// A tier's cells, without and with latency sensitivity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TierRow {
    pub usual: Cells,
    pub latency_sensitive: Cells,
}

/// One cell per complexity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cells {
    pub simple: Cell,
    pub medium: Cell,
    pub complex: Cell,
}

impl Cells {
    /// The same strategy for every complexity, with the complexity's floor.
    #[must_use]
    pub fn all(strategy: StrategyKind) -> Self {
        let cell = Cell::from(strategy);
        Self { simple: cell, medium: cell, complex: cell }
    }

    pub(super) fn of(&self, complexity: Complexity) -> Cell {
        match complexity {
            Complexity::Simple => self.simple,
            Complexity::Medium => self.medium,
            Complexity::Complex => self.complex,
        }
    }
}

/// What a cell of the tier table chooses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// Not `intelligent`.
    pub strategy: StrategyKind,
    /// 0..=1; `None`: the complexity's floor.
    pub min_quality: Option<f32>,
}

impl From<StrategyKind> for Cell {
    fn from(strategy: StrategyKind) -> Self {
        Self { strategy, min_quality: None }
    }
}
