//! Counts the writes on their way to the origin, so that a hold knows when those that began before
//! it are through. Two atomic additions per write, none per read; tenants share 4096 buckets.
//!
//! A bucket counts on two sides. New writes count on the side of its epoch; when somebody waits,
//! the epoch moves on as soon as the other side is empty, and the side that it left only empties:
//! so a tenant that shares the bucket and never stops writing delays nobody.
//!
//! A write counts BEFORE it looks its tenant up, and a mark is set AFTER the hold is in force; with
//! a fence on both ways either the write sees the hold, or the mark sees the write (Dekker).

use std::sync::atomic::{AtomicU32, Ordering, fence};

use crate::core::feed::Mark;
use crate::core::fingerprint::Fingerprint;

/// So many that one slow upload seldom delays the barrier of another tenant; 48 KiB.
const BUCKETS: usize = 4096;

#[derive(Default)]
struct Bucket {
    epoch: AtomicU32,
    sides: [AtomicU32; 2],
}

impl Bucket {
    #[inline]
    fn side(&self, epoch: u32) -> &AtomicU32 {
        &self.sides[(epoch % 2) as usize]
    }

    fn is_empty(&self, epoch: u32) -> bool {
        self.side(epoch).load(Ordering::SeqCst) == 0
    }
}

/// See the module.
pub struct InFlight {
    buckets: Box<[Bucket]>,
}

/// A write on its way; through when dropped.
pub struct Write(&'static AtomicU32);

impl Drop for Write {
    #[inline]
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl InFlight {
    /// For the whole life of the process: writes point into it, where a shared count of owners
    /// would be one more place that all threads write to.
    #[must_use]
    pub fn leak() -> &'static Self {
        let buckets = (0..BUCKETS).map(|_| Bucket::default()).collect();
        Box::leak(Box::new(Self { buckets }))
    }

    #[inline]
    fn bucket(&self, print: Fingerprint) -> &Bucket {
        // Other bits than those that name shards.
        &self.buckets[(print.low >> 48) as usize % BUCKETS]
    }

    /// A write begins. To be called before its tenant is looked up.
    #[inline]
    #[must_use]
    pub fn enter(&'static self, print: Fingerprint) -> Write {
        let bucket = self.bucket(print);
        let side = bucket.side(bucket.epoch.load(Ordering::Relaxed));
        side.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Write(side)
    }

    /// This moment. To be called after the hold is in force.
    #[must_use]
    pub fn mark(&self, print: Fingerprint) -> Mark {
        fence(Ordering::SeqCst);
        Mark(self.bucket(print).epoch.load(Ordering::SeqCst))
    }

    /// Whether all writes of the tenant that began before the mark are through. For one task only.
    #[must_use]
    pub fn is_through(&self, print: Fingerprint, Mark(mark): Mark) -> bool {
        let bucket = self.bucket(print);
        let mut epoch = bucket.epoch.load(Ordering::SeqCst);
        if epoch == mark && bucket.is_empty(epoch.wrapping_add(1)) {
            epoch = epoch.wrapping_add(1);
            bucket.epoch.store(epoch, Ordering::SeqCst);
        }
        match epoch.wrapping_sub(mark) {
            0 => false,
            1 => bucket.is_empty(mark),
            // It moved on twice: the side was empty in between.
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINT: Fingerprint = Fingerprint { high: 0, low: 0 };
    /// Of the same bucket.
    const NEIGHBOUR: Fingerprint = Fingerprint { high: 9, low: 9 };

    #[test]
    fn what_began_before_the_mark_is_waited_for_and_nothing_else() {
        let counts = InFlight::leak();
        let before = [counts.enter(PRINT), counts.enter(PRINT)];
        let mark = counts.mark(PRINT);
        assert!(!counts.is_through(PRINT, mark));
        let _after = counts.enter(NEIGHBOUR);
        let [one, two] = before;
        drop(one);
        assert!(!counts.is_through(PRINT, mark));
        drop(two);
        assert!(
            counts.is_through(PRINT, mark),
            "the later one does not count"
        );
        let other = Fingerprint {
            high: 0,
            low: 1 << 48,
        };
        assert!(counts.is_through(other, counts.mark(other)));
    }

    #[test]
    fn a_second_mark_waits_for_the_first_and_both_end() {
        let counts = InFlight::leak();
        let first_write = counts.enter(PRINT);
        let first = counts.mark(PRINT);
        assert!(!counts.is_through(PRINT, first)); // moves on
        let second_write = counts.enter(NEIGHBOUR);
        let second = counts.mark(NEIGHBOUR);
        assert!(!counts.is_through(NEIGHBOUR, second));
        let _third = counts.enter(NEIGHBOUR);
        drop(second_write);
        assert!(
            !counts.is_through(NEIGHBOUR, second),
            "the first is in the way"
        );
        drop(first_write);
        assert!(counts.is_through(PRINT, first));
    }

    #[test]
    fn a_bucket_that_is_never_empty_delays_nobody() {
        let counts = InFlight::leak();
        let mut busy = counts.enter(NEIGHBOUR);
        for _ in 0..10 {
            let mark = counts.mark(PRINT);
            let mut rounds = 0;
            while !counts.is_through(PRINT, mark) {
                // One write ends only after the next has begun.
                busy = counts.enter(NEIGHBOUR);
                rounds += 1;
                assert!(rounds < 5);
            }
        }
        drop(busy);
    }

    #[test]
    fn a_write_that_does_not_see_the_hold_is_seen_by_the_mark() {
        use std::sync::atomic::AtomicBool;
        for _ in 0..2000 {
            let counts = InFlight::leak();
            let held = AtomicBool::new(false);
            let taking_effect = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let _write = counts.enter(PRINT);
                    if !held.load(Ordering::Relaxed) {
                        taking_effect.store(true, Ordering::SeqCst);
                        std::thread::yield_now();
                        taking_effect.store(false, Ordering::SeqCst);
                    }
                });
                held.store(true, Ordering::Relaxed);
                let mark = counts.mark(PRINT);
                while !counts.is_through(PRINT, mark) {
                    std::thread::yield_now();
                }
                assert!(!taking_effect.load(Ordering::SeqCst));
            });
        }
    }
}
