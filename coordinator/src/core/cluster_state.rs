//! What one coordinator knows of the cluster: regions, nodes, groups and their leaders, at a
//! revision of the metastore; and, ahead of it, leader hints. Built from the metastore's changes
//! by one owner (`shell/cluster`), read by everyone through a snapshot. Tenants are not in here:
//! there may be a million. Invariant: I4, a leader of a lower term never replaces one of a higher.

use std::collections::{BTreeMap, BTreeSet};

use maia_common::ids::{GroupId, NodeId, RegionName};
use maia_common::placement::{GroupKey, GroupRecord, GroupState, Regions};
use maia_common::position::{Generation, Revision, Term};
use maia_common::topology::{Leader, Node, Region, RegionState};
use serde::de::DeserializeOwned;

use super::keyspace;

/// A consistent picture of the cluster at `revision`, with newer hints.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterState {
    /// Raised by each disaster recovery.
    pub generation: Generation,
    /// The revision that this reflects.
    pub revision: Revision,
    /// Regions by name.
    pub regions: BTreeMap<RegionName, Region>,
    /// Nodes by id.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Ids of nodes that were removed: never used again.
    pub retired: BTreeSet<NodeId>,
    /// Placement groups by id.
    pub groups: BTreeMap<GroupId, GroupRecord>,
    /// The leader with the highest term heard of, by announcement or hint.
    pub leaders: BTreeMap<GroupId, Leader>,
    /// The term of the announcement that stands in the metastore.
    pub announced: BTreeMap<GroupId, Term>,
    /// The highest term of which a member said that its leader is lost.
    pub leaderless: BTreeMap<GroupId, Term>,
}

impl Default for ClusterState {
    /// Nothing known, in the first generation: disaster recovery, which raises it, comes later.
    fn default() -> Self {
        Self {
            generation: Generation::new(1),
            revision: Revision::default(),
            regions: BTreeMap::new(),
            nodes: BTreeMap::new(),
            retired: BTreeSet::new(),
            groups: BTreeMap::new(),
            leaders: BTreeMap::new(),
            announced: BTreeMap::new(),
            leaderless: BTreeMap::new(),
        }
    }
}

/// Which part of the state a key belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// A region.
    Region(RegionName),
    /// A group or its leader.
    Group(GroupId),
    /// A tenant, by name as stored.
    Tenant(String),
    /// A node.
    Node(NodeId),
    /// Nothing that is kept here.
    Other,
}

impl ClusterState {
    /// Takes one key's new value (none: deleted) and says what it touched. A value that can't be
    /// read was written by newer software: it is left out, as if it were not there.
    pub fn take(&mut self, key: &str, value: Option<&[u8]>) -> Touched {
        if let Some(name) = key.strip_prefix(keyspace::TENANTS) {
            return Touched::Tenant(name.to_owned());
        }
        if let Some(name) = key.strip_prefix(keyspace::REGIONS) {
            let Ok(name) = RegionName::new(name) else {
                return Touched::Other;
            };
            set(&mut self.regions, name.clone(), value);
            return Touched::Region(name);
        }
        if let Some(id) = number(key, keyspace::NODES) {
            set(&mut self.nodes, NodeId::new(id), value);
            return Touched::Node(NodeId::new(id));
        }
        if let Some(id) = number(key, keyspace::RETIRED_NODES) {
            self.retired.insert(NodeId::new(id));
            return Touched::Other;
        }
        if let Some(id) = number(key, keyspace::GROUPS) {
            let group = GroupId::new(id);
            set(&mut self.groups, group, value);
            if !self.groups.contains_key(&group) {
                self.leaders.remove(&group);
                self.announced.remove(&group);
                self.leaderless.remove(&group);
            }
            return Touched::Group(GroupId::new(id));
        }
        if let Some(id) = number(key, keyspace::LEADERS) {
            let group = GroupId::new(id);
            if let Some(leader) = value.and_then(read::<Leader>) {
                self.announced.insert(group, leader.term);
                self.offer_leader(group, leader);
            }
            return Touched::Group(group);
        }
        Touched::Other
    }

    /// Takes a leader if its term is higher than what is known, or if it was said to be lost. True:
    /// it changed.
    pub fn offer_leader(&mut self, group: GroupId, leader: Leader) -> bool {
        let known = self.leaders.get(&group).map(|known| known.term);
        let was_lost = known == Some(leader.term) && self.leaderless.get(&group) == known.as_ref();
        let changed = was_lost || known.is_none_or(|known| leader.term > known);
        if changed {
            self.leaderless.remove(&group);
            self.leaders.insert(group, leader);
        }
        changed
    }

    /// Takes the word that the leader of this term is lost. True: it changed.
    pub fn offer_leaderless(&mut self, group: GroupId, term: Term) -> bool {
        let led = self
            .leaders
            .get(&group)
            .map_or(Term::default(), |known| known.term);
        let known = self.leaderless.get(&group).copied().unwrap_or_default();
        let newer = term > known && term >= led;
        if newer {
            self.leaderless.insert(group, term);
        }
        newer
    }

    /// The leader that may be taking writes now.
    #[must_use]
    pub fn live_leader(&self, group: GroupId) -> Option<&Leader> {
        let lost = self.leaderless.get(&group).copied().unwrap_or_default();
        self.leaders.get(&group).filter(|leader| leader.term > lost)
    }

    /// The group with this key that new tenants are placed in: one that lost a member stays with those
    /// that it has.
    #[must_use]
    pub fn group_with(&self, key: &GroupKey) -> Option<&GroupRecord> {
        let mut open = self.groups.values();
        let takes = |record: &GroupRecord| record.state != GroupState::Closing && record.is_whole();
        open.find(|record| record.key == *key && takes(record))
    }

    /// The node that new groups get in this region, the lowest id first.
    #[must_use]
    pub fn node_in(&self, region: &RegionName) -> Option<&Node> {
        let mut able = self.nodes.values();
        able.find(|node| node.region == *region && node.takes_groups())
    }
}

impl Regions for ClusterState {
    fn state_of(&self, region: &RegionName) -> Option<RegionState> {
        self.regions.get(region).map(|r| r.state)
    }

    fn all(&self) -> Vec<RegionName> {
        self.regions.keys().cloned().collect()
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

fn set<K: Ord, V: DeserializeOwned>(map: &mut BTreeMap<K, V>, key: K, value: Option<&[u8]>) {
    match value.and_then(read) {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

fn number(key: &str, prefix: &str) -> Option<u64> {
    key.strip_prefix(prefix)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(term: u64) -> Leader {
        Leader {
            term: Term::new(term),
            node: NodeId::new(1),
            region: RegionName::new("a").unwrap(),
        }
    }

    #[test]
    fn an_announcement_that_comes_late_changes_nothing() {
        let group = GroupId::new(1);
        let mut state = ClusterState::default();
        assert!(state.offer_leader(group, leader(5)));
        let late = serde_json::to_vec(&leader(4)).unwrap();
        assert_eq!(
            state.take(&keyspace::leader(group), Some(&late)),
            Touched::Group(group)
        );
        assert_eq!(state.live_leader(group), Some(&leader(5)));
        assert!(state.offer_leaderless(group, Term::new(5)));
        assert_eq!(state.live_leader(group), None);
        assert!(!state.offer_leaderless(group, Term::new(4)));
        assert!(!state.offer_leader(group, leader(4)));
        assert!(state.offer_leader(group, leader(5)), "it is back");
        assert!(state.offer_leaderless(group, Term::new(5)));
        assert!(state.offer_leader(group, leader(6)));
        assert!(
            !state.offer_leaderless(group, Term::new(5)),
            "of a leader long gone"
        );
        assert!(!state.offer_leader(group, leader(5)));
        assert_eq!(state.live_leader(group), Some(&leader(6)));
    }

    #[test]
    fn keys_find_their_place() {
        let mut state = ClusterState::default();
        let region = Region {
            name: RegionName::new("a").unwrap(),
            public_url: "http://a".into(),
            priority: 1,
            state: RegionState::Active,
        };
        let json = serde_json::to_vec(&region).unwrap();
        state.take(&keyspace::region(&region.name), Some(&json));
        assert_eq!(state.state_of(&region.name), Some(RegionState::Active));
        state.take(&keyspace::region(&region.name), None);
        assert_eq!(state.state_of(&region.name), None);
        assert_eq!(state.take("event/1", Some(b"{}")), Touched::Other);
        assert_eq!(
            state.take("tenant/t", Some(b"{}")),
            Touched::Tenant("t".into())
        );
    }
}
