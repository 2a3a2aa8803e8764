//! Checking the chain: that no row was changed, removed, added, moved, or cut off the end.
//!
//! Each row must carry the next number, the hash of the row before, and the hash of its own contents. That finds everything but a
//! cut end, for which there is HEAD: the ledger must reach it and carry its hash there. An exported file is checked by the same
//! rules from its own first row on; what was cut off its ends cannot be seen.

use crate::domain::ledger::{GENESIS, Row};
use crate::domain::sums::TimeRange;
use crate::domain::time::Wall;
use crate::store::error::StoreError;
use crate::store::files::{self, Head};
use crate::store::reader::LedgerReader;

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The first row concerned.
    pub seq: u64,
    /// Its time, if it can be read.
    pub at: Option<Wall>,
    pub what: String,
}

/// The outcome of a check. Nothing is checked beyond the first fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// Rows found good.
    pub rows: u64,
    pub first_seq: Option<u64>,
    pub last_seq: Option<u64>,
    /// Of the last good row: to be kept elsewhere as a witness.
    pub last_hash: [u8; 32],
    pub first_bad: Option<Fault>,
}

/// Checks rows one after the other.
#[derive(Clone, Debug)]
pub struct ChainCheck {
    rows: u64,
    first_seq: Option<u64>,
    /// The last good row's number and hash.
    last: Option<(u64, [u8; 32])>,
}

impl ChainCheck {
    /// For a whole ledger: the first row must be number 1.
    #[must_use]
    pub fn whole() -> Self {
        Self { rows: 0, first_seq: None, last: Some((0, GENESIS)) }
    }

    /// For a part: whatever comes first is where it begins.
    #[must_use]
    pub fn part() -> Self {
        Self { rows: 0, first_seq: None, last: None }
    }

    /// Checks the next row.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn next(&mut self, row: &Row) -> Result<(), Fault> {
        let fault = |seq: u64, what: String| Err(Fault { seq, at: Some(row.entry.at), what });
        if let Some((last, hash)) = self.last {
            let expected = last.saturating_add(1);
            if row.seq > expected {
                let gap = if row.seq - expected == 1 {
                    format!("row {expected} is missing")
                } else {
                    format!("rows {expected} to {} are missing", row.seq - 1)
                };
                return fault(expected, format!("{gap}, or the rows are not in order"));
            }
            if row.seq < expected {
                return fault(row.seq, format!("stands after row {last}: added, repeated or moved"));
            }
            if row.is_intact() && row.prev_hash != hash {
                return fault(row.seq, "does not follow the row before it: one of the two was replaced".into());
            }
        }
        if !row.is_intact() {
            return fault(row.seq, "was changed: its hash is not that of its contents".into());
        }
        self.rows += 1;
        self.first_seq.get_or_insert(row.seq);
        self.last = Some((row.seq, row.hash));
        Ok(())
    }

    /// The number that has to come next; 1 if nothing came yet.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.last.map_or(1, |(seq, _)| seq.saturating_add(1))
    }

    /// Ends the check.
    #[must_use]
    pub fn report(self, first_bad: Option<Fault>) -> VerifyReport {
        let last = self.last.filter(|_| self.rows > 0);
        VerifyReport {
            rows: self.rows,
            first_seq: self.first_seq,
            last_seq: last.map(|(seq, _)| seq),
            last_hash: last.map_or(GENESIS, |(_, hash)| hash),
            first_bad,
        }
    }
}

impl LedgerReader {
    /// Checks the whole ledger; `progress` is told the number of rows done now and then.
    ///
    /// # Errors
    /// The store failed. Damage to the ledger itself is in the report.
    pub fn verify(&self, progress: &mut dyn FnMut(u64)) -> Result<VerifyReport, StoreError> {
        let head = match files::read_head(&self.inner.path) {
            Ok(head) => head,
            Err(StoreError::Damaged { what, .. }) => {
                let fault = Fault { seq: 0, at: None, what };
                return Ok(ChainCheck::whole().report(Some(fault)));
            }
            Err(other) => return Err(other),
        };
        let mut check = ChainCheck::whole();
        for row in self.rows(TimeRange::ALL)? {
            let fault = match row {
                Ok(row) => check.next(&row).and_then(|()| at_head(&row, head.as_ref())),
                Err(StoreError::Damaged { seq, what }) => {
                    Err(Fault { seq: seq.unwrap_or(check.next_seq()), at: None, what })
                }
                Err(other) => return Err(other),
            };
            if let Err(fault) = fault {
                return Ok(check.report(Some(fault)));
            }
            if check.rows.is_multiple_of(1 << 16) {
                progress(check.rows);
            }
        }
        let last = check.last.map_or(0, |(seq, _)| seq);
        let cut = head.filter(|head| head.seq > last).map(|head| Fault {
            seq: last + 1,
            at: None,
            what: format!("rows {} to {} are missing at the end", last + 1, head.seq),
        });
        Ok(check.report(cut))
    }
}

fn at_head(row: &Row, head: Option<&Head>) -> Result<(), Fault> {
    match head {
        Some(head) if head.seq == row.seq && head.hash != row.hash => Err(Fault {
            seq: row.seq,
            at: Some(row.entry.at),
            what: "is not the row that the high-water mark was taken of: the ledger was rewritten".into(),
        }),
        _ => Ok(()),
    }
}
