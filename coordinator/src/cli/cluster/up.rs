//! `cluster up`: makes the folder a cluster if it is none yet, starts every process that does not
//! run, and returns when all are ready. What it started, it stops again when that fails.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use maia_common::ids::RegionName;
use nix::sys::signal::Signal;

use super::file::{self, ClusterFile};
use super::process::{Process, State};
use super::{layout, lifecycle, ports, ready};
use crate::cli::Usage;
use crate::cli::args::Up;
use crate::cli::print;

/// How long all processes together may take until they are ready.
const READY_DEADLINE: Duration = Duration::from_secs(60);
const DEFAULT_REGIONS: [&str; 3] = ["us-west-1", "eu-central-1", "ap-southeast-1"];

/// Makes or continues the cluster of this folder.
///
/// # Errors
/// A taken port, a running cluster, a configuration that is at fault, or who did not get ready.
pub async fn up(dir: &Path, options: &Up) -> anyhow::Result<ClusterFile> {
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let dir = dir.canonicalize()?;
    let (cluster, started) = begin(&dir, options).await?;
    let processes = cluster.processes();
    let outcome = tokio::select! {
        outcome = ready::wait(&processes, READY_DEADLINE) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    if let Err(error) = outcome {
        lifecycle::stop_each(&started).await?;
        return Err(error.context("the cluster did not come up; what was started is stopped again"));
    }
    if cluster.making {
        return made(&dir).await;
    }
    Ok(cluster)
}

/// Notes that the cluster is made: from now on a blank disk is one that was lost.
async fn made(dir: &Path) -> anyhow::Result<ClusterFile> {
    let _lock = file::lock(dir).await?;
    // Another command may have changed it while the processes got ready.
    let mut cluster = ClusterFile::read(dir)?;
    cluster.making = false;
    cluster.write(dir)?;
    Ok(cluster)
}

/// Starts what is missing; the cluster's lock is held no longer than that.
async fn begin(dir: &Path, options: &Up) -> anyhow::Result<(ClusterFile, Vec<Process>)> {
    let _lock = file::lock(dir).await?;
    let mut cluster = if ClusterFile::path(dir).exists() {
        continued(dir, options)?
    } else {
        created(dir, options)?
    };
    let started = start_missing(dir, &mut cluster)?;
    Ok((cluster, started))
}

fn created(dir: &Path, options: &Up) -> anyhow::Result<ClusterFile> {
    let regions = if options.regions.is_empty() {
        DEFAULT_REGIONS
            .map(RegionName::new)
            .into_iter()
            .collect::<Result<_, _>>()?
    } else {
        options.regions.clone()
    };
    let base = options.base_port.unwrap_or(ports::DEFAULT_BASE);
    let cluster = layout::plan(dir, &regions, base)?;
    refuse_taken_ports(&cluster)?;
    layout::create(dir, &cluster, options)?;
    Ok(cluster)
}

/// A cluster with its data of which all, or some, processes are gone; it keeps its regions and
/// ports.
fn continued(dir: &Path, options: &Up) -> anyhow::Result<ClusterFile> {
    let cluster = ClusterFile::read(dir)?;
    if let Some(running) = running(dir, &cluster)? {
        if options.changes_files() {
            let text = format!(
                "{running} already: options change files of stopped clusters only (`cluster down`)"
            );
            return Err(Usage(text).into());
        }
        print::complain(&format!("{running} already: starting the others"));
    }
    if options.plaintext {
        let text = "--plaintext is for a new cluster; this one's files say how it speaks";
        return Err(Usage(text.to_owned()).into());
    }
    let names: Vec<RegionName> = cluster.regions.iter().map(|r| r.name.clone()).collect();
    if !options.regions.is_empty() && options.regions != names {
        return Err(Usage("this cluster has other regions; use another --dir".to_owned()).into());
    }
    let base = options.base_port.and_then(|base| ports::Ports::of(base, 0));
    if base.is_some_and(|p| {
        !cluster.regions[0]
            .proxy_url
            .ends_with(&format!(":{}", p.proxy))
    }) {
        return Err(Usage("this cluster has other ports; use another --dir".to_owned()).into());
    }
    refuse_taken_ports(&cluster)?;
    layout::change(&cluster, options)?;
    Ok(cluster)
}

/// What runs of a cluster that does not run as a whole; `None`: nothing.
fn running(dir: &Path, cluster: &ClusterFile) -> anyhow::Result<Option<String>> {
    let all = cluster.processes();
    let named = |wanted: &[State]| {
        let found = all.iter().filter(|p| wanted.contains(&p.state()));
        found.map(Process::name).collect::<Vec<_>>()
    };
    let running = named(&[State::Running, State::Stopped]);
    // An `up` that was cut short before it saw them ready goes on here.
    anyhow::ensure!(
        running.len() < all.len() || cluster.making,
        "the cluster in {} runs already: {}; `cluster restart` starts a single node again",
        dir.display(),
        running.join(", ")
    );
    let stopped = named(&[State::Stopped]);
    anyhow::ensure!(
        stopped.is_empty(),
        "{} stopped by SIGSTOP: `cluster cont` lets it go on, `cluster kill` ends it",
        stopped.join(", ")
    );
    Ok((!running.is_empty()).then(|| format!("{} run", running.join(", "))))
}

/// Of the processes that are to be started.
fn refuse_taken_ports(cluster: &ClusterFile) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for region in &cluster.regions {
        let port = |url: &str| url.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        for (process, what, url) in [
            (region.proxy(), "proxy", &region.proxy_url),
            (region.proxy(), "proxy admin", &region.proxy_admin_url),
            (region.coordinator(), "api", &region.api_url),
            (region.coordinator(), "rpc", &region.rpc_addr),
        ] {
            if process.state() == State::Gone {
                let port = port(url).with_context(|| format!("no port in `{url}`"))?;
                all.push((format!("{what} of {}", region.name), port));
            }
        }
    }
    if let Some((what, port)) = ports::taken(&all) {
        anyhow::bail!("port {port} ({what}) is taken: choose another --base-port");
    }
    Ok(())
}

/// Starts what does not run; the pids are on disk before anything is waited for.
fn start_missing(dir: &Path, cluster: &mut ClusterFile) -> anyhow::Result<Vec<Process>> {
    let mut started: Vec<Process> = Vec::new();
    for process in cluster.processes() {
        if process.state() != State::Gone {
            continue;
        }
        match process.start(cluster.making) {
            Ok(pid) => {
                cluster.set_pid(&process, pid);
                started.push(Process { pid, ..process });
            }
            Err(error) => {
                cluster.write(dir)?;
                for process in started {
                    process.signal(Signal::SIGKILL)?;
                }
                return Err(error);
            }
        }
    }
    cluster.write(dir)?;
    Ok(started)
}
