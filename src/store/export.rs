//! Ledger rows as CSV and as JSON lines: writing. Reading is [`import`](crate::store::import)'s.
//!
//! The columns are those of [`COLUMNS`], in that order, in both. Times are RFC 3339 with microseconds, tags a JSON object, hashes hex, an
//! unpriced cost and an unknown time to first content are empty (JSON: null).

use crate::domain::ledger::{Entry, Row};
use crate::domain::time::Wall;
use std::io::Write;

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
            csv_text(out, &String::from_utf8_lossy(&tags_json(e)));
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

/// An entry's tags as a JSON object.
pub(super) fn tags_json(e: &Entry) -> Vec<u8> {
    let mut out = Vec::new();
    put_tags(&mut out, e);
    out
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::sample;
    use crate::store::import;

    #[test]
    fn the_columns_stand_in_the_promised_order() {
        let (rows, out) = import::tests::written(RowFormat::Csv, vec![sample::nth(0)]);
        let text = String::from_utf8(out).unwrap();
        let hash = blake3::Hash::from_bytes(rows[0].hash).to_hex();
        let zeros = "0".repeat(64);
        let line = format!(
            "1,2026-11-23T18:00:00.000000Z,req_00000000000000000000000000,1,deepseek,holysheep,deepseek-v3.2,chat,key_0,\
             \"{{\"\"team\"\":\"\"t0\"\"}}\",success,200,true,40000,12000,100,0,0,20,0,reported,,unpriced,cost_based/1,{zeros},{hash}"
        );
        assert_eq!(text.lines().nth(1).unwrap(), line);
        let (_, out) = import::tests::written(RowFormat::Jsonl, vec![sample::nth(0)]);
        let names: Vec<_> = COLUMNS.iter().map(|c| format!("\"{c}\":")).collect();
        let text = String::from_utf8(out).unwrap();
        let places: Vec<_> = names.iter().map(|n| text.find(n.as_str()).unwrap()).collect();
        assert!(places.is_sorted(), "{text}");
    }
}
