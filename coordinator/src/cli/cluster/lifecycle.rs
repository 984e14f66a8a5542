//! What happens to the processes of a cluster after it is up: looked at, stopped, killed, paused,
//! started again.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use super::file::{self, ClusterFile};
use super::process::{Process, Role, State};
use super::ready::{self, Probe};
use crate::cli::NotWell;
use crate::cli::args::Output;
use crate::cli::print;

/// How long a process may take to drain after SIGTERM.
const DRAIN_DEADLINE: Duration = Duration::from_secs(15);
/// How long the kernel may take to end a killed process.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
const READY_DEADLINE: Duration = Duration::from_secs(60);

/// What a person wants to know of a cluster that just came up.
pub fn introduce(output: Output, dir: &Path, cluster: &ClusterFile) {
    if output == Output::Json {
        return print::json(&json!(cluster));
    }
    let rows: Vec<Vec<String>> = cluster
        .regions
        .iter()
        .map(|r| {
            let id = r.coordinator_id.to_string();
            vec![
                r.name.to_string(),
                r.proxy_url.clone(),
                r.api_url.clone(),
                id,
            ]
        })
        .collect();
    print::table(&["REGION", "PROXY", "API", "NODE"], &rows);
    let file = ClusterFile::path(dir);
    print::line(&format!(
        "\nready; URLs and the admin token are in {}",
        file.display()
    ));
    print::line(&format!(
        "stop it with: maiactl cluster down --dir {}",
        dir.display()
    ));
}

/// Who runs and is ready.
///
/// # Errors
/// [`NotWell`] when one is not.
pub async fn status(output: Output, cluster: &ClusterFile) -> anyhow::Result<()> {
    let probe = Probe::new()?;
    let mut rows = Vec::new();
    let mut well = true;
    for process in cluster.processes() {
        let state = process.state();
        let ready = match state {
            State::Running => probe.ask(&process).await,
            _ => Err("-".to_owned()),
        };
        well &= ready.is_ok();
        rows.push(json!({
            "id": process.id,
            "role": process.role.as_str(),
            "region": process.region,
            "pid": process.pid,
            "state": state.as_str(),
            "ready": ready.as_ref().map_or_else(String::as_str, |()| "yes"),
            "url": process.url,
        }));
    }
    let columns = [
        ("ID", "id"),
        ("ROLE", "role"),
        ("REGION", "region"),
        ("PID", "pid"),
        ("STATE", "state"),
        ("READY", "ready"),
        ("URL", "url"),
    ];
    print::objects(output, &json!({"processes": rows}), "processes", &columns);
    if well { Ok(()) } else { Err(NotWell.into()) }
}

/// Stops every process: proxies first, so that they drain while their origins still answer.
///
/// # Errors
/// When a process survives even SIGKILL.
pub async fn stop_all(cluster: &ClusterFile) -> anyhow::Result<()> {
    for role in [Role::Proxy, Role::Coordinator] {
        let all = cluster.processes();
        let of_role: Vec<&Process> = all.iter().filter(|p| p.role == role).collect();
        for process in &of_role {
            process.signal(Signal::SIGTERM)?;
            // A process that stands still would not see the SIGTERM.
            process.signal(Signal::SIGCONT)?;
        }
        for process in of_role {
            end(process).await?;
        }
    }
    Ok(())
}

/// Waits for the end of a process that was told to stop; kills it when that takes too long.
async fn end(process: &Process) -> anyhow::Result<()> {
    if process.wait_gone(DRAIN_DEADLINE).await {
        return Ok(());
    }
    print::complain(&format!("{} did not stop in time: killed", process.name()));
    process.signal(Signal::SIGKILL)?;
    let gone = process.wait_gone(KILL_DEADLINE).await;
    anyhow::ensure!(
        gone,
        "{} (pid {}) can't be killed",
        process.name(),
        process.pid
    );
    Ok(())
}

/// kill -9; returns when the process is gone.
///
/// # Errors
/// When it does not run.
pub async fn kill(cluster: &ClusterFile, id: &str) -> anyhow::Result<()> {
    let process = cluster.find(id)?;
    anyhow::ensure!(
        process.signal(Signal::SIGKILL)?,
        "{} does not run",
        process.name()
    );
    let gone = process.wait_gone(KILL_DEADLINE).await;
    anyhow::ensure!(
        gone,
        "{} (pid {}) can't be killed",
        process.name(),
        process.pid
    );
    Ok(())
}

/// SIGSTOP.
///
/// # Errors
/// When it does not run.
pub fn pause(cluster: &ClusterFile, id: &str) -> anyhow::Result<()> {
    let process = cluster.find(id)?;
    anyhow::ensure!(
        process.signal(Signal::SIGSTOP)?,
        "{} does not run",
        process.name()
    );
    Ok(())
}

/// SIGCONT.
///
/// # Errors
/// When it does not run.
pub fn go_on(cluster: &ClusterFile, id: &str) -> anyhow::Result<()> {
    let process = cluster.find(id)?;
    anyhow::ensure!(
        process.signal(Signal::SIGCONT)?,
        "{} does not run",
        process.name()
    );
    Ok(())
}

/// Starts a process again, stopping it first if it runs; its new pid is recorded before it is
/// waited for.
///
/// # Errors
/// When it does not start, or does not get ready and `wait` is asked for.
pub async fn restart(dir: &Path, id: &str, wait: bool) -> anyhow::Result<()> {
    let dir = dir.canonicalize()?;
    let mut process = {
        let _lock = file::lock(&dir)?;
        let mut cluster = ClusterFile::read(&dir)?;
        let process = cluster.find(id)?;
        if process.signal(Signal::SIGTERM)? {
            process.signal(Signal::SIGCONT)?;
            end(&process).await?;
        }
        let pid = process.start()?;
        cluster.set_pid(&process, pid);
        cluster.write(&dir)?;
        Process { pid, ..process }
    };
    if wait {
        ready::wait(std::slice::from_mut(&mut process), READY_DEADLINE).await?;
    }
    Ok(())
}
