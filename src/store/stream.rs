//! An export as a stream of bytes: rows go in one after the other, bytes come out, in memory that does not grow with the rows.
//!
//! CSV and JSON lines can be compressed with gzip or zstd; Parquet is compressed in itself.

use crate::domain::checkpoint::{Checkpoint, Kind, Marks, Statement};
use crate::domain::ledger::{GENESIS, Row};
use crate::domain::time::Wall;
use crate::store::export::{RowFormat, RowWriter};
use crate::store::parquet::ParquetRows;
use std::io::{self, Write};

/// Text that waits for the compressor.
const TEXT: usize = 64 << 10;
/// Marks in an export's checkpoint: in one of up to so many rows a rewritten chain is told by the row.
const MARKS: usize = 512;

/// How an export is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportShape {
    pub format: ExportFormat,
    pub compression: Option<Compression>,
}

/// What an export's file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    Csv,
    Jsonl,
    Parquet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Zstd,
}

impl ExportShape {
    /// Reads format (`csv`, `jsonl`, `parquet`) and compression (`gzip`, `zstd`).
    ///
    /// # Errors
    /// What is allowed; Parquet is not compressed once more.
    pub fn parse(format: &str, compression: Option<&str>) -> Result<Self, String> {
        let format = match format {
            "csv" => ExportFormat::Csv,
            "jsonl" => ExportFormat::Jsonl,
            "parquet" => ExportFormat::Parquet,
            other => return Err(format!("`{other}` is not one of csv, jsonl, parquet")),
        };
        let compression = match compression {
            None => None,
            Some("gzip") => Some(Compression::Gzip),
            Some("zstd") => Some(Compression::Zstd),
            Some(other) => return Err(format!("`{other}` is neither gzip nor zstd")),
        };
        match (format, compression) {
            (ExportFormat::Parquet, Some(_)) => Err("parquet is compressed in itself".into()),
            _ => Ok(Self { format, compression }),
        }
    }

    #[must_use]
    pub fn content_type(self) -> &'static str {
        match (self.compression, self.format) {
            (Some(Compression::Gzip), _) => "application/gzip",
            (Some(Compression::Zstd), _) => "application/zstd",
            (None, ExportFormat::Csv) => RowFormat::Csv.content_type(),
            (None, ExportFormat::Jsonl) => RowFormat::Jsonl.content_type(),
            (None, ExportFormat::Parquet) => "application/vnd.apache.parquet",
        }
    }
}

/// Turns rows into bytes.
pub struct ExportStream {
    inner: Inner,
    witness: Witness,
}

/// What an export's checkpoint says.
struct Witness {
    first: Option<(u64, [u8; 32])>,
    last: (u64, [u8; 32]),
    rows: u64,
    digest: blake3::Hasher,
    marks: Marks,
}

impl Witness {
    fn new() -> Self {
        let last = (0, GENESIS);
        Self { first: None, last, rows: 0, digest: blake3::Hasher::new(), marks: Marks::new(MARKS) }
    }

    fn row(&mut self, row: &Row) {
        self.first.get_or_insert((row.seq, row.prev_hash));
        self.last = (row.seq, row.hash);
        self.rows += 1;
        self.digest.update(&row.hash);
        self.marks.push(row.seq, row.hash);
    }

    fn statement(&self, at: Wall) -> Statement {
        let (first_seq, prev_hash) = self.first.unwrap_or((0, GENESIS));
        Statement {
            kind: Kind::Export,
            at,
            first_seq,
            prev_hash,
            seq: self.last.0,
            hash: self.last.1,
            rows: self.rows,
            digest: Some(*self.digest.finalize().as_bytes()),
            before: None,
            marks: self.marks.list(),
        }
    }
}

enum Inner {
    Text { writer: RowWriter, text: Vec<u8>, packer: Packer },
    Parquet(Box<ParquetRows>),
}

enum Packer {
    Plain(Vec<u8>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl ExportStream {
    /// Starts an export.
    ///
    /// # Errors
    /// The compressor has no memory.
    pub fn new(shape: ExportShape) -> io::Result<Self> {
        let format = match shape.format {
            ExportFormat::Csv => RowFormat::Csv,
            ExportFormat::Jsonl => RowFormat::Jsonl,
            ExportFormat::Parquet => {
                let inner = Inner::Parquet(Box::new(ParquetRows::new()?));
                return Ok(Self { inner, witness: Witness::new() });
            }
        };
        let packer = match shape.compression {
            None => Packer::Plain(Vec::new()),
            Some(Compression::Gzip) => {
                Packer::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default()))
            }
            Some(Compression::Zstd) => Packer::Zstd(zstd::stream::write::Encoder::new(Vec::new(), 0)?),
        };
        let (writer, mut text) = (RowWriter::new(format), Vec::with_capacity(TEXT + 4096));
        writer.head(&mut text);
        Ok(Self { inner: Inner::Text { writer, text, packer }, witness: Witness::new() })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The compressor failed.
    pub fn row(&mut self, row: &Row) -> io::Result<()> {
        self.witness.row(row);
        match &mut self.inner {
            Inner::Parquet(rows) => rows.row(row),
            Inner::Text { writer, text, packer } => {
                writer.row(row, text);
                if text.len() < TEXT {
                    return Ok(());
                }
                packer.write(text)?;
                text.clear();
                Ok(())
            }
        }
    }

    /// Takes the bytes that are ready; may be none.
    ///
    /// # Errors
    /// The compressor failed.
    pub fn ready(&mut self) -> io::Result<Vec<u8>> {
        match &mut self.inner {
            Inner::Parquet(rows) => rows.ready(),
            Inner::Text { packer, .. } => Ok(std::mem::take(packer.buffer())),
        }
    }

    /// Ends the export and gives the last bytes, with the checkpoint that `sign` makes of what was exported; a Parquet file holds it too.
    ///
    /// # Errors
    /// The compressor failed.
    pub fn finish(
        self,
        now: Wall,
        sign: impl FnOnce(Statement) -> Option<Checkpoint>,
    ) -> io::Result<(Vec<u8>, Option<Checkpoint>)> {
        let checkpoint = sign(self.witness.statement(now));
        let last = match self.inner {
            Inner::Parquet(rows) => rows.finish(checkpoint.as_ref())?,
            Inner::Text { text, mut packer, .. } => {
                packer.write(&text)?;
                match packer {
                    Packer::Plain(bytes) => bytes,
                    Packer::Gzip(encoder) => encoder.finish()?,
                    Packer::Zstd(encoder) => encoder.finish()?,
                }
            }
        };
        Ok((last, checkpoint))
    }
}

impl Packer {
    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(bytes) => bytes.write_all(text),
            Self::Gzip(encoder) => encoder.write_all(text),
            Self::Zstd(encoder) => encoder.write_all(text),
        }
    }

    fn buffer(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::sample;
    use crate::store::export::COLUMNS;
    use crate::store::import::{open_rows, read_rows};
    use crate::store::parquet::SCHEMA;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::{Field, RowAccessor};

    fn rows(count: u64) -> Vec<Row> {
        let mut hash = GENESIS;
        (0..count)
            .map(|n| {
                let row = Row::chain(n + 1, sample::nth(n), hash);
                hash = row.hash;
                row
            })
            .collect()
    }

    fn written(rows: &[Row], shape: ExportShape) -> Vec<u8> {
        let mut stream = ExportStream::new(shape).unwrap();
        let mut bytes = Vec::new();
        for row in rows {
            stream.row(row).unwrap();
            bytes.extend(stream.ready().unwrap());
        }
        bytes.extend(stream.finish(sample::START, |_| None).unwrap().0);
        bytes
    }

    #[test]
    fn compressed_exports_hold_the_same_rows() {
        let rows = rows(3_000);
        for format in ["csv", "jsonl"] {
            let plain = written(&rows, ExportShape::parse(format, None).unwrap());
            for compression in [None, Some("gzip"), Some("zstd")] {
                let shape = ExportShape::parse(format, compression).unwrap();
                let bytes = written(&rows, shape);
                assert!(compression.is_none() || bytes.len() * 2 < plain.len(), "{compression:?}");
                let text = open_rows(io::Cursor::new(bytes)).unwrap();
                let read: Vec<_> = read_rows(text).unwrap().map(Result::unwrap).collect();
                assert_eq!(read, rows);
            }
        }
        assert!(ExportShape::parse("parquet", Some("gzip")).is_err());
        assert!(ExportShape::parse("xlsx", None).is_err() && ExportShape::parse("csv", Some("lzma")).is_err());
    }

    #[test]
    fn parquet_has_every_column_of_every_row() {
        let rows = rows(40_000);
        let bytes = written(&rows, ExportShape::parse("parquet", None).unwrap());
        let file = SerializedFileReader::new(bytes::Bytes::from(bytes)).unwrap();
        assert_eq!(file.num_row_groups(), 2, "groups are written when they are full");
        let columns: Vec<_> = file.metadata().file_metadata().schema_descr().columns().to_vec();
        assert!(columns.iter().map(|c| c.name()).eq(COLUMNS), "{SCHEMA}");
        let mut count = 0;
        for (read, row) in file.get_row_iter(None).unwrap().map(Result::unwrap).zip(&rows) {
            let (e, fields) = (&row.entry, read.get_column_iter().map(|(_, f)| f.clone()).collect::<Vec<_>>());
            let text = |at: usize| match &fields[at] {
                Field::Str(text) => text.clone(),
                other => panic!("{at}: {other}"),
            };
            assert_eq!(read.get_long(0).unwrap(), i64::try_from(row.seq).unwrap());
            assert_eq!(fields[1], Field::TimestampMicros(e.at.0));
            assert_eq!(
                (text(2), text(4), text(6)),
                (e.request_id.to_string(), e.endpoint.to_string(), e.model.to_string())
            );
            assert_eq!((read.get_int(3).unwrap(), read.get_int(11).unwrap()), (e.attempt.into(), e.http_status.into()));
            assert_eq!(
                serde_json::from_str::<serde_json::Value>(&text(9)).unwrap().as_object().unwrap().len(),
                e.tags.len()
            );
            assert_eq!((text(10), text(20)), (e.outcome.to_string(), e.usage_source.as_str().to_owned()));
            assert_eq!(fields[14], e.ttft_us.map_or(Field::Null, |us| Field::Long(us.cast_signed())));
            assert_eq!(fields[21], e.cost.map_or(Field::Null, |cost| Field::Long(cost.0)));
            assert_eq!(read.get_long(15).unwrap().cast_unsigned(), e.usage.input);
            assert_eq!(read.get_bytes(25).unwrap().data(), row.hash);
            count += 1;
        }
        assert_eq!(count, rows.len());
        let empty = written(&[], ExportShape::parse("parquet", None).unwrap());
        assert_eq!(
            SerializedFileReader::new(bytes::Bytes::from(empty)).unwrap().metadata().file_metadata().num_rows(),
            0
        );
    }
}
