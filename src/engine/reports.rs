//! The ledger's sums and exports for operators. The store is only touched on blocking threads.

use crate::config;
use crate::config::model::EndpointConfig;
use crate::domain::ledger::Entry;
use crate::domain::report::Report;
use crate::domain::resilience::{Prices, Resilience, ResilienceReport};
use crate::domain::savings::{Savings, SavingsReport};
use crate::domain::sums::{GroupBy, TimeRange};
use crate::engine::error::{ApiError, Code};
use crate::engine::gateway::Gateway;
use crate::store::StoreError;
use crate::store::export::{RowFormat, RowWriter};
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Chunks of an export that may wait for a slow reader.
const CHUNKS: usize = 4;
const CHUNK_BYTES: usize = 64 << 10;

/// An export under way: its chunks, and what they are.
pub struct Export {
    pub content_type: &'static str,
    /// An error ends it before its end.
    pub chunks: mpsc::Receiver<Result<Bytes, String>>,
}

fn failed(e: impl std::fmt::Display) -> ApiError {
    ApiError::new(Code::LedgerUnavailable, format!("the ledger cannot be read: {e}"))
}

fn invalid(param: &str) -> impl Fn(String) -> ApiError + '_ {
    move |message| ApiError::new(Code::InvalidRequest, message).with_param(param)
}

/// Reads the range of a query.
///
/// # Errors
/// Which end is no time, or that the range ends before it starts.
pub fn range(from: Option<&str>, to: Option<&str>) -> Result<TimeRange, ApiError> {
    use crate::domain::time::Wall;
    let range = TimeRange {
        from: from.map(Wall::parse).transpose().map_err(invalid("from"))?,
        to: to.map(Wall::parse).transpose().map_err(invalid("to"))?,
    };
    match (range.from, range.to) {
        (Some(from), Some(to)) if to <= from => Err(invalid("to")("the range ends before it starts".into())),
        _ => Ok(range),
    }
}

/// Reads a grouping.
///
/// # Errors
/// What is allowed.
pub fn group_by(text: &str) -> Result<GroupBy, ApiError> {
    GroupBy::parse(text).map_err(invalid("group_by"))
}

/// The present prices of endpoints.
#[must_use]
pub fn prices(endpoints: &[Arc<EndpointConfig>]) -> Prices {
    endpoints.iter().filter_map(|e| Some((Arc::clone(&e.name), e.price.clone()?))).collect()
}

impl Gateway {
    /// The ledger's figures over a time range, by group.
    ///
    /// # Errors
    /// 503 with the store's reason.
    pub async fn report(&self, range: TimeRange, group_by: GroupBy) -> Result<Report, ApiError> {
        let reader = self.ledger.reader();
        let work = move || reader.sums(range, &group_by).map(|rows| Report::new(&group_by, rows));
        tokio::task::spawn_blocking(work).await.map_err(failed)?.map_err(failed)
    }

    /// What the same tokens would have cost on a baseline, over a time range. Reads its rows.
    ///
    /// # Errors
    /// Nothing known is named so, or 503 with the store's reason.
    pub async fn savings(&self, range: TimeRange, baseline: &str) -> Result<SavingsReport, ApiError> {
        let baseline = config::baseline(&self.endpoint_configs(), baseline).map_err(invalid("baseline"))?;
        self.counted(range, Savings::new(baseline), Savings::count).await.map(Savings::report)
    }

    /// What resilience did and cost over a time range. Reads its rows.
    ///
    /// # Errors
    /// 503 with the store's reason.
    pub async fn resilience(&self, range: TimeRange) -> Result<ResilienceReport, ApiError> {
        let prices = prices(&self.endpoint_configs());
        self.counted(range, Resilience::new(prices), Resilience::count).await.map(Resilience::report)
    }

    /// The endpoints as they are now.
    fn endpoint_configs(&self) -> Vec<Arc<EndpointConfig>> {
        self.board.topology().cells.iter().map(|cell| cell.config()).collect()
    }

    /// Shows an account every row of a time range, on a blocking thread.
    async fn counted<T: Send + 'static>(
        &self,
        range: TimeRange,
        mut account: T,
        count: fn(&mut T, &Entry),
    ) -> Result<T, ApiError> {
        let reader = self.ledger.reader();
        let work = move || {
            for row in reader.rows(range)? {
                count(&mut account, &row?.entry);
            }
            Ok::<T, StoreError>(account)
        };
        tokio::task::spawn_blocking(work).await.map_err(failed)?.map_err(failed)
    }

    /// Starts an export of the rows of a time range; `format` is `csv` or `jsonl`.
    ///
    /// # Errors
    /// Another format, or 503 with the store's reason.
    pub fn export(&self, range: TimeRange, format: &str) -> Result<Export, ApiError> {
        let format = RowFormat::parse(format).map_err(invalid("format"))?;
        let rows = self.ledger.reader().rows(range).map_err(failed)?;
        let (send, chunks) = mpsc::channel(CHUNKS);
        tokio::task::spawn_blocking(move || {
            let mut writer = RowWriter::new(format);
            let mut buffer = Vec::with_capacity(CHUNK_BYTES + 4096);
            writer.head(&mut buffer);
            for row in rows {
                match row {
                    Ok(row) => writer.row(&row, &mut buffer),
                    Err(e) => {
                        let _ = send.blocking_send(Err(e.to_string()));
                        return;
                    }
                }
                if buffer.len() >= CHUNK_BYTES {
                    let full = std::mem::replace(&mut buffer, Vec::with_capacity(CHUNK_BYTES + 4096));
                    // A reader that went away ends the export.
                    if send.blocking_send(Ok(full.into())).is_err() {
                        return;
                    }
                }
            }
            let _ = send.blocking_send(Ok(buffer.into()));
        });
        Ok(Export { content_type: format.content_type(), chunks })
    }

    /// The newest entries of the audit log.
    ///
    /// # Errors
    /// 503 with the store's reason.
    pub async fn audit_log(&self) -> Result<Value, ApiError> {
        const SHOWN: usize = 500;
        let state = self.ledger.state().clone();
        let read = move || -> Result<Vec<Value>, StoreError> {
            let entries = state.audit_entries(SHOWN)?.into_iter();
            Ok(entries.filter_map(|(_, bytes)| serde_json::from_slice(&bytes).ok()).collect())
        };
        let entries = tokio::task::spawn_blocking(read).await.map_err(failed)?.map_err(failed)?;
        Ok(serde_json::json!({ "entries": entries }))
    }
}
