//! The hybrid logical clock of this node: close to the wall clock, and never going back. The one
//! place of the shell that reads the wall clock for records.
//!
//! Each group has its own last reading, so that what a wrong clock stamped, here or elsewhere, stays in the group in
//! whose log it stands; that log must not go back (I4), and no other one follows it.
//!
//! Between two moments at which the wall clock was believed (`shell/clock_watch`, by
//! `core/clocks::belief`) the time is counted by a clock that nobody sets: a wall clock that jumps
//! stamps no record before somebody has confirmed it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
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
    /// Of each group the last one: 16 bytes for each that has had a replica here since the start.
    last: RwLock<BTreeMap<GroupId, AtomicU64>>,
    /// When the wall clock was last believed.
    trusted: Mutex<Reading>,
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

    /// How far the wall clock had moved at a later look against a clock that nobody sets, in milliseconds.
    #[must_use]
    pub fn step_ms(&self, later: &Self) -> i64 {
        let limit = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        limit(later.wall_ms()) - limit(self.ms_at(later.at))
    }

    fn ms_at(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.at).as_micros();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        self.wall_us.saturating_add(since) / 1000
    }
}

impl Default for Clock {
    /// Begins with what the wall clock says now.
    fn default() -> Self {
        Self {
            last: RwLock::default(),
            trusted: Mutex::new(Reading::take()),
        }
    }
}

impl Clock {
    /// A reading for a record of this group: greater than all before it, and than all that were
    /// [observed](Clock::observe).
    pub fn now(&self, group: GroupId) -> Hlc {
        let wall_ms = self.wall_ms();
        self.advance(group, |last| hlc::tick(last, wall_ms))
    }

    /// Later readings of the group will be greater than this one, which came from its log.
    pub fn observe(&self, group: GroupId, seen: Hlc) {
        self.advance(group, |last| hlc::observe(last, seen));
    }

    /// The last reading of the group: the greatest that this node has made or seen there.
    #[must_use]
    pub fn last(&self, group: GroupId) -> Hlc {
        let all = self.last.read().unwrap_or_else(PoisonError::into_inner);
        let last = all.get(&group).map(|last| last.load(Ordering::Relaxed));
        Hlc::from_raw(last.unwrap_or_default())
    }

    /// Milliseconds since 1970: the wall clock as it was last believed, and the time since. Goes
    /// back when a clock that was ahead is set right.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.trusted().ms_at(Instant::now())
    }

    /// How far the wall clock had moved at that look against this clock, in milliseconds.
    #[must_use]
    pub fn step_ms(&self, reading: &Reading) -> i64 {
        self.trusted().step_ms(reading)
    }

    /// Time is counted from this look on.
    pub fn trust(&self, reading: Reading) {
        *self.trusted.lock().unwrap_or_else(PoisonError::into_inner) = reading;
    }

    fn trusted(&self) -> Reading {
        *self.trusted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, group: GroupId, next: impl Fn(Hlc) -> Hlc) -> Hlc {
        let step = |last: &AtomicU64| {
            let next = |last| next(Hlc::from_raw(last));
            let stepped = |last| Some(next(last).get());
            let before = last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, stepped);
            next(before.expect("an update is always given"))
        };
        let all = self.last.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = all.get(&group) {
            return step(last);
        }
        drop(all);
        let mut all = self.last.write().unwrap_or_else(PoisonError::into_inner);
        step(all.entry(group).or_default())
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
    const HOUR: Duration = Duration::from_secs(3600);

    fn in_ms(ms: u64) -> Hlc {
        Hlc::new(unix_us() / 1000 + ms, 7)
    }

    fn jumped(from: Reading) -> Reading {
        Reading {
            wall_us: from.wall_us + u64::try_from(HOUR.as_micros()).unwrap(),
            ..from
        }
    }

    #[test]
    fn what_was_observed_counts_in_its_group_alone() {
        let clock = Clock::default();
        let far = in_ms(3_600_000);
        clock.observe(G, far);
        clock.observe(G, in_ms(1_800_000));
        assert_eq!(clock.last(G), far);
        let first = clock.now(G);
        assert!(first > far, "the log of its group must not go back");
        assert!(clock.now(G) > first);
        let other = clock.now(H);
        assert!(other < in_ms(1000), "{other:?}");
        assert!(clock.now(H) > other);
    }

    #[test]
    fn a_group_that_was_ahead_is_like_any_once_the_wall_clock_has_come_up_to_it() {
        let clock = Clock::default();
        let ahead = in_ms(2);
        clock.observe(G, ahead);
        while unix_us() / 1000 <= ahead.physical_ms() {
            std::hint::spin_loop();
        }
        let reading = clock.now(G);
        assert!(reading > ahead && reading < in_ms(1000));
    }

    #[test]
    fn a_jump_counts_from_when_it_is_trusted() {
        let clock = Clock::default();
        let now = Reading::take();
        let jumped = jumped(now);
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

    /// The node that had the wrong clock leads other groups as well as any when it is right.
    #[test]
    fn what_a_wrong_clock_stamped_in_one_group_is_of_no_account_in_another() {
        let clock = Clock::default();
        let right = Reading::take();
        clock.trust(jumped(right));
        let wrong = clock.now(G);
        clock.trust(right);
        assert!(clock.now(H) < in_ms(1000));
        assert!(clock.now(G) > wrong);
    }
}
