//! A vendor's usage export, line by line: which column is what, and what a line says.
//!
//! A mapping names for each figure the columns that hold it, several joined by `+`. `prompt` and `completion` are wholes that contain
//! the cached and the reasoning tokens; `input` and `output` are what is left without them. Figures that a layout has no column for are not
//! compared. An empty cell is 0. Numbers may have commas between their thousands.

use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;

/// What a column can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    Day,
    Model,
    Requests,
    /// All prompt tokens, the cached ones within.
    Prompt,
    /// Prompt tokens that were neither read from nor written to a cache.
    Input,
    CachedInput,
    CacheWrite,
    /// All generated tokens, reasoning within.
    Completion,
    /// Generated tokens without reasoning.
    Output,
    Reasoning,
    /// US dollars.
    Cost,
}

const FIGURES: [(&str, Figure); 11] = [
    ("day", Figure::Day),
    ("model", Figure::Model),
    ("requests", Figure::Requests),
    ("prompt", Figure::Prompt),
    ("input", Figure::Input),
    ("cached_input", Figure::CachedInput),
    ("cache_write", Figure::CacheWrite),
    ("completion", Figure::Completion),
    ("output", Figure::Output),
    ("reasoning", Figure::Reasoning),
    ("cost", Figure::Cost),
];

/// Layouts of real exports, by the vendor's name.
const LAYOUTS: [(&str, &str); 2] = [
    (
        "openai",
        "day=start_time,model=model,requests=num_model_requests,prompt=input_tokens,cached_input=input_cached_tokens,\
         completion=output_tokens",
    ),
    (
        "anthropic",
        "day=usage_date_utc,model=model_version,input=usage_input_tokens_no_cache,\
         cached_input=usage_input_tokens_cache_read,\
         cache_write=usage_input_tokens_cache_write_5m+usage_input_tokens_cache_write_1h,completion=usage_output_tokens",
    ),
];

/// Which columns hold which figure, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping(Vec<(Figure, Vec<String>)>);

impl Mapping {
    /// Reads a layout's name, or `day=COLUMN,model=COLUMN,prompt=COLUMN+COLUMN…`.
    ///
    /// # Errors
    /// What is wrong with it, and what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some((_, layout)) = LAYOUTS.iter().find(|(name, _)| *name == text) {
            return Self::parse(layout);
        }
        let names = || FIGURES.map(|(name, _)| name).join(", ");
        let mut map: Vec<(Figure, Vec<String>)> = Vec::new();
        for part in text.split(',') {
            let (name, columns) = part.split_once('=').ok_or_else(|| {
                format!("`{part}` is neither a layout (openai, anthropic) nor FIGURE=COLUMN; figures are {}", names())
            })?;
            let name = name.trim();
            let figure = FIGURES.iter().find(|(known, _)| *known == name).map(|(_, figure)| *figure);
            let figure = figure.ok_or_else(|| format!("`{name}` is no figure; they are {}", names()))?;
            if map.iter().any(|(known, _)| *known == figure) {
                return Err(format!("`{name}` is mapped twice; join columns by `+`"));
            }
            let columns: Vec<String> = columns.split('+').map(|c| c.trim().to_owned()).collect();
            if columns.iter().any(String::is_empty) {
                return Err(format!("`{part}` names no column"));
            }
            map.push((figure, columns));
        }
        let mapping = Self(map);
        for (one, other) in [(Figure::Prompt, Figure::Input), (Figure::Completion, Figure::Output)] {
            if mapping.has(one) && mapping.has(other) {
                return Err("a whole and what is left of it cannot both be mapped: `prompt` or `input`, `completion` or `output`".into());
            }
        }
        let compared = FIGURES.iter().any(|(_, f)| !matches!(f, Figure::Day | Figure::Model) && mapping.has(*f));
        if !mapping.has(Figure::Day) || !mapping.has(Figure::Model) || !compared {
            return Err("a mapping needs `day`, `model` and at least one figure to compare".into());
        }
        Ok(mapping)
    }

    #[must_use]
    pub fn has(&self, figure: Figure) -> bool {
        self.0.iter().any(|(known, _)| *known == figure)
    }

    /// Finds the columns in a head line.
    ///
    /// # Errors
    /// Which column is missing or stands twice, and which there are.
    pub fn find(&self, head: &[&str]) -> Result<Columns, String> {
        let clean: Vec<&str> = head.iter().map(|name| name.trim_start_matches('\u{feff}').trim()).collect();
        let place = |column: &String| {
            let mut found = clean.iter().enumerate().filter(|(_, name)| *name == column).map(|(at, _)| at);
            match (found.next(), found.next()) {
                (Some(at), None) => Ok(at),
                (Some(_), Some(_)) => Err(format!("line 1: the column `{column}` stands twice")),
                (None, _) => Err(format!("line 1: there is no column `{column}`; there are {}", clean.join(", "))),
            }
        };
        let places = |columns: &Vec<String>| columns.iter().map(place).collect::<Result<Vec<_>, _>>();
        let map =
            self.0.iter().map(|(figure, columns)| Ok((*figure, places(columns)?))).collect::<Result<_, String>>()?;
        Ok(Columns { map, count: head.len() })
    }
}

/// Where a file's columns are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    map: Vec<(Figure, Vec<usize>)>,
    count: usize,
}

/// What one line of an invoice says; figures without a column are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// UTC days since 1970.
    pub day: u32,
    pub model: String,
    pub requests: Option<u64>,
    pub prompt: Option<u64>,
    pub input: Option<u64>,
    pub cached_input: Option<u64>,
    pub cache_write: Option<u64>,
    pub completion: Option<u64>,
    pub output: Option<u64>,
    pub reasoning: Option<u64>,
    pub cost: Option<NanoUsd>,
}

impl Columns {
    /// Reads a line. `number` is its place in the file, for errors.
    ///
    /// # Errors
    /// What cannot be read, with line and column.
    pub fn line(&self, number: u64, cells: &[&str]) -> Result<Line, String> {
        if cells.len() != self.count {
            return Err(format!(
                "line {number}: {} cells where the head has {}; is the file complete?",
                cells.len(),
                self.count
            ));
        }
        let mut line = Line::default();
        for (figure, places) in &self.map {
            let texts = places.iter().map(|at| cells.get(*at).copied().unwrap_or_default().trim());
            let wrong = |e: String| format!("line {number}: {e}");
            match figure {
                Figure::Day => line.day = day(&texts.collect::<Vec<_>>().join("")).map_err(wrong)?,
                Figure::Model => {
                    line.model = texts.collect::<Vec<_>>().join("");
                    if line.model.is_empty() {
                        return Err(wrong("there is no model".into()));
                    }
                }
                Figure::Cost => {
                    let sum = texts.map(money).try_fold(NanoUsd::ZERO, |sum, cost| cost.map(|c| sum + c));
                    line.cost = Some(sum.map_err(wrong)?);
                }
                counted => {
                    let sum = texts.map(count).try_fold(0_u64, |sum, n| n.map(|n| sum.saturating_add(n)));
                    *line.place(*counted) = Some(sum.map_err(wrong)?);
                }
            }
        }
        if line.prompt.is_some_and(|p| p < line.cached_input.unwrap_or(0).saturating_add(line.cache_write.unwrap_or(0)))
        {
            return Err(format!("line {number}: more cached tokens than the whole prompt has"));
        }
        Ok(line)
    }
}

impl Line {
    fn place(&mut self, figure: Figure) -> &mut Option<u64> {
        match figure {
            Figure::Prompt => &mut self.prompt,
            Figure::Input => &mut self.input,
            Figure::CachedInput => &mut self.cached_input,
            Figure::CacheWrite => &mut self.cache_write,
            Figure::Completion => &mut self.completion,
            Figure::Output => &mut self.output,
            Figure::Reasoning => &mut self.reasoning,
            Figure::Requests | Figure::Day | Figure::Model | Figure::Cost => &mut self.requests,
        }
    }
}

/// A date, an RFC 3339 time, `2026-11-23 18:00:00`, or seconds since 1970.
fn day(text: &str) -> Result<u32, String> {
    let seconds = || text.parse::<i64>().ok().filter(|s| (0..=4_102_444_800).contains(s)).map(|s| Wall(s * 1_000_000));
    let dated = || Wall::parse(text).ok().or_else(|| Wall::parse(text.split_once(' ')?.0).ok());
    match seconds().or_else(dated) {
        Some(at) => Ok(at.hour() / 24),
        None => Err(format!("`{text}` is no day: a date (2026-11-23), an RFC 3339 time or seconds since 1970")),
    }
}

fn count(text: &str) -> Result<u64, String> {
    let plain = text.replace(',', "");
    let whole = plain.strip_suffix(".0").unwrap_or(&plain);
    if whole.is_empty() { Ok(0) } else { whole.parse().map_err(|_| format!("`{text}` is no number of tokens")) }
}

/// Dollars; digits beyond a nano-dollar are cut.
fn money(text: &str) -> Result<NanoUsd, String> {
    let plain = text.trim_start_matches('$').replace(',', "");
    if plain.is_empty() {
        return Ok(NanoUsd::ZERO);
    }
    let cut = plain
        .find('.')
        .and_then(|dot| plain.get(..dot + 10))
        .filter(|_| plain.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
    NanoUsd::parse_usd(cut.unwrap_or(&plain)).map_err(|_| format!("`{text}` is no amount in dollars"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_and_free_mappings_are_read() {
        assert!(Mapping::parse("openai").unwrap().has(Figure::Prompt));
        assert!(Mapping::parse("anthropic").unwrap().has(Figure::CacheWrite));
        let free = Mapping::parse("day=date, model = m,prompt=a+b,cost=usd").unwrap();
        let columns = free.find(&["\u{feff}date", "usd", "m", "a", "b", "more"]).unwrap();
        let line = columns.line(2, &["2026-11-23 00:00:00", "$1,000.1234567891", "gpt", "1,200", "", "x"]).unwrap();
        assert_eq!((line.day, &*line.model, line.prompt), (20_780, "gpt", Some(1_200)));
        assert_eq!((line.cost, line.input), (Some(NanoUsd(1_000_123_456_789)), None));
        for (text, says) in [
            ("vendor", "neither a layout"),
            ("", "neither a layout"),
            ("day=a,model=b", "at least one figure"),
            ("day=a,prompt=b", "needs `day`"),
            ("day=a,model=b,tokens=c", "`tokens` is no figure"),
            ("day=a,model=b,prompt=c,prompt=d", "mapped twice"),
            ("day=a,model=b,prompt=c,input=d", "cannot both"),
            ("day=a,model=b,prompt=", "names no column"),
        ] {
            assert!(Mapping::parse(text).unwrap_err().contains(says), "{text}: {:?}", Mapping::parse(text));
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_line() {
        let map = Mapping::parse("day=d,model=m,prompt=p,cached_input=c,cost=u").unwrap();
        assert!(map.find(&["d", "m", "p"]).unwrap_err().contains("no column `c`; there are d, m, p"));
        assert!(map.find(&["d", "m", "p", "c", "u", "p"]).unwrap_err().contains("`p` stands twice"));
        let columns = map.find(&["d", "m", "p", "c", "u"]).unwrap();
        for (cells, says) in [
            (vec!["2026-11-23", "gpt", "1"], "line 7: 3 cells where the head has 5"),
            (vec!["the 3rd", "gpt", "1", "0", "0"], "`the 3rd` is no day"),
            (vec!["2026-02-30", "gpt", "1", "0", "0"], "no day"),
            (vec!["2026-11-23", "", "1", "0", "0"], "no model"),
            (vec!["2026-11-23", "gpt", "one", "0", "0"], "`one` is no number"),
            (vec!["2026-11-23", "gpt", "-1", "0", "0"], "`-1` is no number"),
            (vec!["2026-11-23", "gpt", "1", "0", "free"], "`free` is no amount"),
            (vec!["2026-11-23", "gpt", "1", "2", "0"], "more cached"),
        ] {
            let wrong = columns.line(7, &cells).unwrap_err();
            assert!(wrong.contains(says) && wrong.starts_with("line 7"), "{wrong}");
        }
        assert_eq!(columns.line(2, &["1795392000", "gpt", "", "", ""]).unwrap().day, 20_780);
    }
}
