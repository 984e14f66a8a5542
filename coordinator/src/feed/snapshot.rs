//! The start of a stream: all placements in chunks, or one delta over what changed since the proxy
//! was last here. Read from one moment of the state.

use std::collections::BTreeSet;

use bytes::Bytes;
use maia_common::limits;
use maia_common::placement::Placement;
use maia_common::position::Revision;
use maia_common::wire::feed as wire;
use maia_common::wire::feed::down::Kind;
use prost::Message;

use crate::core::cluster_state::ClusterState;
use crate::core::{feed, keyspace, metastore as core};
use crate::metastore::{self, Metastore};
use crate::raft::{StateCf, StateError, StateView};

/// A proxy that is more changes behind gets a snapshot: it is not larger.
const MAX_CATCH_UP: usize = 20_000;

/// The messages that bring a proxy from `last` (none: it has nothing) to the returned revision.
pub(super) fn opening(
    store: &dyn Metastore,
    cluster: &ClusterState,
    last: Option<Revision>,
) -> Result<(Revision, Vec<Kind>), StateError> {
    let mut result = (Revision::default(), Vec::new());
    store.read(&mut |view| {
        let revision = core::current_revision(view)?;
        let delta = match last {
            Some(last) => catch_up(view, cluster, last, revision)?,
            None => None,
        };
        let messages = match delta {
            Some(delta) => vec![Kind::Delta(delta)],
            None => snapshot(view, cluster, revision)?,
        };
        result = (revision, messages);
        Ok(())
    })?;
    Ok(result)
}

/// One delta from `last`, or none where only a snapshot will do.
fn catch_up(
    view: &dyn StateView,
    cluster: &ClusterState,
    last: Revision,
    revision: Revision,
) -> Result<Option<wire::Delta>, StateError> {
    let after = core::change_key(last);
    let rows = view.scan(
        StateCf::Changes,
        &core::meta_key(""),
        Some(&after),
        MAX_CATCH_UP,
    )?;
    if rows.len() as u64 != revision.get().saturating_sub(last.get()) {
        return Ok(None);
    }
    let mut keys = BTreeSet::new();
    let mut committed_unix_us = 0;
    for (_, bytes) in rows {
        let change = core::decode_change(bytes)?;
        committed_unix_us = change.proposed_unix_us;
        keys.extend(change.keys.into_iter().map(|k| k.key));
        if keys.len() > MAX_CATCH_UP {
            return Ok(None);
        }
    }
    let state = at_view(view, cluster)?;
    let mut changes = feed::topology(&state);
    for key in &keys {
        feed::note_removed(&state, key, &mut changes);
        let Some(name) = key.strip_prefix(keyspace::TENANTS) else {
            continue;
        };
        match view.get(StateCf::Meta, &core::meta_key(key))? {
            None => changes.removed_tenants.push(name.to_owned()),
            Some(bytes) => changes
                .tenants
                .extend(tenant(&core::decode_value(bytes)?.value)),
        }
    }
    let (from_revision, revision) = (last.get(), revision.get());
    let changes = Some(changes);
    Ok(Some(wire::Delta {
        from_revision,
        revision,
        committed_unix_us,
        changes,
    }))
}

/// Regions, groups and leaders as of the view, with the newer hints of `cluster`: the picture alone
/// may be of another moment than the tenants that are read from the view.
fn at_view(view: &dyn StateView, cluster: &ClusterState) -> Result<ClusterState, StateError> {
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

fn snapshot(
    view: &dyn StateView,
    cluster: &ClusterState,
    revision: Revision,
) -> Result<Vec<Kind>, StateError> {
    let state = at_view(view, cluster)?;
    let generation = state.generation.get();
    let mut messages = vec![Kind::SnapshotStart(wire::SnapshotStart {
        generation,
        revision: revision.get(),
        ..Default::default()
    })];
    let mut chunks = 0;
    let mut push = |messages: &mut Vec<Kind>, changes: &wire::Changes| {
        let changes: Bytes = changes.encode_to_vec().into();
        let crc32c = crc32c::crc32c(&changes);
        messages.push(Kind::SnapshotChunk(wire::SnapshotChunk {
            sequence: chunks,
            crc32c,
            changes,
        }));
        chunks += 1;
    };
    push(&mut messages, &feed::topology(&state));
    let mut tenants = 0;
    let mut after: Option<String> = None;
    loop {
        let limit = limits::FEED_CHUNK_TENANTS;
        let page = metastore::range(view, keyspace::TENANTS, after.as_deref(), limit)?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        let page: Vec<_> = page
            .iter()
            .filter_map(|(_, row)| tenant(&row.value))
            .collect();
        tenants += page.len() as u64;
        push(
            &mut messages,
            &wire::Changes {
                tenants: page,
                ..wire::Changes::default()
            },
        );
    }
    messages.push(Kind::SnapshotEnd(wire::SnapshotEnd { chunks, tenants }));
    Ok(messages)
}

fn tenant(json: &[u8]) -> Option<wire::Tenant> {
    serde_json::from_slice::<Placement>(json)
        .ok()
        .map(|p| feed::tenant_message(&p))
}
