//! Saves what is in force to disk: soon after the first snapshot of the feed, then now and then
//! where something changed, and at the end. Off the threads that serve, and off the feed's task: a
//! view never changes, so it is written while others follow it.
//!
//! A save is never cancelled: its thread would go on writing while the next one begins, and the
//! older of the two could end last. Only the waits between saves end at a stop.

use std::sync::Arc;
use std::time::Duration;

use maia_common::runtime::Tasks;
use maia_common::{Generation, Revision};

use crate::shell::disk_snapshot::DiskSnapshot;
use crate::shell::metrics::Metrics;
use crate::shell::placements::Placements;

/// See the module.
pub struct Saver {
    placements: Arc<Placements>,
    metrics: Arc<Metrics>,
    disk: DiskSnapshot,
    every: Duration,
    /// What is on disk.
    saved: Option<(Generation, Revision)>,
}

impl Saver {
    /// What is known now is what was loaded from disk, if anything.
    #[must_use]
    pub fn new(
        placements: Arc<Placements>,
        metrics: Arc<Metrics>,
        disk: DiskSnapshot,
        every: Duration,
    ) -> Self {
        let saved = placements.known().map(|t| (t.generation, t.revision));
        Self {
            placements,
            metrics,
            disk,
            every,
            saved,
        }
    }

    /// Saves until the owner stops, and once more then.
    pub async fn run(mut self, owner: Tasks) {
        let stop = owner.stop().clone();
        let mut changes = self.placements.changes();
        let first = async {
            while self.placements.topology().is_none() {
                let _changed = changes.changed().await;
            }
        };
        let mut goes_on = stop.run_until_cancelled(first).await.is_some();
        while goes_on {
            self.save().await;
            let jitter = 0.9 + fastrand::f64() / 5.0; // many proxies may share a disk
            let pause = tokio::time::sleep(self.every.mul_f64(jitter));
            goes_on = stop.run_until_cancelled(pause).await.is_some();
        }
        self.save().await;
    }

    /// Saves what is in force, unless it is on disk already.
    async fn save(&mut self) {
        let view = self.placements.view();
        let Some(topology) = view.topology.clone() else {
            return;
        };
        let at = (topology.generation, topology.revision);
        if self.saved == Some(at) {
            return;
        }
        let (disk, key) = (self.disk.clone(), self.placements.key().clone());
        let write = move || disk.save(&key, &topology, &view.table);
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(when)) => {
                self.saved = Some(at);
                self.placements.was_saved(when);
                tracing::debug!(generation = %at.0, revision = %at.1, "placements saved to disk");
            }
            Ok(Err(error)) => {
                self.metrics.snapshot_errors.inc();
                tracing::warn!(%error, "the placements can't be saved to disk");
            }
            Err(error) => tracing::error!(%error, "saving the placements panicked"),
        }
    }
}

#[cfg(test)]
#[path = "saver_tests.rs"]
mod tests;
