//! The rows of a running gateway, read over the wire as an export. Where they end before their end it is told why: the gateway met damage
//! in its ledger, which it says when it is asked for the export's checkpoint; or the line was cut.

use crate::cli::download::Download;
use crate::cli::remote;
use crate::domain::ledger::Row;
use crate::domain::sums::TimeRange;
use crate::domain::time::Wall;
use crate::store::import::{RowFault, open_rows, read_rows};
use reqwest::{Method, StatusCode};
use std::fmt;
use std::io::BufReader;

/// Why there are no more rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The gateway cannot read one.
    Damaged(Damage),
    /// They did not come.
    Cut(String),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Damaged(Damage { what, .. }) | Self::Cut(what)) = self;
        f.write_str(what)
    }
}

/// Why a gateway broke an export off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// The row's number, if it is known.
    pub seq: Option<u64>,
    /// The gateway's own words.
    pub what: String,
}

/// Ends with the first error.
pub(super) struct RunningRows<'a> {
    url: &'a str,
    token: Option<&'a str>,
    export: Option<String>,
    /// `None` after an error.
    rows: Option<Box<dyn Iterator<Item = Result<Row, RowFault>>>>,
}

impl<'a> RunningRows<'a> {
    /// Asks for the rows of a time range.
    ///
    /// # Errors
    /// What went wrong, with the gateway's own words where it answered.
    pub fn get(url: &'a str, range: TimeRange, token: Option<&'a str>) -> Result<Self, String> {
        let time = |at: Option<Wall>| at.map(Wall::to_rfc3339);
        let query = [("from", time(range.from)), ("to", time(range.to)), ("format", Some("jsonl".to_owned()))];
        let body = Download::get(url, "/admin/ledger/export", &query, token)?;
        let export = body.header("x-breakwater-export-id");
        let rows = open_rows(BufReader::new(body)).and_then(read_rows);
        let rows = rows.unwrap_or_else(|fault| Box::new(std::iter::once(Err(fault))));
        Ok(Self { url, token, export, rows: Some(rows) })
    }

    fn broken(&self, fault: &RowFault) -> Broken {
        let said = self.export.as_deref().and_then(|id| damage(self.url, id, self.token).ok().flatten());
        said.map_or_else(|| Broken::Cut(format!("the rows of {} broke off: {fault}", self.url)), Broken::Damaged)
    }
}

impl Iterator for RunningRows<'_> {
    type Item = Result<Row, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        let fault = match self.rows.as_mut()?.next()? {
            Ok(row) => return Some(Ok(row)),
            Err(fault) => fault,
        };
        self.rows = None;
        Some(Err(self.broken(&fault)))
    }
}

/// Why a gateway broke an export off; `None`: it did not.
///
/// # Errors
/// It cannot be asked.
pub(super) fn damage(url: &str, export: &str, token: Option<&str>) -> Result<Option<Damage>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let path = format!("/admin/ledger/export/{export}");
        let answer = remote::answer(url, remote::request(Method::GET, url, &path, token)?).await?;
        if answer.status() != StatusCode::CONFLICT {
            return Ok(None);
        }
        let (what, row) = remote::error(answer).await;
        Ok(Some(Damage { seq: row.and_then(|row| row.parse().ok()), what }))
    })
}
