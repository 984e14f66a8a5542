//! Joining: how a node comes to take part. A new cluster is made by its first members together; later
//! ones are added by an operator; a disk that took part before just goes on; a fresh disk under an id
//! that another disk has used is refused, since it forgot what that one promised (I1).
//!
//! ```text
//! disk joined before ──────────────────────────────────────────────▶ group 0 goes on by itself
//! fresh disk ─▶ ask the first members who they are
//!     one reads another data format    ─▶ fail: a cluster is of one format
//!     one knows another disk of this id ─▶ fail: "a wiped disk is a new node"
//!     one knows that the id was removed ─▶ fail: an id is never used twice
//!     one has a record without a disk   ─▶ claim it for this disk; the controller adds the node then
//!     it was not told to make a cluster ─▶ fail: a disk that is blank is one that was lost
//!     all answer, none is initialized   ─▶ initialize group 0 (all do; the same members)
//! then: register regions and this node in the metastore; ready
//! ```
//! A disk is noted in the node's record before it holds or promises anything, so that of two disks
//! under one new id one is refused.
//! All must answer, not a majority: the one that does not might be the one that remembers. And even
//! all of them may have forgotten, or have been replaced since: so a cluster is made only by processes
//! that were started with `--make-cluster`, until their disks have joined; of those one that comes
//! late, when group 0 runs already, waits for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::ids::{GroupId, NodeId};
use maia_common::limits;
use maia_common::runtime::Backoff;
use maia_common::topology::{Node, NodeState, Region, RegionState};

use super::clock::unix_us;
use super::identity::{self, Identity};
use super::peers::Peers;
use crate::api::Latches;
use crate::config::{Config, InitialNode};
use crate::core::metastore::{Precondition, Transaction};
use crate::core::{keyspace, nodes};
use crate::metastore::{self, Metastore, Outcome};
use crate::raft::Engine;

const ASK_DEADLINE: Duration = Duration::from_millis(500);
const STEP_DEADLINE: Duration = Duration::from_secs(5);

/// Everything that joining needs.
pub struct Joining {
    /// The node's configuration.
    pub config: Config,
    /// The node's identity.
    pub identity: Identity,
    /// The node's engine.
    pub engine: Arc<Engine>,
    /// The metastore.
    pub store: Arc<dyn Metastore>,
    /// The other coordinators.
    pub peers: Arc<Peers>,
    /// Tells when the node is ready, or failed.
    pub latches: Latches,
    /// Whether a blank disk may make a new cluster.
    pub make_cluster: bool,
}

/// What the first members say.
#[derive(Debug, Default)]
struct Heard {
    answered: usize,
    initialized: bool,
    other_disk: Option<String>,
    /// A data format that is not this software's.
    other_format: Option<u32>,
    removed: bool,
    /// This node's record, and who has it.
    record: Option<(Node, NodeId)>,
}

impl Heard {
    /// One with a disk is newer than one without.
    fn hear_record(&mut self, record: Node, from: NodeId) {
        let known = self.record.as_ref();
        if known.is_none_or(|(known, _)| known.disk_id.is_empty()) {
            self.record = Some((record, from));
        }
    }
}

impl Joining {
    /// Joins, trying again until it is done or can't be.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        while let Err(reason) = self.take_part().await {
            if self.latches.has_failed() {
                return;
            }
            tracing::info!(%reason, "not yet part of the cluster");
            tokio::time::sleep(backoff.next(fastrand::f64())).await;
        }
        backoff.reset();
        while let Err(reason) = self.register().await {
            if self.latches.has_failed() {
                return;
            }
            tracing::info!(%reason, "not yet registered");
            tokio::time::sleep(backoff.next(fastrand::f64())).await;
        }
        self.latches.open("registered");
        tracing::info!(node = %self.identity.node, "registered");
    }

    async fn take_part(&mut self) -> Result<(), String> {
        let root = self.engine.status(GroupId::METASTORE);
        if root.is_some_and(|status| !status.voters.is_empty()) {
            return Ok(());
        }
        // On a new disk group 0 does not run until here: a blank one must not vote before it is known
        // to be new.
        let first: Vec<NodeId> = self.config.bootstrap.nodes.iter().map(|n| n.id).collect();
        let heard = self.ask(&first).await;
        if let Some(reason) = self.refusal(&heard) {
            self.latches.fail(reason.clone());
            return Err(reason);
        }
        if let Some((record, at)) = heard.record {
            return self.follow(&record, at).await;
        }
        if !first.contains(&self.identity.node) {
            return Err("waiting to be added to the cluster: maiactl node add".into());
        }
        if !self.make_cluster && !self.identity.joined {
            let reason = blank_disk(self.identity.node, &first);
            self.latches.fail(reason.clone());
            return Err(reason);
        }
        if heard.initialized {
            self.start_root().await?;
            return Err("waiting for group 0 to reach this node".into());
        }
        if heard.answered + 1 < first.len() {
            return Err(format!(
                "{} of {} first members answer: making a cluster takes all of them",
                heard.answered + 1,
                first.len()
            ));
        }
        self.start_root().await?;
        let voters = first.into_iter().collect();
        self.engine
            .initialize_group(GroupId::METASTORE, voters)
            .await
            .map_err(|error| error.to_string())
    }

    /// Why this disk can't take part under this id.
    fn refusal(&self, heard: &Heard) -> Option<String> {
        let node = self.identity.node;
        if let Some(format) = heard.other_format {
            return Some(format!(
                "a first member's data is of format {format} (0: it does not say), this software's of format \
                 {}: all nodes of a cluster are of one format (docs/operations.md, \"The data folder\")",
                limits::DATA_FORMAT
            ));
        }
        if let Some(disk) = &heard.other_disk {
            return Some(format!(
                "node id {node} was used with another disk ({disk}): a wiped disk is a new node, \
                 give it an id that was never used"
            ));
        }
        if heard.removed {
            return Some(format!(
                "node id {node} was removed from the cluster: a node id is never used twice, give \
                 it a new one"
            ));
        }
        let (record, _) = heard.record.as_ref()?;
        (record.region != self.config.node.region).then(|| {
            format!(
                "node {node} was added in region {}, and is configured for {}",
                record.region, self.config.node.region
            )
        })
    }

    /// An operator has added this node: notes its disk, then waits to be made a member.
    async fn follow(&mut self, record: &Node, at: NodeId) -> Result<(), String> {
        if record.disk_id.is_empty() {
            let me = (self.identity.node, self.identity.disk_id.as_str());
            let deadline = Instant::now() + STEP_DEADLINE;
            let claimed = self.peers.identify(at, me, true, deadline).await;
            claimed.map_err(|error| error.to_string())?;
            return Err("this disk is being noted as the node's".into());
        }
        self.start_root().await?;
        Err("waiting for group 0 to reach this node".into())
    }

    /// From here on this disk takes part, and will do so after a restart without asking anyone.
    async fn start_root(&mut self) -> Result<(), String> {
        if !self.identity.joined {
            identity::mark_joined(&self.config.dir, &mut self.identity)
                .map_err(|e| e.to_string())?;
        }
        let started = self.engine.start_group(GroupId::METASTORE).await;
        started.map_err(|error| error.to_string())
    }

    async fn ask(&self, first: &[NodeId]) -> Heard {
        let me = (self.identity.node, self.identity.disk_id.as_str());
        let deadline = Instant::now() + ASK_DEADLINE;
        let others = first
            .iter()
            .copied()
            .filter(|node| *node != self.identity.node);
        let answers = futures::future::join_all(others.map(|node| {
            let answer = self.peers.identify(node, me, false, deadline);
            async move { Some((node, answer.await.ok()?)) }
        }));
        let mut heard = Heard::default();
        for (node, answer) in answers.await.into_iter().flatten() {
            heard.answered += 1;
            heard.initialized |= answer.initialized;
            heard.removed |= answer.asking_was_removed;
            let format = answer.data_format;
            if format != limits::DATA_FORMAT {
                heard.other_format = Some(format);
            }
            if let Ok(record) = serde_json::from_slice::<Node>(&answer.record_of_asking) {
                heard.hear_record(record, node);
            }
            let known = answer.known_disk_of_asking;
            if !known.is_empty() && known != self.identity.disk_id {
                heard.other_disk = Some(known);
            }
        }
        heard
    }

    /// Writes this node, and the cluster's first regions, into the metastore.
    async fn register(&self) -> Result<(), String> {
        let deadline = Instant::now() + STEP_DEADLINE;
        self.store
            .catch_up(deadline)
            .await
            .map_err(|e| e.to_string())?;
        // Only those that made the cluster know its first regions; a later node may name older ones.
        let makes_regions = self.mine().is_some();
        let regions = &self.config.bootstrap.regions;
        for region in regions.iter().filter(|_| makes_regions) {
            let region = Region {
                name: region.name.clone(),
                public_url: region.public_url.trim_end_matches('/').to_owned(),
                priority: region.priority,
                state: RegionState::Active,
            };
            let key = keyspace::region(&region.name);
            let id = format!("region-{}-{:016x}", region.name, fastrand::u64(..));
            let absent = Transaction::new(id, unix_us())
                .when(&key, Precondition::Absent)
                .put_json(key, &region);
            self.store
                .transact(absent, deadline)
                .await
                .map_err(|e| e.to_string())?;
        }
        self.register_node(deadline).await
    }

    /// What the configuration says of this node, if it is one of the first.
    fn mine(&self) -> Option<&InitialNode> {
        let mut first = self.config.bootstrap.nodes.iter();
        first.find(|node| node.id == self.identity.node)
    }

    /// This node's record as it should be: the first nodes' configuration says where they are, of
    /// later ones the operator said it.
    fn record(&self, stored: Option<&Node>) -> Node {
        let configured = self.mine();
        let mut node = stored.cloned().unwrap_or_else(|| Node {
            id: self.identity.node,
            region: self.config.node.region.clone(),
            rpc_addr: self.config.listen.rpc.to_string(),
            api_url: format!("http://{}", self.config.listen.api),
            disk_id: self.identity.disk_id.clone(),
            state: NodeState::Active,
            witness: false,
            farewell: maia_common::topology::Farewell::default(),
        });
        if let Some(configured) = configured {
            node.region = self.config.node.region.clone();
            node.rpc_addr = configured.rpc_addr.clone();
            node.api_url = configured.api_url.clone();
        }
        // Of a first member that died before it registered an operator may have written the record.
        if node.disk_id.is_empty() {
            node.disk_id.clone_from(&self.identity.disk_id);
        }
        if node.state == NodeState::Joining {
            node.state = NodeState::Active;
        }
        node
    }

    async fn register_node(&self, deadline: Instant) -> Result<(), String> {
        let key = keyspace::node(self.identity.node);
        let stored = metastore::get::<Node>(&*self.store, &key).map_err(|e| e.to_string())?;
        let node = self.record(stored.as_ref().map(|stored| &stored.value));
        let unchanged = match &stored {
            Some(_) if node.disk_id != self.identity.disk_id => {
                let reason = format!(
                    "node id {} is registered with another disk",
                    self.identity.node
                );
                self.latches.fail(reason.clone());
                return Err(reason);
            }
            Some(stored) if stored.value == node => return Ok(()),
            Some(stored) => Precondition::At(stored.revision),
            None => Precondition::Absent,
        };
        let id = format!("node-{}-{:016x}", node.id, fastrand::u64(..));
        let transaction = Transaction::new(id, unix_us())
            .when(&key, unchanged)
            .when(keyspace::retired_node(node.id), Precondition::Absent)
            .put_json(key, &node)
            .event(&nodes::event("node_joined", &node, unix_us()));
        match self
            .store
            .transact(transaction, deadline)
            .await
            .map_err(|e| e.to_string())?
        {
            Outcome::Committed(_) => Ok(()),
            Outcome::Conflict(_) => Err("registered by another process meanwhile".into()),
        }
    }
}

/// Why a blank disk of a first member takes no part.
fn blank_disk(node: NodeId, first: &[NodeId]) -> String {
    let first: Vec<String> = first.iter().map(ToString::to_string).collect();
    format!(
        "this disk is blank, and nobody of the first members ({}) that answers knows node {node} as \
         a new one: a wiped disk is a new node, give it an id that was never used; to make a new \
         cluster, start all first members with --make-cluster",
        first.join(", ")
    )
}
