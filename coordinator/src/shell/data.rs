//! Reads and writes of the built-in origin. A write goes to the leader of the tenant's group,
//! wherever it is, and is decided in apply; a read is served from what is applied here.
//!
//! ```text
//!  write ─▶ placement ─▶ leader? ──here──▶ propose ─▶ committed ─▶ applied ─▶ answer
//!                           └──elsewhere──▶ Peer::Propose ────────────┘
//! ```
//! Invariants: I2 (answered after commit on a majority and, as the tenant's sync mode asks, on more
//! data followers), I3 (before it in async mode alone, see `early`), I8 (a retry inside this module is made only with an idempotency key, or when
//! nothing was proposed), I10 (no placement, no write).

mod early;
mod entries;
mod homes;
mod look;
mod propose;
mod read;
mod reconcile;
pub mod remote_read;

pub use look::{Page, Query, Which};
pub use read::{ReadRequest, Served};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, NodeId, RegionName, TenantId};
use maia_common::limits;
use maia_common::placement::{ConflictStrategy, Placement, PlacementState};
use maia_common::position::{Position, Revision};
use maia_common::wire::record as wire;
use prost::Message;
use tokio::sync::Semaphore;

use homes::Homes;

use super::clock::Clock;
use super::cluster::Cluster;
use super::peers::Peers;
use super::placements::{Refusal, unknown_tenant};
use super::quarantine::Counts;
use crate::core::data as core;
use crate::core::keyspace;
use crate::core::record::{Hlc, Idempotency, Record, RecordFields, RecordKind};
use crate::core::token::{Token, TokenError, TokenKey};
use crate::metastore::{self, Metastore};
use crate::raft::Engine;

pub use entries::{EntriesPage, EntriesQuery, Followed, Reach};

/// How long to ask the metastore's leader about a placement that is not known here.
const PLACEMENT_PATIENCE: Duration = Duration::from_secs(1);

/// A resource as it is stored.
pub type Resource = wire::Resource;

/// What a client asks to be written.
#[derive(Debug, Clone)]
pub struct WriteRequest {
    /// The tenant.
    pub tenant: TenantId,
    /// All or nothing.
    pub operations: Vec<wire::DataOperation>,
    /// Makes a retry recognizable.
    pub idempotency: Option<Idempotency>,
}

/// A write that took effect.
#[derive(Debug, Clone)]
pub struct Written {
    /// Its version, per operation whether it created, and what a PATCH made.
    pub written: wire::Written,
    /// Regions that hold it durably.
    pub acked_regions: Vec<RegionName>,
    /// Whether these are fewer copies than the tenant asks for.
    pub degraded: bool,
    /// With it a read sees this write.
    pub token: String,
}

/// A tenant's placement, and the revision that created it.
#[derive(Debug, Clone)]
struct Home {
    placement: Placement,
    created: Revision,
}

/// What the service stands on.
#[derive(Clone)]
pub struct DataParts {
    /// This node and its region.
    pub me: (NodeId, RegionName),
    /// For proposals and applied state.
    pub engine: Arc<Engine>,
    /// For placements.
    pub store: Arc<dyn Metastore>,
    /// For groups and their leaders.
    pub cluster: Cluster,
    /// For leaders elsewhere.
    pub peers: Arc<Peers>,
    /// For records' times.
    pub clock: Arc<Clock>,
    /// A follower that did not answer for longer is taken for unreachable.
    pub silence: Duration,
    /// Signs consistency tokens.
    pub token_key: TokenKey,
    /// Writes that this node, as their leader, acknowledged on fewer copies than their tenants ask for.
    pub degraded: Arc<AtomicU64>,
    /// Writes that this node, as their leader, acknowledged before their commit.
    pub early: Arc<AtomicU64>,
    /// What this node's quarantine has: where it is full, nothing is acknowledged before its commit.
    pub quarantined: Arc<Counts>,
}

/// The service: what it stands on, homes kept decoded, and places for reads that wait for a copy. Cheap to clone.
#[derive(Clone)]
pub struct DataService(DataParts, Arc<Homes>, Arc<Semaphore>);

impl DataService {
    /// The service of this node.
    #[must_use]
    pub fn new(parts: DataParts) -> Self {
        let homes = Arc::new(Homes::new(parts.store.revisions()));
        Self(
            parts,
            homes,
            Arc::new(Semaphore::new(limits::MAX_COPY_WAITS)),
        )
    }

    fn token(&self, tenant: TenantId, group: GroupId, position: Position) -> String {
        let token = Token {
            tenant,
            group,
            position,
        };
        token.encode(&self.0.token_key)
    }

    /// Reads a client's consistency token.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn decode_token(&self, text: &str) -> Result<Token, TokenError> {
        Token::decode(text, &self.0.token_key)
    }

    /// How many writes this node acknowledged on fewer copies than their tenants ask for.
    #[must_use]
    pub fn degraded(&self) -> u64 {
        self.0.degraded.load(Ordering::Relaxed)
    }

    /// How many writes this node acknowledged before their commit.
    #[must_use]
    pub fn early(&self) -> u64 {
        self.0.early.load(Ordering::Relaxed)
    }

    fn home(&self, tenant: &TenantId) -> Result<Arc<Home>, Refusal> {
        self.1.get(tenant, || self.read_home(tenant))
    }

    fn read_home(&self, tenant: &TenantId) -> Result<Home, Refusal> {
        let stored = metastore::get::<Placement>(&*self.0.store, &keyspace::tenant(tenant))?;
        let stored = stored.ok_or_else(|| unknown_tenant(tenant))?;
        match stored.value.state {
            PlacementState::Active => {}
            PlacementState::Holding => {
                return Err(Refusal::new(
                    ErrorCode::TenantHeld,
                    "the tenant is being moved",
                ));
            }
            PlacementState::Deleting => {
                let text = format!("tenant `{tenant}` is being deleted");
                return Err(Refusal::new(ErrorCode::UnknownTenant, text));
            }
        }
        Ok(Home {
            placement: stored.value,
            created: stored.created,
        })
    }

    /// The tenant's home; one that is not known here may just have been placed elsewhere, so asks
    /// the metastore's leader before it says that there is none.
    async fn home_caught_up(
        &self,
        tenant: &TenantId,
        deadline: Instant,
    ) -> Result<Arc<Home>, Refusal> {
        match self.home(tenant) {
            Err(refusal) if refusal.code == ErrorCode::UnknownTenant => {
                let patience = deadline.min(Instant::now() + PLACEMENT_PATIENCE);
                self.0.store.catch_up(patience).await?;
                self.home(tenant)
            }
            known => known,
        }
    }

    /// Writes, and answers when the tenant's sync mode is satisfied.
    ///
    /// # Errors
    /// [`Refusal`]; of all codes only `outcome_unknown` leaves open whether it took effect.
    pub async fn write(
        &self,
        request: WriteRequest,
        deadline: Instant,
    ) -> Result<Written, Refusal> {
        let home = self.home_caught_up(&request.tenant, deadline).await?;
        let is_repeatable = request.idempotency.is_some();
        let strategy = home.placement.properties.conflict_strategy;
        let body = wire::DataOperations {
            operations: request.operations,
            by_field: strategy == ConflictStrategy::Merge,
        }
        .encode_to_vec();
        let record = Record::new(RecordFields {
            kind: RecordKind::Data,
            tenant: Some(request.tenant.clone()),
            sync_mode: Some(home.placement.properties.sync_mode),
            hlc: Hlc::default(),
            origin: Some(self.0.me.1.clone()),
            idempotency: request.idempotency,
            placement: home.created,
            migration: None,
            body: body.into(),
        });
        let (tenant, group) = (request.tenant, home.placement.group);
        let applied = self.settle(group, &record, is_repeatable, deadline).await?;
        let token = self.token(tenant, group, applied.position);
        match core::decode_outcome(&applied.outcome) {
            Some(wire::data_outcome::What::Written(written)) => {
                let acked_regions = self.regions_of(&applied.durable_on);
                Ok(Written {
                    written,
                    acked_regions,
                    degraded: applied.degraded,
                    token,
                })
            }
            other => Err(refusal_of(other)),
        }
    }

    /// Ends the tenant's placement in the group, which was decided at `revision`, and deletes its
    /// rows there. Safe to repeat.
    ///
    /// # Errors
    /// [`Refusal`]; some rows may be left then.
    pub async fn purge(
        &self,
        tenant: &TenantId,
        group: GroupId,
        revision: Revision,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        loop {
            let record = Record::new(RecordFields {
                kind: RecordKind::Purge,
                tenant: Some(tenant.clone()),
                sync_mode: None,
                hlc: Hlc::default(),
                origin: Some(self.0.me.1.clone()),
                idempotency: None,
                placement: revision,
                migration: None,
                body: bytes::Bytes::new(),
            });
            let applied = self.settle(group, &record, true, deadline).await?;
            match core::decode_outcome(&applied.outcome) {
                Some(wire::data_outcome::What::Purged(purged)) if purged.more => {}
                Some(wire::data_outcome::What::Purged(_)) => return Ok(()),
                other => return Err(refusal_of(other)),
            }
        }
    }

    fn regions_of(&self, nodes: &[NodeId]) -> Vec<RegionName> {
        let cluster = self.0.cluster.state();
        let mut regions: Vec<RegionName> = nodes
            .iter()
            .filter_map(|node| cluster.nodes.get(node))
            .map(|node| node.region.clone())
            .collect();
        regions.sort();
        regions.dedup();
        regions
    }
}

/// The refusal that an outcome is, where it is not what was hoped for.
fn refusal_of(what: Option<wire::data_outcome::What>) -> Refusal {
    match what {
        Some(wire::data_outcome::What::Refused(refused)) => {
            let code = ErrorCode::parse(&refused.code).unwrap_or(ErrorCode::Internal);
            Refusal::new(code, refused.detail)
        }
        _ => Refusal::new(
            ErrorCode::Internal,
            "the record has another outcome than its kind",
        ),
    }
}
