//! Compares the state of replicas: the leader of each group asks its followers for the digest of theirs,
//! and where both are of one position and differ, I13 is broken, which is counted and pages. Replicas of a
//! group that is written to are brought to one position: both are asked ahead for their state as of one index. A
//! pair that could not be compared is tried again soon, and ever later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::ids::{GroupId, NodeId};
use maia_common::invariants;
use maia_common::position::Index;
use maia_common::runtime::Backoff;

use super::cluster::Cluster;
use super::peers::Peers;
use crate::raft::{Engine, Role, StateDigest};

/// How often each group of this leader: it reads all of the state on two replicas at a time.
const COMPARE_EVERY: Duration = Duration::from_secs(600);
/// How soon a group is tried again that could not be compared; ever later, up to `COMPARE_EVERY`.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// How often to look what is due.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long a replica may take to read its state.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often two replicas are looked at until both are in one position.
const TRIES: u32 = 4;
/// How long it is watched how fast a group is written to.
const WATCHED: Duration = Duration::from_millis(500);
/// How long replicas wait for the index that is asked for ahead.
const MEET_WITHIN: Duration = Duration::from_secs(10);

/// The loop.
pub struct Digests {
    /// For this node's state.
    pub engine: Arc<Engine>,
    /// For that of others.
    pub peers: Arc<Peers>,
    /// For what is counted.
    pub cluster: Cluster,
}

/// When a group is due.
struct Due {
    at: Instant,
    backoff: Backoff,
}

impl Due {
    fn new(now: Instant, chance: f64) -> Self {
        Self {
            at: now + COMPARE_EVERY.mul_f64(chance),
            backoff: Backoff::new(AGAIN_AFTER, COMPARE_EVERY),
        }
    }

    /// `chance` is in 0.0..1.0.
    fn looked(&mut self, now: Instant, was_compared: bool, chance: f64) {
        let wait = if was_compared {
            self.backoff.reset();
            COMPARE_EVERY.mul_f64(0.5 + chance / 2.0)
        } else {
            self.backoff.next(chance)
        };
        self.at = now + wait;
    }
}

impl Digests {
    /// Runs until its task is stopped.
    pub async fn run(self) {
        let mut all: BTreeMap<GroupId, Due> = BTreeMap::new();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let led = self.led();
            all.retain(|group, _| led.contains_key(group));
            for (group, followers) in led {
                let fresh = || Due::new(Instant::now(), fastrand::f64());
                let due = all.entry(group).or_insert_with(fresh);
                if Instant::now() < due.at {
                    continue;
                }
                let mut compared = true;
                for follower in followers {
                    compared &= self.compare(group, follower).await;
                }
                due.looked(Instant::now(), compared, fastrand::f64());
            }
        }
    }

    /// The groups that this node leads, with the followers that have a state.
    fn led(&self) -> BTreeMap<GroupId, Vec<NodeId>> {
        let ids = self.engine.group_ids().into_iter();
        let led = ids.filter_map(|group| {
            let status = self.engine.status(group)?;
            let replicas = status.followers.iter().map(|follower| follower.node);
            let replicas = replicas.filter(|node| Some(*node) != status.witness);
            (status.role == Role::Leader).then(|| (group, replicas.collect()))
        });
        led.collect()
    }

    /// Whether both were in one position.
    async fn compare(&self, group: GroupId, follower: NodeId) -> bool {
        for nth in 0..TRIES {
            let Some((index, written)) = self.watch(group).await else {
                return false;
            };
            // A group that stands still is compared as it is; no index of it may come any more.
            let pair = if written == 0 && nth.is_multiple_of(2) {
                self.as_they_are(group, follower).await
            } else {
                let ahead = (2 * written).max(1) << nth;
                self.as_of(group, follower, Index::new(index + ahead)).await
            };
            let Some((own, theirs)) = pair else {
                continue;
            };
            if own.position.is_some() && own.position == theirs.position {
                let same = invariants::state_of_log(&own.digest, &theirs.digest, || {
                    format!("group {group}: node {follower} has another state at one position")
                });
                self.cluster.violations().check(same);
                self.engine.note_compared();
                return true;
            }
        }
        tracing::info!(%group, %follower, "the states could not be compared yet, will be tried again");
        false
    }

    /// Up to where the group is applied here, and how many entries were just now.
    async fn watch(&self, group: GroupId) -> Option<(u64, u64)> {
        let applied = || Some(self.engine.status(group)?.applied?.index.get());
        let before = applied()?;
        tokio::time::sleep(WATCHED).await;
        let index = applied()?;
        Some((index, index.saturating_sub(before)))
    }

    /// Theirs first: who does not answer costs no read of this node's state.
    async fn as_they_are(
        &self,
        group: GroupId,
        follower: NodeId,
    ) -> Option<(StateDigest, StateDigest)> {
        let deadline = Instant::now() + PATIENCE;
        let theirs = self.peers.digest(follower, group, None, deadline).await;
        let theirs = theirs.ok()?;
        let own = self.engine.digest(group).await;
        let own = own.inspect_err(|error| {
            tracing::error!(%group, %error, "the state's digest can't be computed");
        });
        Some((own.ok()?, theirs))
    }

    /// Both as of an index that neither has applied yet; where one can't, the other does not go on.
    async fn as_of(
        &self,
        group: GroupId,
        follower: NodeId,
        index: Index,
    ) -> Option<(StateDigest, StateDigest)> {
        let now = Instant::now();
        let own = async {
            let own = self.engine.digest_at(group, index, now + MEET_WITHIN);
            own.await.map_err(|error| error.to_string())
        };
        let theirs = async {
            let at = Some((index, MEET_WITHIN));
            let theirs = self.peers.digest(follower, group, at, now + PATIENCE);
            theirs.await.map_err(|error| error.to_string())
        };
        let both = tokio::try_join!(own, theirs);
        both.inspect_err(|error| tracing::debug!(%group, %follower, %index, error, "no digest"))
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_is_due_at_least_every_ten_minutes_and_sooner_when_it_could_not_be_compared() {
        let start = Instant::now();
        for chance in [0.0, 0.5, 1.0] {
            let mut due = Due::new(start, chance);
            assert!(due.at <= start + COMPARE_EVERY);
            due.looked(start, true, chance);
            assert!(due.at >= start + COMPARE_EVERY / 2 && due.at <= start + COMPARE_EVERY);
            due.looked(start, false, chance);
            assert!(due.at <= start + AGAIN_AFTER);
            for _ in 0..20 {
                due.looked(start, false, chance);
            }
            assert!(due.at <= start + COMPARE_EVERY);
            due.looked(start, true, chance);
            due.looked(start, false, chance);
            assert!(due.at <= start + AGAIN_AFTER, "from the beginning");
        }
    }
}
