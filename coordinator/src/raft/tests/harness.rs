//! What the tests share: an applier that keeps every record, nodes over gRPC, and waiting for
//! conditions.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use maia_common::cluster_key::ClusterKey;
use maia_common::rpc::Rpc;
use maia_common::runtime::Tasks;
use maia_common::{GroupId, NodeId, Position};
use tokio::sync::oneshot;

use super::super::propose::within;
use super::super::*;
use crate::core::record::{Hlc, Outcome, Record};

/// Long enough for a busy machine, short enough for a failing test.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Keeps each record's body under its index, and answers how many there were before.
#[derive(Default)]
pub(super) struct Keeper {
    pub(super) installs: Mutex<Vec<GroupId>>,
}

const COUNT: &[u8] = b"count";
/// A record that begins so has a large trace.
const SWELL: &[u8] = b"swell";
pub(super) const SWOLLEN_BYTES: usize = 200_000;

impl Applier for Keeper {
    fn apply(
        &self,
        group: GroupId,
        position: Position,
        record: &Record,
        view: &dyn StateView,
        out: &mut Mutations,
    ) -> Result<Outcome, StateError> {
        let count_key = group_key(group, COUNT);
        let count = view.get(StateCf::Meta, &count_key)?;
        let count = count.map_or(0, |c| u64::from_be_bytes(c.try_into().unwrap()));
        let key = group_key(group, &position.index.get().to_be_bytes());
        out.put(StateCf::Data, key, record.body.to_vec());
        if record.body.starts_with(b"trace") {
            out.trace(record.body.clone());
        }
        if record.body.starts_with(SWELL) {
            out.trace(Bytes::from(vec![b'x'; SWOLLEN_BYTES]));
        }
        out.put(StateCf::Meta, count_key, (count + 1).to_be_bytes());
        Ok(Outcome(Bytes::copy_from_slice(&count.to_be_bytes())))
    }

    fn restored(&self, group: GroupId, _greatest: Hlc, source: Source) -> Result<(), StateError> {
        if source == Source::Snapshot {
            self.installs.lock().unwrap().push(group);
        }
        Ok(())
    }

    fn applied(&self, _group: GroupId, _last: Position, _effects: Vec<Effect>) {}
}

pub(super) fn record(body: &str) -> Record {
    Record::meta(Hlc::new(1, 0), Bytes::copy_from_slice(body.as_bytes()))
}

/// Bodies of all records applied in a group, in order.
pub(super) fn bodies(engine: &Engine, group: GroupId) -> Vec<String> {
    let prefix = group_key(group, &[]);
    let rows = engine
        .state()
        .scan(StateCf::Data, &prefix, None, usize::MAX)
        .unwrap();
    rows.into_iter()
        .map(|(_, value)| String::from_utf8(value).unwrap())
        .collect()
}

pub(super) fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId::new).collect()
}

/// Waits until the condition holds; fails the test when it does not in time.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Where the test's nodes listen.
#[derive(Clone, Default)]
pub(super) struct Addresses(Arc<Mutex<HashMap<NodeId, String>>>);

impl PeerDirectory for Addresses {
    fn rpc(&self) -> &Rpc {
        static RPC: std::sync::OnceLock<Rpc> = std::sync::OnceLock::new();
        RPC.get_or_init(|| Rpc::plaintext(&ClusterKey::from_secret("test")))
    }

    fn address(&self, node: NodeId) -> Option<String> {
        self.0.lock().unwrap().get(&node).cloned()
    }
}

/// A node with its gRPC server.
pub(super) struct TestNode {
    pub(super) engine: Arc<Engine>,
    pub(super) keeper: Arc<Keeper>,
    _stop_server: oneshot::Sender<()>,
}

impl TestNode {
    pub(super) async fn start(config: EngineConfig, addresses: &Addresses) -> Self {
        let keeper = Arc::new(Keeper::default());
        let node = config.node;
        let applier: Arc<dyn Applier> = Arc::clone(&keeper) as Arc<dyn Applier>;
        let engine = Engine::open(config, applier, Arc::new(addresses.clone())).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        addresses.0.lock().unwrap().insert(node, address);
        let listener = listener.into_std().unwrap();
        let (rpc, tasks) = (addresses.rpc().clone(), Tasks::new());
        let runtime = engine.runtime();
        let service = raft_service(engine.inbound());
        let (stop, stopped) = oneshot::channel::<()>();
        drop(engine.runtime().spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let incoming = rpc.incoming(listener, &runtime, &tasks);
            let serve = tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming);
            tokio::select! {
                served = serve => served.unwrap(),
                _ = stopped => {}
            }
        }));
        Self {
            engine,
            keeper,
            _stop_server: stop,
        }
    }

    pub(super) fn node(&self) -> NodeId {
        self.engine.config.node
    }

    pub(super) fn leads(&self, group: GroupId) -> bool {
        self.engine
            .status(group)
            .is_some_and(|s| s.role == Role::Leader)
    }
}

/// Several nodes, some of which may be down.
pub(super) struct Cluster {
    pub(super) dir: tempfile::TempDir,
    pub(super) addresses: Addresses,
    pub(super) up: HashMap<u64, TestNode>,
    configure: fn(&mut EngineConfig),
}

impl Cluster {
    /// Three nodes with one group of all of them.
    pub(super) async fn three(group: GroupId, configure: fn(&mut EngineConfig)) -> Self {
        let mut cluster = Self {
            dir: tempfile::tempdir().unwrap(),
            addresses: Addresses::default(),
            up: HashMap::new(),
            configure,
        };
        for id in 1..=3 {
            cluster.start(id).await;
            cluster.up[&id].engine.start_group(group).await.unwrap();
        }
        for id in 1..=3 {
            let engine = &cluster.up[&id].engine;
            engine
                .initialize_group(group, nodes(&[1, 2, 3]))
                .await
                .unwrap();
        }
        cluster
    }

    pub(super) fn config(&self, id: u64) -> EngineConfig {
        let mut config = EngineConfig::new(NodeId::new(id), self.node_dir(id));
        config.election_min = Duration::from_millis(300);
        config.election_max = Duration::from_millis(600);
        config.disk_watermark_bytes = 1 << 20;
        (self.configure)(&mut config);
        config
    }

    pub(super) fn node_dir(&self, id: u64) -> std::path::PathBuf {
        self.dir.path().join(format!("node-{id}"))
    }

    pub(super) async fn start(&mut self, id: u64) {
        let node = TestNode::start(self.config(id), &self.addresses).await;
        self.up.insert(id, node);
    }

    /// Takes the node down as a power cut would.
    pub(super) async fn kill(&mut self, id: u64) {
        let node = self.up.remove(&id).unwrap();
        let engine = Arc::clone(&node.engine);
        let crashed = tokio::task::spawn_blocking(move || engine.crash());
        crashed.await.unwrap();
        gone(node.engine).await;
    }

    /// Shuts the node down in order.
    pub(super) async fn stop(&mut self, id: u64) {
        let node = self.up.remove(&id).unwrap();
        let late = node.engine.shutdown(Duration::from_secs(10)).await;
        assert!(late.is_empty(), "{late:?}");
        gone(node.engine).await;
    }

    /// The node that leads, once one does.
    pub(super) async fn leader(&self, group: GroupId) -> u64 {
        let mut leader = None;
        until("a leader", || {
            leader = self
                .up
                .values()
                .find(|n| n.leads(group))
                .map(|n| n.node().get());
            leader.is_some()
        })
        .await;
        leader.unwrap()
    }

    /// Proposes wherever the leader is until it is acknowledged.
    pub(super) async fn propose(&self, group: GroupId, body: &str) -> Applied {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leader = self.leader(group).await;
            let wait = within(Duration::from_secs(2));
            match self.up[&leader]
                .engine
                .propose(group, record(body), wait)
                .await
            {
                Ok(applied) => return applied,
                Err(ProposeError::NotLeader { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            assert!(Instant::now() < deadline, "no proposal goes through");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until all nodes that are up have applied up to here.
    pub(super) async fn applied_everywhere(&self, group: GroupId, position: Position) {
        for node in self.up.values() {
            node.engine
                .wait_applied(group, position, within(PATIENCE))
                .await
                .unwrap();
        }
    }
}

/// Waits until the engine's databases are closed.
pub(super) async fn gone(engine: Arc<Engine>) {
    let weak = Arc::downgrade(&engine);
    drop(engine);
    until("the engine is gone", || weak.strong_count() == 0).await;
}

/// A lone node in a folder.
pub(super) async fn lone(dir: &Path, group: GroupId) -> TestNode {
    let mut config = EngineConfig::new(NodeId::new(1), dir);
    config.disk_watermark_bytes = 1 << 20;
    let node = TestNode::start(config, &Addresses::default()).await;
    node.engine.start_group(group).await.unwrap();
    node.engine
        .initialize_group(group, nodes(&[1]))
        .await
        .unwrap();
    node
}
