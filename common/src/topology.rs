//! Topology: regions, nodes, and who leads which group now. Plain data, shared by the feed, the
//! proxy's snapshot and the coordinator's views; whoever holds one holds a consistent whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{GroupId, NodeId, ProxyId, RegionName};
use crate::placement::Mode;
use crate::position::{Generation, Revision, Term};

/// Whether a region takes tenants and requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegionState {
    /// Takes both.
    Active,
    /// Serves what it has, takes no new tenants.
    Draining,
    /// Takes neither.
    Down,
}

impl RegionState {
    /// The state as people and programs write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            RegionState::Active => "active",
            RegionState::Draining => "draining",
            RegionState::Down => "down",
        }
    }
}

impl std::fmt::Display for RegionState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for RegionState {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [
            RegionState::Active,
            RegionState::Draining,
            RegionState::Down,
        ]
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| format!("`{text}` is none of active, draining, down"))
    }
}

/// A region as the metastore keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Its name.
    pub name: RegionName,
    /// Where clients reach its proxies, such as `https://us.example.com/base`; no trailing slash.
    pub public_url: String,
    /// Greater comes first at an election.
    pub priority: u32,
    /// Whether it takes tenants and requests.
    pub state: RegionState,
}

/// Where a coordinator is in its life: joining → active → removing → its record is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Added by an operator; it has not said yet that it has the metastore's state.
    Joining,
    /// Takes part.
    #[default]
    Active,
    /// An operator takes it out: it leaves all groups, and takes no new ones.
    Removing,
}

/// What the cluster knows of the quarantine of a node that is taken out: it has records that nobody
/// else has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Farewell {
    /// Nothing yet: the node is waited for.
    #[default]
    Awaited,
    /// The node has left its groups, and its quarantine is empty.
    Empty,
    /// An operator goes on without: what only its disk has goes with it.
    GivenUp,
}

impl Farewell {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "the shape that serde asks for"
    )]
    fn is_awaited(&self) -> bool {
        *self == Farewell::Awaited
    }
}

/// A coordinator as the metastore keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id, never used twice.
    pub id: NodeId,
    /// Its region.
    pub region: RegionName,
    /// `host:port` of its gRPC listener.
    pub rpc_addr: String,
    /// URL of its HTTP API.
    pub api_url: String,
    /// What its disk was marked with when it first started: another mark is another node. Empty
    /// until the node has come for the first time.
    pub disk_id: String,
    /// Where it is in its life.
    #[serde(default)]
    pub state: NodeState,
    /// It votes in the metastore and never holds tenants' data.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub witness: bool,
    /// While it is taken out: what is known of its quarantine.
    #[serde(default, skip_serializing_if = "Farewell::is_awaited")]
    pub farewell: Farewell,
}

impl Node {
    /// Whether new groups may have it as a member.
    #[must_use]
    pub fn takes_groups(&self) -> bool {
        self.state == NodeState::Active && !self.witness
    }
}

/// A proxy as the metastore keeps it: written at its first Hello, and when its region changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    /// Its stable id.
    pub id: ProxyId,
    /// Its region.
    pub region: RegionName,
    /// Microseconds since 1970, by the clock of the coordinator that it first came to.
    #[serde(rename = "registered_at")]
    pub registered_at_unix_us: u64,
}

/// "Group g is led in this region, by this node, at this term"; the highest term wins (I1, I4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// The term it was elected in.
    pub term: Term,
    /// The leading node.
    pub node: NodeId,
    /// Its region: the group's primary region.
    pub region: RegionName,
}

/// A group as routing sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// Where its spec wants the primary.
    pub home_region: RegionName,
    /// How many regions hold its data.
    pub mode: Mode,
    /// The regions with data, home first.
    pub regions: Vec<RegionName>,
    /// The leader with the highest term that was heard of.
    pub leader: Option<Leader>,
    /// The highest term in which the leader was reported lost; writes wait while it is not lower
    /// than the leader's term.
    pub leaderless_since: Option<Term>,
}

impl GroupView {
    /// The leader that may be taking writes now.
    #[must_use]
    #[inline]
    pub fn live_leader(&self) -> Option<&Leader> {
        self.leader
            .as_ref()
            .filter(|l| self.leaderless_since.is_none_or(|t| l.term > t))
    }

    /// Takes the announcement if its term is higher than what is known (I4). True: it changed.
    pub fn offer(&mut self, leader: Leader) -> bool {
        let newer = self
            .leader
            .as_ref()
            .is_none_or(|known| leader.term > known.term);
        if newer {
            self.leader = Some(leader);
        }
        newer
    }
}

/// Everything routing needs beside the tenants: one consistent whole at a revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    /// Raised by each disaster recovery.
    pub generation: Generation,
    /// The metastore revision that this reflects (hints may be newer).
    pub revision: Revision,
    /// Regions by name.
    pub regions: BTreeMap<RegionName, Region>,
    /// Placement groups by id.
    pub groups: BTreeMap<GroupId, GroupView>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(term: u64) -> Leader {
        Leader {
            term: Term::new(term),
            node: NodeId::new(term),
            region: RegionName::new("a").unwrap(),
        }
    }

    #[test]
    fn the_highest_term_wins_whatever_the_order() {
        let mut view = GroupView {
            home_region: RegionName::new("a").unwrap(),
            mode: Mode::Single,
            regions: vec![],
            leader: None,
            leaderless_since: None,
        };
        assert!(view.offer(leader(3)));
        assert!(!view.offer(leader(2)));
        assert!(!view.offer(leader(3)));
        view.leaderless_since = Some(Term::new(3));
        assert_eq!(view.live_leader(), None);
        assert!(view.offer(leader(4)));
        assert_eq!(view.live_leader(), Some(&leader(4)));
    }
}
