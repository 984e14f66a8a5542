//! One coordinator, put together: opens the disk, starts the engine and group 0, joins the
//! cluster, serves gRPC and HTTP, and stops in the reverse order. A node that was removed from the
//! cluster starts only to say so.
//!
//! ```text
//! identity ─▶ engine ─▶ group 0 ─▶ metastore ─▶ cluster loop ─▶ group loop, controller, deletions
//!                │                                   └─▶ feed hub ─▶ proxies
//!                └─▶ rpc listener (raft, peer, feed)      api listener (placements, data, admin)
//! ```

mod settings;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use maia_common::cluster_key::{ClusterKey, ClusterKeyError};
use maia_common::ids::{GroupId, NodeId};
use maia_common::limits::API_UNREAD_PATIENCE;
use maia_common::position::Revision;
use maia_common::rpc::{Kind, Rpc, RpcFault};
use maia_common::runtime::Tasks;
use maia_common::wire::peer::peer_server::PeerServer;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tonic::service::interceptor::InterceptedService;

use super::applier::RecordApplier;
use super::bootstrap;
use super::clock::Clock;
use super::clock_watch::{ClockWatch, ClockWatchParts, Offsets};
use super::cluster::{Cluster, ClusterLoop};
use super::controller::Controller;
use super::data::{DataParts, DataService};
use super::deletions::Deletions;
use super::digests::Digests;
use super::entries_service::EntriesService;
use super::groups::{GroupLoop, GroupParts};
use super::identity::{self, FolderLock, Identity, IdentityError};
use super::members_only::{MembersOnly, OfMembers};
use super::nodes::Nodes;
use super::patience;
use super::peer_service::PeerService;
use super::peers::{Directory, Peers};
use super::placements::Placements;
use super::proxies::{Proxies, ProxiesParts};
use super::quarantine::{Counts, QuarantineParts, QuarantineService};
use super::regions::Regions;
use super::standing::Standing;
use super::streams::Streams;
use super::vitals::{self, Vitals};
use crate::api::{self, Api};
use crate::config::Config;
use crate::core::group_life::Moves;
use crate::feed::{FeedParts, FeedServer, FeedService, Hub};
use crate::metastore::{Metastore, RaftMetastore};
use crate::raft::{Engine, EngineOpenError, GroupError, StateError, raft_service};

/// How long each part may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Why a coordinator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its folder can't be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its cluster key can't be used.
    #[error(transparent)]
    ClusterKey(#[from] ClusterKeyError),
    /// Its certificates changed since they were checked.
    #[error(transparent)]
    Rpc(#[from] RpcFault),
    /// Its databases can't be opened.
    #[error(transparent)]
    Engine(#[from] EngineOpenError),
    /// Group 0 can't be started.
    #[error("group 0: {0}")]
    Group(#[from] GroupError),
    /// Its state can't be read.
    #[error("{0}")]
    State(#[from] StateError),
    /// It can't listen.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// A running coordinator.
pub struct Node {
    engine: Arc<Engine>,
    tasks: Tasks,
    api: Api,
    _lock: FolderLock,
}

/// What most parts need.
struct Parts {
    me: (NodeId, maia_common::ids::RegionName),
    rpc: Rpc,
    engine: Arc<Engine>,
    peers: Arc<Peers>,
    store: Arc<RaftMetastore>,
    cluster: Cluster,
    hub: Arc<Hub>,
    clock: Arc<Clock>,
    offsets: Offsets,
    quarantined: Arc<Counts>,
    tasks: Tasks,
    /// Turns true when this node is known to be removed from the cluster.
    removed: watch::Sender<bool>,
}

/// How a process starts, beside what its configuration says.
struct Beginning {
    identity: Identity,
    make_cluster: bool,
}

async fn listen(address: std::net::SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Listen { address, source })
}

impl Node {
    /// Starts everything; returns as soon as it listens. Readiness comes later: see `/readyz`.
    /// `make_cluster`: a blank disk may make a new cluster.
    ///
    /// # Errors
    /// [`StartError`]; nothing keeps running then.
    pub async fn start(config: Config, make_cluster: bool) -> Result<Node, StartError> {
        let key = ClusterKey::from_file(&config.cluster_key_file)?;
        let (lock, identity) = identity::take(&config.dir, config.node.id)?;
        let rpc = config.rpc.open(config.party(), &key)?;
        if config.rpc.plaintext {
            tracing::warn!("rpc.plaintext: gRPC is neither encrypted nor are its ends certain");
        }
        let grpc = listen(config.listen.rpc).await?;
        let http = listen(config.listen.api).await?;
        let parts = Parts::open(&config, rpc, identity.removed)?;
        if identity.joined && !identity.removed {
            parts.engine.start_group(GroupId::METASTORE).await?;
        }
        let silence = config.election().timeout_max * 2;
        let data = DataService::new(DataParts {
            me: parts.me.clone(),
            engine: Arc::clone(&parts.engine),
            store: Arc::clone(&parts.store) as Arc<dyn Metastore>,
            cluster: parts.cluster.clone(),
            peers: Arc::clone(&parts.peers),
            clock: Arc::clone(&parts.clock),
            silence,
            token_key: key.token_key(),
            degraded: Arc::default(),
            early: Arc::default(),
            quarantined: Arc::clone(&parts.quarantined),
        });
        let quarantine = parts.quarantine(&config, &data);
        let peer = PeerService {
            identity: identity.clone(),
            engine: Arc::clone(&parts.engine),
            store: Arc::clone(&parts.store),
            cluster: parts.cluster.clone(),
            data: data.clone(),
            entries: EntriesService::new(data.clone(), parts.tasks.clone(), Handle::current()),
            hub: Arc::clone(&parts.hub),
            quarantine: quarantine.clone(),
        };
        let placements = Placements::new(
            Arc::clone(&parts.store) as Arc<dyn Metastore>,
            parts.cluster.clone(),
            data.clone(),
        );
        let feed = parts.feed(placements.clone(), silence);
        parts.serve_rpc(grpc, peer, feed);
        let api = parts.api(&config, &identity, (data, quarantine), placements);
        parts.serve_api(api.clone(), http);
        let beginning = Beginning {
            identity,
            make_cluster,
        };
        parts.take_part(config, beginning, &api);
        Ok(Node {
            engine: parts.engine,
            tasks: parts.tasks,
            api,
            _lock: lock,
        })
    }

    /// Ends when the node can't go on by itself; the reason is for the operator.
    pub async fn failed(&self) -> String {
        self.api.latches.failed().await
    }

    /// Stops: lets requests in flight end, then the tasks, then the engine. Names who did not.
    pub async fn stop(self) {
        let drained = self.api.gate.close(STOP_DEADLINE).await;
        let mut late = self.tasks.shutdown(STOP_DEADLINE).await;
        late.extend(self.engine.shutdown(STOP_DEADLINE).await);
        if !drained || !late.is_empty() {
            tracing::warn!(drained, ?late, "stopped, but not everything ended in time");
        }
    }
}

impl Parts {
    fn open(config: &Config, rpc: Rpc, removed: bool) -> Result<Parts, StartError> {
        let tasks = Tasks::new();
        tasks.spawn_until_stop("rpc certificates", rpc.clone().watch());
        let directory = Arc::new(Directory::new(rpc.clone()));
        for node in &config.bootstrap.nodes {
            directory.set(node.id, node.rpc_addr.clone());
        }
        let clock = Arc::new(Clock::default());
        let revisions = watch::Sender::new(Revision::default());
        let applier = Arc::new(RecordApplier::new(Arc::clone(&clock), revisions.clone()));
        let engine = Engine::open(
            settings::engine(config),
            Arc::clone(&applier) as _,
            Arc::clone(&directory) as _,
        )?;
        applier.opened(engine.state())?;
        let peers = Arc::new(Peers::new(Arc::clone(&directory)));
        let store = Arc::new(RaftMetastore::new(
            Arc::clone(&engine),
            Arc::clone(&peers),
            Arc::clone(&clock),
            revisions,
            config.node.id,
        ));
        let hub = Arc::new(Hub::default());
        let (cluster_loop, cluster) = ClusterLoop::new(
            Arc::clone(&store) as Arc<dyn Metastore>,
            directory,
            Arc::clone(&hub),
        );
        tasks.spawn_until_stop("cluster loop", cluster_loop.run());
        let me = (config.node.id, config.node.region.clone());
        Ok(Parts {
            me,
            rpc,
            engine,
            peers,
            store,
            cluster,
            hub,
            clock,
            offsets: Offsets::default(),
            quarantined: Arc::default(),
            tasks,
            removed: watch::Sender::new(removed),
        })
    }

    fn proxies(&self) -> Proxies {
        Proxies::new(ProxiesParts {
            node: self.me.0,
            store: Arc::clone(&self.store) as Arc<dyn Metastore>,
            cluster: self.cluster.clone(),
            peers: Arc::clone(&self.peers),
            hub: Arc::clone(&self.hub),
        })
    }

    /// The feed and its pulse. `silence`: for so long nothing is heard of a leader that is gone.
    fn feed(&self, placements: Placements, silence: Duration) -> FeedService {
        let (feed, pulse) = FeedService::new(FeedParts {
            hub: Arc::clone(&self.hub),
            store: Arc::clone(&self.store) as Arc<dyn Metastore>,
            cluster: self.cluster.clone(),
            placements,
            proxies: self.proxies(),
            tasks: self.tasks.clone(),
        });
        let engine = Arc::clone(&self.engine);
        let is_led = move || {
            let root = engine.status(GroupId::METASTORE);
            root.is_some_and(|status| !status.is_leaderless(silence))
        };
        self.tasks.spawn_until_stop("feed pulse", pulse.run(is_led));
        feed
    }

    /// On the engine's own runtime: requests at the API must not delay heartbeats.
    fn serve_rpc(&self, listener: TcpListener, peer: PeerService, feed: FeedService) {
        let (nodes, proxies) = (self.rpc.admit(Kind::Nodes), self.rpc.admit(Kind::Proxies));
        let of_members = OfMembers::new(nodes.clone(), self.cluster.clone());
        let members_only = MembersOnly::new(nodes, self.removed.subscribe());
        let server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(5)))
            .http2_keepalive_timeout(Some(Duration::from_secs(5)))
            .add_service(InterceptedService::new(
                raft_service(self.engine.inbound()),
                of_members,
            ))
            .add_service(InterceptedService::new(PeerServer::new(peer), members_only))
            .add_service(InterceptedService::new(FeedServer::new(feed), proxies));
        let stop = self.tasks.stop().clone();
        let runtime = self.engine.runtime();
        let incoming = self.rpc.incoming(listener, &runtime, &self.tasks);
        self.tasks.spawn_on(&runtime, "rpc listener", async move {
            let ended = stop
                .run_until_cancelled(server.serve_with_incoming(incoming))
                .await;
            if let Some(Err(error)) = ended {
                tracing::error!(%error, "the rpc listener ended");
            }
        });
    }

    /// The quarantine, and what looks after it, also on a node that was removed.
    fn quarantine(&self, config: &Config, data: &DataService) -> QuarantineService {
        let quarantine = QuarantineService::new(QuarantineParts {
            me: self.me.clone(),
            engine: Arc::clone(&self.engine),
            data: data.clone(),
            clock: Arc::clone(&self.clock),
            max_clock_offset: config.failover.max_clock_offset,
            store: self.store(),
            cluster: self.cluster.clone(),
            peers: Arc::clone(&self.peers),
            first: config.bootstrap.nodes.iter().map(|n| n.id).collect(),
            removed: self.removed.subscribe(),
            counts: Arc::clone(&self.quarantined),
            tasks: self.tasks.clone(),
        });
        let resolver = quarantine.clone().run();
        self.tasks.spawn_until_stop("quarantine", resolver);
        quarantine
    }

    fn store(&self) -> Arc<dyn Metastore> {
        Arc::clone(&self.store) as Arc<dyn Metastore>
    }

    /// Starts the loops that take part in the cluster; they end, or never begin, when the node has
    /// been removed from it.
    fn take_part(&self, config: Config, beginning: Beginning, api: &Api) {
        let silence = config.election().timeout_max * 2;
        let (identity, removed) = (beginning.identity, self.removed.clone());
        let standing = Standing {
            dir: config.dir.clone(),
            identity: identity.clone(),
            engine: Arc::clone(&self.engine),
            store: self.store(),
            cluster: self.cluster.clone(),
            peers: Arc::clone(&self.peers),
            first: config.bootstrap.nodes.iter().map(|n| n.id).collect(),
            latches: api.latches.clone(),
            silence,
            removed: removed.clone(),
        };
        self.tasks.spawn_until_stop("standing", standing.run());
        if identity.removed {
            return;
        }
        self.govern(&config, api, silence);
        let digests = Digests {
            engine: Arc::clone(&self.engine),
            peers: Arc::clone(&self.peers),
            cluster: self.cluster.clone(),
        };
        self.tasks.spawn_until_stop("digests", digests.run());
        self.watch_clocks(config.failover.max_clock_offset);
        let groups = GroupLoop::new(GroupParts {
            me: self.me.clone(),
            engine: Arc::clone(&self.engine),
            store: self.store(),
            cluster: self.cluster.clone(),
            peers: Arc::clone(&self.peers),
            tasks: self.tasks.clone(),
            moves: Moves {
                auto: config.failover.auto,
                stable_for: config.failover.stable_for,
                inhibit_window: config.failover.inhibit_window,
            },
            removed: removed.subscribe(),
        });
        self.tasks.spawn_until_stop("group loop", groups.run());
        let joining = bootstrap::Joining {
            config,
            identity,
            engine: Arc::clone(&self.engine),
            store: self.store(),
            peers: Arc::clone(&self.peers),
            latches: api.latches.clone(),
            make_cluster: beginning.make_cluster,
        };
        let mut removed = removed.subscribe();
        self.tasks.spawn_until_stop("join", async move {
            tokio::select! {
                () = joining.run() => {}
                _ = removed.wait_for(|removed| *removed) => {}
            }
        });
    }

    fn watch_clocks(&self, bound: Duration) {
        let watch = ClockWatch::new(ClockWatchParts {
            node: self.me.0,
            engine: Arc::clone(&self.engine),
            cluster: self.cluster.clone(),
            peers: Arc::clone(&self.peers),
            offsets: self.offsets.clone(),
            clock: Arc::clone(&self.clock),
            bound,
        });
        self.tasks.spawn_until_stop("clock watch", watch.run());
    }

    /// What only the leader of group 0 does, for when this node is.
    fn govern(&self, config: &Config, api: &Api, silence: Duration) {
        let controller = Controller::new(
            self.me.0,
            Arc::clone(&self.engine),
            self.store(),
            self.cluster.clone(),
            silence,
            config.groups.collect_after,
        );
        self.tasks.spawn_until_stop("controller", controller.run());
        let deletions = Deletions::new(
            Arc::clone(&self.engine),
            self.store(),
            api.placements(),
            silence,
        );
        self.tasks.spawn_until_stop("deletions", deletions.run());
    }

    fn api(
        &self,
        config: &Config,
        identity: &Identity,
        (data, quarantine): (DataService, QuarantineService),
        placements: Placements,
    ) -> Api {
        let regions = Regions::new(self.store(), self.cluster.clone());
        let nodes = Nodes::new(
            (self.me.0, identity.disk_id.clone()),
            Arc::clone(&self.engine),
            self.store(),
            self.cluster.clone(),
            Arc::clone(&self.peers),
        );
        let vitals = Arc::<ArcSwap<Vitals>>::default();
        let sampled = vitals::sample(Arc::clone(&self.engine), Arc::clone(&vitals));
        self.tasks.spawn_until_stop("vitals", sampled);
        Api::new(api::Parts {
            me: self.me.clone(),
            auth: config.auth.clone(),
            placements,
            regions,
            nodes,
            streams: Streams::new(data.clone(), self.tasks.clone()),
            data,
            quarantine,
            engine: Arc::clone(&self.engine),
            store: Arc::clone(&self.store) as Arc<dyn Metastore>,
            cluster: self.cluster.clone(),
            hub: Arc::clone(&self.hub),
            proxies: self.proxies(),
            rpc: self.rpc.clone(),
            vitals,
            offsets: self.offsets.clone(),
            replica_silence: config.election().timeout_max * 2,
            log_dir: config.dir.join("raft"),
        })
    }

    fn serve_api(&self, api: Api, listener: TcpListener) {
        let stop = self.tasks.stop().clone();
        if let Err(error) = patience::bound(&listener, API_UNREAD_PATIENCE) {
            tracing::error!(%error, "readers that are gone can't be told by the api listener");
        }
        self.tasks.spawn("api listener", async move {
            let serve = axum::serve(listener, api::router(api));
            let ended = serve.with_graceful_shutdown(stop.cancelled_owned()).await;
            if let Err(error) = ended {
                tracing::error!(%error, "the api listener ended");
            }
        });
    }
}
