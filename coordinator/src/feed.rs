//! The placement feed: every change of a placement, a group or a region, to every proxy, by
//! revision. Whatever goes to more than one proxy is encoded once and shared as ready bytes.
//!
//! ```text
//! cluster loop ─▶ hub ──ring of ready deltas, hints──▶ stream ─▶ outbox ─▶ HTTP/2 ─▶ proxy
//!                  ▲ each second: Alive, who is late     ▲ images, history        │
//!                pulse                                   └──── Applied, Drained ◀──┘
//! ```
//! A stream first brings its proxy to the newest revision (an image of all placements, shared by all
//! that ask at about the same time; or stretches of the history, shared by all that were cut off at
//! about the same revision) and then hands on what the ring brings. When it falls off the ring it
//! catches up from the history and goes on. A proxy that does not read, or
//! reads and does not acknowledge, is cut off and starts over; it never holds up the others.
//!
//! Invariants: I4 (a stream's revisions only grow, no snapshot is older than the proxy's
//! registration or its Hello), I12 (ring, outbox, images, streams and reads are capped).

mod aside;
mod catch_up;
mod drained;
mod grpc;
mod hub;
mod image;
mod images;
mod lookup;
mod message;
mod pulse;
#[cfg(test)]
mod scale_test;
mod seats;
mod service;
#[cfg(test)]
mod slow_test;
mod stats;
mod stream;
mod stretches;
#[cfg(test)]
mod tests;

pub use drained::Drainable;
pub use grpc::FeedServer;
pub use hub::{Hub, Push};
pub use image::{Contents, Image};
pub use pulse::Pulse;
pub use seats::Subscriber;
pub use service::{FeedParts, FeedService};
pub use stats::{CutOff, PUSH_BUCKETS_US, Stats};
