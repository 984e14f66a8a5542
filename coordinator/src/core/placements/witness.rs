//! Which node is the witness of a new group. Two copies alone need both of them for every write; a
//! third vote, in a region that neither is in, lets either go. Pure; part of the plan of a new group, whose
//! members never change afterwards: so a group that was made while there was no third region has no
//! witness, and `/v1/replication/health` says so.

use maia_common::ids::NodeId;
use maia_common::placement::{GroupKey, GroupState, Member, MemberRole};
use maia_common::topology::{Node, NodeState, RegionState};

use super::ClusterState;

/// With so many copies a group has a witness; more are a majority without one of them.
const COPIES: usize = 2;

/// The witness of a new group with this key, if it is to have one and a region can give it. Nodes that
/// were added as witnesses come first, then those that are the witness of fewer groups, then the
/// lower id: the same choice by whoever plans on the same state.
pub(super) fn of_new_group(state: &ClusterState, key: &GroupKey) -> Option<Member> {
    if key.regions().count() != COPIES {
        return None;
    }
    let able = state.nodes.values().filter(|node| {
        let region = state.regions.get(&node.region);
        node.state == NodeState::Active
            && region.is_some_and(|region| region.state == RegionState::Active)
            && key.regions().all(|region| *region != node.region)
    });
    let node = able.min_by_key(|node| (!node.witness, duties(state, node), node.id))?;
    Some(Member {
        node: node.id,
        region: node.region.clone(),
        role: MemberRole::Witness,
    })
}

/// Of how many groups the node is the witness.
fn duties(state: &ClusterState, node: &Node) -> usize {
    let open = state.groups.values();
    let open = open.filter(|group| group.state != GroupState::Closing);
    let is_its = |witness: Option<NodeId>| witness == Some(node.id);
    open.filter(|group| is_its(group.witness())).count()
}

#[cfg(test)]
mod tests {
    use maia_common::ids::RegionName;
    use maia_common::placement::{GroupRecord, Mode};
    use maia_common::topology::{Farewell, Region};

    use super::super::create_group;
    use super::*;

    fn region(name: &str) -> RegionName {
        RegionName::new(name).unwrap()
    }

    /// One node in each region, with the ids 1, 2, …; those of `dedicated` hold no data.
    fn cluster(regions: &[&str], dedicated: &[u64]) -> ClusterState {
        let mut state = ClusterState::default();
        for (id, name) in (1..).zip(regions) {
            let node = Node {
                id: NodeId::new(id),
                region: region(name),
                rpc_addr: String::new(),
                api_url: String::new(),
                disk_id: String::new(),
                state: NodeState::Active,
                witness: dedicated.contains(&id),
                farewell: Farewell::default(),
            };
            state.nodes.insert(node.id, node);
            let region = Region {
                name: region(name),
                public_url: String::new(),
                priority: 1,
                state: RegionState::Active,
            };
            state.regions.insert(region.name.clone(), region);
        }
        state
    }

    fn key(home: &str, replicas: &[&str]) -> GroupKey {
        GroupKey {
            home_region: region(home),
            replicas: replicas.iter().map(|name| region(name)).collect(),
            mode: Mode::Replicated,
            shard: 0,
        }
    }

    fn made(state: &mut ClusterState, key: &GroupKey) -> GroupRecord {
        let mut record = create_group(state, None, key, "id", 1).unwrap().1;
        record.id = maia_common::GroupId::new(state.groups.len() as u64 + 1);
        state.groups.insert(record.id, record.clone());
        record
    }

    #[test]
    fn two_copies_get_a_witness_in_a_third_region() {
        let mut state = cluster(&["a", "b", "c"], &[]);
        let record = made(&mut state, &key("a", &["b"]));
        let members: Vec<_> = record
            .members
            .iter()
            .map(|m| (m.node.get(), m.role))
            .collect();
        let (data, witness) = (MemberRole::Voter, MemberRole::Witness);
        assert_eq!(members, [(1, data), (2, data), (3, witness)]);
        assert_eq!(record.voters().len(), 3);
        assert!(record.is_whole());
        assert_eq!(made(&mut state, &key("a", &[])).witness(), None, "one copy");
        let three = made(&mut state, &key("a", &["b", "c"]));
        assert_eq!(three.witness(), None, "three copies");
    }

    #[test]
    fn without_a_third_region_there_is_none() {
        let mut state = cluster(&["a", "b"], &[]);
        assert_eq!(made(&mut state, &key("a", &["b"])).witness(), None);
        let mut state = cluster(&["a", "b", "c"], &[]);
        let third = state.regions.get_mut(&region("c")).unwrap();
        third.state = RegionState::Draining;
        assert_eq!(made(&mut state, &key("a", &["b"])).witness(), None);
        let mut state = cluster(&["a", "b", "c"], &[]);
        let third = state.nodes.get_mut(&NodeId::new(3)).unwrap();
        third.state = NodeState::Removing;
        assert_eq!(made(&mut state, &key("a", &["b"])).witness(), None);
    }

    #[test]
    fn duties_are_shared_and_go_to_those_made_for_them_first() {
        let mut state = cluster(&["a", "b", "c", "d"], &[]);
        let mut ask = |key: &GroupKey| made(&mut state, key).witness().map(NodeId::get);
        assert_eq!(ask(&key("a", &["b"])), Some(3));
        assert_eq!(ask(&key("b", &["a"])), Some(4));
        assert_eq!(ask(&key("a", &["c"])), Some(2));
        let mut state = cluster(&["a", "b", "c", "d"], &[4]);
        let mut ask = |key: &GroupKey| made(&mut state, key).witness().map(NodeId::get);
        assert_eq!(ask(&key("a", &["b"])), Some(4));
        assert_eq!(ask(&key("b", &["a"])), Some(4));
    }

    #[test]
    fn it_leaves_with_the_last_copy_but_one() {
        let mut state = cluster(&["a", "b", "c"], &[]);
        let mut record = made(&mut state, &key("a", &["b"]));
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId::new).collect();
        assert_eq!(record.leavers_with(NodeId::new(1)), ids(&[1, 3]));
        assert_eq!(record.leavers_with(NodeId::new(3)), ids(&[3]));
        record.leaving = ids(&[3]);
        assert!(record.is_whole(), "it has all its copies");
        record.leaving = ids(&[2, 3]);
        assert!(!record.is_whole());
        assert_eq!(record.voters(), ids(&[1]));
    }
}
