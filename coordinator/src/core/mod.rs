//! The pure part of the coordinator: no tokio, no I/O, no clock, no randomness, no locks. Data
//! comes in as arguments and goes out as values; the shell executes them.

pub mod acks;
pub mod clocks;
pub mod cluster_state;
pub mod collection;
pub mod conflict;
pub mod custody;
pub mod data;
pub mod entries;
pub mod feed;
pub mod frame;
pub mod group_life;
pub mod history;
pub mod hlc;
pub mod homecoming;
pub mod idempotency;
pub mod json;
pub mod keyspace;
pub mod lag;
pub mod membership;
pub mod metastore;
pub mod nodes;
pub mod pace;
pub mod placements;
pub mod quarantine;
pub mod record;
pub mod regions;
pub mod retention;
pub mod token;
pub mod witness;
