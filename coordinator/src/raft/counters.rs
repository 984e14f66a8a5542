//! What the engine counts, for whoever exports metrics: plain atomics, read as one [`LogStats`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the fsync histogram's buckets, in microseconds; one more bucket holds the rest.
pub const FSYNC_BUCKETS_US: [u64; 12] = [
    100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 102_400, 409_600,
];

/// The engine's counters. Relaxed: they are for people.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    appends: AtomicU64,
    bytes: AtomicU64,
    fsyncs: AtomicU64,
    fsync_us: AtomicU64,
    fsync_buckets: [AtomicU64; FSYNC_BUCKETS_US.len() + 1],
    write_failures: AtomicU64,
    applied: AtomicU64,
    quarantined: AtomicU64,
    held_back_us: AtomicU64,
}

/// The engine's counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogStats {
    /// Entries written to the log.
    pub appends: u64,
    /// Bytes of those entries as encoded.
    pub bytes: u64,
    /// Synced writes.
    pub fsyncs: u64,
    /// Time that they took together, in microseconds.
    pub fsync_sum_us: u64,
    /// How many took at most each of [`FSYNC_BUCKETS_US`] (not cumulative), then the rest.
    pub fsync_buckets: Vec<u64>,
    /// Writes of the log that failed.
    pub write_failures: u64,
    /// Entries applied.
    pub applied: u64,
    /// Records put into quarantine.
    pub quarantined: u64,
    /// How long records for followers that catch up were held back in all, in microseconds.
    pub held_back_us: u64,
}

impl Counters {
    pub(crate) fn appended(&self, bytes: usize) {
        self.appends.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn fsync(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = FSYNC_BUCKETS_US.partition_point(|bound| *bound < us);
        self.fsyncs.fetch_add(1, Ordering::Relaxed);
        self.fsync_us.fetch_add(us, Ordering::Relaxed);
        self.fsync_buckets[bucket].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn write_failed(&self) {
        self.write_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn applied(&self, entries: usize) {
        self.applied.fetch_add(entries as u64, Ordering::Relaxed);
    }

    pub(crate) fn quarantined(&self, entries: usize) {
        self.quarantined
            .fetch_add(entries as u64, Ordering::Relaxed);
    }

    pub(crate) fn held_back(&self, waited: Duration) {
        let us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.held_back_us.fetch_add(us, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> LogStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LogStats {
            appends: load(&self.appends),
            bytes: load(&self.bytes),
            fsyncs: load(&self.fsyncs),
            fsync_sum_us: load(&self.fsync_us),
            fsync_buckets: self.fsync_buckets.iter().map(load).collect(),
            write_failures: load(&self.write_failures),
            applied: load(&self.applied),
            quarantined: load(&self.quarantined),
            held_back_us: load(&self.held_back_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sync_falls_into_one_bucket() {
        let counters = Counters::default();
        for us in [100, 101, 500_000] {
            counters.fsync(Duration::from_micros(us));
        }
        let stats = counters.read();
        assert_eq!(stats.fsync_buckets.iter().sum::<u64>(), 3);
        assert_eq!((stats.fsync_buckets[0], stats.fsync_buckets[1]), (1, 1));
        assert_eq!(stats.fsync_buckets[FSYNC_BUCKETS_US.len()], 1);
    }
}
