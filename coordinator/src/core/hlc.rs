//! The rules of the hybrid logical clock: readings that only grow, close to the wall clock. Called
//! by the node's clock (`shell/clock`), which keeps the last reading, and by the simulation.
//!
//! Who leads a group stamps its records. Before its first stamp it has observed all that is in its
//! log: the greatest reading of its applied state (kept with the state, `core/history`, so that it
//! outlives a restart and a snapshot) and every record that it applied since; it stamps nothing
//! until the first record of its term is applied, and so all of earlier terms (I4: readings never
//! go back along a group's log, however the wall clock jumps).
//!
//! A node whose wall clock is off by more than `max_clock_offset` may not lead: its readings would
//! win every conflict, or none.

use std::time::Duration;

use super::record::Hlc;

/// The reading after `last` at this time of the wall clock, in milliseconds since 1970: greater than
/// `last`, and the wall clock's if that is ahead. The logical part flows over into the physical one.
#[must_use]
pub fn tick(last: Hlc, wall_ms: u64) -> Hlc {
    let wall = Hlc::new(wall_ms, 0).get();
    Hlc::from_raw(wall.max(last.get().saturating_add(1)))
}

/// The last reading after `seen` came by, in a record or in a state.
#[must_use]
pub fn observe(last: Hlc, seen: Hlc) -> Hlc {
    last.max(seen)
}

/// Whether a leader may stamp records: once it has applied the first record of its term.
#[must_use]
pub fn may_stamp<T: PartialEq>(applied_term: Option<T>, own_term: T) -> bool {
    applied_term == Some(own_term)
}

/// Whether a node may lead, by how far its wall clock is from those of the members that it has heard
/// (theirs minus its own, in milliseconds): it must be within the bound of a majority of the
/// group's members, itself counted. Members that were not heard lately count as near: a node that
/// hears nobody leads nobody, and what was heard long ago may have been set right since; nodes that
/// went by it would wait for one another for ever.
#[must_use]
pub fn may_lead(offsets_ms: &[i64], members: usize, max_clock_offset: Duration) -> bool {
    let bound = u64::try_from(max_clock_offset.as_millis()).unwrap_or(u64::MAX);
    let far = offsets_ms
        .iter()
        .filter(|offset| offset.unsigned_abs() > bound)
        .count();
    members.saturating_sub(far) > members / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_majority_decides_whose_clock_is_off() {
        let bound = Duration::from_millis(500);
        let cases: [(&[i64], usize, bool); 7] = [
            (&[], 3, true),
            (&[500, -500], 3, true),
            (&[501], 3, true),
            (&[501, -501], 3, false),
            (&[9000, 9000], 3, false),
            (&[], 1, true),
            (&[i64::MIN, i64::MAX, 0, 0], 5, true),
        ];
        for (offsets, members, expected) in cases {
            assert_eq!(may_lead(offsets, members, bound), expected, "{offsets:?}");
        }
    }

    #[test]
    fn nothing_is_stamped_before_the_terms_first_record_is_applied() {
        assert!(!may_stamp(None, 3));
        assert!(!may_stamp(Some(2), 3));
        assert!(may_stamp(Some(3), 3));
    }

    proptest! {
        /// However the wall clock jumps and whatever is seen, readings only grow; and none is ahead
        /// of all that was read or seen by more than the ticks since.
        #[test]
        fn readings_only_grow(
            steps in prop::collection::vec((0u64..1 << 40, prop::option::of(0u64..1 << 56)), 1..50)
        ) {
            let (mut last, mut highest) = (Hlc::default(), 0);
            for (ticks, (wall_ms, seen)) in (1..).zip(steps) {
                if let Some(seen) = seen.map(Hlc::from_raw) {
                    last = observe(last, seen);
                    highest = highest.max(seen.get());
                }
                let next = tick(last, wall_ms);
                highest = highest.max(Hlc::new(wall_ms, 0).get());
                prop_assert!(next > last && next >= Hlc::new(wall_ms, 0));
                prop_assert!(next.get() <= highest + ticks);
                last = next;
            }
        }
    }
}
