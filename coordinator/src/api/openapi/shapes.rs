//! The shapes of requests and answers as the document shows them. Plain descriptions: what is read
//! and written are the types of `maia_common` and of the services, which know nothing of documents;
//! `tests/tests/openapi.rs` compares real answers with these.

#![expect(dead_code, reason = "described, never made")]
#![expect(clippy::struct_field_names, reason = "the names that are answered")]

mod cluster;
mod quarantine;
mod replication;

use utoipa::{IntoParams, ToSchema};

pub use cluster::*;
pub use quarantine::*;
pub use replication::*;

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

/// What a read must see.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct ReadAfter {
    /// As a write's answer gave it: the read sees that write, or says `diverged_history` or `not_yet`.
    #[param(rename = "X-MAIA-Consistency-Token")]
    consistency_token: Option<String>,
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

/// A resource that was written.
#[derive(ToSchema)]
pub struct Written {
    /// Its type.
    r#type: String,
    /// Its id.
    id: String,
    /// Whether it did not exist; null in async mode, where that was not known yet.
    created: Option<bool>,
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
