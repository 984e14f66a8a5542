//! The life of placement groups on one node: which instances to start, which group to initialize,
//! confirm or announce. Pure: called by `shell/groups` with the picture of the cluster and of the
//! local instances; every command is idempotent, so doing one twice, or after a crash, is harmless.
//!
//! ```text
//! record says   this node                      command
//! creating      member, no instance            Start
//! creating      first member, empty log        Initialize   (others after a while: it may be dead)
//! creating      leads                          Activate     creating → active
//! any           leads at a term not announced  Announce
//! any           leads away from home, or       Transfer   (see `homecoming`)
//!               where it should not
//! ```
//! Invariants: I1 (only first members initialize, only while it says creating), I4 (announcements).

use std::collections::BTreeMap;
use std::time::Duration;

use maia_common::ids::{GroupId, NodeId};
use maia_common::placement::{GroupRecord, GroupState, MemberRole};
use maia_common::position::Term;

use super::cluster_state::ClusterState;
use super::homecoming;

/// A local instance of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    /// Its log is empty and it has no members yet.
    pub is_blank: bool,
    /// The term in which this node leads it, if it does.
    pub leads_at: Option<Term>,
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
    if record.state == GroupState::Closing {
        return Vec::new();
    }
    let Some(instance) = local.instance else {
        return vec![Command::Start(group)];
    };
    let mut commands = Vec::new();
    let creating = record.state == GroupState::Creating;
    if creating && instance.is_blank && member.role == MemberRole::Voter {
        let is_first = record.members.first().is_some_and(|m| m.node == node);
        if is_first || local.blank_for >= FIRST_MEMBER_GRACE {
            commands.push(Command::Initialize(group, voters(record)));
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
        let to = homecoming::target(node, record, local, moves, cluster);
        commands.extend(to.map(|to| Command::Transfer(group, to)));
    }
    commands
}

fn voters(record: &GroupRecord) -> Vec<NodeId> {
    let voters = record
        .members
        .iter()
        .filter(|m| m.role == MemberRole::Voter);
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
        assert_eq!(commands(1, GroupState::Closing, None, 0), []);
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
