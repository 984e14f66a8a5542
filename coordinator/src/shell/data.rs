//! Reads and writes of the built-in origin. A write goes to the leader of the tenant's group,
//! wherever it is, and is decided in apply; a read is served from what is applied here.
//!
//! ```text
//!  write ─▶ placement ─▶ leader? ──here──▶ propose ─▶ committed ─▶ applied ─▶ answer
//!                           └──elsewhere──▶ Peer::Propose ────────────┘
//! ```
//! Invariants: I2 (answered after commit on a majority and, as the tenant's sync mode asks, on more
//! data followers), I8 (a retry inside this module is made only with an idempotency key, or when
//! nothing was proposed), I10 (no placement, no write).

mod read;

use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, NodeId, RegionName, TenantId};
use maia_common::placement::{Placement, PlacementState, ShortagePolicy, SyncMode};
use maia_common::position::Position;
use maia_common::runtime::Backoff;
use maia_common::wire::record as wire;
use prost::Message;

use super::clock::Clock;
use super::cluster::Cluster;
use super::peers::{PeerError, Peers, RemoteApplied};
use super::placements::{Refusal, unknown_tenant};
use crate::core::data as core;
use crate::core::keyspace;
use crate::core::record::{Idempotency, Record, RecordFields, RecordKind};
use crate::metastore::{self, Metastore};
use crate::raft::{Engine, ProposeError};

/// How long to ask the metastore's leader about a placement that is not known here.
const PLACEMENT_PATIENCE: Duration = Duration::from_secs(1);

/// A resource and what the API says of it.
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
}

/// Where a tenant's data is.
#[derive(Debug, Clone)]
struct Home {
    placement: Placement,
    group: GroupId,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct DataService {
    node: NodeId,
    region: RegionName,
    engine: Arc<Engine>,
    store: Arc<dyn Metastore>,
    cluster: Cluster,
    peers: Arc<Peers>,
    clock: Arc<Clock>,
}

/// Why one try was not answered.
enum Miss {
    NotProposed(Option<NodeId>),
    Unknown,
    Final(Refusal),
}

impl DataService {
    /// The service of this node.
    #[must_use]
    pub fn new(
        (node, region): (NodeId, RegionName),
        engine: Arc<Engine>,
        store: Arc<dyn Metastore>,
        cluster: Cluster,
        peers: Arc<Peers>,
        clock: Arc<Clock>,
    ) -> Self {
        Self {
            node,
            region,
            engine,
            store,
            cluster,
            peers,
            clock,
        }
    }

    fn home(&self, tenant: &TenantId) -> Result<Home, Refusal> {
        let stored = metastore::get::<Placement>(&*self.store, &keyspace::tenant(tenant))?;
        let placement = stored.ok_or_else(|| unknown_tenant(tenant))?.value;
        Ok(Home {
            group: placement.group,
            placement,
        })
    }

    /// The tenant's home; one that is not known here may just have been placed elsewhere, so asks
    /// the metastore's leader before it says that there is none.
    async fn home_caught_up(&self, tenant: &TenantId, deadline: Instant) -> Result<Home, Refusal> {
        match self.home(tenant) {
            Err(refusal) if refusal.code == ErrorCode::UnknownTenant => {
                self.store
                    .catch_up(deadline.min(Instant::now() + PLACEMENT_PATIENCE))
                    .await?;
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
        if home.placement.state == PlacementState::Holding {
            return Err(Refusal::new(
                ErrorCode::TenantHeld,
                "the tenant is being moved",
            ));
        }
        let retry_unknown = request.idempotency.is_some();
        let record = self.record(request, &home.placement);
        let applied = self.settle(&home, &record, retry_unknown, deadline).await?;
        match core::decode_outcome(&applied.outcome) {
            Some(wire::data_outcome::What::Written(written)) => {
                let acked_regions = self.regions_of(&applied.durable_on);
                Ok(Written {
                    written,
                    acked_regions,
                })
            }
            Some(wire::data_outcome::What::Refused(refused)) => {
                let code = ErrorCode::parse(&refused.code).unwrap_or(ErrorCode::Internal);
                Err(Refusal::new(code, refused.detail))
            }
            None => Err(Refusal::new(
                ErrorCode::Internal,
                "the write has no outcome",
            )),
        }
    }

    fn record(&self, request: WriteRequest, placement: &Placement) -> Record {
        let body = wire::DataOperations {
            operations: request.operations,
        }
        .encode_to_vec();
        Record::new(RecordFields {
            kind: RecordKind::Data,
            tenant: Some(request.tenant),
            sync_mode: Some(placement.properties.sync_mode),
            hlc: self.clock.now(),
            origin: Some(self.region.clone()),
            idempotency: request.idempotency,
            migration: None,
            body: body.into(),
        })
    }

    async fn settle(
        &self,
        home: &Home,
        record: &Record,
        retry_unknown: bool,
        deadline: Instant,
    ) -> Result<RemoteApplied, Refusal> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
        let mut at = self.leader_of(home.group);
        let mut unknown = false;
        loop {
            match self.attempt(home, record, at, deadline).await {
                Ok(applied) => return Ok(applied),
                Err(Miss::Final(refusal)) if !unknown => return Err(refusal),
                Err(Miss::NotProposed(leader)) if leader.is_some() && leader != at => {
                    at = leader;
                    continue;
                }
                Err(Miss::NotProposed(_)) => {}
                Err(Miss::Unknown | Miss::Final(_)) => {
                    unknown = true;
                    if !retry_unknown {
                        return Err(outcome_unknown());
                    }
                }
            }
            let wait = backoff.next(fastrand::f64());
            if Instant::now() + wait >= deadline {
                return Err(if unknown {
                    outcome_unknown()
                } else {
                    leaderless(home.group)
                });
            }
            tokio::time::sleep(wait).await;
            at = self.leader_of(home.group);
        }
    }

    async fn attempt(
        &self,
        home: &Home,
        record: &Record,
        at: Option<NodeId>,
        deadline: Instant,
    ) -> Result<RemoteApplied, Miss> {
        let version = home.placement.version.get();
        match at {
            None => Err(Miss::NotProposed(None)),
            Some(node) if node == self.node => {
                self.propose_here(home.group, record.clone(), deadline)
                    .await
            }
            Some(node) => {
                let asked =
                    self.peers
                        .propose(node, home.group, record.encode(), version, deadline);
                asked.await.map_err(|error| match error {
                    PeerError::NotLeader { leader } => Miss::NotProposed(leader),
                    PeerError::Unreachable => Miss::NotProposed(None),
                    PeerError::Refused { code, detail } => Miss::Final(Refusal::new(code, detail)),
                    PeerError::OutcomeUnknown => Miss::Unknown,
                })
            }
        }
    }

    /// For the peer service: proposes here, as the leader.
    ///
    /// # Errors
    /// [`PeerError`], as the asking node shall see it.
    pub async fn propose_for_peer(
        &self,
        group: GroupId,
        record: Record,
        deadline: Instant,
    ) -> Result<RemoteApplied, PeerError> {
        self.propose_here(group, record, deadline)
            .await
            .map_err(|miss| match miss {
                Miss::NotProposed(leader) => PeerError::NotLeader { leader },
                Miss::Unknown => PeerError::OutcomeUnknown,
                Miss::Final(refusal) => PeerError::Refused {
                    code: refusal.code,
                    detail: refusal.detail,
                },
            })
    }

    async fn propose_here(
        &self,
        group: GroupId,
        record: Record,
        deadline: Instant,
    ) -> Result<RemoteApplied, Miss> {
        let Some(tenant) = record.tenant.clone() else {
            let text = "a data record names no tenant";
            return Err(Miss::Final(Refusal::new(ErrorCode::TenantRequired, text)));
        };
        let home = self
            .home_caught_up(&tenant, deadline)
            .await
            .map_err(Miss::Final)?;
        if home.group != group || home.placement.state != PlacementState::Active {
            let text = "the leader of the group knows another placement of the tenant";
            return Err(Miss::Final(Refusal::new(ErrorCode::StalePlacement, text)));
        }
        let properties = home.placement.properties;
        let applied = self
            .engine
            .propose(group, record, deadline)
            .await
            .map_err(|e| match e {
                ProposeError::NotLeader { leader } => Miss::NotProposed(leader),
                ProposeError::OutcomeUnknown => Miss::Unknown,
                ProposeError::UnknownGroup => Miss::NotProposed(None),
                ProposeError::DiskFull => Miss::Final(Refusal::new(
                    ErrorCode::DiskFull,
                    "the disk of the tenant's primary has no room",
                )),
                ProposeError::Overloaded => Miss::Final(Refusal::new(
                    ErrorCode::Unavailable,
                    "the group takes no more now",
                )),
                ProposeError::TooLarge { .. } => {
                    Miss::Final(Refusal::new(ErrorCode::BodyTooLarge, e.to_string()))
                }
                ProposeError::Stopped(reason) => {
                    Miss::Final(Refusal::new(ErrorCode::Unavailable, reason))
                }
            })?;
        let durable_on = self
            .wait_durable(
                group,
                &properties,
                applied.position,
                applied.durable_on,
                deadline,
            )
            .await?;
        let (outcome, position) = (applied.outcome.0, applied.position);
        Ok(RemoteApplied {
            outcome,
            position,
            durable_on,
        })
    }

    /// Committed is not always enough: waits for as many data followers as the tenant asks for.
    async fn wait_durable(
        &self,
        group: GroupId,
        properties: &maia_common::placement::TenantProperties,
        position: Position,
        mut durable_on: Vec<NodeId>,
        deadline: Instant,
    ) -> Result<Vec<NodeId>, Miss> {
        let members = self
            .cluster
            .state()
            .groups
            .get(&group)
            .map_or(1, |g| g.members.len());
        let wanted = match properties.sync_mode {
            SyncMode::Async => 1,
            SyncMode::SemiSync => 1 + properties.min_sync_replicas as usize,
            SyncMode::Sync => members,
        };
        if durable_on.len() < wanted {
            let enough = |nodes: &[NodeId]| nodes.len() >= wanted;
            durable_on = self
                .engine
                .wait_durable(group, position, deadline, enough)
                .await;
        }
        if durable_on.len() >= wanted || properties.on_too_few == ShortagePolicy::Degrade {
            return Ok(durable_on);
        }
        Err(Miss::Unknown)
    }

    fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        self.engine
            .status(group)
            .and_then(|status| status.leader)
            .or_else(|| self.cluster.state().leaders.get(&group).map(|l| l.node))
    }

    fn regions_of(&self, nodes: &[NodeId]) -> Vec<RegionName> {
        let cluster = self.cluster.state();
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

fn outcome_unknown() -> Refusal {
    Refusal::new(
        ErrorCode::OutcomeUnknown,
        "the write may or may not take effect; a retry with the same Idempotency-Key is safe",
    )
}

fn leaderless(group: GroupId) -> Refusal {
    Refusal::new(
        ErrorCode::GroupLeaderless,
        format!("group {group} has no leader now"),
    )
}
