//! Where a group's leadership belongs when nobody has failed: at home, once the home has been well for
//! long; and away from a region that is drained or down, to a voter elsewhere that has all records,
//! by priority. Pure; asked by `group_life` on the group's leader.

use std::time::Duration;

use maia_common::ids::NodeId;
use maia_common::placement::{GroupRecord, Member, MemberRole};
use maia_common::topology::RegionState;

use super::cluster_state::ClusterState;
use super::group_life::{Local, Moves};

/// How long a voter must have been well before it takes over from a region that is drained: longer
/// than one answer, no more, since an operator waits.
const WELL_ENOUGH: Duration = Duration::from_secs(1);
/// How long before a move away from a region that is drained is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// To whom the leader, this node, hands over.
#[must_use]
pub fn target(
    node: NodeId,
    record: &GroupRecord,
    local: &Local,
    moves: Moves,
    cluster: &ClusterState,
) -> Option<NodeId> {
    let well_for = |member: &Member| local.well_for.get(&member.node).copied();
    let moved_within = |window| local.moved_before.is_some_and(|ago| ago < window);
    let others = || {
        let voters = record.staying().filter(|m| m.role == MemberRole::Voter);
        voters.filter(|m| m.node != node && is_open(m, cluster))
    };
    let own = record.members.iter().find(|m| m.node == node)?;
    if !is_open(own, cluster) {
        // Asked for by an operator: neither the inhibit window nor a pause of moves stands against it.
        let well = others().filter(|m| well_for(m).is_some_and(|since| since >= WELL_ENOUGH));
        let best = well.max_by_key(|m| {
            let is_home = m.region == record.key.home_region;
            let region = cluster.regions.get(&m.region);
            let priority = region.map_or(0, |region| region.priority);
            (is_home, priority, std::cmp::Reverse(m.node))
        });
        return best.filter(|_| !moved_within(AGAIN_AFTER)).map(|m| m.node);
    }
    let home = record.members.first()?;
    let is_well = well_for(home).is_some_and(|since| since >= moves.stable_for);
    let may = moves.auto && is_well && !moved_within(moves.inhibit_window);
    others()
        .find(|m| m.node == home.node)
        .filter(|_| may)
        .map(|m| m.node)
}

/// Whether the member's region takes leaders; one that nothing is known of does.
fn is_open(member: &Member, cluster: &ClusterState) -> bool {
    let region = cluster.regions.get(&member.region);
    region.is_none_or(|region| region.state == RegionState::Active)
}

#[cfg(test)]
mod tests {
    use super::*;
    use maia_common::ids::{GroupId, RegionName};
    use maia_common::placement::{GroupKey, GroupState, Mode};
    use maia_common::topology::Region;

    use super::super::group_life::Members;

    const MOVES: Moves = Moves {
        auto: false,
        stable_for: Duration::from_secs(10),
        inhibit_window: Duration::from_secs(60),
    };

    fn region(name: &str) -> RegionName {
        RegionName::new(name).unwrap()
    }

    /// Home `a` (node 1), then `b` and `c`; priorities grow with the letters.
    fn record() -> GroupRecord {
        let member = |id, name| Member {
            node: NodeId::new(id),
            region: region(name),
            role: MemberRole::Voter,
        };
        GroupRecord {
            id: GroupId::new(1),
            key: GroupKey {
                home_region: region("a"),
                replicas: [region("b"), region("c")].into(),
                mode: Mode::Replicated,
                shard: 0,
            },
            state: GroupState::Active,
            members: vec![member(1, "a"), member(2, "b"), member(3, "c")],
            leaving: std::collections::BTreeSet::new(),
            left: std::collections::BTreeSet::new(),
        }
    }

    fn cluster(draining: &[&str]) -> ClusterState {
        let mut state = ClusterState::default();
        for (priority, name) in (1..).zip(["a", "b", "c"]) {
            let is_draining = draining.contains(&name);
            let region = Region {
                name: region(name),
                public_url: String::new(),
                priority,
                state: if is_draining {
                    RegionState::Draining
                } else {
                    RegionState::Active
                },
            };
            state.regions.insert(region.name.clone(), region);
        }
        state
    }

    fn local(well: &[(u64, u64)], moved_s: Option<u64>) -> Local {
        let well = well.iter().copied();
        Local {
            instance: None,
            blank_for: Duration::ZERO,
            well_for: well
                .map(|(node, s)| (NodeId::new(node), Duration::from_secs(s)))
                .collect(),
            moved_before: moved_s.map(Duration::from_secs),
            members: Members::default(),
            is_gone: false,
        }
    }

    #[test]
    fn a_leader_in_a_draining_region_hands_over_by_priority() {
        let ask = |node, draining: &[&str], local: &Local| {
            let node = target(
                NodeId::new(node),
                &record(),
                local,
                MOVES,
                &cluster(draining),
            );
            node.map(NodeId::get)
        };
        let all_well = local(&[(1, 9), (2, 9), (3, 9)], None);
        assert_eq!(ask(1, &["a"], &all_well), Some(3));
        assert_eq!(ask(2, &["b"], &all_well), Some(1), "home comes first");
        assert_eq!(ask(1, &["a", "c"], &all_well), Some(2));
        assert_eq!(ask(1, &["a", "b", "c"], &all_well), None, "nowhere to go");
        assert_eq!(ask(1, &[], &all_well), None);
        assert_eq!(
            ask(1, &["a"], &local(&[(2, 9)], None)),
            Some(2),
            "well only"
        );
        assert_eq!(
            ask(1, &["a"], &local(&[(2, 9)], Some(2))),
            None,
            "just tried"
        );
        assert_eq!(ask(1, &["a"], &local(&[(2, 9)], Some(6))), Some(2));
    }

    #[test]
    fn nobody_goes_home_to_a_draining_region() {
        let moves = Moves {
            auto: true,
            ..MOVES
        };
        let ask = |draining: &[&str]| {
            let well = local(&[(1, 99)], None);
            target(NodeId::new(2), &record(), &well, moves, &cluster(draining))
        };
        assert_eq!(ask(&[]), Some(NodeId::new(1)));
        assert_eq!(ask(&["a"]), None);
        let mut leaving = record();
        leaving.leaving = [NodeId::new(1)].into();
        let well = local(&[(1, 99)], None);
        let to = target(NodeId::new(2), &leaving, &well, moves, &cluster(&[]));
        assert_eq!(to, None, "nor to one that is taken out");
    }
}
