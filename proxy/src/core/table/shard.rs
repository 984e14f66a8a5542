//! One shard of the table: an immutable flat array, cheap to clone, of slots of 24 bytes, found by open addressing.
//!
//! The slots are in the order of their fingerprints, each at the place that its fingerprint names
//! (`high` scaled to the range) or the next free one after it. So a search ends at the first
//! greater fingerprint, whether the tenant is there or not, and a changed copy is one merge of two
//! sorted runs. The array has no wrap: what is pushed past the range stands behind it, and behind
//! that as many free slots as are looked at as one.
//!
//! A million of them don't fit the caches, so what counts is how many memory accesses the processor
//! has under way at once: the first look takes several slots without a branch on what they hold.
//!
//! Every copy is sized exactly for what it holds: no growth by doubling, no slack but the gaps.

use std::sync::Arc;

use super::entry::{Entry, Packed};
use crate::core::fingerprint::Fingerprint;

/// Four places for three tenants, 33 bytes each: with less room more stand far from their place.
const ROOM: usize = 4;
const PER: usize = 3;
/// Slots that are looked at as one. Of a hundred tenants about nine stand farther from their place.
const NEAR: usize = 4;
/// Reserved behind the range, so that the array seldom has to grow for what is pushed past it.
const TAIL: usize = 2 * NEAR;

/// A change to one tenant: its new entry, or `None` where it is gone.
pub type Change = (Fingerprint, Option<Entry>);

/// One place: a tenant, or nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    high: u64,
    pub(super) low: u64,
    pub(super) packed: Packed,
}

impl Slot {
    const EMPTY: Slot = Slot {
        high: 0,
        low: 0,
        packed: Packed::NONE,
    };

    pub(super) fn new(print: Fingerprint, packed: Packed) -> Self {
        Self {
            high: print.high,
            low: print.low,
            packed,
        }
    }

    #[inline]
    pub(super) fn print(&self) -> Fingerprint {
        Fingerprint {
            high: self.high,
            low: self.low,
        }
    }
}

/// See the module. As small as can be: the heads of all shards should fit a cache, for every look-up
/// waits for one.
#[derive(Debug, Clone, Default)]
pub struct Shard {
    /// Places that fingerprints name.
    range: usize,
    slots: Arc<[Slot]>,
    /// Entries that don't fit a slot. As good as always none.
    wide: Option<Arc<Vec<Entry>>>,
}

impl Shard {
    /// The tenant's entry.
    #[must_use]
    #[inline]
    pub fn get(&self, print: Fingerprint) -> Option<Entry> {
        let from = place(print.high, self.range);
        let near = self.slots.get(from..)?.first_chunk::<NEAR>()?;
        // Without a branch on what is found: the processor does not wait for the memory, but goes
        // on with what depends on something else.
        let mut found = Packed::NONE;
        for slot in near {
            found = found.or_if(slot.packed, slot.print().is(print));
        }
        if found.is_taken() {
            return found.entry(self.wide());
        }
        self.search(from, print)
    }

    /// Of a tenant that is not near its place, or not there.
    fn search(&self, from: usize, print: Fingerprint) -> Option<Entry> {
        for slot in &self.slots[from..] {
            if slot.high > print.high || !slot.packed.is_taken() {
                return None;
            }
            if slot.print() == print {
                return slot.packed.entry(self.wide());
            }
        }
        None
    }

    #[inline]
    fn wide(&self) -> &[Entry] {
        self.wide.as_ref().map_or(&[], |wide| wide.as_slice())
    }

    /// Tenants in it: counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.iter().filter(|s| s.packed.is_taken()).count()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether both are one and the same in memory.
    #[cfg(test)]
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.slots, &other.slots)
    }

    /// All of it, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Fingerprint, Entry)> {
        self.slots.iter().filter_map(|slot| {
            let entry = slot.packed.entry(self.wide())?;
            Some((slot.print(), entry))
        })
    }

    /// A shard of these tenants, which come in order, each once; at most `at_most` of them.
    pub fn of(tenants: impl Iterator<Item = (Fingerprint, Entry)>, at_most: usize) -> Self {
        let mut filling = Filling::new(at_most);
        for (print, entry) in tenants {
            filling.push(print, &entry);
        }
        filling.done()
    }

    /// A copy with these changes, which come in order, each tenant once.
    #[must_use]
    pub fn with(&self, changes: &[Change]) -> Self {
        let mut filling = Filling::new(self.len() + changes.len());
        let mut known = self.iter().peekable();
        for (print, entry) in changes {
            while let Some((before, entry)) = known.next_if(|(known, _)| known < print) {
                filling.push(before, &entry);
            }
            let _replaced = known.next_if(|(known, _)| known == print);
            if let Some(entry) = entry {
                filling.push(*print, entry);
            }
        }
        for (print, entry) in known {
            filling.push(print, &entry);
        }
        filling.done()
    }
}

/// A shard that is being filled, in order.
struct Filling {
    range: usize,
    slots: Vec<Slot>,
    wide: Vec<Entry>,
}

impl Filling {
    fn new(at_most: usize) -> Self {
        let range = (at_most * ROOM).div_ceil(PER);
        Self {
            range,
            slots: Vec::with_capacity(range + TAIL),
            wide: Vec::new(),
        }
    }

    fn push(&mut self, print: Fingerprint, entry: &Entry) {
        let packed = Packed::or_wide(entry, &mut self.wide);
        let place = place(print.high, self.range);
        if place > self.slots.len() {
            self.slots.resize(place, Slot::EMPTY);
        }
        self.slots.push(Slot::new(print, packed));
    }

    fn done(mut self) -> Shard {
        let end = self.slots.len().max(self.range + NEAR);
        self.slots.resize(end, Slot::EMPTY);
        Shard {
            range: self.range,
            slots: self.slots.into(),
            wide: (!self.wide.is_empty()).then(|| Arc::new(self.wide)),
        }
    }
}

/// `high` scaled to the range: monotone, so that the order of fingerprints is that of places.
#[inline]
fn place(high: u64, range: usize) -> usize {
    ((u128::from(high) * range as u128) >> 64) as usize
}
