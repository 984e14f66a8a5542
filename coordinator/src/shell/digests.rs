//! Compares the state of replicas: the leader of each group asks its followers for the digest of theirs,
//! and where both are of one position and differ, I13 is broken, which is counted and pages. A replica
//! that is elsewhere just then, or does not answer, is asked again at the next look.

use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::ids::{GroupId, NodeId};
use maia_common::invariants;

use super::cluster::Cluster;
use super::peers::Peers;
use crate::raft::{Engine, Role};

/// How often: each look reads all of the state on every replica.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// How long a follower may take to read its state.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often two replicas are looked at until both are in one position.
const TRIES: usize = 3;

/// The loop.
pub struct Digests {
    /// For this node's state.
    pub engine: Arc<Engine>,
    /// For that of others.
    pub peers: Arc<Peers>,
    /// For what is counted.
    pub cluster: Cluster,
}

impl Digests {
    /// Runs until its task is stopped.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY.mul_f64(0.5 + fastrand::f64())).await;
            for group in self.engine.group_ids() {
                let status = self.engine.status(group);
                let Some(status) = status.filter(|s| s.role == Role::Leader) else {
                    continue;
                };
                let witness = status.witness;
                let replicas = status.followers.iter();
                for follower in replicas.filter(|f| Some(f.node) != witness) {
                    self.compare(group, follower.node).await;
                }
            }
        }
    }

    async fn compare(&self, group: GroupId, follower: NodeId) {
        for _ in 0..TRIES {
            let own = match self.engine.digest(group).await {
                Ok(own) => own,
                Err(error) => {
                    tracing::error!(%group, %error, "the state's digest can't be computed");
                    return;
                }
            };
            let deadline = Instant::now() + PATIENCE;
            let Ok(theirs) = self.peers.digest(follower, group, deadline).await else {
                return;
            };
            if own.position.is_some() && own.position == theirs.position {
                let same = invariants::state_of_log(&own.digest, &theirs.digest, || {
                    format!("group {group}: node {follower} has another state at one position")
                });
                self.cluster.violations().check(same);
                return;
            }
        }
    }
}
