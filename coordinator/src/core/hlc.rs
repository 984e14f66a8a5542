//! The rules of the hybrid logical clock: readings that only grow, close to the wall clock. Called
//! by the node's clock (`shell/clock`), which keeps the last reading, and by the simulation.
//!
//! Who leads a group stamps its records. Before its first stamp it has observed all that is in its
//! log: the greatest reading of its applied state (kept with the state, `core/history`, so that it
//! outlives a restart and a snapshot) and every record that it applied since; it stamps nothing
//! until the first record of its term is applied, and so all of earlier terms (I4: readings never
//! go back along a group's log, however the wall clock jumps).
//!
//! Each group has its own readings. A wrong clock's stay in the log of the group that it stamped, and whoever leads
//! that goes on above them; no other group's follow them there. Whose clock is believed, and who may lead by it:
//! `core/clocks`.

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

/// Whether a reading is ahead of the wall clock by more than clocks of one cluster may be apart. No node
/// whose clock is well has made it.
#[must_use]
pub fn is_ahead(reading: Hlc, wall_ms: u64, max_clock_offset: Duration) -> bool {
    let ahead_ms = reading.physical_ms().saturating_sub(wall_ms);
    u128::from(ahead_ms) > max_clock_offset.as_millis()
}

/// Whether a leader may stamp records: once it has applied the first record of its term.
#[must_use]
pub fn may_stamp<T: PartialEq>(applied_term: Option<T>, own_term: T) -> bool {
    applied_term == Some(own_term)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_reading_may_be_ahead_by_the_bound_and_no_more() {
        let bound = Duration::from_millis(500);
        for (reading_ms, expected) in [(0, false), (1500, false), (1501, true), (1 << 47, true)] {
            let reading = Hlc::new(reading_ms, 7);
            assert_eq!(is_ahead(reading, 1000, bound), expected, "{reading_ms}");
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
