//! Ledger rows as Parquet: a file of row groups, each written when it is full, so that memory does not grow with the rows.
//!
//! The columns are those of an export, in their order; the types are in [`SCHEMA`]. Hashes are bytes, tags a JSON object, an unpriced cost
//! and an unknown time to first content are null. Token counts over 2⁶³−1, which no vendor reports, are written as that.

use crate::domain::checkpoint::Checkpoint;
use crate::domain::ledger::Row;
use crate::store::export::tags_json;
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int32Type, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use std::io;
use std::sync::Arc;

/// Under which name a file's metadata holds its signed checkpoint, as JSON.
pub(super) const CHECKPOINT: &str = "breakwater.checkpoint";
/// Rows in one group, and in memory.
const GROUP: usize = 32_768;

/// Every column and its type.
pub const SCHEMA: &str = "message ledger {
    required int64 seq;
    required int64 at (TIMESTAMP(MICROS, true));
    required binary request_id (STRING);
    required int32 attempt;
    required binary endpoint (STRING);
    required binary provider (STRING);
    required binary model (STRING);
    required binary route (STRING);
    required binary key_id (STRING);
    required binary tags (STRING);
    required binary outcome (STRING);
    required int32 http_status;
    required boolean stream;
    required int64 latency_us;
    optional int64 ttft_us;
    required int64 input_tokens;
    required int64 cached_input_tokens;
    required int64 cache_write_tokens;
    required int64 output_tokens;
    required int64 reasoning_tokens;
    required binary usage_source (STRING);
    optional int64 cost_nanousd;
    required binary price_version (STRING);
    required binary decision (STRING);
    required fixed_len_byte_array(32) prev_hash;
    required fixed_len_byte_array(32) hash;
}";

/// Writes rows into a buffer that the caller empties.
pub(super) struct ParquetRows {
    writer: SerializedFileWriter<Vec<u8>>,
    rows: Vec<Row>,
}

type Group<'a> = SerializedRowGroupWriter<'a, Vec<u8>>;
type Done = Result<(), ParquetError>;

impl ParquetRows {
    pub fn new() -> io::Result<Self> {
        let schema = parse_message_type(SCHEMA).map_err(io::Error::other)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true)
            .set_max_row_group_row_count(Some(GROUP))
            .set_created_by(concat!("breakwater ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties));
        Ok(Self { writer: writer.map_err(io::Error::other)?, rows: Vec::with_capacity(GROUP) })
    }

    pub fn row(&mut self, row: &Row) -> io::Result<()> {
        self.rows.push(row.clone());
        if self.rows.len() >= GROUP { self.write_group() } else { Ok(()) }
    }

    /// What can be sent.
    pub fn ready(&mut self) -> io::Result<Vec<u8>> {
        self.writer.flush()?;
        Ok(std::mem::take(self.writer.inner_mut()))
    }

    /// Writes the rest and the file's end, with the checkpoint in its metadata.
    pub fn finish(mut self, checkpoint: Option<&Checkpoint>) -> io::Result<Vec<u8>> {
        self.write_group()?;
        if let Some(checkpoint) = checkpoint {
            let pair = KeyValue { key: CHECKPOINT.to_owned(), value: Some(checkpoint.to_json()) };
            self.writer.append_key_value_metadata(pair);
        }
        self.writer.into_inner().map_err(io::Error::other)
    }

    fn write_group(&mut self) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut group = self.writer.next_row_group().map_err(io::Error::other)?;
        columns(&mut group, &self.rows).and_then(|()| group.close().map(|_| ())).map_err(io::Error::other)?;
        self.rows.clear();
        Ok(())
    }
}

/// Writes the columns in the schema's order.
fn columns(group: &mut Group<'_>, rows: &[Row]) -> Done {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    longs(group, rows, |r| number(r.seq))?;
    longs(group, rows, |r| r.entry.at.0)?;
    texts(group, rows, |r| r.entry.request_id.as_bytes().to_vec())?;
    ints(group, rows, |r| i32::from(r.entry.attempt))?;
    texts(group, rows, |r| r.entry.endpoint.as_bytes().to_vec())?;
    texts(group, rows, |r| r.entry.provider.as_bytes().to_vec())?;
    texts(group, rows, |r| r.entry.model.as_bytes().to_vec())?;
    texts(group, rows, |r| r.entry.route.as_bytes().to_vec())?;
    texts(group, rows, |r| r.entry.key_id.as_bytes().to_vec())?;
    texts(group, rows, |r| tags_json(&r.entry))?;
    texts(group, rows, |r| r.entry.outcome.as_bytes().to_vec())?;
    ints(group, rows, |r| i32::from(r.entry.http_status))?;
    column(group, |to| {
        let values: Vec<bool> = rows.iter().map(|r| r.entry.stream).collect();
        to.typed::<BoolType>().write_batch(&values, None, None).map(|_| ())
    })?;
    longs(group, rows, |r| number(r.entry.latency_us))?;
    maybe_longs(group, rows, |r| r.entry.ttft_us.map(number))?;
    longs(group, rows, |r| number(r.entry.usage.input))?;
    longs(group, rows, |r| number(r.entry.usage.cached_input))?;
    longs(group, rows, |r| number(r.entry.usage.cache_write))?;
    longs(group, rows, |r| number(r.entry.usage.output))?;
    longs(group, rows, |r| number(r.entry.usage.reasoning))?;
    texts(group, rows, |r| r.entry.usage_source.as_str().as_bytes().to_vec())?;
    maybe_longs(group, rows, |r| r.entry.cost.map(|cost| cost.0))?;
    texts(group, rows, |r| r.entry.price_version.as_bytes().to_vec())?;
    texts(group, rows, |r| r.entry.decision.as_bytes().to_vec())?;
    hashes(group, rows, |r| &r.prev_hash)?;
    hashes(group, rows, |r| &r.hash)
}

fn column(group: &mut Group<'_>, write: impl FnOnce(&mut SerializedColumnWriter<'_>) -> Done) -> Done {
    let Some(mut column) = group.next_column()? else {
        return Err(ParquetError::General("the schema has fewer columns".into()));
    };
    write(&mut column)?;
    column.close()
}

fn longs(group: &mut Group<'_>, rows: &[Row], value: impl Fn(&Row) -> i64) -> Done {
    let values: Vec<i64> = rows.iter().map(value).collect();
    column(group, |to| to.typed::<Int64Type>().write_batch(&values, None, None).map(|_| ()))
}

fn maybe_longs(group: &mut Group<'_>, rows: &[Row], value: impl Fn(&Row) -> Option<i64>) -> Done {
    let all: Vec<Option<i64>> = rows.iter().map(value).collect();
    let there: Vec<i16> = all.iter().map(|v| i16::from(v.is_some())).collect();
    let values: Vec<i64> = all.into_iter().flatten().collect();
    column(group, |to| to.typed::<Int64Type>().write_batch(&values, Some(&there), None).map(|_| ()))
}

fn ints(group: &mut Group<'_>, rows: &[Row], value: impl Fn(&Row) -> i32) -> Done {
    let values: Vec<i32> = rows.iter().map(value).collect();
    column(group, |to| to.typed::<Int32Type>().write_batch(&values, None, None).map(|_| ()))
}

fn texts(group: &mut Group<'_>, rows: &[Row], value: impl Fn(&Row) -> Vec<u8>) -> Done {
    let values: Vec<ByteArray> = rows.iter().map(|row| value(row).into()).collect();
    column(group, |to| to.typed::<ByteArrayType>().write_batch(&values, None, None).map(|_| ()))
}

fn hashes(group: &mut Group<'_>, rows: &[Row], value: impl Fn(&Row) -> &[u8; 32]) -> Done {
    let values: Vec<FixedLenByteArray> = rows.iter().map(|row| value(row).to_vec().into()).collect();
    column(group, |to| to.typed::<FixedLenByteArrayType>().write_batch(&values, None, None).map(|_| ()))
}
