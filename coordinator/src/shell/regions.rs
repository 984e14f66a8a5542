//! Regions as the API asks for them: runs the plans of `core/regions` against the metastore. Any
//! coordinator can do it.

use std::sync::Arc;
use std::time::Instant;

use maia_common::error_code::ErrorCode;
use maia_common::ids::{IdempotencyKey, RegionName};
use maia_common::position::{Revision, Version};
use maia_common::topology::Region;

use super::changes::{MAX_PLANS, commit, earlier, settle, too_busy};
use super::clock::unix_us;
use super::cluster::Cluster;
use super::placements::Refusal;
use crate::core::idempotency::RequestId;
use crate::core::keyspace;
use crate::core::placements::Expected;
use crate::core::regions::{self as plans, Found, RegionPut, RegionSpec};
use crate::metastore::{self, Metastore, MetastoreError};

/// What a PUT asks.
#[derive(Debug, Clone)]
pub struct PutRequest {
    /// The region.
    pub name: RegionName,
    /// What it shall be.
    pub spec: RegionSpec,
    /// What must hold of the present region; its version is the revision that last changed it.
    pub expected: Expected,
    /// Makes a retry recognizable.
    pub key: Option<IdempotencyKey>,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Regions {
    store: Arc<dyn Metastore>,
    cluster: Cluster,
}

impl Regions {
    /// Regions kept in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Metastore>, cluster: Cluster) -> Self {
        Self { store, cluster }
    }

    /// The region and its version, as of the newest commit.
    ///
    /// # Errors
    /// [`Refusal`]; `not_found` when there is none.
    pub async fn get(
        &self,
        name: &RegionName,
        deadline: Instant,
    ) -> Result<(Region, Version), Refusal> {
        settle(&*self.store, &self.cluster, deadline).await?;
        let stored = metastore::get::<Region>(&*self.store, &keyspace::region(name))?;
        stored
            .map(|stored| (stored.value, Version::new(stored.revision.get())))
            .ok_or_else(|| {
                let text = format!("the cluster has no region `{name}`");
                Refusal::new(ErrorCode::NotFound, text)
            })
    }

    /// Adds the region, or changes it. In force here when it returns, and on its way to every proxy.
    ///
    /// # Errors
    /// [`Refusal`] with the code of `interfaces.md`.
    pub async fn put(
        &self,
        request: &PutRequest,
        deadline: Instant,
    ) -> Result<(RegionPut, Version), Refusal> {
        let whole = serde_json::to_vec(&(&request.name, &request.spec));
        let whole = whole.expect("a region is plain data");
        let of = keyspace::region(&request.name);
        let chance = fastrand::u128(..);
        let id = RequestId::new(request.key.as_ref(), ("region", &of), &whole, chance);
        for _ in 0..MAX_PLANS {
            settle(&*self.store, &self.cluster, deadline).await?;
            if let Some((revision, put)) = earlier::<RegionPut>(&*self.store, &id)? {
                return Ok(answer(put, revision));
            }
            let found = self.find(&request.name)?;
            let version = found.region.as_ref().map(|(_, at)| Version::new(at.get()));
            if !request.expected.holds(version) {
                return Err(precondition_failed(version));
            }
            let (put, transaction) =
                plans::put(&request.name, &request.spec, &found, (id.id(), unix_us()))
                    .map_err(|e| Refusal::new(ErrorCode::PlacementConflict, e.to_string()))?;
            if let (Some(since), None) = (put.since, &request.key) {
                return Ok(answer(put, since));
            }
            let transaction = id.sign(transaction, &put);
            let committed = commit(&*self.store, &self.cluster, transaction, deadline).await?;
            if let Some(revision) = committed {
                // The same request may have come twice at once: then one answer stands for both.
                let put = earlier(&*self.store, &id)?.map_or(put, |(_, put)| put);
                return Ok(answer(put, revision));
            }
        }
        Err(too_busy())
    }

    fn find(&self, name: &RegionName) -> Result<Found, Refusal> {
        let mut found = Found::default();
        let read = self.store.read(&mut |view| {
            let region = metastore::get_at::<Region>(view, &keyspace::region(name))?;
            let added = metastore::get_at::<u64>(view, keyspace::ADDED_REGIONS)?;
            let all = metastore::range(view, keyspace::REGIONS, None, usize::MAX)?;
            found = Found {
                region: region.map(|region| (region.value, region.revision)),
                added: added.map(|added| (added.value, added.revision)),
                count: all.len(),
            };
            Ok(())
        });
        read.map_err(MetastoreError::from)?;
        Ok(found)
    }
}

/// The region and its version: the revision that last changed it.
fn answer(put: RegionPut, revision: Revision) -> (RegionPut, Version) {
    let version = Version::new(put.since.unwrap_or(revision).get());
    (put, version)
}

fn precondition_failed(version: Option<Version>) -> Refusal {
    let detail = match version {
        Some(version) => format!("the region is at version {version}"),
        None => "there is no such region".to_owned(),
    };
    Refusal::new(ErrorCode::PreconditionFailed, detail)
}
