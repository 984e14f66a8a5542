//! What proxies are told: the metastore's values in the feed's words. Pure; called by the feed's
//! hub once per revision (deltas are shared by all subscribers) and once per page of a snapshot.

use maia_common::ids::GroupId;
use maia_common::placement::{Placement, PlacementState};
use maia_common::topology::{Leader, Region};
use maia_common::wire::feed as wire;
use maia_common::wire::record::MetaChange;

use super::cluster_state::{ClusterState, Touched};

/// Applies the change to the state and returns what of it concerns proxies.
pub fn translate(state: &mut ClusterState, change: &MetaChange) -> wire::Changes {
    let mut changes = wire::Changes::default();
    for key in &change.keys {
        let value = (!key.deleted).then_some(key.value.as_ref());
        match state.take(&key.key, value) {
            Touched::Region(name) => match state.regions.get(&name) {
                Some(region) => changes.regions.push(region_message(region)),
                None => changes.removed_regions.push(name.to_string()),
            },
            Touched::Group(group) => match group_message(state, group) {
                Some(message) => changes.groups.push(message),
                None => changes.removed_groups.push(group.get()),
            },
            Touched::Tenant(name) => match value.and_then(|v| serde_json::from_slice(v).ok()) {
                Some(placement) => changes.tenants.push(tenant_message(&placement)),
                None => changes.removed_tenants.push(name),
            },
            Touched::Node(_) | Touched::Other => {}
        }
    }
    state.revision = maia_common::position::Revision::new(change.revision);
    changes
}

/// Notes a region or group that a key names and that is gone.
pub fn note_removed(state: &ClusterState, key: &str, changes: &mut wire::Changes) {
    match state.clone().take(key, None) {
        Touched::Region(name) if !state.regions.contains_key(&name) => {
            changes.removed_regions.push(name.to_string());
        }
        Touched::Group(group) if !state.groups.contains_key(&group) => {
            changes.removed_groups.push(group.get());
        }
        _ => {}
    }
}

/// Regions and groups, whole.
#[must_use]
pub fn topology(state: &ClusterState) -> wire::Changes {
    wire::Changes {
        regions: state.regions.values().map(region_message).collect(),
        groups: state
            .groups
            .keys()
            .filter_map(|id| group_message(state, *id))
            .collect(),
        ..wire::Changes::default()
    }
}

fn region_message(region: &Region) -> wire::Region {
    wire::Region {
        name: region.name.to_string(),
        public_url: region.public_url.clone(),
        priority: region.priority,
        state: region.state.to_string(),
    }
}

fn group_message(state: &ClusterState, group: GroupId) -> Option<wire::Group> {
    let record = state.groups.get(&group)?;
    Some(wire::Group {
        group: group.get(),
        home_region: record.key.home_region.to_string(),
        regions: record.key.regions().map(ToString::to_string).collect(),
        mode: record.key.mode.to_string(),
        leader: state.leaders.get(&group).map(leader_message),
    })
}

fn leader_message(leader: &Leader) -> wire::Leader {
    wire::Leader {
        term: leader.term.get(),
        node: leader.node.get(),
        region: leader.region.to_string(),
    }
}

/// A tenant's placement.
#[must_use]
pub fn tenant_message(placement: &Placement) -> wire::Tenant {
    wire::Tenant {
        tenant: placement.tenant.to_string(),
        group: placement.group.get(),
        version: placement.version.get(),
        holding: placement.state != PlacementState::Active,
        write_routing: placement
            .properties
            .write_routing
            .map_or_else(String::new, |routing| routing.to_string()),
    }
}

/// The hint that tells of this leader.
#[must_use]
pub fn leader_hint(state: &ClusterState, group: GroupId, leader: &Leader) -> wire::Hint {
    wire::Hint {
        generation: state.generation.get(),
        group: group.get(),
        term: leader.term.get(),
        node: leader.node.get(),
        region: leader.region.to_string(),
        leaderless: false,
    }
}

/// The hint that the leader of this term is lost.
#[must_use]
pub fn leaderless_hint(
    state: &ClusterState,
    group: GroupId,
    term: maia_common::position::Term,
) -> wire::Hint {
    wire::Hint {
        generation: state.generation.get(),
        group: group.get(),
        term: term.get(),
        node: 0,
        region: String::new(),
        leaderless: true,
    }
}
