//! The view that an applier reads: the database under an overlay of the batch that is being made,
//! so that a record sees what earlier records of the same batch wrote (I8, compare-and-set).

use std::collections::BTreeMap;
use std::ops::Bound;

use rocksdb::{DB, WriteBatch};

use super::super::db::{StateCf, family};
use super::applier::{Rows, StateError, StateView, Write};
use super::reader;

/// Database plus pending writes.
pub(crate) struct PendingView<'a> {
    db: &'a DB,
    overlay: BTreeMap<(StateCf, Vec<u8>), Option<Vec<u8>>>,
}

impl<'a> PendingView<'a> {
    pub(crate) fn new(db: &'a DB) -> Self {
        Self {
            db,
            overlay: BTreeMap::new(),
        }
    }

    /// Lets a record's writes be seen by the next ones.
    pub(crate) fn extend(&mut self, writes: impl IntoIterator<Item = Write>) {
        for write in writes {
            self.overlay.insert((write.cf, write.key), write.value);
        }
    }

    /// All pending writes, for the database.
    pub(crate) fn into_batch(self) -> WriteBatch {
        let mut batch = WriteBatch::default();
        for ((cf, key), value) in self.overlay {
            match value {
                Some(value) => batch.put_cf(family(self.db, cf.name()), key, value),
                None => batch.delete_cf(family(self.db, cf.name()), key),
            }
        }
        batch
    }

    /// Pending writes of a scan's range.
    fn pending(
        &self,
        cf: StateCf,
        prefix: &[u8],
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = (&Vec<u8>, &Option<Vec<u8>>)> {
        let prefix = prefix.to_vec();
        let from = match after {
            Some(after) if after >= prefix.as_slice() => Bound::Excluded((cf, after.to_vec())),
            _ => Bound::Included((cf, prefix.clone())),
        };
        self.overlay
            .range((from, Bound::Unbounded))
            .take_while(move |((in_cf, key), _)| *in_cf == cf && key.starts_with(&prefix))
            .map(|((_, key), value)| (key, value))
    }
}

impl StateView for PendingView<'_> {
    fn get(&self, cf: StateCf, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        if !self.overlay.is_empty()
            && let Some(pending) = self.overlay.get(&(cf, key.to_vec()))
        {
            return Ok(pending.clone());
        }
        reader::get(self.db, cf, key)
    }

    fn scan(
        &self,
        cf: StateCf,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, StateError> {
        let hidden = self.pending(cf, prefix, after).count();
        if hidden == 0 {
            return reader::scan(self.db, cf, prefix, after, limit);
        }
        // Each pending write hides at most one row, so this many are enough.
        let stored = reader::scan(self.db, cf, prefix, after, limit.saturating_add(hidden))?;
        let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = stored.into_iter().collect();
        for (key, value) in self.pending(cf, prefix, after) {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        Ok(rows.into_iter().take(limit).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rocksdb::Cache;

    use super::super::super::config::DbOptions;
    use super::super::super::db::open_state;
    use super::*;

    fn any_writes() -> impl Strategy<Value = Vec<(Vec<u8>, Option<Vec<u8>>)>> {
        let key = proptest::collection::vec(0..3u8, 0..4);
        let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..3));
        proptest::collection::vec((key, value), 0..24)
    }

    /// Whatever is stored and pending, reads are those of a map to which all was applied.
    #[test]
    fn reads_see_the_database_under_the_pending_writes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new_lru_cache(1 << 20);
        let db = open_state(dir.path(), &DbOptions::default(), &cache).unwrap();
        let families = [StateCf::Meta, StateCf::Data];
        let case = (
            any_writes(),
            any_writes(),
            proptest::collection::vec(0..3u8, 0..3),
            proptest::option::of(proptest::collection::vec(0..3u8, 0..4)),
            0..6usize,
        );
        proptest!(|((stored, pending, prefix, after, limit) in case)| {
            let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            let mut clear = WriteBatch::default();
            for cf in families {
                clear.delete_range_cf(family(&db, cf.name()), vec![0u8; 0], vec![255u8]);
            }
            db.write(clear).unwrap();
            for (key, value) in &stored {
                let Some(value) = value else { continue };
                db.put_cf(family(&db, StateCf::Meta.name()), key, value).unwrap();
                db.put_cf(family(&db, StateCf::Data.name()), key, b"other family").unwrap();
                model.insert(key.clone(), value.clone());
            }
            let mut view = PendingView::new(&db);
            view.extend(pending.iter().map(|(key, value)| Write {
                cf: StateCf::Meta,
                key: key.clone(),
                value: value.clone(),
            }));
            for (key, value) in pending {
                match value {
                    Some(value) => model.insert(key, value),
                    None => model.remove(&key),
                };
            }
            for (key, _) in stored {
                let got = view.get(StateCf::Meta, &key).unwrap();
                prop_assert_eq!(got.as_ref(), model.get(&key));
            }
            let expected: Rows = model
                .into_iter()
                .filter(|(key, _)| key.starts_with(&prefix))
                .filter(|(key, _)| after.as_ref().is_none_or(|after| key > after))
                .take(limit)
                .collect();
            let got = view.scan(StateCf::Meta, &prefix, after.as_deref(), limit).unwrap();
            prop_assert_eq!(got, expected);
        });
    }
}
