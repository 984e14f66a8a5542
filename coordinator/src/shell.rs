//! The impure part of the coordinator: one owner for each loop, which feeds events into the pure
//! cores and carries out what they decide. `node` puts the parts together.

pub mod applier;
pub mod bootstrap;
pub mod changes;
pub mod clock;
pub mod clock_watch;
pub mod cluster;
pub mod controller;
pub mod data;
pub mod deletions;
pub mod digests;
mod entries_service;
pub mod groups;
pub mod identity;
pub mod members_only;
pub mod node;
pub mod nodes;
mod patience;
pub mod peer_service;
pub mod peers;
pub mod placements;
pub mod proxies;
pub mod quarantine;
pub mod regions;
pub mod standing;
pub mod streams;
pub mod vitals;
