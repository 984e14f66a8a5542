//! Entries that this node may not keep, because it is no member of their tenants' groups or is being taken
//! out, go to a member; and what other nodes hand over comes in. An entry may be on both sides for a
//! moment, or for ever after a crash: it has one id, and its resolution one key (I3, I7, I8).

use std::io;
use std::time::{Duration, Instant};

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, NodeId};
use tokio::sync::oneshot;

use super::{QuarantineService, unreadable};
use crate::core::custody;
use crate::core::history::Standing;
use crate::core::quarantine::{Entry, EntryId, Home};
use crate::shell::peers::PeerError;
use crate::shell::placements::Refusal;

/// How long one node may take to say what it knows, or to take an entry.
const ASK_PATIENCE: Duration = Duration::from_secs(1);

/// Who hands an entry over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Giver {
    /// A node of the cluster, or, in the clear, one that nobody can tell from it.
    Member,
    /// A node that was removed. What it has may stand nowhere else, so it is taken; but the machine may
    /// have been removed because it is no longer trusted, so nothing it says takes effect by itself.
    Removed(NodeId),
}

/// What came of handing an entry over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handed {
    /// Another node has it durably.
    Over,
    /// Its tenant was deleted: nobody wants it.
    TenantDeleted,
}

impl QuarantineService {
    /// The members of the group that are to keep an entry in place of this node; none: this node keeps it,
    /// as a member, or since there is nobody else.
    pub(super) fn successors(&self, group: GroupId) -> Option<Vec<NodeId>> {
        let keepers = custody::keepers(&self.0.parts.cluster.state(), group);
        let stays = keepers.is_empty() || keepers.contains(&self.node());
        (!stays).then_some(keepers)
    }

    /// What a member's history says of the entry's place. None where there is no such group any more.
    ///
    /// # Errors
    /// When this node's state can't be read.
    pub(super) async fn standing(&self, id: EntryId) -> io::Result<Option<Standing>> {
        let parts = &self.0.parts;
        if let Some(standing) = self.standing_here(id).await? {
            return Ok(Some(standing));
        }
        let state = parts.cluster.state();
        if !state.groups.contains_key(&id.group) {
            return Ok(None);
        }
        for member in custody::keepers(&state, id.group) {
            let deadline = Instant::now() + ASK_PATIENCE;
            match parts.peers.standing(member, id, deadline).await {
                Ok(Standing::NotYet) | Err(_) => {}
                Ok(standing) => return Ok(Some(standing)),
            }
        }
        Ok(Some(Standing::NotYet))
    }

    /// Hands the entry to one of these nodes.
    ///
    /// # Errors
    /// Why the last of them did not take it.
    pub(super) async fn hand_over(
        &self,
        entry: &Entry,
        to: &[NodeId],
    ) -> Result<Handed, PeerError> {
        let mut last = PeerError::Unreachable;
        for node in to {
            let deadline = Instant::now() + ASK_PATIENCE;
            let taken = self.0.parts.peers.take_quarantined(*node, entry, deadline);
            match taken.await {
                Ok(()) => {
                    tracing::debug!(id = %entry.id, %node, "handed a cut-off record over");
                    return Ok(Handed::Over);
                }
                Err(PeerError::Refused {
                    code: ErrorCode::UnknownTenant,
                    ..
                }) => return Ok(Handed::TenantDeleted),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Whom a node that was removed may know: it has forgotten the cluster.
    pub(super) fn anybody(&self) -> Vec<NodeId> {
        let parts = &self.0.parts;
        let state = parts.cluster.state();
        let mut others: Vec<NodeId> = state.nodes.keys().chain(&parts.first).copied().collect();
        others.sort_unstable();
        others.dedup();
        others.retain(|node| *node != self.node());
        others
    }

    /// For the peer service: takes an entry that another node may not keep; it is durable when this
    /// returns.
    ///
    /// # Errors
    /// [`Refusal`]: `unknown_tenant` when its tenant was deleted, `stale_placement` when this node is
    /// no member of the tenant's group either, `disk_full` when its quarantine is full, or, of a node that was
    /// removed, half full, or its disk has no room; `unavailable` before it has looked through its own; `node_conflict` when another record
    /// stands there.
    pub async fn take(&self, entry: Entry, giver: Giver, deadline: Instant) -> Result<(), Refusal> {
        let parts = &self.0.parts;
        let deleted = || Refusal::new(ErrorCode::UnknownTenant, "the tenant was deleted");
        let tenant = entry.record.tenant.as_ref().ok_or_else(deleted)?;
        let (home, group) = parts.data.home_of(tenant, deadline).await?;
        let group = match (home, group) {
            (Home::Placed(created, _), Some(group)) if created <= entry.record.placement => group,
            (Home::Unknown, _) => {
                let text = "the tenant's home is not known now";
                return Err(Refusal::new(ErrorCode::Unavailable, text));
            }
            _ => return Err(deleted()),
        };
        // Whoever asks may give up meanwhile: what has begun is done under the lock, and counted.
        let service = self.clone();
        let (done, taken) = oneshot::channel();
        parts.tasks.spawn("a record handed over", async move {
            // Who asked may just have gone.
            let _ = done.send(service.take_in(entry, group, giver, deadline).await);
        });
        let stopping = |_| Err(Refusal::new(ErrorCode::Unavailable, "the node is stopping"));
        taken.await.unwrap_or_else(stopping)
    }

    /// Takes the entry in, as a member of the group.
    async fn take_in(
        &self,
        entry: Entry,
        group: GroupId,
        giver: Giver,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let parts = &self.0.parts;
        let lock = tokio::time::timeout_at(deadline.into(), self.0.intake.lock()).await;
        let _one_at_a_time = lock.map_err(|_| {
            Refusal::new(
                ErrorCode::Unavailable,
                "the disk of this node takes too long",
            )
        })?;
        let id = entry.id;
        let is_here = self.disk(move |entries| entries.has(id)).await;
        if !is_here.map_err(|error| unreadable(&error))? {
            self.has_room_for(giver)?;
        }
        // Asked under the lock: a node that has said that it has nothing takes nothing any more.
        let keepers = custody::keepers(&parts.cluster.state(), group);
        if !keepers.contains(&self.node()) {
            let text = "this node is no member of the tenant's group";
            return Err(Refusal::new(ErrorCode::StalePlacement, text));
        }
        let is_member = giver == Giver::Member;
        let entry = if is_member {
            entry
        } else {
            entry.of_a_removed_node()
        };
        let adopted = self.disk(move |entries| entries.adopt(entry, is_member));
        let adopted = adopted.await;
        let Some(size_bytes) = adopted.map_err(|error| unreadable(&error))? else {
            tracing::warn!(%id, ?giver, "another record stands in this quarantine under its id");
            let text = "another record stands in this node's quarantine under its id";
            return Err(Refusal::new(ErrorCode::NodeConflict, text));
        };
        self.counts().add_came(size_bytes);
        tracing::debug!(%id, ?giver, "took a cut-off record over");
        Ok(())
    }

    /// Whether one more may come: under the intake's lock. All that nodes which were removed say takes half
    /// at most: the rest is for the cluster's own.
    fn has_room_for(&self, giver: Giver) -> Result<(), Refusal> {
        if self.0.parts.engine.is_disk_low() {
            let text = "the disk of this node has no room";
            return Err(Refusal::new(ErrorCode::DiskFull, text));
        }
        let has_room = match giver {
            Giver::Member => self.counts().has_room(1),
            Giver::Removed(_) => self.counts().has_room(2),
        };
        match has_room {
            Some(true) => Ok(()),
            Some(false) => {
                let text = "the quarantine of this node is full";
                Err(Refusal::new(ErrorCode::DiskFull, text))
            }
            None => {
                let text = "the quarantine of this node was not looked through since its start";
                Err(Refusal::new(ErrorCode::Unavailable, text))
            }
        }
    }
}
