//! What openraft sends through: one group's side of the transport. Sets the time each message may
//! take, and says honestly when there was no answer (a made-up grant would be a vote).
//!
//! To the group's witness go entries without payloads and snapshots without rows, and no more of them
//! than its leash grants (I2, I7). Whatever is granted, a message is really sent: its answer renews the
//! leader's lease, and a made-up one would be a lease.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use maia_common::{GroupId, NodeId};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2};

use super::super::catch_up::{CatchUp, Freight};
use super::super::snapshot::{SnapshotFile, SnapshotStore};
use super::super::types::{RaftSnapshot, RaftVote, TypeConfig};
use super::super::witness::{Leash, without_payload};
use super::{Route, Transport, TransportError, VoteKind};
use crate::core::pace::Pace;

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
    /// Of the group's witness, if it has one.
    pub(crate) leash: Option<Arc<Leash>>,
    /// How long a message for the witness waits for something to be granted.
    pub(crate) hold: Duration,
    /// Holds back what is sent to one that catches up.
    pub(crate) catch_up: Arc<CatchUp>,
    /// Makes the files of snapshots for the witness.
    pub(crate) snapshots: Arc<SnapshotStore>,
}

/// How long after a message for the witness of which nothing was granted the next one is made: that
/// one waits for a grant.
const AFTER_HOLD: Duration = Duration::from_millis(1);
/// The same for those after it, until one is answered: the witness may be gone.
const WITHOUT_ANSWER: Duration = Duration::from_millis(200);

/// One group's way to one node.
pub(crate) struct GroupNetwork {
    networks: GroupNetworks,
    route: Route,
    /// If this is the way to the witness.
    leash: Option<Arc<Leash>>,
    /// Nothing of the last message was granted.
    is_held: bool,
    pace: Pace,
}

impl RaftNetworkFactory<TypeConfig> for GroupNetworks {
    type Network = GroupNetwork;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> GroupNetwork {
        let route = Route {
            group: self.group,
            from: self.node,
            to: NodeId::new(target),
        };
        let leash = self
            .leash
            .as_ref()
            .filter(|leash| leash.witness() == route.to);
        GroupNetwork {
            networks: self.clone(),
            route,
            leash: leash.cloned(),
            is_held: false,
            pace: Pace::default(),
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

    async fn send(
        &self,
        rpc: AppendEntriesRequest<TypeConfig>,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let timeout = if rpc.entries.is_empty() {
            self.networks.control_timeout
        } else {
            self.networks.bulk_timeout
        };
        let transport = &self.networks.transport;
        let answer = transport.append(self.route, rpc, timeout).await;
        answer.map_err(|e| self.error(RPCTypes::AppendEntries, &e))
    }

    /// Takes the payloads off, and leaves out what the leash does not grant; openraft hears up to
    /// where the rest was taken.
    async fn send_on_leash(
        &mut self,
        leash: &Leash,
        mut rpc: AppendEntriesRequest<TypeConfig>,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let ends = rpc.entries.first().zip(rpc.entries.last());
        let Some(ends) = ends.map(|(first, last)| (first.log_id.index(), last.log_id.index()))
        else {
            return self.send(rpc).await;
        };
        let granted = leash.grant(&rpc.vote, ends, self.networks.hold).await;
        let granted = usize::try_from(granted).unwrap_or(usize::MAX);
        let is_whole = granted >= rpc.entries.len();
        self.is_held = granted == 0;
        rpc.entries.truncate(granted);
        rpc.entries = rpc.entries.into_iter().map(without_payload).collect();
        let upto = rpc.entries.last().map(|entry| entry.log_id);
        let upto = upto.or(rpc.prev_log_id);
        match self.send(rpc).await? {
            AppendEntriesResponse::Success if !is_whole => {
                Ok(AppendEntriesResponse::PartialSuccess(upto))
            }
            answer => Ok(answer),
        }
    }

    /// The snapshot as the witness gets it: as of where, and who the members are.
    async fn bare(
        &self,
        leash: &Leash,
        vote: &RaftVote,
        snapshot: &RaftSnapshot,
    ) -> Result<RaftSnapshot, StreamingError<TypeConfig>> {
        let refuse = |reason: String| {
            let node = self.route.to;
            let error = TransportError::Refused { node, reason };
            StreamingError::Unreachable(Unreachable::new(&error))
        };
        if let Some(last) = snapshot.meta.last_log_id {
            let last = last.index();
            let granted = leash.grant(vote, (last, last), self.networks.hold).await;
            if granted == 0 {
                let reason = "the data follower does not have all of the snapshot yet";
                return Err(refuse(reason.to_owned()));
            }
        }
        let file = self.networks.snapshots.temporary();
        Ok(RaftSnapshot {
            meta: snapshot.meta.clone(),
            snapshot: file.map_err(|error| refuse(error.to_string()))?,
        })
    }
}

impl RaftNetworkV2<TypeConfig> for GroupNetwork {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let catch_up = &self.networks.catch_up;
        let freight = Freight::of(&rpc.entries, self.leash.is_some());
        catch_up.turn(self.route.to, &mut self.pace, &freight).await;
        let answer = match self.leash.clone() {
            None => self.send(rpc).await?,
            Some(leash) => self.send_on_leash(&leash, rpc).await?,
        };
        freight.charge(&mut self.pace, &answer);
        Ok(answer)
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
        let snapshot = match self.leash.clone() {
            None => snapshot,
            Some(leash) => self.bare(&leash, &vote, &snapshot).await?,
        };
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

    /// Beside a message that nothing was granted of, the configured one.
    fn backoff(&self) -> Option<Backoff> {
        let then = std::iter::repeat(WITHOUT_ANSWER);
        let waits = std::iter::once(AFTER_HOLD).chain(then);
        self.is_held.then(|| Backoff::new(waits))
    }
}
