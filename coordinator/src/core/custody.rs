//! Who keeps what is in quarantine, and what waits for it: each node says in the metastore what it has
//! of which group; a group is not collected while a node has something of it, and a node is not taken
//! out while it has anything, unless an operator goes on without. Pure; called by `shell/quarantine`
//! (which says it), `core/nodes`, `core/membership` and `shell/controller` (which wait for it).
//!
//! ```text
//! removing ─▶ left all groups ─▶ resolved what was acknowledged, handed over what waits ─▶ empty ─▶ out
//!      └────── an operator goes on without, or it did not answer when it was removed ─▶ given up ──▶ out
//! ```
//! Invariants: I3 (no entry goes with a node without a word), I7 (an entry is kept by a member of its
//! tenant's group of today; any other node hands it over to one that is).

use std::collections::{BTreeMap, BTreeSet};

use maia_common::ids::{GroupId, NodeId};
use maia_common::limits::MAX_HELD_GROUPS;
use maia_common::position::Revision;
use maia_common::topology::{Farewell, Node, NodeState};
use serde::{Deserialize, Serialize};

use super::cluster_state::ClusterState;
use super::keyspace;
use super::metastore::{Precondition, Transaction};
use super::nodes;
use super::quarantine::{Acknowledged, Entry, Waiting};

/// What is kept where a node hands over `theirs` and `known` stands here under its id. None: they are
/// different records, which an honest cluster never has, and each stays where it is.
///
/// Of two members the stronger word on the acknowledgement stays. One that was removed is not trusted: its
/// word never makes an entry one that is resolved by itself, nor takes an entry's place, but where nobody
/// else says that a client was told, the operator decides.
#[must_use]
pub fn met(known: Entry, theirs: Entry, is_trusted: bool) -> Option<Entry> {
    if known.record.encode() != theirs.record.encode() {
        return None;
    }
    let was_told = |entry: &Entry| entry.acknowledged != Acknowledged::No;
    if !is_trusted {
        let is_news = was_told(&theirs) && !was_told(&known);
        return Some(if is_news { theirs } else { known });
    }
    if known.waiting == Some(Waiting::RemovedNode) {
        return Some(if was_told(&theirs) { theirs } else { known });
    }
    let acknowledged = known.acknowledged.max(theirs.acknowledged);
    Some(Entry {
        acknowledged,
        ..theirs
    })
}

/// How many entries of one group a node has in quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The group in whose log they stood.
    pub group: GroupId,
    /// Of these a client was told, or may have been told, that they are safe.
    pub acknowledged: u64,
    /// Of these nobody was.
    pub others: u64,
}

/// What a node has in quarantine, as it last said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Custody {
    /// By group; groups of which it has nothing are not named.
    pub held: Vec<Held>,
    /// There are more groups than are named: it may have something of any.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

impl Custody {
    /// What these counts come to.
    #[must_use]
    pub fn of(counts: &BTreeMap<GroupId, (u64, u64)>) -> Self {
        let held = counts.iter().map(|(group, (acknowledged, others))| Held {
            group: *group,
            acknowledged: *acknowledged,
            others: *others,
        });
        Self {
            held: held.take(MAX_HELD_GROUPS).collect(),
            more: counts.len() > MAX_HELD_GROUPS,
        }
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether the node may have something of the group.
    #[must_use]
    pub fn may_hold(&self, group: GroupId) -> bool {
        self.more || self.held.iter().any(|held| held.group == group)
    }

    /// Entries in all: those that clients may count on, and the others.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        let add = |(a, o), held: &Held| (a + held.acknowledged, o + held.others);
        self.held.iter().fold((0, 0), add)
    }
}

impl std::fmt::Display for Custody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (acknowledged, others) = self.totals();
        let least = if self.more { "at least " } else { "" };
        write!(
            f,
            "{least}{acknowledged} acknowledged and {others} other records in quarantine"
        )
    }
}

/// The nodes that may keep entries of the group's tenants: members with data that stay, on
/// nodes that stay; its leader first.
#[must_use]
pub fn keepers(state: &ClusterState, group: GroupId) -> Vec<NodeId> {
    let Some(record) = state.groups.get(&group) else {
        return Vec::new();
    };
    let stays = |node: &NodeId| {
        let known = state.nodes.get(node);
        known.is_some_and(|node| node.state != NodeState::Removing)
    };
    let leader = state.leaders.get(&group).map(|leader| leader.node);
    let mut keepers: Vec<NodeId> = record.copies().map(|m| m.node).filter(stays).collect();
    keepers.sort_by_key(|node| Some(*node) != leader);
    keepers
}

/// Whether no group has the node as a member any more, closing ones among them.
#[must_use]
pub fn is_out_of_groups(state: &ClusterState, node: NodeId) -> bool {
    !state.groups.values().any(|group| group.has_member(node))
}

/// Why the node is not out yet; none when it is not being taken out.
#[must_use]
pub fn waits_for(state: &ClusterState, node: &Node, custody: &Custody) -> Option<String> {
    if node.state != NodeState::Removing {
        return None;
    }
    let groups = state.groups.values().filter(|g| g.has_member(node.id));
    let groups: Vec<String> = groups.map(|group| group.id.to_string()).collect();
    Some(if !groups.is_empty() {
        format!("it is still a member of groups {}", groups.join(", "))
    } else if node.farewell != Farewell::Awaited {
        "the metastore's leader takes it out".to_owned()
    } else if custody.is_empty() {
        "it has not said yet that its quarantine is empty; while it is down it can't: \
         accept_quarantine_loss=true goes on without"
            .to_owned()
    } else {
        format!(
            "{custody}, which are resolved, or handed over to the groups' members (maiactl quarantine \
             list); accept_quarantine_loss=true goes on without"
        )
    })
}

/// The transaction by which the node says what it has, if it last said what was `seen`.
#[must_use]
pub fn say(
    node: NodeId,
    custody: &Custody,
    seen: Option<Revision>,
    id: &str,
    now_unix_us: u64,
) -> Transaction {
    let key = keyspace::custody(node);
    let transaction = Transaction::new(id, now_unix_us)
        .when(&key, seen.map_or(Precondition::Absent, Precondition::At))
        // What nobody would take back must not be said.
        .when(keyspace::node(node), Precondition::Present);
    if custody.is_empty() {
        transaction.delete(key)
    } else {
        transaction.put_json(key, custody)
    }
}

/// The transaction that ends the wait for a node that is being taken out: it has nothing (`Empty`), or an
/// operator goes on without what it has.
#[must_use]
pub fn end_wait(
    (node, at): (&Node, Revision),
    farewell: Farewell,
    custody: &Custody,
    id: &str,
    now_unix_us: u64,
) -> Transaction {
    let said = Node {
        farewell,
        ..node.clone()
    };
    let key = keyspace::node(node.id);
    let transaction = Transaction::new(id, now_unix_us)
        .when(&key, Precondition::At(at))
        .put_json(key, &said);
    if farewell == Farewell::Empty {
        return transaction;
    }
    let mut event = nodes::event("node_quarantine_given_up", node, now_unix_us);
    event.detail = format!("{}: {custody}", event.detail);
    transaction.event(&event)
}

/// The groups of which a node may have something.
#[must_use]
pub fn held_groups<'a>(
    said: impl IntoIterator<Item = &'a Custody>,
    state: &ClusterState,
) -> BTreeSet<GroupId> {
    let mut held = BTreeSet::new();
    for custody in said {
        let groups = state
            .groups
            .keys()
            .filter(|group| custody.may_hold(**group));
        held.extend(groups);
    }
    held
}

/// Counts an entry.
pub fn count(counts: &mut BTreeMap<GroupId, (u64, u64)>, group: GroupId, of: Acknowledged) {
    let (acknowledged, others) = counts.entry(group).or_default();
    match of {
        Acknowledged::No => *others += 1,
        Acknowledged::Perhaps | Acknowledged::Yes => *acknowledged += 1,
    }
}

#[cfg(test)]
#[path = "custody_test.rs"]
mod tests;
