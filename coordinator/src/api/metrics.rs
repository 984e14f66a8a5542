//! `/metrics`: what this node counts, in Prometheus text. Gauges are read when asked for.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use maia_common::metrics as names;
use maia_common::metrics::Metric;

use super::Api;
use crate::feed::{CutOff, Hub, PUSH_BUCKETS_US};
use crate::raft::{FSYNC_BUCKETS_US, LogStats, Role};
use crate::shell::streams::EndedBy;

/// Prometheus text under construction.
#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        use std::fmt::Write as _;
        writeln!(self.0, "{line}").expect("a string takes all");
    }

    fn head(&mut self, metric: Metric, kind: &str) {
        let Metric { name, help } = metric;
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        if labels.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{labels}}} {value}"));
        }
    }

    fn single(&mut self, metric: Metric, kind: &str, value: impl std::fmt::Display) {
        self.head(metric, kind);
        self.sample(metric.name, "", value);
    }

    /// `buckets`: observations by upper bound, not yet cumulated.
    fn histogram(
        &mut self,
        metric: Metric,
        bounds_us: &[u64],
        buckets: &[u64],
        count: u64,
        sum_us: u64,
    ) {
        self.head(metric, "histogram");
        let bucket = format!("{}_bucket", metric.name);
        let mut cumulated = 0;
        for (bound_us, count) in bounds_us.iter().zip(buckets) {
            cumulated += count;
            let bound_s = *bound_us as f64 / 1e6;
            self.sample(&bucket, &format!("le=\"{bound_s}\""), cumulated);
        }
        self.sample(&bucket, "le=\"+Inf\"", count);
        let sum_s = sum_us as f64 / 1e6;
        self.sample(&format!("{}_sum", metric.name), "", sum_s);
        self.sample(&format!("{}_count", metric.name), "", count);
    }
}

fn wal(text: &mut Text, stats: &LogStats) {
    text.single(names::WAL_ENTRIES, "counter", stats.appends);
    text.single(names::WAL_BYTES, "counter", stats.bytes);
    let (bounds, sum_us) = (&FSYNC_BUCKETS_US[..], stats.fsync_sum_us);
    let metric = names::WAL_FSYNC_SECONDS;
    text.histogram(metric, bounds, &stats.fsync_buckets, stats.fsyncs, sum_us);
    let held_back_s = stats.held_back_us as f64 / 1e6;
    text.single(names::CATCH_UP_HELD_BACK_SECONDS, "counter", held_back_s);
}

fn feed(text: &mut Text, hub: &Hub) {
    text.single(names::FEED_SUBSCRIBERS, "gauge", hub.count());
    let stats = hub.stats();
    let (buckets, count, sum_us) = stats.pushes();
    let metric = names::FEED_PUSH_SECONDS;
    text.histogram(metric, &PUSH_BUCKETS_US, &buckets, count, sum_us);
    text.head(names::FEED_CUT_OFF, "counter");
    for reason in CutOff::ALL {
        let label = format!("reason=\"{}\"", reason.as_str());
        text.sample(names::FEED_CUT_OFF.name, &label, stats.cut_offs(reason));
    }
    text.single(names::FEED_SNAPSHOTS, "counter", stats.snapshots());
    let (images, took) = stats.images();
    text.single(names::FEED_IMAGES, "counter", images);
    text.single(names::FEED_IMAGE_SECONDS, "gauge", took.as_secs_f64());
    text.single(names::FEED_CATCH_UPS, "counter", stats.catch_ups());
}

fn quarantine(text: &mut Text, api: &Api) {
    let counts = api.parts.quarantine.counts();
    text.head(names::QUARANTINE_ENTRIES, "gauge");
    for (acknowledged, count) in counts.entries() {
        let label = format!("acknowledged=\"{}\"", acknowledged.name());
        text.sample(names::QUARANTINE_ENTRIES.name, &label, count);
    }
    text.head(names::QUARANTINE_WAITING, "gauge");
    for (why, count) in counts.waiting() {
        let label = format!("why=\"{}\"", why.name());
        text.sample(names::QUARANTINE_WAITING.name, &label, count);
    }
    text.single(names::QUARANTINE_BYTES, "gauge", counts.bytes());
    let is_full = u8::from(counts.is_full());
    text.single(names::QUARANTINE_FULL, "gauge", is_full);
    text.head(names::REPLICATION_CONFLICTS, "counter");
    for (strategy, outcome, count) in counts.outcomes() {
        let labels = format!("strategy=\"{strategy}\",outcome=\"{}\"", outcome.name());
        text.sample(names::REPLICATION_CONFLICTS.name, &labels, count);
    }
}

fn certificates(text: &mut Text, api: &Api) {
    let Some(expiry) = api.parts.rpc.expiry() else {
        return;
    };
    let metric = names::TLS_CERTIFICATE_EXPIRES_SECONDS;
    text.head(metric, "gauge");
    text.sample(metric.name, "whose=\"own\"", expiry.certificate_s);
    text.sample(metric.name, "whose=\"ca\"", expiry.ca_s);
}

fn acknowledgements(text: &mut Text, api: &Api) {
    let degraded = api.parts.data.degraded();
    text.single(names::REPLICATION_DEGRADED, "counter", degraded);
    let early = api.parts.data.early();
    text.single(names::REPLICATION_EARLY, "counter", early);
}

fn clocks(text: &mut Text, api: &Api) {
    text.head(names::CLOCK_OFFSET_SECONDS, "gauge");
    for (node, offset_ms) in api.parts.offsets.lately() {
        let (label, offset_s) = (format!("to=\"{node}\""), offset_ms as f64 / 1e3);
        text.sample(names::CLOCK_OFFSET_SECONDS.name, &label, offset_s);
    }
}

fn violations(text: &mut Text, api: &Api) {
    text.head(names::INVARIANT_VIOLATIONS, "counter");
    for (invariant, count) in api.parts.cluster.violations().counts() {
        let label = format!("name=\"{}\"", invariant.name());
        text.sample(names::INVARIANT_VIOLATIONS.name, &label, count);
    }
}

fn groups(text: &mut Text, api: &Api) {
    let state = api.parts.cluster.state();
    text.head(names::GROUPS, "gauge");
    for kind in ["creating", "active", "closing"] {
        let count = state
            .groups
            .values()
            .filter(|g| g.state.as_str() == kind)
            .count();
        text.sample(names::GROUPS.name, &format!("state=\"{kind}\""), count);
    }
    text.head(names::GROUP_LEADER, "gauge");
    for (group, leader) in &state.leaders {
        let labels = format!("group=\"{group}\",region=\"{}\"", leader.region);
        text.sample(names::GROUP_LEADER.name, &labels, 1);
    }
    let statuses: Vec<_> = api
        .parts
        .engine
        .group_ids()
        .into_iter()
        .filter_map(|group| Some((group, api.parts.engine.status(group)?)))
        .collect();
    text.head(names::GROUP_TERM, "gauge");
    for (group, status) in &statuses {
        text.sample(
            names::GROUP_TERM.name,
            &format!("group=\"{group}\""),
            status.term,
        );
    }
    text.head(names::REPLICATION_LAG_ENTRIES, "gauge");
    for (group, status) in statuses.iter().filter(|(_, s)| s.role == Role::Leader) {
        for follower in &status.followers {
            let node = follower.node;
            let region = state.nodes.get(&node).map_or("", |n| n.region.as_str());
            let labels = format!("group=\"{group}\",follower=\"{node}\",region=\"{region}\"");
            let lag = status.lag_entries(follower);
            text.sample(names::REPLICATION_LAG_ENTRIES.name, &labels, lag);
        }
    }
    text.head(names::WITNESS_FREE, "gauge");
    let led = statuses.iter().filter(|(_, s)| s.role == Role::Leader);
    for (group, status) in led.filter(|(_, s)| s.witness.is_some()) {
        let (labels, free) = (
            format!("group=\"{group}\""),
            u8::from(status.is_witness_free),
        );
        text.sample(names::WITNESS_FREE.name, &labels, free);
    }
}

fn logs(text: &mut Text, api: &Api) {
    let engine = &api.parts.engine;
    text.head(names::WAL_SIZE_BYTES, "gauge");
    for group in engine.group_ids() {
        let labels = format!("group=\"{group}\"");
        let size = engine.log_size_bytes(group);
        text.sample(names::WAL_SIZE_BYTES.name, &labels, size);
    }
    let retention = engine.retention_bytes();
    text.single(names::WAL_RETENTION_BYTES, "gauge", retention);
    let streams = &api.parts.streams;
    text.single(names::REPLICATION_STREAMS, "gauge", streams.count());
    text.head(names::REPLICATION_STREAMS_ENDED, "counter");
    for by in EndedBy::ALL {
        let label = format!("reason=\"{}\"", by.as_str());
        text.sample(
            names::REPLICATION_STREAMS_ENDED.name,
            &label,
            streams.ended(by),
        );
    }
}

/// All metrics of this node.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    tag = "node",
    responses((status = 200, description = "Prometheus text", body = String, content_type = "text/plain"))
)]
pub async fn metrics(State(api): State<Api>) -> Response {
    let mut text = Text::default();
    wal(&mut text, &api.parts.engine.log_stats());
    logs(&mut text, &api);
    groups(&mut text, &api);
    quarantine(&mut text, &api);
    acknowledgements(&mut text, &api);
    clocks(&mut text, &api);
    violations(&mut text, &api);
    certificates(&mut text, &api);
    feed(&mut text, &api.parts.hub);
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        text.0,
    )
        .into_response()
}
