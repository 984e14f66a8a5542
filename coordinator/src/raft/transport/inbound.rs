//! The receiving side, whatever the transport: finds the group, refuses what must be refused before
//! Raft sees it, and passes the rest on. A message never creates a group: instances come from
//! records only.

use std::sync::Arc;
use std::time::Instant;

use maia_common::NodeId;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::super::disk::{DiskGuard, DiskRoom};
use super::super::group::Group;
use super::super::groups::Groups;
use super::super::lag::committed_by;
use super::super::snapshot::{SnapshotFile, SnapshotStore, format};
use super::super::types::{RaftSnapshot, RaftSnapshotMeta, RaftVote, TypeConfig};
use super::super::witness::has_payload;
use super::{Route, VoteKind};

/// Why a message was refused before Raft saw it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InboundError {
    /// This node runs no such group.
    #[error("group {0} does not run here")]
    UnknownGroup(maia_common::GroupId),
    /// The message was for another node: addresses have moved.
    #[error("this is node {here}, not {meant}")]
    WrongNode {
        /// This node.
        here: NodeId,
        /// Who was meant.
        meant: NodeId,
    },
    /// This process started so recently that it may have promised a leader its lease before.
    #[error("this node does not vote yet: it has just started")]
    Silent,
    /// This node is the group's witness, and was sent what a witness may not have, or asked for what
    /// it may not do.
    #[error("this node is the group's witness: {0}")]
    Witness(&'static str),
    /// It may not lead.
    #[error("this node takes no group over: its clock is off")]
    Unfit,
    /// The disk is nearly full.
    #[error("this node's disk is nearly full")]
    DiskFull,
    /// The group has stopped, or the snapshot could not be stored.
    #[error("stopped: {0}")]
    Stopped(String),
}

/// The receiving side of an engine. Cheap to clone.
#[derive(Clone)]
pub struct Inbound {
    pub(crate) node: NodeId,
    pub(crate) groups: Arc<Groups>,
    pub(crate) snapshots: Arc<SnapshotStore>,
    pub(crate) disk: Arc<DiskGuard>,
}

impl Inbound {
    /// Log entries, or a heartbeat.
    pub(crate) async fn append(
        &self,
        route: Route,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Result<AppendEntriesResponse<TypeConfig>, InboundError> {
        let group = self.group(route)?;
        if group.is_witness() && request.entries.iter().any(has_payload) {
            return Err(InboundError::Witness("it takes no payload"));
        }
        if !request.entries.is_empty() && self.disk.room() == DiskRoom::Critical {
            return Err(InboundError::DiskFull);
        }
        group
            .check_denial(&request)
            .await
            .map_err(InboundError::Stopped)?;
        let (committed, came) = (committed_by(&request), Instant::now());
        let answer = group
            .raft
            .append_entries(request)
            .await
            .map_err(|e| stopped(&e))?;
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            group.hear();
            group.note_committed(committed, came);
        }
        Ok(answer)
    }

    /// A vote or pre-vote.
    pub(crate) async fn vote(
        &self,
        route: Route,
        kind: VoteKind,
        request: VoteRequest<TypeConfig>,
    ) -> Result<VoteResponse<TypeConfig>, InboundError> {
        let group = self.group(route)?;
        if group.is_silent(Instant::now()) {
            return Err(InboundError::Silent);
        }
        let answer = match kind {
            VoteKind::PreVote => group.raft.pre_vote(request).await,
            VoteKind::Vote => group.raft.vote(request).await,
        };
        answer.map_err(|e| stopped(&e))
    }

    /// A leader hands over.
    pub(crate) async fn transfer(
        &self,
        route: Route,
        request: TransferLeaderRequest<TypeConfig>,
    ) -> Result<TransferLeaderResponse<TypeConfig>, InboundError> {
        let group = self.group(route)?;
        if group.is_silent(Instant::now()) {
            return Err(InboundError::Silent);
        }
        if group.is_witness() && *request.to_node_id() == self.node.get() {
            return Err(InboundError::Witness("it never leads"));
        }
        if group.is_unfit(self.node) {
            return Err(InboundError::Unfit);
        }
        group
            .raft
            .handle_transfer_leader(request)
            .await
            .map_err(|e| stopped(&e))
    }

    /// A file for an incoming snapshot of so many bytes; deleted unless it is installed. For a witness
    /// there are none: nothing of a tenant gets even into a temporary file.
    pub(crate) fn snapshot_file(
        &self,
        route: Route,
        length_bytes: u64,
    ) -> Result<SnapshotFile, InboundError> {
        if self.group(route)?.is_witness() && length_bytes > 0 {
            return Err(InboundError::Witness("it takes no snapshot with data"));
        }
        if self.disk.room() == DiskRoom::Critical {
            return Err(InboundError::DiskFull);
        }
        self.snapshots.temporary().map_err(|e| stopped(&e))
    }

    /// Verifies a received snapshot and installs it.
    pub(crate) async fn install(
        &self,
        route: Route,
        vote: RaftVote,
        meta: RaftSnapshotMeta,
        file: SnapshotFile,
    ) -> Result<SnapshotResponse<TypeConfig>, InboundError> {
        let group = self.group(route)?;
        let (checked, announced) = (file.clone(), meta.clone());
        let is_witness = group.is_witness();
        let verify = tokio::task::spawn_blocking(move || {
            if is_witness {
                format::write_bare(&checked.file, route.group, &announced)?;
            }
            checked.file.sync_all()?;
            format::verify(&checked.file, route.group)
        });
        let found = verify
            .await
            .map_err(|e| stopped(&e))?
            .map_err(|e| stopped(&e))?;
        if found != meta {
            return Err(InboundError::Stopped(
                "the snapshot is not as announced".to_owned(),
            ));
        }
        let snapshot = RaftSnapshot {
            meta,
            snapshot: file,
        };
        group
            .raft
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(|e| stopped(&e))
    }

    fn group(&self, route: Route) -> Result<Arc<Group>, InboundError> {
        if route.to != self.node {
            return Err(InboundError::WrongNode {
                here: self.node,
                meant: route.to,
            });
        }
        self.groups
            .running(route.group)
            .ok_or(InboundError::UnknownGroup(route.group))
    }
}

fn stopped(error: &impl std::fmt::Display) -> InboundError {
    InboundError::Stopped(error.to_string())
}
