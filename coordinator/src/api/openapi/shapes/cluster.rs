//! The shapes of what the cluster consists of, and of how it is.

use utoipa::ToSchema;

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

/// A new coordinator.
#[derive(ToSchema)]
pub struct NewNode {
    /// Its id, never used before.
    id: u64,
    /// Its region, one of the cluster's.
    region: String,
    /// `host:port` of its gRPC listener, as the other coordinators reach it.
    rpc_addr: String,
    /// URL of its HTTP API.
    api_url: String,
    /// It votes in the metastore and never holds tenants' data.
    witness: Option<bool>,
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
    /// What its disk was marked with; empty until it has come for the first time.
    disk_id: String,
    /// `joining`, `active` or `removing`.
    state: String,
    /// It votes in the metastore and never holds tenants' data.
    witness: Option<bool>,
    /// Its part in the metastore: `voter`, `learner` or `none`.
    metastore: String,
    /// Placement groups that have it as a member.
    groups: Vec<u64>,
    /// While it is being taken out: `empty` when it has said that nothing is in its quarantine, `given-up` when
    /// it goes without; absent: neither.
    farewell: Option<String>,
    /// While it is being taken out: what for it is not out yet.
    waits_for: Option<String>,
}

/// All coordinators.
#[derive(ToSchema)]
pub struct Nodes {
    /// By id.
    nodes: Vec<Node>,
}

/// A group that goes on without a coordinator.
#[derive(ToSchema)]
pub struct GroupLoss {
    /// The group.
    group: u64,
    /// The nodes that keep its data.
    copies_left: Vec<u64>,
    /// Whether it goes on without a witness: the node is it, or has the last copy but one.
    loses_witness: bool,
    /// Whether the node was where the group's primary belongs.
    loses_home: bool,
}

/// What taking a coordinator out does.
#[derive(ToSchema)]
pub struct Removal {
    /// The node.
    node: u64,
    /// Its region.
    region: String,
    /// Whether it answers now.
    answers: bool,
    /// Voters of the metastore now.
    metastore_voters: usize,
    /// How many of them stay.
    metastore_voters_left: usize,
    /// The groups that go on without it.
    groups: Vec<GroupLoss>,
    /// The groups of which it has the only copy: they go, with their tenants.
    lost: Vec<LostGroup>,
    /// What becomes of its quarantine.
    quarantine: QuarantinePlan,
}

/// What becomes of the quarantine of a coordinator that is taken out.
#[derive(ToSchema)]
pub struct QuarantinePlan {
    /// The coordinator stays until it is empty; else what stands there goes with it.
    waited_for: bool,
    /// Records that clients were told, or may have been told, are safe, as it last said.
    acknowledged: u64,
    /// Others.
    others: u64,
}

/// A group that is given up with a coordinator.
#[derive(ToSchema)]
pub struct LostGroup {
    /// The group.
    group: u64,
    /// How many tenants it has now.
    tenants: u64,
}

/// That a coordinator is being taken out.
#[derive(ToSchema)]
pub struct Removing {
    /// The node.
    node: u64,
    /// `removing`.
    state: String,
    /// What for it is not out yet.
    waits_for: String,
}

/// What taking a coordinator out does, or that it was begun before.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum RemovalOrState {
    /// It begins.
    Removal(Removal),
    /// It was begun.
    Removing(Removing),
}

/// A registered proxy.
#[derive(ToSchema)]
pub struct Proxy {
    /// Its stable id.
    id: String,
    /// Its region.
    region: String,
    /// Microseconds since 1970.
    registered_at: u64,
    /// What it said is in force there; null: it is connected to no coordinator that answers.
    #[schema(required = true)]
    revision: Option<u64>,
    /// How long ago it last said anything.
    #[schema(required = true)]
    last_seen_ms: Option<u64>,
    /// The coordinator whose feed it is on.
    #[schema(required = true)]
    connected_to: Option<u64>,
}

/// A page of registered proxies.
#[derive(ToSchema)]
pub struct ProxyPage {
    /// By id.
    proxies: Vec<Proxy>,
    /// What to give as `after` for the next page; null: this is the last.
    #[schema(required = true)]
    next: Option<String>,
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

/// The digest of a group's state on a coordinator.
#[derive(ToSchema)]
pub struct StateDigest {
    /// The coordinator.
    node: u64,
    /// The group.
    group: u64,
    /// Of the last record applied; null: none is.
    #[schema(required = true)]
    term: Option<u64>,
    /// Of the last record applied.
    #[schema(required = true)]
    index: Option<u64>,
    /// 64 hexadecimal digits.
    digest: String,
    /// Rows of the state.
    rows: u64,
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
    /// Nodes that vote, the witness among them.
    voters: Vec<u64>,
    /// Nodes that hold data without a vote.
    learners: Vec<u64>,
    /// The one of them that votes without data.
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
    /// Those that it leads and of which the newest records may have one copy: the witness stands in for the
    /// other one.
    witness_free: Vec<u64>,
    /// Those that it leads and that have two copies and no witness: without either they take no writes.
    without_witness: Vec<u64>,
}

/// Whether the node is ready.
#[derive(ToSchema)]
pub struct Readiness {
    /// All latches are open.
    ready: bool,
    /// By name, whether each is open.
    latches: std::collections::BTreeMap<String, bool>,
}
