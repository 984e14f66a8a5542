//! maia-coordinator: placements, the write-ahead log and its replication, the built-in origin; it
//! pushes every placement change to the proxies. `maiactl` shares this crate.

pub mod config;
pub mod core;
pub mod raft;
