//! One proxy's stream: brings it to the newest revision, then hands on what the hub pushes; takes
//! its acknowledgements; ends when the proxy goes or must be cut off.
//!
//! ```text
//!   catching up ── history, or an image and then the history ──▶ live ── ring ──▶ proxy
//!        ▲                                                        │
//!        └───────────── fell off the ring, or its order broke ────┘
//! ```
//! The ring is joined before the state is read, so no change falls between the two; deltas that the
//! proxy has already are left out. A slow link can finish a large snapshot while changes come in:
//! the ring may overflow meanwhile, the history has them. Invariants: I4 (revisions of a stream only
//! grow), I12 (the outbox; each wait for room in it).

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
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use super::catch_up::{self, Next};
use super::drained::Drainable;
use super::hub::{Hub, Push};
use super::images::Images;
use super::message::ready;
use super::seats::{Seat, Seated};
use super::stats::CutOff;
use crate::core::feed;
use crate::metastore::Metastore;
use crate::shell::cluster::Cluster;

/// How often a stream that waits for an image says that it lives: a proxy leaves after 3 s.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// What all streams share.
pub(super) struct Shared {
    pub(super) hub: Arc<Hub>,
    pub(super) store: Arc<dyn Metastore>,
    pub(super) cluster: Cluster,
    pub(super) everything: Arc<Images>,
    pub(super) topology: Arc<Images>,
    /// Reads of the history at once.
    pub(super) reads: Semaphore,
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
            let mut pushes = self.shared.hub.subscribe();
            let newest = self.catch_up(at).await?;
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
                Some(from) => self.read(from, max_behind).await?,
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
                    self.send(stretch.message).await?;
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

    async fn read(&self, from: Revision, max_behind: u64) -> Result<Next, End> {
        let shared = Arc::clone(&self.shared);
        let _turn = self.shared.reads.acquire().await;
        let read = tokio::task::spawn_blocking(move || {
            catch_up::next(&*shared.store, &shared.cluster.state(), from, max_behind)
        });
        match read.await {
            Ok(Ok(next)) => Ok(next),
            Ok(Err(error)) => Err(End::Failed(Status::internal(error.to_string()))),
            Err(_) => Err(End::Failed(Status::unavailable(
                "the coordinator is stopping",
            ))),
        }
    }

    async fn send_image(&mut self, at: Revision) -> Result<Revision, End> {
        let images = Arc::clone(&self.images);
        let image = images.at_least(self.floor.max(at));
        tokio::pin!(image);
        let image = loop {
            match tokio::time::timeout(ALIVE_EVERY, &mut image).await {
                Ok(image) => break image.map_err(End::Failed)?,
                Err(_) => self.say_alive(at).await?,
            }
        };
        for message in &image.messages {
            self.send(message.clone()).await?;
        }
        self.shared.hub.stats().snapshot_sent();
        self.seat().sent_snapshot(image.revision, Instant::now());
        Ok(image.revision)
    }

    async fn say_alive(&self, at: Revision) -> Result<(), End> {
        let alive = wire::Alive {
            revision: at.get(),
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
