//! Holding rows against signed checkpoints: what finds a ledger whose chain was made anew.
//!
//! Every checkpoint must carry a good signature by a trusted key; its rows must be there and hash to what was signed. Where a hash differs,
//! the first bad row is one after the last row that agreed: with marks on every row it is known, else its whereabouts are.

use crate::domain::checkpoint::{Checkpoint, Statement, hex};
use crate::domain::ledger::Row;
use crate::domain::time::Wall;
use crate::store::signer::is_signed;
use crate::store::verify::{Fault, Signed};
use std::collections::BTreeMap;

/// Whose signatures hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Anybody's: the reader compares the key that is shown.
    Any,
    /// Those of these keys. There have to be some.
    Keys(Vec<[u8; 32]>),
    /// Those of these keys, which the reader has given: an unsigned ledger is a fault.
    Demanded(Vec<[u8; 32]>),
}

impl Trust {
    fn holds(&self, key: &[u8; 32]) -> bool {
        match self {
            Self::Any => true,
            Self::Keys(keys) | Self::Demanded(keys) => keys.contains(key),
        }
    }
}

struct Point {
    hash: [u8; 32],
    at: Wall,
}

/// What rows must hash to.
pub struct Witnesses {
    points: BTreeMap<u64, Point>,
    /// The last row that agreed.
    good: u64,
    /// The first row after it.
    since: Option<u64>,
}

impl Witnesses {
    /// Takes checkpoints for rows after `begin`.
    ///
    /// # Errors
    /// A checkpoint is not signed by a trusted key, or two contradict each other.
    pub fn new<'a>(
        checkpoints: impl IntoIterator<Item = &'a Checkpoint>,
        begin: u64,
        trust: &Trust,
    ) -> Result<(Self, Option<Signed>), Fault> {
        let mut points: BTreeMap<u64, Point> = BTreeMap::new();
        let mut signed: Option<Signed> = None;
        for checkpoint in checkpoints {
            let s = &checkpoint.statement;
            let fault = |what: String| Fault { seq: s.seq, at: None, what };
            if !is_signed(checkpoint) {
                return Err(fault(format!("the checkpoint of {} has a wrong signature", s.at.to_rfc3339())));
            }
            if !trust.holds(&checkpoint.key) {
                let (at, key) = (s.at.to_rfc3339(), hex(&checkpoint.key));
                return Err(fault(format!("the checkpoint of {at} is signed by another key: {key}")));
            }
            let last = Some((s.seq, s.hash)).filter(|_| s.rows > 0);
            for (seq, hash) in s.marks.iter().copied().chain(last).filter(|(seq, _)| *seq > begin) {
                if points.insert(seq, Point { hash, at: s.at }).is_some_and(|other| other.hash != hash) {
                    return Err(Fault {
                        seq,
                        at: None,
                        what: "two signed checkpoints give it different hashes".into(),
                    });
                }
            }
            let checkpoints = signed.map_or(0, |signed| signed.checkpoints) + 1;
            let newest = Signed { checkpoints, through: s.seq, at: s.at, key: checkpoint.key };
            signed = Some(match signed {
                Some(signed) if signed.through > s.seq => Signed { checkpoints, ..signed },
                _ => newest,
            });
        }
        if let (Trust::Demanded(_), None) = (trust, &signed) {
            return Err(Fault { seq: begin + 1, at: None, what: "nothing here is signed by the given key".into() });
        }
        Ok((Self { points, good: begin, since: None }, signed))
    }

    /// Takes the next row, which has been found intact.
    ///
    /// # Errors
    /// It is not what was signed, or one that was signed is not there.
    pub fn row(&mut self, row: &Row) -> Result<(), Fault> {
        let first = *self.since.get_or_insert(row.seq);
        let Some(next) = self.points.first_entry().filter(|next| *next.key() <= row.seq) else { return Ok(()) };
        let seq = *next.key();
        let point = next.remove();
        let at = point.at.to_rfc3339();
        if seq < row.seq {
            return Err(Fault { seq, at: None, what: format!("is missing: it was there at the checkpoint of {at}") });
        }
        if point.hash == row.hash {
            self.good = row.seq;
            self.since = None;
            return Ok(());
        }
        let what = if first == row.seq {
            format!("was changed, and the chain made anew: it is not the row that was signed at {at}")
        } else {
            format!(
                "it or one up to row {seq} was changed, and the chain made anew: row {seq} is not the one that was signed at {at}"
            )
        };
        Err(Fault { seq: first, at: (first == row.seq).then_some(row.entry.at), what })
    }

    /// Ends with row `last`.
    #[must_use]
    pub fn end(&self, last: u64) -> Option<Fault> {
        let (seq, point) = self.points.last_key_value()?;
        let what = format!(
            "rows up to {seq} are missing at the end: they were there at the checkpoint of {}",
            point.at.to_rfc3339()
        );
        Some(Fault { seq: last + 1, at: None, what })
    }

    /// That an export's rows are not the signed ones, although every row that was looked for is there.
    pub(super) fn differs(&self, rows: u64, statement: &Statement) -> Fault {
        let what = match rows == statement.rows {
            true => format!("it or a later row is not the one that was exported at {}", statement.at.to_rfc3339()),
            false => format!(
                "it or a later row was removed or added: {} rows were exported, {rows} are here",
                statement.rows
            ),
        };
        Fault { seq: self.since.unwrap_or(self.good + 1), at: None, what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::checkpoint::Kind;
    use crate::domain::ledger::{Entry, GENESIS};
    use crate::domain::money::NanoUsd;
    use crate::domain::sample;
    use crate::domain::sums::TimeRange;
    use crate::store::stream::{ExportShape, ExportStream};
    use crate::store::tests::{fill, open, rows, verify};
    use crate::store::{Store, check_export};
    use std::path::Path;

    /// The rows with some changed as `change` says, and every hash made anew.
    fn rechained(rows: &[Row], change: impl Fn(u64, &mut Entry)) -> Vec<Row> {
        let mut hash = GENESIS;
        let chain = |row: &Row| {
            let mut entry = row.entry.clone();
            change(row.seq, &mut entry);
            let row = Row::chain(row.seq, entry, hash);
            hash = row.hash;
            row
        };
        rows.iter().map(chain).collect()
    }

    fn cheaper(seq: u64) -> impl Fn(u64, &mut Entry) {
        move |at, entry| {
            if at == seq {
                entry.cost = Some(NanoUsd(1));
            }
        }
    }

    /// A store with 100 rows, signed at its close, whose rows are then replaced behind its back.
    fn forged(dir: &Path, forge: impl Fn(Vec<Row>) -> Vec<Row>) -> Option<Fault> {
        let (store, _) = open(dir);
        fill(&store, 0..100);
        assert_eq!(verify(&store).first_bad, None);
        assert_eq!(verify(&store).signed.map(|signed| signed.through), Some(100));
        let forged = forge(rows(&store, TimeRange::ALL));
        store.forge_for_test(&forged);
        drop(store);
        let (store, _) = open(dir);
        assert_eq!(store.read_only(), None, "HEAD was forged too");
        let report = verify(&store);
        report.first_bad
    }

    #[test]
    fn a_chain_that_was_made_anew_is_found_by_what_was_signed() {
        let changed = tempfile::tempdir().unwrap();
        let fault = forged(changed.path(), |rows| rechained(&rows, cheaper(40))).unwrap();
        assert!((33..=40).contains(&fault.seq), "{fault:?}");
        assert!(fault.what.contains("made anew"), "{fault:?}");
        let missing = tempfile::tempdir().unwrap();
        let fault = forged(missing.path(), |mut rows| {
            rows.remove(39);
            let renumbered: Vec<_> = rows.into_iter().zip(1..).map(|(row, seq)| Row { seq, ..row }).collect();
            rechained(&renumbered, |_, _| {})
        });
        assert!(fault.is_some_and(|fault| (33..=40).contains(&fault.seq)));
        let cut = tempfile::tempdir().unwrap();
        let fault = forged(cut.path(), |rows| rows[..90].to_vec()).unwrap();
        assert!((90..=91).contains(&fault.seq) && fault.what.contains("missing at the end"), "{fault:?}");
        let same = tempfile::tempdir().unwrap();
        assert_eq!(forged(same.path(), |rows| rechained(&rows, |_, _| {})), None);
    }

    #[test]
    fn a_forged_checkpoint_and_another_key_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        fill(&store, 0..100);
        let record = store.reader().signed_record().unwrap();
        let good = &record.checkpoints[0];
        let check = |trust: Trust, checkpoint: Checkpoint| {
            store.reader().verify_by(Some(trust), vec![checkpoint], &mut |_| {}).unwrap().first_bad
        };
        assert_eq!(check(Trust::Demanded(record.keys.clone()), good.clone()), None);
        let fault = check(Trust::Demanded(vec![[7; 32]]), good.clone()).unwrap();
        assert!(fault.what.contains("another key"), "{fault:?}");
        let mut forged = good.clone();
        forged.statement.hash[0] ^= 1;
        assert!(check(Trust::Any, forged).unwrap().what.contains("wrong signature"));
        // One that was kept elsewhere shows that rows are missing, although nothing here says so.
        let later = crate::store::signer::Signer::load(dir.path()).unwrap().unwrap().sign(Statement {
            kind: Kind::Hour,
            seq: 120,
            rows: 20,
            ..good.statement.clone()
        });
        assert!(check(Trust::Keys(record.keys), later).unwrap().what.contains("missing at the end"));
        let empty = tempfile::tempdir().unwrap();
        let (unsigned, _) = open(empty.path());
        let demanded =
            unsigned.reader().verify_by(Some(Trust::Demanded(vec![[7; 32]])), Vec::new(), &mut |_| {}).unwrap();
        assert!(demanded.first_bad.is_some());
    }

    #[test]
    fn hours_are_signed_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        let mut writer = store.ledger_writer().unwrap();
        let hour = std::time::Duration::from_secs(3600);
        for n in 0..5_u32 {
            let now = sample::START.plus(hour * n);
            writer.append(&crate::store::tests::items(u64::from(n) * 10..u64::from(n) * 10 + 10), now).unwrap();
            writer.tick(now.plus(hour / 2)).unwrap();
        }
        drop(writer);
        let record = store.reader().signed_record().unwrap();
        let spans: Vec<_> = record.checkpoints.iter().map(|c| (c.statement.first_seq, c.statement.seq)).collect();
        assert_eq!(spans, [(1, 10), (11, 20), (21, 30), (31, 40), (41, 50)]);
        assert!(record.checkpoints.iter().all(is_signed));
    }

    fn exported(store: &Store, wanted: impl Fn(&Row) -> bool) -> (Vec<Row>, Checkpoint) {
        let rows: Vec<Row> = rows(store, TimeRange::ALL).into_iter().filter(|row| wanted(row)).collect();
        let mut stream = ExportStream::new(ExportShape::parse("csv", None).unwrap()).unwrap();
        rows.iter().for_each(|row| stream.row(row).unwrap());
        let (_, checkpoint) = stream.finish(sample::START, |statement| store.reader().sign(statement)).unwrap();
        (rows, checkpoint.unwrap())
    }

    #[test]
    fn an_export_is_checked_row_by_row_whole_or_filtered() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        fill(&store, 0..100);
        let check = |rows: &[Row], checkpoint: &Checkpoint| {
            let rows = rows.iter().cloned().map(|row| Ok::<_, ()>(Ok(row)));
            check_export(rows, Some(checkpoint), &Trust::Any, &mut |_| {}).unwrap().first_bad.map(|fault| fault.seq)
        };
        let (whole, checkpoint) = exported(&store, |_| true);
        let (some, of_some) = exported(&store, |row| &*row.entry.endpoint == "gpt");
        assert!(checkpoint.statement.is_whole() && !of_some.statement.is_whole());
        assert_eq!((check(&whole, &checkpoint), check(&some, &of_some)), (None, None));
        // Each row is named exactly, although the chain was made anew.
        for seq in [1, 40, 100] {
            assert_eq!(check(&rechained(&whole, cheaper(seq)), &checkpoint), Some(seq));
        }
        assert_eq!(check(&whole[..90], &checkpoint), Some(91));
        assert_eq!(check(&whole[10..], &checkpoint), Some(1));
        let mut one = some.clone();
        one[5] = Row::chain(one[5].seq, Entry { cost: None, ..one[5].entry.clone() }, one[5].prev_hash);
        assert_eq!(check(&one, &of_some), Some(some[5].seq));
        let mut one = some.clone();
        one.remove(5);
        assert_eq!(check(&one, &of_some), Some(some[5].seq));
        let mut more = some.clone();
        more.insert(5, whole[usize::try_from(some[5].seq).unwrap() - 2].clone());
        assert!(check(&more, &of_some).is_some());
        assert!(check(&some[..some.len() - 1], &of_some).is_some());
        assert_eq!(check(&[], &exported(&store, |_| false).1), None);
    }
}
