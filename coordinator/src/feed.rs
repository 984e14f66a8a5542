//! The placement feed: every change of a placement, a group or a region, to every proxy, by
//! revision. The hub takes changes in order and hands each to all subscribers; the service speaks
//! with one proxy. A slow proxy is cut off and comes back; it never holds up the others (I12).

mod hub;
mod service;
mod snapshot;

pub use hub::{Hub, Push};
pub use service::FeedService;
