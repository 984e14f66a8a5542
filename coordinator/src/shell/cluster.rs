//! The owner of this node's picture of the cluster: follows the metastore, takes hints, publishes
//! each new picture, and hands every change to the feed's hub in the order of revisions. One loop;
//! readers load a snapshot without a lock.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use maia_common::ids::{GroupId, ProxyId};
use maia_common::invariants::{self, Violations};
use maia_common::position::{Revision, Term};
use maia_common::topology::Leader;
use maia_common::wire::record::MetaChange;
use tokio::sync::{mpsc, watch};

use super::peers::Directory;
use crate::core::cluster_state::ClusterState;
use crate::core::{feed, keyspace, metastore as core};
use crate::feed::Hub;
use crate::metastore::{self, Metastore, Watch, WatchError};
use crate::raft::{PeerDirectory, StateError};

/// Hints that may wait to be taken; a hint that finds no room is one that will come again.
const HINT_BACKLOG: usize = 1024;

/// Ahead of the metastore: who leads a group, or that nobody does.
#[derive(Debug, Clone)]
pub enum Hint {
    /// The group is led at this term.
    Leader(GroupId, Leader),
    /// The leader of this term is lost.
    Leaderless(GroupId, Term),
}

impl Hint {
    /// Whether it says something that this picture does not.
    #[must_use]
    pub fn changes(&self, state: &ClusterState) -> bool {
        match self {
            Hint::Leader(group, leader) => state.live_leader(*group) != Some(leader),
            Hint::Leaderless(group, _) => state.live_leader(*group).is_some(),
        }
    }
}

/// Readers' side. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    state: Arc<ArcSwap<ClusterState>>,
    changed: watch::Receiver<Revision>,
    hints: mpsc::Sender<Hint>,
    proxies: Arc<AtomicUsize>,
    violations: Arc<Violations>,
}

impl Cluster {
    /// The newest picture.
    #[must_use]
    pub fn state(&self) -> Arc<ClusterState> {
        self.state.load_full()
    }

    /// Wakes at every new picture.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Revision> {
        self.changed.clone()
    }

    /// How many proxies are registered.
    #[must_use]
    pub fn proxies(&self) -> usize {
        self.proxies.load(Ordering::Relaxed)
    }

    /// Invariants that this node saw violated.
    #[must_use]
    pub fn violations(&self) -> &Violations {
        &self.violations
    }

    /// Takes a hint. Never waits.
    pub fn hint(&self, hint: Hint) {
        if let Err(error) = self.hints.try_send(hint) {
            tracing::debug!(%error, "a leader hint found no room");
        }
    }

    /// Waits until the picture is as wanted. False: it was not by the deadline.
    pub async fn wait_for(
        &self,
        deadline: Instant,
        mut wanted: impl FnMut(&ClusterState) -> bool,
    ) -> bool {
        let mut changes = self.changes();
        let wait = async {
            loop {
                changes.borrow_and_update();
                if wanted(&self.state()) {
                    return true;
                }
                if changes.changed().await.is_err() {
                    return false;
                }
            }
        };
        tokio::time::timeout_at(deadline.into(), wait)
            .await
            .unwrap_or(false)
    }
}

/// The loop's side.
pub struct ClusterLoop {
    store: Arc<dyn Metastore>,
    directory: Arc<Directory>,
    hub: Arc<Hub>,
    current: ClusterState,
    state: Arc<ArcSwap<ClusterState>>,
    changed: watch::Sender<Revision>,
    hints: mpsc::Receiver<Hint>,
    /// The registered proxies, and their number for readers.
    proxies: (BTreeSet<ProxyId>, Arc<AtomicUsize>),
    violations: Arc<Violations>,
}

impl ClusterLoop {
    /// Both sides, with an empty picture.
    #[must_use]
    pub fn new(
        store: Arc<dyn Metastore>,
        directory: Arc<Directory>,
        hub: Arc<Hub>,
    ) -> (Self, Cluster) {
        let state = Arc::new(ArcSwap::from_pointee(ClusterState::default()));
        let (changed, changes) = watch::channel(Revision::default());
        let (hint_sender, hints) = mpsc::channel(HINT_BACKLOG);
        let violations = Arc::new(Violations::default());
        let cluster = Cluster {
            state: Arc::clone(&state),
            changed: changes,
            hints: hint_sender,
            proxies: Arc::default(),
            violations: Arc::clone(&violations),
        };
        let current = ClusterState::default();
        let proxies = (BTreeSet::new(), Arc::clone(&cluster.proxies));
        (
            Self {
                store,
                directory,
                hub,
                current,
                state,
                changed,
                hints,
                proxies,
                violations,
            },
            cluster,
        )
    }

    /// Follows the metastore until it stops.
    pub async fn run(mut self) {
        loop {
            let revision = match self.resync() {
                Ok(revision) => revision,
                Err(error) => {
                    tracing::error!(%error, "the metastore's state can't be read");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            match self
                .follow(Watch::new(Arc::clone(&self.store), revision))
                .await
            {
                WatchError::Closed => return,
                error => tracing::info!(%error, "reading the cluster's state anew"),
            }
        }
    }

    /// Reads everything but the tenants; feed subscribers must start over.
    fn resync(&mut self) -> Result<Revision, StateError> {
        let mut fresh = ClusterState {
            leaders: self.current.leaders.clone(),
            leaderless: self.current.leaderless.clone(),
            ..ClusterState::default()
        };
        let mut proxies = BTreeSet::new();
        self.store.read(&mut |view| {
            fresh.revision = core::current_revision(view)?;
            for prefix in [
                keyspace::REGIONS,
                keyspace::NODES,
                keyspace::RETIRED_NODES,
                keyspace::GROUPS,
                keyspace::LEADERS,
            ] {
                for (key, row) in metastore::range(view, prefix, None, usize::MAX)? {
                    fresh.take(&key, Some(&row.value));
                }
            }
            let rows = metastore::range(view, keyspace::PROXIES, None, usize::MAX)?;
            proxies = rows.iter().filter_map(|(key, _)| proxy_of(key)).collect();
            Ok(())
        })?;
        self.current = fresh;
        self.proxies.0 = proxies;
        self.publish();
        self.hub.restart(self.current.revision);
        self.hub.registered(&self.proxies.0);
        Ok(self.current.revision)
    }

    async fn follow(&mut self, mut watch: Watch) -> WatchError {
        loop {
            tokio::select! {
                change = watch.next() => match change {
                    Ok(change) => self.take_change(&change),
                    Err(error) => return error,
                },
                Some(hint) = self.hints.recv() => self.take_hint(hint),
            }
        }
    }

    fn take_change(&mut self, change: &MetaChange) {
        let changes = feed::translate(&mut self.current, change);
        for key in &change.keys {
            match proxy_of(&key.key) {
                Some(id) if key.deleted => {
                    self.hub.unregistered(&id);
                    self.proxies.0.remove(&id);
                }
                Some(id) => drop(self.proxies.0.insert(id)),
                None => {}
            }
        }
        self.publish();
        self.hub.delta(change, changes);
    }

    fn take_hint(&mut self, hint: Hint) {
        let message = match hint {
            Hint::Leader(group, leader) => {
                self.check_leader(group, &leader);
                if !self.current.offer_leader(group, leader.clone()) {
                    return;
                }
                feed::leader_hint(&self.current, group, &leader)
            }
            Hint::Leaderless(group, term) => {
                if !self.current.offer_leaderless(group, term) {
                    return;
                }
                feed::leaderless_hint(&self.current, group, term)
            }
        };
        self.publish();
        self.hub.hint(message);
    }

    /// I1, where it costs nothing: a term of a group has one leader, whoever tells of it.
    fn check_leader(&self, group: GroupId, leader: &Leader) {
        if let Some(known) = self.current.leaders.get(&group) {
            let (known, seen) = ((known.term, known.node), (leader.term, leader.node));
            self.violations.check(invariants::one_writer(known, seen));
        }
    }

    fn publish(&mut self) {
        for node in self.current.nodes.values() {
            self.directory.set(node.id, node.rpc_addr.clone());
        }
        self.directory.rpc().removed(self.current.retired.iter());
        self.proxies
            .1
            .store(self.proxies.0.len(), Ordering::Relaxed);
        self.state.store(Arc::new(self.current.clone()));
        self.changed.send_replace(self.current.revision);
    }
}

/// The proxy that is registered under the key.
fn proxy_of(key: &str) -> Option<ProxyId> {
    ProxyId::new(key.strip_prefix(keyspace::PROXIES)?).ok()
}
