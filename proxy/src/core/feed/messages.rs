//! The feed's messages in this proxy's own words, and the topology in the feed's: checked as they
//! are read, since what is trusted everywhere else enters here. Called by the feed's state machine
//! and by the snapshot on disk, which keeps the topology as such a message.

use maia_common::ids::NameError;
use maia_common::topology::{GroupView, Leader, Region, RegionState, Topology};
use maia_common::wire::feed as wire;
use maia_common::{GroupId, NodeId, RegionName, TenantId, Term, Version};

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

/// Counts regions, groups and tenants of which not all could be read: words of a later version, or
/// names that are none.
#[derive(Debug, Default)]
pub struct Unreadable(pub u64);

impl Unreadable {
    /// Counts what is an error.
    fn count<T, E>(&mut self, read: Result<T, E>) -> Option<T> {
        self.0 += u64::from(read.is_err());
        read.ok()
    }
}

/// `None`: its name can't be read. A state that can't be read is down.
pub(super) fn region_of(region: &wire::Region, unreadable: &mut Unreadable) -> Option<Region> {
    let state = unreadable.count(region.state.parse());
    Some(Region {
        name: unreadable.count(RegionName::new(region.name.as_str()))?,
        public_url: region.public_url.trim_end_matches('/').to_owned(),
        priority: region.priority,
        state: state.unwrap_or(RegionState::Down),
    })
}

/// `None`: it can't be read.
pub(super) fn group_of(group: &wire::Group, unreadable: &mut Unreadable) -> Option<GroupView> {
    let mode = unreadable.count(group.mode.parse())?;
    let read = || {
        let regions = group.regions.iter().map(|r| RegionName::new(r.as_str()));
        let leader = |l: &wire::Leader| {
            Ok::<_, NameError>(Leader {
                term: Term::new(l.term),
                node: NodeId::new(l.node),
                region: RegionName::new(l.region.as_str())?,
            })
        };
        Ok::<_, NameError>(GroupView {
            home_region: RegionName::new(group.home_region.as_str())?,
            mode,
            regions: regions.collect::<Result<_, _>>()?,
            leader: group.leader.as_ref().map(leader).transpose()?,
            leaderless_since: None,
        })
    };
    unreadable.count(read())
}

/// A tenant and its entry; `None`: its name can't be read, and no request can bear it. A routing
/// that can't be read is the proxy's own.
pub fn tenant_of(tenant: &wire::Tenant, unreadable: &mut Unreadable) -> Option<(TenantId, Entry)> {
    let write_routing = match tenant.write_routing.as_str() {
        "" => None,
        text => unreadable.count(text.parse()),
    };
    let entry = Entry {
        group: GroupId::new(tenant.group),
        version: Version::new(tenant.version),
        holding: tenant.holding,
        write_routing,
    };
    let tenant = unreadable.count(TenantId::new(tenant.tenant.as_str()))?;
    Some((tenant, entry))
}
