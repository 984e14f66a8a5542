//! Answers another coordinator that asks for entries of a group whose data is here. Never asks
//! further: see `peer_service`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use maia_common::error_code::ErrorCode;
use maia_common::ids::{GroupId, TenantId};
use maia_common::limits;
use maia_common::position::{Index, Position, Term};
use maia_common::runtime::Tasks;
use maia_common::wire::peer as wire;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

use super::data::{DataService, EntriesQuery};
use super::placements::Refusal;

/// Reads entries for other coordinators: apart from the runtime of Raft, on which they ask.
pub struct EntriesService {
    data: DataService,
    tasks: Tasks,
    runtime: Handle,
    places: Arc<Semaphore>,
}

impl EntriesService {
    /// Reads on this runtime, in tasks that `tasks` owns.
    #[must_use]
    pub fn new(data: DataService, tasks: Tasks, runtime: Handle) -> Self {
        Self {
            data,
            tasks,
            runtime,
            places: Arc::new(Semaphore::new(limits::MAX_PEER_ENTRY_READS)),
        }
    }

    /// The entries that are asked for; with a limit of 0 only how far the group is applied. Ends when
    /// the asking node has gone.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn read(&self, request: wire::EntriesRequest) -> Result<wire::EntriesReply, Refusal> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let text = "this node reads entries for others already, as many as it may";
            return Err(Refusal::new(ErrorCode::Unavailable, text));
        };
        let (mut done, reply) = oneshot::channel();
        let data = self.data.clone();
        let task = async move {
            let _place = place;
            let reply = tokio::select! {
                reply = read(&data, request) => reply,
                () = done.closed() => return,
            };
            // Who asked may just have gone.
            let _ = done.send(reply);
        };
        self.tasks
            .spawn_until_stop_on(&self.runtime, "entries for a peer", task);
        let stopping = |_| Err(Refusal::new(ErrorCode::Unavailable, "the node is stopping"));
        reply.await.unwrap_or_else(stopping)
    }
}

async fn read(
    data: &DataService,
    request: wire::EntriesRequest,
) -> Result<wire::EntriesReply, Refusal> {
    let group = GroupId::new(request.group);
    if !data.has_entries(group) {
        let text = format!("no copy of group {group} is kept here");
        return Err(Refusal::new(ErrorCode::StalePlacement, text));
    }
    if request.limit == 0 {
        return reach(data, group);
    }
    let tenant = (!request.tenant.is_empty()).then(|| TenantId::new(request.tenant));
    let tenant = tenant
        .transpose()
        .map_err(|error| Refusal::new(ErrorCode::InvalidTenant, error.to_string()))?;
    let (term, index) = (request.after_term, request.after_index);
    let after = Position::new(Term::new(term), Index::new(index));
    let query = EntriesQuery {
        tenant,
        after: request.has_after.then_some(after),
        limit: (request.limit as usize).min(limits::MAX_PAGE),
        wait: Duration::from_millis(request.wait_ms.into()),
    };
    let patience = Duration::from_millis(request.timeout_ms.into()).min(limits::API_DEADLINE);
    let page = data
        .entries_here(group, &query, Instant::now() + patience)
        .await?;
    let mut reply = wire::EntriesReply {
        has_upto: page.upto.is_some(),
        upto_term: page.upto.map_or(0, |at| at.term.get()),
        upto_index: page.upto.map_or(0, |at| at.index.get()),
        more: page.more,
        ..wire::EntriesReply::default()
    };
    for (at, entry) in page.entries {
        reply.terms.push(at.term.get());
        reply.indexes.push(at.index.get());
        reply.entries.push(entry);
    }
    Ok(reply)
}

fn reach(data: &DataService, group: GroupId) -> Result<wire::EntriesReply, Refusal> {
    let reach = data.reach_here(group)?;
    Ok(wire::EntriesReply {
        has_upto: reach.applied.is_some(),
        upto_term: reach.applied.map_or(0, |at| at.term.get()),
        upto_index: reach.applied.map_or(0, |at| at.index.get()),
        has_oldest: reach.oldest.is_some(),
        oldest_term: reach.oldest.map_or(0, |at| at.term.get()),
        oldest_index: reach.oldest.map_or(0, |at| at.index.get()),
        ..wire::EntriesReply::default()
    })
}
