//! The vocabulary that maia-proxy and maia-coordinator share: ids, positions, placements,
//! topology, wire messages, error codes, limits, metric names, and the few runtime parts that
//! both need. Never depends on RocksDB, so that the proxy builds quickly.
//!
//! Begin with [`placement`], then [`topology`].

pub mod cluster_key;
pub mod duration;
pub mod error_code;
pub mod headers;
pub mod ids;
pub mod invariants;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod placement;
pub mod position;
pub mod rpc;
pub mod runtime;
pub mod toml_lines;
pub mod topology;
pub mod wire;

pub use error_code::{ErrorCode, Problem};
pub use ids::{
    ClusterName, GroupId, IdempotencyKey, NodeId, ProxyId, RegionName, ResourceId, ResourceType,
    TenantId,
};
pub use position::{Generation, GroupPosition, Index, Position, Revision, Term, Version};
