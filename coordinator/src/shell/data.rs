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

use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, NodeId, RegionName, ResourceId, ResourceType, TenantId};
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
use crate::raft::{Engine, ProposeError, StateCf, StateView};

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

/// The version of a resource as an entity tag: `"group-term-index"`.
#[must_use]
pub fn etag(version: Option<&wire::Version>) -> String {
    let version = version.copied().unwrap_or_default();
    format!("\"{}-{}-{}\"", version.group, version.term, version.index)
}

/// Reads what [`etag`] wrote.
#[must_use]
pub fn parse_etag(text: &str) -> Option<wire::Version> {
    let inner = text.trim().strip_prefix('"')?.strip_suffix('"')?;
    let mut parts = inner.split('-').map(str::parse::<u64>);
    let mut next = || parts.next()?.ok();
    let (group, term, index) = (next()?, next()?, next()?);
    parts
        .next()
        .is_none()
        .then_some(wire::Version { group, term, index })
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

fn unreadable(error: crate::raft::StateError) -> Refusal {
    tracing::error!(%error, "state can't be read");
    Refusal::new(ErrorCode::Internal, "the stored data can't be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entity_tag_is_read_back() {
        let version = wire::Version {
            group: 1,
            term: 2,
            index: 3,
        };
        assert_eq!(etag(Some(&version)), "\"1-2-3\"");
        assert_eq!(parse_etag("\"1-2-3\""), Some(version));
        for bad in [
            "1-2-3",
            "\"1-2\"",
            "\"1-2-3-4\"",
            "W/\"1-2-3\"",
            "\"a-b-c\"",
            "",
        ] {
            assert_eq!(parse_etag(bad), None, "{bad}");
        }
    }
}
