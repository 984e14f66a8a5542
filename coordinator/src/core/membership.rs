//! Who belongs to group 0: what its leader, the controller, does next so that the membership becomes
//! what the nodes' records say. Pure: called by `shell/controller` at every look. Every command is
//! idempotent, and each step leaves a cluster that works, so that any node may die between two of
//! them, and two controllers for a moment do no harm.
//!
//! ```text
//! node's record        in group 0          command
//! joining, with disk   no                  AddLearner
//! active               learner, caught up  SetVoters with it, while there is room
//! removing             voter               SetVoters without it, once no group needs it, and its quarantine
//!                                          is empty or given up: it needs the metastore to empty it
//! removing             learner             DropLearners
//! removing             no, nor in groups   Retire: the record goes, the id is never used again
//! ```
//! Invariants (property-tested): never more than `MAX_VOTERS`; no change that a majority of the old
//! and of the new voters does not answer; the voters of a cluster whose nodes all answer converge.

use std::collections::{BTreeMap, BTreeSet};

use maia_common::ids::NodeId;
use maia_common::limits::MAX_VOTERS;
use maia_common::placement::GroupState;
use maia_common::topology::{Farewell, Node, NodeState};

use super::cluster_state::ClusterState;

/// A member of group 0, as its leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberView {
    /// It has a vote, in the membership before or behind a change that is under way.
    pub votes: bool,
    /// It answers; the leader itself does.
    pub answers: bool,
    /// It has all but the newest records.
    pub caught_up: bool,
}

/// Group 0, as its leader sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Root {
    /// All members.
    pub members: BTreeMap<NodeId, MemberView>,
    /// Between the two steps of a change of voters.
    pub is_joint: bool,
    /// This membership is committed.
    pub settled: bool,
}

/// Something for the controller to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Have the node follow group 0.
    AddLearner(NodeId),
    /// Make these the voters; voters that are not named leave group 0.
    SetVoters(BTreeSet<NodeId>),
    /// Take members without a vote out.
    DropLearners(BTreeSet<NodeId>),
    /// Delete the record of a node that is out of everything, and keep its id from being used again.
    Retire(NodeId),
}

/// Whether most of the voters are among those that answer. Of no voters nothing can be said: no.
#[must_use]
pub fn has_majority(voters: &BTreeSet<NodeId>, answering: &BTreeSet<NodeId>) -> bool {
    voters.intersection(answering).count() * 2 > voters.len()
}

/// What to do next: at most one change of membership, and the records of who is out.
#[must_use]
pub fn next(state: &ClusterState, root: &Root) -> Vec<Command> {
    let mut commands: Vec<Command> = change(state, root).into_iter().collect();
    // A membership that is not committed may yet be taken back, and who was retired voted for ever.
    if !root.settled || root.is_joint {
        return commands;
    }
    let removing = state
        .nodes
        .values()
        .filter(|node| is_free_to_go(state, node));
    let out = removing.filter(|node| !root.members.contains_key(&node.id));
    commands.extend(out.map(|node| Command::Retire(node.id)));
    commands
}

fn change(state: &ClusterState, root: &Root) -> Option<Command> {
    if let Some(voters) = wanted_voters(state, root) {
        return Some(Command::SetVoters(voters));
    }
    if root.is_joint {
        return None;
    }
    let goes = |(id, member): (&NodeId, &MemberView)| {
        let node = state.nodes.get(id)?;
        (!member.votes && is_free_to_go(state, node)).then_some(*id)
    };
    let leavers: BTreeSet<NodeId> = root.members.iter().filter_map(goes).collect();
    if !leavers.is_empty() {
        return Some(Command::DropLearners(leavers));
    }
    let mut comers = state.nodes.values().filter(|node| {
        node.state != NodeState::Removing
            && !node.disk_id.is_empty()
            && !root.members.contains_key(&node.id)
    });
    comers.next().map(|node| Command::AddLearner(node.id))
}

/// The voters that there should be after the next step, if that is another membership than now and
/// the step can be made: one leaves, one comes.
fn wanted_voters(state: &ClusterState, root: &Root) -> Option<BTreeSet<NodeId>> {
    let of = |holds: fn(&MemberView) -> bool| -> BTreeSet<NodeId> {
        let those = root.members.iter().filter(|(_, member)| holds(member));
        those.map(|(id, _)| *id).collect()
    };
    let (now, answering) = (of(|m| m.votes), of(|m| m.answers));
    let leaver = now.iter().find(|id| {
        let node = state.nodes.get(id);
        node.is_some_and(|node| is_free_to_go(state, node))
    });
    let is_ready = |id: &NodeId, member: &MemberView| {
        let active = |node: &Node| node.state == NodeState::Active;
        !member.votes
            && member.answers
            && member.caught_up
            && state.nodes.get(id).is_some_and(active)
    };
    let comer = root
        .members
        .iter()
        .find(|(id, m)| is_ready(id, m))
        .map(|(id, _)| id);
    let without = |leaver: Option<&NodeId>| -> BTreeSet<NodeId> {
        let stay = now.iter().filter(|id| Some(*id) != leaver);
        stay.copied().collect()
    };
    let with = |mut voters: BTreeSet<NodeId>| {
        if voters.len() < MAX_VOTERS {
            voters.extend(comer);
        }
        voters
    };
    // The best first; where the majority does not allow it, less.
    let ways = [with(without(leaver)), without(leaver), with(without(None))];
    let can = |voters: &BTreeSet<NodeId>| {
        let changes = root.is_joint || *voters != now;
        changes
            && voters.len() <= MAX_VOTERS
            && has_majority(&now, &answering)
            && has_majority(voters, &answering)
    };
    ways.into_iter().find(can)
}

/// Whether the node is to go, no placement group has it as a member any more, and nothing that only it
/// has is waited for (I3).
fn is_free_to_go(state: &ClusterState, node: &Node) -> bool {
    let mut open = state.groups.values();
    node.state == NodeState::Removing
        && node.farewell != Farewell::Awaited
        && !open.any(|group| group.state != GroupState::Closing && group.has_member(node.id))
}

#[cfg(test)]
#[path = "membership_test.rs"]
mod tests;
