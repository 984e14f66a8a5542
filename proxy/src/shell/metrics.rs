//! What the proxy counts. Names and help texts are `maia_common::metrics`'; counters that a
//! request touches are resolved once, so that counting is one atomic addition. Tenants are never
//! a label.

use std::time::Duration;

use maia_common::metrics::{self as names, Metric};
use maia_common::rpc::Rpc;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::core::classify::Class;
use crate::shell::placements::{Placements, Source};

/// How a request ended: the label `decision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Outcome {
    /// Passed to the local origin.
    Local,
    /// Answered 307.
    Redirect,
    /// Held until the budget ran out.
    Hold,
    /// Answered with a problem document.
    Reject,
}

const OUTCOMES: [&str; 4] = ["local", "redirect", "hold", "reject"];
const CLASSES: [Class; 3] = [Class::Read, Class::Write, Class::Preflight];
const STATUSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

impl Outcome {
    /// The value of the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        OUTCOMES[self as usize]
    }
}

/// What went wrong on the way to the origin: the label `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum UpstreamError {
    /// It could not be connected.
    Connect,
    /// It was too slow.
    Timeout,
    /// It closed, or talked nonsense.
    Broken,
    /// It answered that the placement is stale (421).
    Stale,
}

const UPSTREAM_ERRORS: [&str; 4] = ["connect", "timeout", "broken", "stale"];

/// What became of the placing of a tenant: the label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Placing {
    /// A coordinator placed it, or found it placed.
    Placed,
    /// No coordinator did.
    Failed,
    /// None was asked, since too many are being placed.
    Limited,
}

const PLACINGS: [&str; 3] = ["placed", "failed", "limited"];

/// All counters of the proxy.
pub struct Metrics {
    registry: Registry,
    rpc: Rpc,
    certificates: IntGaugeVec,
    requests: Vec<IntCounter>,
    seconds: Vec<Histogram>,
    upstream_errors: Vec<IntCounter>,
    /// From the commit of a placement to its being in force here.
    pub apply_seconds: Histogram,
    /// Requests that wait for a primary now.
    pub held: IntGauge,
    /// How long held requests waited.
    pub hold_seconds: Histogram,
    /// Connections of clients now.
    pub connections: IntGauge,
    /// Connections that were closed unanswered because there were too many.
    pub connections_refused: IntCounter,
    /// Access log lines that were dropped.
    pub log_dropped: IntCounter,
    /// Items of the feed that could not be read.
    pub unreadable: IntCounter,
    leaderless: IntGauge,
    lookups: [IntCounter; 2],
    placings: [IntCounter; 3],
    tenants: IntGauge,
    revision: IntGauge,
    age: prometheus::Gauge,
    source: IntGaugeVec,
    snapshot_age: prometheus::Gauge,
    /// Snapshots that could not be written to disk.
    pub snapshot_errors: IntCounter,
}

impl Metrics {
    /// Everything at zero.
    ///
    /// # Errors
    /// Two metrics of one name: a bug, found by every test that starts a proxy.
    pub fn new(rpc: Rpc) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let requests = counter_vec(
            &registry,
            names::PROXY_REQUESTS,
            &["decision", "class", "status_class"],
        )?;
        let seconds = HistogramVec::new(
            buckets(names::PROXY_REQUEST_SECONDS, &REQUEST_BUCKETS),
            &["decision"],
        )?;
        registry.register(Box::new(seconds.clone()))?;
        let errors = counter_vec(&registry, names::PROXY_UPSTREAM_ERRORS, &["kind"])?;
        let placings = counter_vec(&registry, names::PROXY_PLACINGS, &["outcome"])?;
        let lookups = counter_vec(&registry, names::PROXY_LOOKUPS, &["outcome"])?;
        Ok(Self {
            rpc,
            certificates: gauge_vec(&registry, names::TLS_CERTIFICATE_EXPIRES_SECONDS, "whose")?,
            requests: each_request(&requests),
            seconds: OUTCOMES.map(|o| seconds.with_label_values(&[o])).into(),
            upstream_errors: UPSTREAM_ERRORS
                .map(|k| errors.with_label_values(&[k]))
                .into(),
            apply_seconds: histogram(&registry, names::PROXY_APPLY_SECONDS, &APPLY_BUCKETS)?,
            held: gauge(&registry, names::PROXY_HELD_REQUESTS)?,
            hold_seconds: histogram(&registry, names::PROXY_HOLD_SECONDS, &REQUEST_BUCKETS)?,
            connections: gauge(&registry, names::PROXY_CONNECTIONS)?,
            connections_refused: counter(&registry, names::PROXY_CONNECTIONS_REFUSED)?,
            log_dropped: counter(&registry, names::PROXY_ACCESS_LOG_DROPPED)?,
            unreadable: counter(&registry, names::PROXY_FEED_UNREADABLE)?,
            leaderless: gauge(&registry, names::PROXY_FEED_LEADERLESS)?,
            lookups: ["failed", "answered"].map(|o| lookups.with_label_values(&[o])),
            placings: PLACINGS.map(|o| placings.with_label_values(&[o])),
            tenants: gauge(&registry, names::PROXY_TABLE_TENANTS)?,
            revision: gauge(&registry, names::PROXY_REVISION)?,
            age: seconds_gauge(&registry, names::PROXY_PLACEMENT_AGE_SECONDS)?,
            source: gauge_vec(&registry, names::PROXY_PLACEMENTS_SOURCE, "source")?,
            snapshot_age: seconds_gauge(&registry, names::PROXY_SNAPSHOT_AGE_SECONDS)?,
            snapshot_errors: counter(&registry, names::PROXY_SNAPSHOT_ERRORS)?,
            registry,
        })
    }

    /// Counts a request that has ended. `status` 0: nothing was answered.
    pub fn request(&self, outcome: Outcome, class: Class, status: u16, took: Duration) {
        let status = usize::from(status / 100).min(STATUSES.len() - 1);
        let class = CLASSES.iter().position(|c| *c == class).unwrap_or(0);
        let index = (outcome as usize * CLASSES.len() + class) * STATUSES.len() + status;
        self.requests[index].inc();
        self.seconds[outcome as usize].observe(took.as_secs_f64());
    }

    /// Counts a lookup at a coordinator.
    pub fn lookup(&self, answered: bool) {
        self.lookups[usize::from(answered)].inc();
    }

    /// Counts the placing of a tenant.
    pub fn placing(&self, outcome: Placing) {
        self.placings[outcome as usize].inc();
    }

    /// Counts a failure of the origin.
    pub fn upstream_error(&self, kind: UpstreamError) {
        self.upstream_errors[kind as usize].inc();
    }

    /// Everything in the text format of Prometheus.
    #[must_use]
    pub fn render(&self, placements: &Placements) -> Vec<u8> {
        let view = placements.view();
        self.tenants.set(placements.tenants() as i64);
        let revision = view.topology.as_ref().map_or(0, |t| t.revision.get());
        self.revision.set(revision as i64);
        let seconds = |age: Option<Duration>| age.map_or(f64::INFINITY, |a| a.as_secs_f64());
        self.age.set(seconds(placements.age()));
        self.snapshot_age.set(seconds(placements.saved_age()));
        self.leaderless.set(i64::from(placements.is_leaderless()));
        for source in Source::ALL {
            let now = i64::from(source == placements.source());
            self.source.with_label_values(&[source.as_str()]).set(now);
        }
        if let Some(expiry) = self.rpc.expiry() {
            let of = |whose: &str| self.certificates.with_label_values(&[whose]);
            of("own").set(expiry.certificate_s);
            of("ca").set(expiry.ca_s);
        }
        let mut text = Vec::new();
        if let Err(e) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(error = %e, "metrics can't be encoded");
        }
        text
    }
}

const APPLY_BUCKETS: [f64; 16] = [
    0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25,
    0.5, 1.0,
];
const REQUEST_BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

fn each_request(requests: &IntCounterVec) -> Vec<IntCounter> {
    let mut all = Vec::with_capacity(OUTCOMES.len() * CLASSES.len() * STATUSES.len());
    for outcome in OUTCOMES {
        for class in CLASSES {
            for status in STATUSES {
                all.push(requests.with_label_values(&[outcome, class.as_str(), status]));
            }
        }
    }
    all
}

fn buckets(metric: Metric, buckets: &[f64]) -> HistogramOpts {
    HistogramOpts::new(metric.name, metric.help).buckets(buckets.to_vec())
}

fn histogram(
    registry: &Registry,
    metric: Metric,
    bounds: &[f64],
) -> Result<Histogram, prometheus::Error> {
    let histogram = Histogram::with_opts(buckets(metric, bounds))?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}

fn gauge(registry: &Registry, metric: Metric) -> Result<IntGauge, prometheus::Error> {
    let gauge = IntGauge::new(metric.name, metric.help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn gauge_vec(
    registry: &Registry,
    metric: Metric,
    label: &str,
) -> Result<IntGaugeVec, prometheus::Error> {
    let gauge = IntGaugeVec::new(Opts::new(metric.name, metric.help), &[label])?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn seconds_gauge(
    registry: &Registry,
    metric: Metric,
) -> Result<prometheus::Gauge, prometheus::Error> {
    let gauge = prometheus::Gauge::new(metric.name, metric.help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn counter(registry: &Registry, metric: Metric) -> Result<IntCounter, prometheus::Error> {
    let counter = IntCounter::new(metric.name, metric.help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn counter_vec(
    registry: &Registry,
    metric: Metric,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let vec = IntCounterVec::new(Opts::new(metric.name, metric.help), labels)?;
    registry.register(Box::new(vec.clone()))?;
    Ok(vec)
}

/// For tests: a process without certificates.
#[cfg(test)]
pub(super) fn plaintext() -> Rpc {
    use maia_common::cluster_key::ClusterKey;
    Rpc::plaintext(&ClusterKey::from_secret(
        "a secret of tests, and of nothing else",
    ))
}
