//! One proxy's stream: brings it to the newest revision, then hands on what the hub pushes; takes
//! its acknowledgements; ends when the proxy goes or must be cut off.
//!
//! ```text
//!   catching up ── history, or an image and then the history ──▶ live ── ring ──▶ proxy
//!        ▲                                                        │
//!        └───────────── fell off the ring, or its order broke ────┘
//! ```
//! The ring is joined once the proxy is almost at the newest revision, and the state is read again
//! after that, so no change falls between the two; deltas that the proxy has already are left out. So
//! a slow link that loads a large snapshot does not hold the ring's deltas in memory: the history has
//! what comes meanwhile. Invariants: I4 (revisions of a stream only grow), I12 (the outbox; each wait
//! for room in it; the time for a snapshot; two stretches that the proxy has not taken).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use maia_common::ids::{GroupId, TenantId};
use maia_common::limits;
use maia_common::position::{Revision, Version};
use maia_common::wire::feed as wire;
use maia_common::wire::feed::down::Kind;
use maia_common::wire::feed::{drained, up};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use super::catch_up::Next;
use super::drained::Drainable;
use super::hub::{Hub, Push};
use super::image::Contents;
use super::images::Images;
use super::message::ready;
use super::seats::{Seat, Seated};
use super::stats::CutOff;
use super::stretches::Stretches;
use crate::core::feed;
use crate::metastore::Metastore;
use crate::shell::cluster::Cluster;

/// How often a stream that waits for what it is to send says that it lives: a proxy leaves after 3 s.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// What all streams share.
pub(super) struct Shared {
    pub(super) hub: Arc<Hub>,
    pub(super) store: Arc<dyn Metastore>,
    pub(super) cluster: Cluster,
    pub(super) everything: Arc<Images>,
    pub(super) topology: Arc<Images>,
    pub(super) stretches: Arc<Stretches>,
}

impl Shared {
    /// What all streams of one coordinator share.
    pub(super) fn new(hub: Arc<Hub>, store: Arc<dyn Metastore>, cluster: Cluster) -> Self {
        let images = |contents| {
            let (store, hub) = (Arc::clone(&store), Arc::clone(&hub));
            Arc::new(Images::new(store, cluster.clone(), hub, contents))
        };
        let (everything, topology) = (images(Contents::Everything), images(Contents::Topology));
        let stretches = Stretches::new(Arc::clone(&store), cluster.clone());
        Self {
            hub,
            store,
            cluster,
            everything,
            topology,
            stretches: Arc::new(stretches),
        }
    }

    /// Drops what no stream has asked for lately.
    pub(super) fn expire(&self, now: Instant) {
        self.everything.expire(now);
        self.topology.expire(now);
        self.stretches.expire(now);
    }
}

/// Why a stream ends.
#[derive(Debug)]
pub(super) enum End {
    /// The proxy went.
    Gone,
    /// It must go.
    CutOff(CutOff),
    /// It can't be served.
    Failed(Status),
}

/// One stream.
pub(super) struct ProxyStream {
    pub(super) shared: Arc<Shared>,
    pub(super) seated: Seated,
    pub(super) outbox: mpsc::Sender<Bytes>,
    pub(super) images: Arc<Images>,
    /// No snapshot is older: the proxy's registration, or what it has.
    pub(super) floor: Revision,
}

impl ProxyStream {
    /// Serves a proxy that is at `last`; none: it has nothing.
    pub(super) async fn run(
        mut self,
        ups: impl Stream<Item = Result<wire::Up, Status>> + Unpin,
        last: Option<Revision>,
    ) -> End {
        let seat = Arc::clone(self.seated.seat());
        tokio::select! {
            reason = seat.cut_off() => End::CutOff(reason),
            () = listen(&seat, ups) => End::Gone,
            end = self.follow(last) => match end {
                Err(end) => end,
                Ok(never) => match never {},
            },
        }
    }

    async fn follow(&mut self, last: Option<Revision>) -> Result<Infallible, End> {
        let mut at = last;
        loop {
            let reached = self.catch_up(at).await?;
            let mut pushes = self.shared.hub.subscribe();
            let newest = self.catch_up(Some(reached)).await?;
            self.say_hints().await?;
            at = Some(self.hand_on(&mut pushes, newest).await?);
        }
    }

    async fn catch_up(&mut self, at: Option<Revision>) -> Result<Revision, End> {
        let (mut at, mut imaged, mut tenants) = (at, false, 0);
        loop {
            let max_behind = if imaged {
                u64::MAX
            } else {
                limits::FEED_CATCH_UP_REVISIONS
            };
            let next = match at {
                Some(from) => self.next(from, max_behind).await?,
                None => Next::Gone,
            };
            match (next, at) {
                (Next::Current, Some(at)) => {
                    if tenants > 0 {
                        self.shared.hub.stats().caught_up();
                    }
                    return Ok(at);
                }
                (Next::Stretch(stretch), _)
                    if imaged || tenants < limits::FEED_CATCH_UP_TENANTS =>
                {
                    tenants += stretch.tenants;
                    self.send(stretch.message.clone()).await?;
                    self.seat().sent(stretch.revision, Instant::now());
                    at = Some(stretch.revision);
                }
                _ if imaged => return Err(End::CutOff(CutOff::History)),
                _ => {
                    at = Some(self.send_image(at.unwrap_or_default()).await?);
                    imaged = true;
                }
            }
        }
    }

    /// What follows `from`, once the proxy has taken all but one of its messages.
    async fn next(&self, from: Revision, max_behind: u64) -> Result<Next, End> {
        let visible = *self.shared.store.revisions().borrow();
        // What was pushed before the ring was joined is in the picture, if not told of yet.
        let newest = visible.max(self.shared.cluster.state().revision);
        match newest.get().checked_sub(from.get()) {
            Some(0) => Ok(Next::Current),
            Some(behind) if behind <= max_behind => {
                self.wait_for_room().await?;
                let next = self.alive_until(self.shared.stretches.after(from));
                next.await?.map_err(End::Failed)
            }
            _ => Ok(Next::Gone),
        }
    }

    async fn wait_for_room(&self) -> Result<(), End> {
        let all_but_one = self.outbox.max_capacity() - 1;
        let room = self.outbox.reserve_many(all_but_one);
        match tokio::time::timeout(limits::FEED_PATIENCE, room).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::CutOff(CutOff::Slow)),
        }
    }

    async fn send_image(&mut self, at: Revision) -> Result<Revision, End> {
        let image = self.images.at_least(self.floor.max(at));
        let image = self.alive_until(image).await?.map_err(End::Failed)?;
        let sending = async {
            for message in &image.messages {
                self.send(message.clone()).await?;
            }
            Ok(())
        };
        let patience = image.patience(limits::FEED_FLOOR_BYTES_PER_SECOND);
        let sent = tokio::select! {
            sent = tokio::time::timeout(patience, sending) => sent.ok(),
            () = image.cut.cancelled() => None,
        };
        sent.unwrap_or(Err(End::CutOff(CutOff::Slow)))?;
        self.shared.hub.stats().snapshot_sent();
        self.seat().sent_snapshot(image.revision, Instant::now());
        Ok(image.revision)
    }

    /// Awaits it, and tells the proxy meanwhile that the stream lives.
    async fn alive_until<T>(&self, work: impl Future<Output = T>) -> Result<T, End> {
        tokio::pin!(work);
        loop {
            match tokio::time::timeout(ALIVE_EVERY, &mut work).await {
                Ok(done) => return Ok(done),
                Err(_) => self.say_alive().await?,
            }
        }
    }

    /// Names no revision: the proxy is behind what is known here.
    async fn say_alive(&self) -> Result<(), End> {
        let alive = wire::Alive {
            revision: 0,
            leaderless: self.shared.hub.is_leaderless(),
        };
        self.send(ready(Kind::Alive(alive))).await
    }

    /// Hints that were pushed while the ring was not read, as far as they still hold.
    async fn say_hints(&self) -> Result<(), End> {
        let cluster = self.shared.cluster.state();
        for hint in feed::hints(&cluster) {
            self.send(ready(Kind::Hint(hint))).await?;
        }
        Ok(())
    }

    /// Hands on what is pushed, until it no longer follows what the proxy has; returns what that is.
    async fn hand_on(
        &self,
        pushes: &mut broadcast::Receiver<Push>,
        mut at: Revision,
    ) -> Result<Revision, End> {
        loop {
            match pushes.recv().await {
                Ok(Push::Delta { revision, .. }) if revision <= at => {}
                Ok(Push::Delta { from, .. }) if from > at => return Ok(at),
                Ok(Push::Delta {
                    revision, message, ..
                }) => {
                    self.send(message).await?;
                    at = revision;
                    self.seat().sent(at, Instant::now());
                }
                Ok(Push::Aside(message)) => self.send(message).await?,
                Ok(Push::Restart) | Err(broadcast::error::RecvError::Lagged(_)) => return Ok(at),
                Err(broadcast::error::RecvError::Closed) => return Err(End::Gone),
            }
        }
    }

    fn seat(&self) -> &Seat {
        self.seated.seat()
    }

    async fn send(&self, message: Bytes) -> Result<(), End> {
        use mpsc::error::SendTimeoutError;
        let sent = self.outbox.send_timeout(message, limits::FEED_PATIENCE);
        sent.await.map_err(|error| match error {
            SendTimeoutError::Closed(_) => End::Gone,
            SendTimeoutError::Timeout(_) => End::CutOff(CutOff::Slow),
        })
    }
}

/// Takes acknowledgements until the proxy goes. What can't be read is of a later version.
async fn listen(seat: &Seat, mut ups: impl Stream<Item = Result<wire::Up, Status>> + Unpin) {
    while let Some(Ok(up)) = ups.next().await {
        let now = Instant::now();
        match up.kind {
            Some(up::Kind::Applied(applied)) => seat.applied(Revision::new(applied.revision), now),
            Some(up::Kind::Drained(drained)) => {
                let what = match drained.what {
                    Some(drained::What::Tenant(name)) => {
                        TenantId::new(name).ok().map(Drainable::Tenant)
                    }
                    Some(drained::What::Group(id)) => Some(Drainable::Group(GroupId::new(id))),
                    None => None,
                };
                if let Some(what) = what {
                    seat.drained(what, Version::new(drained.version), now);
                }
            }
            Some(up::Kind::Hello(_)) | None => {}
        }
    }
}
