//! The owner of a component's tasks: names them, lists them, tells them to stop, and says who did
//! not. The only place in the workspace that calls `tokio::spawn`.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Cheap to clone: all clones own the same tasks.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    names: Arc<Mutex<Names>>,
}

#[derive(Debug, Default)]
struct Names {
    next: u64,
    running: BTreeMap<u64, &'static str>,
}

/// Takes the task off the list however it ends; a panic is an ERROR in the log.
struct Listed {
    names: Arc<Mutex<Names>>,
    id: u64,
    name: &'static str,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.running.remove(&self.id);
        if std::thread::panicking() {
            tracing::error!(task = self.name, "a task panicked");
        }
    }
}

impl Tasks {
    /// An owner without tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What tells the tasks to stop: each awaits `cancelled()` beside its work.
    #[must_use]
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Starts a task. It runs until it ends by itself; it must watch [`Tasks::stop`].
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let listed = self.list(name);
        drop(self.tracker.spawn(async move {
            let _listed = listed;
            task.await;
        }));
    }

    /// Starts a task on another runtime; else as [`Tasks::spawn`].
    pub fn spawn_on(
        &self,
        runtime: &Handle,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let listed = self.list(name);
        let task = async move {
            let _listed = listed;
            task.await;
        };
        drop(self.tracker.spawn_on(task, runtime));
    }

    /// Starts a task that is dropped at its next await when the owner stops.
    pub fn spawn_until_stop(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let stop = self.stop.clone();
        self.spawn(name, async move {
            let _ended = stop.run_until_cancelled(task).await;
        });
    }

    /// As [`Tasks::spawn_until_stop`], on another runtime.
    pub fn spawn_until_stop_on(
        &self,
        runtime: &Handle,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let stop = self.stop.clone();
        self.spawn_on(runtime, name, async move {
            let _ended = stop.run_until_cancelled(task).await;
        });
    }

    /// The names of the tasks that run now.
    #[must_use]
    pub fn running(&self) -> Vec<&'static str> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.running.values().copied().collect()
    }

    /// Tells all tasks to stop and waits for them; returns who was still running at the deadline.
    pub async fn shutdown(&self, deadline: Duration) -> Vec<&'static str> {
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(deadline, self.tracker.wait())
            .await
            .is_ok()
        {
            return Vec::new();
        }
        self.running()
    }

    fn list(&self, name: &'static str) -> Listed {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let id = names.next;
        names.next += 1;
        names.running.insert(id, name);
        Listed {
            names: Arc::clone(&self.names),
            id,
            name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shutdown_names_who_does_not_stop() {
        let tasks = Tasks::new();
        tasks.spawn_until_stop("good", std::future::pending());
        tasks.spawn("deaf", std::future::pending());
        assert_eq!(tasks.running(), ["good", "deaf"]);
        assert_eq!(tasks.shutdown(Duration::from_millis(50)).await, ["deaf"]);
    }
}
