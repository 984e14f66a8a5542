//! Reads committed entries of a group for those who follow it: in order, only what is applied here,
//! and with each entry what it did where its record does not tell. Called by the data service, for
//! pages and streams of entries.
//!
//! ```text
//!  log   ─ purged ─┤ retained, applied entry by entry ├─ applied ─┤ not yet committed, or not applied
//!  state ─ came with a snapshot ─┤ traces of entries ───┤
//! ```
//! While it reads, a purge or a snapshot may take entries or traces away. Both move the lower end
//! first, or in the same batch, so it is enough to look at the lower end again when all is read.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use maia_common::{GroupId, Position};
use openraft::EntryPayload;

use super::engine::Engine;
use super::group::Group;
use super::log::reader::LogReader;
use super::types::{RaftEntry, RaftLogId, log_id, next_index, position_of};
use crate::core::record::Record;

/// A committed entry, applied here.
#[derive(Debug, Clone)]
pub struct AppliedEntry {
    /// Where it stands.
    pub position: Position,
    /// Its record; none: an entry of Raft's own.
    pub record: Option<Record>,
    /// What it did, if its record does not tell.
    pub trace: Option<Bytes>,
}

impl AppliedEntry {
    /// What reading it took, about.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let record = self.record.as_ref().map_or(0, |record| record.body.len());
        record + self.trace.as_ref().map_or(0, Bytes::len)
    }
}

/// Entries without a gap.
#[derive(Debug, Clone)]
pub struct Stretch {
    /// In order, right behind where they were asked for.
    pub entries: Vec<AppliedEntry>,
    /// Where they end; none: the log has none at all.
    pub upto: Option<Position>,
    /// Whether more are applied here.
    pub more: bool,
}

/// Why there are no entries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntriesError {
    /// The group does not run here.
    #[error("the group does not run on this node")]
    NotHere,
    /// A snapshot is just being installed.
    #[error("the group's state is just being replaced by a newer one")]
    Replacing,
    /// What follows the position is no longer in the log.
    #[error("the log begins after {from}")]
    NotRetained {
        /// The oldest position behind which it has everything.
        from: Position,
    },
    /// No entry of this history ever had the position.
    #[error("the position is not part of the group's history")]
    Diverged,
    /// This node has not applied so much yet.
    #[error("this node has not come so far yet")]
    NotYet,
    /// The disk, or rot.
    #[error("{0}")]
    Failed(String),
}

impl From<io::Error> for EntriesError {
    fn from(error: io::Error) -> Self {
        EntriesError::Failed(error.to_string())
    }
}

impl Engine {
    /// Entries after a position (none: from the first on): at most `max_entries`, up to about
    /// `max_bytes` but at least one if there is one. Waits while too many others read.
    ///
    /// # Errors
    /// [`EntriesError`].
    pub async fn entries(
        &self,
        group: GroupId,
        after: Option<Position>,
        max_bytes: usize,
        max_entries: usize,
    ) -> Result<Stretch, EntriesError> {
        let reading = Arc::clone(&self.reading).acquire_owned().await;
        let _place = reading.expect("it is never closed");
        let running = self.running(group).map_err(|_| EntriesError::NotHere)?;
        let applied = running.raft.watch_apply_progress().get();
        let reader = LogReader::over(group, running.tail.clone(), Arc::clone(&self.raft_db));
        let start = self
            .check(&running, &reader, after, applied.as_ref())
            .await?;
        let applied_end = next_index(applied.as_ref());
        let end = applied_end.min(start.saturating_add(max_entries as u64));
        let mut entries = Vec::new();
        if start < end {
            entries = reader.read(start, end, max_bytes).await?;
        }
        let mut traces = BTreeMap::new();
        if let Some(last) = entries.last() {
            let range = (start, last.log_id.index() + 1);
            let state = Arc::clone(&self.state);
            let read = move || state.traces(group, range, max_bytes);
            let read = tokio::task::spawn_blocking(read).await;
            traces = read.map_err(io::Error::other)??;
        }
        self.check_retained(&running, after)?;
        if start < end && entries.first().is_none_or(|e| e.log_id.index() != start) {
            return Err(EntriesError::Failed("entries are missing".to_owned()));
        }
        cut(&mut entries, &traces, max_bytes);
        let upto = entries.last().map(|e| position_of(&e.log_id)).or(after);
        let more = upto.map_or(0, |upto| upto.index.get() + 1) < applied_end;
        let entries = entries.into_iter().map(|entry| show(entry, &mut traces));
        Ok(Stretch {
            entries: entries.collect(),
            upto,
            more,
        })
    }

    /// Up to where the group is applied here, and the oldest position behind which its log has
    /// everything (none: it has everything).
    ///
    /// # Errors
    /// [`EntriesError`].
    pub fn applied_and_oldest(
        &self,
        group: GroupId,
    ) -> Result<(Option<Position>, Option<Position>), EntriesError> {
        let running = self.running(group).map_err(|_| EntriesError::NotHere)?;
        let applied = running.raft.watch_apply_progress().get();
        let oldest = self.oldest(&running)?;
        Ok((
            applied.as_ref().map(position_of),
            oldest.as_ref().map(position_of),
        ))
    }

    /// The last entry that can't be read any more.
    fn oldest(&self, group: &Group) -> Result<Option<RaftLogId>, EntriesError> {
        let installed = self.state.installed(group.id)?;
        Ok(group.tail.lock().purged.max(installed))
    }

    fn check_retained(&self, group: &Group, after: Option<Position>) -> Result<(), EntriesError> {
        if self.state.is_installing(group.id)? {
            return Err(EntriesError::Replacing);
        }
        let oldest = self.oldest(group)?.as_ref().map(position_of);
        match (oldest, after) {
            (Some(from), None) => Err(EntriesError::NotRetained { from }),
            (Some(from), Some(after)) if after.index < from.index => {
                Err(EntriesError::NotRetained { from })
            }
            _ => Ok(()),
        }
    }

    /// Whether the position is of this history, and what follows it is there; the index that follows.
    async fn check(
        &self,
        group: &Group,
        reader: &LogReader,
        after: Option<Position>,
        applied: Option<&RaftLogId>,
    ) -> Result<u64, EntriesError> {
        let Some(after) = after else {
            self.check_retained(group, None)?;
            return Ok(0);
        };
        let index = after.index.get();
        let id = log_id(after.term.get(), index);
        if index >= next_index(applied) {
            let is_later = applied.is_none_or(|applied| id > *applied);
            return Err(if is_later {
                EntriesError::NotYet
            } else {
                EntriesError::Diverged
            });
        }
        self.check_retained(group, Some(after))?;
        let known = match self.oldest(group)? {
            Some(oldest) if oldest.index() == index => Some(oldest),
            _ => {
                let found = reader.read(index, index + 1, 1).await?;
                found.first().map(|entry| entry.log_id)
            }
        };
        match known {
            Some(known) if known == id => Ok(index + 1),
            Some(_) => Err(EntriesError::Diverged),
            None => {
                self.check_retained(group, Some(after))?;
                Err(EntriesError::Failed("an entry is missing".to_owned()))
            }
        }
    }
}

/// Traces were read up to about `max_bytes`: entries behind the last of them may have one that was not.
fn cut(entries: &mut Vec<RaftEntry>, traces: &BTreeMap<u64, Bytes>, max_bytes: usize) {
    let bytes: usize = traces.values().map(Bytes::len).sum();
    if bytes >= max_bytes
        && let Some((last, _)) = traces.last_key_value()
    {
        entries.retain(|entry| entry.log_id.index() <= *last);
    }
}

fn show(entry: RaftEntry, traces: &mut BTreeMap<u64, Bytes>) -> AppliedEntry {
    let trace = traces.remove(&entry.log_id.index());
    AppliedEntry {
        position: position_of(&entry.log_id),
        record: match entry.payload {
            EntryPayload::Normal(record) => Some(record),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        },
        trace,
    }
}
