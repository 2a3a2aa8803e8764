//! The ledger as an export shows it.

use super::{Gateway, eventually, secs};
use std::collections::BTreeMap;

/// The columns of an export, in order.
pub const COLUMNS: &str = "seq,at,request_id,attempt,endpoint,provider,model,route,key_id,tags,outcome,http_status,stream,latency_us,\
ttft_us,input_tokens,cached_input_tokens,cache_write_tokens,output_tokens,reasoning_tokens,usage_source,cost_nanousd,price_version,\
decision,prev_hash,hash";

/// A row by column name.
#[derive(Clone, Debug)]
pub struct Row(pub BTreeMap<String, String>);

impl Row {
    #[track_caller]
    pub fn get(&self, column: &str) -> &str {
        self.0.get(column).unwrap_or_else(|| panic!("no column {column}"))
    }

    pub fn number(&self, column: &str) -> i64 {
        match self.get(column) {
            "" => 0,
            text => text.parse().unwrap_or_else(|_| panic!("{column} is `{text}`")),
        }
    }
}

/// Reads a CSV export and checks its header.
pub fn read_csv(text: &str) -> Vec<Row> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().expect("a header").clone();
    assert_eq!(header.iter().collect::<Vec<_>>().join(","), COLUMNS);
    let row =
        |record: csv::StringRecord| header.iter().map(str::to_owned).zip(record.iter().map(str::to_owned)).collect();
    reader.records().map(|r| Row(row(r.expect("a record")))).collect()
}

pub fn cost(rows: &[Row]) -> i64 {
    rows.iter().map(|r| r.number("cost_nanousd")).sum()
}

impl Gateway {
    pub async fn rows(&self) -> Vec<Row> {
        read_csv(&self.admin("GET", "/admin/ledger/export?format=csv", None).await.expect(200).text())
    }

    /// Waits until the ledger has `n` rows, which it takes on a little after the answers; never more.
    pub async fn wait_rows(&self, n: usize) -> Vec<Row> {
        let mut rows = vec![];
        eventually(secs(10), &format!("the ledger has {n} rows"), async || {
            rows = self.rows().await;
            assert!(rows.len() <= n, "{} rows instead of {n}: {rows:#?}", rows.len());
            rows.len() == n
        })
        .await;
        rows
    }

    /// The rows of one request, once it has `n`, by attempt.
    pub async fn rows_of(&self, request_id: &str, n: usize) -> Vec<Row> {
        let mut rows = vec![];
        eventually(secs(10), &format!("{request_id} has {n} rows"), async || {
            rows = self.rows().await;
            rows.retain(|r| r.get("request_id") == request_id);
            rows.len() >= n
        })
        .await;
        assert_eq!(rows.len(), n, "{rows:#?}");
        rows.sort_by_key(|r| r.number("attempt"));
        rows
    }
}
