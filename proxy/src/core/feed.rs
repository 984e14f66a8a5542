//! The feed's message order, checked: a pure state machine that takes one message of a
//! coordinator after the other and says what comes into force. The shell (`shell/feed`) brings
//! the messages, puts the steps in force and acknowledges; it never judges a message itself.
//!
//! ```text
//! coordinator                              proxy
//!   SnapshotStart(generation, revision) ─▶ loading begins; what is in force stays
//!   SnapshotChunk(0, 1, … , crc)        ─▶ loading
//!   SnapshotEnd(chunks, tenants)        ─▶ Step::Snapshot: all of it, as one
//!   Delta(from, revision, changes)      ─▶ Step::Delta, if nothing is missing before it
//!   Hint(group, term, …)                ─▶ Step::Hint, if its term is news
//!   Alive(revision, leaderless)         ─▶ nothing; whether what is in force is current
//! ```
//! Invariants: I4 (within a generation neither the revision nor a group's term goes back; an older
//! snapshot is refused). A gap is an error, after which the shell subscribes anew from nothing.
//!
//! What can't be read within a message (a word of a later version) is counted and fails closed for
//! itself alone (`messages`): the rest comes into force, and no feed stands still for a word.
//!
//! Three readings of the protocol, made here: a delta's `from_revision` may be an `Alive` heard on
//! the way; a hint that names a leader of the very term that was reported lost takes the loss back
//! (a lease may come back to life within a term, and a wrong guess only costs a 421); and each new
//! stream forgets what was reported lost, since the news of its return may have been missed.

use std::collections::BTreeMap;

use maia_common::topology::{GroupView, Leader, Topology};
use maia_common::wire::feed as wire;
use maia_common::{
    Generation, GroupId, NodeId, RegionName, Revision, TenantId, Term, Version, limits,
};
use prost::Message;

use super::fingerprint::FingerprintKey;
use super::table::{Builder, Change, Table};

mod drains;
mod messages;

pub use drains::{Drains, Mark};
pub use messages::{Unreadable, of_topology, tenant_of};
use messages::{group_of, region_of};

/// Why a message can't be taken. The stream it came on is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// Something was missed.
    #[error("a delta from revision {from} does not follow revision {have}")]
    Gap {
        /// The delta's.
        from: Revision,
        /// Ours.
        have: Revision,
    },
    /// The coordinator knows less than this proxy already does.
    #[error("the coordinator is behind: it offers {offered:?}, in force is {have:?}")]
    Behind {
        /// The coordinator's.
        offered: (Generation, Revision),
        /// Ours.
        have: (Generation, Revision),
    },
    /// A damaged chunk.
    #[error("snapshot chunk {sequence} does not match its checksum")]
    Checksum {
        /// Which.
        sequence: u64,
    },
    /// A message out of its order.
    #[error("{0}")]
    Order(&'static str),
    /// A chunk that can't be read.
    #[error("a snapshot chunk can't be read: {0}")]
    Malformed(#[from] prost::DecodeError),
}

impl FeedError {
    /// Whether the next subscription must ask for a snapshot.
    #[must_use]
    pub const fn needs_resync(&self) -> bool {
        match self {
            FeedError::Gap { .. }
            | FeedError::Checksum { .. }
            | FeedError::Order(_)
            | FeedError::Malformed(_) => true,
            FeedError::Behind { .. } => false,
        }
    }
}

/// What comes into force with a message.
pub enum Step {
    /// Nothing.
    Nothing,
    /// Everything anew, as one.
    Snapshot {
        /// In force with the tenants.
        topology: Topology,
        /// In place of all tenants known.
        tenants: Table,
    },
    /// Some of it.
    Delta {
        /// In force with the tenants, as one.
        topology: Topology,
        /// The tenants that changed.
        tenants: Vec<Change>,
        /// When the newest change was proposed.
        committed_unix_us: u64,
    },
    /// A leader, or the loss of one.
    Hint(Topology),
}

struct Loading {
    generation: Generation,
    revision: Revision,
    chunks: u64,
    topology: Topology,
    tenants: Builder,
    /// Tenants that could not be read: they count for the snapshot's total.
    left_out: u64,
    held: BTreeMap<TenantId, Version>,
}

/// The feed as this proxy has followed it so far.
pub struct FeedState {
    /// Tenants are known by their fingerprints from here on.
    key: FingerprintKey,
    topology: Topology,
    /// Whether a snapshot ever came into force.
    synced: bool,
    /// The newest revision that the coordinator of this stream said it had reached.
    heard: Revision,
    /// The same, but nothing where it has not said so on this stream.
    reached: Option<Revision>,
    /// Whether it said last that it hears no leader of the metastore.
    leaderless: bool,
    /// See [`FeedState::is_current`].
    current: bool,
    /// See [`FeedState::is_caught_up`].
    caught_up: bool,
    unreadable: Unreadable,
    loading: Option<Loading>,
    drains: Drains,
}

impl FeedState {
    /// Nothing heard yet.
    #[must_use]
    pub fn new(key: FingerprintKey) -> Self {
        Self {
            key,
            topology: Topology::default(),
            synced: false,
            heard: Revision::default(),
            reached: None,
            leaderless: false,
            current: false,
            caught_up: false,
            unreadable: Unreadable::default(),
            loading: None,
            drains: Drains::default(),
        }
    }

    /// As it was when this was saved: what is in force now came from disk, and the feed goes on
    /// from there.
    #[must_use]
    pub fn restored(key: FingerprintKey, topology: Topology) -> Self {
        Self {
            synced: true,
            heard: topology.revision,
            topology,
            ..Self::new(key)
        }
    }

    /// The generation and revision in force; zeros before the first snapshot.
    #[must_use]
    pub fn in_force(&self) -> (Generation, Revision) {
        (self.topology.generation, self.topology.revision)
    }

    /// What is to be said of tenants that are held.
    pub fn drains(&mut self) -> &mut Drains {
        &mut self.drains
    }

    /// Whether a snapshot is on its way.
    #[must_use]
    pub fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    /// Whether the coordinator of this stream hears no leader of the metastore.
    #[must_use]
    pub fn is_leaderless(&self) -> bool {
        self.leaderless
    }

    /// Whether the coordinator of this stream vouches for what is in force: it brought all of it,
    /// or said that it has reached nothing newer while it heard the metastore's leader.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.current
    }

    /// Whether the coordinator of this stream has brought what it had when the stream began: a
    /// snapshot is in force, or what is told of once that is done.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.caught_up
    }

    /// How many regions, groups and tenants could not be read since this was last asked.
    pub fn unreadable(&mut self) -> u64 {
        std::mem::take(&mut self.unreadable).0
    }

    /// A new stream begins. What comes into force with it.
    pub fn begin_stream(&mut self) -> Step {
        self.loading = None;
        self.drains.say_again();
        self.heard = self.topology.revision;
        self.reached = None;
        (self.leaderless, self.current, self.caught_up) = (false, false, false);
        for group in self.topology.groups.values_mut() {
            group.leaderless_since = None;
        }
        if self.synced {
            Step::Hint(self.topology.clone())
        } else {
            Step::Nothing
        }
    }

    /// Takes one message.
    ///
    /// # Errors
    /// [`FeedError`]: the stream must be given up. What is in force stays.
    pub fn take(&mut self, message: wire::Down) -> Result<Step, FeedError> {
        use wire::down::Kind;
        match message.kind {
            None => Ok(Step::Nothing), // of a later version of the protocol
            Some(Kind::SnapshotStart(start)) => self.start(&start),
            Some(Kind::SnapshotChunk(chunk)) => self.chunk(&chunk),
            Some(Kind::SnapshotEnd(end)) => self.end(&end),
            Some(Kind::Delta(delta)) => self.delta(delta),
            Some(Kind::Hint(hint)) => Ok(self.hint(hint)),
            Some(Kind::Alive(alive)) => {
                self.alive(alive);
                Ok(Step::Nothing)
            }
        }
    }

    fn alive(&mut self, alive: wire::Alive) {
        let revision = Revision::new(alive.revision);
        self.heard = self.heard.max(revision);
        self.reached = self.reached.max(Some(revision));
        self.leaderless = alive.leaderless;
        let newest = self.synced && self.loading.is_none() && revision == self.topology.revision;
        self.caught_up |= newest;
        self.current = newest && !alive.leaderless;
    }

    fn start(&mut self, start: &wire::SnapshotStart) -> Result<Step, FeedError> {
        let offered = (
            Generation::new(start.generation),
            Revision::new(start.revision),
        );
        if offered < self.in_force() {
            return Err(FeedError::Behind {
                offered,
                have: self.in_force(),
            });
        }
        self.loading = Some(Loading {
            generation: offered.0,
            revision: offered.1,
            chunks: 0,
            topology: Topology::default(),
            tenants: Builder::new(start.tenants as usize),
            left_out: 0,
            held: BTreeMap::new(),
        });
        Ok(Step::Nothing)
    }

    fn chunk(&mut self, chunk: &wire::SnapshotChunk) -> Result<Step, FeedError> {
        let loading = self
            .loading
            .as_mut()
            .ok_or(FeedError::Order("a snapshot chunk before its start"))?;
        if chunk.sequence != loading.chunks {
            return Err(FeedError::Order("a snapshot chunk out of order"));
        }
        if crc32c::crc32c(&chunk.changes) != chunk.crc32c {
            return Err(FeedError::Checksum {
                sequence: chunk.sequence,
            });
        }
        let changes = wire::Changes::decode(chunk.changes.clone())?;
        put_topology(&mut loading.topology, &changes, &mut self.unreadable);
        for tenant in changes.tenants {
            let Some((tenant, entry)) = tenant_of(&tenant, &mut self.unreadable) else {
                loading.left_out += 1;
                continue;
            };
            loading.tenants.insert(self.key.of_tenant(&tenant), &entry);
            if entry.holding && loading.held.len() < limits::MAX_FEED_DRAINED {
                loading.held.insert(tenant, entry.version);
            }
        }
        loading.chunks += 1;
        Ok(Step::Nothing)
    }

    fn end(&mut self, end: &wire::SnapshotEnd) -> Result<Step, FeedError> {
        let loading = self
            .loading
            .take()
            .ok_or(FeedError::Order("a snapshot end before its start"))?;
        let tenants = loading.tenants.build();
        let told = tenants.len() as u64 + loading.left_out;
        if end.chunks != loading.chunks || end.tenants != told {
            return Err(FeedError::Order("a snapshot that lacks chunks or tenants"));
        }
        let mut topology = loading.topology;
        topology.generation = loading.generation;
        topology.revision = loading.revision;
        if self.topology.generation == topology.generation {
            keep_newer_leaders(&self.topology.groups, &mut topology.groups);
        }
        self.drains.retain(&loading.held);
        for (tenant, version) in &loading.held {
            let print = self.key.of_tenant(tenant);
            self.drains.take(tenant, print, Some(*version));
        }
        self.heard = topology.revision;
        self.topology = topology.clone();
        self.synced = true;
        (self.current, self.caught_up) = (!self.leaderless, true);
        Ok(Step::Snapshot { topology, tenants })
    }

    fn delta(&mut self, delta: wire::Delta) -> Result<Step, FeedError> {
        let (have, from) = (self.topology.revision, Revision::new(delta.from_revision));
        let revision = Revision::new(delta.revision);
        if self.loading.is_some() || !self.synced {
            return Err(FeedError::Order("a delta before the end of a snapshot"));
        }
        if from > have.max(self.heard) {
            return Err(FeedError::Gap { from, have });
        }
        if revision < have {
            let generation = self.topology.generation;
            return Err(FeedError::Behind {
                offered: (generation, revision),
                have: (generation, have),
            });
        }
        let changes = delta.changes.unwrap_or_default();
        let mut topology = self.topology.clone();
        put_topology(&mut topology, &changes, &mut self.unreadable);
        topology.revision = revision;
        remove_topology(&mut topology, &changes);
        let mut tenants = Vec::with_capacity(changes.tenants.len() + changes.removed_tenants.len());
        for tenant in changes.tenants {
            let Some((tenant, entry)) = tenant_of(&tenant, &mut self.unreadable) else {
                continue;
            };
            let print = self.key.of_tenant(&tenant);
            let held = entry.holding.then_some(entry.version);
            self.drains.take(&tenant, print, held);
            tenants.push((print, Some(entry)));
        }
        for tenant in changes.removed_tenants {
            let Ok(tenant) = TenantId::new(tenant) else {
                continue; // never known here
            };
            let print = self.key.of_tenant(&tenant);
            self.drains.take(&tenant, print, None);
            tenants.push((print, None));
        }
        self.topology = topology.clone();
        // One of many that catch up, as long as the coordinator has not said how far it is.
        let newest = self.reached.is_some_and(|reached| reached <= revision);
        self.caught_up |= newest;
        self.current = newest && !self.leaderless;
        Ok(Step::Delta {
            topology,
            tenants,
            committed_unix_us: delta.committed_unix_us,
        })
    }

    fn hint(&mut self, hint: wire::Hint) -> Step {
        // A stream that catches up is told of no leaders.
        self.caught_up |= self.synced && self.loading.is_none();
        if Generation::new(hint.generation) != self.topology.generation {
            return Step::Nothing; // of another history
        }
        let Some(group) = self.topology.groups.get_mut(&GroupId::new(hint.group)) else {
            return Step::Nothing; // its record will come, and names the leader
        };
        let before = group.clone();
        let term = Term::new(hint.term);
        let region = RegionName::new(hint.region).ok();
        self.unreadable.0 += u64::from(region.is_none() && !hint.leaderless);
        // A leader in a place that can't be read is as good as none.
        match region.filter(|_| !hint.leaderless) {
            None => group.leaderless_since = group.leaderless_since.max(Some(term)),
            Some(region) => {
                let node = NodeId::new(hint.node);
                group.offer(Leader { term, node, region });
                if group.leaderless_since == Some(term) {
                    group.leaderless_since = None;
                }
            }
        }
        if *group == before {
            Step::Nothing
        } else {
            Step::Hint(self.topology.clone())
        }
    }
}

/// A hint may have outrun the snapshot: the highest term wins (I4).
fn keep_newer_leaders(
    known: &BTreeMap<GroupId, GroupView>,
    new: &mut BTreeMap<GroupId, GroupView>,
) {
    for (id, view) in new {
        let known = known.get(id);
        if let Some(leader) = known.and_then(|k| k.leader.clone()) {
            view.offer(leader);
        }
        view.leaderless_since = known.and_then(|k| k.leaderless_since);
    }
}

/// Lays regions and groups of a message over the topology. A region that can't be read counts as
/// down, a group as none: its tenants get `region_unavailable`.
pub fn put_topology(topology: &mut Topology, changes: &wire::Changes, unreadable: &mut Unreadable) {
    for region in &changes.regions {
        if let Some(region) = region_of(region, unreadable) {
            topology.regions.insert(region.name.clone(), region);
        }
    }
    for group in &changes.groups {
        let id = GroupId::new(group.group);
        let Some(mut view) = group_of(group, unreadable) else {
            topology.groups.remove(&id);
            continue;
        };
        if let Some(known) = topology.groups.get(&id) {
            if let Some(leader) = known.leader.clone() {
                view.offer(leader);
            }
            view.leaderless_since = known.leaderless_since;
        }
        topology.groups.insert(id, view);
    }
}

fn remove_topology(topology: &mut Topology, changes: &wire::Changes) {
    for region in &changes.removed_regions {
        if let Ok(name) = RegionName::new(region.as_str()) {
            topology.regions.remove(&name);
        }
    }
    for group in &changes.removed_groups {
        topology.groups.remove(&GroupId::new(*group));
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
