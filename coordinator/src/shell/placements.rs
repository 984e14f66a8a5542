//! Placements as the API asks for them: runs the plans of `core/placements` against the metastore,
//! and plans anew when the world changed between plan and commit. Any coordinator can do it.

mod load;
mod view;

use std::sync::Arc;
use std::time::Instant;

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, IdempotencyKey, TenantId};
use maia_common::placement::{
    GroupKey, GroupRecord, GroupState, Placement, PlacementSpec, PlacementState, TenantProperties,
};
use maia_common::position::{Revision, Version};

use super::changes::{MAX_PLANS, commit, earlier, settle, too_busy};
use super::clock::unix_us;
use super::cluster::Cluster;
use super::data::DataService;
use crate::core::idempotency::RequestId;
use crate::core::metastore::Transaction;
use crate::core::placements::{self as plans, Change, Expected, Found, Placed, PlanError};
use crate::core::{cluster_state::ClusterState, keyspace};
use crate::metastore::{self, Metastore, MetastoreError, Outcome, Versioned};
use crate::raft::{StateError, StateView};

pub use load::Loaded;
pub use view::{DryRun, Filter, PlacementPage, PlacementView};

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
        Refusal::new(error.code(), error.to_string())
    }
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

impl PutRequest {
    fn id(&self) -> RequestId {
        let whole = serde_json::to_vec(&(&self.tenant, &self.spec));
        let mut whole = whole.expect("a placement is plain data");
        whole.extend(format!("{:?}", self.expected).into_bytes());
        let of = keyspace::tenant(&self.tenant);
        request_id(self.key.as_ref(), ("put", &of), &whole)
    }
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

    /// Places the tenant, or changes its properties. In force here when it returns, and on its way
    /// to every proxy.
    ///
    /// # Errors
    /// [`Refusal`] with the code of `interfaces.md`.
    pub async fn put(&self, request: &PutRequest, deadline: Instant) -> Result<Put, Refusal> {
        let id = request.id();
        for _ in 0..MAX_PLANS {
            // A plan on an older state could refuse, or find nothing to change, where the newest
            // state says otherwise: a commit would notice, these two commit nothing.
            self.settle(deadline).await?;
            if let Some((_, placed)) = earlier::<Placed>(&*self.store, &id)? {
                return self.answer(&placed);
            }
            let found = self.find(&request.tenant)?;
            let (key, properties) = self.check(request, &found)?;
            let group = self.open_group(&key, deadline).await?;
            let (placed, transaction) = plans::place(
                &found,
                &request.tenant,
                (&group.value, group.revision),
                &properties,
                (id.id(), unix_us()),
            )?;
            if placed.change == Change::Unchanged && request.key.is_none() {
                return self.answer(&placed);
            }
            let transaction = id.sign(transaction, &placed);
            if self.commit(transaction, deadline).await?.is_some() {
                // The same request may have come twice at once: then one answer stands for both.
                let earlier = earlier::<Placed>(&*self.store, &id)?;
                return self.answer(&earlier.map_or(placed, |(_, placed)| placed));
            }
        }
        Err(too_busy())
    }

    fn answer(&self, placed: &Placed) -> Result<Put, Refusal> {
        Ok(Put {
            view: self.view(&placed.placement)?,
            created: placed.change == Change::Created,
        })
    }

    /// What a PUT would do now; nothing is changed.
    ///
    /// # Errors
    /// As [`Placements::put`].
    pub async fn dry_run(
        &self,
        request: &PutRequest,
        deadline: Instant,
    ) -> Result<DryRun, Refusal> {
        self.settle(deadline).await?;
        let found = self.find(&request.tenant)?;
        let (key, properties) = self.check(request, &found)?;
        let cluster = self.cluster.state();
        let known = cluster.group_with(&key).map(|group| group.id);
        let group = match known {
            Some(group) => group,
            None => {
                plans::create_group(&cluster, None, &key, "dry-run", 0)?
                    .1
                    .id
            }
        };
        let placed = plans::placed(&found, &request.tenant, group, &properties)?;
        Ok(DryRun::new(placed, known, key))
    }

    /// What the request asks for, if it may be.
    fn check(
        &self,
        request: &PutRequest,
        found: &Found,
    ) -> Result<(GroupKey, TenantProperties), Refusal> {
        let present = found.placement.as_ref().map(|(placement, _)| placement);
        if !request.expected.holds(present.map(|p| p.version)) {
            return Err(precondition_failed(present));
        }
        let here = present.map(|placement| placement.group);
        let cluster = self.cluster.state();
        Ok(plans::resolve(&request.spec, here, &cluster)?)
    }

    async fn commit(
        &self,
        transaction: Transaction,
        deadline: Instant,
    ) -> Result<Option<Revision>, Refusal> {
        commit(&*self.store, &self.cluster, transaction, deadline).await
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
        let id = request_id(key, ("remove", &keyspace::tenant(tenant)), b"");
        let mut begun = false;
        for _ in 0..MAX_PLANS {
            self.settle(deadline).await?;
            if earlier::<()>(&*self.store, &id)?.is_some() {
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
                let end = plans::end_removal(&present.value, revision, id.id(), unix_us());
                let end = id.sign(end, &());
                if let Outcome::Committed(_) = self.store.transact(end, deadline).await? {
                    return Ok(());
                }
                continue;
            }
            if !expected.holds(Some(present.value.version)) {
                return Err(precondition_failed(Some(&present.value)));
            }
            let begin = plans::begin_removal(
                &present.value,
                present.revision,
                request_id(None, ("removing", ""), b"").id(),
                unix_us(),
            );
            self.store.transact(begin, deadline).await?;
        }
        Err(too_busy())
    }

    /// The group with this key, made when there is none. It may still be without a leader.
    async fn recorded(&self, key: &GroupKey, deadline: Instant) -> Result<GroupId, Refusal> {
        for _ in 0..MAX_PLANS {
            let cluster = self.cluster.state();
            if let Some(known) = cluster.group_with(key) {
                return Ok(known.id);
            }
            let last = metastore::get::<GroupId>(&*self.store, keyspace::LAST_GROUP)?;
            let last = last.map(|l| (l.value, l.revision));
            // A group is made of nodes that take part as of the last change of groups: an operator
            // may be taking one out.
            if last.is_some_and(|(_, revision)| revision > cluster.revision) {
                self.settle(deadline).await?;
                continue;
            }
            let id = request_id(None, ("group", ""), b"");
            let (transaction, record) =
                plans::create_group(&cluster, last, key, id.id(), unix_us())?;
            if self.commit(transaction, deadline).await?.is_some() {
                return Ok(record.id);
            }
            self.settle(deadline).await?;
        }
        Err(too_busy())
    }

    /// The active group with this key, made when there is none.
    async fn open_group(
        &self,
        key: &GroupKey,
        deadline: Instant,
    ) -> Result<Versioned<GroupRecord>, Refusal> {
        for _ in 0..MAX_PLANS {
            let group = self.recorded(key, deadline).await?;
            if let Some(group) = self.active(group, deadline).await? {
                return Ok(group);
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

    async fn settle(&self, deadline: Instant) -> Result<(), Refusal> {
        settle(&*self.store, &self.cluster, deadline).await
    }

    fn find(&self, tenant: &TenantId) -> Result<Found, Refusal> {
        let mut found = Found::default();
        let read = self.store.read(&mut |view| {
            found = find(view, tenant)?;
            Ok(())
        });
        read.map_err(MetastoreError::from)?;
        Ok(found)
    }

    fn stored(&self, tenant: &TenantId) -> Result<Option<Versioned<Placement>>, Refusal> {
        Ok(metastore::get(&*self.store, &keyspace::tenant(tenant))?)
    }
}

/// What a view has under a tenant's name.
fn find(view: &dyn StateView, tenant: &TenantId) -> Result<Found, StateError> {
    let placement = metastore::get_at::<Placement>(view, &keyspace::tenant(tenant))?;
    let retired = metastore::get_at::<Version>(view, &keyspace::retired(tenant))?;
    Ok(Found {
        placement: placement.map(|found| (found.value, found.revision)),
        retired: retired.map(|found| (found.value, found.revision)),
    })
}

/// The refusal for a tenant without placement.
#[must_use]
pub fn unknown_tenant(tenant: &TenantId) -> Refusal {
    Refusal::new(
        ErrorCode::UnknownTenant,
        format!("tenant `{tenant}` has no placement"),
    )
}

fn request_id(key: Option<&IdempotencyKey>, what_of: (&str, &str), request: &[u8]) -> RequestId {
    RequestId::new(key, what_of, request, fastrand::u128(..))
}

fn precondition_failed(present: Option<&Placement>) -> Refusal {
    let detail = match present {
        Some(present) => format!("the placement is at version {}", present.version),
        None => "the tenant has no placement".to_owned(),
    };
    Refusal::new(ErrorCode::PreconditionFailed, detail)
}
