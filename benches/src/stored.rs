//! A coordinator's placements for benches: stored as the metastore stores them, in memory, so that
//! what is measured is the work on them and not the disk.

use maia_common::placement::{
    ConflictStrategy, Placement, PlacementState, ShortagePolicy, SyncMode, TenantProperties,
};
use maia_common::wire::record::MetaValue;
use maia_common::{GroupId, TenantId, Version};
use maia_coordinator::core::metastore::{META_VERSION, meta_key};
use maia_coordinator::core::{frame, keyspace};
use maia_coordinator::metastore::memory::{MemoryMetastore, MemoryState};
use maia_coordinator::raft::{Mutations, StateCf};

use crate::names::name;

/// The placement of the tenant of this number, as JSON.
#[must_use]
pub fn placement(number: usize) -> (TenantId, Vec<u8>) {
    let tenant = TenantId::new(name(number)).expect("a legal name");
    let placement = Placement {
        tenant: tenant.clone(),
        group: GroupId::new(1 + number as u64 % 60),
        version: Version::new(1),
        state: PlacementState::Active,
        properties: TenantProperties {
            sync_mode: SyncMode::SemiSync,
            min_sync_replicas: 1,
            on_too_few: ShortagePolicy::Reject,
            conflict_strategy: ConflictStrategy::LastWriteWins,
            write_routing: None,
        },
    };
    let json = serde_json::to_vec(&placement).expect("plain data");
    (tenant, json)
}

/// A metastore that knows tenants 0 to `tenants` - 1, and nothing else.
#[must_use]
pub fn metastore(tenants: usize) -> MemoryMetastore {
    let mut rows = Mutations::default();
    for number in 0..tenants {
        let (tenant, json) = placement(number);
        let stored = MetaValue {
            create_revision: 1,
            revision: 1,
            value: json.into(),
        };
        let key = meta_key(&keyspace::tenant(&tenant));
        rows.put(StateCf::Meta, key, frame::encode(META_VERSION, &stored));
    }
    let mut state = MemoryState::default();
    state.write(rows);
    MemoryMetastore::of(state).expect("no mark of a revision stands in it")
}
