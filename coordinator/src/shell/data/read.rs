//! Reads of the built-in origin: served from what is applied here, by any member of the tenant's
//! group. A strong read first asks the leader how far that must be. One with a consistency token
//! waits for the token's write, and is passed on to the leader where that takes too long.
//!
//! ```text
//!  no copy here yet, though this node is to have one ─▶ wait, up to TOKEN_PATIENCE ─▶ not yet
//!  token ─▶ in this state? ──applied──▶ served here
//!             │   │  └──diverged──▶ diverged_history
//!             │   └──not yet──▶ wait, up to TOKEN_PATIENCE ─▶ look again
//!             └──still not──▶ Peer::Read at the leader, the same there; else not_yet
//! ```
//! Invariant: I9 (never silently an older state than the token's).

use std::time::{Duration, Instant};

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, TenantId};
use maia_common::limits;
use maia_common::placement::GroupRecord;
use maia_common::position::Position;
use maia_common::runtime::Backoff;

use super::look::{Look, Page, Query};
use super::propose::leaderless;
use super::{DataService, PLACEMENT_PATIENCE};
use crate::core::keyspace;
use crate::core::token::Token;
use crate::metastore;
use crate::raft::{ReadError, StateError};
use crate::shell::peers::PeerError;
use crate::shell::placements::Refusal;

/// A read, as a client asks for it.
#[derive(Debug)]
pub struct ReadRequest {
    /// What it wants.
    pub query: Query,
    /// Whether it must see all that was acknowledged before.
    pub strong: bool,
    /// The write that it must see.
    pub token: Option<Token>,
}

/// A read's answer.
#[derive(Debug)]
pub struct Served {
    /// What was found.
    pub page: Page,
    /// How far it may be behind the leader; none: not known.
    pub lag: Option<Duration>,
}

impl DataService {
    /// Reads from this node's copy, or with a token, where that is behind, from the leader's.
    ///
    /// # Errors
    /// [`Refusal`]; `stale_placement` where no copy is to be kept here, `not_yet` where it has not come
    /// yet, this and `diverged_history` for a token whose write is not to be seen.
    pub async fn serve(&self, request: &ReadRequest, deadline: Instant) -> Result<Served, Refusal> {
        let ReadRequest {
            query,
            strong,
            token,
        } = request;
        if token
            .as_ref()
            .is_some_and(|token| token.tenant != query.tenant)
        {
            let text = "the consistency token is of another tenant";
            return Err(Refusal::new(ErrorCode::InvalidRequest, text));
        }
        let tenant = &query.tenant;
        let group = self.group_for(tenant, token.as_ref(), deadline).await?;
        let prepared = self.prepare_read(group, tenant, *strong, deadline).await;
        let position = token.as_ref().map(|token| token.position);
        // What is taken for the leader may be deposed: it is asked only for what it can prove to have.
        if position.is_none() || *strong {
            prepared?;
            return self.serve_at(group, query, position, deadline).await;
        }
        let patience = deadline.min(Instant::now() + limits::TOKEN_PATIENCE);
        let found = match prepared {
            Ok(()) => self.serve_at(group, query, position, patience).await,
            Err(refusal) => Err(refusal),
        };
        match found {
            Err(refusal) if refusal.code == ErrorCode::NotYet => {}
            settled => return settled,
        }
        let elsewhere = self.leader_of(group).filter(|node| *node != self.0.me.0);
        let Some(leader) = elsewhere else {
            return self.serve_at(group, query, position, deadline).await;
        };
        let asked = self.0.peers.read(leader, group, query, position, deadline);
        asked.await.map_err(|error| match error {
            PeerError::Refused { code, detail } => Refusal::new(code, detail),
            PeerError::NotLeader { .. } | PeerError::Unreachable | PeerError::OutcomeUnknown => {
                not_yet()
            }
        })
    }

    /// Reads from the state that is applied here, once it has the position. Also for a peer whose
    /// copy is behind: whoever leads, the state alone decides.
    ///
    /// # Errors
    /// [`Refusal`]: `not_yet` at the deadline, `diverged_history`, or that the state can't be read.
    pub async fn serve_at(
        &self,
        group: GroupId,
        query: &Query,
        position: Option<Position>,
        deadline: Instant,
    ) -> Result<Served, Refusal> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
        let mut wait = Duration::ZERO;
        loop {
            // Before the look: it is of this moment or later.
            let lag = self.0.engine.lag(group);
            match self.look(group, query, position).map_err(unreadable)? {
                // A node that left the group meanwhile has nothing of it any more.
                Look::Found(page) if self.has_copy(group) => return Ok(Served { page, lag }),
                Look::Found(_) => return Err(not_yet()),
                Look::Diverged => return Err(diverged()),
                Look::NotYet => {}
            }
            if Instant::now() >= deadline {
                return Err(not_yet());
            }
            if let Some(position) = position {
                let reached = self.0.engine.wait_applied(group, position, deadline).await;
                if let Err(ReadError::Stopped(_) | ReadError::UnknownGroup) = reached {
                    return Err(not_yet());
                }
            }
            // Not the first time: then the state is just being replaced by a newer one.
            tokio::time::sleep(wait).await;
            wait = backoff.next(fastrand::f64());
        }
    }

    fn has_copy(&self, group: GroupId) -> bool {
        let status = self.0.engine.status(group);
        status.is_some_and(|s| s.may_serve(self.0.me.0))
    }

    /// The group to read from. A token of another one may come from a placement that has not
    /// arrived here yet, so asks the metastore's leader before it says that the tenant has left it.
    async fn group_for(
        &self,
        tenant: &TenantId,
        token: Option<&Token>,
        deadline: Instant,
    ) -> Result<GroupId, Refusal> {
        let known = self.home_caught_up(tenant, deadline).await?.placement.group;
        let Some(token) = token.filter(|token| token.group != known) else {
            return Ok(known);
        };
        let patience = deadline.min(Instant::now() + PLACEMENT_PATIENCE);
        self.0.store.catch_up(patience).await?;
        let group = self.home(tenant)?.placement.group;
        if group != token.group {
            let text = "the consistency token is of a group in which the tenant is no more";
            return Err(Refusal::new(ErrorCode::DivergedHistory, text));
        }
        Ok(group)
    }

    /// Makes sure that reads of this tenant may be served here; with `strong`, that they see all
    /// writes acknowledged before this call.
    async fn prepare_read(
        &self,
        group: GroupId,
        tenant: &TenantId,
        strong: bool,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        if !self.has_copy(group) {
            self.copy_comes(group, tenant, deadline).await?;
        }
        if strong {
            let position = self.read_index(group, deadline).await?;
            let applied = self.0.engine.wait_applied(group, position, deadline).await;
            if applied.is_err() {
                let text = "this replica is behind its leader";
                return Err(Refusal::new(ErrorCode::NotYet, text));
            }
        }
        Ok(())
    }

    /// Waits for this node's copy, if it is to have one: of a group that has just been made, the leader
    /// answers before each member has heard of it.
    async fn copy_comes(
        &self,
        group: GroupId,
        tenant: &TenantId,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let stored = metastore::get::<GroupRecord>(&*self.0.store, &keyspace::group(group))?;
        let record = stored.map(|stored| stored.value);
        let mut copies = record.iter().flat_map(GroupRecord::copies);
        if !copies.any(|member| member.node == self.0.me.0) {
            let region = &self.0.me.1;
            let text = format!("no copy of tenant `{tenant}` is kept in region {region}");
            return Err(Refusal::new(ErrorCode::StalePlacement, text));
        }
        let until = deadline.min(Instant::now() + limits::TOKEN_PATIENCE);
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(100));
        let place = self.2.try_acquire();
        while !self.has_copy(group) {
            if place.is_err() || Instant::now() >= until {
                let text = "this node is to have a copy of the tenant's group, and has none yet";
                return Err(Refusal::new(ErrorCode::NotYet, text));
            }
            tokio::time::sleep(backoff.next(fastrand::f64())).await;
        }
        Ok(())
    }

    async fn read_index(&self, group: GroupId, deadline: Instant) -> Result<Position, Refusal> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
        loop {
            let position = match self.leader_of(group) {
                Some(node) if node == self.0.me.0 => {
                    self.0.engine.read_barrier(group, deadline).await.ok()
                }
                Some(node) => self.0.peers.read_index(node, group, deadline).await.ok(),
                None => None,
            };
            if let Some(position) = position {
                return Ok(position);
            }
            let wait = backoff.next(fastrand::f64());
            if Instant::now() + wait >= deadline {
                return Err(leaderless(group));
            }
            tokio::time::sleep(wait).await;
        }
    }
}

fn not_yet() -> Refusal {
    let text = "this copy does not have yet what the read must see, and no leader can show it";
    Refusal::new(ErrorCode::NotYet, text)
}

fn diverged() -> Refusal {
    let text = "the write of the consistency token is not in the history of the tenant's group: it \
                was cut off with its leader, or is too old to tell";
    Refusal::new(ErrorCode::DivergedHistory, text)
}

fn unreadable(error: StateError) -> Refusal {
    tracing::error!(%error, "state can't be read");
    Refusal::new(ErrorCode::Internal, "the stored data can't be read")
}
