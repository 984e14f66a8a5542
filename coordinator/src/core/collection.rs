//! Collecting empty groups, so that ids are given out for ever and slots are not: which groups to
//! close, which records to delete, and the transactions that do it. Pure; run by `shell/controller`.
//!
//! ```text
//! active ──no reference for collect_after──▶ closing ──all members have left──▶ (no record)
//! ```
//! A group whose only copy is given up with its node (`core/nodes`) is closing while it has tenants:
//! they go first, in batches and without a purge, since nobody is left who could do one.
//!
//! Closing compares the group's record and the absence of its reference count in one transaction, and
//! every placement compares the record and counts itself: so neither slips past the other. The key is
//! free from then on: the next tenant with that spec gets a new group with a new id.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use maia_common::ids::{GroupId, NodeId};
use maia_common::placement::{GroupRecord, GroupState, Placement};
use maia_common::position::Revision;

use super::cluster_state::ClusterState;
use super::keyspace;
use super::metastore::{Precondition, Transaction};
use super::placements::Event;

/// The groups that no placement has named for `after`. `empty_for`: since when each has been seen
/// without one.
#[must_use]
pub fn to_close(
    state: &ClusterState,
    empty_for: &BTreeMap<GroupId, Duration>,
    after: Duration,
) -> Vec<GroupId> {
    let open = state
        .groups
        .values()
        .filter(|g| g.state != GroupState::Closing);
    let empty = open.filter(|g| empty_for.get(&g.id).is_some_and(|since| *since >= after));
    empty.map(|group| group.id).collect()
}

/// The groups that are open and without references now: placements, and records in a node's quarantine.
#[must_use]
pub fn empty(state: &ClusterState, counted: &BTreeSet<GroupId>) -> BTreeSet<GroupId> {
    let open = state
        .groups
        .values()
        .filter(|g| g.state != GroupState::Closing);
    open.map(|group| group.id)
        .filter(|id| !counted.contains(id))
        .collect()
}

/// The closing groups that have tenants: those that were given up.
#[must_use]
pub fn given_up(state: &ClusterState, counted: &BTreeSet<GroupId>) -> BTreeSet<GroupId> {
    let closing = state
        .groups
        .values()
        .filter(|g| g.state == GroupState::Closing);
    let ids = closing.map(|group| group.id);
    ids.filter(|id| counted.contains(id)).collect()
}

/// The transaction that ends placements in groups that were given up, if they are as seen.
#[must_use]
pub fn abandon(tenants: &[(Placement, Revision)], id: &str, now_unix_us: u64) -> Transaction {
    let mut transaction = Transaction::new(id, now_unix_us);
    let mut counts: BTreeMap<GroupId, i64> = BTreeMap::new();
    for (placement, at) in tenants {
        let key = keyspace::tenant(&placement.tenant);
        *counts.entry(placement.group).or_default() += 1;
        transaction = transaction
            .when(&key, Precondition::At(*at))
            .delete(key)
            .delete(keyspace::deletion(&placement.tenant))
            .put_json(keyspace::retired(&placement.tenant), &placement.version);
    }
    let groups: Vec<String> = counts.keys().map(ToString::to_string).collect();
    for (group, count) in counts {
        transaction = transaction.add(keyspace::refs(group), -count);
    }
    transaction.event(&Event {
        kind: "placements_lost".into(),
        at_unix_us: now_unix_us,
        tenant: None,
        group: None,
        detail: format!("{} tenants of groups {}", tenants.len(), groups.join(", ")),
    })
}

/// The closing groups of which no member has anything left, nor the metastore a tenant. A node that
/// was removed has not.
#[must_use]
pub fn to_forget(state: &ClusterState, counted: &BTreeSet<GroupId>) -> Vec<GroupId> {
    let closing = state
        .groups
        .values()
        .filter(|g| g.state == GroupState::Closing && !counted.contains(&g.id));
    let is_over = |group: &&GroupRecord| {
        let mut members = group.members.iter();
        members.all(|m| group.left.contains(&m.node) || !state.nodes.contains_key(&m.node))
    };
    closing.filter(is_over).map(|group| group.id).collect()
}

/// The transaction that closes the group, if it is as seen, no placement names it, and its members have said
/// nothing new of their quarantine.
#[must_use]
pub fn close(
    (record, at): (&GroupRecord, Revision),
    said: &[(NodeId, Option<Revision>)],
    id: &str,
    now_unix_us: u64,
) -> Transaction {
    let closing = GroupRecord {
        state: GroupState::Closing,
        ..record.clone()
    };
    let mut transaction = Transaction::new(id, now_unix_us);
    for (node, at) in said {
        let unchanged = at.map_or(Precondition::Absent, Precondition::At);
        transaction = transaction.when(keyspace::custody(*node), unchanged);
    }
    transaction
        .when(keyspace::group(record.id), Precondition::At(at))
        .when(keyspace::refs(record.id), Precondition::Absent)
        .put_json(keyspace::group(record.id), &closing)
        .event(&event("group_closing", record, now_unix_us))
}

/// The transaction that deletes the record of a closed group.
#[must_use]
pub fn forget(record: &GroupRecord, at: Revision, id: &str, now_unix_us: u64) -> Transaction {
    Transaction::new(id, now_unix_us)
        .when(keyspace::group(record.id), Precondition::At(at))
        .when(keyspace::refs(record.id), Precondition::Absent)
        .delete(keyspace::group(record.id))
        .delete(keyspace::leader(record.id))
        .event(&event("group_removed", record, now_unix_us))
}

fn event(kind: &str, record: &GroupRecord, now_unix_us: u64) -> Event {
    Event {
        kind: kind.into(),
        at_unix_us: now_unix_us,
        tenant: None,
        group: Some(record.id),
        detail: record.key.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use maia_common::ids::{RegionName, TenantId};
    use maia_common::placement::{GroupKey, Member, MemberRole, Mode, Placement, PlacementSpec};
    use maia_common::topology::{Node, NodeState};

    use super::super::metastore::apply;
    use super::super::placements::{Found, begin_removal, end_removal, place};
    use super::*;
    use crate::metastore::memory::MemoryState;
    use crate::raft::Mutations;

    fn group(state: GroupState) -> GroupRecord {
        let region = RegionName::new("a").unwrap();
        let member = |id| Member {
            node: NodeId::new(id),
            region: region.clone(),
            role: MemberRole::Voter,
        };
        GroupRecord {
            id: GroupId::new(1),
            key: GroupKey {
                home_region: region.clone(),
                replicas: BTreeSet::new(),
                mode: Mode::Single,
                shard: 0,
            },
            state,
            members: vec![member(1), member(2)],
            leaving: BTreeSet::new(),
            left: BTreeSet::new(),
        }
    }

    struct Store(MemoryState);

    impl Store {
        /// The revision of the last change.
        fn last(&self) -> Revision {
            crate::core::metastore::current_revision(&self.0).unwrap()
        }
    }

    impl Store {
        fn run(&mut self, transaction: &Transaction) -> Option<Revision> {
            let mut out = Mutations::default();
            let applied = apply(&transaction.encode(), &self.0, &mut out).unwrap();
            self.0.write(out);
            let outcome = applied.outcome;
            outcome.succeeded.then(|| Revision::new(outcome.revision))
        }
    }

    fn placement_of(tenant: &str, group: &GroupRecord) -> Placement {
        let spec: PlacementSpec =
            serde_json::from_value(serde_json::json!({"primary_region": "a"})).unwrap();
        let regions = ClusterState {
            regions: [(
                RegionName::new("a").unwrap(),
                maia_common::topology::Region {
                    name: RegionName::new("a").unwrap(),
                    public_url: String::new(),
                    priority: 1,
                    state: maia_common::topology::RegionState::Active,
                },
            )]
            .into(),
            ..ClusterState::default()
        };
        Placement {
            tenant: TenantId::new(tenant).unwrap(),
            group: group.id,
            version: maia_common::position::Version::new(1),
            state: maia_common::placement::PlacementState::Active,
            properties: spec.resolve(&regions, None).unwrap().1,
        }
    }

    #[test]
    fn a_placement_and_a_closing_never_slip_past_each_other() {
        let group = group(GroupState::Active);
        let tenant = placement_of("t", &group);
        let mut store = Store(MemoryState::default());
        let made = Transaction::new("made", 1).put_json(keyspace::group(group.id), &group);
        let at = store.run(&made).unwrap();
        let placing = |at, id| {
            let of = (&group, at);
            let found = Found::default();
            place(&found, &tenant.tenant, of, &tenant.properties, (id, 1))
                .unwrap()
                .1
        };
        let placed = store.run(&placing(at, "p")).unwrap();
        assert_eq!(
            store.run(&close((&group, at), &[], "c", 1)),
            None,
            "it has a tenant"
        );
        let deleting = store.run(&begin_removal(&tenant, placed, "b", 1)).unwrap();
        assert_eq!(
            store.run(&close((&group, at), &[], "d", 1)),
            None,
            "its purge goes on"
        );
        let gone = end_removal(&tenant, deleting, "e", 1);
        store.run(&gone).unwrap();
        assert!(store.run(&close((&group, at), &[], "f", 1)).is_some());
        assert_eq!(store.run(&placing(at, "q")), None, "it is closing");
    }

    #[test]
    fn a_record_goes_when_all_members_have_left_or_were_removed() {
        let node = |id| Node {
            id: NodeId::new(id),
            region: RegionName::new("a").unwrap(),
            rpc_addr: String::new(),
            api_url: String::new(),
            disk_id: String::new(),
            state: NodeState::Active,
            witness: false,
            farewell: maia_common::topology::Farewell::default(),
        };
        let mut closing = group(GroupState::Closing);
        let mut state = ClusterState {
            nodes: [1, 2].map(|id| (NodeId::new(id), node(id))).into(),
            groups: [(closing.id, closing.clone())].into(),
            ..ClusterState::default()
        };
        let none = BTreeSet::new();
        assert_eq!(to_forget(&state, &none), []);
        closing.left.insert(NodeId::new(1));
        state.groups.insert(closing.id, closing.clone());
        assert_eq!(to_forget(&state, &none), []);
        state.nodes.remove(&NodeId::new(2));
        assert_eq!(to_forget(&state, &none), [closing.id]);
        let counted = [closing.id].into();
        assert_eq!(to_forget(&state, &counted), [], "it has tenants");
        assert_eq!(given_up(&state, &counted), counted);
    }

    #[test]
    fn the_tenants_of_a_group_that_is_given_up_go_before_its_record() {
        let group = group(GroupState::Closing);
        let tenant = placement_of("t", &group);
        let mut store = Store(MemoryState::default());
        let made = Transaction::new("made", 1)
            .put_json(keyspace::group(group.id), &group)
            .put_json(keyspace::tenant(&tenant.tenant), &tenant)
            .put_json(keyspace::deletion(&tenant.tenant), &tenant.version)
            .add(keyspace::refs(group.id), 1);
        let at = store.run(&made).unwrap();
        assert_eq!(store.run(&forget(&group, at, "early", 1)), None);
        let old = [(tenant.clone(), at)];
        assert!(store.run(&abandon(&old, "a", 1)).is_some());
        assert_eq!(store.run(&abandon(&old, "b", 1)), None, "it is gone");
        // Its name is free, and its versions go on (I4).
        let found = Found {
            retired: Some((tenant.version, store.last())),
            ..Found::default()
        };
        let new = GroupRecord {
            id: GroupId::new(2),
            state: GroupState::Active,
            ..group.clone()
        };
        let made = Transaction::new("new", 1).put_json(keyspace::group(new.id), &new);
        let new_at = store.run(&made).unwrap();
        let of = (&new, new_at);
        let (placed, again) =
            place(&found, &tenant.tenant, of, &tenant.properties, ("p", 1)).unwrap();
        assert_eq!(placed.placement.version, tenant.version.next());
        assert!(store.run(&again).is_some());
        assert!(store.run(&forget(&group, at, "f", 1)).is_some());
    }

    #[test]
    fn only_a_group_that_stays_empty_is_closed() {
        let group = group(GroupState::Active);
        let state = ClusterState {
            groups: [(group.id, group.clone())].into(),
            ..ClusterState::default()
        };
        assert_eq!(empty(&state, &BTreeSet::new()), [group.id].into());
        assert_eq!(empty(&state, &[group.id].into()), BTreeSet::new());
        let after = Duration::from_secs(60);
        let ask = |since: u64| {
            let empty_for = [(group.id, Duration::from_secs(since))].into();
            to_close(&state, &empty_for, after)
        };
        assert_eq!(ask(59), []);
        assert_eq!(ask(60), [group.id]);
        assert_eq!(to_close(&state, &BTreeMap::new(), Duration::ZERO), []);
    }
}
