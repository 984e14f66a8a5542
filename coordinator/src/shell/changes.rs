//! What all services have in common that change the metastore for clients: catch up, look whether the
//! same request came before, plan, commit; and plan anew when the world changed meanwhile.

use std::time::Instant;

use maia_common::error_code::ErrorCode;
use maia_common::position::Revision;
use serde::de::DeserializeOwned;

use super::cluster::Cluster;
use super::placements::Refusal;
use crate::core::idempotency::RequestId;
use crate::core::metastore::{self as core, Transaction};
use crate::metastore::{Metastore, MetastoreError, Outcome};

/// How often a plan is made anew before the caller is told that the world is too busy.
pub const MAX_PLANS: usize = 16;

/// Waits for the newest state to be what is read here.
///
/// # Errors
/// [`Refusal`] while the metastore has no leader.
pub async fn settle(
    store: &dyn Metastore,
    cluster: &Cluster,
    deadline: Instant,
) -> Result<(), Refusal> {
    store.catch_up(deadline).await?;
    let newest = *store.revisions().borrow();
    cluster
        .wait_for(deadline, |state| state.revision >= newest)
        .await;
    Ok(())
}

/// Commits; the revision, in force here, or none when the world has changed since the plan.
///
/// # Errors
/// [`Refusal`]; only `outcome_unknown` leaves open whether it took effect.
pub async fn commit(
    store: &dyn Metastore,
    cluster: &Cluster,
    transaction: Transaction,
    deadline: Instant,
) -> Result<Option<Revision>, Refusal> {
    match store.transact(transaction, deadline).await? {
        Outcome::Committed(revision) => {
            cluster
                .wait_for(deadline, |state| state.revision >= revision)
                .await;
            Ok(Some(revision))
        }
        Outcome::Conflict(_) => Ok(None),
    }
}

/// The refusal when every plan was overtaken.
#[must_use]
pub fn too_busy() -> Refusal {
    let text = "what was asked for is being changed by others all the time: try again";
    Refusal::new(ErrorCode::Unavailable, text)
}

/// What the same request did when it came before, and at which revision; none when it did not, or
/// has no key.
///
/// # Errors
/// [`Refusal`] with `idempotency_conflict` when the key was used with another request.
pub fn earlier<M: DeserializeOwned>(
    store: &dyn Metastore,
    request: &RequestId,
) -> Result<Option<(Revision, M)>, Refusal> {
    let Some(digest) = request.digest() else {
        return Ok(None);
    };
    let mut known = None;
    let read = store.read(&mut |view| {
        known = core::earlier(view, request.id())?;
        Ok(())
    });
    read.map_err(MetastoreError::from)?;
    let Some(known) = known else {
        return Ok(None);
    };
    if known.digest != digest[..] {
        let text = "the idempotency key was used with another request";
        return Err(Refusal::new(ErrorCode::IdempotencyConflict, text));
    }
    let memo = serde_json::from_slice(&known.memo).map_err(|error| {
        let text = format!("what is remembered of the request can't be read: {error}");
        Refusal::new(ErrorCode::Internal, text)
    })?;
    Ok(Some((Revision::new(known.revision), memo)))
}
