//! The digest of a group's applied state at a position, by which replicas prove that theirs is the same
//! (I13). Computed over one RocksDB view, row by row: nothing is added to the way of a write, and what
//! has rotted or was lost on disk is noticed, too, which a sum that is kept along with the writes would
//! not. The price is a read of all of the group's rows, so one is computed at a time and seldom, and a
//! group under load is only compared when two replicas happen to be looked at in one position.

use std::sync::Arc;

use maia_common::{GroupId, Position};

use super::super::db::StateCf;
use super::super::engine::Engine;
use super::super::keys::{ENGINE_MARK, GROUP_PREFIX_BYTES};
use super::applier::StateError;
use super::reader::StateReader;

/// The digest of a group's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateDigest {
    /// As of where; none: nothing is applied.
    pub position: Option<Position>,
    /// BLAKE3 of all rows in order, but for the engine's own marks.
    pub digest: [u8; 32],
    /// How many rows there are.
    pub rows: u64,
}

impl Engine {
    /// The digest of the group's state as applied here; waits while another one is computed. Dropped,
    /// it stops reading.
    ///
    /// # Errors
    /// [`StateError`]: the database failed, or the state is just being replaced.
    pub async fn digest(&self, group: GroupId) -> Result<StateDigest, StateError> {
        let one_at_a_time = Arc::clone(&self.digesting).lock_owned().await;
        let state = self.state();
        // Whoever asks may be gone before the thread is done: it must neither go on nor be one of many.
        let asking = Arc::new(());
        let asker = Arc::downgrade(&asking);
        let computed = tokio::task::spawn_blocking(move || {
            let _one_at_a_time = one_at_a_time;
            compute(&state, group, || asker.strong_count() > 0)
        });
        let computed = computed.await;
        drop(asking);
        computed.map_err(|error| StateError {
            reason: error.to_string(),
        })?
    }
}

fn compute(
    state: &StateReader,
    group: GroupId,
    is_wanted: impl Fn() -> bool,
) -> Result<StateDigest, StateError> {
    let view = state.snapshot();
    view.check_complete(group)?;
    let position = view.applied(group)?;
    let (mut hasher, mut rows) = (blake3::Hasher::new(), 0);
    for (number, cf) in (0u8..).zip(StateCf::ALL) {
        view.each_row(cf, group, |key, value| {
            if !is_wanted() {
                let reason = "nobody waits for the digest any more".to_owned();
                return Err(StateError { reason });
            }
            let suffix = &key[GROUP_PREFIX_BYTES..];
            if cf == StateCf::Marks && suffix.first() == Some(&ENGINE_MARK) {
                return Ok(());
            }
            rows += 1;
            hasher.update(&[number]);
            for part in [suffix, value] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
            Ok(())
        })?;
    }
    let digest = *hasher.finalize().as_bytes();
    Ok(StateDigest {
        position,
        digest,
        rows,
    })
}

#[cfg(test)]
mod tests {
    use rocksdb::{Cache, DB, WriteBatch};

    use super::super::super::db::{DbMemory, family, open_state};
    use super::super::super::keys::group_key;
    use super::*;

    const G: GroupId = GroupId::new(3);

    fn filled(db: &DB) {
        let mut batch = WriteBatch::default();
        for n in 0..10u8 {
            let cf = family(db, StateCf::Data.name());
            batch.put_cf(cf, group_key(G, &[b'k', n]), [n]);
        }
        db.write(batch).unwrap();
    }

    #[test]
    fn what_nobody_waits_for_is_not_read_on() {
        let (dir, memory) = (tempfile::tempdir().unwrap(), DbMemory::default());
        let db = open_state(dir.path(), &memory, &Cache::new_lru_cache(1 << 20), false).unwrap();
        filled(&db);
        let state = StateReader::new(db);
        assert_eq!(compute(&state, G, || true).unwrap().rows, 10);
        let left = std::cell::Cell::new(4);
        let is_wanted = || left.replace(left.get() - 1) > 0;
        compute(&state, G, is_wanted).unwrap_err();
        assert_eq!(left.get(), -1, "it ended at the first row after");
    }
}
