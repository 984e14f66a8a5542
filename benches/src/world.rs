//! A proxy's placements for benches: one group, led in region `a`, looked at from region `b`.

use std::time::SystemTime;

use maia_common::placement::{Mode, WriteRouting};
use maia_common::topology::{GroupView, Leader, Region, RegionState, Topology};
use maia_common::{GroupId, NodeId, RegionName, Term};
use maia_proxy::core::decide::Rules;
use maia_proxy::core::fingerprint::FingerprintKey;
use maia_proxy::core::table::Builder;
use maia_proxy::shell::placements::Placements;

use crate::candidates::ENTRY;
use crate::names::name;

fn region(name: &str) -> RegionName {
    RegionName::new(name).expect("a legal name")
}

fn topology() -> Topology {
    let mut topology = Topology::default();
    for name in ["a", "b"] {
        let view = Region {
            name: region(name),
            public_url: format!("http://{name}.test"),
            priority: 1,
            state: RegionState::Active,
        };
        topology.regions.insert(region(name), view);
    }
    let leader = Leader {
        term: Term::new(1),
        node: NodeId::new(1),
        region: region("a"),
    };
    let group = GroupView {
        home_region: region("a"),
        mode: Mode::Replicated,
        regions: vec![region("a"), region("b")],
        leader: Some(leader),
        leaderless_since: None,
    };
    topology.groups.insert(GroupId::new(1), group);
    topology
}

/// What a proxy in region `b` has in force that knows this many tenants.
#[must_use]
pub fn placements(tenants: usize) -> Placements {
    let rules = Rules {
        local_region: region("b"),
        write_routing: WriteRouting::Redirect,
    };
    let placements = Placements::new(rules, FingerprintKey::new(&[7; 16]), None);
    let mut builder = Builder::new(tenants);
    for number in 0..tenants {
        builder.insert(placements.key().of(&name(number)), &ENTRY);
    }
    placements.restore(topology(), builder.build(), SystemTime::now());
    placements.enforce();
    placements
}
