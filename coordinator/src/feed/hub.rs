//! The hub: takes changes in the order of revisions, encodes each once, and hands the bytes to all
//! streams through one bounded ring; a stream that falls off the ring is told so by the channel.
//!
//! Revisions without anything for proxies (events, registrations) are not pushed one by one: the
//! next delta covers them, or the pulse does within a second.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use maia_common::ids::{ProxyId, RegionName};
use maia_common::limits;
use maia_common::position::{Revision, Version};
use maia_common::wire::feed as wire;
use maia_common::wire::feed::down::Kind;
use maia_common::wire::record::MetaChange;
use tokio::sync::broadcast;

use super::drained::Drainable;
use super::message::ready;
use super::seats::{Seat, Seated, Seats, Subscriber};
use super::stats::{CutOff, Stats};
use crate::core::feed;
use crate::shell::clock::unix_us;

/// What streams get. Cheap to clone: all share the bytes.
#[derive(Debug, Clone)]
pub enum Push {
    /// Everything after `from` up to `revision`.
    Delta {
        /// The revision of the delta before it.
        from: Revision,
        /// What its proxy is at afterwards.
        revision: Revision,
        /// The message.
        message: Bytes,
    },
    /// A message without a place in the order: a leader hint, a sign of life.
    Aside(Bytes),
    /// The order was broken: read the history.
    Restart,
}

/// How far changes have come.
#[derive(Debug, Default)]
struct Order {
    /// The newest revision that was taken.
    reached: Revision,
    /// The revision of the last delta that was pushed.
    pushed: Revision,
    /// When the newest change was proposed.
    committed_unix_us: u64,
}

/// Distributes changes.
#[derive(Debug)]
pub struct Hub {
    pushes: broadcast::Sender<Push>,
    order: Mutex<Order>,
    seats: Arc<Seats>,
    leaderless: AtomicBool,
    stats: Stats,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            pushes: broadcast::Sender::new(limits::FEED_BACKLOG_DELTAS),
            order: Mutex::default(),
            seats: Arc::default(),
            leaderless: AtomicBool::new(false),
            stats: Stats::default(),
        }
    }
}

impl Hub {
    fn order(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the change to all streams. Called in the order of revisions.
    pub fn delta(&self, change: &MetaChange, changes: wire::Changes) {
        let mut order = self.order();
        order.reached = Revision::new(change.revision);
        order.committed_unix_us = change.proposed_unix_us;
        if feed::is_empty(&changes) {
            return;
        }
        self.push_delta(&mut order, changes);
        let after_us = unix_us().saturating_sub(change.proposed_unix_us);
        self.stats.pushed(Duration::from_micros(after_us));
    }

    /// Under the lock of the order, so that the ring has deltas in their order.
    fn push_delta(&self, order: &mut Order, changes: wire::Changes) {
        let (from, revision) = (order.pushed, order.reached);
        order.pushed = revision;
        let message = ready(Kind::Delta(wire::Delta {
            from_revision: from.get(),
            revision: revision.get(),
            committed_unix_us: order.committed_unix_us,
            changes: Some(changes),
        }));
        self.push(Push::Delta {
            from,
            revision,
            message,
        });
    }

    fn push(&self, push: Push) {
        // Without streams there is nobody to tell.
        drop(self.pushes.send(push));
    }

    /// Hands the hint to all streams.
    pub fn hint(&self, hint: wire::Hint) {
        self.push(Push::Aside(ready(Kind::Hint(hint))));
    }

    /// The next delta does not follow the last one: all streams read the history.
    pub fn restart(&self, revision: Revision) {
        let mut order = self.order();
        (order.reached, order.pushed) = (revision, revision);
        self.push(Push::Restart);
    }

    /// A sign of life for all streams, and the revisions that had nothing for them.
    pub fn pulse(&self, leaderless: bool) {
        self.leaderless.store(leaderless, Ordering::Relaxed);
        let mut order = self.order();
        if order.pushed < order.reached {
            self.push_delta(&mut order, wire::Changes::default());
        }
        let revision = order.reached.get();
        self.push(Push::Aside(ready(Kind::Alive(wire::Alive {
            revision,
            leaderless,
        }))));
    }

    /// Whether no leader of the metastore was heard at the last pulse.
    #[must_use]
    pub fn is_leaderless(&self) -> bool {
        self.leaderless.load(Ordering::Relaxed)
    }

    /// What is handed out from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Push> {
        self.pushes.subscribe()
    }

    #[cfg(test)]
    pub(super) fn listeners(&self) -> usize {
        self.pushes.receiver_count()
    }

    /// The proxies on this feed now.
    #[must_use]
    pub fn subscribers(&self) -> Vec<Subscriber> {
        self.seats.shown(Instant::now())
    }

    /// How many proxies are on this feed now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.seats.count()
    }

    /// Proxies of the region on this feed that have drained it at this version or a later one. A
    /// barrier unites the answers of all coordinators and compares them with the registered proxies
    /// of the region; a proxy that came back says again what it has drained.
    #[must_use]
    pub fn drained(&self, region: &RegionName, what: &Drainable, version: Version) -> Vec<ProxyId> {
        self.seats.drained(region, what, version)
    }

    /// A registration was removed: if its proxy is here, it registers anew.
    pub fn unregistered(&self, id: &ProxyId) {
        if let Some(seat) = self.seats.get(id) {
            seat.cut(CutOff::Removed);
        }
    }

    /// All registrations, read anew: proxies here that have none register anew.
    pub fn registered(&self, ids: &BTreeSet<ProxyId>) {
        for seat in self.seats.all() {
            if !ids.contains(seat.id()) {
                seat.cut(CutOff::Removed);
            }
        }
    }

    /// What the feed counts.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Seats a proxy; none when all seats are taken.
    pub(crate) fn enter(&self, id: ProxyId, region: RegionName) -> Option<Seated> {
        let seat = Seat::new(id, region, self.is_leaderless(), Instant::now());
        self.seats.take(seat)
    }

    pub(super) fn seats(&self) -> Vec<Arc<Seat>> {
        self.seats.all()
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::parse;
    use super::*;

    fn change(revision: u64) -> MetaChange {
        MetaChange {
            revision,
            proposed_unix_us: revision * 10,
            ..MetaChange::default()
        }
    }

    fn of(push: Push) -> Kind {
        match push {
            Push::Delta { message, .. } | Push::Aside(message) => parse(&message),
            Push::Restart => panic!("a restart"),
        }
    }

    #[test]
    fn all_get_the_same_bytes_and_empty_revisions_wait_for_the_next_delta_or_pulse() {
        let hub = Hub::default();
        hub.restart(Revision::new(4));
        let (mut one, mut two) = (hub.subscribe(), hub.subscribe());
        hub.delta(&change(5), wire::Changes::default());
        hub.delta(
            &change(6),
            wire::Changes {
                removed_tenants: vec!["t".into()],
                ..wire::Changes::default()
            },
        );
        hub.delta(&change(7), wire::Changes::default());
        hub.pulse(true);
        let Push::Delta { message, .. } = one.try_recv().unwrap() else {
            panic!("a delta")
        };
        let Push::Delta { message: same, .. } = two.try_recv().unwrap() else {
            panic!("a delta")
        };
        assert_eq!(message.as_ptr(), same.as_ptr(), "shared, not copied");
        let Kind::Delta(delta) = parse(&message) else {
            panic!("a delta")
        };
        assert_eq!((delta.from_revision, delta.revision), (4, 6));
        assert_eq!(delta.committed_unix_us, 60);
        let Kind::Delta(flushed) = of(one.try_recv().unwrap()) else {
            panic!("a delta")
        };
        assert_eq!((flushed.from_revision, flushed.revision), (6, 7));
        let Kind::Alive(alive) = of(one.try_recv().unwrap()) else {
            panic!("alive")
        };
        assert_eq!((alive.revision, alive.leaderless), (7, true));
        assert!(hub.is_leaderless());
    }
}
