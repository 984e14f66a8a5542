//! Shapes of quarantined records.

use utoipa::ToSchema;

/// What one operation of a record was to do.
#[derive(ToSchema)]
pub struct QuarantinedOperation {
    /// `put`, `patch` or `delete`.
    operation: String,
    /// The type of the resource.
    resource_type: String,
    /// The id of the resource.
    resource_id: String,
    /// It asked for a state of the resource.
    conditional: bool,
    /// Of what was to be written.
    size_bytes: u64,
}

/// A record that was cut off its log before it was known to be committed.
#[derive(ToSchema)]
pub struct QuarantineEntry {
    /// Group, term and index: GROUP-TERM-INDEX.
    id: String,
    /// The coordinator that has it.
    node: u64,
    /// In whose log it stood.
    group: u64,
    /// Where.
    term: u64,
    /// Where.
    index: u64,
    /// Whose it is.
    tenant_id: String,
    /// The tenant's sync mode when it was written.
    #[schema(required = true)]
    sync_mode: Option<String>,
    /// Whether a client was told that it is safe: `yes`, `no` or `perhaps`.
    acknowledged: String,
    /// What took it out of the log: `truncated`, `under-snapshot` or `left`.
    why: String,
    /// Why it waits for the operator: `not-acknowledged`, `strategy-reject`, `too-old` or `refused`; null:
    /// it does not, or was not looked at yet.
    #[schema(required = true)]
    waiting: Option<String>,
    /// When it left the log, in milliseconds since 1970.
    cut_off_at_unix_ms: u64,
    /// When it was written.
    written_at_unix_ms: u64,
    /// Where.
    #[schema(required = true)]
    origin_region: Option<String>,
    /// The client's key, if it gave one.
    #[schema(required = true)]
    idempotency_key: Option<String>,
    /// What it was to do.
    operations: Vec<QuarantinedOperation>,
    /// Per operation what was to be written: JSON as it is, other text as a string, other bytes as
    /// `{"hex": …}`, null for a deletion. Not in lists.
    contents: Option<Vec<serde_json::Value>>,
}

/// A page of a coordinator's quarantine.
#[derive(ToSchema)]
pub struct QuarantinePage {
    /// The coordinator that answers.
    node: u64,
    /// In the order of group, term and index.
    entries: Vec<QuarantineEntry>,
    /// Entries that have rotted: they can only be dropped.
    damaged: Vec<String>,
    /// What to give as `after` for the next page; null: there is nothing behind.
    #[schema(required = true)]
    next: Option<String>,
}

/// What came of a decision.
#[derive(ToSchema)]
pub struct QuarantineOutcome {
    /// The entry, which is gone.
    id: String,
    /// `won`, `lost`, `merged`, `repeated`, `committed` or `dropped`.
    outcome: String,
}
