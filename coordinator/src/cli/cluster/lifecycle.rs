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
    stop_each(&cluster.processes()).await
}

/// As [`stop_all`], of some of the processes.
///
/// # Errors
/// When a process survives even SIGKILL.
pub async fn stop_each(processes: &[Process]) -> anyhow::Result<()> {
    for role in [Role::Proxy, Role::Coordinator] {
        let of_role: Vec<&Process> = processes.iter().filter(|p| p.role == role).collect();
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

/// SIGSTOP; returns when the process stands still.
///
/// # Errors
/// When it does not run, or ends meanwhile.
pub async fn pause(cluster: &ClusterFile, id: &str) -> anyhow::Result<()> {
    let process = cluster.find(id)?;
    anyhow::ensure!(
        process.signal(Signal::SIGSTOP)?,
        "{} does not run",
        process.name()
    );
    let still = process.wait_stopped(KILL_DEADLINE).await;
    anyhow::ensure!(still, "{} does not stand still", process.name());
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
/// waited for. The cluster's lock is held neither while it stops nor while it gets ready: after an
/// outage several are restarted at once, and none of them is ready before a majority runs.
///
/// # Errors
/// When it does not start, or does not get ready and `wait` is asked for.
pub async fn restart(dir: &Path, id: &str, wait: bool) -> anyhow::Result<()> {
    let dir = dir.canonicalize()?;
    let running = ClusterFile::read(&dir)?.find(id)?;
    stop_each(std::slice::from_ref(&running)).await?;
    let (cluster, process) = {
        let _lock = file::lock(&dir).await?;
        let mut cluster = ClusterFile::read(&dir)?;
        let process = cluster.find(id)?;
        stop_each(std::slice::from_ref(&process)).await?; // another restart was quicker
        let pid = process.start(cluster.making)?;
        cluster.set_pid(&process, pid);
        cluster.write(&dir)?;
        (cluster, Process { pid, ..process })
    };
    if !wait {
        return Ok(());
    }
    if let Some(what) = hindrance(&cluster.processes()) {
        print::complain(&format!("waiting for {}: {what}", process.name()));
    }
    let outcome = ready::wait(std::slice::from_ref(&process), READY_DEADLINE).await;
    outcome.map_err(
        |error| match ClusterFile::read(&dir).map(|c| hindrance(&c.processes())) {
            Ok(Some(what)) => error.context(what),
            _ => error,
        },
    )
}

/// Why nothing of the cluster can get ready now, and what to do: too few coordinators run.
fn hindrance(processes: &[Process]) -> Option<String> {
    let of_role = |p: &&Process| p.role == Role::Coordinator;
    let coordinators = processes.iter().filter(of_role);
    let idle: Vec<(String, State)> = coordinators
        .clone()
        .map(|p| (p.name(), p.state()))
        .filter(|(_, state)| *state != State::Running)
        .collect();
    let count = coordinators.count();
    too_few(count, &idle)
}

fn too_few(count: usize, idle: &[(String, State)]) -> Option<String> {
    let majority = count / 2 + 1;
    if count - idle.len() >= majority {
        return None;
    }
    let idle: Vec<String> = idle
        .iter()
        .map(|(name, state)| format!("{name} is {}", state.as_str()))
        .collect();
    Some(format!(
        "nothing gets ready before {majority} of {count} coordinators run, and {}; \
         `maiactl cluster up` starts all that are gone",
        idle.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_majority_is_named_with_those_who_are_missing() {
        let idle = |name: &str, state| (name.to_owned(), state);
        let one = [idle("coordinator 2 (eu)", State::Gone)];
        assert_eq!(too_few(3, &one), None);
        assert_eq!(too_few(1, &[]), None);
        let two = [one[0].clone(), idle("coordinator 3 (ap)", State::Stopped)];
        let said = too_few(3, &two).unwrap();
        for part in [
            "2 of 3",
            "coordinator 2 (eu) is gone",
            "(ap) is stopped",
            "cluster up",
        ] {
            assert!(said.contains(part), "{said}");
        }
        assert!(too_few(2, &one).is_some(), "two regions need both");
    }
}
