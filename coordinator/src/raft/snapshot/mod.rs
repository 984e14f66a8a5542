//! Snapshots of a group: files that hold all of its state as of one position. Owns the folder
//! `snapshots/` of the node and which file is current for each group; one is kept per group.
//!
//! ```text
//! build:   one RocksDB snapshot view → temporary file → fsync → rename → fsync of the folder
//! receive: stream → temporary file → fsync → verify all → adopt (rename) → install
//! ```
//! A file under its final name is whole. Whatever else lies in the folder is removed at start.

pub(crate) mod builder;
pub(crate) mod format;
pub(crate) mod install;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use maia_common::GroupId;
use tempfile::TempPath;

use super::types::{RaftSnapshot, RaftSnapshotMeta, term_of};

/// An open snapshot file: readable as long as it is held, even after its deletion.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    pub(crate) file: Arc<File>,
    pub(crate) path: PathBuf,
    /// Deletes a temporary file that nobody adopted.
    _temporary: Option<Arc<TempPath>>,
}

impl SnapshotFile {
    /// The file's length in bytes.
    pub(crate) fn length_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn open(path: &Path) -> io::Result<Self> {
        let file = Arc::new(File::open(path)?);
        Ok(Self {
            file,
            path: path.to_owned(),
            _temporary: None,
        })
    }
}

/// The node's snapshot files.
pub(crate) struct SnapshotStore {
    dir: PathBuf,
    current: Mutex<HashMap<GroupId, RaftSnapshot>>,
}

impl SnapshotStore {
    /// Opens the folder and removes what a crash left of unfinished files.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let dir = dir.join("snapshots");
        std::fs::create_dir_all(&dir)?;
        for file in std::fs::read_dir(&dir)? {
            let path = file?.path();
            if path.extension().is_none_or(|e| e != "snap") {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(Self {
            dir,
            current: Mutex::default(),
        })
    }

    /// Finds the group's newest file on disk; older ones are deleted.
    pub(crate) fn load(&self, group: GroupId) -> io::Result<()> {
        let mut newest: Option<RaftSnapshot> = None;
        let paths = self.files(group)?;
        for path in &paths {
            let snapshot = SnapshotFile::open(path)?;
            let meta = format::read_meta(&snapshot.file, group)?;
            if newest
                .as_ref()
                .is_none_or(|n| n.meta.last_log_id < meta.last_log_id)
            {
                newest = Some(RaftSnapshot { meta, snapshot });
            }
        }
        let keep = newest.as_ref().map(|n| n.snapshot.path.clone());
        for path in paths.into_iter().filter(|path| Some(path) != keep.as_ref()) {
            std::fs::remove_file(path)?;
        }
        if let Some(newest) = newest {
            self.lock().insert(group, newest);
        }
        Ok(())
    }

    /// The group's newest snapshot.
    pub(crate) fn current(&self, group: GroupId) -> Option<RaftSnapshot> {
        self.lock().get(&group).cloned()
    }

    /// Deletes the group's snapshots, loaded or not, whole or damaged.
    pub(crate) fn forget(&self, group: GroupId) -> io::Result<()> {
        self.lock().remove(&group);
        for path in self.files(group)? {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }

    fn files(&self, group: GroupId) -> io::Result<Vec<PathBuf>> {
        let prefix = format!("group-{group}-");
        let mut paths = Vec::new();
        for file in std::fs::read_dir(&self.dir)? {
            let path = file?.path();
            let name = path.file_name().and_then(|n| n.to_str());
            if name.is_some_and(|name| name.starts_with(&prefix)) {
                paths.push(path);
            }
        }
        Ok(paths)
    }

    /// A new temporary file in the folder, deleted unless adopted.
    pub(crate) fn temporary(&self) -> io::Result<SnapshotFile> {
        let (file, path) = tempfile::Builder::new()
            .suffix(".tmp")
            .tempfile_in(&self.dir)?
            .into_parts();
        Ok(SnapshotFile {
            file: Arc::new(file),
            path: path.to_path_buf(),
            _temporary: Some(Arc::new(path)),
        })
    }

    /// Makes a whole, synced file the group's current snapshot. A file from elsewhere is copied.
    pub(crate) async fn adopt(
        self: &Arc<Self>,
        group: GroupId,
        meta: &RaftSnapshotMeta,
        snapshot: SnapshotFile,
    ) -> io::Result<SnapshotFile> {
        let (store, meta) = (Arc::clone(self), meta.clone());
        tokio::task::spawn_blocking(move || store.adopt_blocking(group, meta, &snapshot))
            .await
            .map_err(io::Error::other)?
    }

    fn adopt_blocking(
        &self,
        group: GroupId,
        meta: RaftSnapshotMeta,
        snapshot: &SnapshotFile,
    ) -> io::Result<SnapshotFile> {
        let last = meta.last_log_id.as_ref();
        let (term, index) = last.map_or((0, 0), |id| (term_of(id), id.index()));
        let path = self.dir.join(format!("group-{group}-{term}-{index}.snap"));
        if snapshot.path != path {
            if snapshot.path.parent() == Some(&self.dir) {
                std::fs::rename(&snapshot.path, &path)?;
            } else {
                let copy = self.temporary()?;
                std::fs::copy(&snapshot.path, &copy.path)?;
                copy.file.sync_all()?;
                std::fs::rename(&copy.path, &path)?;
            }
            File::open(&self.dir)?.sync_all()?;
        }
        let kept = SnapshotFile::open(&path)?;
        let new = RaftSnapshot {
            meta,
            snapshot: kept.clone(),
        };
        let old = self.replace(group, new);
        if let Some(old) = old.filter(|old| old.snapshot.path != path) {
            std::fs::remove_file(&old.snapshot.path)?;
        }
        Ok(kept)
    }

    /// Makes `new` current unless a newer one is; returns the one that is not current any more.
    fn replace(&self, group: GroupId, new: RaftSnapshot) -> Option<RaftSnapshot> {
        let mut current = self.lock();
        match current.get(&group) {
            Some(old) if old.meta.last_log_id > new.meta.last_log_id => Some(new),
            _ => current.insert(group, new),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<GroupId, RaftSnapshot>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
