//! Says in the metastore what this node has in quarantine, and, when it is being taken out, that it has
//! nothing any more: the controller waits for that. What is not said now is said at the next look.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use maia_common::ids::GroupId;
use maia_common::placement::GroupRecord;
use maia_common::topology::{Farewell, Node, NodeState};

use super::QuarantineService;
use crate::core::custody::{self, Custody};
use crate::core::keyspace;
use crate::metastore::{self, MetastoreError};
use crate::raft::Quarantine;
use crate::shell::clock::unix_us;

/// How long the metastore may take.
const SAY_WITHIN: Duration = Duration::from_secs(2);

impl QuarantineService {
    /// Whether this node is being taken out, and has not said yet that it has nothing.
    pub(super) fn is_awaited(&self) -> bool {
        let state = self.0.parts.cluster.state();
        state.nodes.get(&self.node()).is_some_and(|node| {
            node.state == NodeState::Removing && node.farewell == Farewell::Awaited
        })
    }

    /// Says what there is, if that is another than what was said.
    pub(super) async fn say(&self, custody: &Custody) -> Result<(), MetastoreError> {
        let (store, me) = (&self.0.parts.store, self.node());
        let said = metastore::get::<Custody>(&**store, &keyspace::custody(me))?;
        let known = said.as_ref().map(|said| &said.value);
        if *known.unwrap_or(&Custody::default()) == *custody {
            return Ok(());
        }
        let (seen, id) = (said.map(|said| said.revision), id("custody"));
        let plan = custody::say(me, custody, seen, &id, unix_us());
        let said = store.transact(plan, Instant::now() + SAY_WITHIN).await;
        said.map(drop)
    }

    /// Leaves groups whose record went while this node, which was taken out of them, was away: nothing
    /// else tells it to. Whether a record is gone is asked of the metastore's leader: the disk may be ahead
    /// of what is applied here.
    async fn leave_forgotten(&self, groups: &BTreeSet<GroupId>) -> Result<(), MetastoreError> {
        if groups.is_empty() {
            return Ok(());
        }
        let parts = &self.0.parts;
        parts.store.catch_up(Instant::now() + SAY_WITHIN).await?;
        for group in groups {
            let record = metastore::get::<GroupRecord>(&*parts.store, &keyspace::group(*group))?;
            if record.is_none()
                && let Err(error) = parts.engine.stop_group(*group).await
            {
                tracing::warn!(%group, %error, "can't leave a group that is gone, will be tried again");
            }
        }
        Ok(())
    }

    /// Says that this node has nothing, if that is so: it has left all groups, and its quarantine is
    /// empty. Nothing comes in any more by then.
    pub(super) async fn take_leave(&self) -> Result<(), MetastoreError> {
        let (parts, me) = (&self.0.parts, self.node());
        if !custody::is_out_of_groups(&parts.cluster.state(), me) {
            return Ok(());
        }
        let unreadable = |error: std::io::Error| MetastoreError::State(error.to_string());
        let engine = parts.engine.clone();
        let left = self.blocking(move || engine.groups_not_left()).await;
        let mut left = left.flatten().map_err(unreadable)?;
        left.remove(&GroupId::METASTORE);
        self.leave_forgotten(&left).await?;
        let entries = {
            let _none_comes = self.0.intake.lock().await;
            self.disk(Quarantine::count).await
        };
        if !left.is_empty() || entries.map_err(unreadable)? > 0 {
            return Ok(());
        }
        let stored = metastore::get::<Node>(&*parts.store, &keyspace::node(me))?;
        let awaited =
            |node: &Node| node.state == NodeState::Removing && node.farewell == Farewell::Awaited;
        let Some(stored) = stored.filter(|stored| awaited(&stored.value)) else {
            return Ok(());
        };
        let (node, nothing) = ((&stored.value, stored.revision), Custody::default());
        let plan = custody::end_wait(node, Farewell::Empty, &nothing, &id("farewell"), unix_us());
        tracing::info!("this node has left its groups, and its quarantine is empty");
        let said = parts
            .store
            .transact(plan, Instant::now() + SAY_WITHIN)
            .await;
        said.map(drop)
    }
}

/// Unique for each try: a try that was decided on another state must not count as this one.
fn id(what: &str) -> String {
    format!("{what}-{:032x}", fastrand::u128(..))
}
