//! Deletions of tenants that were begun and not ended, because the coordinator that did it died or the
//! group had no leader for longer than the request lived: the controller goes on with them. A
//! deletion is taken up once it has stood still for a while, by its version: a tenant of that name that
//! was placed anew meanwhile is another, and is let be. Every step of a deletion may be repeated.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use maia_common::ids::TenantId;
use maia_common::limits;
use maia_common::position::Version;

use super::controller;
use super::placements::{Placements, Refusal};
use crate::core::keyspace;
use crate::core::placements::Expected;
use crate::metastore::{self, Metastore};
use crate::raft::{Engine, StateError};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Whoever began a deletion ends it within its request; later nobody does.
const STANDS_STILL_AFTER: Duration = Duration::from_secs(12);
/// How many are taken up at once: one whose group has no leader takes its whole deadline.
const AT_ONCE: usize = 8;
/// What was not met again on a page for so long has ended.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// The loop.
pub struct Deletions {
    engine: Arc<Engine>,
    store: Arc<dyn Metastore>,
    placements: Placements,
    silence: Duration,
    seen: BTreeMap<(TenantId, Version), Instant>,
    /// Where the next look begins: what can't be ended must not stand before the others.
    after: Option<String>,
}

impl Deletions {
    /// The loop of this node.
    #[must_use]
    pub fn new(
        engine: Arc<Engine>,
        store: Arc<dyn Metastore>,
        placements: Placements,
        silence: Duration,
    ) -> Self {
        Self {
            engine,
            store,
            placements,
            silence,
            seen: BTreeMap::new(),
            after: None,
        }
    }

    /// Runs until its task is stopped.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if controller::leads(&self.engine, self.silence).is_none() {
                self.seen.clear();
                continue;
            }
            match self.open() {
                Ok(open) => self.take_up(open).await,
                Err(error) => tracing::error!(%error, "open deletions can't be read"),
            }
        }
    }

    /// The next page of open deletions; after the last one from the beginning again.
    fn open(&mut self) -> Result<Vec<(TenantId, Version)>, StateError> {
        let mut open = Vec::new();
        let (mut after, limit) = (self.after.take(), limits::MAX_RESUMED_DELETIONS);
        self.store.read(&mut |view| {
            let rows = metastore::range(view, keyspace::DELETIONS, after.as_deref(), limit)?;
            let last = rows.last().filter(|_| rows.len() == limit);
            after = last.map(|(key, _)| key.clone());
            for (key, row) in rows {
                let name = key.strip_prefix(keyspace::DELETIONS).unwrap_or_default();
                let version = serde_json::from_slice(&row.value);
                if let (Ok(tenant), Ok(version)) = (TenantId::new(name), version) {
                    open.push((tenant, version));
                }
            }
            Ok(())
        })?;
        self.after = after;
        Ok(open)
    }

    async fn take_up(&mut self, open: Vec<(TenantId, Version)>) {
        let now = Instant::now();
        // Of others it is known since when they stand still only while they are on this page.
        let forget = now.checked_sub(FORGET_AFTER);
        self.seen
            .retain(|deletion, since| open.contains(deletion) || Some(*since) > forget);
        let stands_still = |deletion: &(TenantId, Version)| {
            let since = self.seen.entry(deletion.clone()).or_insert(now);
            since.elapsed() >= STANDS_STILL_AFTER
        };
        let due: Vec<_> = open.into_iter().filter(stands_still).collect();
        let placements = &self.placements;
        let ended = futures::stream::iter(due).map(|deletion| async move {
            let removed = end(placements, &deletion).await;
            (deletion, removed)
        });
        let mut ended = ended.buffer_unordered(AT_ONCE);
        while let Some((deletion, removed)) = ended.next().await {
            if let Err(error) = removed {
                tracing::warn!(tenant = %deletion.0, %error, "will be tried again");
                self.seen.insert(deletion, Instant::now());
            }
        }
    }
}

async fn end(
    placements: &Placements,
    (tenant, version): &(TenantId, Version),
) -> Result<(), Refusal> {
    tracing::info!(%tenant, "going on with a deletion that was interrupted");
    let deadline = Instant::now() + limits::API_DEADLINE;
    let expected = Expected::Version(*version);
    placements.remove(tenant, expected, None, deadline).await
}
