//! The owner of the stretches of the history by which subscribers catch up: each is read and encoded
//! once, by one stream for all that stand at its beginning, and the last few are kept. A fleet that
//! was cut off at one revision asks for the same ones; those who were not meet at the next revision
//! at which stretches end.
//!
//! A read belongs to the thread that does it: it counts until it has ended, whoever still waits for
//! it. Invariants: I12 (reads at once, stretches that are kept).

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use maia_common::limits;
use maia_common::position::Revision;
use tokio::sync::{Notify, Semaphore};
use tonic::Status;

use super::catch_up::{self, Next};
use crate::metastore::Metastore;
use crate::shell::cluster::Cluster;

struct Kept {
    from: Revision,
    next: Next,
    used: Instant,
}

#[derive(Default)]
struct State {
    /// The one that was used last is at the back.
    kept: VecDeque<Kept>,
    /// Where reads begin that are under way.
    reading: BTreeSet<Revision>,
}

/// What a look brings.
enum Found {
    Kept(Next),
    /// It is for this stream to read.
    Turn(Turn),
    /// Somebody reads it.
    Wait,
}

/// Stretches of one metastore's history.
pub(super) struct Stretches {
    store: Arc<dyn Metastore>,
    cluster: Cluster,
    pub(super) reads: Arc<Semaphore>,
    state: Mutex<State>,
    /// Wakes whoever waits for a read that ended.
    ended: Notify,
}

impl Stretches {
    pub(super) fn new(store: Arc<dyn Metastore>, cluster: Cluster) -> Self {
        Self {
            store,
            cluster,
            reads: Arc::new(Semaphore::new(limits::MAX_FEED_READS)),
            state: Mutex::default(),
            ended: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What follows the revision. [`Next::Current`] is never of a time before this call.
    ///
    /// # Errors
    /// `internal` when the history can't be read.
    pub(super) async fn after(self: &Arc<Self>, from: Revision) -> Result<Next, Status> {
        let turn = loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // Before the look: a read may end between the two.
            ended.as_mut().enable();
            match self.look(from) {
                Found::Kept(next) => return Ok(next),
                Found::Turn(turn) => break turn,
                Found::Wait => ended.await,
            }
        };
        let stopping = || Status::unavailable("the coordinator is stopping");
        let permit = Arc::clone(&self.reads).acquire_owned().await;
        let permit = permit.map_err(|_| stopping())?;
        let read = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let all = &*turn.all;
            let next = catch_up::next(&*all.store, &all.cluster.state(), from)?;
            all.keep(from, &next);
            Ok::<_, crate::raft::StateError>(next)
        });
        match read.await {
            Ok(Ok(next)) => Ok(next),
            Ok(Err(error)) => Err(Status::internal(error.to_string())),
            Err(_) => Err(stopping()),
        }
    }

    fn look(self: &Arc<Self>, from: Revision) -> Found {
        let mut state = self.state();
        let known = state.kept.iter().position(|kept| kept.from == from);
        if let Some(mut kept) = known.and_then(|at| state.kept.remove(at)) {
            kept.used = Instant::now();
            let next = kept.next.clone();
            state.kept.push_back(kept);
            return Found::Kept(next);
        }
        if !state.reading.insert(from) {
            return Found::Wait;
        }
        let all = Arc::clone(self);
        Found::Turn(Turn { all, from })
    }

    fn keep(&self, from: Revision, next: &Next) {
        if matches!(next, Next::Current) {
            return;
        }
        let mut state = self.state();
        if state.kept.len() >= limits::FEED_KEPT_STRETCHES {
            state.kept.pop_front();
        }
        state.kept.push_back(Kept {
            from,
            next: next.clone(),
            used: Instant::now(),
        });
    }

    /// Drops those that nobody has asked for lately.
    pub(super) fn expire(&self, now: Instant) {
        let fresh = |kept: &Kept| {
            let idle = now.saturating_duration_since(kept.used);
            idle < limits::FEED_IMAGE_IDLE
        };
        self.state().kept.retain(fresh);
    }
}

/// The right to read what begins at a revision; whoever waits for it looks again when this is dropped.
struct Turn {
    all: Arc<Stretches>,
    from: Revision,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.all.state().reading.remove(&self.from);
        self.all.ended.notify_waiters();
    }
}
