//! The feed's messages in this proxy's own words, and the topology in the feed's: checked as they
//! are read, since what is trusted everywhere else enters here. Called by the feed's state machine
//! and by the snapshot on disk, which keeps the topology as such a message.

use maia_common::ids::NameError;
use maia_common::topology::{GroupView, Leader, Region, Topology};
use maia_common::wire::feed as wire;
use maia_common::{GroupId, NodeId, RegionName, TenantId, Term, Version};

use super::FeedError;
use crate::core::table::Entry;

/// The topology as one message. What was reported lost is left out: a new stream forgets it.
#[must_use]
pub fn of_topology(topology: &Topology) -> wire::Changes {
    let region = |region: &Region| wire::Region {
        name: region.name.to_string(),
        public_url: region.public_url.clone(),
        priority: region.priority,
        state: region.state.to_string(),
    };
    let leader = |leader: &Leader| wire::Leader {
        term: leader.term.get(),
        node: leader.node.get(),
        region: leader.region.to_string(),
    };
    let group = |(id, group): (&GroupId, &GroupView)| wire::Group {
        group: id.get(),
        home_region: group.home_region.to_string(),
        regions: group.regions.iter().map(ToString::to_string).collect(),
        mode: group.mode.to_string(),
        leader: group.leader.as_ref().map(leader),
    };
    wire::Changes {
        regions: topology.regions.values().map(region).collect(),
        groups: topology.groups.iter().map(group).collect(),
        ..wire::Changes::default()
    }
}

pub(super) fn region_of(region: &wire::Region) -> Result<Region, FeedError> {
    let malformed = |why| FeedError::Malformed {
        what: "region",
        why,
    };
    Ok(Region {
        name: RegionName::new(region.name.as_str())?,
        public_url: region.public_url.trim_end_matches('/').to_owned(),
        priority: region.priority,
        state: region.state.parse().map_err(malformed)?,
    })
}

pub(super) fn group_of(group: &wire::Group) -> Result<GroupView, FeedError> {
    let malformed = |why| FeedError::Malformed { what: "group", why };
    let regions = group.regions.iter().map(|r| RegionName::new(r.as_str()));
    let leader = |l: &wire::Leader| {
        Ok::<_, NameError>(Leader {
            term: Term::new(l.term),
            node: NodeId::new(l.node),
            region: RegionName::new(l.region.as_str())?,
        })
    };
    Ok(GroupView {
        home_region: RegionName::new(group.home_region.as_str())?,
        mode: group.mode.parse().map_err(malformed)?,
        regions: regions.collect::<Result<_, _>>()?,
        leader: group.leader.as_ref().map(leader).transpose()?,
        leaderless_since: None,
    })
}

/// A tenant and its entry.
///
/// # Errors
/// [`FeedError`]: a part of it that can't be read.
pub fn tenant_of(tenant: &wire::Tenant) -> Result<(TenantId, Entry), FeedError> {
    let write_routing = match tenant.write_routing.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|why| FeedError::Malformed {
            what: "write routing",
            why,
        })?),
    };
    let entry = Entry {
        group: GroupId::new(tenant.group),
        version: Version::new(tenant.version),
        holding: tenant.holding,
        write_routing,
    };
    Ok((TenantId::new(tenant.tenant.as_str())?, entry))
}
