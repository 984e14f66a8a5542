//! A coordinator's feed for one proxy, without a coordinator: one snapshot, then signs of life.
//! Started by the stage; lives on a runtime of its own.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use maia_common::cluster_key::ClusterKey;
use maia_common::limits::FEED_CHUNK_TENANTS;
use maia_common::wire::feed::{self as wire, down::Kind, feed_server};
use prost::Message;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

const REVISION: u64 = 1;
const ALIVE_EVERY: Duration = Duration::from_millis(500);
/// All of a snapshot's messages fit.
const QUEUE: usize = 1024;

type Down = Result<wire::Down, Status>;

struct Service {
    snapshot: Arc<Vec<wire::Down>>,
}

/// The feed; it ends with this.
pub struct Feed {
    /// Where proxies subscribe.
    pub address: SocketAddr,
    _runtime: Runtime,
}

impl Feed {
    /// Serves `changes` as the one snapshot.
    pub fn start(changes: wire::Changes, secret: &str) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let service = Service {
            snapshot: Arc::new(snapshot(changes)),
        };
        let check = ClusterKey::from_secret(secret).interceptor().check();
        let server = feed_server::FeedServer::with_interceptor(service, check);
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(server)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Ok(Self {
            address,
            _runtime: runtime,
        })
    }
}

fn down(kind: Kind) -> wire::Down {
    wire::Down { kind: Some(kind) }
}

/// Topology in the first chunk, tenants in the further ones.
fn snapshot(mut changes: wire::Changes) -> Vec<wire::Down> {
    let tenants = std::mem::take(&mut changes.tenants);
    let count = tenants.len() as u64;
    let mut parts = vec![changes];
    parts.extend(
        tenants
            .chunks(FEED_CHUNK_TENANTS)
            .map(|tenants| wire::Changes {
                tenants: tenants.to_vec(),
                ..Default::default()
            }),
    );
    let chunks = parts.len() as u64;
    let mut messages = vec![down(Kind::SnapshotStart(wire::SnapshotStart {
        generation: 1,
        revision: REVISION,
        tenants: 0,
    }))];
    for (sequence, part) in parts.iter().enumerate() {
        let changes = bytes::Bytes::from(part.encode_to_vec());
        messages.push(down(Kind::SnapshotChunk(wire::SnapshotChunk {
            sequence: sequence as u64,
            crc32c: crc32c::crc32c(&changes),
            changes,
        })));
    }
    messages.push(down(Kind::SnapshotEnd(wire::SnapshotEnd {
        chunks,
        tenants: count,
    })));
    messages
}

#[tonic::async_trait]
impl feed_server::Feed for Service {
    type SubscribeStream = Pin<Box<dyn tokio_stream::Stream<Item = Down> + Send>>;

    async fn lookup(
        &self,
        _request: Request<wire::LookupRequest>,
    ) -> Result<Response<wire::LookupAnswer>, Status> {
        Err(Status::unimplemented("the snapshot has all tenants"))
    }

    async fn subscribe(
        &self,
        request: Request<Streaming<wire::Up>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut up = request.into_inner();
        let (sender, receiver) = mpsc::channel(QUEUE);
        let snapshot = Arc::clone(&self.snapshot);
        tokio::spawn(async move {
            for message in snapshot.iter() {
                if sender.send(Ok(message.clone())).await.is_err() {
                    return;
                }
            }
            loop {
                let alive = down(Kind::Alive(wire::Alive {
                    revision: REVISION,
                    leaderless: false,
                }));
                if sender.send(Ok(alive)).await.is_err() {
                    return;
                }
                tokio::time::sleep(ALIVE_EVERY).await;
            }
        });
        // Acks are read, so that they don't fill the stream.
        tokio::spawn(async move { while let Ok(Some(_)) = up.message().await {} });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
