//! Who is on this coordinator's feed: one seat for each proxy id, what its proxy acknowledged, and
//! by when it must acknowledge more. A newer stream takes the seat of an older one under the same
//! id, which is then cut off.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use maia_common::ids::{ProxyId, RegionName};
use maia_common::limits;
use maia_common::position::{Revision, Version};
use tokio_util::sync::CancellationToken;

use super::drained::{Drainable, Drained};
use super::stats::CutOff;

/// A proxy on this coordinator's feed, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscriber {
    /// Its stable id.
    pub id: ProxyId,
    /// Its region.
    pub region: RegionName,
    /// The last revision that it said is in force there.
    pub applied: Revision,
    /// How long ago it last said anything.
    pub last_seen: Duration,
}

/// What was sent to a proxy and what it said of it.
#[derive(Debug)]
struct Acks {
    applied: Revision,
    sent: Revision,
    /// The revision of the last snapshot that was sent.
    snapshot: Revision,
    /// By when more must be acknowledged; none: nothing is open.
    due: Option<Instant>,
    last_seen: Instant,
    drained: Drained,
}

/// One proxy's seat.
#[derive(Debug)]
pub(crate) struct Seat {
    id: ProxyId,
    region: RegionName,
    acks: Mutex<Acks>,
    cut: CancellationToken,
    reason: OnceLock<CutOff>,
    since: Instant,
    /// It came while no leader of the metastore was heard here.
    came_leaderless: AtomicBool,
}

impl Seat {
    pub(super) fn new(id: ProxyId, region: RegionName, leaderless: bool, now: Instant) -> Self {
        Self {
            id,
            region,
            acks: Mutex::new(Acks {
                applied: Revision::default(),
                sent: Revision::default(),
                snapshot: Revision::default(),
                due: None,
                last_seen: now,
                drained: Drained::default(),
            }),
            cut: CancellationToken::new(),
            reason: OnceLock::new(),
            since: now,
            came_leaderless: AtomicBool::new(leaderless),
        }
    }

    pub(super) fn id(&self) -> &ProxyId {
        &self.id
    }

    fn acks(&self) -> MutexGuard<'_, Acks> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes up to this revision are on their way.
    pub(super) fn sent(&self, revision: Revision, now: Instant) {
        let mut acks = self.acks();
        acks.sent = revision.max(acks.sent);
        acks.due.get_or_insert(now + limits::FEED_PATIENCE);
    }

    /// A whole snapshot of this revision is on its way.
    pub(super) fn sent_snapshot(&self, revision: Revision, now: Instant) {
        let mut acks = self.acks();
        acks.sent = revision.max(acks.sent);
        acks.snapshot = revision.max(acks.snapshot);
        acks.due = Some(now + limits::FEED_SNAPSHOT_PATIENCE);
    }

    /// The proxy said that this revision is in force.
    pub(super) fn applied(&self, revision: Revision, now: Instant) {
        let mut acks = self.acks();
        acks.last_seen = now;
        let all = revision >= acks.sent;
        if revision < acks.applied || (revision == acks.applied && !all) {
            return;
        }
        acks.applied = revision;
        acks.due = if all {
            None
        } else if revision < acks.snapshot {
            Some(now + limits::FEED_SNAPSHOT_PATIENCE)
        } else {
            Some(now + limits::FEED_PATIENCE)
        };
    }

    /// The proxy said what is drained.
    pub(super) fn drained(&self, what: Drainable, version: Version, now: Instant) {
        let mut acks = self.acks();
        acks.last_seen = now;
        acks.drained.note(what, version);
    }

    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.acks().due.is_some_and(|due| now >= due)
    }

    /// How long it has been here, if it came while no leader was heard and none was heard since.
    pub(super) fn leaderless_for(&self, now: Instant) -> Option<Duration> {
        let came_leaderless = self.came_leaderless.load(Ordering::Relaxed);
        came_leaderless.then(|| now.saturating_duration_since(self.since))
    }

    /// A leader is heard: the next loss is a new one.
    pub(super) fn heard_leader(&self) {
        self.came_leaderless.store(false, Ordering::Relaxed);
    }

    /// Ends the stream; the first reason counts.
    pub(super) fn cut(&self, reason: CutOff) {
        let _first_counts = self.reason.set(reason);
        self.cut.cancel();
    }

    /// Returns when the stream must end.
    pub(crate) async fn cut_off(&self) -> CutOff {
        self.cut.cancelled().await;
        self.reason.get().copied().unwrap_or(CutOff::Replaced)
    }

    fn shown(&self, now: Instant) -> Subscriber {
        let acks = self.acks();
        Subscriber {
            id: self.id.clone(),
            region: self.region.clone(),
            applied: acks.applied,
            last_seen: now.saturating_duration_since(acks.last_seen),
        }
    }
}

/// All seats.
#[derive(Debug, Default)]
pub(super) struct Seats(Mutex<BTreeMap<ProxyId, Arc<Seat>>>);

impl Seats {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ProxyId, Arc<Seat>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seats the proxy, in place of an older stream under its id; none when all seats are taken.
    pub(super) fn take(self: &Arc<Self>, seat: Seat) -> Option<Seated> {
        let mut seats = self.lock();
        if seats.len() >= limits::MAX_FEED_SUBSCRIBERS && !seats.contains_key(&seat.id) {
            return None;
        }
        let seat = Arc::new(seat);
        if let Some(older) = seats.insert(seat.id.clone(), Arc::clone(&seat)) {
            older.cut(CutOff::Replaced);
        }
        let seats = Arc::clone(self);
        Some(Seated { seats, seat })
    }

    pub(super) fn all(&self) -> Vec<Arc<Seat>> {
        self.lock().values().cloned().collect()
    }

    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn get(&self, id: &ProxyId) -> Option<Arc<Seat>> {
        self.lock().get(id).cloned()
    }

    pub(super) fn shown(&self, now: Instant) -> Vec<Subscriber> {
        self.lock().values().map(|seat| seat.shown(now)).collect()
    }

    /// Proxies of the region that have drained it at this version or a later one.
    pub(super) fn drained(
        &self,
        region: &RegionName,
        what: &Drainable,
        version: Version,
    ) -> Vec<ProxyId> {
        let seats = self.lock();
        let there = seats.values().filter(|seat| seat.region == *region);
        let drained = there.filter(|seat| seat.acks().drained.has(what, version));
        drained.map(|seat| seat.id.clone()).collect()
    }
}

/// A taken seat; free again when this is dropped, unless a newer stream has it.
#[derive(Debug)]
pub(crate) struct Seated {
    seats: Arc<Seats>,
    seat: Arc<Seat>,
}

impl Seated {
    pub(crate) fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        let mut seats = self.seats.lock();
        if let Some(known) = seats.get(&self.seat.id)
            && Arc::ptr_eq(known, &self.seat)
        {
            seats.remove(&self.seat.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use maia_common::ids::TenantId;

    use super::*;

    fn seat(id: &str, now: Instant) -> Seat {
        let region = RegionName::new("a").unwrap();
        Seat::new(ProxyId::new(id).unwrap(), region, false, now)
    }

    #[test]
    fn the_newer_stream_of_an_id_takes_the_seat_of_the_older() {
        let (seats, now) = (Arc::<Seats>::default(), Instant::now());
        let older = seats.take(seat("p", now)).unwrap();
        let newer = seats.take(seat("p", now)).unwrap();
        assert_eq!(older.seat.reason.get(), Some(&CutOff::Replaced));
        assert!(older.seat.cut.is_cancelled() && !newer.seat.cut.is_cancelled());
        drop(older);
        assert_eq!(seats.count(), 1, "the newer keeps its seat");
        drop(newer);
        assert_eq!(seats.count(), 0);
    }

    #[test]
    fn who_acknowledges_nothing_is_overdue_and_progress_gives_more_time() {
        let now = Instant::now();
        let seat = seat("p", now);
        let late = now + limits::FEED_PATIENCE;
        assert!(!seat.is_overdue(late), "nothing was sent");
        seat.sent(Revision::new(5), now);
        seat.sent(Revision::new(6), late);
        assert!(seat.is_overdue(late), "counted from the first that is open");
        seat.applied(Revision::new(5), late);
        assert!(!seat.is_overdue(late));
        assert!(seat.is_overdue(late + limits::FEED_PATIENCE));
        seat.applied(Revision::new(6), late);
        assert!(!seat.is_overdue(late + limits::FEED_PATIENCE * 9));
        seat.sent_snapshot(Revision::new(9), late);
        seat.applied(Revision::new(7), late);
        assert!(!seat.is_overdue(late + limits::FEED_PATIENCE));
        assert!(seat.is_overdue(late + limits::FEED_SNAPSHOT_PATIENCE));
    }

    #[test]
    fn a_snapshot_of_what_is_in_force_is_acknowledged_by_saying_so_again() {
        let now = Instant::now();
        let seat = seat("p", now);
        seat.applied(Revision::new(9), now);
        seat.sent_snapshot(Revision::new(9), now);
        let late = now + limits::FEED_SNAPSHOT_PATIENCE;
        assert!(seat.is_overdue(late));
        seat.applied(Revision::new(9), now);
        assert!(!seat.is_overdue(late));
        seat.sent(Revision::new(10), now);
        seat.applied(Revision::new(9), late);
        assert!(seat.is_overdue(late), "it says nothing new");
    }

    #[test]
    fn who_has_drained_is_known_by_region_and_version() {
        let (seats, now) = (Arc::<Seats>::default(), Instant::now());
        let (one, _two) = (
            seats.take(seat("p1", now)).unwrap(),
            seats.take(seat("p2", now)).unwrap(),
        );
        let what = Drainable::Tenant(TenantId::new("t").unwrap());
        one.seat.drained(what.clone(), Version::new(3), now);
        let here = RegionName::new("a").unwrap();
        let ids = seats.drained(&here, &what, Version::new(3));
        assert_eq!(ids, [ProxyId::new("p1").unwrap()]);
        assert!(seats.drained(&here, &what, Version::new(4)).is_empty());
        let elsewhere = RegionName::new("b").unwrap();
        assert!(seats.drained(&elsewhere, &what, Version::new(3)).is_empty());
    }
}
