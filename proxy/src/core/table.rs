//! Tenant → [`Entry`]: read for every request without a lock and without an allocation, written
//! by the feed alone. A table of shards, each an immutable map behind an `ArcSwap`; a change
//! copies the shard it touches. The compact table (at most 64 bytes a tenant, chosen by
//! benchmark) comes with issue 02 behind this same interface.
//!
//! Readers see each shard whole: an entry is the old one or the new one, never a mixture. A
//! snapshot replaces all shards at once.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use foldhash::quality::RandomState;
use hashbrown::HashMap;
use maia_common::placement::WriteRouting;
use maia_common::{GroupId, TenantId, Version};

/// A power of two; about a thousand tenants each at one million, so that a change copies little.
const SHARDS: usize = 1024;

/// What routing needs to know of one tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The group that holds its data.
    pub group: GroupId,
    /// The version of its placement.
    pub version: Version,
    /// Its writes wait (a migration is about to switch).
    pub holding: bool,
    /// How its misrouted requests travel; `None`: as the proxy is configured.
    pub write_routing: Option<WriteRouting>,
}

type Shard = HashMap<Arc<str>, Entry, RandomState>;

/// A change to one tenant: its new entry, or `None` where it is gone.
pub type Change = (TenantId, Option<Entry>);

struct Shards {
    hasher: RandomState,
    shards: Box<[ArcSwap<Shard>]>,
}

/// Collects a snapshot before it comes into force.
pub struct Builder {
    hasher: RandomState,
    shards: Vec<Shard>,
}

/// The table in force.
pub struct Table {
    now: ArcSwap<Shards>,
    tenants: AtomicUsize,
}

impl Default for Builder {
    fn default() -> Self {
        // Seeded at random: tenant names come from attackers.
        let hasher = RandomState::default();
        let shards = (0..SHARDS)
            .map(|_| Shard::with_hasher(hasher.clone()))
            .collect();
        Self { hasher, shards }
    }
}

impl Builder {
    /// Takes one tenant of the snapshot; a later one of the same name wins.
    pub fn insert(&mut self, tenant: &TenantId, entry: Entry) {
        let shard = shard_of(&self.hasher, tenant.as_str());
        self.shards[shard].insert(Arc::from(tenant.as_str()), entry);
    }

    /// Tenants taken so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(HashMap::len).sum()
    }

    /// Whether none was taken yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn build(self) -> Shards {
        Shards {
            hasher: self.hasher,
            shards: self.shards.into_iter().map(ArcSwap::from_pointee).collect(),
        }
    }
}

impl Default for Table {
    fn default() -> Self {
        Self {
            now: ArcSwap::from_pointee(Builder::default().build()),
            tenants: AtomicUsize::new(0),
        }
    }
}

impl Table {
    /// The tenant's entry, if it is known.
    #[must_use]
    pub fn lookup(&self, tenant: &str) -> Option<Entry> {
        let now = self.now.load();
        let shard = now.shards[shard_of(&now.hasher, tenant)].load();
        shard.get(tenant).copied()
    }

    /// Tenants in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tenants.load(Ordering::Relaxed)
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts a snapshot in force, in place of everything. Called by the feed's one writer only.
    pub fn replace(&self, snapshot: Builder) {
        let tenants = snapshot.len();
        self.now.store(Arc::new(snapshot.build()));
        self.tenants.store(tenants, Ordering::Relaxed);
    }

    /// Puts changes in force, each shard's as one. Called by the feed's one writer only.
    pub fn apply(&self, changes: Vec<Change>) {
        let now = self.now.load();
        let mut by_shard: Vec<(usize, Change)> = changes
            .into_iter()
            .map(|change| (shard_of(&now.hasher, change.0.as_str()), change))
            .collect();
        // Stable: the last change to a tenant wins.
        by_shard.sort_by_key(|(shard, _)| *shard);
        let mut grown = 0usize;
        let mut shrunk = 0usize;
        for group in by_shard.chunk_by(|a, b| a.0 == b.0) {
            let slot = &now.shards[group[0].0];
            let mut shard = Shard::clone(&slot.load());
            let before = shard.len();
            for (_, (tenant, entry)) in group {
                match entry {
                    Some(entry) => shard.insert(Arc::from(tenant.as_str()), *entry),
                    None => shard.remove(tenant.as_str()),
                };
            }
            grown += shard.len().saturating_sub(before);
            shrunk += before.saturating_sub(shard.len());
            slot.store(Arc::new(shard));
        }
        let tenants = self.tenants.load(Ordering::Relaxed) + grown - shrunk;
        self.tenants.store(tenants, Ordering::Relaxed);
    }
}

fn shard_of(hasher: &RandomState, tenant: &str) -> usize {
    // The map within a shard uses the high and the lowest bits; these are others.
    (hasher.hash_one(tenant) >> 20) as usize & (SHARDS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn entry(group: u64) -> Entry {
        Entry {
            group: GroupId::new(group),
            version: Version::new(1),
            holding: false,
            write_routing: None,
        }
    }

    fn tenant(number: u8) -> TenantId {
        TenantId::new(format!("t{number}")).unwrap()
    }

    #[test]
    fn a_snapshot_replaces_everything() {
        let table = Table::default();
        table.apply(vec![(tenant(1), Some(entry(1)))]);
        let mut snapshot = Builder::default();
        snapshot.insert(&tenant(2), entry(2));
        table.replace(snapshot);
        assert_eq!(table.lookup("t1"), None);
        assert_eq!(table.lookup("t2"), Some(entry(2)));
        assert_eq!(table.len(), 1);
    }

    proptest! {
        #[test]
        fn it_is_a_map(
            batches in proptest::collection::vec(
                proptest::collection::vec((any::<u8>(), proptest::option::of(0u64..9)), 0..40),
                0..10,
            )
        ) {
            let table = Table::default();
            let mut model = BTreeMap::new();
            for batch in batches {
                let changes = batch
                    .iter()
                    .map(|(t, group)| (tenant(*t), group.map(entry)))
                    .collect();
                table.apply(changes);
                for (t, group) in batch {
                    match group {
                        Some(group) => model.insert(t, group),
                        None => model.remove(&t),
                    };
                }
                prop_assert_eq!(table.len(), model.len());
                for t in 0..=255 {
                    let found = table.lookup(tenant(t).as_str());
                    prop_assert_eq!(found, model.get(&t).copied().map(entry));
                }
            }
        }
    }
}
