//! The types with which openraft is instantiated, and the way between them and the project's
//! vocabulary. `leader_id_std` gives one leader per term: terms are our fencing tokens (I1);
//! openraft's default would allow several.

use maia_common::{Index, NodeId, Position, Term};
use openraft::alias;

use crate::core::record::{Outcome, Record};

openraft::declare_raft_types!(
    /// What the engine's Raft groups are made of.
    pub TypeConfig:
        D = Record,
        R = Outcome,
        NodeId = u64,
        Node = openraft::EmptyNode,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
);

pub(crate) type RaftVote = alias::VoteOf<TypeConfig>;
pub(crate) type RaftLogId = alias::LogIdOf<TypeConfig>;
pub(crate) type RaftEntry = alias::EntryOf<TypeConfig>;
pub(crate) type RaftMembership = openraft::Membership<u64, openraft::EmptyNode>;
pub(crate) type RaftStoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(crate) type RaftSnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type RaftSnapshot = alias::SnapshotOf<TypeConfig, super::snapshot::SnapshotFile>;
pub(crate) type RaftNode = openraft::Raft<TypeConfig, super::state::machine::GroupMachine>;

/// The log id with this term and index.
pub(crate) fn log_id(term: u64, index: u64) -> RaftLogId {
    RaftLogId::new(alias::CommittedLeaderIdOf::<TypeConfig>::new(term), index)
}

/// A log id's term.
pub(crate) fn term_of(id: &RaftLogId) -> u64 {
    **id.committed_leader_id()
}

/// A log id in the project's words.
pub(crate) fn position_of(id: &RaftLogId) -> Position {
    Position::new(Term::new(term_of(id)), Index::new(id.index()))
}

/// The index after the last one of `id`; 0 when there is none.
pub(crate) fn next_index(id: Option<&RaftLogId>) -> u64 {
    id.map_or(0, |id| id.index() + 1)
}

/// The node that a vote is for.
pub(crate) fn node_of(vote: &RaftVote) -> NodeId {
    NodeId::new(vote.leader_id.voted_for)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Terms are fencing tokens: two committed votes of one term must not both stand above or
    /// below each other, as they would under openraft's default leader ids.
    #[test]
    fn one_leader_per_term() {
        let a = RaftVote::new_committed(3, 1);
        let b = RaftVote::new_committed(3, 2);
        assert_eq!(a.partial_cmp(&b), None);
        let second = RaftVote::new(3, 2).partial_cmp(&RaftVote::new(3, 1));
        assert!(
            second.is_none_or(std::cmp::Ordering::is_lt),
            "no second vote in a term"
        );
    }
}
