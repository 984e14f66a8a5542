//! Who leads: one task per group turns openraft's metrics into [`LeaderEvent`]s. Only committed
//! votes count (an uncommitted one is a campaign, not a leader), so an event always names a leader
//! that a quorum elected, or says that this node no longer knows that one as leader.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use maia_common::{GroupId, NodeId, Term};
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::broadcast;

use super::group::Group;
use super::types::node_of;

/// Events that a slow receiver may be behind; then it asks [`LeaderEvents::known`] again.
const BACKLOG: usize = 1024;

/// A group's leader has changed in this node's eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderEvent {
    /// The group.
    pub group: GroupId,
    /// The term that a quorum gave to a leader.
    pub term: Term,
    /// The leader of that term; none when this node sees it no longer as leader and knows of no
    /// newer one.
    pub leader: Option<NodeId>,
}

/// Where leader events come from. Cheap to clone.
#[derive(Clone)]
pub struct LeaderEvents {
    sender: broadcast::Sender<LeaderEvent>,
    known: Arc<Mutex<HashMap<GroupId, LeaderEvent>>>,
}

impl LeaderEvents {
    pub(crate) fn new() -> Self {
        Self {
            sender: broadcast::channel(BACKLOG).0,
            known: Arc::default(),
        }
    }

    /// A receiver of all events from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<LeaderEvent> {
        self.sender.subscribe()
    }

    /// The newest event of each group.
    #[must_use]
    pub fn known(&self) -> Vec<LeaderEvent> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().copied().collect()
    }

    /// Follows one group until its instance ends.
    pub(crate) async fn follow(self, group: Arc<Group>) {
        let mut metrics = group.raft.server_metrics();
        loop {
            let vote = metrics.borrow_watched().vote;
            if vote.committed {
                let (term, leader) = (Term::new(vote.leader_id.term), node_of(&vote));
                self.publish(LeaderEvent {
                    group: group.id,
                    term,
                    leader: Some(leader),
                });
            } else {
                self.publish_lost(group.id);
            }
            if metrics.changed().await.is_err() {
                // The instance has ended here; the group may well be led elsewhere.
                return;
            }
        }
    }

    /// The leader that was published last is none any more.
    fn publish_lost(&self, group: GroupId) {
        let last = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.get(&group).copied()
        };
        if let Some(last) = last {
            self.publish(LeaderEvent {
                leader: None,
                ..last
            });
        }
    }

    fn publish(&self, event: LeaderEvent) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.insert(event.group, event) != Some(event) {
            // Nobody may be listening: the event stays known.
            let _ = self.sender.send(event);
        }
    }
}
