//! Streams of the feed over the metastore in memory: what arrives at a proxy, in whatever order its
//! reading, the changes and the cut-offs happen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use maia_common::cluster_key::ClusterKey;
use maia_common::ids::{ProxyId, RegionName};
use maia_common::limits;
use maia_common::position::Revision;
use maia_common::rpc::Rpc;
use maia_common::runtime::Tasks;
use maia_common::wire::feed as wire;
use maia_common::wire::feed::down::Kind;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::hub::Hub;
use super::image::Contents;
use super::message::parse;
use super::pulse::Pulse;
use super::stats::CutOff;
use super::stream::{End, ProxyStream, Shared};
use crate::core::keyspace;
use crate::core::metastore::Transaction;
use crate::metastore::memory::MemoryMetastore;
use crate::metastore::{Metastore, Outcome};
use crate::shell::cluster::{Cluster, ClusterLoop};
use crate::shell::peers::Directory;

pub(super) struct Field {
    pub(super) store: Arc<MemoryMetastore>,
    pub(super) hub: Arc<Hub>,
    pub(super) cluster: Cluster,
    pub(super) shared: Arc<Shared>,
    tasks: Tasks,
}

pub(super) fn placement(name: &str, version: u64) -> String {
    format!(
        r#"{{"tenant":"{name}","group":1,"version":{version},"state":"active","properties":{{}}}}"#
    )
}

impl Field {
    pub(super) fn start() -> Self {
        let store = Arc::<MemoryMetastore>::default();
        let (hub, tasks) = (Arc::<Hub>::default(), Tasks::new());
        let key = ClusterKey::from_secret("a secret of thirty-two characters");
        let directory = Arc::new(Directory::new(Rpc::plaintext(&key)));
        let (cluster_loop, cluster) =
            ClusterLoop::new(Arc::clone(&store) as _, directory, Arc::clone(&hub));
        tasks.spawn_until_stop("cluster loop", cluster_loop.run());
        let shared = Shared::new(Arc::clone(&hub), Arc::clone(&store) as _, cluster.clone());
        let shared = Arc::new(shared);
        Self {
            store,
            hub,
            cluster,
            shared,
            tasks,
        }
    }

    pub(super) async fn write(&self, transaction: Transaction) -> Revision {
        let deadline = Instant::now() + Duration::from_secs(5);
        match self.store.transact(transaction, deadline).await.unwrap() {
            Outcome::Committed(revision) => revision,
            Outcome::Conflict(_) => panic!("a conflict"),
        }
    }

    /// Places tenants `t0…` anew, all as one revision.
    pub(super) async fn place_all(&self, count: u64, version: u64) -> Revision {
        let id = format!("all-{version}");
        let names = (0..count).map(|n| format!("t{n}"));
        let transaction = names.fold(Transaction::new(id, 1), |transaction, name| {
            let value = placement(&name, version);
            transaction.put(format!("{}{name}", keyspace::TENANTS), value)
        });
        self.write(transaction).await
    }

    pub(super) async fn place(&self, name: &str, version: u64) -> Revision {
        let transaction = Transaction::new(format!("{name}-{version}"), 1);
        let key = format!("{}{name}", keyspace::TENANTS);
        self.write(transaction.put(key, placement(name, version)))
            .await
    }

    /// Waits until the hub has been told of the revision.
    pub(super) async fn told(&self, revision: Revision) {
        let deadline = Instant::now() + Duration::from_secs(5);
        let seen = self.cluster.wait_for(deadline, |s| s.revision >= revision);
        assert!(seen.await);
    }

    pub(super) fn join(&self, id: &str, last: Option<Revision>, contents: Contents) -> Client {
        self.join_at(id, last, contents, Revision::default())
    }

    /// `floor`: no snapshot is older.
    pub(super) fn join_at(
        &self,
        id: &str,
        last: Option<Revision>,
        contents: Contents,
        floor: Revision,
    ) -> Client {
        let (outbox, inbox) = mpsc::channel(limits::FEED_OUTBOX);
        let (ups, up) = mpsc::channel(64);
        let region = RegionName::new("a").unwrap();
        let stream = ProxyStream {
            shared: Arc::clone(&self.shared),
            seated: self.hub.enter(ProxyId::new(id).unwrap(), region).unwrap(),
            outbox,
            images: Arc::clone(match contents {
                Contents::Everything => &self.shared.everything,
                Contents::Topology => &self.shared.topology,
            }),
            floor,
        };
        let (told, end) = mpsc::channel(1);
        self.tasks.spawn("stream", async move {
            let end = stream.run(ReceiverStream::new(up), last).await;
            drop(told.try_send(end));
        });
        Client {
            inbox,
            ups,
            end,
            at: last.unwrap_or_default(),
            tenants: BTreeMap::new(),
            snapshots: 0,
            chunks: Vec::new(),
        }
    }

    pub(super) fn pulse(&self) -> Pulse {
        let shared = Arc::clone(&self.shared);
        Pulse::new(Arc::clone(&self.hub), move |now| shared.expire(now))
    }
}

/// A proxy that checks what it gets as a real one does.
pub(super) struct Client {
    pub(super) inbox: mpsc::Receiver<Bytes>,
    pub(super) ups: mpsc::Sender<Result<wire::Up, Status>>,
    pub(super) end: mpsc::Receiver<End>,
    pub(super) at: Revision,
    pub(super) tenants: BTreeMap<String, u64>,
    pub(super) snapshots: usize,
    chunks: Vec<Bytes>,
}

impl Client {
    pub(super) async fn next(&mut self) -> Option<()> {
        let soon = Duration::from_secs(60);
        let message = tokio::time::timeout(soon, self.inbox.recv()).await;
        let message = message.expect("something comes soon")?;
        match parse(&message) {
            Kind::SnapshotStart(start) => {
                assert!(start.revision >= self.at.get(), "never goes back");
                self.chunks.clear();
                self.tenants.clear();
                self.at = Revision::new(start.revision);
            }
            Kind::SnapshotChunk(chunk) => {
                assert_eq!(chunk.sequence, self.chunks.len() as u64);
                assert_eq!(chunk.crc32c, crc32c::crc32c(&chunk.changes));
                let changes = wire::Changes::decode(chunk.changes).unwrap();
                self.chunks.push(message);
                self.take(changes);
            }
            Kind::SnapshotEnd(end) => {
                assert_eq!(end.chunks, self.chunks.len() as u64);
                assert_eq!(end.tenants, self.tenants.len() as u64);
                self.snapshots += 1;
            }
            Kind::Delta(delta) => {
                assert!(delta.from_revision <= self.at.get(), "a gap");
                assert!(delta.revision > self.at.get(), "nothing new");
                self.at = Revision::new(delta.revision);
                self.take(delta.changes.unwrap());
                let revision = self.at.get();
                let kind = Some(wire::up::Kind::Applied(wire::Applied { revision }));
                drop(self.ups.try_send(Ok(wire::Up { kind })));
            }
            Kind::Hint(_) | Kind::Alive(_) => {}
        }
        Some(())
    }

    fn take(&mut self, changes: wire::Changes) {
        for tenant in changes.tenants {
            let before = self.tenants.insert(tenant.tenant, tenant.version);
            assert!(before.unwrap_or_default() <= tenant.version, "went back");
        }
        for name in changes.removed_tenants {
            self.tenants.remove(&name);
        }
    }

    pub(super) async fn reach(&mut self, revision: Revision) {
        while self.at < revision || self.snapshots == 0 {
            self.next().await.expect("the stream goes on");
        }
    }
}

#[tokio::test]
async fn all_that_come_at_once_share_one_image_and_its_bytes() {
    let field = Field::start();
    let revision = field.place_all(3000, 1).await;
    field.told(revision).await;
    let everything = Contents::Everything;
    let mut clients: Vec<Client> = (0..50)
        .map(|n| field.join(&format!("p{n}"), None, everything))
        .collect();
    for client in &mut clients {
        client.reach(revision).await;
        assert_eq!((client.tenants.len(), client.snapshots), (3000, 1));
    }
    assert_eq!(field.hub.stats().images().0, 1);
    assert_eq!(field.hub.stats().snapshots(), 50);
    let first: Vec<*const u8> = clients[0].chunks.iter().map(|c| c.as_ptr()).collect();
    let last: Vec<*const u8> = clients[49].chunks.iter().map(|c| c.as_ptr()).collect();
    assert_eq!(first, last, "shared, not copied");
    assert_eq!(first.len(), 3, "topology, and two chunks of tenants");
}

#[tokio::test]
async fn topology_alone_has_no_tenants_and_the_same_deltas() {
    let field = Field::start();
    let revision = field.place_all(10, 1).await;
    field.told(revision).await;
    let mut client = field.join("p", None, Contents::Topology);
    client.reach(revision).await;
    assert!(client.tenants.is_empty());
    let revision = field.place("t3", 2).await;
    client.reach(revision).await;
    assert_eq!(client.tenants.get("t3"), Some(&2));
}

/// The ring overflows while the snapshot is on a slow link: the history has what came meanwhile.
#[tokio::test]
async fn a_slow_link_finishes_its_snapshot_while_changes_come_in() {
    let field = Field::start();
    for part in 0..8 {
        let names = (part * 4000..(part + 1) * 4000).map(|n| format!("t{n}"));
        let start = Transaction::new(format!("fill-{part}"), 1);
        let fill = names.fold(start, |transaction, name| {
            let value = placement(&name, 1);
            transaction.put(format!("{}{name}", keyspace::TENANTS), value)
        });
        let revision = field.write(fill).await;
        field.told(revision).await;
    }
    let mut client = field.join("p", None, Contents::Everything);
    client.next().await.expect("the start");
    let begun = client.at;
    let changes = limits::FEED_BACKLOG_DELTAS as u64 * 2;
    let mut newest = Revision::default();
    for n in 0..changes {
        newest = field.place("t7", 100 + n).await;
    }
    field.told(newest).await;
    client.reach(newest).await;
    assert!(begun < newest);
    assert_eq!(client.snapshots, 1, "one was enough");
    assert_eq!(client.tenants["t7"], 100 + changes - 1);
    assert_eq!(client.tenants.len(), 32_000);
    assert_eq!(field.hub.stats().snapshots(), 1);
    let newest = field.place("t8", 200).await;
    client.reach(newest).await;
    assert_eq!(client.tenants["t8"], 200, "and it is live");
}

#[tokio::test]
async fn one_that_stood_still_goes_on_from_the_history() {
    let field = Field::start();
    let revision = field.place_all(10, 1).await;
    field.told(revision).await;
    let mut client = field.join("p", None, Contents::Everything);
    client.reach(revision).await;
    let mut newest = revision;
    for n in 0..limits::FEED_BACKLOG_DELTAS as u64 * 3 {
        newest = field.place("t1", 2 + n).await;
        if n % 64 == 0 {
            field.told(newest).await;
        }
    }
    field.told(newest).await;
    client.reach(newest).await;
    assert_eq!(client.snapshots, 1);
    assert!(client.end.try_recv().is_err(), "it was not cut off");
}

#[tokio::test]
async fn one_that_comes_back_gets_what_it_missed_and_no_snapshot() {
    let field = Field::start();
    let revision = field.place_all(10, 1).await;
    field.told(revision).await;
    let mut newest = field.place("t1", 2).await;
    for n in 0..20 {
        newest = field.place("t2", 2 + n).await;
    }
    field.told(newest).await;
    let mut client = field.join("p", Some(revision), Contents::Everything);
    while client.at < newest {
        client.next().await.expect("the stream goes on");
    }
    assert_eq!(client.snapshots, 0);
    assert_eq!((client.tenants["t1"], client.tenants["t2"]), (2, 21));
    assert_eq!(client.tenants.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_that_reads_nothing_is_cut_off_and_the_others_go_on() {
    let field = Field::start();
    let revision = field.place_all(10, 1).await;
    field.told(revision).await;
    let mut still = field.join("still", None, Contents::Everything);
    let mut lively = field.join("lively", None, Contents::Everything);
    still.reach(revision).await;
    lively.reach(revision).await;
    let mut newest = revision;
    for n in 0..100 {
        newest = field.place("t1", 2 + n).await;
        lively.reach(newest).await;
    }
    let end = still.end.recv().await.expect("it ends");
    assert!(matches!(end, End::CutOff(CutOff::Slow)), "{end:?}");
    newest = field.place("t1", 500).await.max(newest);
    lively.reach(newest).await;
    assert_eq!(field.hub.count(), 1);
}

#[tokio::test]
async fn one_that_acknowledges_nothing_is_cut_off_by_the_pulse() {
    let field = Field::start();
    let revision = field.place_all(10, 1).await;
    field.told(revision).await;
    let mut silent = field.join("silent", Some(revision), Contents::Everything);
    let newest = field.place("t1", 2).await;
    let mut pulse = field.pulse();
    // Its acknowledgement is lost on the way.
    let (lost, _) = mpsc::channel(1);
    let ups = std::mem::replace(&mut silent.ups, lost);
    while silent.at < newest {
        silent.next().await.expect("the stream goes on");
    }
    let later = Instant::now() + limits::FEED_PATIENCE;
    pulse.beat(true, Instant::now());
    assert!(silent.end.recv().now_or_never().is_none());
    pulse.beat(true, later);
    let end = silent.end.recv().await.expect("it ends");
    assert!(
        matches!(end, End::CutOff(CutOff::Unacknowledged)),
        "{end:?}"
    );
    drop(ups);
}

#[tokio::test]
async fn a_second_stream_under_one_id_ends_the_first() {
    let field = Field::start();
    let revision = field.place_all(10, 1).await;
    field.told(revision).await;
    let mut first = field.join("p", None, Contents::Everything);
    first.reach(revision).await;
    let mut second = field.join("p", None, Contents::Everything);
    let end = first.end.recv().await.expect("it ends");
    assert!(matches!(end, End::CutOff(CutOff::Replaced)), "{end:?}");
    second.reach(revision).await;
    assert_eq!(field.hub.count(), 1);
    drop(second);
}

/// A stream whose proxy is gone ends by itself, wherever it stands.
#[tokio::test]
async fn a_proxy_that_goes_leaves_its_seat() {
    let field = Field::start();
    let revision = field.place_all(10, 1).await;
    field.told(revision).await;
    let mut client = field.join("p", None, Contents::Everything);
    client.reach(revision).await;
    let Client {
        mut end,
        ups,
        inbox,
        ..
    } = client;
    drop((ups, inbox));
    let ended = end.recv().await.expect("it ends");
    assert!(matches!(ended, End::Gone), "{ended:?}");
    assert_eq!(field.hub.count(), 0);
}
