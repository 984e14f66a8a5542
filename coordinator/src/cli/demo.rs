//! `maiactl demo`: three regions on this machine, and the tour that shows what they are for. Each
//! step says what it does, what came back and how long it took; a step that does not hold ends
//! the tour with exit code 1. Whatever happens, what was started is stopped again, unless `--keep`.
//!
//! The steps are numbered as in the documentation; migration (5) joins when
//! it exists.

mod client;
mod cut_off;
mod failover;
mod reads;
mod steps;
mod story;

use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};

use super::args::{Demo, Global, Up};
use super::cluster::{self, ClusterFile};
use super::print;
use story::Story;

/// Where the demo's ports begin: not where a cluster of one's own does.
const DEFAULT_BASE_PORT: u16 = 17100;

/// Plays the tour.
///
/// # Errors
/// The first step that did not hold.
pub async fn run(global: &Global, demo: &Demo) -> anyhow::Result<()> {
    let temporary = match &global.dir {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("maia-demo-").tempdir()?),
    };
    let dir = match (&global.dir, &temporary) {
        (Some(dir), _) => dir.clone(),
        (None, Some(temporary)) => temporary.path().to_path_buf(),
        (None, None) => PathBuf::from("."),
    };
    let taken = ClusterFile::path(&dir).exists();
    anyhow::ensure!(
        !taken,
        "{} holds a cluster already: choose another --dir",
        dir.display()
    );
    let outcome = tokio::select! {
        outcome = tour(&dir, demo) => outcome,
        () = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    if demo.keep && outcome.is_ok() {
        if let Some(temporary) = temporary {
            drop(temporary.keep());
        }
        print::line(&format!(
            "\nit goes on; stop it with: maiactl cluster down --dir {}",
            dir.display()
        ));
        return outcome;
    }
    if ClusterFile::path(&dir).exists() {
        cluster::stop_all(&ClusterFile::read(&dir)?).await?;
        print::line("everything that was started is stopped");
    }
    if outcome.is_ok() {
        cluster::remove_files(&dir)?;
    } else if let Some(temporary) = temporary {
        print::complain(&format!("logs are in {}", temporary.keep().display()));
    }
    outcome
}

/// Ctrl-C, or a supervisor's SIGTERM.
async fn interrupted() {
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate => {}
    }
}

async fn tour(dir: &Path, demo: &Demo) -> anyhow::Result<()> {
    let mut story = Story::begin();
    story.step("1", "three regions, each with a coordinator and a proxy");
    let up = Up {
        base_port: Some(demo.base_port.unwrap_or(DEFAULT_BASE_PORT)),
        ..Up::default()
    };
    let cluster = cluster::up(dir, &up).await?;
    for region in &cluster.regions {
        let node = region.coordinator_id;
        story.tell(&format!(
            "{:<16} proxy {}  node {node}",
            region.name.as_str(),
            region.proxy_url
        ));
    }
    story.held();
    let tour = steps::Tour::new(cluster)?;
    tour.place(&mut story).await?;
    tour.misrouted_write(&mut story).await?;
    reads::play(&tour, &mut story).await?;
    let killed = failover::play(&tour, &mut story).await?;
    cut_off::play(&tour, dir, killed, &mut story).await?;
    links(&mut story, &tour, dir);
    Ok(())
}

fn links(story: &mut Story, tour: &steps::Tour, dir: &Path) {
    story.step(
        "8",
        "what to look at, and what to try (with --keep, while it runs)",
    );
    let region = tour.region(0);
    story.tell(&format!(
        "metrics    {}/metrics  {}/metrics",
        region.api_url, region.proxy_admin_url
    ));
    story.tell(&format!("topology   {}/topology", region.proxy_admin_url));
    let dir = dir.display();
    story.tell(&format!("groups     maiactl groups --dir {dir}"));
    story.tell(&format!(
        "why        maiactl tenant explain {} --dir {dir}",
        steps::GLOBAL
    ));
    story.tell(&format!("events     maiactl events --dir {dir}"));
    story.end();
}
