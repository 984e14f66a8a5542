//! How an engine ends: in order, or as a power cut would end it. Afterwards nothing of the engine
//! runs any more, so its databases are closed when its owner drops it, not while the process exits.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

#[cfg(test)]
use rocksdb::DB;

use super::engine::Engine;
use super::runtimes::Runtimes;

/// How long the engine's runtimes may take to end, each.
const RUNTIME_STOP: Duration = Duration::from_secs(5);

/// The same where nobody asked for the end in order.
const DROP_PATIENCE: Duration = Duration::from_secs(2);

impl Engine {
    /// Ends all groups, tasks and threads, and makes everything durable. Returns what did not end
    /// by the deadline.
    pub async fn shutdown(&self, deadline: Duration) -> Vec<&'static str> {
        let groups: Vec<_> = self
            .groups
            .ids()
            .into_iter()
            .filter_map(|id| self.groups.running(id))
            .collect();
        let ends = futures::future::join_all(groups.iter().map(|group| group.end()));
        let mut late = Vec::new();
        if tokio::time::timeout(deadline, ends).await.is_err() {
            late.push("raft");
        }
        for id in self.groups.ids() {
            self.groups.remove(id);
        }
        drop(groups);
        late.extend(self.tasks.shutdown(deadline).await);
        let flusher = Arc::clone(&self.flusher);
        let synced = tokio::task::spawn_blocking(move || flusher.drain_and_join()).await;
        if synced.is_err() || self.state.sync().await.is_err() {
            tracing::error!("state could not be synced at shutdown; it is rebuilt from the log");
        }
        let runtimes = self.take_runtimes();
        let ended = tokio::task::spawn_blocking(|| {
            if let Some(runtimes) = runtimes {
                runtimes.end(RUNTIME_STOP);
            }
        });
        if ended.await.is_err() {
            late.push("raft-runtimes");
        }
        late
    }

    /// Stops as a power cut would: what the flusher has not written is lost. For tests of crashes.
    /// Blocks.
    pub fn crash(&self) {
        self.flusher.abort();
        self.tasks.stop().cancel();
        self.take_runtimes()
            .into_iter()
            .for_each(|r| r.end(RUNTIME_STOP));
        for id in self.groups.ids() {
            self.groups.remove(id);
        }
        self.raft_db.cancel_all_background_work(true);
        self.state.db.cancel_all_background_work(true);
    }

    /// The databases, to see whether anything still holds them.
    #[cfg(test)]
    pub(crate) fn databases(&self) -> [std::sync::Weak<DB>; 2] {
        [&self.raft_db, &self.state.db].map(Arc::downgrade)
    }

    fn take_runtimes(&self) -> Option<Runtimes> {
        self.runtimes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // An engine that was not shut down, as after an error at the start. A thread of its own waits,
        // since this one may be a runtime's; without the wait a database could be closed by a thread
        // that outlives `main`, which aborts the process.
        let Some(runtimes) = self.take_runtimes() else {
            return;
        };
        let flusher = Arc::clone(&self.flusher);
        let ended = std::thread::spawn(move || {
            flusher.drain_and_join();
            runtimes.end(DROP_PATIENCE);
        });
        if ended.join().is_err() {
            tracing::error!("the engine's threads could not be ended");
        }
    }
}
