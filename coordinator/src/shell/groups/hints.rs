//! Passing on who leads: to this node's proxies, and by a new leader to all other coordinators. A hint
//! may be lost, late or doubled: the highest term wins, and the loop says again what it sees.

use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::ids::GroupId;
use maia_common::position::Term;
use maia_common::topology::Leader;
use maia_common::wire::peer::HintRequest;

use super::super::cluster::Hint;
use super::Hands;
use crate::raft::LeaderEvent;

/// How long passing a hint on may take.
const HINT_DEADLINE: Duration = Duration::from_millis(500);

impl Hands {
    /// Tells this node's proxies, and when this node leads all other coordinators.
    pub(super) fn pass_on(&self, event: &LeaderEvent) {
        self.note(event);
        if event.leader == Some(self.node) && !event.group.is_metastore() {
            self.tell_all(event.group, event.term);
        }
    }

    /// Tells this node's proxies, unless they know.
    pub(super) fn note(&self, event: &LeaderEvent) {
        let state = self.cluster.state();
        let (group, term) = (event.group, event.term);
        let hint = match event.leader {
            Some(node) => match state.nodes.get(&node) {
                Some(found) => Hint::Leader(
                    group,
                    Leader {
                        term,
                        node,
                        region: found.region.clone(),
                    },
                ),
                None => return,
            },
            None => Hint::Leaderless(group, term),
        };
        if group.is_metastore() {
            return;
        }
        if hint.changes(&state) {
            self.cluster.hint(hint);
        }
    }

    fn tell_all(&self, group: GroupId, term: Term) {
        let state = self.cluster.state();
        let request = HintRequest {
            generation: state.generation.get(),
            group: group.get(),
            term: term.get(),
            node: self.node.get(),
            leaderless: false,
        };
        for node in state
            .nodes
            .keys()
            .copied()
            .filter(|node| *node != self.node)
        {
            let peers = Arc::clone(&self.peers);
            self.tasks.spawn_until_stop("leader hint", async move {
                let deadline = Instant::now() + HINT_DEADLINE;
                if let Err(error) = peers.hint(node, request, deadline).await {
                    tracing::debug!(%node, %error, "a hint was not passed on");
                }
            });
        }
    }
}
