//! What becomes of a group's entries that leave its log before this node knows that they are committed:
//! data records go to quarantine, in the batch that removes them (I3). Where there are more than one
//! batch should carry, the first ones are put there before: an entry may be in both places for a
//! moment, and is never in none.

use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use maia_common::Position;
use openraft::EntryPayload;

use super::super::state::reader::StateReader;
use super::super::types::{RaftEntry, position_of};
use super::reader::LogReader;
use super::store::GroupLog;
use super::work::{QuarantineRow, Work};
use crate::core::history::Standing;
use crate::core::quarantine::{self, EntryId, Why};

/// Bytes of records that one batch puts into quarantine, about.
const MAX_BATCH_BYTES: usize = 4 << 20;

impl GroupLog {
    /// Looks through entries `[start, end)`, which are about to leave the log. Returns what the batch
    /// that removes them must put into quarantine.
    ///
    /// # Errors
    /// When the log can't be read: what can't be read can't be kept.
    pub(super) async fn leaving(
        &self,
        start: u64,
        end: u64,
        why: Why,
    ) -> io::Result<Vec<QuarantineRow>> {
        let reader = LogReader::new(self);
        let (mut rows, mut bytes, mut from) = (Vec::new(), 0, start);
        while from < end {
            let entries = reader.read(from, end, MAX_BATCH_BYTES).await?;
            let Some(last) = entries.last() else {
                break;
            };
            from = last.log_id.index() + 1;
            for entry in &entries {
                if let Some((key, value)) = self.row_of(entry, why)? {
                    bytes += value.len();
                    rows.push((key, value));
                }
            }
            if bytes >= MAX_BATCH_BYTES && from < end {
                let full = std::mem::take(&mut rows);
                self.durable(|done| Work::Quarantine { rows: full, done })
                    .await?;
                bytes = 0;
            }
        }
        Ok(rows)
    }

    /// What is to be kept of an entry: nothing where the state, as a snapshot has brought it, proves
    /// that it was committed.
    fn row_of(&self, entry: &RaftEntry, why: Why) -> io::Result<Option<QuarantineRow>> {
        let EntryPayload::Normal(record) = &entry.payload else {
            return Ok(None);
        };
        let position = position_of(&entry.log_id);
        let id = EntryId {
            group: self.group,
            position,
        };
        let acknowledged = self.tail.lock().is_acknowledged(position);
        let kept = quarantine::leaving(id, record, acknowledged, unix_ms(), why);
        let Some(kept) = kept else {
            return Ok(None);
        };
        if self.is_applied(position)? {
            return Ok(None);
        }
        let row: (Bytes, Bytes) = (Bytes::copy_from_slice(&id.key()), kept.encode());
        Ok(Some(row))
    }

    fn is_applied(&self, position: Position) -> io::Result<bool> {
        let reader = StateReader::new(Arc::clone(&self.state.db));
        let standing = reader.snapshot().standing(self.group, position);
        Ok(standing.map_err(io::Error::other)? == Standing::Applied)
    }
}

/// By the wall clock, for the operator: nothing is decided by it.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
