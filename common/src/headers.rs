//! The header names of the product, lower case as HTTP/2 wants them.

/// Names the tenant (the default extraction rule).
pub const TENANT: &str = "x-maia-tenant-id";
/// Read affinity.
pub const PREFERRED_REGION: &str = "x-maia-preferred-region";
/// The region that served the response.
pub const REGION: &str = "x-maia-region";
/// The tenant's primary region, on a redirect.
pub const PRIMARY_REGION: &str = "x-maia-primary-region";
/// Why a request was redirected.
pub const REDIRECT_REASON: &str = "x-maia-redirect-reason";
/// The fencing token, to origins: `group/term/version`. Never taken from a client.
pub const PLACEMENT_EPOCH: &str = "x-maia-placement-epoch";
/// Read-your-writes.
pub const CONSISTENCY_TOKEN: &str = "x-maia-consistency-token";
/// Regions that hold a write durably.
pub const ACKED_REGIONS: &str = "x-maia-acked-regions";
/// `true` on a write that is held by fewer copies than the tenant asks for.
pub const ACK_DEGRADED: &str = "x-maia-ack-degraded";
/// How far what a read saw may be behind the group's leader, in milliseconds.
pub const REPLICA_LAG_MS: &str = "x-maia-replica-lag-ms";
/// Loop guard between proxies. Never taken from a client unless signed.
pub const HOPS: &str = "x-maia-hops";
/// Makes a retry recognizable.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Names the request in logs.
pub const REQUEST_ID: &str = "x-request-id";

/// Headers that only maia-edge itself may set: dropped from every client's request.
pub const INTERNAL: &[&str] = &[PLACEMENT_EPOCH, HOPS, PRIMARY_REGION, REDIRECT_REASON];
