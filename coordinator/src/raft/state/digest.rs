//! The digest of a group's applied state at a position, by which replicas prove that theirs is the same
//! (I13). Computed over one RocksDB view, row by row: nothing is added to the way of a write, and what
//! has rotted or was lost on disk is noticed, too, which a sum that is kept along with the writes would
//! not. The price is a read of all of the group's rows, so one is computed at a time and seldom, and a
//! group under load is only compared when two replicas happen to be looked at in one position.

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
    /// The digest of the group's state as applied here; waits while another one is computed.
    ///
    /// # Errors
    /// [`StateError`]: the database failed, or the state is just being replaced.
    pub async fn digest(&self, group: GroupId) -> Result<StateDigest, StateError> {
        let _one_at_a_time = self.digesting.lock().await;
        let state = self.state();
        let computed = tokio::task::spawn_blocking(move || compute(&state, group));
        computed.await.map_err(|error| StateError {
            reason: error.to_string(),
        })?
    }
}

fn compute(state: &StateReader, group: GroupId) -> Result<StateDigest, StateError> {
    let view = state.snapshot();
    view.check_complete(group)?;
    let position = view.applied(group)?;
    let (mut hasher, mut rows) = (blake3::Hasher::new(), 0);
    for (number, cf) in (0u8..).zip(StateCf::ALL) {
        view.each_row(cf, group, |key, value| {
            let suffix = &key[GROUP_PREFIX_BYTES..];
            if cf == StateCf::Marks && suffix.first() == Some(&ENGINE_MARK) {
                return;
            }
            rows += 1;
            hasher.update(&[number]);
            for part in [suffix, value] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
        })?;
    }
    let digest = *hasher.finalize().as_bytes();
    Ok(StateDigest {
        position,
        digest,
        rows,
    })
}
