//! Coordinators as the API asks for them: runs the plans of `core/nodes` against the metastore, and
//! plans anew when the world changed between plan and commit. Any coordinator can do it; what follows
//! is the controller's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, NodeId};
use maia_common::limits;
use maia_common::placement::GroupRecord;
use maia_common::topology::{Farewell, Node, NodeState};
use serde::Serialize;

use super::clock::unix_us;
use super::cluster::Cluster;
use super::peers::Peers;
use super::placements::Refusal;
use crate::core::custody::{self, Custody};
use crate::core::nodes::{self, GivenUp, NewNode, NodeRefusal, Removal, Seen};
use crate::core::{cluster_state::ClusterState, keyspace};
use crate::metastore::{self, Metastore, MetastoreError, Outcome, Versioned};
use crate::raft::Engine;

/// How often a plan is made anew before the caller is told that the world is too busy.
const MAX_PLANS: usize = 16;
/// A node that does not say who it is within this does not answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(800);

/// A coordinator as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeView {
    /// Its record.
    #[serde(flatten)]
    pub node: Node,
    /// Its part in group 0: `voter`, `learner` or `none`.
    pub metastore: &'static str,
    /// Placement groups that have it as a member.
    pub groups: Vec<GroupId>,
    /// While it is being taken out: what for it is not out yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
}

/// How to take a node out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HowToRemove {
    /// Only to say what it would do.
    pub dry_run: bool,
    /// Groups of which it has the only copy are given up, with their tenants.
    pub accept_data_loss: bool,
    /// What stands in its quarantine, and nowhere else, is given up.
    pub accept_quarantine_loss: bool,
}

/// What came of a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// It has begun, or would begin so.
    Going(Removal),
    /// It has begun before, and waits for this.
    Already(String),
    /// The node is no more.
    Gone,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Nodes {
    me: NodeId,
    disk_id: String,
    engine: Arc<Engine>,
    store: Arc<dyn Metastore>,
    cluster: Cluster,
    peers: Arc<Peers>,
}

impl From<NodeRefusal> for Refusal {
    fn from(refusal: NodeRefusal) -> Self {
        Refusal::new(refusal.code(), refusal.to_string())
    }
}

impl Nodes {
    /// The service of this node, which is (`me`, its disk).
    #[must_use]
    pub fn new(
        me: (NodeId, String),
        engine: Arc<Engine>,
        store: Arc<dyn Metastore>,
        cluster: Cluster,
        peers: Arc<Peers>,
    ) -> Self {
        Self {
            me: me.0,
            disk_id: me.1,
            engine,
            store,
            cluster,
            peers,
        }
    }

    /// All coordinators, as this node knows them.
    #[must_use]
    pub fn list(&self) -> Vec<NodeView> {
        let state = self.cluster.state();
        let root = self.engine.status(GroupId::METASTORE);
        let part = |node: NodeId| match &root {
            Some(root) if root.voters.contains(&node) => "voter",
            Some(root) if root.learners.contains(&node) => "learner",
            _ => "none",
        };
        let nodes = state.nodes.values().map(|node| NodeView {
            node: node.clone(),
            metastore: part(node.id),
            groups: groups_of(&state, node.id),
            waits_for: custody::waits_for(&state, node, &self.custody(node.id)),
        });
        nodes.collect()
    }

    /// What the node last said that it has in quarantine.
    fn custody(&self, node: NodeId) -> Custody {
        let said = metastore::get::<Custody>(&*self.store, &keyspace::custody(node));
        let said = said.ok().flatten();
        said.map_or_else(Custody::default, |said| said.value)
    }

    /// Writes a new node's record; the controller has it follow group 0 once it has come.
    ///
    /// # Errors
    /// [`Refusal`]; `node_conflict` for an id that was ever used.
    pub async fn add(&self, new: &NewNode, deadline: Instant) -> Result<NodeView, Refusal> {
        for _ in 0..MAX_PLANS {
            let state = self.settle(deadline).await?;
            let retired = self.stored(&keyspace::retired_node(new.id))?.is_some();
            let id = transaction_id("node-add", new.id);
            if let Some(plan) = nodes::add(&state, retired, new, &id, unix_us())? {
                self.store.transact(plan, deadline).await?;
                continue;
            }
            let mut known = self.list().into_iter();
            if let Some(view) = known.find(|view| view.node.id == new.id) {
                return Ok(view);
            }
        }
        Err(too_busy())
    }

    /// Takes a node out of the cluster: begins it, unless that is a dry run.
    ///
    /// # Errors
    /// [`Refusal`]; `data_loss_refused` when what stays could not go on.
    pub async fn remove(
        &self,
        node: NodeId,
        how: HowToRemove,
        deadline: Instant,
    ) -> Result<Removed, Refusal> {
        for _ in 0..MAX_PLANS {
            let state = self.settle(deadline).await?;
            let Some(stored) = self.stored(&keyspace::node(node))? else {
                let retired = self.stored(&keyspace::retired_node(node))?;
                return match retired {
                    Some(_) => Ok(Removed::Gone),
                    None => Err(NodeRefusal::Unknown(node).into()),
                };
            };
            let custody = self.custody(node);
            if stored.value.state == NodeState::Removing {
                if how.dry_run
                    || !how.accept_quarantine_loss
                    || stored.value.farewell != Farewell::Awaited
                {
                    let text = custody::waits_for(&state, &stored.value, &custody);
                    return Ok(Removed::Already(text.unwrap_or_default()));
                }
                self.give_up(&stored, &custody, deadline).await?;
                continue;
            }
            let root = self.engine.status(GroupId::METASTORE);
            let voters = root.map(|root| root.voters.into_iter().collect());
            let answering = self.answering(&state).await;
            let voters: BTreeSet<NodeId> = voters.unwrap_or_default();
            // What is planned on is read first: what changes behind it makes the commit fail.
            let Some(seen) = self.seen(&stored, &state)? else {
                continue;
            };
            let counts = how.accept_data_loss.then(|| self.counts()).transpose()?;
            let give_up = GivenUp {
                groups: counts.as_ref(),
                quarantine: how.accept_quarantine_loss,
            };
            let of = (node, &custody);
            let plan = nodes::plan_removal(&state, &voters, &answering, of, give_up)?;
            if how.dry_run {
                return Ok(Removed::Going(plan));
            }
            let id = transaction_id("node-remove", node);
            let begin = nodes::begin_removal(&stored.value, &plan, &seen, &id, unix_us());
            if let Outcome::Committed(_) = self.store.transact(begin, deadline).await? {
                return Ok(Removed::Going(plan));
            }
        }
        Err(too_busy())
    }

    /// Goes on without what the node has in quarantine.
    async fn give_up(
        &self,
        node: &Versioned<Node>,
        custody: &Custody,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let id = transaction_id("node-give-up", node.value.id);
        let of = (&node.value, node.revision);
        let plan = custody::end_wait(of, Farewell::GivenUp, custody, &id, unix_us());
        tracing::warn!(node = %node.value.id, %custody, "a node goes without its quarantine");
        self.store.transact(plan, deadline).await?;
        Ok(())
    }

    /// How many tenants each group has.
    fn counts(&self) -> Result<BTreeMap<GroupId, u64>, Refusal> {
        let mut counts = BTreeMap::new();
        let read = self.store.read(&mut |view| {
            for (key, row) in metastore::range(view, keyspace::REFS, None, limits::MAX_GROUPS)? {
                let id = key.strip_prefix(keyspace::REFS).map(str::parse::<u64>);
                let count = serde_json::from_slice::<u64>(&row.value);
                if let (Some(Ok(id)), Ok(count)) = (id, count) {
                    counts.insert(GroupId::new(id), count);
                }
            }
            Ok(())
        });
        read.map_err(MetastoreError::from)?;
        Ok(counts)
    }

    /// The revisions of what the plan rests on; none while the store is ahead of the picture in
    /// something of it: an older picture's plan must not commit.
    fn seen(&self, node: &Versioned<Node>, state: &ClusterState) -> Result<Option<Seen>, Refusal> {
        let last = metastore::get::<GroupId>(&*self.store, keyspace::LAST_GROUP)?;
        if last
            .as_ref()
            .is_some_and(|last| last.revision > state.revision)
        {
            return Ok(None);
        }
        let mut seen = Seen {
            node: node.revision,
            last_group: last.map(|last| (last.value, last.revision)),
            ..Seen::default()
        };
        for (id, record) in &state.groups {
            let stored = metastore::get::<GroupRecord>(&*self.store, &keyspace::group(*id))?;
            match stored {
                Some(stored) if stored.value == *record => {
                    let record = (stored.value, stored.revision);
                    seen.groups.insert(*id, record);
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(seen))
    }

    /// The nodes that say who they are, this one among them.
    async fn answering(&self, state: &ClusterState) -> BTreeSet<NodeId> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        let me = (self.me, self.disk_id.as_str());
        let others = state.nodes.values().filter(|node| node.id != self.me);
        let asked = others.map(|node| async move {
            let answer = self
                .peers
                .identify(node.id, me, false, deadline)
                .await
                .ok()?;
            // Whoever runs there with another disk is not that node.
            let is_it = answer.node == node.id.get() && answer.disk_id == node.disk_id;
            is_it.then_some(node.id)
        });
        let answers = futures::future::join_all(asked).await;
        answers.into_iter().flatten().chain([self.me]).collect()
    }

    /// The newest state, as what is read here.
    async fn settle(&self, deadline: Instant) -> Result<Arc<ClusterState>, Refusal> {
        self.store.catch_up(deadline).await?;
        let newest = *self.store.revisions().borrow();
        let seen = |state: &ClusterState| state.revision >= newest;
        self.cluster.wait_for(deadline, seen).await;
        Ok(self.cluster.state())
    }

    fn stored(&self, key: &str) -> Result<Option<Versioned<Node>>, Refusal> {
        Ok(metastore::get(&*self.store, key)?)
    }
}

fn groups_of(state: &ClusterState, node: NodeId) -> Vec<GroupId> {
    let groups = state.groups.values().filter(|g| g.has_member(node));
    groups.map(|group| group.id).collect()
}

fn transaction_id(what: &str, node: NodeId) -> String {
    format!("{what}-{node}-{:032x}", fastrand::u128(..))
}

fn too_busy() -> Refusal {
    let text = "the cluster is being changed by others all the time: try again";
    Refusal::new(ErrorCode::NodeConflict, text)
}
