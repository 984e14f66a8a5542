//! How far this node's copy of a group is behind the group's leader; the rule is `core/lag`. Fed by
//! every message of a leader, asked by whoever serves reads.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use maia_common::position::Term;
use maia_common::{GroupId, Index};
use openraft::raft::AppendEntriesRequest;

use super::engine::Engine;
use super::group::{Group, Role, millis};
use super::types::{TypeConfig, term_of};
use crate::core::hlc;

impl Engine {
    /// How far what is applied here may be behind what the group's leader has committed; zero at a
    /// leader whose lease lives and that has applied its term's first record. None: not known, as before
    /// that, or when no leader has been heard since the start.
    #[must_use]
    pub fn lag(&self, group: GroupId) -> Option<Duration> {
        let group = self.groups.running(group)?;
        let status = group.status();
        if status.role == Role::Leader && status.voters.len() == 1 {
            return Some(Duration::ZERO);
        }
        if status.role == Role::Leader {
            // Until the first record of its term is applied, what earlier leaders acknowledged may not be.
            let applied = group.raft.watch_apply_progress().get();
            let applied = applied.map(|id| Term::new(term_of(&id)));
            if !hlc::may_stamp(applied, status.term) {
                return None;
            }
            let silent = Duration::from_millis(status.millis_since_quorum_ack?);
            let leads = silent < self.config.election_max;
            return Some(if leads { Duration::ZERO } else { silent });
        }
        let mut trail = group.trail.lock().unwrap_or_else(PoisonError::into_inner);
        let applied = group.applied_index();
        trail
            .lag_ms(applied, millis(group.started.elapsed()))
            .map(Duration::from_millis)
    }
}

/// Up to where a leader has committed, by its message: none until it has committed something of its
/// own term, since earlier leaders may have committed more than it knows.
pub(crate) fn committed_by(request: &AppendEntriesRequest<TypeConfig>) -> Option<Index> {
    let committed = request.leader_commit.as_ref()?;
    let is_own = term_of(committed) == request.vote.leader_id.term;
    is_own.then(|| Index::new(committed.index()))
}

impl Group {
    /// A leader's message came, which said that so much is committed.
    pub(crate) fn note_committed(&self, committed: Option<Index>, came: Instant) {
        let Some(committed) = committed else { return };
        let at = millis(came.saturating_duration_since(self.started));
        let applied = self.applied_index();
        let mut trail = self.trail.lock().unwrap_or_else(PoisonError::into_inner);
        trail.note(committed, applied, at);
    }

    fn applied_index(&self) -> Index {
        let applied = self.raft.watch_apply_progress().get();
        applied.map_or(Index::default(), |id| Index::new(id.index()))
    }
}
