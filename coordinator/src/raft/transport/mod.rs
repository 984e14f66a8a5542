//! How Raft messages get to other nodes. The engine knows only the [`Transport`] trait: gRPC in
//! production, a faulty network in the torture test. Whatever is behind it, a message may be lost,
//! late or doubled; Raft stands that.

pub(crate) mod client;
pub(crate) mod inbound;
pub(crate) mod messages;
pub(crate) mod network;
pub mod server;

use std::time::Duration;

use futures::future::BoxFuture;
use maia_common::{GroupId, NodeId};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::types::{RaftSnapshot, RaftVote, TypeConfig};

/// Where a message comes from and goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The group it is about.
    pub group: GroupId,
    /// The sender.
    pub from: NodeId,
    /// The receiver; any other node refuses it.
    pub to: NodeId,
}

/// Which question a vote message asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoteKind {
    /// Would you vote for me? Changes nothing.
    PreVote,
    /// Vote for me.
    Vote,
}

/// Why a message got no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransportError {
    /// No connection: openraft waits before it tries again.
    #[error("node {node} is unreachable: {reason}")]
    Unreachable {
        /// The receiver.
        node: NodeId,
        /// What happened.
        reason: String,
    },
    /// No answer in time; the message may have arrived.
    #[error("node {node} did not answer within {waited:?}")]
    Timeout {
        /// The receiver.
        node: NodeId,
        /// How long was waited.
        waited: Duration,
    },
    /// The receiver refused it before Raft saw it.
    #[error("node {node} refused: {reason}")]
    Refused {
        /// The receiver.
        node: NodeId,
        /// Its reason.
        reason: String,
    },
}

/// An answer on its way.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, TransportError>>;

/// Carries Raft messages to other nodes.
pub trait Transport: Send + Sync + 'static {
    /// Log entries, or none: a heartbeat.
    fn append(
        &self,
        route: Route,
        request: AppendEntriesRequest<TypeConfig>,
        timeout: Duration,
    ) -> Answer<'_, AppendEntriesResponse<TypeConfig>>;

    /// A vote or pre-vote.
    fn vote(
        &self,
        route: Route,
        kind: VoteKind,
        request: VoteRequest<TypeConfig>,
        timeout: Duration,
    ) -> Answer<'_, VoteResponse<TypeConfig>>;

    /// A leader hands over.
    fn transfer(
        &self,
        route: Route,
        request: TransferLeaderRequest<TypeConfig>,
        timeout: Duration,
    ) -> Answer<'_, TransferLeaderResponse<TypeConfig>>;

    /// A whole snapshot, which the receiver installs before it answers.
    fn snapshot(
        &self,
        route: Route,
        vote: RaftVote,
        snapshot: RaftSnapshot,
        timeout: Duration,
    ) -> Answer<'_, SnapshotResponse<TypeConfig>>;
}
