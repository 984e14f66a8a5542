//! A coordinator's feed, without a coordinator.

use std::collections::VecDeque;
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
    /// Whether a snapshot begins with the number of its tenants.
    pub tells_how_many: bool,
    /// How long a subscriber waits for its first message.
    pub delay: Duration,
    /// Streams end after their snapshot.
    pub ends: bool,
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

fn chunk(sequence: u64, changes: &wire::Changes) -> wire::Down {
    let changes = bytes::Bytes::from(changes.encode_to_vec());
    down(Kind::SnapshotChunk(wire::SnapshotChunk {
        sequence,
        crc32c: crc32c::crc32c(&changes),
        changes,
    }))
}

impl World {
    fn answer(&self, name: &str) -> wire::LookupAnswer {
        let mut tenants = self.changes.tenants.iter();
        wire::LookupAnswer {
            generation: 1,
            revision: self.revision,
            tenant: tenants.find(|t| t.tenant == name).cloned(),
        }
    }

    /// Regions a, b, c. Tenants: `here` (a; b, led in a at term 7), `there` (b; a, led in b),
    /// `away` (b; c, led in b), `lost` (a; b, leaderless), `moving` (as `here`, but held).
    pub fn three_regions() -> Self {
        let mut moving = tenant("moving", 1);
        moving.holding = true;
        Self {
            revision: 10,
            tells_how_many: true,
            delay: Duration::ZERO,
            ends: false,
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
    lookups: Vec<wire::LookupRequest>,
    /// Committed and not told yet, in the order of revisions.
    untold: VecDeque<wire::Delta>,
    /// Whether lookups are left without an answer.
    hangs: bool,
}

/// The second lock is the turn to tell: what was committed first is told first.
#[derive(Clone, Default)]
struct Service(Arc<Mutex<Shared>>, Arc<tokio::sync::Mutex<()>>);

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
        Self::start_at("127.0.0.1:0".parse().unwrap(), world).await
    }

    pub async fn start_at(address: SocketAddr, world: World) -> Self {
        // One that was stopped there may be on its way out.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        let listener = loop {
            match tokio::net::TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(e) => assert!(tokio::time::Instant::now() < deadline, "{address}: {e}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
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
                let message = wire::Alive {
                    revision,
                    leaderless: false,
                };
                alive.push(Kind::Alive(message)).await;
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

    /// The lookups so far.
    pub fn lookups(&self) -> Vec<wire::LookupRequest> {
        self.service.0.lock().unwrap().lookups.clone()
    }

    /// From now on lookups get no answer, or get one.
    pub fn hang(&self, hangs: bool) {
        self.service.0.lock().unwrap().hangs = hangs;
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
        let revision = self.service.commit(changes);
        self.service.tell_next().await;
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
    fn commit(&self, changes: wire::Changes) -> u64 {
        let mut shared = self.0.lock().unwrap();
        let from_revision = shared.world.revision;
        shared.world.revision += 1;
        merge(&mut shared.world.changes, &changes);
        shared.untold.push_back(wire::Delta {
            from_revision,
            revision: from_revision + 1,
            committed_unix_us: now_us(),
            changes: Some(changes),
        });
        from_revision + 1
    }

    /// Tells the oldest change that was not told yet.
    async fn tell_next(&self) {
        let _turn = self.1.lock().await;
        let next = self.0.lock().unwrap().untold.pop_front();
        if let Some(delta) = next {
            self.push(Kind::Delta(delta)).await;
        }
    }

    async fn push(&self, kind: Kind) {
        let subscribers = self.0.lock().unwrap().subscribers.clone();
        for subscriber in subscribers {
            let _gone = subscriber.send(Ok(down(kind.clone()))).await;
        }
    }

    fn snapshot(world: &World, topology_only: bool) -> Vec<wire::Down> {
        let all: &[wire::Tenant] = if topology_only {
            &[]
        } else {
            &world.changes.tenants
        };
        let tenants = all.len() as u64;
        let start = wire::SnapshotStart {
            generation: 1,
            revision: world.revision,
            tenants: if world.tells_how_many { tenants } else { 0 },
        };
        let mut messages = vec![down(Kind::SnapshotStart(start))];
        let topology = wire::Changes {
            regions: world.changes.regions.clone(),
            groups: world.changes.groups.clone(),
            ..Default::default()
        };
        messages.push(chunk(0, &topology));
        for tenants in all.chunks(2048) {
            let changes = wire::Changes {
                tenants: tenants.to_vec(),
                ..Default::default()
            };
            messages.push(chunk(messages.len() as u64 - 1, &changes));
        }
        let chunks = messages.len() as u64 - 1;
        messages.push(down(Kind::SnapshotEnd(wire::SnapshotEnd {
            chunks,
            tenants,
        })));
        messages
    }
}

#[tonic::async_trait]
impl feed_server::Feed for Service {
    type SubscribeStream = Pin<Box<dyn tokio_stream::Stream<Item = Down> + Send>>;

    async fn lookup(
        &self,
        request: Request<wire::LookupRequest>,
    ) -> Result<Response<wire::LookupAnswer>, Status> {
        let request = request.into_inner();
        let (mut answer, hangs) = {
            let mut shared = self.0.lock().unwrap();
            shared.lookups.push(request.clone());
            (shared.world.answer(&request.tenant), shared.hangs)
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        if answer.tenant.is_none() && !request.create_under.is_empty() {
            let changes = wire::Changes {
                tenants: vec![tenant(&request.tenant, 1)],
                ..Default::default()
            };
            // The answer comes before the delta does: the proxy waits for it.
            self.commit(changes);
            answer = self.0.lock().unwrap().world.answer(&request.tenant);
            let service = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                service.tell_next().await;
            });
        }
        Ok(Response::new(answer))
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
        let delay = self.0.lock().unwrap().world.delay;
        tokio::time::sleep(delay).await;
        let receiver = {
            let mut shared = self.0.lock().unwrap();
            let topology_only = matches!(
                &hello.kind,
                Some(wire::up::Kind::Hello(hello)) if hello.topology_only
            );
            shared.heard.push(hello);
            let snapshot = Self::snapshot(&shared.world, topology_only);
            let (sender, receiver) = mpsc::channel(256 + snapshot.len());
            for message in snapshot {
                sender.try_send(Ok(message)).unwrap();
            }
            if !shared.world.ends {
                shared.subscribers.push(sender);
            }
            receiver
        };
        let shared = Arc::clone(&self.0);
        tokio::spawn(async move {
            while let Ok(Some(message)) = up.message().await {
                shared.lock().unwrap().heard.push(message);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
