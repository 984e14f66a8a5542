//! What the engine's operations answer when they fail: one enum per operation.

use std::path::PathBuf;

use maia_common::{GroupId, NodeId};

use super::db::DbOpenError;

/// Why an engine did not open.
#[derive(Debug, thiserror::Error)]
pub enum EngineOpenError {
    /// A database did not open.
    #[error(transparent)]
    Db(#[from] DbOpenError),
    /// `raft/` is not the one with which this node last ran.
    #[error(
        "{} is an older copy: it knows of {counted} starts of this node, which has had {seen}. It \
         has forgotten votes and records that were promised to others. Put back the newest one, or \
         move the node's whole folder aside and let it join again under a new node id",
        path.display()
    )]
    OlderCopy {
        /// The database's folder.
        path: PathBuf,
        /// The starts counted in it.
        counted: u64,
        /// The starts counted beside it.
        seen: u64,
    },
    /// The configuration is not one that Raft can run with.
    #[error("illegal election configuration: {reason}")]
    Config {
        /// Which rule it breaks.
        reason: String,
    },
    /// The folder, a thread or the runtime.
    #[error("the engine in {} cannot start: {source}", dir.display())]
    Io {
        /// The node's folder.
        dir: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
}

/// Why a group did not start, stop or take its members.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GroupError {
    /// This node left the group before; it does not come back under the same node id.
    #[error("this node has left group {0}")]
    GroupLeft(GroupId),
    /// No such group runs here.
    #[error("group {0} does not run here")]
    UnknownGroup(GroupId),
    /// Its storage is damaged, or the instance ended.
    #[error("group {group} cannot go on: {reason}")]
    Stopped {
        /// The group.
        group: GroupId,
        /// What happened, and what to do.
        reason: String,
    },
    /// The members are not ones that Raft accepts.
    #[error("group {group} refuses these members: {reason}")]
    Members {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
    /// This node has just started and may have promised another its vote.
    #[error("this node does not campaign in group {0} yet: it has just started")]
    Silent(GroupId),
    /// This node is the group's witness, which never leads.
    #[error("this node is the witness of group {0}: it never leads")]
    Witness(GroupId),
    /// This node may not lead.
    #[error("this node does not campaign in group {0}: its clock is off")]
    Unfit(GroupId),
    /// The target of a transfer lags, is no voter, is the witness, or may not lead.
    #[error("node {to} cannot take over group {group}: {reason}")]
    TransferTarget {
        /// The group.
        group: GroupId,
        /// The target.
        to: NodeId,
        /// Why not.
        reason: String,
    },
    /// This node does not lead the group.
    #[error("this node does not lead group {group}")]
    NotLeader {
        /// The group.
        group: GroupId,
        /// Who does, if known.
        leader: Option<NodeId>,
    },
}

/// Why a proposal was not acknowledged. All but [`ProposeError::OutcomeUnknown`] mean: definitely
/// not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No such group runs here.
    #[error("the group does not run here")]
    UnknownGroup,
    /// Another node leads, or none.
    #[error("this node does not lead the group")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// This node leads, and has yet to apply what stood in its log when it was elected.
    #[error("the group's new leader still applies its log")]
    CatchingUp,
    /// The disk has less room than the watermark.
    #[error("the disk is nearly full")]
    DiskFull,
    /// Not decided by the deadline, or cut off by a new leader: it may or may not be written.
    #[error("the outcome is not known")]
    OutcomeUnknown,
    /// Too many proposals of this group are in flight.
    #[error("too many proposals in flight")]
    Overloaded,
    /// The record is larger than a message may be.
    #[error("a record of {size_bytes} bytes is too large")]
    TooLarge {
        /// Its body.
        size_bytes: usize,
    },
    /// The group has stopped on this node.
    #[error("the group has stopped: {0}")]
    Stopped(String),
}

/// Why a linearizable read has no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No such group runs here.
    #[error("the group does not run here")]
    UnknownGroup,
    /// Another node leads, or none.
    #[error("this node does not lead the group")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// A quorum did not confirm the leader, or the state did not get there, by the deadline.
    #[error("not confirmed in time")]
    Timeout,
    /// The group has stopped on this node.
    #[error("the group has stopped: {0}")]
    Stopped(String),
}
