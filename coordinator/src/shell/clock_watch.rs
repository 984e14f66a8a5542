//! Who of this node's groups it may lead, by its wall clock: one loop asks the other coordinators for
//! theirs, and where too many of a group's members say another time, this node neither campaigns for the
//! group nor takes it over, and hands it on if it leads it. The rule is `core/hlc`; the engine keeps to
//! what it is told.
//!
//! ```text
//!  every second: Peer::Clock at each node ─▶ offset ─┬─ near enough ─▶ may lead; records follow the wall clock
//!                                                   └─ too far ─▶ no campaign; led: handed to a member near the others
//! ```
//! Nobody's clock is changed. A node that nobody answers keeps its right: it leads nobody either. But a jump
//! of its own clock must be confirmed: by a clock that is off far enough no certificate is valid, so new connections
//! fail while the groups' old ones go on, and nobody would tell.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use maia_common::ids::{GroupId, NodeId};

use super::clock::{Clock, Reading};
use super::cluster::Cluster;
use super::peers::Peers;
use crate::core::hlc;
use crate::raft::{Engine, Follower, Role};

/// How often the others are asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long one may take: a slow answer says little.
const PATIENCE: Duration = Duration::from_millis(500);
/// What was heard earlier may have been set right since.
const LATELY: Duration = Duration::from_secs(10);

/// How far the wall clocks of others are from this node's, by what was heard last: theirs minus its own,
/// in milliseconds. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Offsets(Arc<Mutex<BTreeMap<NodeId, (i64, Instant)>>>);

impl Offsets {
    /// Of whom something was heard lately.
    #[must_use]
    pub fn lately(&self) -> BTreeMap<NodeId, i64> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = heard.iter().filter(|(_, (_, at))| at.elapsed() < LATELY);
        recent.map(|(node, (offset, _))| (*node, *offset)).collect()
    }

    fn note(&self, node: NodeId, offset_ms: i64) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|_, (_, at)| at.elapsed() < LATELY);
        heard.insert(node, (offset_ms, Instant::now()));
    }
}

/// The loop.
pub struct ClockWatch {
    /// This node.
    pub node: NodeId,
    /// Its groups.
    pub engine: Arc<Engine>,
    /// For whom to ask.
    pub cluster: Cluster,
    /// For asking.
    pub peers: Arc<Peers>,
    /// What was heard.
    pub offsets: Offsets,
    /// Stamps this node's records.
    pub clock: Arc<Clock>,
    /// `failover.max_clock_offset`.
    pub bound: Duration,
}

impl ClockWatch {
    /// Runs until its task is stopped.
    pub async fn run(self) {
        let mut tick = tokio::time::interval(ASK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let reading = Reading::take();
            let heard = self.ask(reading).await;
            let is_credible = self.follow(reading, &heard);
            let offsets = self.offsets.lately();
            for group in self.engine.group_ids() {
                self.judge(group, &offsets, is_credible).await;
            }
        }
    }

    /// How far those who answered are from this look at the wall clock.
    async fn ask(&self, reading: Reading) -> Vec<i64> {
        let cluster = self.cluster.state();
        let others = cluster.nodes.keys().filter(|node| **node != self.node);
        let asked = others.map(|node| async {
            let deadline = Instant::now() + PATIENCE;
            let their_ms = self.peers.clock(*node, deadline).await.ok()?;
            let offset = hlc::offset_ms(reading.wall_ms(), reading.elapsed(), their_ms);
            self.offsets.note(*node, offset);
            Some(offset)
        });
        let heard = futures::future::join_all(asked).await;
        heard.into_iter().flatten().collect()
    }

    /// Whether the wall clock is to be believed, as far as it has moved since it last was.
    fn follow(&self, reading: Reading, heard: &[i64]) -> bool {
        let members = self.cluster.state().nodes.len().max(1);
        let step_ms = self.clock.step_ms(&reading);
        let is_credible = hlc::follows(step_ms, heard, members, self.bound);
        if is_credible {
            self.clock.trust(reading);
        }
        is_credible
    }

    async fn judge(&self, group: GroupId, offsets: &BTreeMap<NodeId, i64>, is_credible: bool) {
        let Some(status) = self.engine.status(group) else {
            return;
        };
        let fitness = |node| hlc::fitness(self.node, node, &status.voters, offsets, self.bound);
        let voters = status.voters.iter().copied();
        let is_far = |node: &NodeId| fitness(*node) == Some(false);
        let in_doubt = |node: &NodeId| *node == self.node && !is_credible;
        let unfit: BTreeSet<NodeId> = voters.filter(|v| is_far(v) || in_doubt(v)).collect();
        let is_unfit = unfit.contains(&self.node);
        if self.engine.set_unfit(group, unfit) {
            if is_unfit {
                tracing::error!(
                    %group, ?offsets,
                    "this node's clock is off (milliseconds that others are ahead), or has jumped and nobody confirms \
                     it: it does not lead"
                );
            } else {
                tracing::info!(%group, "this node's clock agrees with the others': it may lead");
            }
        }
        if is_unfit && status.role == Role::Leader {
            // One of whom nothing was heard refuses if it knows itself to be off.
            let may_lead = |f: &&Follower| {
                status.voters.contains(&f.node)
                    && status.witness != Some(f.node)
                    && fitness(f.node) != Some(false)
            };
            let mut fit: Vec<&Follower> = status.followers.iter().filter(may_lead).collect();
            fit.sort_by_key(|f| (fitness(f.node).is_none(), std::cmp::Reverse(f.matched)));
            self.hand_on(group, &fit).await;
        }
    }

    /// To the first of these that can take it over. Asked again at the next look.
    async fn hand_on(&self, group: GroupId, to: &[&Follower]) {
        for to in to {
            match self.engine.transfer(group, to.node).await {
                Ok(()) => {
                    tracing::info!(%group, to = %to.node, "handed on: this node's clock is off");
                    return;
                }
                Err(error) => tracing::warn!(%group, %error, "a group can't be handed on yet"),
            }
        }
        tracing::warn!(%group, "nobody takes the group over whose clock is nearer to the others'");
    }
}
