//! The wire types, generated from `common/proto`; one module per protocol and version. Messages
//! are versioned by their package; fields are added, never renumbered.

/// The placement feed, version 1.
#[expect(clippy::pedantic, reason = "generated")]
pub mod feed {
    tonic::include_proto!("maia.feed.v1");
}

/// What coordinators ask each other beside Raft, version 1.
#[expect(clippy::pedantic, reason = "generated")]
pub mod peer {
    tonic::include_proto!("maia.peer.v1");
}

/// What records carry, version 1.
#[expect(clippy::pedantic, reason = "generated")]
pub mod record {
    tonic::include_proto!("maia.record.v1");
}

/// Raft between coordinators, and what the engine persists, version 1.
#[expect(clippy::pedantic, reason = "generated")]
pub mod raft {
    tonic::include_proto!("maia.raft.v1");
}
