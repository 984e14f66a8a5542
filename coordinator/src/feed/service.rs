//! One proxy's stream: Hello, then a snapshot or a delta, then every delta and hint as it comes.
//! A stream ends when the proxy is too slow, when the order breaks, or when the proxy goes; the
//! proxy then starts over, here or elsewhere.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::ids::{ProxyId, RegionName};
use maia_common::position::{Generation, Revision};
use maia_common::runtime::Tasks;
use maia_common::wire::feed as wire;
use maia_common::wire::feed::down::Kind;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::hub::{Hub, Push, Seat, Subscriber};
use super::snapshot;
use crate::metastore::Metastore;
use crate::shell::cluster::Cluster;

/// The feed format that this speaks.
const FORMAT: u32 = 1;
/// How often a silent stream says that it lives.
const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// How long a coordinator that is behind a proxy's revision lets it wait before it refuses.
const BEHIND_PATIENCE: Duration = Duration::from_secs(2);
/// How long one message may wait for room: then the proxy is too slow.
const SEND_PATIENCE: Duration = Duration::from_secs(10);
/// Messages on their way to one proxy.
const OUTBOX: usize = 64;

/// The feed's gRPC service.
pub struct FeedService {
    hub: Arc<Hub>,
    store: Arc<dyn Metastore>,
    cluster: Cluster,
    tasks: Tasks,
    /// Streams run here, beside the API, not where Raft's messages are received.
    runtime: Handle,
}

type Outbox = mpsc::Sender<Result<wire::Down, Status>>;

impl FeedService {
    /// Serves what `hub` hands out; streams belong to `tasks`, and run on the runtime that this is
    /// called on.
    #[must_use]
    pub fn new(hub: Arc<Hub>, store: Arc<dyn Metastore>, cluster: Cluster, tasks: Tasks) -> Self {
        Self {
            hub,
            store,
            cluster,
            tasks,
            runtime: Handle::current(),
        }
    }

    async fn check(&self, hello: &wire::Hello) -> Result<Option<Revision>, Status> {
        if hello.format != FORMAT {
            let text = format!(
                "feed format {} is not spoken here, only {FORMAT}",
                hello.format
            );
            return Err(Status::invalid_argument(text));
        }
        let generation = Generation::new(hello.generation);
        let last = Revision::new(hello.last_revision);
        let deadline = Instant::now() + BEHIND_PATIENCE;
        let reached = self
            .cluster
            .wait_for(deadline, |state| {
                state.revision > Revision::default()
                    && (generation < state.generation || state.revision >= last)
            })
            .await;
        if !reached {
            let here = self.cluster.state().revision;
            let text = format!("this coordinator is at revision {here}, behind the proxy's {last}");
            return Err(Status::failed_precondition(text));
        }
        let same = generation == self.cluster.state().generation;
        Ok((same && last > Revision::default()).then_some(last))
    }
}

#[tonic::async_trait]
impl wire::feed_server::Feed for FeedService {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<wire::Down, Status>> + Send>>;

    async fn lookup(
        &self,
        _request: Request<wire::LookupRequest>,
    ) -> Result<Response<wire::LookupAnswer>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn subscribe(
        &self,
        request: Request<Streaming<wire::Up>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut ups = request.into_inner();
        let first = tokio::time::timeout(BEHIND_PATIENCE, ups.next())
            .await
            .map_err(|_| Status::deadline_exceeded("no Hello came"))?;
        let Some(Ok(wire::Up {
            kind: Some(wire::up::Kind::Hello(hello)),
        })) = first
        else {
            return Err(Status::invalid_argument(
                "the first message must be a Hello",
            ));
        };
        let id = ProxyId::new(hello.proxy.as_str())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let region = RegionName::new(hello.region.as_str())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let last = self.check(&hello).await?;
        let subscriber = Subscriber {
            id,
            region,
            applied: Revision::default(),
            last_seen: Instant::now(),
        };
        let seat = self
            .hub
            .enter(subscriber)
            .ok_or_else(|| Status::resource_exhausted("too many proxies on this feed"))?;
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        // Subscribed before the state is read: no change falls between the two.
        let pushes = self.hub.subscribe();
        let stream = ProxyStream {
            pushes,
            outbox,
            hub: Arc::clone(&self.hub),
            store: Arc::clone(&self.store),
            cluster: self.cluster.clone(),
            seat,
        };
        let stop = self.tasks.stop().clone();
        self.tasks
            .spawn_on(&self.runtime, "feed stream", async move {
                let _ended = stop.run_until_cancelled(stream.run(ups, last)).await;
            });
        Ok(Response::new(Box::pin(ReceiverStream::new(inbox))))
    }
}

struct ProxyStream {
    pushes: broadcast::Receiver<Push>,
    outbox: Outbox,
    hub: Arc<Hub>,
    store: Arc<dyn Metastore>,
    cluster: Cluster,
    seat: Seat,
}

impl ProxyStream {
    async fn run(mut self, ups: Streaming<wire::Up>, last: Option<Revision>) {
        if let Some(status) = self.serve(ups, last).await {
            tracing::info!(reason = status.message(), "a feed stream ends");
            drop(self.outbox.try_send(Err(status)));
        }
    }

    /// None: the proxy is gone.
    async fn serve(
        &mut self,
        mut ups: Streaming<wire::Up>,
        last: Option<Revision>,
    ) -> Option<Status> {
        let cluster = self.cluster.state();
        let opening = snapshot::opening(&*self.store, &cluster, last);
        let (mut at, messages) = match opening {
            Ok(opening) => opening,
            Err(error) => return Some(Status::internal(error.to_string())),
        };
        for message in messages {
            if let Err(end) = self.send(message).await {
                return end;
            }
        }
        let mut alive = tokio::time::interval(ALIVE_EVERY);
        loop {
            let message = tokio::select! {
                push = self.pushes.recv() => match push {
                    Ok(Push::Delta(delta)) if delta.revision <= at.get() => continue,
                    Ok(Push::Delta(delta)) if delta.from_revision != at.get() => {
                        return Some(Status::aborted("a gap: start over"));
                    }
                    Ok(Push::Delta(delta)) => {
                        at = Revision::new(delta.revision);
                        Kind::Delta(Arc::unwrap_or_clone(delta))
                    }
                    Ok(Push::Hint(hint)) => Kind::Hint(Arc::unwrap_or_clone(hint)),
                    Ok(Push::Restart) => return Some(Status::aborted("start over")),
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        return Some(Status::resource_exhausted("too slow: start over"));
                    }
                    Err(broadcast::error::RecvError::Closed) => return None,
                },
                up = ups.next() => match up {
                    Some(Ok(up)) => {
                        self.take(up);
                        continue;
                    }
                    Some(Err(_)) | None => return None,
                },
                _ = alive.tick() => {
                    Kind::Alive(wire::Alive { revision: self.hub.revision().get() })
                }
            };
            if let Err(end) = self.send(message).await {
                return end;
            }
        }
    }

    fn take(&self, up: wire::Up) {
        // Drained acks matter to migrations, which come with a later issue.
        if let Some(wire::up::Kind::Applied(applied)) = up.kind {
            self.seat.applied(Revision::new(applied.revision));
        }
    }

    async fn send(&self, kind: Kind) -> Result<(), Option<Status>> {
        let down = wire::Down { kind: Some(kind) };
        match self.outbox.send_timeout(Ok(down), SEND_PATIENCE).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(None),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                Err(Some(Status::resource_exhausted("too slow: start over")))
            }
        }
    }
}
