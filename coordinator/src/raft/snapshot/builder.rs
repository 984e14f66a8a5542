//! Builds a group's snapshot from one view of the database: data and the position that it is as of
//! come from that same view, however apply goes on meanwhile.

use std::io;
use std::sync::Arc;

use maia_common::GroupId;
use openraft::RaftSnapshotBuilder;
use rocksdb::{Direction, IteratorMode, ReadOptions};

use super::super::db::{StateCf, family, io_error};
use super::super::keys::{APPLIED_MARK, ENGINE_MARK, GROUP_PREFIX_BYTES, group_key, group_range};
use super::super::state::db::{StateDb, decode_applied};
use super::super::types::{RaftSnapshot, RaftSnapshotMeta, RaftStoredMembership, TypeConfig};
use super::format::Writer;
use super::{SnapshotFile, SnapshotStore};

/// Builds snapshots of one group.
pub(crate) struct SnapshotBuilder {
    pub(crate) group: GroupId,
    pub(crate) state: Arc<StateDb>,
    pub(crate) snapshots: Arc<SnapshotStore>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<RaftSnapshot, io::Error> {
        let (group, state) = (self.group, Arc::clone(&self.state));
        let file = self.snapshots.temporary()?;
        let write = tokio::task::spawn_blocking(move || {
            let meta = write_group(&state, group, &file)?;
            Ok::<_, io::Error>((meta, file))
        });
        let (meta, file) = write.await.map_err(io::Error::other)??;
        // A snapshot ahead of the state on disk would be installed after a crash, and what is told of each
        // entry to origins would go with it.
        self.state.sync().await?;
        let snapshot = self.snapshots.adopt(self.group, &meta, file).await?;
        Ok(RaftSnapshot { meta, snapshot })
    }
}

/// Writes all of the group's keys as of now; returns as of which position that is.
fn write_group(
    state: &StateDb,
    group: GroupId,
    file: &SnapshotFile,
) -> io::Result<RaftSnapshotMeta> {
    let view = state.db.snapshot();
    let marks = family(&state.db, StateCf::Marks.name());
    let applied = view
        .get_cf(marks, group_key(group, APPLIED_MARK))
        .map_err(io_error)?;
    let (last_log_id, last_membership) = match applied {
        Some(bytes) => decode_applied(group, bytes.into())?,
        None => (None, RaftStoredMembership::default()),
    };
    let meta = RaftSnapshotMeta {
        last_log_id,
        last_membership,
    };
    let mut writer = Writer::new(&file.file, group, &meta)?;
    let (start, end) = group_range(group);
    for cf in StateCf::ALL {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end.clone());
        options.fill_cache(false);
        let mode = IteratorMode::From(&start, Direction::Forward);
        for row in view.iterator_cf_opt(family(&state.db, cf.name()), options, mode) {
            let (key, value) = row.map_err(io_error)?;
            let suffix = &key[GROUP_PREFIX_BYTES..];
            if cf == StateCf::Marks && suffix.first() == Some(&ENGINE_MARK) {
                continue;
            }
            writer.row(cf, suffix, &value)?;
        }
    }
    writer.finish(&file.file)?;
    Ok(meta)
}
