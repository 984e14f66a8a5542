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
//!   Alive(revision)                     ─▶ nothing
//! ```
//! Invariants: I4 (within a generation neither the revision nor a group's term goes back; an older
//! snapshot is refused). A gap is an error, after which the shell subscribes anew from nothing.
//!
//! Three readings of the protocol, made here: a delta's `from_revision` may be an `Alive` heard on
//! the way; a hint that names a leader of the very term that was reported lost takes the loss back
//! (a lease may come back to life within a term, and a wrong guess only costs a 421); and each new
//! stream forgets what was reported lost, since the news of its return may have been missed.

use std::collections::BTreeMap;

use maia_common::ids::NameError;
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
use messages::{group_of, region_of};
pub use messages::{of_topology, tenant_of};

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
    /// A message that can't be read.
    #[error("{what} can't be read: {why}")]
    Malformed {
        /// Which part.
        what: &'static str,
        /// Why.
        why: String,
    },
}

impl FeedError {
    /// Whether the next subscription must ask for a snapshot.
    #[must_use]
    pub const fn needs_resync(&self) -> bool {
        match self {
            FeedError::Gap { .. }
            | FeedError::Checksum { .. }
            | FeedError::Order(_)
            | FeedError::Malformed { .. } => true,
            FeedError::Behind { .. } => false,
        }
    }
}

impl From<NameError> for FeedError {
    fn from(error: NameError) -> Self {
        FeedError::Malformed {
            what: error.kind,
            why: error.to_string(),
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

    /// A new stream begins. What comes into force with it.
    pub fn begin_stream(&mut self) -> Step {
        self.loading = None;
        self.drains.say_again();
        self.heard = self.topology.revision;
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
            Some(Kind::Hint(hint)) => self.hint(hint),
            Some(Kind::Alive(alive)) => {
                self.heard = self.heard.max(Revision::new(alive.revision));
                Ok(Step::Nothing)
            }
        }
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
        let changes =
            wire::Changes::decode(chunk.changes.clone()).map_err(|e| FeedError::Malformed {
                what: "snapshot chunk",
                why: e.to_string(),
            })?;
        put_topology(&mut loading.topology, &changes)?;
        for tenant in changes.tenants {
            let (tenant, entry) = tenant_of(&tenant)?;
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
        if end.chunks != loading.chunks || end.tenants != tenants.len() as u64 {
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
        put_topology(&mut topology, &changes)?;
        topology.revision = revision;
        remove_topology(&mut topology, &changes)?;
        let mut tenants = Vec::with_capacity(changes.tenants.len() + changes.removed_tenants.len());
        for tenant in changes.tenants {
            let (tenant, entry) = tenant_of(&tenant)?;
            let print = self.key.of_tenant(&tenant);
            let held = entry.holding.then_some(entry.version);
            self.drains.take(&tenant, print, held);
            tenants.push((print, Some(entry)));
        }
        for tenant in changes.removed_tenants {
            let tenant = TenantId::new(tenant)?;
            let print = self.key.of_tenant(&tenant);
            self.drains.take(&tenant, print, None);
            tenants.push((print, None));
        }
        self.topology = topology.clone();
        Ok(Step::Delta {
            topology,
            tenants,
            committed_unix_us: delta.committed_unix_us,
        })
    }

    fn hint(&mut self, hint: wire::Hint) -> Result<Step, FeedError> {
        if Generation::new(hint.generation) != self.topology.generation {
            return Ok(Step::Nothing); // of another history
        }
        let Some(group) = self.topology.groups.get_mut(&GroupId::new(hint.group)) else {
            return Ok(Step::Nothing); // its record will come, and names the leader
        };
        let before = group.clone();
        let term = Term::new(hint.term);
        if hint.leaderless {
            group.leaderless_since = group.leaderless_since.max(Some(term));
        } else {
            let leader = Leader {
                term,
                node: NodeId::new(hint.node),
                region: RegionName::new(hint.region)?,
            };
            group.offer(leader);
            if group.leaderless_since == Some(term) {
                group.leaderless_since = None;
            }
        }
        Ok(if *group == before {
            Step::Nothing
        } else {
            Step::Hint(self.topology.clone())
        })
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

/// Lays regions and groups of a message over the topology.
///
/// # Errors
/// [`FeedError`]: a part of it that can't be read.
pub fn put_topology(topology: &mut Topology, changes: &wire::Changes) -> Result<(), FeedError> {
    for region in &changes.regions {
        let region = region_of(region)?;
        topology.regions.insert(region.name.clone(), region);
    }
    for group in &changes.groups {
        let mut view = group_of(group)?;
        let id = GroupId::new(group.group);
        if let Some(known) = topology.groups.get(&id) {
            if let Some(leader) = known.leader.clone() {
                view.offer(leader);
            }
            view.leaderless_since = known.leaderless_since;
        }
        topology.groups.insert(id, view);
    }
    Ok(())
}

fn remove_topology(topology: &mut Topology, changes: &wire::Changes) -> Result<(), FeedError> {
    for region in &changes.removed_regions {
        topology.regions.remove(&RegionName::new(region.as_str())?);
    }
    for group in &changes.removed_groups {
        topology.groups.remove(&GroupId::new(*group));
    }
    Ok(())
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
