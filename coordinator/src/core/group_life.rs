//! The life of placement groups on one node: which instances to start, which group to initialize,
//! confirm or announce, which to leave. Pure: called by `shell/groups` with the picture of the cluster
//! and of the local instances; every command is idempotent, so doing one twice, or after a crash, is
//! harmless.
//!
//! ```text
//! record says   this node                      command
//! creating      member, no instance            Start
//! creating      first member, empty log        Initialize   (others with data after a while: it may be dead)
//! creating      leads                          Activate     creating → active
//! any           leads at a term not announced  Announce
//! any           leads away from home, or       Transfer   (see `homecoming`)
//!               where it should not
//! x is leaving  leads, x is a member           SetVoters    to those that stay, while most of them answer
//! x is leaving  leads, x is out, committed     Confirm      leaving → left
//! x has no vote  leads, x is no member yet      AddLearner
//! it has left   may have data                  Leave        deletes it, keeps a tombstone
//! closing       may have data                  Leave, then Depart: it has left
//! ```
//! A member that is taken out deletes what it has only after the record says that it has left, hence
//! after its vote is not needed any more. The record of a closing group goes when all have left.
//!
//! Invariants: I1 (only first members initialize, only while it says creating), I4 (announcements).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use maia_common::ids::{GroupId, NodeId};
use maia_common::placement::{GroupRecord, GroupState, MemberRole};
use maia_common::position::Term;

use super::cluster_state::ClusterState;
use super::{homecoming, membership};

/// A local instance of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    /// Its log is empty and it has no members yet.
    pub is_blank: bool,
    /// The term in which this node leads it, if it does.
    pub leads_at: Option<Term>,
}

/// A group's members in Raft's eyes, as its leader sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// With a vote; between the two steps of a change those of both.
    pub voters: BTreeSet<NodeId>,
    /// Without.
    pub learners: BTreeSet<NodeId>,
    /// Between the two steps of a change.
    pub is_joint: bool,
    /// This membership is committed.
    pub settled: bool,
    /// Those that answer the leader, itself among them.
    pub answering: BTreeSet<NodeId>,
}

/// What this node knows of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Its instance, if there is one.
    pub instance: Option<Instance>,
    /// How long the instance has been blank.
    pub blank_for: Duration,
    /// On the leader: how long each other voter has answered and had all records.
    pub well_for: BTreeMap<NodeId, Duration>,
    /// Since the group was last moved by this node; none: never.
    pub moved_before: Option<Duration>,
    /// On the leader: who the members are.
    pub members: Members,
    /// Whether what this process could have of the group is deleted.
    pub is_gone: bool,
}

/// When leaders go home by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moves {
    /// Whether they do.
    pub auto: bool,
    /// How long a home must have been well.
    pub stable_for: Duration,
    /// No second move within this.
    pub inhibit_window: Duration,
}

/// Something for the shell to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Command {
    /// Make an instance.
    Start(GroupId),
    /// Make the first members a group.
    Initialize(GroupId, Vec<NodeId>),
    /// Confirm the group in the metastore.
    Activate(GroupId),
    /// Write the announcement.
    Announce(GroupId, Term),
    /// Hand the leadership over.
    Transfer(GroupId, NodeId),
    /// Take members out of Raft's membership: those that are not named.
    SetVoters(GroupId, BTreeSet<NodeId>),
    /// Have a member without a vote follow.
    AddLearner(GroupId, NodeId),
    /// Take members without a vote out of it.
    DropLearners(GroupId, BTreeSet<NodeId>),
    /// Note in the record that these are out.
    Confirm(GroupId, BTreeSet<NodeId>),
    /// Delete the instance and all that the disk has of the group.
    Leave(GroupId),
    /// Note in the record of a closing group that this node has nothing of it any more.
    Depart(GroupId),
}

/// How long the other members leave the initialization to the first one.
pub const FIRST_MEMBER_GRACE: Duration = Duration::from_secs(2);

/// What to do about one group.
#[must_use]
pub fn next(
    node: NodeId,
    record: &GroupRecord,
    local: &Local,
    moves: Moves,
    cluster: &ClusterState,
) -> Vec<Command> {
    let group = record.id;
    let Some(member) = record.members.iter().find(|m| m.node == node) else {
        return Vec::new();
    };
    let has_left = record.left.contains(&node);
    if has_left || record.state == GroupState::Closing {
        return match (local.is_gone, has_left) {
            (false, _) => vec![Command::Leave(group)],
            (true, false) => vec![Command::Depart(group)],
            (true, true) => Vec::new(),
        };
    }
    let Some(instance) = local.instance else {
        return vec![Command::Start(group)];
    };
    let mut commands = Vec::new();
    let creating = record.state == GroupState::Creating;
    if creating && instance.is_blank && member.role == MemberRole::Voter {
        let is_first = record.members.first().is_some_and(|m| m.node == node);
        if is_first || local.blank_for >= FIRST_MEMBER_GRACE {
            commands.push(Command::Initialize(group, first_voters(record)));
        }
    }
    if let Some(term) = instance.leads_at {
        if creating {
            commands.push(Command::Activate(group));
        }
        let announced = cluster.announced.get(&group).copied().unwrap_or_default();
        if term > announced {
            commands.push(Command::Announce(group, term));
        }
        let change = departure(record, &local.members);
        match change.or_else(|| comer(record, &local.members)) {
            Some(command) => commands.push(command),
            None => {
                let to = homecoming::target(node, record, local, moves, cluster);
                commands.extend(to.map(|to| Command::Transfer(group, to)));
            }
        }
    }
    commands
}

/// The next step to take out who is leaving; none when nobody is, or while it would cost the group
/// its majority.
fn departure(record: &GroupRecord, members: &Members) -> Option<Command> {
    let (group, stay) = (record.id, record.voters());
    if record.leaving.is_empty() || stay.is_empty() {
        return None;
    }
    if members.is_joint || !members.voters.is_disjoint(&record.leaving) {
        let most_answer = membership::has_majority(&stay, &members.answering)
            && membership::has_majority(&members.voters, &members.answering);
        return most_answer.then_some(Command::SetVoters(group, stay));
    }
    let learners: BTreeSet<NodeId> = &members.learners & &record.leaving;
    if !learners.is_empty() {
        return Some(Command::DropLearners(group, learners));
    }
    let out = members.settled && !members.voters.is_empty();
    out.then(|| Command::Confirm(group, record.leaving.clone()))
}

/// The next member without a vote that does not follow yet. A group begins with its voters alone.
fn comer(record: &GroupRecord, members: &Members) -> Option<Command> {
    if members.is_joint || members.voters.is_empty() {
        return None;
    }
    let mut comers = record.staying().filter(|m| {
        let is_in = members.learners.contains(&m.node) || members.voters.contains(&m.node);
        m.role == MemberRole::Learner && !is_in
    });
    comers
        .next()
        .map(|m| Command::AddLearner(record.id, m.node))
}

/// The members with which the group begins, whoever of them is to leave again.
fn first_voters(record: &GroupRecord) -> Vec<NodeId> {
    let voters = record.members.iter().filter(|m| m.role.votes());
    voters.map(|m| m.node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use maia_common::ids::RegionName;
    use maia_common::placement::{GroupKey, Member, Mode};

    const GROUP: GroupId = GroupId::new(1);
    const BLANK: Instance = Instance {
        is_blank: true,
        leads_at: None,
    };

    fn record(state: GroupState) -> GroupRecord {
        let region = |name: &str| RegionName::new(name).unwrap();
        let member = |id, name| Member {
            node: NodeId::new(id),
            region: region(name),
            role: MemberRole::Voter,
        };
        GroupRecord {
            id: GROUP,
            key: GroupKey {
                home_region: region("b"),
                replicas: [region("a")].into(),
                mode: Mode::Replicated,
                shard: 0,
            },
            state,
            members: vec![member(2, "b"), member(1, "a")],
            leaving: BTreeSet::new(),
            left: BTreeSet::new(),
        }
    }

    const MOVES: Moves = Moves {
        auto: true,
        stable_for: Duration::from_secs(10),
        inhibit_window: Duration::from_secs(60),
    };

    fn local(instance: Option<Instance>, blank_for_s: u64) -> Local {
        Local {
            instance,
            blank_for: Duration::from_secs(blank_for_s),
            well_for: BTreeMap::new(),
            moved_before: None,
            members: Members::default(),
            is_gone: false,
        }
    }

    fn commands(node: u64, state: GroupState, instance: Option<Instance>, s: u64) -> Vec<Command> {
        let cluster = ClusterState::default();
        next(
            NodeId::new(node),
            &record(state),
            &local(instance, s),
            MOVES,
            &cluster,
        )
    }

    #[test]
    fn a_leader_goes_home_once_the_home_is_well_and_not_twice_in_a_window() {
        let cluster = ClusterState {
            announced: [(GROUP, Term::new(4))].into(),
            ..ClusterState::default()
        };
        let leading = Some(Instance {
            is_blank: false,
            leads_at: Some(Term::new(4)),
        });
        let ask = |node, well_s, moved_s: Option<u64>, moves| {
            let local = Local {
                well_for: [(NodeId::new(2), Duration::from_secs(well_s))].into(),
                moved_before: moved_s.map(Duration::from_secs),
                ..local(leading, 0)
            };
            next(
                NodeId::new(node),
                &record(GroupState::Active),
                &local,
                moves,
                &cluster,
            )
        };
        let home = vec![Command::Transfer(GROUP, NodeId::new(2))];
        assert_eq!(ask(1, 10, None, MOVES), home);
        assert_eq!(ask(1, 10, Some(61), MOVES), home);
        assert_eq!(ask(1, 9, None, MOVES), []);
        assert_eq!(ask(1, 10, Some(59), MOVES), []);
        assert_eq!(ask(2, 10, None, MOVES), [], "at home already");
        assert_eq!(
            ask(
                1,
                10,
                None,
                Moves {
                    auto: false,
                    ..MOVES
                }
            ),
            []
        );
    }

    #[test]
    fn only_members_start_an_instance() {
        assert_eq!(commands(3, GroupState::Creating, None, 0), []);
        assert_eq!(
            commands(1, GroupState::Creating, None, 0),
            [Command::Start(GROUP)]
        );
    }

    fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId::new).collect()
    }

    #[test]
    fn a_member_of_a_closing_group_deletes_first_and_departs_then() {
        let mut record = record(GroupState::Closing);
        let ask = |record: &GroupRecord, is_gone| {
            let local = Local {
                is_gone,
                ..local(Some(BLANK), 9)
            };
            next(
                NodeId::new(1),
                record,
                &local,
                MOVES,
                &ClusterState::default(),
            )
        };
        assert_eq!(ask(&record, false), [Command::Leave(GROUP)]);
        assert_eq!(ask(&record, true), [Command::Depart(GROUP)]);
        record.left = ids(&[1]);
        assert_eq!(ask(&record, true), []);
        assert_eq!(ask(&record, false), [Command::Leave(GROUP)], "restarted");
        // The same for one that was taken out of a group that goes on.
        record.state = GroupState::Active;
        assert_eq!(ask(&record, false), [Command::Leave(GROUP)]);
        assert_eq!(ask(&record, true), []);
    }

    #[test]
    fn a_leaver_is_out_of_the_membership_before_the_record_says_so() {
        let three = || {
            let mut three = record(GroupState::Active);
            let mut third = three.members[0].clone();
            third.node = NodeId::new(3);
            three.members.push(third);
            three.leaving = ids(&[3]);
            three
        };
        let ask = |record: &GroupRecord, members: Members| departure(record, &members);
        let members = |voters: &[u64], answering: &[u64]| Members {
            voters: ids(voters),
            settled: true,
            answering: ids(answering),
            ..Members::default()
        };
        let set = Some(Command::SetVoters(GROUP, ids(&[1, 2])));
        assert_eq!(ask(&three(), members(&[1, 2, 3], &[1, 2])), set);
        assert_eq!(
            ask(&three(), members(&[1, 2, 3], &[1, 3])),
            None,
            "would cost the majority"
        );
        let joint = Members {
            is_joint: true,
            ..members(&[1, 2, 3], &[1, 2])
        };
        assert_eq!(ask(&three(), joint), set);
        let confirm = Some(Command::Confirm(GROUP, ids(&[3])));
        assert_eq!(ask(&three(), members(&[1, 2], &[1, 2])), confirm);
        let not_yet = Members {
            settled: false,
            ..members(&[1, 2], &[1, 2])
        };
        assert_eq!(ask(&three(), not_yet), None);
        let learner = Members {
            learners: ids(&[3]),
            ..members(&[1, 2], &[1, 2])
        };
        let dropped = Some(Command::DropLearners(GROUP, ids(&[3])));
        assert_eq!(ask(&three(), learner), dropped);
        let all = GroupRecord {
            leaving: ids(&[1, 2, 3]),
            ..three()
        };
        assert_eq!(
            ask(&all, members(&[1, 2, 3], &[1, 2, 3])),
            None,
            "somebody has to stay"
        );
    }

    #[test]
    fn members_without_a_vote_are_added_once_one_after_the_other() {
        let mut six = record(GroupState::Active);
        let region = |name: &str| RegionName::new(name).unwrap();
        six.members
            .extend([(3, "c"), (4, "d")].map(|(id, name)| Member {
                node: NodeId::new(id),
                region: region(name),
                role: MemberRole::Learner,
            }));
        let ask = |record: &GroupRecord, learners: &[u64]| {
            let members = Members {
                voters: ids(&[1, 2]),
                learners: ids(learners),
                settled: true,
                ..Members::default()
            };
            let local = Local {
                members,
                ..local(
                    Some(Instance {
                        is_blank: false,
                        leads_at: Some(Term::new(4)),
                    }),
                    0,
                )
            };
            let cluster = ClusterState {
                announced: [(GROUP, Term::new(4))].into(),
                ..ClusterState::default()
            };
            next(NodeId::new(2), record, &local, MOVES, &cluster)
        };
        let add = |id| vec![Command::AddLearner(GROUP, NodeId::new(id))];
        assert_eq!(ask(&six, &[]), add(3));
        assert_eq!(ask(&six, &[3]), add(4));
        assert_eq!(ask(&six, &[3, 4]), []);
        six.left = ids(&[4]);
        assert_eq!(ask(&six, &[3]), [], "who left does not come back");
        assert_eq!(comer(&six, &Members::default()), None, "nothing is known");
    }

    #[test]
    fn the_first_member_initializes_and_the_others_when_it_does_not() {
        let both = vec![NodeId::new(2), NodeId::new(1)];
        let initialize = vec![Command::Initialize(GROUP, both)];
        assert_eq!(
            commands(2, GroupState::Creating, Some(BLANK), 0),
            initialize
        );
        assert_eq!(commands(1, GroupState::Creating, Some(BLANK), 0), []);
        assert_eq!(
            commands(1, GroupState::Creating, Some(BLANK), 3),
            initialize
        );
        assert_eq!(
            commands(2, GroupState::Active, Some(BLANK), 9),
            [],
            "a wiped disk waits"
        );
    }

    #[test]
    fn a_leader_confirms_and_announces() {
        let leading = Some(Instance {
            is_blank: false,
            leads_at: Some(Term::new(4)),
        });
        assert_eq!(
            commands(1, GroupState::Creating, leading, 0),
            [
                Command::Activate(GROUP),
                Command::Announce(GROUP, Term::new(4))
            ]
        );
    }
}
