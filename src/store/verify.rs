//! Checking the chain: that no row was changed, removed, added, moved, or cut off the end.
//!
//! Each row must carry the next number, the hash of the row before, and the hash of its own contents. That finds everything but a
//! cut end, for which there is HEAD: the ledger must reach it and carry its hash there. Whoever recomputes the hashes and HEAD is found by
//! the signed checkpoints ([`witness`](crate::store::witness)): rows must hash to what was signed, and be there. An exported file is
//! checked by the same rules from its own first row on; without a checkpoint, what was cut off its ends cannot be seen.

use crate::domain::checkpoint::{Checkpoint, Statement};
use crate::domain::ledger::{GENESIS, Row};
use crate::domain::sums::TimeRange;
use crate::domain::time::Wall;
use crate::store::error::StoreError;
use crate::store::files::{self, Head};
use crate::store::reader::LedgerReader;
use crate::store::witness::{Trust, Witnesses};
use crate::store::{checkpoints, signer};

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
    /// The newest signed checkpoint that the rows were held against.
    pub signed: Option<Signed>,
    /// The signed statement of the rows that retention has removed.
    pub removed: Option<Checkpoint>,
}

/// Up to where signatures vouch for the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed {
    /// How many checkpoints there were.
    pub checkpoints: u64,
    /// The last row that one stands for.
    pub through: u64,
    /// When that one was made.
    pub at: Wall,
    /// The key that signed it.
    pub key: [u8; 32],
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

    /// For a ledger whose first rows retention has removed: row `seq`, with that hash, was the last of them.
    #[must_use]
    pub fn after(seq: u64, hash: [u8; 32]) -> Self {
        Self { rows: 0, first_seq: None, last: Some((seq, hash)) }
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

    /// Checks the next row of an export that has only some of the rows.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn next_of_some(&mut self, row: &Row) -> Result<(), Fault> {
        let mut alone = Self::part();
        alone.next(row)?;
        if let Some((last, _)) = self.last.filter(|(last, _)| row.seq <= *last) {
            let what = format!("stands after row {last}: added, repeated or moved");
            return Err(Fault { seq: row.seq, at: Some(row.entry.at), what });
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
            signed: None,
            removed: None,
        }
    }
}

/// What a store has signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignedRecord {
    /// The keys it has signed with, the present one last.
    pub keys: Vec<[u8; 32]>,
    /// Its checkpoints by row.
    pub checkpoints: Vec<Checkpoint>,
    /// The statement of the rows that retention has removed.
    pub removed: Option<Checkpoint>,
}

impl LedgerReader {
    /// What the store has signed.
    ///
    /// # Errors
    /// The store failed, or a checkpoint cannot be read.
    pub fn signed_record(&self) -> Result<SignedRecord, StoreError> {
        Ok(SignedRecord {
            keys: signer::public_keys(&self.inner.path)?,
            checkpoints: checkpoints::stored(&self.inner.state)?.into_iter().collect::<Result<_, _>>()?,
            removed: self.inner.anchor.read().as_ref().map(|anchor| anchor.removed.clone()),
        })
    }

    /// Signs what an export holds; `None` if the store's key is not there.
    #[must_use]
    pub fn sign(&self, statement: Statement) -> Option<Checkpoint> {
        self.inner.signer.as_ref().map(|signer| signer.sign(statement))
    }

    /// Checks the whole ledger by the keys in the store's folder; `progress` is told the number of rows done now and then.
    ///
    /// # Errors
    /// The store failed. Damage to the ledger itself is in the report.
    pub fn verify(&self, progress: &mut dyn FnMut(u64)) -> Result<VerifyReport, StoreError> {
        self.verify_by(None, Vec::new(), progress)
    }

    /// Checks the whole ledger. `trust`: whose signatures hold; left out, the
    /// keys in the store's folder. `elsewhere`: checkpoints that were kept somewhere else.
    ///
    /// # Errors
    /// The store failed. Damage to the ledger itself is in the report.
    pub fn verify_by(
        &self,
        trust: Option<Trust>,
        elsewhere: Vec<Checkpoint>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<VerifyReport, StoreError> {
        let found = files::read_head(&self.inner.path).and_then(|head| Ok((head, self.signed_record()?)));
        let (head, mut record) = match found {
            Ok(found) => found,
            Err(StoreError::Damaged { what, .. }) => {
                let fault = Fault { seq: 0, at: None, what };
                return Ok(ChainCheck::whole().report(Some(fault)));
            }
            Err(other) => return Err(other),
        };
        let trust = trust.unwrap_or_else(|| Trust::Keys(record.keys.clone()));
        record.checkpoints.extend(elsewhere);
        let rows = self.rows(TimeRange::ALL)?.map(|row| match row {
            Err(StoreError::Damaged { seq, what }) => Ok(Err(Fault { seq: seq.unwrap_or(0), at: None, what })),
            Err(other) => Err(other),
            Ok(row) => Ok(at_head(&row, head.as_ref()).map(|()| row)),
        });
        let report = check_ledger(rows, record, &trust, progress)?;
        let last = report.last_seq.or(report.removed.as_ref().map(|c| c.statement.seq)).unwrap_or(0);
        let cut = head.filter(|head| head.seq > last && report.first_bad.is_none()).map(|head| Fault {
            seq: last + 1,
            at: None,
            what: format!("rows {} to {} are missing at the end", last + 1, head.seq),
        });
        Ok(VerifyReport { first_bad: report.first_bad.clone().or(cut), ..report })
    }
}

/// Checks a whole ledger's rows against its chain and what was signed. A row that cannot be read comes as a fault; with number 0, it is
/// the next one's.
///
/// # Errors
/// The rows' own.
pub fn check_ledger<E>(
    rows: impl Iterator<Item = Result<Result<Row, Fault>, E>>,
    record: SignedRecord,
    trust: &Trust,
    progress: &mut dyn FnMut(u64),
) -> Result<VerifyReport, E> {
    let removed = record.removed.clone();
    let (mut check, begin) = match &removed {
        Some(checkpoint) => {
            (ChainCheck::after(checkpoint.statement.seq, checkpoint.statement.hash), checkpoint.statement.seq)
        }
        None => (ChainCheck::whole(), 0),
    };
    let of_witness = Witnesses::new(removed.iter().chain(&record.checkpoints), begin, trust);
    let (mut witnesses, signed) = match of_witness {
        Ok(found) => found,
        Err(fault) => return Ok(check.report(Some(fault))),
    };
    let done = |check: ChainCheck, fault| VerifyReport { signed, removed: removed.clone(), ..check.report(fault) };
    for row in rows {
        let checked = match row? {
            Ok(row) => check.next(&row).and_then(|()| witnesses.row(&row)),
            Err(fault) if fault.seq == 0 => Err(Fault { seq: check.next_seq(), ..fault }),
            Err(fault) => Err(fault),
        };
        if let Err(fault) = checked {
            return Ok(done(check, Some(fault)));
        }
        if check.rows.is_multiple_of(1 << 14) {
            progress(check.rows);
        }
    }
    let cut = witnesses.end(check.last.map_or(0, |(seq, _)| seq));
    Ok(done(check, cut))
}

/// Checks an exported file's rows, against its checkpoint if it has one.
///
/// # Errors
/// The rows' own.
pub fn check_export<E>(
    rows: impl Iterator<Item = Result<Result<Row, Fault>, E>>,
    checkpoint: Option<&Checkpoint>,
    trust: &Trust,
    progress: &mut dyn FnMut(u64),
) -> Result<VerifyReport, E> {
    let mut check = ChainCheck::part();
    let statement = checkpoint.map(|checkpoint| &checkpoint.statement);
    let begin = statement.map_or(0, |s| s.first_seq.saturating_sub(1));
    let (mut witnesses, signed) = match Witnesses::new(checkpoint, begin, trust) {
        Ok(found) => found,
        Err(fault) => return Ok(check.report(Some(fault))),
    };
    let done = |check: ChainCheck, fault| VerifyReport { signed, ..check.report(fault) };
    let whole = statement.is_none_or(Statement::is_whole);
    if let Some(statement) = statement.filter(|s| s.is_whole() && s.rows > 0) {
        check = ChainCheck::after(begin, statement.prev_hash);
    }
    let mut digest = blake3::Hasher::new();
    for row in rows {
        let checked = match row? {
            Ok(row) => {
                digest.update(&row.hash);
                let chained = if whole { check.next(&row) } else { check.next_of_some(&row) };
                chained.and_then(|()| witnesses.row(&row))
            }
            Err(fault) => Err(Fault { seq: check.next_seq(), ..fault }),
        };
        if let Err(fault) = checked {
            return Ok(done(check, Some(fault)));
        }
        if check.rows.is_multiple_of(1 << 14) {
            progress(check.rows);
        }
    }
    let fault = witnesses.end(check.last.map_or(0, |(seq, _)| seq)).or_else(|| {
        let statement = statement?;
        let differs = statement.digest.is_some_and(|signed| signed != *digest.finalize().as_bytes());
        (check.rows != statement.rows || differs).then(|| witnesses.differs(check.rows, statement))
    });
    Ok(done(check, fault))
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
