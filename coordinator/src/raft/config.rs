//! What an engine is opened with.

use std::path::PathBuf;
use std::time::Duration;

use maia_common::NodeId;

pub use super::db::{Compression, DbOptions};
use crate::core::retention::Retention;
use crate::core::witness::Patience;

/// What an engine is opened with. The times must be equal on all nodes of a cluster: lease reads
/// and vote silence derive from `election_max`.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// This node; never used again after its disk was wiped.
    pub node: NodeId,
    /// The node's folder: `raft/`, `state/` and `snapshots/` are made in it.
    pub dir: PathBuf,
    /// How often a leader lets its followers know that it lives.
    pub heartbeat: Duration,
    /// The least time without a leader after which a follower campaigns.
    pub election_min: Duration,
    /// The greatest such time; also the leader's lease.
    pub election_max: Duration,
    /// For how long a data follower may not answer before the witness of its group runs free; see
    /// `core/witness`.
    pub replica_timeout: Duration,
    /// With less free space than this a leader takes no proposals ([`ProposeError::DiskFull`]),
    /// and with a quarter of it a follower takes no entries.
    ///
    /// [`ProposeError::DiskFull`]: super::ProposeError::DiskFull
    pub disk_watermark_bytes: u64,
    /// When to take snapshots, and what to keep of the log.
    pub snapshots: SnapshotRules,
    /// How much of a log is kept, and how long; none: openraft's own rule by number of entries, as
    /// tests of snapshots want it.
    pub retention: Option<Retention>,
    /// Proposals of one group in flight; further ones are refused as overload (I12).
    pub max_in_flight_proposals: u32,
    /// Entries kept in memory per group, for replication and apply to read again: bytes as encoded. A
    /// leader's own records take twice as much, for their persisted form is kept beside them.
    pub tail_bytes: usize,
    /// Memory of the databases, and how they are stored.
    pub databases: DbOptions,
    /// A bug planted by a test, to prove that a checker finds it.
    #[cfg(test)]
    pub(crate) sabotage: Option<Sabotage>,
}

/// A bug that a test plants.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// The log store says that entries and votes are durable, and writes them later.
    AnswerBeforeSync,
    /// A restarted node votes at once.
    NoVoteSilence,
    /// Witnesses are sent whatever the leader has.
    WitnessAhead,
}

/// When to take snapshots, and what to keep of the log.
#[derive(Debug, Clone)]
pub struct SnapshotRules {
    /// A snapshot is taken after this many entries.
    pub entries_since_last: u64,
    /// Entries kept in the log although a snapshot covers them, so that a follower that was away
    /// briefly catches up from the log.
    pub entries_to_keep: u64,
}

impl EngineConfig {
    /// The preset `lan` and default limits.
    #[must_use]
    pub fn new(node: NodeId, dir: impl Into<PathBuf>) -> Self {
        Self {
            node,
            dir: dir.into(),
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(300),
            replica_timeout: Duration::from_secs(1),
            disk_watermark_bytes: 256 << 20,
            snapshots: SnapshotRules {
                entries_since_last: 50_000,
                entries_to_keep: 10_000,
            },
            retention: None,
            max_in_flight_proposals: 4096,
            tail_bytes: 8 << 20,
            databases: DbOptions::default(),
            #[cfg(test)]
            sabotage: None,
        }
    }

    /// openraft's configuration of one group. A silent group does not campaign by itself.
    pub(crate) fn raft_config(&self, silent: bool) -> Result<openraft::Config, String> {
        openraft::Config {
            cluster_name: "maia-edge".to_owned(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            max_payload_entries: 1024,
            api_channel_size: Some(8192),
            notification_channel_size: Some(8192),
            snapshot_policy: match self.retention {
                Some(_) => openraft::SnapshotPolicy::Never,
                None => openraft::SnapshotPolicy::LogsSinceLast(self.snapshots.entries_since_last),
            },
            max_in_snapshot_log_to_keep: match self.retention {
                Some(_) => u64::MAX,
                None => self.snapshots.entries_to_keep,
            },
            purge_batch_size: 256.min(self.snapshots.entries_since_last.max(1)),
            replication_lag_threshold: self.snapshots.entries_since_last.saturating_mul(4),
            install_snapshot_timeout: 600_000,
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(false),
            enable_elect: !silent,
            ..openraft::Config::default()
        }
        .validate()
        .map_err(|e| e.to_string())
    }

    /// How patient a leader is with the data follower of a group with a witness.
    pub(crate) fn patience(&self) -> Patience {
        Patience {
            replica_timeout: self.replica_timeout,
            election_timeout: self.election_max,
        }
    }

    /// How long a message with entries may take: a disk's bad moment must not look like a death.
    pub(crate) fn bulk_timeout(&self) -> Duration {
        (self.election_max * 4).max(Duration::from_secs(2))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
