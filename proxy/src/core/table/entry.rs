//! What routing knows of one tenant, and how it is packed into eight bytes.
//!
//! ```text
//! bit   63 … 24    23 … 4   3 … 2                          1         0
//!       version    group    routing                        holding   1 (the slot is taken)
//!                           0 none, 1 redirect, 2 forward
//!                           3: wide, bits 63 … 4 are a place in the shard's list of whole entries
//! ```
//! An entry whose group or version has more bits than there is room for is kept whole beside the
//! slots: never cut.

use maia_common::placement::WriteRouting;
use maia_common::{GroupId, Version};

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

/// An entry in eight bytes, or where to find it whole. All zero: no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packed(u64);

const TAKEN: u64 = 1;
const HOLDING: u64 = 1 << 1;
const ROUTING_SHIFT: u32 = 2;
const ROUTING_MASK: u64 = 0b11;
const WIDE: u64 = 3;
const GROUP_SHIFT: u32 = 4;
const GROUP_BITS: u32 = 20;
const VERSION_SHIFT: u32 = GROUP_SHIFT + GROUP_BITS;
const VERSION_BITS: u32 = u64::BITS - VERSION_SHIFT;

impl Packed {
    /// No entry.
    pub(super) const NONE: Self = Self(0);

    /// Packs the entry; `None` where it does not fit.
    fn new(entry: &Entry) -> Option<Self> {
        let (group, version) = (entry.group.get(), entry.version.get());
        if group >> GROUP_BITS != 0 || version >> VERSION_BITS != 0 {
            return None;
        }
        let routing = match entry.write_routing {
            None => 0,
            Some(WriteRouting::Redirect) => 1,
            Some(WriteRouting::Forward) => 2,
        };
        let holding = if entry.holding { HOLDING } else { 0 };
        Some(Self(
            version << VERSION_SHIFT
                | group << GROUP_SHIFT
                | routing << ROUTING_SHIFT
                | holding
                | TAKEN,
        ))
    }

    /// Packs the entry, or keeps it whole in `wide` and says where.
    pub(super) fn or_wide(entry: &Entry, wide: &mut Vec<Entry>) -> Self {
        Self::new(entry).unwrap_or_else(|| {
            wide.push(*entry);
            Self::wide(wide.len() - 1)
        })
    }

    fn wide(place: usize) -> Self {
        Self((place as u64) << GROUP_SHIFT | WIDE << ROUTING_SHIFT | TAKEN)
    }

    /// This, and `other` where `same`: without a branch. One of the two is no entry.
    #[inline]
    pub(super) fn or_if(self, other: Self, same: bool) -> Self {
        Self(self.0 | other.0 & u64::from(same).wrapping_neg())
    }

    #[inline]
    pub(super) fn is_taken(self) -> bool {
        self.0 & TAKEN != 0
    }

    /// The entry; `wide` are those that are kept whole.
    #[inline]
    pub(super) fn entry(self, wide: &[Entry]) -> Option<Entry> {
        if !self.is_taken() {
            return None;
        }
        let write_routing = match self.0 >> ROUTING_SHIFT & ROUTING_MASK {
            0 => None,
            1 => Some(WriteRouting::Redirect),
            2 => Some(WriteRouting::Forward),
            _ => return wide.get((self.0 >> GROUP_SHIFT) as usize).copied(),
        };
        Some(Entry {
            group: GroupId::new(self.0 >> GROUP_SHIFT & ((1 << GROUP_BITS) - 1)),
            version: Version::new(self.0 >> VERSION_SHIFT),
            holding: self.0 & HOLDING != 0,
            write_routing,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_entry() -> impl Strategy<Value = Entry> {
        let number = || prop_oneof![0u64..1000, any::<u64>(), Just(1 << 20), Just((1 << 40) - 1)];
        let routing = prop_oneof![
            Just(None),
            Just(Some(WriteRouting::Redirect)),
            Just(Some(WriteRouting::Forward))
        ];
        (number(), number(), any::<bool>(), routing).prop_map(
            |(group, version, holding, write_routing)| Entry {
                group: GroupId::new(group),
                version: Version::new(version),
                holding,
                write_routing,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked_and_what_does_not_fit_is_not_packed(entry in any_entry()) {
            let fits = entry.group.get() < 1 << 20 && entry.version.get() < 1 << 40;
            let packed = Packed::new(&entry);
            prop_assert_eq!(packed.is_some(), fits);
            let packed = packed.unwrap_or(Packed::wide(1));
            prop_assert!(packed.is_taken());
            let other = Entry { group: GroupId::new(9), ..entry };
            prop_assert_eq!(packed.entry(&[other, entry]), Some(entry));
        }
    }
}
