//! Adding and removing coordinators, as operators ask for it: what is refused, and the transaction
//! that begins it. Pure plans over a picture of the cluster; run by `shell/nodes`. What follows is the
//! controller's (`core/membership`) and the groups' leaders' (`core/group_life`).
//!
//! A removal is one transaction: the node is `removing`, and every group that goes on without it has
//! it among those that leave. It also rewrites the last group's id, which every new group compares:
//! so none is made with the node meanwhile. Invariants: I2 (nothing is begun that a majority of the
//! voters, before and after, does not answer; the last copy of data never goes).

use std::collections::{BTreeMap, BTreeSet};

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, NodeId, RegionName};
use maia_common::limits::MAX_NODES;
use maia_common::placement::{GroupRecord, GroupState};
use maia_common::position::Revision;
use maia_common::topology::{Farewell, Node, NodeState};
use serde::{Deserialize, Serialize};

use super::cluster_state::ClusterState;
use super::custody::Custody;
use super::keyspace;
use super::membership::has_majority;
use super::metastore::{Precondition, Transaction};
use super::placements::Event;

/// What an operator says of a new node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewNode {
    /// Its id, never used before.
    pub id: NodeId,
    /// Its region, one of the cluster's.
    pub region: RegionName,
    /// `host:port` of its gRPC listener, as the other coordinators reach it.
    pub rpc_addr: String,
    /// URL of its HTTP API.
    pub api_url: String,
    /// It votes in the metastore and never holds tenants' data.
    #[serde(default)]
    pub witness: bool,
}

/// Why a node can't be added or removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeRefusal {
    /// The id stands for a node, or stood for one.
    #[error("node id {0} is in use, or was: a node id is never used twice")]
    IdUsed(NodeId),
    /// The cluster has no such region.
    #[error("there is no region `{0}`")]
    UnknownRegion(RegionName),
    /// The cluster has its cap of nodes.
    #[error("the cluster has {MAX_NODES} coordinators, as many as it may have")]
    TooMany,
    /// A field is not what it should be.
    #[error("{0}")]
    Illegal(&'static str),
    /// There is no such node.
    #[error("there is no node {0}")]
    Unknown(NodeId),
    /// Group 0, or a group, could not go on.
    #[error(
        "{what} would lose its majority: {answering} of its {voters} voters answer now, and {left} \
         of the {stay} that would stay; start those that are down first"
    )]
    Majority {
        /// Which group.
        what: String,
        /// Voters that answer.
        answering: usize,
        /// All voters.
        voters: usize,
        /// Voters that would stay and answer.
        left: usize,
        /// Voters that would stay.
        stay: usize,
    },
    /// It has the only copy of a group's data.
    #[error(
        "the node holds the only copy of group {0}: remove the tenants of that group first, or move \
         them; a group without tenants goes by itself after a while; accept_data_loss=true gives up \
         the group's tenants with their data"
    )]
    OnlyCopy(GroupId),
    /// It has said that it has records in quarantine, and does not answer.
    #[error(
        "the node does not answer, and had {0}, which are nowhere else: start it, or give them up with \
         accept_quarantine_loss=true"
    )]
    Quarantine(Custody),
}

impl NodeRefusal {
    /// The code that clients see.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            NodeRefusal::IdUsed(_) | NodeRefusal::UnknownRegion(_) | NodeRefusal::TooMany => {
                ErrorCode::NodeConflict
            }
            NodeRefusal::Illegal(_) => ErrorCode::InvalidRequest,
            NodeRefusal::Unknown(_) => ErrorCode::NotFound,
            NodeRefusal::Majority { .. }
            | NodeRefusal::OnlyCopy(_)
            | NodeRefusal::Quarantine(_) => ErrorCode::DataLossRefused,
        }
    }
}

/// The transaction that adds the node; none when it stands there already, just so.
///
/// # Errors
/// [`NodeRefusal`].
pub fn add(
    state: &ClusterState,
    is_retired: bool,
    new: &NewNode,
    id: &str,
    now_unix_us: u64,
) -> Result<Option<Transaction>, NodeRefusal> {
    check(new)?;
    if let Some(known) = state.nodes.get(&new.id) {
        let same = known.region == new.region
            && known.rpc_addr == new.rpc_addr
            && known.api_url == new.api_url
            && known.witness == new.witness
            && known.state != NodeState::Removing;
        return if same {
            Ok(None)
        } else {
            Err(NodeRefusal::IdUsed(new.id))
        };
    }
    if is_retired {
        return Err(NodeRefusal::IdUsed(new.id));
    }
    if !state.regions.contains_key(&new.region) {
        return Err(NodeRefusal::UnknownRegion(new.region.clone()));
    }
    if state.nodes.len() >= MAX_NODES {
        return Err(NodeRefusal::TooMany);
    }
    let node = Node {
        id: new.id,
        region: new.region.clone(),
        rpc_addr: new.rpc_addr.clone(),
        api_url: new.api_url.clone(),
        disk_id: String::new(),
        state: NodeState::Joining,
        witness: new.witness,
        farewell: Farewell::default(),
    };
    let transaction = Transaction::new(id, now_unix_us)
        .when(keyspace::node(new.id), Precondition::Absent)
        .when(keyspace::retired_node(new.id), Precondition::Absent)
        .when(keyspace::region(&new.region), Precondition::Present)
        .put_json(keyspace::node(new.id), &node)
        .event(&event("node_added", &node, now_unix_us));
    Ok(Some(transaction))
}

fn check(new: &NewNode) -> Result<(), NodeRefusal> {
    let is_host_port = new.rpc_addr.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()
    });
    if new.id.get() == 0 {
        return Err(NodeRefusal::Illegal("id: must be at least 1"));
    }
    if !is_host_port {
        return Err(NodeRefusal::Illegal("rpc_addr: must be host:port"));
    }
    let is_url = new.api_url.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()
    });
    if is_url {
        Ok(())
    } else {
        Err(NodeRefusal::Illegal(
            "api_url: must be http://… or https://…",
        ))
    }
}

/// What a removal does: shown before it is asked for, and answered when it is begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removal {
    /// The node.
    pub node: NodeId,
    /// Its region.
    pub region: RegionName,
    /// Whether it answers now.
    pub answers: bool,
    /// Voters of the metastore now.
    pub metastore_voters: usize,
    /// How many of them stay.
    pub metastore_voters_left: usize,
    /// The groups that go on without it.
    pub groups: Vec<GroupLoss>,
    /// The groups of which it has the only copy: they go, with their tenants.
    pub lost: Vec<LostGroup>,
    /// What becomes of its quarantine.
    pub quarantine: QuarantinePlan,
}

/// What becomes of the quarantine of a node that is taken out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QuarantinePlan {
    /// The node stays until it is empty; else what stands there goes with the node.
    pub waited_for: bool,
    /// Records that clients were told, or may have been told, are safe, as the node last said.
    pub acknowledged: u64,
    /// Others.
    pub others: u64,
}

/// A group that is given up with the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostGroup {
    /// The group.
    pub group: GroupId,
    /// How many tenants it has now.
    pub tenants: u64,
}

/// A group that goes on without the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupLoss {
    /// The group.
    pub group: GroupId,
    /// The nodes that keep its data.
    pub copies_left: Vec<NodeId>,
    /// Whether it goes on without a witness: the node is it, or has the last copy but one.
    pub loses_witness: bool,
    /// Whether the node was where the group's primary belongs.
    pub loses_home: bool,
}

/// What an operator gives up for a removal.
#[derive(Debug, Clone, Copy, Default)]
pub struct GivenUp<'a> {
    /// How many tenants the groups have, when those that the node has the only copy of may be lost.
    pub groups: Option<&'a BTreeMap<GroupId, u64>>,
    /// Whether what stands in its quarantine may be lost.
    pub quarantine: bool,
}

/// What removing the node does, when it may be done. `root` are the voters of group 0, `answering`
/// the nodes that answer now. A node that does not answer is not waited for: what only its disk has goes
/// with it, which is refused when it has said that there is something.
///
/// # Errors
/// [`NodeRefusal`].
pub fn plan_removal(
    state: &ClusterState,
    root: &BTreeSet<NodeId>,
    answering: &BTreeSet<NodeId>,
    (node, custody): (NodeId, &Custody),
    give_up: GivenUp<'_>,
) -> Result<Removal, NodeRefusal> {
    let record = state.nodes.get(&node).ok_or(NodeRefusal::Unknown(node))?;
    let given_up = give_up.groups;
    let quarantine = plan_quarantine(answering.contains(&node), custody, give_up.quarantine)?;
    let left = check_majority("the metastore", root, answering, &[node].into())?;
    let open = state.groups.values().filter(|group| {
        group.state != GroupState::Closing && group.staying().any(|m| m.node == node)
    });
    let (lost, go_on): (Vec<_>, Vec<_>) =
        open.partition(|group| given_up.is_some() && group.copies().all(|m| m.node == node));
    let groups = go_on.into_iter().map(|group| loss(group, answering, node));
    let tenants = |group| given_up.and_then(|counts| counts.get(&group)).copied();
    let lost = lost.into_iter().map(|group| LostGroup {
        group: group.id,
        tenants: tenants(group.id).unwrap_or_default(),
    });
    Ok(Removal {
        node,
        region: record.region.clone(),
        answers: answering.contains(&node),
        metastore_voters: root.len(),
        metastore_voters_left: left,
        groups: groups.collect::<Result<_, _>>()?,
        lost: lost.collect(),
        quarantine,
    })
}

fn plan_quarantine(
    answers: bool,
    custody: &Custody,
    is_given_up: bool,
) -> Result<QuarantinePlan, NodeRefusal> {
    if !answers && !is_given_up && !custody.is_empty() {
        return Err(NodeRefusal::Quarantine(custody.clone()));
    }
    let (acknowledged, others) = custody.totals();
    Ok(QuarantinePlan {
        waited_for: answers && !is_given_up,
        acknowledged,
        others,
    })
}

fn loss(
    group: &GroupRecord,
    answering: &BTreeSet<NodeId>,
    node: NodeId,
) -> Result<GroupLoss, NodeRefusal> {
    let copies_left: Vec<NodeId> = group
        .copies()
        .map(|m| m.node)
        .filter(|m| *m != node)
        .collect();
    if copies_left.is_empty() {
        return Err(NodeRefusal::OnlyCopy(group.id));
    }
    // Those that leave already may still be voters in Raft's eyes.
    let voters = group.members.iter().filter(|m| m.role.votes());
    let voters = voters.map(|m| m.node).filter(|m| !group.left.contains(m));
    let leavers = group.leavers_with(node);
    check_majority(
        &format!("group {}", group.id),
        &voters.collect(),
        answering,
        &leavers,
    )?;
    Ok(GroupLoss {
        group: group.id,
        copies_left,
        loses_witness: group.witness().is_some_and(|w| leavers.contains(&w)),
        loses_home: group.members.first().is_some_and(|m| m.node == node),
    })
}

/// How many voters stay, when a majority answers both before and after.
fn check_majority(
    what: &str,
    voters: &BTreeSet<NodeId>,
    answering: &BTreeSet<NodeId>,
    leavers: &BTreeSet<NodeId>,
) -> Result<usize, NodeRefusal> {
    if voters.is_disjoint(leavers) {
        return Ok(voters.len());
    }
    let stay = voters - leavers;
    if has_majority(voters, answering) && has_majority(&stay, answering) {
        return Ok(stay.len());
    }
    Err(NodeRefusal::Majority {
        what: what.to_owned(),
        answering: voters.intersection(answering).count(),
        voters: voters.len(),
        left: stay.intersection(answering).count(),
        stay: stay.len(),
    })
}

/// The revisions that a removal was planned on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Of the node's record.
    pub node: Revision,
    /// Of the last group's id, and the id; none: there never was a group.
    pub last_group: Option<(GroupId, Revision)>,
    /// Of the records of the groups in question.
    pub groups: BTreeMap<GroupId, (GroupRecord, Revision)>,
}

/// The transaction that begins the removal.
#[must_use]
pub fn begin_removal(
    node: &Node,
    plan: &Removal,
    seen: &Seen,
    id: &str,
    now_unix_us: u64,
) -> Transaction {
    let removing = Node {
        state: NodeState::Removing,
        farewell: if plan.quarantine.waited_for {
            Farewell::Awaited
        } else {
            Farewell::GivenUp
        },
        ..node.clone()
    };
    let (last, last_seen) = match seen.last_group {
        Some((last, revision)) => (last, Precondition::At(revision)),
        None => (GroupId::METASTORE, Precondition::Absent),
    };
    let mut transaction = Transaction::new(id, now_unix_us)
        .when(keyspace::node(node.id), Precondition::At(seen.node))
        .when(keyspace::LAST_GROUP, last_seen)
        .put_json(keyspace::node(node.id), &removing)
        .put_json(keyspace::LAST_GROUP, &last)
        .event(&removing_event(node, plan, now_unix_us));
    for (group, (record, revision)) in &seen.groups {
        let mut record = record.clone();
        if plan.lost.iter().any(|lost| lost.group == *group) {
            // Nobody can delete the tenants' data first: they go with the group (`collection`).
            record.state = GroupState::Closing;
        } else if plan.groups.iter().any(|loss| loss.group == *group) {
            record.leaving.extend(record.leavers_with(node.id));
        } else {
            continue;
        }
        transaction = transaction
            .when(keyspace::group(*group), Precondition::At(*revision))
            .put_json(keyspace::group(*group), &record);
    }
    transaction
}

fn removing_event(node: &Node, plan: &Removal, now_unix_us: u64) -> Event {
    let mut event = event("node_removing", node, now_unix_us);
    let lost: Vec<String> = plan.lost.iter().map(|l| l.group.to_string()).collect();
    if !lost.is_empty() {
        event.detail = format!("{}; groups {} are given up", event.detail, lost.join(", "));
    }
    let kept = &plan.quarantine;
    if !kept.waited_for {
        event.detail = format!(
            "{}; without what only its disk has: writes that no other node got, and its quarantine, \
             where it last said {} acknowledged and {} other records stand",
            event.detail, kept.acknowledged, kept.others
        );
    }
    event
}

/// The transaction after which the node is no more, and its id never used again.
#[must_use]
pub fn retire(node: &Node, at: Revision, id: &str, now_unix_us: u64) -> Transaction {
    Transaction::new(id, now_unix_us)
        .when(keyspace::node(node.id), Precondition::At(at))
        .delete(keyspace::node(node.id))
        .delete(keyspace::custody(node.id))
        .put_json(keyspace::retired_node(node.id), node)
        .event(&event("node_removed", node, now_unix_us))
}

/// An event about a node.
#[must_use]
pub fn event(kind: &str, node: &Node, now_unix_us: u64) -> Event {
    let witness = if node.witness { ", a witness" } else { "" };
    Event {
        kind: kind.into(),
        at_unix_us: now_unix_us,
        tenant: None,
        group: None,
        detail: format!("node {} in {}{witness}", node.id, node.region),
    }
}

#[cfg(test)]
#[path = "nodes_test.rs"]
mod tests;
