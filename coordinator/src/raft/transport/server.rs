//! The gRPC service that receives Raft messages; mounted by whoever serves the `rpc` listener. Best
//! served on the engine's own runtime ([`Engine::runtime`](super::super::Engine::runtime)), so that
//! data load elsewhere in the process does not delay heartbeats.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use maia_common::rpc::{Caller, Party};
use maia_common::wire::raft::{self as wire, raft_server};
use maia_common::{NodeId, limits};
use tonic::{Request, Response, Status, Streaming};

use super::super::codec::{self, CodecError};
use super::super::snapshot::SnapshotFile;
use super::Route;
use super::inbound::{Inbound, InboundError};
use super::messages;

/// The gRPC service of an engine.
pub type RaftService = raft_server::RaftServer<RaftServer>;

/// Receives Raft messages over gRPC.
pub struct RaftServer {
    inbound: Inbound,
}

/// The service for an engine's receiving side.
#[must_use]
pub fn raft_service(inbound: Inbound) -> RaftService {
    raft_server::RaftServer::from_arc(Arc::new(RaftServer { inbound }))
        .max_decoding_message_size(limits::MAX_RPC_BYTES)
        .max_encoding_message_size(limits::MAX_RPC_BYTES)
}

fn status(error: &InboundError) -> Status {
    let text = error.to_string();
    match error {
        InboundError::UnknownGroup(_) => Status::not_found(text),
        InboundError::WrongNode { .. } | InboundError::Witness(_) | InboundError::Stopped(_) => {
            Status::failed_precondition(text)
        }
        InboundError::Silent | InboundError::Unfit | InboundError::DiskFull => {
            Status::unavailable(text)
        }
    }
}

/// Who sent the message must be who its envelope and its ballot say.
fn speaks_for(caller: &Caller, route: Route, ballot: Option<&wire::Ballot>) -> Result<(), Status> {
    caller.speaks_for(&Party::Node(route.from))?;
    match ballot {
        Some(ballot) => caller.speaks_for(&Party::Node(NodeId::new(ballot.node))),
        None => Ok(()),
    }
}

fn illegible(error: &CodecError) -> Status {
    Status::invalid_argument(error.to_string())
}

#[tonic::async_trait]
impl raft_server::Raft for RaftServer {
    async fn append(
        &self,
        request: Request<wire::AppendRequest>,
    ) -> Result<Response<wire::AppendReply>, Status> {
        let caller = Caller::of(request.extensions())?.clone();
        let message = request.into_inner();
        let route = messages::route(message.envelope).map_err(|e| illegible(&e))?;
        speaks_for(&caller, route, message.ballot.as_ref())?;
        let request = messages::append_request_from(message).map_err(|e| illegible(&e))?;
        let answer = self
            .inbound
            .append(route, request)
            .await
            .map_err(|e| status(&e))?;
        Ok(Response::new(messages::append_reply(&answer)))
    }

    async fn vote(
        &self,
        request: Request<wire::VoteRequest>,
    ) -> Result<Response<wire::VoteReply>, Status> {
        let caller = Caller::of(request.extensions())?.clone();
        let message = request.into_inner();
        let route = messages::route(message.envelope).map_err(|e| illegible(&e))?;
        speaks_for(&caller, route, message.ballot.as_ref())?;
        let (kind, request) = messages::vote_request_from(message).map_err(|e| illegible(&e))?;
        let answer = self
            .inbound
            .vote(route, kind, request)
            .await
            .map_err(|e| status(&e))?;
        Ok(Response::new(messages::vote_reply(&answer)))
    }

    async fn transfer(
        &self,
        request: Request<wire::TransferRequest>,
    ) -> Result<Response<wire::TransferReply>, Status> {
        let caller = Caller::of(request.extensions())?.clone();
        let message = request.into_inner();
        let route = messages::route(message.envelope).map_err(|e| illegible(&e))?;
        speaks_for(&caller, route, message.from_leader.as_ref())?;
        let request = messages::transfer_request_from(message).map_err(|e| illegible(&e))?;
        let answer = self
            .inbound
            .transfer(route, request)
            .await
            .map_err(|e| status(&e))?;
        Ok(Response::new(messages::transfer_reply(&answer)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotPart>>,
    ) -> Result<Response<wire::SnapshotReply>, Status> {
        let caller = Caller::of(request.extensions())?.clone();
        let mut parts = request.into_inner();
        let head = head_of(parts.message().await?)?;
        let route = messages::route(head.envelope).map_err(|e| illegible(&e))?;
        speaks_for(&caller, route, head.ballot.as_ref())?;
        let vote = messages::ballot(head.ballot).map_err(|e| illegible(&e))?;
        let meta = head.meta.ok_or(CodecError::Missing("metadata"));
        let meta = meta
            .and_then(codec::snapshot_meta_from_wire)
            .map_err(|e| illegible(&e))?;
        let file = self.receive(route, head.length_bytes, parts).await?;
        let answer = self
            .inbound
            .install(route, vote, meta, file)
            .await
            .map_err(|e| status(&e))?;
        Ok(Response::new(messages::snapshot_reply(&answer)))
    }
}

fn head_of(part: Option<wire::SnapshotPart>) -> Result<wire::SnapshotHead, Status> {
    match part.and_then(|part| part.what) {
        Some(wire::snapshot_part::What::Head(head)) => Ok(head),
        _ => Err(Status::invalid_argument("a snapshot without head")),
    }
}

impl RaftServer {
    /// Writes the parts to a temporary file, as many bytes as were announced.
    async fn receive(
        &self,
        route: Route,
        length: u64,
        mut parts: Streaming<wire::SnapshotPart>,
    ) -> Result<SnapshotFile, Status> {
        let file = self.inbound.snapshot_file(route, length);
        let file = file.map_err(|e| status(&e))?;
        let mut offset = 0;
        while let Some(part) = parts.message().await? {
            let Some(wire::snapshot_part::What::Data(data)) = part.what else {
                return Err(Status::invalid_argument("a second head"));
            };
            let next = offset + data.len() as u64;
            if next > length {
                return Err(Status::invalid_argument("more bytes than were announced"));
            }
            write_at(&file, offset, data).await?;
            offset = next;
        }
        if offset != length {
            return Err(Status::aborted("the snapshot ended early"));
        }
        Ok(file)
    }
}

async fn write_at(file: &SnapshotFile, offset: u64, data: Bytes) -> Result<(), Status> {
    let file = Arc::clone(&file.file);
    tokio::task::spawn_blocking(move || file.write_all_at(&data, offset))
        .await
        .map_err(|e| Status::internal(e.to_string()))?
        .map_err(|e| Status::unavailable(e.to_string()))
}
