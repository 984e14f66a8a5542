//! The multi-Raft engine: one instance of openraft per group over one log store, one flusher and
//! one transport. Consensus is openraft's; what is ours is storage, transport, and the rules that
//! make it safe to run: one leader per term, vote silence after a restart, pre-vote for real,
//! nothing acknowledged that is not durable.
//!
//! Reading order: [`engine`], [`propose`], `log`, `state`, `snapshot`, `transport`.
//!
//! ```ignore
//! let engine = Engine::open(EngineConfig::new(node, dir), applier, peers)?;
//! let service = raft_service(engine.inbound());           // mount on the `rpc` listener
//! engine.start_group(group).await?;
//! engine.initialize_group(group, voters).await?;          // first members, once
//! let applied = engine.propose(group, record, deadline).await?;
//! ```

mod catch_up;
mod codec;
pub mod config;
pub mod counters;
pub mod db;
mod denial;
mod disk;
mod early;
mod ending;
pub mod engine;
pub mod entries;
pub mod errors;
pub mod events;
pub mod group;
mod groups;
mod herald;
pub mod keys;
mod lag;
mod leadership;
mod log;
pub mod propose;
pub mod quarantine;
mod retention;
mod runtimes;
pub mod snapshot;
mod starts;
pub mod state;
pub mod transport;
pub mod types;
pub mod witness;

pub use config::{Compression, DbOptions, EngineConfig, SnapshotRules};
pub use counters::{FSYNC_BUCKETS_US, LogStats};
pub use db::StateCf;
pub use early::{EarlyRule, Settled};
pub use engine::Engine;
pub use entries::{AppliedEntry, EntriesError, Stretch};
pub use errors::{EngineOpenError, GroupError, ProposeError, ReadError};
pub use events::{LeaderEvent, LeaderEvents};
pub use group::{Follower, GroupStatus, Role};
pub use keys::group_key;
pub use propose::Applied;
pub use quarantine::{Found, Page, Quarantine};
pub use state::applier::{Applier, Effect, Mutations, Rows, Source, StateError, StateView};
pub use state::digest::StateDigest;
pub use state::reader::{StateReader, StateSnapshot};
pub use transport::client::PeerDirectory;
pub use transport::inbound::Inbound;
pub use transport::server::raft_service;
pub use transport::{Route, Transport, TransportError, VoteKind};
pub use witness::GroupSetup;

#[cfg(test)]
mod tests;
