//! Step 6, in its simplest form: kill -9 of the leader of a group with three copies, under a small
//! load. Says how long it took to the next accepted write, and that nothing acknowledged is gone.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::client::Application;
use super::steps::{GLOBAL, Tour};
use super::story::{Story, ms};
use crate::cli::cluster;

/// How long one write may take before the application tries again.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const PAUSE: Duration = Duration::from_millis(2);
const POLL: Duration = Duration::from_millis(1);
/// Writes before the kill, and after it.
const WARM_UP_WRITES: usize = 100;
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// Every acknowledged write: when it began, and its resource.
pub(super) type Acked = RefCell<Vec<(Instant, String)>>;

/// Plays the step; returns the region whose coordinator was killed.
///
/// # Errors
/// When writes do not resume, or an acknowledged one is gone.
pub async fn play(tour: &Tour, story: &mut Story) -> anyhow::Result<usize> {
    story.step(
        "6",
        "kill -9 of a primary under load: writes go on elsewhere, nothing is lost",
    );
    let group = tour.api.get(&format!("/v1/placements/{GLOBAL}")).await?["group"].clone();
    let leader = leader(tour, &group).await?;
    // The application enters where the leader is not, as clients of a lost region would.
    let entry = if leader == 2 { 0 } else { 2 };
    let application = Application::new(GLOBAL, ATTEMPT_TIMEOUT)?;
    let acked = Acked::default();
    let kill_and_wait = async {
        reach(&acked, |acked| acked.len() >= WARM_UP_WRITES).await?;
        let killed = Instant::now();
        cluster::kill(
            &tour.cluster,
            &tour.region(leader).coordinator_id.to_string(),
        )
        .await?;
        reach(&acked, |acked| {
            acked.iter().any(|(began, _)| *began > killed)
        })
        .await?;
        let next = killed.elapsed();
        let before = acked.borrow().len();
        reach(&acked, |acked| acked.len() >= before + WARM_UP_WRITES).await?;
        anyhow::Ok(next)
    };
    let proxy = &tour.region(entry).proxy_url;
    let next = tokio::select! {
        outcome = kill_and_wait => outcome?,
        () = write(&application, proxy, "load", &acked) => Duration::ZERO,
    };
    let new_leader = tour.region(self::leader(tour, &group).await?);
    story.tell(&format!(
        "killed the coordinator of {}, which led the group",
        tour.region(leader).name
    ));
    story.tell(&format!(
        "new primary: {}; next accepted write after {}",
        new_leader.name,
        ms(next)
    ));
    let lost = lost(&application, proxy, &acked).await?;
    let total = acked.borrow().len();
    tell_lost(story, total, &lost)?;
    story.held();
    Ok(leader)
}

/// Writes for ever, each resource once; their ids begin with `name`.
pub(super) async fn write(application: &Application, proxy: &str, name: &str, acked: &Acked) {
    for n in 0u64.. {
        let id = format!("{name}-{n}");
        let began = Instant::now();
        let path = format!("/v1/data/notes/{id}");
        if let Ok(outcome) = application.put(proxy, &path, &format!("\"{id}\"")).await
            && outcome.status.is_success()
        {
            acked.borrow_mut().push((began, id));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until what was acknowledged is enough.
pub(super) async fn reach(
    acked: &Acked,
    goal: impl Fn(&[(Instant, String)]) -> bool,
) -> anyhow::Result<()> {
    let end = Instant::now() + DEADLINE;
    while !goal(&acked.borrow()) {
        ensure!(
            Instant::now() < end,
            "writes do not get through ({} did)",
            acked.borrow().len()
        );
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// The acknowledged writes that a read does not find, not even after a moment.
pub(super) async fn lost(
    application: &Application,
    proxy: &str,
    acked: &Acked,
) -> anyhow::Result<Vec<String>> {
    let ids: Vec<String> = acked.borrow().iter().map(|(_, id)| id.clone()).collect();
    let end = Instant::now() + DEADLINE;
    let mut lost = Vec::new();
    for id in ids {
        loop {
            let outcome = application
                .get(proxy, &format!("/v1/data/notes/{id}"))
                .await?;
            if outcome.status.is_success() && outcome.body == format!("\"{id}\"") {
                break;
            }
            // What is found nowhere costs the deadline once, not once each.
            if outcome.status.as_u16() == 404 && Instant::now() >= end {
                lost.push(id);
                break;
            }
            ensure!(
                Instant::now() < end + DEADLINE,
                "{} {}",
                outcome.status,
                outcome.body
            );
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(lost)
}

/// The region that leads the group now.
pub(super) async fn leader(tour: &Tour, group: &serde_json::Value) -> anyhow::Result<usize> {
    let end = Instant::now() + DEADLINE;
    loop {
        let answer = tour.api.get("/admin/replication/election").await?;
        let groups = answer["groups"]
            .as_array()
            .context("no groups in the answer")?;
        let found = groups.iter().find(|g| g["group"] == *group);
        let name = found.and_then(|g| g["region"].as_str());
        let regions = &tour.cluster.regions;
        if let Some(i) = regions.iter().position(|r| Some(r.name.as_str()) == name) {
            return Ok(i);
        }
        ensure!(
            Instant::now() < end,
            "group {group} has no leader: {answer}"
        );
        tokio::time::sleep(POLL).await;
    }
}

/// Says how many acknowledged writes there were, and fails if one of them is gone.
pub(super) fn tell_lost(story: &mut Story, total: usize, lost: &[String]) -> anyhow::Result<()> {
    story.tell(&format!(
        "{total} writes were acknowledged in all; lost: {}",
        lost.len()
    ));
    ensure!(
        lost.is_empty(),
        "acknowledged and gone: {}",
        lost.join(", ")
    );
    Ok(())
}
