//! The HTTP API: placements, data, replication, cluster. Everything but `/livez`, `/readyz` and
//! `/metrics` needs a bearer token; every error is a problem document with a stable code. Handlers
//! read the request, call a service of `shell/`, and write the answer: no decisions here.

mod admin;
mod append;
mod auth;
mod data;
mod digest;
mod entries;
mod extract;
mod health;
mod latches;
mod metrics;
mod nodes;
mod openapi;
mod placements;
mod problem;
mod proxies;
mod quarantine;
mod regions;
mod replication;
mod router;

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use maia_common::ids::{NodeId, RegionName};
use maia_common::limits;
use maia_common::rpc::Rpc;
use maia_common::runtime::Gate;

use crate::config::Auth;
use crate::feed::Hub;
use crate::metastore::Metastore;
use crate::raft::Engine;
use crate::shell::clock_watch::Offsets;
use crate::shell::cluster::Cluster;
use crate::shell::data::DataService;
use crate::shell::nodes::Nodes;
use crate::shell::placements::Placements;
use crate::shell::proxies::Proxies;
use crate::shell::quarantine::QuarantineService;
use crate::shell::regions::Regions;
use crate::shell::streams::Streams;
use crate::shell::vitals::Vitals;

pub use latches::Latches;
pub use router::router;

/// What the API stands on.
pub struct Parts {
    /// This node and its region.
    pub me: (NodeId, RegionName),
    /// Who may call.
    pub auth: Auth,
    /// Placements.
    pub placements: Placements,
    /// Regions.
    pub regions: Regions,
    /// Coordinators.
    pub nodes: Nodes,
    /// The built-in origin.
    pub data: DataService,
    /// Streams of entries.
    pub streams: Streams,
    /// What this node's logs lost before it was known to be committed.
    pub quarantine: QuarantineService,
    /// For states of groups.
    pub engine: Arc<Engine>,
    /// For events.
    pub store: Arc<dyn Metastore>,
    /// For regions, nodes and groups.
    pub cluster: Cluster,
    /// For what the feed counts.
    pub hub: Arc<Hub>,
    /// Registered proxies.
    pub proxies: Proxies,
    /// For when its certificates expire.
    pub rpc: Rpc,
    /// For rates and lags.
    pub vitals: Arc<ArcSwap<Vitals>>,
    /// How far the clocks of other nodes are from this one's.
    pub offsets: Offsets,
    /// A member that did not answer for longer is taken for unreachable.
    pub replica_silence: Duration,
    /// Where the log's files are.
    pub log_dir: PathBuf,
}

/// The API's state. Cheap to clone, which every layer does with every request.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

/// What all clones share.
pub struct Inner {
    parts: Parts,
    auth: auth::Tokens,
    /// The OpenAPI document; the router puts it here.
    document: OnceLock<String>,
    /// Which parts of the node are ready.
    pub latches: Latches,
    /// Bounds the requests in flight, and drains them at the end.
    pub gate: Gate,
}

impl Deref for Api {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Api {
    /// The API over these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let auth = auth::Tokens::new(&parts.auth);
        let gate = Gate::new(u32::try_from(limits::MAX_API_IN_FLIGHT).unwrap_or(u32::MAX));
        Self(Arc::new(Inner {
            parts,
            auth,
            document: OnceLock::new(),
            latches: Latches::default(),
            gate,
        }))
    }

    /// The service of placements.
    #[must_use]
    pub fn placements(&self) -> Placements {
        self.parts.placements.clone()
    }
}

/// When a request that comes now must be answered.
fn deadline() -> Instant {
    Instant::now() + limits::API_DEADLINE
}
