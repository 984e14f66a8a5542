//! Reads of the built-in origin: served from what is applied here, by any member of the tenant's
//! group; a strong read first asks the leader how far that must be.

use std::time::{Duration, Instant};

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, ResourceId, ResourceType, TenantId};
use maia_common::position::Position;
use maia_common::runtime::Backoff;

use super::{DataService, Resource, leaderless};
use crate::core::data as core;
use crate::raft::{StateCf, StateError, StateView};
use crate::shell::placements::Refusal;

impl DataService {
    /// Makes sure that reads of this tenant may be served here; with `strong`, that they see all
    /// writes acknowledged before this call. Returns the group to read from.
    ///
    /// # Errors
    /// [`Refusal`]; `stale_placement` where no copy is kept here.
    pub async fn prepare_read(
        &self,
        tenant: &TenantId,
        strong: bool,
        deadline: Instant,
    ) -> Result<GroupId, Refusal> {
        let group = self.home_caught_up(tenant, deadline).await?.group;
        if self.engine.status(group).is_none() {
            let text = format!(
                "no copy of tenant `{tenant}` is kept in region {}",
                self.region
            );
            return Err(Refusal::new(ErrorCode::StalePlacement, text));
        }
        if strong {
            let position = self.read_index(group, deadline).await?;
            if self
                .engine
                .wait_applied(group, position, deadline)
                .await
                .is_err()
            {
                return Err(Refusal::new(
                    ErrorCode::NotYet,
                    "this replica is behind its leader",
                ));
            }
        }
        Ok(group)
    }

    async fn read_index(&self, group: GroupId, deadline: Instant) -> Result<Position, Refusal> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
        loop {
            let position = match self.leader_of(group) {
                Some(node) if node == self.node => {
                    self.engine.read_barrier(group, deadline).await.ok()
                }
                Some(node) => self.peers.read_index(node, group, deadline).await.ok(),
                None => None,
            };
            if let Some(position) = position {
                return Ok(position);
            }
            let wait = backoff.next(fastrand::f64());
            if Instant::now() + wait >= deadline {
                return Err(leaderless(group));
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// A resource as applied here.
    ///
    /// # Errors
    /// [`Refusal`] when the state can't be read.
    pub fn read(
        &self,
        group: GroupId,
        tenant: &TenantId,
        kind: &ResourceType,
        id: &ResourceId,
    ) -> Result<Option<Resource>, Refusal> {
        let key = core::resource_key(group, tenant, kind, id);
        let found = self
            .engine
            .state()
            .get(StateCf::Data, &key)
            .map_err(unreadable)?;
        found
            .map(core::decode_resource)
            .transpose()
            .map_err(unreadable)
    }

    /// Up to `limit` resources of a type whose ids begin with `prefix`, in the order of ids, after
    /// `after`.
    ///
    /// # Errors
    /// [`Refusal`] when the state can't be read.
    pub fn list(
        &self,
        group: GroupId,
        tenant: &TenantId,
        kind: &ResourceType,
        prefix: &str,
        after: Option<&ResourceId>,
        limit: usize,
    ) -> Result<Vec<(ResourceId, Resource)>, Refusal> {
        let whole = core::type_prefix(group, tenant, kind);
        let mut start = whole.clone();
        start.extend_from_slice(prefix.as_bytes());
        let after = after.map(|id| core::resource_key(group, tenant, kind, id));
        let state = self.engine.state();
        let rows = state
            .scan(StateCf::Data, &start, after.as_deref(), limit)
            .map_err(unreadable)?;
        rows.into_iter()
            .filter_map(|(key, bytes)| Some((core::resource_id_of(&key, &whole)?, bytes)))
            .map(|(id, bytes)| Ok((id, core::decode_resource(bytes).map_err(unreadable)?)))
            .collect()
    }
}

fn unreadable(error: StateError) -> Refusal {
    tracing::error!(%error, "state can't be read");
    Refusal::new(ErrorCode::Internal, "the stored data can't be read")
}
