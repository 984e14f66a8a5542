//! Tells the last follower at once. When a record is committed by a majority, openraft tells each
//! follower of the commit; one that had not yet stored the record learns only with the next
//! heartbeat that it may apply it, which is up to a heartbeat's interval of staleness there. For the
//! metastore that delays placements on their way to proxies; so its leader sends one heartbeat when
//! the last follower has caught up with everything. A majority's progress never waits for this.

use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver;

use super::group::Group;

/// Follows the group while its instance lives.
pub(crate) async fn follow(group: Arc<Group>) {
    let mut metrics = group.raft.data_metrics();
    let mut told = None;
    loop {
        let settled = {
            let data = metrics.borrow_watched();
            let last = data.last_log;
            let others = data.replication.iter().flatten();
            let mut others = others
                .filter(|(node, _)| **node != group.node.get())
                .peekable();
            let leads_others = others.peek().is_some();
            let all_have_it = data.last_applied == last && others.all(|(_, at)| *at == last);
            last.filter(|_| leads_others && all_have_it)
        };
        if settled.is_some() && settled != told {
            told = settled;
            if group.raft.trigger().heartbeat().await.is_err() {
                return;
            }
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
