//! Deletions of tenants that were begun and not ended, because the coordinator that did it died or the
//! group had no leader for longer than the request lived: the controller goes on with them. A
//! deletion is taken up once it has stood still for a while, by its version: a tenant of that name that
//! was placed anew meanwhile is another, and is let be. Every step of a deletion may be repeated.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::ids::TenantId;
use maia_common::limits;
use maia_common::position::Version;

use super::controller;
use super::placements::Placements;
use crate::core::keyspace;
use crate::core::placements::Expected;
use crate::metastore::{self, Metastore};
use crate::raft::{Engine, StateError};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Whoever began a deletion ends it within its request; later nobody does.
const STANDS_STILL_AFTER: Duration = Duration::from_secs(12);

/// The loop.
pub struct Deletions {
    engine: Arc<Engine>,
    store: Arc<dyn Metastore>,
    placements: Placements,
    silence: Duration,
    seen: BTreeMap<(TenantId, Version), Instant>,
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

    fn open(&self) -> Result<Vec<(TenantId, Version)>, StateError> {
        let mut open = Vec::new();
        self.store.read(&mut |view| {
            let limit = limits::MAX_RESUMED_DELETIONS;
            for (key, row) in metastore::range(view, keyspace::DELETIONS, None, limit)? {
                let name = key.strip_prefix(keyspace::DELETIONS).unwrap_or_default();
                let version = serde_json::from_slice(&row.value);
                if let (Ok(tenant), Ok(version)) = (TenantId::new(name), version) {
                    open.push((tenant, version));
                }
            }
            Ok(())
        })?;
        Ok(open)
    }

    async fn take_up(&mut self, open: Vec<(TenantId, Version)>) {
        self.seen.retain(|deletion, _| open.contains(deletion));
        for deletion in open {
            let since = *self
                .seen
                .entry(deletion.clone())
                .or_insert_with(Instant::now);
            if since.elapsed() < STANDS_STILL_AFTER {
                continue;
            }
            let (tenant, version) = &deletion;
            let (expected, deadline) = (
                Expected::Version(*version),
                Instant::now() + limits::API_DEADLINE,
            );
            tracing::info!(%tenant, "going on with a deletion that was interrupted");
            let removed = self.placements.remove(tenant, expected, None, deadline);
            if let Err(error) = removed.await {
                tracing::warn!(%tenant, %error, "will be tried again");
                // Behind the others, and not at once.
                self.seen.insert(deletion, Instant::now());
            }
        }
    }
}
