//! Resolutions of cut-off records, proposed in the tenant's group of today; see
//! `core/data/reconcile` for what they do, `shell/quarantine` for who asks.

use std::time::Instant;

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, TenantId};
use maia_common::wire::record as wire;

use super::{DataService, refusal_of};
use crate::core::data as core;
use crate::core::quarantine::Home;
use crate::core::record::Record;
use crate::shell::placements::Refusal;

impl DataService {
    /// Whether this node knows a placement of the tenant, so that nobody has to be asked for it.
    #[must_use]
    pub fn is_placed(&self, tenant: &TenantId) -> bool {
        self.home(tenant).is_ok()
    }

    /// What is known of a tenant's home, and the group that it is. That it has none is said only when the
    /// metastore's leader says so, too.
    ///
    /// # Errors
    /// [`Refusal`] when nothing is known just now.
    pub async fn home_of(
        &self,
        tenant: &TenantId,
        deadline: Instant,
    ) -> Result<(Home, Option<GroupId>), Refusal> {
        match self.home_caught_up(tenant, deadline).await {
            Ok(home) => {
                let strategy = home.placement.properties.conflict_strategy;
                let placed = Home::Placed(home.created, strategy);
                Ok((placed, Some(home.placement.group)))
            }
            Err(refusal) if refusal.code == ErrorCode::UnknownTenant => Ok((Home::Deleted, None)),
            Err(refusal) => Err(refusal),
        }
    }

    /// Has a resolution carried out; safe to repeat, by its key.
    ///
    /// # Errors
    /// [`Refusal`], of apply, or because nobody takes it now.
    pub async fn reconcile(
        &self,
        record: &Record,
        deadline: Instant,
    ) -> Result<wire::Reconciled, Refusal> {
        let Some(tenant) = &record.tenant else {
            let text = "a resolution names no tenant";
            return Err(Refusal::new(ErrorCode::TenantRequired, text));
        };
        let group = self.home_caught_up(tenant, deadline).await?.placement.group;
        let applied = self.settle(group, record, true, deadline).await?;
        match core::decode_outcome(&applied.outcome) {
            Some(wire::data_outcome::What::Reconciled(done)) => Ok(done),
            other => Err(refusal_of(other)),
        }
    }
}
