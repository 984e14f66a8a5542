//! maia-coordinator: placements, the write-ahead log and its replication, the built-in origin; it
//! pushes every placement change to the proxies. `maiactl` shares this crate.
//!
//! Begin with [`core`] (pure decisions), then [`raft`] (the engine), then [`shell`] (the loops that
//! feed the one into the other).

pub mod api;
pub mod cli;
pub mod config;
pub mod core;
pub mod feed;
pub mod metastore;
pub mod raft;
pub mod shell;
