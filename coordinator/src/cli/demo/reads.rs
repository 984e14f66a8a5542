//! Step 4: reads are served by the nearest copy, or where the client prefers; and one that follows a
//! write sees it, whichever copy serves it, when it gives the write's token back.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use maia_common::ids::RegionName;

use super::client::{Application, Outcome};
use super::steps::{GLOBAL, NOTE, PATH, POLL, REPLICATED, SOON, Tour};
use super::story::{Story, ms};

/// Writes in one region, each read in another at once.
const ROUNDS: usize = 50;

/// Plays the step.
///
/// # Errors
/// When a read is not served where it should be, or does not see what it must.
pub async fn play(tour: &Tour, story: &mut Story) -> anyhow::Result<()> {
    story.step(
        "4",
        "reads are served by the nearest copy, or where the client prefers; with a token they see one's own writes",
    );
    nearby(tour, story).await?;
    without_copy(tour, story).await?;
    own_writes(tour, story).await?;
    story.held();
    Ok(())
}

/// Reads where a copy is, without and with a preference.
async fn nearby(tour: &Tour, story: &Story) -> anyhow::Result<()> {
    let there = &tour.region(2).proxy_url;
    let application = Application::new(GLOBAL, SOON)?;
    let outcome = read(&application, there, tour.name(2)).await?;
    ensure!(
        outcome.hops.is_empty(),
        "a read next to a copy was redirected"
    );
    ensure!(
        !outcome.lag_ms.is_empty(),
        "a replica does not say how far it is behind"
    );
    story.tell(&format!(
        "GET {there}{PATH} for {GLOBAL}: {}, at most {} ms behind; {}",
        served(&outcome),
        outcome.lag_ms,
        ms(outcome.took)
    ));
    let preferred = tour.name(0);
    let outcome = read(&application.preferring(preferred), there, preferred).await?;
    let hop = outcome.hops.first();
    story.tell(&format!(
        "the same with X-MAIA-Preferred-Region: {preferred}: {}, then {}; {}",
        hop.map_or("no redirect", |hop| hop.reason.as_str()),
        served(&outcome),
        ms(outcome.took)
    ));
    Ok(())
}

/// A read in a region that has no copy.
async fn without_copy(tour: &Tour, story: &Story) -> anyhow::Result<()> {
    let there = &tour.region(2).proxy_url;
    let outcome = Application::new(REPLICATED, SOON)?.get(there, PATH).await?;
    ensure!(
        outcome.status.is_success(),
        "{} {}",
        outcome.status,
        outcome.body
    );
    let hop = outcome
        .hops
        .first()
        .context("a read without a copy nearby was not redirected")?;
    story.tell(&format!(
        "GET {there}{PATH} for {REPLICATED}: {}, then {}; {}",
        hop.reason,
        served(&outcome),
        ms(outcome.took)
    ));
    Ok(())
}

/// Each write is read at once in another region: there, and never older than the write.
async fn own_writes(tour: &Tour, story: &Story) -> anyhow::Result<()> {
    let (home, away) = (&tour.region(1).proxy_url, &tour.region(2).proxy_url);
    let application = Application::new(GLOBAL, SOON)?;
    let (mut early, mut slowest) = (0, Duration::ZERO);
    for round in 0..ROUNDS {
        let body = round.to_string();
        let path = "/v1/data/notes/own";
        let write = application.put(home, path, &body).await?;
        ensure!(
            write.status.is_success() && !write.token.is_empty(),
            "a write was answered {} with token `{}`",
            write.status,
            write.token
        );
        let after = application.clone().after(&write);
        // Without a token a read sees what the copy has just then.
        let (outcome, plain) = tokio::join!(after.get(away, path), application.get(away, path));
        early += usize::from(plain?.body != body);
        let outcome = outcome?;
        ensure!(
            outcome.status.is_success() && outcome.body == body,
            "a read with the token of `{body}` got {} `{}`",
            outcome.status,
            outcome.body
        );
        ensure!(
            outcome.hops.is_empty() && outcome.region == tour.name(2).as_str(),
            "a read with a token was served by `{}`",
            outcome.region
        );
        slowest = slowest.max(outcome.took);
    }
    story.tell(&format!(
        "{ROUNDS} writes by {}, each read at once in {}: with X-MAIA-Consistency-Token all {ROUNDS} saw their own \
         write, the slowest after {}; without it {early} came too early",
        tour.name(1),
        tour.name(2),
        ms(slowest)
    ));
    Ok(())
}

fn served(outcome: &Outcome) -> String {
    format!("{} by {}", outcome.status.as_u16(), outcome.region)
}

/// GET of the note until this region serves it: a copy may be a moment behind.
async fn read(
    application: &Application,
    proxy: &str,
    region: &RegionName,
) -> anyhow::Result<Outcome> {
    let end = Instant::now() + SOON;
    loop {
        let outcome = application.get(proxy, PATH).await?;
        if outcome.status.is_success() && outcome.body == NOTE {
            ensure!(
                outcome.region == region.as_str(),
                "served by `{}`",
                outcome.region
            );
            return Ok(outcome);
        }
        let late = Instant::now() >= end;
        ensure!(
            !late,
            "the note is not there: {} {}",
            outcome.status,
            outcome.body
        );
        tokio::time::sleep(POLL).await;
    }
}
