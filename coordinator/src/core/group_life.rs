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
//! ```
//! Invariants: I1 (only first members initialize, only while it says creating), I4 (announcements).

use std::time::Duration;

use maia_common::ids::{GroupId, NodeId};
use maia_common::placement::{GroupRecord, GroupState, MemberRole};
use maia_common::position::Term;

use super::cluster_state::ClusterState;

/// A local instance of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance {
    /// Its log is empty and it has no members yet.
    pub is_blank: bool,
    /// The term in which this node leads it, if it does.
    pub leads_at: Option<Term>,
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
}

/// How long the other members leave the initialization to the first one.
pub const FIRST_MEMBER_GRACE: Duration = Duration::from_secs(2);

/// What to do about one group. `instance`: none when this node runs none; `blank_for`: how long
/// its instance has been blank.
#[must_use]
pub fn next(
    node: NodeId,
    record: &GroupRecord,
    instance: Option<Instance>,
    blank_for: Duration,
    cluster: &ClusterState,
) -> Vec<Command> {
    let group = record.id;
    let Some(member) = record.members.iter().find(|m| m.node == node) else {
        return Vec::new();
    };
    if record.state == GroupState::Closing {
        return Vec::new();
    }
    let Some(instance) = instance else {
        return vec![Command::Start(group)];
    };
    let mut commands = Vec::new();
    let creating = record.state == GroupState::Creating;
    if creating && instance.is_blank && member.role == MemberRole::Voter {
        let is_first = record.members.first().is_some_and(|m| m.node == node);
        if is_first || blank_for >= FIRST_MEMBER_GRACE {
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

    fn commands(node: u64, state: GroupState, instance: Option<Instance>, s: u64) -> Vec<Command> {
        next(
            NodeId::new(node),
            &record(state),
            instance,
            Duration::from_secs(s),
            &ClusterState::default(),
        )
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
