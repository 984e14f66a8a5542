//! The tables that the tenant table was chosen among (docs/proxy.md): the same work on each.

use std::hash::BuildHasher;
use std::sync::Arc;

use arc_swap::ArcSwap;
use foldhash::quality::RandomState;
use hashbrown::HashMap;
use maia_common::{GroupId, Version};
use maia_proxy::core::fingerprint::FingerprintKey;
use maia_proxy::core::table::{Builder, Entry};
use maia_proxy::shell::published::{Published, View};

use crate::names::name;

/// What all tenants have.
pub const ENTRY: Entry = Entry {
    group: GroupId::new(1),
    version: Version::new(1),
    holding: false,
    write_routing: None,
};

/// A map from names to entries that is read while it changes.
pub trait Candidate {
    /// As it is called in results.
    const NAME: &'static str;
    /// Of tenants 0 to `tenants` - 1.
    fn of(tenants: usize) -> Self;
    /// The tenant's entry.
    fn lookup(&self, tenant: &str) -> Option<Entry>;
    /// Puts these tenants' entries in force.
    fn change(&self, tenants: &[String]);
}

/// papaya's concurrent map, with names as keys.
pub struct Papaya(papaya::HashMap<Box<str>, Entry, RandomState>);

impl Candidate for Papaya {
    const NAME: &'static str = "papaya";

    fn of(tenants: usize) -> Self {
        let map = papaya::HashMap::with_capacity_and_hasher(tenants, RandomState::default());
        let pinned = map.pin();
        for number in 0..tenants {
            pinned.insert(name(number).into_boxed_str(), ENTRY);
        }
        drop(pinned);
        Self(map)
    }

    fn lookup(&self, tenant: &str) -> Option<Entry> {
        self.0.pin().get(tenant).copied()
    }

    fn change(&self, tenants: &[String]) {
        let pinned = self.0.pin();
        for tenant in tenants {
            pinned.insert(tenant.as_str().into(), ENTRY);
        }
    }
}

type Part = HashMap<Arc<str>, Entry, RandomState>;

/// 1024 shards of hashbrown maps with names as keys, each copied by a change to it.
pub struct Sharded {
    hasher: RandomState,
    shards: Vec<ArcSwap<Part>>,
}

const SHARDS: usize = 1024;

impl Sharded {
    fn shard(&self, tenant: &str) -> &ArcSwap<Part> {
        // The map itself uses the highest and the lowest bits.
        &self.shards[(self.hasher.hash_one(tenant) >> 20) as usize % SHARDS]
    }
}

impl Candidate for Sharded {
    const NAME: &'static str = "sharded-hashbrown";

    fn of(tenants: usize) -> Self {
        let hasher = RandomState::default();
        let mut shards = vec![Part::with_hasher(hasher.clone()); SHARDS];
        for number in 0..tenants {
            let name = name(number);
            let shard = (hasher.hash_one(name.as_str()) >> 20) as usize % SHARDS;
            shards[shard].insert(name.into(), ENTRY);
        }
        let shards = shards.into_iter().map(ArcSwap::from_pointee).collect();
        Self { hasher, shards }
    }

    fn lookup(&self, tenant: &str) -> Option<Entry> {
        self.shard(tenant).load().get(tenant).copied()
    }

    fn change(&self, tenants: &[String]) {
        for tenant in tenants {
            let shard = self.shard(tenant);
            let mut copy = Part::clone(&shard.load());
            copy.insert(tenant.as_str().into(), ENTRY);
            shard.store(Arc::new(copy));
        }
    }
}

/// The proxy's own: flat shards of keyed fingerprints, no names.
pub struct Flat {
    key: FingerprintKey,
    published: Published,
}

impl Candidate for Flat {
    const NAME: &'static str = "flat-fingerprints";

    fn of(tenants: usize) -> Self {
        let key = FingerprintKey::new(&[7; 16]);
        let mut builder = Builder::new(tenants);
        for number in 0..tenants {
            builder.insert(key.of(&name(number)), &ENTRY);
        }
        let published = Published::default();
        published.publish(View {
            topology: None,
            table: builder.build(),
        });
        Self { key, published }
    }

    fn lookup(&self, tenant: &str) -> Option<Entry> {
        let print = self.key.of(tenant);
        self.published.read(|view| view.table.lookup(print))
    }

    fn change(&self, tenants: &[String]) {
        let changes = tenants.iter().map(|t| (self.key.of(t), Some(ENTRY)));
        let view = self.published.view();
        self.published.publish(View {
            topology: None,
            table: view.table.with(changes.collect()),
        });
    }
}
