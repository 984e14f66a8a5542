//! Who of this node's groups it may lead, by its wall clock: one loop asks the other coordinators for
//! theirs, and where too many of a group's voters say another time, this node neither campaigns for the
//! group nor takes it over, and hands it on if it leads it. The rules are `core/clocks`; the engine keeps to
//! what it is told.
//!
//! ```text
//!  every second: Peer::Clock at each node ─▶ offsets ─┬─ near enough ─▶ may lead; records follow the wall clock
//!                                                    └─ too far ─▶ no campaign; led: handed to a voter that was heard
//!                                                                  and is near the others, or kept if there is none
//! ```
//! Nobody's clock is changed. A clock that has just started, or jumped, must be confirmed before records follow it and
//! before this node campaigns, the latter not for long.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use maia_common::ids::{GroupId, NodeId};

use super::clock::{Clock, Reading};
use super::cluster::Cluster;
use super::peers::Peers;
use crate::core::clocks::{self, Belief, Look};
use crate::core::hlc;
use crate::raft::{Engine, Follower, GroupStatus, Role};

/// How often the others are asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// The same while this node's clock is in doubt.
const HURRIED: Duration = Duration::from_millis(200);
/// How long one may take: a slow answer says little.
const PATIENCE: Duration = Duration::from_millis(500);
/// What was heard earlier may have been set right since.
const LATELY: Duration = Duration::from_secs(10);

/// How far the wall clocks of others are from this node's, by what was heard last: theirs minus its own,
/// in milliseconds. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Offsets(Arc<Mutex<BTreeMap<NodeId, (i64, Instant)>>>);

impl Offsets {
    /// Of whom something was heard lately, and since this node's clock was last set.
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

    fn clear(&self) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.clear();
    }
}

/// What the loop is made of.
pub struct ClockWatchParts {
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

/// The loop, and what it knows from look to look.
pub struct ClockWatch {
    parts: ClockWatchParts,
    /// The last look at the wall clock.
    looked: Reading,
    /// Since when it is not followed.
    doubted: Option<Instant>,
    /// Since when nobody has answered.
    silent: Instant,
    /// Whether it was ever followed.
    is_known: bool,
    /// Groups that this node should not lead and does: said once.
    stuck: BTreeSet<GroupId>,
    /// Groups whose readings are far ahead of the wall clock: said once.
    ahead: BTreeSet<GroupId>,
}

impl ClockWatch {
    /// In doubt until the first look: groups that start before it are not campaigned for.
    #[must_use]
    pub fn new(parts: ClockWatchParts) -> Self {
        parts.engine.doubt_clock(true);
        Self {
            parts,
            looked: Reading::take(),
            doubted: Some(Instant::now()),
            silent: Instant::now(),
            is_known: false,
            stuck: BTreeSet::new(),
            ahead: BTreeSet::new(),
        }
    }

    /// Runs until its task is stopped.
    pub async fn run(mut self) {
        loop {
            let reading = Reading::take();
            if clocks::has_jumped(self.looked.step_ms(&reading), self.parts.bound) {
                self.parts.offsets.clear();
            }
            self.looked = reading;
            let groups = self.parts.engine.group_ids().into_iter();
            let statuses = groups.filter_map(|id| Some((id, self.parts.engine.status(id)?)));
            let statuses: Vec<(GroupId, GroupStatus)> = statuses.collect();
            let heard = self.ask(reading, &statuses).await;
            let belief = self.believe(reading, &heard, &statuses);
            let is_doubted = belief == Belief::Doubted;
            self.parts.engine.doubt_clock(is_doubted);
            let offsets = self.parts.offsets.lately();
            for (group, status) in statuses {
                self.judge(group, &status, &offsets, is_doubted).await;
            }
            let rest = if is_doubted { HURRIED } else { ASK_EVERY };
            tokio::time::sleep(rest).await;
        }
    }

    /// How far those who answered are from this look at the wall clock.
    async fn ask(&self, reading: Reading, groups: &[(GroupId, GroupStatus)]) -> Vec<i64> {
        let cluster = self.parts.cluster.state();
        // While a cluster begins, the voters are known before the nodes are.
        let voters = groups.iter().flat_map(|(_, status)| &status.voters);
        let mut others: BTreeSet<NodeId> = cluster.nodes.keys().chain(voters).copied().collect();
        others.remove(&self.parts.node);
        let asked = others.into_iter().map(|node| async move {
            let deadline = Instant::now() + PATIENCE;
            let their_ms = self.parts.peers.clock(node, deadline).await.ok()?;
            let offset = clocks::offset_ms(reading.wall_ms(), reading.elapsed(), their_ms);
            self.parts.offsets.note(node, offset);
            Some(offset)
        });
        let heard = futures::future::join_all(asked).await;
        heard.into_iter().flatten().collect()
    }

    /// Whether the wall clock is believed; if so, readings follow it.
    fn believe(
        &mut self,
        reading: Reading,
        heard_ms: &[i64],
        groups: &[(GroupId, GroupStatus)],
    ) -> Belief {
        let (now, me, clock) = (Instant::now(), self.parts.node, &self.parts.clock);
        let mut voters = groups.iter().flat_map(|(_, status)| &status.voters);
        let doubted = self.doubted.unwrap_or(now);
        if !heard_ms.is_empty() {
            self.silent = now;
        }
        let look = Look {
            step_ms: self.is_known.then(|| clock.step_ms(&reading)),
            heard_ms,
            // A node whose groups have not started yet can't tell.
            is_alone: !groups.is_empty() && voters.all(|voter| *voter == me),
            doubted_for: now - doubted,
            silent_for: now - self.silent.max(doubted),
        };
        let belief = clocks::belief(look, self.parts.bound);
        if belief == Belief::Followed {
            if self.doubted.is_some() {
                tracing::info!(?look, "records follow this node's clock");
            }
            clock.trust(reading);
            (self.doubted, self.is_known) = (None, true);
        } else if self.doubted.is_none() {
            tracing::error!(
                ?look,
                "this node's clock has jumped and nobody confirms it: records don't follow it"
            );
            self.doubted = Some(now);
        }
        belief
    }

    async fn judge(
        &mut self,
        group: GroupId,
        status: &GroupStatus,
        offsets: &BTreeMap<NodeId, i64>,
        is_doubted: bool,
    ) {
        let me = self.parts.node;
        let clock_of = |voter: &NodeId| {
            let own = (*voter == me).then_some(0);
            Some((*voter, own.or_else(|| offsets.get(voter).copied())?))
        };
        let known: Vec<(NodeId, i64)> = status.voters.iter().filter_map(clock_of).collect();
        let far = clocks::unfit(
            status.voters.len(),
            status.witness,
            &known,
            self.parts.bound,
        );
        let is_far = far.contains(&me);
        let mut unfit = far.clone();
        unfit.extend(is_doubted.then_some(me));
        let is_unfit = unfit.contains(&me);
        let is_news = self.parts.engine.set_unfit(group, unfit);
        if is_news && is_unfit {
            tracing::error!(
                %group, ?offsets, is_doubted,
                "this node's clock is off (milliseconds that others are ahead), or nobody confirms it: it begins to \
                 lead nothing"
            );
        } else if is_news {
            tracing::info!(%group, "this node's clock agrees with the others': it may lead");
        }
        self.look_ahead(group);
        if !is_far || status.role != Role::Leader {
            self.stuck.remove(&group);
        } else if !is_news {
            // Seen twice: others whose clocks are set at the same moment are not taken for wrong.
            let heard = known.iter().map(|(node, _)| *node);
            let fit = heard.filter(|node| !far.contains(node)).collect();
            self.hand_on(group, status, &fit).await;
        }
    }

    /// To the first of these that can take it over; if none does, it stays. Asked again at the next look.
    async fn hand_on(&mut self, group: GroupId, status: &GroupStatus, fit: &BTreeSet<NodeId>) {
        let may_lead = |f: &&Follower| fit.contains(&f.node) && status.witness != Some(f.node);
        let mut to: Vec<&Follower> = status.followers.iter().filter(may_lead).collect();
        to.sort_by_key(|f| std::cmp::Reverse(f.matched));
        let mut refusals = Vec::new();
        for to in to {
            match self.parts.engine.transfer(group, to.node).await {
                Ok(()) => {
                    tracing::info!(%group, to = %to.node, "handed on: this node's clock is off");
                    return;
                }
                Err(error) => refusals.push(error.to_string()),
            }
        }
        if self.stuck.insert(group) {
            tracing::warn!(
                %group, ?refusals,
                "this node's clock is off, and nobody takes the group over whose clock is nearer to the others': it \
                 goes on leading"
            );
        }
    }

    /// Says of a group whose readings are ahead of what well clocks can have made, once.
    fn look_ahead(&mut self, group: GroupId) {
        let (last, wall_ms) = (self.parts.clock.last(group), self.parts.clock.wall_ms());
        if !hlc::is_ahead(last, wall_ms, self.parts.bound) {
            self.ahead.remove(&group);
        } else if self.ahead.insert(group) {
            tracing::warn!(
                %group, reading_ms = last.physical_ms(),
                "a record is ahead of this node's clock by more than clocks may be apart: its group goes on \
                 from there, no other does; is a clock wrong, or was it?"
            );
        }
    }
}
