//! The half of the proxy that does things: sockets, clocks, tasks. Every decision is `core`'s.
//!
//! ```text
//!            listener ─stream─▶ service ──pass──▶ origin
//!                                │  ▲ ▲
//!                       response ┘  │ └ hold (waits for changes)
//!   feed ──put──▶ placements ───────┘
//!   admin (health, metrics, explain)      saver: placements ─▶ disk snapshot ─▶ the next start
//!   server: binds, runs and drains all of it
//! ```

pub mod access_log;
pub mod admin;
pub mod disk_snapshot;
pub mod feed;
pub mod flights;
pub mod hold;
pub mod in_flight;
pub mod listener;
pub mod lookups;
pub mod memory;
pub mod metrics;
mod names;
pub mod on_demand;
pub mod origin;
pub mod placements;
pub mod published;
pub mod response;
pub mod saver;
pub mod server;
pub mod service;
pub mod stream;
mod text;
