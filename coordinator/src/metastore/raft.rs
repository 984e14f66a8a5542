//! The metastore on group 0. A transaction goes to the leader, wherever that is; an answer that
//! was lost is asked for again with the same transaction, which takes effect once; and the change
//! is visible in local reads when the call returns.
//!
//! ```text
//!  any coordinator            leader of group 0
//!  transact ──not leader──▶ Peer::Transact ─▶ propose ─▶ committed ─▶ applied
//!     ▲ wait until applied here ◀── position ◀──┘
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, NodeId};
use maia_common::limits;
use maia_common::position::{Position, Revision};
use maia_common::runtime::Backoff;
use maia_common::wire::record as wire;
use prost::Message;
use tokio::sync::watch as notify;

use super::{Metastore, MetastoreError, Outcome};
use crate::core::metastore::Transaction;
use crate::core::record::Record;
use crate::raft::{Engine, ProposeError, StateError, StateView};
use crate::shell::clock::Clock;
use crate::shell::peers::{PeerError, Peers};

const ROOT: GroupId = GroupId::METASTORE;

/// A transaction's outcome and where it stands in group 0's log.
#[derive(Debug, Clone)]
pub struct Proposed {
    /// The encoded outcome.
    pub outcome: Bytes,
    /// Wait until this is applied before reading what it did.
    pub position: Position,
}

/// Why one try did not give an answer.
#[derive(Debug)]
enum Miss {
    /// Certainly not proposed; this node may lead.
    NotProposed(Option<NodeId>),
    /// May have been proposed.
    Unknown,
    /// Trying again would not help.
    Final(MetastoreError),
}

/// The metastore on group 0 of this engine.
pub struct RaftMetastore {
    engine: Arc<Engine>,
    peers: Arc<Peers>,
    clock: Arc<Clock>,
    revisions: notify::Sender<Revision>,
    node: NodeId,
}

impl RaftMetastore {
    /// `revisions` is what apply of group 0 tells of every change it made visible.
    #[must_use]
    pub fn new(
        engine: Arc<Engine>,
        peers: Arc<Peers>,
        clock: Arc<Clock>,
        revisions: notify::Sender<Revision>,
        node: NodeId,
    ) -> Self {
        Self {
            engine,
            peers,
            clock,
            revisions,
            node,
        }
    }

    fn leader(&self) -> Option<NodeId> {
        self.engine.status(ROOT).and_then(|status| status.leader)
    }

    /// Proposes here, as the leader. For the peer service.
    ///
    /// # Errors
    /// As the engine says.
    pub async fn propose_here(
        &self,
        transaction: Bytes,
        deadline: Instant,
    ) -> Result<Proposed, ProposeError> {
        let record = Record::meta(self.clock.now(ROOT), transaction);
        let applied = self.engine.propose(ROOT, record, deadline).await?;
        Ok(Proposed {
            outcome: applied.outcome.0,
            position: applied.position,
        })
    }

    async fn attempt(
        &self,
        transaction: &Bytes,
        at: Option<NodeId>,
        deadline: Instant,
    ) -> Result<Proposed, Miss> {
        match at {
            Some(leader) if leader != self.node => {
                match self
                    .peers
                    .transact(leader, transaction.clone(), deadline)
                    .await
                {
                    Ok(proposed) => Ok(proposed),
                    Err(PeerError::NotLeader { leader }) => Err(Miss::NotProposed(leader)),
                    Err(PeerError::Unreachable) => Err(Miss::NotProposed(None)),
                    Err(PeerError::Refused { code, detail }) => {
                        Err(Miss::Final(MetastoreError::Refused(code, detail)))
                    }
                    Err(PeerError::OutcomeUnknown) => Err(Miss::Unknown),
                }
            }
            _ => match self.propose_here(transaction.clone(), deadline).await {
                Ok(proposed) => Ok(proposed),
                Err(ProposeError::NotLeader { leader }) => Err(Miss::NotProposed(leader)),
                Err(ProposeError::OutcomeUnknown) => Err(Miss::Unknown),
                Err(ProposeError::DiskFull) => Err(Miss::Final(MetastoreError::Refused(
                    ErrorCode::DiskFull,
                    "the disk of the metastore's leader has no room".into(),
                ))),
                Err(ProposeError::Overloaded | ProposeError::UnknownGroup) => {
                    Err(Miss::NotProposed(None))
                }
                Err(error) => Err(Miss::Final(MetastoreError::Refused(
                    ErrorCode::Unavailable,
                    error.to_string(),
                ))),
            },
        }
    }

    /// Tries until there is an answer or the deadline has passed: safe, since the transaction's id
    /// makes a retry take effect once.
    async fn settle(
        &self,
        transaction: Bytes,
        deadline: Instant,
    ) -> Result<Proposed, MetastoreError> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
        let (mut at, mut unknown, mut followed) = (self.leader(), false, 0);
        loop {
            let attempt_deadline = deadline.min(Instant::now() + limits::METASTORE_ATTEMPT);
            match self.attempt(&transaction, at, attempt_deadline).await {
                Ok(proposed) => return Ok(proposed),
                Err(Miss::Final(error)) if unknown => {
                    tracing::debug!(%error, "a retry was refused after an unknown outcome");
                    return Err(MetastoreError::OutcomeUnknown);
                }
                Err(Miss::Final(error)) => return Err(error),
                Err(Miss::NotProposed(leader))
                    if leader.is_some() && leader != at && followed < limits::MAX_INTERNAL_HOPS =>
                {
                    (at, followed) = (leader, followed + 1);
                    continue;
                }
                Err(Miss::NotProposed(_)) => {}
                Err(Miss::Unknown) => unknown = true,
            }
            let wait = backoff.next(fastrand::f64());
            if Instant::now() + wait >= deadline {
                return Err(if unknown {
                    MetastoreError::OutcomeUnknown
                } else {
                    MetastoreError::Leaderless
                });
            }
            tokio::time::sleep(wait).await;
            (at, followed) = (self.leader(), 0);
        }
    }

    async fn transact_inner(
        &self,
        transaction: Bytes,
        deadline: Instant,
    ) -> Result<Outcome, MetastoreError> {
        let proposed = self.settle(transaction, deadline).await?;
        let decoded = wire::TransactionOutcome::decode(proposed.outcome)
            .map_err(|error| MetastoreError::State(format!("an outcome: {error}")))?;
        // Committed, whatever happens now; a reader here that comes too early sees an older state.
        if self
            .engine
            .wait_applied(ROOT, proposed.position, deadline)
            .await
            .is_err()
        {
            tracing::warn!(position = %proposed.position, "committed, but not yet applied here");
        }
        outcome(&decoded)
    }

    async fn catch_up_inner(&self, deadline: Instant) -> Result<(), MetastoreError> {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
        loop {
            let barrier = match self.leader() {
                Some(leader) if leader != self.node => {
                    self.peers.read_index(leader, ROOT, deadline).await.ok()
                }
                _ => self.engine.read_barrier(ROOT, deadline).await.ok(),
            };
            if let Some(position) = barrier
                && self
                    .engine
                    .wait_applied(ROOT, position, deadline)
                    .await
                    .is_ok()
            {
                return Ok(());
            }
            let wait = backoff.next(fastrand::f64());
            if Instant::now() + wait >= deadline {
                return Err(MetastoreError::Leaderless);
            }
            tokio::time::sleep(wait).await;
        }
    }
}

/// An outcome as its proposer understands it.
pub(super) fn outcome(decoded: &wire::TransactionOutcome) -> Result<Outcome, MetastoreError> {
    if !decoded.refused.is_empty() {
        return Err(MetastoreError::Illegal(decoded.refused.clone()));
    }
    if decoded.other_digest {
        let text = "the idempotency key was used with another request";
        return Err(MetastoreError::Refused(
            ErrorCode::IdempotencyConflict,
            text.to_owned(),
        ));
    }
    Ok(if decoded.succeeded {
        Outcome::Committed(Revision::new(decoded.revision))
    } else {
        Outcome::Conflict(decoded.failed_compare)
    })
}

impl Metastore for RaftMetastore {
    fn transact(
        &self,
        transaction: Transaction,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Outcome, MetastoreError>> {
        Box::pin(self.transact_inner(transaction.encode(), deadline))
    }

    fn catch_up(&self, deadline: Instant) -> BoxFuture<'_, Result<(), MetastoreError>> {
        Box::pin(self.catch_up_inner(deadline))
    }

    fn read(
        &self,
        read: &mut dyn FnMut(&dyn StateView) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let state = self.engine.state();
        let view = state.snapshot();
        // Half a state would say of what is there that it is not.
        view.check_complete(ROOT)?;
        read(&view)
    }

    fn revisions(&self) -> notify::Receiver<Revision> {
        self.revisions.subscribe()
    }
}
