//! What the end-to-end tests share: [`cluster`] starts the real binaries on loopback,
//! [`extra`] a coordinator more, [`client`] speaks HTTP to them as any client would, [`wait`]
//! replaces sleeping, [`load`] writes while something breaks, [`feed_load`] is a thousand proxies,
//! [`metrics`] reads what the processes count, [`show`] is what issues must show.
//!
//! [`certificates`] has `maiactl` make certificates.
//!
//! Nothing here links the product's code but the wire's types and how to speak on it: the tests know only what its users know.

pub mod certificates;
pub mod client;
pub mod cluster;
pub mod curl;
pub mod extra;
pub mod feed_load;
pub mod load;
pub mod metrics;
pub mod show;
pub mod wait;

pub use client::{Answer, Client};
pub use cluster::{Cluster, Options};
pub use extra::Extra;
pub use wait::{wait_until, wait_value};
