//! The owner of group life on this node: one loop that looks at the cluster's picture and at the
//! local instances, asks `core/group_life` what to do, and does it. Also passes leader changes on,
//! as hints, to all coordinators; and says again, once a second, what it sees of every group, since a
//! hint may be lost. Every act is idempotent; what fails is tried again at the next look, which comes
//! with every change and every tick.

mod hints;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::ids::{GroupId, NodeId, RegionName};
use maia_common::placement::{GroupRecord, GroupState, Member, MemberRole};
use maia_common::position::Term;
use maia_common::runtime::Tasks;
use maia_common::topology::Leader;
use tokio::sync::{broadcast, mpsc, watch};

use super::clock::unix_us;
use super::cluster::Cluster;
use super::peers::Peers;
use crate::core::group_life::{self, Command, Instance, Local, Members, Moves};
use crate::core::metastore::{Precondition, Transaction};
use crate::core::{keyspace, placements};
use crate::metastore::{self, Metastore, MetastoreError};
use crate::raft::{Engine, LeaderEvent, Role};

/// How often to look when nothing happens: what failed is tried again.
const TICK: Duration = Duration::from_millis(200);
/// How long one act may take before it is given up and decided anew.
const ACT_DEADLINE: Duration = Duration::from_secs(5);
/// A voter that answered this lately, and has all but so many records, may take over.
const WELL_WITHIN_MS: u64 = 2000;
const WELL_LAG: u64 = 64;
/// How often instances that stopped over an error are started anew.
const REVIVE_EVERY: Duration = Duration::from_secs(5);
/// How often what is seen of each group is said again.
const REPEAT_EVERY: Duration = Duration::from_secs(1);

/// What acts need. Cheap to clone.
#[derive(Clone)]
struct Hands {
    node: NodeId,
    region: RegionName,
    engine: Arc<Engine>,
    store: Arc<dyn Metastore>,
    cluster: Cluster,
    peers: Arc<Peers>,
    tasks: Tasks,
}

/// What the loop stands on.
pub struct GroupParts {
    /// This node and its region.
    pub me: (NodeId, RegionName),
    /// The instances.
    pub engine: Arc<Engine>,
    /// For records and announcements.
    pub store: Arc<dyn Metastore>,
    /// The picture of the cluster.
    pub cluster: Cluster,
    /// For hints.
    pub peers: Arc<Peers>,
    /// Owns the acts.
    pub tasks: Tasks,
    /// When leaders go home.
    pub moves: Moves,
    /// Turns true when this node has been removed from the cluster.
    pub removed: watch::Receiver<bool>,
}

/// The loop.
pub struct GroupLoop {
    hands: Hands,
    removed: watch::Receiver<bool>,
    gone: BTreeSet<GroupId>,
    repeated_at: Instant,
    events: broadcast::Receiver<LeaderEvent>,
    moves: Moves,
    blank_since: BTreeMap<GroupId, Instant>,
    well_since: BTreeMap<(GroupId, NodeId), Instant>,
    moved_at: BTreeMap<GroupId, Instant>,
    revived_at: Instant,
    running: BTreeSet<Command>,
    done_sender: mpsc::Sender<(Command, bool)>,
    done: mpsc::Receiver<(Command, bool)>,
}

impl GroupLoop {
    /// The loop for this node.
    #[must_use]
    pub fn new(parts: GroupParts) -> Self {
        let events = parts.engine.leader_events().subscribe();
        let (done_sender, done) = mpsc::channel(256);
        Self {
            hands: Hands {
                node: parts.me.0,
                region: parts.me.1,
                engine: parts.engine,
                store: parts.store,
                cluster: parts.cluster,
                peers: parts.peers,
                tasks: parts.tasks,
            },
            removed: parts.removed,
            gone: BTreeSet::new(),
            repeated_at: Instant::now(),
            events,
            moves: parts.moves,
            blank_since: BTreeMap::new(),
            well_since: BTreeMap::new(),
            moved_at: BTreeMap::new(),
            revived_at: Instant::now(),
            running: BTreeSet::new(),
            done_sender,
            done,
        }
    }

    /// Runs until its task is stopped, or the node removed.
    pub async fn run(mut self) {
        let mut changes = self.hands.cluster.changes();
        let mut removed = self.removed.clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                event = self.events.recv() => match event {
                    Ok(event) => self.hands.pass_on(&event),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                Some((command, succeeded)) = self.done.recv() => self.end(&command, succeeded),
                _ = removed.wait_for(|removed| *removed) => return,
                _ = tick.tick() => {}
            }
            self.look();
        }
    }

    fn end(&mut self, command: &Command, succeeded: bool) {
        self.running.remove(command);
        if let (Command::Leave(group), true) = (command, succeeded) {
            self.gone.insert(*group);
        }
    }

    fn look(&mut self) {
        self.revive();
        self.repeat();
        let cluster = self.hands.cluster.state();
        self.gone.retain(|group| cluster.groups.contains_key(group));
        for record in cluster.groups.values() {
            let local = self.local(record);
            let (node, moves) = (self.hands.node, self.moves);
            for command in group_life::next(node, record, &local, moves, &cluster) {
                if let Command::Transfer(group, _) = command {
                    self.moved_at.insert(group, Instant::now());
                }
                self.begin(command);
            }
        }
    }

    /// Says again what was last seen of each group here: an event, or the hint that it became, may be
    /// lost. What is known already changes nothing.
    fn repeat(&mut self) {
        if self.repeated_at.elapsed() < REPEAT_EVERY {
            return;
        }
        self.repeated_at = Instant::now();
        let runs = self.hands.engine.group_ids();
        for event in self.hands.engine.leader_events().known() {
            if runs.contains(&event.group) {
                self.hands.note(&event);
            }
        }
    }

    /// Starts instances anew that stopped over an error, such as a full disk: it may be gone. One
    /// whose storage is damaged stays down until an operator has looked at it.
    fn revive(&mut self) {
        if self.revived_at.elapsed() < REVIVE_EVERY {
            return;
        }
        self.revived_at = Instant::now();
        let engine = &self.hands.engine;
        let stopped = engine.group_ids().into_iter().filter(|group| {
            engine
                .status(*group)
                .is_some_and(|status| status.may_be_revived())
        });
        for group in stopped.collect::<Vec<_>>() {
            self.begin(Command::Start(group));
        }
    }

    /// What this node knows of the group, and since when.
    fn local(&mut self, record: &GroupRecord) -> Local {
        let (group, now) = (record.id, Instant::now());
        let instance = self.instance(group);
        let mut well_for = BTreeMap::new();
        for member in &record.members {
            let key = (group, member.node);
            if self.is_well(group, member.node) {
                let since = *self.well_since.entry(key).or_insert(now);
                well_for.insert(member.node, now - since);
            } else {
                self.well_since.remove(&key);
            }
        }
        let is_blank = instance.is_some_and(|i| i.is_blank);
        let blank_for = if is_blank {
            now - *self.blank_since.entry(group).or_insert(now)
        } else {
            self.blank_since.remove(&group);
            Duration::ZERO
        };
        Local {
            instance,
            blank_for,
            well_for,
            moved_before: self.moved_at.get(&group).map(|at| now - *at),
            members: self.members(record),
            is_gone: self.gone.contains(&group),
        }
    }

    /// On the group's leader, while somebody may come or leave: who the members are.
    fn members(&self, record: &GroupRecord) -> Members {
        let status = self.hands.engine.status(record.id);
        let Some(status) = status.filter(|s| s.role == Role::Leader) else {
            return Members::default();
        };
        let learns = |m: &Member| m.role == MemberRole::Learner;
        if record.leaving.is_empty() && !record.staying().any(learns) {
            return Members::default();
        }
        let answers = |ms: Option<u64>| ms.is_some_and(|ms| ms < WELL_WITHIN_MS);
        let others = status.followers.iter();
        let others = others.filter(|f| answers(f.millis_since_ack));
        Members {
            voters: status.voters.iter().copied().collect(),
            learners: status.learners.iter().copied().collect(),
            is_joint: status.is_joint,
            settled: status.members_settled,
            answering: others.map(|f| f.node).chain([self.hands.node]).collect(),
        }
    }

    /// On the group's leader: whether the member answers and has nearly all records.
    fn is_well(&self, group: GroupId, node: NodeId) -> bool {
        let Some(status) = self.hands.engine.status(group) else {
            return false;
        };
        let Some(follower) = status.followers.iter().find(|f| f.node == node) else {
            return false;
        };
        let answers = follower
            .millis_since_ack
            .is_some_and(|ms| ms < WELL_WITHIN_MS);
        answers && status.lag_entries(follower) <= WELL_LAG
    }

    fn instance(&self, group: GroupId) -> Option<Instance> {
        let status = self.hands.engine.status(group)?;
        Some(Instance {
            is_blank: status.voters.is_empty(),
            leads_at: (status.leader == Some(self.hands.node)).then_some(status.term),
        })
    }

    /// Starts the act unless it is running.
    fn begin(&mut self, command: Command) {
        if !self.running.insert(command.clone()) {
            return;
        }
        let (hands, done) = (self.hands.clone(), self.done_sender.clone());
        let tasks = hands.tasks.clone();
        tasks.spawn_until_stop("group act", async move {
            let act = hands.carry_out(&command);
            let succeeded = match tokio::time::timeout(ACT_DEADLINE, act).await {
                Ok(Ok(())) => true,
                Ok(Err(reason)) => {
                    tracing::warn!(?command, %reason, "will be tried again");
                    false
                }
                Err(_) => {
                    tracing::warn!(?command, "took too long, will be tried again");
                    false
                }
            };
            // The loop that would hear of it is gone only when all stops.
            drop(done.send((command, succeeded)).await);
        });
    }
}

impl Hands {
    async fn carry_out(&self, command: &Command) -> Result<(), String> {
        let engine = &self.engine;
        let done = match command {
            // What it is started as stands in its record; without one it is not started.
            Command::Start(group) => match self.cluster.state().groups.get(group) {
                Some(record) => engine.start_group(record).await,
                None => return Ok(()),
            },
            Command::Initialize(group, voters) => {
                let voters = voters.iter().copied().collect();
                engine.initialize_group(*group, voters).await
            }
            Command::Transfer(group, to) => {
                tracing::info!(%group, %to, "the leadership is handed over");
                engine.transfer(*group, *to).await
            }
            Command::SetVoters(group, voters) => {
                tracing::info!(%group, ?voters, "taking members out");
                engine.change_voters(*group, voters.clone()).await
            }
            Command::AddLearner(group, node) => {
                tracing::info!(%group, %node, "adding a member without a vote");
                engine.add_learner(*group, *node).await
            }
            Command::DropLearners(group, nodes) => {
                engine.remove_learners(*group, nodes.clone()).await
            }
            Command::Leave(group) => {
                tracing::info!(%group, "this node leaves the group and deletes what it has of it");
                engine.stop_group(*group).await
            }
            other => return self.record(other).await.map_err(|e| e.to_string()),
        };
        done.map_err(|error| error.to_string())
    }

    /// The commands that change what the metastore says of a group.
    async fn record(&self, command: &Command) -> Result<(), MetastoreError> {
        match command {
            Command::Activate(group) => self.activate(*group).await,
            Command::Announce(group, term) => self.announce(*group, *term).await,
            Command::Confirm(group, nodes) => {
                self.note_left("confirm", *group, |record| {
                    record.leaving = &record.leaving - nodes;
                    record.left.extend(nodes);
                })
                .await
            }
            Command::Depart(group) => {
                self.note_left("depart", *group, |record| {
                    record.left.insert(self.node);
                })
                .await
            }
            _ => Ok(()),
        }
    }

    /// Changes who has left, as of the newest record; another's change meanwhile has it tried again.
    async fn note_left(
        &self,
        what: &str,
        group: GroupId,
        change: impl FnOnce(&mut GroupRecord),
    ) -> Result<(), MetastoreError> {
        let key = keyspace::group(group);
        let Some(stored) = metastore::get::<GroupRecord>(&*self.store, &key)? else {
            return Ok(());
        };
        let mut record = stored.value.clone();
        change(&mut record);
        if record == stored.value {
            return Ok(());
        }
        let id = self.transaction_id(what, group, Term::new(stored.revision.get()));
        let plan = Transaction::new(id, unix_us())
            .when(&key, Precondition::At(stored.revision))
            .put_json(&key, &record);
        let deadline = Instant::now() + ACT_DEADLINE;
        self.store.transact(plan, deadline).await.map(drop)
    }

    /// Confirms the group unless that was done already.
    async fn activate(&self, group: GroupId) -> Result<(), MetastoreError> {
        let stored = metastore::get::<GroupRecord>(&*self.store, &keyspace::group(group))?;
        let creating = stored.filter(|stored| stored.value.state == GroupState::Creating);
        let Some(stored) = creating else {
            return Ok(());
        };
        let id = self.transaction_id("activate", group, Term::new(stored.revision.get()));
        let plan = placements::activate_group(&stored.value, stored.revision, &id, unix_us());
        self.store
            .transact(plan, Instant::now() + ACT_DEADLINE)
            .await
            .map(drop)
    }

    /// Writes the announcement unless one of a higher term stands there.
    async fn announce(&self, group: GroupId, term: Term) -> Result<(), MetastoreError> {
        let key = keyspace::leader(group);
        let stored = metastore::get::<Leader>(&*self.store, &key)?;
        if stored.as_ref().is_some_and(|s| s.value.term >= term) {
            return Ok(());
        }
        let unchanged = stored.map_or(Precondition::Absent, |s| Precondition::At(s.revision));
        let leader = self.leader(term);
        let event = placements::Event {
            kind: "leader_announced".into(),
            at_unix_us: unix_us(),
            tenant: None,
            group: Some(group),
            detail: format!("region {} leads at term {term}", self.region),
        };
        let plan = Transaction::new(self.transaction_id("announce", group, term), unix_us())
            .when(&key, unchanged)
            // Of a group that is no more nothing must be announced: nobody would take it back.
            .when(keyspace::group(group), Precondition::Present)
            .put_json(&key, &leader)
            .event(&event);
        self.store
            .transact(plan, Instant::now() + ACT_DEADLINE)
            .await
            .map(drop)
    }

    fn leader(&self, term: Term) -> Leader {
        Leader {
            term,
            node: self.node,
            region: self.region.clone(),
        }
    }

    /// Unique for each try: a try that was decided on another state must not count as this one.
    fn transaction_id(&self, what: &str, group: GroupId, term: Term) -> String {
        format!(
            "{what}-{group}-{term}-{}-{:016x}",
            self.node,
            fastrand::u64(..)
        )
    }
}
