//! The cluster of a fault run: three regions whose coordinators reach each other through relays, and
//! tenants of every sync mode.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::relay::Network;
use crate::cluster::SOON;
use crate::disk::SmallDisk;
use crate::{Client, Cluster, Options, wait_value};

/// Longer than most elections, shorter than most faults.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Of a region's ten ports: the relay in front of its coordinator.
const RELAY_OFFSET: u16 = 5;
/// Small, so that who was away for seconds needs a snapshot now and then.
const RETAINED: &str = "replication.retention_bytes=1000000";

/// For a node's databases and what a run leaves in them; sparse.
const DISK_MEGABYTES: u64 = 1024;

/// When a write is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    Async,
    SemiSync,
    Sync,
}

impl Mode {
    /// As the API names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Async => "async",
            Mode::SemiSync => "semi-sync",
            Mode::Sync => "sync",
        }
    }
}

/// A tenant under load.
#[derive(Debug, Clone)]
pub struct Tenant {
    pub name: String,
    pub mode: Mode,
    /// Home first.
    pub members: Vec<usize>,
    pub group: Json,
}

/// All that stands there for a run.
#[derive(Debug)]
pub struct Stage {
    pub cluster: Cluster,
    pub network: Network,
    pub client: Client,
    pub tenants: Vec<Tenant>,
    /// Of each node, where root may mount one. After the cluster: unmounted when nothing runs.
    pub disks: Vec<SmallDisk>,
}

/// (name, mode, members): three copies led from two regions, and two copies.
const TENANTS: [(&str, Mode, &[usize]); 8] = [
    ("async-1", Mode::Async, &[0, 1, 2]),
    ("semi-1", Mode::SemiSync, &[0, 1, 2]),
    ("sync-1", Mode::Sync, &[0, 1, 2]),
    ("async-2", Mode::Async, &[1, 0, 2]),
    ("semi-2", Mode::SemiSync, &[1, 0, 2]),
    ("sync-2", Mode::Sync, &[1, 0, 2]),
    ("async-3", Mode::Async, &[2, 0]),
    ("semi-3", Mode::SemiSync, &[2, 0]),
];

impl Stage {
    /// Starts the cluster and places the tenants.
    pub async fn start(options: Options) -> Self {
        let cluster = Cluster::start_with(options.set(RETAINED).clocks()).await;
        let disks: Option<Vec<SmallDisk>> = (cluster.regions().iter())
            .map(|_| SmallDisk::mount(DISK_MEGABYTES))
            .collect();
        let disks = disks.unwrap_or_default();
        let network = remade(&cluster, &disks).await;
        let mut stage = Self {
            cluster,
            network,
            client: Client::new(ATTEMPT_TIMEOUT),
            tenants: Vec::new(),
            disks,
        };
        for (name, mode, members) in TENANTS {
            let group = stage.place(name, mode, members).await;
            stage.tenants.push(Tenant {
                name: name.to_owned(),
                mode,
                members: members.to_vec(),
                group,
            });
        }
        stage
    }

    /// Ends the cluster's processes in order, so that all they have is on disk, and copies logs and databases to a
    /// folder that stays; returns which.
    pub async fn keep(&self) -> PathBuf {
        let ended = self.cluster.maiactl(&["cluster", "down"]).await;
        assert!(ended.status.success(), "cluster down: {ended:?}");
        let kept = self.cluster.dir().with_extension("kept");
        copy(self.cluster.dir(), &kept).await;
        for i in 0..self.cluster.regions().len() {
            copy(&self.data(i), &kept.join(format!("data-{}", i + 1))).await;
        }
        kept
    }

    /// Where a node's databases are.
    #[must_use]
    pub fn data(&self, node: usize) -> PathBuf {
        data(&self.cluster, &self.disks, node)
    }

    async fn place(&self, name: &str, mode: Mode, members: &[usize]) -> Json {
        let cluster = &self.cluster;
        let region = |i: &usize| cluster.region(*i).name.as_str();
        let replicas: Vec<&str> = members[1..].iter().map(region).collect();
        let spec = json!({
            "primary_region": region(&members[0]), "replicas": replicas, "sync_mode": mode.name(),
        });
        let placed = wait_value(SOON, "a placement is accepted", || async {
            let answer = cluster.put_placement(0, name, &spec).await;
            (answer.status != 503).then(|| answer.expect_success("placement").json())
        })
        .await;
        cluster.in_force(name, &placed["version"]).await;
        placed["group"].clone()
    }
}

fn data(cluster: &Cluster, disks: &[SmallDisk], node: usize) -> PathBuf {
    let own = cluster.region(node).dir.join("data");
    disks.get(node).map_or(own, |disk| disk.path().join("data"))
}

fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display())
}

fn port(address: &str) -> u16 {
    let port = address.rsplit_once(':').and_then(|(_, p)| p.parse().ok());
    port.expect("an address with a port")
}

fn edit(path: &Path, change: impl FnOnce(String) -> String) {
    let text = std::fs::read_to_string(path).expect("a file of the cluster");
    std::fs::write(path, change(text)).expect("a file of the cluster");
}

/// Makes the cluster anew, its nodes announcing their relays' addresses, on disks of their own.
async fn remade(cluster: &Cluster, disks: &[SmallDisk]) -> Network {
    cluster.run(&["cluster", "down"]).await;
    let behind: Vec<u16> = cluster
        .regions()
        .iter()
        .map(|r| port(&r.rpc_addr))
        .collect();
    // Ports 0 to 3 of each ten are taken; `rpc` is the last of them.
    let relays: Vec<u16> = behind.iter().map(|p| p - 3 + RELAY_OFFSET).collect();
    for (i, region) in cluster.regions().iter().enumerate() {
        let old = region.dir.join("data");
        edit(&region.dir.join("coordinator.toml"), |mut text| {
            for (own, relay) in behind.iter().zip(&relays) {
                let announced = |port: &u16| format!("rpc_addr = \"127.0.0.1:{port}\"");
                text = text.replace(&announced(own), &announced(relay));
            }
            text.replace(&quoted(&old), &quoted(&data(cluster, disks, i)))
        });
        std::fs::remove_dir_all(&old).expect("a folder to empty");
    }
    edit(&cluster.dir().join("cluster.json"), |text| {
        text.replace("\"making\": false", "\"making\": true")
    });
    let ports: Vec<(u16, u16)> = relays.into_iter().zip(behind).collect();
    let network = Network::start(cluster.dir().to_path_buf(), &ports).await;
    cluster.run(&["cluster", "up"]).await;
    network
}

async fn copy(from: &Path, to: &Path) {
    let copied = tokio::process::Command::new("cp")
        .arg("-a")
        .args([from, to])
        .status()
        .await;
    assert!(copied.expect("cp starts").success(), "to {}", to.display());
}
