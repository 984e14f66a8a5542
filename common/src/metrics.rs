//! The names and help texts of all metrics: `/metrics`, dashboards and alerts use these. Units are
//! in the names. Tenants are never a label. Who counts keeps the counter; this only names it.

/// A metric's name and help text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// The whole name, with prefix and unit.
    pub name: &'static str,
    /// One sentence for people.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($ident:ident = $name:literal, $help:literal;)*) => {
        $(#[doc = $help] pub const $ident: Metric = Metric { name: $name, help: $help };)*
        /// Every metric, for documents and tests.
        pub const ALL: &[Metric] = &[$($ident,)*];
    };
}

metrics! {
    WAL_APPEND_SECONDS = "maia_wal_append_seconds", "From a proposal to its answer.";
    WAL_FSYNC_SECONDS = "maia_wal_fsync_seconds", "Duration of one group commit's fdatasync.";
    WAL_ENTRIES = "maia_wal_entries_total", "Records appended to the logs of this node.";
    WAL_BYTES = "maia_wal_bytes_total", "Bytes appended to the logs of this node.";
    WAL_SIZE_BYTES = "maia_wal_size_bytes", "Bytes that a group's log takes on this node.";
    WAL_RETENTION_BYTES = "maia_wal_retention_bytes",
        "Bytes that a group's log may take before its oldest records are dropped.";
    REPLICATION_STREAMS = "maia_replication_streams", "Streams of entries that are served now.";
    REPLICATION_STREAMS_ENDED = "maia_replication_streams_ended_total",
        "Streams of entries ended by this coordinator, by reason.";
    PLACEMENTS = "maia_placements", "Tenants by primary region and mode.";
    GROUPS = "maia_groups", "Placement groups by state.";
    GROUP_TERM = "maia_group_term", "The group's term as this node sees it.";
    GROUP_LEADER = "maia_group_leader", "1 for the region that leads the group.";
    LEADER_CHANGES = "maia_leader_changes_total", "Leader changes of a group.";
    REPLICATION_LAG_ENTRIES = "maia_replication_lag_entries",
        "Records that a follower of a group led here is behind.";
    CATCH_UP_HELD_BACK_SECONDS = "maia_catch_up_held_back_seconds_total",
        "How long records for followers that catch up were held back for client writes.";
    WITNESS_FREE = "maia_witness_free",
        "1 while the witness of a group led here runs free: its new records have one copy.";
    QUARANTINE_ENTRIES = "maia_quarantine_entries",
        "Records that this node's logs lost uncommitted and that are not yet resolved.";
    QUARANTINE_WAITING = "maia_quarantine_waiting",
        "Those of them that wait for the operator, by why.";
    QUARANTINE_BYTES = "maia_quarantine_bytes", "Bytes of those records.";
    QUARANTINE_FULL = "maia_quarantine_full",
        "1 while there are more of those records than there should be, all of which clients may count on: alert.";
    REPLICATION_CONFLICTS = "maia_replication_conflicts_total",
        "Quarantined records that were dealt with, by strategy and outcome.";
    REPLICATION_DEGRADED = "maia_replication_degraded_total",
        "Writes acknowledged by this node on fewer copies than their tenants ask for.";
    REPLICATION_EARLY = "maia_replication_early_total",
        "Writes in async mode acknowledged by this node before their commit.";
    CLOCK_OFFSET_SECONDS = "maia_clock_offset_seconds",
        "How far another node's wall clock is ahead of this one's, as heard lately.";
    FEED_SUBSCRIBERS = "maia_feed_subscribers", "Proxies on this coordinator's feed.";
    FEED_PUSH_SECONDS = "maia_feed_push_seconds", "From a commit to its delta on the feed.";
    FEED_CUT_OFF = "maia_feed_cut_off_total", "Streams of the feed ended by this coordinator, by reason.";
    FEED_SNAPSHOTS = "maia_feed_snapshots_total", "Snapshots sent whole to proxies.";
    FEED_IMAGES = "maia_feed_images_total", "Snapshot images built, each for any number of proxies.";
    FEED_IMAGE_SECONDS = "maia_feed_image_seconds", "How long the newest snapshot image took to build.";
    FEED_CATCH_UPS = "maia_feed_catch_ups_total",
        "Subscribers that were brought to the newest revision from the history.";
    PROXY_REQUESTS = "maia_proxy_requests_total",
        "Requests by decision, class (read or write) and status class.";
    PROXY_REQUEST_SECONDS = "maia_proxy_request_seconds",
        "From a request's header to the end of its response.";
    PROXY_APPLY_SECONDS = "maia_proxy_apply_seconds",
        "From the commit of a placement to its being in force at this proxy.";
    PROXY_TABLE_TENANTS = "maia_proxy_table_tenants", "Tenants in the proxy's table.";
    PROXY_REVISION = "maia_proxy_revision", "The metastore revision in force at this proxy.";
    PROXY_PLACEMENT_AGE_SECONDS = "maia_proxy_placement_age_seconds",
        "Since the proxy last heard from a coordinator.";
    PROXY_PLACEMENTS_SOURCE = "maia_proxy_placements_source",
        "1 for where the placements in force came from: none, disk or feed.";
    PROXY_FEED_LEADERLESS = "maia_proxy_feed_leaderless",
        "1 while the coordinator that is followed says that it hears no leader of the metastore.";
    PROXY_FEED_UNREADABLE = "maia_proxy_feed_unreadable_total",
        "Regions, groups and tenants of the feed that could not be read and count as unusable.";
    PROXY_LOOKUPS = "maia_proxy_lookups_total",
        "Tenants asked for at a coordinator, by outcome: answered or failed.";
    PROXY_PLACINGS = "maia_proxy_placings_total",
        "New tenants that a coordinator was to place, by outcome: placed, failed or limited.";
    PROXY_SNAPSHOT_AGE_SECONDS = "maia_proxy_snapshot_age_seconds",
        "Since the proxy's snapshot on disk was written; infinite while there is none.";
    PROXY_SNAPSHOT_ERRORS = "maia_proxy_snapshot_errors_total",
        "Failures to write the proxy's snapshot to disk.";
    PROXY_UPSTREAM_ERRORS = "maia_proxy_upstream_errors_total", "Origin errors by kind.";
    PROXY_HELD_REQUESTS = "maia_proxy_held_requests", "Requests that wait for a primary, or for what a coordinator knows of their tenant, now.";
    PROXY_HOLD_SECONDS = "maia_proxy_hold_seconds", "How long held requests waited.";
    PROXY_CONNECTIONS = "maia_proxy_connections", "Connections of clients now.";
    PROXY_CONNECTIONS_REFUSED = "maia_proxy_connections_refused_total",
        "Connections closed unanswered because there were too many.";
    PROXY_ACCESS_LOG_DROPPED = "maia_proxy_access_log_dropped_total",
        "Access log lines dropped because the reader of the log was too slow.";
    TLS_CERTIFICATE_EXPIRES_SECONDS = "maia_tls_certificate_expires_seconds",
        "Until a certificate for gRPC expires, by whose it is: own, or ca for the first of the CAs'; negative: it has.";
    INVARIANT_VIOLATIONS = "maia_invariant_violations_total",
        "Violations of a named invariant; any increase is an emergency.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_prefixed_and_explained() {
        let names: std::collections::BTreeSet<_> = ALL.iter().map(|m| m.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(
            ALL.iter()
                .all(|m| m.name.starts_with("maia_") && m.help.ends_with('.'))
        );
    }
}
