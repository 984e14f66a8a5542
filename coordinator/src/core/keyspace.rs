//! The metastore's keys: one function for each kind. Values are JSON of the types of
//! `maia_common::{placement, topology}` and of this crate's records.
//!
//! | key | value |
//! | --- | --- |
//! | `region/NAME` | `Region` |
//! | `regions` | how many regions were added after the first ones; each addition compares it |
//! | `node/ID` | `Node` |
//! | `group/ID` | `GroupRecord` |
//! | `groups` | the last group id that was given out; each new group compares it, so that of two with one key only the first is made |
//! | `leader/ID` | `Leader`: the announcement of a group's leader |
//! | `tenant/NAME` | `Placement` |
//! | `retired/NAME` | the last version of a tenant's placement that was deleted |
//! | `proxy/ID` | `Proxy` |
//! | `deleting/NAME` | the version of a tenant's placement that is being deleted |
//! | `refs/ID` | how many placements name the group, as decimal text; absent: none |
//! | `retirednode/ID` | the last record of a node that was removed: its id is never used again |
//! | `custody/ID` | `Custody`: what the node has in quarantine, as it last said; absent: nothing |
//! | `event/REVISION` | an event |

use maia_common::ids::{GroupId, NodeId, ProxyId, RegionName, TenantId};

/// Prefix of all tenants.
pub const TENANTS: &str = "tenant/";
/// Prefix of all regions.
pub const REGIONS: &str = "region/";
/// Prefix of all nodes.
pub const NODES: &str = "node/";
/// Prefix of all groups.
pub const GROUPS: &str = "group/";
/// Prefix of all announcements.
pub const LEADERS: &str = "leader/";
/// Prefix of all registered proxies.
pub const PROXIES: &str = "proxy/";
/// Prefix of nodes that were removed.
pub const RETIRED_NODES: &str = "retirednode/";
/// Prefix of all deletions that have not ended.
pub const DELETIONS: &str = "deleting/";
/// Prefix of all groups' reference counts.
pub const REFS: &str = "refs/";
/// Prefix of what each node has in quarantine.
pub const CUSTODIES: &str = "custody/";
/// Prefix of all events.
pub const EVENTS: &str = "event/";
/// The last group id that was given out.
pub const LAST_GROUP: &str = "groups";

/// A tenant's placement.
#[must_use]
pub fn tenant(tenant: &TenantId) -> String {
    format!("{TENANTS}{tenant}")
}

/// The last version of a placement that was deleted: versions never go back (I4).
#[must_use]
pub fn retired(tenant: &TenantId) -> String {
    format!("retired/{tenant}")
}

/// Stands from a tenant's `deleting` to the end of its deletion, so that nobody has to look through
/// all tenants for deletions to go on with.
#[must_use]
pub fn deletion(tenant: &TenantId) -> String {
    format!("{DELETIONS}{tenant}")
}

/// How many placements name the group. Whatever makes or ends a placement in a group adds to it in
/// the same transaction; closing the group compares it absent.
#[must_use]
pub fn refs(group: GroupId) -> String {
    format!("{REFS}{:020}", group.get())
}

/// What stays of a removed node.
#[must_use]
pub fn retired_node(node: NodeId) -> String {
    format!("{RETIRED_NODES}{:020}", node.get())
}

/// What a node has in quarantine, as it last said.
#[must_use]
pub fn custody(node: NodeId) -> String {
    format!("{CUSTODIES}{:020}", node.get())
}

/// A region.
#[must_use]
pub fn region(region: &RegionName) -> String {
    format!("{REGIONS}{region}")
}

/// How many regions were added after those that the cluster began with.
pub const ADDED_REGIONS: &str = "regions";

/// A node.
#[must_use]
pub fn node(node: NodeId) -> String {
    format!("{NODES}{:020}", node.get())
}

/// A group's record.
#[must_use]
pub fn group(group: GroupId) -> String {
    format!("{GROUPS}{:020}", group.get())
}

/// The announcement of a group's leader.
#[must_use]
pub fn leader(group: GroupId) -> String {
    format!("{LEADERS}{:020}", group.get())
}

/// A registered proxy.
#[must_use]
pub fn proxy(proxy: &ProxyId) -> String {
    format!("{PROXIES}{proxy}")
}
