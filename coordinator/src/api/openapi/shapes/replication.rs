//! Shapes of entries, of what is appended, and of where the logs are.

use utoipa::{IntoParams, ToSchema};

use super::cluster::{Follower, Wal};

/// Where a reader that comes back was.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct LastEventId {
    /// The id of the last event that it has: a position. Stands above `after`.
    #[param(rename = "Last-Event-ID")]
    last_event_id: Option<String>,
}

/// When a record was made, by its maker's hybrid logical clock.
#[derive(ToSchema)]
pub struct Hlc {
    /// Milliseconds since 1970.
    physical_ms: u64,
    /// Parts readings of one millisecond.
    logical: u32,
}

/// What a resource is after an entry.
#[derive(ToSchema)]
pub struct EntryOperation {
    /// `put`: it is this now; `delete`: it is gone.
    operation: String,
    /// Its type.
    resource_type: String,
    /// Its id.
    resource_id: String,
    /// Its version from now on.
    etag: Option<String>,
    /// Its media type.
    content_type: Option<String>,
    /// The resource, when it is JSON.
    data: Option<serde_json::Value>,
    /// The resource in base64, when it is not.
    data_base64: Option<String>,
}

/// A committed entry.
#[derive(ToSchema)]
pub struct Entry {
    /// `group/term/index`.
    position: String,
    /// Whose log it is in.
    group: u64,
    /// Its term.
    term: u64,
    /// Its index; those of shown entries grow, with gaps.
    index: u64,
    /// When it was made.
    hlc: Hlc,
    /// Where it entered.
    #[schema(required = true)]
    origin_region: Option<String>,
    /// Whose it is.
    #[schema(required = true)]
    tenant_id: Option<String>,
    /// `data`, or of a control entry: `purge` (all of the tenant's resources here are gone), `seal`,
    /// `unseal`, `import_complete`.
    kind: String,
    /// All took effect together; none in a control entry.
    operations: Vec<EntryOperation>,
}

/// A page of entries.
#[derive(ToSchema)]
pub struct EntryPage {
    /// In the order of the log.
    entries: Vec<Entry>,
    /// What to give as `after` to go on; null: the log has nothing yet.
    #[schema(required = true)]
    next: Option<String>,
    /// Whether there is more already.
    more: bool,
}

/// One operation to append.
#[derive(ToSchema)]
pub struct Append {
    /// Whose resource.
    tenant_id: String,
    /// `create` (it must not exist), `update` (it becomes this) or `delete` (it must exist).
    operation: String,
    /// Its type.
    resource_type: String,
    /// Its id.
    resource_id: String,
    /// With it the resource's id is `namespace/resource_id`.
    namespace: Option<String>,
    /// What it becomes: any JSON value but null.
    data: Option<serde_json::Value>,
    /// Only if its ETag is this.
    if_version: Option<String>,
}

/// One operation, or up to 1,000 of one tenant and of different resources.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum AppendBody {
    /// One.
    One(Append),
    /// All or none takes effect.
    Many(Vec<Append>),
}

/// An append that took effect.
#[derive(ToSchema)]
pub struct Appended {
    /// `group/term/index`.
    position: String,
    /// The version of all its resources.
    etag: String,
    /// Per operation, whether the resource did not exist.
    created: Vec<bool>,
    /// The key was used before with the same body: this is the answer of then.
    replayed: bool,
    /// Regions that hold it durably.
    acked_regions: Vec<String>,
}

/// How far a group is applied.
#[derive(ToSchema)]
pub struct GroupReach {
    /// The group.
    group: u64,
    /// The last position applied where it was asked; null: none is.
    #[schema(required = true)]
    position: Option<String>,
    /// The oldest position to go on from; null: the log is whole.
    #[schema(required = true)]
    oldest: Option<String>,
}

/// How far groups are applied.
#[derive(ToSchema)]
pub struct Positions {
    /// Each.
    positions: Vec<GroupReach>,
}

/// A group's log on this node.
#[derive(ToSchema)]
pub struct GroupStats {
    /// The group; 0 is the metastore.
    group: u64,
    /// This node's part.
    role: String,
    /// Its term.
    term: u64,
    /// Up to where it is applied.
    #[schema(required = true)]
    position: Option<String>,
    /// Up to where it is known to be committed.
    #[schema(required = true)]
    committed: Option<String>,
    /// The last index of the log.
    #[schema(required = true)]
    last_index: Option<u64>,
    /// The last position that is no longer in the log.
    #[schema(required = true)]
    oldest: Option<String>,
    /// Bytes of its records, about.
    size_bytes: u64,
}

/// The logs of this node.
#[derive(ToSchema)]
pub struct Stats {
    /// Its id.
    node: u64,
    /// Its region.
    region: String,
    /// All logs together.
    wal: Wal,
    /// How many bytes a group's log may take.
    retention_bytes: u64,
    /// Each group's.
    groups: Vec<GroupStats>,
    /// Streams of entries that are served now.
    streams: usize,
}

/// Who leads a group.
#[derive(ToSchema)]
pub struct GroupLeader {
    /// The group.
    group: u64,
    /// The newest term that is known.
    #[schema(required = true)]
    term: Option<u64>,
    /// The leading node of that term.
    #[schema(required = true)]
    leader: Option<u64>,
    /// Its region.
    #[schema(required = true)]
    region: Option<String>,
    /// The URL of its API.
    #[schema(required = true)]
    api_url: Option<String>,
}

/// Who leads.
#[derive(ToSchema)]
pub struct Leaders {
    /// Each group's.
    leaders: Vec<GroupLeader>,
}

/// The followers of what this node leads.
#[derive(ToSchema)]
pub struct Followers {
    /// As in `/v1/replication/health`.
    followers: Vec<Follower>,
}
