//! A coordinator's feed, without a coordinator.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use maia_common::cluster_key::ClusterKey;
use maia_common::wire::feed::{self as wire, down::Kind, feed_server};
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// What the coordinator knows.
#[derive(Debug, Clone, Default)]
pub struct World {
    pub revision: u64,
    pub changes: wire::Changes,
}

pub fn region(name: &str, url: &str) -> wire::Region {
    wire::Region {
        name: name.into(),
        public_url: url.into(),
        priority: 1,
        state: "active".into(),
    }
}

pub fn group(id: u64, regions: &[&str], leader: Option<(u64, &str)>) -> wire::Group {
    wire::Group {
        group: id,
        home_region: regions[0].into(),
        regions: regions.iter().map(|r| (*r).to_owned()).collect(),
        mode: if regions.len() == 1 {
            "single"
        } else {
            "replicated"
        }
        .into(),
        leader: leader.map(|(term, region)| wire::Leader {
            term,
            node: term,
            region: region.into(),
        }),
    }
}

pub fn tenant(name: &str, group: u64) -> wire::Tenant {
    wire::Tenant {
        tenant: name.into(),
        group,
        version: 4,
        holding: false,
        write_routing: String::new(),
    }
}

impl World {
    /// Regions a, b, c. Tenants: `here` (a; b, led in a at term 7), `there` (b; a, led in b),
    /// `away` (b; c, led in b), `lost` (a; b, leaderless), `moving` (as `here`, but held).
    pub fn three_regions() -> Self {
        let mut moving = tenant("moving", 1);
        moving.holding = true;
        Self {
            revision: 10,
            changes: wire::Changes {
                regions: vec![
                    region("a", "http://a.example"),
                    region("b", "http://b.example/base"),
                    region("c", "http://c.example"),
                ],
                groups: vec![
                    group(1, &["a", "b"], Some((7, "a"))),
                    group(2, &["b", "a"], Some((7, "b"))),
                    group(3, &["b", "c"], Some((7, "b"))),
                    group(4, &["a", "b"], None),
                ],
                tenants: vec![
                    tenant("here", 1),
                    tenant("there", 2),
                    tenant("away", 3),
                    tenant("lost", 4),
                    moving,
                ],
                ..Default::default()
            },
        }
    }
}

type Down = Result<wire::Down, Status>;

#[derive(Default)]
struct Shared {
    world: World,
    subscribers: Vec<mpsc::Sender<Down>>,
    heard: Vec<wire::Up>,
}

#[derive(Clone, Default)]
struct Service(Arc<Mutex<Shared>>);

pub struct Coordinator {
    pub address: SocketAddr,
    service: Service,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn down(kind: Kind) -> wire::Down {
    wire::Down { kind: Some(kind) }
}

pub fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_micros() as u64
}

impl Coordinator {
    pub async fn start(world: World) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = Service::default();
        service.0.lock().unwrap().world = world;
        let check = ClusterKey::from_secret(super::KEY).interceptor().check();
        let server = feed_server::FeedServer::with_interceptor(service.clone(), check);
        let serving = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let _ = tonic::transport::Server::builder()
                .add_service(server)
                .serve_with_incoming(incoming)
                .await;
        });
        let alive = service.clone();
        let ticking = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let revision = alive.0.lock().unwrap().world.revision;
                let kind = Kind::Alive(wire::Alive {
                    revision,
                    ..wire::Alive::default()
                });
                alive.push(kind).await;
            }
        });
        Self {
            address,
            service,
            tasks: vec![serving, ticking],
        }
    }

    /// Ends as a process does: connections break off.
    pub fn stop(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
        self.service.0.lock().unwrap().subscribers.clear();
    }

    /// Stays connected and says nothing any more.
    pub fn fall_silent(&mut self) {
        self.tasks.pop().unwrap().abort();
    }

    pub fn subscribers(&self) -> usize {
        let shared = self.service.0.lock().unwrap();
        shared.subscribers.iter().filter(|s| !s.is_closed()).count()
    }

    pub fn heard(&self) -> Vec<wire::Up> {
        self.service.0.lock().unwrap().heard.clone()
    }

    pub async fn hint(&self, group: u64, term: u64, region: &str, leaderless: bool) {
        let hint = wire::Hint {
            generation: 1,
            group,
            term,
            node: term,
            region: region.into(),
            leaderless,
        };
        self.service.push(Kind::Hint(hint)).await;
    }

    /// Commits changes and tells them.
    pub async fn commit(&self, changes: wire::Changes) -> u64 {
        let delta = {
            let mut shared = self.service.0.lock().unwrap();
            let from_revision = shared.world.revision;
            shared.world.revision += 1;
            merge(&mut shared.world.changes, &changes);
            wire::Delta {
                from_revision,
                revision: from_revision + 1,
                committed_unix_us: now_us(),
                changes: Some(changes),
            }
        };
        let revision = delta.revision;
        self.service.push(Kind::Delta(delta)).await;
        revision
    }

    pub async fn tell(&self, kind: Kind) {
        self.service.push(kind).await;
    }
}

fn merge(world: &mut wire::Changes, changes: &wire::Changes) {
    for group in &changes.groups {
        world.groups.retain(|g| g.group != group.group);
        world.groups.push(group.clone());
    }
    for tenant in &changes.tenants {
        world.tenants.retain(|t| t.tenant != tenant.tenant);
        world.tenants.push(tenant.clone());
    }
    world
        .tenants
        .retain(|t| !changes.removed_tenants.contains(&t.tenant));
}

impl Service {
    async fn push(&self, kind: Kind) {
        let subscribers = self.0.lock().unwrap().subscribers.clone();
        for subscriber in subscribers {
            let _gone = subscriber.send(Ok(down(kind.clone()))).await;
        }
    }

    fn snapshot(world: &World) -> Vec<wire::Down> {
        let encoded = bytes::Bytes::from(world.changes.encode_to_vec());
        vec![
            down(Kind::SnapshotStart(wire::SnapshotStart {
                generation: 1,
                revision: world.revision,
                ..wire::SnapshotStart::default()
            })),
            down(Kind::SnapshotChunk(wire::SnapshotChunk {
                sequence: 0,
                crc32c: crc32c::crc32c(&encoded),
                changes: encoded,
            })),
            down(Kind::SnapshotEnd(wire::SnapshotEnd {
                chunks: 1,
                tenants: world.changes.tenants.len() as u64,
            })),
        ]
    }
}

#[tonic::async_trait]
impl feed_server::Feed for Service {
    type SubscribeStream = Pin<Box<dyn tokio_stream::Stream<Item = Down> + Send>>;

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
        let mut up = request.into_inner();
        let hello = up
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("no hello"))?;
        let (sender, receiver) = mpsc::channel(256);
        {
            let mut shared = self.0.lock().unwrap();
            shared.heard.push(hello);
            for message in Self::snapshot(&shared.world) {
                sender.try_send(Ok(message)).unwrap();
            }
            shared.subscribers.push(sender);
        }
        let shared = Arc::clone(&self.0);
        tokio::spawn(async move {
            while let Ok(Some(message)) = up.message().await {
                shared.lock().unwrap().heard.push(message);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
