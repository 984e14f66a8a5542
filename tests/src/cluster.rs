//! A real cluster for one test: `maiactl cluster up` on free ports in a temporary folder, and
//! everything of it gone when the test ends, however it ends.
//!
//! ```text
//! test ── holds a pipe ──▶ guard (sh): sees the pipe close, runs `maiactl cluster down`
//!   └─ drop: kill -9 of the recorded pids, folder removed (kept, and named, when the test failed)
//! ```

mod clocks;
mod files;
mod guard;
mod ports;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

pub use clocks::Clocks;
pub use files::{Files, Region};

use crate::client::{Answer, Client, Request};
use crate::metrics::Metrics;
use crate::wait::wait_value;

/// How long the cluster may take for what it does in milliseconds when all is well.
pub const SOON: Duration = Duration::from_secs(20);

/// How a test wants its cluster.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Further arguments of `maiactl cluster up`.
    pub arguments: Vec<String>,
    /// The folder; a temporary one unless given.
    pub dir: Option<PathBuf>,
    /// The wall clocks of its coordinators can be set, where this machine lets us.
    pub with_clocks: bool,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    files: Files,
    pub client: Client,
    guard: guard::Guard,
    _ports: ports::Claim,
    temporary: Option<tempfile::TempDir>,
    clocks: Option<Clocks>,
}

impl Options {
    /// With one more argument of `maiactl cluster up`.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// With wall clocks that can be set.
    #[must_use]
    pub fn clocks(mut self) -> Self {
        self.with_clocks = true;
        self
    }

    /// With a configuration key set.
    #[must_use]
    pub fn set(self, key_value: &str) -> Self {
        self.argument("--set").argument(key_value)
    }
}

impl Cluster {
    /// Three regions with the defaults.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// A cluster as the test wants it.
    ///
    /// # Panics
    /// When it does not come up; with what maiactl said.
    pub async fn start_with(options: Options) -> Self {
        let temporary = options.dir.is_none().then(|| {
            tempfile::Builder::new()
                .prefix("maia-test-")
                .tempdir()
                .expect("a temporary folder")
        });
        let dir = options
            .dir
            .clone()
            .or_else(|| Some(temporary.as_ref()?.path().to_path_buf()));
        let dir = dir.expect("either given or temporary");
        let clocks = options.with_clocks.then(Clocks::prepare).flatten();
        for _ in 0..10 {
            let ports = ports::claim();
            let base = ports.base.to_string();
            let guard = guard::Guard::over(&dir);
            let mut arguments = vec!["cluster", "up", "--base-port", &base];
            arguments.extend(options.arguments.iter().map(String::as_str));
            let output = maiactl_of(&dir, clocks.as_ref(), &arguments).await;
            let complaint = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                let files = Files::read(&dir);
                let client = Client::default();
                return Self {
                    dir,
                    files,
                    client,
                    guard,
                    _ports: ports,
                    temporary,
                    clocks,
                };
            }
            // Somebody outside these tests took a port between our look and the start.
            assert!(complaint.contains("is taken"), "cluster up: {complaint}");
        }
        panic!("no free ports");
    }

    /// The cluster's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The regions, in the order of their priority.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.files.regions
    }

    /// One region.
    #[must_use]
    pub fn region(&self, i: usize) -> &Region {
        &self.files.regions[i]
    }

    /// The index of the region with this name.
    #[must_use]
    pub fn index_of(&self, name: &str) -> usize {
        let position = self
            .files
            .regions
            .iter()
            .position(|region| region.name == name);
        position.unwrap_or_else(|| panic!("no region {name}"))
    }

    /// A request to a coordinator's API, with the admin token.
    #[must_use]
    pub fn api(&self, i: usize, method: Method, path: &str) -> Request {
        Request::new(method, format!("{}{path}", self.region(i).api_url)).header(
            "authorization",
            format!("Bearer {}", self.files.admin_token),
        )
    }

    /// A GET of a coordinator's API whose answer is JSON.
    pub async fn api_get(&self, i: usize, path: &str) -> Value {
        let answer = self.client.send(&self.api(i, Method::GET, path)).await;
        answer.expect_success(path).json()
    }

    /// A request of a tenant through a region's proxy.
    #[must_use]
    pub fn through(&self, i: usize, tenant: &str, method: Method, path: &str) -> Request {
        Request::new(method, format!("{}{path}", self.region(i).proxy_url))
            .header("x-maia-tenant-id", tenant)
    }

    /// PUT of a placement at one coordinator, whatever the answer.
    pub async fn put_placement(&self, at: usize, tenant: &str, spec: &Value) -> Answer {
        let path = format!("/v1/placements/{tenant}");
        self.client
            .send(&self.api(at, Method::PUT, &path).json(spec))
            .await
    }

    /// Places a tenant and waits until every proxy knows and the group takes writes; returns the
    /// placement.
    pub async fn place(&self, tenant: &str, primary: usize, replicas: &[usize]) -> Value {
        let names: Vec<&str> = replicas
            .iter()
            .map(|i| self.region(*i).name.as_str())
            .collect();
        let spec = json!({"primary_region": self.region(primary).name, "replicas": names});
        let placement = wait_value(SOON, "a placement is accepted", || async {
            let answer = self.put_placement(0, tenant, &spec).await;
            (answer.status != 503).then(|| answer.expect_success("placement").json())
        })
        .await;
        self.in_force(tenant, &placement["version"]).await;
        let probe = self
            .through(primary, tenant, Method::PUT, "/v1/data/probe/0")
            .body("0");
        wait_value(SOON, "the group takes writes", || async {
            let answer = self.client.try_follow(&probe).await.ok()?;
            answer.is_success().then_some(())
        })
        .await;
        placement
    }

    /// Waits until every proxy explains the tenant's requests by this version.
    pub async fn in_force(&self, tenant: &str, version: &Value) {
        for i in 0..self.regions().len() {
            wait_value(SOON, "every proxy knows the placement", || async {
                let explained = self.explain(i, tenant, "GET", "/v1/data/a/b", None).await;
                files::has_version(&explained, version).then_some(())
            })
            .await;
        }
    }

    /// What a proxy would do with a request, and why.
    pub async fn explain(
        &self,
        i: usize,
        tenant: &str,
        method: &str,
        path: &str,
        preferred: Option<&str>,
    ) -> Value {
        let url = &self.region(i).proxy_admin_url;
        let mut query = format!("{url}/explain?tenant={tenant}&method={method}&path={path}");
        if let Some(region) = preferred {
            query = format!("{query}&preferred_region={region}");
        }
        self.client
            .send(&Request::new(Method::GET, query))
            .await
            .json()
    }

    /// cluster.json as it stands now: a restart writes new process ids.
    #[must_use]
    pub fn files_now(&self) -> Files {
        Files::read(&self.dir)
    }

    /// What a proxy counts; none while it does not answer.
    pub async fn try_proxy_metrics(&self, i: usize) -> Option<Metrics> {
        let url = format!("{}/metrics", self.region(i).proxy_admin_url);
        let request = Request::new(Method::GET, url);
        let answer = self.client.try_send(&request).await.ok()?;
        Some(Metrics::parse(&String::from_utf8_lossy(&answer.body)))
    }

    /// What a proxy says of its readiness, whatever the status.
    pub async fn proxy_readyz(&self, i: usize) -> Value {
        let url = format!("{}/readyz", self.region(i).proxy_admin_url);
        let request = Request::new(Method::GET, url);
        self.client.send(&request).await.json()
    }

    /// What a proxy counts.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn proxy_metrics(&self, i: usize) -> Metrics {
        let metrics = self.try_proxy_metrics(i).await;
        metrics.expect("the proxy's admin listener answers")
    }

    /// The region that leads a group now: as the coordinator says that knows the highest term. One
    /// that has just come back may still name the leader it knew.
    pub async fn leader_of(&self, group: &Value) -> usize {
        wait_value(SOON, "the group has a leader", || async {
            let mut newest = (0, None);
            for i in 0..self.regions().len() {
                let request = self.api(i, Method::GET, "/admin/replication/election");
                let Ok(answer) = self.client.try_send(&request).await else {
                    continue;
                };
                let answer = answer.json();
                let groups = answer["groups"].as_array();
                let found = groups.and_then(|all| all.iter().find(|g| g["group"] == *group));
                let Some(found) = found else { continue };
                let term = found["term"].as_u64().unwrap_or_default();
                if term > newest.0 {
                    newest = (term, found["region"].as_str().map(str::to_owned));
                }
            }
            newest.1.map(|name| self.index_of(&name))
        })
        .await
    }

    /// Runs maiactl on this cluster.
    pub async fn maiactl(&self, arguments: &[&str]) -> Output {
        maiactl_of(&self.dir, self.clocks.as_ref(), arguments).await
    }

    /// Runs maiactl on this cluster; panics unless it succeeds.
    pub async fn run(&self, arguments: &[&str]) -> String {
        let output = self.maiactl(arguments).await;
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "maiactl {arguments:?}: {complaint}"
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// kill -9 of a region's coordinator.
    pub async fn kill_coordinator(&self, i: usize) {
        self.run(&[
            "cluster",
            "kill",
            "--node",
            &self.region(i).coordinator_id.to_string(),
        ])
        .await;
    }

    /// Starts a region's coordinator again; returns when it is ready.
    pub async fn restart_coordinator(&self, i: usize) {
        let id = self.region(i).coordinator_id.to_string();
        self.run(&["cluster", "restart", "--node", &id]).await;
    }

    /// Whether the coordinators' wall clocks can be set.
    #[must_use]
    pub const fn has_clocks(&self) -> bool {
        self.clocks.is_some()
    }

    /// Sets the wall clock of a region's coordinator this far ahead of what is right, until it is set again.
    pub fn set_clock(&self, i: usize, ahead_ms: i64) {
        clocks::set(&self.region(i).dir, ahead_ms);
    }

    /// The log of a region's coordinator.
    #[must_use]
    pub fn coordinator_log(&self, i: usize) -> String {
        let path = self.region(i).dir.join("coordinator.log");
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    }

    /// The log of a region's proxy.
    #[must_use]
    pub fn proxy_log(&self, i: usize) -> String {
        let proxy = self.region(i).dir.with_file_name("proxy");
        let log = std::fs::read(proxy.join("proxy.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The cluster's processes with their states, as maiactl sees them.
    pub async fn status(&self) -> Value {
        let output = self
            .maiactl(&["cluster", "status", "--output", "json"])
            .await;
        serde_json::from_slice(&output.stdout).expect("status prints JSON")
    }

    /// The digests of a group's state on all nodes; none while a snapshot is just replacing one.
    pub async fn digests(&self, group: &Value) -> Option<Vec<Value>> {
        let path = format!("/admin/replication/digest?group={group}");
        let mut found = Vec::new();
        for i in 0..self.regions().len() {
            let answer = self.client.send(&self.api(i, Method::GET, &path)).await;
            if answer.status == 503 {
                return None;
            }
            found.push(answer.expect_success(&path).json());
        }
        Some(found)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        files::kill_all(&self.dir);
        self.guard.dismiss();
        if std::thread::panicking()
            && let Some(dir) = self.temporary.take()
        {
            // A test's output is where its reader looks.
            #[expect(clippy::print_stderr, reason = "for the reader of a failed test")]
            {
                eprintln!("the cluster's files are kept in {}", dir.keep().display());
            }
        }
    }
}

/// Runs maiactl on the cluster of a folder.
pub async fn maiactl(dir: &Path, arguments: &[&str]) -> Output {
    maiactl_of(dir, None, arguments).await
}

async fn maiactl_of(dir: &Path, clocks: Option<&Clocks>, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(binary("maiactl"));
    if let Some(clocks) = clocks {
        command.env("MAIA_BIN_DIR", clocks.bin());
    }
    command
        .args(arguments)
        .arg("--dir")
        .arg(dir)
        .env_remove("MAIA_API")
        .env_remove("MAIA_TOKEN")
        .stdin(Stdio::null())
        .output()
        .await
        .expect("maiactl starts")
}

/// Where the workspace's binaries are: beside this test's own, or in the target folder.
///
/// # Panics
/// When the workspace was not built: `cargo build --workspace --locked --release`.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let mut places: Vec<PathBuf> = Vec::new();
    places.extend(std::env::var_os("MAIA_BIN_DIR").map(PathBuf::from));
    if let Ok(own) = std::env::current_exe() {
        places.extend(own.ancestors().skip(1).take(2).map(Path::to_path_buf));
    }
    places.extend(std::env::var_os("CARGO_TARGET_DIR").map(|d| Path::new(&d).join("release")));
    let found = places
        .iter()
        .map(|place| place.join(name))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is in none of {places:?}: build the workspace first"))
}
