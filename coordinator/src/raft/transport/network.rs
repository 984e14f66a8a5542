//! What openraft sends through: one group's side of the transport. Sets the time each message may
//! take, and says honestly when there was no answer (a made-up grant would be a vote).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use maia_common::{GroupId, NodeId};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2};

use super::super::snapshot::SnapshotFile;
use super::super::types::{RaftSnapshot, RaftVote, TypeConfig};
use super::{Route, Transport, TransportError, VoteKind};

/// Makes one group's connections.
#[derive(Clone)]
pub(crate) struct GroupNetworks {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) group: GroupId,
    pub(crate) node: NodeId,
    /// For messages with entries: see `EngineConfig::bulk_timeout`.
    pub(crate) bulk_timeout: Duration,
    /// For messages without.
    pub(crate) control_timeout: Duration,
}

/// One group's way to one node.
pub(crate) struct GroupNetwork {
    networks: GroupNetworks,
    route: Route,
}

impl RaftNetworkFactory<TypeConfig> for GroupNetworks {
    type Network = GroupNetwork;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> GroupNetwork {
        let route = Route {
            group: self.group,
            from: self.node,
            to: NodeId::new(target),
        };
        GroupNetwork {
            networks: self.clone(),
            route,
        }
    }
}

impl GroupNetwork {
    fn error(&self, action: RPCTypes, error: &TransportError) -> RPCError<TypeConfig> {
        match error {
            TransportError::Timeout { waited, .. } => RPCError::Timeout(Timeout {
                action,
                id: self.route.from.get(),
                target: self.route.to.get(),
                timeout: *waited,
            }),
            TransportError::Unreachable { .. } | TransportError::Refused { .. } => {
                RPCError::Unreachable(Unreachable::new(error))
            }
        }
    }
}

impl RaftNetworkV2<TypeConfig> for GroupNetwork {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let timeout = if rpc.entries.is_empty() {
            self.networks.control_timeout
        } else {
            self.networks.bulk_timeout
        };
        let answer = self
            .networks
            .transport
            .append(self.route, rpc, timeout)
            .await;
        answer.map_err(|e| self.error(RPCTypes::AppendEntries, &e))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let transport = &self.networks.transport;
        let answer = transport
            .vote(self.route, VoteKind::Vote, rpc, option.hard_ttl())
            .await;
        answer.map_err(|e| self.error(RPCTypes::Vote, &e))
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let transport = &self.networks.transport;
        let answer = transport
            .vote(self.route, VoteKind::PreVote, rpc, option.hard_ttl())
            .await;
        answer.map_err(|e| self.error(RPCTypes::Vote, &e))
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: RaftSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let transport = &self.networks.transport;
        let sent = transport.snapshot(self.route, vote, snapshot, option.hard_ttl());
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = sent => answer.map_err(|e| match self.error(RPCTypes::InstallSnapshot, &e) {
                RPCError::Timeout(e) => StreamingError::Timeout(e),
                RPCError::Unreachable(e) => StreamingError::Unreachable(e),
                RPCError::Network(e) => StreamingError::Network(e),
                RPCError::RemoteError(e) => StreamingError::Network(NetworkError::new(&e)),
            }),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let timeout = option.hard_ttl().max(self.networks.control_timeout);
        let answer = self
            .networks
            .transport
            .transfer(self.route, req, timeout)
            .await;
        answer.map_err(|e| self.error(RPCTypes::TransferLeader, &e))
    }
}
