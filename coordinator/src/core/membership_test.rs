//! Tables for each step, and a property: whatever dies and comes back, the membership stays able to
//! work, and ends where the records say.

use maia_common::ids::{GroupId, RegionName};
use maia_common::placement::{GroupKey, GroupRecord, Member, MemberRole, Mode};
use proptest::prelude::*;

use super::*;

fn node(id: u64, state: NodeState) -> Node {
    Node {
        id: NodeId::new(id),
        region: RegionName::new("a").unwrap(),
        rpc_addr: String::new(),
        api_url: String::new(),
        disk_id: "d".into(),
        state,
        witness: false,
        farewell: Farewell::Empty,
    }
}

fn cluster(nodes: &[(u64, NodeState)]) -> ClusterState {
    let nodes = nodes.iter().map(|(id, state)| node(*id, *state));
    ClusterState {
        nodes: nodes.map(|node| (node.id, node)).collect(),
        ..ClusterState::default()
    }
}

fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId::new).collect()
}

/// Members as letters: `V` votes, `L` learns, `B` learns and is behind; in lower case: silent.
fn root(members: &[(u64, char)]) -> Root {
    let view = |c: char| MemberView {
        votes: c.eq_ignore_ascii_case(&'V'),
        answers: c.is_uppercase(),
        caught_up: !c.eq_ignore_ascii_case(&'B'),
    };
    let members = members.iter().map(|(id, c)| (NodeId::new(*id), view(*c)));
    Root {
        members: members.collect(),
        is_joint: false,
        settled: true,
    }
}

#[test]
fn nobody_is_retired_by_a_membership_that_may_be_taken_back() {
    let state = cluster(&[(1, A), (2, A), (3, R)]);
    let mut out = root(&[(1, 'V'), (2, 'V')]);
    assert_eq!(next(&state, &out), [Command::Retire(NodeId::new(3))]);
    out.settled = false;
    assert_eq!(next(&state, &out), []);
}

const A: NodeState = NodeState::Active;
const J: NodeState = NodeState::Joining;
const R: NodeState = NodeState::Removing;

#[test]
fn a_new_node_learns_then_votes_while_there_is_room() {
    let three = [(1, A), (2, A), (3, A)];
    let with = |more: &[(u64, NodeState)]| cluster(&[&three[..], more].concat());
    let voters = [(1, 'V'), (2, 'V'), (3, 'V')];
    let members = |more: &[(u64, char)]| root(&[&voters[..], more].concat());
    let added = vec![Command::AddLearner(NodeId::new(4))];
    assert_eq!(next(&with(&[(4, J)]), &members(&[])), added);
    assert_eq!(next(&with(&[(4, J)]), &members(&[(4, 'L')])), [], "joining");
    assert_eq!(next(&with(&[(4, A)]), &members(&[(4, 'B')])), [], "behind");
    assert_eq!(next(&with(&[(4, A)]), &members(&[(4, 'l')])), [], "silent");
    let four = vec![Command::SetVoters(ids(&[1, 2, 3, 4]))];
    assert_eq!(next(&with(&[(4, A)]), &members(&[(4, 'L')])), four);
    let full = [(4, 'V'), (5, 'V'), (6, 'L')];
    let state = with(&[(4, A), (5, A), (6, A)]);
    assert_eq!(next(&state, &members(&full)), [], "five vote already");
    let mut unknown_disk = with(&[(4, J)]);
    let fourth = unknown_disk.nodes.get_mut(&NodeId::new(4)).unwrap();
    fourth.disk_id.clear();
    assert_eq!(next(&unknown_disk, &members(&[])), [], "it never came");
}

#[test]
fn a_removed_voter_makes_room_for_a_learner_and_is_retired() {
    let state = cluster(&[(1, A), (2, A), (3, R), (4, A)]);
    let dead = root(&[(1, 'V'), (2, 'V'), (3, 'v'), (4, 'L')]);
    let swapped = vec![Command::SetVoters(ids(&[1, 2, 4]))];
    assert_eq!(next(&state, &dead), swapped);
    let mut joint = dead;
    joint.is_joint = true;
    joint.members.get_mut(&NodeId::new(4)).unwrap().votes = true;
    assert_eq!(next(&state, &joint), swapped, "goes on from between");
    let out = root(&[(1, 'V'), (2, 'V'), (4, 'V')]);
    assert_eq!(next(&state, &out), [Command::Retire(NodeId::new(3))]);
    let learner = root(&[(1, 'V'), (2, 'V'), (4, 'V'), (3, 'l')]);
    let dropped = vec![Command::DropLearners(ids(&[3]))];
    assert_eq!(next(&state, &learner), dropped);
}

#[test]
fn nobody_leaves_who_is_needed() {
    let state = cluster(&[(1, A), (2, A), (3, R)]);
    let most_silent = root(&[(1, 'V'), (2, 'v'), (3, 'V')]);
    assert_eq!(next(&state, &most_silent), [], "1 of 1, 2 would be left");
    let mut state = cluster(&[(1, A), (2, A), (3, R)]);
    let all = root(&[(1, 'V'), (2, 'V'), (3, 'V')]);
    let region = || RegionName::new("a").unwrap();
    let member = |id| Member {
        node: NodeId::new(id),
        region: region(),
        role: MemberRole::Voter,
    };
    let mut group = GroupRecord {
        id: GroupId::new(1),
        key: GroupKey {
            home_region: region(),
            replicas: BTreeSet::new(),
            mode: Mode::Single,
            shard: 0,
        },
        state: GroupState::Active,
        members: vec![member(1), member(3)],
        leaving: ids(&[3]),
        left: BTreeSet::new(),
    };
    state.groups.insert(group.id, group.clone());
    assert_eq!(next(&state, &all), [], "its group has not let it go");
    (group.leaving, group.left) = (BTreeSet::new(), ids(&[3]));
    state.groups.insert(group.id, group);
    let two = vec![Command::SetVoters(ids(&[1, 2]))];
    assert_eq!(next(&state, &all), two);
}

#[test]
fn nobody_goes_before_it_has_said_that_it_has_nothing() {
    let mut state = cluster(&[(1, A), (2, A), (3, R), (4, A)]);
    let all = root(&[(1, 'V'), (2, 'V'), (3, 'V'), (4, 'V')]);
    let out = root(&[(1, 'V'), (2, 'V'), (4, 'V')]);
    let mut set = |farewell| {
        state.nodes.get_mut(&NodeId::new(3)).unwrap().farewell = farewell;
        (next(&state, &all), next(&state, &out))
    };
    assert_eq!(set(Farewell::Awaited), (vec![], vec![]));
    let gone = vec![Command::SetVoters(ids(&[1, 2, 4]))];
    let retired = vec![Command::Retire(NodeId::new(3))];
    for farewell in [Farewell::Empty, Farewell::GivenUp] {
        assert_eq!(set(farewell), (gone.clone(), retired.clone()));
    }
}

#[test]
fn who_has_no_record_yet_keeps_the_vote() {
    // The first members vote before they have registered.
    let state = cluster(&[(1, A)]);
    assert_eq!(next(&state, &root(&[(1, 'V'), (2, 'V'), (3, 'v')])), []);
}

/// Raft's part: carries a command out on the model; a change of voters may stop between its steps.
fn carry_out(state: &mut ClusterState, root: &mut Root, command: &Command, stops_between: bool) {
    match command {
        Command::AddLearner(id) => {
            let view = MemberView {
                votes: false,
                answers: true,
                caught_up: true,
            };
            root.members.insert(*id, view);
        }
        Command::DropLearners(leavers) => root.members.retain(|id, _| !leavers.contains(id)),
        Command::Retire(id) => drop(state.nodes.remove(id)),
        Command::SetVoters(voters) => {
            for (id, member) in &mut root.members {
                member.votes |= voters.contains(id);
            }
            root.is_joint = stops_between;
            if !stops_between {
                let stays = |id: &NodeId, m: &MemberView| voters.contains(id) || !m.votes;
                root.members.retain(|id, member| stays(id, member));
            }
        }
    }
}

fn check_step(state: &ClusterState, root: &Root, command: &Command) {
    let of = |holds: fn(&MemberView) -> bool| -> BTreeSet<NodeId> {
        let those = root.members.iter().filter(|(_, m)| holds(m));
        those.map(|(id, _)| *id).collect()
    };
    let (now, answering) = (of(|m| m.votes), of(|m| m.answers));
    match command {
        Command::SetVoters(voters) => {
            assert!(!voters.is_empty() && voters.len() <= MAX_VOTERS);
            assert!(voters.iter().all(|id| root.members.contains_key(id)));
            assert!(has_majority(&now, &answering) && has_majority(voters, &answering));
        }
        Command::DropLearners(leavers) => assert!(leavers.is_disjoint(&now)),
        Command::Retire(id) => {
            assert_eq!(state.nodes[id].state, NodeState::Removing);
            assert!(!root.members.contains_key(id));
        }
        Command::AddLearner(id) => assert!(!root.members.contains_key(id)),
    }
}

proptest! {
    #[test]
    fn it_never_loses_the_majority_and_converges(
        voters in 1u64..=5,
        comers in 0u64..=4,
        leaves in proptest::collection::vec(any::<bool>(), 9),
        faults in proptest::collection::vec((0u64..9, any::<bool>(), any::<bool>()), 0..60),
    ) {
        let mut state = ClusterState::default();
        let mut members = Vec::new();
        for id in 1..=voters + comers {
            let leaves = leaves[usize::try_from(id).unwrap() - 1] && id != 1;
            let record = node(id, if leaves { R } else { A });
            state.nodes.insert(record.id, record);
            if id <= voters {
                members.push((id, 'V'));
            }
        }
        let mut root = root(&members);
        for (id, answers, stops_between) in faults {
            // Node 1 leads, so it answers.
            if let Some(member) = root.members.get_mut(&NodeId::new(id + 2)) {
                member.answers = answers;
            }
            if let Some(command) = next(&state, &root).first().cloned() {
                check_step(&state, &root, &command);
                carry_out(&mut state, &mut root, &command, stops_between);
            }
        }
        for member in root.members.values_mut() {
            member.answers = true;
        }
        for _ in 0..64 {
            for command in next(&state, &root) {
                check_step(&state, &root, &command);
                carry_out(&mut state, &mut root, &command, false);
            }
        }
        prop_assert_eq!(next(&state, &root), vec![]);
        prop_assert!(!root.is_joint);
        prop_assert!(state.nodes.values().all(|node| node.state != NodeState::Removing));
        prop_assert_eq!(
            state.nodes.keys().collect::<Vec<_>>(),
            root.members.keys().collect::<Vec<_>>()
        );
        let votes = root.members.values().filter(|m| m.votes).count();
        prop_assert_eq!(votes, root.members.len().min(MAX_VOTERS));
    }
}
