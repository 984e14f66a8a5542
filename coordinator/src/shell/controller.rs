//! The controller: what only the leader of group 0 does. Brings group 0's membership to what the
//! nodes' records say (`core/membership`), and collects empty groups (`core/collection`). Every node
//! runs this loop; it acts only while it leads with a living lease, and what it does is compared or
//! idempotent, so that two controllers for a moment do no harm. Steps run one after the other; what
//! fails or takes too long is decided anew at the next look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::ids::{GroupId, NodeId};
use maia_common::limits;
use maia_common::placement::{GroupRecord, Placement};
use maia_common::position::Revision;
use maia_common::topology::Node;
use serde::Deserialize;

use super::clock::unix_us;
use super::cluster::Cluster;
use crate::core::cluster_state::ClusterState;
use crate::core::custody::{self, Custody};
use crate::core::membership::{self, Command, MemberView, Root};
use crate::core::metastore::Transaction;
use crate::core::{collection, keyspace, nodes};
use crate::metastore::{self, Metastore, MetastoreError};
use crate::raft::{Engine, GroupStatus, Role, StateError};

const ROOT: GroupId = GroupId::METASTORE;
/// How often to look when nothing happens.
const TICK: Duration = Duration::from_millis(250);
/// How long one step may take before it is given up and decided anew.
const STEP_DEADLINE: Duration = Duration::from_secs(10);
/// How often to look for empty groups.
const COLLECT_EVERY: Duration = Duration::from_secs(1);
/// A member that was silent for longer does not answer, whatever the preset.
const LEAST_SILENCE: Duration = Duration::from_secs(2);
/// A learner with all but so many records may vote: it gets the rest while it does.
const LEARNER_MAX_LAG: u64 = 128;
/// A group whose count was found wrong is not looked at again for so long: the look reads all tenants.
const DISTRUST_FOR: Duration = Duration::from_secs(600);
/// Tenants read at once when a count is checked.
const CHECK_PAGE: usize = 4096;
/// Placements that end at once when their group was given up, and pages read for that at one look.
const ABANDON_BATCH: usize = 500;
const ABANDON_PAGES: usize = 16;

/// What the controller stands on.
pub struct Controller {
    node: NodeId,
    engine: Arc<Engine>,
    store: Arc<dyn Metastore>,
    cluster: Cluster,
    /// A member that was silent for longer does not answer.
    silence: Duration,
    /// How long a group is empty before it is closed.
    collect_after: Duration,
    looked_at: Option<Instant>,
    empty_since: BTreeMap<GroupId, Instant>,
    distrusted: BTreeMap<GroupId, Instant>,
    /// Where the look for tenants of groups that were given up goes on.
    abandoned_up_to: Option<String>,
}

/// Whether this node leads group 0 with a living lease.
#[must_use]
pub fn leads(engine: &Engine, silence: Duration) -> Option<GroupStatus> {
    let root = engine.status(ROOT)?;
    (root.role == Role::Leader && !root.is_leaderless(silence)).then_some(root)
}

impl Controller {
    /// The controller of this node.
    #[must_use]
    pub fn new(
        node: NodeId,
        engine: Arc<Engine>,
        store: Arc<dyn Metastore>,
        cluster: Cluster,
        silence: Duration,
        collect_after: Duration,
    ) -> Self {
        Self {
            node,
            engine,
            store,
            cluster,
            silence,
            collect_after,
            looked_at: None,
            empty_since: BTreeMap::new(),
            distrusted: BTreeMap::new(),
            abandoned_up_to: None,
        }
    }

    /// Runs until its task is stopped.
    pub async fn run(mut self) {
        let mut changes = self.cluster.changes();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                _ = tick.tick() => {}
            }
            match leads(&self.engine, self.silence) {
                Some(root) => self.look(&root).await,
                // Who leads next begins to count anew.
                None => self.empty_since.clear(),
            }
        }
    }

    async fn look(&mut self, root: &GroupStatus) {
        let state = self.cluster.state();
        for command in membership::next(&state, &self.root(root)) {
            tracing::info!(?command, "membership");
            let done = tokio::time::timeout(STEP_DEADLINE, self.carry_out(&command)).await;
            match done {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => tracing::warn!(?command, %reason, "will be tried again"),
                Err(_) => tracing::warn!(?command, "took too long, will be tried again"),
            }
        }
        if self
            .looked_at
            .is_none_or(|at| at.elapsed() >= COLLECT_EVERY)
        {
            self.looked_at = Some(Instant::now());
            if let Err(error) = self.collect(&state).await {
                tracing::warn!(%error, "empty groups were not collected, will be tried again");
            }
        }
    }

    fn root(&self, root: &GroupStatus) -> Root {
        let silence = self.silence.max(LEAST_SILENCE);
        let view = |node: NodeId, votes| {
            if node == self.node {
                let (answers, caught_up) = (true, true);
                return MemberView {
                    votes,
                    answers,
                    caught_up,
                };
            }
            let follower = root.followers.iter().find(|f| f.node == node);
            let ack = follower.and_then(|f| f.millis_since_ack);
            let has_nearly_all = |f| root.lag_entries(f) <= LEARNER_MAX_LAG && f.matched.is_some();
            MemberView {
                votes,
                answers: ack.is_some_and(|ms| Duration::from_millis(ms) < silence),
                caught_up: follower.is_some_and(has_nearly_all),
            }
        };
        let learners = root.learners.iter().map(|node| (*node, view(*node, false)));
        let voters = root.voters.iter().map(|node| (*node, view(*node, true)));
        Root {
            members: learners.chain(voters).collect(),
            is_joint: root.is_joint,
            settled: root.members_settled,
        }
    }

    async fn carry_out(&self, command: &Command) -> Result<(), String> {
        let done = match command {
            Command::AddLearner(node) => self.engine.add_learner(ROOT, *node).await,
            Command::SetVoters(voters) => self.engine.change_voters(ROOT, voters.clone()).await,
            Command::DropLearners(nodes) => self.engine.remove_learners(ROOT, nodes.clone()).await,
            Command::Retire(node) => {
                return self.retire(*node).await.map_err(|e| e.to_string());
            }
        };
        done.map_err(|error| error.to_string())
    }

    async fn retire(&self, node: NodeId) -> Result<(), MetastoreError> {
        let key = keyspace::node(node);
        let Some(stored) = metastore::get::<Node>(&*self.store, &key)? else {
            return Ok(());
        };
        let id = transaction_id("retire", &node);
        let plan = nodes::retire(&stored.value, stored.revision, &id, unix_us());
        self.commit(plan).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<(), MetastoreError> {
        // A conflict means that the world changed: the next look sees how.
        let deadline = Instant::now() + STEP_DEADLINE;
        self.store.transact(transaction, deadline).await.map(drop)
    }

    async fn collect(&mut self, state: &ClusterState) -> Result<(), MetastoreError> {
        let now = Instant::now();
        let counted = self.counted()?;
        let given_up = collection::given_up(state, &counted);
        if !given_up.is_empty() {
            self.abandon(given_up).await?;
        }
        let held = custody::held_groups(&self.custodies()?, state);
        let empty = collection::empty(state, &(&counted | &held));
        self.empty_since.retain(|group, _| empty.contains(group));
        for group in empty {
            self.empty_since.entry(group).or_insert(now);
        }
        self.distrusted.retain(|_, at| now - *at < DISTRUST_FOR);
        let since = self.empty_since.iter();
        let since = since.filter(|(group, _)| !self.distrusted.contains_key(group));
        let empty_for = since.map(|(group, at)| (*group, now - *at)).collect();
        let close = collection::to_close(state, &empty_for, self.collect_after);
        if !close.is_empty() {
            self.close(close).await?;
        }
        for group in collection::to_forget(state, &counted) {
            if let Some(stored) = self.record(group)? {
                let id = transaction_id("forget", &group);
                let plan = collection::forget(&stored.value, stored.revision, &id, unix_us());
                self.commit(plan).await?;
            }
        }
        Ok(())
    }

    /// When the group's members last said what they have in quarantine; none of those that have nothing.
    fn said_by(
        &self,
        group: &GroupRecord,
    ) -> Result<Vec<(NodeId, Option<Revision>)>, MetastoreError> {
        let said = group.members.iter().map(|member| {
            let key = keyspace::custody(member.node);
            let said = metastore::get::<Custody>(&*self.store, &key)?;
            Ok((member.node, said.map(|said| said.revision)))
        });
        said.collect()
    }

    /// Ends a batch of the placements in groups that were given up.
    async fn abandon(&mut self, groups: BTreeSet<GroupId>) -> Result<(), MetastoreError> {
        let (store, after) = (Arc::clone(&self.store), self.abandoned_up_to.take());
        let look = tokio::task::spawn_blocking(move || tenants_of(&*store, &groups, after)).await;
        let (tenants, next) = look.map_err(|error| MetastoreError::State(error.to_string()))??;
        self.abandoned_up_to = next;
        if tenants.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            tenants = tenants.len(),
            "placements go with their group's only copy"
        );
        let id = transaction_id("abandon", &tenants.len());
        self.commit(collection::abandon(&tenants, &id, unix_us()))
            .await
    }

    fn record(
        &self,
        group: GroupId,
    ) -> Result<Option<metastore::Versioned<GroupRecord>>, MetastoreError> {
        metastore::get(&*self.store, &keyspace::group(group))
    }

    /// The groups that have a reference count.
    fn counted(&self) -> Result<BTreeSet<GroupId>, MetastoreError> {
        let mut counted = BTreeSet::new();
        self.store.read(&mut |view| {
            // Closing groups have none, so there are no more than there may be groups.
            for (key, _) in metastore::range(view, keyspace::REFS, None, limits::MAX_GROUPS)? {
                let id = key
                    .strip_prefix(keyspace::REFS)
                    .and_then(|id| id.parse().ok());
                counted.extend(id.map(GroupId::new));
            }
            Ok(())
        })?;
        Ok(counted)
    }

    /// What the nodes have said that they have in quarantine.
    fn custodies(&self) -> Result<Vec<Custody>, MetastoreError> {
        let mut said = Vec::new();
        self.store.read(&mut |view| {
            let rows = metastore::range(view, keyspace::CUSTODIES, None, limits::MAX_NODES)?;
            for (key, row) in rows {
                let custody = serde_json::from_slice(&row.value).map_err(|error| StateError {
                    reason: format!("`{key}`: {error}"),
                })?;
                said.push(custody);
            }
            Ok(())
        })?;
        Ok(said)
    }

    /// Closes groups that are empty by their count, after a look through all tenants: a wrong count
    /// must cost nobody's data.
    async fn close(&mut self, groups: Vec<GroupId>) -> Result<(), MetastoreError> {
        let store = Arc::clone(&self.store);
        let look = tokio::task::spawn_blocking(move || named_groups(&*store)).await;
        let named = look.map_err(|error| MetastoreError::State(error.to_string()))??;
        for group in groups {
            if named.contains(&group) {
                tracing::error!(%group, "the group's count of placements says none, and it has some");
                self.distrusted.insert(group, Instant::now());
                continue;
            }
            if let Some(stored) = self.record(group)? {
                let id = transaction_id("close", &group);
                let said = self.said_by(&stored.value)?;
                let record = (&stored.value, stored.revision);
                let plan = collection::close(record, &said, &id, unix_us());
                tracing::info!(%group, "closing a group without placements");
                self.commit(plan).await?;
            }
        }
        Ok(())
    }
}

/// A batch of placements, and the key after which to look on.
type Abandoned = (Vec<(Placement, Revision)>, Option<String>);

/// Placements in these groups, a batch of them, after the tenant with this key; and where to go on,
/// none: from the beginning. Reads a bounded number of tenants.
fn tenants_of(
    store: &dyn Metastore,
    groups: &BTreeSet<GroupId>,
    mut after: Option<String>,
) -> Result<Abandoned, MetastoreError> {
    let mut found = Vec::new();
    store.read(&mut |view| {
        for _ in 0..ABANDON_PAGES {
            let rows = metastore::range(view, keyspace::TENANTS, after.as_deref(), CHECK_PAGE)?;
            if rows.is_empty() {
                after = None;
                return Ok(());
            }
            for (key, row) in rows {
                let placement = serde_json::from_slice::<Placement>(&row.value).ok();
                let placement = placement.filter(|p| groups.contains(&p.group));
                found.extend(placement.map(|placement| (placement, row.revision)));
                after = Some(key);
                if found.len() == ABANDON_BATCH {
                    return Ok(());
                }
            }
        }
        Ok(())
    })?;
    Ok((found, after))
}

/// The groups that a placement names now. Reads all tenants, at one moment.
fn named_groups(store: &dyn Metastore) -> Result<BTreeSet<GroupId>, MetastoreError> {
    #[derive(Deserialize)]
    struct Home {
        group: GroupId,
    }
    let mut named = BTreeSet::new();
    store.read(&mut |view| {
        let mut after: Option<String> = None;
        loop {
            let rows = metastore::range(view, keyspace::TENANTS, after.as_deref(), CHECK_PAGE)?;
            for (key, row) in &rows {
                // What can't be read may name any group: nobody's data is risked for a slot.
                let home =
                    serde_json::from_slice::<Home>(&row.value).map_err(|error| StateError {
                        reason: format!("the placement `{key}`: {error}"),
                    })?;
                named.insert(home.group);
            }
            match rows.into_iter().last() {
                Some((last, _)) => after = Some(last),
                None => return Ok(()),
            }
        }
    })?;
    Ok(named)
}

/// Unique for each try: a try that was decided on another state must not count as this one.
fn transaction_id(what: &str, of: &impl std::fmt::Display) -> String {
    format!("{what}-{of}-{:032x}", fastrand::u128(..))
}
