//! Ledger rows as CSV and as JSON lines, both ways.
//!
//! The columns are those of [`COLUMNS`], in that order, in both. Times are RFC 3339 with microseconds, tags a JSON object, hashes hex, an
//! unpriced cost and an unknown time to first content are empty (JSON: null). Reading gives back exactly the row that was
//! written, so an exported file can be checked against its own hashes. It takes nothing else: another column, a missing one or
//! one more is an error with its line.

use crate::domain::ledger::{Entry, Row};
use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;
use crate::domain::usage::{Usage, UsageSource};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, Write};
use std::sync::Arc;

/// The columns of an exported row.
pub const COLUMNS: [&str; 26] = [
    "seq",
    "at",
    "request_id",
    "attempt",
    "endpoint",
    "provider",
    "model",
    "route",
    "key_id",
    "tags",
    "outcome",
    "http_status",
    "stream",
    "latency_us",
    "ttft_us",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "usage_source",
    "cost_nanousd",
    "price_version",
    "decision",
    "prev_hash",
    "hash",
];

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowFormat {
    Csv,
    Jsonl,
}

impl RowFormat {
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8",
            Self::Jsonl => "application/x-ndjson",
        }
    }

    /// Reads `csv` or `jsonl`.
    ///
    /// # Errors
    /// What is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "csv" => Ok(Self::Csv),
            "jsonl" => Ok(Self::Jsonl),
            _ => Err(format!("`{text}` is neither csv nor jsonl")),
        }
    }
}

/// Writes rows one after the other into a buffer that the caller empties.
#[derive(Clone, Debug)]
pub struct RowWriter {
    format: RowFormat,
    /// The second written last, and its text up to the seconds.
    second: (i64, String),
}

impl RowWriter {
    #[must_use]
    pub fn new(format: RowFormat) -> Self {
        Self { format, second: (i64::MIN, String::new()) }
    }

    /// Appends what comes before the first row.
    pub fn head(&self, out: &mut Vec<u8>) {
        if self.format == RowFormat::Csv {
            out.extend_from_slice(COLUMNS.join(",").as_bytes());
            out.push(b'\n');
        }
    }

    /// Appends one row with its line end.
    pub fn row(&mut self, row: &Row, out: &mut Vec<u8>) {
        match self.format {
            RowFormat::Csv => self.csv(row, out),
            RowFormat::Jsonl => self.json(row, out),
        }
    }

    fn csv(&mut self, row: &Row, out: &mut Vec<u8>) {
        let e = &row.entry;
        put_number(out, row.seq);
        out.push(b',');
        self.put_time(out, e.at);
        csv_text(out, &e.request_id);
        csv_number(out, u64::from(e.attempt));
        for text in [&e.endpoint, &e.provider, &e.model, &e.route, &e.key_id] {
            csv_text(out, text);
        }
        if e.tags.is_empty() {
            out.extend_from_slice(b",{}");
        } else {
            let mut tags = Vec::new();
            put_tags(&mut tags, e);
            csv_text(out, &String::from_utf8_lossy(&tags));
        }
        csv_text(out, &e.outcome);
        csv_number(out, u64::from(e.http_status));
        out.extend_from_slice(if e.stream { b",true" } else { b",false" });
        csv_number(out, e.latency_us);
        match e.ttft_us {
            Some(ttft) => csv_number(out, ttft),
            None => out.push(b','),
        }
        let u = &e.usage;
        for tokens in [u.input, u.cached_input, u.cache_write, u.output, u.reasoning] {
            csv_number(out, tokens);
        }
        csv_text(out, e.usage_source.as_str());
        out.push(b',');
        if let Some(cost) = e.cost {
            put_signed(out, cost.0);
        }
        csv_text(out, &e.price_version);
        csv_text(out, &e.decision);
        out.push(b',');
        put_hex(out, &row.prev_hash);
        out.push(b',');
        put_hex(out, &row.hash);
        out.push(b'\n');
    }

    fn json(&mut self, row: &Row, out: &mut Vec<u8>) {
        let e = &row.entry;
        let text = |out: &mut Vec<u8>, name: &str, value: &str| {
            json_name(out, name);
            json_text(out, value);
        };
        let number = |out: &mut Vec<u8>, name: &str, value: u64| {
            json_name(out, name);
            put_number(out, value);
        };
        out.extend_from_slice(b"{\"seq\":");
        put_number(out, row.seq);
        json_name(out, "at");
        out.push(b'"');
        self.put_time(out, e.at);
        out.push(b'"');
        text(out, "request_id", &e.request_id);
        number(out, "attempt", u64::from(e.attempt));
        text(out, "endpoint", &e.endpoint);
        text(out, "provider", &e.provider);
        text(out, "model", &e.model);
        text(out, "route", &e.route);
        text(out, "key_id", &e.key_id);
        json_name(out, "tags");
        put_tags(out, e);
        text(out, "outcome", &e.outcome);
        number(out, "http_status", u64::from(e.http_status));
        json_name(out, "stream");
        out.extend_from_slice(if e.stream { b"true" } else { b"false" });
        number(out, "latency_us", e.latency_us);
        json_name(out, "ttft_us");
        match e.ttft_us {
            Some(ttft) => put_number(out, ttft),
            None => out.extend_from_slice(b"null"),
        }
        let u = &e.usage;
        number(out, "input_tokens", u.input);
        number(out, "cached_input_tokens", u.cached_input);
        number(out, "cache_write_tokens", u.cache_write);
        number(out, "output_tokens", u.output);
        number(out, "reasoning_tokens", u.reasoning);
        text(out, "usage_source", e.usage_source.as_str());
        json_name(out, "cost_nanousd");
        match e.cost {
            Some(cost) => put_signed(out, cost.0),
            None => out.extend_from_slice(b"null"),
        }
        text(out, "price_version", &e.price_version);
        text(out, "decision", &e.decision);
        for (name, hash) in [("prev_hash", &row.prev_hash), ("hash", &row.hash)] {
            json_name(out, name);
            out.push(b'"');
            put_hex(out, hash);
            out.push(b'"');
        }
        out.extend_from_slice(b"}\n");
    }

    /// Rows come in order of time: mostly only the microseconds change.
    fn put_time(&mut self, out: &mut Vec<u8>, at: Wall) {
        let second = at.0.div_euclid(1_000_000);
        if self.second.0 != second {
            let text = Wall(second.saturating_mul(1_000_000)).to_rfc3339();
            self.second = (second, text.strip_suffix("000000Z").unwrap_or(&text).to_owned());
        }
        out.extend_from_slice(self.second.1.as_bytes());
        let _ = write!(out, "{:06}Z", at.0.rem_euclid(1_000_000));
    }
}

fn put_number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [b'0'; 20];
    let mut from = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
        from -= 1;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(from..).unwrap_or_default());
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    put_number(out, value.unsigned_abs());
}

fn put_hex(out: &mut Vec<u8>, bytes: &[u8; 32]) {
    out.extend_from_slice(blake3::Hash::from_bytes(*bytes).to_hex().as_bytes());
}

fn put_tags(out: &mut Vec<u8>, e: &Entry) {
    out.push(b'{');
    for (number, (key, value)) in e.tags.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        json_text(out, key);
        out.push(b':');
        json_text(out, value);
    }
    out.push(b'}');
}

fn csv_number(out: &mut Vec<u8>, value: u64) {
    out.push(b',');
    put_number(out, value);
}

fn csv_text(out: &mut Vec<u8>, text: &str) {
    out.push(b',');
    if text.bytes().any(|b| matches!(b, b'"' | b',' | b'\n' | b'\r')) {
        out.push(b'"');
        out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
        out.push(b'"');
    } else {
        out.extend_from_slice(text.as_bytes());
    }
}

fn json_name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn json_text(out: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Writing a text to memory does not fail.
        let _ = serde_json::to_writer(&mut *out, text);
    }
}

/// What is wrong in a file of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowFault {
    /// 1 for the file's first line.
    pub line: u64,
    pub what: String,
}

impl fmt::Display for RowFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for RowFault {}

/// Reads rows that [`RowWriter`] has written, in constant memory. CSV is told from JSON lines by the first byte.
///
/// # Errors
/// The file cannot be read, or its head line is not the one of the columns.
pub fn read_rows<R: BufRead + 'static>(
    mut file: R,
) -> Result<Box<dyn Iterator<Item = Result<Row, RowFault>>>, RowFault> {
    let fault = |line, what: String| RowFault { line, what };
    let first = file.fill_buf().map_err(|e| fault(1, e.to_string()))?.first().copied();
    if first == Some(b'{') {
        let lines = (1_u64..).zip(file.lines());
        return Ok(Box::new(lines.map(move |(line, text)| {
            let text = text.map_err(|e| fault(line, e.to_string()))?;
            let fields: Line = serde_json::from_str(&text).map_err(|e| fault(line, e.to_string()))?;
            fields.into_row().map_err(|what| fault(line, what))
        })));
    }
    let mut reader = csv::Reader::from_reader(file);
    let head = reader.headers().map_err(|e| fault(1, e.to_string()))?;
    if head.iter().ne(COLUMNS) {
        return Err(fault(1, "the columns are not those of a ledger export".into()));
    }
    Ok(Box::new(reader.into_records().map(move |record| {
        let record = record.map_err(|e| {
            let line = e.position().map_or(0, csv::Position::line);
            fault(line, e.to_string())
        })?;
        let line = record.position().map_or(0, csv::Position::line);
        line_of(&record).and_then(Line::into_row).map_err(|what| fault(line, what))
    })))
}

/// A row as JSON; the same names as [`COLUMNS`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    seq: u64,
    at: String,
    request_id: Arc<str>,
    attempt: u16,
    endpoint: Arc<str>,
    provider: Arc<str>,
    model: Arc<str>,
    route: Arc<str>,
    key_id: Arc<str>,
    tags: BTreeMap<Box<str>, Box<str>>,
    outcome: Arc<str>,
    http_status: u16,
    stream: bool,
    latency_us: u64,
    ttft_us: Option<u64>,
    input_tokens: u64,
    cached_input_tokens: u64,
    cache_write_tokens: u64,
    output_tokens: u64,
    reasoning_tokens: u64,
    usage_source: String,
    cost_nanousd: Option<i64>,
    price_version: Arc<str>,
    decision: Arc<str>,
    prev_hash: String,
    hash: String,
}

impl Line {
    fn into_row(self) -> Result<Row, String> {
        let hash = |text: &str| {
            blake3::Hash::from_hex(text).map(|h| *h.as_bytes()).map_err(|_| format!("`{text}` is not a hash"))
        };
        let (prev_hash, own_hash) = (hash(&self.prev_hash)?, hash(&self.hash)?);
        let usage_source = UsageSource::parse(&self.usage_source)
            .ok_or_else(|| format!("`{}` is not a usage source", self.usage_source))?;
        let entry = Entry {
            at: Wall::parse(&self.at)?,
            request_id: self.request_id,
            attempt: self.attempt,
            endpoint: self.endpoint,
            provider: self.provider,
            model: self.model,
            route: self.route,
            key_id: self.key_id,
            tags: self.tags.into_iter().collect(),
            outcome: self.outcome,
            http_status: self.http_status,
            stream: self.stream,
            latency_us: self.latency_us,
            ttft_us: self.ttft_us,
            usage: Usage {
                input: self.input_tokens,
                cached_input: self.cached_input_tokens,
                cache_write: self.cache_write_tokens,
                output: self.output_tokens,
                reasoning: self.reasoning_tokens,
            },
            usage_source,
            cost: self.cost_nanousd.map(NanoUsd),
            price_version: self.price_version,
            decision: self.decision,
        };
        Ok(Row { seq: self.seq, entry, prev_hash, hash: own_hash })
    }
}

/// Reads a CSV record by column: serde would guess types from the text.
fn line_of(record: &csv::StringRecord) -> Result<Line, String> {
    let mut fields = record.iter().zip(COLUMNS);
    let mut next = || fields.next().ok_or_else(|| "too few columns".to_owned());
    fn parsed<T: std::str::FromStr>((text, column): (&str, &str)) -> Result<T, String> {
        text.parse().map_err(|_| format!("`{text}` is no {column}"))
    }
    fn maybe<T: std::str::FromStr>((text, column): (&str, &str)) -> Result<Option<T>, String> {
        if text.is_empty() { Ok(None) } else { parsed((text, column)).map(Some) }
    }
    fn shared((text, _): (&str, &str)) -> Arc<str> {
        text.into()
    }
    Ok(Line {
        seq: parsed(next()?)?,
        at: next()?.0.into(),
        request_id: shared(next()?),
        attempt: parsed(next()?)?,
        endpoint: shared(next()?),
        provider: shared(next()?),
        model: shared(next()?),
        route: shared(next()?),
        key_id: shared(next()?),
        tags: serde_json::from_str(next()?.0).map_err(|e| format!("tags: {e}"))?,
        outcome: shared(next()?),
        http_status: parsed(next()?)?,
        stream: parsed(next()?)?,
        latency_us: parsed(next()?)?,
        ttft_us: maybe(next()?)?,
        input_tokens: parsed(next()?)?,
        cached_input_tokens: parsed(next()?)?,
        cache_write_tokens: parsed(next()?)?,
        output_tokens: parsed(next()?)?,
        reasoning_tokens: parsed(next()?)?,
        usage_source: next()?.0.into(),
        cost_nanousd: maybe(next()?)?,
        price_version: shared(next()?),
        decision: shared(next()?),
        prev_hash: next()?.0.into(),
        hash: next()?.0.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ledger::GENESIS;
    use crate::store::sample;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn written(format: RowFormat, entries: Vec<Entry>) -> (Vec<Row>, Vec<u8>) {
        let mut writer = RowWriter::new(format);
        let (mut out, mut rows, mut prev) = (Vec::new(), Vec::new(), GENESIS);
        writer.head(&mut out);
        for (seq, entry) in (1..).zip(entries) {
            let row = Row::chain(seq, entry, prev);
            prev = row.hash;
            writer.row(&row, &mut out);
            rows.push(row);
        }
        (rows, out)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(entries in prop::collection::vec(sample::entry(), 1..20), csv in any::<bool>()) {
            let format = if csv { RowFormat::Csv } else { RowFormat::Jsonl };
            let (rows, out) = written(format, entries);
            let read: Result<Vec<_>, _> = read_rows(Cursor::new(out)).unwrap().collect();
            let read = read.unwrap();
            prop_assert!(read.iter().all(Row::is_intact));
            prop_assert_eq!(read, rows);
        }
    }

    #[test]
    fn the_columns_stand_in_the_promised_order() {
        let (rows, out) = written(RowFormat::Csv, vec![sample::nth(0)]);
        let text = String::from_utf8(out).unwrap();
        let hash = blake3::Hash::from_bytes(rows[0].hash).to_hex();
        let zeros = "0".repeat(64);
        let line = format!(
            "1,2026-11-23T18:00:00.000000Z,req_00000000000000000000000000,1,deepseek,holysheep,deepseek-v3.2,chat,key_0,\
             \"{{\"\"team\"\":\"\"t0\"\"}}\",success,200,true,40000,12000,100,0,0,20,0,reported,,unpriced,cost_based/1,{zeros},{hash}"
        );
        assert_eq!(text.lines().nth(1).unwrap(), line);
        let (_, out) = written(RowFormat::Jsonl, vec![sample::nth(0)]);
        let names: Vec<_> = COLUMNS.iter().map(|c| format!("\"{c}\":")).collect();
        let text = String::from_utf8(out).unwrap();
        let places: Vec<_> = names.iter().map(|n| text.find(n.as_str()).unwrap()).collect();
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn a_foreign_file_is_refused_with_its_line() {
        let fault = read_rows(Cursor::new("a,b\n1,2\n")).err().unwrap();
        assert_eq!(fault.line, 1);
        let (_, mut out) = written(RowFormat::Csv, vec![sample::nth(0), sample::nth(1)]);
        out.extend_from_slice(b"3,now,too,short\n");
        let faults: Vec<_> = read_rows(Cursor::new(out)).unwrap().filter_map(Result::err).collect();
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].line, 4);
        let (_, out) = written(RowFormat::Jsonl, vec![sample::nth(0)]);
        let more = String::from_utf8(out).unwrap().replace("{\"seq\"", "{\"extra\":1,\"seq\"");
        assert!(read_rows(Cursor::new(more)).unwrap().next().unwrap().is_err());
    }
}
