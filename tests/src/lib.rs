//! What the end-to-end tests share: [`cluster`] starts the real binaries on loopback,
//! [`extra`] a coordinator more, [`client`] speaks HTTP to them as any client would, [`wait`]
//! replaces sleeping, [`events`] reads streams, [`load`] writes while something breaks, [`feed_load`] is a thousand proxies,
//! [`metrics`] reads what the processes count, [`witness`] kills each member of a group, [`show`] is what issues must show. [`history`] and
//! [`faults`]: what clients were told while processes died and links were cut, and whether any order
//! explains it; [`disk`]: one that runs full or loses power; [`locality`]: whose bytes are on which disk.
//!
//! [`certificates`] has `maiactl` make certificates.
//!
//! Nothing here links the product's code but the wire's types and how to speak on it: the tests know only what its users know.

pub mod certificates;
pub mod client;
pub mod cluster;
pub mod curl;
pub mod disk;
pub mod events;
pub mod extra;
pub mod faults;
pub mod feed_load;
pub mod history;
pub mod load;
pub mod locality;
pub mod metrics;
pub mod show;
pub mod wait;
pub mod witness;

pub use client::{Answer, Client};
pub use cluster::{Cluster, Options};
pub use events::Events;
pub use extra::Extra;
pub use wait::{wait_until, wait_value};

/// The folder of this crate in the checkout that is tested. Asked when the test runs: what was compiled may
/// have been so for another checkout that shares its target folder.
///
/// # Panics
/// Outside `cargo test` and `cargo nextest`.
#[must_use]
pub fn folder() -> std::path::PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .expect("cargo names it")
        .into()
}
