//! One tenant, for proxies that don't hold all of them; and the placing of one that has none, when
//! the proxy asks for it.

use std::time::Instant;

use maia_common::error_code::ErrorCode;
use maia_common::ids::{NameError, TenantId};
use maia_common::limits;
use maia_common::placement::PlacementSpec;
use maia_common::position::Revision;
use maia_common::wire::feed as wire;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use super::service::{FeedService, status_of};
use super::stream::Shared;
use crate::core::placements::Expected;
use crate::core::{feed, keyspace, metastore as core};
use crate::raft::StateCf;
use crate::shell::placements::PutRequest;

impl FeedService {
    /// Answers from a state not older than asked for. With `create_under`, an unplaced tenant is
    /// placed, and the answer comes once that is committed; one that somebody else placed meanwhile
    /// is answered as it is.
    pub(super) async fn lookup(
        &self,
        requests: impl Stream<Item = Result<wire::LookupRequest, Status>> + Unpin,
    ) -> Result<wire::LookupAnswer, Status> {
        let _turn = self
            .lookups
            .try_acquire()
            .map_err(|_| Status::resource_exhausted("too many lookups in flight"))?;
        let deadline = Instant::now() + limits::LOOKUP_DEADLINE;
        let soon = Instant::now() + limits::LOOKUP_PATIENCE;
        let request = first(requests, soon).await?;
        let invalid = |error: NameError| Status::invalid_argument(error.to_string());
        let tenant = TenantId::new(request.tenant.as_str()).map_err(invalid)?;
        let at_least = Revision::new(request.at_least_revision);
        self.reach(request.generation, at_least, soon).await?;
        let answer = self.shared.read_tenant(&tenant)?;
        if answer.tenant.is_some() || request.create_under.is_empty() {
            return Ok(answer);
        }
        self.place(&tenant, &request.create_under, deadline).await?;
        self.shared.read_tenant(&tenant)
    }

    async fn place(&self, tenant: &TenantId, spec: &str, deadline: Instant) -> Result<(), Status> {
        let spec: PlacementSpec = serde_json::from_str(spec)
            .map_err(|error| Status::invalid_argument(format!("create_under: {error}")))?;
        let request = PutRequest {
            tenant: tenant.clone(),
            spec,
            expected: Expected::Absent,
            key: None,
        };
        match self.placements.put(&request, deadline).await {
            Ok(_) => Ok(()),
            // Placed meanwhile: that is what was wanted.
            Err(refusal) if refusal.code == ErrorCode::PreconditionFailed => Ok(()),
            Err(refusal) => Err(status_of(&refusal)),
        }
    }
}

impl Shared {
    /// What the metastore has of the tenant here and now.
    pub(super) fn read_tenant(&self, tenant: &TenantId) -> Result<wire::LookupAnswer, Status> {
        let mut answer = wire::LookupAnswer {
            generation: self.cluster.state().generation.get(),
            ..wire::LookupAnswer::default()
        };
        // A store that was emptied, since this node was removed, knows of no tenant.
        let known = self.cluster.state().revision;
        let key = core::meta_key(&keyspace::tenant(tenant));
        let read = self.store.read(&mut |view| {
            answer.revision = core::current_revision(view)?.get();
            if let Some(bytes) = view.get(StateCf::Meta, &key)? {
                answer.tenant = feed::tenant_message(&core::decode_value(bytes)?.value);
            }
            Ok(())
        });
        read.map_err(|error| Status::internal(error.to_string()))?;
        if answer.revision < known.get() {
            return Err(Status::unavailable("the metastore's state went back"));
        }
        Ok(answer)
    }
}

/// The call's one message.
pub(super) async fn first(
    mut requests: impl Stream<Item = Result<wire::LookupRequest, Status>> + Unpin,
    deadline: Instant,
) -> Result<wire::LookupRequest, Status> {
    match tokio::time::timeout_at(deadline.into(), requests.next()).await {
        Ok(Some(request)) => request,
        _ => Err(Status::invalid_argument("a lookup without a request")),
    }
}
