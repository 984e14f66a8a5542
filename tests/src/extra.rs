//! A coordinator beyond those of `maiactl cluster up`, as an operator would start one: a
//! configuration beside the others' that names them, its own folder, id and ports. Gone when dropped,
//! or when the test's process ends in any other way.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use maia_common::ids::NodeId;
use maia_common::rpc::Party;
use reqwest::Method;
use serde_json::Value;

use crate::certificates::issue;
use crate::client::Request;
use crate::cluster::{Cluster, SOON, binary};
use crate::wait::wait_value;

/// A further coordinator.
#[derive(Debug)]
pub struct Extra {
    pub id: u64,
    pub region: String,
    pub api_url: String,
    pub rpc_addr: String,
    dir: PathBuf,
    running: Option<(Child, Child)>,
}

impl Extra {
    /// Writes the configuration of a coordinator with this id in a region; nothing runs yet. `slot`
    /// sets the ports of several apart.
    ///
    /// # Panics
    /// When the files can't be written.
    #[must_use]
    pub fn new(cluster: &Cluster, id: u64, region: usize, slot: u16) -> Self {
        let port = |address: &str| -> u16 {
            let port = address
                .rsplit_once(':')
                .and_then(|(_, port)| port.parse().ok());
            port.expect("an address with a port")
        };
        // Each region leaves six of its ten ports.
        let first = port(&cluster.region(0).rpc_addr) + 2 + 10 * slot;
        let extra = Self {
            id,
            region: cluster.region(region).name.clone(),
            api_url: format!("http://127.0.0.1:{first}"),
            rpc_addr: format!("127.0.0.1:{}", first + 1),
            dir: cluster.dir().join(format!("extra-{id}-{slot}")),
            running: None,
        };
        std::fs::create_dir_all(&extra.dir).expect("a folder");
        let party = Party::Node(NodeId::new(id));
        if cluster.ca().exists() {
            let _files = issue(&cluster.ca(), &[party], &extra.dir, 365);
        }
        let model = cluster.region(region).dir.join("coordinator.toml");
        let model = std::fs::read_to_string(model).expect("the region's configuration");
        let text = extra.configuration(&model);
        std::fs::write(extra.dir.join("coordinator.toml"), text).expect("a configuration");
        extra
    }

    /// In another region than those of `cluster up`.
    ///
    /// # Panics
    /// When the files can't be written.
    #[must_use]
    pub fn elsewhere(mut self, region: &str) -> Self {
        let path = self.dir.join("coordinator.toml");
        let text = std::fs::read_to_string(&path).expect("the configuration");
        // It knows the new region instead of the one that it was modelled on.
        let mut section = "";
        let mut lines = Vec::new();
        let old = format!("{:?}", self.region);
        for line in text.lines() {
            if line.starts_with('[') {
                section = line;
            }
            let is_own = matches!(section, "[node]" | "[[bootstrap.regions]]");
            let replaced = is_own && line.ends_with(&old);
            lines.push(if replaced {
                line.replace(&old, &format!("{region:?}"))
            } else {
                line.to_owned()
            });
        }
        std::fs::write(path, lines.join("\n")).expect("a configuration");
        region.clone_into(&mut self.region);
        self
    }

    /// A request to its API, with the cluster's admin token.
    #[must_use]
    pub fn api(&self, cluster: &Cluster, method: Method, path: &str) -> Request {
        let url = format!("{}{path}", self.api_url);
        Request {
            url,
            ..cluster.api(0, method, path)
        }
    }

    fn configuration(&self, model: &str) -> String {
        let mut section = "";
        let mut lines = Vec::new();
        for line in model.lines() {
            if line.starts_with('[') {
                section = line;
            }
            let key = line.split_once(" = ").map_or("", |(key, _)| key);
            lines.push(match (section, key) {
                ("", "dir") => format!("dir = {:?}", self.data().display().to_string()),
                ("[node]", "id") => format!("id = {}", self.id),
                ("[listen]", "api") => {
                    let address = self.api_url.trim_start_matches("http://");
                    format!("api = {address:?}")
                }
                ("[rpc]", "certificate_file" | "key_file") => {
                    let ending = if key == "key_file" { "key" } else { "pem" };
                    let path = self.dir.join(format!("node-{}.{ending}", self.id));
                    format!("{key} = {:?}", path.display().to_string())
                }
                ("[listen]", "rpc") => format!("rpc = {:?}", self.rpc_addr),
                _ => line.to_owned(),
            });
        }
        lines.join("\n")
    }

    /// Where it keeps its data.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Starts it; it is not ready yet.
    ///
    /// # Panics
    /// When it does not start, or runs.
    pub fn start(&mut self) {
        assert!(self.running.is_none(), "it runs");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("coordinator.log"))
            .expect("a log");
        let child = Command::new(binary("maia-coordinator"))
            .arg("--config")
            .arg(self.dir.join("coordinator.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a handle"))
            .stderr(log)
            .spawn()
            .expect("it starts");
        let guard = Command::new("sh")
            .args(["-c", "cat >/dev/null; kill -9 \"$0\" 2>/dev/null"])
            .arg(child.id().to_string())
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh starts");
        self.running = Some((child, guard));
    }

    /// kill -9, if it runs.
    pub fn kill(&mut self) {
        if let Some((mut child, mut guard)) = self.running.take() {
            // The guard first: the pid is ours until the child is waited for.
            drop(guard.stdin.take());
            drop(guard.wait());
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Waits until the process has ended by itself; returns its exit code.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ended(&mut self) -> Option<i32> {
        let child = &mut self.running.as_mut().expect("it was started").0;
        let end = std::time::Instant::now() + SOON;
        loop {
            if let Some(status) = child.try_wait().expect("a child of ours") {
                return status.code();
            }
            assert!(std::time::Instant::now() < end, "it does not end");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// What it says of its readiness; null while it does not answer.
    pub async fn readiness(&self, cluster: &Cluster) -> Value {
        let request = Request::new(Method::GET, format!("{}/readyz", self.api_url));
        let answer = cluster.client.try_send(&request).await;
        answer.map_or(Value::Null, |answer| answer.json())
    }

    /// Waits until it is ready.
    pub async fn ready(&self, cluster: &Cluster) {
        wait_value(SOON, "the new coordinator is ready", || async {
            (self.readiness(cluster).await["ready"] == true).then_some(())
        })
        .await;
    }

    /// `maiactl node add` for it, with more arguments.
    pub async fn add(&self, cluster: &Cluster, more: &[&str]) -> std::process::Output {
        let id = self.id.to_string();
        let mut arguments = vec![
            "node",
            "add",
            "--id",
            &id,
            "--region",
            &self.region,
            "--rpc-addr",
            &self.rpc_addr,
            "--api-url",
            &self.api_url,
        ];
        arguments.extend(more);
        cluster.maiactl(&arguments).await
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> String {
        let log = std::fs::read(self.dir.join("coordinator.log"));
        String::from_utf8_lossy(&log.unwrap_or_default()).into_owned()
    }
}

impl Drop for Extra {
    fn drop(&mut self) {
        self.kill();
    }
}
