//! What proxies are told: the metastore's values in the feed's words. Pure; called once per
//! revision (a delta is shared by all subscribers), once per tenant of a snapshot image, and for
//! each stretch of the history by which a subscriber catches up.

use std::collections::{BTreeMap, BTreeSet};

use maia_common::ids::GroupId;
use maia_common::placement::{GroupRecord, PlacementState};
use maia_common::topology::{Leader, Region};
use maia_common::wire::feed as wire;
use maia_common::wire::record::MetaChange;
use serde::Deserialize;

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
            Touched::Tenant(name) => match value.and_then(tenant_message) {
                Some(message) => changes.tenants.push(message),
                None => changes.removed_tenants.push(name),
            },
            Touched::Node(_) | Touched::Other => {}
        }
    }
    state.revision = maia_common::position::Revision::new(change.revision);
    changes
}

/// What changes in a row did, as one: the last word on each tenant, and on each region and group
/// that they touched what `state` says, which is of their last revision or later. A group that went
/// meanwhile is gone a little before the tenants that left it: they fail closed until the next delta.
#[must_use]
pub fn merge(state: &ClusterState, history: &[MetaChange]) -> wire::Changes {
    let mut changes = wire::Changes::default();
    let (mut regions, mut groups, mut tenants) =
        (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
    let mut names = ClusterState::default();
    for key in history.iter().flat_map(|change| &change.keys) {
        let value = (!key.deleted).then_some(key.value.as_ref());
        match names.take(&key.key, None) {
            Touched::Region(name) => {
                regions.insert(name);
            }
            Touched::Group(group) => {
                groups.insert(group);
            }
            Touched::Tenant(name) => {
                tenants.insert(name, value);
            }
            Touched::Node(_) | Touched::Other => {}
        }
    }
    for name in regions {
        match state.regions.get(&name) {
            Some(region) => changes.regions.push(region_message(region)),
            None => changes.removed_regions.push(name.to_string()),
        }
    }
    for group in groups {
        match group_message(state, group) {
            Some(message) => changes.groups.push(message),
            None => changes.removed_groups.push(group.get()),
        }
    }
    for (name, value) in tenants {
        match value.and_then(tenant_message) {
            Some(message) => changes.tenants.push(message),
            None => changes.removed_tenants.push(name),
        }
    }
    changes
}

/// Whether there is nothing in it for a proxy: most events and registrations.
#[must_use]
pub fn is_empty(changes: &wire::Changes) -> bool {
    *changes == wire::Changes::default()
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
        regions: holders(record),
        mode: record.key.mode.to_string(),
        leader: state.leaders.get(&group).map(leader_message),
    })
}

/// The regions where data is, home first if it is there: a member that leaves may lead until it has
/// left, one that has left has nothing any more.
fn holders(record: &GroupRecord) -> Vec<String> {
    let members = record.members.iter();
    let holding = members.filter(|m| m.role.holds_data() && !record.left.contains(&m.node));
    holding.map(|m| m.region.to_string()).collect()
}

fn leader_message(leader: &Leader) -> wire::Leader {
    wire::Leader {
        term: leader.term.get(),
        node: leader.node.get(),
        region: leader.region.to_string(),
    }
}

/// What a proxy needs of a stored placement, borrowed from its JSON: names of tenants and choices
/// need no escapes, and a snapshot reads a million of them.
#[derive(Deserialize)]
struct Needed<'a> {
    tenant: &'a str,
    group: u64,
    version: u64,
    state: &'a str,
    #[serde(borrow)]
    properties: NeededProperties<'a>,
}

#[derive(Deserialize)]
struct NeededProperties<'a> {
    #[serde(default)]
    write_routing: Option<&'a str>,
}

/// A tenant's placement, from the stored JSON; none when it can't be read: it was written by newer
/// software, and a tenant without placement is refused (I10).
#[must_use]
pub fn tenant_message(json: &[u8]) -> Option<wire::Tenant> {
    let placement: Needed<'_> = serde_json::from_slice(json).ok()?;
    Some(wire::Tenant {
        tenant: placement.tenant.to_owned(),
        group: placement.group,
        version: placement.version,
        holding: placement.state != PlacementState::Active.as_str(),
        write_routing: placement.properties.write_routing.unwrap_or("").to_owned(),
    })
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

/// Every leader that is known, and every loss of one.
#[must_use]
pub fn hints(state: &ClusterState) -> Vec<wire::Hint> {
    let leaders = state.leaders.iter();
    let mut hints: Vec<_> = leaders
        .map(|(group, leader)| leader_hint(state, *group, leader))
        .collect();
    let lost = state.leaderless.iter();
    hints.extend(lost.map(|(group, term)| leaderless_hint(state, *group, *term)));
    hints
}

#[cfg(test)]
mod tests {
    use maia_common::wire::record::MetaKeyChange;

    use super::*;

    fn placement(tenant: &str, version: u64, state: &str, routing: &str) -> String {
        format!(
            r#"{{"tenant":"{tenant}","group":3,"version":{version},"state":"{state}","properties":
            {{"sync_mode":"async","min_sync_replicas":0,"on_too_few":"reject",
            "conflict_strategy":"merge"{routing}}}}}"#
        )
    }

    fn change(revision: u64, key: &str, value: Option<&str>) -> MetaChange {
        MetaChange {
            revision,
            keys: vec![MetaKeyChange {
                key: key.into(),
                deleted: value.is_none(),
                value: value.unwrap_or_default().to_owned().into(),
            }],
            ..MetaChange::default()
        }
    }

    /// The borrowed form reads what the whole type writes.
    #[test]
    fn a_stored_placement_is_read_as_it_was_written() {
        let json = placement("a:b@c~d", 7, "holding", r#","write_routing":"forward""#);
        let whole: maia_common::placement::Placement = serde_json::from_str(&json).unwrap();
        let again = serde_json::to_vec(&whole).unwrap();
        let message = tenant_message(&again).unwrap();
        assert_eq!(message, tenant_message(json.as_bytes()).unwrap());
        assert_eq!((message.tenant.as_str(), message.group), ("a:b@c~d", 3));
        assert_eq!((message.version, message.holding), (7, true));
        assert_eq!(message.write_routing, "forward");
        let plain = placement("t", 1, "active", "");
        let message = tenant_message(plain.as_bytes()).unwrap();
        assert!(!message.holding && message.write_routing.is_empty());
        assert_eq!(tenant_message(b"{}"), None);
    }

    #[test]
    fn only_regions_that_hold_data_are_told() {
        let record = |left: &str| {
            let members: Vec<String> = [(2, "b"), (1, "a"), (3, "c")]
                .map(|(node, region)| {
                    format!(r#"{{"node":{node},"region":"{region}","role":"voter"}}"#)
                })
                .to_vec();
            format!(
                r#"{{"id":7,"key":{{"home_region":"b","replicas":["a","c"],"mode":"replicated",
                "shard":0}},"state":"active","members":[{}],"leaving":[2],"left":[{left}]}}"#,
                members.join(",")
            )
        };
        let mut state = ClusterState::default();
        let key = "group/00000000000000000007";
        let whole = translate(&mut state, &change(1, key, Some(&record(""))));
        assert_eq!(whole.groups[0].regions, ["b", "a", "c"], "it may lead yet");
        let rest = translate(&mut state, &change(2, key, Some(&record("2"))));
        assert_eq!(rest.groups[0].regions, ["a", "c"]);
        assert_eq!(rest.groups[0].home_region, "b");
    }

    #[test]
    fn of_many_changes_the_last_word_on_each_key_counts() {
        let state = ClusterState::default();
        let (old, new) = (
            placement("t", 1, "active", ""),
            placement("t", 2, "active", ""),
        );
        let history = [
            change(1, "tenant/t", Some(&old)),
            change(2, "tenant/gone", Some(&old)),
            change(3, "event/3", Some("{}")),
            change(4, "tenant/gone", None),
            change(5, "tenant/t", Some(&new)),
            change(6, "group/00000000000000000009", None),
        ];
        let merged = merge(&state, &history);
        let versions: Vec<u64> = merged.tenants.iter().map(|t| t.version).collect();
        assert_eq!(versions, [2]);
        assert_eq!(merged.removed_tenants, ["gone"]);
        assert_eq!(merged.removed_groups, [9]);
        assert!(!is_empty(&merged));
        assert!(is_empty(&merge(&state, &history[2..3])));
    }
}
