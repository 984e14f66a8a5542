//! What the configuration means for the engine. Called once, when the node starts.

use crate::config::Config;
use crate::core::retention::Retention;
use crate::raft::{DbOptions, EngineConfig};

/// The engine's settings.
pub(super) fn engine(config: &Config) -> EngineConfig {
    let election = config.election();
    EngineConfig {
        heartbeat: election.heartbeat,
        election_min: election.timeout_min,
        election_max: election.timeout_max,
        replica_timeout: config.replica_timeout(),
        disk_watermark_bytes: config.replication.min_free_bytes,
        retention: Some(Retention {
            bytes: config.replication.retention_bytes,
            age_ms: u64::try_from(config.replication.retention_age.as_millis()).unwrap_or(u64::MAX),
        }),
        databases: DbOptions {
            compression: config.storage.compression,
            ..DbOptions::default()
        },
        ..EngineConfig::new(config.node.id, &config.dir)
    }
}
