//! Placements as the API asks for them: runs the plans of `core/placements` against the metastore,
//! and plans anew when the world changed between plan and commit. Any coordinator can do it.

use std::sync::Arc;
use std::time::Instant;

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, IdempotencyKey, RegionName, TenantId};
use maia_common::placement::{
    GroupKey, GroupRecord, GroupState, Placement, PlacementSpec, PlacementState, TenantProperties,
};
use maia_common::position::{Term, Version};
use serde::Serialize;

use super::clock::unix_us;
use super::cluster::Cluster;
use super::data::DataService;
use crate::core::metastore::{self as metastore_core, Transaction};
use crate::core::placements::{self as plans, Expected, PlanError};
use crate::core::{cluster_state::ClusterState, keyspace};
use crate::metastore::{self, Metastore, MetastoreError, Outcome, Versioned};

/// How often a plan is made anew before the caller is told that the world is too busy.
const MAX_PLANS: usize = 16;

/// A refusal: a code and a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub detail: String,
}

impl Refusal {
    /// A refusal with this code and sentence.
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}

impl From<MetastoreError> for Refusal {
    fn from(error: MetastoreError) -> Self {
        let code = match &error {
            MetastoreError::Leaderless => ErrorCode::GroupLeaderless,
            MetastoreError::OutcomeUnknown => ErrorCode::OutcomeUnknown,
            MetastoreError::Refused(code, _) => *code,
            MetastoreError::Illegal(_) | MetastoreError::State(_) => ErrorCode::Internal,
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<PlanError> for Refusal {
    fn from(error: PlanError) -> Self {
        let code = match error {
            PlanError::TooManyGroups => ErrorCode::TooManyGroups,
            PlanError::NoNode(_) | PlanError::NeedsMigration(_) | PlanError::Deleting => {
                ErrorCode::PlacementConflict
            }
        };
        Refusal::new(code, error.to_string())
    }
}

/// A placement as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlacementView {
    /// The tenant.
    pub tenant: TenantId,
    /// Where its writes go now: the region of the group's leader, or the home while none is known.
    pub primary_region: RegionName,
    /// Where the spec wants them.
    pub home_region: RegionName,
    /// The regions with data beside the home.
    pub replicas: Vec<RegionName>,
    /// How many regions hold the data.
    pub mode: maia_common::placement::Mode,
    /// The tenant's own properties.
    #[serde(flatten)]
    pub properties: TenantProperties,
    /// The group.
    pub group: GroupId,
    /// The group's term, as known here.
    pub term: Term,
    /// Grows with each change.
    pub version: Version,
    /// Whether it takes writes.
    pub state: PlacementState,
}

/// A placement after a PUT.
#[derive(Debug, Clone)]
pub struct Put {
    /// As it is now.
    pub view: PlacementView,
    /// Whether the tenant was not placed before.
    pub created: bool,
}

/// What a PUT asks.
#[derive(Debug, Clone)]
pub struct PutRequest {
    /// The tenant.
    pub tenant: TenantId,
    /// Where it shall live.
    pub spec: PlacementSpec,
    /// What must hold of the present placement.
    pub expected: Expected,
    /// Makes a retry recognizable.
    pub key: Option<IdempotencyKey>,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Placements {
    store: Arc<dyn Metastore>,
    cluster: Cluster,
    data: DataService,
}

impl Placements {
    /// Placements kept in `store`; `data` purges what deleted tenants leave.
    #[must_use]
    pub fn new(store: Arc<dyn Metastore>, cluster: Cluster, data: DataService) -> Self {
        Self {
            store,
            cluster,
            data,
        }
    }

    /// The tenant's placement as this node knows it.
    ///
    /// # Errors
    /// [`Refusal`] when the state can't be read.
    pub fn get(&self, tenant: &TenantId) -> Result<Option<PlacementView>, Refusal> {
        let Some(stored) = self.stored(tenant)? else {
            return Ok(None);
        };
        Ok(Some(self.view(&stored.value)?))
    }

    /// Returns when [`Placements::get`] sees all that was committed before this call.
    ///
    /// # Errors
    /// [`Refusal`] while the metastore has no leader.
    pub async fn catch_up(&self, deadline: Instant) -> Result<(), Refusal> {
        Ok(self.store.catch_up(deadline).await?)
    }

    /// Up to `limit` placements in the order of tenants, after the tenant `after`.
    ///
    /// # Errors
    /// [`Refusal`] when the state can't be read.
    pub fn list(
        &self,
        after: Option<&TenantId>,
        limit: usize,
    ) -> Result<Vec<PlacementView>, Refusal> {
        let after = after.map(keyspace::tenant);
        let mut rows = Vec::new();
        let read = self.store.read(&mut |view| {
            rows = metastore::range(view, keyspace::TENANTS, after.as_deref(), limit)?;
            Ok(())
        });
        read.map_err(MetastoreError::from)?;
        rows.iter()
            .filter_map(|(_, row)| serde_json::from_slice::<Placement>(&row.value).ok())
            .map(|placement| self.view(&placement))
            .collect()
    }

    /// Places the tenant, or changes its properties. In force here when it returns, and on its way
    /// to every proxy.
    ///
    /// # Errors
    /// [`Refusal`] with the code of `interfaces.md`.
    pub async fn put(&self, request: &PutRequest, deadline: Instant) -> Result<Put, Refusal> {
        // Key and body: a retry takes effect once, another body under the same key is another PUT.
        let what = format!("put\0{}\0{:?}", request.tenant, request.spec);
        let id = transaction_id(request.key.as_ref(), &what);
        for _ in 0..MAX_PLANS {
            // A plan on an older state could refuse, or find nothing to change, where the newest
            // state says otherwise: a commit would notice, these two commit nothing.
            self.settle(deadline).await?;
            if self.is_known(&id)? {
                return self.now(&request.tenant, false);
            }
            let present = self.stored(&request.tenant)?;
            let Some(transaction) = self.plan(request, present.as_ref(), &id, deadline).await?
            else {
                return self.now(&request.tenant, false);
            };
            if let Outcome::Committed(revision) = self.store.transact(transaction, deadline).await?
            {
                let seen = |state: &ClusterState| state.revision >= revision;
                self.cluster.wait_for(deadline, seen).await;
                return self.now(&request.tenant, present.is_none());
            }
        }
        Err(too_busy())
    }

    fn now(&self, tenant: &TenantId, created: bool) -> Result<Put, Refusal> {
        let view = self.get(tenant)?.ok_or_else(|| unknown_tenant(tenant))?;
        Ok(Put { view, created })
    }

    /// What to commit; none when all is as asked already.
    async fn plan(
        &self,
        request: &PutRequest,
        present: Option<&Versioned<Placement>>,
        id: &str,
        deadline: Instant,
    ) -> Result<Option<Transaction>, Refusal> {
        let cluster = self.cluster.state();
        let (key, properties) = request
            .spec
            .resolve(&*cluster)
            .map_err(|e| Refusal::new(ErrorCode::PlacementConflict, e.to_string()))?;
        if !request.expected.holds(present.map(|p| &p.value)) {
            return Err(precondition_failed(present));
        }
        if let Some(present) = present {
            plans::check_stays(&present.value, &cluster, &key)?;
        }
        let retired = metastore::get::<Version>(&*self.store, &keyspace::retired(&request.tenant))?;
        let group = self.group(&key, deadline).await?;
        Ok(plans::place(
            present.map(|p| (&p.value, p.revision)),
            &request.tenant,
            (&group.value, group.revision),
            &properties,
            retired.map(|r| r.value),
            (id, unix_us()),
        ))
    }

    /// Deletes the tenant: its placement first stops to take requests, then its data is purged in its
    /// group, then its name is free again. What was begun and not ended goes on when asked again.
    ///
    /// # Errors
    /// [`Refusal`]; `unknown_tenant` when there is none.
    pub async fn remove(
        &self,
        tenant: &TenantId,
        expected: Expected,
        key: Option<&IdempotencyKey>,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let id = transaction_id(key, &format!("remove\0{tenant}"));
        let mut begun = false;
        for _ in 0..MAX_PLANS {
            self.settle(deadline).await?;
            if self.is_known(&id)? {
                return Ok(());
            }
            let Some(present) = self.stored(tenant)? else {
                // Another, such as the controller, may have ended what was begun.
                return if begun {
                    Ok(())
                } else {
                    Err(unknown_tenant(tenant))
                };
            };
            if present.value.state == PlacementState::Deleting {
                begun = true;
                let (group, revision) = (present.value.group, present.revision);
                self.data.purge(tenant, group, revision, deadline).await?;
                let end = plans::end_removal(&present.value, revision, &id, unix_us());
                if let Outcome::Committed(_) = self.store.transact(end, deadline).await? {
                    return Ok(());
                }
                continue;
            }
            if !expected.holds(Some(&present.value)) {
                return Err(precondition_failed(Some(&present)));
            }
            let begin = plans::begin_removal(
                &present.value,
                present.revision,
                &transaction_id(None, "removing"),
                unix_us(),
            );
            self.store.transact(begin, deadline).await?;
        }
        Err(too_busy())
    }

    /// Whether a transaction with this id took effect: the request is a repetition.
    fn is_known(&self, id: &str) -> Result<bool, Refusal> {
        let mut known = false;
        let read = self.store.read(&mut |view| {
            known = metastore_core::revision_of(view, id)?.is_some();
            Ok(())
        });
        read.map_err(MetastoreError::from)?;
        Ok(known)
    }

    /// The active group with this key, made when there is none.
    async fn group(
        &self,
        key: &GroupKey,
        deadline: Instant,
    ) -> Result<Versioned<GroupRecord>, Refusal> {
        for _ in 0..MAX_PLANS {
            let cluster = self.cluster.state();
            if let Some(known) = cluster.group_with(key) {
                if let Some(group) = self.active(known.id, deadline).await? {
                    return Ok(group);
                }
                self.settle(deadline).await?;
                continue;
            }
            let last = metastore::get::<GroupId>(&*self.store, keyspace::LAST_GROUP)?;
            let last = last.map(|l| (l.value, l.revision));
            // A group is made of nodes that take part as of the last change of groups: an operator
            // may be taking one out.
            if last.is_some_and(|(_, revision)| revision > cluster.revision) {
                self.settle(deadline).await?;
                continue;
            }
            let id = transaction_id(None, "group");
            let (transaction, record) = plans::create_group(&cluster, last, key, &id, unix_us())?;
            if let Outcome::Committed(revision) = self.store.transact(transaction, deadline).await?
            {
                let seen = |state: &ClusterState| state.revision >= revision;
                self.cluster.wait_for(deadline, seen).await;
                if let Some(group) = self.active(record.id, deadline).await? {
                    return Ok(group);
                }
            }
            self.settle(deadline).await?;
        }
        Err(too_busy())
    }

    /// The group's record once its first leader has confirmed it; none when it was closed meanwhile.
    async fn active(
        &self,
        group: GroupId,
        deadline: Instant,
    ) -> Result<Option<Versioned<GroupRecord>>, Refusal> {
        let is_active = |state: &ClusterState| {
            state
                .groups
                .get(&group)
                .is_none_or(|g| g.state != GroupState::Creating)
        };
        if !self.cluster.wait_for(deadline, is_active).await {
            let text = format!("group {group} has no leader yet: not enough of its nodes are up");
            return Err(Refusal::new(ErrorCode::GroupLeaderless, text));
        }
        let stored = metastore::get::<GroupRecord>(&*self.store, &keyspace::group(group))?;
        Ok(stored.filter(|g| g.value.state == GroupState::Active))
    }

    /// Waits for the newest state to be what is read here.
    async fn settle(&self, deadline: Instant) -> Result<(), Refusal> {
        self.store.catch_up(deadline).await?;
        let newest = *self.store.revisions().borrow();
        self.cluster
            .wait_for(deadline, |state| state.revision >= newest)
            .await;
        Ok(())
    }

    fn stored(&self, tenant: &TenantId) -> Result<Option<Versioned<Placement>>, Refusal> {
        Ok(metastore::get(&*self.store, &keyspace::tenant(tenant))?)
    }

    fn view(&self, placement: &Placement) -> Result<PlacementView, Refusal> {
        let cluster = self.cluster.state();
        let group = match cluster.groups.get(&placement.group) {
            Some(group) => group.clone(),
            None => metastore::get(&*self.store, &keyspace::group(placement.group))?
                .map(|stored| stored.value)
                .ok_or_else(|| {
                    let text = format!("the record of group {} is missing", placement.group);
                    Refusal::new(ErrorCode::Internal, text)
                })?,
        };
        let leader = cluster.leaders.get(&placement.group);
        Ok(PlacementView {
            tenant: placement.tenant.clone(),
            primary_region: leader
                .map_or_else(|| group.key.home_region.clone(), |l| l.region.clone()),
            home_region: group.key.home_region,
            replicas: group.key.replicas.into_iter().collect(),
            mode: group.key.mode,
            properties: placement.properties.clone(),
            group: placement.group,
            term: leader.map_or(Term::default(), |l| l.term),
            version: placement.version,
            state: placement.state,
        })
    }
}

/// The refusal for a tenant without placement.
#[must_use]
pub fn unknown_tenant(tenant: &TenantId) -> Refusal {
    Refusal::new(
        ErrorCode::UnknownTenant,
        format!("tenant `{tenant}` has no placement"),
    )
}

fn too_busy() -> Refusal {
    let text = "the placement is being changed by others all the time: try again";
    Refusal::new(ErrorCode::PlacementConflict, text)
}

/// Unique for each request, or the same for each repetition of one with an idempotency key.
fn transaction_id(key: Option<&IdempotencyKey>, what: &str) -> String {
    plans::transaction_id(key, what, fastrand::u128(..))
}

fn precondition_failed(present: Option<&Versioned<Placement>>) -> Refusal {
    let detail = match present {
        Some(present) => format!("the placement is at version {}", present.value.version),
        None => "the tenant has no placement".to_owned(),
    };
    Refusal::new(ErrorCode::PreconditionFailed, detail)
}
