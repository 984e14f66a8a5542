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
//! win every conflict, or none. `shell/clock_watch` measures, and sees to it. That takes a second or two
//! from the moment a clock is set: until others have confirmed where it stands now, readings go on from
//! where it stood before ([`follows`]), so that no record is stamped by a clock that has just jumped. What a clock
//! stamped that was wrong from the start stands in its groups' logs, and whoever leads them goes on above it; but no
//! other group's readings follow it there: a node's clock does not take up what [`is_ahead`].

use std::collections::BTreeMap;
use std::time::Duration;

use maia_common::ids::NodeId;

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

/// Whether readings follow the wall clock after it moved by `step_ms` against a clock that nobody sets.
/// Within the bound they do: that is how clocks are kept right. Beyond it only when a majority of the
/// members, this one counted, have just said a time near the new one (`heard_ms`: theirs minus the new one):
/// who hears nobody can't tell a clock that was set right from one that was set wrong.
#[must_use]
pub fn follows(step_ms: i64, heard_ms: &[i64], members: usize, max_clock_offset: Duration) -> bool {
    let bound = u64::try_from(max_clock_offset.as_millis()).unwrap_or(u64::MAX);
    let is_near = |ms: &i64| ms.unsigned_abs() <= bound;
    let near = heard_ms.iter().filter(|ms| is_near(ms)).count();
    is_near(&step_ms) || near + 1 > members / 2
}

/// How far another wall clock is ahead of this one at least, in milliseconds (behind: below zero): it
/// said `their_ms` when it was asked at `own_ms`, and the answer took so long. Both in milliseconds since 1970.
/// What the way may account for is taken off.
#[must_use]
pub fn offset_ms(own_ms: u64, took: Duration, their_ms: u64) -> i64 {
    let limit = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let apart = limit(their_ms).saturating_sub(limit(own_ms));
    // It was read some time on the way: never earlier than asked, never later than answered.
    let took = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
    if apart < 0 {
        apart
    } else {
        apart.saturating_sub(took).max(0)
    }
}

/// Whether `node` may lead a group of these voters, by the offsets that `me` has measured lately (theirs
/// minus its own); none: nothing is known of it.
#[must_use]
pub fn fitness(
    me: NodeId,
    node: NodeId,
    voters: &[NodeId],
    offsets_ms: &BTreeMap<NodeId, i64>,
    max_clock_offset: Duration,
) -> Option<bool> {
    let of = |voter: NodeId| {
        let own = (voter == me).then_some(0);
        own.or_else(|| offsets_ms.get(&voter).copied())
    };
    let its = of(node)?;
    let others = voters.iter().filter(|voter| **voter != node);
    let relative: Vec<i64> = others
        .filter_map(|voter| Some(of(*voter)?.saturating_sub(its)))
        .collect();
    Some(may_lead(&relative, voters.len(), max_clock_offset))
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
    fn a_jump_is_followed_when_a_majority_confirms_it() {
        let bound = Duration::from_millis(500);
        let cases: [(i64, &[i64], usize, bool); 8] = [
            (-500, &[], 3, true),
            (500, &[9000, 9000], 3, true),
            (501, &[], 3, false),
            (-9000, &[9000, 9000], 3, false),
            (9000, &[0, -9000], 3, true),
            (9000, &[0], 5, false),
            (i64::MIN, &[i64::MIN], 2, false),
            (9000, &[], 1, true),
        ];
        for (step, heard, members, expected) in cases {
            assert_eq!(
                follows(step, heard, members, bound),
                expected,
                "{step} {heard:?}"
            );
        }
    }

    #[test]
    fn a_reading_may_be_ahead_by_the_bound_and_no_more() {
        let bound = Duration::from_millis(500);
        for (reading_ms, expected) in [(0, false), (1500, false), (1501, true), (1 << 47, true)] {
            let reading = Hlc::new(reading_ms, 7);
            assert_eq!(is_ahead(reading, 1000, bound), expected, "{reading_ms}");
        }
    }

    #[test]
    fn the_way_of_an_answer_is_no_offset() {
        let took = Duration::from_millis(40);
        for (theirs, expected) in [
            (100, 0),
            (140, 0),
            (141, 1),
            (99, -1),
            (0, -100),
            (9140, 9000),
        ] {
            assert_eq!(offset_ms(100, took, theirs), expected, "{theirs}");
        }
        assert!(offset_ms(0, took, u64::MAX) > 0 && offset_ms(u64::MAX, took, 0) < 0);
    }

    #[test]
    fn a_group_goes_to_a_member_whose_clock_is_near_the_others() {
        let bound = Duration::from_millis(500);
        let [one, two, three] = [1, 2, 3].map(NodeId::new);
        let voters = [one, two, three];
        let fit = |me, node, offsets: &[(NodeId, i64)]| {
            fitness(me, node, &voters, &offsets.iter().copied().collect(), bound)
        };
        // Node 1 is behind the two others.
        let offsets = [(two, 9000), (three, 9100)];
        let found = voters.map(|node| fit(one, node, &offsets));
        assert_eq!(found, [Some(false), Some(true), Some(true)]);
        // As node 2 sees it.
        let offsets = [(one, -9000), (three, 100)];
        let found = voters.map(|node| fit(two, node, &offsets));
        assert_eq!(found, [Some(false), Some(true), Some(true)]);
        // Nobody was heard: it keeps its right, and knows no better one.
        let found = voters.map(|node| fit(one, node, &[]));
        assert_eq!(found, [Some(true), None, None]);
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
