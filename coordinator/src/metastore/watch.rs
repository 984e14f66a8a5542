//! Watching: every change after a revision, in order, without gaps. Reads the history page by
//! page; waits for the next revision when it is at the end.

use std::collections::VecDeque;
use std::sync::Arc;

use maia_common::position::Revision;
use maia_common::wire::record::MetaChange;
use tokio::sync::watch as notify;

use super::Metastore;
use crate::core::metastore as core;
use crate::raft::{StateCf, StateError, StateView};

/// Changes read ahead at once: one of a load has some 300 KB.
const PAGE: usize = 16;

/// Why a watch ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The history begins later: read everything, then watch from there.
    #[error("the history before revision {oldest} is compacted")]
    Compacted {
        /// The oldest revision that is kept.
        oldest: Revision,
    },
    /// The state can't be read.
    #[error("{0}")]
    State(String),
    /// The metastore is stopping.
    #[error("the metastore is stopping")]
    Closed,
}

impl From<StateError> for WatchError {
    fn from(error: StateError) -> Self {
        WatchError::State(error.reason)
    }
}

/// A place in the history.
pub struct Watch {
    store: Arc<dyn Metastore>,
    at: Revision,
    revisions: notify::Receiver<Revision>,
    ahead: VecDeque<MetaChange>,
}

impl Watch {
    /// Watches all changes after this revision.
    #[must_use]
    pub fn new(store: Arc<dyn Metastore>, after: Revision) -> Self {
        let revisions = store.revisions();
        Self {
            store,
            at: after,
            revisions,
            ahead: VecDeque::new(),
        }
    }

    /// The revision of the last change that was returned.
    #[must_use]
    pub fn at(&self) -> Revision {
        self.at
    }

    /// The next change. Cancel-safe.
    ///
    /// # Errors
    /// [`WatchError::Compacted`] when the history no longer reaches back to it.
    pub async fn next(&mut self) -> Result<MetaChange, WatchError> {
        loop {
            if let Some(change) = self.ahead.pop_front() {
                self.at = Revision::new(change.revision);
                return Ok(change);
            }
            let at = self.at;
            self.revisions
                .wait_for(|newest| *newest > at)
                .await
                .map_err(|_| WatchError::Closed)?;
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<(), WatchError> {
        let mut rows = Vec::new();
        let mut current = Revision::default();
        let after = core::change_key(self.at);
        let prefix = core::meta_key("");
        self.store.read(&mut |view: &dyn StateView| {
            rows = view.scan(StateCf::Changes, &prefix, Some(&after), PAGE)?;
            current = core::current_revision(view)?;
            Ok(())
        })?;
        for (_, bytes) in rows {
            self.ahead.push_back(core::decode_change(bytes)?);
        }
        match self.ahead.front() {
            Some(first) if first.revision == self.at.get() + 1 => Ok(()),
            Some(first) => Err(WatchError::Compacted {
                oldest: Revision::new(first.revision),
            }),
            // The notice came before its change was visible, or after a snapshot without history.
            None if current > self.at => Err(WatchError::Compacted {
                oldest: current.next(),
            }),
            None => Ok(()),
        }
    }
}
