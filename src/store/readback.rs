//! Parquet exports, read back: the rows and the checkpoint in the file's metadata.
//!
//! Reading gives exactly the row that was written, so that the file can be checked against its own hashes. It takes nothing else.

use crate::domain::checkpoint::Checkpoint;
use crate::domain::ledger::{Entry, Row};
use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;
use crate::domain::usage::{Usage, UsageSource};
use crate::store::export::COLUMNS;
use crate::store::import::RowFault;
use crate::store::parquet::CHECKPOINT;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use std::collections::BTreeMap;
use std::fs::File;

/// A Parquet export's rows and its checkpoint.
type Readback = (Box<dyn Iterator<Item = Result<Row, RowFault>>>, Option<Checkpoint>);

/// Opens a Parquet export.
///
/// # Errors
/// It is cut off, is no Parquet file, or has other columns.
pub fn read_parquet(file: File) -> Result<Readback, RowFault> {
    let fault = |what: String| RowFault { line: 1, what };
    let reader = SerializedFileReader::new(file).map_err(|e| fault(e.to_string()))?;
    let metadata = reader.metadata().file_metadata();
    if !metadata.schema_descr().columns().iter().map(|column| column.name()).eq(COLUMNS) {
        return Err(fault("the columns are not those of a ledger export".into()));
    }
    let stored = metadata.key_value_metadata().into_iter().flatten().find(|pair| pair.key == CHECKPOINT);
    let checkpoint = stored.and_then(|pair| pair.value.as_ref()).map(|text| Checkpoint::from_json(text.as_bytes()));
    let checkpoint = checkpoint.transpose().map_err(fault)?;
    let rows = RowIter::from_file_into(Box::new(reader));
    let rows = (1_u64..).zip(rows).map(|(line, read)| {
        let read = read.map_err(|e| RowFault { line, what: e.to_string() })?;
        let fields: Vec<Field> = read.into_columns().into_iter().map(|(_, field)| field).collect();
        row(&mut Fields(fields.into_iter())).ok_or_else(|| RowFault { line, what: "a value has another type".into() })
    });
    Ok((Box::new(rows), checkpoint))
}

/// A row's values in the columns' order.
struct Fields(std::vec::IntoIter<Field>);

impl Fields {
    fn text(&mut self) -> Option<String> {
        match self.0.next()? {
            Field::Str(text) => Some(text),
            _ => None,
        }
    }

    /// A number, or nothing where there may be none.
    fn maybe(&mut self) -> Option<Option<i64>> {
        match self.0.next()? {
            Field::Long(n) | Field::TimestampMicros(n) => Some(Some(n)),
            Field::Int(n) => Some(Some(n.into())),
            Field::Null => Some(None),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<u64> {
        self.maybe()??.try_into().ok()
    }

    fn flag(&mut self) -> Option<bool> {
        match self.0.next()? {
            Field::Bool(flag) => Some(flag),
            _ => None,
        }
    }

    fn hash(&mut self) -> Option<[u8; 32]> {
        match self.0.next()? {
            Field::Bytes(bytes) => bytes.data().try_into().ok(),
            _ => None,
        }
    }
}

fn row(f: &mut Fields) -> Option<Row> {
    let seq = f.number()?;
    let at = Wall(f.maybe()??);
    let request_id = f.text()?.into();
    let attempt = f.number()?.try_into().ok()?;
    let (endpoint, provider, model) = (f.text()?.into(), f.text()?.into(), f.text()?.into());
    let (route, key_id) = (f.text()?.into(), f.text()?.into());
    let tags: BTreeMap<Box<str>, Box<str>> = serde_json::from_str(&f.text()?).ok()?;
    let outcome = f.text()?.into();
    let http_status = f.number()?.try_into().ok()?;
    let stream = f.flag()?;
    let latency_us = f.number()?;
    let ttft_us = f.maybe()?.map(u64::try_from).transpose().ok()?;
    let usage = Usage {
        input: f.number()?,
        cached_input: f.number()?,
        cache_write: f.number()?,
        output: f.number()?,
        reasoning: f.number()?,
    };
    let usage_source = UsageSource::parse(&f.text()?)?;
    let cost = f.maybe()?.map(NanoUsd);
    let (price_version, decision) = (f.text()?.into(), f.text()?.into());
    let (prev_hash, hash) = (f.hash()?, f.hash()?);
    let entry = Entry {
        at,
        request_id,
        attempt,
        endpoint,
        provider,
        model,
        route,
        key_id,
        tags: tags.into_iter().collect(),
        outcome,
        http_status,
        stream,
        latency_us,
        ttft_us,
        usage,
        usage_source,
        cost,
        price_version,
        decision,
    };
    Some(Row { seq, entry, prev_hash, hash })
}
