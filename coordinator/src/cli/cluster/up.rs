//! `cluster up`: makes the folder a cluster if it is none yet, starts every process, and returns
//! when all are ready. What it started, it stops again when that fails.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use maia_common::ids::RegionName;

use super::file::{self, ClusterFile};
use super::process::State;
use super::{layout, lifecycle, ports, ready};
use crate::cli::Usage;
use crate::cli::args::Up;

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
    let _lock = file::lock(&dir)?;
    let mut cluster = if ClusterFile::path(&dir).exists() {
        continued(&dir, options)?
    } else {
        created(&dir, options)?
    };
    start_all(&dir, &mut cluster)?;
    let processes = cluster.processes();
    let outcome = tokio::select! {
        outcome = ready::wait(&processes, READY_DEADLINE) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    if let Err(error) = outcome {
        lifecycle::stop_all(&cluster).await?;
        return Err(error.context("the cluster did not come up, and was stopped again"));
    }
    Ok(cluster)
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

/// A stopped cluster with its data; it keeps its regions and ports.
fn continued(dir: &Path, options: &Up) -> anyhow::Result<ClusterFile> {
    let cluster = ClusterFile::read(dir)?;
    let running: Vec<String> = cluster
        .processes()
        .iter()
        .filter(|process| process.state() != State::Gone)
        .map(super::process::Process::name)
        .collect();
    anyhow::ensure!(
        running.is_empty(),
        "the cluster in {} runs already: {}; `cluster restart` starts a single node again",
        dir.display(),
        running.join(", ")
    );
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

fn refuse_taken_ports(cluster: &ClusterFile) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for region in &cluster.regions {
        let port = |url: &str| url.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        for (what, url) in [
            ("proxy", &region.proxy_url),
            ("proxy admin", &region.proxy_admin_url),
            ("api", &region.api_url),
            ("rpc", &region.rpc_addr),
        ] {
            let port = port(url).with_context(|| format!("no port in `{url}`"))?;
            all.push((format!("{what} of {}", region.name), port));
        }
    }
    if let Some((what, port)) = ports::taken(&all) {
        anyhow::bail!("port {port} ({what}) is taken: choose another --base-port");
    }
    Ok(())
}

/// Starts everything; the pids are on disk before anything is waited for.
fn start_all(dir: &Path, cluster: &mut ClusterFile) -> anyhow::Result<()> {
    for process in cluster.processes() {
        match process.start() {
            Ok(pid) => cluster.set_pid(&process, pid),
            Err(error) => {
                cluster.write(dir)?;
                for process in cluster.processes() {
                    process.signal(nix::sys::signal::Signal::SIGKILL)?;
                }
                return Err(error);
            }
        }
    }
    cluster.write(dir)
}
