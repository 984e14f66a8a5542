//! Every cap of the system, each with its reason (I12: nothing is unbounded). A cap that an
//! operator may change is a configuration key whose default stands here.

use std::time::Duration;

/// A host label may have 63 bytes; 32 keep metric labels and log lines readable.
pub const MAX_REGION_NAME_BYTES: usize = 32;
/// Tenant ids come with every request and are kept a million times.
pub const MAX_TENANT_ID_BYTES: usize = 128;
/// Part of every data key.
pub const MAX_RESOURCE_TYPE_BYTES: usize = 64;
/// Part of every data key.
pub const MAX_RESOURCE_ID_BYTES: usize = 256;
/// Stored with every outcome until the key's lifetime ends.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 128;
/// A file name and a metric label.
pub const MAX_PROXY_ID_BYTES: usize = 64;
/// The largest resource that the built-in origin takes: a record goes through memory of every
/// replica at once, and must leave room for heartbeats on the same disk.
pub const MAX_RESOURCE_BYTES: usize = 4 << 20;
/// The largest body of an admin request: placements are small.
pub const MAX_ADMIN_BODY_BYTES: usize = 256 << 10;
/// Placement groups of a cluster: an idle group costs about 6 ms CPU/s over three nodes at 50 ms.
pub const MAX_GROUPS: usize = 64;
/// Regions of a cluster: one data-bearing node each, and a group's key names them all.
pub const MAX_REGIONS: usize = 16;
/// Coordinators of a cluster: group 0 is replicated to each, voter or not.
pub const MAX_NODES: usize = 32;
/// Deletions of tenants that were interrupted and that the controller takes up at one look: the rest
/// waits for the next.
pub const MAX_RESUMED_DELETIONS: usize = 64;
/// Voters of one group; more members are learners. Five tolerate two faults; more slow each write.
pub const MAX_VOTERS: usize = 5;
/// Revisions that the metastore's watch history keeps; a watcher further behind resyncs.
pub const WATCH_HISTORY_REVISIONS: u64 = 100_000;
/// Events kept in the metastore; older ones are dropped by the transaction that adds one.
pub const MAX_EVENTS: u64 = 10_000;
/// Operations of one metastore transaction: bounds the record and the apply step.
pub const MAX_TXN_OPERATIONS: usize = 4096;
/// The largest value under one metastore key.
pub const MAX_META_VALUE_BYTES: usize = 64 << 10;
/// Rows in one page of a list.
pub const MAX_PAGE: usize = 1000;
/// Rows in one page of a list that names no limit.
pub const DEFAULT_PAGE: usize = 100;
/// The largest gRPC message: one resource, its metadata, and room.
pub const MAX_RPC_BYTES: usize = 16 << 20;
/// Deltas that a feed subscriber may be behind before it is cut off and resyncs.
pub const FEED_BACKLOG_DELTAS: usize = 4096;
/// Tenants in one chunk of a feed snapshot: about 100 KiB, so that control messages interleave.
pub const FEED_CHUNK_TENANTS: usize = 2048;
/// Subscribers of one coordinator's feed.
pub const MAX_FEED_SUBSCRIBERS: usize = 2000;
/// Requests in flight at a coordinator's API; further ones get 503 with Retry-After.
pub const MAX_API_IN_FLIGHT: usize = 4096;
/// How long an API request may take in all, writes included, before it is `outcome_unknown`.
pub const API_DEADLINE: Duration = Duration::from_secs(10);
/// How many times a request may be passed between coordinators: leader, then its successor.
pub const MAX_INTERNAL_HOPS: u32 = 3;
/// Hops of a forwarded request between proxies, then 508.
pub const MAX_FORWARD_HOPS: u32 = 3;
/// Idempotency keys kept per tenant; the oldest of the tenant goes first.
pub const MAX_IDEMPOTENCY_KEYS_PER_TENANT: u64 = 100_000;
/// One try of a metastore transaction, before it is tried again, perhaps elsewhere.
pub const METASTORE_ATTEMPT: Duration = Duration::from_secs(2);
