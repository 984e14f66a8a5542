//! The shapes of requests and answers as the document shows them. Plain descriptions: what is read
//! and written are the types of `maia_common` and of the services, which know nothing of documents;
//! `tests/tests/openapi.rs` compares real answers with these.

#![expect(dead_code, reason = "described, never made")]

use utoipa::{IntoParams, ToSchema};

/// A problem document (RFC 9457).
#[derive(ToSchema)]
pub struct Problem {
    /// `urn:maia:error:CODE`.
    r#type: String,
    /// The code in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// The stable code.
    code: String,
    /// What happened here.
    detail: String,
    /// Where to turn instead: a region's name.
    leader_region: Option<String>,
}

/// Conditions and the key of a change.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct Conditions {
    /// Only if what is there has this ETag; `*`: only if something is there.
    #[param(rename = "If-Match")]
    if_match: Option<String>,
    /// `*`: only if nothing is there.
    #[param(rename = "If-None-Match")]
    if_none_match: Option<String>,
    /// 1 to 128 visible ASCII characters: the same key and request take effect once.
    #[param(rename = "Idempotency-Key")]
    idempotency_key: Option<String>,
}

/// The key of a change.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct Key {
    /// 1 to 128 visible ASCII characters: the same key and request take effect once.
    #[param(rename = "Idempotency-Key")]
    idempotency_key: Option<String>,
}

/// Whose resources.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct Tenant {
    /// The tenant.
    #[param(rename = "X-MAIA-Tenant-ID")]
    tenant: String,
}

/// Where a tenant shall live, and how it is replicated.
#[derive(ToSchema)]
pub struct PlacementSpec {
    /// The region that takes its writes.
    primary_region: String,
    /// The other regions that hold a copy.
    replicas: Option<Vec<String>>,
    /// `single`, `replicated` or `global`; by default as many as are named.
    mode: Option<String>,
    /// `async`, `semi-sync` (default) or `sync`.
    sync_mode: Option<String>,
    /// Data followers that semi-sync waits for.
    min_sync_replicas: Option<u32>,
    /// `reject` or `degrade` (default with two copies).
    on_too_few: Option<String>,
    /// `last-write-wins` (default), `merge` or `reject`.
    conflict_strategy: Option<String>,
    /// `redirect` or `forward`; by default as the proxy is configured.
    write_routing: Option<String>,
}

/// A placement.
#[derive(ToSchema)]
pub struct Placement {
    /// The tenant.
    tenant: String,
    /// Where its writes go now.
    primary_region: String,
    /// Where the spec wants them.
    home_region: String,
    /// The regions with data beside the home.
    replicas: Vec<String>,
    /// `single`, `replicated` or `global`.
    mode: String,
    /// When a write is acknowledged.
    sync_mode: String,
    /// Data followers that semi-sync waits for.
    min_sync_replicas: u32,
    /// What happens when too few are reachable.
    on_too_few: String,
    /// How divergent records are resolved.
    conflict_strategy: String,
    /// How misrouted requests travel; absent: as the proxy is configured.
    write_routing: Option<String>,
    /// The group that holds its data.
    group: u64,
    /// The group's term, as known here.
    term: u64,
    /// Grows with each change; also the ETag.
    version: u64,
    /// `active`, `holding` or `deleting`.
    state: String,
}

/// A page of placements.
#[derive(ToSchema)]
pub struct PlacementPage {
    /// In the order of tenants.
    placements: Vec<Placement>,
    /// What to give as `after` for the next page; null: this is the last.
    #[schema(required = true)]
    next: Option<String>,
}

/// A placement that a PUT would leave.
#[derive(ToSchema)]
pub struct PlannedPlacement {
    /// The tenant.
    tenant: String,
    /// Where its writes shall go.
    home_region: String,
    /// The regions with data beside the home.
    replicas: Vec<String>,
    /// `single`, `replicated` or `global`.
    mode: String,
    /// When a write is acknowledged.
    sync_mode: String,
    /// Data followers that semi-sync waits for.
    min_sync_replicas: u32,
    /// What happens when too few are reachable.
    on_too_few: String,
    /// How divergent records are resolved.
    conflict_strategy: String,
    /// How misrouted requests travel; absent: as the proxy is configured.
    write_routing: Option<String>,
    /// The version that it would have.
    version: u64,
    /// `active`, `holding` or `deleting`.
    state: String,
}

/// What a PUT would do.
#[derive(ToSchema)]
pub struct DryRun {
    /// `created`, `changed` or `unchanged`.
    would: String,
    /// The group; null: a new one would be made.
    #[schema(required = true)]
    group: Option<u64>,
    /// The placement afterwards.
    placement: PlannedPlacement,
}

/// A placement, or with `dry_run` what would become of it.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum PlacementOrDryRun {
    /// As it is now.
    Placement(Placement),
    /// As it would be.
    DryRun(DryRun),
}

/// A line of a load that was not carried out.
#[derive(ToSchema)]
pub struct LoadFailure {
    /// Its number in the body, from 1.
    line: usize,
    /// Its tenant.
    tenant: String,
    /// The stable code that a PUT would have been refused with.
    code: String,
    /// Why; empty in the answer to a repetition.
    detail: String,
}

/// What a load did.
#[derive(ToSchema)]
pub struct Loaded {
    /// The revision that holds it.
    revision: u64,
    /// Tenants that were placed.
    created: usize,
    /// Tenants whose properties were changed.
    changed: usize,
    /// Tenants that were as asked already.
    unchanged: usize,
    /// Tenants that were left as they were.
    failed: Vec<LoadFailure>,
    /// In the answer to a repetition: further failures.
    failed_omitted: Option<usize>,
}

/// What a region shall be.
#[derive(ToSchema)]
pub struct RegionSpec {
    /// Where clients reach its proxies.
    public_url: String,
    /// Greater comes first at an election; 0 unless given.
    priority: Option<u32>,
    /// `active` (default), `draining` or `down`.
    state: Option<String>,
}

/// A region.
#[derive(ToSchema)]
pub struct Region {
    /// Its name.
    name: String,
    /// Where clients reach its proxies.
    public_url: String,
    /// Greater comes first at an election.
    priority: u32,
    /// `active`; `draining`: takes no new tenants and leads nothing that others can lead; `down`.
    state: String,
}

/// All regions.
#[derive(ToSchema)]
pub struct Regions {
    /// By name.
    regions: Vec<Region>,
}

/// A coordinator.
#[derive(ToSchema)]
pub struct Node {
    /// Its id.
    id: u64,
    /// Its region.
    region: String,
    /// `host:port` of its gRPC listener.
    rpc_addr: String,
    /// URL of its HTTP API.
    api_url: String,
    /// What its disk was marked with.
    disk_id: String,
}

/// All coordinators.
#[derive(ToSchema)]
pub struct Nodes {
    /// By id.
    nodes: Vec<Node>,
}

/// A proxy.
#[derive(ToSchema)]
pub struct Proxy {
    /// Its stable id.
    id: String,
    /// Its region.
    region: String,
    /// The last revision that is in force there.
    revision: u64,
    /// How long ago it last said anything.
    last_seen_ms: u64,
}

/// The proxies on a coordinator's feed.
#[derive(ToSchema)]
pub struct Proxies {
    /// In no order.
    proxies: Vec<Proxy>,
}

/// Something that happened.
#[derive(ToSchema)]
pub struct Event {
    /// What, such as `placement_created`.
    kind: String,
    /// The revision at which it is recorded.
    revision: u64,
    /// Microseconds since 1970.
    time: u64,
    /// The tenant concerned.
    tenant: Option<String>,
    /// The group concerned.
    group: Option<u64>,
    /// More, in words.
    detail: Option<String>,
}

/// A page of events.
#[derive(ToSchema)]
pub struct EventPage {
    /// The oldest first.
    events: Vec<Event>,
    /// What to give as `after` for the next page; null: this is the last.
    #[schema(required = true)]
    next: Option<u64>,
}

/// A placement group.
#[derive(ToSchema)]
pub struct Group {
    /// Its id.
    group: u64,
    /// `creating`, `active` or `closing`.
    state: String,
    /// What its tenants have in common.
    key: String,
    /// Where its primary shall be.
    home_region: String,
    /// The newest term that is known.
    #[schema(required = true)]
    term: Option<u64>,
    /// The leading node of that term.
    #[schema(required = true)]
    leader: Option<u64>,
    /// The leader's region.
    #[schema(required = true)]
    region: Option<String>,
    /// Nodes that vote.
    voters: Vec<u64>,
    /// Nodes that hold data without a vote.
    learners: Vec<u64>,
    /// The node that votes without data.
    #[schema(required = true)]
    witness: Option<u64>,
    /// Why this node's instance has stopped.
    #[schema(required = true)]
    stopped: Option<String>,
}

/// Who leads.
#[derive(ToSchema)]
pub struct Election {
    /// This node's part in the metastore: `leader`, `follower`, `candidate` or `stopped`.
    state: String,
    /// The metastore's term.
    #[schema(required = true)]
    term: Option<u64>,
    /// The metastore's leader.
    #[schema(required = true)]
    leader: Option<u64>,
    /// For whom this node voted.
    #[schema(required = true)]
    voted_for: Option<u64>,
    /// `embedded`.
    backend: String,
    /// All placement groups.
    groups: Vec<Group>,
}

/// A follower of what this node leads.
#[derive(ToSchema)]
pub struct Follower {
    /// Its node.
    id: u64,
    /// Its region.
    region: String,
    /// How far it is behind, for people.
    lag: String,
    /// How far it is behind.
    lag_seconds: f64,
    /// Records that it lacks.
    lag_entries: u64,
    /// Whether it answers and is not far behind.
    healthy: bool,
    /// `streaming`, `catching_up` or `unreachable`.
    state: String,
    /// How long ago it last answered.
    #[schema(required = true)]
    last_seen_ms: Option<u64>,
}

/// A group in which this node takes part.
#[derive(ToSchema)]
pub struct GroupHealth {
    /// Its id; 0 is the metastore.
    group: u64,
    /// This node's part.
    role: String,
    /// Its term.
    term: u64,
    /// Its leader.
    #[schema(required = true)]
    leader: Option<u64>,
    /// Why it has stopped here.
    #[schema(required = true)]
    stopped: Option<String>,
    /// Its storage here is damaged.
    damaged: bool,
}

/// The write-ahead log of this node.
#[derive(ToSchema)]
pub struct Wal {
    /// Records that were appended since the start.
    position: u64,
    /// Its size, for people.
    size: String,
    /// Its size.
    size_bytes: u64,
    /// Records a second.
    entries_per_s: f64,
    /// Bytes a second.
    bytes_per_s: f64,
}

/// Whether this node, and what it leads, is well.
#[derive(ToSchema)]
pub struct Health {
    /// `healthy`, `degraded` or `unhealthy` (then the answer's status is 503).
    status: String,
    /// What is wrong.
    reasons: Vec<String>,
    /// This node's part in the metastore: `leader` or `follower`.
    role: String,
    /// Its region.
    region: String,
    /// Its id.
    node: u64,
    /// Its log.
    wal: Wal,
    /// The followers of what it leads.
    followers: Vec<Follower>,
    /// The groups in which it takes part.
    groups: Vec<GroupHealth>,
    /// Those without a leader.
    leaderless: Vec<u64>,
    /// Those that it leads and that lack a copy.
    under_replicated: Vec<u64>,
}

/// Whether the node is ready.
#[derive(ToSchema)]
pub struct Readiness {
    /// All latches are open.
    ready: bool,
    /// By name, whether each is open.
    latches: std::collections::BTreeMap<String, bool>,
}

/// A resource that was written.
#[derive(ToSchema)]
pub struct Written {
    /// Its type.
    r#type: String,
    /// Its id.
    id: String,
    /// Whether it did not exist.
    created: bool,
    /// Its ETag.
    etag: String,
}

/// A resource in a list.
#[derive(ToSchema)]
pub struct Item {
    /// Its id.
    id: String,
    /// Its ETag.
    etag: String,
    /// Its media type.
    content_type: String,
    /// The resource, when it is JSON.
    data: Option<serde_json::Value>,
    /// The resource in base64, when it is not.
    data_base64: Option<String>,
}

/// A page of resources.
#[derive(ToSchema)]
pub struct ItemPage {
    /// In the order of ids.
    items: Vec<Item>,
    /// What to give as `after` for the next page; null: this is the last.
    #[schema(required = true)]
    next: Option<String>,
}
