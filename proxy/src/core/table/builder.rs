//! A table that is being put together, tenants in any order: a snapshot of the feed or from disk,
//! or all of a table that is split anew. One list, sorted once, then cut into shards of exactly
//! the size they need: beside the table itself 24 bytes a tenant, for as long as it takes.

use super::Table;
use super::entry::{Entry, Packed};
use super::shard::{Shard, Slot};
use crate::core::fingerprint::Fingerprint;

/// Tenants of one shard in a table that was just built: what a change copies. A load changes some hundred
/// tenants at a time, in as many shards: with large ones each step would copy the whole table.
const SHARD_TENANTS: usize = 64;
/// Reserved at most on a coordinator's word: a table this large takes its time to fill anyway.
const MAX_RESERVED: usize = 1 << 24;

/// Collects tenants before they come into force.
pub struct Builder {
    slots: Vec<Slot>,
    /// Entries that don't fit a slot.
    wide: Vec<Entry>,
}

impl Builder {
    /// For about so many tenants; 0 where nobody knows.
    #[must_use]
    pub fn new(expected: usize) -> Self {
        Self {
            slots: Vec::with_capacity(expected.min(MAX_RESERVED)),
            wide: Vec::new(),
        }
    }

    /// Takes one tenant. Of several entries for one, that of the highest version counts (I4).
    pub fn insert(&mut self, print: Fingerprint, entry: &Entry) {
        let packed = Packed::or_wide(entry, &mut self.wide);
        self.slots.push(Slot::new(print, packed));
    }

    /// Sorts and cuts.
    #[must_use]
    pub fn build(self) -> Table {
        let Builder { mut slots, wide } = self;
        let count = slots.len().div_ceil(SHARD_TENANTS).next_power_of_two();
        let mask = count as u64 - 1;
        slots.sort_unstable_by_key(|slot| (slot.low & mask, slot.print()));
        let entry = |slot: &Slot| slot.packed.entry(&wide);
        let version = |slot: &Slot| entry(slot).map(|e| e.version);
        slots.dedup_by(|later, kept| {
            let same = later.print() == kept.print();
            if same && version(later) > version(kept) {
                *kept = *later;
            }
            same
        });
        let mut rest = slots.as_slice();
        let mut shards = Vec::with_capacity(count);
        for number in 0..count as u64 {
            let (own, others) = rest.split_at(rest.partition_point(|s| s.low & mask <= number));
            rest = others;
            let tenants = own.iter().filter_map(|s| Some((s.print(), entry(s)?)));
            shards.push(Shard::of(tenants, own.len()));
        }
        Table::of(shards)
    }
}
