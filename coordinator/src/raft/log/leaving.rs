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
use super::salvage;
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
            let found = entries.iter().filter_map(|entry| self.row_of(entry, why));
            for row in self.unproven(found.collect(), Doubt::Stops).await? {
                bytes += row.1.len();
                rows.push(row);
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

    /// The same of all that can still be read from `start` on, where the log or the state is damaged and
    /// this node leaves the group. Puts it into quarantine itself.
    ///
    /// # Errors
    /// When the quarantine can't be written.
    pub(super) async fn salvage(&self, start: u64) -> io::Result<()> {
        let (mut next, mut lost, mut kept) = (Some(start), 0, 0);
        while let Some(from) = next {
            let (db, group) = (Arc::clone(&self.db), self.group);
            let read = move || salvage::read_on(&db, group, from, MAX_BATCH_BYTES);
            let part = tokio::task::spawn_blocking(read).await;
            let part = part.map_err(io::Error::other)?;
            let found = part.entries.iter();
            let found = found.filter_map(|entry| self.row_of(entry, Why::Left));
            let rows = self.unproven(found.collect(), Doubt::Keeps).await?;
            (next, lost, kept) = (part.next, lost + part.lost, kept + rows.len());
            self.durable(|done| Work::Quarantine { rows, done }).await?;
        }
        tracing::error!(
            group = %self.group, kept, lost,
            "left a group whose log or state is damaged: what could be read is in quarantine"
        );
        Ok(())
    }

    /// What is to be kept of an entry, unless the state, as a snapshot has brought it, proves that it
    /// was committed.
    fn row_of(&self, entry: &RaftEntry, why: Why) -> Option<(Position, QuarantineRow)> {
        let EntryPayload::Normal(record) = &entry.payload else {
            return None;
        };
        let position = position_of(&entry.log_id);
        let id = EntryId {
            group: self.group,
            position,
        };
        let acknowledged = self.tail.lock().early.is_acknowledged(position);
        let kept = quarantine::leaving(id, record, acknowledged, unix_ms(), why)?;
        let key = Bytes::copy_from_slice(&id.key());
        Some((position, (key, kept.encode())))
    }

    /// Those of them that the state does not prove to be committed. It is read off the runtime's threads, on
    /// which other groups' heartbeats run.
    async fn unproven(
        &self,
        rows: Vec<(Position, QuarantineRow)>,
        doubt: Doubt,
    ) -> io::Result<Vec<QuarantineRow>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let (group, reader) = (self.group, StateReader::new(Arc::clone(&self.state.db)));
        let read = move || {
            let (view, mut left) = (reader.snapshot(), Vec::new());
            for (position, row) in rows {
                match (view.standing(group, position), doubt) {
                    (Ok(Standing::Applied), _) => {}
                    (Err(error), Doubt::Stops) => return Err(io::Error::other(error)),
                    (Ok(_) | Err(_), _) => left.push(row),
                }
            }
            Ok(left)
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(io::Error::other)?
    }
}

/// What comes of a record of which the state can't tell whether it was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// Nothing is removed: the state may be read later.
    Stops,
    /// It is kept: the state is damaged, and has not proven it.
    Keeps,
}

/// By the wall clock, for the operator: nothing is decided by it.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
