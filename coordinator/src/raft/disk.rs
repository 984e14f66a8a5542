//! How much room the disk has, looked at twice a second: an append error is fatal to a group's
//! instance, so a leader refuses proposals before that (definitely not written), and a follower
//! refuses entries when it is later still. Earlier than both, retention drops what it can of the logs.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::engine::Engine;

/// How much room there is, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DiskRoom {
    /// Below a quarter of the watermark, and below [`RESERVE_BYTES`]: no entries from leaders either.
    Critical,
    /// Below the watermark: no proposals.
    Low,
    /// Below twice the watermark: logs are dropped as far as they can be, before writes are refused.
    Tight,
    /// More than that.
    Enough,
}

/// With this much left a follower still takes entries, however high the watermark: elections, and
/// with them reads, need a few small ones.
const RESERVE_BYTES: u64 = 32 << 20;

/// Watches the free space of the node's folder.
pub(crate) struct DiskGuard {
    dir: PathBuf,
    watermark_bytes: u64,
    free_bytes: AtomicU64,
    total_bytes: AtomicU64,
}

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl DiskGuard {
    pub(crate) fn new(dir: &Path, watermark_bytes: u64) -> Self {
        let guard = Self {
            dir: dir.to_owned(),
            watermark_bytes,
            free_bytes: AtomicU64::new(u64::MAX),
            total_bytes: AtomicU64::new(u64::MAX),
        };
        guard.look();
        guard
    }

    /// Looks again, until its owner stops it.
    pub(crate) async fn watch(&self) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tick.tick().await;
            self.look();
        }
    }

    /// How much room there was when last looked.
    pub(crate) fn room(&self) -> DiskRoom {
        let free = self.free_bytes.load(Ordering::Relaxed);
        if free >= self.watermark_bytes.saturating_mul(2) {
            DiskRoom::Enough
        } else if free >= self.watermark_bytes {
            DiskRoom::Tight
        } else if free >= (self.watermark_bytes / 4).min(RESERVE_BYTES) {
            DiskRoom::Low
        } else {
            DiskRoom::Critical
        }
    }

    /// Whether so much may be written at once and leave as much, and the reserve.
    pub(crate) fn fits(&self, bytes: u64) -> bool {
        let needed = bytes.saturating_mul(2).saturating_add(RESERVE_BYTES);
        needed <= self.free_bytes()
    }

    /// Whether so much may be written and leave the reserve. For what frees more than it takes.
    pub(crate) fn holds(&self, bytes: u64) -> bool {
        bytes.saturating_add(RESERVE_BYTES) <= self.free_bytes()
    }

    /// The size of the file system when last looked.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    /// Free bytes when last looked.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    /// Looks at once.
    pub(crate) fn look(&self) {
        match rustix::fs::statvfs(&self.dir) {
            Ok(stat) => {
                let free = stat.f_bavail.saturating_mul(stat.f_frsize);
                let total = stat.f_blocks.saturating_mul(stat.f_frsize);
                self.free_bytes.store(free, Ordering::Relaxed);
                self.total_bytes.store(total, Ordering::Relaxed);
            }
            Err(error) => tracing::warn!(%error, dir = %self.dir.display(), "statvfs failed"),
        }
    }
}

impl Engine {
    /// Whether the node's disk has so little room that nothing is proposed.
    #[must_use]
    pub fn is_disk_low(&self) -> bool {
        self.disk.room() <= DiskRoom::Low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_decides() {
        let dir = std::env::temp_dir();
        assert_eq!(DiskGuard::new(&dir, 1).room(), DiskRoom::Enough);
        assert_eq!(DiskGuard::new(&dir, u64::MAX).room(), DiskRoom::Low);
        let guard = DiskGuard::new(&dir, 1000);
        for (free, room) in [
            (2000, DiskRoom::Enough),
            (1999, DiskRoom::Tight),
            (1000, DiskRoom::Tight),
            (999, DiskRoom::Low),
            (500, DiskRoom::Low),
        ] {
            guard.free_bytes.store(free, Ordering::Relaxed);
            assert_eq!(guard.room(), room);
        }
        guard.free_bytes.store(249, Ordering::Relaxed);
        assert_eq!(guard.room(), DiskRoom::Critical);
    }
}
