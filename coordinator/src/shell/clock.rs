//! The hybrid logical clock of this node: close to the wall clock, and never going back. The one
//! place of the shell that reads the wall clock for records.
//!
//! One clock serves all groups, so that what this node stamps in one is above what it saw in another. But a
//! reading that no clock within the bound can have made is not let in: it would spread from the group in whose
//! log it stands to every group of every node that has a replica of it. It counts in its own group alone, whose
//! log must not go back (I4), until the wall clock has come up to it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use maia_common::ids::GroupId;

use crate::core::hlc;
use crate::core::record::Hlc;

/// Readings that only grow, also when the wall clock is set back.
#[derive(Debug)]
pub struct Clock {
    last: AtomicU64,
    bound: Duration,
    /// The last readings of groups whose logs are ahead of the wall clock by more than the bound: no more
    /// than there are groups.
    ahead: Mutex<BTreeMap<GroupId, Hlc>>,
    /// How many there are, so that nobody waits for the lock while there are none.
    far: AtomicUsize,
}

impl Clock {
    /// A clock that takes up readings ahead of the wall clock by up to `max_clock_offset`.
    #[must_use]
    pub fn new(max_clock_offset: Duration) -> Self {
        Self {
            last: AtomicU64::default(),
            bound: max_clock_offset,
            ahead: Mutex::default(),
            far: AtomicUsize::default(),
        }
    }

    /// A reading for a record of this group: greater than all before, and than all of the group that were
    /// [observed](Clock::observe).
    pub fn now(&self, group: GroupId) -> Hlc {
        let wall_ms = unix_us() / 1000;
        let next = |last| hlc::tick(Hlc::from_raw(last), wall_ms);
        let before = self
            .last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(next(last).get())
            });
        let reading = next(before.expect("an update is always given"));
        if self.far.load(Ordering::Acquire) == 0 {
            return reading;
        }
        self.above(group, reading)
    }

    /// Of a group whose log is ahead: the next one there, until the wall clock has come up to it.
    fn above(&self, group: GroupId, reading: Hlc) -> Hlc {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = ahead.get(&group).copied() else {
            return reading;
        };
        if reading > last {
            ahead.remove(&group);
            self.far.store(ahead.len(), Ordering::Release);
            return reading;
        }
        let next = hlc::tick(last, 0);
        ahead.insert(group, next);
        next
    }

    /// Later readings of the group will be greater than this one, which came from its log; and those of other
    /// groups too, unless it is ahead by more than the bound.
    pub fn observe(&self, group: GroupId, seen: Hlc) {
        // Most are behind: then no time is read.
        if seen.get() <= self.last.load(Ordering::Relaxed) {
            return;
        }
        if hlc::is_ahead(seen, unix_us() / 1000, self.bound) {
            return self.hold_ahead(group, seen);
        }
        let next = |last| Some(hlc::observe(Hlc::from_raw(last), seen).get());
        let updated = self
            .last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        updated.expect("an update is always given");
    }

    fn hold_ahead(&self, group: GroupId, seen: Hlc) {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let known = ahead.get(&group).copied();
        ahead.insert(group, hlc::observe(known.unwrap_or_default(), seen));
        self.far.store(ahead.len(), Ordering::Release);
        drop(ahead);
        if known.is_none() {
            tracing::warn!(
                %group, reading_ms = seen.physical_ms(),
                "a record is ahead of this node's clock by more than clocks may be apart: its group goes on \
                 from there, no other does; is a clock wrong, or was it?"
            );
        }
    }
}

/// Microseconds since 1970 by the wall clock.
#[must_use]
pub fn unix_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: GroupId = GroupId::new(1);
    const H: GroupId = GroupId::new(2);
    const BOUND: Duration = Duration::from_secs(60);

    fn in_ms(ms: u64) -> Hlc {
        Hlc::new(unix_us() / 1000 + ms, 7)
    }

    #[test]
    fn readings_grow_past_what_was_observed() {
        let clock = Clock::new(BOUND);
        let ahead = in_ms(50_000);
        clock.observe(G, ahead);
        let first = clock.now(H);
        assert!(first > ahead, "one clock for all groups");
        assert!(clock.now(G) > first);
    }

    #[test]
    fn what_no_clock_within_the_bound_has_made_counts_in_its_group_alone() {
        let clock = Clock::new(BOUND);
        let far = in_ms(3_600_000);
        clock.observe(G, far);
        clock.observe(G, in_ms(1_800_000));
        let first = clock.now(G);
        assert!(first > far, "the log of its group must not go back");
        assert!(clock.now(G) > first);
        let other = clock.now(H);
        assert!(other < in_ms(1000), "{other:?}");
        assert!(clock.now(H) > other);
    }

    #[test]
    fn a_group_that_was_ahead_is_like_any_once_the_wall_clock_has_come_up_to_it() {
        let clock = Clock::new(Duration::ZERO);
        clock.observe(G, in_ms(2));
        while unix_us() / 1000
            < clock
                .ahead
                .lock()
                .unwrap()
                .get(&G)
                .map_or(0, |h| h.physical_ms() + 1)
        {
            std::hint::spin_loop();
        }
        let reading = clock.now(G);
        assert!(reading < in_ms(1000));
        assert_eq!(
            clock.far.load(Ordering::Acquire),
            0,
            "nothing is held for it"
        );
    }
}
