//! Step 7: the leader of a group with an async tenant loses its followers, goes on acknowledging for the
//! rest of its lease, and is stopped. The others go on without what only it had. When it comes
//! back, that goes to quarantine, and from there into the tenant's group of today.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use maia_common::metrics;
use reqwest::Method;
use serde_json::json;

use super::client::{self, Application};
use super::failover::{
    ATTEMPT_TIMEOUT, Acked, DEADLINE, PAUSE, leader, lost, reach, tell_lost, write,
};
use super::steps::{ASYNC, Tour, put_placement};
use super::story::{Story, ms};
use crate::cli::cluster::{self, ClusterFile};

/// Writes before the leader is alone.
const WARM_UP_WRITES: usize = 100;
const POLL: Duration = Duration::from_millis(100);

/// The cluster of the step: who is started again has another pid.
struct Cast<'a> {
    tour: &'a Tour,
    dir: &'a Path,
    leader: usize,
    others: [usize; 2],
}

/// Plays the step; `killed`: the region whose coordinator does not run since step 6.
///
/// # Errors
/// When nothing was acknowledged while the leader was alone, or something acknowledged is gone.
pub async fn play(tour: &Tour, dir: &Path, killed: usize, story: &mut Story) -> anyhow::Result<()> {
    story.step(
        "7",
        "an async leader is cut off, writes, and returns: what only it had is reconciled",
    );
    cluster::restart(dir, &id(tour, killed), true).await?;
    let spec = json!({
        "primary_region": tour.name(1), "mode": "global", "sync_mode": "async",
    });
    let placement = put_placement(&tour.api, ASYNC, &spec).await?;
    tour.in_force(ASYNC, &placement["version"]).await?;
    let group = &placement["group"];
    let leader = leader(tour, group).await?;
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    let cast = Cast {
        tour,
        dir,
        leader,
        others,
    };
    let acked = Acked::default();
    let alone = cast.cut_off(group, &acked).await?;
    let name = tour.name(leader);
    let (total, after) = {
        let acked = acked.borrow();
        let after = acked.iter().filter(|(began, _)| *began > alone).count();
        (acked.len(), after)
    };
    story.tell(&format!(
        "{name} leads; the two others are killed: it acknowledges {after} writes more until its lease ends, then is stopped"
    ));
    ensure!(after > 0, "nothing was acknowledged while it was alone");
    let resumed = cast.go_on_without().await?;
    story.tell(&format!(
        "the others start again, elect one of them, and take writes after {}",
        ms(resumed)
    ));
    let outcomes = cast.reconciled().await?;
    let outcomes: Vec<String> = outcomes.iter().map(|(k, n)| format!("{k} {n}")).collect();
    story.tell(&format!(
        "{name} is back; of the records that only it had, by last-write-wins: {}; in quarantine: 0",
        outcomes.join(", ")
    ));
    let application = Application::new(ASYNC, ATTEMPT_TIMEOUT)?;
    let proxy = &tour.region(others[0]).proxy_url;
    let lost = lost(&application, proxy, &acked).await?;
    tell_lost(story, total, &lost)?;
    story.held();
    Ok(())
}

fn id(tour: &Tour, region: usize) -> String {
    tour.region(region).coordinator_id.to_string()
}

impl Cast<'_> {
    /// The leader is written to while it loses its followers, and stopped once its lease is over.
    /// Returns since when it was alone.
    async fn cut_off(&self, group: &serde_json::Value, acked: &Acked) -> anyhow::Result<Instant> {
        let application = Application::new(ASYNC, ATTEMPT_TIMEOUT)?;
        let proxy = self.tour.region(self.leader).proxy_url.as_str();
        let cut = async {
            reach(acked, |acked| acked.len() >= WARM_UP_WRITES).await?;
            for other in self.others {
                let cluster = ClusterFile::read(self.dir)?;
                cluster::kill(&cluster, &id(self.tour, other)).await?;
            }
            let alone = Instant::now();
            self.lease_over(group).await?;
            let cluster = ClusterFile::read(self.dir)?;
            cluster::pause(&cluster, &id(self.tour, self.leader)).await?;
            anyhow::Ok(alone)
        };
        let writer = |name| write(&application, proxy, name, acked);
        tokio::select! {
            outcome = cut => outcome,
            _ = async { tokio::join!(writer("a"), writer("b"), writer("c"), writer("d")) } => {
                anyhow::bail!("the writers ended")
            }
        }
    }

    /// Waits until the leader says of itself that nobody hears it.
    async fn lease_over(&self, group: &serde_json::Value) -> anyhow::Result<()> {
        let api = self.tour.api.only(&self.tour.region(self.leader).api_url);
        let end = Instant::now() + DEADLINE;
        loop {
            let path = "/v1/replication/health";
            let health = api.call(Method::GET, path, &[], None).await?.body;
            let leaderless = health["leaderless"].as_array();
            if leaderless.is_some_and(|groups| groups.contains(group)) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "it still leads: {health}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The others start again; returns how long it took until they took a write.
    async fn go_on_without(&self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        for other in self.others {
            cluster::restart(self.dir, &id(self.tour, other), false).await?;
        }
        let application = Application::new(ASYNC, ATTEMPT_TIMEOUT)?;
        let proxy = &self.tour.region(self.others[0]).proxy_url;
        loop {
            let put = application.put(proxy, "/v1/data/notes/went-on", "1").await;
            if put.is_ok_and(|outcome| outcome.status.is_success()) {
                return Ok(began.elapsed());
            }
            ensure!(began.elapsed() < DEADLINE, "no write gets through");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The old leader goes on; returns what became of the records that it had to give up, once that is
    /// decided of all.
    async fn reconciled(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let region = self.tour.region(self.leader);
        let cluster = ClusterFile::read(self.dir)?;
        cluster::go_on(&cluster, &id(self.tour, self.leader))?;
        let api = self.tour.api.only(&region.api_url);
        let end = Instant::now() + DEADLINE;
        let mut before = BTreeMap::new();
        loop {
            // They are counted a moment after they are gone.
            tokio::time::sleep(POLL).await;
            let list = "/admin/replication/quarantine?limit=1";
            let left = api.call(Method::GET, list, &[], None).await?.body;
            let text = client::text(&format!("{}/metrics", region.api_url)).await;
            let text = text.unwrap_or_default();
            let outcomes = by_label(&text, metrics::REPLICATION_CONFLICTS.name, "outcome");
            let is_empty = left["entries"].as_array().is_some_and(Vec::is_empty);
            if is_empty && !outcomes.is_empty() && outcomes == before {
                return Ok(outcomes);
            }
            ensure!(Instant::now() < end, "left: {left}; decided: {outcomes:?}");
            before = outcomes;
        }
    }
}

/// The samples of a metric that are not zero, summed by one of its labels.
fn by_label(text: &str, name: &str, label: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for line in text.lines() {
        let Some((value, count)) = sample(line, name, label) else {
            continue;
        };
        if count > 0 {
            *sums.entry(value.to_owned()).or_default() += count;
        }
    }
    sums
}

fn sample<'a>(line: &'a str, name: &str, label: &str) -> Option<(&'a str, u64)> {
    let (labels, count) = line
        .strip_prefix(name)?
        .strip_prefix('{')?
        .split_once("} ")?;
    let mut labels = labels.split(',');
    let value = labels.find_map(|one| one.strip_prefix(label)?.strip_prefix("=\""))?;
    Some((value.trim_end_matches('"'), count.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_label() {
        let text = "# HELP m x\nm{a=\"1\",b=\"x\"} 2\nm{a=\"2\",b=\"x\"} 3\nm{a=\"1\",b=\"y\"} 0\nmm{b=\"x\"} 9";
        assert_eq!(
            by_label(text, "m", "b"),
            BTreeMap::from([("x".to_owned(), 5)])
        );
    }
}
