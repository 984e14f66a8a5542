//! The sending side over gRPC. Two connections per node: control (votes, heartbeats, transfers) and
//! bulk (entries, snapshots), each driven by its own runtime, so that data load never looks like
//! a death. Keepalive notices a peer that is gone without a word.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use maia_common::rpc::{Rpc, RpcChannel, Target};
use maia_common::wire::raft::{self as wire, raft_client::RaftClient};
use maia_common::{NodeId, limits};
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use tokio::runtime::Handle;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use super::super::codec;
use super::super::snapshot::SnapshotFile;
use super::super::types::{RaftSnapshot, RaftVote, TypeConfig};
use super::messages;
use super::{Answer, Route, Transport, TransportError, VoteKind};

type Client = RaftClient<RpcChannel>;

/// Bytes of a snapshot in one message.
const SNAPSHOT_PART_BYTES: usize = 1 << 20;

/// Where nodes listen for gRPC. Addresses may change at any time; the next message goes to the new
/// one.
pub trait PeerDirectory: Send + Sync + 'static {
    /// The node's `host:port`, or none while it is not known.
    fn address(&self, node: NodeId) -> Option<String>;

    /// How this node speaks to others.
    fn rpc(&self) -> &Rpc;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Lane {
    Control,
    Bulk,
}

struct Connection {
    address: String,
    client: Client,
}

/// The gRPC transport.
pub(crate) struct GrpcTransport {
    peers: Arc<dyn PeerDirectory>,
    control: Handle,
    bulk: Handle,
    heartbeat: Duration,
    connections: Mutex<HashMap<(NodeId, Lane), Connection>>,
}

#[derive(Clone)]
struct OnRuntime(Handle);

impl<F> hyper::rt::Executor<F> for OnRuntime
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        // Owned by the runtime, which ends with the engine.
        drop(self.0.spawn(task));
    }
}

impl GrpcTransport {
    pub(crate) fn new(
        peers: Arc<dyn PeerDirectory>,
        control: Handle,
        bulk: Handle,
        heartbeat: Duration,
    ) -> Self {
        Self {
            peers,
            control,
            bulk,
            heartbeat,
            connections: Mutex::default(),
        }
    }

    /// The client for a node; a new connection when its address has changed.
    fn client(&self, node: NodeId, lane: Lane) -> Result<Client, TransportError> {
        let unreachable = |reason: String| TransportError::Unreachable { node, reason };
        let address = self
            .peers
            .address(node)
            .ok_or_else(|| unreachable("its address is not known".to_owned()))?;
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = connections.get(&(node, lane))
            && known.address == address
        {
            return Ok(known.client.clone());
        }
        let client = self
            .connect(node, &address, lane)
            .map_err(|e| unreachable(e.to_string()))?;
        let connection = Connection {
            address,
            client: client.clone(),
        };
        connections.insert((node, lane), connection);
        Ok(client)
    }

    fn connect(
        &self,
        node: NodeId,
        address: &str,
        lane: Lane,
    ) -> Result<Client, tonic::transport::Error> {
        let runtime = match lane {
            Lane::Control => &self.control,
            Lane::Bulk => &self.bulk,
        };
        let keepalive = self.heartbeat.max(Duration::from_millis(250)) * 4;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .executor(OnRuntime(runtime.clone()))
            .connect_timeout(keepalive)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(keepalive)
            .keep_alive_timeout(keepalive)
            .keep_alive_while_idle(true);
        let _inside = runtime.enter();
        let channel = self.peers.rpc().connect_lazy(&endpoint, Target::Node(node));
        Ok(RaftClient::new(channel)
            .max_decoding_message_size(limits::MAX_RPC_BYTES)
            .max_encoding_message_size(limits::MAX_RPC_BYTES))
    }
}

/// Waits for an answer, but not for ever.
async fn answered<T>(
    node: NodeId,
    timeout: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, TransportError> {
    match tokio::time::timeout(timeout, call).await {
        Err(_) => Err(TransportError::Timeout {
            node,
            waited: timeout,
        }),
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(refused(node, &status)),
    }
}

fn refused(node: NodeId, status: &Status) -> TransportError {
    let reason = status.message().to_owned();
    match status.code() {
        Code::NotFound | Code::FailedPrecondition | Code::InvalidArgument | Code::Aborted => {
            TransportError::Refused { node, reason }
        }
        _ => TransportError::Unreachable { node, reason },
    }
}

fn garbled(node: NodeId, error: &codec::CodecError) -> TransportError {
    TransportError::Refused {
        node,
        reason: format!("illegible answer: {error}"),
    }
}

impl Transport for GrpcTransport {
    fn append(
        &self,
        route: Route,
        request: AppendEntriesRequest<TypeConfig>,
        timeout: Duration,
    ) -> Answer<'_, openraft::raft::AppendEntriesResponse<TypeConfig>> {
        let lane = if request.entries.is_empty() {
            Lane::Control
        } else {
            Lane::Bulk
        };
        async move {
            let mut client = self.client(route.to, lane)?;
            let message = messages::append_request(route, &request);
            let reply = answered(route.to, timeout, client.append(message)).await?;
            messages::append_response(reply).map_err(|e| garbled(route.to, &e))
        }
        .boxed()
    }

    fn vote(
        &self,
        route: Route,
        kind: VoteKind,
        request: VoteRequest<TypeConfig>,
        timeout: Duration,
    ) -> Answer<'_, openraft::raft::VoteResponse<TypeConfig>> {
        async move {
            let mut client = self.client(route.to, Lane::Control)?;
            let message = messages::vote_request(route, kind, &request);
            let reply = answered(route.to, timeout, client.vote(message)).await?;
            messages::vote_response(reply).map_err(|e| garbled(route.to, &e))
        }
        .boxed()
    }

    fn transfer(
        &self,
        route: Route,
        request: TransferLeaderRequest<TypeConfig>,
        timeout: Duration,
    ) -> Answer<'_, openraft::raft::TransferLeaderResponse<TypeConfig>> {
        async move {
            let mut client = self.client(route.to, Lane::Control)?;
            let message = messages::transfer_request(route, &request);
            let reply = answered(route.to, timeout, client.transfer(message)).await?;
            messages::transfer_response(&request, reply).map_err(|e| garbled(route.to, &e))
        }
        .boxed()
    }

    fn snapshot(
        &self,
        route: Route,
        vote: RaftVote,
        snapshot: RaftSnapshot,
        timeout: Duration,
    ) -> Answer<'_, openraft::raft::SnapshotResponse<TypeConfig>> {
        async move {
            let mut client = self.client(route.to, Lane::Bulk)?;
            let head = messages::snapshot_head(route, &vote, &snapshot).map_err(|e| {
                TransportError::Refused {
                    node: route.to,
                    reason: e.to_string(),
                }
            })?;
            let parts = parts(head, snapshot.snapshot);
            let reply = answered(route.to, timeout, client.install_snapshot(parts)).await?;
            messages::snapshot_response(&reply).map_err(|e| garbled(route.to, &e))
        }
        .boxed()
    }
}

/// The head, then the file in parts. A file that cannot be read ends the stream early: the receiver
/// finds it incomplete.
fn parts(
    head: wire::SnapshotHead,
    file: SnapshotFile,
) -> impl futures::Stream<Item = wire::SnapshotPart> + Send + 'static {
    use wire::snapshot_part::What;
    let length = head.length_bytes;
    let head = wire::SnapshotPart {
        what: Some(What::Head(head)),
    };
    let data = futures::stream::unfold(0u64, move |offset| {
        let file = file.clone();
        async move {
            let left = usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX);
            if left == 0 {
                return None;
            }
            let mut part = vec![0; left.min(SNAPSHOT_PART_BYTES)];
            let read = tokio::task::spawn_blocking(move || {
                file.file.read_exact_at(&mut part, offset).map(|()| part)
            });
            let part = Bytes::from(read.await.ok()?.ok()?);
            let next = offset + part.len() as u64;
            Some((
                wire::SnapshotPart {
                    what: Some(What::Data(part)),
                },
                next,
            ))
        }
    });
    futures::stream::once(async { head }).chain(data)
}
