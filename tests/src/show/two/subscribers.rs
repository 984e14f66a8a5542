//! A thousand simulated proxies on the feed of three coordinators, fifty placement changes a second,
//! one proxy that stops reading midway.

use super::super::{Report, sized};
use crate::Cluster;
use crate::feed_load::{self, Latency, Plan};

const TARGET_MS: f64 = 100.0;

/// Runs it.
pub async fn run(report: &mut Report) {
    let cluster = Cluster::start().await;
    let plan = Plan {
        clients: sized("SHOW_CLIENTS", 1000),
        ..Plan::default()
    };
    let seen = feed_load::run(&cluster, &plan).await;
    let whole = seen.behind == 0 && seen.faults == 0 && seen.refused_changes == 0;
    let figure = format!(
        "{} subscribers at {} changes a second: {}; {} changes, {} behind at the end, {} faults; \
         CPU of the coordinators {:.0?} % of a core",
        seen.clients,
        plan.changes_per_s,
        told(&seen.all),
        seen.changes,
        seen.behind,
        seen.faults,
        seen.coordinator_cpu_percent
    );
    let holds = whole && seen.all.p99_ms <= TARGET_MS;
    report.line("commit → applied", &figure, holds);
    let figure = format!(
        "cut off after {:?} ms ({}); the others before: {}; after: {}",
        seen.cut_off_after_ms,
        seen.cut_off_status.as_deref().unwrap_or("no status"),
        told(&seen.before_stop),
        told(&seen.after_stop)
    );
    let holds = seen.cut_off_after_ms.is_some() && seen.after_stop.p99_ms <= TARGET_MS;
    report.line("one that stops reading", &figure, holds);
}

fn told(latency: &Latency) -> String {
    format!(
        "p50 {:.1} ms, p99 {:.1} ms, worst {:.1} ms of {}",
        latency.p50_ms, latency.p99_ms, latency.max_ms, latency.count
    )
}
