//! What the configuration consists of, with defaults; and the checks between its values.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use maia_common::ids::{NodeId, RegionName};
use maia_common::rpc::{Party, RpcSection};
use serde::{Deserialize, Serialize};

use crate::raft::Compression;

/// The whole configuration of one coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where this node keeps everything; one process at a time.
    pub dir: PathBuf,
    /// The secret that all processes of the cluster share.
    pub cluster_key_file: PathBuf,
    /// Which timeouts apply unless set one by one.
    #[serde(default)]
    pub preset: Preset,
    /// Who this is.
    pub node: NodeSection,
    /// Where it listens.
    pub listen: Listen,
    /// How it speaks gRPC with nodes and proxies.
    #[serde(default)]
    pub rpc: RpcSection,
    /// The cluster as it is first made; without effect afterwards.
    pub bootstrap: Bootstrap,
    /// Who may call the API.
    #[serde(default)]
    pub auth: Auth,
    /// Overrides of the preset.
    #[serde(default)]
    pub election: ElectionSection,
    /// Moves by priority.
    #[serde(default)]
    pub failover: Failover,
    /// Log retention.
    #[serde(default)]
    pub replication: Replication,
    /// Placement groups.
    #[serde(default)]
    pub groups: Groups,
    /// The databases' files.
    #[serde(default)]
    pub storage: Storage,
}

/// Who this node is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSection {
    /// Never used twice: a wiped disk needs a new id.
    pub id: NodeId,
    /// The region this node is in.
    pub region: RegionName,
}

/// Where the coordinator listens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// HTTP: admin and data API, metrics.
    pub api: SocketAddr,
    /// gRPC: other coordinators, and the proxies' feed.
    pub rpc: SocketAddr,
}

/// The first members: the same on every node of the cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// The cluster's regions.
    pub regions: Vec<InitialRegion>,
    /// The first voters of group 0.
    pub nodes: Vec<InitialNode>,
}

/// A region of a new cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitialRegion {
    /// Its name.
    pub name: RegionName,
    /// Where clients reach its proxies.
    pub public_url: String,
    /// Greater comes first at an election.
    #[serde(default)]
    pub priority: u32,
}

/// A node of a new cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitialNode {
    /// Its id.
    pub id: NodeId,
    /// Its region.
    pub region: RegionName,
    /// `host:port` of its gRPC listener.
    pub rpc_addr: String,
    /// URL of its HTTP API.
    pub api_url: String,
}

/// Who may call the API.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// Accepted bearer tokens, by their hash.
    #[serde(default)]
    pub tokens: Vec<Token>,
    /// Serves `/v1/data` without a token: for a cluster on one's own machine, whose proxies stand
    /// in front of a trusted network. Off unless set.
    #[serde(default)]
    pub anonymous_data: bool,
}

/// An accepted bearer token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// For logs.
    pub name: String,
    /// BLAKE3 of the token, in hex: the token itself is stored nowhere.
    pub blake3: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
}

/// What a token may do; `admin` includes the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Look at placements, health, events.
    Read,
    /// Read and write resources.
    Data,
    /// Change the cluster.
    Admin,
}

/// A named set of timeouts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// One site, tests, demo (the PRD's numbers).
    Lan,
    /// RTT up to 30 ms.
    Metro,
    /// RTT up to 200 ms: the production default.
    #[default]
    Wan,
}

impl Preset {
    fn numbers(self) -> (Election, Duration) {
        let ms = Duration::from_millis;
        let of = |heartbeat, min, max, leader| {
            let election = Election {
                heartbeat: ms(heartbeat),
                timeout_min: ms(min),
                timeout_max: ms(max),
            };
            (election, ms(leader))
        };
        match self {
            Preset::Lan => of(50, 150, 300, 1000),
            Preset::Metro => of(150, 750, 1500, 3000),
            Preset::Wan => of(500, 2000, 4000, 8000),
        }
    }
}

/// Overrides of the preset's election numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElectionSection {
    /// How often a leader proves that it lives.
    #[serde(default, with = "optional", skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Duration>,
    /// The shortest silence after which a follower campaigns.
    #[serde(default, with = "optional", skip_serializing_if = "Option::is_none")]
    pub timeout_min: Option<Duration>,
    /// The longest; also the leader's lease. The same on every node.
    #[serde(default, with = "optional", skip_serializing_if = "Option::is_none")]
    pub timeout_max: Option<Duration>,
}

/// The election numbers in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Election {
    /// How often a leader proves that it lives.
    pub heartbeat: Duration,
    /// The shortest silence after which a follower campaigns.
    pub timeout_min: Duration,
    /// The longest; also the leader's lease.
    pub timeout_max: Duration,
}

/// Moves by priority.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Failover {
    /// Moves leaders back to their home region by themselves.
    pub auto: bool,
    /// How long a home must have been healthy first.
    #[serde(with = "maia_common::duration::text")]
    pub stable_for: Duration,
    /// No second move of a group within this.
    #[serde(with = "maia_common::duration::text")]
    pub inhibit_window: Duration,
    /// A node whose wall clock is further than this from those of most members of a group does not
    /// lead it. Above what a round trip between regions can make uncertain.
    #[serde(with = "maia_common::duration::text")]
    pub max_clock_offset: Duration,
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            auto: true,
            stable_for: Duration::from_secs(10),
            inhibit_window: Duration::from_secs(60),
            max_clock_offset: Duration::from_millis(500),
        }
    }
}

/// Log retention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Replication {
    /// So many bytes of each group's log are kept at most, about, for followers that catch up and for
    /// streams of entries; twice as much while a follower that answers lacks some of it. Less where all
    /// logs together would have more than a quarter of the disk, and an eighth while less than twice
    /// `min_free_bytes` is free.
    pub retention_bytes: u64,
    /// Nothing older is kept; in a log of less than a quarter of `retention_bytes` nothing twice as old.
    #[serde(with = "maia_common::duration::text")]
    pub retention_age: Duration,
    /// Below this much free disk no write is accepted.
    pub min_free_bytes: u64,
    /// For how long the other copy of a group with two of them may not answer before its witness
    /// stands in for it and records have one copy; by default 1 s, 3 s or 8 s, by the preset.
    #[serde(with = "optional", skip_serializing_if = "Option::is_none")]
    pub replica_timeout: Option<Duration>,
}

impl Default for Replication {
    fn default() -> Self {
        Self {
            retention_bytes: 256 << 20,
            retention_age: Duration::from_secs(24 * 3600),
            min_free_bytes: 64 << 20,
            replica_timeout: None,
        }
    }
}

/// The databases' files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// `lz4` (default) or `none`; of files that are written after a restart with it.
    pub compression: Compression,
}

/// Placement groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Groups {
    /// How long a group has no placement before it is closed and its slot is free again.
    #[serde(with = "maia_common::duration::text")]
    pub collect_after: Duration,
}

impl Default for Groups {
    fn default() -> Self {
        Self {
            collect_after: Duration::from_secs(60),
        }
    }
}

impl Config {
    /// Whom this node's certificate must name.
    #[must_use]
    pub fn party(&self) -> Party {
        Party::Node(self.node.id)
    }

    /// The election numbers in force: the preset's, with the overrides.
    #[must_use]
    pub fn election(&self) -> Election {
        let (preset, _) = self.preset.numbers();
        let set = &self.election;
        Election {
            heartbeat: set.heartbeat.unwrap_or(preset.heartbeat),
            timeout_min: set.timeout_min.unwrap_or(preset.timeout_min),
            timeout_max: set.timeout_max.unwrap_or(preset.timeout_max),
        }
    }

    /// For how long a data follower may not answer before its group's witness runs free.
    #[must_use]
    pub fn replica_timeout(&self) -> Duration {
        let (_, leader_timeout) = self.preset.numbers();
        let set = self.replication.replica_timeout;
        set.unwrap_or(leader_timeout.max(self.election().timeout_max))
    }

    /// What is wrong between the values, as `key: sentence`; empty when all is well.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut demand = |holds: bool, text: &str| {
            if !holds {
                faults.push(text.to_owned());
            }
        };
        if let Err(fault) = self.rpc.files() {
            demand(false, &fault.to_string());
        }
        demand(self.node.id.get() > 0, "node.id: must be at least 1");
        self.times(&mut demand);
        demand(
            self.replication.retention_bytes >= maia_common::limits::MIN_RETENTION_BYTES,
            "replication.retention_bytes: must be at least 1000000",
        );
        demand(
            self.replication.retention_age >= maia_common::limits::MIN_RETENTION_AGE,
            "replication.retention_age: must be at least 1m",
        );
        demand(
            self.failover.max_clock_offset >= Duration::from_millis(1),
            "failover.max_clock_offset: must be at least 1ms",
        );
        demand(
            self.bootstrap.regions.len() <= maia_common::limits::MAX_REGIONS,
            "bootstrap.regions: more than a cluster may have",
        );
        demand(
            !self.bootstrap.nodes.is_empty(),
            "bootstrap.nodes: at least one",
        );
        demand(
            self.bootstrap.nodes.len() <= maia_common::limits::MAX_VOTERS,
            "bootstrap.nodes: more than group 0 may have voters",
        );
        demand(
            self.bootstrap
                .regions
                .iter()
                .any(|r| r.name == self.node.region),
            "node.region: not among bootstrap.regions",
        );
        for region in &self.bootstrap.regions {
            demand(
                is_public_url(&region.public_url),
                "bootstrap.regions.public_url: must be http://… or https://… without a query",
            );
        }
        for token in &self.auth.tokens {
            demand(
                token.blake3.len() == 64 && token.blake3.bytes().all(|b| b.is_ascii_hexdigit()),
                "auth.tokens.blake3: must be 64 hex digits",
            );
        }
        faults
    }

    /// What is wrong between the times of elections and those that depend on them.
    fn times(&self, demand: &mut impl FnMut(bool, &str)) {
        let election = self.election();
        demand(
            election.heartbeat >= Duration::from_millis(10),
            "election.heartbeat: must be at least 10ms",
        );
        demand(
            election.timeout_min >= election.heartbeat * 2,
            "election.timeout_min: must be at least twice election.heartbeat",
        );
        demand(
            election.timeout_max > election.timeout_min,
            "election.timeout_max: must be greater than election.timeout_min",
        );
        demand(
            self.replica_timeout() >= election.timeout_max,
            "replication.replica_timeout: must be at least election.timeout_max",
        );
        demand(
            self.groups.collect_after >= election.timeout_max,
            "groups.collect_after: must be at least election.timeout_max, so that a new group elects first",
        );
    }
}

/// Whether the text can stand before a path in a `Location`.
#[must_use]
pub fn is_public_url(text: &str) -> bool {
    text.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some()
            && uri.query().is_none()
    }) && !text.contains('#')
}

mod optional {
    //! An optional duration as text.
    use super::Duration;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "the shape that serde asks for")]
    pub fn serialize<S: Serializer>(value: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(duration) => s.serialize_str(&maia_common::duration::format(*duration)),
            None => s.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(d)?
            .map(|text| maia_common::duration::parse(&text).map_err(serde::de::Error::custom))
            .transpose()
    }
}
