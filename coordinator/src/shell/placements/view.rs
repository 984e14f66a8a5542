//! Placements as the API shows them: one, a page of them, and what a PUT would make of one.

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, RegionName, TenantId};
use maia_common::limits;
use maia_common::placement::{
    GroupKey, GroupRecord, Mode, Placement, PlacementState, TenantProperties,
};
use maia_common::position::{Term, Version};
use serde::Serialize;

use super::{Placements, Refusal};
use crate::core::keyspace;
use crate::core::placements::{Change, Placed};
use crate::metastore::{self, MetastoreError};

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
    pub mode: Mode,
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

/// What a PUT would do, and the placement that it would leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DryRun {
    /// What it would do.
    pub would: Change,
    /// The group; none: a new one would be made.
    pub group: Option<GroupId>,
    /// The placement afterwards.
    pub placement: PlannedPlacement,
}

/// A placement that is not there yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedPlacement {
    /// The tenant.
    pub tenant: TenantId,
    /// Where its writes shall go.
    pub home_region: RegionName,
    /// The regions with data beside the home.
    pub replicas: Vec<RegionName>,
    /// How many regions hold the data.
    pub mode: Mode,
    /// The tenant's own properties.
    #[serde(flatten)]
    pub properties: TenantProperties,
    /// The version that it would have.
    pub version: Version,
    /// Whether it would take writes.
    pub state: PlacementState,
}

impl DryRun {
    pub(super) fn new(placed: Placed, group: Option<GroupId>, key: GroupKey) -> Self {
        let placement = placed.placement;
        Self {
            would: placed.change,
            group,
            placement: PlannedPlacement {
                tenant: placement.tenant,
                home_region: key.home_region,
                replicas: key.replicas.into_iter().collect(),
                mode: key.mode,
                properties: placement.properties,
                version: placement.version,
                state: placement.state,
            },
        }
    }
}

/// Which placements to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those whose home is this region.
    pub home: Option<RegionName>,
    /// Those in this group.
    pub group: Option<GroupId>,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlacementPage {
    /// In the order of tenants. With a filter there may be fewer than asked for, or none, although
    /// more follow: `next` says.
    pub placements: Vec<PlacementView>,
    /// What to give as `after` for the next page; none: this is the last.
    pub next: Option<TenantId>,
}

impl Filter {
    fn takes(&self, view: &PlacementView) -> bool {
        self.home
            .as_ref()
            .is_none_or(|home| view.home_region == *home)
            && self.group.is_none_or(|group| view.group == group)
    }
}

impl Placements {
    /// Up to `limit` placements in the order of tenants, after the tenant `after`, as this node knows
    /// them. Looks at no more than `limits::MAX_LIST_SCAN` tenants.
    ///
    /// # Errors
    /// [`Refusal`] when the state can't be read.
    pub fn list(
        &self,
        filter: &Filter,
        after: Option<&TenantId>,
        limit: usize,
    ) -> Result<PlacementPage, Refusal> {
        let mut page = PlacementPage {
            placements: Vec::new(),
            next: None,
        };
        let mut after = after.map(keyspace::tenant);
        let mut looked_at = 0;
        while page.placements.len() < limit && looked_at < limits::MAX_LIST_SCAN {
            let rows = self.rows(after.as_deref(), limits::DEFAULT_PAGE.max(limit))?;
            let is_last = rows.len() < limits::DEFAULT_PAGE.max(limit);
            looked_at += rows.len();
            for (key, placement) in rows {
                if page.placements.len() == limit {
                    return Ok(page);
                }
                after = Some(key);
                let Ok(placement) = placement else { continue };
                page.next = Some(placement.tenant.clone());
                let view = self.view(&placement)?;
                if filter.takes(&view) {
                    page.placements.push(view);
                }
            }
            if is_last {
                page.next = None;
                return Ok(page);
            }
        }
        Ok(page)
    }

    /// Keys and placements; one that newer software wrote is an error.
    fn rows(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, serde_json::Result<Placement>)>, Refusal> {
        let mut rows = Vec::new();
        let read = self.store.read(&mut |view| {
            rows = metastore::range(view, keyspace::TENANTS, after, limit)?;
            Ok(())
        });
        read.map_err(MetastoreError::from)?;
        let rows = rows.into_iter();
        Ok(rows
            .map(|(key, row)| (key, serde_json::from_slice(&row.value)))
            .collect())
    }

    pub(super) fn view(&self, placement: &Placement) -> Result<PlacementView, Refusal> {
        let cluster = self.cluster.state();
        let group = match cluster.groups.get(&placement.group) {
            Some(group) => group.clone(),
            None => {
                let key = keyspace::group(placement.group);
                let stored = metastore::get::<GroupRecord>(&*self.store, &key)?;
                stored.map(|stored| stored.value).ok_or_else(|| {
                    let text = format!("the record of group {} is missing", placement.group);
                    Refusal::new(ErrorCode::Internal, text)
                })?
            }
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
