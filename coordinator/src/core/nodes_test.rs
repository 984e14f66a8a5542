//! What is refused, and that a removal takes effect on what it was planned on or not at all.

use maia_common::placement::{GroupKey, Member, MemberRole, Mode};
use maia_common::topology::{Region, RegionState};

use super::*;
use crate::metastore::memory::MemoryState;

fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId::new).collect()
}

fn node(id: u64) -> Node {
    Node {
        id: NodeId::new(id),
        region: region("a"),
        rpc_addr: "h:1".into(),
        api_url: "http://h:2".into(),
        disk_id: "d".into(),
        state: NodeState::Active,
        witness: false,
        farewell: Farewell::default(),
    }
}

fn group(id: u64, members: &[u64]) -> GroupRecord {
    let member = |id: &u64| Member {
        node: NodeId::new(*id),
        region: region("a"),
        role: MemberRole::Voter,
    };
    GroupRecord {
        id: GroupId::new(id),
        key: GroupKey {
            home_region: region("a"),
            replicas: BTreeSet::new(),
            mode: Mode::Replicated,
            shard: 0,
        },
        state: GroupState::Active,
        members: members.iter().map(member).collect(),
        leaving: BTreeSet::new(),
        left: BTreeSet::new(),
    }
}

fn cluster(groups: &[GroupRecord]) -> ClusterState {
    let a = Region {
        name: region("a"),
        public_url: "http://a".into(),
        priority: 1,
        state: RegionState::Active,
    };
    ClusterState {
        regions: [(a.name.clone(), a)].into(),
        nodes: [1, 2, 3].map(|id| (NodeId::new(id), node(id))).into(),
        groups: groups.iter().map(|g| (g.id, g.clone())).collect(),
        ..ClusterState::default()
    }
}

/// A node that has nothing in quarantine.
fn with(id: u64) -> (NodeId, &'static Custody) {
    static NOTHING: Custody = Custody {
        held: Vec::new(),
        more: false,
    };
    (NodeId::new(id), &NOTHING)
}

fn new(id: u64) -> NewNode {
    NewNode {
        id: NodeId::new(id),
        region: region("a"),
        rpc_addr: "h:1".into(),
        api_url: "http://h:2".into(),
        witness: false,
    }
}

#[test]
fn an_id_is_used_once_and_a_node_needs_a_region_and_addresses() {
    let state = cluster(&[]);
    let ask = |retired, new: &NewNode| add(&state, retired, new, "t", 1).map(|t| t.is_some());
    assert_eq!(ask(false, &new(4)), Ok(true));
    assert_eq!(ask(false, &new(3)), Ok(false), "a repetition");
    let witness = NewNode {
        witness: true,
        ..new(3)
    };
    assert_eq!(
        ask(false, &witness),
        Err(NodeRefusal::IdUsed(NodeId::new(3)))
    );
    assert_eq!(ask(true, &new(4)), Err(NodeRefusal::IdUsed(NodeId::new(4))));
    let elsewhere = NewNode {
        region: region("b"),
        ..new(4)
    };
    let refused = ask(false, &elsewhere);
    assert_eq!(refused, Err(NodeRefusal::UnknownRegion(region("b"))));
    for bad in ["", "h", ":1", "h:x", "http://h:1"] {
        let bad = NewNode {
            rpc_addr: bad.into(),
            ..new(4)
        };
        assert!(matches!(ask(false, &bad), Err(NodeRefusal::Illegal(_))));
    }
    let mut full = cluster(&[]);
    full.nodes = (1..=MAX_NODES as u64)
        .map(|id| (NodeId::new(id), node(id)))
        .collect();
    assert_eq!(
        add(&full, false, &new(99), "t", 1),
        Err(NodeRefusal::TooMany)
    );
}

#[test]
fn a_removal_that_costs_a_majority_or_the_only_copy_is_refused() {
    let state = cluster(&[group(1, &[1, 2, 3]), group(2, &[1, 2])]);
    let ask = |state: &ClusterState, root: &[u64], answering: &[u64], id| {
        let (root, answering) = (ids(root), ids(answering));
        plan_removal(state, &root, &answering, with(id), GivenUp::default())
    };
    let plan = ask(&state, &[1, 2, 3], &[1, 2], 3).unwrap();
    assert_eq!((plan.answers, plan.metastore_voters_left), (false, 2));
    assert_eq!(plan.groups.len(), 1);
    assert_eq!(plan.groups[0].copies_left, [NodeId::new(1), NodeId::new(2)]);
    // Of three voters one answers: nothing may go.
    let refused = ask(&state, &[1, 2, 3], &[1, 3], 3).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::DataLossRefused, "{refused}");
    // Both copies of group 2 are voters: without the dead one it can't even change its members.
    let refused = ask(&state, &[1, 2, 3], &[1, 3], 2).unwrap_err();
    assert!(refused.to_string().contains("group 2"), "{refused}");
    // Alive, it may go: one copy stays.
    assert!(ask(&state, &[1, 2, 3], &[1, 2, 3], 2).is_ok());
    let single = cluster(&[group(7, &[2])]);
    let refused = ask(&single, &[1, 2, 3], &[1, 2, 3], 2);
    assert_eq!(refused, Err(NodeRefusal::OnlyCopy(GroupId::new(7))));
    let refused = ask(&state, &[1], &[1], 1).unwrap_err();
    assert!(matches!(refused, NodeRefusal::Majority { .. }), "{refused}");
    let refused = ask(&state, &[1, 2, 3], &[1, 2, 3], 9);
    assert_eq!(refused, Err(NodeRefusal::Unknown(NodeId::new(9))));
}

#[test]
fn a_group_that_is_made_meanwhile_makes_the_removal_plan_anew() {
    let state = cluster(&[]);
    let mut store = MemoryState::default();
    let mut run = |transaction: &Transaction| store.run(transaction).unwrap().outcome;
    let registered = Transaction::new("n", 1).put_json(keyspace::node(NodeId::new(3)), &node(3));
    let at = Revision::new(run(&registered).revision);
    let all = ids(&[1, 2, 3]);
    let plan = plan_removal(&state, &all, &all, with(3), GivenUp::default()).unwrap();
    let seen = Seen {
        node: at,
        ..Seen::default()
    };
    let removal = |id| begin_removal(&node(3), &plan, &seen, id, 1);
    let made = Transaction::new("g", 1).put_json(keyspace::LAST_GROUP, &1);
    let group_at = Revision::new(run(&made).revision);
    assert!(!run(&removal("r")).succeeded);
    let seen = Seen {
        node: at,
        last_group: Some((GroupId::new(1), group_at)),
        groups: BTreeMap::new(),
    };
    assert!(run(&begin_removal(&node(3), &plan, &seen, "s", 1)).succeeded);
    let late = Transaction::new("h", 1).when(keyspace::LAST_GROUP, Precondition::At(group_at));
    assert!(
        !run(&late.put("x", "")).succeeded,
        "and the other way round"
    );
}

#[test]
fn only_copies_are_given_up_when_that_is_accepted() {
    let state = cluster(&[group(7, &[2]), group(8, &[1, 2, 3]), group(9, &[1])]);
    let (root, answering) = (ids(&[1, 2, 3]), ids(&[1, 3]));
    let counts = [(GroupId::new(7), 17)].into();
    let give_up = GivenUp {
        groups: Some(&counts),
        ..GivenUp::default()
    };
    let plan = plan_removal(&state, &root, &answering, with(2), give_up).unwrap();
    let lost = LostGroup {
        group: GroupId::new(7),
        tenants: 17,
    };
    assert_eq!(plan.lost, [lost]);
    let go_on: Vec<GroupId> = plan.groups.iter().map(|loss| loss.group).collect();
    assert_eq!(go_on, [GroupId::new(8)]);
    let mut store = MemoryState::default();
    let mut run = |transaction: &Transaction| store.run(transaction).unwrap().outcome;
    let mut made = Transaction::new("m", 1).put_json(keyspace::node(NodeId::new(2)), &node(2));
    for group in state.groups.values() {
        made = made.put_json(keyspace::group(group.id), group);
    }
    let at = Revision::new(run(&made).revision);
    let records = state.groups.values().cloned();
    let seen = Seen {
        node: at,
        last_group: None,
        groups: records.map(|group| (group.id, (group, at))).collect(),
    };
    assert!(run(&begin_removal(&node(2), &plan, &seen, "r", 1)).succeeded);
    let stored = |id| {
        let row =
            crate::metastore::get_at::<GroupRecord>(&store, &keyspace::group(GroupId::new(id)));
        row.unwrap().unwrap().value
    };
    assert_eq!(stored(7).state, GroupState::Closing);
    assert_eq!(
        (stored(8).state, stored(8).leaving),
        (GroupState::Active, ids(&[2]))
    );
    assert_eq!(stored(9), state.groups[&GroupId::new(9)]);
}

#[test]
fn a_quarantine_is_awaited_or_given_up_and_nothing_else() {
    let state = cluster(&[]);
    let root = ids(&[1, 2, 3]);
    let some = Custody::of(&[(GroupId::new(7), (2, 1))].into());
    let ask = |answering: &[u64], custody, quarantine| {
        let give_up = GivenUp {
            quarantine,
            ..GivenUp::default()
        };
        let of = (NodeId::new(3), custody);
        plan_removal(&state, &root, &ids(answering), of, give_up)
    };
    let alive = ask(&[1, 2, 3], &some, false).unwrap();
    let kept = &alive.quarantine;
    assert_eq!(
        (kept.waited_for, kept.acknowledged, kept.others),
        (true, 2, 1)
    );
    let dead = ask(&[1, 2], &some, false).unwrap_err();
    assert_eq!(dead.code(), ErrorCode::DataLossRefused);
    assert!(
        dead.to_string().contains("2 acknowledged and 1 other"),
        "{dead}"
    );
    for (answering, custody, given_up) in [
        (&[1, 2][..], &some, true),
        (&[1, 2, 3], &some, true),
        (&[1, 2], with(3).1, false),
    ] {
        let plan = ask(answering, custody, given_up).unwrap();
        assert!(!plan.quarantine.waited_for);
        let event = removing_event(&node(3), &plan, 1).detail;
        assert!(event.contains("without what only its disk has"), "{event}");
    }
}
