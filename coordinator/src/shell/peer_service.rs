//! What other coordinators ask of this one. Nothing is passed on from here: the asking node goes
//! to whom the answer names, so a request can't go around in a circle.

use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, NodeId};
use maia_common::limits;
use maia_common::position::{Index, Position, Term};
use maia_common::rpc::{Caller, Party};
use maia_common::topology::{Leader, Node};
use maia_common::wire::peer as wire;
use tonic::{Request, Response, Status};

use super::clock::unix_us;
use super::cluster::{Cluster, Hint};
use super::data::{DataService, remote_read};
use super::entries_service::EntriesService;
use super::identity::Identity;
use super::members_only::{refuse_removed, removed_caller};
use super::peers::{self, PeerError};
use super::quarantine::{Giver, QuarantineService};
use crate::core::keyspace;
use crate::core::metastore::{self as core, Precondition, Transaction};
use crate::core::quarantine::{Entry, EntryId};
use crate::core::record::Record;
use crate::feed::{Hub, Subscriber};
use crate::metastore::{self, Metastore, RaftMetastore};
use crate::raft::{Engine, ProposeError};

/// The gRPC service between coordinators.
pub struct PeerService {
    /// This node.
    pub identity: Identity,
    /// Its engine.
    pub engine: Arc<Engine>,
    /// Its metastore.
    pub store: Arc<RaftMetastore>,
    /// Its picture of the cluster.
    pub cluster: Cluster,
    /// Its data service.
    pub data: DataService,
    /// What reads entries for others.
    pub entries: EntriesService,
    /// Its feed.
    pub hub: Arc<Hub>,
    /// Its quarantine.
    pub quarantine: QuarantineService,
}

fn feed_proxy(subscriber: Subscriber) -> wire::FeedProxy {
    wire::FeedProxy {
        id: subscriber.id.to_string(),
        region: subscriber.region.to_string(),
        applied_revision: subscriber.applied.get(),
        last_seen_ms: u64::try_from(subscriber.last_seen.as_millis()).unwrap_or(u64::MAX),
    }
}

fn deadline(timeout_ms: u32) -> Instant {
    Instant::now() + Duration::from_millis(timeout_ms.into()).min(limits::API_DEADLINE)
}

fn not_leader(leader: Option<NodeId>) -> wire::Refusal {
    wire::Refusal {
        code: ErrorCode::NotLeader.to_string(),
        detail: String::new(),
        leader: leader.map_or(0, NodeId::get),
    }
}

fn refuse(code: ErrorCode, detail: impl Into<String>) -> wire::Refusal {
    wire::Refusal {
        code: code.to_string(),
        detail: detail.into(),
        leader: 0,
    }
}

fn refusal_of(error: ProposeError) -> wire::Refusal {
    match error {
        ProposeError::NotLeader { leader } => not_leader(leader),
        ProposeError::UnknownGroup => not_leader(None),
        ProposeError::OutcomeUnknown => refuse(ErrorCode::OutcomeUnknown, ""),
        ProposeError::DiskFull => refuse(ErrorCode::DiskFull, "the leader's disk has no room"),
        ProposeError::Overloaded => refuse(ErrorCode::Unavailable, "the leader is overloaded"),
        ProposeError::CatchingUp => refuse(ErrorCode::Unavailable, error.to_string()),
        ProposeError::TooLarge { .. } => refuse(ErrorCode::BodyTooLarge, error.to_string()),
        ProposeError::Stopped(reason) => refuse(ErrorCode::Unavailable, reason),
    }
}

impl PeerService {
    /// A node that was removed may ask only what it is to the cluster now (`identify`): by that it
    /// learns of its removal; and hand over its quarantine (`take_quarantined`). One that is not registered yet is not told apart from one whose
    /// registration has not arrived here.
    fn not_from_a_removed_node<T>(&self, request: &Request<T>) -> Result<(), Status> {
        refuse_removed(&self.cluster, request.extensions())
    }

    /// Notes the disk as the node's if its record has none yet. The caller asks again to see what
    /// came of it.
    async fn claim(&self, node: NodeId, disk_id: &str) {
        let key = keyspace::node(node);
        let Ok(Some(stored)) = metastore::get::<Node>(&*self.store, &key) else {
            return;
        };
        if !stored.value.disk_id.is_empty() || disk_id.is_empty() {
            return;
        }
        let claimed = Node {
            disk_id: disk_id.to_owned(),
            ..stored.value
        };
        let id = format!("claim-{node}-{:032x}", fastrand::u128(..));
        let transaction = Transaction::new(id, unix_us())
            .when(&key, Precondition::At(stored.revision))
            .put_json(key, &claimed);
        let deadline = Instant::now() + limits::METASTORE_ATTEMPT;
        if let Err(error) = self.store.transact(transaction, deadline).await {
            tracing::info!(%node, %error, "a new node's disk could not be noted");
        }
    }
}

#[tonic::async_trait]
impl wire::peer_server::Peer for PeerService {
    async fn transact(
        &self,
        request: Request<wire::TransactRequest>,
    ) -> Result<Response<wire::TransactReply>, Status> {
        self.not_from_a_removed_node(&request)?;
        let request = request.into_inner();
        // In the log it would stop the metastore on every node of this version.
        core::is_understood(&request.transaction).map_err(Status::invalid_argument)?;
        let deadline = deadline(request.timeout_ms);
        let reply = match self.store.propose_here(request.transaction, deadline).await {
            Ok(proposed) => wire::TransactReply {
                outcome: proposed.outcome,
                term: proposed.position.term.get(),
                index: proposed.position.index.get(),
                refusal: None,
            },
            Err(error) => wire::TransactReply {
                refusal: Some(refusal_of(error)),
                ..wire::TransactReply::default()
            },
        };
        Ok(Response::new(reply))
    }

    async fn propose(
        &self,
        request: Request<wire::ProposeRequest>,
    ) -> Result<Response<wire::ProposeReply>, Status> {
        self.not_from_a_removed_node(&request)?;
        let request = request.into_inner();
        let record = Record::decode(request.record)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let group = GroupId::new(request.group);
        let deadline = deadline(request.timeout_ms);
        let reply = match self.data.propose_for_peer(group, record, deadline).await {
            Ok(applied) => wire::ProposeReply {
                outcome: applied.outcome,
                term: applied.position.term.get(),
                index: applied.position.index.get(),
                durable_on: applied.durable_on.into_iter().map(NodeId::get).collect(),
                degraded: applied.degraded,
                refusal: None,
            },
            Err(error) => wire::ProposeReply {
                refusal: Some(match error {
                    PeerError::NotLeader { leader } => not_leader(leader),
                    PeerError::Refused { code, detail } => refuse(code, detail),
                    PeerError::Unreachable => not_leader(None),
                    PeerError::OutcomeUnknown => refuse(ErrorCode::OutcomeUnknown, ""),
                }),
                ..wire::ProposeReply::default()
            },
        };
        Ok(Response::new(reply))
    }

    async fn read_index(
        &self,
        request: Request<wire::ReadIndexRequest>,
    ) -> Result<Response<wire::ReadIndexReply>, Status> {
        self.not_from_a_removed_node(&request)?;
        let request = request.into_inner();
        let group = GroupId::new(request.group);
        let barrier = self
            .engine
            .read_barrier(group, deadline(request.timeout_ms))
            .await;
        let reply = match barrier {
            Ok(position) => wire::ReadIndexReply {
                term: position.term.get(),
                index: position.index.get(),
                refusal: None,
            },
            Err(_) => wire::ReadIndexReply {
                refusal: Some(not_leader(self.engine.status(group).and_then(|s| s.leader))),
                ..wire::ReadIndexReply::default()
            },
        };
        Ok(Response::new(reply))
    }

    async fn entries(
        &self,
        request: Request<wire::EntriesRequest>,
    ) -> Result<Response<wire::EntriesReply>, Status> {
        self.not_from_a_removed_node(&request)?;
        let read = self.entries.read(request.into_inner()).await;
        let reply = read.unwrap_or_else(|refusal| wire::EntriesReply {
            refusal: Some(refuse(refusal.code, refusal.detail)),
            ..wire::EntriesReply::default()
        });
        Ok(Response::new(reply))
    }

    async fn read(
        &self,
        request: Request<wire::ReadRequest>,
    ) -> Result<Response<wire::ReadReply>, Status> {
        self.not_from_a_removed_node(&request)?;
        let request = request.into_inner();
        let deadline = deadline(request.timeout_ms);
        let (group, query, position) = remote_read::asked(request)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let served = self.data.serve_at(group, &query, position, deadline).await;
        let reply = match served {
            Ok(served) => remote_read::reply(served),
            Err(error) => wire::ReadReply {
                refusal: Some(refuse(error.code, error.detail)),
                ..wire::ReadReply::default()
            },
        };
        Ok(Response::new(reply))
    }

    async fn state_digest(
        &self,
        request: Request<wire::StateDigestRequest>,
    ) -> Result<Response<wire::StateDigestReply>, Status> {
        self.not_from_a_removed_node(&request)?;
        let request = request.into_inner();
        let group = GroupId::new(request.group);
        let found = match request.at_index {
            0 => self.engine.digest(group).await,
            index => {
                let until = deadline(request.reach_ms);
                self.engine.digest_at(group, Index::new(index), until).await
            }
        };
        let reply = match found {
            Ok(found) => wire::StateDigestReply {
                digest: bytes::Bytes::copy_from_slice(&found.digest),
                term: found.position.map_or(0, |position| position.term.get()),
                index: found.position.map_or(0, |position| position.index.get()),
                applied: found.position.is_some(),
                rows: found.rows,
                refusal: None,
            },
            Err(error) => wire::StateDigestReply {
                refusal: Some(wire::Refusal {
                    code: ErrorCode::Unavailable.to_string(),
                    detail: error.to_string(),
                    leader: 0,
                }),
                ..wire::StateDigestReply::default()
            },
        };
        Ok(Response::new(reply))
    }

    async fn standing(
        &self,
        request: Request<wire::StandingRequest>,
    ) -> Result<Response<wire::StandingReply>, Status> {
        self.not_from_a_removed_node(&request)?;
        let request = request.into_inner();
        let (term, index) = (Term::new(request.term), Index::new(request.index));
        let id = EntryId {
            group: GroupId::new(request.group),
            position: Position::new(term, index),
        };
        let reply = match self.quarantine.standing_here(id).await {
            Ok(Some(standing)) => wire::StandingReply {
                standing: peers::quarantine::number_of(standing),
                refusal: None,
            },
            Ok(None) => wire::StandingReply {
                standing: 0,
                refusal: Some(not_leader(None)),
            },
            Err(error) => wire::StandingReply {
                standing: 0,
                refusal: Some(refuse(ErrorCode::Internal, error.to_string())),
            },
        };
        Ok(Response::new(reply))
    }

    async fn take_quarantined(
        &self,
        request: Request<wire::TakeQuarantinedRequest>,
    ) -> Result<Response<wire::TakeQuarantinedReply>, Status> {
        let giver = removed_caller(&self.cluster, request.extensions())?;
        let giver = giver.map_or(Giver::Member, Giver::Removed);
        let request = request.into_inner();
        let entry = Entry::decode(request.entry)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let taken = self
            .quarantine
            .take(entry, giver, deadline(request.timeout_ms))
            .await;
        let refusal = taken
            .err()
            .map(|refusal| refuse(refusal.code, refusal.detail));
        Ok(Response::new(wire::TakeQuarantinedReply { refusal }))
    }

    async fn clock(
        &self,
        request: Request<wire::ClockRequest>,
    ) -> Result<Response<wire::ClockReply>, Status> {
        self.not_from_a_removed_node(&request)?;
        let unix_ms = unix_us() / 1000;
        Ok(Response::new(wire::ClockReply { unix_ms }))
    }

    async fn identify(
        &self,
        request: Request<wire::IdentifyRequest>,
    ) -> Result<Response<wire::IdentifyReply>, Status> {
        let caller = Caller::of(request.extensions())?.clone();
        let request = request.into_inner();
        let asking = NodeId::new(request.asking_node);
        caller.speaks_for(&Party::Node(asking))?;
        if request.claim && request.data_format != limits::DATA_FORMAT {
            let text = "the cluster's data is of another format than the asking node's";
            return Err(Status::failed_precondition(text));
        }
        if request.claim {
            self.claim(asking, &request.asking_disk_id).await;
        }
        let read = |key: &str| {
            metastore::get::<Node>(&*self.store, key)
                .map_err(|error| Status::internal(error.to_string()))
        };
        let known = read(&keyspace::node(asking))?.map(|stored| stored.value);
        let was_removed = read(&keyspace::retired_node(asking))?.is_some();
        let status = self.engine.status(GroupId::METASTORE);
        Ok(Response::new(wire::IdentifyReply {
            node: self.identity.node.get(),
            disk_id: self.identity.disk_id.clone(),
            initialized: status.is_some_and(|s| !s.voters.is_empty()),
            known_disk_of_asking: known
                .as_ref()
                .map_or_else(String::new, |node| node.disk_id.clone()),
            record_of_asking: known
                .and_then(|node| serde_json::to_vec(&node).ok())
                .unwrap_or_default()
                .into(),
            asking_was_removed: was_removed,
            data_format: limits::DATA_FORMAT,
        }))
    }

    async fn proxies(
        &self,
        request: Request<wire::ProxiesRequest>,
    ) -> Result<Response<wire::ProxiesReply>, Status> {
        self.not_from_a_removed_node(&request)?;
        let proxies = self.hub.subscribers();
        Ok(Response::new(wire::ProxiesReply {
            proxies: proxies.into_iter().map(feed_proxy).collect(),
        }))
    }

    async fn hint(
        &self,
        request: Request<wire::HintRequest>,
    ) -> Result<Response<wire::HintReply>, Status> {
        self.not_from_a_removed_node(&request)?;
        let hint = request.into_inner();
        let state = self.cluster.state();
        if hint.generation < state.generation.get() {
            return Ok(Response::new(wire::HintReply {}));
        }
        let (group, term) = (GroupId::new(hint.group), Term::new(hint.term));
        if hint.leaderless {
            self.cluster.hint(Hint::Leaderless(group, term));
        } else if let Some(node) = state.nodes.get(&NodeId::new(hint.node)) {
            let leader = Leader {
                term,
                node: node.id,
                region: node.region.clone(),
            };
            self.cluster.hint(Hint::Leader(group, leader));
        }
        Ok(Response::new(wire::HintReply {}))
    }
}
