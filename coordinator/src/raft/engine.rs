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

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use maia_common::runtime::{Gate, Tasks};
use maia_common::{GroupId, NodeId};
use openraft::errors::{InitializeError, RaftError};
use rocksdb::{Cache, DB};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::oneshot;

use super::config::EngineConfig;
use super::counters::{Counters, LogStats};
use super::db;
use super::disk::DiskGuard;
use super::errors::{EngineOpenError, GroupError};
use super::events::LeaderEvents;
use super::group::{Group, GroupStatus};
use super::groups::{GroupEntry, Groups};
use super::herald;
use super::log::flusher::Flusher;
use super::log::recovery;
use super::log::store::{GroupLog, SharedTail};
use super::log::tail::Tail;
use super::snapshot::SnapshotStore;
use super::state::applier::Applier;
use super::state::db::StateDb;
use super::state::machine::GroupMachine;
use super::state::reader::StateReader;
use super::transport::Transport;
use super::transport::client::{GrpcTransport, PeerDirectory};
use super::transport::inbound::Inbound;
use super::transport::network::GroupNetworks;
use super::types::RaftNode;

/// How long a group's instance may take to end.
const GROUP_STOP: Duration = Duration::from_secs(5);

/// The engine. One per process; shared by reference.
pub struct Engine {
    pub(crate) config: EngineConfig,
    pub(crate) groups: Arc<Groups>,
    pub(crate) disk: Arc<DiskGuard>,
    raft_db: Arc<DB>,
    state: Arc<StateDb>,
    flusher: Arc<Flusher>,
    snapshots: Arc<SnapshotStore>,
    applier: Arc<dyn Applier>,
    transport: Arc<dyn Transport>,
    counters: Arc<Counters>,
    events: LeaderEvents,
    tasks: Tasks,
    /// Groups start one at a time.
    starting: tokio::sync::Mutex<()>,
    control: Handle,
    runtimes: Mutex<Option<(Runtime, Runtime)>>,
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
        let cache = Cache::new_lru_cache(config.memory.block_cache_bytes);
        let raft_db = db::open_raft(&config.dir, &config.memory, &cache)?;
        let state_db =
            db::open_state(&config.dir, &config.memory, &cache, config.buffer_state_wal)?;
        let counters = Arc::new(Counters::default());
        let flusher = Flusher::start(Arc::clone(&raft_db), Arc::clone(&counters)).map_err(io)?;
        #[cfg(test)]
        if config.sabotage == Some(super::config::Sabotage::AnswerBeforeSync) {
            flusher.lie();
        }
        let disk = Arc::new(DiskGuard::new(&config.dir, config.disk_watermark_bytes));
        let snapshots = Arc::new(SnapshotStore::open(&config.dir).map_err(io)?);
        // Last: a runtime must not be dropped by an error on the caller's own runtime.
        let control = runtime("raft", 4).map_err(io)?;
        let bulk = runtime("raft-bulk", 2).map_err(io)?;
        let engine = Arc::new(Self {
            groups: Arc::default(),
            raft_db,
            state: Arc::new(StateDb::new(state_db)),
            flusher: Arc::new(flusher),
            snapshots,
            applier,
            transport: transport(control.handle().clone(), bulk.handle().clone()),
            counters,
            events: LeaderEvents::new(),
            tasks: Tasks::new(),
            starting: tokio::sync::Mutex::default(),
            control: control.handle().clone(),
            runtimes: Mutex::new(Some((control, bulk))),
            disk: Arc::clone(&disk),
            config,
        });
        let _inside = engine.control.enter();
        engine
            .tasks
            .spawn_until_stop("disk-watch", async move { disk.watch().await });
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

    /// Starts this node's instance of a group; does nothing when it runs, and starts it anew when it
    /// has stopped over an error. Only ever called because a group's record says so, never because
    /// of a message.
    ///
    /// # Errors
    /// [`GroupError::GroupLeft`], or [`GroupError::Stopped`] when its storage is damaged: other
    /// groups go on.
    pub async fn start_group(self: &Arc<Self>, group: GroupId) -> Result<(), GroupError> {
        let engine = Arc::clone(self);
        self.inside("start-group", async move { engine.start(group).await })
            .await
            .unwrap_or_else(|| {
                Err(GroupError::Stopped {
                    group,
                    reason: "shut down".to_owned(),
                })
            })
    }

    async fn start(&self, group: GroupId) -> Result<(), GroupError> {
        let _one_at_a_time = self.starting.lock().await;
        if let Some(running) = self.groups.running(group) {
            if running.stopped().is_none() {
                return Ok(());
            }
            end_instance(&running).await;
        }
        let failed = |reason: String| GroupError::Stopped { group, reason };
        let left = recovery::has_left(&self.raft_db, group).map_err(|e| failed(e.to_string()))?;
        if left {
            return Err(GroupError::GroupLeft(group));
        }
        match self.start_instance(group).await {
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
                self.end_silence(running);
                Ok(())
            }
            Err(reason) => {
                tracing::error!(%group, %reason, "a group cannot start");
                self.groups.set(group, GroupEntry::Failed(reason.clone()));
                Err(failed(reason))
            }
        }
    }

    async fn start_instance(&self, group: GroupId) -> Result<Group, String> {
        let tail = recovery::load_tail(&self.raft_db, group, self.config.tail_bytes)
            .map_err(|e| e.to_string())?;
        let has_voted = tail.vote.is_some();
        let log = self.log_of(group, tail);
        self.snapshots.load(group).map_err(|e| e.to_string())?;
        let machine = GroupMachine::open(
            group,
            Arc::clone(&self.state),
            Arc::clone(&self.snapshots),
            Arc::clone(&self.applier),
            Arc::clone(&self.counters),
            Arc::clone(&self.disk),
        );
        let machine = machine.await.map_err(|e| e.to_string())?;
        let networks = GroupNetworks {
            transport: Arc::clone(&self.transport),
            group,
            node: self.config.node,
            bulk_timeout: self.config.bulk_timeout(),
            control_timeout: self.config.election_min,
        };
        let config = Arc::new(self.config.raft_config(has_voted)?);
        let node = self.config.node;
        let raft = RaftNode::new(node.get(), config, networks, log, machine).await;
        let raft = raft.map_err(|e| e.to_string())?;
        let silent = has_voted && !is_alone(&raft, node).await;
        #[cfg(test)]
        let silent = silent && self.config.sabotage != Some(super::config::Sabotage::NoVoteSilence);
        let silent_until = silent.then(|| Instant::now() + self.config.election_max);
        let gate = Gate::new(self.config.max_in_flight_proposals);
        Ok(Group {
            id: group,
            node,
            raft,
            gate,
            heard_ms: AtomicU64::new(0),
            started: Instant::now(),
            silent_until,
        })
    }

    fn log_of(&self, group: GroupId, tail: Tail) -> GroupLog {
        GroupLog {
            group,
            tail: SharedTail::new(tail),
            db: Arc::clone(&self.raft_db),
            flusher: Arc::clone(&self.flusher),
            state: Arc::clone(&self.state),
        }
    }

    /// Lets the group campaign once its silence is over.
    fn end_silence(&self, group: Arc<Group>) {
        let Some(until) = group.silent_until else {
            group.raft.runtime_config().elect(true);
            return;
        };
        self.tasks.spawn_until_stop("vote-silence", async move {
            tokio::time::sleep_until(until.into()).await;
            group.raft.runtime_config().elect(true);
        });
    }

    /// Gives a group its first members; every member may call it with the same ones.
    ///
    /// # Errors
    /// [`GroupError`]; that it has members already is no error.
    pub async fn initialize_group(
        &self,
        group: GroupId,
        voters: BTreeSet<NodeId>,
    ) -> Result<(), GroupError> {
        let running = self.running(group)?;
        let voters: BTreeSet<u64> = voters.into_iter().map(NodeId::get).collect();
        match running.raft.initialize(voters).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(error)) => Err(GroupError::Members {
                group,
                reason: error.to_string(),
            }),
            Err(RaftError::Fatal(error)) => Err(GroupError::Stopped {
                group,
                reason: error.to_string(),
            }),
        }
    }

    /// Leaves a group for good: stops its instance, deletes its log, state and snapshot, and keeps
    /// a tombstone so that it is not started again by mistake.
    ///
    /// # Errors
    /// [`GroupError`] when it does not run here or the disk fails.
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
        match self.groups.remove(group) {
            None => return Err(GroupError::UnknownGroup(group)),
            Some(GroupEntry::Running(running)) => end_instance(&running).await,
            Some(GroupEntry::Failed(_)) => {}
        }
        let done = async {
            self.log_of(group, Tail::new(0)).leave().await?;
            let mut batch = rocksdb::WriteBatch::default();
            self.state.delete_group(&mut batch, group);
            self.state.write(batch)?;
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
            GroupEntry::Failed(reason) => Some(GroupStatus::failed(reason)),
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

    /// What the engine has counted.
    #[must_use]
    pub fn log_stats(&self) -> LogStats {
        self.counters.read()
    }

    /// Free bytes on the node's disk when last looked at.
    #[must_use]
    pub fn disk_free_bytes(&self) -> u64 {
        self.disk.free_bytes()
    }

    /// Ends all groups, tasks and threads, and makes everything durable. Returns what did not end
    /// by the deadline.
    pub async fn shutdown(&self, deadline: Duration) -> Vec<&'static str> {
        let groups: Vec<_> = self
            .groups
            .ids()
            .into_iter()
            .filter_map(|id| self.groups.running(id))
            .collect();
        let ends = futures::future::join_all(groups.iter().map(|group| end_instance(group)));
        let mut late = Vec::new();
        if tokio::time::timeout(deadline, ends).await.is_err() {
            late.push("raft");
        }
        for id in self.groups.ids() {
            self.groups.remove(id);
        }
        drop(groups);
        late.extend(self.tasks.shutdown(deadline).await);
        let flusher = Arc::clone(&self.flusher);
        let synced = tokio::task::spawn_blocking(move || flusher.drain_and_join()).await;
        if synced.is_err() || self.state.sync().await.is_err() {
            tracing::error!("state could not be synced at shutdown; it is rebuilt from the log");
        }
        self.end_runtimes();
        late
    }

    /// Stops as a power cut would: what the flusher has not written is lost. For tests of crashes.
    pub fn crash(&self) {
        self.flusher.abort();
        self.tasks.stop().cancel();
        self.end_runtimes();
        for id in self.groups.ids() {
            self.groups.remove(id);
        }
        self.raft_db.cancel_all_background_work(true);
        self.state.db.cancel_all_background_work(true);
    }

    fn end_runtimes(&self) {
        let runtimes = self
            .runtimes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some((control, bulk)) = runtimes {
            control.shutdown_background();
            bulk.shutdown_background();
        }
    }

    pub(crate) fn running(&self, group: GroupId) -> Result<Arc<Group>, GroupError> {
        match self.groups.entry(group) {
            Some(GroupEntry::Running(running)) => Ok(running),
            Some(GroupEntry::Failed(reason)) => Err(GroupError::Stopped { group, reason }),
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

impl Drop for Engine {
    fn drop(&mut self) {
        self.end_runtimes();
    }
}

fn runtime(name: &str, threads: usize) -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
}

/// Whether this node is the group's only voter: then no other's promise can be broken.
async fn is_alone(raft: &RaftNode, node: NodeId) -> bool {
    let alone = raft.with_raft_state(move |state| {
        let mut voters = state.membership_state.effective().voter_ids();
        voters.next() == Some(node.get()) && voters.next().is_none()
    });
    alone.await.unwrap_or(false)
}

async fn end_instance(group: &Group) {
    if tokio::time::timeout(GROUP_STOP, group.raft.shutdown())
        .await
        .is_err()
    {
        tracing::error!(group = %group.id, "a group's instance did not end in time");
    }
}
