//! The ledger's sums for operators. The store is only touched on blocking threads.

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
use crate::store::stream::ExportShape;
use serde_json::Value;
use std::sync::Arc;

pub(super) fn failed(e: impl std::fmt::Display) -> ApiError {
    ApiError::new(Code::LedgerUnavailable, format!("the ledger cannot be read: {e}"))
}

/// What the store has to say; rows that retention has removed are the question's fault.
pub(super) fn unread(e: StoreError) -> ApiError {
    match &e {
        StoreError::Removed { before, .. } => {
            invalid("from")(format!("{e}: ask for whole hours, or from {} on", before.to_rfc3339()))
        }
        _ => failed(e),
    }
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
    ExportShape::parse(format, None).map_err(invalid("format"))?;
    ExportShape::parse(format, compression).map_err(invalid("compress"))
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
        tokio::task::spawn_blocking(work).await.map_err(failed)?.map_err(unread)
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
            reader.has_rows_of(range)?;
            for row in reader.rows(range)? {
                count(&mut account, &row?.entry);
            }
            Ok::<T, StoreError>(account)
        };
        tokio::task::spawn_blocking(work).await.map_err(failed)?.map_err(unread)
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
