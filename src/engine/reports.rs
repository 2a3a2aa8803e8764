//! The ledger's sums and exports for operators. The store is only touched on blocking threads.

use crate::config;
use crate::config::model::EndpointConfig;
use crate::domain::filter::RowFilter;
use crate::domain::ledger::Entry;
use crate::domain::report::Report;
use crate::domain::resilience::{Prices, Resilience, ResilienceReport};
use crate::domain::savings::{Savings, SavingsReport};
use crate::domain::sums::{GroupBy, TimeRange};
use crate::engine::error::{ApiError, Code};
use crate::engine::gateway::Gateway;
use crate::store::StoreError;
use crate::store::stream::{ExportShape, ExportStream};
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Chunks of an export that may wait for a slow reader.
const CHUNKS: usize = 4;
const CHUNK_BYTES: usize = 64 << 10;
const ROWS_A_LOOK: u64 = 64;

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

/// Reads an export's format and compression.
///
/// # Errors
/// What is allowed.
pub fn shape(format: &str, compression: Option<&str>) -> Result<ExportShape, ApiError> {
    ExportShape::parse(format, compression).map_err(invalid("format"))
}

/// Reads a condition on a tag.
///
/// # Errors
/// What is allowed.
pub fn tag(text: &str) -> Result<(String, String), ApiError> {
    RowFilter::parse_tag(text).map_err(invalid("tag"))
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

    /// Starts an export of the wanted rows of a time range.
    ///
    /// # Errors
    /// 503 with the store's reason.
    pub fn export(&self, range: TimeRange, filter: RowFilter, shape: ExportShape) -> Result<Export, ApiError> {
        let rows = self.ledger.reader().rows(range).map_err(failed)?;
        let mut stream = ExportStream::new(shape).map_err(failed)?;
        let (send, chunks) = mpsc::channel(CHUNKS);
        tokio::task::spawn_blocking(move || {
            let mut ready = Vec::with_capacity(CHUNK_BYTES);
            // Looking for bytes after each row would cost more than the row.
            for (count, row) in (1_u64..).zip(rows) {
                let made = row.map_err(|e| e.to_string()).and_then(|row| {
                    if filter.wants(&row.entry) {
                        stream.row(&row).map_err(|e| e.to_string())?;
                    }
                    if count.is_multiple_of(ROWS_A_LOOK) {
                        ready.extend(stream.ready().map_err(|e| e.to_string())?);
                    }
                    Ok(())
                });
                if let Err(e) = made {
                    let _ = send.blocking_send(Err(e));
                    return;
                }
                // A reader that went away ends the export.
                if ready.len() >= CHUNK_BYTES && send.blocking_send(Ok(std::mem::take(&mut ready).into())).is_err() {
                    return;
                }
            }
            ready.extend(match stream.finish() {
                Ok(last) => last,
                Err(e) => {
                    let _ = send.blocking_send(Err(e.to_string()));
                    return;
                }
            });
            let _ = send.blocking_send(Ok(ready.into()));
        });
        Ok(Export { content_type: shape.content_type(), chunks })
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
