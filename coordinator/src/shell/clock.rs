//! The hybrid logical clock of this node: close to the wall clock, and never going back. The one
//! place of the shell that reads the wall clock for records.
//!
//! One clock serves all groups, so that what this node stamps in one is above what it saw in another. But a
//! reading that no clock within the bound can have made is not let in: it would spread from the group in whose
//! log it stands to every group of every node that has a replica of it. It counts in its own group alone, whose
//! log must not go back (I4), until the wall clock has come up to it.
//!
//! Between two moments at which the wall clock was found credible (`shell/clock_watch`, by
//! `core/hlc::follows`) the time is counted by a clock that nobody sets: a wall clock that jumps
//! stamps no record before the other nodes have confirmed it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use maia_common::ids::GroupId;

use crate::core::hlc;
use crate::core::record::Hlc;

/// One look at the wall clock.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    wall_us: u64,
    at: Instant,
}

/// Readings that only grow, also when the wall clock is set back.
#[derive(Debug)]
pub struct Clock {
    last: AtomicU64,
    /// When the wall clock was last found credible.
    trusted: Mutex<Reading>,
    bound: Duration,
    /// The last readings of groups whose logs are ahead of the wall clock by more than the bound: no more
    /// than there are groups.
    ahead: Mutex<BTreeMap<GroupId, Hlc>>,
    /// How many there are, so that nobody waits for the lock while there are none.
    far: AtomicUsize,
}

impl Reading {
    /// What the wall clock says now.
    #[must_use]
    pub fn take() -> Self {
        Self {
            wall_us: unix_us(),
            at: Instant::now(),
        }
    }

    /// What it said, in milliseconds since 1970.
    #[must_use]
    pub const fn wall_ms(&self) -> u64 {
        self.wall_us / 1000
    }

    /// How long ago that was.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.at.elapsed()
    }

    fn ms_at(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.at).as_micros();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        self.wall_us.saturating_add(since) / 1000
    }
}

impl Clock {
    /// A clock that takes up readings ahead of the wall clock by up to `max_clock_offset`.
    #[must_use]
    pub fn new(max_clock_offset: Duration) -> Self {
        Self {
            last: AtomicU64::default(),
            trusted: Mutex::new(Reading::take()),
            bound: max_clock_offset,
            ahead: Mutex::default(),
            far: AtomicUsize::default(),
        }
    }

    /// A reading for a record of this group: greater than all before, and than all of the group that were
    /// [observed](Clock::observe).
    pub fn now(&self, group: GroupId) -> Hlc {
        let wall_ms = self.wall_ms();
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
        if hlc::is_ahead(seen, self.wall_ms(), self.bound) {
            return self.hold_ahead(group, seen);
        }
        let next = |last| Some(hlc::observe(Hlc::from_raw(last), seen).get());
        let updated = self
            .last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        updated.expect("an update is always given");
    }

    /// Milliseconds since 1970: the wall clock as it was last found credible, and the time since. Goes
    /// back when a clock that was ahead is set right.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.trusted().ms_at(Instant::now())
    }

    /// How far the wall clock had moved at that look against this clock, in milliseconds.
    #[must_use]
    pub fn step_ms(&self, reading: &Reading) -> i64 {
        let limit = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        limit(reading.wall_ms()) - limit(self.trusted().ms_at(reading.at))
    }

    /// Time is counted from this look on.
    pub fn trust(&self, reading: Reading) {
        *self.trusted.lock().unwrap_or_else(PoisonError::into_inner) = reading;
    }

    fn trusted(&self) -> Reading {
        *self.trusted.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn a_jump_counts_from_when_it_is_trusted() {
        const HOUR_US: u64 = 3_600_000_000;
        let clock = Clock::new(BOUND);
        let now = Reading::take();
        let jumped = Reading {
            wall_us: now.wall_us + HOUR_US,
            ..now
        };
        let step_ms = clock.step_ms(&jumped);
        assert!((3_599_000..3_601_000).contains(&step_ms), "{step_ms}");
        assert!(clock.now(G).physical_ms() < jumped.wall_ms());
        clock.trust(jumped);
        let ahead = clock.now(G);
        assert!(ahead.physical_ms() >= jumped.wall_ms());
        clock.trust(now);
        assert!(clock.wall_ms() < jumped.wall_ms(), "set right again");
        assert!(clock.now(G) > ahead, "what was stamped is never undercut");
    }
}
