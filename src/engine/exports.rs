//! Exports of the ledger over HTTP, and what is signed of it.
//!
//! An export is streamed, so that its checkpoint is known only at its end: it is kept under the export's id, of the newest few exports,
//! for whoever has read the body to fetch. One that met damage is broken off, and the reason is kept in its place.
//! The store is only touched on blocking threads.

use crate::clock;
use crate::domain::checkpoint::{Checkpoint, hex};
use crate::domain::filter::RowFilter;
use crate::domain::sums::TimeRange;
use crate::engine::error::{ApiError, Code};
use crate::engine::gateway::Gateway;
use crate::engine::reports::{failed, unread};
use crate::store::stream::{ExportShape, ExportStream};
use crate::store::{LedgerReader, Rows, StoreError};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Chunks of an export that may wait for a slow reader.
const CHUNKS: usize = 4;
const CHUNK_BYTES: usize = 64 << 10;
const ROWS_A_LOOK: u64 = 64;
/// Exports whose end is kept: a checkpoint is some 50 KB at most.
const KEPT: usize = 64;

/// An export under way: its chunks, and what they are.
pub struct Export {
    /// Under which its checkpoint can be had once its last chunk is there.
    pub id: String,
    pub content_type: &'static str,
    /// An error ends it before its end.
    pub chunks: mpsc::Receiver<Result<Bytes, String>>,
}

/// How the newest exports ended.
#[derive(Clone, Default)]
pub struct Exports(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    begun: u64,
    ends: VecDeque<(String, End)>,
}

/// An export's checkpoint, or why it was broken off.
type End = Result<Checkpoint, StoreError>;

impl Exports {
    fn begin(&self) -> String {
        let mut kept = self.0.lock();
        kept.begun += 1;
        format!("exp_{:x}_{}", clock::wall().0, kept.begun)
    }

    fn keep(&self, id: String, end: End) {
        let ends = &mut self.0.lock().ends;
        ends.push_back((id, end));
        if ends.len() > KEPT {
            ends.pop_front();
        }
    }

    /// The checkpoint as JSON, or why there is none.
    fn find(&self, id: &str) -> Option<Result<String, StoreError>> {
        let kept = self.0.lock();
        let (_, end) = kept.ends.iter().find(|(own, _)| own == id)?;
        Some(end.as_ref().map(Checkpoint::to_json).map_err(Clone::clone))
    }
}

/// What an export's thread works with.
struct Work {
    rows: Rows,
    reader: LedgerReader,
    filter: RowFilter,
    stream: ExportStream,
    exports: Exports,
    id: String,
    send: mpsc::Sender<Result<Bytes, String>>,
}

impl Work {
    fn run(mut self) {
        if let Err(e) = self.rows() {
            // A reader that went away needs no reason.
            let _ = self.send.blocking_send(Err(e));
            return;
        }
        let made = self.stream.finish(clock::wall(), |statement| self.reader.sign(statement));
        let last = made.map_err(|e| e.to_string()).map(|(last, checkpoint)| {
            if let Some(checkpoint) = checkpoint {
                self.exports.keep(self.id, Ok(checkpoint));
            }
            last.into()
        });
        let _ = self.send.blocking_send(last);
    }

    /// Sends all but the last bytes. Ends early, as if at the end, if the reader went away.
    fn rows(&mut self) -> Result<(), String> {
        let mut ready = Vec::with_capacity(CHUNK_BYTES);
        // Looking for bytes after each row would cost more than the row.
        for (count, row) in (1_u64..).zip(&mut self.rows) {
            let row =
                row.inspect_err(|e| self.exports.keep(self.id.clone(), Err(e.clone()))).map_err(|e| e.to_string())?;
            if self.filter.wants(&row.entry) {
                self.stream.row(&row).map_err(|e| e.to_string())?;
            }
            if count.is_multiple_of(ROWS_A_LOOK) {
                ready.extend(self.stream.ready().map_err(|e| e.to_string())?);
            }
            if ready.len() >= CHUNK_BYTES {
                self.send.blocking_send(Ok(std::mem::take(&mut ready).into())).map_err(|e| e.to_string())?;
            }
        }
        if !ready.is_empty() {
            self.send.blocking_send(Ok(ready.into())).map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}

impl Gateway {
    /// Starts an export of the wanted rows of a time range. Without a beginning, it is of the rows that retention has left.
    ///
    /// # Errors
    /// Rows of the range were removed, or 503 with the store's reason.
    pub fn export(&self, range: TimeRange, filter: RowFilter, shape: ExportShape) -> Result<Export, ApiError> {
        let reader = self.ledger.reader();
        if range.from.is_some() {
            reader.has_rows_of(range).map_err(unread)?;
        }
        let rows = reader.rows(range).map_err(failed)?;
        let stream = ExportStream::new(shape).map_err(failed)?;
        let (send, chunks) = mpsc::channel(CHUNKS);
        let id = self.exports.begin();
        let work = Work { rows, reader, filter, stream, exports: self.exports.clone(), id: id.clone(), send };
        tokio::task::spawn_blocking(move || work.run());
        Ok(Export { id, content_type: shape.content_type(), chunks })
    }

    /// The signed checkpoint of an export that has come to its end, as JSON.
    ///
    /// # Errors
    /// 409 with the reason if it was broken off, `param` being the number of a damaged row; 404 if it goes on, or is too long ago.
    pub fn export_checkpoint(&self, id: &str) -> Result<Value, ApiError> {
        match self.exports.find(id) {
            Some(Ok(text)) => serde_json::from_str(&text).map_err(failed),
            Some(Err(why)) => {
                let error = ApiError::new(Code::Conflict, format!("the export was broken off: {why}"));
                let row = if let StoreError::Damaged { seq, .. } = why { seq } else { None };
                Err(ApiError { param: row.map(|seq| seq.to_string()), ..error })
            }
            None => {
                let message = format!("no finished export `{id}`; the newest {KEPT} since the start are known");
                Err(ApiError::new(Code::NotFound, message))
            }
        }
    }

    /// What the ledger has signed: its public keys, checkpoints, and the rows that retention has removed.
    ///
    /// # Errors
    /// 503 with the store's reason.
    pub async fn signed_record(&self) -> Result<Value, ApiError> {
        let reader = self.ledger.reader();
        let record =
            tokio::task::spawn_blocking(move || reader.signed_record()).await.map_err(failed)?.map_err(failed)?;
        let json = |checkpoint: &Checkpoint| serde_json::from_str::<Value>(&checkpoint.to_json()).map_err(failed);
        Ok(json!({
            "public_keys": record.keys.iter().map(|key| hex(key)).collect::<Vec<_>>(),
            "checkpoints": record.checkpoints.iter().map(json).collect::<Result<Vec<_>, _>>()?,
            "removed": record.removed.as_ref().map(json).transpose()?,
        }))
    }
}
