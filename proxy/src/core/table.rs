//! Tenant → [`Entry`]: read for every request without a lock and without an allocation, written
//! by the feed alone. Keeps fingerprints in place of names (`fingerprint`), about 33 bytes a
//! tenant; chosen by benchmark (`benches/benches/table.rs`, docs/proxy.md).
//!
//! ```text
//! Table ─ArcSwap─▶ Shards ─ArcSwap (each)─▶ Shard: immutable slots (table/shard)
//!                                             └ a change copies the shards that it touches
//! ```
//! Readers see each shard whole: an entry is the old one or the new one, never a mixture; they
//! never wait for the writer. A snapshot replaces all shards at once. The number of shards follows
//! from the number of tenants, so that a change copies about a thousand entries; a table that
//! outgrows its shards is split anew, at a cost that its growth has paid for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use super::fingerprint::Fingerprint;

mod builder;
mod entry;
mod shard;

pub use builder::{Builder, Built};
pub use entry::Entry;
pub use shard::{Change, Shard};

/// Tenants of one shard, on average, above which the table is split anew.
const MAX_SHARD_TENANTS: usize = 2048;

/// The table in force.
pub struct Table {
    now: ArcSwap<Shards>,
    tenants: AtomicUsize,
}

struct Shards {
    /// Which bits of `low` name the shard.
    mask: u64,
    shards: Box<[ArcSwap<Shard>]>,
}

impl Shards {
    fn new(built: Built) -> Self {
        let shards = built.shards.into_iter().map(ArcSwap::from_pointee);
        Self {
            mask: shards.len() as u64 - 1,
            shards: shards.collect(),
        }
    }

    #[inline]
    fn number(&self, print: Fingerprint) -> usize {
        (print.low & self.mask) as usize
    }
}

impl Default for Table {
    fn default() -> Self {
        Self {
            now: ArcSwap::from_pointee(Shards::new(Builder::new(0).build())),
            tenants: AtomicUsize::new(0),
        }
    }
}

impl Table {
    /// The tenant's entry, if it is known.
    #[must_use]
    #[inline]
    pub fn lookup(&self, print: Fingerprint) -> Option<Entry> {
        let now = self.now.load();
        now.shards[now.number(print)].load().get(print)
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

    /// The shards as they are: one consistent whole where no writer is at work meanwhile.
    #[must_use]
    pub fn shards(&self) -> Vec<Arc<Shard>> {
        let now = self.now.load();
        now.shards.iter().map(ArcSwap::load_full).collect()
    }

    /// Puts a whole table in force, in place of everything. For the one writer only.
    pub fn replace(&self, built: Built) {
        let tenants = built.len();
        self.now.store(Arc::new(Shards::new(built)));
        self.tenants.store(tenants, Ordering::Relaxed);
    }

    /// Puts changes in force, each shard's as one; the last one to a tenant counts. For the one
    /// writer only.
    pub fn apply(&self, mut changes: Vec<Change>) {
        let now = self.now.load_full();
        let order = |print: Fingerprint| (now.number(print), print);
        changes.sort_by_key(|(print, _)| order(*print)); // stable: a later change stays later
        changes.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                kept.1 = later.1;
            }
            same
        });
        let mut tenants = self.len();
        for run in changes.chunk_by(|a, b| now.number(a.0) == now.number(b.0)) {
            let shard = &now.shards[now.number(run[0].0)];
            let old = shard.load_full();
            let new = old.with(run);
            tenants = tenants + new.len() - old.len();
            shard.store(Arc::new(new));
        }
        self.tenants.store(tenants, Ordering::Relaxed);
        if tenants > now.shards.len() * MAX_SHARD_TENANTS {
            self.split(&now, tenants);
        }
    }

    fn split(&self, now: &Shards, tenants: usize) {
        let mut builder = Builder::new(tenants);
        for shard in &now.shards {
            for (print, entry) in shard.load().iter() {
                builder.insert(print, &entry);
            }
        }
        self.now.store(Arc::new(Shards::new(builder.build())));
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
