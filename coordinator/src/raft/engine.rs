//! The multi-Raft engine of a coordinator: opens the databases, starts and stops groups, and is what
//! the rest of the process talks to. Proposals and reads are in `propose`.
//!
//! ```text
//!            propose ─▶ group's openraft core ─▶ log store ─▶ flusher ─▶ raft/
//!  Engine ─┬ read       │        ▲
//!          └ status     ▼        │ messages
//!                    applier   Transport ◀──▶ other nodes
//!                       ▼
//!                    state/
//! ```
//! Cores, heartbeats and control connections run on a runtime of the engine's own, bulk connections
//! on a second: data load elsewhere must not look like a death.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use maia_common::limits::MAX_ENTRY_READS;
use maia_common::runtime::{Gate, Tasks};
use maia_common::{GroupId, NodeId};
use rocksdb::{Cache, DB};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

use super::catch_up::{CatchUp, Load};
use super::config::EngineConfig;
use super::counters::{Counters, LogStats};
use super::db;
use super::disk::DiskGuard;
use super::early::Transferring;
use super::errors::{EngineOpenError, GroupError};
use super::events::LeaderEvents;
use super::group::{Group, GroupStatus};
use super::groups::{GroupEntry, Groups, Stop};
use super::herald;
use super::log::flusher::Flusher;
use super::log::recovery;
use super::log::store::{GroupLog, SharedTail};
use super::log::tail::Tail;
use super::log::work::InstanceId;
use super::quarantine::Quarantine;
use super::retention::Keeper;
use super::runtimes::Runtimes;
use super::snapshot::SnapshotStore;
use super::starts;
use super::state::applier::Applier;
use super::state::db::StateDb;
use super::state::digest::Digests;
use super::state::machine::GroupMachine;
use super::state::reader::StateReader;
use super::transport::Transport;
use super::transport::client::{GrpcTransport, PeerDirectory};
use super::transport::inbound::Inbound;
use super::transport::network::GroupNetworks;
use super::types::RaftNode;
use super::witness::GroupSetup;

/// The engine. One per process; shared by reference.
pub struct Engine {
    pub(crate) config: EngineConfig,
    pub(crate) groups: Arc<Groups>,
    pub(crate) disk: Arc<DiskGuard>,
    pub(super) raft_db: Arc<DB>,
    pub(super) state: Arc<StateDb>,
    pub(super) flusher: Arc<Flusher>,
    pub(super) snapshots: Arc<SnapshotStore>,
    applier: Arc<dyn Applier>,
    transport: Arc<dyn Transport>,
    counters: Arc<Counters>,
    pub(super) load: Arc<Load>,
    events: LeaderEvents,
    pub(super) tasks: Tasks,
    /// Groups start one at a time.
    starting: tokio::sync::Mutex<()>,
    pub(super) digests: Arc<Digests>,
    /// So many readers of entries at once.
    pub(super) reading: Arc<Semaphore>,
    control: Handle,
    pub(super) runtimes: Mutex<Option<Runtimes>>,
}

impl Engine {
    /// Opens the node's folder and starts the engine's threads; no group runs yet. Messages go over
    /// gRPC to where `peers` says.
    ///
    /// # Errors
    /// [`EngineOpenError`] when a database, the folder or the configuration is at fault.
    pub fn open(
        config: EngineConfig,
        applier: Arc<dyn Applier>,
        peers: Arc<dyn PeerDirectory>,
    ) -> Result<Arc<Self>, EngineOpenError> {
        let heartbeat = config.heartbeat;
        Self::open_with(config, applier, |control, bulk| {
            Arc::new(GrpcTransport::new(peers, control, bulk, heartbeat))
        })
    }

    /// As [`Engine::open`], with any transport; it is given the control and the bulk runtime.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open_with(
        config: EngineConfig,
        applier: Arc<dyn Applier>,
        transport: impl FnOnce(Handle, Handle) -> Arc<dyn Transport>,
    ) -> Result<Arc<Self>, EngineOpenError> {
        let io = |source| EngineOpenError::Io {
            dir: config.dir.clone(),
            source,
        };
        config
            .raft_config(false)
            .map_err(|reason| EngineOpenError::Config { reason })?;
        let cache = Cache::new_lru_cache(config.databases.block_cache_bytes);
        let raft_db = db::open_raft(&config.dir, &config.databases, &cache)?;
        starts::count(&config.dir, &raft_db)?;
        let state_db = db::open_state(&config.dir, &config.databases, &cache)?;
        let counters = Arc::new(Counters::default());
        let flusher = Flusher::start(Arc::clone(&raft_db), Arc::clone(&counters)).map_err(io)?;
        #[cfg(test)]
        if config.sabotage == Some(super::config::Sabotage::AnswerBeforeSync) {
            flusher.lie();
        }
        let disk = Arc::new(DiskGuard::new(&config.dir, config.disk_watermark_bytes));
        let snapshots = Arc::new(SnapshotStore::open(&config.dir).map_err(io)?);
        // Last: a runtime must not be dropped by an error on the caller's own runtime.
        let runtimes = Runtimes::start().map_err(io)?;
        let engine = Arc::new(Self {
            groups: Arc::default(),
            raft_db,
            state: Arc::new(StateDb::new(state_db)),
            flusher: Arc::new(flusher),
            snapshots,
            applier,
            transport: transport(runtimes.control(), runtimes.bulk()),
            load: Arc::new(Load::new(Arc::clone(&counters))),
            counters,
            events: LeaderEvents::new(),
            tasks: Tasks::new(),
            starting: tokio::sync::Mutex::default(),
            digests: Arc::default(),
            reading: Arc::new(Semaphore::new(MAX_ENTRY_READS)),
            control: runtimes.control(),
            runtimes: Mutex::new(Some(runtimes)),
            disk: Arc::clone(&disk),
            config,
        });
        let _inside = engine.control.enter();
        engine
            .tasks
            .spawn_until_stop("disk-watch", async move { disk.watch().await });
        if let Some(kept) = engine.config.retention {
            let keeper = Keeper {
                groups: Arc::clone(&engine.groups),
                snapshots: Arc::clone(&engine.snapshots),
                disk: Arc::clone(&engine.disk),
                raft_db: Arc::clone(&engine.raft_db),
                state_db: Arc::clone(&engine.state.db),
                kept,
                silence: engine.config.election_max * 2,
            };
            engine.tasks.spawn_until_stop("retention", keeper.run());
        }
        Ok(Arc::clone(&engine))
    }

    /// The runtime on which the engine's cores run; best place for the `rpc` listener, too.
    #[must_use]
    pub fn runtime(&self) -> Handle {
        self.control.clone()
    }

    /// The receiving side, for [`raft_service`](super::raft_service).
    #[must_use]
    pub fn inbound(&self) -> Inbound {
        Inbound {
            node: self.config.node,
            groups: Arc::clone(&self.groups),
            snapshots: Arc::clone(&self.snapshots),
            disk: Arc::clone(&self.disk),
        }
    }

    /// Starts this node's instance of a group, with the witness that the group's record names; does nothing when it runs, and starts it anew when it
    /// has stopped over an error. Only ever called because a group's record says so, never because
    /// of a message.
    ///
    /// # Errors
    /// [`GroupError::GroupLeft`], or [`GroupError::Stopped`] when its storage is damaged: other
    /// groups go on.
    pub async fn start_group(
        self: &Arc<Self>,
        setup: impl Into<GroupSetup>,
    ) -> Result<(), GroupError> {
        let (engine, setup) = (Arc::clone(self), setup.into());
        let group = setup.group;
        self.inside("start-group", async move { engine.start(setup).await })
            .await
            .unwrap_or_else(|| {
                Err(GroupError::Stopped {
                    group,
                    reason: "shut down".to_owned(),
                })
            })
    }

    async fn start(&self, setup: GroupSetup) -> Result<(), GroupError> {
        let group = setup.group;
        let _one_at_a_time = self.starting.lock().await;
        if let Some(running) = self.groups.running(group) {
            if running.stopped().is_none() {
                return Ok(());
            }
            running.end().await;
        }
        let failed = |reason: String| GroupError::Stopped { group, reason };
        let left = recovery::has_left(&self.raft_db, group).map_err(|e| failed(e.to_string()))?;
        if left {
            return Err(GroupError::GroupLeft(group));
        }
        match self.start_instance(setup).await {
            Ok(running) => {
                let running = Arc::new(running);
                self.groups
                    .set(group, GroupEntry::Running(Arc::clone(&running)));
                let events = self.events.clone();
                self.tasks
                    .spawn_until_stop("leader-events", events.follow(Arc::clone(&running)));
                if group.is_metastore() {
                    self.tasks
                        .spawn_until_stop("herald", herald::follow(Arc::clone(&running)));
                }
                if let Some(leash) = running.leash.clone().filter(|_| !running.is_witness()) {
                    let watch = leash.watch(Arc::clone(&running), self.config.heartbeat);
                    self.tasks.spawn_until_stop("witness-leash", watch);
                }
                self.end_silence(running);
                Ok(())
            }
            Err(stop) => {
                let reason = stop.reason.clone();
                let witness = setup.witness;
                self.note_failed(group, Stop { witness, ..stop });
                Err(failed(reason))
            }
        }
    }

    /// Says it once, however often it is tried.
    fn note_failed(&self, group: GroupId, stop: Stop) {
        let known = match self.groups.entry(group) {
            Some(GroupEntry::Failed(known)) => known == stop,
            _ => false,
        };
        if !known {
            tracing::error!(%group, reason = %stop.reason, "a group cannot start");
            self.groups.set(group, GroupEntry::Failed(stop));
        }
    }

    async fn start_instance(&self, setup: GroupSetup) -> Result<Group, Stop> {
        let (group, leash) = (setup.group, setup.witness.map(|node| self.leash(node)));
        let instance = self.flusher.open(group).await?;
        self.snapshots.load(group)?;
        let machine = GroupMachine::open(
            group,
            Arc::clone(&self.state),
            Arc::clone(&self.snapshots),
            Arc::clone(&self.applier),
            Arc::clone(&self.counters),
            Arc::clone(&self.disk),
        );
        let mut machine = machine.await?;
        let (applied, _) = self.state.applied(group)?;
        let mut tail = recovery::load_tail(&self.raft_db, group, applied, self.config.tail_bytes)?;
        tail.ledger
            .weigh_traces(|range| self.state.trace_bytes(group, range));
        let has_voted = tail.vote.is_some();
        let log = self.log_of(group, instance, tail);
        let tail = log.tail.clone();
        machine.tail = Some(tail.clone());
        machine.digests = Arc::clone(&self.digests);
        let (node, patience) = (self.config.node, self.config.election_max);
        let catch_up = CatchUp::new(&self.load, node, leash.clone(), tail.clone(), patience);
        let failed = |reason: String| Stop {
            reason,
            damaged: tail.lock().damaged,
            witness: setup.witness,
        };
        let networks = GroupNetworks {
            transport: Arc::clone(&self.transport),
            group,
            node,
            bulk_timeout: self.config.bulk_timeout(),
            control_timeout: self.config.election_min,
            leash: leash.clone(),
            hold: self.config.heartbeat,
            catch_up: Arc::clone(&catch_up),
            snapshots: Arc::clone(&self.snapshots),
        };
        // A witness never campaigns; others that have voted before not at once.
        let is_mute = has_voted || setup.witness == Some(node);
        let config = Arc::new(self.config.raft_config(is_mute).map_err(failed)?);
        let raft = RaftNode::new(node.get(), config, networks, log, machine).await;
        let raft = raft.map_err(|e| failed(e.to_string()))?;
        catch_up.see(raft.metrics());
        let silent = has_voted && !is_alone(&raft, node).await;
        #[cfg(test)]
        let silent = silent && self.config.sabotage != Some(super::config::Sabotage::NoVoteSilence);
        let silent_until = silent.then(|| Instant::now() + self.config.election_max);
        let gate = Gate::new(self.config.max_in_flight_proposals);
        Ok(Group {
            id: group,
            node,
            raft,
            tail,
            gate,
            heard_ms: AtomicU64::new(0),
            trail: Mutex::default(),
            transferring: Transferring::default(),
            unfit: Mutex::new(self.unfit_at_first()),
            started: Instant::now(),
            silent_until,
            leash,
            catch_up,
            led: Mutex::default(),
        })
    }

    fn log_of(&self, group: GroupId, instance: InstanceId, tail: Tail) -> GroupLog {
        GroupLog {
            group,
            instance,
            tail: SharedTail::new(tail),
            db: Arc::clone(&self.raft_db),
            flusher: Arc::clone(&self.flusher),
            state: Arc::clone(&self.state),
        }
    }

    /// Lets the group campaign once its silence is over; a witness never does.
    fn end_silence(&self, group: Arc<Group>) {
        if group.is_witness() {
            return;
        }
        let Some(until) = group.silent_until else {
            group.let_campaign();
            return;
        };
        self.tasks.spawn_until_stop("vote-silence", async move {
            tokio::time::sleep_until(until.into()).await;
            group.let_campaign();
        });
    }

    /// Leaves a group for good: stops its instance if there is one, deletes the log, state and
    /// snapshot that the disk has of it, and keeps a tombstone so that it is not started again by
    /// mistake. Asking again ends what a crash interrupted.
    ///
    /// # Errors
    /// [`GroupError`] when the disk fails: to be asked again.
    pub async fn stop_group(self: &Arc<Self>, group: GroupId) -> Result<(), GroupError> {
        let engine = Arc::clone(self);
        self.inside("stop-group", async move { engine.leave(group).await })
            .await
            .unwrap_or_else(|| {
                Err(GroupError::Stopped {
                    group,
                    reason: "shut down".to_owned(),
                })
            })
    }

    async fn leave(&self, group: GroupId) -> Result<(), GroupError> {
        let _one_at_a_time = self.starting.lock().await;
        if let Some(GroupEntry::Running(running)) = self.groups.remove(group) {
            running.end().await;
        }
        let done = async {
            let instance = self.flusher.open(group).await?;
            let applied = match self.state.applied(group) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
                applied => applied?.0,
            };
            let tail = recovery::load_tail(&self.raft_db, group, applied, 0);
            let tail = tail.unwrap_or_else(|error| {
                tracing::error!(%group, %error, "leaving with what can be read of its log");
                Tail::damaged()
            });
            let known = applied.max(tail.committed);
            self.log_of(group, instance, tail).leave(known).await?;
            self.state.forget_group(group)?;
            self.state.sync().await?;
            self.snapshots.forget(group)
        };
        done.await.map_err(|e: io::Error| GroupError::Stopped {
            group,
            reason: e.to_string(),
        })
    }

    /// The group as this node sees it; none when it was not started here.
    #[must_use]
    pub fn status(&self, group: GroupId) -> Option<GroupStatus> {
        match self.groups.entry(group)? {
            GroupEntry::Running(group) => Some(group.status()),
            GroupEntry::Failed(stop) => Some(GroupStatus::failed(stop)),
        }
    }

    /// The groups that were started here.
    #[must_use]
    pub fn group_ids(&self) -> Vec<GroupId> {
        self.groups.ids()
    }

    /// Where leader events come from.
    #[must_use]
    pub fn leader_events(&self) -> LeaderEvents {
        self.events.clone()
    }

    /// Reads of applied state.
    #[must_use]
    pub fn state(&self) -> StateReader {
        StateReader::new(Arc::clone(&self.state.db))
    }

    /// What left this node's logs before it was known to be committed.
    #[must_use]
    pub fn quarantine(&self) -> Quarantine {
        Quarantine::new(Arc::clone(&self.raft_db))
    }

    /// What the engine has counted.
    #[must_use]
    pub fn log_stats(&self) -> LogStats {
        self.counters.read()
    }

    /// Bytes of a group's log, about.
    #[must_use]
    pub fn log_size_bytes(&self, group: GroupId) -> u64 {
        let running = self.groups.running(group);
        running.map_or(0, |group| group.tail.lock().ledger.bytes())
    }

    /// How many bytes a group's log may take, about; 0: it is kept by another rule.
    #[must_use]
    pub fn retention_bytes(&self) -> u64 {
        self.config.retention.map_or(0, |kept| kept.bytes)
    }

    /// Free bytes on the node's disk when last looked at.
    #[must_use]
    pub fn disk_free_bytes(&self) -> u64 {
        self.disk.free_bytes()
    }

    pub(crate) fn running(&self, group: GroupId) -> Result<Arc<Group>, GroupError> {
        match self.groups.entry(group) {
            Some(GroupEntry::Running(running)) => Ok(running),
            Some(GroupEntry::Failed(Stop { reason, .. })) => {
                Err(GroupError::Stopped { group, reason })
            }
            None => Err(GroupError::UnknownGroup(group)),
        }
    }

    /// Runs work on the engine's runtime; none when the engine is shut down meanwhile.
    async fn inside<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (done, result) = oneshot::channel();
        {
            let _inside = self.control.enter();
            self.tasks.spawn(name, async move {
                // The caller may have gone; the work is done all the same.
                let _ = done.send(work.await);
            });
        }
        result.await.ok()
    }
}

/// Whether this node is the group's only voter: then no other's promise can be broken.
async fn is_alone(raft: &RaftNode, node: NodeId) -> bool {
    let alone = raft.with_raft_state(move |state| {
        let mut voters = state.membership_state.effective().voter_ids();
        voters.next() == Some(node.get()) && voters.next().is_none()
    });
    alone.await.unwrap_or(false)
}
