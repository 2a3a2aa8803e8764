//! The ledger's sums and exports for operators. The store is only touched on blocking threads.

use crate::domain::sums::{GroupBy, SumRow, TimeRange};
use crate::engine::error::{ApiError, Code};
use crate::engine::gateway::Gateway;

impl Gateway {
    /// Sums of the ledger over `range`, by group.
    ///
    /// # Errors
    /// 503 with the store's reason.
    pub async fn sums(&self, range: TimeRange, group_by: GroupBy) -> Result<Vec<SumRow>, ApiError> {
        let reader = self.ledger.reader();
        let sums = tokio::task::spawn_blocking(move || reader.sums(range, &group_by)).await;
        let failed = |e: String| ApiError::new(Code::LedgerUnavailable, format!("the ledger cannot be read: {e}"));
        sums.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))
    }
}
