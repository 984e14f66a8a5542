//! Tenant → [`Entry`]: read for every request, without a lock, an atomic write or an allocation.
//! Keeps fingerprints in place of names (`fingerprint`), about 33 bytes a tenant; chosen by
//! benchmark (`benches/benches/table.rs`, docs/proxy.md).
//!
//! ```text
//! Table ─▶ fans ─▶ 128 shards each ─▶ slots (table/shard)
//!            └ a change copies the list of fans, its fan, its shard; all else is shared
//! ```
//! A table never changes: a change makes another one, and whoever reads the old one reads it whole.
//! The number of shards follows from the number of tenants, so that a change copies some
//! dozens of entries; a table that outgrows its shards is split anew, at a cost that its growth has
//! paid for.

use std::sync::Arc;

use super::fingerprint::Fingerprint;

mod builder;
mod entry;
mod shard;

pub use builder::Builder;
pub use entry::Entry;
pub use shard::{Change, Shard};

/// Tenants of one shard, on average, above which the table is split anew.
const MAX_SHARD_TENANTS: usize = 128;
/// Shards of a fan: at ten million tenants there are up to 2048 fans, so a change copies as many pointers
/// and 128 shards' heads, 19 KiB.
const FAN: usize = 128;

/// All tenants at one moment.
#[derive(Debug, Clone)]
pub struct Table {
    /// Which bits of `low` name the shard.
    mask: u64,
    tenants: usize,
    fans: Box<[Arc<[Shard]>]>,
}

impl Default for Table {
    fn default() -> Self {
        Builder::new(0).build()
    }
}

impl Table {
    /// Of a power of two of shards.
    fn of(shards: Vec<Shard>) -> Self {
        Self {
            mask: shards.len() as u64 - 1,
            tenants: shards.iter().map(Shard::len).sum(),
            fans: shards.chunks(FAN).map(Arc::from).collect(),
        }
    }

    /// The tenant's entry, if it is known.
    #[must_use]
    #[inline]
    pub fn lookup(&self, print: Fingerprint) -> Option<Entry> {
        let number = self.number(print);
        self.fans[number / FAN][number % FAN].get(print)
    }

    /// Tenants in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tenants
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tenants == 0
    }

    /// Its shards, each in the order of fingerprints.
    pub fn shards(&self) -> impl ExactSizeIterator<Item = &Shard> {
        let count = self.mask as usize + 1;
        (0..count).map(|number| &self.fans[number / FAN][number % FAN])
    }

    /// The table with these changes; the last one to a tenant counts.
    #[must_use]
    pub fn with(&self, mut changes: Vec<Change>) -> Self {
        // Stable: a later change stays later.
        changes.sort_by_key(|(print, _)| (self.number(*print), *print));
        changes.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                kept.1 = later.1;
            }
            same
        });
        let mut new = self.clone();
        for of_fan in changes.chunk_by(|a, b| self.number(a.0) / FAN == self.number(b.0) / FAN) {
            let fan = self.number(of_fan[0].0) / FAN;
            let mut shards = self.fans[fan].to_vec();
            for run in of_fan.chunk_by(|a, b| self.number(a.0) == self.number(b.0)) {
                let shard = &mut shards[self.number(run[0].0) % FAN];
                let changed = shard.with(run);
                new.tenants = new.tenants + changed.len() - shard.len();
                *shard = changed;
            }
            new.fans[fan] = shards.into();
        }
        if new.tenants > (self.mask as usize + 1) * MAX_SHARD_TENANTS {
            return new.split();
        }
        new
    }

    /// The same in shards of the size that a new table has.
    fn split(&self) -> Self {
        let mut builder = Builder::new(self.tenants);
        for (print, entry) in self.shards().flat_map(Shard::iter) {
            builder.insert(print, &entry);
        }
        builder.build()
    }

    #[inline]
    fn number(&self, print: Fingerprint) -> usize {
        (print.low & self.mask) as usize
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
