//! The feed's service: judges a Hello, registers its proxy, seats it, and starts its stream.
//!
//! A proxy is registered before it gets anything: the registered proxies are whom a migration's
//! barrier waits for. Registering needs the metastore's leader once in a proxy's life; from then on
//! any coordinator serves it, with or without a leader.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use maia_common::ids::{ProxyId, RegionName};
use maia_common::limits;
use maia_common::position::{Generation, Revision};
use maia_common::runtime::Tasks;
use maia_common::wire::feed as wire;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use super::aside::Aside;
use super::grpc::Frames;
use super::hub::Hub;
use super::pulse::Pulse;
use super::stream::{End, ProxyStream, Shared};
use crate::metastore::Metastore;
use crate::shell::cluster::Cluster;
use crate::shell::placements::{Placements, Refusal};
use crate::shell::proxies::Proxies;

/// The feed format that this speaks.
const FORMAT: u32 = 1;
/// How long a Hello may take to come, to be caught up with and to be registered: a proxy waits 3 s
/// for the answer's head.
const HELLO_PATIENCE: Duration = Duration::from_millis(2500);

/// What the service stands on.
pub struct FeedParts {
    /// Who distributes changes.
    pub hub: Arc<Hub>,
    /// For snapshots and the history.
    pub store: Arc<dyn Metastore>,
    /// For the generation and leaders.
    pub cluster: Cluster,
    /// For lookups that place a tenant.
    pub placements: Placements,
    /// For registrations.
    pub proxies: Proxies,
    /// Owns the streams.
    pub tasks: Tasks,
}

/// The feed's service.
pub struct FeedService {
    pub(super) shared: Arc<Shared>,
    pub(super) placements: Placements,
    pub(super) lookups: Semaphore,
    /// Calls and streams run here.
    pub(super) aside: Aside,
    proxies: Proxies,
    /// Answers that are open, read or not.
    streams: Arc<Semaphore>,
}

impl FeedService {
    /// The service, and the pulse that must run beside it. Calls and streams run on the runtime that
    /// this is called on.
    #[must_use]
    pub fn new(parts: FeedParts) -> (Self, Pulse) {
        let shared = Shared::new(parts.hub, parts.store, parts.cluster);
        let shared = Arc::new(shared);
        let (hub, idle) = (Arc::clone(&shared.hub), Arc::clone(&shared));
        let pulse = Pulse::new(hub, move |now| idle.expire(now));
        let service = Self {
            shared,
            placements: parts.placements,
            lookups: Semaphore::new(limits::MAX_LOOKUPS_IN_FLIGHT),
            aside: Aside {
                tasks: parts.tasks,
                runtime: Handle::current(),
            },
            proxies: parts.proxies,
            streams: Arc::new(Semaphore::new(limits::MAX_FEED_STREAMS)),
        };
        (service, pulse)
    }

    /// Starts a proxy's stream.
    pub(super) async fn subscribe(
        &self,
        mut ups: impl Stream<Item = Result<wire::Up, Status>> + Send + Unpin + 'static,
    ) -> Result<Frames, Status> {
        let deadline = Instant::now() + HELLO_PATIENCE;
        let place = Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_| Status::resource_exhausted("too many open streams"))?;
        let first = tokio::time::timeout_at(deadline.into(), ups.next()).await;
        let hello = match first {
            Ok(Some(Ok(wire::Up {
                kind: Some(wire::up::Kind::Hello(hello)),
            }))) => hello,
            Ok(Some(Err(status))) => return Err(status),
            _ => {
                let text = "the first message must be a Hello, at once";
                return Err(Status::invalid_argument(text));
            }
        };
        let invalid =
            |error: maia_common::ids::NameError| Status::invalid_argument(error.to_string());
        let id = ProxyId::new(hello.proxy.as_str()).map_err(invalid)?;
        let region = RegionName::new(hello.region.as_str()).map_err(invalid)?;
        let last = self.check(&hello, deadline).await?;
        // Seated first: a removal that comes now sees it connected, or it sees the removal.
        let seated = self
            .shared
            .hub
            .enter(id.clone(), region.clone())
            .ok_or_else(|| Status::resource_exhausted("too many proxies on this feed"))?;
        if let Some(last) = last {
            seated.seat().applied(last, Instant::now());
        }
        let registered = self.proxies.register(&id, &region, deadline).await;
        let registered = registered.map_err(|refusal| status_of(&refusal))?;
        let (outbox, inbox) = mpsc::channel(limits::FEED_OUTBOX);
        let status = Arc::<OnceLock<Status>>::default();
        let stream = ProxyStream {
            shared: Arc::clone(&self.shared),
            seated,
            outbox: outbox.clone(),
            images: Arc::clone(if hello.topology_only {
                &self.shared.topology
            } else {
                &self.shared.everything
            }),
            floor: registered.max(last.unwrap_or_default()),
        };
        self.start(id, stream.run(ups, last), outbox, Arc::clone(&status));
        Ok(Frames::new(inbox, status, place))
    }

    fn start(
        &self,
        id: ProxyId,
        stream: impl Future<Output = End> + Send + 'static,
        outbox: mpsc::Sender<Bytes>,
        status: Arc<OnceLock<Status>>,
    ) {
        let Aside { tasks, runtime } = &self.aside;
        let (stop, shared) = (tasks.stop().clone(), Arc::clone(&self.shared));
        tasks.spawn_on(runtime, "feed stream", async move {
            let end = stop.run_until_cancelled(stream).await;
            let told = match end {
                Some(End::CutOff(reason)) => {
                    shared.hub.stats().cut_off(reason);
                    reason.status()
                }
                Some(End::Failed(status)) => status,
                None => Status::unavailable("the coordinator is stopping"),
                Some(End::Gone) => return,
            };
            tracing::info!(proxy = %id, reason = told.message(), "a feed stream ends");
            drop(status.set(told));
            // Not before: the answer ends when its last sender is gone.
            drop(outbox);
        });
    }

    /// What the proxy has, if that is of this cluster's present history; waits for this coordinator
    /// to have reached it.
    async fn check(
        &self,
        hello: &wire::Hello,
        deadline: Instant,
    ) -> Result<Option<Revision>, Status> {
        if hello.format != FORMAT {
            let text = format!(
                "feed format {} is not spoken here, only {FORMAT}",
                hello.format
            );
            return Err(Status::invalid_argument(text));
        }
        let (generation, last) = (hello.generation, Revision::new(hello.last_revision));
        let same = self.reach(generation, last, deadline).await?;
        Ok((same && last > Revision::default()).then_some(last))
    }

    /// Waits until this coordinator is where somebody has already been. True: that was in the present
    /// generation; revisions of an earlier one say nothing.
    pub(super) async fn reach(
        &self,
        generation: u64,
        revision: Revision,
        deadline: Instant,
    ) -> Result<bool, Status> {
        let generation = Generation::new(generation);
        let cluster = &self.shared.cluster;
        let reached = cluster.wait_for(deadline, |state| {
            state.revision > Revision::default()
                && (generation < state.generation
                    || (generation == state.generation && state.revision >= revision))
        });
        if !reached.await {
            let here = cluster.state().revision;
            let text = format!("this coordinator is at revision {here}, behind {revision}");
            return Err(Status::failed_precondition(text));
        }
        Ok(generation == cluster.state().generation)
    }
}

/// A refusal as gRPC says it: the code and the sentence are in the message.
pub(super) fn status_of(refusal: &Refusal) -> Status {
    let text = refusal.to_string();
    match refusal.code.status() {
        400 | 413 | 428 => Status::invalid_argument(text),
        401 => Status::unauthenticated(text),
        403 => Status::permission_denied(text),
        404 => Status::not_found(text),
        409 | 412 => Status::failed_precondition(text),
        429 | 507 => Status::resource_exhausted(text),
        421 | 502..=504 => Status::unavailable(text),
        _ => Status::internal(text),
    }
}
