//! cluster.json as a script would read it, and the end of the processes that it names.

use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::Value;

/// cluster.json.
#[derive(Debug, Clone, Deserialize)]
pub struct Files {
    pub admin_token: String,
    pub regions: Vec<Region>,
}

/// A region of it.
#[derive(Debug, Clone, Deserialize)]
pub struct Region {
    pub name: String,
    pub proxy_url: String,
    pub proxy_admin_url: String,
    pub api_url: String,
    pub rpc_addr: String,
    pub coordinator_id: u64,
    pub coordinator_pid: i32,
    pub proxy_id: String,
    pub proxy_pid: i32,
    pub dir: PathBuf,
}

impl Files {
    /// Reads the cluster of a folder.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn read(dir: &Path) -> Self {
        let text = std::fs::read(dir.join("cluster.json")).expect("cluster.json is there");
        serde_json::from_slice(&text).expect("cluster.json is as documented")
    }
}

/// kill -9 of all processes that the folder's cluster.json names now, if they are still those.
pub fn kill_all(dir: &Path) {
    if !dir.join("cluster.json").exists() {
        return;
    }
    for region in Files::read(dir).regions {
        let proxy = region.dir.with_file_name("proxy").join("proxy.toml");
        let processes = [
            (region.coordinator_pid, region.dir.join("coordinator.toml")),
            (region.proxy_pid, proxy),
        ];
        for (pid, config) in processes {
            if names(pid, &config) {
                // It may have ended by itself in this moment.
                let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// Whether the process's command line has this file in it.
fn names(pid: i32, config: &Path) -> bool {
    let config = config.as_os_str().as_encoded_bytes();
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.split(|byte| *byte == 0).any(|part| part == config))
}

/// Whether an explanation rests on this version of the placement.
#[must_use]
pub fn has_version(explained: &Value, version: &Value) -> bool {
    let facts = &explained["facts"];
    !version.is_null() && (facts["version"] == *version || explained["version"] == *version)
}
