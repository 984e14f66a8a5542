//! What the feed counts, for `/metrics`. Written by the hub, the streams and the images; read when
//! asked for.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets of `maia_feed_push_seconds`.
pub const PUSH_BUCKETS_US: [u64; 10] = [
    500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 500_000, 2_000_000,
];

/// Why a coordinator ended a stream: a label, so the set is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum CutOff {
    /// A message found no room in its outbox for too long: it reads too slowly.
    Slow,
    /// It took messages and acknowledged none of them for too long.
    Unacknowledged,
    /// Another stream came under the same id.
    Replaced,
    /// Its registration was removed.
    Removed,
    /// This coordinator hears no leader of the metastore.
    Leaderless,
    /// It got a snapshot so slowly that the history no longer reaches back to it.
    History,
}

impl CutOff {
    /// All of them, in the order of their counters.
    pub const ALL: [CutOff; 6] = [
        CutOff::Slow,
        CutOff::Unacknowledged,
        CutOff::Replaced,
        CutOff::Removed,
        CutOff::Leaderless,
        CutOff::History,
    ];

    /// The label `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            CutOff::Slow => "slow",
            CutOff::Unacknowledged => "unacknowledged",
            CutOff::Replaced => "replaced",
            CutOff::Removed => "removed",
            CutOff::Leaderless => "leaderless",
            CutOff::History => "history",
        }
    }

    /// What the proxy is told.
    pub(super) fn status(self) -> tonic::Status {
        use tonic::Status;
        match self {
            CutOff::Slow => Status::resource_exhausted("cut off: too slow; start over"),
            CutOff::Unacknowledged => {
                Status::resource_exhausted("cut off: nothing was acknowledged; start over")
            }
            CutOff::Replaced => Status::aborted("another stream came under the same proxy id"),
            CutOff::Removed => Status::aborted("the proxy's registration was removed"),
            CutOff::Leaderless => Status::unavailable(
                "this coordinator hears no leader of the metastore: try another one",
            ),
            CutOff::History => Status::aborted("the history is compacted: start over"),
        }
    }
}

/// The counters.
#[derive(Debug, Default)]
pub struct Stats {
    cut_off: [AtomicU64; CutOff::ALL.len()],
    push_buckets: [AtomicU64; PUSH_BUCKETS_US.len()],
    push_count: AtomicU64,
    push_sum_us: AtomicU64,
    snapshots: AtomicU64,
    images: AtomicU64,
    image_us: AtomicU64,
    catch_ups: AtomicU64,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Stats {
    pub(super) fn cut_off(&self, reason: CutOff) {
        self.cut_off[reason as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn pushed(&self, after: Duration) {
        let us = micros(after);
        if let Some(bucket) = PUSH_BUCKETS_US.iter().position(|bound| us <= *bound) {
            self.push_buckets[bucket].fetch_add(1, Relaxed);
        }
        self.push_count.fetch_add(1, Relaxed);
        self.push_sum_us.fetch_add(us, Relaxed);
    }

    pub(super) fn snapshot_sent(&self) {
        self.snapshots.fetch_add(1, Relaxed);
    }

    pub(super) fn image_built(&self, took: Duration) {
        self.images.fetch_add(1, Relaxed);
        self.image_us.store(micros(took), Relaxed);
    }

    pub(super) fn caught_up(&self) {
        self.catch_ups.fetch_add(1, Relaxed);
    }

    /// Streams that were cut off for this reason.
    #[must_use]
    pub fn cut_offs(&self, reason: CutOff) -> u64 {
        self.cut_off[reason as usize].load(Relaxed)
    }

    /// Observations of `maia_feed_push_seconds` by bucket, their number, and their sum in µs.
    #[must_use]
    pub fn pushes(&self) -> (Vec<u64>, u64, u64) {
        let buckets = self.push_buckets.iter().map(|b| b.load(Relaxed)).collect();
        let sum_us = self.push_sum_us.load(Relaxed);
        (buckets, self.push_count.load(Relaxed), sum_us)
    }

    /// Snapshots sent whole.
    #[must_use]
    pub fn snapshots(&self) -> u64 {
        self.snapshots.load(Relaxed)
    }

    /// Images built, and how long the newest one took.
    #[must_use]
    pub fn images(&self) -> (u64, Duration) {
        let took = Duration::from_micros(self.image_us.load(Relaxed));
        (self.images.load(Relaxed), took)
    }

    /// Subscribers brought to the newest revision from the history.
    #[must_use]
    pub fn catch_ups(&self) -> u64 {
        self.catch_ups.load(Relaxed)
    }
}
