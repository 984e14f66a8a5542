//! The proxy's configuration: a TOML file, then `MAIA_…` environment, then `--set key=value`;
//! read and checked as a whole before any port opens. Unknown keys are errors. Called by `main`
//! alone; what is checked here is trusted everywhere else.
//!
//! `MAIA_PROXY_HOLD_BUDGET` overrides `proxy.hold_budget`, `MAIA_REGION` overrides `region`, and
//! so on for each key of [`KEYS`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use maia_common::placement::WriteRouting;
use maia_common::rpc::{Party, RpcSection};
use maia_common::{ProxyId, RegionName, duration};
use serde::Deserialize;

mod check;
mod source;
mod unknown_tenant;

pub use check::OriginAddress;
pub use source::ConfigError;
pub use unknown_tenant::UnknownTenant;

/// The whole configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The stable id under which this proxy registers.
    pub id: ProxyId,
    /// The region it stands in.
    pub region: RegionName,
    /// Its files: the snapshot of the placements. Need not exist yet.
    pub dir: PathBuf,
    /// Threads that serve requests.
    #[serde(default = "default_threads")]
    pub threads: usize,
    /// The secret that all processes of the cluster share.
    pub cluster_key_file: PathBuf,
    /// Where it listens.
    pub listen: Listen,
    /// Whom it follows.
    pub feed: Feed,
    /// How it speaks gRPC with them.
    #[serde(default)]
    pub rpc: RpcSection,
    /// Whom it serves from.
    pub origin: Origin,
    /// How it treats requests.
    #[serde(default)]
    pub proxy: Proxy,
    /// How long it waits for what.
    #[serde(default)]
    pub timeouts: Timeouts,
}

/// `[listen]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Clients.
    pub public: SocketAddr,
    /// Health, metrics, explain: keep it on loopback.
    pub admin: SocketAddr,
    /// Connections of clients at once; further ones are closed unanswered.
    #[serde(default = "default_max_connections")]
    pub max_connections: u32,
}

/// `[feed]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feed {
    /// `host:port` of coordinators' gRPC listeners; one is followed, the others stand by.
    pub coordinators: Vec<String>,
}

/// `[origin]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// `http://host:port` of this region's origin.
    pub url: String,
}

/// `[proxy]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Proxy {
    /// For tenants that don't say. `forward` is redirected until forwarding exists.
    pub write_routing: WriteRouting,
    /// What happens to a write of a tenant without a placement.
    pub unknown_tenant: UnknownTenant,
    /// How many tenants are placed at their first write in a second; ten times as many at once.
    pub placings_per_second: u32,
    /// Whether all tenants are held, or those that are asked for.
    pub table: TableMode,
    /// How many are held at most in `on-demand` mode.
    pub table_max_tenants: u64,
    /// How long a write may wait for its primary (I11).
    #[serde(with = "duration::text")]
    pub hold_budget: Duration,
    /// How many may wait at once; further ones get `hold_queue_full`.
    pub hold_max_requests: u32,
    /// How often the placements are saved to disk, where they have changed.
    #[serde(with = "duration::text")]
    pub snapshot_every: Duration,
    /// The largest request body.
    pub max_body_bytes: u64,
    /// One JSON line per request on standard output.
    pub access_log: bool,
    /// Take HTTP/2 without TLS from clients that begin with its preface.
    pub h2c: bool,
}

/// Which tenants a proxy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TableMode {
    /// All.
    Full,
    /// Those that are asked for, looked up at a coordinator.
    OnDemand,
}

/// `[timeouts]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// From a request's first byte to the end of its header.
    #[serde(with = "duration::text")]
    pub header: Duration,
    /// Between two requests of one connection. Also closes idle HTTP/2 connections.
    #[serde(with = "duration::text")]
    pub idle: Duration,
    /// Between two pieces of a request's body.
    #[serde(with = "duration::text")]
    pub body_idle: Duration,
    /// For the whole body of a request.
    #[serde(with = "duration::text")]
    pub body_total: Duration,
    /// For a client to take a piece of the response.
    #[serde(with = "duration::text")]
    pub client_write: Duration,
    /// For the origin to accept a connection.
    #[serde(with = "duration::text")]
    pub origin_connect: Duration,
    /// For the origin's next piece of a response; also for its first.
    #[serde(with = "duration::text")]
    pub origin_read: Duration,
    /// For the origin to take a piece of a request.
    #[serde(with = "duration::text")]
    pub origin_write: Duration,
    /// How long an unused connection to the origin is kept; less than the origin keeps it.
    #[serde(with = "duration::text")]
    pub origin_idle: Duration,
    /// For a client that was answered early to stop sending.
    #[serde(with = "duration::text")]
    pub linger: Duration,
    /// For requests in flight after SIGTERM.
    #[serde(with = "duration::text")]
    pub drain: Duration,
}

fn default_threads() -> usize {
    1
}

fn default_max_connections() -> u32 {
    10_000
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            write_routing: WriteRouting::Redirect,
            unknown_tenant: UnknownTenant::Reject,
            placings_per_second: 10,
            table: TableMode::Full,
            table_max_tenants: 1_000_000,
            hold_budget: Duration::from_secs(5),
            hold_max_requests: 1024,
            snapshot_every: Duration::from_secs(30),
            max_body_bytes: 16 << 20,
            access_log: true,
            h2c: true,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            body_idle: Duration::from_secs(15),
            body_total: Duration::from_secs(120),
            client_write: Duration::from_secs(30),
            origin_connect: Duration::from_secs(1),
            // Above the coordinator's own deadline, so that its answer is the one that counts.
            origin_read: Duration::from_secs(15),
            origin_write: Duration::from_secs(15),
            origin_idle: Duration::from_secs(30),
            linger: Duration::from_secs(10),
            drain: Duration::from_secs(10),
        }
    }
}

/// Every key, as the file and `--set` name it.
pub const KEYS: &[&str] = &[
    "id",
    "region",
    "dir",
    "threads",
    "cluster_key_file",
    "rpc.plaintext",
    "rpc.ca_file",
    "rpc.certificate_file",
    "rpc.key_file",
    "listen.public",
    "listen.admin",
    "listen.max_connections",
    "feed.coordinators",
    "origin.url",
    "proxy.write_routing",
    "proxy.unknown_tenant",
    "proxy.placings_per_second",
    "proxy.table",
    "proxy.table_max_tenants",
    "proxy.hold_budget",
    "proxy.hold_max_requests",
    "proxy.snapshot_every",
    "proxy.max_body_bytes",
    "proxy.access_log",
    "proxy.h2c",
    "timeouts.header",
    "timeouts.idle",
    "timeouts.body_idle",
    "timeouts.body_total",
    "timeouts.client_write",
    "timeouts.origin_connect",
    "timeouts.origin_read",
    "timeouts.origin_write",
    "timeouts.origin_idle",
    "timeouts.linger",
    "timeouts.drain",
];

impl Config {
    /// Reads the file, lays environment and `set` (`key=value`) over it, and checks the whole.
    ///
    /// # Errors
    /// [`ConfigError`] names file and line, or the variable or flag, at fault.
    pub fn load(
        file: &Path,
        environment: impl Fn(&str) -> Option<String>,
        set: &[String],
    ) -> Result<Self, ConfigError> {
        let source = source::Source::read(file, environment, set)?;
        let config = source.parse()?;
        check::check(&config).map_err(|(key, message)| source.fault(key, message))?;
        Ok(config)
    }

    /// Whom this proxy's certificate must name.
    #[must_use]
    pub fn party(&self) -> Party {
        Party::Proxy(self.id.clone())
    }

    /// The origin's address, as [`Config::load`] has checked it.
    #[must_use]
    pub fn origin_address(&self) -> OriginAddress {
        OriginAddress::parse(&self.origin.url).expect("checked at load")
    }
}
