//! Exported ledger rows, CSV or JSON lines, read back.
//!
//! Reading gives exactly the row that was written, so that an exported file can be checked against its own hashes. It takes
//! nothing else: another column, a missing one or one more is an error with its line.

use crate::domain::ledger::{Entry, Row};
use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;
use crate::domain::usage::{Usage, UsageSource};
use crate::store::export::COLUMNS;
use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::sync::Arc;

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

/// Takes the compression off an export, if it has one: told by its first bytes. Parquet is refused.
///
/// # Errors
/// The file cannot be read, or is Parquet.
pub fn open_rows<R: BufRead + 'static>(mut file: R) -> Result<Box<dyn BufRead>, RowFault> {
    const BUFFER: usize = 256 << 10;
    let fault = |what: String| RowFault { line: 1, what };
    let start = file.fill_buf().map_err(|e| fault(e.to_string()))?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(file))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = zstd::stream::read::Decoder::with_buffer(file).map_err(|e| fault(e.to_string()))?;
            Box::new(BufReader::with_capacity(BUFFER, decoder))
        }
        [b'P', b'A', b'R', b'1', ..] => {
            return Err(fault("a Parquet file cannot be read as a stream".into()));
        }
        _ => Box::new(file),
    })
}

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
pub(super) mod tests {
    use super::*;
    use crate::domain::ledger::GENESIS;
    use crate::domain::sample;
    use crate::store::export::{RowFormat, RowWriter};
    use proptest::prelude::*;
    use std::io::Cursor;

    pub fn written(format: RowFormat, entries: Vec<Entry>) -> (Vec<Row>, Vec<u8>) {
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
