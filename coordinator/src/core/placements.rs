//! Placing tenants: which transaction puts a tenant where its spec wants it, and which makes the
//! group that it needs. Pure plans over a picture of the cluster; `shell/placements` runs them and
//! plans anew when the world changed meanwhile. Invariants: I6 (one group per tenant: one key), I12
//! (groups are capped).

use std::collections::BTreeSet;

use maia_common::ids::{GroupId, IdempotencyKey, TenantId};
use maia_common::limits;
use maia_common::placement::{
    GroupKey, GroupRecord, GroupState, Member, MemberRole, Placement, PlacementState,
    TenantProperties,
};
use maia_common::position::{Revision, Version};
use serde::{Deserialize, Serialize};

use super::cluster_state::ClusterState;
use super::keyspace;
use super::metastore::{Precondition, Transaction};

/// What a client demands of the present placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Anything.
    Any,
    /// `If-None-Match: *`.
    Absent,
    /// `If-Match: "VERSION"`.
    Version(Version),
    /// `If-Match: *`.
    Present,
}

impl Expected {
    /// Whether the present placement is as demanded.
    #[must_use]
    pub fn holds(self, present: Option<&Placement>) -> bool {
        match self {
            Expected::Any => true,
            Expected::Absent => present.is_none(),
            Expected::Present => present.is_some(),
            Expected::Version(version) => present.is_some_and(|p| p.version == version),
        }
    }
}

/// Why a plan can't be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The cap of groups is reached.
    #[error(
        "the cluster has {} placement groups, as many as it may have",
        limits::MAX_GROUPS
    )]
    TooManyGroups,
    /// A region without a node to hold data.
    #[error("region `{0}` has no node that could hold the tenant's data")]
    NoNode(maia_common::ids::RegionName),
    /// The tenant lives elsewhere: that is a migration.
    #[error(
        "the tenant lives in group {0}; a change of regions or mode is a migration: \
         POST /admin/tenants/{{id}}/migrate"
    )]
    NeedsMigration(GroupId),
    /// The tenant is being deleted.
    #[error("the tenant is being deleted: DELETE it again to see that through")]
    Deleting,
}

/// An event about a tenant or a group, kept in the metastore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What happened, such as `placement_created`.
    pub kind: String,
    /// Microseconds since 1970, by the clock of the node that proposed it.
    pub at_unix_us: u64,
    /// The tenant concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// The group concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupId>,
    /// More, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// The transaction that makes a group: its first members never change afterwards.
///
/// # Errors
/// [`PlanError`] when there is no room for one more, or a region has no node.
pub fn create_group(
    state: &ClusterState,
    last: Option<(GroupId, Revision)>,
    key: &GroupKey,
    id: &str,
    now_unix_us: u64,
) -> Result<(Transaction, GroupRecord), PlanError> {
    if state.groups.len() >= limits::MAX_GROUPS {
        return Err(PlanError::TooManyGroups);
    }
    let mut members = Vec::new();
    for region in key.regions() {
        let node = state
            .node_in(region)
            .ok_or_else(|| PlanError::NoNode(region.clone()))?;
        let role = if members.len() < limits::MAX_VOTERS {
            MemberRole::Voter
        } else {
            MemberRole::Learner
        };
        members.push(Member {
            node: node.id,
            region: region.clone(),
            role,
        });
    }
    let (group, at_last) = match last {
        Some((last, revision)) => (last.next(), Precondition::At(revision)),
        None => (GroupId::new(1), Precondition::Absent),
    };
    let record = GroupRecord {
        id: group,
        key: key.clone(),
        state: GroupState::Creating,
        members,
        leaving: BTreeSet::new(),
        left: BTreeSet::new(),
    };
    let event = Event {
        kind: "group_created".into(),
        at_unix_us: now_unix_us,
        tenant: None,
        group: Some(group),
        detail: key.to_string(),
    };
    let transaction = Transaction::new(id, now_unix_us)
        .when(keyspace::LAST_GROUP, at_last)
        .when(keyspace::group_key(key), Precondition::Absent)
        .put_json(keyspace::LAST_GROUP, &group)
        .put_json(keyspace::group_key(key), &group)
        .put_json(keyspace::group(group), &record)
        .event(&event);
    Ok((transaction, record))
}

/// The transaction that confirms a group once it has a leader.
#[must_use]
pub fn activate_group(
    record: &GroupRecord,
    at: Revision,
    id: &str,
    now_unix_us: u64,
) -> Transaction {
    let key = keyspace::group(record.id);
    let active = GroupRecord {
        state: GroupState::Active,
        ..record.clone()
    };
    Transaction::new(id, now_unix_us)
        .when(&key, Precondition::At(at))
        .put_json(key, &active)
}

/// Whether the tenant may stay where it is.
///
/// # Errors
/// [`PlanError::NeedsMigration`] when it is asked to live in another group than it does;
/// [`PlanError::Deleting`] while it is being deleted.
pub fn check_stays(
    present: &Placement,
    state: &ClusterState,
    key: &GroupKey,
) -> Result<(), PlanError> {
    if present.state == PlacementState::Deleting {
        return Err(PlanError::Deleting);
    }
    match state.groups.get(&present.group) {
        Some(group) if group.key == *key => Ok(()),
        _ => Err(PlanError::NeedsMigration(present.group)),
    }
}

/// The transaction that places a tenant in an active group, or changes its properties; none when
/// all is as asked already. `retired`: the last version of a placement of this name that was
/// deleted.
#[must_use]
pub fn place(
    present: Option<(&Placement, Revision)>,
    tenant: &TenantId,
    group: (&GroupRecord, Revision),
    properties: &TenantProperties,
    retired: Option<Version>,
    (id, now_unix_us): (&str, u64),
) -> Option<Transaction> {
    let (group, group_revision) = group;
    if present.is_some_and(|(p, _)| p.properties == *properties) {
        return None;
    }
    let before = present
        .map(|(p, _)| p.version)
        .or(retired)
        .unwrap_or_default();
    let placement = Placement {
        tenant: tenant.clone(),
        group: group.id,
        version: before.next(),
        state: present.map_or(PlacementState::Active, |(p, _)| p.state),
        properties: properties.clone(),
    };
    let kind = if present.is_some() {
        "placement_changed"
    } else {
        "placement_created"
    };
    let unchanged = present.map_or(Precondition::Absent, |(_, at)| Precondition::At(at));
    let key = keyspace::tenant(tenant);
    let transaction = Transaction::new(id, now_unix_us)
        .when(&key, unchanged)
        .when(keyspace::group(group.id), Precondition::At(group_revision))
        .put_json(key, &placement)
        .delete(keyspace::retired(tenant))
        .event(&placement_event(kind, &placement, now_unix_us));
    Some(match present {
        Some(_) => transaction,
        None => transaction.add(keyspace::refs(group.id), 1),
    })
}

fn placement_event(kind: &str, placement: &Placement, now_unix_us: u64) -> Event {
    Event {
        kind: kind.into(),
        at_unix_us: now_unix_us,
        tenant: Some(placement.tenant.clone()),
        group: Some(placement.group),
        detail: format!("version {}", placement.version),
    }
}

/// The transaction after which a tenant takes no more requests, and its purge may begin.
#[must_use]
pub fn begin_removal(present: &Placement, at: Revision, id: &str, now_unix_us: u64) -> Transaction {
    let key = keyspace::tenant(&present.tenant);
    let deleting = Placement {
        version: present.version.next(),
        state: PlacementState::Deleting,
        ..present.clone()
    };
    Transaction::new(id, now_unix_us)
        .when(&key, Precondition::At(at))
        .put_json(key, &deleting)
        .put_json(keyspace::deletion(&present.tenant), &deleting.version)
        .event(&placement_event(
            "placement_removing",
            &deleting,
            now_unix_us,
        ))
}

/// The transaction that frees a tenant's name once its data is purged.
#[must_use]
pub fn end_removal(deleting: &Placement, at: Revision, id: &str, now_unix_us: u64) -> Transaction {
    let key = keyspace::tenant(&deleting.tenant);
    Transaction::new(id, now_unix_us)
        .when(&key, Precondition::At(at))
        .delete(key)
        .delete(keyspace::deletion(&deleting.tenant))
        .add(keyspace::refs(deleting.group), -1)
        .put_json(keyspace::retired(&deleting.tenant), &deleting.version)
        .event(&placement_event("placement_removed", deleting, now_unix_us))
}

/// The transaction's id for a client's idempotency key: a retry takes effect once.
#[must_use]
pub fn transaction_id(key: Option<&IdempotencyKey>, what: &str, chance: u128) -> String {
    match key {
        // The key may be 128 bytes long and the id holds 128 in all.
        Some(key) => blake3::hash(format!("{what}\0{key}").as_bytes())
            .to_hex()
            .to_string(),
        None => format!("{what:.64}-{chance:032x}"),
    }
}
