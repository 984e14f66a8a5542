//! Placing tenants: which transaction puts a tenant where its spec wants it, and which makes the
//! group that it needs. Pure plans over a picture of the cluster; `shell/placements` runs them and
//! plans anew when the world changed meanwhile. Invariants: I6 (one group per tenant: one key), I12
//! (groups are capped).

pub mod load;
mod witness;

use std::collections::BTreeSet;

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, TenantId};
use maia_common::limits;
use maia_common::placement::{
    GroupKey, GroupRecord, GroupState, Member, MemberRole, Placement, PlacementSpec,
    PlacementState, SpecError, TenantProperties,
};
use maia_common::position::{Revision, Version};
use serde::{Deserialize, Serialize};

use super::cluster_state::ClusterState;
use super::keyspace;
use super::metastore::{Precondition, Transaction};

/// What a client demands of what is there already: a placement, or a region.
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
    /// Whether what is there, by its version, is as demanded.
    #[must_use]
    pub fn holds(self, present: Option<Version>) -> bool {
        match self {
            Expected::Any => true,
            Expected::Absent => present.is_none(),
            Expected::Present => present.is_some(),
            Expected::Version(version) => present == Some(version),
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
    /// The spec itself can't be.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The tenant lives elsewhere: that is a migration.
    #[error(
        "the tenant lives in group {0}; a change of regions or mode is a migration: \
         POST /admin/tenants/{{id}}/migrate"
    )]
    NeedsMigration(GroupId),
    /// The tenant's group was given up with its only copy.
    #[error("group {0} was given up with the tenant's data: its placement is about to go")]
    GivenUp(GroupId),
    /// The tenant is being deleted.
    #[error("the tenant is being deleted: DELETE it again to see that through")]
    Deleting,
}

impl PlanError {
    /// The code of `interfaces.md`.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            PlanError::TooManyGroups => ErrorCode::TooManyGroups,
            PlanError::NoNode(_)
            | PlanError::Spec(_)
            | PlanError::NeedsMigration(_)
            | PlanError::GivenUp(_)
            | PlanError::Deleting => ErrorCode::PlacementConflict,
        }
    }
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

/// The transaction that makes a group: its first members never change afterwards. The caller has seen
/// no group of this key that takes tenants, in a state that has all groups up to `last`.
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
    members.extend(witness::of_new_group(state, key));
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
        .put_json(keyspace::LAST_GROUP, &group)
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

/// What the tenant's group must have in common, and the tenant's properties, as the spec asks.
///
/// # Errors
/// [`PlanError::Spec`]; [`PlanError::NeedsMigration`] when the tenant lives in another group than
/// it is asked to; [`PlanError::GivenUp`] when that group is being given up.
pub fn resolve(
    spec: &PlacementSpec,
    present: Option<GroupId>,
    state: &ClusterState,
) -> Result<(GroupKey, TenantProperties), PlanError> {
    let here = present.and_then(|group| state.groups.get(&group));
    if let Some(here) = here.filter(|here| here.state == GroupState::Closing) {
        return Err(PlanError::GivenUp(here.id));
    }
    let (key, properties) = spec.resolve(state, here.map(|group| &group.key))?;
    match present {
        Some(group) if here.is_none_or(|here| here.key != key) => {
            Err(PlanError::NeedsMigration(group))
        }
        _ => Ok((key, properties)),
    }
}

/// What the metastore has under a tenant's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Its placement.
    pub placement: Option<(Placement, Revision)>,
    /// The last version of a placement of this name that was deleted: versions go on from there (I4).
    pub retired: Option<(Version, Revision)>,
}

/// What placing a tenant does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is placed for the first time, or again after its deletion.
    Created,
    /// Its properties change.
    Changed,
    /// All is as asked already.
    Unchanged,
}

/// What placing a tenant comes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// What it does.
    pub change: Change,
    /// The placement afterwards.
    pub placement: Placement,
}

/// What placing the tenant in this group, with these properties, comes to.
///
/// # Errors
/// [`PlanError::Deleting`] while it is being deleted.
pub fn placed(
    found: &Found,
    tenant: &TenantId,
    group: GroupId,
    properties: &TenantProperties,
) -> Result<Placed, PlanError> {
    let retired = found.retired.map(|(version, _)| version);
    let (change, version, state) = match &found.placement {
        Some((present, _)) if present.state == PlacementState::Deleting => {
            return Err(PlanError::Deleting);
        }
        Some((present, _)) if present.properties == *properties => {
            (Change::Unchanged, present.version, present.state)
        }
        Some((present, _)) => (Change::Changed, present.version.next(), present.state),
        None => {
            let version = retired.unwrap_or_default().next();
            (Change::Created, version, PlacementState::Active)
        }
    };
    let placement = Placement {
        tenant: tenant.clone(),
        group,
        version,
        state,
        properties: properties.clone(),
    };
    Ok(Placed { change, placement })
}

/// Adds to a transaction that the tenant's placement becomes this, if nothing under its name has
/// changed since it was found: at most four comparisons and operations. Whoever places a tenant that
/// had no placement also counts it in its group: `keyspace::refs`.
#[must_use]
pub fn put_placement(
    transaction: Transaction,
    found: &Found,
    placement: &Placement,
) -> Transaction {
    let unchanged = |at: Option<Revision>| at.map_or(Precondition::Absent, Precondition::At);
    let (key, retired) = (
        keyspace::tenant(&placement.tenant),
        keyspace::retired(&placement.tenant),
    );
    let placed_at = found.placement.as_ref().map(|(_, at)| *at);
    let retired_at = found.retired.map(|(_, at)| at);
    let transaction = transaction
        .when(&key, unchanged(placed_at))
        .put_json(key, placement);
    // A tenant that is placed has no retired version, and gets none while its revision stands.
    let transaction = match placed_at {
        None => transaction.when(&retired, unchanged(retired_at)),
        Some(_) => transaction,
    };
    match retired_at {
        Some(_) => transaction.delete(retired),
        None => transaction,
    }
}

/// The transaction that places a tenant in an active group, or changes its properties, with what it
/// comes to; when all is as asked already it changes nothing.
///
/// # Errors
/// [`PlanError::Deleting`] while it is being deleted.
pub fn place(
    found: &Found,
    tenant: &TenantId,
    (group, group_revision): (&GroupRecord, Revision),
    properties: &TenantProperties,
    (id, now_unix_us): (&str, u64),
) -> Result<(Placed, Transaction), PlanError> {
    let placed = placed(found, tenant, group.id, properties)?;
    let transaction = Transaction::new(id, now_unix_us)
        .when(keyspace::group(group.id), Precondition::At(group_revision));
    let kind = match (placed.change, &found.placement) {
        (Change::Created, _) => "placement_created",
        (Change::Changed, _) => "placement_changed",
        (Change::Unchanged, present) => {
            let at = present.as_ref().map(|(_, at)| Precondition::At(*at));
            let unchanged = at.unwrap_or(Precondition::Absent);
            let transaction = transaction.when(keyspace::tenant(tenant), unchanged);
            return Ok((placed, transaction));
        }
    };
    let transaction = transaction.event(&placement_event(kind, &placed.placement, now_unix_us));
    let transaction = put_placement(transaction, found, &placed.placement);
    let transaction = match placed.change {
        Change::Created => transaction.add(keyspace::refs(group.id), 1),
        Change::Changed | Change::Unchanged => transaction,
    };
    Ok((placed, transaction))
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
