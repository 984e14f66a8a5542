//! Whether this node still belongs to the cluster. A node that was removed must not vote or serve
//! again: once it knows, it says so for ever in its identity, leaves every group, deletes what it has
//! of them (I7), and stays up only to say so (`/readyz`, log).
//!
//! ```text
//! its own metastore says so ──────────────────────────────┐
//! group 0 has no leader here ─▶ ask the others: removed? ─┴▶ identity ─▶ leave all groups
//! ```
//! The second way is for a node that was away, or was cut off group 0 before the news reached it: the
//! others don't talk to it any more, and its votes count for nothing meanwhile.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::ids::{GroupId, NodeId};
use maia_common::placement::{GroupRecord, Member};
use maia_common::topology::Node;
use tokio::sync::watch;

use super::cluster::Cluster;
use super::identity::{self, Identity};
use super::peers::Peers;
use crate::api::Latches;
use crate::core::keyspace;
use crate::metastore::{self, Metastore};
use crate::raft::Engine;

const LOOK_EVERY: Duration = Duration::from_secs(1);
const ASK_DEADLINE: Duration = Duration::from_millis(500);

/// What it takes to know and to go.
pub struct Standing {
    /// The node's folder.
    pub dir: PathBuf,
    /// The node's identity.
    pub identity: Identity,
    /// The groups to leave.
    pub engine: Arc<Engine>,
    /// What this node knows itself.
    pub store: Arc<dyn Metastore>,
    /// Whom to ask.
    pub cluster: Cluster,
    /// How.
    pub peers: Arc<Peers>,
    /// Whom to ask before anything is known of the cluster.
    pub first: Vec<NodeId>,
    /// Where readiness is said.
    pub latches: Latches,
    /// A leader that is silent for longer is none.
    pub silence: Duration,
    /// Turns true when the node is known to be removed.
    pub removed: watch::Sender<bool>,
}

impl Standing {
    /// Watches until the node is removed and has left everything.
    pub async fn run(mut self) {
        while !self.identity.removed {
            if self.is_removed().await {
                match identity::mark_removed(&self.dir, &mut self.identity) {
                    Ok(()) => break,
                    Err(error) => tracing::error!(%error, "the removal can't be noted"),
                }
            }
            tokio::time::sleep(LOOK_EVERY.mul_f64(0.5 + fastrand::f64())).await;
        }
        self.latches.close("member");
        self.removed.send_replace(true);
        tracing::error!(
            node = %self.identity.node,
            "this node was removed from the cluster: it takes no part any more, and leaves its groups"
        );
        while !self.leave_all().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let entries = self.engine.quarantine().count();
        let stand = match &entries {
            Ok(0) => "no entry stands in its quarantine",
            Ok(_) => {
                "entries stand in its quarantine and nowhere else: keep it running, it hands them \
                      over to members that may keep them (the log says how many), and FIRST export \
                      what stays"
            }
            Err(_) => "its quarantine can't be read: FIRST try to export it",
        };
        tracing::error!(
            node = %self.identity.node,
            ?entries,
            "this node has left all groups; {stand} (`maiactl quarantine export --api URL`, URL of this \
             node's API, which still answers). Its id is never used again; to bring the machine back, \
             give it an empty folder, a new id, and add that"
        );
    }

    async fn leave_all(&self) -> bool {
        let mut groups = self.engine.group_ids();
        let mut all = true;
        match self.groups_on_disk() {
            Ok(had) => {
                groups.extend(had);
            }
            Err(error) => {
                tracing::error!(%error, "can't read which groups to leave, will be tried again");
                all = false;
            }
        }
        groups.retain(|group| !group.is_metastore());
        groups.sort_unstable();
        groups.dedup();
        for group in groups {
            if let Err(error) = self.engine.stop_group(group).await {
                tracing::error!(%group, %error, "can't leave a group, will be tried again");
                all = false;
            }
        }
        // Group 0 last, once all others are left: their records are in it.
        if all && let Err(error) = self.engine.stop_group(GroupId::METASTORE).await {
            tracing::error!(%error, "can't leave the metastore, will be tried again");
            all = false;
        }
        all
    }

    /// The groups that this node was ever a member of, by what it last knew, and those of which its disk
    /// still has something: after a restart, or a try to leave that failed, they do not run.
    fn groups_on_disk(&self) -> anyhow::Result<Vec<GroupId>> {
        let mut groups: Vec<GroupId> = self.engine.groups_not_left()?.into_iter().collect();
        self.store.read(&mut |view| {
            let rows = metastore::range(view, keyspace::GROUPS, None, usize::MAX)?;
            let records = rows
                .iter()
                .filter_map(|(_, row)| serde_json::from_slice::<GroupRecord>(&row.value).ok());
            let mine = |m: &Member| m.node == self.identity.node;
            let had = records.filter(|group| group.members.iter().any(mine));
            groups.extend(had.map(|group| group.id));
            Ok(())
        })?;
        Ok(groups)
    }

    async fn is_removed(&self) -> bool {
        let me = self.identity.node;
        let key = keyspace::retired_node(me);
        if let Ok(Some(_)) = metastore::get::<Node>(&*self.store, &key) {
            return true;
        }
        let root = self.engine.status(GroupId::METASTORE);
        let Some(root) = root.filter(|root| root.is_leaderless(self.silence)) else {
            return false;
        };
        let known = self.cluster.state();
        let mut others: Vec<NodeId> = known.nodes.keys().copied().collect();
        others.extend(root.voters.iter().chain(&self.first));
        others.retain(|node| *node != me);
        others.sort_unstable();
        others.dedup();
        let deadline = Instant::now() + ASK_DEADLINE;
        let disk = self.identity.disk_id.as_str();
        let asked = others
            .into_iter()
            .map(|node| self.peers.identify(node, (me, disk), false, deadline));
        let answers = futures::future::join_all(asked).await;
        answers.into_iter().flatten().any(|a| a.asking_was_removed)
    }
}
