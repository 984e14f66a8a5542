//! Between openraft's requests and the messages of `maia.raft.v1`, for both ends of the wire.

use maia_common::wire::raft as wire;
use maia_common::{GroupId, NodeId};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::super::codec::{
    self, CodecError, log_id_from_wire, log_id_to_wire, vote_from_wire, vote_to_wire,
};
use super::super::types::{RaftSnapshot, RaftVote, TypeConfig};
use super::{Route, VoteKind};

fn envelope(route: Route) -> wire::Envelope {
    wire::Envelope {
        group: route.group.get(),
        from: route.from.get(),
        to: route.to.get(),
    }
}

/// Where a message comes from and goes to.
pub(crate) fn route(envelope: Option<wire::Envelope>) -> Result<Route, CodecError> {
    let envelope = envelope.ok_or(CodecError::Missing("envelope"))?;
    Ok(Route {
        group: GroupId::new(envelope.group),
        from: NodeId::new(envelope.from),
        to: NodeId::new(envelope.to),
    })
}

/// A vote that must be there.
pub(crate) fn ballot(ballot: Option<wire::Ballot>) -> Result<RaftVote, CodecError> {
    ballot
        .map(vote_from_wire)
        .ok_or(CodecError::Missing("ballot"))
}

pub(crate) fn append_request(
    route: Route,
    request: &AppendEntriesRequest<TypeConfig>,
) -> wire::AppendRequest {
    wire::AppendRequest {
        envelope: Some(envelope(route)),
        ballot: Some(vote_to_wire(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id_to_wire),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_wire),
        entries: request.entries.iter().map(codec::encode_entry).collect(),
    }
}

pub(crate) fn append_request_from(
    message: wire::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, CodecError> {
    let entries = message.entries.into_iter().map(codec::decode_entry);
    Ok(AppendEntriesRequest {
        vote: ballot(message.ballot)?,
        prev_log_id: message.previous.map(log_id_from_wire),
        entries: entries.collect::<Result<_, _>>()?,
        leader_commit: message.leader_commit.map(log_id_from_wire),
    })
}

pub(crate) fn append_reply(response: &AppendEntriesResponse<TypeConfig>) -> wire::AppendReply {
    use wire::append_reply::What;
    let what = match response {
        AppendEntriesResponse::Success => What::Success(wire::Done {}),
        AppendEntriesResponse::PartialSuccess(matching) => What::Partial(wire::Partial {
            matching: matching.as_ref().map(log_id_to_wire),
        }),
        AppendEntriesResponse::Conflict => What::Conflict(wire::Done {}),
        AppendEntriesResponse::HigherVote(vote) => What::HigherBallot(vote_to_wire(vote)),
    };
    wire::AppendReply { what: Some(what) }
}

pub(crate) fn append_response(
    reply: wire::AppendReply,
) -> Result<AppendEntriesResponse<TypeConfig>, CodecError> {
    use wire::append_reply::What;
    Ok(match reply.what.ok_or(CodecError::Missing("answer"))? {
        What::Success(_) => AppendEntriesResponse::Success,
        What::Partial(p) => AppendEntriesResponse::PartialSuccess(p.matching.map(log_id_from_wire)),
        What::Conflict(_) => AppendEntriesResponse::Conflict,
        What::HigherBallot(ballot) => AppendEntriesResponse::HigherVote(vote_from_wire(ballot)),
    })
}

pub(crate) fn vote_request(
    route: Route,
    kind: VoteKind,
    request: &VoteRequest<TypeConfig>,
) -> wire::VoteRequest {
    wire::VoteRequest {
        envelope: Some(envelope(route)),
        ballot: Some(vote_to_wire(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id_to_wire),
        leadership_transfer: request.leadership_transfer,
        pre_vote: kind == VoteKind::PreVote,
    }
}

pub(crate) fn vote_request_from(
    message: wire::VoteRequest,
) -> Result<(VoteKind, VoteRequest<TypeConfig>), CodecError> {
    let kind = if message.pre_vote {
        VoteKind::PreVote
    } else {
        VoteKind::Vote
    };
    let last = message.last_log_id.map(log_id_from_wire);
    let mut request = VoteRequest::new(ballot(message.ballot)?, last);
    request.leadership_transfer = message.leadership_transfer;
    Ok((kind, request))
}

pub(crate) fn vote_reply(response: &VoteResponse<TypeConfig>) -> wire::VoteReply {
    wire::VoteReply {
        ballot: Some(vote_to_wire(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(log_id_to_wire),
    }
}

pub(crate) fn vote_response(
    reply: wire::VoteReply,
) -> Result<VoteResponse<TypeConfig>, CodecError> {
    let last = reply.last_log_id.map(log_id_from_wire);
    Ok(VoteResponse::new(
        ballot(reply.ballot)?,
        last,
        reply.granted,
    ))
}

pub(crate) fn transfer_request(
    route: Route,
    request: &TransferLeaderRequest<TypeConfig>,
) -> wire::TransferRequest {
    wire::TransferRequest {
        envelope: Some(envelope(route)),
        from_leader: Some(vote_to_wire(request.from_leader())),
        to_node: *request.to_node_id(),
        last_log_id: request.last_log_id().map(log_id_to_wire),
    }
}

pub(crate) fn transfer_request_from(
    message: wire::TransferRequest,
) -> Result<TransferLeaderRequest<TypeConfig>, CodecError> {
    let from = ballot(message.from_leader)?;
    let last = message.last_log_id.map(log_id_from_wire);
    Ok(TransferLeaderRequest::new(from, message.to_node, last))
}

pub(crate) fn transfer_reply(response: &TransferLeaderResponse<TypeConfig>) -> wire::TransferReply {
    use wire::transfer_reply::What;
    let what = match response {
        Ok(()) => What::Accepted(wire::Done {}),
        Err(TransferLeaderError::VoteChanged { actual, .. }) => {
            What::BallotChanged(vote_to_wire(actual))
        }
        Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
            What::LogNotFlushed(wire::Partial {
                matching: actual.as_ref().map(log_id_to_wire),
            })
        }
    };
    wire::TransferReply { what: Some(what) }
}

pub(crate) fn transfer_response(
    request: &TransferLeaderRequest<TypeConfig>,
    reply: wire::TransferReply,
) -> Result<TransferLeaderResponse<TypeConfig>, CodecError> {
    use wire::transfer_reply::What;
    Ok(match reply.what.ok_or(CodecError::Missing("answer"))? {
        What::Accepted(_) => Ok(()),
        What::BallotChanged(actual) => Err(TransferLeaderError::VoteChanged {
            expected: *request.from_leader(),
            actual: vote_from_wire(actual),
        }),
        What::LogNotFlushed(partial) => Err(TransferLeaderError::LogNotFlushed {
            expected: request.last_log_id().copied(),
            actual: partial.matching.map(log_id_from_wire),
        }),
    })
}

pub(crate) fn snapshot_head(
    route: Route,
    vote: &RaftVote,
    snapshot: &RaftSnapshot,
) -> std::io::Result<wire::SnapshotHead> {
    Ok(wire::SnapshotHead {
        envelope: Some(envelope(route)),
        ballot: Some(vote_to_wire(vote)),
        meta: Some(codec::snapshot_meta_to_wire(
            route.group.get(),
            &snapshot.meta,
        )),
        length_bytes: snapshot.snapshot.length_bytes()?,
    })
}

pub(crate) fn snapshot_reply(response: &SnapshotResponse<TypeConfig>) -> wire::SnapshotReply {
    wire::SnapshotReply {
        ballot: Some(vote_to_wire(&response.vote)),
    }
}

pub(crate) fn snapshot_response(
    reply: &wire::SnapshotReply,
) -> Result<SnapshotResponse<TypeConfig>, CodecError> {
    Ok(SnapshotResponse::new(ballot(reply.ballot)?))
}
