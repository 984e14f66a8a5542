//! The hub: one sender, many subscribers, bounded; who falls too far behind is told so by the
//! channel and starts over.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use maia_common::ids::{ProxyId, RegionName};
use maia_common::limits;
use maia_common::position::Revision;
use maia_common::wire::feed as wire;
use maia_common::wire::record::MetaChange;
use tokio::sync::broadcast;

/// What subscribers get.
#[derive(Debug, Clone)]
pub enum Push {
    /// A delta, in order.
    Delta(Arc<wire::Delta>),
    /// A leader hint.
    Hint(Arc<wire::Hint>),
    /// The order was broken: everyone starts over.
    Restart,
}

/// A proxy on this coordinator's feed.
#[derive(Debug, Clone)]
pub struct Subscriber {
    /// Its stable id.
    pub id: ProxyId,
    /// Its region.
    pub region: RegionName,
    /// The last revision that it said is in force there.
    pub applied: Revision,
    /// When it last said anything.
    pub last_seen: Instant,
}

/// Distributes changes.
#[derive(Debug)]
pub struct Hub {
    pushes: broadcast::Sender<Push>,
    revision: AtomicU64,
    subscribers: Mutex<BTreeMap<u64, Subscriber>>,
    next: AtomicU64,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            pushes: broadcast::Sender::new(limits::FEED_BACKLOG_DELTAS),
            revision: AtomicU64::new(0),
            subscribers: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }
}

impl Hub {
    /// Hands the change to all subscribers. Called in the order of revisions.
    pub fn delta(&self, from: Revision, change: &MetaChange, changes: wire::Changes) {
        self.revision.store(change.revision, Ordering::Release);
        let delta = wire::Delta {
            from_revision: from.get(),
            revision: change.revision,
            committed_unix_us: change.proposed_unix_us,
            changes: Some(changes),
        };
        // Without subscribers there is nobody to tell.
        drop(self.pushes.send(Push::Delta(Arc::new(delta))));
    }

    /// Hands the hint to all subscribers.
    pub fn hint(&self, hint: wire::Hint) {
        drop(self.pushes.send(Push::Hint(Arc::new(hint))));
    }

    /// Makes all subscribers start over: the next delta does not follow the last one.
    pub fn restart(&self, revision: Revision) {
        self.revision.store(revision.get(), Ordering::Release);
        drop(self.pushes.send(Push::Restart));
    }

    /// The newest revision that was handed out.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision::new(self.revision.load(Ordering::Acquire))
    }

    /// What is handed out from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Push> {
        self.pushes.subscribe()
    }

    /// The proxies on this feed now.
    #[must_use]
    pub fn subscribers(&self) -> Vec<Subscriber> {
        self.lock().values().cloned().collect()
    }

    /// Lists a proxy until the returned guard is dropped; none when there are too many.
    #[must_use]
    pub(super) fn enter(self: &Arc<Self>, subscriber: Subscriber) -> Option<Seat> {
        let mut subscribers = self.lock();
        if subscribers.len() >= limits::MAX_FEED_SUBSCRIBERS {
            return None;
        }
        let seat = self.next.fetch_add(1, Ordering::Relaxed);
        subscribers.insert(seat, subscriber);
        Some(Seat {
            hub: Arc::clone(self),
            seat,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Subscriber>> {
        self.subscribers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A proxy's place on the list.
pub(super) struct Seat {
    hub: Arc<Hub>,
    seat: u64,
}

impl Seat {
    /// The proxy said that this revision is in force.
    pub(super) fn applied(&self, revision: Revision) {
        if let Some(subscriber) = self.hub.lock().get_mut(&self.seat) {
            subscriber.applied = revision.max(subscriber.applied);
            subscriber.last_seen = Instant::now();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.lock().remove(&self.seat);
    }
}
