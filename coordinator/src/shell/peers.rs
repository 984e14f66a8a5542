//! Asking other coordinators: one channel for each, made when first needed, addresses looked up in
//! the directory. Every call has a deadline. A call that may have reached the other side and was not
//! answered is told apart from one that did not.

pub(super) mod quarantine;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, NodeId};
use maia_common::limits;
use maia_common::position::{Index, Position, Term};
use maia_common::rpc::{ConnectError, Rpc, RpcChannel, Target};
use maia_common::wire::peer::{self as wire, peer_client::PeerClient};
use tonic::transport::Endpoint;

use super::data::{Query, Served, remote_read};
use crate::metastore::raft::Proposed;
use crate::raft::{PeerDirectory, StateDigest};

type Client = PeerClient<RpcChannel>;

/// Where every node's gRPC listener is: first from the configuration, then from the metastore. And
/// how this node speaks to it.
pub struct Directory {
    addresses: RwLock<BTreeMap<NodeId, String>>,
    rpc: Rpc,
}

impl Directory {
    /// A directory without nodes.
    #[must_use]
    pub fn new(rpc: Rpc) -> Self {
        Self {
            addresses: RwLock::default(),
            rpc,
        }
    }

    /// Sets a node's `host:port`.
    pub fn set(&self, node: NodeId, rpc_addr: String) {
        self.addresses
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(node, rpc_addr);
    }
}

impl PeerDirectory for Directory {
    fn address(&self, node: NodeId) -> Option<String> {
        self.addresses
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&node)
            .cloned()
    }

    fn rpc(&self) -> &Rpc {
        &self.rpc
    }
}

/// Why a peer gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It does not lead; perhaps this node does.
    #[error("the asked node does not lead")]
    NotLeader {
        /// Who it thinks leads.
        leader: Option<NodeId>,
    },
    /// The request was certainly not carried out.
    #[error("the node can't be reached")]
    Unreachable,
    /// It refused, and nothing happened.
    #[error("{detail}")]
    Refused {
        /// Why, for programs.
        code: ErrorCode,
        /// Why, for people.
        detail: String,
    },
    /// It may have carried the request out.
    #[error("the node did not answer: the outcome is unknown")]
    OutcomeUnknown,
}

/// A proposal's answer from another node.
#[derive(Debug, Clone)]
pub struct RemoteApplied {
    /// The encoded outcome.
    pub outcome: Bytes,
    /// Where it stands in the log.
    pub position: Position,
    /// Nodes that hold it durably.
    pub durable_on: Vec<NodeId>,
    /// Whether these are fewer copies than the tenant asks for.
    pub degraded: bool,
}

/// Channels to the other coordinators.
pub struct Peers {
    directory: Arc<Directory>,
    clients: Mutex<BTreeMap<NodeId, (String, Client)>>,
}

impl Peers {
    /// Nodes are found through `directory`.
    #[must_use]
    pub fn new(directory: Arc<Directory>) -> Self {
        Self {
            directory,
            clients: Mutex::default(),
        }
    }

    fn client(&self, node: NodeId) -> Result<Client, PeerError> {
        let address = self.directory.address(node).ok_or(PeerError::Unreachable)?;
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, client)) = clients.get(&node)
            && *known == address
        {
            return Ok(client.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| PeerError::Unreachable)?
            .connect_timeout(Duration::from_millis(500))
            .http2_keep_alive_interval(Duration::from_secs(1))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        let channel = self
            .directory
            .rpc
            .connect_lazy(&endpoint, Target::Node(node));
        let client = PeerClient::new(channel)
            .max_decoding_message_size(limits::MAX_RPC_BYTES)
            .max_encoding_message_size(limits::MAX_RPC_BYTES);
        clients.insert(node, (address, client.clone()));
        Ok(client)
    }

    /// Passes a metastore transaction to a node that should lead group 0.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn transact(
        &self,
        node: NodeId,
        transaction: Bytes,
        deadline: Instant,
    ) -> Result<Proposed, PeerError> {
        let mut client = self.client(node)?;
        let request = wire::TransactRequest {
            transaction,
            hops: 1,
            timeout_ms: left_ms(deadline),
        };
        let reply = call(deadline, client.transact(request)).await?;
        refusal(reply.refusal)?;
        Ok(Proposed {
            outcome: reply.outcome,
            position: position(reply.term, reply.index),
        })
    }

    /// Passes a data record to a node that should lead its group.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn propose(
        &self,
        node: NodeId,
        group: GroupId,
        record: Bytes,
        deadline: Instant,
    ) -> Result<RemoteApplied, PeerError> {
        let mut client = self.client(node)?;
        let request = wire::ProposeRequest {
            group: group.get(),
            record,
            hops: 1,
            timeout_ms: left_ms(deadline),
        };
        let reply = call(deadline, client.propose(request)).await?;
        refusal(reply.refusal)?;
        Ok(RemoteApplied {
            outcome: reply.outcome,
            position: position(reply.term, reply.index),
            durable_on: reply.durable_on.into_iter().map(NodeId::new).collect(),
            degraded: reply.degraded,
        })
    }

    /// Asks a leader up to where a linearizable read must have been applied.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn read_index(
        &self,
        node: NodeId,
        group: GroupId,
        deadline: Instant,
    ) -> Result<Position, PeerError> {
        let mut client = self.client(node)?;
        let request = wire::ReadIndexRequest {
            group: group.get(),
            timeout_ms: left_ms(deadline),
        };
        let reply = call(deadline, client.read_index(request)).await?;
        refusal(reply.refusal)?;
        Ok(position(reply.term, reply.index))
    }

    /// Reads from a leader's copy, once it has the position.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn read(
        &self,
        node: NodeId,
        group: GroupId,
        query: &Query,
        position: Option<Position>,
        deadline: Instant,
    ) -> Result<Served, PeerError> {
        let mut client = self.client(node)?;
        let request = remote_read::request(group, query, position, left_ms(deadline));
        let reply = call(deadline, client.read(request)).await?;
        refusal(reply.refusal.clone())?;
        // What can't be read was not made by a coordinator of this version.
        remote_read::served(reply).ok_or(PeerError::Unreachable)
    }

    /// Asks for the digest of a group's state as applied by a node: as it is, or as of an index that is yet to
    /// be applied there, for which the node waits so long.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn digest(
        &self,
        node: NodeId,
        group: GroupId,
        at: Option<(Index, Duration)>,
        deadline: Instant,
    ) -> Result<StateDigest, PeerError> {
        let mut client = self.client(node)?;
        let (index, patience) = at.unwrap_or_default();
        let request = wire::StateDigestRequest {
            group: group.get(),
            at_index: index.get(),
            reach_ms: u32::try_from(patience.as_millis()).unwrap_or(u32::MAX),
        };
        let reply = call(deadline, client.state_digest(request)).await?;
        refusal(reply.refusal)?;
        let digest =
            <[u8; 32]>::try_from(reply.digest.as_ref()).map_err(|_| PeerError::Unreachable)?;
        Ok(StateDigest {
            position: reply.applied.then(|| position(reply.term, reply.index)),
            digest,
            rows: reply.rows,
        })
    }

    /// Asks for a node's wall clock, in milliseconds since 1970.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn clock(&self, node: NodeId, deadline: Instant) -> Result<u64, PeerError> {
        let mut client = self.client(node)?;
        let reply = call(deadline, client.clock(wire::ClockRequest {})).await?;
        Ok(reply.unix_ms)
    }

    /// Asks a node who it is, and what it knows of this one; with `claim` it first notes this disk as
    /// this node's, unless another is noted.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn identify(
        &self,
        node: NodeId,
        me: (NodeId, &str),
        claim: bool,
        deadline: Instant,
    ) -> Result<wire::IdentifyReply, PeerError> {
        let mut client = self.client(node)?;
        let request = wire::IdentifyRequest {
            asking_node: me.0.get(),
            asking_disk_id: me.1.to_owned(),
            claim,
            data_format: limits::DATA_FORMAT,
        };
        call(deadline, client.identify(request)).await
    }

    /// Reads committed entries of a group from a node that has its data.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn entries(
        &self,
        node: NodeId,
        request: wire::EntriesRequest,
        deadline: Instant,
    ) -> Result<wire::EntriesReply, PeerError> {
        let mut client = self.client(node)?;
        let mut reply = call(deadline, client.entries(request)).await?;
        refusal(reply.refusal.take())?;
        Ok(reply)
    }

    /// Asks which proxies are on a node's feed now.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn proxies(
        &self,
        node: NodeId,
        deadline: Instant,
    ) -> Result<Vec<wire::FeedProxy>, PeerError> {
        let mut client = self.client(node)?;
        let reply = call(deadline, client.proxies(wire::ProxiesRequest {})).await?;
        Ok(reply.proxies)
    }

    /// Passes a leader hint on.
    ///
    /// # Errors
    /// [`PeerError`]; hints are repeated by others, so nobody retries.
    pub async fn hint(
        &self,
        node: NodeId,
        hint: wire::HintRequest,
        deadline: Instant,
    ) -> Result<(), PeerError> {
        let mut client = self.client(node)?;
        call(deadline, client.hint(hint)).await.map(drop)
    }
}

async fn call<T>(
    deadline: Instant,
    answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, PeerError> {
    match tokio::time::timeout_at(deadline.into(), answer).await {
        Err(_) => Err(PeerError::OutcomeUnknown),
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(match status.code() {
            tonic::Code::Unauthenticated
            | tonic::Code::PermissionDenied
            | tonic::Code::Unimplemented => PeerError::Refused {
                code: ErrorCode::Internal,
                detail: format!("a coordinator refused a call: {}", status.message()),
            },
            // The gates for members refuse so, before anything is done.
            tonic::Code::FailedPrecondition => PeerError::Unreachable,
            _ if never_sent(&status) => PeerError::Unreachable,
            _ => PeerError::OutcomeUnknown,
        }),
    }
}

/// Whether the connection was never made, so that the request can't have been carried out.
fn never_sent(status: &tonic::Status) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

fn refusal(refusal: Option<wire::Refusal>) -> Result<(), PeerError> {
    let Some(refusal) = refusal else {
        return Ok(());
    };
    let leader = (refusal.leader != 0).then(|| NodeId::new(refusal.leader));
    Err(match ErrorCode::parse(&refusal.code) {
        Some(ErrorCode::NotLeader) => PeerError::NotLeader { leader },
        Some(ErrorCode::OutcomeUnknown) | None => PeerError::OutcomeUnknown,
        Some(code) => PeerError::Refused {
            code,
            detail: refusal.detail,
        },
    })
}

fn position(term: u64, index: u64) -> Position {
    Position::new(Term::new(term), Index::new(index))
}

fn left_ms(deadline: Instant) -> u32 {
    let left = deadline.saturating_duration_since(Instant::now());
    u32::try_from(left.as_millis()).unwrap_or(u32::MAX)
}
