//! A snapshot as a proxy gets it: all messages of it encoded, checksummed and framed once, read from
//! one moment of the state, shared by all streams that send it. Building blocks; the owner of the
//! images runs it where blocking is allowed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use maia_common::limits;
use maia_common::position::Revision;
use maia_common::wire::feed as wire;
use maia_common::wire::feed::down::Kind;
use prost::Message;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::message::ready;
use crate::core::cluster_state::ClusterState;
use crate::core::{feed, keyspace, metastore as core};
use crate::metastore::{self, Metastore};
use crate::raft::{StateCf, StateError, StateView};

/// What of the state a snapshot has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// Regions, groups and every tenant.
    Everything,
    /// Regions and groups: for proxies that look tenants up.
    Topology,
}

/// A snapshot, ready to be sent.
#[derive(Debug)]
pub struct Image {
    /// Of the state that it was read from.
    pub revision: Revision,
    /// How many tenants it has.
    pub tenants: u64,
    /// Its start, its chunks and its end, in order.
    pub messages: Vec<Bytes>,
    /// Ends the streams that send it: its place is needed.
    pub(super) cut: CancellationToken,
    /// Tells of the image's end when the last stream has sent it.
    pub(super) place: Option<Place>,
}

impl Image {
    /// Reads it from one moment of the state; blocks. `cluster` lends its generation and its hints.
    ///
    /// # Errors
    /// [`StateError`] when the state can't be read.
    pub fn build(
        store: &dyn Metastore,
        cluster: &ClusterState,
        contents: Contents,
    ) -> Result<Image, StateError> {
        let mut image = Image {
            revision: Revision::default(),
            tenants: 0,
            messages: Vec::new(),
            cut: CancellationToken::new(),
            place: None,
        };
        store.read(&mut |view| {
            let mut chunks = Chunks::default();
            image.revision = core::current_revision(view)?;
            chunks.push(&feed::topology(&topology_at(view, cluster)?));
            image.tenants = match contents {
                Contents::Everything => tenants(view, &mut chunks)?,
                Contents::Topology => 0,
            };
            image.messages = chunks.0;
            Ok(())
        })?;
        let start = ready(Kind::SnapshotStart(wire::SnapshotStart {
            generation: cluster.generation.get(),
            revision: image.revision.get(),
            tenants: image.tenants,
        }));
        let end = ready(Kind::SnapshotEnd(wire::SnapshotEnd {
            chunks: image.messages.len() as u64,
            tenants: image.tenants,
        }));
        image.messages.insert(0, start);
        image.messages.push(end);
        Ok(image)
    }

    /// How long a link of this speed may take for all of it.
    pub(super) fn patience(&self, bytes_per_second: u32) -> Duration {
        let bytes: usize = self.messages.iter().map(Bytes::len).sum();
        limits::FEED_PATIENCE + Duration::from_secs(bytes as u64) / bytes_per_second
    }
}

/// One of the places for images; whoever waits for one is woken when it is dropped.
#[derive(Debug)]
pub(super) struct Place(pub(super) Arc<Notify>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

#[derive(Default)]
struct Chunks(Vec<Bytes>);

impl Chunks {
    fn push(&mut self, changes: &wire::Changes) {
        let changes: Bytes = changes.encode_to_vec().into();
        let crc32c = crc32c::crc32c(&changes);
        let sequence = self.0.len() as u64;
        self.0.push(ready(Kind::SnapshotChunk(wire::SnapshotChunk {
            sequence,
            crc32c,
            changes,
        })));
    }
}

fn tenants(view: &dyn StateView, chunks: &mut Chunks) -> Result<u64, StateError> {
    let prefix = core::meta_key(keyspace::TENANTS);
    let mut after: Option<Vec<u8>> = None;
    let mut count = 0;
    loop {
        let limit = limits::FEED_CHUNK_TENANTS;
        let rows = view.scan(StateCf::Meta, &prefix, after.as_deref(), limit)?;
        let Some((last, _)) = rows.last() else {
            return Ok(count);
        };
        after = Some(last.clone());
        let mut page = wire::Changes::default();
        page.tenants.reserve(rows.len());
        for (_, value) in rows {
            let stored = core::decode_value(value)?;
            page.tenants.extend(feed::tenant_message(&stored.value));
        }
        count += page.tenants.len() as u64;
        chunks.push(&page);
    }
}

/// Regions, groups and leaders as of the view, with the newer hints of `cluster`: the picture alone
/// may be of another moment than what else is read from the view.
pub(super) fn topology_at(
    view: &dyn StateView,
    cluster: &ClusterState,
) -> Result<ClusterState, StateError> {
    let mut state = ClusterState {
        generation: cluster.generation,
        leaders: cluster.leaders.clone(),
        ..ClusterState::default()
    };
    for prefix in [keyspace::REGIONS, keyspace::GROUPS, keyspace::LEADERS] {
        for (key, row) in metastore::range(view, prefix, None, usize::MAX)? {
            state.take(&key, Some(&row.value));
        }
    }
    Ok(state)
}
