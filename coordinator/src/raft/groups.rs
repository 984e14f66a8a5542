//! Which groups run on this node. Shared by the engine and the receiving side.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use maia_common::{GroupId, NodeId};

use super::group::Group;

/// A group as the engine knows it.
#[derive(Clone)]
pub(crate) enum GroupEntry {
    Running(Arc<Group>),
    /// It could not be started, and why.
    Failed(Stop),
}

/// Why a group does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) reason: String,
    /// Its storage is damaged: to try again is of no use.
    pub(crate) damaged: bool,
    /// The group's witness, if it began with one.
    pub(crate) witness: Option<NodeId>,
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self {
            reason: error.to_string(),
            damaged: error.kind() == io::ErrorKind::InvalidData,
            witness: None,
        }
    }
}

/// The groups of a node.
#[derive(Default)]
pub(crate) struct Groups {
    entries: RwLock<HashMap<GroupId, GroupEntry>>,
    /// Whether this node shall not lead those that start now, until it is said of each.
    pub(super) is_clock_doubted: AtomicBool,
}

impl Groups {
    /// The group, if it runs.
    pub(crate) fn running(&self, group: GroupId) -> Option<Arc<Group>> {
        match self.read().get(&group)? {
            GroupEntry::Running(group) => Some(Arc::clone(group)),
            GroupEntry::Failed(_) => None,
        }
    }

    pub(crate) fn entry(&self, group: GroupId) -> Option<GroupEntry> {
        self.read().get(&group).cloned()
    }

    pub(crate) fn set(&self, group: GroupId, entry: GroupEntry) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.insert(group, entry);
    }

    pub(crate) fn remove(&self, group: GroupId) -> Option<GroupEntry> {
        self.entries
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&group)
    }

    /// All groups, running or not, by id.
    pub(crate) fn ids(&self) -> Vec<GroupId> {
        let mut ids: Vec<GroupId> = self.read().keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<GroupId, GroupEntry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }
}
