//! `cluster.json`: what a local cluster consists of. Scripts read it, so fields are only added.
//! Written atomically, readable by its owner alone because it holds the admin token.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use maia_common::ids::{NodeId, ProxyId, RegionName};
use serde::{Deserialize, Serialize};

use super::process::{Process, Role};
use crate::cli::Usage;

/// Longer than `down` takes when a process has to be killed.
const LOCK_DEADLINE: Duration = Duration::from_secs(60);
const LOCK_POLL: Duration = Duration::from_millis(20);

/// A local cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFile {
    pub admin_token: String,
    /// The cluster is being made: until all its processes were ready once, coordinators with blank
    /// disks may make it. Afterwards a blank disk is one that was lost.
    #[serde(default)]
    pub making: bool,
    pub regions: Vec<RegionEntry>,
}

/// One region of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionEntry {
    pub name: RegionName,
    pub proxy_url: String,
    pub proxy_admin_url: String,
    pub api_url: String,
    pub rpc_addr: String,
    pub coordinator_id: NodeId,
    /// 0 before the first start.
    pub coordinator_pid: u32,
    pub proxy_id: ProxyId,
    /// 0 before the first start.
    pub proxy_pid: u32,
    /// Holds all files of the region's coordinator; absolute.
    pub dir: PathBuf,
}

impl ClusterFile {
    /// The file's place in a cluster's folder.
    #[must_use]
    pub fn path(dir: &Path) -> PathBuf {
        dir.join("cluster.json")
    }

    /// Reads the cluster of a folder.
    ///
    /// # Errors
    /// A sentence with the file's name.
    pub fn read(dir: &Path) -> anyhow::Result<Self> {
        let path = Self::path(dir);
        let text = std::fs::read(&path).with_context(|| {
            format!(
                "no cluster in {}: can't read {}",
                dir.display(),
                path.display()
            )
        })?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }

    /// Writes it so that a reader sees the old or the new file, never a part.
    ///
    /// # Errors
    /// A sentence with the folder's name.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let place = || format!("can't write {}", Self::path(dir).display());
        // Temporary files are made with mode 0600, which the rename keeps.
        let mut file = tempfile::NamedTempFile::new_in(dir).with_context(place)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n").with_context(place)?;
        file.as_file().sync_all().with_context(place)?;
        file.persist(Self::path(dir)).with_context(place)?;
        Ok(())
    }

    /// All processes: coordinators first, each in the order of regions.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let coordinators = self.regions.iter().map(RegionEntry::coordinator);
        coordinators
            .chain(self.regions.iter().map(RegionEntry::proxy))
            .collect()
    }

    /// The process with this `coordinator_id` or `proxy_id`.
    ///
    /// # Errors
    /// [`Usage`] that names the ids there are.
    pub fn find(&self, id: &str) -> anyhow::Result<Process> {
        let all = self.processes();
        let ids: Vec<&str> = all.iter().map(|process| process.id.as_str()).collect();
        let text = format!("no node `{id}` here; there are {}", ids.join(", "));
        all.into_iter()
            .find(|process| process.id == id)
            .ok_or_else(|| Usage(text).into())
    }

    /// Records that a process was started.
    pub fn set_pid(&mut self, process: &Process, pid: u32) {
        for region in &mut self.regions {
            if region.name == process.region {
                match process.role {
                    Role::Coordinator => region.coordinator_pid = pid,
                    Role::Proxy => region.proxy_pid = pid,
                }
            }
        }
    }
}

impl RegionEntry {
    /// The region's coordinator as a process.
    #[must_use]
    pub fn coordinator(&self) -> Process {
        Process {
            id: self.coordinator_id.to_string(),
            role: Role::Coordinator,
            region: self.name.clone(),
            pid: self.coordinator_pid,
            config: self.dir.join("coordinator.toml"),
            log: self.dir.join("coordinator.log"),
            url: self.api_url.clone(),
        }
    }

    /// The region's proxy as a process.
    #[must_use]
    pub fn proxy(&self) -> Process {
        let dir = self.proxy_dir();
        Process {
            id: self.proxy_id.to_string(),
            role: Role::Proxy,
            region: self.name.clone(),
            pid: self.proxy_pid,
            config: dir.join("proxy.toml"),
            log: dir.join("proxy.log"),
            url: self.proxy_admin_url.clone(),
        }
    }

    /// Holds all files of the region's proxy.
    #[must_use]
    pub fn proxy_dir(&self) -> PathBuf {
        self.dir.with_file_name("proxy")
    }
}

/// Held while a command changes the cluster, so that two of them do not.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, never used")] File);

/// Takes the folder's lock; waits for it, since it is held only while processes are started, or
/// stopped by `down`.
///
/// # Errors
/// When another command holds it to the deadline.
pub async fn lock(dir: &Path) -> anyhow::Result<Lock> {
    lock_within(dir, LOCK_DEADLINE).await
}

async fn lock_within(dir: &Path, deadline: Duration) -> anyhow::Result<Lock> {
    let path = dir.join(".lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    let end = Instant::now() + deadline;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Lock(file)),
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                tokio::time::sleep(LOCK_POLL).await;
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "another maiactl is changing the cluster in {}",
                        dir.display()
                    )
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn sample(dir: &Path) -> ClusterFile {
        let region = RegionEntry {
            name: RegionName::new("eu").unwrap(),
            proxy_url: "http://127.0.0.1:1".into(),
            proxy_admin_url: "http://127.0.0.1:2".into(),
            api_url: "http://127.0.0.1:3".into(),
            rpc_addr: "127.0.0.1:4".into(),
            coordinator_id: NodeId::new(1),
            coordinator_pid: 0,
            proxy_id: ProxyId::new("proxy-eu").unwrap(),
            proxy_pid: 0,
            dir: dir.join("eu/coordinator"),
        };
        ClusterFile {
            admin_token: "t".into(),
            making: false,
            regions: vec![region],
        }
    }

    #[test]
    fn it_is_read_as_written_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = sample(dir.path());
        let proxy = cluster.find("proxy-eu").unwrap();
        cluster.set_pid(&proxy, 77);
        cluster.write(dir.path()).unwrap();
        assert_eq!(ClusterFile::read(dir.path()).unwrap(), cluster);
        assert_eq!(cluster.regions[0].proxy_pid, 77);
        let mode = std::fs::metadata(ClusterFile::path(dir.path()))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let json: serde_json::Value = serde_json::to_value(&cluster).unwrap();
        assert_eq!(json["regions"][0]["coordinator_id"], 1);
        // A file from before there was such a field is that of a cluster that was made.
        let mut old = json;
        old.as_object_mut().unwrap().remove("making");
        let old: ClusterFile = serde_json::from_value(old).unwrap();
        assert!(!old.making);
    }

    #[test]
    fn an_unknown_node_is_answered_with_the_known_ones() {
        let error = sample(Path::new("/x")).find("9").unwrap_err().to_string();
        assert!(error.contains("1, proxy-eu"), "{error}");
    }

    #[tokio::test]
    async fn one_command_at_a_time_and_the_next_one_waits() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).await.unwrap();
        let short = Duration::from_millis(50);
        let refused = lock_within(dir.path(), short).await.unwrap_err();
        assert!(refused.to_string().contains("another maiactl"));
        let release = async {
            tokio::time::sleep(short).await;
            drop(held);
        };
        let (next, ()) = tokio::join!(lock(dir.path()), release);
        assert!(next.is_ok());
    }
}
