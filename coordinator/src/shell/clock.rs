//! The hybrid logical clock of this node: close to the wall clock, and never going back. The one
//! place of the shell that reads the wall clock for records.
//!
//! Between two moments at which the wall clock was found credible (`shell/clock_watch`, by
//! `core/hlc::follows`) the time is counted by a clock that nobody sets: a wall clock that jumps
//! stamps no record before the other nodes have confirmed it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
    trusted: Mutex<Reading>,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            last: AtomicU64::default(),
            trusted: Mutex::new(Reading::take()),
        }
    }
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
    /// A reading greater than all before and all that were [observed](Clock::observe).
    pub fn now(&self) -> Hlc {
        let wall_ms = self.wall_ms();
        let next = |last| hlc::tick(Hlc::from_raw(last), wall_ms);
        let before = self
            .last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(next(last).get())
            });
        next(before.expect("an update is always given"))
    }

    /// Later readings will be greater than this one, which came from a log.
    pub fn observe(&self, seen: Hlc) {
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

    #[test]
    fn readings_grow_past_what_was_observed() {
        let clock = Clock::default();
        let ahead = Hlc::new(unix_us() / 1000 + 60_000, 7);
        clock.observe(ahead);
        let first = clock.now();
        assert!(first > ahead);
        assert!(clock.now() > first);
    }

    #[test]
    fn a_jump_counts_from_when_it_is_trusted() {
        const HOUR_US: u64 = 3_600_000_000;
        let clock = Clock::default();
        let now = Reading::take();
        let jumped = Reading {
            wall_us: now.wall_us + HOUR_US,
            ..now
        };
        let step_ms = clock.step_ms(&jumped);
        assert!((3_599_000..3_601_000).contains(&step_ms), "{step_ms}");
        assert!(clock.now().physical_ms() < jumped.wall_ms());
        clock.trust(jumped);
        let ahead = clock.now();
        assert!(ahead.physical_ms() >= jumped.wall_ms());
        clock.trust(now);
        assert!(clock.wall_ms() < jumped.wall_ms(), "set right again");
        assert!(clock.now() > ahead, "what was stamped is never undercut");
    }
}
