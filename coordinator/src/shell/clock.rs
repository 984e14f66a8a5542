//! The hybrid logical clock of this node: close to the wall clock, and never going back. The one
//! place of the shell that reads the wall clock for records.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::core::hlc;
use crate::core::record::Hlc;

/// Readings that only grow, also when the wall clock is set back.
#[derive(Debug, Default)]
pub struct Clock {
    last: AtomicU64,
}

impl Clock {
    /// A reading greater than all before and all that were [observed](Clock::observe).
    pub fn now(&self) -> Hlc {
        let wall_ms = unix_us() / 1000;
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
}
