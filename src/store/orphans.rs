//! What a killed process was doing at the cost of hard budgets: attempts that were on disk before they left, and of whose end no row
//! tells. Each becomes a row, uncertain and charged with all that was reserved for it; so spend is never less than what was spent.

use crate::domain::budget::open::OpenAttempt;
use crate::domain::ledger::Entry;
use crate::domain::sums::TimeRange;
use crate::domain::time::Wall;
use crate::store::{Area, LedgerItem, LedgerWriter, Store, StoreError};
use std::collections::HashSet;
use std::time::Duration;

/// Rows written at a time.
const AT_A_TIME: usize = 512;
/// A row's time may be evened out, and two clocks of a machine need not agree: rows from this long before are looked at.
const SLACK: Duration = Duration::from_secs(60);

impl Store {
    /// Writes the rows of attempts that nobody told the end of; returns how many there were. To be called before anything else is
    /// written.
    ///
    /// # Errors
    /// The store failed. Called again, it goes on where it was.
    pub fn settle_open(&self, writer: &mut LedgerWriter, now: Wall) -> Result<usize, StoreError> {
        let state = self.state();
        let stored = state.list(Area::Open)?;
        if stored.is_empty() {
            return Ok(0);
        }
        let rows: Vec<LedgerItem> = self.untold(&stored)?.into_iter().map(LedgerItem::Row).collect();
        for items in rows.chunks(AT_A_TIME) {
            writer.append(items, now)?;
        }
        let names: Vec<&str> = stored.iter().map(|(name, _)| name.as_str()).collect();
        state.delete_all(Area::Open, &names, true)?;
        Ok(rows.len())
    }

    /// The rows that [`Self::settle_open`] would write.
    ///
    /// # Errors
    /// The store failed.
    pub fn open_rows(&self) -> Result<Vec<Entry>, StoreError> {
        self.untold(&self.state().list(Area::Open)?)
    }

    fn untold(&self, stored: &[(String, Vec<u8>)]) -> Result<Vec<Entry>, StoreError> {
        let read = |bytes: &[u8]| serde_json::from_slice::<OpenAttempt>(bytes).ok();
        let mut open: Vec<OpenAttempt> = stored.iter().filter_map(|(_, bytes)| read(bytes)).collect();
        open.sort_by_key(|attempt| attempt.at);
        self.remove_told(&mut open)?;
        Ok(open.into_iter().map(OpenAttempt::into_row).collect())
    }

    /// Takes out those whose row is there.
    fn remove_told(&self, open: &mut Vec<OpenAttempt>) -> Result<(), StoreError> {
        let Some(first) = open.first() else { return Ok(()) };
        let since = TimeRange { from: Some(first.at.minus(SLACK)), to: None };
        let wanted: HashSet<_> = open.iter().map(|attempt| attempt.request_id.clone()).collect();
        for row in self.reader().rows(since)? {
            let entry = row?.entry;
            if wanted.contains(&entry.request_id) {
                open.retain(|attempt| !(attempt.is_told_by(&entry) && entry.at >= attempt.at.minus(SLACK)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::money::NanoUsd;
    use crate::domain::sample;
    use crate::store::OpenOptions;

    fn open(request_id: &str, at: Wall) -> OpenAttempt {
        OpenAttempt {
            at,
            request_id: request_id.into(),
            attempt: 1,
            endpoint: "gpt".into(),
            provider: "p".into(),
            model: "m".into(),
            route: "chat".into(),
            key_id: "key_1".into(),
            tags: vec![("team".into(), "a".into())].into(),
            stream: false,
            prompt_tokens: 30,
            completion_tokens: 100,
            ceiling: NanoUsd(777),
            price_version: "config:1".into(),
            decision: "priority/1".into(),
        }
    }

    #[test]
    fn who_was_never_told_of_is_charged_once() {
        let folder = tempfile::tempdir().unwrap();
        let options = OpenOptions::at(&folder.path().join("store"), Wall(0));
        let (store, _) = Store::open(&options).unwrap();
        let at = Wall(1_795_461_720_000_000);
        let mut ended = sample::nth(0);
        (ended.at, ended.request_id, ended.attempt, ended.endpoint) =
            (at.plus(SLACK / 2), "ended".into(), 1, "gpt".into());
        let mut writer = store.ledger_writer().unwrap();
        writer.append(&[LedgerItem::Row(ended)], at).unwrap();
        for (name, id) in [("1", "ended"), ("2", "lost"), ("3", "lost too")] {
            let bytes = serde_json::to_vec(&open(id, at)).unwrap();
            store.state().put(Area::Open, name, &bytes, true).unwrap();
        }
        store.state().put(Area::Open, "4", b"not an attempt", true).unwrap();
        assert_eq!(store.settle_open(&mut writer, at).unwrap(), 2);
        assert_eq!(store.settle_open(&mut writer, at).unwrap(), 0, "nothing is charged twice");
        let rows: Vec<_> = store.reader().rows(TimeRange::ALL).unwrap().map(|row| row.unwrap().entry).collect();
        let lost: Vec<_> = rows.iter().filter(|e| &*e.decision == "priority/1;orphan").collect();
        assert_eq!((rows.len(), lost.len()), (3, 2));
        assert!(lost.iter().all(|e| &*e.outcome == "uncertain" && e.cost == Some(NanoUsd(777)) && e.at == at));
        assert!(store.state().list(Area::Open).unwrap().is_empty());
    }
}
