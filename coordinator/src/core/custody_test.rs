//! What a node says of its quarantine, and what waits for it.

use maia_common::ids::RegionName;
use maia_common::placement::{GroupKey, GroupRecord, GroupState, Member, MemberRole, Mode};
use maia_common::position::Term;
use maia_common::topology::Leader;

use super::super::collection;
use super::*;
use crate::metastore::memory::MemoryState;

const G: GroupId = GroupId::new(3);

fn region() -> RegionName {
    RegionName::new("a").unwrap()
}

fn node(id: u64, state: NodeState) -> Node {
    Node {
        id: NodeId::new(id),
        region: region(),
        rpc_addr: String::new(),
        api_url: String::new(),
        disk_id: "d".into(),
        state,
        witness: false,
        farewell: Farewell::Awaited,
    }
}

/// A group of nodes 1, 2 and 3, of which node 3 is taken out.
fn cluster(left: &[u64]) -> ClusterState {
    let member = |id| Member {
        node: NodeId::new(id),
        region: region(),
        role: MemberRole::Voter,
    };
    let group = GroupRecord {
        id: G,
        key: GroupKey {
            home_region: region(),
            replicas: BTreeSet::new(),
            mode: Mode::Replicated,
            shard: 0,
        },
        state: GroupState::Active,
        members: [1, 2, 3].map(member).into(),
        leaving: [NodeId::new(3)].into(),
        left: left.iter().copied().map(NodeId::new).collect(),
    };
    let nodes = [
        (1, NodeState::Active),
        (2, NodeState::Active),
        (3, NodeState::Removing),
    ];
    let nodes = nodes.map(|(id, state)| (NodeId::new(id), node(id, state)));
    ClusterState {
        nodes: nodes.into(),
        groups: [(G, group)].into(),
        ..ClusterState::default()
    }
}

fn some(acknowledged: u64, others: u64) -> Custody {
    Custody::of(&[(G, (acknowledged, others))].into())
}

#[test]
fn entries_go_to_members_that_stay_the_leader_first() {
    let mut state = cluster(&[]);
    let ids = |ids: &[u64]| ids.iter().copied().map(NodeId::new).collect::<Vec<_>>();
    assert_eq!(keepers(&state, G), ids(&[1, 2]));
    let leader = Leader {
        term: Term::new(2),
        node: NodeId::new(2),
        region: region(),
    };
    state.leaders.insert(G, leader);
    assert_eq!(keepers(&state, G), ids(&[2, 1]));
    state.nodes.get_mut(&NodeId::new(1)).unwrap().state = NodeState::Removing;
    assert_eq!(keepers(&state, G), ids(&[2]), "whoever goes takes nothing");
    assert_eq!(keepers(&state, GroupId::new(9)), []);
}

#[test]
fn it_says_what_a_node_waits_for() {
    let node = node(3, NodeState::Removing);
    let ask = |state: &ClusterState, custody: &Custody| waits_for(state, &node, custody).unwrap();
    let member = ask(&cluster(&[]), &some(1, 0));
    assert!(member.contains("groups 3"), "{member}");
    assert!(!is_out_of_groups(&cluster(&[]), node.id));
    let out = cluster(&[3]);
    assert!(is_out_of_groups(&out, node.id));
    let held = ask(&out, &some(2, 5));
    assert!(held.contains("2 acknowledged and 5 other"), "{held}");
    let silent = ask(&out, &Custody::default());
    assert!(silent.contains("not said"), "{silent}");
    let stays = &out.nodes[&NodeId::new(1)];
    assert_eq!(waits_for(&out, stays, &some(1, 1)), None);
}

#[test]
fn a_group_is_held_by_whoever_has_something_of_it() {
    let state = cluster(&[]);
    assert_eq!(held_groups(&[some(0, 1)], &state), [G].into());
    let other = Custody::of(&[(GroupId::new(8), (1, 0))].into());
    assert_eq!(held_groups([&other], &state), BTreeSet::new());
    let more = Custody {
        more: true,
        ..other
    };
    assert_eq!(held_groups(&[more], &state), [G].into(), "it may be of any");
    let many = (0..=MAX_HELD_GROUPS as u64).map(|id| (GroupId::new(id), (1, 0)));
    assert!(Custody::of(&many.collect()).more);
}

#[test]
fn a_closing_and_a_word_of_something_new_never_slip_past_each_other() {
    let mut store = MemoryState::default();
    let mut run = |transaction: &Transaction| {
        let outcome = store.run(transaction).unwrap().outcome;
        outcome.succeeded.then(|| Revision::new(outcome.revision))
    };
    let state = cluster(&[]);
    let (group, third) = (&state.groups[&G], NodeId::new(3));
    let made = Transaction::new("m", 1)
        .put_json(keyspace::group(G), group)
        .put_json(keyspace::node(third), &state.nodes[&third]);
    let at = run(&made).unwrap();
    let close = |said, id| collection::close((group, at), &[(third, said)], id, 1);
    let said = run(&say(third, &some(1, 0), None, "s", 1)).unwrap();
    assert_eq!(run(&close(None, "c")), None, "it has said something since");
    assert_eq!(
        run(&say(third, &some(2, 0), None, "t", 1)),
        None,
        "an older word"
    );
    let nothing = say(third, &Custody::default(), Some(said), "u", 1);
    assert!(run(&nothing).is_some());
    assert!(run(&close(None, "d")).is_some());
}

#[test]
fn a_farewell_is_of_the_record_that_was_seen() {
    let mut store = MemoryState::default();
    let mut run = |transaction: &Transaction| {
        let outcome = store.run(transaction).unwrap().outcome;
        outcome.succeeded.then(|| Revision::new(outcome.revision))
    };
    let node = node(3, NodeState::Removing);
    let made = Transaction::new("m", 1).put_json(keyspace::node(node.id), &node);
    let at = run(&made).unwrap();
    let end = |farewell, id| end_wait((&node, at), farewell, &some(1, 0), id, 1);
    assert!(run(&end(Farewell::GivenUp, "a")).is_some());
    assert_eq!(run(&end(Farewell::Empty, "b")), None);
    let stored = crate::metastore::get_at::<Node>(&store, &keyspace::node(node.id));
    let stored = stored.unwrap().unwrap().value;
    assert_eq!(stored.farewell, Farewell::GivenUp);
}
