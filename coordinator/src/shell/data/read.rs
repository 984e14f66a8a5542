//! Reads of the built-in origin: served from what is applied here, by any member of the tenant's
//! group; a strong read first asks the leader how far that must be.

use std::time::{Duration, Instant};

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, ResourceId, ResourceType, TenantId};
use maia_common::position::Position;
use maia_common::runtime::Backoff;

use super::propose::leaderless;
use super::{DataService, Resource};
use crate::core::data as core;
use crate::raft::{StateCf, StateError, StateView};
use crate::shell::placements::Refusal;

/// After this many bytes a page ends: what is listed is in memory at once.
const PAGE_BYTES: usize = 4 << 20;
/// Rows that are read at once; each may be as large as a resource.
const PAGE_STEP: usize = 16;

/// A part of a list.
#[derive(Debug, Default)]
pub struct Page {
    /// In the order of ids.
    pub items: Vec<(ResourceId, Resource)>,
    /// Where the next page begins, if there may be one.
    pub next: Option<ResourceId>,
}

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
        let group = self.home_caught_up(tenant, deadline).await?.placement.group;
        let status = self.0.engine.status(group);
        let has_copy = status.is_some_and(|s| s.may_serve(self.0.me.0));
        if !has_copy {
            let text = format!(
                "no copy of tenant `{tenant}` is kept in region {}",
                self.0.me.1
            );
            return Err(Refusal::new(ErrorCode::StalePlacement, text));
        }
        if strong {
            let position = self.read_index(group, deadline).await?;
            if self
                .0
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
                Some(node) if node == self.0.me.0 => {
                    self.0.engine.read_barrier(group, deadline).await.ok()
                }
                Some(node) => self.0.peers.read_index(node, group, deadline).await.ok(),
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
            .0
            .engine
            .state()
            .get(StateCf::Data, &key)
            .map_err(unreadable)?;
        found
            .map(core::decode_resource)
            .transpose()
            .map_err(unreadable)
    }

    /// A page of the resources of a type whose ids begin with `prefix`, in the order of ids, after
    /// `after`: up to `limit` of them, fewer when they are large.
    ///
    /// # Errors
    /// [`Refusal`] when the state can't be read.
    pub fn list(
        &self,
        (group, tenant, kind): (GroupId, &TenantId, &ResourceType),
        prefix: &str,
        after: Option<&ResourceId>,
        limit: usize,
    ) -> Result<Page, Refusal> {
        let whole = core::type_prefix(group, tenant, kind);
        let mut start = whole.clone();
        start.extend_from_slice(prefix.as_bytes());
        let mut after = after.map(|id| core::resource_key(group, tenant, kind, id));
        let state = self.0.engine.state();
        let mut page = Page::default();
        let mut bytes = 0;
        while page.items.len() < limit && bytes < PAGE_BYTES {
            let step = PAGE_STEP.min(limit - page.items.len());
            let rows = state
                .scan(StateCf::Data, &start, after.as_deref(), step)
                .map_err(unreadable)?;
            let is_last = rows.len() < step;
            for (key, value) in rows {
                bytes += value.len();
                let resource = core::decode_resource(value).map_err(unreadable)?;
                page.items
                    .extend(core::resource_id_of(&key, &whole).map(|id| (id, resource)));
                after = Some(key);
            }
            if is_last {
                return Ok(page);
            }
        }
        page.next = page.items.last().map(|(id, _)| id.clone());
        Ok(page)
    }
}

fn unreadable(error: StateError) -> Refusal {
    tracing::error!(%error, "state can't be read");
    Refusal::new(ErrorCode::Internal, "the stored data can't be read")
}
